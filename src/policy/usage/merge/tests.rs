//! What a node learns does not depend on the order in which it hears of it.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::policy::ids::OriginId;

const NOW: Timestamp = Timestamp(1_795_341_600_000);

fn sender(number: u8) -> SenderId {
    SenderId::new(&format!("{number}")).unwrap()
}

fn event(number: u8) -> EventId {
    EventId { origin: OriginId([number; 16]), sequence: 1 }
}

/// One thing that a node noted, as it tells it.
fn told() -> impl Strategy<Value = Usage> {
    let time = || (0i64..6).prop_map(|step| NOW.plus_ms(step));
    (0u8..6, select(vec![Channel::Sms, Channel::Whatsapp]), 0u8..3, time(), time(), any::<bool>()).prop_map(
        |(kind, channel, number, at, other, yes)| {
            let mut told = Usage::default();
            match kind {
                0 => {
                    let reopened = yes.then(|| at.min(other));
                    told.windows = vec![Window { channel, sender: sender(number), last: at, reopened }];
                }
                1 => told.undone.closed = vec![(channel, sender(number), at)],
                2 => told.instructed = vec![(channel, at)],
                3 => told.undone.owed = vec![(channel, at)],
                4 => {
                    let message = yes.then_some([number; 8]);
                    told.spent =
                        vec![Spent { event: event(number), channel: Some(channel), time: at, message }];
                }
                _ => told.undone.failed = vec![(event(number), at)],
            }
            told
        },
    )
}

/// The same whatever the order of its lists.
fn sorted(mut usage: Usage) -> Usage {
    usage.windows.sort_by_key(|window| (window.channel.word(), window.sender.clone()));
    usage.instructed.sort_by_key(|(channel, _)| channel.word());
    usage.spent.sort_by_key(|spent| (spent.event, spent.time, spent.channel));
    usage.undone.closed.sort_by_key(|(channel, sender, _)| (channel.word(), sender.clone()));
    usage.undone.owed.sort_by_key(|(channel, _)| channel.word());
    usage.undone.failed.sort();
    usage
}

fn joined<'a>(all: impl IntoIterator<Item = &'a Usage>) -> Usage {
    let mut usage = Usage::default();
    for told in all {
        usage.merge(told);
    }
    sorted(usage)
}

proptest! {
    #[test]
    fn order_repetition_and_grouping_do_not_matter(
        told in vec(told(), 0..14), shuffled in any::<proptest::sample::Index>(), cut in any::<proptest::sample::Index>(),
    ) {
        let all = joined(&told);
        let mut other = told.clone();
        let len = other.len().max(1);
        other.rotate_left(shuffled.index(len).min(told.len()));
        other.reverse();
        prop_assert_eq!(&joined(&other), &all);
        prop_assert_eq!(&joined(told.iter().chain(&other).chain(&told)), &all);
        let (left, right) = told.split_at(cut.index(len).min(told.len()));
        prop_assert_eq!(&joined([&joined(left), &joined(right)]), &all);
        prop_assert_eq!(&joined([&joined(right), &joined(left), &all]), &all);
        let mut again = all.clone();
        prop_assert!(!again.merge(&all), "what is known changes nothing, and says so");
    }

    #[test]
    fn a_join_says_whether_it_changed_anything(told in vec(told(), 1..14)) {
        let mut usage = Usage::default();
        for one in &told {
            let before = sorted(usage.clone());
            let changed = usage.merge(one);
            prop_assert_eq!(changed, sorted(usage.clone()) != before);
        }
    }
}

#[test]
fn one_more_than_is_remembered_drops_the_oldest() {
    let mut usage = Usage::default();
    for number in 0..=SPENT_MAX as i64 {
        usage.spend(
            EventId { origin: OriginId([1; 16]), sequence: number as u64 },
            Channel::Sms,
            NOW.plus_ms(number),
        );
    }
    assert_eq!(usage.spent.len(), SPENT_MAX);
    assert!(!usage.is_spent(EventId { origin: OriginId([1; 16]), sequence: 0 }, None));
    let old = Spent { event: event(1), channel: None, time: NOW.minus_ms(1), message: None };
    assert!(!usage.merge_spent(&old), "older than all that is remembered");
    for number in 0..=WINDOWS_MAX as u8 {
        usage.heard(
            Channel::Sms,
            &sender(number),
            NOW.plus_ms(number.into()),
            Some(NOW.plus_ms(number.into())),
        );
    }
    assert_eq!(usage.windows.len(), WINDOWS_MAX);
    assert!(usage.window(Channel::Sms, "0").is_none());
    for number in 0..=UNDONE_MAX as i64 {
        usage.unspend(event(2), NOW.plus_ms(number));
    }
    assert_eq!(usage.undone.failed.len(), UNDONE_MAX);
}

#[test]
fn what_failed_stays_failed_and_the_next_one_counts() {
    let mut usage = Usage::default();
    assert!(usage.unspend(event(1), NOW), "heard of before the message itself");
    usage.spend(event(1), Channel::Sms, NOW);
    assert!(!usage.is_spent(event(1), Some(Channel::Sms)) && !usage.unspend(event(1), NOW));
    usage.spend(event(1), Channel::Sms, NOW.plus_ms(1));
    assert!(usage.is_spent(event(1), Some(Channel::Sms)));

    usage.heard(Channel::Sms, &sender(1), NOW, Some(NOW));
    usage.close_window(Channel::Sms, "1");
    usage.heard(Channel::Sms, &sender(1), NOW, Some(NOW));
    assert!(usage.window(Channel::Sms, "1").is_none(), "the same message, delivered again");
    usage.heard(Channel::Sms, &sender(1), NOW.plus_ms(1), Some(NOW.plus_ms(1)));
    assert!(usage.window(Channel::Sms, "1").is_some());

    usage.instruct(Channel::Sms, NOW);
    usage.owe_instructions(Channel::Sms);
    usage.instruct(Channel::Sms, NOW);
    assert_eq!(usage.instructed(Channel::Sms), None);
    usage.instruct(Channel::Sms, NOW.plus_ms(1));
    assert_eq!(usage.instructed(Channel::Sms), Some(NOW.plus_ms(1)));
}
