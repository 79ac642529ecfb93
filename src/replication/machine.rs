//! The protocol as a state machine: an input and a moment in, effects out.

use std::collections::{BTreeMap, BTreeSet};

use super::Link;
use super::assign::{Choice, Intake};
use super::closed::Closed;
use super::durability::Durability;
use super::frame::{Events, Frame, Heard, Instance, Record, Role, Run, VectorEntry};
use super::freshness::Freshness;
use super::gossip::Gossip;
use super::session::{Around, Session, Told};
use super::settings::{Mono, Now, Settings};
use super::vector::Heads;
use super::window::Piece;
use crate::ledger::Head;
use crate::policy::ids::OriginId;

mod apart;
mod greet;
mod inout;
mod query;
mod receive;
#[cfg(test)]
mod tests;
mod tick;
mod usage;

pub use inout::{CloseReason, Effect, Input, Note, StoreOutcome, StoreRefusal};
pub use query::{Counters, PeerStatus, Progress, Unverified};

/// Records on their way to the store.
#[derive(Clone, Copy, Debug)]
struct Storing {
    link: Link,
    origin: OriginId,
    weight: usize,
    /// They are to be kept apart: whose, and the first and last sequence.
    apart: Option<(Run, u64, u64)>,
}

/// What is read for.
#[derive(Clone, Copy, Debug)]
enum Reading {
    /// To be sent.
    Piece(Link, Piece),
    /// To be compared with what a peer holds.
    Doubt(Link, OriginId, Head),
}

/// The protocol's state at one node.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    held: Heads,
    closed: Closed,
    /// The origins of this run.
    own: BTreeSet<OriginId>,
    /// The last of them.
    own_last: Option<OriginId>,
    replicated: BTreeMap<OriginId, u64>,
    sessions: BTreeMap<Link, Session>,
    intake: Intake,
    freshness: Freshness,
    durability: Durability,
    backlog: BTreeMap<OriginId, u64>,
    members: BTreeMap<Instance, Mono>,
    storing: BTreeMap<u64, Storing>,
    reading: BTreeMap<u64, Reading>,
    counters: Counters,
    gossip: Gossip,
    /// Why links to a store last ended.
    faults: BTreeMap<Instance, String>,
    ticket: u64,
    store_paused_until: Option<Mono>,
    pinged: Option<Mono>,
    effects: Vec<Effect>,
}

impl Machine {
    /// A node that holds `held` on disk and has applied it.
    #[must_use]
    pub fn new(settings: Settings, held: Heads) -> Self {
        Self {
            settings,
            held,
            closed: Closed::default(),
            own: BTreeSet::new(),
            own_last: None,
            replicated: BTreeMap::new(),
            sessions: BTreeMap::new(),
            intake: Intake::default(),
            freshness: Freshness::default(),
            durability: Durability::default(),
            backlog: BTreeMap::new(),
            members: BTreeMap::new(),
            storing: BTreeMap::new(),
            reading: BTreeMap::new(),
            counters: Counters::default(),
            gossip: Gossip::default(),
            faults: BTreeMap::new(),
            ticket: 0,
            store_paused_until: None,
            pinged: None,
            effects: Vec::new(),
        }
    }

    /// Each of `named` is the last record of an origin, as the first record of another that is held names it.
    #[must_use]
    pub fn with_named(mut self, named: impl IntoIterator<Item = (OriginId, Head)>) -> Self {
        named.into_iter().for_each(|(origin, head)| self.closed.name(origin, head));
        self
    }

