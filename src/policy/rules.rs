//! The rules of a business: every number, list and switch that a decision rests on.
//!
//! Every policy number of the field changes several times a year, so each is data with a default.
//! Rules are built from configuration and swapped as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ids::{BusinessId, SenderId, TopicId};
use super::quiet_hours::QuietHours;
use super::time::{DAY_MS, HOUR_MS, MINUTE_MS, Timestamp};
use super::types::{
    Category, Channel, ConsentType, EvidenceGrade, OptInMethod, Purpose, Quality, Reason, TemplateStatus,
};

/// A length of time in milliseconds.
pub type SpanMs = i64;

/// How an unregistered template is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnregisteredTemplates {
    /// Denied as `TEMPLATE_UNKNOWN`.
    Deny,
    /// Judged as a MARKETING template without a topic.
    AsMarketing,
}

/// What a bare STOP ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopScope {
    /// Everything on the channel it came by.
    Channel,
    /// Everything on every channel.
    AllChannels,
}

/// How often opt-out instructions are owed after the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionPeriod {
    /// With every message.
    EveryMessage,
    /// Once per period.
    EveryMs(SpanMs),
}

/// A rule that only reports, until a moment or for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The rule.
    pub rule: Reason,
    /// When it takes force again; `None`: until the configuration says otherwise.
    pub until: Option<Timestamp>,
}

/// A steady rate with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerSecond {
    /// Messages a second, at least 1.
    pub per_second: u32,
    /// Messages at once, at least 1.
    pub burst: u32,
}

/// One message a period with a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every {
    /// The period in milliseconds, at least 1.
    pub every_ms: u64,
    /// Messages at once, at least 1.
    pub burst: u32,
}

/// Messages an hour by the worst quality among the business's senders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerHourByQuality {
    /// With all senders GREEN.
    pub green: u32,
    /// With a YELLOW one.
    pub yellow: u32,
    /// With a RED one.
    pub red: u32,
    /// With an unrated one.
    pub unknown: u32,
    /// Messages at once, at least 1.
    pub burst: u32,
}

impl PerHourByQuality {
    /// The figure for `quality`.
    #[must_use]
    pub const fn of(&self, quality: Quality) -> u32 {
        match quality {
            Quality::Green => self.green,
            Quality::Yellow => self.yellow,
            Quality::Red => self.red,
            Quality::Unknown => self.unknown,
        }
    }
}

/// The limits of one channel; what is absent does not limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelLimits {
    /// Per sender.
    pub sender: Option<PerSecond>,
    /// Per sender and recipient.
    pub pair: Option<Every>,
    /// Per business.
    pub business_per_hour: Option<PerHourByQuality>,
    /// Distinct recipients per moving 24 h outside the window, per portfolio; WhatsApp only.
    pub messaging_limit: Option<u64>,
}

/// Whom a frequency cap counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapClass {
    /// Marketing messages.
    Marketing,
    /// Utility messages.
    Utility,
    /// Marketing and utility messages together.
    Any,
}

/// At most `max` messages of a class to one person, over all channels, in any `per_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrequencyCap {
    /// What counts.
    pub class: CapClass,
    /// How many, at least 1, at most [`FREQUENCY_CAP_MAX`].
    pub max: u32,
    /// In how long.
    pub per_ms: SpanMs,
}

/// The largest count a frequency cap may have: a person's log keeps that many entries.
pub const FREQUENCY_CAP_MAX: u32 = 1_000;

/// Waits after a provider's refusals (domain §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cooldowns {
    /// Marketing to a person after error 131049.
    pub recipient_marketing_ms: SpanMs,
    /// A sender after error 131048.
    pub sender_ms: SpanMs,
}

/// A template as configuration seeds it; what the registry learnt later wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSeed {
    /// Its name.
    pub name: String,
    /// Its language, e.g. `en_US`.
    pub language: String,
    /// Its category.
    pub category: Category,
    /// Its message type.
    pub topic: Option<TopicId>,
    /// Whether it may be sent.
    pub status: TemplateStatus,
    /// Whether its text tells how to opt out.
    pub has_opt_out_instructions: bool,
}

