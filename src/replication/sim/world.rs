//! The cluster: nodes, links, what is under way, and the time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use super::carrier::MemoryCarrier;
use super::node::{Dial, Node, Process};
use super::rng::Rng;
use super::store::MemoryStore;
use crate::policy::ids::OriginId;
use crate::replication::carrier::{Carrier, Incoming};
use crate::replication::frame::{Instance, RecordBlob, Role, Run};
use crate::replication::settings::Settings;
use crate::replication::{CloseReason, Effect, Input, Link, Machine, Note, StoreOutcome};

/// How often a node's machine is ticked.
pub const TICK_MS: u64 = 200;
/// How long after a failed dial the next is tried.
pub const REDIAL_MS: u64 = 500;
pub const WINDOW_BYTES: usize = 128 * 1024;
pub const WINDOW_FRAMES: usize = 8;

/// Something that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    Tick {
        node: usize,
        epoch: u64,
    },
    /// It no longer stands still.
    Thaw {
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
    Apart {
        node: usize,
        epoch: u64,
        ticket: u64,
        kept: bool,
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
}

/// A connection.
pub struct Wire {
    pub dialler: usize,
    pub dialled: usize,
    /// When the last frame of each direction arrives: dialler's first.
    pub last: [u64; 2],
    /// A frame of that direction was lost, so none may follow.
    pub broken: [bool; 2],
}

/// What a run is to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    Mesh,
    Star,
    Line,
}

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub now: u64,
    pub nodes: Vec<Node>,
    pub wires: BTreeMap<Link, Wire>,
    /// Frames from the first to the second vanish.
    pub cut: BTreeSet<(usize, usize)>,
    pub anchors: usize,
    pub delay_ms: u64,
    pub max_staleness_ms: u64,
    /// A fork was made that its longer side cannot know of before the shorter one doubts it.
    pub fork_is_news: bool,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    due: BTreeMap<u64, Due>,
    number: u64,
    pub links: u64,
    /// Own events that were said to be on a majority's disks: up to where, and how many disks might excuse a loss.
    pub promised: BTreeMap<OriginId, u64>,
    pub notes: Vec<(u64, usize, Note)>,
    pub closes: Vec<(u64, usize, CloseReason)>,
    pub steps: u64,
    pub frames: u64,
    pub stored: u64,
    /// Hellos after which processes that are gone took closed origins as told, and after which they asked for each of them.
    closed: (u64, u64),
}

impl World {
    pub fn new(seed: u64, roles: &[Role], topology: Topology) -> Self {
        let mut rng = Rng::new(seed);
        let anchors = roles.iter().filter(|role| **role == Role::Anchor).count();
        let mut nodes = Vec::new();
        for (number, role) in roles.iter().enumerate() {
            let anchor_peers =
                (0..roles.len()).filter(|peer| *peer != number && roles[*peer] == Role::Anchor);
            let peers = match (topology, role) {
                (Topology::Mesh, _) | (Topology::Star, Role::Edge) => anchor_peers.collect(),
                (Topology::Star, Role::Anchor) => anchor_peers.filter(|peer| *peer == 0).collect(),
                (Topology::Line, _) => anchor_peers.filter(|peer| peer + 1 == number).collect(),
            };
            nodes.push(Node {
                role: *role,
                instance: Instance(rng.bytes16()),
                peers,
                disk: MemoryStore::default(),
                backups: Vec::new(),
                process: None,
                epoch: 0,
                mono_offset: rng.below(1_000_000),
                wall_offset: rng.below(2_000) as i64 - 1_000,
                frozen_until: 0,
                waiting: VecDeque::new(),
                slowness: 0,
                went_back: 0,
                history: BTreeMap::new(),
                apart: BTreeMap::new(),
                usage: Vec::new(),
                usage_heard: BTreeSet::new(),
                usage_told: 0,
                tellings: BTreeMap::new(),
            });
        }
        let mut world = Self {
            seed,
            rng,
            now: 1_000,
            nodes,
            wires: BTreeMap::new(),
            cut: BTreeSet::new(),
            anchors,
            delay_ms: 5,
            max_staleness_ms: 5_000,
            fork_is_news: false,
            queue: BinaryHeap::new(),
            due: BTreeMap::new(),
            number: 0,
            links: 0,
            promised: BTreeMap::new(),
            notes: Vec::new(),
            closes: Vec::new(),
            steps: 0,
            frames: 0,
            stored: 0,
            closed: (0, 0),
        };
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        world
    }

