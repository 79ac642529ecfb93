//! Waits that a provider asked for: of a pair, a sender, a recipient's marketing, a business.

use super::capacity::Capacity;
use super::chained::{Chained, Entry, Word};
use crate::policy::time::{DAY_MS, HOUR_MS, SECOND_MS, Timestamp};

/// The base of growing waits: the X-th refusal in a row costs 4^X seconds (domain §5, error 131056).
const BACK_OFF_BASE: i64 = 4;
/// The largest X, 68 minutes: the wait stops growing there.
pub const BACK_OFF_EXPONENT_MAX: u32 = 6;
/// How long after a growing wait the next refusal still counts as one in a row.
pub const BACK_OFF_MEMORY_MS: i64 = HOUR_MS;
/// The longest cooldown; also what a clock that was set back makes of a longer one.
pub const COOLDOWN_MAX_MS: i64 = 31 * DAY_MS;

/// Slots looked at for expired cooldowns with every new one, and when there is no room left.
const SWEEP_STEPS: u32 = 2;
const SWEEP_STEPS_WHEN_FULL: u32 = 256;

/// One cooldown.
#[derive(Clone, Copy)]
pub(super) struct Cooldown {
    key: Word,
    until_ms: Word,
    /// Growing waits in a row, 0 for a plain cooldown.
    strikes: u32,
}

impl Entry for Cooldown {
    type Key = u64;

    fn key(&self) -> u64 {
        self.key.get()
    }

    fn spread(key: &u64) -> u64 {
        *key
    }
}

impl Cooldown {
    /// A cooldown as stored.
    pub(super) const fn restored(key: u64, until: Timestamp, strikes: u32) -> Self {
        Self { key: Word::new(key), until_ms: Word::signed(until.0), strikes }
    }

    /// When it ends.
    pub(super) const fn until(&self) -> Timestamp {
        Timestamp(self.until_ms.get_signed())
    }

    /// How many growing waits came in a row.
    pub(super) const fn strikes(&self) -> u32 {
        self.strikes
    }

    /// Whether nothing depends on it any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        let memory_ms = if self.strikes > 0 { BACK_OFF_MEMORY_MS } else { 0 };
        now >= self.until().plus_ms(memory_ms)
    }
}

/// A shard's share of the cooldowns.
pub(super) struct Cooldowns {
    pub(super) table: Chained<Cooldown>,
    /// Until when a cooldown that found no room may last. Whose it was is forgotten, so till then everyone
    /// without an entry waits: a full table denies.
    dropped_until: Timestamp,
}

impl Cooldowns {
    pub(super) const fn new() -> Self {
        Self { table: Chained::new(), dropped_until: Timestamp::MIN }
    }

    /// Whether nobody waits.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        self.table.len() == 0 && now >= self.dropped_until
    }

    /// How long `key` still has to wait, in milliseconds.
    pub(super) fn remaining(&mut self, key: u64, now: Timestamp) -> Option<u64> {
        let until = match self.table.find(&key) {
            Some(slot) => {
                let found = self.table.get_mut(slot);
                let until = found.until().min(now.plus_ms(COOLDOWN_MAX_MS));
                found.until_ms = Word::signed(until.0);
                until
            }
            None => self.dropped_until,
        };
        u64::try_from(until.since_ms(now)).ok().filter(|wait_ms| *wait_ms > 0)
    }

    /// Holds `key` for `span_ms` from now, or for as long as it is held already; says until when.
    pub(super) fn hold(&mut self, key: u64, span_ms: i64, now: Timestamp, capacity: &Capacity) -> Timestamp {
        let until = now.plus_ms(span_ms.clamp(0, COOLDOWN_MAX_MS));
        match self.table.find(&key) {
            Some(slot) => {
                let found = self.table.get_mut(slot);
                let until = until.max(found.until());
                found.until_ms = Word::signed(until.0);
                until
            }
            None => self.add(Cooldown::restored(key, until, 0), now, capacity),
        }
    }

    /// Holds `key` four times longer than the last time. Refusals of what was under way before the last
    /// wait began do not lengthen it.
    pub(super) fn back_off(&mut self, key: u64, now: Timestamp, capacity: &Capacity) -> Timestamp {
        let Some(slot) = self.table.find(&key) else {
            return self.add(Cooldown::restored(key, now.plus_ms(back_off_ms(0)), 1), now, capacity);
        };
        let found = self.table.get_mut(slot);
        if now < found.until() && found.strikes > 0 {
            return found.until();
        }
        if found.is_over(now) {
            found.strikes = 0;
        }
        let until = now.plus_ms(back_off_ms(found.strikes)).max(found.until());
        found.strikes = (found.strikes + 1).min(BACK_OFF_EXPONENT_MAX);
        found.until_ms = Word::signed(until.0);
        until
    }

    fn add(&mut self, cooldown: Cooldown, now: Timestamp, capacity: &Capacity) -> Timestamp {
        capacity.release(self.table.sweep(SWEEP_STEPS, |old| old.is_over(now)));
        if !capacity.has_room() {
            capacity.release(self.table.sweep(SWEEP_STEPS_WHEN_FULL, |old| old.is_over(now)));
        }
        if capacity.reserve() {
            self.table.insert(cooldown);
        } else {
            self.dropped_until = self.dropped_until.max(cooldown.until());
        }
        cooldown.until()
    }

    /// Puts a stored cooldown in its place; the later end wins. `false` when there was no room and it
    /// holds for everyone instead.
    pub(super) fn restore(&mut self, cooldown: Cooldown, now: Timestamp, capacity: &Capacity) -> bool {
        if let Some(slot) = self.table.find(&cooldown.key()) {
            if cooldown.until() >= self.table.get(slot).until() {
                *self.table.get_mut(slot) = cooldown;
            }
            return true;
        }
        if cooldown.is_over(now) {
            return true;
        }
        let before = self.table.len();
        self.add(cooldown, now, capacity);
        self.table.len() > before || self.table.find(&cooldown.key()).is_some()
    }
}