/// What a keyword or button opts in to, with the notice that offered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptInProgram {
    /// The words that join.
    pub keywords: Vec<String>,
    /// The button payloads that join.
    pub buttons: Vec<String>,
    /// The channel opted in to.
    pub channel: Channel,
    /// The topics opted in to.
    pub topics: Vec<TopicId>,
    /// The notice the person saw.
    pub notice_text: String,
}

/// The rules of one business.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The business they are for; `None` for the built-in rules that apply to any business id.
    pub business_id: Option<BusinessId>,
    /// Its name as people know it; the business id itself where nothing is configured.
    pub display_name: Option<String>,
    /// Other names it goes by.
    pub also_known_as: Vec<String>,
    /// The portfolio whose messaging limit it shares; `None`: its own.
    pub portfolio: Option<String>,
    /// Its WhatsApp Business Accounts.
    pub whatsapp_accounts: Vec<String>,
    /// Its senders; empty: any.
    pub senders: BTreeSet<SenderId>,
    /// Its topics, each with its category; empty where nothing is configured.
    pub topics: BTreeMap<TopicId, Category>,
    /// Templates known from configuration.
    pub templates: Vec<TemplateSeed>,
    /// Keyword and button programs.
    pub opt_in_programs: Vec<OptInProgram>,
    /// The evidence an opt-in needs.
    pub evidence: EvidenceGrade,
    /// Categories whose business-initiated messages need an opt-in; MARKETING is always among them.
    pub consent_required: BTreeSet<Category>,
    /// Consent types that permit, per channel; EXPRESS always does.
    pub consent_types: BTreeMap<Channel, BTreeSet<ConsentType>>,
    /// How long an opt-in lasts.
    pub opt_in_expires_after_ms: Option<SpanMs>,
    /// Methods whose opt-ins must be confirmed.
    pub double_opt_in: BTreeSet<OptInMethod>,
    /// How long a request waits for its confirmation.
    pub pending_expires_after_ms: SpanMs,
    /// By how much clocks may differ.
    pub clock_margin_ms: SpanMs,
    /// Unregistered templates.
    pub unregistered_templates: UnregisteredTemplates,
    /// When opt-out instructions are owed again, per channel.
    pub opt_out_instructions: BTreeMap<Channel, InstructionPeriod>,
    /// What a bare STOP ends.
    pub stop_scope: StopScope,
    /// How long after a STOP its confirmation may be sent.
    pub stop_confirmation_within_ms: SpanMs,
    /// Categories that may pass on a stale replica; never MARKETING.
    pub fail_open: BTreeSet<Category>,
    /// Rules that only report.
    pub shadow: Vec<Shadow>,
    /// Waits after a provider's refusals.
    pub cooldowns: Cooldowns,
    /// Countries a category is not sent to, per channel; ISO 3166 alpha-2.
    pub region_blocks: BTreeMap<(Category, Channel), BTreeSet<[u8; 2]>>,
    /// The zone assumed where none is known, an IANA name.
    pub default_time_zone: Option<String>,
    /// Quiet hours per category.
    pub quiet_hours: BTreeMap<Category, QuietHours>,
    /// Limits per channel.
    pub limits: BTreeMap<Channel, ChannelLimits>,
    /// Frequency caps over all channels.
    pub frequency: Vec<FrequencyCap>,
}

