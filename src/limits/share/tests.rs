//! What nodes tell each other of sends: the same whatever the order, and no more admitted than the published bound.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::limits::{
    Admission, FrequencyLog, MarkClass, Mode, SendMark, Settings, WINDOW_MS, frequency::wait_ms,
};
use crate::policy::ids::Identifier;
use crate::policy::rules::{CapClass, ChannelLimits, FrequencyCap};
use crate::policy::time::{DAY_MS, HOUR_MS};
use crate::policy::types::{Category, Channel, Quality};

const NOW: Timestamp = Timestamp(1_795_341_600_000);
const LIMIT: u64 = 3;

fn limiter() -> Limiter {
    Limiter::new(&Settings::default(), [7; 16])
}

/// Asks `limiter` for a send of business `acme` to a recipient; what it consumed.
fn ask(
    limiter: &Limiter,
    log: &mut FrequencyLog,
    caps: &[FrequencyCap],
    (messaging_limit, recipient): (Option<u64>, u8),
    decision: u32,
    now: Timestamp,
) -> Option<Receipt> {
    let limits = ChannelLimits { messaging_limit, ..ChannelLimits::default() };
    let mut name = [0; 16];
    name[..4].copy_from_slice(&decision.to_le_bytes());
    let admission = Admission {
        business: "acme",
        portfolio: None,
        sender: "1",
        channel: Channel::Whatsapp,
        category: Category::Marketing,
        recipient: &Identifier([recipient; 32]),
        portfolio_recipient: &[recipient; 16],
        counts_distinct: true,
        exempt: false,
        limits: &limits,
        caps,
        quality: Quality::Unknown,
        members: 1,
        request: None,
        decision: name,
        mode: Mode::Enforce,
    };
    Some(limiter.try_admit(&admission, log, &|_| false, now).ok()?.receipt)
}

/// News of a send, or of its failure, to one of few recipients. Each send knew of the one before it.
fn news() -> impl Strategy<Value = Vec<[u8; NEWS_LEN]>> {
    vec((0u8..3, 1u32..40, any::<bool>(), any::<bool>()), 0..14).prop_map(|sends| {
        let mut last = [None; 3];
        let mut all = Vec::new();
        for (recipient, step, knew, failed) in sends {
            let place = &mut last[usize::from(recipient)];
            let time = place.map_or(NOW, |last: Timestamp| last).plus_ms(step.into());
            let receipt = DistinctReceipt { time, previous: place.filter(|_| knew) };
            all.push(write(9, &[recipient; 16], &receipt, RecipientNews::Sent));
            if failed {
                all.push(write(9, &[recipient; 16], &receipt, RecipientNews::Failed));
            }
            *place = Some(time);
        }
        all
    })
}

/// Who counts, since when.
fn state(limiter: &Limiter) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let _ = limiter.each_recipient(NOW.plus_ms(1_000), &mut |news| {
        all.push(news.to_vec());
        ControlFlow::Continue(())
    });
    all.sort();
    all
}

fn told<'a>(all: impl IntoIterator<Item = &'a [u8; NEWS_LEN]>) -> Vec<Vec<u8>> {
    let limiter = limiter();
    for news in all {
        limiter.merge_recipient(news, NOW.plus_ms(1_000)).expect("there is room");
    }
    state(&limiter)
}

