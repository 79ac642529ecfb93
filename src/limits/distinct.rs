//! The messaging limit: how many different people a portfolio wrote to in the last 24 hours.
//!
//! A recipient counts from the last counted send until 24 hours later. Entries lie in a [`Chained`] table and
//! are linked in the order of their times, so that the oldest is at hand: counting, expiring and the wait
//! until a place is free cost the same at ten entries and at two million. Threads read the clock before
//! they get here, and clocks are set back, so some times come late; those few are kept in a tree beside the
//! list. Who has left by a later reading of the clock stays out for an earlier one. An entry takes 40 bytes
//! with its bucket.

use std::collections::{BTreeMap, BTreeSet};

use super::capacity::Capacity;
use super::chained::{Chained, Entry, NIL, Word};
use super::hash::halves;
use crate::policy::time::{DAY_MS, Timestamp};

pub(super) mod merge;

/// The window that the provider counts in.
pub const WINDOW_MS: i64 = DAY_MS;
/// Failed sends remembered, so that another node's word or a later send's failure does not bring them back; beyond that,
/// such a recipient counts until its window ends.
pub const VOIDED_MAX: usize = 65_536;

/// Expired entries removed by every check, more than the one it may add.
const EXPIRE_STEPS: usize = 8;
/// Entries walked to find a late one's place before it goes to the tree.
const NEAR_STEPS: usize = 128;
/// Entries walked to find a wait after the limit was lowered. Beyond it the answer is the safe one: when all
/// have left.
const WALK_MAX: usize = 4_096;

/// In place of a link: the entry is in the tree.
const LATE: u32 = NIL - 1;
/// In place of a link: the entry was restored and is not in order yet.
const LOOSE: u32 = NIL - 2;

/// A recipient as one portfolio knows it: 16 bytes of a keyed hash over portfolio and address, since
/// the identifiers of two businesses cannot be compared.
pub type PortfolioRecipient = [u8; 16];

/// One counted recipient.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    key: PortfolioRecipient,
    time_ms: Word,
    older: u32,
    newer: u32,
}

impl Entry for Counted {
    type Key = PortfolioRecipient;

    fn key(&self) -> PortfolioRecipient {
        self.key
    }

    fn spread(key: &PortfolioRecipient) -> u64 {
        let (first, second) = halves(key);
        first ^ second
    }
}

impl Counted {
    /// When it was last counted.
    pub(super) const fn time(&self) -> Timestamp {
        Timestamp(self.time_ms.get_signed())
    }
}

/// What a send changed, so that its failure can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DistinctReceipt {
    /// When the send was counted: now, or just after the recipient's last time.
    pub time: Timestamp,
    /// When the recipient was counted before, if that still counted.
    pub previous: Option<Timestamp>,
}

/// Why a send may not be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The limit is reached; after so many milliseconds there is a place, or never under a limit of none.
    Limit(Option<u64>),
    /// There is no memory left for another recipient.
    Full,
}

/// A place that may still be taken or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Place {
    reserved: bool,
}

/// The recipients of one portfolio.
pub(super) struct Distinct {
    pub(super) entries: Chained<Counted>,
    oldest: u32,
    newest: u32,
    late: BTreeSet<(i64, u32)>,
    /// Failed sends, by their time, and what was before them: they stay undone, and a recipient falls back beyond them.
    voided: BTreeMap<(i64, PortfolioRecipient), Option<Timestamp>>,
    /// Sends of other nodes that no later send knew of, newest first: what a recipient falls back to as well.
    beneath: BTreeMap<PortfolioRecipient, Vec<Timestamp>>,
    loose: bool,
}

impl Distinct {
    pub(super) const fn new() -> Self {
        Self {
            entries: Chained::new(),
            oldest: NIL,
            newest: NIL,
            late: BTreeSet::new(),
            voided: BTreeMap::new(),
            beneath: BTreeMap::new(),
            loose: false,
        }
    }

    /// How many recipients count at `now`; exact up to entries not yet expired.
    pub(super) fn count(&mut self, now: Timestamp, capacity: &Capacity) -> usize {
        self.settle(now);
        while self.expire_one(now, capacity) {}
        self.entries.len()
    }

    /// Asks whether a send to `key` fits under `limit`, consuming nothing. With `reserve`, memory for a new
    /// recipient is taken, which the place holds until it is taken or left.
    pub(super) fn ask(
        &mut self,
        key: &PortfolioRecipient,
        limit: u64,
        now: Timestamp,
        capacity: &Capacity,
        reserve: bool,
    ) -> Result<Place, Refused> {
        self.settle(now);
        self.expire(EXPIRE_STEPS, now, capacity);
        let known = self.entries.find(key);
        if known.is_some_and(|slot| self.time(slot) > window_start(now)) {
            return Ok(Place { reserved: false });
        }
        // More expired ones may lie there than were removed; whether they do only matters at the limit.
        while self.entries.len() as u64 >= limit {
            if !self.expire_one(now, capacity) {
                return Err(Refused::Limit(self.wait_ms(limit, now)));
            }
        }
        if self.entries.find(key).is_some() {
            return Ok(Place { reserved: false });
        }
        let fits = |capacity: &Capacity| if reserve { capacity.reserve() } else { capacity.has_room() };
        while !fits(capacity) {
            if !self.expire_one(now, capacity) {
                return Err(Refused::Full);
            }
        }
        Ok(Place { reserved: reserve })
    }

