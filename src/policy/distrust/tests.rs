use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::policy::check::{Content, Facts, Send, check};
use crate::policy::consent::Mark;
use crate::policy::ids::{BusinessId, Identifier, TopicId};
use crate::policy::recorder::{self, Source};
use crate::policy::rules::Rules;
use crate::policy::standing::{Known, Relation, Standing, Subject, standing};
use crate::policy::state;
use crate::policy::strategies;
use crate::policy::time::{DAY_MS, MINUTE_MS, Timestamp};
use crate::policy::types::{
    Category, Channel, ConsentType, EvidenceGrade, OptInMethod, OptOutMethod, Purpose, Scope,
};
use crate::policy::usage::Usage;

const FORKED: OriginId = OriginId([1; 16]);
const SOUND: OriginId = OriginId([2; 16]);
const WHO: Identifier = Identifier([1; 32]);
const T0: Timestamp = Timestamp(1_760_000_000_000);

fn offers() -> TopicId {
    TopicId::new("offers").unwrap()
}

fn scope() -> Scope {
    Scope { channel: Some(Channel::Sms), purpose: Purpose::Topic(offers()) }
}

fn id(origin: OriginId, sequence: u64) -> EventId {
    EventId { origin, sequence }
}

fn said(recorded: Timestamp, changes: Vec<Change>) -> ConsentEvent {
    ConsentEvent {
        business: BusinessId::new("acme").unwrap(),
        subjects: vec![WHO],
        forms: Vec::new(),
        recorded,
        request: None,
        rules_version: String::new(),
        numbered_late: false,
        changes,
    }
}

fn opt_in(occurred: Timestamp, covers: &[EventId]) -> Change {
    Change::OptIn(crate::policy::event::OptIn {
        scopes: vec![(scope(), None)],
        occurred,
        covers: covers.iter().copied().collect(),
        before: Some(occurred.minus_ms(5 * MINUTE_MS)),
        imported: false,
        expire: None,
        consent_type: ConsentType::Express,
        grade: EvidenceGrade::Strict,
        method: OptInMethod::CheckoutFlow,
        confirms: None,
        renews: None,
    })
}

fn opt_out(time: Timestamp) -> Change {
    Change::OptOut(crate::policy::event::OptOut {
        scopes: vec![scope()],
        time,
        stated: None,
        imported: false,
        inbound: None,
        method: OptOutMethod::WebForm,
        confirm_until: Some(time.plus_ms(5 * MINUTE_MS)),
    })
}

fn asked(occurred: Timestamp, covers: &[EventId]) -> Change {
    Change::Request(crate::policy::event::Request {
        scopes: vec![(scope(), None)],
        via: Channel::Sms,
        occurred,
        covers: covers.iter().copied().collect(),
        expire: occurred.plus_ms(DAY_MS),
        opt_in_expire: None,
        consent_type: ConsentType::Express,
        grade: EvidenceGrade::Strict,
        method: OptInMethod::CheckoutFlow,
    })
}

fn released(time: Timestamp) -> Change {
    Change::Hold(Hold { channel: Channel::Sms, held: false, time })
}

fn distrust(from: u64) -> Distrust {
    let mut distrust = Distrust::default();
    distrust.add(FORKED, from);
    distrust
}

fn rules() -> Rules {
    Rules { topics: [(offers(), Category::Marketing)].into(), ..Rules::built_in() }
}

/// How the person stands at noon of the next day, with `distrust` laid over what `events` say.
fn stands(events: &[(EventId, ConsentEvent)], distrust: &Distrust) -> Standing {
    let record = read(events, distrust);
    let known = [Known { relation: Relation::Own, record: &record }];
    let offers = offers();
    let subject = Subject { channel: Channel::Sms, category: Category::Marketing, topic: Some(&offers) };
    standing(&known, &subject, &rules(), T0.plus_ms(DAY_MS / 2)).standing
}

fn kept(events: &[(EventId, ConsentEvent)]) -> Record {
    let mut record = Record::default();
    events.iter().for_each(|(id, event)| record.apply(*id, event, &WHO));
    record
}

fn read(events: &[(EventId, ConsentEvent)], distrust: &Distrust) -> Record {
    let mut record = kept(events);
    distrust.lay_over(&mut record);
    record
}