    /// Takes in what happened and says what is to be done, in this order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        match input {
            Input::Connected { link, dialled } => self.connected(link, dialled, now),
            Input::Disconnected { link, why } => {
                self.blame(link, why);
                self.forget(link, now);
            }
            Input::Frame { link, frame } => self.frame(link, frame, now),
            Input::Garbled { link, why } => self.garbled(link, why, now),
            Input::Sent { link } => {
                self.on(link, |session| session.queued = session.queued.saturating_sub(1))
            }
            Input::OwnAppended { origin, head } => {
                if self.own.insert(origin) {
                    self.own_last = Some(origin);
                    self.closed.moved(origin);
                }
                self.advance(origin, head);
            }
            Input::OwnClosed { origin } => self.own_closed(origin, now),
            Input::Named { origin, head } => self.closed.name(origin, head),
            Input::Stored { ticket, outcome } => self.stored(ticket, outcome, now),
            Input::KeptApart { ticket, kept } => self.kept_apart(ticket, kept, now),
            Input::Read { ticket, records } => self.read(ticket, records, now),
            Input::Usage { bytes } => self.tell_usage(bytes),
            Input::LacksUsage => self.gossip.lacks = true,
            Input::UsageMade { link, part } => self.on(link, |session| session.usage.made(part)),
            Input::UsageTaken { link } => self.usage_taken(link),
            Input::Tick => self.tick(now),
        }
        self.flush(now);
        std::mem::take(&mut self.effects)
    }

    fn frame(&mut self, link: Link, frame: Frame, now: Now) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        session.heard = now.mono;
        if let Some(peer) = &session.peer {
            let instance = peer.instance;
            self.see(instance, now);
        }
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let open = session.is_open();
        match frame {
            Frame::Hello(hello) => self.hello(link, *hello, now),
            Frame::HelloRefused { reason, text } => {
                self.close(link, CloseReason::RefusedByPeer { reason, text }, now);
            }
            Frame::Unknown => {}
            _ if !open => self.close(link, CloseReason::Violation("spoke before its hello".to_owned()), now),
            Frame::Want { origins, skip } => self.wanted(link, &origins, &skip),
            Frame::Events(events) => self.events(link, events, now),
            Frame::Ack { frames_done, origins } => self.acked(link, frames_done, &origins, now),
            Frame::Ping { number } => session.answer_due = number,
            Frame::Doubt { held } => self.doubted(link, held.origin, held.head),
            Frame::Usage(usage) => self.usage(link, usage, now),
            Frame::AskUsage => session.usage.wished(),
            Frame::AskClosed => self.tell_closed(link),
            Frame::UsageAnswer(part) => self.usage_answer(link, part, now),
            Frame::Heartbeat { answers, wall_ms, changes, heard } => {
                self.heartbeat(link, answers, wall_ms, &changes, heard, now);
            }
        }
    }

    /// Makes frames and reads for whoever has room.
    fn flush(&mut self, now: Now) {
        let links: Vec<Link> = self.sessions.keys().copied().collect();
        let mut heard = None;
        for link in links {
            let Some(session) = self.sessions.get_mut(&link) else { continue };
            while session.queued < self.settings.queue_frames {
                let frame = if session.hello_due {
                    session.hello_due = false;
                    session.hello_sent = true;
                    let closed = &mut self.closed;
                    Some(greet::hello(
                        &self.settings,
                        &self.held,
                        closed,
                        (&self.own, self.own_last),
                        session,
                    ))
                } else {
                    if session.answer_due > 0 && heard.is_none() {
                        heard = Some(query::heard(&self.freshness, now.mono));
                    }
                    let heard = heard.clone().unwrap_or_default();
                    session.next_frame(&Around { now, held: &self.held, own: &self.own, heard })
                };
                if let Some(frame) = frame {
                    session.queued += 1;
                    self.effects.push(Effect::Send { link, frame });
                } else {
                    break;
                }
            }
            if session.usage.wants_part() {
                self.effects.push(Effect::MakeUsage { link });
            }
            if session.is_open()
                && let Some(piece) = session.out.next_piece(&self.held)
            {
                self.ticket += 1;
                self.reading.insert(self.ticket, Reading::Piece(link, piece));
                self.effects.push(Effect::Read {
                    ticket: self.ticket,
                    origin: piece.origin,
                    from: piece.from,
                    bytes_max: super::frame::EVENTS_BYTES_MAX,
                    records_max: super::frame::RECORDS_MAX,
                });
            }
        }
    }

    fn read(&mut self, ticket: u64, records: Option<Vec<Record>>, now: Now) {
        match self.reading.remove(&ticket) {
            None => {}
            Some(Reading::Piece(link, piece)) => {
                // What is on disk and not applied yet is not told of, so it is not sent either.
                let known = self.held.sequence(piece.origin).saturating_sub(piece.from).saturating_add(1);
                let events = records.map(|mut records| {
                    records.truncate(usize::try_from(known).unwrap_or(usize::MAX));
                    Events { origin: piece.origin, first: piece.from, records }
                });
                if events.is_none() {
                    self.counters.unreadable += 1;
                }
                self.on(link, |session| session.out.read(piece, events));
            }
            Some(Reading::Doubt(link, origin, theirs)) => {
                let ours = records.and_then(|records| records.first().map(|record| record.hash));
                if let Some(ours) = ours.filter(|ours| *ours != theirs.hash) {
                    self.forked(link, origin, Head { hash: ours, ..theirs }, theirs.hash, now);
                }
            }
        }
    }

    fn wanted(&mut self, link: Link, origins: &[(OriginId, u64)], skip: &[OriginId]) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        if self.settings.role == Role::Edge {
            return;
        }
        for (origin, from) in origins {
            if self.held.get(*origin).is_some() {
                session.out.want(*origin, *from);
            }
        }
        for origin in skip {
            if self.held.get(*origin).is_some() {
                session.out.skip(*origin);
            }
        }
    }

    /// `origin` is held up to `head` now.
    fn advance(&mut self, origin: OriginId, head: Head) {
        if !self.held.raise(origin, head) {
            return;
        }
        self.closed.moved(origin);
        if self.backlog.get(&origin).is_some_and(|last| *last <= head.sequence) {
            self.backlog.remove(&origin);
        }
        let links: Vec<Link> = self.sessions.keys().copied().collect();
        for link in links {
            if let Some(session) = self.sessions.get_mut(&link) {
                session.grew(origin, head);
            }
            self.settle(link);
        }
        self.count_disks(origin);
    }

    /// Lets the answers of `link` count whose vectors are applied.
    fn settle(&mut self, link: Link) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let Some(peer) = session.peer.as_ref() else { return };
        let Some(anchor) = peer.anchor.as_deref() else { return };
        let all_verified = !self.intake.is_refused(peer.run);
        while let Some(waiting) = session.answers.settled() {
            self.freshness.note(anchor, waiting.sent, all_verified);
            session.settled = Some(waiting.sent);
            for Heard { anchor, age_ms } in &waiting.heard {
                self.freshness.note(anchor, waiting.sent.minus_ms(*age_ms), all_verified);
            }
        }
    }

    fn count_disks(&mut self, origin: OriginId) {
        if !self.own.contains(&origin) {
            return;
        }
        let sequence = self.replicated_up_to(origin);
        let known = self.replicated.entry(origin).or_default();
        if sequence > *known {
            *known = sequence;
            self.effects.push(Effect::Replicated { origin, sequence });
        }
    }

    /// Whether what a peer holds of `origin` under `sequence` may be another record than the one here: of an own origin, more than this node
    /// wrote, or what is known to differ.
    fn may_differ(&self, origin: OriginId, sequence: u64, run: Run) -> bool {
        let own = self.own.contains(&origin);
        #[cfg(sabotage)]
        let own = own && !crate::sabotage::is("forks-disk-counted");
        own && (sequence > self.held.sequence(origin) || self.is_refused(origin, run))
    }

    /// The peer at `link` holds `origin` up to `sequence`; `differs`: but another record there.
    fn told(&mut self, link: Link, origin: OriginId, sequence: u64, own: bool, differs: bool, now: Now) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let Some(peer) = &session.peer else { return };
        let (instance, run, is_anchor) = (peer.instance, peer.run, peer.role == Role::Anchor);
        if session.told.len() >= self.settings.origins_max && !session.told.contains_key(&origin) {
            self.close(link, CloseReason::Violation("more origins than allowed".to_owned()), now);
            return;
        }
        let told = session.told.entry(origin).or_insert_with(Told::default);
        told.sequence = told.sequence.max(sequence);
        told.own |= own;
        let (told, own) = (told.sequence, told.own);
        let held = self.held.sequence(origin);
        let anchor = session.anchor().map(str::to_owned);
        // A disk that has another record under this id has not this one.
        if let Some(anchor) = anchor.filter(|_| !(differs || self.may_differ(origin, told, run))) {
            self.durability.acked(&anchor, origin, told);
            self.count_disks(origin);
        }
        if is_anchor && told > held && self.own.contains(&origin) && self.unverified(link, origin, told, now)
        {
            self.counters.forks += 1;
            self.effects.push(Effect::Note(Note::NeverWritten { origin, sequence: told, instance }));
        }
        let is_own = self.own.contains(&origin) && !self.is_refused(origin, run);
        if !is_anchor || is_own {
            return;
        }
        // Of what does not verify only that is known which is kept apart.
        let known = self.intake.apart(origin, run).map_or(held, |apart| apart.done);
        if told > known {
            self.on(link, |session| {
                session.ahead.insert(origin);
            });
        }
        match self.intake.choose(origin, link, (run, own), (told, held), now.mono) {
            Choice::Leave => {}
            Choice::Refused => {
                self.on(link, |session| session.refuse(origin));
                self.ask_apart(link);
            }
            Choice::Skip => self.on(link, |session| session.skip(origin)),
            Choice::Take { from, instead } => {
                self.on(link, |session| session.want(origin, from));
                if let Some(instead) = instead {
                    self.on(instead, |session| session.skip(origin));
                }
            }
        }
    }

    fn on(&mut self, link: Link, act: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.get_mut(&link) {
            act(session);
        }
    }

    fn told_entries(&mut self, link: Link, entries: &[VectorEntry], now: Now) {
        for entry in entries {
            let VectorEntry { origin, head, own } = *entry;
            let same_id = self.held.get(origin).filter(|ours| ours.sequence == head.sequence);
            let differing = same_id.filter(|ours| ours.hash != head.hash);
            self.told(link, origin, head.sequence, own, differing.is_some(), now);
            if let Some(ours) = differing {
                self.forked(link, origin, ours, head.hash, now);
            }
        }
    }
}
