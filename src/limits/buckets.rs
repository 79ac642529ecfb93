//! Tables of token buckets. Only full buckets are evicted, since a full one and none at all decide alike.

use super::capacity::Capacity;
use super::chained::{Chained, Entry, Word};
use super::gcra::{self, Quota};

/// Slots looked at for evictable buckets with every insertion: more than one, so that a table of idle
/// buckets shrinks faster than it grows.
const SWEEP_STEPS: u32 = 2;
/// Slots looked at when there is no room left.
const SWEEP_STEPS_WHEN_FULL: u32 = 64;

/// A bucket's stored form.
pub(super) trait Bucket: Entry<Key = u64> {
    /// The bucket of `key` after a message under `quota`.
    fn new(key: u64, arrival_ns: u64, quota: &Quota) -> Self;

    /// The theoretical arrival time as stored.
    fn arrival_ns(&self) -> u64;

    /// The theoretical arrival time as `quota` understands it now.
    fn under(&self, quota: &Quota, now_ns: u64) -> u64;

    /// Keeps a new state.
    fn set(&mut self, arrival_ns: u64, quota: &Quota);

    /// Whether the bucket is full.
    fn is_full(&self, now_ns: u64) -> bool {
        self.arrival_ns() <= now_ns
    }
}

/// The bucket of a sender and a recipient. There are many and they refill within seconds, so it does not
/// remember its quota: when that changes, spent time counts as it is.
#[derive(Clone, Copy)]
pub(super) struct PairBucket {
    key: Word,
    arrival_ns: Word,
}

impl Entry for PairBucket {
    type Key = u64;

    fn key(&self) -> u64 {
        self.key.get()
    }

    fn spread(key: &u64) -> u64 {
        *key
    }
}

impl Bucket for PairBucket {
    fn new(key: u64, arrival_ns: u64, _: &Quota) -> Self {
        Self { key: Word::new(key), arrival_ns: Word::new(arrival_ns) }
    }

    fn arrival_ns(&self) -> u64 {
        self.arrival_ns.get()
    }

    fn under(&self, quota: &Quota, now_ns: u64) -> u64 {
        quota.settle(self.arrival_ns(), now_ns)
    }

    fn set(&mut self, arrival_ns: u64, _: &Quota) {
        self.arrival_ns = Word::new(arrival_ns);
    }
}

/// The bucket of a sender or of a business, which remembers its interval: quality ratings, reloads and
/// joining members change it, and spent messages must stay spent.
#[derive(Clone, Copy)]
pub(super) struct RateBucket {
    key: Word,
    arrival_ns: Word,
    interval_ns: Word,
    /// The drain before which the bucket was last noted as changed.
    pub(super) noted_in: u32,
}

impl RateBucket {
    /// The interval of the quota it was last charged under.
    pub(super) const fn interval_ns(&self) -> u64 {
        self.interval_ns.get()
    }

    /// A bucket as stored.
    pub(super) const fn restored(key: u64, arrival_ns: u64, interval_ns: u64) -> Self {
        Self {
            key: Word::new(key),
            arrival_ns: Word::new(arrival_ns),
            interval_ns: Word::new(interval_ns),
            noted_in: 0,
        }
    }
}

impl Entry for RateBucket {
    type Key = u64;

    fn key(&self) -> u64 {
        self.key.get()
    }

    fn spread(key: &u64) -> u64 {
        *key
    }
}

impl Bucket for RateBucket {
    fn new(key: u64, arrival_ns: u64, quota: &Quota) -> Self {
        Self::restored(key, arrival_ns, quota.interval_ns())
    }

    fn arrival_ns(&self) -> u64 {
        self.arrival_ns.get()
    }

    fn under(&self, quota: &Quota, now_ns: u64) -> u64 {
        quota.convert(self.arrival_ns(), self.interval_ns.get(), now_ns)
    }

    fn set(&mut self, arrival_ns: u64, quota: &Quota) {
        self.arrival_ns = Word::new(arrival_ns);
        self.interval_ns = Word::new(quota.interval_ns());
    }
}