    /// Counts a send to `key`. No other call may have come between asking and taking.
    pub(super) fn take(&mut self, key: &PortfolioRecipient, now: Timestamp) -> DistinctReceipt {
        let unused = |mut time: Timestamp| {
            while self.voided.contains_key(&(time.0, *key)) {
                time = time.plus_ms(1);
            }
            time
        };
        let Some(slot) = self.entries.find(key) else {
            let time = unused(now);
            self.add(key, time);
            return DistinctReceipt { time, previous: None };
        };
        let before = self.time(slot);
        let previous = (before > window_start(now)).then_some(before);
        // Two sends to one recipient never share a time: giving one back must not take the other's.
        let time = unused(now.max(before.plus_ms(1)));
        self.unlink(slot);
        self.link(slot, time);
        DistinctReceipt { time, previous }
    }

    /// Leaves the place and gives back the memory held for it.
    pub(super) fn leave(place: Place, capacity: &Capacity) {
        if place.reserved {
            capacity.release(1);
        }
    }

    /// Sets a recipient's time as stored (`None`: not counted); `false` when there is no room.
    pub(super) fn restore(
        &mut self,
        key: &PortfolioRecipient,
        time: Option<Timestamp>,
        now: Timestamp,
        capacity: &Capacity,
    ) -> bool {
        let known = self.entries.find(key);
        let Some(time) = time.filter(|time| *time > window_start(now)) else {
            if let Some(slot) = known {
                self.drop_entry(slot, capacity);
            }
            return true;
        };
        let slot = match known {
            Some(slot) => {
                self.unlink(slot);
                slot
            }
            None if capacity.reserve() => self.entries.insert(Counted {
                key: *key,
                time_ms: Word::signed(time.0),
                older: LOOSE,
                newer: LOOSE,
            }),
            None => return false,
        };
        // Stored entries come in any order: they are sorted once, at the first use.
        let entry = self.entries.get_mut(slot);
        (entry.time_ms, entry.older, entry.newer) = (Word::signed(time.0), LOOSE, LOOSE);
        self.loose = true;
        true
    }

    /// Removes up to `steps` expired entries; `true` when some may be left.
    pub(super) fn expire(&mut self, steps: usize, now: Timestamp, capacity: &Capacity) -> bool {
        self.settle(now);
        self.expire_voided(now);
        (0..steps).all(|_| self.expire_one(now, capacity))
    }

    /// Whether an entry counts at `now`.
    pub(super) fn counts(&self, entry: &Counted, now: Timestamp) -> bool {
        entry.time() > window_start(now)
    }

