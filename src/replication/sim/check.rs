//! The judge: what must hold at every moment, and after healing. It knows the truth, which no node does.

use prost::Message as _;

use super::node::Node;
use super::world::{WINDOW_BYTES, WINDOW_FRAMES, World};
use crate::policy::ids::OriginId;
use crate::replication::frame::{EVENTS_BYTES_MAX, FRAME_LEN_MAX, Frame, RECORDS_MAX, Role};
use crate::replication::wire;

impl World {
    pub fn fail(&self, what: &str) -> ! {
        self.describe();
        panic!(
            "at {} ms: {what}\nreplay with OPTGATE_SIM_SEED={} cargo test --lib replication::sim",
            self.now, self.seed
        )
    }

    /// What a person needs who looks into a failure.
    fn describe(&self) {
        let start = self.closes.len().saturating_sub(12);
        for (at, node, why) in &self.closes[start..] {
            println!("  {at}: node {node} closed a link: {why}");
        }
        let start = self.notes.len().saturating_sub(12);
        for (at, node, note) in &self.notes[start..] {
            println!("  {at}: node {node} notes {note:?}");
        }
        for (number, one) in self.nodes.iter().enumerate() {
            let peers = one.process.as_ref().map(|process| process.machine.peers(one.now(self.now).mono));
            println!(
                "  node {number} {:?} dials {:?}, {} origins: {peers:?}",
                one.role,
                one.peers,
                one.disk.heads().len()
            );
        }
    }

    /// No frame is longer than allowed. Returns it as it is read at the other end, and its length.
    pub fn judge_frame(&self, node: usize, frame: Frame) -> (Frame, usize) {
        let frame = wire::encode(frame);
        let len = frame.encoded_len();
        let frame = wire::decode(frame)
            .unwrap_or_else(|fault| self.fail(&format!("node {node} sent a frame: {fault}")));
        if len > FRAME_LEN_MAX {
            self.fail(&format!("node {node} sent a frame of {len} bytes"));
        }
        if let Frame::Events(events) = &frame
            && (events.records.len() > RECORDS_MAX
                || events.records.len() > 1 && events.weight() > EVENTS_BYTES_MAX)
        {
            self.fail(&format!("node {node} sent {} bytes of events at once", events.weight()));
        }
        (frame, len)
    }

    /// What a node keeps for others is bounded.
    pub fn judge_bounds(&self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let links = self.wires.len().max(1);
        if process.machine.window_bytes() > links * (WINDOW_BYTES + FRAME_LEN_MAX) {
            self.fail(&format!("node {node} keeps {} bytes for its peers", process.machine.window_bytes()));
        }
        if process.storing.len() > WINDOW_FRAMES * self.wires.len().max(self.nodes.len()) {
            self.fail(&format!("node {node} has {} batches on their way to disk", process.storing.len()));
        }
    }

    /// What a node takes for fresh must be: everything the anchor held that long ago is applied.
    pub fn judge_freshness(&self, node: usize) {
        let one = &self.nodes[node];
        let Some(process) = &one.process else { return };
        let now = one.now(self.now).mono;
        for (anchor, age_ms) in process.machine.freshness(now) {
            let other = anchor.strip_prefix("anchor-").and_then(|number| number.parse::<usize>().ok());
            let Some(other) = other.and_then(|other| self.nodes.get(other)) else {
                self.fail(&format!("node {node} knows of `{anchor}`"))
            };
            // Through several others an age may add up to more than there was time: that claims nothing.
            let Some(then) = self.now.checked_sub(age_ms) else { continue };
            if other.went_back > then {
                continue;
            }
            for (origin, steps) in &other.history {
                let held = steps.iter().take_while(|(at, _)| *at < then).map(|(_, sequence)| *sequence).max();
                let Some(held) = held else { continue };
                let applied = process.machine.vector().sequence(*origin);
                let record =
                    |node: &Node| node.disk.records(*origin).get(held as usize - 1).map(|record| record.hash);
                let theirs = record(other);
                let kept = |hash| one.apart.get(origin).is_some_and(|kept| kept.contains(&(held, hash)));
                if (held > applied || !self.fork_is_news && record(one) != theirs)
                    && !theirs.is_some_and(kept)
                {
                    self.fail(&format!(
                        "node {node} takes {anchor} for {age_ms} ms old, but lacks {origin} from {applied} to {held}"
                    ));
                }
            }
        }
    }

    /// `origin` up to `sequence` was said to be on a majority's disks.
    pub fn promise(&mut self, node: usize, origin: OriginId, sequence: u64) {
        let holds = |one: &super::node::Node| {
            one.role == Role::Anchor && (one.disk.sequence(origin) >= sequence || one.went_back > 0)
        };
        let disks = self.nodes.iter().filter(|one| holds(one)).count();
        if disks < self.anchors / 2 + 1 {
            self.fail(&format!("node {node} took {origin}-{sequence} for replicated on {disks} disks"));
        }
        let promised = self.promised.entry(origin).or_default();
        *promised = (*promised).max(sequence);
    }

    /// Everything is as it must be when the cluster has been whole for a while.
    pub fn judge_healed(&self) {
        let first = &self.nodes[0].disk;
        for (number, one) in self.nodes.iter().enumerate() {
            // An edge keeps what an anchor gave it and then lost with its disk: nothing tells it that this never was.
            let lost = self.nodes.iter().any(|one| one.role == Role::Anchor && one.went_back > 0);
            let keeps_more = one.role == Role::Edge
                && lost
                && first.heads().iter().all(|(origin, head)| one.disk.sequence(origin) >= head.sequence);
            if one.disk.heads() != first.heads() && !keeps_more {
                let (a, b) = (first.heads(), one.disk.heads());
                let missing: Vec<_> = a
                    .iter()
                    .chain(b.iter())
                    .filter(|(origin, _)| a.get(*origin) != b.get(*origin))
                    .map(|(origin, _)| (origin, a.sequence(origin), b.sequence(origin)))
                    .collect();
                self.fail(&format!("nodes 0 and {number} differ after healing: {missing:?}"));
            }
            let Some(process) = &one.process else { self.fail("a node is down after healing") };
            if *process.machine.vector() != one.disk.heads() {
                self.fail(&format!("node {number}'s vector is not what its disk holds"));
            }
            let now = one.now(self.now).mono;
            if !process.machine.is_fresh(now, self.max_staleness_ms) {
                self.fail(&format!(
                    "node {number} is stale after healing: {:?}",
                    process.machine.freshness(now)
                ));
            }
            if !process.machine.is_caught_up() {
                self.fail(&format!(
                    "node {number} is not caught up after healing: {:?}",
                    process.machine.progress()
                ));
            }
        }
        for (origin, sequence) in &self.promised {
            if first.sequence(*origin) < *sequence {
                self.fail(&format!("{origin}-{sequence} was on a majority's disks and is lost"));
            }
        }
    }
}
