use std::fmt::Write as _;

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::pb::ledger::v1 as pb;
use crate::policy::event::{
    Change, ConsentEvent, Hold, Invalidate, LedgerEntry, OptIn, OptOut, Preference, Request, RequestMark,
    SenderEntry, TemplateEntry,
};
use crate::policy::evidence::{Evidence, ImportSource, Personal};
use crate::policy::ids::{BusinessId, EventId, Identifier, OriginId, SenderId, TopicId};
use crate::policy::strategies;
use crate::policy::time::{DAY_MS, MINUTE_MS, Timestamp};
use crate::policy::types::{
    Category, Channel, ConsentType, EvidenceGrade, InvalidateCause, OptInMethod, OptOutMethod, Purpose,
    Quality, Scope, SenderStatus, TemplateStatus,
};

/// The most that an ordinary opt-out may take, in bytes.
const OPT_OUT_LEN_MAX: usize = 120;
/// The most that an ordinary opt-in may take, in bytes.
const OPT_IN_LEN_MAX: usize = 200;

const NOW: Timestamp = Timestamp(1_760_000_000_000);

proptest! {
    #[test]
    fn entries_come_back_as_they_were(entry in strategies::ledger_entry()) {
        let bytes = encode_entry(&entry);
        prop_assert_eq!(decode_entry(&bytes), Ok(entry.clone()));
        prop_assert_eq!(encode_entry(&entry), bytes);
    }

    #[test]
    fn personal_fields_come_back_as_they_were(personal in strategies::personal()) {
        let bytes = encode_personal(&personal);
        prop_assert!(decode_personal(&bytes) == Ok(personal.clone()));
        prop_assert_eq!(encode_personal(&personal), bytes);
    }

    #[test]
    fn garbage_is_a_fault_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_entry(&bytes);
        let _ = decode_personal(&bytes);
        let _ = salvage_opt_outs(&bytes);
    }

    #[test]
    fn damage_never_panics(
        entry in strategies::ledger_entry(),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode_entry(&entry);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = decode_entry(&bytes);
        let _ = salvage_opt_outs(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode_entry(&bytes);
    }

    #[test]
    fn every_opt_out_of_an_event_can_be_salvaged(event in strategies::consent_event()) {
        let outs: Vec<_> = event
            .changes
            .iter()
            .filter(|change| matches!(change, Change::OptOut(_)))
            .cloned()
            .collect();
        let bytes = encode_entry(&LedgerEntry::Consent(event.clone()));
        let salvaged = salvage_opt_outs(&bytes);
        if outs.is_empty() {
            prop_assert_eq!(salvaged, None);
        } else {
            prop_assert_eq!(salvaged, Some(ConsentEvent { changes: outs, ..event }));
        }
    }
}

fn id(origin: u8, sequence: u64) -> EventId {
    EventId { origin: OriginId([origin; 16]), sequence }
}

fn business() -> BusinessId {
    BusinessId::new("acme-stores").unwrap()
}

fn topic() -> TopicId {
    TopicId::new("delivery_updates").unwrap()
}

fn on(channel: Channel, purpose: Purpose) -> Scope {
    Scope { channel: Some(channel), purpose }
}

fn event(changes: Vec<Change>) -> ConsentEvent {
    ConsentEvent {
        business: business(),
        subjects: vec![Identifier([0xa5; 32])],
        forms: Vec::new(),
        recorded: NOW,
        request: Some(RequestMark { key: [1; 8], content: [2; 8] }),
        rules_version: "9f86d081884c7d65".into(),
        numbered_late: false,
        changes,
    }
}

fn opt_out() -> OptOut {
    OptOut {
        scopes: vec![on(Channel::Whatsapp, Purpose::All)],
        time: NOW,
        stated: Some(NOW.minus_ms(1_500)),
        imported: false,
        inbound: Some((Channel::Whatsapp, NOW.minus_ms(1_500))),
        method: OptOutMethod::Keyword,
        confirm_until: Some(NOW.plus_ms(5 * MINUTE_MS)),
    }
}

