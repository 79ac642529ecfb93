//! What does not verify: kept apart, so that its opt-outs hold, and never acknowledged. Other origins go on.
//!
//! Whoever finds it out tells the peer what it holds itself, since the longer side of a fork cannot see it in vectors.

use super::{Effect, Machine, Note, Reading, Storing};
use crate::ledger::Head;
use crate::policy::ids::OriginId;
use crate::replication::Link;
use crate::replication::frame::{Events, Role, Run};
use crate::replication::session::Session;
use crate::replication::settings::Now;

/// How many records may be read at once to be compared with what one peer holds.
const DOUBTS_MAX: usize = 8;

impl Machine {
    pub(super) fn is_refused(&self, origin: OriginId, run: Run) -> bool {
        self.intake.get(origin).is_some_and(|slot| slot.refused.contains_key(&run))
    }

    /// Records of `origin` are on their way to the store.
    pub(super) fn is_pending(&self, origin: OriginId) -> bool {
        self.storing.values().any(|storing| storing.origin == origin && storing.apart.is_none())
    }

    /// What `link` sends of `origin` does not verify from `sequence` on: another may send it, and this is kept apart, from the first
    /// record on, since nobody knows where the two began to differ.
    pub(super) fn unverified(&mut self, link: Link, origin: OriginId, sequence: u64, now: Now) -> bool {
        let Some(peer) = self.sessions.get(&link).and_then(|session| session.peer.as_ref()) else {
            return false;
        };
        let (run, instance) = (peer.run, peer.instance);
        if !self.intake.refuse(origin, (run, instance), sequence, now.mono) {
            return false;
        }
        self.counters.unverified += 1;
        self.effects.push(Effect::Note(Note::Unverified { origin, sequence, instance }));
        self.on(link, |session| {
            session.refuse(origin);
            session.doubts.insert(origin);
        });
        let slot = self.intake.slot(origin, now.mono);
        if slot.source == Some(link) {
            slot.source = None;
            slot.owner = false;
            self.find_source(origin, now);
        }
        self.ask_apart(link);
        true
    }

    /// Asks the peer at `link` for what does not verify of its origins, once nobody else has more of them that does: most of it will
    /// turn out to be what is held then, and only what differs need be kept.
    pub(super) fn ask_apart(&mut self, link: Link) {
        let Some(session) = self.sessions.get(&link).filter(|_| self.store_paused_until.is_none()) else {
            return;
        };
        let Some(run) = session.peer.as_ref().map(|peer| peer.run) else { return };
        let due: Vec<OriginId> = session.apart_due.iter().copied().collect();
        for origin in due {
            let held = self.held.sequence(origin);
            let better = |session: &Session| {
                let peer = session.peer.as_ref().filter(|peer| peer.role == Role::Anchor);
                peer.is_some_and(|peer| !self.is_refused(origin, peer.run)) && session.told(origin) > held
            };
            if self.is_pending(origin) || self.sessions.values().any(better) {
                continue;
            }
            let Some(apart) = self.intake.apart(origin, run) else { continue };
            let from = apart.received.saturating_add(1);
            self.on(link, |session| {
                session.apart_due.remove(&origin);
                if session.told(origin) >= from {
                    session.want(origin, from);
                } else {
                    session.ahead.remove(&origin);
                }
            });
        }
    }

    /// The peer at `link` holds `theirs` where `ours` is held here.
    pub(super) fn forked(&mut self, link: Link, origin: OriginId, ours: Head, theirs: [u8; 32], now: Now) {
        if self.unverified(link, origin, ours.sequence, now) {
            self.counters.forks += 1;
            let Head { sequence, hash: ours } = ours;
            self.effects.push(Effect::Note(Note::Forked { origin, sequence, ours, theirs }));
        }
    }

    pub(super) fn events_apart(&mut self, link: Link, run: Run, mut events: Events, weight: usize) {
        let origin = events.origin;
        let (first, last) = (events.first, events.last());
        let Some(apart) = self.intake.apart(origin, run) else { return };
        if first > apart.received.saturating_add(1) || last <= apart.received {
            // What was under way when it was found out.
            self.disposed(link, origin, weight, false);
            return;
        }
        let known =
            usize::try_from(apart.received.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        events.records.drain(..known.min(events.records.len()));
        events.first = apart.received.saturating_add(1);
        apart.received = last;
        self.counters.records_apart += events.records.len() as u64;
        self.ticket += 1;
        self.storing
            .insert(self.ticket, Storing { link, origin, weight, apart: Some((run, events.first, last)) });
        self.effects.push(Effect::KeepApart { ticket: self.ticket, link, events });
    }

    pub(super) fn kept_apart(&mut self, ticket: u64, kept: bool, now: Now) {
        let Some(Storing { link, origin, weight, apart: Some((run, first, last)) }) =
            self.storing.remove(&ticket)
        else {
            return;
        };
        self.disposed(link, origin, weight, false);
        let Some(apart) = self.intake.apart(origin, run) else { return };
        if !kept || first > apart.done.saturating_add(1) {
            apart.received = apart.done;
            self.on(link, |session| {
                session.apart_due.insert(origin);
            });
            self.pause(now);
            return;
        }
        apart.done = apart.done.max(last);
        self.on(link, |session| session.kept_apart(origin, last));
        if !self.sessions.values().any(|session| session.ahead.contains(&origin)) {
            self.backlog.remove(&origin);
        }
        self.settle(link);
    }

    /// `origin` is no longer this run's: what others hold of it is taken as any other's, if it verifies after all.
    pub(super) fn own_closed(&mut self, origin: OriginId, now: Now) {
        if !self.own.remove(&origin) {
            return;
        }
        self.own_last = self.own_last.filter(|last| *last != origin);
        self.intake.pardon(origin);
        let links: Vec<Link> = self.sessions.keys().copied().collect();
        for link in links {
            self.on(link, |session| session.pardon(origin));
            let told = self.sessions.get(&link).map_or(0, |session| session.told(origin));
            if told > 0 {
                self.told(link, origin, told, false, false, now);
            }
        }
    }

    /// A link is gone: what was under way to be kept apart is asked for again by the next.
    pub(super) fn apart_gone(&mut self, run: Run) {
        self.intake.apart_again(run);
    }

    /// A peer holds `theirs`, from which what it was sent does not follow.
    pub(super) fn doubted(&mut self, link: Link, origin: OriginId, theirs: Head) {
        let doubts =
            self.reading.values().filter(|reading| matches!(reading, Reading::Doubt(by, ..) if *by == link));
        if doubts.count() >= DOUBTS_MAX || self.held.sequence(origin) < theirs.sequence {
            return;
        }
        self.ticket += 1;
        self.reading.insert(self.ticket, Reading::Doubt(link, origin, theirs));
        self.effects.push(Effect::Read {
            ticket: self.ticket,
            origin,
            from: theirs.sequence,
            bytes_max: 1,
            records_max: 1,
        });
    }
}
