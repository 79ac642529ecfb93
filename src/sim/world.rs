//! The nodes, what is under way, and the time.
//!
//! There are two times. `now` is what the clocks that only move on show: the protocol runs by it, tick by tick. The true time is `now`
//! and all leaps: where nothing is due for long and everything has come to rest, walls leap to what is due next, so that a
//! script may last days. What a leap skips is rest: who was fresh stays so, who was cut off and stale stays that.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use tempfile::TempDir;

use super::call::{Answer, Ask, Waiting};
use super::hand::Hand;
use super::judge::Tally;
use super::net::Wire;
use super::node::Node;
use super::people::{Act, Attempt, Told, identifier};
use crate::clock::ManualClock;
use crate::ledger::sim::SimDisk;
use crate::outbox::Item;
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::time::{MINUTE_MS, Timestamp};
use crate::replication::Link;
use crate::replication::carrier::Incoming;
use crate::replication::frame::Role;
use crate::replication::sim::rng::Rng;
use crate::view::MemoryDisk;
use std::sync::Arc;

/// When every script begins.
pub const EPOCH_MS: i64 = 1_790_000_000_000;
/// By how much clocks may differ, itself excluded.
pub const MARGIN_MS: i64 = 5 * MINUTE_MS;
/// From when on a node counts as stale.
pub const MAX_STALENESS_MS: u64 = 6_000;
/// How often a node's machine is ticked.
pub const TICK_MS: u64 = 400;
/// So long after the last thing that was done everything is at rest: links that are cut are silent, who can be stale is.
const REST_MS: u64 = 12_000;
/// From so long on, what nothing is due in is leapt over.
const LEAP_FROM_MS: i64 = 2_000;
/// How often it is looked whether all is calm.
const LOOK_EVERY_MS: u64 = 500;

/// Something that is due by the clocks that only move on.
pub enum Due {
    Tick {
        node: usize,
        epoch: u64,
    },
    Come {
        node: usize,
        incoming: Incoming,
    },
    Disk {
        node: usize,
        epoch: u64,
    },
    Read {
        node: usize,
        epoch: u64,
        ticket: u64,
        origin: OriginId,
        from: u64,
        bytes_max: usize,
        records_max: usize,
    },
    /// A call of an edge gets to an anchor.
    Asked {
        call: u64,
        from: usize,
        epoch: u64,
        to: usize,
        ask: Ask,
    },
    /// Its answer gets back; one that never comes is given up.
    Answered {
        call: u64,
        node: usize,
        epoch: u64,
        from: usize,
        answer: Answer,
    },
    /// An item is to be offered again.
    Again {
        node: usize,
        epoch: u64,
        item: Arc<Item>,
    },
}

/// How the clocks of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// They differ by less than the margin.
    WithinMargin,
    /// Nothing is known of them.
    Wild,
}

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub hand: Hand,
    pub now: u64,
    leapt_ms: i64,
    /// When something was last done that the protocol must come to rest from.
    pub stirred: u64,
    pub clocks: Clocks,
    pub nodes: Vec<Node>,
    pub anchors: usize,
    pub wires: BTreeMap<Link, Wire>,
    pub links: u64,
    /// What goes from the first to the second vanishes.
    pub cut: BTreeSet<(usize, usize)>,
    /// One in so many frames is lost, and its link with it; 0: none.
    pub loss: u64,
    pub delay_ms: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    due: BTreeMap<u64, Due>,
    number: u64,
    /// Reports that will come, by the true time.
    pub reports: BTreeSet<(i64, u64, Attempt)>,
    pub calls: u64,
    /// Anchors' answers that wait for a majority.
    pub waiting: Vec<Waiting>,
    /// Calls that were answered or given up.
    pub ended_calls: BTreeSet<u64>,
    pub number_reports: u64,
    /// Everybody's keyed hash.
    pub persons: Vec<Identifier>,
    pub acts: Vec<Act>,
    pub provider_skew_ms: i64,
    pub caller_skew_ms: i64,
    /// Every event that a node numbered, with what it is.
    pub told: BTreeMap<EventId, Told>,
    /// The acts whose items edges hold, by edge and item.
    pub items: BTreeMap<(usize, u64), BTreeSet<usize>>,
    /// What was acknowledged REPLICATED, and when: by `now`, or that it may be missed after a disk went back.
    pub replicated: BTreeMap<EventId, u64>,
    pub replicated_upto: BTreeMap<OriginId, u64>,
    /// How far the judge has read each origin.
    pub known: BTreeMap<OriginId, u64>,
    pub excused: BTreeSet<EventId>,
    pub tally: Tally,
    /// What happened, in words, the last of it.
    pub log: Vec<String>,
    /// A running hash of all that happened, so that two runs of a seed can be compared.
    pub trace: u64,
    _dir: TempDir,
}