impl PairBucket {
    /// A bucket as stored.
    pub(super) const fn restored(key: u64, arrival_ns: u64) -> Self {
        Self { key: Word::new(key), arrival_ns: Word::new(arrival_ns) }
    }
}

/// What a bucket says to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It may pass; the claim takes its token.
    Pass(Claim),
    /// Not yet, but after so many milliseconds.
    Wait(u64),
    /// There is no room to count it.
    Full,
}

/// A token that may still be taken or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Claim {
    key: u64,
    slot: Option<u32>,
    next_ns: u64,
    reserved: bool,
}

/// A shard's share of a table of buckets.
pub(super) struct Buckets<B> {
    pub(super) table: Chained<B>,
}

impl<B: Bucket> Buckets<B> {
    pub(super) const fn new() -> Self {
        Self { table: Chained::new() }
    }

    /// Asks the bucket of `key`, consuming nothing. With `reserve`, room for a new bucket is taken, which
    /// the claim holds until it is kept or dropped.
    pub(super) fn ask(
        &mut self,
        key: u64,
        quota: &Quota,
        now_ns: u64,
        capacity: &Capacity,
        reserve: bool,
    ) -> Answer {
        let Some(slot) = self.table.find(&key) else {
            let Ok(next_ns) = gcra::decide(quota, None, now_ns) else {
                return Answer::Full; // unreachable: a full bucket holds at least one token
            };
            let mut fits = if reserve { capacity.reserve() } else { capacity.has_room() };
            if !fits {
                let gone = self.table.sweep(SWEEP_STEPS_WHEN_FULL, |bucket| bucket.is_full(now_ns));
                capacity.release(gone);
                fits = if reserve { capacity.reserve() } else { capacity.has_room() };
            }
            return if fits {
                Answer::Pass(Claim { key, slot: None, next_ns, reserved: reserve })
            } else {
                Answer::Full
            };
        };
        let bucket = self.table.get_mut(slot);
        let arrival_ns = bucket.under(quota, now_ns);
        // Kept even if the message is denied in the end: it spends nothing, and a wait told now must
        // still be right when it is over.
        bucket.set(arrival_ns, quota);
        match gcra::decide(quota, Some(arrival_ns), now_ns) {
            Ok(next_ns) => Answer::Pass(Claim { key, slot: Some(slot), next_ns, reserved: false }),
            Err(earliest_ns) => Answer::Wait(gcra::wait_ms(earliest_ns, now_ns)),
        }
    }

    /// Takes the token and says where the bucket is. No other call may have come between asking and taking.
    pub(super) fn take(&mut self, claim: Claim, quota: &Quota, now_ns: u64, capacity: &Capacity) -> u32 {
        if let Some(slot) = claim.slot {
            self.table.get_mut(slot).set(claim.next_ns, quota);
            return slot;
        }
        capacity.release(self.table.sweep(SWEEP_STEPS, |bucket| bucket.is_full(now_ns)));
        self.table.insert(B::new(claim.key, claim.next_ns, quota))
    }

    /// Leaves the token and gives back the room held for it.
    pub(super) fn leave(claim: Claim, capacity: &Capacity) {
        if claim.reserved {
            capacity.release(1);
        }
    }

