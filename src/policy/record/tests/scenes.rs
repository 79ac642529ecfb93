//! Single scenes that the random worlds may take long to meet, each with its answer.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::SUBJECT;
use super::script::{self, Act, Arrival, CLOCKS, Grant, MARGIN_MS, Naming, Reach, Script, What};
use super::world::{Clocks, World};
use crate::policy::consent::ALONE_MAX;
use crate::policy::event::{Change, ConsentEvent, Invalidate, OptOut};
use crate::policy::ids::{BusinessId, EventId, OriginId};
use crate::policy::record::Record;
use crate::policy::recorder::{self, RENEWED_MAX, Source};
use crate::policy::report::Report;
use crate::policy::standing::{self, Known, Relation, Standing, Subject};
use crate::policy::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Timestamp};
use crate::policy::types::{Category, Channel, InvalidateCause, OptOutMethod, Purpose, Scope};

const STOP: What = What::Stop(Reach::Whatsapp);
const STOP_MESSAGE: What = What::StopMessage { channel: Channel::Whatsapp, signed: false };
const START: What = What::Start(Channel::Whatsapp);
const OPT_IN: What = What::OptIn { grant: Grant::WhatsappOffers, naming: Naming::Nothing };
const NAMING: What = What::OptIn { grant: Grant::WhatsappOffers, naming: Naming::WhenReported };

/// The acts, when each happens and when it is reported, at one node whose callers' clocks may be wrong.
fn play(acts: &[(What, i64, i64)], skew_ms: [i64; CLOCKS], clocks: Clocks) -> Standing {
    let rules = script::rules();
    let acts = acts
        .iter()
        .map(|&(what, at_ms, reported_ms)| {
            let arrivals = vec![Arrival { node: 0, delay_ms: reported_ms - at_ms }];
            Act { what, at_ms, arrivals }
        })
        .collect();
    let script = Script { acts, skew_ms, relay_ms: Vec::new() };
    let mut world = World::new(&script, &rules, clocks);
    world.run().unwrap();
    world.answers(0, 7 * DAY_MS)[0]
}

fn told(acts: &[(What, i64, i64)]) -> Standing {
    play(acts, [0; CLOCKS], Clocks::WithinMargin)
}

/// Acts a second apart, each reported at once.
fn in_turn(acts: &[What]) -> Standing {
    let acts: Vec<_> = acts.iter().zip(0..).map(|(what, n)| (*what, n * SECOND_MS, n * SECOND_MS)).collect();
    told(&acts)
}

#[test]
fn start_renews_what_the_persons_own_stop_ended() {
    assert_eq!(in_turn(&[OPT_IN, STOP_MESSAGE]), Standing::OptedOut);
    assert_eq!(in_turn(&[OPT_IN, STOP_MESSAGE, START]), Standing::Granted);
    assert_eq!(in_turn(&[OPT_IN, STOP_MESSAGE, STOP_MESSAGE, START]), Standing::Granted);
    assert_eq!(in_turn(&[OPT_IN, STOP_MESSAGE, START, STOP_MESSAGE]), Standing::OptedOut);
    assert_eq!(in_turn(&[OPT_IN, STOP_MESSAGE, START, STOP_MESSAGE, START]), Standing::Granted);
}

#[test]
fn start_renews_nothing_else() {
    assert_eq!(in_turn(&[START]), Standing::None);
    assert_eq!(in_turn(&[STOP_MESSAGE, START]), Standing::OptedOut);
    assert_eq!(in_turn(&[OPT_IN, STOP, START]), Standing::OptedOut);
    assert_eq!(in_turn(&[OPT_IN, STOP, STOP_MESSAGE, START]), Standing::OptedOut);
    assert_eq!(in_turn(&[OPT_IN, STOP_MESSAGE, STOP, START]), Standing::OptedOut);
    assert_eq!(in_turn(&[OPT_IN, STOP_MESSAGE, What::Void, START]), Standing::OptedOut);
    let other = What::StopMessage { channel: Channel::Sms, signed: false };
    assert_eq!(in_turn(&[OPT_IN, other, STOP_MESSAGE, START]), Standing::Granted);
}

