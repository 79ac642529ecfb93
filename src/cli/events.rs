//! Consent events as people and spreadsheets read them: the audit trail's lines and the export's cells.

use prost_types::Timestamp;

use super::{text, words};
use crate::pb::v1;
use crate::pb::v1::consent_event::Kind;

/// What happened, in one word.
#[must_use]
pub fn kind_word(kind: Option<&Kind>) -> &'static str {
    match kind {
        None => "UNKNOWN",
        Some(Kind::OptIn(_)) => "OPT_IN",
        Some(Kind::OptOut(_)) => "OPT_OUT",
        Some(Kind::OptInRequest(_)) => "OPT_IN_REQUEST",
        Some(Kind::Invalidate(_)) => "INVALIDATE",
        Some(Kind::Release(_)) => "RELEASE",
        Some(Kind::Hold(_)) => "HOLD",
        Some(Kind::Link(_)) => "LINK",
        Some(Kind::SenderPreference(_)) => "SENDER_PREFERENCE",
        Some(Kind::HelpRequest(_)) => "HELP_REQUEST",
    }
}

/// The columns of a flat event: those of [`flat`], in its order.
pub const COLUMNS: [&str; 58] = [
    "event_id",
    "origin",
    "sequence",
    "business_id",
    "recipient_ref",
    "also_refs",
    "kind",
    "channels",
    "topics",
    "categories",
    "occurred_time",
    "recorded_time",
    "method",
    "consent_type",
    "evidence_grade",
    "expire_time",
    "via",
    "confirms",
    "cause",
    "release",
    "sender_id",
    "suppressed",
    "text",
    "note",
    "link_refs",
    "supersedes",
    "covers",
    "beats_before_time",
    "method_detail",
    "business_name",
    "channels_named",
    "message_types",
    "notice_text",
    "notice_uri",
    "notice_sha256",
    "notice_version",
    "language",
    "action",
    "source_url",
    "ip",
    "user_agent",
    "message_id",
    "call_id",
    "operator",
    "collected_by",
    "campaign_id",
    "jurisdiction",
    "age_statement",
    "actor_kind",
    "actor_id",
    "request_id",
    "import_id",
    "import_sha256",
    "import_row",
    "rules_version",
    "schema_version",
    "erased",
    "distrusted",
];

/// An event as cells, one for each of [`COLUMNS`]; lists are joined by `;`, what does not apply is empty.
#[must_use]
pub fn flat(event: &v1::ConsentEvent) -> [String; COLUMNS.len()] {
    let v1::ConsentEvent {
        event: id,
        business_id,
        recipient_ref,
        also_refs,
        kind,
        occurred_time,
        recorded_time,
        request_id,
        actor,
        evidence_grade,
        rules_version,
        source,
        erased,
        schema_version,
        covers,
        beats_before_time,
        distrusted,
    } = event;
    let id = id.clone().unwrap_or_default();
    let v1::Actor { kind: actor_kind, id: actor_id } = actor.clone().unwrap_or_default();
    let v1::ImportSource { import_id, sha256, row } = source.clone().unwrap_or_default();
    let said = said(kind.as_ref());
    let v1::Evidence {
        method: _,
        method_detail,
        business_name,
        channels_named,
        message_types,
        notice_text,
        notice_uri,
        notice_sha256,
        notice_version,
        language,
        action,
        source_url,
        ip,
        user_agent,
        message_id,
        call_id,
        operator,
        collected_by,
        campaign_id,
        jurisdiction,
        age_statement,
    } = said.evidence;
    [
        if id.sequence == 0 { String::new() } else { text::event(&id) },
        id.origin.clone(),
        id.sequence.to_string(),
        business_id.clone(),
        recipient_ref.clone(),
        also_refs.join(";"),
        kind_word(kind.as_ref()).to_owned(),
        words::join::<v1::Channel>(&said.channels, ";"),
        said.topics.join(";"),
        words::join::<v1::Category>(&said.categories, ";"),
        at(occurred_time.as_ref()),
        at(recorded_time.as_ref()),
        said.method,
        words::some::<v1::ConsentType>(said.consent_type).into_owned(),
        words::some::<v1::EvidenceGrade>(*evidence_grade).into_owned(),
        at(said.expire.as_ref()),
        words::some::<v1::Channel>(said.via).into_owned(),
        said.confirms.as_ref().map(text::event).unwrap_or_default(),
        words::some::<v1::InvalidateCause>(said.cause).into_owned(),
        said.release.to_owned(),
        said.sender_id,
        said.suppressed.map(|suppressed| suppressed.to_string()).unwrap_or_default(),
        said.text,
        said.note,
        said.link_refs.join(";"),
        ids(&said.supersedes),
        ids(covers),
        at(beats_before_time.as_ref()),
        method_detail,
        business_name,
        words::join::<v1::Channel>(&channels_named, ";"),
        message_types.join(";"),
        notice_text,
        notice_uri,
        notice_sha256,
        notice_version,
        language,
        action,
        source_url,
        ip,
        user_agent,
        message_id,
        call_id,
        operator,
        collected_by,
        campaign_id,
        jurisdiction,
        age_statement,
        words::some::<v1::ActorKind>(actor_kind).into_owned(),
        actor_id,
        request_id.clone(),
        import_id,
        sha256,
        if row == 0 { String::new() } else { row.to_string() },
        rules_version.clone(),
        schema_version.clone(),
        erased.to_string(),
        distrusted.to_string(),
    ]
}

