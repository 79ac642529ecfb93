//! A person's consent as a list of states, for answers to people and programs.

use super::consent::OptIn;
use super::ids::EventId;
use super::rules::Rules;
use super::standing::{self, Known, Relation, Standing, Subject};
use super::time::Timestamp;
use super::types::{Category, Channel, ConsentType, EvidenceGrade, Purpose};

/// The state of consent in one scope (DPV's ConsentStatus in fewer words).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never given.
    None,
    /// Given.
    OptedIn,
    /// Asked for, not confirmed.
    Pending,
    /// Withdrawn.
    OptedOut,
    /// Given, but an ambiguous reply holds marketing back.
    InDoubt,
    /// Ran out.
    Expired,
    /// Given, and found not to count.
    Invalidated,
    /// Given on this channel, not for this.
    NotCovered,
}

/// One line of a person's consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeState {
    /// The channel.
    pub channel: Channel,
    /// The purpose.
    pub purpose: Purpose,
    /// The state.
    pub state: State,
    /// Since when, where the deciding events tell.
    pub since: Option<Timestamp>,
    /// The deciding events.
    pub basis: Vec<EventId>,
    /// When it ends.
    pub expire: Option<Timestamp>,
    /// The legal footing of the opt-in that decides.
    pub consent_type: Option<ConsentType>,
    /// What that opt-in's evidence proves.
    pub grade: Option<EvidenceGrade>,
}

/// The states of every scope that the records or the rules know, on `channels`.
#[must_use]
pub fn states(known: &[Known<'_>], channels: &[Channel], rules: &Rules, now: Timestamp) -> Vec<ScopeState> {
    let written = || known.iter().flat_map(|known| &known.record.cells).map(|(scope, _)| scope);
    let mut purposes: Vec<Purpose> = written().map(|scope| scope.purpose.clone()).collect();
    purposes.extend(rules.topics.keys().cloned().map(Purpose::Topic));
    purposes.sort();
    purposes.dedup();
    let mut states = Vec::new();
    for channel in channels {
        let touched = written().any(|scope| scope.channel.is_none_or(|at| at == *channel));
        if touched {
            states.extend(purposes.iter().map(|purpose| state_of(known, *channel, purpose, rules, now)));
        }
    }
    states
}

/// The state of one scope.
#[must_use]
pub fn state_of(
    known: &[Known<'_>],
    channel: Channel,
    purpose: &Purpose,
    rules: &Rules,
    now: Timestamp,
) -> ScopeState {
    let subject = subject(purpose, channel, rules);
    let finding = standing::standing(known, &subject, rules, now);
    let opt_in = finding.basis.first().and_then(|id| opt_in(known, *id));
    let held = subject.category == Category::Marketing
        && known
            .iter()
            .flat_map(|known| &known.record.holds)
            .any(|(at, register)| *at == channel && register.suppresses);
    let state = match finding.standing {
        Standing::OptedOut => State::OptedOut,
        Standing::Granted if held => State::InDoubt,
        Standing::Granted => State::OptedIn,
        Standing::Pending => State::Pending,
        Standing::Expired => State::Expired,
        Standing::TopicNotCovered => State::NotCovered,
        Standing::None if is_void(known, channel, purpose) => State::Invalidated,
        Standing::None => State::None,
    };
    ScopeState {
        channel,
        purpose: purpose.clone(),
        state,
        since: finding.since,
        expire: finding.until,
        consent_type: opt_in.map(|opt_in| opt_in.consent_type),
        grade: opt_in.map(|opt_in| opt_in.grade),
        basis: finding.basis,
    }
}

fn is_void(known: &[Known<'_>], channel: Channel, purpose: &Purpose) -> bool {
    known.iter().filter(|known| known.relation == Relation::Own).flat_map(|known| &known.record.cells).any(
        |(scope, cell)| {
            scope.channel == Some(channel) && scope.purpose == *purpose && !cell.opt_ins.is_empty()
        },
    )
}

fn opt_in<'a>(known: &'a [Known<'a>], id: EventId) -> Option<&'a OptIn> {
    known
        .iter()
        .flat_map(|known| &known.record.cells)
        .flat_map(|(_, cell)| &cell.opt_ins)
        .find(|opt_in| opt_in.id == id)
}

/// How consent sees a message of `purpose`. Everything is seen as a reply is: only an opt-out of the whole
/// channel bears on it.
#[must_use]
pub fn subject<'a>(purpose: &'a Purpose, channel: Channel, rules: &Rules) -> Subject<'a> {
    match purpose {
        Purpose::All => Subject { channel, category: Category::Service, topic: None },
        Purpose::Category(category) => Subject { channel, category: *category, topic: None },
        Purpose::Topic(topic) => {
            let category = rules.category_of(topic).unwrap_or(Category::Marketing);
            Subject { channel, category, topic: Some(topic) }
        }
    }
}
