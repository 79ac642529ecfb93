//! A ledger in memory that judges records as the real one does.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::ledger::Head;
use crate::policy::ids::OriginId;
use crate::replication::frame::{Events, Record, RecordBlob, weight};
use crate::replication::vector::Heads;
use crate::replication::{StoreOutcome, StoreRefusal};

const PREFIX_LEN: usize = 24;
const GENESIS_LEN: usize = 56;

/// What one node has on its disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryStore {
    origins: BTreeMap<OriginId, Vec<Record>>,
    /// The last own origin: the next one is chained to it.
    last_own: Option<OriginId>,
}

impl MemoryStore {
    pub fn heads(&self) -> Heads {
        self.origins
            .iter()
            .filter_map(|(origin, records)| {
                Some((*origin, Head { sequence: records.len() as u64, hash: records.last()?.hash }))
            })
            .collect()
    }

    pub fn head(&self, origin: OriginId) -> Option<Head> {
        let records = self.origins.get(&origin)?;
        Some(Head { sequence: records.len() as u64, hash: records.last()?.hash })
    }

    pub fn sequence(&self, origin: OriginId) -> u64 {
        self.origins.get(&origin).map_or(0, |records| records.len() as u64)
    }

    pub fn records(&self, origin: OriginId) -> &[Record] {
        self.origins.get(&origin).map_or(&[], Vec::as_slice)
    }

    /// What first records name as the last of the origin before.
    pub fn named(&self) -> Vec<(OriginId, Head)> {
        self.origins.keys().filter_map(|origin| self.previous_of(*origin)).collect()
    }

    /// What the first record of `origin` names so.
    pub fn previous_of(&self, origin: OriginId) -> Option<(OriginId, Head)> {
        let genesis = self.records(origin).first()?.chained.get(PREFIX_LEN..PREFIX_LEN + GENESIS_LEN)?;
        let head = Head {
            sequence: u64::from_le_bytes(genesis[16..24].try_into().ok()?),
            hash: genesis[24..].try_into().ok()?,
        };
        (head.sequence > 0).then_some((OriginId(genesis[..16].try_into().ok()?), head))
    }

    /// Appends an own event.
    pub fn append(&mut self, origin: OriginId, payload: &[u8], blob: RecordBlob) -> Head {
        let before = self.head(origin);
        let mut chained = Vec::with_capacity(PREFIX_LEN + GENESIS_LEN + payload.len());
        chained.extend_from_slice(&origin.0);
        chained.extend_from_slice(&before.map_or(1, |head| head.sequence + 1).to_le_bytes());
        if before.is_none() {
            let previous = self.last_own.and_then(|last| Some((last, self.head(last)?)));
            let (last, head) = previous.unwrap_or((OriginId([0; 16]), Head { sequence: 0, hash: [0; 32] }));
            chained.extend_from_slice(&last.0);
            chained.extend_from_slice(&head.sequence.to_le_bytes());
            chained.extend_from_slice(&head.hash);
            self.last_own = Some(origin);
        }
        chained.extend_from_slice(payload);
        let hash = hash_after(before, &chained);
        let records = self.origins.entry(origin).or_default();
        records.push(Record { chained, hash, blob });
        Head { sequence: records.len() as u64, hash }
    }

    /// Verifies and appends what a peer sent.
    pub fn relay(&mut self, events: &Events) -> StoreOutcome {
        let held = self.sequence(events.origin);
        for (sequence, record) in (events.first..).zip(&events.records) {
            if let Some(why) = self.judge(events.origin, sequence, record) {
                return StoreOutcome::Refused { head: self.head(events.origin), why };
            }
            if sequence > held {
                self.origins.entry(events.origin).or_default().push(record.clone());
            }
        }
        match self.head(events.origin) {
            Some(head) => StoreOutcome::Stored { head },
            None => StoreOutcome::Refused { head: None, why: StoreRefusal::Gap },
        }
    }

    fn judge(&self, origin: OriginId, sequence: u64, record: &Record) -> Option<StoreRefusal> {
        let records = self.origins.get(&origin).map_or(&[][..], Vec::as_slice);
        let held = records.len() as u64;
        if sequence > held + 1 {
            return Some(StoreRefusal::Gap);
        }
        let named = record.chained.get(..16) == Some(&origin.0[..])
            && record.chained.get(16..24) == Some(&sequence.to_le_bytes()[..]);
        let before = match sequence {
            1 => None,
            _ => records
                .get(sequence as usize - 2)
                .map(|record| Head { sequence: sequence - 1, hash: record.hash }),
        };
        if let Some(known) = records.get(sequence as usize - 1) {
            return (known.hash != record.hash).then_some(StoreRefusal::Fork {
                sequence,
                ours: known.hash,
                theirs: record.hash,
            });
        }
        (!named || hash_after(before, &record.chained) != record.hash)
            .then_some(StoreRefusal::Chain { sequence })
    }

    pub fn read(
        &self,
        origin: OriginId,
        from: u64,
        bytes_max: usize,
        records_max: usize,
    ) -> Option<Vec<Record>> {
        let records = self.origins.get(&origin)?.get(usize::try_from(from).ok()?.checked_sub(1)?..)?;
        let mut bytes = 0;
        let mut out: Vec<Record> = Vec::new();
        for record in records.iter().take(records_max) {
            bytes += weight(record);
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(record.clone());
        }
        (!out.is_empty()).then_some(out)
    }

    /// Puts wrong bytes under a record, as a fault of the disk would.
    pub fn damage(&mut self, origin: OriginId, sequence: u64) {
        if let Some(record) =
            self.origins.get_mut(&origin).and_then(|records| records.get_mut(sequence as usize - 1))
            && let Some(last) = record.chained.last_mut()
        {
            *last ^= 1;
        }
    }
}

fn hash_after(before: Option<Head>, chained: &[u8]) -> [u8; 32] {
    let genesis = || chained.get(PREFIX_LEN + 24..PREFIX_LEN + GENESIS_LEN).unwrap_or(&[0; 32]).to_vec();
    let before = before.map_or_else(genesis, |head| head.hash.to_vec());
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(chained);
    hash.finalize().into()
}
