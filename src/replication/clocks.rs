//! How far a peer's clock is off, from the round trips of pings.

use std::collections::VecDeque;

use super::settings::Now;
use crate::policy::time::Timestamp;

/// How many round trips are kept: the quickest of them tells best.
const KEPT: usize = 8;

/// The last round trips to one peer.
#[derive(Debug, Default)]
pub(super) struct Offsets(VecDeque<(u64, i64)>);

impl Offsets {
    /// A ping left at `sent` and its answer, which told the peer's clock, came `now`.
    pub(super) fn note(&mut self, sent: Now, now: Now, theirs: Timestamp) {
        let round_trip_ms = now.mono.since_ms(sent.mono);
        let half = i64::try_from(round_trip_ms / 2).unwrap_or(i64::MAX);
        let off_ms = theirs.since_ms(now.wall.minus_ms(half));
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((round_trip_ms, off_ms));
    }

    /// How many milliseconds the peer's clock is ahead of ours.
    pub(super) fn off_ms(&self) -> Option<i64> {
        self.0.iter().min_by_key(|(round_trip_ms, _)| *round_trip_ms).map(|(_, off_ms)| *off_ms)
    }
}