/// A place for files that need not last.
fn temp_dir() -> TempDir {
    // In memory where there is such a place: what is synced in vain costs time.
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a directory for temporary files")
}

impl World {
    pub fn new(seed: u64, roles: &[Role], clocks: Clocks) -> Self {
        let mut rng = Rng::new(seed);
        let anchors = roles.iter().filter(|role| **role == Role::Anchor).count();
        let dir = temp_dir();
        let skew = |rng: &mut Rng| match clocks {
            Clocks::WithinMargin => match rng.below(3) {
                0 => 0,
                1 => rng.below(MARGIN_MS as u64) as i64,
                _ => rng.below(MARGIN_MS as u64 / 3) as i64,
            },
            Clocks::Wild => rng.below(6 * 3_600_000) as i64 - 3 * 3_600_000,
        };
        let mut nodes = Vec::new();
        for (number, role) in roles.iter().enumerate() {
            nodes.push(Node {
                role: *role,
                peers: (0..roles.len())
                    .filter(|peer| *peer != number && roles[*peer] == Role::Anchor)
                    .collect(),
                disk: SimDisk::new(rng.next()),
                view: MemoryDisk::default(),
                view_dir: dir.path().join(format!("{number}")).join("view"),
                boot: 0,
                clock: Arc::new(ManualClock::at(Timestamp(EPOCH_MS))),
                skew_ms: skew(&mut rng),
                process: None,
                epoch: 0,
                backups: Vec::new(),
                went_back: None,
                took: BTreeSet::new(),
            });
        }
        let (provider_skew_ms, caller_skew_ms) = match clocks {
            Clocks::WithinMargin => (skew(&mut rng), skew(&mut rng)),
            // Callers and providers whose clocks are ahead are refused, which proves little.
            Clocks::Wild => (skew(&mut rng).min(0), skew(&mut rng).min(0)),
        };
        let mut world = Self {
            seed,
            rng,
            hand: Hand::new(),
            now: 1_000,
            leapt_ms: 0,
            stirred: 0,
            clocks,
            nodes,
            anchors,
            wires: BTreeMap::new(),
            links: 0,
            cut: BTreeSet::new(),
            loss: 0,
            delay_ms: 5,
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            number: 0,
            reports: BTreeSet::new(),
            calls: 0,
            waiting: Vec::new(),
            ended_calls: BTreeSet::new(),
            number_reports: 0,
            persons: vec![identifier(0)],
            acts: Vec::new(),
            provider_skew_ms,
            caller_skew_ms,
            told: BTreeMap::new(),
            items: BTreeMap::new(),
            replicated: BTreeMap::new(),
            replicated_upto: BTreeMap::new(),
            known: BTreeMap::new(),
            excused: BTreeSet::new(),
            tally: Tally::default(),
            log: Vec::new(),
            trace: seed,
            _dir: dir,
        };
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        world
    }

    /// The true time.
    pub fn true_ms(&self) -> i64 {
        self.now as i64 + self.leapt_ms
    }

    /// Notes what happened, for a person who looks into a failure.
    pub fn note(&mut self, what: String) {
        for byte in what.bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.log.push(format!("{} ({} true): {what}", self.now, self.true_ms()));
    }