/// STOP and START are messages that arrive late, one after the other; between their writing and their arrival the
/// person opted out on the web. START covers the STOP, which the ledger numbered after the web's opt-out.
#[test]
fn a_late_start_covers_no_opt_out_made_elsewhere_after_it() {
    let acts = [
        (OPT_IN, 0, 0),
        (STOP_MESSAGE, HOUR_MS, HOUR_MS + 30_000),
        (START, HOUR_MS + 5_000, HOUR_MS + 31_000),
        (STOP, HOUR_MS + 10_000, HOUR_MS + 10_000),
    ];
    assert_eq!(told(&acts), Standing::OptedOut);
}

#[test]
fn a_start_counts_only_for_stops_that_the_provider_timed_earlier() {
    let acts = [
        (OPT_IN, 0, 0),
        (START, HOUR_MS + 5_000, HOUR_MS + 6_000),
        (STOP_MESSAGE, HOUR_MS, HOUR_MS + 30_000),
    ];
    // When START arrived there was nothing to renew.
    assert_eq!(told(&acts), Standing::OptedOut);
    let stop_after = [
        (OPT_IN, 0, 0),
        (STOP_MESSAGE, HOUR_MS, HOUR_MS),
        (STOP_MESSAGE, HOUR_MS + 10_000, HOUR_MS + 10_000),
        (START, HOUR_MS + 5_000, HOUR_MS + 31_000),
    ];
    assert_eq!(told(&stop_after), Standing::OptedOut);
}

#[test]
fn an_opt_in_beats_what_it_names_and_what_is_long_past() {
    assert_eq!(in_turn(&[STOP, NAMING]), Standing::Granted);
    assert_eq!(in_turn(&[OPT_IN, STOP, NAMING, STOP]), Standing::OptedOut);
    // Reported after the opt-in, and after it by its recorder's clock: what the design concedes.
    assert_eq!(told(&[(STOP, 0, HOUR_MS), (OPT_IN, MINUTE_MS, MINUTE_MS)]), Standing::OptedOut);
    // A signed time counts.
    let signed = What::SignedStop(Reach::Whatsapp);
    let later_ms = 3 * MARGIN_MS;
    assert_eq!(told(&[(signed, 0, HOUR_MS), (OPT_IN, later_ms, later_ms)]), Standing::Granted);
}

#[test]
fn a_lagging_recorder_still_ends_the_opt_in_that_it_knows() {
    let lagging = [2 * HOUR_MS, 0, 0, 2 * HOUR_MS];
    let rules = script::rules();
    let at = |node, delay_ms| vec![Arrival { node, delay_ms }];
    let script = Script {
        acts: vec![
            Act { what: OPT_IN, at_ms: 0, arrivals: at(1, 0) },
            Act { what: STOP, at_ms: MINUTE_MS, arrivals: at(0, 0) },
        ],
        skew_ms: lagging,
        relay_ms: vec![SECOND_MS],
    };
    let mut world = World::new(&script, &rules, Clocks::Wild);
    world.run().unwrap();
    assert_eq!(world.answers(0, HOUR_MS)[0], Standing::OptedOut);
}

/// The provider's clock is a month ahead: what it dates into the future has happened all the same, and not later than
/// it was told of.
#[test]
fn an_opt_out_dated_into_the_future_counts_from_its_arrival() {
    let rules = script::rules();
    let at = |node| vec![Arrival { node, delay_ms: 0 }];
    let script = Script {
        acts: vec![
            Act { what: What::SignedStop(Reach::Whatsapp), at_ms: 0, arrivals: at(0) },
            Act { what: OPT_IN, at_ms: DAY_MS, arrivals: at(1) },
        ],
        skew_ms: [0, 30 * DAY_MS, 0, 0],
        relay_ms: vec![2 * DAY_MS],
    };
    let mut world = World::new(&script, &rules, Clocks::Wild);
    world.run().unwrap();
    assert_eq!([world.answers(0, 7 * DAY_MS)[0], world.answers(1, 7 * DAY_MS)[0]], [Standing::Granted; 2]);
}

/// What an opt-in at `occurred` to offers on both channels, which names `named`, becomes where `record` is known.
fn recorded(record: &Record, occurred: Timestamp, named: EventId) -> Vec<Change> {
    let known = [Known { relation: Relation::Own, record }];
    let report = Report::OptIn(Grant::OffersOnBoth.report(occurred, vec![named]));
    let now = occurred.plus_ms(HOUR_MS);
    recorder::record(&[report], &known, Source::Caller, &script::rules(), now).unwrap().changes
}