/// The wait after `strikes` refusals in a row before this one.
fn back_off_ms(strikes: u32) -> i64 {
    SECOND_MS * BACK_OFF_BASE.pow(strikes.min(BACK_OFF_EXPONENT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_341_600_000);

    #[test]
    fn a_cooldown_ends_on_time_and_the_longer_one_wins() {
        let (capacity, mut cooldowns) = (Capacity::new(10), Cooldowns::new());
        assert_eq!(cooldowns.remaining(1, NOW), None);
        assert_eq!(cooldowns.hold(1, DAY_MS, NOW, &capacity), NOW.plus_ms(DAY_MS));
        assert_eq!(cooldowns.hold(1, HOUR_MS, NOW, &capacity), NOW.plus_ms(DAY_MS));
        assert_eq!(cooldowns.remaining(1, NOW), Some(86_400_000));
        assert_eq!(cooldowns.remaining(1, NOW.plus_ms(DAY_MS - 1)), Some(1));
        assert_eq!(cooldowns.remaining(1, NOW.plus_ms(DAY_MS)), None);
        assert_eq!(cooldowns.remaining(2, NOW), None);
    }

    #[test]
    fn waits_grow_fourfold_while_refusals_go_on() {
        let (capacity, mut cooldowns) = (Capacity::new(10), Cooldowns::new());
        let mut now = NOW;
        for seconds in [1, 4, 16, 64, 256, 1_024, 4_096, 4_096] {
            let until = cooldowns.back_off(1, now, &capacity);
            assert_eq!(until.since_ms(now), seconds * SECOND_MS);
            assert_eq!(cooldowns.back_off(1, now.plus_ms(1), &capacity), until, "sent before the wait");
            now = until;
        }
        now = now.plus_ms(BACK_OFF_MEMORY_MS);
        assert_eq!(
            cooldowns.back_off(1, now, &capacity),
            now.plus_ms(SECOND_MS),
            "an hour of peace forgives"
        );
    }

    #[test]
    fn one_past_the_capacity_makes_everyone_wait_who_has_no_entry() {
        let (capacity, mut cooldowns) = (Capacity::new(2), Cooldowns::new());
        cooldowns.hold(1, HOUR_MS, NOW, &capacity);
        cooldowns.hold(2, HOUR_MS, NOW, &capacity);
        assert_eq!(cooldowns.remaining(4, NOW), None);
        assert_eq!(cooldowns.hold(3, 2 * HOUR_MS, NOW, &capacity), NOW.plus_ms(2 * HOUR_MS));
        for key in [3, 4] {
            assert_eq!(cooldowns.remaining(key, NOW), Some(7_200_000));
        }
        assert_eq!(cooldowns.remaining(1, NOW), Some(3_600_000));
        let later = NOW.plus_ms(HOUR_MS);
        cooldowns.hold(5, HOUR_MS, later, &capacity);
        assert_eq!(cooldowns.table.len(), capacity.used());
        assert_eq!(cooldowns.remaining(5, later), Some(3_600_000), "expired ones made room");
        assert_eq!(cooldowns.remaining(4, NOW.plus_ms(2 * HOUR_MS)), None);
    }

    #[test]
    fn a_clock_set_back_by_years_does_not_hold_for_years() {
        let (capacity, mut cooldowns) = (Capacity::new(2), Cooldowns::new());
        cooldowns.hold(1, HOUR_MS, NOW.plus_ms(365 * DAY_MS), &capacity);
        assert_eq!(cooldowns.remaining(1, NOW), u64::try_from(COOLDOWN_MAX_MS).ok());
        assert_eq!(cooldowns.remaining(1, NOW.plus_ms(COOLDOWN_MAX_MS)), None);
    }
}
