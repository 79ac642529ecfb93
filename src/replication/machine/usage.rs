//! Usage: told to all peers once, passed on by anchors, asked for by a node that lost its own.

use std::sync::Arc;

use super::{Effect, Machine};
use crate::replication::Link;
use crate::replication::frame::{Role, USAGE_LEN_MAX, Usage, UsagePart};
use crate::replication::settings::Now;

impl Machine {
    pub(super) fn tell_usage(&mut self, bytes: Arc<[u8]>) {
        if bytes.len() > USAGE_LEN_MAX {
            self.counters.usage_dropped += 1;
            return;
        }
        let usage = self.gossip.own(self.settings.run, bytes);
        self.spread_usage(&usage, None);
    }

    pub(super) fn usage(&mut self, link: Link, usage: Usage, now: Now) {
        if usage.run == self.settings.run || !self.gossip.is_new(usage.run, usage.serial, now.mono) {
            return;
        }
        // An edge is no way between anchors.
        if self.settings.role == Role::Anchor {
            self.spread_usage(&usage, Some(link));
        }
        self.effects.push(Effect::TakeUsage { bytes: usage.bytes });
    }

    fn spread_usage(&mut self, usage: &Usage, from: Option<Link>) {
        for (link, session) in &mut self.sessions {
            let has_it = session.peer.as_ref().is_none_or(|peer| peer.run == usage.run);
            if Some(*link) != from && session.is_open() && !has_it && !session.usage.push(usage.clone()) {
                self.counters.usage_dropped += 1;
            }
        }
    }

    pub(super) fn usage_answer(&mut self, link: Link, part: UsagePart, now: Now) {
        if !self.gossip.answered(link, &part, now.mono) {
            return;
        }
        match part {
            UsagePart::Chunk(bytes) => self.effects.push(Effect::TakeUsagePart { link, bytes }),
            UsagePart::End { complete: true } => self.effects.push(Effect::UsageTold),
            UsagePart::End { complete: false } => {}
        }
    }

    /// A part that was asked for is taken: ask for the next.
    pub(super) fn usage_taken(&mut self, link: Link) {
        if self.gossip.goes_on(link) {
            self.on(link, |session| session.usage.ask_due = true);
        }
    }

    /// A node that lost its usage asks for it once what matters more is here.
    pub(super) fn ask_for_usage(&mut self, now: Now) {
        if !self.gossip.lacks || !self.is_caught_up() {
            return;
        }
        let anchors = self.sessions.iter().filter_map(|(link, session)| {
            let peer = session.peer.as_ref().filter(|peer| peer.role == Role::Anchor)?;
            (session.is_open() && session.told_all).then_some((*link, peer.run))
        });
        if let Some(link) = self.gossip.ask(anchors, now.mono) {
            self.on(link, |session| session.usage.ask_due = true);
        }
        if !self.gossip.lacks {
            self.effects.push(Effect::UsageTold);
        }
    }
}