/// The person opts out of everything, opts in again, and is then found never to have agreed on WhatsApp. The opt-out is reported behind the
/// finding, which is reported again; the opt-in names the opt-out, and reaches a node that knows of the finding alone.
#[test]
fn an_opt_in_in_vain_covers_nothing_that_is_not_known_yet() {
    let at = |minutes: i64| Timestamp(1_760_000_000_000).plus_ms(minutes * MINUTE_MS);
    let id = |sequence| EventId { origin: OriginId([1; 16]), sequence };
    let opt_in_id = EventId { origin: OriginId([2; 16]), sequence: 1 };
    let everything = Scope { channel: None, purpose: Purpose::All };
    let found = Change::Invalidate(Invalidate {
        scopes: vec![Scope { channel: Some(Channel::Whatsapp), purpose: Purpose::All }],
        cause: InvalidateCause::EvidenceFalse,
        time: at(9),
    });
    let opt_out = Change::OptOut(OptOut {
        scopes: vec![everything],
        time: at(0),
        stated: None,
        imported: false,
        inbound: None,
        method: OptOutMethod::WebForm,
        confirm_until: None,
    });
    let said = |changes: &[Change]| ConsentEvent {
        business: BusinessId::new("acme").unwrap(),
        subjects: vec![SUBJECT],
        forms: Vec::new(),
        recorded: at(20),
        request: None,
        rules_version: String::new(),
        numbered_late: false,
        changes: changes.to_vec(),
    };
    let mut by_then = Record::default();
    for (sequence, change) in [(1, &found), (2, &opt_out), (3, &found)] {
        by_then.apply(id(sequence), &said(std::slice::from_ref(change)), &SUBJECT);
    }
    let changes = recorded(&by_then, at(4), id(2));
    let stands = |known: &[(u64, &Change)], channel| {
        let mut record = Record::default();
        for (sequence, change) in known {
            record.apply(id(*sequence), &said(std::slice::from_ref(change)), &SUBJECT);
        }
        record.apply(opt_in_id, &said(&changes), &SUBJECT);
        let offers = script::topic("offers");
        let subject = Subject { channel, category: Category::Marketing, topic: Some(&offers) };
        let known = [Known { relation: Relation::Own, record: &record }];
        standing::standing(&known, &subject, &script::rules(), at(64)).standing
    };
    let all = [(1, &found), (2, &opt_out), (3, &found)];
    assert_ne!(stands(&all[..1], Channel::Whatsapp), Standing::Granted, "where only the finding is known");
    assert_ne!(stands(&all, Channel::Whatsapp), Standing::Granted);
    assert_eq!(stands(&all, Channel::Sms), Standing::Granted, "where nothing came after it");
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(1_760_000_000_000).plus_ms(seconds * SECOND_MS)
}

fn event_of(change: Change, numbered_late: bool) -> ConsentEvent {
    ConsentEvent {
        business: BusinessId::new("acme").unwrap(),
        subjects: vec![SUBJECT],
        forms: Vec::new(),
        recorded: at(0),
        request: None,
        rules_version: String::new(),
        numbered_late,
        changes: vec![change],
    }
}

/// Of all messages by SMS, in the person's own words or not.
fn out_by_sms(time: Timestamp, by_message: bool) -> Change {
    Change::OptOut(OptOut {
        scopes: vec![Scope { channel: Some(Channel::Sms), purpose: Purpose::All }],
        time,
        stated: None,
        imported: false,
        inbound: by_message.then_some((Channel::Sms, time)),
        method: OptOutMethod::Keyword,
        confirm_until: None,
    })
}

/// The order of the person's acts: STOP by SMS from one number, JOIN from the other, X on the web for the first. X is told before the STOP.
#[test]
fn a_program_joined_after_a_linked_numbers_stop_has_not_come_after_what_else_was_told_of_that_number() {
    let id = |sequence| EventId { origin: OriginId([1; 16]), sequence };
    let (own, mut linked) = (Record::default(), Record::default());
    linked.apply(id(9), &event_of(out_by_sms(at(0), true), false), &SUBJECT);
    let joins = |linked: &Record| {
        let known = [
            Known { relation: Relation::Own, record: &own },
            Known { relation: Relation::Link(SUBJECT), record: linked },
        ];
        let report = Grant::OffersOnBoth.report(at(10), Vec::new());
        let rules = script::rules();
        let changes = recorder::join_program(&report, Channel::Sms, at(10), &known, &rules, at(30));
        let Some(Change::OptIn(opt_in)) = changes.into_iter().next() else { panic!("an opt-in") };
        opt_in.covers
    };
    assert!(!joins(&linked).is_empty(), "the STOP alone is named");
    linked.apply(id(8), &event_of(out_by_sms(at(20), false), false), &SUBJECT);
    assert!(joins(&linked).is_empty());
}

