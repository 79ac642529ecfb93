//! One connection to one peer: what it told, what it is owed, and the next frame for it.
//!
//! Nothing is queued here but what the window admits: acks, wants and changes are kept as the *state* to be told, and a
//! frame is made of it when the carrier has room. So a peer that reads slowly gets fewer and fuller frames.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::clocks::Offsets;
use super::frame::{ENTRIES_MAX, Frame, Heard, Instance, Role, Run, VectorEntry};
use super::freshness::Answers;
use super::gossip::UsageOut;
use super::settings::{Mono, Now, PINGS_MAX};
use super::vector::Heads;
use super::window::Outflow;
use crate::ledger::Head;
use crate::policy::ids::OriginId;

/// What a peer said of itself.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) instance: Instance,
    pub(super) run: Run,
    pub(super) role: Role,
    /// The name it is counted under, if it is an anchor.
    pub(super) anchor: Option<String>,
}

/// How far a peer holds an origin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) sequence: u64,
    /// The peer numbers it in its present run.
    pub(super) own: bool,
    /// It was told not to send it.
    pub(super) skipped: bool,
    /// What it sends of it does not verify, so what is held says nothing of what it holds.
    pub(super) refused: bool,
}

/// A ping that was not answered yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pinged {
    pub(super) number: u64,
    pub(super) at: Now,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) dialled: bool,
    pub(super) since: Mono,
    /// When anything last came.
    pub(super) heard: Mono,
    /// When events last came.
    pub(super) delivered: Mono,
    /// Frames that the carrier holds.
    pub(super) queued: usize,
    pub(super) peer: Option<Peer>,
    pub(super) hello_due: bool,
    pub(super) hello_sent: bool,
    /// It is of an earlier build, which has to be told closed origins one by one.
    pub(super) one_by_one: bool,
    /// Its vector, as far as it told.
    pub(super) told: BTreeMap<OriginId, Told>,
    /// Where it is ahead of us.
    pub(super) ahead: BTreeSet<OriginId>,
    /// It has told its vector in full at least once.
    pub(super) told_all: bool,
    pub(super) wants: BTreeMap<OriginId, u64>,
    pub(super) skips: BTreeSet<OriginId>,
    /// Origins whose head it was not told.
    pub(super) changed: BTreeSet<OriginId>,
    /// Changes are not to wait for its next ping.
    pub(super) urgent: bool,
    pub(super) acks: BTreeSet<OriginId>,
    /// Its frames of events that are dealt with, and how many of them it knows of.
    pub(super) done: u64,
    pub(super) done_told: u64,
    /// Its events that are not dealt with, in bytes and frames.
    pub(super) taken_bytes: usize,
    pub(super) taken_frames: usize,
    /// Origins that do not verify and that it was not asked for yet, to be kept apart.
    pub(super) apart_due: BTreeSet<OriginId>,
    /// Origins of which it is to be told that what it sent does not follow.
    pub(super) doubts: BTreeSet<OriginId>,
    /// When the last ping left whose answer is applied in full.
    pub(super) settled: Option<Mono>,
    pub(super) answer_due: u64,
    pub(super) ping_due: bool,
    /// Its closed origins are others than ours: it is to be asked for each of them.
    pub(super) ask_closed_due: bool,
    /// So many origins it told of or hashed in its Hello: an answer that comes before all of them were told speaks for less.
    pub(super) origins_owed: usize,
    pub(super) pings: VecDeque<Pinged>,
    pub(super) ping_number: u64,
    pub(super) answers: Answers,
    pub(super) offsets: Offsets,
    pub(super) out: Outflow,
    pub(super) usage: UsageOut,
}

/// What a frame is made of besides the session.
pub(super) struct Around<'a> {
    pub(super) now: Now,
    pub(super) held: &'a Heads,
    pub(super) own: &'a BTreeSet<OriginId>,
    pub(super) heard: Vec<Heard>,
}

impl Session {
    pub(super) fn new(dialled: bool, now: Now) -> Self {
        Self {
            dialled,
            since: now.mono,
            heard: now.mono,
            delivered: now.mono,
            queued: 0,
            peer: None,
            hello_due: !dialled,
            hello_sent: false,
            one_by_one: false,
            told: BTreeMap::new(),
            ahead: BTreeSet::new(),
            told_all: false,
            wants: BTreeMap::new(),
            skips: BTreeSet::new(),
            changed: BTreeSet::new(),
            urgent: false,
            acks: BTreeSet::new(),
            done: 0,
            done_told: 0,
            taken_bytes: 0,
            taken_frames: 0,
            apart_due: BTreeSet::new(),
            doubts: BTreeSet::new(),
            settled: None,
            answer_due: 0,
            ping_due: false,
            ask_closed_due: false,
            origins_owed: 0,
            pings: VecDeque::new(),
            ping_number: 0,
            answers: Answers::default(),
            offsets: Offsets::default(),
            out: Outflow::new(0, 0),
            usage: UsageOut::default(),
        }
    }

    /// Both sides have said who they are.
    pub(super) fn is_open(&self) -> bool {
        self.peer.is_some() && self.hello_sent
    }

    /// The anchor at the other end, if it is one.
    pub(super) fn anchor(&self) -> Option<&str> {
        self.peer.as_ref()?.anchor.as_deref()
    }

    /// How far the peer holds `origin`.
    pub(super) fn told(&self, origin: OriginId) -> u64 {
        self.told.get(&origin).map_or(0, |told| told.sequence)
    }

