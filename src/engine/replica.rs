//! What the engine knows of the cluster, and what the cluster must hear of the engine.
//!
//! The replication side writes here what follows from its protocol: until when this node is fresh, how many nodes share a rate, what
//! is on a majority's disks. Checks only read. It has never heard of peers, streams or frames.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, watch};

use crate::ledger::Head;
use crate::policy::ids::{EventId, OriginId};

/// How often it is looked whether events of earlier runs have reached other disks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// This node among others. One that is alone is always fresh.
pub struct Replica {
    alone: bool,
    /// How long an opt-out waits for other disks where its caller did not ask for them.
    opt_out_wait: Duration,
    /// Tells whether an event of an earlier run is on the disks of a majority of the anchors.
    older: OnceLock<Box<dyn Fn(EventId) -> bool + Send + Sync>>,
    /// On the clock that only moves on, in milliseconds: from then on this node is stale.
    fresh_until_ms: AtomicU64,
    /// What the anchors held when this node started is not applied yet.
    catching_up: AtomicBool,
    /// So much is missing that others are asked for their opt-outs.
    far_behind: AtomicBool,
    /// They may tell some, so nothing is allowed yet.
    awaiting_opt_outs: AtomicBool,
    /// The ledger here lacks something that it once held.
    damaged: AtomicBool,
    members: AtomicU32,
    /// A peer's clock differs by this many milliseconds at most.
    clocks_apart_ms: AtomicU64,
    /// How far the origin of this run is on the disks of a majority of the anchors.
    replicated: watch::Sender<Option<(OriginId, u64)>>,
    /// The last own event of each origin of this run that is applied here, until the replication side has heard of it.
    own: Mutex<FxHashMap<OriginId, Head>>,
    own_moved: Notify,
    distrust_moved: Notify,
}

impl Replica {
    /// A node without others.
    #[must_use]
    pub fn alone() -> Self {
        Self::new(true, Duration::ZERO)
    }

    /// A node among others: stale, and catching up, until the replication side says otherwise.
    #[must_use]
    pub fn among_others(opt_out_wait: Duration) -> Self {
        Self::new(false, opt_out_wait)
    }

    fn new(alone: bool, opt_out_wait: Duration) -> Self {
        Self {
            alone,
            opt_out_wait,
            older: OnceLock::new(),
            fresh_until_ms: AtomicU64::new(0),
            catching_up: AtomicBool::new(!alone),
            far_behind: AtomicBool::new(false),
            awaiting_opt_outs: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            members: AtomicU32::new(1),
            // What was not measured may be anything.
            clocks_apart_ms: AtomicU64::new(if alone { 0 } else { u64::MAX }),
            replicated: watch::Sender::new(None),
            own: Mutex::default(),
            own_moved: Notify::new(),
            distrust_moved: Notify::new(),
        }
    }

    /// Whether there are no others.
    #[must_use]
    pub const fn is_alone(&self) -> bool {
        self.alone
    }

    /// Whether too little is known of a majority of the anchors at `mono_ms`, by the clock that only moves on.
    #[must_use]
    pub fn is_stale(&self, mono_ms: u64) -> bool {
        self.damaged.load(Ordering::Relaxed)
            || !self.alone && mono_ms >= self.fresh_until_ms.load(Ordering::Acquire)
    }

    /// The ledger has a stretch that cannot be read: an opt-out may have been in it, so this node is stale for good.
    pub fn set_damaged(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Whether the ledger has a stretch that cannot be read.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Whether there is a known backlog, so that nothing can be allowed.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        self.catching_up.load(Ordering::Acquire)
    }

    /// Sets until when this node is fresh.
    pub fn set_fresh_until_ms(&self, mono_ms: u64) {
        self.fresh_until_ms.store(mono_ms, Ordering::Release);
    }

    /// Sets whether there is a known backlog.
    pub fn set_catching_up(&self, catching_up: bool) {
        self.catching_up.store(catching_up, Ordering::Release);
    }

    /// Whether so much is missing that others are asked for their opt-outs.
    #[must_use]
    pub fn is_far_behind(&self) -> bool {
        self.far_behind.load(Ordering::Acquire)
    }

    /// Sets whether so much is missing.
    pub fn set_far_behind(&self, far_behind: bool) {
        self.far_behind.store(far_behind, Ordering::Release);
    }

    /// Whether others may tell opt-outs that are not known here, so that nothing can be allowed.
    #[must_use]
    pub fn awaits_opt_outs(&self) -> bool {
        self.awaiting_opt_outs.load(Ordering::Acquire)
    }

    /// Sets whether others are asked.
    pub fn set_awaiting_opt_outs(&self, awaiting: bool) {
        self.awaiting_opt_outs.store(awaiting, Ordering::Release);
    }