#[test]
fn an_opt_in_whose_name_is_shared_does_not_count_and_one_before_it_does() {
    let event = said(T0, vec![opt_in(T0, &[])]);
    for (sequence, standing) in [(7, Standing::Granted), (8, Standing::None), (9, Standing::None)] {
        assert_eq!(stands(&[(id(FORKED, sequence), event.clone())], &distrust(8)), standing, "{sequence}");
    }
    assert_eq!(stands(&[(id(SOUND, 9), event)], &distrust(8)), Standing::Granted);
}

#[test]
fn an_opt_out_counts_under_any_name() {
    let events = [
        (id(SOUND, 1), said(T0, vec![opt_in(T0, &[])])),
        (id(FORKED, 8), said(T0.plus_ms(1), vec![opt_out(T0.plus_ms(1))])),
    ];
    assert_eq!(stands(&events, &distrust(8)), Standing::OptedOut);
}

/// Covering the shared name, the person acted after one of two opt-outs, and which is not known.
#[test]
fn no_opt_in_covers_a_shared_name() {
    let stop = T0.plus_ms(MINUTE_MS);
    for (sequence, standing) in [(7, Standing::Granted), (8, Standing::OptedOut)] {
        let named = id(FORKED, sequence);
        let events = [
            (named, said(stop, vec![opt_out(stop)])),
            (id(SOUND, 1), said(stop.plus_ms(1), vec![opt_in(stop.plus_ms(1), &[named])])),
        ];
        assert_eq!(stands(&events, &Distrust::default()), Standing::Granted);
        assert_eq!(stands(&events, &distrust(8)), standing, "{sequence}");
        let pending = [events[0].clone(), (id(SOUND, 1), said(stop, vec![asked(stop, &[named])]))];
        let record = read(&pending, &distrust(8));
        let known = [Known { relation: Relation::Own, record: &record }];
        let confirmed = recorder::confirm(id(SOUND, 1), Channel::Sms, stop, stop, &known, &rules(), stop);
        assert_eq!(confirmed.is_some(), standing == Standing::Granted, "{sequence}");
    }
    // Shown to come later by its time, it counts.
    let much_later = stop.plus_ms(10 * MINUTE_MS);
    let events = [
        (id(FORKED, 8), said(stop, vec![opt_out(stop)])),
        (id(SOUND, 1), said(much_later, vec![opt_in(much_later, &[id(FORKED, 8)])])),
    ];
    assert_eq!(stands(&events, &distrust(8)), Standing::Granted);
}

#[test]
fn a_request_whose_name_is_shared_cannot_be_confirmed() {
    let events = [(id(FORKED, 8), said(T0, vec![asked(T0, &[])]))];
    assert_eq!(stands(&events, &distrust(9)), Standing::Pending);
    assert_eq!(stands(&events, &distrust(8)), Standing::None);
    let confirmed = |from| {
        let record = read(&events, &distrust(from));
        let known = [Known { relation: Relation::Own, record: &record }];
        recorder::confirm(id(FORKED, 8), Channel::Sms, T0, T0, &known, &rules(), T0).is_some()
    };
    assert!(confirmed(9) && !confirmed(8));
}

#[test]
fn what_a_shared_name_released_is_held() {
    let held = said(T0, vec![Change::Hold(Hold { channel: Channel::Sms, held: true, time: T0 })]);
    let events = [(id(SOUND, 1), held), (id(FORKED, 8), said(T0, vec![released(T0.plus_ms(1))]))];
    let suppresses = |from| read(&events, &distrust(from)).holds[0].1.suppresses;
    assert!(!suppresses(9) && suppresses(8));
}

#[test]
fn what_is_told_once_is_not_told_by_a_shared_name() {
    let events = [(id(FORKED, 8), said(T0, vec![opt_out(T0)]))];
    assert!(read(&events, &distrust(9)).allowance(id(FORKED, 8)).is_some());
    assert!(read(&events, &distrust(8)).allowance(id(FORKED, 8)).is_none());
}

/// A clock that is behind must not let an opt-out look older than an opt-in that it came after, also where that does not count now: its owner
/// will record it anew.
#[test]
fn an_opt_out_comes_after_opt_ins_that_are_set_aside() {
    let ahead = T0.plus_ms(20 * MINUTE_MS);
    let record = read(&[(id(FORKED, 8), said(T0, vec![opt_in(ahead, &[])]))], &distrust(8));
    let known = [Known { relation: Relation::Own, record: &record }];
    assert_eq!(recorder::opt_out_time(None, Source::Caller, &known, &rules(), T0), ahead);
}

