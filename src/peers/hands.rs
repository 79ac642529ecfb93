//! What the machine wants of the ledger.

use std::collections::{HashSet, VecDeque};

use crate::engine::Engine;
use crate::ledger::{Head, RelayAck, RelayError, Relayed};
use crate::policy::ids::{EventId, OriginId};
use crate::replication::frame::{Events, Record, weight};
use crate::replication::{Input, StoreOutcome, StoreRefusal};

/// The most records that did not verify whose opt-outs are remembered as kept, so that each is kept once.
const DOUBTFUL_MAX: usize = 10_000;

/// What is to be done with a peer's records.
pub enum Work {
    /// They are on their way to the disk.
    Store(Storing),
    /// They do not verify.
    KeepApart { ticket: u64, events: Events },
}

/// The records that did not verify whose opt-outs were kept, by their hashes.
#[derive(Default)]
pub struct Kept(HashSet<[u8; 32]>);

/// Records on their way to the disk, in the order in which they were handed over.
pub struct Storing {
    pub ticket: u64,
    origin: OriginId,
    first: u64,
    by: By,
    records: Vec<Relayed>,
}

/// Who verifies and applies them.
enum By {
    /// The ledger's writer, which was handed all of them.
    Ledger(VecDeque<Result<RelayAck, RelayError>>),
    /// An edge, which keeps no records.
    Edge(Engine),
}

