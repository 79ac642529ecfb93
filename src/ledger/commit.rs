//! Groups: what of a group may be written, in which order, and the write that makes it durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::disk::DiskFile;
use super::format::{
    Before, Counted, NewBlob, NewRecord, RelayedRecord, encode_record, encode_relayed, record_len,
};
use super::log::{Failure, Log, failure, space_low};
use super::read::{Reader, position};
use super::relay::{Checked, RelayError};
use super::{Appended, Committed, Entry, Head};
use crate::policy::ids::{EventId, OriginId};

/// What comes to be written.
#[derive(Clone)]
pub(crate) enum Incoming {
    /// To be numbered here.
    Own(Entry),
    /// Numbered elsewhere.
    Relayed(Box<Checked>),
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is durable.
    Committed(Committed),
    /// It was durable before.
    Known,
    /// There was no room for it, and nothing was written.
    NoSpace,
    /// It is not let in, and nothing was written.
    Refused(RelayError),
}

/// A group, judged in the order in which it would be written. What a record may follow depends on what else is written, so that a
/// judgement holds for this very group only.
struct Plan {
    /// With the verdict on those that are not written.
    judged: Vec<(Incoming, Option<Verdict>)>,
    /// How many bytes it writes.
    len: u64,
}

impl Incoming {
    fn priority(&self) -> bool {
        match self {
            Self::Own(entry) => entry.priority,
            Self::Relayed(checked) => checked.priority,
        }
    }
}

impl Log {
    /// Writes the entries as one group and makes them durable, as far as there is room. The answers are in the entries' order.
    pub(crate) fn commit(&mut self, entries: Vec<Incoming>) -> Result<Vec<Verdict>, Failure> {
        self.restore_reserve()?;
        let low = self.reserve.is_none() || space_low(&*self.disk, &self.sizes, true);
        let mut verdicts = Vec::with_capacity(entries.len());
        self.commit_some(entries, low, &mut verdicts)?;
        Ok(verdicts)
    }

    /// Commits the whole group or, where there is no room for that, as many priority ones as fit; a group of these that does not fit whole is halved.
    fn commit_some(
        &mut self,
        entries: Vec<Incoming>,
        only_priority: bool,
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), Failure> {
        let plan = self.plan(entries, only_priority);
        if plan.len == 0 || self.make_room(plan.len, only_priority)? {
            return self.write(plan, verdicts);
        }
        let mut entries: Vec<Incoming> = plan.judged.into_iter().map(|(incoming, _)| incoming).collect();
        if !only_priority {
            return self.commit_some(entries, true, verdicts);
        }
        if entries.len() == 1 {
            verdicts.push(Verdict::NoSpace);
            return Ok(());
        }
        let second = entries.split_off(entries.len() / 2);
        self.commit_some(entries, true, verdicts)?;
        self.commit_some(second, true, verdicts)
    }

    fn plan(&mut self, entries: Vec<Incoming>, only_priority: bool) -> Plan {
        let mut plan = Plan { judged: Vec::with_capacity(entries.len()), len: 0 };
        let (mut first, mut first_bulk) = (self.own.is_none(), self.bulk.is_none());
        let mut ahead = Ahead::default();
        for incoming in entries {
            let refused = only_priority && !incoming.priority();
            let (verdict, len) = match &incoming {
                Incoming::Own(_) if refused => (Some(Verdict::NoSpace), 0),
                Incoming::Own(entry) => {
                    let first = if entry.bulk { &mut first_bulk } else { &mut first };
                    let is_first = std::mem::take(first);
                    (None, record_len(entry.payload.len(), entry.blob.as_ref().map(Vec::len), is_first))
                }
                Incoming::Relayed(checked) => match self.judge(checked, &ahead) {
                    Some(verdict) => (Some(verdict), 0),
                    None if refused => (Some(Verdict::NoSpace), 0),
                    None => {
                        ahead.push(checked);
                        (None, checked.record_len())
                    }
                },
            };
            plan.len += len;
            plan.judged.push((incoming, verdict));
        }
        plan
    }

    /// `None`: it may be written behind what is durable and what is written ahead of it.
    fn judge(&mut self, checked: &Checked, ahead: &Ahead) -> Option<Verdict> {
        let EventId { origin, sequence } = checked.id;
        let durable = self.shared.table.read().vector.get(&origin).copied();
        let have = durable.map_or(0, |head| head.sequence);
        let of_this_run = [self.own, self.bulk].into_iter().flatten().any(|(own, _)| own == origin);
        if of_this_run && sequence > have {
            return Some(Verdict::Refused(RelayError::NeverWritten { id: checked.id }));
        }
        let ahead = ahead.hashes.get(&origin).map_or(&[][..], Vec::as_slice);
        let last = have + ahead.len() as u64;
        if sequence > last + 1 {
            return Some(Verdict::Refused(RelayError::Gap { origin, have: last, got: sequence }));
        }
        if sequence == last + 1 {
            let before = ahead.last().copied().or(durable.map(|head| head.hash)).unwrap_or_default();
            let follows = checked.follows(&before);
            #[cfg(sabotage)]
            let follows = follows || crate::sabotage::is("skipped-chain-check");
            return (!follows).then_some(Verdict::Refused(RelayError::Chain { id: checked.id }));
        }
        let held = if sequence > have {
            ahead.get((sequence - have - 1) as usize).copied()
        } else {
            durable.filter(|head| head.sequence == sequence).map(|head| head.hash)
        };
        let Some(held) = held.or_else(|| self.look_back(checked.id)) else {
            return Some(Verdict::Refused(RelayError::Unreadable { id: checked.id }));
        };
        let got = checked.hash();
        #[cfg(sabotage)]
        let held = if crate::sabotage::is("fork-taken-for-known") { got } else { held };
        Some(if held == got {
            Verdict::Known
        } else {
            Verdict::Refused(RelayError::Fork { id: checked.id, held, got })
        })
    }

