//! Usage on its way between nodes: best-effort, bounded, and behind everything else.
//!
//! A chunk is told once by each node to each of its peers: what a node knows by run and serial number it neither takes nor
//! passes on again, so nothing goes in circles. Each link keeps the latest chunks for when its carrier has nothing else to do,
//! and drops the oldest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Link;
use super::frame::{Frame, Run, Usage, UsagePart};
use super::settings::Mono;

/// Chunks that wait for one link; then the oldest is dropped.
pub const USAGE_WAITING_MAX: usize = 64;
/// Runs whose chunks are remembered as heard. More than that are not heard at all: forgetting one could let a chunk go in circles.
pub const USAGE_RUNS_MAX: usize = 1_024;
/// A run of which nothing was heard for this long may be forgotten, in milliseconds: no chunk is on its way for so long.
pub const USAGE_RUN_SILENT_MS: u64 = 600_000;
/// A peer that was asked for its usage and says nothing for this long is given up, in milliseconds.
pub const USAGE_ANSWER_MS: u64 = 30_000;
/// Serial numbers told apart below the highest heard of a run; what is older counts as heard.
const SERIALS: u64 = 1_024;
const WORDS: usize = (SERIALS / 64) as usize;

/// Which serial numbers of a run were heard.
#[derive(Debug)]
struct Heard {
    highest: u64,
    /// A ring: bit `serial % SERIALS`.
    ring: [u64; WORDS],
    at: Mono,
}

impl Heard {
    /// Notes a serial number; `false`: it was heard.
    fn note(&mut self, serial: u64) -> bool {
        if serial.saturating_add(SERIALS) <= self.highest {
            return false;
        }
        for skipped in (self.highest + 1..=serial).rev().take(SERIALS as usize) {
            self.ring[Self::word(skipped)] &= !Self::bit(skipped);
        }
        self.highest = self.highest.max(serial);
        let (word, bit) = (Self::word(serial), Self::bit(serial));
        let is_new = self.ring[word] & bit == 0;
        self.ring[word] |= bit;
        is_new
    }

    const fn word(serial: u64) -> usize {
        (serial % SERIALS / 64) as usize
    }

    const fn bit(serial: u64) -> u64 {
        1 << (serial % 64)
    }
}

/// What a node knows of usage on its way.
#[derive(Debug, Default)]
pub(super) struct Gossip {
    serial: u64,
    heard: BTreeMap<Run, Heard>,
    /// This node lost its usage and nobody told it again.
    pub(super) lacks: bool,
    /// Who was asked for it, and who is being asked, with when it last said something.
    asked: BTreeSet<Run>,
    asking: Option<(Link, Run, Mono)>,
    /// Since when everybody connected has been asked.
    asked_all: Option<Mono>,
}

impl Gossip {
    /// The next chunk of this run.
    pub(super) fn own(&mut self, run: Run, bytes: Arc<[u8]>) -> Usage {
        self.serial += 1;
        Usage { run, serial: self.serial, bytes }
    }

    /// Whether a chunk is heard for the first time.
    pub(super) fn is_new(&mut self, run: Run, serial: u64, now: Mono) -> bool {
        if self.heard.len() >= USAGE_RUNS_MAX && !self.heard.contains_key(&run) {
            self.heard.retain(|_, heard| now.since_ms(heard.at) < USAGE_RUN_SILENT_MS);
            if self.heard.len() >= USAGE_RUNS_MAX {
                return false;
            }
        }
        let heard = self.heard.entry(run).or_insert(Heard { highest: 0, ring: [0; WORDS], at: now });
        heard.at = now;
        heard.note(serial)
    }

