//! Arbitrary events for property tests: every shape that the types allow, small pools where meetings matter. And what several tests
//! say of the same person.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use super::consent::Covers;
use super::event::{
    Change, ConsentEvent, Hold, Invalidate, LedgerEntry, OptIn, OptOut, Preference, Request, RequestMark,
    SenderEntry, TemplateEntry,
};
use super::evidence::{Evidence, ImportSource, Personal};
use super::ids::{BusinessId, EventId, Identifier, OriginId, SenderId, TopicId};
use super::report::OptInReport;
use super::time::Timestamp;
use super::types::{
    Category, Channel, ConsentType, EvidenceGrade, InvalidateCause, OptInMethod, OptOutMethod, Purpose,
    Quality, Scope, SenderStatus, TemplateStatus,
};

/// What a form says of an opt-in to offers at `occurred`; where and to what is the caller's to fill in.
pub(crate) fn opt_in_by_form(occurred: Timestamp) -> OptInReport {
    OptInReport {
        channels: Vec::new(),
        topics: Vec::new(),
        categories: Vec::new(),
        method: Some(OptInMethod::PreferenceForm),
        evidence: Evidence {
            business_name: "Acme".into(),
            message_types: vec!["offers".into()],
            ..Evidence::default()
        },
        consent_type: ConsentType::Express,
        supersedes: Vec::new(),
        occurred: Some(occurred),
        expire: None,
        confirms: None,
    }
}

/// Few origins, so that events of one origin meet.
pub(crate) fn origin() -> impl Strategy<Value = OriginId> {
    (1_u8..=3).prop_map(|n| OriginId([n; 16]))
}

/// Few events, so that an opt-in covers an opt-out now and then; sometimes a very high number.
pub(crate) fn event_id() -> impl Strategy<Value = EventId> {
    let sequence = prop_oneof![9 => 1_u64..=12, 1 => Just(u64::MAX)];
    (origin(), sequence).prop_map(|(origin, sequence)| EventId { origin, sequence })
}

/// Mostly within a minute of one another, so that they meet; sometimes anything.
pub(crate) fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        16 => (0_i64..=60).prop_map(|n| Timestamp(1_760_000_000_000 + n * 1_000)),
        1 => any::<i64>().prop_map(Timestamp),
        1 => select(vec![Timestamp::MIN, Timestamp(0), Timestamp::MAX]),
    ]
}

fn channel() -> impl Strategy<Value = Channel> {
    select(Channel::ALL)
}

fn category() -> impl Strategy<Value = Category> {
    select(Category::ALL)
}

fn topic() -> impl Strategy<Value = TopicId> {
    select(vec!["delivery_updates", "offers", "θέμα"]).prop_map(|text| TopicId::new(text).unwrap())
}

/// Any reach.
pub(crate) fn scope() -> impl Strategy<Value = Scope> {
    let purpose = prop_oneof![
        Just(Purpose::All),
        category().prop_map(Purpose::Category),
        topic().prop_map(Purpose::Topic),
    ];
    (of(channel()), purpose).prop_map(|(channel, purpose)| Scope { channel, purpose })
}

fn bound_scope() -> impl Strategy<Value = (Scope, Option<Category>)> {
    (scope(), of(category()))
}

/// Any set of covered opt-outs.
pub(crate) fn covers() -> impl Strategy<Value = Covers> {
    let linked = vec((subject(), event_id()), 0..3);
    (vec(event_id(), 0..4), vec(event_id(), 0..3), linked).prop_map(|(up_to, alone, linked)| {
        let mut covers: Covers = up_to.into_iter().collect();
        alone.into_iter().for_each(|id| covers.name_alone(id));
        linked.into_iter().for_each(|(who, id)| covers.raise_link(who, id));
        covers
    })
}

/// Any opt-out; it reaches something.
pub(crate) fn opt_out() -> impl Strategy<Value = OptOut> {
    (
        vec(scope(), 1..4),
        time(),
        of(time()),
        any::<bool>(),
        of((channel(), time())),
        select(OptOutMethod::ALL),
        of(time()),
    )
        .prop_map(|(scopes, time, stated, imported, inbound, method, confirm_until)| OptOut {
            scopes,
            time,
            stated,
            imported,
            inbound,
            method,
            confirm_until,
        })
}

/// Any opt-in, those that no recorder writes included.
pub(crate) fn opt_in() -> impl Strategy<Value = OptIn> {
    (
        (vec(bound_scope(), 0..4), time(), covers(), of(time()), any::<bool>(), of(time())),
        select(ConsentType::ALL),
        select(EvidenceGrade::ALL),
        select(OptInMethod::ALL),
        of(event_id()),
        of(event_id()),
    )
        .prop_map(
            |(
                (scopes, occurred, covers, before, imported, expire),
                consent_type,
                grade,
                method,
                confirms,
                renews,
            )| OptIn {
                scopes,
                occurred,
                covers,
                before,
                imported,
                expire,
                consent_type,
                grade,
                method,
                confirms,
                renews,
            },
        )
}

/// Any request for confirmation.
pub(crate) fn request() -> impl Strategy<Value = Request> {
    (
        (vec(bound_scope(), 0..4), channel(), time(), covers(), time(), of(time())),
        select(ConsentType::ALL),
        select(EvidenceGrade::ALL),
        select(OptInMethod::ALL),
    )
        .prop_map(
            |((scopes, via, occurred, covers, expire, opt_in_expire), consent_type, grade, method)| Request {
                scopes,
                via,
                occurred,
                covers,
                expire,
                opt_in_expire,
                consent_type,
                grade,
                method,
            },
        )
}

