use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_795_341_600_000);

fn key(n: u32) -> PortfolioRecipient {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&n.to_le_bytes());
    key[8..12].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_le_bytes());
    key
}

fn send(
    distinct: &mut Distinct,
    n: u32,
    limit: u64,
    now: Timestamp,
    capacity: &Capacity,
) -> Result<DistinctReceipt, Refused> {
    let _place = distinct.ask(&key(n), limit, now, capacity, true)?;
    Ok(distinct.take(&key(n), now))
}

/// Every send that stands, as the definition counts them.
#[derive(Default)]
struct Oracle {
    sends: HashMap<u32, Vec<Timestamp>>,
}

impl Oracle {
    fn last(&self, n: u32) -> Option<Timestamp> {
        self.sends.get(&n).and_then(|times| times.iter().max().copied())
    }

    fn count(&self, now: Timestamp) -> u64 {
        self.sends.keys().filter(|n| self.last(**n).is_some_and(|t| t > now.minus_ms(WINDOW_MS))).count()
            as u64
    }

    fn fits(&self, n: u32, limit: u64, now: Timestamp) -> bool {
        self.last(n).is_some_and(|t| t > now.minus_ms(WINDOW_MS)) || self.count(now) < limit
    }
}

proptest! {
    /// Against the definition, over scripts of sends with clocks that step back a little, give-backs in any
    /// order and a limit that changes: the same decisions, the same counts, exact waits.
    #[test]
    fn counts_as_the_definition_does(
        script in proptest::collection::vec((0u32..30, 0i64..8_000_000, 0i64..3_000, 0u8..10, 1u64..12), 1..200),
    ) {
        let capacity = Capacity::new(1_000);
        let (mut distinct, mut oracle) = (Distinct::new(), Oracle::default());
        let mut receipts: Vec<(u32, DistinctReceipt)> = Vec::new();
        let mut clock = NOW;
        for (n, advance_ms, back_ms, act, limit) in script {
            let seen = clock;
            clock = clock.plus_ms(if act % 3 == 0 { advance_ms } else { advance_ms % 1_000 });
            let now = clock.minus_ms(back_ms);
            // Who has left by a later reading stays out for this one.
            let counted_at = now.max(seen);
            if act == 9 && !receipts.is_empty() {
                let (n, receipt) = receipts.remove(n as usize % receipts.len());
                distinct.give_back(&key(n), &receipt, clock, &capacity);
                let times = oracle.sends.entry(n).or_default();
                times.retain(|time| *time != receipt.time);
                distinct.give_back(&key(n), &receipt, clock, &capacity);
            } else {
                match send(&mut distinct, n, limit, now, &capacity) {
                    Ok(receipt) => {
                        prop_assert!(oracle.fits(n, limit, counted_at));
                        prop_assert!(receipt.time >= now);
                        oracle.sends.entry(n).or_default().push(receipt.time);
                        receipts.push((n, receipt));
                    }
                    Err(Refused::Limit(wait_ms)) => {
                        prop_assert!(!oracle.fits(n, limit, counted_at));
                        let wait_ms = wait_ms.unwrap().cast_signed();
                        prop_assert!(oracle.fits(n, limit, now.plus_ms(wait_ms)));
                        prop_assert!(!oracle.fits(n, limit, now.plus_ms(wait_ms - 1)));
                    }
                    Err(Refused::Full) => prop_assert!(false, "there is room"),
                }
            }
            prop_assert_eq!(distinct.entries.len(), capacity.used());
            prop_assert_eq!(distinct.count(clock, &capacity) as u64, oracle.count(clock));
        }
    }

    #[test]
    fn what_is_stored_comes_back(sends in proptest::collection::vec((0u32..40, 0i64..6_000_000), 1..100)) {
        let capacity = Capacity::new(1_000);
        let mut first = Distinct::new();
        let mut now = NOW;
        for (n, advance_ms) in sends {
            now = now.plus_ms(advance_ms);
            send(&mut first, n, 1_000, now, &capacity).unwrap();
        }
        let again_capacity = Capacity::new(1_000);
        let mut again = Distinct::new();
        for slot in 0..first.entries.slots() {
            if let Some(entry) = first.entries.occupied(slot) {
                again.restore(&entry.key(), Some(entry.time()), now, &again_capacity);
            }
        }
        for limit in 1..10 {
            let ask = |from: &mut Distinct, capacity| from.ask(&key(99), limit, now, capacity, false);
            prop_assert_eq!(ask(&mut first, &capacity), ask(&mut again, &again_capacity));
        }
        prop_assert_eq!(first.count(now, &capacity), again.count(now, &again_capacity));
        prop_assert_eq!(capacity.used(), again_capacity.used());
    }
}

#[test]
fn the_limit_holds_and_the_wait_is_when_the_oldest_leaves() {
    let (capacity, mut distinct) = (Capacity::new(100), Distinct::new());
    for n in 0..3 {
        send(&mut distinct, n, 3, NOW.plus_ms(i64::from(n) * 1_000), &capacity).unwrap();
    }
    let now = NOW.plus_ms(10_000);
    assert_eq!(send(&mut distinct, 9, 3, now, &capacity), Err(Refused::Limit(Some(86_390_000))));
    assert!(send(&mut distinct, 0, 3, now, &capacity).is_ok(), "someone counted already needs no place");
    assert_eq!(send(&mut distinct, 9, 3, now, &capacity), Err(Refused::Limit(Some(86_391_000))));
    assert_eq!(send(&mut distinct, 9, 1, now, &capacity), Err(Refused::Limit(Some(86_400_000))), "lowered");
    assert_eq!(send(&mut distinct, 9, 0, now, &capacity), Err(Refused::Limit(None)));
    assert!(send(&mut distinct, 9, 3, NOW.plus_ms(DAY_MS + 1_000), &capacity).is_ok());
}