    /// Whether nothing is counted, and nothing remembered that failed.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.len() == 0 && self.voided.is_empty()
    }

    fn expire_one(&mut self, now: Timestamp, capacity: &Capacity) -> bool {
        match self.first() {
            Some((time, slot)) if time <= window_start(now) => {
                self.drop_entry(slot, capacity);
                true
            }
            _ => false,
        }
    }

    fn expire_voided(&mut self, now: Timestamp) {
        while let Some(first) = self.voided.first_entry() {
            if Timestamp(first.key().0) > window_start(now) {
                break;
            }
            first.remove();
        }
    }

    fn drop_entry(&mut self, slot: u32, capacity: &Capacity) {
        if !self.beneath.is_empty() {
            self.beneath.remove(&self.entries.get(slot).key());
        }
        self.unlink(slot);
        self.entries.remove(slot);
        capacity.release(1);
    }

    fn add(&mut self, key: &PortfolioRecipient, time: Timestamp) {
        let entry = Counted { key: *key, time_ms: Word::signed(time.0), older: NIL, newer: NIL };
        let slot = self.entries.insert(entry);
        self.link(slot, time);
    }

    fn time(&self, slot: u32) -> Timestamp {
        self.entries.get(slot).time()
    }

    /// The earliest entry of list and tree.
    fn first(&self) -> Option<(Timestamp, u32)> {
        let listed = (self.oldest != NIL).then(|| (self.time(self.oldest), self.oldest));
        let late = self.late.first().map(|(time, slot)| (Timestamp(*time), *slot));
        listed.into_iter().chain(late).min()
    }

    /// Puts an unlinked entry in its place.
    fn link(&mut self, slot: u32, time: Timestamp) {
        let newest = self.newest;
        let in_order = newest == NIL || self.time(newest) <= time;
        let entry = self.entries.get_mut(slot);
        entry.time_ms = Word::signed(time.0);
        if !in_order {
            if let Some(older) = self.nearly_newest(time) {
                let newer = std::mem::replace(&mut self.entries.get_mut(older).newer, slot);
                let entry = self.entries.get_mut(slot);
                (entry.older, entry.newer) = (older, newer);
                self.entries.get_mut(newer).older = slot;
            } else {
                let entry = self.entries.get_mut(slot);
                (entry.older, entry.newer) = (LATE, LATE);
                self.late.insert((time.0, slot));
            }
            return;
        }
        (entry.older, entry.newer) = (newest, NIL);
        if newest == NIL {
            self.oldest = slot;
        } else {
            self.entries.get_mut(newest).newer = slot;
        }
        self.newest = slot;
    }

    /// The last entry of the list that is not later than `time`, given that the newest is, unless it is far from there: what
    /// other nodes tell of is late by as many as came in the milliseconds of its way.
    fn nearly_newest(&self, time: Timestamp) -> Option<u32> {
        let mut slot = self.newest;
        for _ in 0..NEAR_STEPS {
            slot = self.entries.get(slot).older;
            if slot == NIL {
                return None;
            }
            if self.time(slot) <= time {
                return Some(slot);
            }
        }
        None
    }

    /// Takes an entry out of list or tree.
    fn unlink(&mut self, slot: u32) {
        let Counted { time_ms, older, newer, .. } = *self.entries.get(slot);
        if older == LATE {
            self.late.remove(&(time_ms.get_signed(), slot));
            return;
        }
        if older == LOOSE {
            return;
        }
        if older == NIL {
            self.oldest = newer;
        } else {
            self.entries.get_mut(older).newer = newer;
        }
        if newer == NIL {
            self.newest = older;
        } else {
            self.entries.get_mut(newer).older = older;
        }
    }

    /// Brings restored entries in order, and dates back to `now` what a wrong clock dated more than a window
    /// ahead, so that it counts for one window and not until that day.
    pub(super) fn settle(&mut self, now: Timestamp) {
        let last_late = self.late.last().map_or(Timestamp::MIN, |(time, _)| Timestamp(*time));
        let last = if self.newest == NIL { last_late } else { self.time(self.newest).max(last_late) };
        let horizon = now.plus_ms(WINDOW_MS);
        if !self.loose && last <= horizon {
            return;
        }
        let mut order = Vec::with_capacity(self.entries.len());
        for slot in 0..self.entries.slots() {
            if let Some(entry) = self.entries.occupied(slot) {
                let time = entry.time();
                order.push((if time > horizon { now } else { time }, slot));
            }
        }
        order.sort_unstable();
        self.late.clear();
        (self.oldest, self.newest, self.loose) = (NIL, NIL, false);
        for (time, slot) in order {
            self.link(slot, time);
        }
    }

    /// The wait until fewer than `limit` recipients count, given that at least as many do.
    fn wait_ms(&self, limit: u64, now: Timestamp) -> Option<u64> {
        let len = self.entries.len();
        let limit = usize::try_from(limit).ok().filter(|limit| (1..=len).contains(limit))?;
        // The one that must leave, counted from either end.
        let (from_oldest, from_newest) = (len - limit, limit - 1);
        let deciding = if from_oldest <= from_newest.max(WALK_MAX / 4) {
            self.nth(from_oldest, self.oldest, |entry| entry.newer, self.late.iter(), |a, b| a <= b)
        } else {
            self.nth(from_newest, self.newest, |entry| entry.older, self.late.iter().rev(), |a, b| a >= b)
        };
        let wait_ms = deciding.plus_ms(WINDOW_MS).since_ms(now);
        Some(u64::try_from(wait_ms).unwrap_or(0))
    }

    /// The time of the `nth` entry of list and tree merged from one end, or the latest of all when that is too
    /// far to walk.
    fn nth<'a>(
        &'a self,
        nth: usize,
        end: u32,
        step: impl Fn(&Counted) -> u32,
        late: impl Iterator<Item = &'a (i64, u32)>,
        comes_first: impl Fn(i64, i64) -> bool,
    ) -> Timestamp {
        let mut late = late.map(|(time, _)| *time).peekable();
        let mut slot = end;
        let mut reached = None;
        for _ in 0..=nth.min(WALK_MAX) {
            let listed = (slot != NIL).then(|| self.time(slot).0);
            let take_late = match (listed, late.peek()) {
                (Some(listed), Some(late)) => !comes_first(listed, *late),
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if take_late {
                reached = late.next();
            } else if listed.is_some() {
                reached = listed;
                slot = step(self.entries.get(slot));
            }
        }
        let latest = if self.newest == NIL { i64::MIN } else { self.time(self.newest).0 };
        let latest = self.late.last().map_or(latest, |(time, _)| latest.max(*time));
        Timestamp(reached.filter(|_| nth <= WALK_MAX).unwrap_or(latest))
    }
}

/// Times up to this one no longer count.
const fn window_start(now: Timestamp) -> Timestamp {
    now.minus_ms(WINDOW_MS)
}

#[cfg(test)]
mod tests;
