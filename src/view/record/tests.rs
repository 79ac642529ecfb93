//! The codec: what goes in comes out, little is needed, and garbage does no harm.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::limits::{MarkClass, SendMark};
use crate::policy::consent::{Cell, Covers, OptIn};
use crate::policy::ids::{EventId, OriginId, TopicId};
use crate::policy::record::AboutKind;
use crate::policy::rules::{CapClass, FrequencyCap};
use crate::policy::strategies;
use crate::policy::time::Timestamp;
use crate::policy::types::{ConsentType, EvidenceGrade, Purpose, Scope};

fn usage() -> impl Strategy<Value = Usage> {
    let channel = || select(Channel::ALL);
    let sender = select(vec!["109876543210", "+12025550142"]).prop_map(|text| SenderId::new(text).unwrap());
    let window = (channel(), sender, strategies::time(), of(strategies::time()))
        .prop_map(|(channel, sender, last, reopened)| Window { channel, sender, last, reopened });
    let spent = (strategies::event_id(), of(channel()), strategies::time(), of(any::<[u8; 8]>()))
        .prop_map(|(event, channel, time, message)| Spent { event, channel, time, message });
    let last = (channel(), of(strategies::event_id()), strategies::time())
        .prop_map(|(channel, about, time)| LastAllowed { channel, about, time });
    let sender = select(vec!["109876543210", "+12025550142"]).prop_map(|text| SenderId::new(text).unwrap());
    let undone = (
        vec((channel(), sender, strategies::time()), 0..2),
        vec((channel(), strategies::time()), 0..2),
        vec((strategies::event_id(), strategies::time()), 0..2),
    )
        .prop_map(|(closed, owed, failed)| Undone { closed, owed, failed });
    let instructed = vec((channel(), strategies::time()), 0..4);
    (vec(window, 0..4), instructed, vec(spent, 0..4), vec(last, 0..4), undone).prop_map(
        |(windows, instructed, spent, last_allowed, undone)| Usage {
            windows,
            instructed,
            spent,
            last_allowed,
            undone,
        },
    )
}

fn frequency() -> impl Strategy<Value = FrequencyLog> {
    let mark = (strategies::time(), any::<u32>(), any::<bool>()).prop_map(|(time, nonce, utility)| {
        SendMark { time, nonce, class: if utility { MarkClass::Utility } else { MarkClass::Marketing } }
    });
    vec(mark, 0..4).prop_map(|marks| {
        let mut log = FrequencyLog::default();
        let caps = [FrequencyCap { class: CapClass::Any, max: 10, per_ms: i64::MAX }];
        marks.into_iter().for_each(|mark| {
            log.push(mark, &caps, mark.time);
            if mark.nonce.is_multiple_of(3) {
                log.remove(mark.nonce);
            }
        });
        log
    })
}

fn person() -> impl Strategy<Value = Person> {
    let subject = Identifier([1; 32]);
    let events = vec((strategies::event_id(), strategies::consent_event()), 0..6);
    let trail = proptest::collection::btree_set(any::<u64>(), 0..6);
    (events, trail, usage(), frequency()).prop_map(move |(events, trail, usage, frequency)| {
        let mut person = Person {
            trail: trail.into_iter().map(Position::from_u64).collect(),
            usage,
            frequency,
            ..Person::default()
        };
        for (id, mut event) in events {
            event.subjects.insert(0, subject);
            person.record.apply(id, &event, &subject);
        }
        person
    })
}