proptest! {
    #[test]
    fn recipients_are_the_same_in_any_order(all in news(), seed in any::<u64>()) {
        let in_order = told(&all);
        let mut shuffled = all.clone();
        let mut state = seed | 1;
        for at in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, (state >> 33) as usize % (at + 1));
        }
        prop_assert_eq!(&told(&shuffled), &in_order);
        prop_assert_eq!(&told(all.iter().chain(&shuffled)), &in_order, "twice is once");
        // By definition: a recipient counts from its last send that did not fail.
        let parsed: Vec<_> = all.iter().map(|news| read(news).unwrap()).collect();
        let mut expected = Vec::new();
        for recipient in 0u8..3 {
            let of = |kind: RecipientNews| parsed.iter().filter(move |(_, key, _, news)| key[0] == recipient && *news == kind);
            let failed: Vec<_> = of(RecipientNews::Failed).map(|(_, _, receipt, _)| receipt.time).collect();
            let last = of(RecipientNews::Sent).map(|(_, _, receipt, _)| receipt.time).filter(|at| !failed.contains(at)).max();
            expected.extend(last.map(|time| {
                let receipt = DistinctReceipt { time, previous: None };
                write(9, &[recipient; 16], &receipt, RecipientNews::Sent).to_vec()
            }));
        }
        expected.sort();
        prop_assert_eq!(in_order, expected);
    }

    #[test]
    fn logs_are_the_same_in_any_order(sends in vec((0u32..12, 0i64..50, any::<bool>()), 0..24), cut in 0usize..24) {
        // A send has one time and one class, whoever tells of it.
        let mark = |nonce: u32| SendMark { time: NOW.plus_ms((nonce / 2).into()), nonce, class: MarkClass::Marketing };
        let of = |&(nonce, _, failed): &(u32, i64, bool)| {
            if failed { FrequencyLog::of_voided(mark(nonce)) } else { FrequencyLog::of(mark(nonce)) }
        };
        let joined = |logs: &[FrequencyLog]| {
            let mut log = FrequencyLog::new();
            logs.iter().for_each(|other| { log.merge(other); });
            (log.marks().to_vec(), log)
        };
        let logs: Vec<FrequencyLog> = sends.iter().map(of).collect();
        let (marks, all) = joined(&logs);
        let mut other = logs.clone();
        other.sort_by_key(|log| log.encode());
        other.extend(logs.iter().rev().cloned());
        prop_assert_eq!(&joined(&other).0, &marks);
        let (left, right) = logs.split_at(cut.min(logs.len()));
        prop_assert_eq!(&joined(&[joined(right).1, joined(left).1]).0, &marks);
        let failed = |nonce: u32| sends.iter().any(|(n, _, failed)| *n == nonce && *failed);
        prop_assert!(marks.iter().all(|mark| !failed(mark.nonce)));
        prop_assert_eq!(&FrequencyLog::decode(&all.encode()), &Ok(all.clone()));
        let mut again = all.clone();
        prop_assert!(!again.merge(&all));
    }

    /// n nodes that tell each other of their sends within d admit, in any window, at most min(n·k, k + attempts elsewhere
    /// within d). The real limiter asks; the bound is judged from outside.
    #[test]
    fn no_more_is_admitted_than_the_published_bound(
        nodes in 2usize..6, k in 1u32..5, delay_ms in prop_oneof![Just(0i64), 1i64..3_000, Just(2 * DAY_MS)],
        script in vec((0i64..400, any::<prop::sample::Index>()), 1..200),
    ) {
        let measured = measure(nodes, k, delay_ms, &script);
        prop_assert!(measured.over_bound == 0, "{measured:?}");
    }

    #[test]
    fn the_messaging_limit_has_the_same_bound(
        nodes in 2usize..5, delay_ms in 0i64..3_000,
        script in vec((0i64..400, any::<prop::sample::Index>(), 0u8..30), 1..120),
    ) {
        let limiters: Vec<Limiter> = (0..nodes).map(|_| limiter()).collect();
        let mut on_the_way: Vec<(Timestamp, usize, [u8; NEWS_LEN])> = Vec::new();
        let (mut attempts, mut now): (Vec<(Timestamp, usize)>, _) = (Vec::new(), NOW);
        let mut admitted: Vec<u8> = Vec::new();
        for (step_ms, node, recipient) in &script {
            now = now.plus_ms(*step_ms);
            let node = node.index(nodes);
            on_the_way.retain(|(at, to, news)| {
                if *at <= now { limiters[*to].merge_recipient(news, now).expect("room"); }
                *at > now
            });
            let ask = ask(&limiters[node], &mut FrequencyLog::new(), &[], (Some(LIMIT), *recipient), 0, now);
            if let Some(receipt) = ask {
                let elsewhere = attempts.iter().filter(|(at, by)| *by != node && *at > now.minus_ms(delay_ms)).count() as u64;
                if !admitted.contains(recipient) {
                    admitted.push(*recipient);
                    prop_assert!(admitted.len() as u64 <= (nodes as u64 * LIMIT).min(LIMIT + elsewhere));
                }
                let news = limiters[node].recipient_news("acme", None, &[*recipient; 16], &receipt, RecipientNews::Sent);
                on_the_way.extend((0..nodes).filter(|to| *to != node).map(|to| (now.plus_ms(delay_ms), to, news.unwrap())));
            }
            attempts.push((now, node));
        }
    }
}

