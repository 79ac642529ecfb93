//! `RecordConsent` and what it answers.
//!
//! An opt-out is never refused for what it says: what cannot be read widens it, and a warning says so. Everything
//! else must be right.

use std::time::Instant;

use prost::Message as _;

use crate::engine::record::{Durability, RecordAnswer, RecordRequest};
use crate::grpc::status::{ApiError, FieldFault};
use crate::key::ClusterKey;
use crate::pb::v1;
use crate::policy::evidence::Evidence;
use crate::policy::ids::{TopicId, check_id};
use crate::policy::recorder::Source;
use crate::policy::report::{
    ALSO_MAX, CHANGES_MAX, EVIDENCE_LIST_MAX, EVIDENCE_TEXT_LEN_MAX, FieldViolation, InvalidateReport,
    OPT_OUT_TEXT_LEN_MAX, OptInReport, OptOutReport, PURPOSES_MAX, ReleaseReport, Report, RequestReport,
    SUPERSEDES_MAX,
};
use crate::policy::state::ScopeState;
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Channel, ConsentType, OptOutMethod, Purpose};

use super::{Faults, pb_event_id, pb_event_ids, pb_timestamp, words};

/// Reads a request.
///
/// # Errors
/// Every field at fault, unless the request holds opt-outs whose business and person can be read: then what is wrong
/// elsewhere comes back as `refused`, for the caller to hear once the opt-outs are recorded. `replicated_until`: until when to wait
/// where REPLICATED is asked for.
pub fn record_request(
    request: v1::RecordConsentRequest,
    key: &ClusterKey,
    replicated_until: Instant,
) -> Result<(RecordRequest, Option<ApiError>), ApiError> {
    let content = content_hash(&request, key);
    let v1::RecordConsentRequest { request_id, business_id, recipient, also, changes, actor, min_durability } =
        request;
    let mut faults = Faults::default();
    let mut warnings = Vec::new();
    let business = faults.business("business_id", &business_id);
    let person = faults.address("recipient", recipient.as_ref());
    let (Some(business), Some(recipient)) = (business, person) else {
        return faults.or(()).and(Err(ApiError::Internal));
    };

    let only_outs = !changes.is_empty() && changes.iter().all(is_opt_out);
    let mut request_id = request_id;
    if let Err(fault) = check_id(&request_id) {
        if only_outs {
            warnings.push(FieldViolation::new("request_id", "cannot be used, so a retry is recorded again"));
            request_id = String::new();
        } else {
            faults.add("request_id", fault.to_string());
        }
    }
    let mut read_also = Vec::new();
    for (at, other) in also.iter().enumerate().take(ALSO_MAX) {
        match super::address(Some(other)) {
            Ok(address) => read_also.push(address),
            Err(fault) if only_outs => warnings.push(FieldViolation::new(format!("also[{at}]"), fault)),
            Err(fault) => faults.add(format!("also[{at}]"), fault),
        }
    }
    if also.len() > ALSO_MAX {
        let why = format!("names more than {ALSO_MAX} further identifiers; the rest was left out");
        if only_outs {
            warnings.push(FieldViolation::new("also", why));
        } else {
            faults.add("also", format!("may name {ALSO_MAX} further identifiers"));
        }
    }
    if changes.is_empty() {
        faults.add("changes", "name at least one change");
    }
    if changes.len() > CHANGES_MAX {
        faults.add("changes", format!("may hold {CHANGES_MAX} changes; send more in further requests"));
    }
    let mut reports = Vec::with_capacity(changes.len());
    for (at, change) in changes.into_iter().enumerate() {
        // Beyond the bound only opt-outs are still read.
        if at >= CHANGES_MAX && !is_opt_out(&change) {
            continue;
        }
        reports.extend(read_change(change, at, &mut faults, &mut warnings));
    }
    let wants_replicated = match v1::Durability::try_from(min_durability) {
        Ok(v1::Durability::Unspecified | v1::Durability::Local) => None,
        Ok(v1::Durability::Replicated) => Some(replicated_until),
        Err(_) if only_outs => {
            warnings.push(FieldViolation::new("min_durability", "is unknown and was taken for LOCAL"));
            None
        }
        Err(_) => {
            faults.add("min_durability", "is unknown; choose LOCAL or REPLICATED");
            None
        }
    };
    let refused = (!faults.0.is_empty()).then_some(ApiError::InvalidArgument(faults.0));
    if let Some(refused) = refused {
        reports.retain(|report| matches!(report, Report::OptOut(_)));
        if reports.is_empty() {
            return Err(refused);
        }
        let outs = RecordRequest {
            business,
            recipient,
            also: read_also,
            request_id: String::new(),
            content,
            reports,
            actor: read_actor(actor),
            wants_replicated: None,
            source: Source::Caller,
            row: None,
            warnings,
        };
        return Ok((outs, Some(refused)));
    }
    let request = RecordRequest {
        business,
        recipient,
        also: read_also,
        request_id,
        content,
        reports,
        actor: read_actor(actor),
        wants_replicated,
        source: Source::Caller,
        row: None,
        warnings,
    };
    Ok((request, None))
}

