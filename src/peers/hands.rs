//! What the machine wants of the ledger.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::engine::Engine;
use crate::ledger::{AppendError, RelayAck, RelayError, Relayed, RelayedBlob};
use crate::policy::ids::OriginId;
use crate::replication::frame::{Events, Record, RecordBlob};
use crate::replication::{StoreOutcome, StoreRefusal};

/// Records on their way to the disk, in the order in which they were handed over.
pub struct Storing {
    pub ticket: u64,
    origin: OriginId,
    acks: VecDeque<Result<RelayAck, AppendError>>,
    records: Arc<[Relayed]>,
}

/// Hands records to the ledger's writer. It verifies them against their origin's chain, syncs and applies.
pub fn store(engine: &Engine, ticket: u64, events: Events) -> Storing {
    let origin = events.origin;
    let records: Arc<[Relayed]> = events.records.into_iter().map(relayed).collect();
    let mut acks = VecDeque::with_capacity(records.len());
    for record in records.iter() {
        // Never as priority: what is kept of the disk is for opt-outs reported here. Whoever cannot store what others hold grows
        // stale and denies; their opt-outs are safe where they are.
        let ack = engine.ledger().relay(record.clone(), false);
        let refused = ack.is_err();
        acks.push_back(ack);
        if refused {
            break;
        }
    }
    Storing { ticket, origin, acks, records }
}

impl Storing {
    /// Waits for all of them. With the records that do not verify.
    pub async fn finish(mut self, engine: &Engine) -> (u64, StoreOutcome, Option<Relayed>) {
        let mut at = 0;
        let mut refusal = None;
        while let Some(ack) = self.acks.pop_front() {
            let outcome = match ack {
                Ok(ack) => ack.await,
                Err(error) => Err(RelayError::Append(error)),
            };
            if let Err(error) = outcome {
                refusal.get_or_insert((at, error));
            }
            at += 1;
        }
        let head = engine.ledger().head_of(self.origin);
        let Some((at, error)) = refusal else {
            return match head {
                Some(head) => (self.ticket, StoreOutcome::Stored { head }, None),
                None => (self.ticket, StoreOutcome::Refused { head: None, why: StoreRefusal::Later }, None),
            };
        };
        let why = match error {
            RelayError::Gap { .. } => StoreRefusal::Gap,
            RelayError::Fork { id, held, got } => {
                StoreRefusal::Fork { sequence: id.sequence, ours: held, theirs: got }
            }
            RelayError::NeverWritten { id } | RelayError::Chain { id } => {
                StoreRefusal::Chain { sequence: id.sequence }
            }
            RelayError::Malformed(_) => StoreRefusal::Chain { sequence: 0 },
            RelayError::Unreadable { .. } | RelayError::Append(_) => {
                tracing::warn!(origin = %self.origin, %error, "records of a peer cannot be stored now");
                StoreRefusal::Later
            }
        };
        let doubtful = matches!(why, StoreRefusal::Fork { .. } | StoreRefusal::Chain { .. })
            .then(|| self.records.get(at).cloned())
            .flatten();
        (self.ticket, StoreOutcome::Refused { head, why }, doubtful)
    }
}

/// Reads records for a peer. Blocking. `None`: they cannot be read.
pub fn read(
    engine: &Engine,
    origin: OriginId,
    from: u64,
    bytes_max: usize,
    records_max: usize,
) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut bytes = 0;
    for record in engine.ledger().records_of(origin, from) {
        let record = match record {
            Ok(record) => own_form(record),
            Err(error) => {
                tracing::error!(%origin, from, %error, "records cannot be read for a peer");
                return if records.is_empty() { None } else { Some(records) };
            }
        };
        bytes += record.weight();
        if !records.is_empty() && bytes > bytes_max {
            break;
        }
        records.push(record);
        if records.len() >= records_max {
            break;
        }
    }
    (!records.is_empty()).then_some(records)
}

fn relayed(record: Record) -> Relayed {
    let Record { chained, hash, blob } = record;
    let blob = match blob {
        RecordBlob::None => RelayedBlob::None,
        RecordBlob::Present { salt, bytes } => RelayedBlob::Present { salt, bytes },
        RecordBlob::Erased => RelayedBlob::Erased,
    };
    Relayed { chained, hash, blob }
}

fn own_form(record: Relayed) -> Record {
    let Relayed { chained, hash, blob } = record;
    let blob = match blob {
        RelayedBlob::None => RecordBlob::None,
        RelayedBlob::Present { salt, bytes } => RecordBlob::Present { salt, bytes },
        RelayedBlob::Erased => RecordBlob::Erased,
    };
    Record { chained, hash, blob }
}