    /// The hash of a record that is durable for long.
    fn look_back(&mut self, id: EventId) -> Option<[u8; 32]> {
        let mut records = match self.lookback.take() {
            Some(records) if records.wanted() == id => records,
            _ => Reader::new(Arc::clone(&self.shared)).records_of(id.origin, id.sequence),
        };
        let found = records.next()?.ok()?;
        self.lookback = Some(records);
        Some(found.hash)
    }

    /// Writes one batch into room already made, and makes it durable.
    fn write(&mut self, plan: Plan, verdicts: &mut Vec<Verdict>) -> Result<(), Failure> {
        let writes = plan.judged.iter().filter(|(_, verdict)| verdict.is_none()).count();
        let Some(active) = self.active.as_mut().filter(|_| writes > 0) else {
            verdicts.extend(plan.judged.into_iter().filter_map(|(_, verdict)| verdict));
            return Ok(());
        };
        let batch = self.batch + 1;
        self.buffer.clear();
        let start = active.end;
        let mut end = start;
        let (mut own, mut bulk) = (self.own, self.bulk);
        let mut heads: BTreeMap<OriginId, Head> = BTreeMap::new();
        let mut previous: BTreeMap<OriginId, (OriginId, Head)> = BTreeMap::new();
        let mut places = Vec::with_capacity(writes);
        for (incoming, verdict) in plan.judged {
            if let Some(verdict) = verdict {
                verdicts.push(verdict);
                continue;
            }
            let last = places.len() + 1 == writes;
            let is_own = matches!(incoming, Incoming::Own(_));
            let (id, hash, names, entry) = match incoming {
                Incoming::Own(entry) => {
                    let own = if entry.bulk { &mut bulk } else { &mut own };
                    let origin = match *own {
                        Some((origin, _)) => origin,
                        None => OriginId(self.salts.take(&*self.disk)?),
                    };
                    let id = EventId { origin, sequence: own.map_or(0, |(_, head)| head.sequence) + 1 };
                    let blob = match &entry.blob {
                        Some(bytes) => Some(NewBlob { salt: self.salts.take(&*self.disk)?, bytes }),
                        None => None,
                    };
                    let names = if own.is_none() { self.previous_own } else { None };
                    let before =
                        own.map_or(Before::Origin(self.previous_own), |(_, head)| Before::Record(head.hash));
                    let record =
                        NewRecord { id, before, payload: &entry.payload, blob, batch, last, own: true };
                    let hash = encode_record(&mut self.buffer, active.seed, end, &record);
                    *own = Some((origin, Head { sequence: id.sequence, hash }));
                    (id, hash, names, entry)
                }
                Incoming::Relayed(checked) => {
                    let (hash, names) = (checked.hash(), checked.previous());
                    let (chained, blob) = (checked.chained(), checked.blob());
                    let record = RelayedRecord { chained, hash, blob, batch, last };
                    encode_relayed(&mut self.buffer, active.seed, end, &record);
                    (checked.id, hash, names, checked.into_entry())
                }
            };
            let next = start + self.buffer.len() as u64;
            active.contents.add(Counted { id, hash, own: is_own, batch, previous: names });
            previous.extend(names.map(|names| (id.origin, names)));
            heads.insert(id.origin, Head { sequence: id.sequence, hash });
            let appended =
                Appended { id, position: position(active.number, end), next: position(active.number, next) };
            places.push((id, appended.position));
            verdicts.push(Verdict::Committed(Committed { appended, own: is_own, hash, entry }));
            end = next;
        }
        active.file.write_at(&self.buffer, start).map_err(failure("write", &active.name))?;
        sync(&*active.file).map_err(failure("sync", &active.name))?;
        active.end = end;
        self.batch = batch;
        (self.own, self.bulk) = (own, bulk);
        let mut table = self.shared.table.write();
        table.head = position(active.number, end);
        table.own = own.map(|(origin, _)| origin);
        table.vector.extend(heads);
        table.previous.extend(previous);
        drop(table);
        let mut index = self.shared.index.lock();
        places.into_iter().for_each(|(id, position)| index.note(id, position));
        Ok(())
    }
}

fn sync(file: &dyn DiskFile) -> std::io::Result<()> {
    #[cfg(sabotage)]
    if crate::sabotage::is("ack-before-sync") {
        return Ok(());
    }
    #[cfg(sabotage)]
    if crate::sabotage::is("sync-retried") {
        return file.fdatasync().or_else(|_| file.fdatasync());
    }
    file.fdatasync()
}

/// What a group writes ahead of a record, per origin, in sequence behind what is durable.
#[derive(Default)]
struct Ahead {
    hashes: BTreeMap<OriginId, Vec<[u8; 32]>>,
}

impl Ahead {
    fn push(&mut self, checked: &Checked) {
        self.hashes.entry(checked.id.origin).or_default().push(checked.hash());
    }
}