/// Hands records to whoever verifies them against their origin's chain and applies them; the ledger's writer also syncs them.
pub fn store(engine: &Engine, ticket: u64, events: Events) -> Storing {
    let Events { origin, first, records } = events;
    let Ok(ledger) = engine.ledger() else {
        return Storing { ticket, origin, first, by: By::Edge(engine.clone()), records };
    };
    let mut acks = VecDeque::with_capacity(records.len());
    for (record, sequence) in records.iter().zip(first..) {
        let expected = EventId { origin, sequence };
        // What says that it is another event than was announced would go past everything that is known of its origin.
        let ack = match record.id() {
            Ok(id) if id == expected => {
                // Never as priority: what is kept of the disk is for opt-outs reported here. Whoever cannot store what
                // others hold grows stale and denies; their opt-outs are safe where they are.
                ledger.relay(record.clone(), false).map_err(RelayError::Append)
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
    Storing { ticket, origin, first, by: By::Ledger(acks), records }
}

impl Storing {
    /// What the first record of its origin names as the last of its store's origin before, if that record is among them.
    pub fn named(&self) -> Option<(OriginId, Head)> {
        let first = self.records.first().filter(|_| self.first == 1)?;
        first.parse().ok()?.previous
    }

    /// Waits for all of them. With the records from the first that does not verify on: nothing behind it can be taken.
    pub async fn finish(mut self) -> (u64, StoreOutcome, Vec<Relayed>) {
        let (head, refusal) = match self.by {
            By::Ledger(acks) => synced(acks, self.first, &self.records).await,
            By::Edge(engine) => {
                let (origin, records) = (self.origin, std::mem::take(&mut self.records));
                let taking = tokio::task::spawn_blocking(move || {
                    let taken = engine.take_relayed(origin, &records);
                    (taken, records)
                });
                match taking.await {
                    Ok((taken, records)) => {
                        self.records = records;
                        taken
                    }
                    // It panicked, and says so elsewhere.
                    Err(_) => (None, None),
                }
            }
        };
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

/// Waits for the ledger's answers: the last record that is on disk and applied, and which was not taken and why.
async fn synced(
    mut acks: VecDeque<Result<RelayAck, RelayError>>,
    first: u64,
    records: &[Relayed],
) -> (Option<Head>, Option<(usize, RelayError)>) {
    // Only what was acked is applied: the ledger's own head may be ahead of the view.
    let mut head = None;
    let mut refusal = None;
    let mut at = 0;
    while let Some(ack) = acks.pop_front() {
        let outcome = match ack {
            Ok(ack) => ack.await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(_) if refusal.is_none() => {
                let sequence = first.saturating_add(at as u64);
                head = records.get(at).map(|record| Head { sequence, hash: record.hash });
            }
            Ok(_) => {}
            Err(error) => {
                refusal.get_or_insert((at, error));
            }
        }
        at += 1;
    }
    (head, refusal)
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
    // An edge keeps none.
    for record in engine.ledger().ok()?.records_of(origin, from) {
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
fn differing(engine: &Engine, events: Events) -> Vec<Relayed> {
    let Events { origin, first, records } = events;
    let held = engine.ledger().ok().map(|ledger| ledger.records_of(origin, first).take(records.len()));
    let held: HashSet<[u8; 32]> = held.into_iter().flatten().flatten().map(|record| record.hash).collect();
    // An edge keeps no records, but what it applied had verified.
    let applied = engine.edge().and_then(|_| engine.heads().into_iter().find(|(known, _)| *known == origin));
    let applied = applied.map_or(0, |(_, head)| head.sequence.saturating_add(1).saturating_sub(first));
    let behind = records.into_iter().skip(usize::try_from(applied).unwrap_or(usize::MAX));
    behind.filter(|record| !held.contains(&record.hash)).collect()
}

/// What `origin`, one of this run's, names as the last of its store's origin before.
pub fn named_by(engine: &Engine, origin: OriginId) -> Option<Input> {
    engine.ledger().ok()?.previous_of(origin).map(named)
}

fn named((origin, head): (OriginId, Head)) -> Input {
    Input::Named { origin, head }
}

/// Waits for the disk, keeps the opt-outs of what does not verify, and says what the machine is told, in this order.
pub async fn answer(engine: &Engine, work: Work, kept: &mut Kept) -> Vec<Input> {
    let mut told = Vec::new();
    let (mut answer, doubtful) = match work {
        Work::Store(storing) => {
            let names = storing.named();
            let (ticket, outcome, doubtful) = storing.finish().await;
            told.extend(names.filter(|_| outcome.head().is_some()).map(named));
            (Input::Stored { ticket, outcome }, doubtful)
        }
        Work::KeepApart { ticket, events } => {
            let (origin, reader) = (events.origin, engine.clone());
            let looking = tokio::task::spawn_blocking(move || {
                let fork = reader.fork_in(origin, events.first, &events.records);
                (fork, differing(&reader, events))
            });
            let looked = looking.await;
            let mut is_kept = looked.is_ok();
            let (fork, differing) = looked.unwrap_or_default();
            if let Some(sequence) = fork {
                is_kept &= distrust(engine, origin, sequence).await;
            }
            (Input::KeptApart { ticket, kept: is_kept }, differing)
        }
    };
    for doubtful in doubtful {
        let is_kept = kept.keep_opt_outs(engine, &doubtful).await;
        if let Input::KeptApart { kept, .. } = &mut answer {
            *kept &= is_kept;
        }
    }
    told.push(answer);
    told
}

/// Two records are proven to bear the name of `origin` and `sequence`. Says whether that is known for good.
async fn distrust(engine: &Engine, origin: OriginId, sequence: u64) -> bool {
    match engine.distrust(origin, sequence).await {
        Ok(_) => true,
        Err(error) => {
            tracing::error!(%error, %origin, sequence, "that an origin is forked could not be recorded; it is tried again");
            false
        }
    }
}

impl Kept {
    /// A record that does not verify may be forged or torn; an opt-out in it holds all the same, as an event of this node. Says whether
    /// nothing of it is lost.
    async fn keep_opt_outs(&mut self, engine: &Engine, doubtful: &Relayed) -> bool {
        let Ok(parts) = doubtful.parse() else { return true };
        if self.0.contains(&doubtful.hash) {
            return true;
        }
        match engine.keep_opt_outs(parts.payload).await {
            Ok(event) => {
                if let Some(event) = event {
                    tracing::warn!(%event, doubtful = %parts.id, "opt-outs of a record that does not verify are kept");
                }
                if self.0.len() >= DOUBTFUL_MAX {
                    // Keeping one twice does less harm than losing one.
                    self.0.clear();
                }
                self.0.insert(doubtful.hash);
                true
            }
            Err(error) => {
                tracing::error!(%error, doubtful = %parts.id, "opt-outs of a record that does not verify could not be kept");
                false
            }
        }
    }
}