#[derive(Debug, Default)]
struct Measured {
    /// The most admitted in any window.
    most: usize,
    /// Admissions after which a window held more than the bound.
    over_bound: usize,
}

fn measure(nodes: usize, k: u32, delay_ms: i64, script: &[(i64, prop::sample::Index)]) -> Measured {
    let caps = [FrequencyCap { class: CapClass::Marketing, max: k, per_ms: 10_000 }];
    let limiters: Vec<Limiter> = (0..nodes).map(|_| limiter()).collect();
    let mut logs = vec![FrequencyLog::new(); nodes];
    let mut on_the_way: Vec<(Timestamp, usize, SendMark)> = Vec::new();
    let mut attempts: Vec<(Timestamp, usize)> = Vec::new();
    let mut admitted: Vec<Timestamp> = Vec::new();
    let mut measured = Measured::default();
    let mut now = NOW;
    for (decision, (step_ms, node)) in (0u32..).zip(script) {
        now = now.plus_ms(*step_ms);
        let node = node.index(nodes);
        on_the_way.retain(|(at, to, mark)| {
            if *at <= now {
                logs[*to].merge(&FrequencyLog::of(*mark));
            }
            *at > now
        });
        let receipt = ask(&limiters[node], &mut logs[node], &caps, (None, 0), decision, now);
        if let Some(receipt) = receipt {
            admitted.push(now);
            let window = admitted.iter().filter(|at| **at > now.minus_ms(caps[0].per_ms)).count();
            let elsewhere = attempts.iter().filter(|(at, by)| *by != node && *at > now.minus_ms(delay_ms));
            let bound = (nodes * k as usize).min(k as usize + elsewhere.count());
            measured.most = measured.most.max(window);
            measured.over_bound += usize::from(window > bound);
            let mark = SendMark { time: now, nonce: receipt.nonce, class: MarkClass::Marketing };
            on_the_way
                .extend((0..nodes).filter(|to| *to != node).map(|to| (now.plus_ms(delay_ms), to, mark)));
        }
        attempts.push((now, node));
    }
    measured
}

/// The bound is no mere promise: an adversary who asks everywhere at once reaches it.
#[test]
fn the_bound_is_reached_by_asking_everywhere_at_once_and_not_otherwise() {
    for (nodes, k) in [(2, 1), (3, 2), (5, 4)] {
        let everywhere: Vec<_> =
            (0..nodes * k as usize * 2).map(|at| (1, index(at % nodes, nodes))).collect();
        assert_eq!(measure(nodes, k, 1_000, &everywhere).most, nodes * k as usize);
        let slowly: Vec<_> = (0..60).map(|at| (1_000, index(at % nodes, nodes))).collect();
        assert_eq!(measure(nodes, k, 999, &slowly).most, k as usize, "told before the next one is asked");
    }
}

/// The index that picks `number` of `of`.
fn index(number: usize, of: usize) -> prop::sample::Index {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    loop {
        let found = any::<prop::sample::Index>().new_tree(&mut runner).expect("an index").current();
        if found.index(of) == number {
            return found;
        }
    }
}

