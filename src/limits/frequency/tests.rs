use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_795_341_600_000);

fn cap(class: CapClass, max: u32, per_ms: i64) -> FrequencyCap {
    FrequencyCap { class, max, per_ms }
}

fn mark(time: Timestamp, nonce: u32, class: MarkClass) -> SendMark {
    SendMark { time, nonce, class }
}

fn worst_wait(caps: &[FrequencyCap], log: &FrequencyLog, class: MarkClass, now: Timestamp) -> Option<u64> {
    caps.iter().filter_map(|cap| wait_ms(cap, log.marks(), class, now)).max()
}

fn any_class() -> impl Strategy<Value = MarkClass> {
    prop_oneof![Just(MarkClass::Marketing), Just(MarkClass::Utility)]
}

fn any_caps() -> impl Strategy<Value = Vec<FrequencyCap>> {
    let class = prop_oneof![Just(CapClass::Marketing), Just(CapClass::Utility), Just(CapClass::Any)];
    proptest::collection::vec((class, 1u32..6, 1i64..2_000).prop_map(|(c, m, p)| cap(c, m, p)), 1..4)
}

proptest! {
    /// Over any script of sends and give-backs no window of any cap ever holds one more than the cap, nothing
    /// is refused that would fit, and the wait told is exact.
    #[test]
    fn caps_are_exact(
        caps in any_caps(),
        script in proptest::collection::vec((0i64..400, any_class(), 0u8..6), 1..150),
    ) {
        let mut log = FrequencyLog::new();
        let mut all: Vec<SendMark> = Vec::new();
        let mut now = NOW;
        for (nonce, (advance_ms, class, act)) in (0u32..).zip(script) {
            now = now.plus_ms(advance_ms);
            if act == 0 && !all.is_empty() {
                let victim = all.remove(nonce as usize % all.len());
                let known = log.marks().iter().any(|mark| mark.nonce == victim.nonce);
                prop_assert_eq!(log.remove(victim.nonce), known);
                prop_assert!(!log.remove(victim.nonce), "a send is given back once");
                continue;
            }
            let fits = |at: Timestamp| caps.iter().filter(|cap| class.counts_for(cap.class)).all(|cap| {
                let counted = all.iter().filter(|mark| mark.class.counts_for(cap.class));
                counted.filter(|mark| mark.time > at.minus_ms(cap.per_ms)).count() < cap.max as usize
            });
            match worst_wait(&caps, &log, class, now) {
                None => {
                    prop_assert!(fits(now));
                    let sent = mark(now, nonce, class);
                    log.push(sent, &caps, now);
                    if caps.iter().any(|cap| class.counts_for(cap.class)) {
                        all.push(sent);
                    }
                }
                Some(wait_ms) => {
                    prop_assert!(!fits(now));
                    let wait_ms = wait_ms.cast_signed();
                    prop_assert!(fits(now.plus_ms(wait_ms)) && !fits(now.plus_ms(wait_ms - 1)));
                }
            }
            prop_assert_eq!(&FrequencyLog::decode(&log.encode()).unwrap(), &log);
        }
        for cap in &caps {
            let times: Vec<_> = all.iter().filter(|m| m.class.counts_for(cap.class)).map(|m| m.time).collect();
            for end in &times {
                let within = times.iter().filter(|t| *t <= end && **t > end.minus_ms(cap.per_ms)).count();
                prop_assert!(within <= cap.max as usize);
            }
        }
    }

    #[test]
    fn any_bytes_decode_or_fail_politely(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        if let Ok(log) = FrequencyLog::decode(&bytes) {
            prop_assert_eq!(FrequencyLog::decode(&log.encode()).unwrap(), log);
        }
    }

    #[test]
    fn merging_is_a_union(
        times in proptest::collection::vec((0i64..1_000, any_class(), 1u8..4), 0..40)
    ) {
        let (mut left, mut right, mut whole) = (FrequencyLog::new(), FrequencyLog::new(), FrequencyLog::new());
        for (nonce, (ms, class, side)) in (0u32..).zip(times) {
            let sent = mark(NOW.plus_ms(ms), nonce, class);
            place(&mut whole.marks, sent);
            if side & 1 == 1 { place(&mut left.marks, sent); }
            if side & 2 == 2 { place(&mut right.marks, sent); }
        }
        let mut other_way = right.clone();
        other_way.merge(&left);
        left.merge(&right);
        let sorted = |log: &FrequencyLog| {
            let mut marks = log.marks.clone();
            marks.sort_by_key(|mark| (mark.time, mark.nonce));
            marks
        };
        prop_assert_eq!(sorted(&left), sorted(&whole));
        prop_assert_eq!(sorted(&other_way), sorted(&whole));
    }
}

#[test]
fn two_a_day_means_two_in_any_day() {
    let caps = [cap(CapClass::Marketing, 2, DAY_MS)];
    let mut log = FrequencyLog::new();
    log.push(mark(NOW, 1, MarkClass::Marketing), &caps, NOW);
    log.push(mark(NOW.plus_ms(1_000), 2, MarkClass::Marketing), &caps, NOW);
    let wait = |at: Timestamp| worst_wait(&caps, &log, MarkClass::Marketing, at);
    assert_eq!(wait(NOW.plus_ms(1_000)), Some(86_399_000));
    assert_eq!(wait(NOW.plus_ms(DAY_MS - 1)), Some(1));
    assert_eq!(wait(NOW.plus_ms(DAY_MS)), None);
    assert_eq!(
        worst_wait(&caps, &log, MarkClass::Utility, NOW),
        None,
        "a marketing cap leaves utility alone"
    );
}