    /// Chooses whom to ask for usage, if it is time to, among `anchors`. Where nobody has all of it, as in a new cluster, what
    /// they have is all there is.
    pub(super) fn ask(&mut self, anchors: impl Iterator<Item = (Link, Run)>, now: Mono) -> Option<Link> {
        if !self.lacks {
            return None;
        }
        let anchors: Vec<_> = anchors.collect();
        if let Some((link, run, at)) = self.asking {
            if !anchors.contains(&(link, run)) {
                // It is asked again should it come back.
                self.asked.remove(&run);
            } else if now.since_ms(at) < USAGE_ANSWER_MS {
                return None;
            }
            self.asking = None;
        }
        let Some((link, run)) = anchors.iter().copied().find(|(_, run)| !self.asked.contains(run)) else {
            let since = *self.asked_all.get_or_insert(now);
            self.lacks = anchors.is_empty() || now.since_ms(since) < USAGE_ANSWER_MS;
            return None;
        };
        self.asked_all = None;
        if self.asked.len() >= USAGE_RUNS_MAX {
            self.asked.clear();
        }
        self.asked.insert(run);
        self.asking = Some((link, run, now));
        Some(link)
    }

    /// Whether the next part may be asked for by `link`, the last being dealt with.
    pub(super) fn goes_on(&self, link: Link) -> bool {
        self.asking.is_some_and(|(asked, _, _)| asked == link)
    }

    /// A part of an answer came by `link`; `false`: nobody asked there.
    pub(super) fn answered(&mut self, link: Link, part: &UsagePart, now: Mono) -> bool {
        let Some((_, _, at)) = self.asking.as_mut().filter(|(asked, _, _)| *asked == link) else {
            return false;
        };
        *at = now;
        if let UsagePart::End { complete } = part {
            self.asking = None;
            self.lacks &= !complete;
        }
        true
    }
}

/// How far an answer to a peer's wish is.
#[derive(Debug, Default)]
enum Answer {
    /// There is no wish.
    #[default]
    None,
    /// The next part is to be made.
    Wanted,
    /// It is being made.
    Making,
    /// It is to be sent.
    Ready(UsagePart),
}

/// What waits for one link.
#[derive(Debug, Default)]
pub(super) struct UsageOut {
    waiting: VecDeque<Usage>,
    pub(super) ask_due: bool,
    answer: Answer,
}

impl UsageOut {
    /// Another chunk; `false`: the oldest was dropped for it.
    pub(super) fn push(&mut self, usage: Usage) -> bool {
        self.waiting.push_back(usage);
        let fits = self.waiting.len() <= USAGE_WAITING_MAX;
        if !fits {
            self.waiting.pop_front();
        }
        fits
    }

    /// The peer wishes for the next part of all usage. A wish while one is being answered is the same one.
    pub(super) fn wished(&mut self) {
        if matches!(self.answer, Answer::None) {
            self.answer = Answer::Wanted;
        }
    }

    /// Whether the next part of an answer is to be made; said once.
    pub(super) fn wants_part(&mut self) -> bool {
        let wanted = matches!(self.answer, Answer::Wanted);
        if wanted {
            self.answer = Answer::Making;
        }
        wanted
    }

    /// The next part of an answer.
    pub(super) fn made(&mut self, part: UsagePart) {
        if matches!(self.answer, Answer::Making) {
            self.answer = Answer::Ready(part);
        }
    }

