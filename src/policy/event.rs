//! Consent events as the ledger keeps them: facts fixed by their recorder, without anything that
//! names a person in clear. Evidence, texts and actors travel beside them, erasable.

use super::consent::{Covers, Naming};
use super::ids::{BusinessId, EventId, Identifier, OriginId, SenderId};
use super::time::Timestamp;
use super::types::{
    Category, Channel, ConsentType, EvidenceGrade, InvalidateCause, OptInMethod, OptOutMethod, Quality,
    Scope, SenderStatus, TemplateStatus,
};

/// What makes a repeated request the same one: keyed hashes of its id and of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestMark {
    /// Of the business and the request id.
    pub key: [u8; 8],
    /// Of everything else in the request.
    pub content: [u8; 8],
}

/// One call's consent changes for one person, one event of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsentEvent {
    /// The business.
    pub business: BusinessId,
    /// The person's identifiers, the one addressed first; several are linked by this event.
    pub subjects: Vec<Identifier>,
    /// Where there are several: their other written forms. An opt-out under one of these reaches every subject; nothing else does, and
    /// nothing of this event concerns them.
    pub forms: Vec<Identifier>,
    /// When it was recorded, by the recorder's clock.
    pub recorded: Timestamp,
    /// The caller's request, so that a retry writes nothing.
    pub request: Option<RequestMark>,
    /// The version of the rules it was judged by.
    pub rules_version: String,
    /// Another node took it in than the one that numbered it, as an edge does: what its origin numbered before may have happened after it.
    pub numbered_late: bool,
    /// The changes, opt-outs first. They take effect together.
    pub changes: Vec<Change>,
}

impl ConsentEvent {
    /// What an opt-in comes after that names this event.
    #[must_use]
    pub fn naming(&self) -> Naming {
        #[cfg(sabotage)]
        if crate::sabotage::is("late-numbers-cover") {
            return Naming::WithEarlier;
        }
        if self.numbered_late { Naming::Alone } else { Naming::WithEarlier }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The person opted out.
    OptOut(OptOut),
    /// The person opted in.
    OptIn(OptIn),
    /// The person asked, and has yet to confirm.
    Request(Request),
    /// Opt-ins given before no longer count.
    Invalidate(Invalidate),
    /// An ambiguous reply suppresses marketing, or no longer does.
    Hold(Hold),
    /// The platform's own marketing switch for one sender (Meta's preference, error 131050).
    Preference(Preference),
    /// The person asked for help.
    Help {
        /// The channel it came by.
        channel: Channel,
    },
}

/// An opt-out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptOut {
    /// What it reaches, a category with the topics it had when this was recorded.
    pub scopes: Vec<Scope>,
    /// The time the merge uses.
    pub time: Timestamp,
    /// What the report stated.
    pub stated: Option<Timestamp>,
    /// Taken over from another system.
    pub imported: bool,
    /// Where a person's own message made it: its channel and the provider's time.
    pub inbound: Option<(Channel, Timestamp)>,
    /// How the person opted out.
    pub method: OptOutMethod,
    /// Whether one confirmation may be sent, and until when; not for a repeated STOP.
    pub confirm_until: Option<Timestamp>,
}

/// An opt-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptIn {
    /// What it reaches; each with the category it is bound to, if any.
    pub scopes: Vec<(Scope, Option<Category>)>,
    /// When the person acted.
    pub occurred: Timestamp,
    /// The opt-outs the person acted after.
    pub covers: Covers,
    /// It comes after every opt-out earlier than this.
    pub before: Option<Timestamp>,
    /// Taken over from another system.
    pub imported: bool,
    /// When it ends.
    pub expire: Option<Timestamp>,
    /// Its legal footing.
    pub consent_type: ConsentType,
    /// What its evidence proves.
    pub grade: EvidenceGrade,
    /// How the person opted in.
    pub method: OptInMethod,
    /// The request it confirms.
    pub confirms: Option<EventId>,
    /// The opt-in it renews (START).
    pub renews: Option<EventId>,
}

/// A request for confirmation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What its opt-in will reach.
    pub scopes: Vec<(Scope, Option<Category>)>,
    /// The channel of the question.
    pub via: Channel,
    /// When the person acted.
    pub occurred: Timestamp,
    /// The opt-outs applied when it was recorded.
    pub covers: Covers,
    /// When it lapses.
    pub expire: Timestamp,
    /// When its opt-in will end.
    pub opt_in_expire: Option<Timestamp>,
    /// The legal footing of its opt-in.
    pub consent_type: ConsentType,
    /// What its evidence proves.
    pub grade: EvidenceGrade,
    /// How the person asked.
    pub method: OptInMethod,
}

/// An invalidation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalidate {
    /// What it reaches.
    pub scopes: Vec<Scope>,
    /// Why.
    pub cause: InvalidateCause,
    /// The time the merge uses.
    pub time: Timestamp,
}

/// A hold on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The channel.
    pub channel: Channel,
    /// Whether marketing is suppressed from now on.
    pub held: bool,
    /// When.
    pub time: Timestamp,
}

/// The platform's marketing switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// The sender it is for.
    pub sender: SenderId,
    /// Whether marketing is stopped.
    pub stopped: bool,
    /// When, by the platform's time.
    pub time: Timestamp,
}

/// A template as the registry knows it; the latest `time` wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateEntry {
    /// The business.
    pub business: BusinessId,
    /// Its name.
    pub name: String,
    /// Its language, with an underscore: `en_US`.
    pub language: String,
    /// Its category, the provider's.
    pub category: Category,
    /// Its message type.
    pub topic: Option<super::ids::TopicId>,
    /// Whether it may be sent.
    pub status: TemplateStatus,
    /// Its quality; all may be sent.
    pub quality: Quality,
    /// Whether its text tells how to opt out.
    pub has_opt_out_instructions: bool,
    /// While it is PAUSED: when the provider means to end that.
    pub pause_until: Option<Timestamp>,
    /// When this became so.
    pub time: Timestamp,
}

/// A sender as the provider rates it; the latest `time` wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderEntry {
    /// The business.
    pub business: BusinessId,
    /// The sender.
    pub sender: SenderId,
    /// Its rating.
    pub quality: Quality,
    /// What it may do.
    pub status: SenderStatus,
    /// When that ends, where the provider said.
    pub status_until: Option<Timestamp>,
    /// When this became so.
    pub time: Timestamp,
}

/// One entry of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerEntry {
    /// A person's consent.
    Consent(ConsentEvent),
    /// A template.
    Template(TemplateEntry),
    /// A sender.
    Sender(SenderEntry),
    /// Personal fields of a person's events were erased.
    Erasure {
        /// The business.
        business: BusinessId,
        /// Whose.
        subject: Identifier,
        /// When.
        recorded: Timestamp,
        /// How many events lost their personal fields.
        events: u64,
    },
    /// An origin was forked: two stores wrote as one.
    Distrust {
        /// The origin.
        origin: OriginId,
        /// From this sequence on its ids name more than one event.
        from_sequence: u64,
        /// When that was found out.
        recorded: Timestamp,
    },
}
