//! Origins that were forked: two stores wrote as one, so that from some sequence on an id names more than one event.
//!
//! Whoever names such an id may mean either event, so nothing permissive rests on one: an opt-in or a request under it does not count, a
//! hold that it released goes on, and no opt-in covers it. What denies counts all the same. The owner of such an event records it anew
//! under an id that is unlike any other; then it counts as it did.

use std::collections::BTreeMap;

use super::consent::{Covers, OptIn, Register};
use super::event::{Change, ConsentEvent, Hold};
use super::ids::{EventId, OriginId};
use super::record::Record;

/// How many forked origins are told apart. With one more, nothing permissive counts of any origin: a cluster in which so much is copied
/// has no ids to rely on.
pub const DISTRUSTED_ORIGINS_MAX: usize = 1_024;

/// What the marks of forked origins begin with; the first half of the origin follows.
const MARK: [u8; 8] = *b"\0forked\0";

/// The name that stands among an opt-in's covers for the fork of `origin`. No event has it.
fn mark_of(origin: OriginId) -> OriginId {
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&MARK);
    mark[8..].copy_from_slice(&origin.0[..8]);
    OriginId(mark)
}

/// Whether what an opt-in covers is not an event but the fork of an origin.
#[must_use]
pub fn is_mark(id: EventId) -> bool {
    id.origin.0[..8] == MARK
}

/// Lets an opt-in be recorded in the knowledge that `set_aside` does not count.
///
/// Of two opt-ins a record keeps the one that covers all that the other does, and it cannot know which of them will be doubted. So this one
/// covers the fork as well, which none does that was recorded without the knowledge: what does not count never takes its place.
pub fn come_after(covers: &mut Covers, set_aside: &OptIn) {
    let mark = mark_of(set_aside.id.origin);
    covers.raise(EventId { origin: mark, sequence: set_aside.covers.of(mark).saturating_add(1) });
}

/// From which sequence on each forked origin's ids name more than one event.
///
/// It joins: per origin the lowest sequence stays, and of too many origins the first by their ids, whatever order they come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distrust(BTreeMap<OriginId, u64>);

impl Distrust {
    /// Ids of `origin` name more than one event from `from` on. Says whether that is news.
    pub fn add(&mut self, origin: OriginId, from: u64) -> bool {
        let from = from.max(1);
        let before = self.0.get(&origin).copied();
        if before.is_some_and(|before| before <= from) {
            return false;
        }
        self.0.insert(origin, from);
        if self.0.len() > DISTRUSTED_ORIGINS_MAX + 1 {
            let dropped = self.0.pop_last();
            return dropped.is_some_and(|(last, _)| last != origin);
        }
        true
    }

