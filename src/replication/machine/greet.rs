//! Who may talk to whom: Hello, its checks, and which of two links stays.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::{CloseReason, Effect, Machine, Note, Reading};
use crate::policy::ids::OriginId;
use crate::replication::Link;
use crate::replication::closed::Closed;
use crate::replication::frame::{
    ClosedSet, ENTRIES_MAX, Frame, Hello, PROTOCOL, Refusal, Role, TEXT_LEN_MAX, VectorEntry,
};
use crate::replication::session::{Peer, Session};
use crate::replication::settings::{FOR_ANCHORS, Now, Settings, counted_as};
use crate::replication::vector::Heads;
use crate::replication::window::Outflow;

/// Our Hello. What of the open origins does not fit is told as changes; of the closed ones their hash is told.
pub(super) fn hello(
    settings: &Settings,
    held: &Heads,
    closed: &mut Closed,
    (own, origin): (&BTreeSet<OriginId>, Option<OriginId>),
    session: &mut Session,
) -> Frame {
    let all_closed = closed.told(held, own);
    let one_by_one = session.one_by_one;
    let open = held.iter().filter(|(origin, head)| one_by_one || !closed.holds(*origin, *head, own));
    let mut entries = open.map(|(origin, head)| VectorEntry { origin, head, own: own.contains(&origin) });
    let vector = entries.by_ref().take(ENTRIES_MAX).collect();
    session.changed = entries.map(|entry| entry.origin).collect();
    session.urgent = !session.changed.is_empty();
    Frame::Hello(Box::new(Hello {
        protocol: PROTOCOL,
        cluster_id: settings.cluster_id.clone(),
        key_check: settings.key_check,
        address_form_version: settings.address_form_version,
        instance: settings.instance,
        run: settings.run,
        origin,
        role: settings.role,
        anchor_name: settings.anchor_name.clone(),
        window_bytes: settings.window_bytes,
        window_frames: settings.window_frames,
        vector,
        closed: (!one_by_one).then_some(all_closed),
    }))
}

impl Machine {
    pub(super) fn connected(&mut self, link: Link, dialled: bool, now: Now) {
        if self.sessions.len() >= self.settings.peers_max {
            let text =
                format!("{} peers are connected; raise the limit or lessen them", self.settings.peers_max);
            self.refuse(link, Refusal::Full, text);
            return;
        }
        self.sessions.insert(link, Session::new(dialled, now));
    }

