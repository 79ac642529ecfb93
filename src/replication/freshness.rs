//! How stale this node may be, per anchor, by a clock that steps cannot fool.
//!
//! When the answer to a ping tells a vector, and all of that vector is applied here, then everything the answerer held when the
//! ping left is applied here. So the ping's age bounds how stale we are of it. What the answerer said of other
//! anchors holds too, that much earlier. A heartbeat alone proves nothing.

use std::collections::{BTreeMap, VecDeque};

use super::frame::{ANCHORS_MAX, Heard};
use super::settings::Mono;
use crate::policy::ids::OriginId;

/// How many answers of one peer may wait for events to be applied.
pub(super) const WAITING_MAX: usize = 8;

/// An answer whose vector is not applied in full yet.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    /// When the ping left.
    pub(super) sent: Mono,
    /// What is still to be applied.
    pub(super) needs: BTreeMap<OriginId, u64>,
    /// What the answerer said of others.
    pub(super) heard: Vec<Heard>,
}

/// The answers of one peer that wait.
#[derive(Debug, Default)]
pub(super) struct Answers(VecDeque<Waiting>);

impl Answers {
    /// Adds an answer. When too many wait, the newest of them gives way: what it proved this one proves too, later.
    pub(super) fn push(&mut self, waiting: Waiting) {
        if self.0.len() >= WAITING_MAX {
            self.0.pop_back();
        }
        self.0.push_back(waiting);
    }

    /// `origin` is applied up to `sequence`.
    pub(super) fn applied(&mut self, origin: OriginId, sequence: u64) {
        for waiting in &mut self.0 {
            if waiting.needs.get(&origin).is_some_and(|needed| *needed <= sequence) {
                waiting.needs.remove(&origin);
            }
        }
    }

    /// The oldest answer, if all it told is applied.
    pub(super) fn settled(&mut self) -> Option<Waiting> {
        if self.0.front()?.needs.is_empty() { self.0.pop_front() } else { None }
    }
}

/// When one anchor was last known in full.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// For this node.
    at: Mono,
    /// For whoever hears of it through this node, which does not pass on what it keeps apart.
    passed_on: Option<Mono>,
}

/// When each anchor was last known in full.
#[derive(Debug, Default)]
pub(super) struct Freshness(BTreeMap<String, Known>);

impl Freshness {
    /// Everything that `anchor` held at `at` is applied here; `all_verified`: none of it is only kept apart.
    pub(super) fn note(&mut self, anchor: &str, at: Mono, all_verified: bool) {
        if self.0.len() >= ANCHORS_MAX
            && !self.0.contains_key(anchor)
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, known)| known.at).map(|(name, _)| name.clone())
        {
            self.0.remove(&oldest);
        }
        let known = self.0.entry(anchor.to_owned()).or_default();
        known.at = known.at.max(at);
        if all_verified {
            known.passed_on = known.passed_on.max(Some(at));
        }
    }

    /// The age of each anchor's state as it is applied here, in milliseconds.
    pub(super) fn ages(&self, now: Mono) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(move |(anchor, known)| (anchor.as_str(), now.since_ms(known.at)))
    }

    /// The age of each anchor's state as it is passed on from here, in milliseconds.
    pub(super) fn ages_passed_on(&self, now: Mono) -> impl Iterator<Item = (&str, u64)> {
        let passed_on = |(anchor, known): (_, &Known)| Some((anchor, known.passed_on?));
        self.0
            .iter()
            .filter_map(passed_on)
            .map(move |(anchor, at): (&String, Mono)| (anchor.as_str(), now.since_ms(at)))
    }
}
