//! What an edge does besides talking: it takes a snapshot, and carries what it took in to anchors, as `peers::submit` does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use super::call::Ask;
use super::node::{Node, Offer};
use super::world::{Due, World};
use crate::engine::ranges::RANGES;
use crate::engine::snapshot::{Extent, Taking as _};
use crate::outbox::Item;
use crate::pb::replication::v1 as pb;
use crate::peers::submit::{self, AGAIN_AFTER, Answered, Offered};
use crate::peers::{anchors, snapshot};
use crate::replication::Machine;
use crate::replication::frame::Role;

/// How often anchors are asked for a snapshot.
pub const SNAPSHOT_EVERY_MS: u64 = 500;
/// How long one may take.
pub const SNAPSHOT_WITHIN_MS: u64 = 2_000;
/// How long an anchor waits for a majority.
const REPLICATED_WITHIN: Duration = Duration::from_millis(250);
/// While no anchor answers: the first wait, and the longest.
const QUIET_MS: u64 = 100;
const QUIET_MS_MAX: u64 = 2_000;

impl World {
    pub fn ask_snapshot(&mut self, node: usize) {
        let peers = self.nodes[node].peers.clone();
        let to = peers[self.rng.below(peers.len() as u64) as usize];
        self.ask(node, to, Ask::Snapshot(Extent::All), SNAPSHOT_WITHIN_MS);
    }

    pub fn take_snapshot(&mut self, node: usize, from: usize, parts: Option<Vec<pb::SnapshotResponse>>) {
        let Some(parts) = parts else { return };
        let Some(process) = &self.nodes[node].process else { return };
        if process.talks {
            return;
        }
        let engine = process.engine.clone();
        let taken = engine.load_snapshot().and_then(|mut loading| {
            for part in parts.into_iter().filter_map(|part| part.part) {
                if let Some(part) = snapshot::decode(part) {
                    loading.take(part)?;
                }
            }
            loading.finish()
        });
        let heads =
            taken.unwrap_or_else(|error| self.fail(&format!("node {node} takes no snapshot: {error}")));
        self.tally.snapshots += 1;
        self.note(format!("node {node} has a snapshot from node {from}"));
        // Another anchor confirms it, where one can be asked.
        let others: Vec<usize> =
            self.nodes[node].peers.iter().copied().filter(|peer| *peer != from).collect();
        for range in self.ranges() {
            for other in &others {
                if !self.cut.contains(&(node, *other)) && !self.cut.contains(&(*other, node)) {
                    self.judge_range(node, *other, range);
                }
            }
        }
        (0..RANGES).for_each(|range| engine.believe_range(range));
        let now = self.set_clock(node);
        let settings = self.settings(node, &engine);
        if let Some(process) = &mut self.nodes[node].process {
            *process.machine.lock() =
                Machine::new(settings, heads.into_iter().collect()).with_named(engine.named());
            process.talks = true;
            process.knowing = Node::knowing(now);
        }
        if engine.lacks_usage() {
            self.input(node, crate::replication::Input::LacksUsage);
        }
        self.stirred = self.now;
    }

    /// Offers what waits to anchors.
    pub fn carry(&mut self, node: usize) {
        loop {
            let Some(process) = &self.nodes[node].process else { return };
            let Some(edge) = process.engine.edge() else { return };
            let carrying = &process.carrying;
            if carrying.quiet_until > self.now {
                return;
            }
            let Some(item) = self.hand.at_once(edge.next_unsent()) else { return };
            let mut to: VecDeque<usize> = self.nodes[node].peers.iter().copied().collect();
            if let Some(preferred) = carrying.preferred {
                to.make_contiguous().sort_by_key(|peer| *peer != preferred);
            }
            let number = item.number;
            if let Some(process) = &mut self.nodes[node].process {
                process.carrying.under_way.insert(number, Offer { item, to, answered: false });
            }
            self.offer_next(node, number);
        }
    }

    fn offer_next(&mut self, node: usize, number: u64) {
        let now = self.set_clock(node);
        let epoch = self.nodes[node].epoch;
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some(offer) = process.carrying.under_way.get_mut(&number) else { return };
        let item = Arc::clone(&offer.item);
        let answered = offer.answered;
        if let Some(to) = offer.to.pop_front() {
            let member = anchors::membership(&crate::replication::Settings::new(
                crate::replication::frame::Instance([0; 16]),
                crate::replication::frame::Run([0; 16]),
            ));
            let (request, within) = submit::request(&process.engine, &member, &item, REPLICATED_WITHIN);
            self.ask(node, to, Ask::Number { item: number, request }, within.as_millis() as u64);
            return;
        }
        // All were asked.
        process.carrying.under_way.remove(&number);
        if answered {
            self.at(now.mono.0 + AGAIN_AFTER.as_millis() as u64, Due::Again { node, epoch, item });
        } else {
            let carrying = &mut process.carrying;
            if carrying.quiet_until <= now.mono.0 {
                carrying.quiet_ms = (carrying.quiet_ms * 2).clamp(QUIET_MS, QUIET_MS_MAX);
                carrying.quiet_until = now.mono.0 + carrying.quiet_ms;
            }
            process.engine.not_offered(item);
        }
    }

    pub fn number_answered(
        &mut self,
        node: usize,
        from: usize,
        number: u64,
        answer: Result<pb::SubmitResponse, Status>,
    ) {
        let now = self.now;
        let epoch = self.nodes[node].epoch;
        let Some(process) = &mut self.nodes[node].process else { return };
        let Some(offer) = process.carrying.under_way.get_mut(&number) else { return };
        let item = Arc::clone(&offer.item);
        let offered = match submit::answered(&process.engine, &item, answer) {
            Answered::Taken(offered) => {
                process.carrying.preferred = Some(from);
                offered
            }
            Answered::Refused(offered) => offered,
            Answered::NotNow => {
                offer.answered = true;
                return self.offer_next(node, number);
            }
            Answered::Unheard => return self.offer_next(node, number),
        };
        process.carrying.under_way.remove(&number);
        (process.carrying.quiet_until, process.carrying.quiet_ms) = (0, 0);
        match offered {
            Offered::Done => {
                self.tally.items_done += 1;
                let engine = process.engine.clone();
                while engine.work() {}
            }
            Offered::Again | Offered::Nobody => {
                self.at(now + AGAIN_AFTER.as_millis() as u64, Due::Again { node, epoch, item });
            }
        }
        self.judge_node(node);
    }

    pub fn again(&mut self, node: usize, item: Arc<Item>) {
        let Some(process) = &self.nodes[node].process else { return };
        process.engine.unsent(item);
        self.carry(node);
    }

    pub fn is_edge(&self, node: usize) -> bool {
        self.nodes[node].role == Role::Edge
    }
}