    /// The next frame, for a carrier that has nothing else: what happens now goes before what was long ago.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        if std::mem::take(&mut self.ask_due) {
            return Some(Frame::AskUsage);
        }
        if let Some(usage) = self.waiting.pop_front() {
            return Some(Frame::Usage(usage));
        }
        match std::mem::take(&mut self.answer) {
            Answer::Ready(part) => Some(Frame::UsageAnswer(part)),
            other => {
                self.answer = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain set: nothing is new twice, and what is within reach of the highest is new once.
        #[test]
        fn serials_are_new_once(serials in proptest::collection::vec(1u64..5_000, 1..200)) {
            let mut gossip = Gossip::default();
            let (mut set, mut highest) = (BTreeSet::new(), 0);
            for serial in serials {
                let is_new = gossip.is_new(Run([1; 16]), serial, Mono(0));
                let in_reach = serial + SERIALS > highest;
                prop_assert_eq!(is_new, in_reach && !set.contains(&serial));
                set.insert(serial);
                highest = highest.max(serial);
            }
        }
    }

    #[test]
    fn a_serial_at_the_end_of_numbers_does_no_harm() {
        let mut gossip = Gossip::default();
        assert!(gossip.is_new(Run([1; 16]), u64::MAX - 1, Mono(0)));
        assert!(!gossip.is_new(Run([1; 16]), u64::MAX - 1, Mono(0)));
        assert!(!gossip.is_new(Run([1; 16]), 1, Mono(0)));
    }

    #[test]
    fn one_run_more_than_is_remembered_is_not_heard_until_another_is_silent() {
        let mut gossip = Gossip::default();
        let run = |number: usize| Run((number as u128).to_le_bytes());
        for number in 0..USAGE_RUNS_MAX {
            assert!(gossip.is_new(run(number), 1, Mono(number as u64)));
        }
        assert!(!gossip.is_new(run(USAGE_RUNS_MAX), 1, Mono(2_000)));
        assert!(gossip.is_new(run(7), 2, Mono(2_000)), "who is known is heard");
        assert!(gossip.is_new(run(USAGE_RUNS_MAX), 1, Mono(USAGE_RUN_SILENT_MS)));
    }

    #[test]
    fn one_chunk_more_than_may_wait_drops_the_oldest() {
        let mut out = UsageOut::default();
        let usage = |serial| Usage { run: Run([1; 16]), serial, bytes: [0u8; 1].into() };
        for serial in 1..=USAGE_WAITING_MAX as u64 {
            assert!(out.push(usage(serial)));
        }
        assert!(!out.push(usage(99)));
        assert_eq!(out.next_frame(), Some(Frame::Usage(usage(2))));
    }

    #[test]
    fn each_anchor_is_asked_once_until_one_has_all() {
        let (a, b) = ((Link(1), Run([1; 16])), (Link(2), Run([2; 16])));
        let mut gossip = Gossip::default();
        assert_eq!(gossip.ask([a, b].into_iter(), Mono(0)), None, "nothing is lacking");
        gossip.lacks = true;
        assert_eq!(gossip.ask([a, b].into_iter(), Mono(0)), Some(a.0));
        assert_eq!(gossip.ask([a, b].into_iter(), Mono(USAGE_ANSWER_MS - 1)), None);
        assert!(!gossip.answered(b.0, &UsagePart::End { complete: true }, Mono(1)), "it was not asked");
        assert!(gossip.answered(a.0, &UsagePart::End { complete: false }, Mono(1)));
        assert_eq!(gossip.ask([a, b].into_iter(), Mono(2)), Some(b.0));
        assert_eq!(gossip.ask([a].into_iter(), Mono(3)), None, "it is gone, and the other was asked");
        assert_eq!(gossip.ask([a, b].into_iter(), Mono(4)), Some(b.0));
        assert_eq!(gossip.ask([a, b].into_iter(), Mono(4 + USAGE_ANSWER_MS)), None, "it is silent");
        gossip.asked.clear();
        assert_eq!(gossip.ask([b].into_iter(), Mono(5)), Some(b.0));
        assert!(gossip.answered(b.0, &UsagePart::End { complete: true }, Mono(6)));
        assert!(!gossip.lacks);
    }

    #[test]
    fn where_nobody_has_all_what_they_have_is_taken_for_all() {
        let a = (Link(1), Run([1; 16]));
        let mut gossip = Gossip { lacks: true, ..Gossip::default() };
        assert_eq!(gossip.ask([a].into_iter(), Mono(0)), Some(a.0));
        assert!(gossip.answered(a.0, &UsagePart::End { complete: false }, Mono(1)));
        assert_eq!(gossip.ask([a].into_iter(), Mono(2)), None);
        assert_eq!(gossip.ask([a].into_iter(), Mono(1 + USAGE_ANSWER_MS)), None);
        assert!(gossip.lacks);
        assert_eq!(gossip.ask([a].into_iter(), Mono(2 + USAGE_ANSWER_MS)), None);
        assert!(!gossip.lacks);
    }
}