fn at(time: Option<&Timestamp>) -> String {
    time.map(text::time).unwrap_or_default()
}

fn ids(ids: &[v1::EventId]) -> String {
    ids.iter().map(text::event).collect::<Vec<_>>().join(";")
}

/// What the kinds of events have in common, and what each has of its own.
#[derive(Default)]
struct Said {
    channels: Vec<i32>,
    topics: Vec<String>,
    categories: Vec<i32>,
    method: String,
    consent_type: i32,
    expire: Option<Timestamp>,
    via: i32,
    confirms: Option<v1::EventId>,
    cause: i32,
    sender_id: String,
    suppressed: Option<bool>,
    text: String,
    note: String,
    release: &'static str,
    link_refs: Vec<String>,
    supersedes: Vec<v1::EventId>,
    evidence: v1::Evidence,
}

fn said(kind: Option<&Kind>) -> Said {
    let Some(kind) = kind else { return Said::default() };
    let opt_in_method =
        |evidence: &v1::Evidence| words::some::<v1::OptInMethod>(evidence.method).into_owned();
    match kind.clone() {
        Kind::OptIn(v1::OptIn {
            channels,
            topics,
            categories,
            evidence,
            consent_type,
            supersedes,
            expire_time,
            confirms,
        }) => {
            let evidence = evidence.unwrap_or_default();
            let method = opt_in_method(&evidence);
            Said {
                channels,
                topics,
                categories,
                method,
                consent_type,
                expire: expire_time,
                confirms,
                supersedes,
                evidence,
                ..Said::default()
            }
        }
        Kind::OptOut(v1::OptOut { channels, topics, categories, method, text }) => {
            let method = words::some::<v1::OptOutMethod>(method).into_owned();
            Said { channels, topics, categories, method, text, ..Said::default() }
        }
        Kind::OptInRequest(v1::OptInRequest {
            via,
            channels,
            topics,
            categories,
            evidence,
            expire_time,
            consent_type,
        }) => {
            let evidence = evidence.unwrap_or_default();
            let method = opt_in_method(&evidence);
            let expire = expire_time;
            Said {
                channels,
                topics,
                categories,
                method,
                consent_type,
                expire,
                via,
                evidence,
                ..Said::default()
            }
        }
        Kind::Invalidate(v1::Invalidate { cause, channels, topics, categories }) => {
            Said { cause, channels, topics, categories, ..Said::default() }
        }
        Kind::Release(v1::Release { suppression, note }) => match suppression {
            Some(v1::release::Suppression::Hold(v1::HoldRelease { channels })) => {
                Said { channels, note, release: "HOLD", ..Said::default() }
            }
            Some(v1::release::Suppression::Sender(v1::SenderSuppressionRelease { sender_id })) => {
                Said { sender_id, note, release: "SENDER", ..Said::default() }
            }
            None => Said { note, ..Said::default() },
        },
        Kind::Hold(v1::Hold { channel }) | Kind::HelpRequest(v1::HelpRequest { channel }) => {
            Said { channels: vec![channel], ..Said::default() }
        }
        Kind::Link(v1::IdentifierLink { recipient_refs }) => {
            Said { link_refs: recipient_refs, ..Said::default() }
        }
        Kind::SenderPreference(v1::SenderPreference { sender_id, suppressed }) => {
            Said { sender_id, suppressed: Some(suppressed), ..Said::default() }
        }
    }
}

/// Columns that an entry of the audit trail already shows in its first line, or that only machines need.
const IN_FIRST_LINE: [&str; 14] = [
    "origin",
    "sequence",
    "business_id",
    "recipient_ref",
    "kind",
    "channels",
    "topics",
    "categories",
    "occurred_time",
    "schema_version",
    "covers",
    "erased",
    "distrusted",
    "event_id",
];

/// A column's name for people.
fn label(column: &str) -> String {
    match column {
        "beats_before_time" => "beats STOP before".into(),
        "import_sha256" => "import file".into(),
        column => column.strip_suffix("_time").unwrap_or(column).replace('_', " "),
    }
}