fn opt_in() -> OptIn {
    OptIn {
        scopes: vec![
            (on(Channel::Whatsapp, Purpose::Topic(topic())), None),
            (on(Channel::Whatsapp, Purpose::Category(Category::Utility)), None),
        ],
        occurred: NOW.minus_ms(2_000),
        covers: [id(1, 70_000)].into_iter().collect(),
        before: Some(NOW.minus_ms(2_000 + 5 * MINUTE_MS)),
        imported: false,
        expire: None,
        consent_type: ConsentType::Express,
        grade: EvidenceGrade::Strict,
        method: OptInMethod::CheckoutFlow,
        confirms: None,
        renews: None,
    }
}

fn request() -> Request {
    Request {
        scopes: vec![(on(Channel::Whatsapp, Purpose::Topic(topic())), Some(Category::Marketing))],
        via: Channel::Sms,
        occurred: NOW,
        covers: [id(2, 3), id(1, 9)].into_iter().collect(),
        expire: NOW.plus_ms(DAY_MS),
        opt_in_expire: Some(NOW.plus_ms(365 * DAY_MS)),
        consent_type: ConsentType::Express,
        grade: EvidenceGrade::Basic,
        method: OptInMethod::IvrKeyPress,
    }
}

/// One entry of each kind, with every field set somewhere.
fn samples() -> Vec<(&'static str, LedgerEntry)> {
    let consent = |change| LedgerEntry::Consent(event(vec![change]));
    let imported = OptOut {
        scopes: vec![
            Scope { channel: None, purpose: Purpose::All },
            on(Channel::Email, Purpose::Category(Category::Marketing)),
            on(Channel::Voice, Purpose::Topic(topic())),
        ],
        time: Timestamp(-1),
        stated: None,
        imported: true,
        inbound: None,
        method: OptOutMethod::Import,
        confirm_until: None,
    };
    let confirmed = OptIn {
        expire: Some(NOW.plus_ms(DAY_MS)),
        imported: true,
        before: None,
        confirms: Some(id(3, 5)),
        renews: Some(id(4, 6)),
        consent_type: ConsentType::SoftOptIn,
        ..opt_in()
    };
    let both = ConsentEvent {
        subjects: vec![Identifier([1; 32]), Identifier([2; 32])],
        request: None,
        ..event(vec![Change::OptOut(opt_out()), Change::OptIn(confirmed)])
    };
    let mut alone = opt_in();
    [id(1, 5), id(2, 8)].into_iter().for_each(|id| alone.covers.name_alone(id));
    alone.covers.raise_link(Identifier([7; 32]), id(2, 3));
    let mut asked = request();
    asked.covers.name_alone(id(5, 4));
    let by_edge = ConsentEvent {
        numbered_late: true,
        ..event(vec![Change::OptOut(opt_out()), Change::OptIn(alone), Change::Request(asked)])
    };
    let linked = ConsentEvent {
        subjects: vec![Identifier([1; 32]), Identifier([2; 32])],
        forms: vec![Identifier([3; 32])],
        ..event(vec![Change::OptIn(opt_in())])
    };
    vec![
        ("opt_out", consent(Change::OptOut(opt_out()))),
        ("opt_out_imported", consent(Change::OptOut(imported))),
        ("opt_in", consent(Change::OptIn(opt_in()))),
        ("request", consent(Change::Request(request()))),
        (
            "invalidate",
            consent(Change::Invalidate(Invalidate {
                scopes: vec![Scope { channel: None, purpose: Purpose::All }],
                cause: InvalidateCause::NumberReassigned,
                time: NOW.minus_ms(10),
            })),
        ),
        ("hold", consent(Change::Hold(Hold { channel: Channel::Sms, held: true, time: NOW }))),
        ("hold_released", consent(Change::Hold(Hold { channel: Channel::Sms, held: false, time: NOW }))),
        (
            "preference",
            consent(Change::Preference(Preference {
                sender: SenderId::new("109876543210").unwrap(),
                stopped: false,
                time: NOW.minus_ms(700),
            })),
        ),
        ("help", consent(Change::Help { channel: Channel::Email })),
        ("opt_out_and_opt_in", LedgerEntry::Consent(both)),
        (
            "template",
            LedgerEntry::Template(TemplateEntry {
                business: business(),
                name: "order_shipped".into(),
                language: "en_US".into(),
                category: Category::Utility,
                topic: Some(topic()),
                status: TemplateStatus::Approved,
                quality: Quality::Green,
                has_opt_out_instructions: true,
                pause_until: Some(NOW.plus_ms(DAY_MS)),
                time: NOW,
            }),
        ),
        (
            "sender",
            LedgerEntry::Sender(SenderEntry {
                business: business(),
                sender: SenderId::new("109876543210").unwrap(),
                quality: Quality::Yellow,
                status: SenderStatus::Flagged,
                status_until: None,
                time: NOW,
            }),
        ),
        (
            "erasure",
            LedgerEntry::Erasure {
                business: business(),
                subject: Identifier([7; 32]),
                recorded: NOW,
                events: 3,
            },
        ),
        ("distrust", LedgerEntry::Distrust { origin: OriginId([6; 16]), from_sequence: 101, recorded: NOW }),
        ("numbered_late", LedgerEntry::Consent(by_edge)),
        ("linked_forms", LedgerEntry::Consent(linked)),
    ]
}

