//! Token buckets by governor's arithmetic.
//!
//! governor has neither a peek nor a quota that changes, but both its store and its clock are traits: a
//! store of a single cell that reports the next state instead of keeping it turns one `check` into a pure
//! function of (quota, state, now). The caller keeps the state, and only if every other rule agrees.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota as Cells, RateLimiter};

use crate::policy::rules::{Every, PerSecond};
use crate::policy::time::Timestamp;

const NANOS_PER_MS: u64 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;
const NANOS_PER_HOUR: u64 = 3_600 * NANOS_PER_SECOND;

/// The longest a bucket may take to refill: governor adds nanoseconds in 64 bits without a check.
const REFILL_MAX_NS: u64 = 10 * 365 * 24 * NANOS_PER_HOUR;
/// The last moment buckets can tell apart, in the year 2255, for the same reason.
const NOW_MAX_MS: i64 = 9_000_000_000_000;

/// A rate with a burst, in the form that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    cells: Cells,
    interval_ns: u64,
}

impl Quota {
    /// One message per `interval_ns`, `burst` at once; the burst is cut where refilling it would take longer
    /// than [`REFILL_MAX_NS`].
    fn new(interval_ns: u64, burst: u32) -> Option<Self> {
        let interval_ns = interval_ns.clamp(1, REFILL_MAX_NS);
        let burst_max = u32::try_from(REFILL_MAX_NS / interval_ns).unwrap_or(u32::MAX);
        let burst = NonZeroU32::new(burst.clamp(1, burst_max))?;
        let cells = Cells::with_period(Duration::from_nanos(interval_ns))?.allow_burst(burst);
        Some(Self { cells, interval_ns })
    }

    /// This node's share of a sender's rate among `members` nodes; `None`: nothing may ever pass.
    pub(super) fn sender(rate: PerSecond, members: u32) -> Option<Self> {
        Self::shared(NANOS_PER_SECOND, rate.per_second, rate.burst, members)
    }

    /// This node's share of a business's hourly rate among `members` nodes; `None`: nothing may ever pass.
    pub(super) fn business(per_hour: u32, burst: u32, members: u32) -> Option<Self> {
        Self::shared(NANOS_PER_HOUR, per_hour, burst, members)
    }

    /// The rate between a sender and a recipient, which is not shared out: a person is written to from
    /// one node at a time.
    pub(super) fn pair(every: Every) -> Option<Self> {
        Self::new(every.every_ms.saturating_mul(NANOS_PER_MS), every.burst)
    }

    fn shared(period_ns: u64, rate: u32, burst: u32, members: u32) -> Option<Self> {
        let members = members.max(1);
        if rate == 0 {
            return None;
        }
        // Rounded up, so that a rate that does not divide its period is never exceeded.
        let interval_ns = period_ns.div_ceil(u64::from(rate)).saturating_mul(u64::from(members));
        Self::new(interval_ns, burst / members)
    }

    /// The time one message takes to refill.
    pub(super) const fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// The time an empty bucket takes to refill.
    const fn refill_ns(&self) -> u64 {
        self.interval_ns * self.cells.burst_size().get() as u64
    }

    /// The state as this quota can have it: no emptier than empty. It is emptier when the clock was set
    /// back or the quota was larger before; left alone, it would deny for as long.
    pub(super) fn settle(&self, arrival_ns: u64, now_ns: u64) -> u64 {
        arrival_ns.min(now_ns.saturating_add(self.refill_ns()))
    }

    /// The state under this quota of a bucket kept under one of `before_ns` per message: as many messages
    /// short of full as it was. A sender whose rate falls gets no new burst for it.
    pub(super) fn convert(&self, arrival_ns: u64, before_ns: u64, now_ns: u64) -> u64 {
        if before_ns == self.interval_ns || before_ns == 0 {
            return self.settle(arrival_ns, now_ns);
        }
        let short_ns = u128::from(arrival_ns.saturating_sub(now_ns));
        let converted = short_ns * u128::from(self.interval_ns) / u128::from(before_ns);
        let converted = u64::try_from(converted).unwrap_or(u64::MAX);
        self.settle(now_ns.saturating_add(converted), now_ns)
    }
}

/// `now` on the scale of bucket states.
pub(super) fn nanos(now: Timestamp) -> u64 {
    now.0.clamp(0, NOW_MAX_MS).cast_unsigned() * NANOS_PER_MS
}

/// The wait in milliseconds, rounded up: one less would not suffice.
pub(super) const fn wait_ms(earliest_ns: u64, now_ns: u64) -> u64 {
    earliest_ns.saturating_sub(now_ns).div_ceil(NANOS_PER_MS)
}

/// A store of one state, which notes the next state beside it.
struct OneCell {
    before: Option<Nanos>,
    after: Cell<Option<Nanos>>,
}

impl StateStore for OneCell {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, after) = decide(self.before)?;
        self.after.set(Some(after));
        Ok(outcome)
    }
}

/// A clock that shows what it was set to.
struct Reading(Cell<Nanos>);

impl Clock for Reading {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.get()
    }
}

