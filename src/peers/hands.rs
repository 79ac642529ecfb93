//! What the machine wants of the ledger.

use std::collections::{HashSet, VecDeque};

use crate::engine::Engine;
use crate::ledger::{Head, RelayAck, RelayError, Relayed};
use crate::policy::ids::{EventId, OriginId};
use crate::replication::frame::{Events, Record, weight};
use crate::replication::{StoreOutcome, StoreRefusal};

/// Records on their way to the disk, in the order in which they were handed over.
pub struct Storing {
    pub ticket: u64,
    origin: OriginId,
    first: u64,
    acks: VecDeque<Result<RelayAck, RelayError>>,
    records: Vec<Relayed>,
}

/// Hands records to the ledger's writer. It verifies them against their origin's chain, syncs and applies.
pub fn store(engine: &Engine, ticket: u64, events: Events) -> Storing {
    let Events { origin, first, records } = events;
    let mut acks = VecDeque::with_capacity(records.len());
    for (record, sequence) in records.iter().zip(first..) {
        let expected = EventId { origin, sequence };
        // What says that it is another event than was announced would go past everything that is known of its origin.
        let ack = match record.id() {
            Ok(id) if id == expected => {
                // Never as priority: what is kept of the disk is for opt-outs reported here. Whoever cannot store what
                // others hold grows stale and denies; their opt-outs are safe where they are.
                engine.ledger().relay(record.clone(), false).map_err(RelayError::Append)
            }
            Ok(_) => Err(RelayError::Chain { id: expected }),
            Err(fault) => Err(fault.into()),
        };
        let refused = ack.is_err();
        acks.push_back(ack);
        if refused {
            break;
        }
    }
    Storing { ticket, origin, first, acks, records }
}

impl Storing {
    /// Waits for all of them. With the records from the first that does not verify on: nothing behind it can be taken.
    pub async fn finish(mut self) -> (u64, StoreOutcome, Vec<Relayed>) {
        // Only what was acked is applied: the ledger's own head may be ahead of the view.
        let mut head = None;
        let mut refusal = None;
        let mut at = 0;
        while let Some(ack) = self.acks.pop_front() {
            let outcome = match ack {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(_) if refusal.is_none() => {
                    let sequence = self.first.saturating_add(at as u64);
                    head = self.records.get(at).map(|record| Head { sequence, hash: record.hash });
                }
                Ok(_) => {}
                Err(error) => {
                    refusal.get_or_insert((at, error));
                }
            }
            at += 1;
        }
        let Some((at, error)) = refusal else {
            let outcome = match head {
                Some(head) => StoreOutcome::Stored { head },
                None => StoreOutcome::Refused { head: None, why: StoreRefusal::Later },
            };
            return (self.ticket, outcome, Vec::new());
        };
        let why = match error {
            RelayError::Gap { .. } => StoreRefusal::Gap,
            RelayError::Fork { id, held, got } => {
                StoreRefusal::Fork { sequence: id.sequence, ours: held, theirs: got }
            }
            RelayError::NeverWritten { id } | RelayError::Chain { id } => {
                StoreRefusal::Chain { sequence: id.sequence }
            }
            RelayError::Malformed(_) => {
                StoreRefusal::Chain { sequence: self.first.saturating_add(at as u64) }
            }
            RelayError::Unreadable { .. } | RelayError::Append(_) => {
                tracing::warn!(origin = %self.origin, %error, "records of a peer cannot be stored now");
                StoreRefusal::Later
            }
        };
        let doubtful = match why {
            StoreRefusal::Fork { .. } | StoreRefusal::Chain { .. } => self.records.split_off(at),
            StoreRefusal::Gap | StoreRefusal::Later => Vec::new(),
        };
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
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%origin, from, %error, "records cannot be read for a peer");
                return if records.is_empty() { None } else { Some(records) };
            }
        };
        bytes += weight(&record);
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

/// Those of `events` that are not held here with the same hash. Blocking.
pub fn differing(engine: &Engine, events: Events) -> Vec<Relayed> {
    let Events { origin, first, records } = events;
    let held = engine.ledger().records_of(origin, first).take(records.len()).flatten();
    let held: HashSet<[u8; 32]> = held.map(|record| record.hash).collect();
    records.into_iter().filter(|record| !held.contains(&record.hash)).collect()
}