#[test]
fn one_past_the_capacity_is_refused() {
    let (capacity, mut distinct) = (Capacity::new(2), Distinct::new());
    send(&mut distinct, 1, 10, NOW, &capacity).unwrap();
    send(&mut distinct, 2, 10, NOW, &capacity).unwrap();
    assert_eq!(send(&mut distinct, 3, 10, NOW, &capacity), Err(Refused::Full));
    assert!(send(&mut distinct, 2, 10, NOW, &capacity).is_ok());
    assert!(send(&mut distinct, 3, 10, NOW.plus_ms(DAY_MS), &capacity).is_ok());
    assert_eq!(capacity.used(), distinct.entries.len());
}

#[test]
fn a_failed_send_is_undone_in_any_order() {
    let (capacity, mut distinct) = (Capacity::new(10), Distinct::new());
    let first = send(&mut distinct, 1, 10, NOW, &capacity).unwrap();
    let second = send(&mut distinct, 1, 10, NOW, &capacity).unwrap();
    assert_ne!(first.time, second.time, "two sends in one millisecond stay apart");
    assert_eq!(distinct.give_back(&key(1), &first, NOW, &capacity), None, "the second still counts");
    assert_eq!(distinct.count(NOW, &capacity), 1);
    assert_eq!(distinct.give_back(&key(1), &second, NOW, &capacity), Some(None));
    assert_eq!((distinct.count(NOW, &capacity), capacity.used()), (0, 0));
    assert_eq!(distinct.give_back(&key(1), &second, NOW, &capacity), None, "once");
}

#[test]
fn a_clock_set_back_by_a_year_costs_one_window() {
    let (capacity, mut distinct) = (Capacity::new(10), Distinct::new());
    send(&mut distinct, 1, 1, NOW.plus_ms(365 * DAY_MS), &capacity).unwrap();
    assert_eq!(send(&mut distinct, 2, 1, NOW, &capacity), Err(Refused::Limit(Some(86_400_000))));
    assert!(send(&mut distinct, 2, 1, NOW.plus_ms(DAY_MS), &capacity).is_ok());
}

#[test]
fn who_left_by_a_later_reading_stays_out_for_an_earlier_one() {
    let (capacity, mut distinct) = (Capacity::new(10), Distinct::new());
    send(&mut distinct, 1, 1, NOW, &capacity).unwrap();
    let later = NOW.plus_ms(WINDOW_MS);
    let earlier = later.minus_ms(1);
    assert_eq!(send(&mut distinct, 2, 1, earlier, &capacity), Err(Refused::Limit(Some(1))));
    assert_eq!(distinct.count(later, &capacity), 0);
    assert!(send(&mut distinct, 2, 1, earlier, &capacity).is_ok(), "the place stays free");
    assert_eq!(send(&mut distinct, 1, 1, earlier, &capacity), Err(Refused::Limit(Some(86_400_000))));
}

#[test]
fn a_limit_lowered_by_much_tells_a_wait_that_suffices() {
    let count = 3 * WALK_MAX as u32;
    let (capacity, mut distinct) = (Capacity::new(100_000), Distinct::new());
    for n in 0..count {
        send(&mut distinct, n, u64::MAX, NOW.plus_ms(i64::from(n)), &capacity).unwrap();
    }
    let now = NOW.plus_ms(i64::from(count));
    for limit in [10, WALK_MAX as u64 + 900, 2 * WALK_MAX as u64, u64::from(count)] {
        let Err(Refused::Limit(Some(wait_ms))) = distinct.ask(&key(u32::MAX), limit, now, &capacity, false)
        else {
            panic!("{limit} is exceeded");
        };
        let exact = WINDOW_MS.cast_unsigned() - limit;
        assert!(wait_ms >= exact, "{limit}: {wait_ms} ms is too short");
        if limit != WALK_MAX as u64 + 900 {
            assert_eq!(wait_ms, exact, "{limit}");
        }
    }
}

#[test]
fn an_entry_takes_40_bytes() {
    // With its chain link; its bucket adds four.
    assert_eq!(size_of::<Counted>(), 32);
}

#[test]
fn voided_sends_are_bounded_and_expire() {
    let (capacity, mut distinct) = (Capacity::new(VOIDED_MAX + 10), Distinct::new());
    for n in 0..VOIDED_MAX as u32 + 1 {
        let first = send(&mut distinct, n, u64::MAX, NOW, &capacity).unwrap();
        send(&mut distinct, n, u64::MAX, NOW, &capacity).unwrap();
        distinct.give_back(&key(n), &first, NOW, &capacity);
    }
    assert_eq!(distinct.voided.len(), VOIDED_MAX);
    distinct.expire_voided(NOW.plus_ms(WINDOW_MS));
    assert!(distinct.voided.is_empty());
}

#[test]
fn someone_expired_but_not_yet_removed_needs_a_place() {
    let (capacity, mut distinct) = (Capacity::new(100), Distinct::new());
    for n in 0..3 * EXPIRE_STEPS as u32 {
        send(&mut distinct, n, 100, NOW, &capacity).unwrap();
    }
    let later = NOW.plus_ms(WINDOW_MS);
    send(&mut distinct, 99, 100, later, &capacity).unwrap();
    assert!(distinct.entries.len() > EXPIRE_STEPS, "some are still there");
    let last = 3 * EXPIRE_STEPS as u32 - 1;
    assert_eq!(send(&mut distinct, last, 1, later, &capacity), Err(Refused::Limit(Some(86_400_000))));
}