/// Decides about one message: the next state, or the earliest moment at which it may pass. `arrival_ns` is
/// the theoretical arrival time that the last message left behind; a bucket without one is full.
pub(super) fn decide(quota: &Quota, arrival_ns: Option<u64>, now_ns: u64) -> Result<u64, u64> {
    let store = OneCell { before: arrival_ns.map(Nanos::from), after: Cell::new(None) };
    // The limiter measures from what its clock showed at its making: zero, so that states mean the same in
    // every decision and after a restart.
    let limiter: RateLimiter<NotKeyed, OneCell, Reading, NoOpMiddleware<Nanos>> =
        RateLimiter::new(quota.cells, store, Reading(Cell::new(Nanos::from(0))));
    limiter.clock().0.set(Nanos::from(now_ns));
    match limiter.check() {
        Ok(()) => Ok(limiter.into_state_store().after.get().map_or(now_ns, u64::from)),
        Err(refused) => Err(refused.earliest_possible().as_u64()),
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_795_341_600_000 * NANOS_PER_MS;

    proptest! {
        #[test]
        fn decides_as_governors_own_limiter(
            interval_ns in 1u64..10_000_000_000, burst in 1u32..50,
            steps in proptest::collection::vec((0u64..15_000_000_000, 1u8..5), 1..200),
        ) {
            let quota = Quota::new(interval_ns, burst).unwrap();
            let clock = FakeRelativeClock::default();
            let theirs = RateLimiter::direct_with_clock(quota.cells, clock.clone());
            let (mut now, mut state) = (NOW, None);
            for (advance_ns, tries) in steps {
                clock.advance(Duration::from_nanos(advance_ns));
                now += advance_ns;
                for _ in 0..tries {
                    let ours = decide(&quota, state, now);
                    match (theirs.check(), ours) {
                        (Ok(()), Ok(next)) => state = Some(next),
                        (Err(refused), Err(earliest)) => prop_assert_eq!(
                            refused.wait_time_from(governor::clock::Clock::now(&clock)),
                            Duration::from_nanos(earliest - now)
                        ),
                        (theirs, ours) => prop_assert!(false, "{theirs:?} but {ours:?}"),
                    }
                }
            }
        }

        #[test]
        fn the_wait_suffices_and_one_less_does_not(interval_ms in 1u64..100_000, burst in 1u32..20, at in 0i64..1_000_000) {
            let quota = Quota::pair(Every { every_ms: interval_ms, burst }).unwrap();
            let now = nanos(Timestamp(1_795_341_600_000 + at));
            let mut state = None;
            for _ in 0..burst {
                state = Some(decide(&quota, state, now).unwrap());
            }
            let wait = wait_ms(decide(&quota, state, now).unwrap_err(), now);
            prop_assert_eq!(wait, interval_ms);
            prop_assert!(decide(&quota, state, now + wait * NANOS_PER_MS).is_ok());
            prop_assert!(decide(&quota, state, now + (wait - 1) * NANOS_PER_MS).is_err());
        }
    }

    #[test]
    fn rates_are_shared_among_members_but_pairs_are_not() {
        let alone = Quota::sender(PerSecond { per_second: 80, burst: 20 }, 1).unwrap();
        assert_eq!((alone.interval_ns, alone.cells.burst_size().get()), (12_500_000, 20));
        let of_three = Quota::sender(PerSecond { per_second: 80, burst: 20 }, 3).unwrap();
        assert_eq!((of_three.interval_ns, of_three.cells.burst_size().get()), (37_500_000, 6));
        let of_many = Quota::business(1_000, 10, 50).unwrap();
        assert_eq!((of_many.interval_ns, of_many.cells.burst_size().get()), (180_000_000_000, 1));
        assert_eq!(Quota::sender(PerSecond { per_second: 7, burst: 1 }, 0).unwrap().interval_ns, 142_857_143);
        assert_eq!(Quota::business(0, 10, 1), None, "an hourly rate of none lets nothing pass");
    }

    #[test]
    fn extreme_figures_neither_overflow_nor_vanish() {
        for (interval_ns, burst) in [(0, 0), (u64::MAX, u32::MAX), (1, u32::MAX), (REFILL_MAX_NS, 2)] {
            let quota = Quota::new(interval_ns, burst).unwrap();
            for now in [Timestamp::MIN, Timestamp(0), Timestamp::MAX] {
                let now = nanos(now);
                let state = decide(&quota, None, now).unwrap();
                assert!(state > now && quota.settle(u64::MAX, now) >= state);
                let _ = decide(&quota, Some(quota.settle(u64::MAX, now)), now);
            }
        }
    }

    #[test]
    fn a_clock_set_back_empties_a_bucket_but_does_not_lock_it() {
        let quota = Quota::new(6_000_000_000, 3).unwrap();
        let state = decide(&quota, None, NOW + NANOS_PER_HOUR).unwrap();
        let settled = quota.settle(state, NOW);
        assert_eq!(decide(&quota, Some(settled), NOW), Err(NOW + 6_000_000_000));
    }

    #[test]
    fn a_new_rate_keeps_the_number_of_messages_spent() {
        let (green, red) =
            (Quota::business(100_000, 1_000, 1).unwrap(), Quota::business(1_000, 1_000, 1).unwrap());
        let mut state = None;
        for _ in 0..1_000 {
            state = Some(decide(&green, state, NOW).unwrap());
        }
        let worse = red.convert(state.unwrap(), green.interval_ns(), NOW);
        assert_eq!(
            decide(&red, Some(worse), NOW),
            Err(NOW + red.interval_ns()),
            "no new burst for a bad rating"
        );
        let better = green.convert(worse, red.interval_ns(), NOW);
        assert_eq!(better, state.unwrap());
    }
}