#[test]
fn a_failure_that_comes_before_its_send_undoes_it() {
    let (a, b) = (limiter(), limiter());
    let receipt = ask(&a, &mut FrequencyLog::new(), &[], (Some(LIMIT), 1), 0, NOW).expect("admitted");
    let sent = a.recipient_news("acme", None, &[1; 16], &receipt, RecipientNews::Sent).expect("it counts");
    let failed =
        a.recipient_news("acme", None, &[1; 16], &receipt, RecipientNews::Failed).expect("it counts");
    assert_eq!(b.merge_recipient(&failed, NOW), Some(false));
    let _ = b.drain(NOW);
    assert_eq!(b.merge_recipient(&sent, NOW), Some(false));
    assert_eq!(b.distinct_recipients("acme", None, NOW), 0);
    assert_eq!(a.merge_recipient(&failed, NOW), Some(true));
    assert_eq!(a.merge_recipient(&failed, NOW), Some(false));
    assert_eq!(a.distinct_recipients("acme", None, NOW), 0);
    let other = ask(&b, &mut FrequencyLog::new(), &[], (Some(LIMIT), 1), 1, NOW.plus_ms(1));
    assert!(other.is_some_and(|receipt| receipt.distinct.is_some()), "another send counts");
    assert_eq!(b.distinct_recipients("acme", None, NOW.plus_ms(1)), 1);
}

#[test]
fn what_was_merged_is_drained_as_own_usage_is_and_garbage_is_refused() {
    let (a, b) = (limiter(), limiter());
    let receipt = DistinctReceipt { time: NOW, previous: Some(NOW.minus_ms(HOUR_MS)) };
    let news = write(a.keys.portfolio("acme", None), &[1; 16], &receipt, RecipientNews::Sent);
    assert_eq!(a.merge_recipient(&news, NOW), Some(true));
    let drained = a.drain(NOW);
    b.apply(&drained.chunk, NOW).expect("it is usage");
    assert_eq!(b.distinct_recipients("acme", None, NOW), 1);
    assert_eq!(b.distinct_recipients("acme", None, NOW.plus_ms(WINDOW_MS)), 0);
    assert_eq!(a.merge_recipient(&news[1..], NOW), None);
    let ahead = DistinctReceipt { time: NOW.plus_ms(WINDOW_MS + 1), previous: None };
    let ahead = write(a.keys.portfolio("acme", None), &[2; 16], &ahead, RecipientNews::Sent);
    assert_eq!(a.merge_recipient(&ahead, NOW), Some(false), "what a wrong clock says is passed by");
}

#[test]
fn a_recipient_more_than_there_is_room_for_is_dropped() {
    let small = Limiter::new(&Settings { recipients_max: 1, ..Settings::default() }, [7; 16]);
    let of = |number: u8| {
        let receipt = DistinctReceipt { time: NOW, previous: None };
        write(9, &[number; 16], &receipt, RecipientNews::Sent)
    };
    assert_eq!(small.merge_recipient(&of(1), NOW), Some(true));
    assert_eq!(small.merge_recipient(&of(2), NOW), None);
}

#[test]
fn caps_wait_for_what_others_told() {
    let cap = FrequencyCap { class: CapClass::Marketing, max: 1, per_ms: DAY_MS };
    let mut log = FrequencyLog::new();
    let mark = SendMark { time: NOW, nonce: 5, class: MarkClass::Marketing };
    log.merge(&FrequencyLog::of(mark));
    assert_eq!(wait_ms(&cap, log.marks(), MarkClass::Marketing, NOW), Some(DAY_MS as u64));
    assert!(log.merge(&FrequencyLog::of_voided(mark)));
    assert_eq!(wait_ms(&cap, log.marks(), MarkClass::Marketing, NOW), None);
    assert!(!log.merge(&FrequencyLog::of(mark)), "it stays undone");
}

#[test]
fn one_send_more_than_is_remembered_beneath_another_drops_the_oldest() {
    use crate::limits::distinct::merge::BENEATH_MAX;
    let one = limiter();
    let at = |step: i64| DistinctReceipt { time: NOW.plus_ms(step), previous: None };
    let tell = |receipt: &DistinctReceipt, news| {
        one.merge_recipient(&write(9, &[1; 16], receipt, news), NOW.plus_ms(1_000))
    };
    // The last one counts, and as many as may be lie beneath it, but for the first.
    let last = BENEATH_MAX as i64 + 1;
    for step in 0..=last {
        tell(&at(step), RecipientNews::Sent);
    }
    for step in (1..=last).rev() {
        assert_eq!(
            tell(&at(step), RecipientNews::Failed),
            Some(true),
            "there is another beneath, or none is left"
        );
    }
    assert!(state(&one).is_empty(), "the first was forgotten");
}