/// Any change.
pub(crate) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => opt_out().prop_map(Change::OptOut),
        3 => opt_in().prop_map(Change::OptIn),
        2 => request().prop_map(Change::Request),
        1 => (vec(scope(), 1..4), select(InvalidateCause::ALL), time())
            .prop_map(|(scopes, cause, time)| Change::Invalidate(Invalidate { scopes, cause, time })),
        1 => (channel(), any::<bool>(), time())
            .prop_map(|(channel, held, time)| Change::Hold(Hold { channel, held, time })),
        1 => (sender(), any::<bool>(), time())
            .prop_map(|(sender, stopped, time)| Change::Preference(Preference { sender, stopped, time })),
        1 => channel().prop_map(|channel| Change::Help { channel }),
    ]
}

fn business() -> impl Strategy<Value = BusinessId> {
    "[a-z0-9-]{1,24}|\\PC{1,8}".prop_map(|text| BusinessId::new(&text).unwrap())
}

fn sender() -> impl Strategy<Value = SenderId> {
    select(vec!["109876543210", "+12025550142"]).prop_map(|text| SenderId::new(text).unwrap())
}

/// Few people, so that they meet.
pub(crate) fn subject() -> impl Strategy<Value = Identifier> {
    (1_u8..=4).prop_map(|n| Identifier([n; 32]))
}

fn request_mark() -> impl Strategy<Value = RequestMark> {
    // Few keys and contents: the same request comes again, with other content, too.
    (0_u8..4, 0_u8..3).prop_map(|(key, content)| RequestMark { key: [key; 8], content: [content; 8] })
}

/// Any consent event; it has a subject.
pub(crate) fn consent_event() -> impl Strategy<Value = ConsentEvent> {
    let caller = (of(request_mark()), "[a-z0-9:.-]{0,16}", any::<bool>());
    // Few, and unlike any subject's: an event says nothing of the forms but that they are some.
    let forms = vec((11_u8..=13).prop_map(|n| Identifier([n; 32])), 0..3);
    (business(), (vec(subject(), 1..4), forms), time(), caller, vec(change(), 0..4)).prop_map(
        |(business, (subjects, forms), recorded, (request, rules_version, numbered_late), changes)| {
            ConsentEvent {
                business,
                subjects,
                forms,
                recorded,
                request,
                rules_version,
                numbered_late,
                changes,
            }
        },
    )
}

fn template() -> impl Strategy<Value = TemplateEntry> {
    (
        business(),
        ".{0,12}",
        "[a-z]{2}(_[A-Z]{2})?",
        category(),
        of(topic()),
        select(TemplateStatus::ALL),
        select(Quality::ALL),
        (any::<bool>(), of(time()), time()),
    )
        .prop_map(
            |(
                business,
                name,
                language,
                category,
                topic,
                status,
                quality,
                (has_opt_out_instructions, pause_until, time),
            )| {
                TemplateEntry {
                    business,
                    name,
                    language,
                    category,
                    topic,
                    status,
                    quality,
                    has_opt_out_instructions,
                    pause_until,
                    time,
                }
            },
        )
}

/// Any entry of the ledger.
pub(crate) fn ledger_entry() -> impl Strategy<Value = LedgerEntry> {
    prop_oneof![
        4 => consent_event().prop_map(LedgerEntry::Consent),
        1 => template().prop_map(LedgerEntry::Template),
        1 => (business(), sender(), select(Quality::ALL), select(SenderStatus::ALL), of(time()), time())
            .prop_map(|(business, sender, quality, status, status_until, time)| {
                LedgerEntry::Sender(SenderEntry { business, sender, quality, status, status_until, time })
            }
        ),
        1 => (business(), subject(), time(), any::<u64>()).prop_map(
            |(business, subject, recorded, events)| {
                LedgerEntry::Erasure { business, subject, recorded, events }
            }
        ),
        1 => (origin(), any::<u64>(), time()).prop_map(|(origin, from_sequence, recorded)| {
            LedgerEntry::Distrust { origin, from_sequence, recorded }
        }),
    ]
}

fn evidence() -> impl Strategy<Value = Evidence> {
    (vec(".{0,8}", 17), vec(".{0,8}", 0..3), vec(".{0,8}", 0..3), vec(any::<u8>(), 0..33)).prop_map(
        |(mut texts, channels_named, message_types, notice_sha256)| {
            let mut next = || texts.pop().unwrap();
            Evidence {
                method_detail: next(),
                business_name: next(),
                channels_named,
                message_types,
                notice_text: next(),
                notice_uri: next(),
                notice_sha256,
                notice_version: next(),
                language: next(),
                action: next(),
                source_url: next(),
                ip: next(),
                user_agent: next(),
                message_id: next(),
                call_id: next(),
                operator: next(),
                collected_by: next(),
                campaign_id: next(),
                jurisdiction: next(),
                age_statement: next(),
            }
        },
    )
}

/// Any personal fields.
pub(crate) fn personal() -> impl Strategy<Value = Personal> {
    let source = ("[a-z0-9]{0,12}", vec(any::<u8>(), 0..33), any::<u64>())
        .prop_map(|(import_id, sha256, row)| ImportSource { import_id, sha256, row });
    (vec(evidence(), 0..3), vec(".{0,12}", 0..3), ".{0,12}", ".{0,12}", of(source)).prop_map(
        |(evidence, texts, actor, request_id, source)| Personal {
            evidence,
            texts,
            actor,
            request_id,
            source,
        },
    )
}