/// An event as an entry of the audit trail: a first line, then everything it holds.
#[must_use]
pub fn entry(event: &v1::ConsentEvent) -> String {
    let kind = event.kind.as_ref();
    let what = said(kind);
    let mut lines = text::Lines::new();
    let about = match kind {
        Some(Kind::Link(_) | Kind::SenderPreference(_)) | None => String::new(),
        Some(Kind::Hold(_) | Kind::HelpRequest(_) | Kind::Release(_)) => {
            format!(" on {}", words::join::<v1::Channel>(&what.channels, ", "))
        }
        Some(_) => format!(" {}", super::fault::scope(&what.channels, &what.topics, &what.categories)),
    };
    let when = text::moment(event.occurred_time.as_ref());
    lines.line(format!("{when}  {}{}", kind_word(kind), text::clean(&about)));
    lines.row("event", text::some_event(event.event.as_ref()));
    for (column, cell) in COLUMNS.iter().zip(flat(event)) {
        if !IN_FIRST_LINE.contains(column) {
            lines.row(label(column).as_str(), cell);
        }
    }
    if event.erased {
        lines.row("erased", "the personal fields were overwritten on request");
    }
    if event.distrusted {
        lines.row("forked", "another event has this name too; what permits does not count under it");
    }
    lines.text().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opt_in() -> v1::ConsentEvent {
        v1::ConsentEvent {
            event: Some(v1::EventId { origin: "ab".repeat(16), sequence: 3 }),
            business_id: "acme".into(),
            kind: Some(Kind::OptIn(v1::OptIn {
                channels: vec![1, 2],
                topics: vec!["news".into(), "offers".into()],
                evidence: Some(v1::Evidence {
                    method: v1::OptInMethod::CheckoutFlow.into(),
                    notice_text: "Tick\u{1b}[2J to agree".into(),
                    ..Default::default()
                }),
                ..Default::default()
            })),
            occurred_time: Some(Timestamp { seconds: 0, nanos: 0 }),
            ..Default::default()
        }
    }

    fn cell(event: &v1::ConsentEvent, column: &str) -> String {
        let at = COLUMNS.iter().position(|name| *name == column).expect("is a column");
        flat(event)[at].clone()
    }

    #[test]
    fn cells_stand_under_their_columns() {
        let event = opt_in();
        for (column, expected) in [
            ("sequence", "3"),
            ("kind", "OPT_IN"),
            ("channels", "WHATSAPP;SMS"),
            ("topics", "news;offers"),
            ("method", "CHECKOUT_FLOW"),
            ("occurred_time", "1970-01-01T00:00:00Z"),
            ("erased", "false"),
            ("import_row", ""),
            ("schema_version", ""),
        ] {
            assert_eq!(cell(&event, column), expected, "{column}");
        }
        assert_eq!(cell(&event, "event_id"), format!("{}-3", "ab".repeat(16)));
        assert_eq!(cell(&event, "notice_text"), "Tick\u{1b}[2J to agree", "data is not changed");
    }

    #[test]
    fn other_kinds_have_their_cells() {
        let of = |kind| v1::ConsentEvent { kind: Some(kind), ..Default::default() };
        let preference = v1::SenderPreference { sender_id: "s1".into(), suppressed: true };
        let event = of(Kind::SenderPreference(preference));
        assert_eq!((cell(&event, "sender_id"), cell(&event, "suppressed")), ("s1".into(), "true".into()));
        let event = of(Kind::Invalidate(v1::Invalidate { cause: 2, ..Default::default() }));
        assert_eq!(cell(&event, "cause"), "NUMBER_REASSIGNED");
        let hold = v1::release::Suppression::Hold(v1::HoldRelease { channels: vec![2] });
        let event = of(Kind::Release(v1::Release { suppression: Some(hold), note: "ok".into() }));
        assert_eq!((cell(&event, "release"), cell(&event, "note")), ("HOLD".into(), "ok".into()));
        let event = of(Kind::OptOut(v1::OptOut { text: "STOP".into(), method: 1, ..Default::default() }));
        assert_eq!((cell(&event, "text"), cell(&event, "method")), ("STOP".into(), "KEYWORD".into()));
    }

    #[test]
    fn an_entry_reads_like_a_diary_and_is_harmless() {
        let told = entry(&opt_in());
        assert!(told.starts_with("1970-01-01 00:00:00Z  OPT_IN news, offers on WHATSAPP, SMS\n"), "{told}");
        assert!(told.contains("notice text     Tick [2J to agree"), "{told}");
        assert!(!told.contains("erased"), "{told}");
        let erased = entry(&v1::ConsentEvent { erased: true, ..opt_in() });
        assert!(erased.contains("overwritten on request"), "{erased}");
        assert!(!told.contains("forked"), "{told}");
        let forked = entry(&v1::ConsentEvent { distrusted: true, ..opt_in() });
        assert!(forked.contains("another event has this name too"), "{forked}");
    }
}
