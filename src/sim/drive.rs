//! A node's life, and what joins its machine and its engine: `peers::drive` without tasks.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;

use super::edge::SNAPSHOT_EVERY_MS;
use super::net::REDIAL_MS;
use super::node::{Carrying, Dial, Node, Process};
use super::world::{Due, TICK_MS, World};
use crate::engine::Engine;
use crate::peers::hands::{self, Kept, Work};
use crate::policy::ids::{EventId, OriginId};
use crate::replication::carrier::{Carrier as _, Incoming};
use crate::replication::frame::{Instance, Role, Run, UsagePart};
use crate::replication::sim::carrier::MemoryCarrier;
use crate::replication::vector::Heads;
use crate::replication::{CloseReason, Effect, Input, Machine, Note, Settings};

/// How often a node is asked what may be sent although nothing has happened there: it may have become fresh, or stale.
const JUDGE_EVERY_MS: u64 = 2_000;
/// How often a range of the view is compared with an anchor's.
const COMPARE_EVERY_MS: u64 = 5_000;

impl World {
    pub fn settings(&mut self, node: usize, engine: &Engine) -> Settings {
        let run = Run(self.rng.bytes16());
        let mut settings = Settings::new(Instance(engine.identity_of_store()), run);
        settings.role = self.nodes[node].role;
        settings.anchors = self.anchors;
        settings.anchor_name =
            if self.nodes[node].role == Role::Anchor { format!("anchor-{node}") } else { String::new() };
        settings.window_frames = 8;
        settings.heartbeat_ms = 1_500;
        settings
    }