proptest! {
    #[test]
    fn persons_read_back(person in person()) {
        let (consent, usage) = (person.encode_consent(), person.encode_usage());
        prop_assert_eq!(Person::decode(&consent, &usage), Ok(person.clone()));
        let expected = Person { record: person.record.clone(), trail: person.trail.clone(), ..Person::default() };
        prop_assert_eq!(Person::decode(&consent, &[]), Ok(expected));
    }

    #[test]
    fn a_cut_consent_part_is_damage(person in person()) {
        let consent = person.encode_consent();
        for cut in 1..consent.len() {
            prop_assert!(Person::decode(&consent[..cut], &[]).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Person::decode(&bytes, &bytes);
        let mut versioned = vec![PERSON_FORM_VERSION];
        versioned.extend(bytes);
        let _ = Person::decode(&versioned, &[]);
        let _ = Person::decode(&[], &versioned);
    }

    #[test]
    fn rot_never_panics(person in person(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
        for mut part in [person.encode_consent(), person.encode_usage()] {
            if !part.is_empty() {
                let at = at.index(part.len());
                part[at] ^= flip;
                let _ = Person::decode(&part, &part);
            }
        }
    }

    #[test]
    fn numbers_read_back(number in any::<u64>(), times in vec(any::<i64>(), 1..4)) {
        let mut out = Writer::default();
        out.number(number);
        times.iter().for_each(|time| out.time(Timestamp(*time)));
        let bytes = out.finish();
        let mut input = Reader::new(&bytes);
        prop_assert_eq!(input.number(), Ok(number));
        for time in times {
            prop_assert_eq!(input.time(), Ok(Timestamp(time)));
        }
        prop_assert_eq!(input.end(), Ok(()));
    }
}

#[test]
fn nobody_takes_nothing() {
    assert!(Person::default().encode_consent().is_empty() && Person::default().encode_usage().is_empty());
    assert_eq!(Person::decode(&[], &[]), Ok(Person::default()));
}

#[test]
fn another_version_is_damage() {
    let mut person = Person { trail: vec![Position::from_u64(9)], ..Person::default() };
    person.usage.instruct(Channel::Sms, Timestamp(0));
    let (mut consent, mut usage) = (person.encode_consent(), person.encode_usage());
    consent[0] += 1;
    usage[0] = usage_form::LAST + 1;
    assert_eq!(Person::decode(&consent, &[]), Err(Damage("version")));
    assert_eq!(Person::decode(&[], &usage), Err(Damage("version")));
}

#[test]
fn a_number_of_more_than_64_bits_is_damage() {
    let mut overlong = vec![0xff; 9];
    overlong.push(2);
    assert_eq!(Reader::new(&overlong).number(), Err(Damage("number")));
    overlong[9] = 1;
    assert_eq!(Reader::new(&overlong).number(), Ok(u64::MAX));
}

#[test]
fn a_typical_person_is_small() {
    let at = Timestamp(1_760_000_000_123);
    let id = EventId { origin: OriginId([0xc3; 16]), sequence: 812_345 };
    let mut person = Person { trail: vec![Position::new(12, 33_000_111)], ..Person::default() };
    let mut cell = Cell::default();
    cell.add_opt_in(OptIn {
        id,
        occurred: at.minus_ms(90_000),
        covers: Covers::default(),
        before: Some(at.minus_ms(390_000)),
        imported: false,
        expire: None,
        within: None,
        consent_type: ConsentType::Express,
        grade: EvidenceGrade::Strict,
        confirms: None,
    });
    let topic = Purpose::Topic(TopicId::new("delivery_updates").unwrap());
    person.record.cells = vec![(Scope { channel: Some(Channel::Whatsapp), purpose: topic }, cell)];
    person.record.taken = vec![Taken { request: RequestMark { key: [1; 8], content: [2; 8] }, event: id }];
    person.record.allowances = vec![Allowance {
        recorded: at,
        event: id,
        kind: AboutKind::OptInConfirmation,
        channel: Some(Channel::Whatsapp),
        until: at.plus_ms(86_400_000),
    }];
    person.usage.allowed(Channel::Whatsapp, None, at);
    person.usage.instruct(Channel::Whatsapp, at);
    let caps = [FrequencyCap { class: CapClass::Marketing, max: 2, per_ms: 86_400_000 }];
    person.frequency.push(SendMark { time: at, nonce: u32::MAX, class: MarkClass::Marketing }, &caps, at);
    let (consent, usage) = (person.encode_consent().len(), person.encode_usage().len());
    assert!(consent <= 105 && usage <= 32, "{consent} + {usage} bytes");
}
