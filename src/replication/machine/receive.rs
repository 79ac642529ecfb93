//! What comes from peers: vectors, events, acks, answers.

use std::collections::BTreeMap;

use super::{CloseReason, Effect, Machine, Note, StoreOutcome, StoreRefusal, Storing};
use crate::ledger::Head;
use crate::policy::ids::OriginId;
use crate::policy::time::Timestamp;
use crate::replication::Link;
use crate::replication::frame::{Events, FRAME_LEN_MAX, Heard, Role, VectorEntry};
use crate::replication::freshness::Waiting;
use crate::replication::settings::{Mono, Now, STORE_PAUSE_MS};

impl Machine {
    pub(super) fn events(&mut self, link: Link, mut events: Events, now: Now) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        let weight = events.weight();
        session.taken_bytes = session.taken_bytes.saturating_add(weight);
        session.taken_frames += 1;
        session.delivered = now.mono;
        let bytes_max = self.settings.window_bytes.saturating_add(FRAME_LEN_MAX);
        if session.taken_bytes > bytes_max || session.taken_frames > self.settings.window_frames {
            self.close(link, CloseReason::Violation("sent more than its window".to_owned()), now);
            return;
        }
        let Some(peer) = &session.peer else { return };
        let (run, is_anchor) = (peer.run, peer.role == Role::Anchor);
        let origin = events.origin;
        let (first, last) = (events.first, events.last());
        let held = self.held.sequence(origin);
        let told = session.told.contains_key(&origin);
        self.counters.records_in += events.records.len() as u64;
        if self.is_refused(origin, run) {
            self.events_apart(link, run, events, weight);
            return;
        }
        if !is_anchor || self.own.contains(&origin) || !told {
            // Nothing of the kind was asked for.
            self.disposed(link, origin, weight, false);
            return;
        }
        let paused = self.store_paused_until.is_some();
        let slot = self.intake.slot(origin, now.mono);
        let received = slot.received.max(held);
        if last <= received || paused {
            self.counters.records_known += if paused { 0 } else { events.records.len() as u64 };
            self.disposed(link, origin, weight, last <= held);
            return;
        }
        slot.since = now.mono;
        if first > received.saturating_add(1) {
            let ask = slot.source == Some(link) && !slot.gap;
            #[cfg(sabotage)]
            let ask = ask && !crate::sabotage::is("gap-not-asked");
            slot.gap |= ask;
            self.counters.gaps += 1;
            self.disposed(link, origin, weight, false);
            if ask {
                self.on(link, |session| session.want(origin, received.saturating_add(1)));
            }
            return;
        }
        slot.gap = false;
        slot.received = last;
        #[cfg(sabotage)]
        if crate::sabotage::is("ack-before-append") {
            let hash = events.records.last().map_or([0; 32], |record| record.hash);
            self.advance(origin, crate::ledger::Head { sequence: last, hash });
        }
        let known = usize::try_from(received.saturating_add(1).saturating_sub(first)).unwrap_or(usize::MAX);
        events.records.drain(..known.min(events.records.len()));
        events.first = received.saturating_add(1);
        self.ticket += 1;
        let storing = Storing { link, origin, weight, apart: None };
        self.storing.insert(self.ticket, storing);
        self.effects.push(Effect::Store { ticket: self.ticket, link, events });
    }

    /// A frame of events is dealt with.
    pub(super) fn disposed(&mut self, link: Link, origin: OriginId, weight: usize, ack: bool) {
        self.on(link, |session| {
            session.done += 1;
            session.taken_bytes = session.taken_bytes.saturating_sub(weight);
            session.taken_frames = session.taken_frames.saturating_sub(1);
            if ack {
                session.acks.insert(origin);
            }
        });
    }

    pub(super) fn stored(&mut self, ticket: u64, outcome: StoreOutcome, now: Now) {
        let Some(Storing { link, origin, weight, .. }) = self.storing.remove(&ticket) else { return };
        match outcome {
            StoreOutcome::Stored { head } => {
                self.disposed(link, origin, weight, true);
                self.advance(origin, head);
            }
            StoreOutcome::Refused { head, why } => {
                self.disposed(link, origin, weight, head.is_some());
                if let Some(head) = head {
                    self.advance(origin, head);
                }
                self.refused(link, origin, &why, now);
            }
        }
    }

    fn refused(&mut self, link: Link, origin: OriginId, why: &StoreRefusal, now: Now) {
        let held = self.held.sequence(origin);
        let pending = self.is_pending(origin);
        let slot = self.intake.slot(origin, now.mono);
        if !pending {
            slot.received = held;
        }
        match *why {
            StoreRefusal::Gap => {
                // Follows from a refusal before it: what was handed over behind that one is refused too.
                if !pending && slot.source == Some(link) {
                    let from = held.saturating_add(1);
                    self.on(link, |session| session.want(origin, from));
                }
            }
            StoreRefusal::Later => self.pause(now),
            StoreRefusal::Chain { sequence } => {
                self.unverified(link, origin, sequence, now);
            }
            StoreRefusal::Fork { sequence, ours, theirs } => {
                self.forked(link, origin, Head { sequence, hash: ours }, theirs, now);
            }
        }
    }

    /// The store has no room: what comes meanwhile is not kept.
    pub(super) fn pause(&mut self, now: Now) {
        self.counters.store_pauses += 1;
        self.store_paused_until = Some(Mono(now.mono.0.saturating_add(STORE_PAUSE_MS)));
    }

    pub(super) fn acked(&mut self, link: Link, done: u64, origins: &[(OriginId, u64)], now: Now) {
        let Some(session) = self.sessions.get_mut(&link) else { return };
        if session.out.done(done).is_err() {
            self.close(link, CloseReason::Violation("acknowledged more than was sent".to_owned()), now);
            return;
        }
        for (origin, sequence) in origins {
            self.told(link, *origin, *sequence, false, false, now);
        }
    }

    pub(super) fn heartbeat(
        &mut self,
        link: Link,
        answers: u64,
        wall_ms: i64,
        changes: &[VectorEntry],
        heard: Vec<Heard>,
        now: Now,
    ) {
        let Some(session) = self.sessions.get(&link) else { return };
        if !session.told_all && session.anchor().is_some() {
            for entry in changes {
                self.owe(entry);
            }
        }
        self.told_entries(link, changes, now);
        if answers == 0 {
            return;
        }
        let Some(session) = self.sessions.get_mut(&link) else { return };
        if session.told.len() < session.origins_owed {
            let text = "answered before it had told of its closed origins".to_owned();
            self.close(link, CloseReason::Violation(text), now);
            return;
        }
        let Some(at) = session.pings.iter().position(|ping| ping.number == answers) else { return };
        let Some(ping) = session.pings.drain(..=at).next_back() else { return };
        session.offsets.note(ping.at, now, Timestamp(wall_ms));
        let needs: BTreeMap<_, _> =
            session.ahead.iter().map(|origin| (*origin, session.told(*origin))).collect();
        let sent = ping.at.mono;
        #[cfg(sabotage)]
        let sent = match wall_ms.saturating_sub(now.wall.0) {
            _ if crate::sabotage::is("fresh-from-the-answer") => now.mono,
            ahead_ms if crate::sabotage::is("wall-clock-freshness") => {
                super::Mono(now.mono.0.saturating_add_signed(ahead_ms))
            }
            _ => sent,
        };
        #[cfg(sabotage)]
        let needs =
            if crate::sabotage::is("heartbeat-without-applied-vector") { BTreeMap::new() } else { needs };
        session.answers.push(Waiting { sent, needs, heard });
        if !std::mem::replace(&mut session.told_all, true) {
            self.told_in_full(link);
        }
        self.settle(link);
    }

    /// For the first time on this link the peer has told all it holds.
    fn told_in_full(&mut self, link: Link) {
        let Some(session) = self.sessions.get(&link) else { return };
        let Some(anchor) = session.anchor().map(str::to_owned) else { return };
        let Some(run) = session.peer.as_ref().map(|peer| peer.run) else { return };
        let told = session.told.iter().map(|(origin, told)| (*origin, told.sequence));
        let vector = told.filter(|(origin, sequence)| !self.may_differ(*origin, *sequence, run)).collect();
        let origins = self.durability.told_all(&anchor, &vector);
        if origins > 0 {
            self.counters.went_back += 1;
            self.effects.push(Effect::Note(Note::WentBack { anchor, origins }));
        }
        let own: Vec<OriginId> = self.own.iter().copied().collect();
        for origin in own {
            self.count_disks(origin);
        }
    }
}