    /// Tells the peer why and ends the link.
    fn refuse(&mut self, link: Link, reason: Refusal, mut text: String) {
        let mut end = text.len().min(TEXT_LEN_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        self.effects.push(Effect::Send { link, frame: Frame::HelloRefused { reason, text: text.clone() } });
        self.effects.push(Effect::Close { link, why: CloseReason::Refused { reason, text } });
    }

    /// Ends a link for a fault of its peer or for silence.
    pub(super) fn close(&mut self, link: Link, why: CloseReason, now: Now) {
        if self.sessions.contains_key(&link) {
            self.blame(link, why.to_string());
            self.forget(link, now);
            self.effects.push(Effect::Close { link, why });
        }
    }

    /// What came is no frame. Before the Hello the peer is told so: it may be of another make.
    pub(super) fn garbled(&mut self, link: Link, why: String, now: Now) {
        match self.sessions.get(&link) {
            Some(session) if session.peer.is_none() => {
                self.forget(link, now);
                self.refuse(link, Refusal::Malformed, format!("the hello cannot be read: {why}"));
            }
            _ => self.close(link, CloseReason::Violation(why), now),
        }
    }

    pub(super) fn hello(&mut self, link: Link, hello: Hello, now: Now) {
        let Some(session) = self.sessions.get(&link) else { return };
        if session.peer.is_some() {
            self.close(link, CloseReason::Violation("said hello twice".to_owned()), now);
            return;
        }
        if let Err((reason, text)) = self.check(&hello) {
            self.forget(link, now);
            self.refuse(link, reason, text);
            return;
        }
        let closed = hello.closed.map_or(0, |closed| closed.count as usize);
        if hello.vector.len().saturating_add(closed) > self.settings.origins_max {
            self.close(link, CloseReason::Violation("more origins than allowed".to_owned()), now);
            return;
        }
        if let Some(other) = self.rival(&hello) {
            if self.other_stays(link, other, &hello) {
                self.forget(link, now);
                let (reason, text) = (Refusal::Duplicate, "the two nodes have a stream already".to_owned());
                self.effects.push(Effect::Send { link, frame: Frame::HelloRefused { reason, text } });
                self.effects.push(Effect::Close { link, why: CloseReason::Duplicate { of: other } });
                return;
            }
            self.close(other, CloseReason::Superseded, now);
        }
        self.accept(link, hello, now);
    }

    fn check(&self, hello: &Hello) -> Result<(), (Refusal, String)> {
        let ours = &self.settings;
        if hello.protocol != PROTOCOL {
            let text = format!(
                "one node speaks protocol {}, the other {PROTOCOL}; upgrade the older",
                hello.protocol
            );
            return Err((Refusal::Protocol, text));
        }
        if hello.cluster_id != ours.cluster_id {
            let text = format!(
                "one node is of cluster `{}`, the other of `{}`; see replication.cluster_id",
                hello.cluster_id, ours.cluster_id
            );
            return Err((Refusal::Cluster, text));
        }
        if hello.key_check != ours.key_check {
            let text = "the nodes have different cluster keys; give every node the same key file".to_owned();
            return Err((Refusal::Key, text));
        }
        if hello.address_form_version != ours.address_form_version {
            let text = format!(
                "one node has address form {}, the other {}; upgrade the older",
                hello.address_form_version, ours.address_form_version
            );
            return Err((Refusal::AddressForm, text));
        }
        let edges_max = ours.peers_max.saturating_sub(FOR_ANCHORS);
        if hello.role == Role::Edge && self.edges() >= edges_max {
            let text =
                format!("{edges_max} edges are connected; connect to other anchors, or raise the limit");
            return Err((Refusal::Full, text));
        }
        if hello.run == ours.run {
            return Err((Refusal::Itself, "the node dialled itself".to_owned()));
        }
        if hello.role == Role::Edge && ours.role == Role::Edge {
            return Err((Refusal::Edge, "both nodes are edges; edges connect to anchors only".to_owned()));
        }
        Ok(())
    }

    fn edges(&self) -> usize {
        let is_edge = |session: &&Session| session.peer.as_ref().is_some_and(|peer| peer.role == Role::Edge);
        self.sessions.values().filter(is_edge).count()
    }

    /// The link to the same run that stands already.
    fn rival(&self, hello: &Hello) -> Option<Link> {
        let same = |session: &Session| {
            session.peer.as_ref().is_some_and(|peer| (peer.instance, peer.run) == (hello.instance, hello.run))
        };
        self.sessions.iter().find(|(_, session)| same(session)).map(|(link, _)| *link)
    }

    /// Whether `other` stays and `link` goes. Both sides come to the same answer: the smaller one's dial wins; between two dials of one side, the
    /// dialler keeps its old one while it thinks it alive, and the other believes it.
    fn other_stays(&self, link: Link, other: Link, hello: &Hello) -> bool {
        let dialled = |link: Link| self.sessions.get(&link).is_some_and(|session| session.dialled);
        let ours_smaller =
            (self.settings.instance, self.settings.run).cmp(&(hello.instance, hello.run)) == Ordering::Less;
        let preferred = |link: Link| dialled(link) == ours_smaller;
        match (preferred(link), preferred(other)) {
            (true, false) => false,
            (false, true) => true,
            _ => dialled(link),
        }
    }

    fn accept(&mut self, link: Link, hello: Hello, now: Now) {
        let anchor = (hello.role == Role::Anchor).then(|| counted_as(&hello.anchor_name, hello.instance));
        if let Some(anchor) = &anchor {
            let others = self.settings.anchors - usize::from(self.settings.role == Role::Anchor);
            let here: Vec<&str> = self.sessions.values().filter_map(Session::anchor).collect();
            self.durability.connected(anchor, others, &here);
        }
        let Some(session) = self.sessions.get_mut(&link) else { return };
        session.peer =
            Some(Peer { instance: hello.instance, run: hello.run, role: hello.role, anchor: anchor.clone() });
        session.out = Outflow::new(
            hello.window_bytes.min(self.settings.window_bytes),
            hello.window_frames.min(self.settings.window_frames),
        );
        if session.dialled {
            session.hello_due = true;
        }
        session.ping_due = true;
        self.see(hello.instance, now);
        self.effects.push(Effect::Note(Note::Joined { link, instance: hello.instance }));
        if hello.instance == self.settings.instance {
            self.effects.push(Effect::Note(Note::CopiedStore { instance: hello.instance }));
        }
        if anchor.is_some() {
            for entry in &hello.vector {
                self.owe(entry);
            }
        }
        self.told_entries(link, &hello.vector, now);
        self.greeted(link, hello.closed, now);
    }

    /// The peer holds `closed` beside what it told. Where the same is held here, it has told of each of them; else it is asked to. One
    /// that cannot read of closed origins is told of ours before its first ping can be answered.
    fn greeted(&mut self, link: Link, closed: Option<ClosedSet>, now: Now) {
        let Some(theirs) = closed else {
            self.on(link, |session| session.one_by_one = true);
            // If our Hello is still to come, it has all of them.
            if self.sessions.get(&link).is_some_and(|session| session.hello_sent) {
                self.tell_closed(link);
            }
            return;
        };
        if theirs.count == 0 {
            return;
        }
        if self.closed.told(&self.held, &self.own) != theirs {
            #[cfg(sabotage)]
            if crate::sabotage::is("closed-not-asked") {
                return;
            }
            self.counters.closed_asked += 1;
            self.on(link, |session| {
                session.ask_closed_due = true;
                session.origins_owed = session.told.len().saturating_add(theirs.count as usize);
            });
            return;
        }
        self.counters.closed_equal += 1;
        let all: Vec<_> = self.closed.of(&self.held, &self.own).collect();
        for (origin, head) in all {
            self.told(link, origin, head.sequence, false, false, now);
        }
    }

    /// The peer at `link` needs each of the closed origins: they are told like changes, so that no answer to a ping goes out before.
    pub(super) fn tell_closed(&mut self, link: Link) {
        let (closed, held, own) = (&self.closed, &self.held, &self.own);
        if let Some(session) = self.sessions.get_mut(&link) {
            session.changed.extend(closed.of(held, own).map(|(origin, _)| origin));
            session.urgent |= !session.changed.is_empty();
        }
    }

    /// What an anchor held when it said Hello is known to be missing here until it is applied.
    pub(super) fn owe(&mut self, entry: &VectorEntry) {
        #[cfg(sabotage)]
        if crate::sabotage::is("backlog-unknown") {
            return;
        }
        if entry.head.sequence > self.held.sequence(entry.origin) {
            let owed = self.backlog.entry(entry.origin).or_default();
            *owed = (*owed).max(entry.head.sequence);
        }
    }

    /// Keeps why the link ended, for whoever asks how the peer is.
    pub(super) fn blame(&mut self, link: Link, why: String) {
        let Some(peer) = self.sessions.get(&link).and_then(|session| session.peer.as_ref()) else { return };
        let instance = peer.instance;
        if self.faults.len() >= self.settings.peers_max && !self.faults.contains_key(&instance) {
            self.faults.pop_first();
        }
        self.faults.insert(instance, why);
    }

    /// Drops all that was known by `link` and finds other sources for what it sent.
    pub(super) fn forget(&mut self, link: Link, now: Now) {
        let Some(session) = self.sessions.remove(&link) else { return };
        if let Some(peer) = &session.peer {
            self.apart_gone(peer.run);
        }
        self.reading.retain(|_, reading| match reading {
            Reading::Piece(by, _) | Reading::Doubt(by, ..) => *by != link,
        });
        for origin in self.intake.gone(link) {
            self.find_source(origin, now);
        }
        // What nobody connected holds any more cannot be waited for: its disk may never come back.
        let (sessions, held) = (&self.sessions, &self.held);
        self.backlog.retain(|origin, last| {
            let anchors = sessions.values().filter(|session| session.anchor().is_some());
            let told = anchors.map(|session| session.told(*origin)).max().unwrap_or(0);
            *last = told.min(*last);
            *last > held.sequence(*origin)
        });
    }
}
