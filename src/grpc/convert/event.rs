//! Events as auditors read them: one entry per change, several with one id where a call made several changes.

use crate::engine::audit::AuditEvent;
use crate::pb::v1;
use crate::policy::consent::Covers;
use crate::policy::distrust::is_mark;
use crate::policy::event::{Change, ConsentEvent};
use crate::policy::evidence::{Evidence, ImportSource, Personal};
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Channel, OptInMethod, Purpose, Scope};

use super::record::hex;
use super::{pb_event_id, pb_timestamp, words};

/// The version of this form of events, quoted in each.
pub const SCHEMA_VERSION: &str = "optgate.v1";

/// Writes the entries of an event; none for what is no consent event. Evidence and texts only where `with_personal`.
#[must_use]
pub fn pb_events(event: &AuditEvent, with_personal: bool) -> Vec<v1::ConsentEvent> {
    let Some(consent) = event.consent() else { return Vec::new() };
    let personal = event.personal.as_ref().filter(|_| with_personal);
    if consent.changes.is_empty() {
        let refs = consent.subjects.iter().map(ToString::to_string).collect();
        let link = v1::consent_event::Kind::Link(v1::IdentifierLink { recipient_refs: refs });
        return vec![entry(event, consent, personal, link, consent.recorded)];
    }
    let with_index = consent.changes.iter().enumerate();
    with_index
        .map(|(at, change)| {
            let evidence = personal.and_then(|personal| personal.evidence.get(at));
            let text = personal.and_then(|personal| personal.texts.get(at)).cloned().unwrap_or_default();
            let (kind, occurred) = pb_change(change, evidence, text, consent.recorded);
            let mut entry = entry(event, consent, personal, kind, occurred);
            describe_merge(change, &mut entry);
            entry
        })
        .collect()
}

fn entry(
    event: &AuditEvent,
    consent: &ConsentEvent,
    personal: Option<&Personal>,
    kind: v1::consent_event::Kind,
    occurred: Timestamp,
) -> v1::ConsentEvent {
    let mut refs = consent.subjects.iter().map(ToString::to_string);
    v1::ConsentEvent {
        event: Some(pb_event_id(event.id)),
        business_id: consent.business.as_str().to_owned(),
        recipient_ref: refs.next().unwrap_or_default(),
        also_refs: refs.collect(),
        kind: Some(kind),
        occurred_time: Some(pb_timestamp(occurred)),
        recorded_time: Some(pb_timestamp(consent.recorded)),
        request_id: personal.map(|personal| personal.request_id.clone()).unwrap_or_default(),
        actor: personal.and_then(|personal| pb_actor(&personal.actor)),
        evidence_grade: v1::EvidenceGrade::Unspecified.into(),
        rules_version: consent.rules_version.clone(),
        source: personal.and_then(|personal| personal.source.as_ref()).map(pb_source),
        erased: event.erased,
        schema_version: SCHEMA_VERSION.to_owned(),
        covers: Vec::new(),
        beats_before_time: None,
        distrusted: event.distrusted,
    }
}

fn pb_source(source: &ImportSource) -> v1::ImportSource {
    let ImportSource { import_id, sha256, row } = source;
    v1::ImportSource { import_id: import_id.clone(), sha256: hex(sha256), row: *row }
}

fn pb_actor(actor: &str) -> Option<v1::Actor> {
    let (word, id) = actor.split_once(':')?;
    let kind = v1::ActorKind::from_str_name(&format!("ACTOR_KIND_{}", word.to_uppercase()));
    Some(v1::Actor { kind: kind.unwrap_or(v1::ActorKind::Unspecified).into(), id: id.to_owned() })
}

/// The events that an opt-in covers. That it is recorded in the knowledge of a fork is no event.
fn named(covers: &Covers) -> impl Iterator<Item = v1::EventId> {
    covers.named().filter(|id| !is_mark(*id)).map(pb_event_id)
}

fn describe_merge(change: &Change, entry: &mut v1::ConsentEvent) {
    let covers = |covers: &Covers| named(covers).collect();
    match change {
        Change::OptIn(opt_in) => {
            entry.covers = covers(&opt_in.covers);
            entry.beats_before_time = opt_in.before.map(pb_timestamp);
            entry.evidence_grade = words::pb_evidence_grade(opt_in.grade).into();
        }
        Change::Request(request) => {
            entry.covers = covers(&request.covers);
            entry.evidence_grade = words::pb_evidence_grade(request.grade).into();
        }
        Change::OptOut(_)
        | Change::Invalidate(_)
        | Change::Hold(_)
        | Change::Preference(_)
        | Change::Help { .. } => {}
    }
}