    pub fn at(&mut self, at: u64, due: Due) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number)));
        self.due.insert(self.number, due);
    }

    /// Lets `span_ms` of true time pass, with all that is due in it.
    pub fn pass(&mut self, span_ms: i64) {
        let until = self.true_ms() + span_ms;
        loop {
            let next_report = self.reports.first().map(|(at, _, _)| *at).filter(|at| *at <= until);
            let target = next_report.unwrap_or(until);
            self.pass_to(target);
            match next_report {
                Some(_) => {
                    if let Some((_, _, attempt)) = self.reports.pop_first() {
                        self.stirred = self.now;
                        self.report(&attempt);
                    }
                }
                None => return,
            }
        }
    }

    /// Runs to a true time before which nobody reports anything.
    fn pass_to(&mut self, target_ms: i64) {
        while self.true_ms() < target_ms {
            let left = target_ms - self.true_ms();
            if left <= LEAP_FROM_MS {
                self.run(self.now + left as u64);
            } else if self.now >= self.stirred + REST_MS || self.is_calm() {
                // A second of ordinary running before what comes next.
                self.leapt_ms += left - 1_000;
                self.tally.leaps += 1;
            } else {
                self.run(self.now + LOOK_EVERY_MS);
            }
        }
    }

    /// Whether all are up, whole and fresh, know the same, and owe each other nothing.
    pub fn is_calm(&mut self) -> bool {
        (0..self.nodes.len()).for_each(|node| self.publish(node));
        if !self.cut.is_empty() || !self.waiting.is_empty() || self.now < self.stirred + LOOK_EVERY_MS {
            return false;
        }
        let mut known = None;
        self.nodes.iter().all(|one| {
            let Some(process) = one.process.as_ref().filter(|process| process.talks) else { return false };
            let engine = &process.engine;
            let mut heads = engine.heads();
            heads.sort_unstable_by_key(|(origin, _)| *origin);
            let owes =
                !process.storing.is_empty() || engine.edge().is_some_and(|edge| edge.waiting().items > 0);
            let knows = !engine.is_stale() && !engine.replica().is_catching_up();
            !owes && knows && *known.get_or_insert_with(|| heads.clone()) == heads
        })
    }

    /// Waits until all is calm, but not longer than `within_ms`.
    pub fn settle(&mut self, within_ms: u64) {
        self.stirred = self.now;
        let until = self.now + within_ms;
        while self.now < until && !self.is_calm() {
            self.run((self.now + LOOK_EVERY_MS).min(until));
        }
    }

    /// Lets the clocks that only move on run to `until`.
    pub fn run(&mut self, until: u64) {
        while let Some(Reverse((at, number))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = self.now.max(at);
            if let Some(due) = self.due.remove(&number) {
                self.step(due);
            }
        }
        self.now = self.now.max(until);
    }

    fn step(&mut self, due: Due) {
        self.tally.steps += 1;
        let (node, epoch) = match &due {
            Due::Tick { node, epoch }
            | Due::Disk { node, epoch }
            | Due::Read { node, epoch, .. }
            | Due::Again { node, epoch, .. }
            | Due::Answered { node, epoch, .. } => (*node, Some(*epoch)),
            Due::Come { node, .. } | Due::Asked { to: node, .. } => (*node, None),
        };
        if epoch.is_some_and(|epoch| epoch != self.nodes[node].epoch) || self.nodes[node].process.is_none() {
            return;
        }
        self.set_clock(node);
        match due {
            Due::Tick { node, epoch } => {
                self.tick(node);
                self.at(self.now + TICK_MS, Due::Tick { node, epoch });
            }
            Due::Come { node, incoming } => self.come(node, incoming),
            Due::Disk { node, .. } => self.disk_done(node),
            Due::Read { node, ticket, origin, from, bytes_max, records_max, .. } => {
                self.read(node, ticket, origin, from, bytes_max, records_max);
            }
            Due::Asked { call, from, epoch, to, ask } => self.asked(call, from, epoch, to, ask),
            Due::Answered { call, node, from, answer, .. } => self.answered(call, node, from, answer),
            Due::Again { node, item, .. } => self.again(node, item),
        }
        self.look_after(node);
    }

    /// The power may have gone while something was written: then the process is no more.
    pub fn look_after(&mut self, node: usize) {
        if self.nodes[node].process.is_some() && self.nodes[node].disk.power_is_off() {
            self.tally.torn += 1;
            self.power_cut(node);
        }
    }

    pub fn set_clock(&self, node: usize) -> crate::replication::Now {
        self.nodes[node].set_clock(self.now, self.true_ms())
    }
}