/// Somebody who says STOP and START a hundred times, through an edge.
#[test]
fn start_renews_no_more_than_a_bounded_number_of_opt_ins() {
    let rules = script::rules();
    let id = |origin: u8, sequence| EventId { origin: OriginId([origin; 16]), sequence };
    let mut record = Record::default();
    for change in recorded(&record, at(0), id(1, 1)) {
        record.apply(id(2, 1), &event_of(change, true), &SUBJECT);
    }
    for cycle in 1..=100 {
        let stopped = at(cycle * 700);
        let sequence = u64::try_from(cycle).unwrap();
        record.apply(id(1, sequence), &event_of(out_by_sms(stopped, true), true), &SUBJECT);
        let known = [Known { relation: Relation::Own, record: &record }];
        let renewed = recorder::renew(
            Channel::Sms,
            stopped.plus_ms(MINUTE_MS),
            &known,
            &rules,
            stopped.plus_ms(MINUTE_MS),
        );
        assert!((1..=RENEWED_MAX).contains(&renewed.len()), "{cycle}: {}", renewed.len());
        for opt_in in renewed {
            assert!(opt_in.covers.alone().len() <= ALONE_MAX + 1, "{:?}", opt_in.covers);
            record.apply(id(2, sequence + 1), &event_of(Change::OptIn(opt_in), true), &SUBJECT);
        }
        let offers = script::topic("offers");
        let subject = Subject { channel: Channel::Sms, category: Category::Marketing, topic: Some(&offers) };
        let known = [Known { relation: Relation::Own, record: &record }];
        let standing = standing::standing(&known, &subject, &rules, stopped.plus_ms(2 * MINUTE_MS)).standing;
        assert_eq!(standing, Standing::Granted, "{cycle}");
    }
}

fn row() -> impl Strategy<Value = (What, i64)> {
    let reach = select(vec![Reach::Everything, Reach::Whatsapp, Reach::WhatsappOffers]);
    let grant = select(vec![Grant::WhatsappOffers, Grant::WhatsappMarketing]);
    let what = prop_oneof![reach.prop_map(What::ImportedStop), grant.prop_map(What::ImportedOptIn)];
    let at_ms = select(vec![0, HOUR_MS, DAY_MS, 2 * DAY_MS, 4 * DAY_MS - MINUTE_MS, 4 * DAY_MS - SECOND_MS]);
    (what, at_ms)
}

proptest! {
    /// Rows are read on the fourth day, in any order, beside what happened here.
    #[test]
    fn the_order_of_an_imports_rows_is_indifferent(
        (rows, shuffled) in vec(row(), 1..6)
            .prop_flat_map(|rows| (Just(rows.clone()), Just(rows).prop_shuffle())),
        live in select(vec![STOP, OPT_IN, START]),
    ) {
        let answers = |rows: &[(What, i64)]| {
            let rules = script::rules();
            let live_ms = 4 * DAY_MS - 2 * MINUTE_MS;
            let mut acts =
                vec![Act { what: live, at_ms: live_ms, arrivals: vec![Arrival { node: 0, delay_ms: 0 }] }];
            for (n, (what, at_ms)) in (0..).zip(rows) {
                let delay_ms = 4 * DAY_MS + n - at_ms;
                acts.push(Act { what: *what, at_ms: *at_ms, arrivals: vec![Arrival { node: 0, delay_ms }] });
            }
            let script = Script { acts, skew_ms: [0; CLOCKS], relay_ms: Vec::new() };
            let mut world = World::new(&script, &rules, Clocks::WithinMargin);
            world.run().map(|()| world.answers(0, 5 * DAY_MS))
        };
        prop_assert_eq!(answers(&rows), answers(&shuffled));
        prop_assert!(answers(&rows).is_ok());
    }
}
