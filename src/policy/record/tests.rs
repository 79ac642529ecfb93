//! The laws of the merge: a record depends on which events were applied, and on nothing else.

mod bounded;
mod cluster;
mod exhaustive;
mod oracle;
mod relays;
mod scenes;
mod script;
mod world;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::policy::consent::{ALONE_MAX, Marks, Naming};
use crate::policy::ids::OriginId;
use crate::policy::strategies;
use crate::policy::types::{ConsentType, Purpose};

/// The person whose record is built.
const SUBJECT: Identifier = Identifier([1; 32]);

type Numbered = (EventId, ConsentEvent);

/// Brings what an event says to one person and one scope, where it meets what others say.
fn gather(event: &mut ConsentEvent) {
    event.subjects = vec![SUBJECT];
    let scope = || Scope { channel: Some(Channel::Sms), purpose: Purpose::All };
    for change in &mut event.changes {
        match change {
            Change::OptOut(out) => (out.scopes, out.inbound) = (vec![scope()], None),
            Change::OptIn(opt_in) => opt_in.scopes = vec![(scope(), None)],
            _ => {}
        }
    }
}

/// Events with ids of their own, as ledgers number them; half of them about one person and scope.
fn events(max: usize) -> impl Strategy<Value = Vec<Numbered>> {
    let event = (strategies::consent_event(), any::<bool>()).prop_map(|(mut event, gathered)| {
        if gathered {
            gather(&mut event);
        }
        event
    });
    vec((strategies::origin(), event), 0..max).prop_map(|events| {
        let mut next = std::collections::BTreeMap::<OriginId, u64>::new();
        events
            .into_iter()
            .map(|(origin, event)| {
                let sequence = next.entry(origin).or_insert(0);
                *sequence += 1;
                (EventId { origin, sequence: *sequence }, event)
            })
            .collect()
    })
}

fn naming() -> impl Strategy<Value = Naming> {
    proptest::sample::select(vec![Naming::WithEarlier, Naming::Alone, Naming::Never])
}

fn record_of<'a>(events: impl IntoIterator<Item = &'a Numbered>) -> Record {
    let mut record = Record::default();
    events.into_iter().for_each(|(id, event)| record.apply(*id, event, &SUBJECT));
    record
}

fn joined(a: &Record, b: &Record) -> Record {
    let mut joined = a.clone();
    joined.join(b);
    joined
}

