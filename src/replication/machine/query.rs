//! What others may ask of the machine.

use std::collections::BTreeMap;

use super::Machine;
use crate::policy::ids::OriginId;
use crate::replication::Link;
use crate::replication::frame::{ANCHORS_MAX, Heard, Instance, Role};
use crate::replication::freshness::Freshness;
use crate::replication::settings::{Mono, distinct};
use crate::replication::vector::Heads;

/// What a peer is told of the anchors heard of here.
pub(super) fn heard(freshness: &Freshness, now: Mono) -> Vec<Heard> {
    let ages = freshness.ages(now).take(ANCHORS_MAX);
    ages.map(|(anchor, age_ms)| Heard { anchor: anchor.to_owned(), age_ms }).collect()
}

/// How a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its link.
    pub link: Link,
    /// Its store.
    pub instance: Instance,
    /// What it is.
    pub role: Role,
    /// When the link stood.
    pub since: Mono,
    /// Events that it holds and this node lacks.
    pub lag_events: u64,
    /// Bytes read for it that it has not dealt with.
    pub window_bytes: usize,
}

/// How far a node that starts has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Events that anchors held when they connected and that are not applied here.
    pub backlog_events: u64,
    /// Anchors connected that have told all they hold.
    pub anchors: usize,
}

impl Machine {
    /// What is held here, on disk and applied.
    #[must_use]
    pub fn vector(&self) -> &Heads {
        &self.held
    }

    /// The highest sequence of `origin` that is on the disks of a majority of the configured anchors.
    #[must_use]
    pub fn replicated_up_to(&self, origin: OriginId) -> u64 {
        let own = (self.settings.role == Role::Anchor).then_some(&self.held);
        self.durability.replicated(origin, self.settings.majority(), own)
    }

    /// Per anchor, how old the state of it is that is applied here, in milliseconds. This node is left out.
    #[must_use]
    pub fn freshness(&self, now: Mono) -> BTreeMap<String, u64> {
        let own = self.settings.counted_as();
        self.freshness
            .ages(now)
            .filter(|(anchor, _)| *anchor != own)
            .map(|(name, age)| (name.to_owned(), age))
            .collect()
    }

    /// Whether all that a majority of the configured anchors held `max_staleness_ms` ago is applied here.
    #[must_use]
    pub fn is_fresh(&self, now: Mono, max_staleness_ms: u64) -> bool {
        let itself = usize::from(self.settings.role == Role::Anchor);
        let own = self.settings.counted_as();
        let others = self.freshness.ages(now).filter(|(name, age)| *name != own && *age <= max_staleness_ms);
        itself + others.count() >= self.settings.majority()
    }

    /// Whether all that the anchors held when they connected is applied here.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.backlog.is_empty()
    }

    /// How far catching up has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let missing =
            self.backlog.iter().map(|(origin, last)| last.saturating_sub(self.held.sequence(*origin)));
        let told_all =
            self.sessions.values().filter(|session| session.told_all && session.anchor().is_some());
        Progress { backlog_events: missing.fold(0, u64::saturating_add), anchors: told_all.count() }
    }

    /// How many nodes share what is divided among members: this one, and all that live or were seen within a day.
    #[must_use]
    pub fn members(&self) -> usize {
        let live = self.sessions.values().filter_map(|session| session.peer.as_ref());
        let runs = distinct(live.clone().map(|peer| (peer.instance, peer.run)));
        let stores = distinct(live.map(|peer| peer.instance));
        let seen = self.members.keys().filter(|instance| **instance != self.settings.instance).count();
        let copies_of_this = self.members.contains_key(&self.settings.instance);
        // Copies of one store are one entry among those seen, yet each takes its share.
        1 + seen + runs.saturating_sub(stores) + usize::from(copies_of_this)
    }

    /// How many milliseconds the clock of the peer at `link` is ahead of ours, as far as is known.
    #[must_use]
    pub fn clock_off_ms(&self, link: Link) -> Option<i64> {
        self.sessions.get(&link)?.offsets.off_ms()
    }

    /// How each peer is.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let one = |(link, session): (&Link, &crate::replication::session::Session)| {
            let peer = session.peer.as_ref()?;
            let lag = session
                .ahead
                .iter()
                .map(|origin| session.told(*origin).saturating_sub(self.held.sequence(*origin)));
            Some(PeerStatus {
                link: *link,
                instance: peer.instance,
                role: peer.role,
                since: session.since,
                lag_events: lag.fold(0, u64::saturating_add),
                window_bytes: session.out.bytes(),
            })
        };
        self.sessions.iter().filter_map(one).collect()
    }
}