#[test]
fn recorded_anew_it_counts_as_it_did_and_no_longer() {
    let first = said(T0, vec![opt_out(T0)]);
    let later = T0.plus_ms(10 * MINUTE_MS);
    let again = said(later, vec![opt_out(T0), opt_in(later, &[id(FORKED, 7), id(FORKED, 8)]), released(T0)]);
    let (anew, from) = distrust(8).anew(id(FORKED, 9), &again).unwrap();
    assert_eq!(from, [1, 2]);
    assert_eq!(
        anew.changes,
        [opt_in(later, &[id(FORKED, 7), id(mark_of(FORKED), 1)]), released(T0.plus_ms(1))]
    );
    assert!(same_but_for_covers(&anew, &said(later, vec![opt_in(later, &[]), released(T0.plus_ms(1))])));
    let events = [(id(FORKED, 8), first.clone()), (id(FORKED, 9), again), (id(SOUND, 1), anew)];
    assert_eq!(stands(&events[..2], &distrust(8)), Standing::OptedOut);
    assert_eq!(stands(&events, &distrust(8)), Standing::Granted);
    let stop = said(later.plus_ms(1), vec![opt_out(later.plus_ms(1))]);
    let stopped = [&events[..], &[(id(FORKED, 10), stop)]].concat();
    assert_eq!(stands(&stopped, &distrust(8)), Standing::OptedOut);
    assert!(distrust(8).anew(id(FORKED, 8), &first).is_none());
}

/// The record keeps of two opt-ins the one that covers more, and cannot know which of them will be doubted.
#[test]
fn what_does_not_count_takes_nobodys_place() {
    let doubted = said(T0, vec![opt_in(T0, &[id(SOUND, 90), id(FORKED, 7)])]);
    // Smaller and greater ids than the sound one: which of two equals stays is decided by them.
    for (origin, sequence) in [(FORKED, 8), (FORKED, u64::MAX)] {
        let before = (id(origin, sequence), doubted.clone());
        let aside = read(std::slice::from_ref(&before), &distrust(8)).set_aside;
        let Change::OptIn(mut plain) = opt_in(T0, &[]) else { unreachable!("an opt-in") };
        aside.iter().for_each(|aside| come_after(&mut plain.covers, aside));
        let again = (id(SOUND, 1), said(T0, vec![Change::OptIn(plain)]));
        assert_eq!(stands(&[before.clone(), again.clone()], &distrust(8)), Standing::Granted);
        assert_eq!(stands(&[again, before], &distrust(8)), Standing::Granted);
    }
    // Recorded anew twice, since the second time under a shared name too.
    let (first, _) = distrust(8).anew(id(FORKED, 8), &doubted).unwrap();
    let (second, _) = distrust(8).anew(id(FORKED, 9), &first).unwrap();
    let all = [(id(FORKED, 8), doubted), (id(FORKED, 9), first), (id(SOUND, 1), second)];
    assert_eq!(stands(&all, &distrust(8)), Standing::Granted);
    let asked_again = distrust(8).anew(id(FORKED, 8), &said(T0, vec![asked(T0, &[])])).unwrap().0;
    let both = [(id(FORKED, 8), said(T0, vec![asked(T0, &[])])), (id(SOUND, 1), asked_again)];
    assert_eq!(stands(&both, &distrust(8)), Standing::Pending);
}

#[test]
fn with_one_forked_origin_too_many_nothing_permissive_counts() {
    let mut full = Distrust::default();
    let forked = |n: usize| OriginId((n as u128 + 1_000).to_be_bytes());
    (0..DISTRUSTED_ORIGINS_MAX).for_each(|n| assert!(full.add(forked(n), 5)));
    let elsewhere = id(OriginId([200; 16]), 3);
    assert!(!full.is_everything() && !full.doubts(elsewhere) && !full.doubts(id(forked(0), 4)));
    assert!(full.add(forked(DISTRUSTED_ORIGINS_MAX), 5));
    assert!(full.is_everything() && full.doubts(elsewhere) && full.doubts(id(forked(0), 4)));
    assert!(!full.add(forked(DISTRUSTED_ORIGINS_MAX + 1), 5), "it says nothing new");
    assert_eq!(full.iter().len(), DISTRUSTED_ORIGINS_MAX + 1);
    let event = said(T0, vec![opt_in(T0, &[])]);
    assert_eq!(stands(&[(elsewhere, event)], &full), Standing::None);
}

