//! The protocol as a state machine: an input and a moment in, effects out.

use std::collections::{BTreeMap, BTreeSet};

use super::Link;
use super::assign::{Choice, Intake};
use super::durability::Durability;
use super::frame::{Events, Frame, Heard, Instance, Record, Refusal, Role, VectorEntry};
use super::freshness::Freshness;
use super::session::{Around, Session, Told};
use super::settings::{Mono, Now, Settings};
use super::vector::Heads;
use super::window::Piece;
use crate::ledger::Head;
use crate::policy::ids::OriginId;

mod greet;
mod query;
mod receive;
#[cfg(test)]
mod tests;
mod tick;

pub use query::{PeerStatus, Progress};

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A link stands.
    Connected {
        /// Its number.
        link: Link,
        /// This side dialled.
        dialled: bool,
    },
    /// A link is gone.
    Disconnected {
        /// Which.
        link: Link,
        /// Why.
        why: String,
    },
    /// A frame came.
    Frame {
        /// By this link.
        link: Link,
        /// What it says.
        frame: Frame,
        /// Its length on the wire, in bytes.
        len: usize,
    },
    /// Something came that is no frame.
    Garbled {
        /// By this link.
        link: Link,
        /// What is wrong with it.
        why: String,
    },
    /// The carrier has room for one more frame.
    Sent {
        /// On this link.
        link: Link,
    },
    /// An own event is on disk and applied. It must come in before the event's caller is answered: a ping that is answered
    /// after the caller was, and without the event, would let a peer think itself fresher than it is.
    OwnAppended {
        /// The origin of this run.
        origin: OriginId,
        /// Its last record.
        head: Head,
    },
    /// The answer to [`Effect::Store`].
    Stored {
        /// Which of them.
        ticket: u64,
        /// What became of it.
        outcome: StoreOutcome,
    },
    /// The answer to [`Effect::Read`].
    Read {
        /// Which of them.
        ticket: u64,
        /// The records from the one asked for on; `None`: they cannot be read.
        records: Option<Vec<Record>>,
    },
    /// Time passed. Wanted every 100 ms or so.
    Tick,
}

/// What became of records that were to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// They are on disk and applied, or were already.
    Stored {
        /// The origin's last record now.
        head: Head,
    },
    /// Not all of them are; those before the first that is not are kept.
    Refused {
        /// The origin's last record now, if any of it is held.
        head: Option<Head>,
        /// Why the rest is not.
        why: StoreRefusal,
    },
}

/// Why records were not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRefusal {
    /// Records before them are missing.
    Gap,
    /// One does not follow from the record before, or is not what it says.
    Chain {
        /// Its sequence.
        sequence: u64,
    },
    /// One of them is held with another hash.
    Fork {
        /// Its sequence.
        sequence: u64,
        /// The hash that is held.
        ours: [u8; 32],
        /// The hash that came.
        theirs: [u8; 32],
    },
    /// The store cannot take anything now.
    Later,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand the frame to the carrier.
    Send {
        /// On this link.
        link: Link,
        /// What to say.
        frame: Frame,
    },
    /// End the link once what was handed over has left.
    Close {
        /// Which.
        link: Link,
        /// Why.
        why: CloseReason,
    },
    /// Verify, append, sync and apply; then answer [`Input::Stored`]. Those of one origin come in sequence and are to be answered in
    /// that order.
    Store {
        /// To be named in the answer.
        ticket: u64,
        /// Who sent them.
        link: Link,
        /// Whose they are.
        events: Events,
    },
    /// Read records of an origin: at least one, and as many as `bytes_max` and `records_max` allow; then answer [`Input::Read`].
    Read {
        /// To be named in the answer.
        ticket: u64,
        /// Whose.
        origin: OriginId,
        /// The first sequence.
        from: u64,
        /// By [`Record::weight`].
        bytes_max: usize,
        /// How many.
        records_max: usize,
    },
    /// Own events up to `sequence` are on the disks of a majority of the anchors.
    Replicated {
        /// An origin of this run.
        origin: OriginId,
        /// The highest.
        sequence: u64,
    },
    /// Something for the log and the metrics.
    Note(Note),
}

/// Why a link is ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Its Hello was not accepted.
    #[error("refused: {text}")]
    Refused {
        /// Why.
        reason: Refusal,
        /// The same in words.
        text: String,
    },
    /// The peer did not accept ours.
    #[error("the peer refuses: {text}")]
    RefusedByPeer {
        /// Why.
        reason: Refusal,
        /// The same in words.
        text: String,
    },
    /// The peer is connected by this link already. The address need not be dialled while it stands.
    #[error("the peer is connected already")]
    Duplicate {
        /// That link.
        of: Link,
    },
    /// A newer link to the same peer took its place.
    #[error("a newer link to the same peer took its place")]
    Superseded,
    /// No Hello came in time.
    #[error("no hello within {} ms", super::settings::HELLO_WAIT_MS)]
    NoHello,
    /// Nothing came for too long.
    #[error("nothing heard for {silent_ms} ms")]
    Silent {
        /// How long.
        silent_ms: u64,
    },
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(String),
}