/// A keyed hash of everything that is recorded. How durable a caller wants it is not: a retry may ask for more or for less.
fn content_hash(request: &v1::RecordConsentRequest, key: &ClusterKey) -> [u8; 8] {
    let content =
        v1::RecordConsentRequest { request_id: String::new(), min_durability: 0, ..request.clone() };
    let mac = key.mac16("content", &[&content.encode_to_vec()]);
    let mut hash = [0; 8];
    hash.copy_from_slice(&mac[..8]);
    hash
}

const fn is_opt_out(change: &v1::ConsentChange) -> bool {
    matches!(change.change, Some(v1::consent_change::Change::OptOut(_)))
}

/// Reads an actor as a kind, a colon and an id.
#[must_use]
pub fn read_actor(actor: Option<v1::Actor>) -> String {
    let Some(v1::Actor { kind, id }) = actor else { return String::new() };
    let kind = v1::ActorKind::try_from(kind).unwrap_or(v1::ActorKind::Unspecified);
    let word = kind.as_str_name().trim_start_matches("ACTOR_KIND_").to_lowercase();
    format!("{word}:{}", cut(&id, 256))
}

/// The first `len_max` bytes of a text, or a few less where a character would be torn.
pub(super) fn cut(text: &str, len_max: usize) -> &str {
    let mut end = text.len().min(len_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn read_change(
    change: v1::ConsentChange,
    at: usize,
    faults: &mut Faults,
    warnings: &mut Vec<FieldViolation>,
) -> Option<Report> {
    use v1::consent_change::Change;
    let v1::ConsentChange { change, occurred_time } = change;
    let path = format!("changes[{at}]");
    match change {
        None => {
            faults.add(path, "name a change: opt_in, opt_out, opt_in_request, invalidate or release");
            None
        }
        Some(Change::OptOut(out)) => {
            let occurred = occurred_time.as_ref().and_then(super::timestamp);
            if occurred.is_none() && occurred_time.is_some() {
                warnings
                    .push(FieldViolation::new(format!("{path}.occurred_time"), "cannot be read; ignored"));
            }
            Some(Report::OptOut(read_opt_out(out, occurred, &path, warnings)))
        }
        Some(Change::OptIn(opt_in)) => {
            let occurred = faults.time(&format!("{path}.occurred_time"), occurred_time.as_ref());
            Some(Report::OptIn(read_opt_in(opt_in, occurred, &format!("{path}.opt_in"), faults)))
        }
        Some(Change::OptInRequest(request)) => {
            let occurred = faults.time(&format!("{path}.occurred_time"), occurred_time.as_ref());
            Some(Report::Request(read_request(request, occurred, &format!("{path}.opt_in_request"), faults)))
        }
        Some(Change::Invalidate(invalidate)) => {
            let occurred = faults.time(&format!("{path}.occurred_time"), occurred_time.as_ref());
            let v1::Invalidate { cause, channels, topics, categories } = invalidate;
            let path = format!("{path}.invalidate");
            let Some(cause) = words::invalidate_cause(cause) else {
                faults.add(format!("{path}.cause"), "name a cause that this version knows");
                return None;
            };
            Some(Report::Invalidate(InvalidateReport {
                cause,
                channels: read_channels(&channels, &format!("{path}.channels"), faults),
                topics: faults.topics(&format!("{path}.topics"), &topics),
                categories: read_categories(&categories, &format!("{path}.categories"), faults),
                occurred,
            }))
        }
        Some(Change::Release(release)) => {
            use v1::release::Suppression;
            // A note is for the actor's own records; the event names the actor.
            let v1::Release { suppression, note: _ } = release;
            let occurred = faults.time(&format!("{path}.occurred_time"), occurred_time.as_ref());
            match suppression {
                None => {
                    faults.add(format!("{path}.release"), "name what is released: `hold` or `sender`");
                    None
                }
                Some(Suppression::Hold(v1::HoldRelease { channels })) => {
                    let channels = read_channels(&channels, &format!("{path}.release.hold.channels"), faults);
                    Some(Report::Release(ReleaseReport::Holds(channels)))
                }
                Some(Suppression::Sender(v1::SenderSuppressionRelease { sender_id })) => {
                    let sender = faults.sender(&format!("{path}.release.sender.sender_id"), &sender_id)?;
                    Some(Report::Release(ReleaseReport::Preference(sender, occurred)))
                }
            }
        }
    }
}

/// Reads an opt-out; what cannot be read widens it.
fn read_opt_out(
    out: v1::OptOut,
    occurred: Option<Timestamp>,
    path: &str,
    warnings: &mut Vec<FieldViolation>,
) -> OptOutReport {
    let v1::OptOut { channels, topics, categories, method, text } = out;
    let mut warn = |field: &str, why: &str| {
        warnings.push(FieldViolation::new(format!("{path}.opt_out.{field}"), why));
    };
    let mut read_channels: Vec<Channel> =
        channels.iter().filter_map(|number| words::channel(*number)).collect();
    if read_channels.len() < channels.len() {
        warn("channels", "names an unknown channel; taken for all channels");
        read_channels.clear();
    }
    let mut read_topics: Vec<TopicId> = topics.iter().filter_map(|topic| TopicId::new(topic).ok()).collect();
    let mut read_categories: Vec<Category> =
        categories.iter().filter_map(|number| words::category(*number)).collect();
    let unreadable = read_topics.len() < topics.len() || read_categories.len() < categories.len();
    if unreadable || topics.len() + categories.len() > PURPOSES_MAX {
        warn("topics", "names a topic or category that cannot be read, or too many; taken for everything");
        read_topics.clear();
        read_categories.clear();
    }
    let read_method = words::opt_out_method(method);
    if read_method.is_none() && method != 0 {
        warn("method", "is unknown; recorded as UNKNOWN");
    }
    let kept = cut(&text, OPT_OUT_TEXT_LEN_MAX);
    if kept.len() < text.len() {
        warn("text", "is too long; its beginning was kept");
    }
    OptOutReport {
        channels: read_channels,
        topics: read_topics,
        categories: read_categories,
        method: read_method.unwrap_or(OptOutMethod::Unknown),
        text: kept.to_owned(),
        occurred,
    }
}

fn read_channels(numbers: &[i32], field: &str, faults: &mut Faults) -> Vec<Channel> {
    let mut channels: Vec<Channel> = numbers.iter().filter_map(|number| words::channel(*number)).collect();
    if channels.len() < numbers.len() {
        faults.add(field, "names a channel that this version does not know");
    }
    channels.sort_unstable();
    channels.dedup();
    channels
}

fn read_categories(numbers: &[i32], field: &str, faults: &mut Faults) -> Vec<Category> {
    let mut categories: Vec<Category> =
        numbers.iter().filter_map(|number| words::category(*number)).collect();
    if categories.len() < numbers.len() {
        faults.add(field, "names a category that this version does not know");
    }
    categories.sort_unstable();
    categories.dedup();
    categories
}

fn read_opt_in(
    opt_in: v1::OptIn,
    occurred: Option<Timestamp>,
    path: &str,
    faults: &mut Faults,
) -> OptInReport {
    let v1::OptIn { channels, topics, categories, evidence, consent_type, supersedes, expire_time, confirms } =
        opt_in;
    if supersedes.len() > SUPERSEDES_MAX {
        faults.add(format!("{path}.supersedes"), format!("may name {SUPERSEDES_MAX} opt-outs"));
    }
    let mut named = Vec::with_capacity(supersedes.len().min(SUPERSEDES_MAX));
    for (at, id) in supersedes.iter().enumerate().take(SUPERSEDES_MAX) {
        named.extend(faults.event(&format!("{path}.supersedes[{at}]"), id));
    }
    let expire = faults.time(&format!("{path}.expire_time"), expire_time.as_ref());
    let confirms = confirms.as_ref().and_then(|id| faults.event(&format!("{path}.confirms"), id));
    OptInReport {
        supersedes: named,
        expire,
        confirms,
        ..read_terms((&channels, &topics, &categories, consent_type), evidence, occurred, path, faults)
    }
}

fn read_request(
    request: v1::OptInRequest,
    occurred: Option<Timestamp>,
    path: &str,
    faults: &mut Faults,
) -> RequestReport {
    let v1::OptInRequest { via, channels, topics, categories, evidence, expire_time, consent_type } = request;
    let expire = faults.time(&format!("{path}.expire_time"), expire_time.as_ref());
    let read_via = words::channel(via);
    if read_via.is_none() && via != 0 {
        faults.add(format!("{path}.via"), "names a channel that this version does not know");
    }
    let terms = (&channels[..], &topics[..], &categories[..], consent_type);
    RequestReport { via: read_via, opt_in: read_terms(terms, evidence, occurred, path, faults), expire }
}

/// What an opt-in and a request for one have in common.
fn read_terms(
    (channels, topics, categories, consent_type): (&[i32], &[String], &[i32], i32),
    evidence: Option<v1::Evidence>,
    occurred: Option<Timestamp>,
    path: &str,
    faults: &mut Faults,
) -> OptInReport {
    if topics.len() + categories.len() > PURPOSES_MAX {
        faults.add(format!("{path}.topics"), format!("may name {PURPOSES_MAX} topics and categories"));
    }
    let read_type = words::consent_type(consent_type);
    if read_type.is_none() && consent_type != 0 {
        faults.add(format!("{path}.consent_type"), "is unknown; choose one that this version knows");
    }
    let method = evidence.as_ref().map_or(0, |evidence| evidence.method);
    let read_method = words::opt_in_method(method);
    if read_method.is_none() && method != 0 {
        faults.add(format!("{path}.evidence.method"), "is unknown; choose one that this version knows");
    }
    OptInReport {
        channels: read_channels(channels, &format!("{path}.channels"), faults),
        topics: faults.topics(&format!("{path}.topics"), topics),
        categories: read_categories(categories, &format!("{path}.categories"), faults),
        method: read_method,
        evidence: read_evidence(evidence.unwrap_or_default(), &format!("{path}.evidence"), faults),
        consent_type: read_type.unwrap_or(ConsentType::Express),
        supersedes: Vec::new(),
        occurred,
        expire: None,
        confirms: None,
    }
}

fn read_evidence(evidence: v1::Evidence, path: &str, faults: &mut Faults) -> Evidence {
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
    } = evidence;
    let texts = [
        ("method_detail", &method_detail),
        ("business_name", &business_name),
        ("notice_text", &notice_text),
        ("notice_uri", &notice_uri),
        ("notice_version", &notice_version),
        ("language", &language),
        ("action", &action),
        ("source_url", &source_url),
        ("ip", &ip),
        ("user_agent", &user_agent),
        ("message_id", &message_id),
        ("call_id", &call_id),
        ("operator", &operator),
        ("collected_by", &collected_by),
        ("campaign_id", &campaign_id),
        ("jurisdiction", &jurisdiction),
        ("age_statement", &age_statement),
    ];
    for (name, text) in texts {
        if text.len() > EVIDENCE_TEXT_LEN_MAX {
            faults.add(format!("{path}.{name}"), format!("must have at most {EVIDENCE_TEXT_LEN_MAX} bytes"));
        }
    }
    if message_types.len() > EVIDENCE_LIST_MAX || channels_named.len() > EVIDENCE_LIST_MAX {
        faults.add(format!("{path}.message_types"), format!("lists may hold {EVIDENCE_LIST_MAX} entries"));
    }
    if message_types.iter().any(|named| named.len() > EVIDENCE_TEXT_LEN_MAX) {
        faults
            .add(format!("{path}.message_types"), format!("must have at most {EVIDENCE_TEXT_LEN_MAX} bytes"));
    }
    let sha256 = read_sha256(&notice_sha256);
    if sha256.is_none() {
        faults.add(format!("{path}.notice_sha256"), "must be 64 hex digits");
    }
    let named = read_channels(&channels_named, &format!("{path}.channels_named"), faults);
    Evidence {
        method_detail,
        business_name,
        channels_named: named.into_iter().map(|channel| channel.word().to_owned()).collect(),
        message_types,
        notice_text,
        notice_uri,
        notice_sha256: sha256.unwrap_or_default(),
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
    }
}

/// Reads a SHA-256 in hex; empty is empty.
#[must_use]
pub fn read_sha256(hex: &str) -> Option<Vec<u8>> {
    if hex.is_empty() {
        return Some(Vec::new());
    }
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    (0..32).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()).collect()
}