    /// Ask for `origin` from `from` on.
    pub(super) fn want(&mut self, origin: OriginId, from: u64) {
        self.skips.remove(&origin);
        self.wants.insert(origin, from);
        if let Some(told) = self.told.get_mut(&origin) {
            told.skipped = false;
        }
    }

    /// What the peer sends of `origin` does not verify: all of it is to be kept apart, if that was not asked for.
    pub(super) fn refuse(&mut self, origin: OriginId) {
        if self.told.get_mut(&origin).is_some_and(|told| !std::mem::replace(&mut told.refused, true)) {
            self.ahead.insert(origin);
            self.apart_due.insert(origin);
        }
    }

    /// What the peer sends of `origin` gets another chance to verify.
    pub(super) fn pardon(&mut self, origin: OriginId) {
        if let Some(told) = self.told.get_mut(&origin) {
            told.refused = false;
        }
        self.apart_due.remove(&origin);
    }

    /// Ask not to be sent `origin`, once.
    pub(super) fn skip(&mut self, origin: OriginId) {
        self.wants.remove(&origin);
        if let Some(told) = self.told.get_mut(&origin)
            && !told.skipped
        {
            told.skipped = true;
            self.skips.insert(origin);
        }
    }

    /// What the peer sends of `origin` is kept apart up to `sequence`.
    pub(super) fn kept_apart(&mut self, origin: OriginId, sequence: u64) {
        if self.told(origin) <= sequence {
            self.ahead.remove(&origin);
        }
        self.answers.applied(origin, sequence);
    }

    /// `origin` is held up to `head` here now.
    pub(super) fn grew(&mut self, origin: OriginId, head: Head) {
        if self.peer.is_none() && !self.hello_sent {
            return;
        }
        self.changed.insert(origin);
        if !self.told.get(&origin).is_some_and(|told| told.refused) {
            if self.told(origin) <= head.sequence {
                self.ahead.remove(&origin);
            }
            self.answers.applied(origin, head.sequence);
        }
        self.out.grew(origin);
        if !self.out.knows(origin) && self.told(origin) < head.sequence {
            self.urgent = true;
        }
        if self.told.get(&origin).is_some_and(|told| told.own) {
            self.acks.insert(origin);
        }
    }

    /// The next frame, if there is something to say. `Hello` is made elsewhere.
    pub(super) fn next_frame(&mut self, around: &Around<'_>) -> Option<Frame> {
        if !self.is_open() {
            return None;
        }
        // Before the first ping, whose answer speaks for all that was asked for before it.
        if std::mem::take(&mut self.ask_closed_due) {
            return Some(Frame::AskClosed);
        }
        if !self.wants.is_empty() || !self.skips.is_empty() {
            return Some(self.want_frame());
        }
        if self.done > self.done_told || !self.acks.is_empty() {
            return Some(self.ack_frame(around.held));
        }
        while let Some(origin) = self.doubts.pop_first() {
            if let Some(head) = around.held.get(origin) {
                let own = around.own.contains(&origin);
                return Some(Frame::Doubt { held: VectorEntry { origin, head, own } });
            }
        }
        if self.answer_due > 0 || self.urgent || self.changed.len() >= ENTRIES_MAX {
            return Some(self.heartbeat_frame(around));
        }
        if self.ping_due {
            self.ping_due = false;
            if self.pings.len() < PINGS_MAX {
                self.ping_number += 1;
                self.pings.push_back(Pinged { number: self.ping_number, at: around.now });
                return Some(Frame::Ping { number: self.ping_number });
            }
        }
        // Usage waits until the carrier has nothing at all, so that it is never before anything else.
        let events = self.out.take().map(Frame::Events);
        if events.is_none() && self.queued == 0 { self.usage.next_frame() } else { events }
    }

    fn want_frame(&mut self) -> Frame {
        let mut origins = Vec::new();
        while let Some((origin, from)) = self.wants.pop_first() {
            origins.push((origin, from));
            if origins.len() == ENTRIES_MAX {
                break;
            }
        }
        let mut skip = Vec::new();
        while origins.len() + skip.len() < ENTRIES_MAX
            && let Some(origin) = self.skips.pop_first()
        {
            skip.push(origin);
        }
        Frame::Want { origins, skip }
    }

    fn ack_frame(&mut self, held: &Heads) -> Frame {
        self.done_told = self.done;
        let mut origins = Vec::new();
        while origins.len() < ENTRIES_MAX
            && let Some(origin) = self.acks.pop_first()
        {
            origins.extend(held.get(origin).map(|head| (origin, head.sequence)));
        }
        Frame::Ack { frames_done: self.done, origins }
    }

    fn heartbeat_frame(&mut self, around: &Around<'_>) -> Frame {
        let mut changes = Vec::new();
        while changes.len() < ENTRIES_MAX
            && let Some(origin) = self.changed.pop_first()
        {
            let own = around.own.contains(&origin);
            changes.extend(around.held.get(origin).map(|head| VectorEntry { origin, head, own }));
        }
        // An answer speaks for the vector as it is now, so it goes out only with the last of the changes.
        let complete = self.changed.is_empty();
        let answers = if complete { std::mem::take(&mut self.answer_due) } else { 0 };
        self.urgent = !complete;
        let heard = if answers > 0 { around.heard.clone() } else { Vec::new() };
        Frame::Heartbeat { answers, wall_ms: around.now.wall.0, changes, heard }
    }
}
