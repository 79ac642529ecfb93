//! What is sent to one peer: which origins it wants, whose turn it is, and how much may be under way.
//!
//! The ledger is read only when the peer has room, so a slow peer costs a window and no more. Origins take turns, and none
//! may fill the window alone, so that nothing waits behind an import.

use std::collections::{BTreeMap, VecDeque};

use super::frame::{EVENTS_BYTES_MAX, Events};
use super::vector::Heads;
use crate::policy::ids::OriginId;

/// What one peer wants of an origin.
#[derive(Clone, Copy, Debug)]
enum Follow {
    Sending {
        /// The next sequence to read.
        next: u64,
        /// It stands in the queue of turns.
        queued: bool,
        /// Its frames under way or ready.
        frames: usize,
    },
    /// The peer takes it from elsewhere.
    Skipped {
        /// Its frames still under way.
        frames: usize,
    },
}

/// A piece of the ledger to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) origin: OriginId,
    pub(super) from: u64,
}

/// More was acknowledged than was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overdone;

/// What is sent to one peer.
#[derive(Debug)]
pub(super) struct Outflow {
    follow: BTreeMap<OriginId, Follow>,
    turn: VecDeque<OriginId>,
    under_way: VecDeque<(OriginId, usize)>,
    ready: VecDeque<Events>,
    reading: Option<Piece>,
    bytes: usize,
    done: u64,
    bytes_max: usize,
    frames_max: usize,
}

impl Outflow {
    /// A window of `bytes_max` and `frames_max`: the smaller of ours and the peer's.
    pub(super) fn new(bytes_max: usize, frames_max: usize) -> Self {
        Self {
            follow: BTreeMap::new(),
            turn: VecDeque::new(),
            under_way: VecDeque::new(),
            ready: VecDeque::new(),
            reading: None,
            bytes: 0,
            done: 0,
            bytes_max,
            frames_max,
        }
    }

    fn frames(&self) -> usize {
        self.under_way.len() + self.ready.len() + usize::from(self.reading.is_some())
    }

    /// Bytes read for the peer and not yet dealt with by it, the reserve for a read under way included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many frames one origin may have under way, so that others find room.
    fn frames_of_one_max(&self) -> usize {
        (self.frames_max / 4).max(1)
    }

    /// The peer wants `origin` from `from` on.
    pub(super) fn want(&mut self, origin: OriginId, from: u64) {
        let (frames, queued) = match self.follow.get(&origin) {
            Some(Follow::Sending { frames, queued, .. }) => (*frames, *queued),
            Some(Follow::Skipped { frames }) => (*frames, false),
            None => (0, false),
        };
        // What was read for it and not sent yet may be the wrong piece now.
        let dropped = self.drop_ready(origin);
        if !queued {
            self.turn.push_back(origin);
        }
        let frames = frames.saturating_sub(dropped);
        self.follow.insert(origin, Follow::Sending { next: from, queued: true, frames });
    }

    /// The peer takes `origin` from elsewhere.
    pub(super) fn skip(&mut self, origin: OriginId) {
        let frames = match self.follow.get(&origin) {
            Some(Follow::Sending { frames, .. } | Follow::Skipped { frames }) => *frames,
            None => 0,
        };
        let dropped = self.drop_ready(origin);
        self.turn.retain(|queued| *queued != origin);
        self.follow.insert(origin, Follow::Skipped { frames: frames.saturating_sub(dropped) });
    }

    fn drop_ready(&mut self, origin: OriginId) -> usize {
        let before = self.ready.len();
        let mut freed = 0;
        self.ready.retain(|events| {
            let keep = events.origin != origin;
            if !keep {
                freed += events.weight();
            }
            keep
        });
        self.bytes = self.bytes.saturating_sub(freed);
        before - self.ready.len()
    }

    /// Whether the peer said that it takes `origin`, from here or from elsewhere: it need not be told at once that it grew.
    pub(super) fn knows(&self, origin: OriginId) -> bool {
        self.follow.contains_key(&origin)
    }

    /// `origin` grew.
    pub(super) fn grew(&mut self, origin: OriginId) {
        if let Some(Follow::Sending { queued, .. }) = self.follow.get_mut(&origin)
            && !*queued
        {
            *queued = true;
            self.turn.push_back(origin);
        }
    }

    /// The next piece to read, if there is room. The reserve for it is taken until [`Outflow::read`].
    pub(super) fn next_piece(&mut self, held: &Heads) -> Option<Piece> {
        let full = self.bytes.saturating_add(EVENTS_BYTES_MAX) > self.bytes_max;
        if self.reading.is_some() || (full && self.bytes > 0) || self.frames() >= self.frames_max {
            return None;
        }
        let frames_of_one_max = self.frames_of_one_max();
        for _ in 0..self.turn.len() {
            let origin = self.turn.pop_front()?;
            let Some(Follow::Sending { next, queued, frames }) = self.follow.get_mut(&origin) else {
                continue;
            };
            if *next > held.sequence(origin) {
                *queued = false;
                continue;
            }
            if *frames >= frames_of_one_max {
                self.turn.push_back(origin);
                continue;
            }
            *queued = false;
            *frames += 1;
            let piece = Piece { origin, from: *next };
            self.reading = Some(piece);
            self.bytes = self.bytes.saturating_add(EVENTS_BYTES_MAX);
            return Some(piece);
        }
        None
    }

    /// What was read for `piece`; `None`: nothing could be.
    pub(super) fn read(&mut self, piece: Piece, events: Option<Events>) {
        if self.reading != Some(piece) {
            return;
        }
        self.reading = None;
        self.bytes = self.bytes.saturating_sub(EVENTS_BYTES_MAX);
        let wanted = matches!(self.follow.get(&piece.origin), Some(Follow::Sending { next, .. }) if *next == piece.from);
        let events = events.filter(|events| {
            wanted
                && events.origin == piece.origin
                && events.first == piece.from
                && !events.records.is_empty()
        });
        let Some(events) = events else {
            self.one_less(piece.origin);
            if !wanted {
                self.grew(piece.origin);
            }
            return;
        };
        if let Some(Follow::Sending { next, .. }) = self.follow.get_mut(&piece.origin) {
            *next = events.last().saturating_add(1);
        }
        self.bytes = self.bytes.saturating_add(events.weight());
        self.ready.push_back(events);
        self.grew(piece.origin);
    }

    fn one_less(&mut self, origin: OriginId) {
        if let Some(Follow::Sending { frames, .. } | Follow::Skipped { frames }) =
            self.follow.get_mut(&origin)
        {
            *frames = frames.saturating_sub(1);
        }
    }

    /// The next frame to send.
    pub(super) fn take(&mut self) -> Option<Events> {
        let events = self.ready.pop_front()?;
        self.under_way.push_back((events.origin, events.weight()));
        Some(events)
    }

    /// The peer has dealt with `done` frames since the start.
    pub(super) fn done(&mut self, done: u64) -> Result<(), Overdone> {
        let Some(more) = done.checked_sub(self.done) else { return Ok(()) };
        if more > self.under_way.len() as u64 {
            return Err(Overdone);
        }
        self.done = done;
        for _ in 0..more {
            if let Some((origin, weight)) = self.under_way.pop_front() {
                self.bytes = self.bytes.saturating_sub(weight);
                self.one_less(origin);
            }
        }
        Ok(())
    }
}
