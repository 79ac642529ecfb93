//! What others may ask of the machine.

use std::collections::BTreeMap;

use super::Machine;
use crate::ledger::Head;
use crate::policy::ids::OriginId;
use crate::replication::Link;
use crate::replication::assign::Apart;
use crate::replication::frame::{ANCHORS_MAX, Heard, Instance, Role};
use crate::replication::freshness::Freshness;
use crate::replication::session::Session;
use crate::replication::settings::{Mono, distinct};
#[cfg(test)]
use crate::replication::vector::Heads;

/// What a peer is told of the anchors heard of here.
pub(super) fn heard(freshness: &Freshness, now: Mono) -> Vec<Heard> {
    let ages = freshness.ages_passed_on(now).take(ANCHORS_MAX);
    ages.map(|(anchor, age_ms)| Heard { anchor: anchor.to_owned(), age_ms }).collect()
}

/// How a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its link.
    pub link: Link,
    /// Its store.
    pub instance: Instance,
    /// The name it is counted under, if it is an anchor.
    pub anchor: Option<String>,
    /// What it is.
    pub role: Role,
    /// When the link stood.
    pub since: Mono,
    /// Events that it holds and this node has neither applied nor kept apart.
    pub lag_events: u64,
    /// How long ago all that it held was known to be applied here, in milliseconds; `None`: never yet.
    pub lag_ms: Option<u64>,
    /// Events that this node holds and the peer is not known to hold.
    pub peer_lag_events: u64,
    /// Bytes read for it that it has not dealt with.
    pub window_bytes: usize,
    /// How far its clock is ahead of ours, in milliseconds.
    pub clock_off_ms: Option<i64>,
    /// Why the last link to its store ended, if one did.
    pub last_fault: Option<String>,
}

/// An origin of which a peer sends what does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// The origin.
    pub origin: OriginId,
    /// The first sequence that did not.
    pub sequence: u64,
    /// Who sends it.
    pub instance: Instance,
    /// Its records are kept apart up to here.
    pub kept_apart: u64,
}

/// What has happened since the start, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records that came.
    pub records_in: u64,
    /// Records that came and were known.
    pub records_known: u64,
    /// Records that came to be kept apart.
    pub records_apart: u64,
    /// Frames of events that came with something missing before them.
    pub gaps: u64,
    /// Times an origin got another source or was asked for anew.
    pub moves: u64,
    /// Times a peer's records of an origin were found not to verify.
    pub unverified: u64,
    /// Times an id was found with two hashes.
    pub forks: u64,
    /// Times an anchor held less than it had acknowledged.
    pub went_back: u64,
    /// Times the own store had no room.
    pub store_pauses: u64,
    /// Reads for a peer that failed.
    pub unreadable: u64,
    /// Hellos of peers that hold the very closed origins that are held here.
    pub closed_equal: u64,
    /// Hellos of peers that hold others, and were asked for each of them.
    pub closed_asked: u64,
    /// Chunks of usage that found no room on their way to a peer.
    pub usage_dropped: u64,
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
    #[cfg(test)]
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

    /// How many other anchors make a majority of the configured ones, together with this node if it is one.
    #[must_use]
    pub fn others_wanted(&self) -> usize {
        self.settings.majority().saturating_sub(usize::from(self.settings.role == Role::Anchor))
    }

    /// The first moment at which something that a majority of the configured anchors held `max_staleness_ms` before may not be applied
    /// here, if nothing more is heard until then; `None`: there is no such moment, since this node is the majority.
    #[must_use]
    pub fn fresh_until(&self, now: Mono, max_staleness_ms: u64) -> Option<Mono> {
        let last = self.others_wanted().checked_sub(1)?;
        let mut ages: Vec<u64> = self.freshness(now).into_values().collect();
        ages.sort_unstable();
        // The moment the oldest needed ping left, and what may pass since.
        Some(ages.get(last).map_or(Mono(0), |age| {
            Mono(now.minus_ms(*age).0.saturating_add(max_staleness_ms).saturating_add(1))
        }))
    }

    /// Whether all that a majority of the configured anchors held `max_staleness_ms` ago is applied here.
    #[cfg(test)]
    #[must_use]
    pub fn is_fresh(&self, now: Mono, max_staleness_ms: u64) -> bool {
        self.fresh_until(now, max_staleness_ms).is_none_or(|until| now < until)
    }

    /// Whether all that the anchors held when they connected is applied here.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.backlog.is_empty()
    }

    /// How many events that the anchors held when they connected are neither applied here nor among those up to
    /// the sequence that `beside` has of their origin.
    #[must_use]
    pub fn lacks_beyond(&self, beside: impl Fn(OriginId) -> u64) -> u64 {
        let missing = self
            .backlog
            .iter()
            .map(|(origin, last)| last.saturating_sub(self.held.sequence(*origin).max(beside(*origin))));
        missing.fold(0, u64::saturating_add)
    }

    /// How far catching up has come.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let told_all =
            self.sessions.values().filter(|session| session.told_all && session.anchor().is_some());
        Progress { backlog_events: self.lacks_beyond(|_| 0), anchors: told_all.count() }
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

    /// How many milliseconds the clock of each peer connected is ahead of ours, as far as is known.
    pub fn clocks_off_ms(&self) -> impl Iterator<Item = (Instance, i64)> {
        let one = |session: &Session| Some((session.peer.as_ref()?.instance, session.offsets.off_ms()?));
        self.sessions.values().filter_map(one)
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What does not verify, and from whom: a detail of readiness.
    #[must_use]
    pub fn unverified_origins(&self) -> Vec<Unverified> {
        let one = |(origin, apart): (OriginId, &Apart)| Unverified {
            origin,
            sequence: apart.sequence,
            instance: apart.instance,
            kept_apart: apart.done,
        };
        self.intake.refused().map(one).collect()
    }

    /// How each peer is.
    #[must_use]
    pub fn peers(&self, now: Mono) -> Vec<PeerStatus> {
        let one = |(link, session): (&Link, &Session)| {
            let peer = session.peer.as_ref()?;
            let missing =
                |origin: &OriginId| session.told(*origin).saturating_sub(self.held.sequence(*origin));
            let theirs =
                |(origin, head): (OriginId, Head)| head.sequence.saturating_sub(session.told(origin));
            Some(PeerStatus {
                link: *link,
                instance: peer.instance,
                anchor: peer.anchor.clone(),
                role: peer.role,
                since: session.since,
                lag_events: session.ahead.iter().map(missing).fold(0, u64::saturating_add),
                lag_ms: session.settled.map(|at| now.since_ms(at)),
                peer_lag_events: self.held.iter().map(theirs).fold(0, u64::saturating_add),
                window_bytes: session.out.bytes(),
                clock_off_ms: session.offsets.off_ms(),
                last_fault: self.faults.get(&peer.instance).cloned(),
            })
        };
        self.sessions.iter().filter_map(one).collect()
    }

    /// Bytes read for peers that they have not dealt with: what replication keeps in memory of the ledger.
    #[must_use]
    pub fn window_bytes(&self) -> usize {
        self.sessions.values().map(|session| session.out.bytes()).sum()
    }

    /// The peer at `link`, once it said who it is: cheaper than [`Machine::peers`].
    #[cfg(test)]
    #[must_use]
    pub fn peer_at(&self, link: Link) -> Option<Instance> {
        Some(self.sessions.get(&link)?.peer.as_ref()?.instance)
    }
}