impl Rules {
    /// The strict rules built in: what applies where nothing is configured.
    #[must_use]
    pub fn built_in() -> Self {
        let whatsapp = ChannelLimits {
            sender: Some(PerSecond { per_second: 80, burst: 20 }),
            pair: Some(Every { every_ms: 6_000, burst: 3 }),
            business_per_hour: Some(PerHourByQuality {
                green: 100_000,
                yellow: 10_000,
                red: 1_000,
                unknown: 100_000,
                burst: 1_000,
            }),
            messaging_limit: Some(2_000),
        };
        Self {
            business_id: None,
            display_name: None,
            also_known_as: Vec::new(),
            portfolio: None,
            whatsapp_accounts: Vec::new(),
            senders: BTreeSet::new(),
            topics: BTreeMap::new(),
            templates: Vec::new(),
            opt_in_programs: Vec::new(),
            evidence: EvidenceGrade::Strict,
            consent_required: [Category::Marketing, Category::Utility, Category::Authentication].into(),
            consent_types: BTreeMap::new(),
            opt_in_expires_after_ms: None,
            double_opt_in: BTreeSet::new(),
            pending_expires_after_ms: 7 * DAY_MS,
            clock_margin_ms: 5 * MINUTE_MS,
            unregistered_templates: UnregisteredTemplates::Deny,
            opt_out_instructions: [
                (Channel::Whatsapp, InstructionPeriod::EveryMs(30 * DAY_MS)),
                (Channel::Sms, InstructionPeriod::EveryMs(30 * DAY_MS)),
                (Channel::Email, InstructionPeriod::EveryMessage),
                (Channel::Voice, InstructionPeriod::EveryMessage),
            ]
            .into(),
            stop_scope: StopScope::Channel,
            stop_confirmation_within_ms: 5 * MINUTE_MS,
            fail_open: [Category::Authentication].into(),
            shadow: Vec::new(),
            cooldowns: Cooldowns { recipient_marketing_ms: DAY_MS, sender_ms: HOUR_MS },
            region_blocks: [((Category::Marketing, Channel::Whatsapp), [*b"US"].into())].into(),
            default_time_zone: None,
            quiet_hours: BTreeMap::new(),
            limits: [(Channel::Whatsapp, whatsapp)].into(),
            frequency: vec![FrequencyCap { class: CapClass::Marketing, max: 2, per_ms: DAY_MS }],
        }
    }

    /// Whether the business is configured, so that its name, topics and senders are known.
    #[must_use]
    pub const fn is_configured(&self) -> bool {
        self.business_id.is_some()
    }

    /// The category of `topic`, where the rules know it.
    #[must_use]
    pub fn category_of(&self, topic: &TopicId) -> Option<Category> {
        self.topics.get(topic).copied()
    }

    /// Whether `rule` only reports at `now`.
    #[must_use]
    pub fn shadows(&self, rule: Reason, now: Timestamp) -> bool {
        self.shadow.iter().any(|shadow| shadow.rule == rule && shadow.until.is_none_or(|until| now < until))
    }

    /// Whether `rule` may be shadowed at all: limits, quiet hours and region blocks only (design §4.1).
    #[must_use]
    pub const fn may_shadow(rule: Reason) -> bool {
        matches!(
            rule,
            Reason::RegionBlocked
                | Reason::QuietHours
                | Reason::Cooldown
                | Reason::FrequencyCap
                | Reason::MessagingLimit
                | Reason::PairRate
                | Reason::SenderRate
                | Reason::BusinessRate
        )
    }

    /// Whether an opt-in of `consent_type` permits on `channel`.
    #[must_use]
    pub fn permits(&self, consent_type: ConsentType, channel: Channel) -> bool {
        consent_type == ConsentType::Express
            || self.consent_types.get(&channel).is_some_and(|types| types.contains(&consent_type))
    }

    /// Topics of a category, as known now.
    pub fn topics_of(&self, category: Category) -> impl Iterator<Item = &TopicId> {
        self.topics.iter().filter(move |(_, of)| **of == category).map(|(topic, _)| topic)
    }

    /// The purposes an opt-out of `category` reaches as known now: the category and its topics.
    #[must_use]
    pub fn reach_of(&self, category: Category) -> Vec<Purpose> {
        let mut reach = vec![Purpose::Category(category)];
        reach.extend(self.topics_of(category).cloned().map(Purpose::Topic));
        reach
    }
}

/// All rules in force: the built-in ones, or one set per configured business.
#[derive(Clone, Debug)]
pub struct RuleBook {
    /// Rules of any business where none is configured.
    pub defaults: Arc<Rules>,
    /// Rules per configured business; when not empty, other ids are unknown.
    pub businesses: BTreeMap<BusinessId, Arc<Rules>>,
    /// What every decision quotes: a short hash of the whole policy part.
    pub version: Arc<str>,
}

impl RuleBook {
    /// The rules of `business`, or `None` where businesses are configured and this is not one.
    #[must_use]
    pub fn of(&self, business: &str) -> Option<&Arc<Rules>> {
        if self.businesses.is_empty() {
            return Some(&self.defaults);
        }
        self.businesses.get(business)
    }
}
