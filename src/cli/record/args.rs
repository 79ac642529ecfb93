//! The flags of each change, and the change they make.

use clap::Args;
use prost_types::Timestamp;

use super::evidence::EvidenceArgs;
use crate::cli::connect::ServerFlags;
use crate::cli::{input, words};
use crate::pb::v1;
use crate::pb::v1::consent_change::Change;

/// Whose record it is, who acts, and how safe it must be.
#[derive(Args, Clone, Debug)]
pub struct SubjectArgs {
    /// Whose consent record.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// The person: a phone number with `+`, an email address or a WhatsApp user id.
    #[arg(long, value_name = "ADDRESS")]
    pub to: String,
    /// A further address of the same person, repeatable.
    #[arg(long, value_name = "ADDRESS")]
    pub also: Vec<String>,
    /// Makes a repeat harmless; a new one is made and printed where none is given.
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// Who records this, by their name in your system.
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
    /// What they are.
    #[arg(long, value_parser = words::parser::<v1::ActorKind>(), default_value = "OPERATOR")]
    pub actor_kind: v1::ActorKind,
    /// How safe it must be before the answer. [default: LOCAL]
    #[arg(long, value_parser = words::parser::<v1::Durability>())]
    pub min_durability: Option<v1::Durability>,
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Channels, topics and categories.
#[derive(Args, Clone, Debug)]
pub struct ScopeArgs {
    /// A channel, repeatable.
    #[arg(long = "channel", value_delimiter = ',', value_parser = words::parser::<v1::Channel>())]
    pub channels: Vec<v1::Channel>,
    /// A topic of the business, repeatable.
    #[arg(long = "topic", value_name = "TOPIC", value_delimiter = ',')]
    pub topics: Vec<String>,
    /// A category, repeatable.
    #[arg(long = "category", value_delimiter = ',', value_parser = words::parser::<v1::Category>())]
    pub categories: Vec<v1::Category>,
}

/// Flags of `record opt-in`.
#[derive(Args, Clone, Debug)]
pub struct OptInArgs {
    /// The person.
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// To what.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// When the person acted: RFC 3339, or `now`. Required, and checked with all else by the server.
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub occurred_time: Option<Timestamp>,
    /// What kind of consent it is. [default: EXPRESS]
    #[arg(long, value_parser = words::parser::<v1::ConsentType>())]
    pub consent_type: Option<v1::ConsentType>,
    /// When it ends. [default: as the rules say]
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub expire_time: Option<Timestamp>,
    /// An opt-out that the person acted after, repeatable. Without any, those in force are looked up, and named if
    /// their time is not later than the opt-in's.
    #[arg(long, value_name = "EVENT", value_parser = input::event)]
    pub supersedes: Vec<v1::EventId>,
    /// The pending request that this opt-in confirms; scope and evidence are then the request's.
    #[arg(long, value_name = "EVENT", value_parser = input::event)]
    pub confirms: Option<v1::EventId>,
    /// What shows it.
    #[command(flatten)]
    pub evidence: EvidenceArgs,
}

impl OptInArgs {
    /// The person, whether opt-outs are to be looked up, and the change.
    pub fn into_change(self) -> (SubjectArgs, bool, v1::ConsentChange) {
        let Self { subject, scope, occurred_time, consent_type, expire_time, supersedes, confirms, evidence } =
            self;
        let ScopeArgs { channels, topics, categories } = scope;
        // A confirmation supersedes by itself what its request knew.
        let wants_lookup = supersedes.is_empty() && confirms.is_none();
        let opt_in = v1::OptIn {
            channels: words::numbers(&channels),
            topics,
            categories: words::numbers(&categories),
            evidence: evidence.into_evidence(),
            consent_type: consent_type.unwrap_or_default().into(),
            supersedes,
            expire_time,
            confirms,
        };
        let change = v1::ConsentChange { change: Some(Change::OptIn(opt_in)), occurred_time };
        (subject, wants_lookup, change)
    }
}

/// Flags of `record opt-out`.
#[derive(Args, Clone, Debug)]
pub struct OptOutArgs {
    /// The person.
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// From what; none: from everything.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// When the person acted; the moment of recording counts if it is later. [default: now]
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub occurred_time: Option<Timestamp>,
    /// How the person withdrew.
    #[arg(long, value_parser = words::parser::<v1::OptOutMethod>(), default_value = "AGENT")]
    pub method: v1::OptOutMethod,
    /// What the person said.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub text: String,
}

impl OptOutArgs {
    /// The person and the change.
    pub fn into_change(self) -> (SubjectArgs, v1::ConsentChange) {
        let Self { subject, scope, occurred_time, method, text } = self;
        let ScopeArgs { channels, topics, categories } = scope;
        let opt_out = v1::OptOut {
            channels: words::numbers(&channels),
            topics,
            categories: words::numbers(&categories),
            method: method.into(),
            text,
        };
        (subject, v1::ConsentChange { change: Some(Change::OptOut(opt_out)), occurred_time })
    }
}

/// Flags of `record request`.
#[derive(Args, Clone, Debug)]
pub struct RequestArgs {
    /// The person.
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// The channel of the question, on which it must be confirmed.
    #[arg(long, value_parser = words::parser::<v1::Channel>())]
    pub via: v1::Channel,
    /// To what the person would be opted in.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// When the person asked for it: RFC 3339, or `now`.
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub occurred_time: Option<Timestamp>,
    /// What kind of consent it will be. [default: EXPRESS]
    #[arg(long, value_parser = words::parser::<v1::ConsentType>())]
    pub consent_type: Option<v1::ConsentType>,
    /// When an unanswered request ends. [default: as the rules say]
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub expire_time: Option<Timestamp>,
    /// What shows that the person asked for it.
    #[command(flatten)]
    pub evidence: EvidenceArgs,
}

impl RequestArgs {
    /// The person and the change.
    pub fn into_change(self) -> (SubjectArgs, v1::ConsentChange) {
        let Self { subject, via, scope, occurred_time, consent_type, expire_time, evidence } = self;
        let ScopeArgs { channels, topics, categories } = scope;
        let request = v1::OptInRequest {
            via: via.into(),
            channels: words::numbers(&channels),
            topics,
            categories: words::numbers(&categories),
            evidence: evidence.into_evidence(),
            expire_time,
            consent_type: consent_type.unwrap_or_default().into(),
        };
        (subject, v1::ConsentChange { change: Some(Change::OptInRequest(request)), occurred_time })
    }
}

/// Flags of `record invalidate`.
#[derive(Args, Clone, Debug)]
pub struct InvalidateArgs {
    /// The person.
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Why. A changed number is also an opt-out of the old one.
    #[arg(long, value_parser = words::parser::<v1::InvalidateCause>())]
    pub cause: v1::InvalidateCause,
    /// Which opt-ins; none: all.
    #[command(flatten)]
    pub scope: ScopeArgs,
    /// Opt-ins given before this do not hold. [default: now]
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub occurred_time: Option<Timestamp>,
}

impl InvalidateArgs {
    /// The person and the change.
    pub fn into_change(self) -> (SubjectArgs, v1::ConsentChange) {
        let Self { subject, cause, scope, occurred_time } = self;
        let ScopeArgs { channels, topics, categories } = scope;
        let invalidate = v1::Invalidate {
            cause: cause.into(),
            channels: words::numbers(&channels),
            topics,
            categories: words::numbers(&categories),
        };
        (subject, v1::ConsentChange { change: Some(Change::Invalidate(invalidate)), occurred_time })
    }
}

/// Flags of `record release`.
#[derive(Args, Clone, Debug)]
pub struct ReleaseArgs {
    /// The person.
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// End the hold that followed an ambiguous reply.
    #[arg(long, required_unless_present = "sender", conflicts_with = "sender")]
    pub hold: bool,
    /// The channel of the hold, repeatable; none: all.
    #[arg(long = "channel", value_delimiter = ',', value_parser = words::parser::<v1::Channel>(),
        conflicts_with = "sender")]
    pub channels: Vec<v1::Channel>,
    /// End the suppression that the provider told of this sender.
    #[arg(long, value_name = "ID")]
    pub sender: Option<String>,
    /// Why, for the audit trail.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub note: String,
    /// When it ended. [default: now]
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub occurred_time: Option<Timestamp>,
}

impl ReleaseArgs {
    /// The person and the change.
    pub fn into_change(self) -> (SubjectArgs, v1::ConsentChange) {
        use v1::release::Suppression;
        let Self { subject, hold: _, channels, sender, note, occurred_time } = self;
        let suppression = match sender {
            Some(sender_id) => Suppression::Sender(v1::SenderSuppressionRelease { sender_id }),
            None => Suppression::Hold(v1::HoldRelease { channels: words::numbers(&channels) }),
        };
        let release = v1::Release { suppression: Some(suppression), note };
        (subject, v1::ConsentChange { change: Some(Change::Release(release)), occurred_time })
    }
}