    pub fn settings(&mut self, node: usize) -> Settings {
        let run = Run(self.rng.bytes16());
        let mut settings = Settings::new(self.nodes[node].instance, run);
        settings.role = self.nodes[node].role;
        settings.anchors = self.anchors;
        settings.anchor_name = format!("anchor-{node}");
        settings.window_bytes = WINDOW_BYTES;
        settings.window_frames = WINDOW_FRAMES;
        settings
    }

    pub fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        let settings = self.settings(node);
        let one = &mut self.nodes[node];
        one.epoch += 1;
        one.apart.clear();
        if one.role == Role::Edge {
            // An edge keeps no history.
            one.replace_disk(MemoryStore::default(), self.now);
        }
        one.process = Some(Process {
            machine: Machine::new(settings, one.disk.heads()).with_named(one.disk.named()),
            carrier: MemoryCarrier::default(),
            storing: VecDeque::new(),
            own: Vec::new(),
            dials: one.peers.iter().map(|peer| (*peer, Dial::default())).collect(),
        });
        let epoch = one.epoch;
        let first = self.now + self.rng.below(TICK_MS);
        self.at(first, Due::Tick { node, epoch });
    }

    /// The process dies; what was not on disk is lost.
    pub fn crash(&mut self, node: usize) {
        if let Some(process) = self.nodes[node].process.take() {
            let counters = process.machine.counters();
            self.closed.0 += counters.closed_equal;
            self.closed.1 += counters.closed_asked;
        }
        self.nodes[node].waiting.clear();
        self.nodes[node].epoch += 1;
        let links: Vec<Link> = self
            .wires
            .iter()
            .filter(|(_, wire)| wire.dialler == node || wire.dialled == node)
            .map(|(link, _)| *link)
            .collect();
        for link in links {
            self.break_link(link, Some(node));
        }
    }

    /// The connection is lost: each end learns of it by and by, the dead one never.
    pub fn break_link(&mut self, link: Link, dead: Option<usize>) {
        let Some(wire) = self.wires.remove(&link) else { return };
        for (direction, node) in [(1, wire.dialler), (0, wire.dialled)] {
            if Some(node) != dead {
                let from = if direction == 0 { wire.dialler } else { wire.dialled };
                if self.cut.contains(&(from, node)) {
                    continue;
                }
                let at = wire.last[direction].max(self.now) + 1 + self.rng.below(50);
                self.at(
                    at,
                    Due::Come { node, incoming: Incoming::Disconnected { link, why: "lost".to_owned() } },
                );
            }
        }
    }

    /// How often closed origins were taken as told by their hash, and how often each of them was asked for.
    pub fn closed(&self) -> (u64, u64) {
        let running = self.nodes.iter().filter_map(|one| Some(one.process.as_ref()?.machine.counters()));
        running.fold(self.closed, |(equal, asked), counters| {
            (equal + counters.closed_equal, asked + counters.closed_asked)
        })
    }

    pub fn at(&mut self, at: u64, due: Due) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number)));
        self.due.insert(self.number, due);
    }

    /// Lets the time run to `until`.
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

    /// Time passes in which nothing happens but what was due.
    pub fn skip(&mut self, span_ms: u64) {
        let due: Vec<Reverse<(u64, u64)>> = std::mem::take(&mut self.queue).into_vec();
        self.queue = due.into_iter().map(|Reverse((at, number))| Reverse((at + span_ms, number))).collect();
        for wire in self.wires.values_mut() {
            wire.last = wire.last.map(|at| at + span_ms);
        }
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                for (at, _, _) in &mut process.storing {
                    *at += span_ms;
                }
            }
        }
        self.now += span_ms;
    }

    fn step(&mut self, due: Due) {
        let (node, epoch) = match &due {
            Due::Tick { node, epoch }
            | Due::Thaw { node, epoch }
            | Due::Disk { node, epoch }
            | Due::Apart { node, epoch, .. }
            | Due::Read { node, epoch, .. } => (*node, Some(*epoch)),
            Due::Come { node, .. } => (*node, None),
        };
        if epoch.is_some_and(|epoch| epoch != self.nodes[node].epoch) || self.nodes[node].process.is_none() {
            return;
        }
        if self.nodes[node].frozen_until > self.now {
            let thaws = matches!(due, Due::Thaw { .. });
            if thaws || self.nodes[node].waiting.is_empty() {
                let epoch = self.nodes[node].epoch;
                self.at(self.nodes[node].frozen_until, Due::Thaw { node, epoch });
            }
            if !thaws {
                self.nodes[node].waiting.push_back(due);
            }
            return;
        }
        // What came while it stood still comes first: a link keeps its order.
        while let Some(earlier) = self.nodes[node].waiting.pop_front() {
            self.take(earlier);
        }
        self.take(due);
    }

    fn take(&mut self, due: Due) {
        self.steps += 1;
        match due {
            Due::Thaw { .. } => {}
            Due::Tick { node, epoch } => {
                self.dial(node);
                self.input(node, Input::Tick);
                self.judge_freshness(node);
                self.judge_bounds(node);
                self.at(self.now + TICK_MS, Due::Tick { node, epoch });
            }
            Due::Come { node, incoming } => {
                if let Some(process) = &mut self.nodes[node].process {
                    process.carrier.come.push_back(incoming);
                }
                self.take_in(node);
            }
            Due::Disk { node, .. } => self.disk_done(node),
            Due::Apart { node, ticket, kept, .. } => self.input(node, Input::KeptApart { ticket, kept }),
            Due::Read { node, ticket, origin, from, bytes_max, records_max, .. } => {
                let records = self.nodes[node].disk.read(origin, from, bytes_max, records_max);
                self.input(node, Input::Read { ticket, records });
            }
        }
    }

    fn take_in(&mut self, node: usize) {
        while let Some(incoming) =
            self.nodes[node].process.as_mut().and_then(|process| process.carrier.next())
        {
            let input = match incoming {
                Incoming::Connected { link, dialled } => Input::Connected { link, dialled },
                Incoming::Frame { link, frame, len: _, cursor: _ } => Input::Frame { link, frame },
                Incoming::Sent { link } => Input::Sent { link },
                Incoming::Disconnected { link, why } => {
                    if let Some(process) = &mut self.nodes[node].process {
                        for dial in process.dials.values_mut().filter(|dial| dial.link == Some(link)) {
                            *dial = Dial { link: None, not_before: self.now + REDIAL_MS };
                        }
                    }
                    Input::Disconnected { link, why }
                }
            };
            self.input(node, input);
        }
    }

    pub fn input(&mut self, node: usize, input: Input) {
        let one = &mut self.nodes[node];
        let now = one.now(self.now);
        let Some(process) = &mut one.process else { return };
        let effects = process.machine.handle(input, now);
        for effect in effects {
            self.effect(node, effect);
        }
        self.move_frames(node);
    }

    fn effect(&mut self, node: usize, effect: Effect) {
        let epoch = self.nodes[node].epoch;
        match effect {
            Effect::Send { link, frame } => {
                if let Some(process) = &mut self.nodes[node].process {
                    process.carrier.send(link, frame);
                }
            }
            Effect::Close { link, why } => {
                if let Some(process) = &mut self.nodes[node].process {
                    process.carrier.close(link);
                    for dial in process.dials.values_mut().filter(|dial| dial.link == Some(link)) {
                        let link = if let CloseReason::Duplicate { of } = &why { Some(*of) } else { None };
                        *dial = Dial { link, not_before: self.now + REDIAL_MS };
                    }
                }
                self.closes.push((self.now, node, why));
            }
            Effect::Store { ticket, events, .. } => {
                let latency = 1 + self.rng.below(8);
                if let Some(process) = &mut self.nodes[node].process {
                    let after = process.storing.back().map_or(0, |(at, _, _)| *at).max(self.now) + latency;
                    process.storing.push_back((after, ticket, events));
                    self.at(after, Due::Disk { node, epoch });
                }
            }
            Effect::Read { ticket, origin, from, bytes_max, records_max } => {
                let at = self.now + self.rng.below(3);
                self.at(at, Due::Read { node, epoch, ticket, origin, from, bytes_max, records_max });
            }
            Effect::KeepApart { ticket, events, .. } => {
                // Now and then it cannot be kept, and is asked for again.
                let kept = !self.rng.one_in(4);
                if kept {
                    let apart = self.nodes[node].apart.entry(events.origin).or_default();
                    apart.extend((events.first..).zip(events.records.iter().map(|record| record.hash)));
                }
                self.at(self.now + 2, Due::Apart { node, epoch, ticket, kept });
            }
            Effect::Replicated { origin, sequence } => self.promise(node, origin, sequence),
            Effect::TakeUsage { bytes } => {
                let one = &mut self.nodes[node];
                assert!(one.usage_heard.insert((epoch, bytes.to_vec())), "seed {}: taken twice", self.seed);
                one.usage.push(bytes.to_vec());
            }
            Effect::TakeUsagePart { link, bytes } => {
                self.nodes[node].usage.push(bytes.to_vec());
                self.input(node, Input::UsageTaken { link });
            }
            Effect::MakeUsage { link } => {
                let part = self.nodes[node].usage_part(link);
                self.input(node, Input::UsageMade { link, part });
            }
            Effect::UsageTold => self.nodes[node].usage_told += 1,
            Effect::Note(note) => self.notes.push((self.now, node, note)),
        }
    }

    fn disk_done(&mut self, node: usize) {
        let now = self.now;
        let one = &mut self.nodes[node];
        let Some(process) = &mut one.process else { return };
        let Some((_, ticket, events)) = process.storing.pop_front() else { return };
        let outcome = one.disk.relay(&events);
        let named = one.disk.previous_of(events.origin).filter(|_| events.first == 1);
        if let StoreOutcome::Stored { head } | StoreOutcome::Refused { head: Some(head), .. } = &outcome {
            one.note(events.origin, *head, now);
            self.stored += events.records.len() as u64;
        }
        if let Some((origin, head)) = named {
            self.input(node, Input::Named { origin, head });
        }
        self.input(node, Input::Stored { ticket, outcome });
    }

    /// A person's act at `node`: on disk, told to the machine, acknowledged.
    pub fn append(&mut self, node: usize, slot: usize, payload_len: usize) {
        let one = &self.nodes[node];
        if one.process.is_none() || one.frozen_until > self.now || one.role == Role::Edge {
            return;
        }
        let minted = OriginId(self.rng.bytes16());
        let with_blob = self.rng.one_in(3);
        let payload = vec![7; payload_len];
        let blob = if with_blob {
            RecordBlob::Present { salt: self.rng.bytes16(), bytes: vec![9; payload_len / 2] }
        } else {
            RecordBlob::None
        };
        let Some(process) = &mut self.nodes[node].process else { return };
        while process.own.len() <= slot {
            let mut origin = minted;
            origin.0[15] ^= process.own.len() as u8;
            process.own.push(origin);
        }
        let origin = process.own[slot];
        self.record(node, origin, &payload, blob);
    }

    /// The same, in an origin that is given, as no sound node would do.
    pub fn append_to(&mut self, node: usize, origin: OriginId, payload: &[u8]) {
        self.record(node, origin, payload, RecordBlob::None);
    }

    fn record(&mut self, node: usize, origin: OriginId, payload: &[u8], blob: RecordBlob) {
        let now = self.now;
        let one = &mut self.nodes[node];
        let head = one.disk.append(origin, payload, blob);
        one.note(origin, head, now);
        if let Some((origin, head)) = one.disk.previous_of(origin).filter(|_| head.sequence == 1) {
            self.input(node, Input::Named { origin, head });
        }
        self.input(node, Input::OwnAppended { origin, head });
    }
}
