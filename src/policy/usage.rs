//! What sends and inbound messages left behind for one identifier: windows, obligations met,
//! consent messages spent. Losing it denies more or owes more; it never permits what consent forbids.
//!
//! Nodes tell each other what they noted, in any order and more than once, so [`Usage::merge`] is a join: what is undone
//! leaves a mark behind, which undoes it wherever it arrives, before or after.

use super::ids::{EventId, SenderId};
use super::time::Timestamp;
use super::types::Channel;

mod merge;

/// How many senders' windows a person's usage remembers; the latest stay.
pub const WINDOWS_MAX: usize = 16;
/// How many spent consent messages a person's usage remembers; more than there are allowances.
pub const SPENT_MAX: usize = 16;
/// How many things of each kind a person's usage remembers to have been undone; the latest stay.
pub const UNDONE_MAX: usize = 16;

/// The customer-service window of one sender on one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The channel.
    pub channel: Channel,
    /// The sender that the person wrote to.
    pub sender: SenderId,
    /// The provider's time of the person's last message.
    pub last: Timestamp,
    /// The provider's time of the last message that was neither an opt-out nor ambiguous.
    pub reopened: Option<Timestamp>,
}

/// The last message that was allowed on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastAllowed {
    /// The channel.
    pub channel: Channel,
    /// The consent event it was about, if any.
    pub about: Option<EventId>,
    /// When.
    pub time: Timestamp,
}

/// A consent message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// What it was about.
    pub event: EventId,
    /// Where; `None`: anywhere, as earlier builds noted it.
    pub channel: Option<Channel>,
    /// When it was allowed.
    pub time: Timestamp,
    /// A keyed hash of the provider's message id, so that a quoted question is recognised.
    pub message: Option<[u8; 8]>,
}

/// What was undone, so that it stays undone when it is heard of again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// Windows that the provider closed, with the time of the last message that they had been opened by.
    pub closed: Vec<(Channel, SenderId, Timestamp)>,
    /// Instructions up to this time did not arrive.
    pub owed: Vec<(Channel, Timestamp)>,
    /// Consent messages that failed, by event and when they were allowed.
    pub failed: Vec<(EventId, Timestamp)>,
}

/// Usage of one identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Windows, at most one per channel and sender.
    pub windows: Vec<Window>,
    /// When a message with opt-out instructions was last reported sent, per channel.
    pub instructed: Vec<(Channel, Timestamp)>,
    /// Consent messages sent.
    pub spent: Vec<Spent>,
    /// The last message allowed, per channel.
    pub last_allowed: Vec<LastAllowed>,
    /// What of it was undone.
    pub undone: Undone,
}

impl Usage {
    /// The window of `sender` on `channel`.
    #[must_use]
    pub fn window(&self, channel: Channel, sender: &str) -> Option<&Window> {
        self.windows.iter().find(|window| window.channel == channel && window.sender.as_str() == sender)
    }

    /// Notes a message of the person. `reopened`: since when it ends what an opt-out did to the window, unless it was an opt-out
    /// or ambiguous. One that is not later than the last before the provider closed the window opens nothing.
    pub fn heard(&mut self, channel: Channel, sender: &SenderId, at: Timestamp, reopened: Option<Timestamp>) {
        self.merge_window(&Window { channel, sender: sender.clone(), last: at, reopened });
    }

    /// Closes the window of `sender`, as the provider said it is.
    pub fn close_window(&mut self, channel: Channel, sender: &str) {
        if let Some(window) = self.window(channel, sender) {
            let closed = (channel, window.sender.clone(), window.last);
            self.merge_closed(&closed);
        }
    }

    /// When opt-out instructions were last sent on `channel`.
    #[must_use]
    pub fn instructed(&self, channel: Channel) -> Option<Timestamp> {
        self.instructed.iter().find(|(at, _)| *at == channel).map(|(_, time)| *time)
    }

    /// Notes that opt-out instructions were sent on `channel`.
    pub fn instruct(&mut self, channel: Channel, at: Timestamp) {
        self.merge_instructed(channel, at);
    }

    /// Opt-out instructions are owed on `channel` again.
    pub fn owe_instructions(&mut self, channel: Channel) {
        if let Some(met) = self.instructed(channel) {
            self.merge_owed(channel, met);
        }
    }

    /// Whether the message about `event` was sent on `channel`; `None`: on any.
    #[must_use]
    pub fn is_spent(&self, event: EventId, channel: Option<Channel>) -> bool {
        let here = |spent: &Spent| channel.is_none() || spent.channel.is_none() || spent.channel == channel;
        self.spent.iter().any(|spent| spent.event == event && here(spent))
    }

    /// Notes that the message about `event` was allowed on `channel`.
    pub fn spend(&mut self, event: EventId, channel: Channel, at: Timestamp) {
        self.merge_spent(&Spent { event, channel: Some(channel), time: at, message: None });
    }

    /// Takes back that the message about `event`, allowed `at`, was sent: it failed. `false`: that is known.
    pub fn unspend(&mut self, event: EventId, at: Timestamp) -> bool {
        self.merge_failed((event, at))
    }

    /// Notes the provider's id of the message about `event` that was allowed on `channel` `at`.
    pub fn name_message(&mut self, event: EventId, channel: Channel, at: Timestamp, message: [u8; 8]) {
        self.merge_spent(&Spent { event, channel: Some(channel), time: at, message: Some(message) });
    }

    /// The event whose message the provider named `message`.
    #[must_use]
    pub fn about_message(&self, message: [u8; 8]) -> Option<EventId> {
        self.spent.iter().find(|spent| spent.message == Some(message)).map(|spent| spent.event)
    }

    /// The last message allowed on `channel`.
    #[must_use]
    pub fn last_allowed(&self, channel: Channel) -> Option<&LastAllowed> {
        self.last_allowed.iter().find(|last| last.channel == channel)
    }

    /// Notes a message allowed on `channel`.
    pub fn allowed(&mut self, channel: Channel, about: Option<EventId>, at: Timestamp) {
        let last = LastAllowed { channel, about, time: at };
        match self.last_allowed.iter_mut().find(|known| known.channel == channel) {
            Some(known) if known.time <= at => *known = last,
            Some(_) => {}
            None => self.last_allowed.push(last),
        }
    }
}
