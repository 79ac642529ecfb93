//! Sends that other nodes counted, and sends that failed wherever they were counted: in any order, and any number of times.
//!
//! What is known of a recipient is a set of sends less a set of those that failed; it counts from the last of what is left. Of that set
//! only the last is kept with the recipient. A send tells which one it knew of before it, so most of the others come back when
//! they are needed; those that no other knew of lie beneath.

use super::{
    Capacity, Distinct, DistinctReceipt, EXPIRE_STEPS, PortfolioRecipient, VOIDED_MAX, WINDOW_MS,
    window_start,
};
use crate::policy::time::Timestamp;

/// Sends remembered per recipient that no later send knew of.
pub(in crate::limits) const BENEATH_MAX: usize = 8;

/// There is no memory left for another recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limits) struct Full;

impl Distinct {
    /// Undoes a counted send that failed, be it counted here or not heard of yet. Returns the recipient's time from now on if
    /// it changed (`Some(None)`: it no longer counts).
    pub(in crate::limits) fn give_back(
        &mut self,
        key: &PortfolioRecipient,
        receipt: &DistinctReceipt,
        now: Timestamp,
        capacity: &Capacity,
    ) -> Option<Option<Timestamp>> {
        self.settle(now);
        self.expire_voided(now);
        let counts = |time: &Timestamp| *time > window_start(now);
        if counts(&receipt.time) && self.voided.len() < VOIDED_MAX {
            let previous = self.voided.entry((receipt.time.0, *key)).or_default();
            *previous = (*previous).max(receipt.previous);
        }
        self.forget_beneath(key, receipt.time);
        let previous = self.before(key, receipt.previous).filter(counts);
        match self.entries.find(key) {
            Some(slot) if self.time(slot) == receipt.time => {
                let beneath = self.beneath.get(key).and_then(|times| times.first()).copied().filter(counts);
                let falls_to = previous.max(beneath);
                let Some(time) = falls_to else {
                    self.drop_entry(slot, capacity);
                    return Some(None);
                };
                self.unlink(slot);
                self.link(slot, time);
                self.forget_beneath(key, time);
                if let Some(previous) = previous.filter(|previous| *previous < time) {
                    self.put_beneath(key, previous);
                }
                Some(Some(time))
            }
            // A later send keeps the recipient counted, or the send was given back before, or is not heard of yet.
            _ => previous.and_then(|previous| self.count_at(key, previous, None, now, capacity).ok()?),
        }
    }

    /// Takes over a send that another node counted. Returns the recipient's time from now on if it changed.
    ///
    /// # Errors
    /// When there is no room for another recipient.
    pub(in crate::limits) fn merge(
        &mut self,
        key: &PortfolioRecipient,
        receipt: &DistinctReceipt,
        now: Timestamp,
        capacity: &Capacity,
    ) -> Result<Option<Option<Timestamp>>, Full> {
        self.settle(now);
        self.expire(EXPIRE_STEPS, now, capacity);
        let previous = self.before(key, receipt.previous);
        let before = match previous {
            Some(previous) => self.count_at(key, previous, None, now, capacity)?,
            None => None,
        };
        Ok(self.count_at(key, receipt.time, previous, now, capacity)?.or(before))
    }

    /// Counts a send at `time`, which knew of one at `previous`.
    fn count_at(
        &mut self,
        key: &PortfolioRecipient,
        time: Timestamp,
        previous: Option<Timestamp>,
        now: Timestamp,
        capacity: &Capacity,
    ) -> Result<Option<Option<Timestamp>>, Full> {
        // Beyond the window lies what a wrong clock said.
        let counts = time > window_start(now) && time <= now.plus_ms(WINDOW_MS);
        if !counts || self.voided.contains_key(&(time.0, *key)) {
            return Ok(None);
        }
        let Some(slot) = self.entries.find(key) else {
            while !capacity.reserve() {
                if !self.expire_one(now, capacity) {
                    return Err(Full);
                }
            }
            self.add(key, time);
            return Ok(Some(Some(time)));
        };
        let stands_at = self.time(slot);
        if time < stands_at {
            self.put_beneath(key, time);
        }
        if time <= stands_at {
            return Ok(None);
        }
        if previous != Some(stands_at) {
            self.put_beneath(key, stands_at);
        }
        self.unlink(slot);
        self.link(slot, time);
        Ok(Some(Some(time)))
    }

    /// The time that a recipient falls back to from `time`, beyond sends that failed.
    fn before(&self, key: &PortfolioRecipient, mut time: Option<Timestamp>) -> Option<Timestamp> {
        while let Some(at) = time
            && let Some(older) = self.voided.get(&(at.0, *key))
        {
            // What came over the wire may lead in circles.
            time = older.filter(|older| *older < at);
        }
        time
    }

    fn put_beneath(&mut self, key: &PortfolioRecipient, time: Timestamp) {
        if self.beneath.len() >= VOIDED_MAX && !self.beneath.contains_key(key) {
            return;
        }
        let times = self.beneath.entry(*key).or_default();
        let at = times.partition_point(|known| *known > time);
        if times.get(at) != Some(&time) {
            times.insert(at, time);
            times.truncate(BENEATH_MAX);
        }
    }

    fn forget_beneath(&mut self, key: &PortfolioRecipient, time: Timestamp) {
        if let Some(times) = self.beneath.get_mut(key) {
            times.retain(|known| *known != time);
            if times.is_empty() {
                self.beneath.remove(key);
            }
        }
    }
}
