//! What callers report of a person's consent, read and bounded, and how opt-ins are validated.

use super::evidence::Evidence;
use super::ids::{EventId, SenderId, TopicId};
use super::rules::Rules;
use super::time::Timestamp;
use super::types::{
    Category, Channel, ConsentType, EvidenceGrade, InvalidateCause, OptInMethod, OptOutMethod, Purpose, Scope,
};

/// The most topics and categories one change may name.
pub const PURPOSES_MAX: usize = 64;
/// The most opt-outs one opt-in may supersede.
pub const SUPERSEDES_MAX: usize = 256;
/// The most changes one request may hold.
pub const CHANGES_MAX: usize = 16;
/// The most further identifiers one request may name.
pub const ALSO_MAX: usize = 8;
/// The longest text of evidence, in bytes; a notice may be as long.
pub const EVIDENCE_TEXT_LEN_MAX: usize = 16 * 1024;
/// The most entries of `channels_named` and `message_types`.
pub const EVIDENCE_LIST_MAX: usize = 64;
/// The longest text of an opt-out that is kept; the rest is cut.
pub const OPT_OUT_TEXT_LEN_MAX: usize = 4 * 1024;

/// A field that cannot be accepted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field's path in the request.
    pub field: String,
    /// What is wrong and what to give instead; never an address.
    pub description: String,
}

impl FieldViolation {
    /// A violation of `field`.
    #[must_use]
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// A reported opt-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptInReport {
    /// The channels opted in to.
    pub channels: Vec<Channel>,
    /// The topics opted in to.
    pub topics: Vec<TopicId>,
    /// The categories opted in to.
    pub categories: Vec<Category>,
    /// How; `None` where nothing was given.
    pub method: Option<OptInMethod>,
    /// What shows it.
    pub evidence: Evidence,
    /// Its legal footing.
    pub consent_type: ConsentType,
    /// The opt-outs that the person acted after.
    pub supersedes: Vec<EventId>,
    /// When the person acted.
    pub occurred: Option<Timestamp>,
    /// When it ends.
    pub expire: Option<Timestamp>,
    /// The pending request that it confirms; everything else is then taken from there.
    pub confirms: Option<EventId>,
}

/// A reported request for confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestReport {
    /// The channel of the question.
    pub via: Option<Channel>,
    /// The opt-in asked for.
    pub opt_in: OptInReport,
    /// When the request lapses.
    pub expire: Option<Timestamp>,
}

/// A reported opt-out, already widened where it could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptOutReport {
    /// The channels; empty: all.
    pub channels: Vec<Channel>,
    /// The topics.
    pub topics: Vec<TopicId>,
    /// The categories; with no topics either: everything.
    pub categories: Vec<Category>,
    /// How.
    pub method: OptOutMethod,
    /// What the person wrote or said.
    pub text: String,
    /// When the report says it was.
    pub occurred: Option<Timestamp>,
}

/// A reported invalidation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidateReport {
    /// Why.
    pub cause: InvalidateCause,
    /// The channels; empty: all.
    pub channels: Vec<Channel>,
    /// The topics.
    pub topics: Vec<TopicId>,
    /// The categories; with no topics either: everything.
    pub categories: Vec<Category>,
    /// When it became so.
    pub occurred: Option<Timestamp>,
}

/// A reported release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseReport {
    /// Of holds on these channels; empty: all.
    Holds(Vec<Channel>),
    /// Of the platform's marketing switch for a sender.
    Preference(SenderId, Option<Timestamp>),
}

/// One reported change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// An opt-in.
    OptIn(OptInReport),
    /// An opt-out.
    OptOut(OptOutReport),
    /// A request for confirmation.
    Request(RequestReport),
    /// An invalidation.
    Invalidate(InvalidateReport),
    /// A release.
    Release(ReleaseReport),
}