fn pb_change(
    change: &Change,
    evidence: Option<&Evidence>,
    text: String,
    recorded: Timestamp,
) -> (v1::consent_event::Kind, Timestamp) {
    use v1::consent_event::Kind;
    match change {
        Change::OptOut(out) => {
            let (channels, topics, categories) = pb_scopes(out.scopes.iter());
            let method = words::pb_opt_out_method(out.method).into();
            let kind = Kind::OptOut(v1::OptOut { channels, topics, categories, method, text });
            (kind, out.inbound.map(|(_, at)| at).or(out.stated).unwrap_or(out.time))
        }
        Change::OptIn(opt_in) => {
            let (channels, topics, categories) = pb_scopes(opt_in.scopes.iter().map(|(scope, _)| scope));
            let kind = Kind::OptIn(v1::OptIn {
                channels,
                topics,
                categories,
                evidence: Some(pb_evidence(opt_in.method, evidence)),
                consent_type: words::pb_consent_type(opt_in.consent_type).into(),
                supersedes: named(&opt_in.covers).collect(),
                expire_time: opt_in.expire.map(pb_timestamp),
                confirms: opt_in.confirms.map(pb_event_id),
            });
            (kind, opt_in.occurred)
        }
        Change::Request(request) => {
            let (channels, topics, categories) = pb_scopes(request.scopes.iter().map(|(scope, _)| scope));
            let kind = Kind::OptInRequest(v1::OptInRequest {
                via: words::pb_channel(request.via).into(),
                channels,
                topics,
                categories,
                evidence: Some(pb_evidence(request.method, evidence)),
                expire_time: Some(pb_timestamp(request.expire)),
                consent_type: words::pb_consent_type(request.consent_type).into(),
            });
            (kind, request.occurred)
        }
        Change::Invalidate(invalidate) => {
            let (channels, topics, categories) = pb_scopes(invalidate.scopes.iter());
            let cause = words::pb_invalidate_cause(invalidate.cause).into();
            (Kind::Invalidate(v1::Invalidate { cause, channels, topics, categories }), invalidate.time)
        }
        Change::Hold(hold) if hold.held => {
            (Kind::Hold(v1::Hold { channel: words::pb_channel(hold.channel).into() }), hold.time)
        }
        Change::Hold(hold) => {
            let channels = vec![words::pb_channel(hold.channel).into()];
            let suppression = v1::release::Suppression::Hold(v1::HoldRelease { channels });
            let release = v1::Release { suppression: Some(suppression), note: String::new() };
            (Kind::Release(release), hold.time)
        }
        Change::Preference(preference) => {
            let kind = Kind::SenderPreference(v1::SenderPreference {
                sender_id: preference.sender.as_str().to_owned(),
                suppressed: preference.stopped,
            });
            (kind, preference.time)
        }
        Change::Help { channel } => {
            (Kind::HelpRequest(v1::HelpRequest { channel: words::pb_channel(*channel).into() }), recorded)
        }
    }
}

/// Channels, topics and categories of scopes; all channels are none.
fn pb_scopes<'a>(scopes: impl Iterator<Item = &'a Scope>) -> (Vec<i32>, Vec<String>, Vec<i32>) {
    let (mut channels, mut topics, mut categories) = (Vec::new(), Vec::new(), Vec::new());
    for Scope { channel, purpose } in scopes {
        channels.extend(channel.map(|channel: Channel| i32::from(words::pb_channel(channel))));
        match purpose {
            Purpose::All => {}
            Purpose::Topic(topic) => topics.push(topic.as_str().to_owned()),
            Purpose::Category(category) => {
                let category: Category = *category;
                categories.push(i32::from(words::pb_category(category)));
            }
        }
    }
    channels.sort_unstable();
    channels.dedup();
    topics.sort_unstable();
    topics.dedup();
    categories.sort_unstable();
    categories.dedup();
    (channels, topics, categories)
}

fn pb_evidence(method: OptInMethod, evidence: Option<&Evidence>) -> v1::Evidence {
    let method = words::pb_opt_in_method(method).into();
    let Some(evidence) = evidence else { return v1::Evidence { method, ..v1::Evidence::default() } };
    let Evidence {
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
    } = evidence.clone();
    let named = |word: &String| Channel::from_word(word).map(|channel| i32::from(words::pb_channel(channel)));
    v1::Evidence {
        method,
        method_detail,
        business_name,
        channels_named: channels_named.iter().filter_map(named).collect(),
        message_types,
        notice_text,
        notice_uri,
        notice_sha256: hex(&notice_sha256),
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