proptest! {
    #[test]
    fn events_may_come_in_any_order_and_again(
        (events, again) in events(8).prop_flat_map(|events| {
            let delivered: Vec<Numbered> = events.iter().chain(&events).cloned().collect();
            (Just(events), Just(delivered).prop_shuffle())
        })
    ) {
        prop_assert_eq!(record_of(&again), record_of(&events));
    }

    #[test]
    fn a_record_joined_of_parts_is_the_record_of_all(
        (events, split) in events(8).prop_flat_map(|events| {
            let len = events.len();
            (Just(events), vec(0..4_u8, len))
        })
    ) {
        // Each event goes to one part, to the other, to both, or to both twice.
        let part = |wanted: &[u8]| {
            record_of(events.iter().zip(&split).filter(|(_, at)| wanted.contains(at)).map(|(event, _)| event))
        };
        let (left, right) = (part(&[0, 2, 3]), part(&[1, 2, 3]));
        prop_assert_eq!(joined(&left, &right), record_of(&events));
    }

    #[test]
    fn joining_is_commutative_associative_and_idempotent(
        parts in vec(events(4), 3..4),
    ) {
        // The parts number their events independently: the same id with other content may meet.
        let records: Vec<Record> = parts.iter().map(record_of).collect();
        let [a, b, c] = &records[..] else { unreachable!("three parts") };
        prop_assert_eq!(joined(a, b), joined(b, a));
        prop_assert_eq!(joined(&joined(a, b), c), joined(a, &joined(b, c)));
        prop_assert_eq!(&joined(a, a), a);
        prop_assert_eq!(&joined(&Record::default(), a), a);
        prop_assert_eq!(joined(&joined(a, b), a), joined(a, b));
    }

    #[test]
    fn only_the_latest_consent_messages_are_remembered(events in events(8)) {
        let record = record_of(&events);
        prop_assert!(record.allowances.len() <= ALLOWANCES_MAX);
        let first = |known: &Allowance| (known.recorded, known.event);
        let oldest = record.allowances.iter().map(first).min();
        for (id, event) in events.iter().filter(|(_, event)| event.subjects[0] == SUBJECT) {
            let helps = event.changes.iter().any(|change| matches!(change, Change::Help { .. }));
            if helps && oldest.is_some_and(|oldest| (event.recorded, *id) > oldest) {
                prop_assert!(record.allowance(*id).is_some());
            }
        }
    }

    #[test]
    fn opt_outs_are_never_forgotten(events in events(8)) {
        let record = record_of(&events);
        for (id, event) in events.iter().filter(|(_, event)| event.subjects[0] == SUBJECT) {
            for out in event.changes.iter().filter_map(|change| match change {
                Change::OptOut(out) => Some(out),
                _ => None,
            }) {
                for scope in &out.scopes {
                    let (_, cell) = record.cells.iter().find(|(at, _)| at == scope).unwrap();
                    let marks = if out.imported { &cell.imported_outs } else { &cell.outs };
                    let kept = marks.iter().any(|mark| {
                        mark.id.origin == id.origin && mark.id.sequence >= id.sequence && mark.time >= out.time
                    });
                    prop_assert!(kept, "{} is forgotten", id);
                }
            }
        }
    }

    /// What a dominated opt-in would have permitted, the one that dominates it permits too.
    #[test]
    fn a_dropped_opt_in_is_not_missed(
        opt_ins in vec(strategies::opt_in(), 1..6),
        outs in vec((strategies::event_id(), strategies::time(), naming(), any::<bool>()), 0..4),
        now in strategies::time(),
    ) {
        let mut cell = Cell::default();
        let all: Vec<OptIn> = opt_ins
            .iter()
            .enumerate()
            .flat_map(|(at, opt_in)| {
                let id = EventId { origin: OriginId([9; 16]), sequence: at as u64 + 1 };
                opt_in.scopes.iter().map(move |(_, within)| OptIn {
                    id,
                    occurred: opt_in.occurred,
                    covers: opt_in.covers.clone(),
                    before: opt_in.before,
                    imported: opt_in.imported,
                    expire: opt_in.expire,
                    within: *within,
                    consent_type: opt_in.consent_type,
                    grade: opt_in.grade,
                    confirms: opt_in.confirms,
                })
            })
            .collect();
        all.iter().for_each(|opt_in| cell.add_opt_in(opt_in.clone()));
        let marks: Vec<(Mark, bool)> =
            outs.into_iter().map(|(id, time, naming, imported)| (Mark { id, time, message: None, naming }, imported)).collect();
        let permits = |opt_in: &OptIn| {
            opt_in.lasts_at(now) && marks.iter().all(|(mark, imported)| opt_in.beats(mark, *imported))
        };
        for dropped in all.iter().filter(|opt_in| permits(opt_in)) {
            let replaced = cell.opt_ins.iter().any(|kept| {
                permits(kept)
                    && (kept.within.is_none() || kept.within == dropped.within)
                    && (kept.consent_type == ConsentType::Express || kept.consent_type == dropped.consent_type)
                    && kept.grade >= dropped.grade
            });
            prop_assert!(replaced, "{:?} is missed", dropped);
        }
        prop_assert!(cell.opt_ins.len() <= all.len());
    }

    #[test]
    fn registers_join_to_the_latest_and_ties_suppress(
        settings in vec((strategies::time(), any::<bool>(), strategies::event_id()), 1..6),
    ) {
        let registers: Vec<Register> = settings
            .iter()
            .map(|&(time, suppresses, event)| Register { time, suppresses, event })
            .collect();
        let last = registers.iter().copied().reduce(Register::join).unwrap();
        let reversed = registers.iter().rev().copied().reduce(Register::join).unwrap();
        prop_assert_eq!(last, reversed);
        prop_assert_eq!(last.time, registers.iter().map(|register| register.time).max().unwrap());
        let at_last = registers.iter().filter(|register| register.time == last.time);
        prop_assert_eq!(last.suppresses, at_last.into_iter().any(|register| register.suppresses));
    }

    /// Of many that stand alone the highest stay, and the others are never forgotten, in whatever parts and order they come.
    #[test]
    fn no_more_opt_outs_stand_alone_than_are_told_apart(
        (outs, again, split) in vec((0..200_u64, strategies::time(), any::<bool>()), 0..160).prop_flat_map(|outs| {
            let len = outs.len();
            (Just(outs.clone()), Just(outs).prop_shuffle(), vec(any::<bool>(), len))
        }),
    ) {
        let mark = |(sequence, time, by_message): (u64, Timestamp, bool)| Mark {
            id: EventId { origin: OriginId([1; 16]), sequence },
            time,
            message: by_message.then_some((Channel::Sms, time)),
            naming: Naming::Alone,
        };
        let (mut all, mut shuffled, mut joined, mut other) =
            (Marks::default(), Marks::default(), Marks::default(), Marks::default());
        outs.iter().for_each(|out| all.add(mark(*out)));
        again.iter().for_each(|out| shuffled.add(mark(*out)));
        for (out, left) in again.iter().zip(split) {
            if left { joined.add(mark(*out)) } else { other.add(mark(*out)) }
        }
        joined.join(&other);
        prop_assert_eq!(&all, &shuffled);
        prop_assert_eq!(&all, &joined);
        joined.join(&all);
        prop_assert_eq!(&all, &joined);
        let alone = all.iter().filter(|mark| mark.naming == Naming::Alone).count();
        prop_assert!(alone <= ALONE_MAX);
        let latest = |marks: &[Timestamp]| marks.iter().copied().max();
        let kept: Vec<Timestamp> = all.iter().map(|mark| mark.time).collect();
        let told: Vec<Timestamp> = outs.iter().map(|(_, time, _)| *time).collect();
        prop_assert_eq!(latest(&kept), latest(&told));
        let distinct: std::collections::BTreeSet<_> = outs.iter().map(|(sequence, _, by)| (*sequence, *by)).collect();
        prop_assert_eq!(alone, distinct.len().min(ALONE_MAX));
    }
}
