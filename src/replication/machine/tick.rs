//! What time brings: pings, silence, sources that fell behind.

use std::collections::BTreeSet;

use super::{CloseReason, Machine};
use crate::policy::ids::OriginId;
use crate::replication::Link;
use crate::replication::frame::{Instance, Role};
use crate::replication::settings::{AHEAD_MS, HELLO_WAIT_MS, MEMBER_UNSEEN_MS, MEMBERS_MAX, Now, STALLED_MS};

impl Machine {
    pub(super) fn tick(&mut self, now: Now) {
        self.close_silent(now);
        if self.pinged.is_none_or(|at| now.mono.since_ms(at) >= self.settings.heartbeat_ms) {
            self.pinged = Some(now.mono);
            for session in self.sessions.values_mut() {
                session.ping_due = session.is_open();
            }
        }
        if self.store_paused_until.is_some_and(|until| until <= now.mono) {
            self.store_paused_until = None;
            self.ask_again(now);
        }
        self.members.retain(|_, seen| now.mono.since_ms(*seen) < MEMBER_UNSEEN_MS);
        self.change_sources(now);
        let links: Vec<Link> = self.sessions.keys().copied().collect();
        for link in links {
            self.ask_apart(link);
        }
        self.ask_for_usage(now);
    }

    fn close_silent(&mut self, now: Now) {
        let mut gone = Vec::new();
        for (link, session) in &self.sessions {
            let silent_ms = now.mono.since_ms(session.heard);
            if !session.is_open() && now.mono.since_ms(session.since) >= HELLO_WAIT_MS {
                gone.push((*link, CloseReason::NoHello));
            } else if silent_ms >= self.settings.silence_ms() {
                gone.push((*link, CloseReason::Silent { silent_ms }));
            }
        }
        for (link, why) in gone {
            self.close(link, why, now);
        }
    }

    /// After a pause nothing that came meanwhile was kept: ask for it from where the store stands.
    fn ask_again(&mut self, now: Now) {
        for origin in self.behind() {
            let held = self.held.sequence(origin);
            let pending = self.is_pending(origin);
            let slot = self.intake.slot(origin, now.mono);
            if !pending {
                slot.received = held;
            }
            let from = slot.received.max(held).saturating_add(1);
            if let Some(source) = slot.source {
                self.on(source, |session| session.want(origin, from));
            }
        }
    }

    /// Origins of which some peer holds more.
    fn behind(&self) -> BTreeSet<OriginId> {
        self.sessions.values().flat_map(|session| session.ahead.iter().copied()).collect()
    }

    fn change_sources(&mut self, now: Now) {
        for origin in self.behind() {
            let held = self.held.sequence(origin);
            let slot = self.intake.slot(origin, now.mono);
            let idle_ms = now.mono.since_ms(slot.since);
            if idle_ms < AHEAD_MS {
                continue;
            }
            let received = slot.received.max(held);
            // The source is at work on others and has this one too: it will come in turn.
            let patient = slot.source.and_then(|link| self.sessions.get(&link)).is_some_and(|source| {
                source.told(origin) > received && now.mono.since_ms(source.delivered) < AHEAD_MS
            });
            if patient && idle_ms < STALLED_MS {
                continue;
            }
            self.find_source(origin, now);
        }
    }

    /// Takes `origin` from the peer that holds most of it, another than now if there is one that holds more than is here.
    pub(super) fn find_source(&mut self, origin: OriginId, now: Now) {
        let held = self.held.sequence(origin);
        let slot = self.intake.slot(origin, now.mono);
        let (source, received) = (slot.source, slot.received.max(held));
        let mut best: Option<(bool, bool, u64, Link, bool)> = None;
        for (link, session) in &self.sessions {
            let Some(peer) = session.peer.as_ref().filter(|peer| peer.role == Role::Anchor) else { continue };
            let Some(told) = session.told.get(&origin) else { continue };
            if self.intake.get(origin).is_some_and(|slot| slot.refused.contains_key(&peer.run)) {
                continue;
            }
            let rank = (told.sequence > received, source != Some(*link), told.sequence, *link, told.own);
            best = best.max(Some(rank));
        }
        let Some((_, _, _, link, own)) = best else { return };
        self.counters.moves += 1;
        let (from, before) = self.intake.move_to(origin, link, own, held, now.mono);
        self.on(link, |session| session.want(origin, from));
        if let Some(before) = before {
            self.on(before, |session| session.skip(origin));
        }
    }

    /// `instance` was just heard of.
    pub(super) fn see(&mut self, instance: Instance, now: Now) {
        if self.members.len() >= MEMBERS_MAX
            && !self.members.contains_key(&instance)
            && let Some(oldest) = self.members.iter().min_by_key(|(_, at)| **at).map(|(name, _)| *name)
        {
            self.members.remove(&oldest);
        }
        self.members.insert(instance, now.mono);
    }
}