/// Something for the log and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A peer was accepted.
    Joined {
        /// By this link.
        link: Link,
        /// Its store.
        instance: Instance,
    },
    /// Two nodes run from copies of one store. They share a name, so they count once.
    CopiedStore {
        /// The store.
        instance: Instance,
    },
    /// An anchor holds less than it acknowledged: its disk was restored from a backup. It is sent what it lacks.
    WentBack {
        /// The name it is counted under.
        anchor: String,
        /// How many origins went back.
        origins: usize,
    },
    /// Records of an origin that a peer sent do not verify.
    Unverified {
        /// The origin.
        origin: OriginId,
        /// The sequence of the first that does not.
        sequence: u64,
        /// Who sent them.
        instance: Instance,
    },
    /// One id has two hashes: both opt-outs must hold, no opt-in, and the origin be closed.
    Forked {
        /// The origin.
        origin: OriginId,
        /// Where.
        sequence: u64,
        /// The hash here.
        ours: [u8; 32],
        /// The hash there.
        theirs: [u8; 32],
    },
}

/// Records on their way to the store.
#[derive(Clone, Copy, Debug)]
struct Storing {
    link: Link,
    origin: OriginId,
    weight: usize,
}

/// The protocol's state at one node.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    held: Heads,
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
    reading: BTreeMap<u64, (Link, Piece)>,
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
            ticket: 0,
            store_paused_until: None,
            pinged: None,
            effects: Vec::new(),
        }
    }

    /// Takes in what happened and says what is to be done, in this order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        match input {
            Input::Connected { link, dialled } => self.connected(link, dialled, now),
            Input::Disconnected { link, .. } => self.forget(link, now),
            Input::Frame { link, frame, len: _ } => self.frame(link, frame, now),
            Input::Garbled { link, why } => self.close(link, CloseReason::Violation(why), now),
            Input::Sent { link } => {
                if let Some(session) = self.sessions.get_mut(&link) {
                    session.queued = session.queued.saturating_sub(1);
                }
            }
            Input::OwnAppended { origin, head } => {
                if self.own.insert(origin) {
                    self.own_last = Some(origin);
                }
                self.advance(origin, head);
            }
            Input::Stored { ticket, outcome } => self.stored(ticket, outcome, now),
            Input::Read { ticket, records } => self.read(ticket, records),
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
            Frame::Hello(hello) => self.hello(link, hello, now),
            Frame::HelloRefused { reason, text } => {
                self.close(link, CloseReason::RefusedByPeer { reason, text }, now);
            }
            Frame::Unknown => {}
            _ if !open => self.close(link, CloseReason::Violation("spoke before its hello".to_owned()), now),
            Frame::Want { origins, skip } => self.wanted(link, &origins, &skip),
            Frame::Events(events) => self.events(link, events, now),
            Frame::Ack { frames_done, origins } => self.acked(link, frames_done, &origins, now),
            Frame::Ping { number } => session.answer_due = number,
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
                    Some(greet::hello(&self.settings, &self.held, &self.own, self.own_last, session))
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
            if session.is_open()
                && let Some(piece) = session.out.next_piece(&self.held)
            {
                self.ticket += 1;
                self.reading.insert(self.ticket, (link, piece));
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

    fn read(&mut self, ticket: u64, records: Option<Vec<Record>>) {
        let Some((link, piece)) = self.reading.remove(&ticket) else { return };
        if let Some(session) = self.sessions.get_mut(&link) {
            let events = records.map(|records| Events { origin: piece.origin, first: piece.from, records });
            session.out.read(piece, events);
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
        while let Some(waiting) = session.answers.settled() {
            let Some(anchor) = session.peer.as_ref().and_then(|peer| peer.anchor.as_deref()) else {
                continue;
            };
            self.freshness.note(anchor, waiting.sent);
            for Heard { anchor, age_ms } in &waiting.heard {
                self.freshness.note(anchor, waiting.sent.minus_ms(*age_ms));
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

    /// The peer at `link` holds `origin` up to `sequence`.
    fn told(&mut self, link: Link, origin: OriginId, sequence: u64, own: bool, now: Now) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let Some(peer) = &session.peer else { return };
        let (instance, is_anchor) = (peer.instance, peer.role == Role::Anchor);
        if session.told.len() >= self.settings.origins_max && !session.told.contains_key(&origin) {
            self.close(link, CloseReason::Violation("more origins than allowed".to_owned()), now);
            return;
        }
        let told = session.told.entry(origin).or_insert_with(Told::default);
        told.sequence = told.sequence.max(sequence);
        told.own |= own;
        let (told, own) = (told.sequence, told.own);
        let held = self.held.sequence(origin);
        if let Some(anchor) = session.anchor().map(str::to_owned) {
            self.durability.acked(&anchor, origin, told);
            self.count_disks(origin);
        }
        if !is_anchor || self.own.contains(&origin) {
            return;
        }
        if told > held {
            session_ahead(&mut self.sessions, link, origin);
        }
        match self.intake.choose(origin, link, (instance, own), (told, held), now.mono) {
            Choice::Leave => {}
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
            if let Some(ours) = self.held.get(entry.origin)
                && ours.sequence == entry.head.sequence
                && ours.hash != entry.head.hash
            {
                self.effects.push(Effect::Note(Note::Forked {
                    origin: entry.origin,
                    sequence: ours.sequence,
                    ours: ours.hash,
                    theirs: entry.head.hash,
                }));
            }
            self.told(link, entry.origin, entry.head.sequence, entry.own, now);
        }
    }
}

fn session_ahead(sessions: &mut BTreeMap<Link, Session>, link: Link, origin: OriginId) {
    if let Some(session) = sessions.get_mut(&link) {
        session.ahead.insert(origin);
    }
}