/// Writes bytes in hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes an answer.
#[must_use]
pub fn record_response(answer: RecordAnswer) -> v1::RecordConsentResponse {
    let RecordAnswer { event, token, states, blocked_by, warnings, repeated, durability } = answer;
    v1::RecordConsentResponse {
        events: vec![pb_event_id(event)],
        token,
        durability: pb_durability(durability).into(),
        states: states.into_iter().map(pb_scope_state).collect(),
        blocked_by: pb_event_ids(&blocked_by),
        warnings: warnings.into_iter().map(pb_warning).collect(),
        repeated_request: repeated,
    }
}

/// Writes whose disks an event is on.
#[must_use]
pub const fn pb_durability(durability: Durability) -> v1::Durability {
    match durability {
        Durability::Local => v1::Durability::Local,
        Durability::Replicated => v1::Durability::Replicated,
    }
}

/// Writes a warning.
#[must_use]
pub fn pb_warning(warning: FieldViolation) -> v1::Warning {
    let FieldViolation { field, description } = warning;
    v1::Warning { field, description }
}

/// Faults as the gRPC side words them.
#[must_use]
pub fn field_fault(violation: FieldViolation) -> FieldFault {
    let FieldViolation { field, description } = violation;
    FieldFault::new(field, description)
}

/// Writes a state.
#[must_use]
pub fn pb_scope_state(state: ScopeState) -> v1::ScopeState {
    use v1::scope_state::Purpose as Written;
    let ScopeState { channel, purpose, state, since, basis, expire, consent_type, grade } = state;
    v1::ScopeState {
        channel: words::pb_channel(channel).into(),
        purpose: match purpose {
            Purpose::All => None,
            Purpose::Category(category) => Some(Written::Category(words::pb_category(category).into())),
            Purpose::Topic(topic) => Some(Written::Topic(topic.as_str().to_owned())),
        },
        state: words::pb_state(state).into(),
        since_time: since.map(pb_timestamp),
        basis: pb_event_ids(&basis),
        expire_time: expire.map(pb_timestamp),
        consent_type: consent_type.map_or(v1::ConsentType::Unspecified, words::pb_consent_type).into(),
        evidence_grade: grade.map_or(v1::EvidenceGrade::Unspecified, words::pb_evidence_grade).into(),
    }
}