/// Any distrust of the origins that the strategies use.
fn distrusts() -> impl Strategy<Value = Distrust> {
    vec((strategies::origin(), 0_u64..=9), 0..4).prop_map(|all| {
        let mut distrust = Distrust::default();
        for (origin, from) in all {
            distrust.add(origin, from);
        }
        distrust
    })
}

fn events() -> impl Strategy<Value = Vec<(EventId, ConsentEvent)>> {
    vec((strategies::event_id(), strategies::consent_event()), 0..8).prop_map(|mut events| {
        events.iter_mut().for_each(|(_, event)| event.subjects = vec![WHO]);
        events
    })
}

proptest! {
    /// Also with more origins than are told apart.
    #[test]
    fn it_joins_in_any_order(
        (forth, back) in vec(0_u64..9, 1_000..1_060).prop_flat_map(|from| {
            let all: Vec<(u128, u64)> = (0..1_040).cycle().zip(from).collect();
            (Just(all.clone()), Just(all).prop_shuffle())
        })
    ) {
        let joined = |all: &[(u128, u64)]| {
            let mut distrust = Distrust::default();
            for (origin, from) in all {
                distrust.add(OriginId(origin.to_be_bytes()), *from);
            }
            distrust
        };
        prop_assert_eq!(joined(&forth), joined(&back));
    }

    /// Whatever a distrust sets aside, no message passes that did not pass before.
    #[test]
    fn no_distrust_turns_a_denial_into_an_allow(
        events in events(), distrust in distrusts(), more in distrusts(), now in strategies::time(),
    ) {
        let whole = kept(&events);
        let some = read(&events, &distrust);
        let mut both = distrust;
        for (origin, from) in more.iter() {
            both.add(origin, from);
        }
        let least = read(&events, &both);
        let rules = rules();
        let allows = |record: &Record, channel, category, topic: Option<&TopicId>| {
            let send = Send {
                sender: "Acme",
                channel,
                content: Content::Message { category: Some(category), topic },
                about: None,
        explain: false,
            };
            let facts = Facts {
                own: record,
                usage: &Usage::default(),
                others: &[],
                template: None,
                sender: None,
                region: None,
                zones: &[jiff::tz::TimeZone::UTC],
                stale: false,
                unseen_write: false,
            };
            check(&send, &facts, &rules, now).allows()
        };
        for channel in Channel::ALL {
            for category in Category::ALL {
                for topic in [None, Some(offers())] {
                    let of = |record| allows(record, *channel, *category, topic.as_ref());
                    prop_assert!(of(&whole) || !of(&some));
                    prop_assert!(of(&some) || !of(&least));
                }
            }
        }
    }

    /// What denies is untouched, so that every opt-out goes on to hold.
    #[test]
    fn no_opt_out_is_set_aside(events in events(), distrust in distrusts()) {
        let whole = kept(&events);
        let left = read(&events, &distrust);
        let outs = |record: &Record| -> Vec<(Scope, Vec<Mark>)> {
            let marks = |cell: &crate::policy::consent::Cell| {
                [&cell.outs, &cell.imported_outs, &cell.voids].iter().flat_map(|marks| marks.iter().copied()).collect()
            };
            record.cells.iter().map(|(scope, cell)| (scope.clone(), marks(cell))).collect()
        };
        prop_assert_eq!(outs(&whole), outs(&left));
        for (before, after) in whole.holds.iter().zip(&left.holds) {
            prop_assert!(after.1.suppresses || !before.1.suppresses);
        }
        for (before, after) in whole.preferences.iter().zip(&left.preferences) {
            prop_assert!(after.1.suppresses || !before.1.suppresses);
        }
        let doubted = left.cells.iter().flat_map(|(_, cell)| &cell.opt_ins).any(|opt_in| distrust.doubts(opt_in.id));
        prop_assert!(!doubted);
        let known = [Known { relation: Relation::Own, record: &left }];
        let told = state::states(&known, Channel::ALL, &rules(), T0);
        prop_assert!(told.iter().all(|line| line.state != state::State::OptedIn
            || line.basis.iter().all(|id| !distrust.doubts(*id))));
    }
}