    /// Puts a stored bucket in its place; `false` when there is no room.
    pub(super) fn restore(&mut self, bucket: B, now_ns: u64, capacity: &Capacity) -> bool {
        if let Some(slot) = self.table.find(&bucket.key()) {
            *self.table.get_mut(slot) = bucket;
            return true;
        }
        if bucket.is_full(now_ns) {
            return true;
        }
        let fits = capacity.reserve();
        if fits {
            self.table.insert(bucket);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rules::{Every, PerSecond};

    const NOW: u64 = 1_795_341_600_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn pass(answer: Answer) -> Claim {
        match answer {
            Answer::Pass(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_left_is_not_taken() {
        let quota = Quota::pair(Every { every_ms: 6_000, burst: 1 }).unwrap();
        let (capacity, mut buckets) = (Capacity::new(10), Buckets::<PairBucket>::new());
        for _ in 0..3 {
            let claim = pass(buckets.ask(1, &quota, NOW, &capacity, true));
            Buckets::<PairBucket>::leave(claim, &capacity);
        }
        assert_eq!((buckets.table.len(), capacity.used()), (0, 0));
        let claim = pass(buckets.ask(1, &quota, NOW, &capacity, true));
        buckets.take(claim, &quota, NOW, &capacity);
        assert_eq!(buckets.ask(1, &quota, NOW, &capacity, true), Answer::Wait(6_000));
        assert_eq!(buckets.ask(1, &quota, NOW + SECOND, &capacity, true), Answer::Wait(5_000));
        let claim = pass(buckets.ask(1, &quota, NOW + 6 * SECOND, &capacity, true));
        Buckets::<PairBucket>::leave(claim, &capacity);
        assert_eq!(capacity.used(), 1);
    }

    #[test]
    fn one_past_the_capacity_is_refused_until_a_bucket_is_full_again() {
        let quota = Quota::pair(Every { every_ms: 6_000, burst: 3 }).unwrap();
        let (capacity, mut buckets) = (Capacity::new(3), Buckets::<PairBucket>::new());
        for key in 0..3 {
            let claim = pass(buckets.ask(key, &quota, NOW + key, &capacity, true));
            buckets.take(claim, &quota, NOW + key, &capacity);
        }
        assert_eq!(buckets.ask(9, &quota, NOW, &capacity, true), Answer::Full);
        assert_eq!(buckets.ask(9, &quota, NOW, &capacity, false), Answer::Full, "a peek says the same");
        let just_before = NOW + 6 * SECOND - 1;
        assert_eq!(buckets.ask(9, &quota, just_before, &capacity, true), Answer::Full);
        let _ = pass(buckets.ask(2, &quota, NOW, &capacity, true));
        let claim = pass(buckets.ask(9, &quota, NOW + 6 * SECOND, &capacity, true));
        buckets.take(claim, &quota, NOW + 6 * SECOND, &capacity);
        assert!(buckets.table.find(&0).is_none(), "the refilled bucket made room");
        assert_eq!(capacity.used(), buckets.table.len());
    }

    #[test]
    fn idle_buckets_go_as_new_ones_come() {
        let quota = Quota::pair(Every { every_ms: 1_000, burst: 1 }).unwrap();
        let (capacity, mut buckets) = (Capacity::new(1_000_000), Buckets::<PairBucket>::new());
        for key in 0..20_000u64 {
            let now = NOW + key * SECOND / 1_000;
            let claim =
                pass(buckets.ask(key.wrapping_mul(0x9e37_79b9_7f4a_7c15), &quota, now, &capacity, true));
            buckets.take(claim, &quota, now, &capacity);
        }
        assert!(buckets.table.slots() < 4_000, "{} slots for 1,000 busy buckets", buckets.table.slots());
        assert_eq!(capacity.used(), buckets.table.len());
    }

    #[test]
    fn a_changed_quota_keeps_waits_true() {
        let fast = Quota::sender(PerSecond { per_second: 10, burst: 10 }, 1).unwrap();
        let slow = Quota::sender(PerSecond { per_second: 1, burst: 10 }, 1).unwrap();
        let (capacity, mut buckets) = (Capacity::new(10), Buckets::<RateBucket>::new());
        for _ in 0..10 {
            let claim = pass(buckets.ask(1, &fast, NOW, &capacity, true));
            buckets.take(claim, &fast, NOW, &capacity);
        }
        assert_eq!(buckets.ask(1, &slow, NOW, &capacity, false), Answer::Wait(1_000));
        assert_eq!(buckets.ask(1, &slow, NOW + SECOND / 2, &capacity, false), Answer::Wait(500));
        let _ = pass(buckets.ask(1, &slow, NOW + SECOND, &capacity, false));
        assert_eq!(buckets.ask(1, &fast, NOW, &capacity, false), Answer::Wait(100), "and back again");
    }
}