fn personal_sample() -> Personal {
    let text = |field: &str| format!("the {field}");
    Personal {
        evidence: vec![
            Evidence::default(),
            Evidence {
                method_detail: text("detail"),
                business_name: text("name"),
                channels_named: vec!["WhatsApp".into(), "SMS".into()],
                message_types: vec!["delivery_updates".into()],
                notice_text: text("notice"),
                notice_uri: text("uri"),
                notice_sha256: vec![9; 32],
                notice_version: text("version"),
                language: text("language"),
                action: text("action"),
                source_url: text("url"),
                ip: text("ip"),
                user_agent: text("agent"),
                message_id: text("message"),
                call_id: text("call"),
                operator: text("operator"),
                collected_by: text("collector"),
                campaign_id: text("campaign"),
                jurisdiction: text("law"),
                age_statement: text("age"),
            },
        ],
        texts: vec!["STOP".into(), String::new()],
        actor: text("actor"),
        request_id: text("request"),
        source: Some(ImportSource { import_id: text("import"), sha256: vec![8; 32], row: 12 }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Ledgers exist that hold these bytes. If this fails, the format changed: change it back.
#[test]
fn the_format_is_the_one_on_disk() {
    let golden = include_str!("../../../tests/golden/ledger_payloads.txt");
    let mut found = String::new();
    for (name, entry) in samples() {
        let _ = writeln!(found, "{name} {}", hex(&encode_entry(&entry)));
    }
    let _ = writeln!(found, "personal {}", hex(&encode_personal(&personal_sample())));
    let golden: String =
        golden.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert_eq!(found, golden);

    let mut bytes = golden.lines().map(|line| unhex(line.split_once(' ').unwrap().1));
    for ((name, entry), bytes) in samples().into_iter().zip(&mut bytes) {
        assert_eq!(decode_entry(&bytes), Ok(entry), "{name}");
    }
    assert!(decode_personal(&bytes.next().unwrap()) == Ok(personal_sample()));
}

#[test]
fn ordinary_events_are_small() {
    let len = |change| encode_entry(&LedgerEntry::Consent(event(vec![change]))).len();
    assert!(len(Change::OptOut(opt_out())) <= OPT_OUT_LEN_MAX, "{}", len(Change::OptOut(opt_out())));
    assert!(len(Change::OptIn(opt_in())) <= OPT_IN_LEN_MAX, "{}", len(Change::OptIn(opt_in())));
}

/// The event as a newer version could have written it.
fn altered(changes: Vec<Change>, alter: impl FnOnce(&mut pb::ConsentEvent)) -> Vec<u8> {
    let bytes = encode_entry(&LedgerEntry::Consent(event(changes)));
    let mut entry = pb::LedgerEntry::decode(&bytes[..]).unwrap();
    let Some(pb::ledger_entry::Entry::Consent(written)) = &mut entry.entry else { panic!("a consent event") };
    alter(written);
    entry.encode_to_vec()
}

fn written_out(event: &mut pb::ConsentEvent) -> &mut pb::OptOut {
    match &mut event.changes[0].change {
        Some(pb::change::Change::OptOut(out)) => out,
        other => panic!("an opt-out, not {other:?}"),
    }
}

fn written_in(event: &mut pb::ConsentEvent) -> &mut pb::OptIn {
    match &mut event.changes[0].change {
        Some(pb::change::Change::OptIn(opt_in)) => opt_in,
        other => panic!("an opt-in, not {other:?}"),
    }
}

const UNKNOWN: i32 = 99;

#[test]
fn an_opt_out_with_unknown_parts_is_widened() {
    let read = |alter: &dyn Fn(&mut pb::OptOut)| {
        let bytes = altered(vec![Change::OptOut(opt_out())], |event| alter(written_out(event)));
        match decode_entry(&bytes) {
            Ok(LedgerEntry::Consent(ConsentEvent { changes, .. })) => {
                match <[Change; 1]>::try_from(changes) {
                    Ok([Change::OptOut(out)]) => out,
                    other => panic!("one opt-out, not {other:?}"),
                }
            }
            other => panic!("an event, not {other:?}"),
        }
    };
    let everything = [Scope { channel: None, purpose: Purpose::All }];

    assert_eq!(read(&|out| out.method = UNKNOWN), OptOut { method: OptOutMethod::Unknown, ..opt_out() });
    assert_eq!(read(&|out| out.method = 0).method, OptOutMethod::Unknown);
    for channel in [0, UNKNOWN, pb::Channel::Every as i32] {
        assert_eq!(read(&|out| out.scopes[0].channel = channel).scopes, everything);
    }
    for purpose in [
        None,
        Some(pb::scope::Purpose::Everything(false)),
        Some(pb::scope::Purpose::Category(UNKNOWN)),
        Some(pb::scope::Purpose::Topic(String::new())),
        Some(pb::scope::Purpose::Topic("x".repeat(129))),
    ] {
        let out = read(&|out| out.scopes[0].purpose = purpose.clone());
        assert_eq!(out.scopes, [on(Channel::Whatsapp, Purpose::All)], "{purpose:?}");
    }
    assert_eq!(read(&|out| out.scopes.clear()).scopes, everything);
    let unknown = pb::Inbound { channel: UNKNOWN, provider_time_offset_ms: 0 };
    assert_eq!(read(&|out| out.inbound = Some(unknown)).inbound, None);
}

#[test]
fn an_opt_out_holds_whatever_version_it_needs() {
    let outs = event(vec![Change::OptOut(opt_out())]);
    let mut entry = pb::LedgerEntry::decode(&encode_entry(&LedgerEntry::Consent(outs.clone()))[..]).unwrap();
    entry.needs_reader = READER_VERSION + 1;
    assert_eq!(decode_entry(&entry.encode_to_vec()), Ok(LedgerEntry::Consent(outs)));

    let bytes = altered(vec![Change::OptOut(opt_out())], |event| event.request.push(0));
    assert!(matches!(decode_entry(&bytes), Ok(LedgerEntry::Consent(ConsentEvent { request: None, .. }))));
}

#[test]
fn what_a_newer_version_restricts_is_refused_but_its_opt_outs_hold() {
    let both = event(vec![Change::OptOut(opt_out()), Change::OptIn(opt_in())]);
    let mut entry = pb::LedgerEntry::decode(&encode_entry(&LedgerEntry::Consent(both))[..]).unwrap();
    entry.needs_reader = READER_VERSION;
    assert!(decode_entry(&entry.encode_to_vec()).is_ok());
    entry.needs_reader = READER_VERSION + 1;
    let bytes = entry.encode_to_vec();
    assert_eq!(decode_entry(&bytes), Err(PayloadFault::Newer { needs_reader: READER_VERSION + 1 }));
    assert_eq!(salvage_opt_outs(&bytes), Some(event(vec![Change::OptOut(opt_out())])));

    // A kind of change that does not exist yet, beside an opt-out.
    let bytes = altered(vec![Change::OptOut(opt_out())], |event| {
        event.changes.push(pb::Change { change: None });
    });
    assert_eq!(decode_entry(&bytes), Err(PayloadFault::Unknown { field: "change" }));
    assert_eq!(salvage_opt_outs(&bytes), Some(event(vec![Change::OptOut(opt_out())])));
}

#[test]
fn an_opt_in_with_unknown_parts_is_refused() {
    type Alter = fn(&mut pb::OptIn);
    let cases: &[(&str, Alter)] = &[
        ("channel", |opt_in| opt_in.scopes[0].channel = 0),
        ("channel", |opt_in| opt_in.scopes[0].channel = UNKNOWN),
        ("purpose", |opt_in| opt_in.scopes[0].purpose = None),
        ("purpose", |opt_in| opt_in.scopes[0].purpose = Some(pb::scope::Purpose::Everything(false))),
        ("category", |opt_in| opt_in.scopes[0].purpose = Some(pb::scope::Purpose::Category(UNKNOWN))),
        ("within", |opt_in| opt_in.scopes[0].within = UNKNOWN),
        ("consent_type", |opt_in| opt_in.consent_type = UNKNOWN),
        ("consent_type", |opt_in| opt_in.consent_type = 0),
        ("grade", |opt_in| opt_in.grade = UNKNOWN),
        ("method", |opt_in| opt_in.method = UNKNOWN),
        ("covers", |opt_in| opt_in.covers[0].sequence = 0),
    ];
    for (field, alter) in cases {
        let bytes = altered(vec![Change::OptIn(opt_in())], |event| alter(written_in(event)));
        assert_eq!(decode_entry(&bytes), Err(PayloadFault::Unknown { field }), "{field}");
    }
    let bytes = altered(vec![Change::OptIn(opt_in())], |event| {
        written_in(event).covers[0].origin.push(0);
    });
    assert_eq!(decode_entry(&bytes), Err(PayloadFault::Length { field: "covers", len: 17 }));
}

#[test]
fn whose_an_event_is_must_be_known_even_of_an_opt_out() {
    let outs = || vec![Change::OptOut(opt_out())];
    let bytes = altered(outs(), |event| event.subjects.clear());
    assert_eq!(decode_entry(&bytes), Err(PayloadFault::Unknown { field: "subjects" }));
    let bytes = altered(outs(), |event| {
        event.subjects[0].pop();
    });
    assert_eq!(decode_entry(&bytes), Err(PayloadFault::Length { field: "subjects", len: 31 }));
    assert_eq!(salvage_opt_outs(&bytes), None);
    let bytes = altered(outs(), |event| event.business.clear());
    assert_eq!(
        decode_entry(&bytes),
        Err(PayloadFault::Id { field: "business", fault: crate::policy::ids::IdFault::Empty })
    );
}

#[test]
fn an_empty_payload_is_no_entry() {
    assert_eq!(decode_entry(&[]), Err(PayloadFault::Unknown { field: "entry" }));
}

#[test]
fn an_unknown_template_status_never_permits() {
    let (_, template) = samples().into_iter().find(|(name, _)| *name == "template").unwrap();
    let mut entry = pb::LedgerEntry::decode(&encode_entry(&template)[..]).unwrap();
    let Some(pb::ledger_entry::Entry::Template(written)) = &mut entry.entry else { panic!("a template") };
    written.status = UNKNOWN;
    match decode_entry(&entry.encode_to_vec()) {
        Ok(LedgerEntry::Template(template)) => assert_eq!(template.status, TemplateStatus::Unknown),
        other => panic!("a template, not {other:?}"),
    }
}

#[test]
fn personal_fields_do_not_print() {
    let blob = pb::Personal::decode(&encode_personal(&personal_sample())[..]).unwrap();
    for text in [format!("{blob:?}"), format!("{:?}", blob.evidence)] {
        assert!(text.contains("redacted") && !text.contains("the "), "{text}");
    }
}

#[test]
fn an_older_reader_refuses_what_permits_beside_forms_that_it_would_drop() {
    let linked = ConsentEvent { forms: vec![Identifier([3; 32])], ..event(vec![Change::OptIn(opt_in())]) };
    let needs = |event| {
        let bytes = encode_entry(&LedgerEntry::Consent(event));
        pb::LedgerEntry::decode(&bytes[..]).unwrap().needs_reader
    };
    assert_eq!(needs(linked.clone()), 2);
    assert_eq!(needs(ConsentEvent { forms: Vec::new(), ..linked.clone() }), 0);
    assert_eq!(needs(ConsentEvent { changes: Vec::new(), ..linked }), 0, "a link is better known than not");
}

#[test]
fn a_form_that_cannot_be_read_costs_no_opt_out() {
    let alter = |event: &mut pb::ConsentEvent| event.forms = vec![vec![3; 31], vec![4; 32]];
    let bytes = altered(vec![Change::OptOut(opt_out())], alter);
    let read = ConsentEvent { forms: vec![Identifier([4; 32])], ..event(vec![Change::OptOut(opt_out())]) };
    assert_eq!(decode_entry(&bytes), Ok(LedgerEntry::Consent(read)));
    let bytes = altered(vec![Change::OptIn(opt_in())], alter);
    assert_eq!(decode_entry(&bytes), Err(PayloadFault::Length { field: "forms", len: 31 }));
}