/// The scopes of channels × purposes; no channel: every channel, no purpose: everything. An opt-out
/// of a category reaches the topics that the category has now; one of a topic that the business does not have
/// reaches everything, since nobody knows what the person meant.
#[must_use]
pub fn out_scopes(
    channels: &[Channel],
    topics: &[TopicId],
    categories: &[Category],
    rules: &Rules,
) -> Vec<Scope> {
    let mut purposes: Vec<Purpose> = topics.iter().cloned().map(Purpose::Topic).collect();
    purposes.extend(categories.iter().flat_map(|category| rules.reach_of(*category)));
    if purposes.is_empty() || !unknown_topics(topics, rules).is_empty() {
        purposes = vec![Purpose::All];
    }
    cross(channels, &purposes)
}

/// The topics that a configured business does not have.
#[must_use]
pub fn unknown_topics<'a>(topics: &'a [TopicId], rules: &Rules) -> Vec<&'a TopicId> {
    let known = |topic: &&TopicId| !rules.is_configured() || rules.category_of(topic).is_some();
    topics.iter().filter(|topic| !known(topic)).collect()
}

fn cross(channels: &[Channel], purposes: &[Purpose]) -> Vec<Scope> {
    let every = [None];
    let some: Vec<Option<Channel>> = channels.iter().copied().map(Some).collect();
    let channels = if some.is_empty() { &every[..] } else { &some };
    let mut scopes: Vec<Scope> = channels
        .iter()
        .flat_map(|channel| {
            purposes.iter().map(|purpose| Scope { channel: *channel, purpose: purpose.clone() })
        })
        .collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

/// The scopes of an opt-in, each with the category it is bound to.
///
/// A category reaches templates without a topic, and those of its topics that the message types name.
#[must_use]
pub fn in_scopes(report: &OptInReport, rules: &Rules) -> Vec<(Scope, Option<Category>)> {
    let mut purposes: Vec<(Purpose, Option<Category>)> =
        report.topics.iter().map(|topic| (Purpose::Topic(topic.clone()), None)).collect();
    for category in &report.categories {
        purposes.push((Purpose::Category(*category), None));
        for topic in report.evidence.message_types.iter().filter_map(|named| topic_named(named, rules)) {
            let fits = !rules.is_configured() || rules.category_of(&topic) == Some(*category);
            if fits && !report.topics.contains(&topic) {
                purposes.push((Purpose::Topic(topic), Some(*category)));
            }
        }
    }
    let mut scopes: Vec<(Scope, Option<Category>)> = report
        .channels
        .iter()
        .flat_map(|channel| {
            purposes.iter().map(|(purpose, within)| {
                (Scope { channel: Some(*channel), purpose: purpose.clone() }, *within)
            })
        })
        .collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

fn topic_named(named: &str, rules: &Rules) -> Option<TopicId> {
    match rules.topics.keys().find(|topic| same_words(topic.as_str(), named)) {
        Some(topic) => Some(topic.clone()),
        None if rules.is_configured() => None,
        None => TopicId::new(&folded(named).replace(' ', "_")).ok(),
    }
}

/// Whether two texts are equal but for case, spacing, hyphens and underscores.
#[must_use]
pub fn same_words(a: &str, b: &str) -> bool {
    folded(a) == folded(b)
}

fn folded(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c == '_' || c == '-' { ' ' } else { c }).collect();
    spaced.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// Other words that notices use for a channel.
const CHANNEL_WORDS: &[(Channel, &[&str])] = &[
    (Channel::Whatsapp, &["whatsapp", "whats app"]),
    (Channel::Sms, &["sms", "text", "text message", "text messages", "mms"]),
    (Channel::Email, &["email", "e mail", "mail"]),
    (Channel::Voice, &["voice", "phone", "phone call", "phone calls", "call", "calls", "telephone"]),
];

fn names_channel(named: &str, channel: Channel) -> bool {
    let named = folded(named);
    CHANNEL_WORDS.iter().any(|(known, words)| *known == channel && words.contains(&named.as_str()))
}

/// Checks an opt-in, or the opt-in that a request asks for. Faults are fields under `path`.
///
/// Strict evidence (the default) is what the field's policies ask an opt-in to show: that the person
/// agreed to hear from this business by name, on these channels, with these kinds of messages
/// (WhatsApp Business Policy, "Getting opt-in"; GDPR art. 7(1)).
pub fn validate_opt_in(
    report: &OptInReport,
    rules: &Rules,
    path: &str,
    now: Timestamp,
    faults: &mut Vec<FieldViolation>,
) {
    let mut fault = |field: &str, description: String| {
        faults.push(FieldViolation::new(format!("{path}.{field}"), description));
    };
    if report.channels.is_empty() {
        fault("channels", "name at least one channel".into());
    }
    if report.topics.is_empty() && report.categories.is_empty() {
        fault("topics", "name at least one topic or category".into());
    }
    if rules.is_configured() {
        for topic in report.topics.iter().filter(|topic| rules.category_of(topic).is_none()) {
            fault("topics", format!("`{topic}` is not a topic of the business; configure it under `topics`"));
        }
    }
    if report.categories.contains(&Category::Service) {
        fault("categories", "SERVICE needs no opt-in: it is a reply to the person's own message".into());
    }
    match report.occurred {
        None => fault("occurred_time", "state when the person acted".into()),
        Some(occurred) if occurred > now.plus_ms(rules.clock_margin_ms) => {
            fault("occurred_time", "must not lie in the future".into());
        }
        Some(_) => {}
    }
    if report.expire.is_some_and(|expire| expire <= now) {
        fault("expire_time", "must lie in the future".into());
    }
    for channel in report.channels.iter().filter(|channel| !rules.permits(report.consent_type, **channel)) {
        let kind = report.consent_type;
        fault(
            "consent_type",
            format!("{kind} does not permit {channel}; see `consent_types` in the configuration"),
        );
    }
    validate_evidence(report, rules, &mut fault);
}

fn validate_evidence(report: &OptInReport, rules: &Rules, fault: &mut impl FnMut(&str, String)) {
    let evidence = &report.evidence;
    if report.method.is_none() {
        fault("evidence.method", "state how the person opted in".into());
    }
    if report.method == Some(OptInMethod::Other) && evidence.method_detail.trim().is_empty() {
        fault("evidence.method_detail", "describe the method, since it is OTHER".into());
    }
    if evidence.business_name.trim().is_empty() {
        fault("evidence.business_name", "give the business name that the person was shown".into());
    } else if let Some(name) = &rules.display_name {
        let known = std::iter::once(name).chain(&rules.also_known_as);
        if !known.into_iter().any(|known| same_words(known, &evidence.business_name)) {
            fault(
                "evidence.business_name",
                "is neither the business's display name nor one of `also_known_as`".into(),
            );
        }
    }
    if rules.evidence == EvidenceGrade::Basic {
        return;
    }
    if evidence.channels_named.is_empty() {
        fault("evidence.channels_named", "give the channels that the person was told of".into());
    } else {
        for channel in &report.channels {
            if !evidence.channels_named.iter().any(|named| names_channel(named, *channel)) {
                fault("evidence.channels_named", format!("does not name {channel}"));
            }
        }
    }
    if evidence.message_types.iter().all(|named| named.trim().is_empty()) {
        fault("evidence.message_types", "give the message types that the person was told of".into());
    } else {
        for topic in &report.topics {
            if !evidence.message_types.iter().any(|named| same_words(named, topic.as_str())) {
                fault("evidence.message_types", format!("does not name the topic `{topic}`"));
            }
        }
    }
    let by_hash = !evidence.notice_uri.is_empty() && evidence.notice_sha256.len() == 32;
    if evidence.notice_text.trim().is_empty() && !by_hash {
        fault(
            "evidence.notice_text",
            "give the text of the notice, or `notice_uri` with its `notice_sha256` of 32 bytes".into(),
        );
    }
}

/// What an opt-in's evidence proves, whatever the rules ask for.
#[must_use]
pub fn grade(report: &OptInReport, rules: &Rules) -> EvidenceGrade {
    let strict = Rules { evidence: EvidenceGrade::Strict, ..rules.clone() };
    let mut complete = true;
    validate_evidence(report, &strict, &mut |_, _| complete = false);
    if complete { EvidenceGrade::Strict } else { EvidenceGrade::Basic }
}