    /// How many nodes share a business's and a sender's rate; at least 1.
    #[must_use]
    pub fn members(&self) -> u32 {
        self.members.load(Ordering::Relaxed).max(1)
    }

    /// Sets how many nodes share rates.
    pub fn set_members(&self, members: usize) {
        self.members.store(u32::try_from(members).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Sets by how much the clocks of peers differ from this node's.
    pub fn set_clocks_apart_ms(&self, apart_ms: u64) {
        self.clocks_apart_ms.store(apart_ms, Ordering::Relaxed);
    }

    /// Whether times of other nodes can be compared with this one's within `margin_ms`: no peer's clock is off by more
    /// than half of it.
    #[must_use]
    pub fn clocks_agree(&self, margin_ms: i64) -> bool {
        let half = u64::try_from(margin_ms / 2).unwrap_or(0);
        self.clocks_apart_ms.load(Ordering::Relaxed) <= half
    }

    /// An own event is on disk and applied. To be called before its caller is answered.
    pub fn own_appended(&self, origin: OriginId, head: Head) {
        if !self.alone {
            self.own.lock().insert(origin, head);
            self.own_moved.notify_one();
        }
    }

    /// The last own event of each origin of this run that was not taken yet.
    pub fn take_own(&self) -> Vec<(OriginId, Head)> {
        let mut own = self.own.lock();
        // Asked before every step of the protocol, and nearly always in vain.
        if own.is_empty() { Vec::new() } else { own.drain().collect() }
    }

    /// Waits for an own event that was not taken.
    pub async fn own_moved(&self) {
        self.own_moved.notified().await;
    }

    /// An origin turned out to be forked.
    pub fn distrust_moved(&self) {
        self.distrust_moved.notify_one();
    }

    /// Waits until an origin turns out to be forked.
    pub async fn await_distrust(&self) {
        self.distrust_moved.notified().await;
    }

    /// Own events of `origin` up to `sequence` are on the disks of a majority of the anchors.
    pub fn set_replicated(&self, origin: OriginId, sequence: u64) {
        self.replicated.send_replace(Some((origin, sequence)));
    }

    /// How long an opt-out waits for other disks where its caller did not ask for them.
    #[must_use]
    pub const fn opt_out_wait(&self) -> Duration {
        self.opt_out_wait
    }

    /// Sets who tells of events of earlier runs. Only the first call counts.
    pub fn ask_of_older(&self, older: impl Fn(EventId) -> bool + Send + Sync + 'static) {
        let _ = self.older.set(Box::new(older));
    }

    /// Waits until `event` is on the disks of a majority of the anchors; `false`: not in time.
    pub async fn replicated(&self, event: EventId, within: Duration) -> bool {
        if self.alone {
            return false;
        }
        let mut seen = self.replicated.subscribe();
        let reached = async {
            loop {
                let told = *seen.borrow_and_update();
                let of_this_run = told
                    .is_some_and(|(origin, sequence)| origin == event.origin && sequence >= event.sequence);
                if of_this_run || self.older.get().is_some_and(|older| older(event)) {
                    return;
                }
                // Acks of an earlier run's events are not announced, so they are looked for.
                let _ = tokio::time::timeout(LOOK_EVERY, seen.changed()).await;
            }
        };
        tokio::time::timeout(within, reached).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64) -> EventId {
        EventId { origin: OriginId([7; 16]), sequence }
    }

    #[test]
    fn a_node_among_others_is_stale_until_told_otherwise() {
        let alone = Replica::alone();
        assert!(!alone.is_stale(0) && !alone.is_catching_up());
        let replica = Replica::among_others(Duration::ZERO);
        assert!(replica.is_stale(0) && replica.is_catching_up());
        replica.set_fresh_until_ms(60_000);
        assert!(!replica.is_stale(59_999));
        assert!(replica.is_stale(60_000));
        alone.set_damaged();
        assert!(alone.is_stale(0));
    }

    #[test]
    fn clocks_agree_up_to_half_the_margin() {
        let replica = Replica::among_others(Duration::ZERO);
        assert!(!replica.clocks_agree(300_000), "nothing was measured yet");
        replica.set_clocks_apart_ms(150_000);
        assert!(replica.clocks_agree(300_000));
        replica.set_clocks_apart_ms(150_001);
        assert!(!replica.clocks_agree(300_000));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_when_a_majority_has_the_event_or_time_is_up() {
        let replica = Replica::among_others(Duration::ZERO);
        let wait = Duration::from_millis(100);
        assert!(!replica.replicated(event(1), wait).await);
        replica.set_replicated(OriginId([7; 16]), 2);
        assert!(replica.replicated(event(2), wait).await);
        assert!(!replica.replicated(event(3), wait).await);
        let other = EventId { origin: OriginId([8; 16]), sequence: 1 };
        assert!(!replica.replicated(other, wait).await);
        assert!(!Replica::alone().replicated(event(1), wait).await);
    }
}