#[test]
fn any_counts_marketing_and_utility_together() {
    let caps = [cap(CapClass::Any, 2, DAY_MS)];
    let mut log = FrequencyLog::new();
    log.push(mark(NOW, 1, MarkClass::Marketing), &caps, NOW);
    log.push(mark(NOW, 2, MarkClass::Utility), &caps, NOW);
    for class in [MarkClass::Marketing, MarkClass::Utility] {
        assert_eq!(worst_wait(&caps, &log, class, NOW), Some(86_400_000));
    }
    assert_eq!(MarkClass::of(Category::Authentication), None);
    assert_eq!(MarkClass::of(Category::Service), None);
}

#[test]
fn a_log_never_outgrows_its_caps() {
    let caps = [cap(CapClass::Marketing, 3, DAY_MS), cap(CapClass::Any, 5, DAY_MS)];
    let mut log = FrequencyLog::new();
    // More than the caps allow happens where a cap only reports.
    for nonce in 0..20 {
        let class = if nonce % 2 == 0 { MarkClass::Marketing } else { MarkClass::Utility };
        log.push(mark(NOW.plus_ms(i64::from(nonce)), nonce, class), &caps, NOW);
    }
    assert_eq!(log.marks().len(), 10);
    assert_eq!(log.marks()[0].nonce, 10);
    let most = [cap(CapClass::Any, u32::MAX, DAY_MS)];
    for nonce in 0..FREQUENCY_CAP_MAX + 1 {
        log.push(mark(NOW, 100 + nonce, MarkClass::Marketing), &most, NOW);
    }
    assert_eq!(
        log.marks().iter().filter(|m| m.class == MarkClass::Marketing).count(),
        FREQUENCY_CAP_MAX as usize
    );
    log.push(mark(NOW.plus_ms(2 * DAY_MS), 7, MarkClass::Marketing), &caps, NOW.plus_ms(2 * DAY_MS));
    assert_eq!(log.marks().len(), 1, "what left every window is gone");
}

#[test]
fn a_clock_set_back_by_a_year_costs_one_period() {
    let caps = [cap(CapClass::Marketing, 1, DAY_MS)];
    let mut log = FrequencyLog::new();
    let wrong = NOW.plus_ms(365 * DAY_MS);
    log.push(mark(wrong, 1, MarkClass::Marketing), &caps, wrong);
    log.prune(NOW, longest_per_ms(&caps));
    assert_eq!(worst_wait(&caps, &log, MarkClass::Marketing, NOW), Some(86_400_000));
    assert!(log.remove(1), "it can still be given back");
}

#[test]
fn small_logs_are_small() {
    let caps = [cap(CapClass::Any, 10, DAY_MS)];
    let mut log = FrequencyLog::new();
    assert_eq!(log.encode(), [0]);
    log.push(mark(NOW, 1, MarkClass::Marketing), &caps, NOW);
    assert_eq!(log.encode().len(), 12);
    log.push(mark(NOW.plus_ms(60_000), 2, MarkClass::Utility), &caps, NOW);
    assert!(log.encode().len() <= 20);
}

#[test]
fn damaged_bytes_say_what_is_wrong() {
    let mut log = FrequencyLog::new();
    place(&mut log.marks, mark(NOW, 1, MarkClass::Marketing));
    let bytes = log.encode();
    assert_eq!(
        FrequencyLog::decode(&bytes[..bytes.len() - 1]),
        Err(LogFault::Truncated { at: bytes.len() - 1 })
    );
    assert_eq!(FrequencyLog::decode(&[&bytes[..], &[0, 0]].concat()), Err(LogFault::Trailing { count: 1 }));
    assert_eq!(FrequencyLog::decode(&[0xff; 12]), Err(LogFault::Overlong { at: 0 }));
    assert_eq!(FrequencyLog::decode(&[0xd1, 0x0f]), Err(LogFault::TooMany { count: 2_001 }));
    assert_eq!(FrequencyLog::decode(&[0, 65]), Err(LogFault::TooMany { count: 65 }), "of those that failed");
    assert_eq!(FrequencyLog::decode(&[]), Err(LogFault::Truncated { at: 0 }));
    assert_eq!(FrequencyLog::decode(&[0xd0, 0x0f]), Err(LogFault::Truncated { at: 2 }), "2,000 is the most");
}

#[test]
fn pruning_keeps_what_still_counts() {
    let mut log = FrequencyLog::new();
    place(&mut log.marks, mark(NOW, 1, MarkClass::Marketing));
    log.prune(NOW.plus_ms(DAY_MS - 1), DAY_MS);
    assert_eq!(log.marks().len(), 1);
    log.prune(NOW.plus_ms(DAY_MS), DAY_MS);
    assert!(log.is_empty());
    assert!(log.void(mark(NOW, 2, MarkClass::Marketing)));
    log.prune(NOW.plus_ms(DAY_MS - 1), DAY_MS);
    assert!(!log.void(mark(NOW, 2, MarkClass::Marketing)), "still remembered");
    log.prune(NOW.plus_ms(DAY_MS), DAY_MS);
    assert!(log.is_empty());
}

#[test]
fn one_failed_send_more_than_is_remembered_drops_the_oldest() {
    let mut log = FrequencyLog::new();
    for nonce in 0..=VOIDED_MAX as u32 {
        log.void(mark(NOW.plus_ms(nonce.into()), nonce, MarkClass::Marketing));
    }
    assert_eq!(log.voided.len(), VOIDED_MAX);
    assert!(log.merge(&FrequencyLog::of(mark(NOW, 0, MarkClass::Marketing))), "the oldest is forgotten");
    assert!(!log.merge(&FrequencyLog::of(mark(NOW, 1, MarkClass::Marketing))));
}
