//! What an anchor does that is far behind, as `peers::behind` does.

use std::sync::Arc;

use parking_lot::Mutex;

use super::call::Ask;
use super::edge::{SNAPSHOT_EVERY_MS, SNAPSHOT_WITHIN_MS};
use super::world::World;
use crate::engine::borrow::{Heads, raise};
use crate::engine::snapshot::{Extent, Taking as _};
use crate::ledger::Head;
use crate::pb::replication::v1 as pb;
use crate::peers::snapshot;
use crate::policy::event::{Change, ConsentEvent};
use crate::policy::ids::{EventId, OriginId};
use crate::replication::Machine;
use crate::replication::frame::Role;

/// With more events missing than these, a node is far behind.
const FAR_EVENTS: u64 = 3;

fn lacks(machine: &Mutex<Machine>, beside: &Heads) -> u64 {
    machine.lock().lacks_beyond(|origin| beside.get(&origin).map_or(0, |head| head.sequence))
}

impl World {
    pub fn look_behind(&mut self, node: usize) {
        let now = self.now;
        if self.nodes[node].role == Role::Edge || self.nodes[node].peers.is_empty() {
            return;
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        let (engine, machine) = (process.engine.clone(), Arc::clone(&process.machine));
        if engine.view().borrows() {
            // The disk may be without power.
            let _ = engine.return_opt_outs();
        }
        let missing = lacks(&machine, &Heads::new());
        engine.replica().set_far_behind(missing > FAR_EVENTS);
        if lacks(&machine, &engine.borrowed_up_to()) <= FAR_EVENTS || process.borrow_at > now {
            return;
        }
        process.borrow_at = now + SNAPSHOT_EVERY_MS;
        let peers = &self.nodes[node].peers;
        let to = peers[self.rng.below(peers.len() as u64) as usize];
        self.ask(node, to, Ask::Snapshot(Extent::Suppressing), SNAPSHOT_WITHIN_MS);
    }

    pub fn borrow(&mut self, node: usize, from: usize, parts: Option<Vec<pb::SnapshotResponse>>) {
        let Some(parts) = parts else { return };
        let Some(process) = &self.nodes[node].process else { return };
        let (engine, machine) = (process.engine.clone(), Arc::clone(&process.machine));
        let known = engine.borrowed_up_to();
        let wanted = move |heads: &Heads| {
            let mut with = known.clone();
            raise(&mut with, heads);
            lacks(&machine, &with) < lacks(&machine, &known)
        };
        let mut borrowing = engine.borrow_opt_outs(wanted);
        for part in parts.into_iter().filter_map(|part| snapshot::decode(part.part?)) {
            if let Err(error) = borrowing.take(part) {
                self.fail(&format!("node {node} cannot read what node {from} lends: {error}"));
            }
            if !borrowing.wants_more() {
                return;
            }
        }
        borrowing.finish();
        self.tally.borrowed += 1;
        self.note(format!("node {node} borrows the opt-outs of node {from}"));
        self.judge_borrowed(node);
    }

    /// Every opt-out that is lent is known.
    fn judge_borrowed(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let lent = process.engine.borrowed_up_to();
        let held: Heads = process.engine.heads().into_iter().collect();
        let upto = |heads: &Heads, origin| heads.get(&origin).map_or(0, |head: &Head| head.sequence);
        let opts_out = |event: &ConsentEvent| {
            event.changes.iter().any(|change| matches!(change, Change::OptOut(out) if !out.imported))
        };
        let only_lent: Vec<(EventId, usize)> = self
            .told
            .iter()
            .filter(|(id, told)| {
                (upto(&held, id.origin) + 1..=upto(&lent, id.origin)).contains(&id.sequence)
                    && opts_out(&told.event)
            })
            .filter_map(|(id, told)| {
                let person = self.persons.iter().position(|who| told.event.subjects.contains(who))?;
                Some((*id, person))
            })
            .collect();
        for (id, person) in only_lent {
            let known = self.look_up(node, person).unwrap_or_default();
            let reaches =
                |known: &EventId, origin: OriginId| known.origin == origin && known.sequence >= id.sequence;
            if !known.iter().any(|known| reaches(known, id.origin)) {
                self.fail(&format!(
                    "node {node} has borrowed all up to {id}, by which person {person} opted out, and knows of {known:?} only"
                ));
            }
            self.tally.known_by_borrowing += 1;
        }
    }
}