    /// Whether no origin is known to be forked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether more origins are forked than are told apart, so that nothing permissive counts of any.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0.len() > DISTRUSTED_ORIGINS_MAX
    }

    /// From which sequence on ids of `origin` name more than one event; `None`: each names one.
    #[must_use]
    pub fn begins_at(&self, origin: OriginId) -> Option<u64> {
        if self.is_everything() { Some(1) } else { self.0.get(&origin).copied() }
    }

    /// Whether `id` may name more than one event.
    #[must_use]
    pub fn doubts(&self, id: EventId) -> bool {
        self.begins_at(id.origin).is_some_and(|from| id.sequence >= from)
    }

    /// The forked origins and where that begins, by origin; where there are too many, the first of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (OriginId, u64)> {
        self.0.iter().map(|(origin, from)| (*origin, *from))
    }

    /// Takes from `record` what must not count. It is done whenever a record is read for an answer; what is kept of the person stays
    /// whole, since whether an id is doubted may be learnt before or after its event.
    pub fn lay_over(&self, record: &mut Record) {
        #[cfg(sabotage)]
        if crate::sabotage::is("fork-ignored") {
            return;
        }
        let Record { cells, preferences, holds, links: _, allowances, taken, set_aside } = record;
        for (_, cell) in cells {
            let opt_ins = &mut cell.opt_ins;
            set_aside.extend(opt_ins.extract_if(.., |opt_in| self.doubts(opt_in.id)));
            opt_ins.iter_mut().for_each(|opt_in| self.cap(&mut opt_in.covers));
            cell.requests.retain(|request| !self.doubts(request.id));
            cell.requests.iter_mut().for_each(|request| self.cap(&mut request.covers));
        }
        preferences.iter_mut().for_each(|(_, register)| self.hold_on(register));
        holds.iter_mut().for_each(|(_, register)| self.hold_on(register));
        allowances.retain(|allowance| !self.doubts(allowance.event));
        // A retry must not be answered with a name that is shared.
        taken.retain(|taken| !self.doubts(taken.event));
    }

    /// What such a setting ended goes on: nobody knows what it was.
    fn hold_on(&self, register: &mut Register) {
        register.suppresses |= self.doubts(register.event);
    }

    /// Covers end before the first id that names more than one event: the person acted after one of them, and which is not known.
    fn cap(&self, covers: &mut Covers) {
        #[cfg(sabotage)]
        if crate::sabotage::is("shared-names-covered") {
            return;
        }
        let named: Vec<EventId> = covers.named().filter(|id| self.doubts(*id)).collect();
        for id in named {
            covers.lower(id.origin, self.begins_at(id.origin).map_or(0, |from| from - 1));
        }
    }

    /// What of an event under the doubted `id` its owner records anew, with the index of each change there; `None`: nothing in it permits.
    ///
    /// What denies holds under any id. The platform's word that marketing is wanted again is left out: it wins by its time alone, over
    /// which nothing may be moved, so it counts again with the platform's next word or a release.
    #[must_use]
    pub fn anew(&self, id: EventId, event: &ConsentEvent) -> Option<(ConsentEvent, Vec<usize>)> {
        let mark = mark_of(id.origin);
        let (mut changes, mut from) = (Vec::new(), Vec::new());
        for (at, change) in event.changes.iter().enumerate() {
            let change = match change {
                Change::OptIn(opt_in) => {
                    let mut opt_in = opt_in.clone();
                    self.cap(&mut opt_in.covers);
                    let sequence = opt_in.covers.of(mark).saturating_add(1);
                    opt_in.covers.raise(EventId { origin: mark, sequence });
                    Change::OptIn(opt_in)
                }
                // Here and below, what stands under the doubted id must not stay for being of the same moment.
                Change::Request(request) => {
                    let mut request = request.clone();
                    self.cap(&mut request.covers);
                    request.occurred = request.occurred.plus_ms(1);
                    Change::Request(request)
                }
                // A hold of the next moment wins all the same.
                Change::Hold(hold) if !hold.held => {
                    Change::Hold(Hold { time: hold.time.plus_ms(1), ..*hold })
                }
                Change::OptOut(_)
                | Change::Invalidate(_)
                | Change::Hold(_)
                | Change::Preference(_)
                | Change::Help { .. } => continue,
            };
            changes.push(change);
            from.push(at);
        }
        (!changes.is_empty()).then(|| (ConsentEvent { changes, ..event.clone() }, from))
    }
}

/// Whether two events say the same, but for what their opt-ins cover, which is capped by what is doubted when they are recorded anew, and for
/// who numbered them.
#[must_use]
pub fn same_but_for_covers(a: &ConsentEvent, b: &ConsentEvent) -> bool {
    let without = |event: &ConsentEvent| {
        let mut event = event.clone();
        event.numbered_late = false;
        for change in &mut event.changes {
            match change {
                Change::OptIn(opt_in) => opt_in.covers = Covers::default(),
                Change::Request(request) => request.covers = Covers::default(),
                Change::OptOut(_)
                | Change::Invalidate(_)
                | Change::Hold(_)
                | Change::Preference(_)
                | Change::Help { .. } => {}
            }
        }
        event
    };
    without(a) == without(b)
}

/// All opt-ins of a record, those set aside included: an opt-out that is recorded now comes after any of them.
pub fn every_opt_in(record: &Record) -> impl Iterator<Item = &OptIn> {
    record.cells.iter().flat_map(|(_, cell)| &cell.opt_ins).chain(&record.set_aside)
}

#[cfg(test)]
mod tests;