    /// The process starts on what its disk has.
    pub fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        let now = self.set_clock(node);
        let engine = match self.nodes[node].open() {
            Ok(engine) => engine,
            Err(error) => {
                // Only a disk whose power goes while it starts keeps a node from starting.
                if !self.nodes[node].disk.power_is_off() {
                    self.fail(&format!("node {node} does not start: {error}"));
                }
                self.nodes[node].disk.restart_after_power_cut();
                self.nodes[node].boot += 1;
                self.tally.torn += 1;
                return;
            }
        };
        let settings = self.settings(node, &engine);
        let held: Heads = engine.heads().into_iter().collect();
        let machine = Arc::new(Mutex::new(Machine::new(settings, held).with_named(engine.named())));
        let older = Arc::downgrade(&machine);
        engine.replica().ask_of_older(move |event| {
            older
                .upgrade()
                .is_some_and(|machine| machine.lock().replicated_up_to(event.origin) >= event.sequence)
        });
        let one = &mut self.nodes[node];
        one.epoch += 1;
        let epoch = one.epoch;
        let lacks_usage = engine.lacks_usage();
        one.process = Some(Process {
            engine,
            machine,
            talks: one.role == Role::Anchor,
            knowing: Node::knowing(now),
            kept: Kept::default(),
            carrier: MemoryCarrier::default(),
            storing: VecDeque::new(),
            dials: one.peers.iter().map(|peer| (*peer, Dial::default())).collect(),
            carrying: Carrying::default(),
            ask_snapshot_at: self.now,
            borrow_at: self.now,
            compare_at: self.now + COMPARE_EVERY_MS,
            compare_next: 0,
            judge_at: self.now,
            usage_parts: Default::default(),
        });
        self.stirred = self.now;
        self.note(format!("node {node} starts"));
        if lacks_usage {
            self.input(node, Input::LacksUsage);
        }
        let first = self.now + self.rng.below(TICK_MS);
        self.at(first, Due::Tick { node, epoch });
    }

    /// The process is no more; its links end.
    fn end_process(&mut self, node: usize) {
        self.nodes[node].process = None;
        self.nodes[node].epoch += 1;
        self.stirred = self.now;
        self.break_links_of(node);
    }

    /// SIGKILL: what was written is there, what the view's store had not flushed perhaps.
    pub fn kill(&mut self, node: usize) {
        if self.nodes[node].process.is_none() {
            return;
        }
        self.note(format!("node {node} is killed"));
        self.end_process(node);
        let keep = self.rng.below(self.nodes[node].view.unflushed() as u64 + 1) as usize;
        self.nodes[node].view.crash(keep);
        self.nodes[node].disk.restart_after_kill();
    }

    /// The machine loses power: what was not synced is there in part.
    pub fn power_cut(&mut self, node: usize) {
        self.note(format!("node {node} loses power"));
        self.end_process(node);
        let keep = self.rng.below(self.nodes[node].view.unflushed() as u64 + 1) as usize;
        self.nodes[node].view.crash(keep);
        self.nodes[node].disk.restart_after_power_cut();
        self.nodes[node].boot += 1;
    }

    /// It stops in order.
    pub fn stop(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        while process.engine.work() {}
        // A disk that loses power meanwhile says so.
        let closed = process.engine.close();
        if closed.is_err() && !self.nodes[node].disk.power_is_off() {
            self.fail(&format!("node {node} does not stop: {closed:?}"));
        }
        self.note(format!("node {node} stops"));
        self.end_process(node);
        if self.nodes[node].disk.power_is_off() {
            self.nodes[node].disk.restart_after_power_cut();
            self.nodes[node].boot += 1;
        } else {
            self.nodes[node].disk.restart_after_kill();
        }
    }

    pub fn tick(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        if process.talks {
            self.dial(node);
            self.input(node, Input::Tick);
            self.compare(node);
            self.look_behind(node);
        } else if process.ask_snapshot_at <= self.now {
            if let Some(process) = &mut self.nodes[node].process {
                process.ask_snapshot_at = self.now + SNAPSHOT_EVERY_MS;
            }
            self.ask_snapshot(node);
        }
        self.carry(node);
        self.look_at_waiting();
        let now = self.now;
        if let Some(process) = &mut self.nodes[node].process
            && process.judge_at <= now
        {
            process.judge_at = now + JUDGE_EVERY_MS;
            self.judge_node(node);
        }
    }

    /// Tells the engine what follows for checks; before each of them, as whoever drives a node does after each step.
    pub fn publish(&mut self, node: usize) {
        let now = self.set_clock(node);
        let Some(process) = &mut self.nodes[node].process else { return };
        let machine = Arc::clone(&process.machine);
        let machine = machine.lock();
        process.knowing.publish(&machine, process.engine.replica(), now.mono);
    }

    pub fn come(&mut self, node: usize, incoming: Incoming) {
        let input = match incoming {
            Incoming::Connected { link, dialled } => Input::Connected { link, dialled },
            Incoming::Frame { link, frame, len: _, cursor: _ } => Input::Frame { link, frame },
            Incoming::Sent { link } => Input::Sent { link },
            Incoming::Disconnected { link, why } => {
                let redial = self.now + REDIAL_MS;
                if let Some(process) = &mut self.nodes[node].process {
                    for dial in process.dials.values_mut().filter(|dial| dial.link == Some(link)) {
                        *dial = Dial { link: None, not_before: redial };
                    }
                }
                Input::Disconnected { link, why }
            }
        };
        self.input(node, input);
    }

    /// Own events go first: a ping that came after an event's caller was answered must find the event told.
    pub fn hear_own(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let mut own = process.engine.replica().take_own();
        own.sort_unstable_by_key(|(origin, _)| *origin);
        if !own.is_empty() {
            self.learn(node);
        }
        for (origin, head) in own {
            // Told with each of them: to hear it again changes nothing.
            let named = self.nodes[node].process.as_ref();
            if let Some(named) = named.and_then(|process| hands::named_by(&process.engine, origin)) {
                self.handle(node, named);
            }
            self.handle(node, Input::OwnAppended { origin, head });
        }
    }

    pub fn input(&mut self, node: usize, input: Input) {
        self.hear_own(node);
        self.handle(node, input);
        self.hear_own(node);
    }

    fn handle(&mut self, node: usize, input: Input) {
        let now = self.set_clock(node);
        let Some(process) = &self.nodes[node].process else { return };
        let effects = process.machine.lock().handle(input, now);
        for effect in effects {
            self.effect(node, effect);
        }
        self.move_frames(node);
    }

    fn effect(&mut self, node: usize, effect: Effect) {
        let (epoch, now) = (self.nodes[node].epoch, self.now);
        let (latency, read_latency) = (1 + self.rng.below(8), self.rng.below(3));
        let Some(process) = &mut self.nodes[node].process else { return };
        match effect {
            Effect::Send { link, frame } => process.carrier.send(link, frame),
            Effect::Close { link, why } => {
                process.carrier.close(link);
                for dial in process.dials.values_mut().filter(|dial| dial.link == Some(link)) {
                    let link = if let CloseReason::Duplicate { of } = &why { Some(*of) } else { None };
                    *dial = Dial { link, not_before: now + REDIAL_MS };
                }
                if !matches!(why, CloseReason::Duplicate { .. } | CloseReason::RefusedByPeer { .. }) {
                    self.note(format!("node {node} closes a link: {why}"));
                }
            }
            Effect::Store { ticket, link: _, events } => {
                let work = Work::Store(hands::store(&process.engine, ticket, events));
                self.queue_for_disk(node, epoch, work, latency);
            }
            Effect::KeepApart { ticket, link: _, events } => {
                self.queue_for_disk(node, epoch, Work::KeepApart { ticket, events }, latency);
            }
            Effect::Read { ticket, origin, from, bytes_max, records_max } => {
                let read = Due::Read { node, epoch, ticket, origin, from, bytes_max, records_max };
                self.at(now + read_latency, read);
            }
            Effect::Replicated { origin, sequence } => {
                process.engine.replica().set_replicated(origin, sequence);
                self.judge_replicated(node, EventId { origin, sequence });
            }
            Effect::TakeUsage { bytes } => {
                let merged = process.engine.usage_merge(&bytes);
                if let Err(fault) = merged {
                    self.fail(&format!("node {node} cannot read usage: {fault}"));
                }
            }
            Effect::TakeUsagePart { link, bytes } => {
                let merged = process.engine.usage_merge(&bytes);
                if let Err(fault) = merged {
                    self.fail(&format!("node {node} cannot read usage: {fault}"));
                }
                self.input(node, Input::UsageTaken { link });
            }
            Effect::MakeUsage { link } => {
                let part = process.next_usage_part(link);
                self.input(node, Input::UsageMade { link, part });
            }
            Effect::UsageTold => process.engine.usage_restored(),
            Effect::Note(note) => {
                if !matches!(note, Note::Joined { .. }) {
                    self.note(format!("node {node} notes {note:?}"));
                }
            }
        }
    }

    fn queue_for_disk(&mut self, node: usize, epoch: u64, work: Work, latency: u64) {
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        let after = process.storing.back().map_or(0, |(at, _)| *at).max(now) + latency;
        process.storing.push_back((after, work));
        self.at(after, Due::Disk { node, epoch });
    }

    pub fn disk_done(&mut self, node: usize) {
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some((_, work)) = process.storing.pop_front() else { return };
        let engine = process.engine.clone();
        let mut kept = std::mem::take(&mut process.kept);
        let answers = self.hand.finish(&engine, hands::answer(&engine, work, &mut kept));
        if let Some(process) = &mut self.nodes[node].process {
            process.kept = kept;
        }
        if !self.nodes[node].disk.power_is_off() {
            for answer in answers {
                self.input(node, answer);
            }
            self.judge_node(node);
        }
    }

    pub fn read(
        &mut self,
        node: usize,
        ticket: u64,
        origin: OriginId,
        from: u64,
        bytes_max: usize,
        records_max: usize,
    ) {
        let Some(process) = &self.nodes[node].process else { return };
        let records = hands::read(&process.engine, origin, from, bytes_max, records_max);
        self.input(node, Input::Read { ticket, records });
    }

    /// Compares a range in which somebody is with an anchor's.
    fn compare(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.compare_at > now || process.engine.replica().is_catching_up() {
            return;
        }
        process.compare_at = now + COMPARE_EVERY_MS;
        process.compare_next += 1;
        let turn = process.compare_next;
        let ranges = self.ranges();
        let range = ranges[turn % ranges.len()];
        let peers = self.nodes[node].peers.clone();
        if peers.is_empty() {
            return;
        }
        let with = peers[turn % peers.len()];
        if !self.cut.contains(&(node, with)) && !self.cut.contains(&(with, node)) {
            self.judge_range(node, with, range);
        }
    }
}

impl Process {
    fn next_usage_part(&mut self, link: crate::replication::Link) -> UsagePart {
        let engine = &self.engine;
        let parts = self.usage_parts.entry(link).or_insert_with(|| {
            let mut parts = VecDeque::new();
            // What cannot be read is not told.
            let _ = engine.usage_dump(&mut |chunk| {
                parts.push_back(chunk.to_vec());
                ControlFlow::Continue(())
            });
            parts
        });
        match parts.pop_front() {
            Some(chunk) => UsagePart::Chunk(chunk.into()),
            None => {
                self.usage_parts.remove(&link);
                UsagePart::End { complete: !self.engine.lacks_usage() }
            }
        }
    }
}
