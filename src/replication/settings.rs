//! What a node is told at its start, and its bounds.

use std::collections::BTreeSet;

use super::frame::{EVENTS_BYTES_MAX, Instance, Role, Run};
use crate::policy::time::Timestamp;

/// How long a peer may take to say Hello, in milliseconds.
pub const HELLO_WAIT_MS: u64 = 5_000;
/// A peer that says nothing for this long is gone, in milliseconds; or three heartbeats, if that is longer.
pub const SILENCE_MS: u64 = 5_000;
/// Another peer that is ahead this long without anything arriving becomes an origin's source, in milliseconds.
pub const AHEAD_MS: u64 = 1_000;
/// An origin that its source has but does not send is asked for again after this long, in milliseconds.
pub const STALLED_MS: u64 = 10_000;
/// After the own store refused for want of room, receiving pauses this long, in milliseconds.
pub const STORE_PAUSE_MS: u64 = 1_000;
/// A member unseen for this long no longer counts, in milliseconds.
pub const MEMBER_UNSEEN_MS: u64 = 24 * 3_600_000;
/// The most members remembered.
pub const MEMBERS_MAX: usize = 1_024;
/// So many of the places for peers are kept for anchors: without each other they could not serve an edge either.
pub const FOR_ANCHORS: usize = 64;
/// The most pings without an answer.
pub const PINGS_MAX: usize = 8;

/// Milliseconds on a clock that only moves on, also while the machine sleeps. Its zero means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// Milliseconds since `earlier`; 0 when that is later.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment minus `span_ms`.
    #[must_use]
    pub const fn minus_ms(self, span_ms: u64) -> Self {
        Self(self.0.saturating_sub(span_ms))
    }
}

/// The moment of an input, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// By the clock that only moves on: all decisions are made by it.
    pub mono: Mono,
    /// By the wall: only told to peers and compared with theirs.
    pub wall: Timestamp,
}

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's name.
    pub cluster_id: String,
    /// Tells the cluster key without revealing it.
    pub key_check: [u8; 16],
    /// How addresses are brought to their canonical form.
    pub address_form_version: u32,
    /// The store's identity.
    pub instance: Instance,
    /// This run, random.
    pub run: Run,
    /// What this node is.
    pub role: Role,
    /// The configured name of this anchor; empty: its instance counts.
    pub anchor_name: String,
    /// How many anchors are configured, at least 1.
    pub anchors: usize,
    /// How often peers are pinged, in milliseconds.
    pub heartbeat_ms: u64,
    /// How many bytes of events may be under way to or from one peer, give or take one record; at least 65,536.
    pub window_bytes: usize,
    /// How many frames of events may be under way to or from one peer; at least 1.
    pub window_frames: usize,
    /// How many frames the carrier holds per link before it says that one left; at least 1.
    pub queue_frames: usize,
    /// The most peers connected at once; [`FOR_ANCHORS`] of them are no edges.
    pub peers_max: usize,
    /// The most origins that a peer may tell of.
    pub origins_max: usize,
}

impl Settings {
    /// The settings of an anchor alone, to be filled in.
    #[must_use]
    pub fn new(instance: Instance, run: Run) -> Self {
        Self {
            cluster_id: "default".to_owned(),
            key_check: [0; 16],
            address_form_version: 1,
            instance,
            run,
            role: Role::Anchor,
            anchor_name: String::new(),
            anchors: 1,
            heartbeat_ms: 1_000,
            window_bytes: 16 * EVENTS_BYTES_MAX,
            window_frames: 32,
            queue_frames: 8,
            peers_max: 256,
            origins_max: 131_072,
        }
    }

    /// How many of the configured anchors are more than half.
    #[must_use]
    pub const fn majority(&self) -> usize {
        self.anchors / 2 + 1
    }

    pub(super) fn silence_ms(&self) -> u64 {
        SILENCE_MS.max(self.heartbeat_ms.saturating_mul(3))
    }

    /// The name this node is counted under as an anchor.
    #[must_use]
    pub fn counted_as(&self) -> String {
        counted_as(&self.anchor_name, self.instance)
    }
}

/// The name an anchor is counted under.
pub(super) fn counted_as(name: &str, instance: Instance) -> String {
    if name.is_empty() { instance.to_string() } else { name.to_owned() }
}

/// Distinct values of a small set, for counting.
pub(super) fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> usize {
    values.collect::<BTreeSet<_>>().len()
}
