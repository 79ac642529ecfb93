//! What an anchor does that is far behind, as `peers::behind` does.

use super::call::Ask;
use super::edge::{SNAPSHOT_EVERY_MS, SNAPSHOT_WITHIN_MS};
use super::world::World;
use crate::engine::borrow::Returned;
use crate::engine::snapshot::{Extent, Taking as _};
use crate::pb::replication::v1 as pb;
use crate::peers::snapshot;
use crate::policy::event::{Change, ConsentEvent};
use crate::policy::ids::{EventId, OriginId};
use crate::replication::frame::Role;
use crate::replication::vector::Heads;

/// With more events missing than these, a node is far behind.
const FAR_EVENTS: u64 = 3;

impl World {
    pub fn look_behind(&mut self, node: usize) {
        let now = self.now;
        if self.nodes[node].role == Role::Edge || self.nodes[node].peers.is_empty() {
            return;
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        if !process.lent.is_empty() {
            let heads: Vec<_> = process.lent.iter().collect();
            match process.engine.return_opt_outs(&heads) {
                Ok(Returned::NotYet) => {}
                // The disk may be without power.
                Ok(Returned::All | Returned::Forked(_)) | Err(_) => process.lent = Heads::default(),
            }
        }
        let lacks = process.machine.lock().lacks_beyond(&process.lent);
        if lacks <= FAR_EVENTS || process.borrow_at > now {
            return;
        }
        process.borrow_at = now + SNAPSHOT_EVERY_MS;
        let peers = &self.nodes[node].peers;
        let to = peers[self.rng.below(peers.len() as u64) as usize];
        self.ask(node, to, Ask::Snapshot(Extent::Suppressing), SNAPSHOT_WITHIN_MS);
    }

    pub fn borrow(&mut self, node: usize, from: usize, parts: Option<Vec<pb::SnapshotResponse>>) {
        let Some(parts) = parts else { return };
        let Some(process) = &mut self.nodes[node].process else { return };
        let mut borrowing = process.engine.borrow_opt_outs();
        for part in parts.into_iter().filter_map(|part| snapshot::decode(part.part?)) {
            if let Err(error) = borrowing.take(part) {
                self.fail(&format!("node {node} cannot read what node {from} lends: {error}"));
            }
        }
        let heads: Heads = borrowing.heads().iter().copied().collect();
        if process.machine.lock().lacks_beyond(&heads) > FAR_EVENTS {
            return;
        }
        process.lent = heads;
        borrowing.finish();
        self.tally.borrowed += 1;
        self.note(format!("node {node} borrows the opt-outs of node {from}"));
        self.judge_borrowed(node);
    }

    /// Every opt-out that is lent is known.
    fn judge_borrowed(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let (lent, held): (_, Heads) = (process.lent.clone(), process.engine.heads().into_iter().collect());
        let opts_out = |event: &ConsentEvent| {
            event.changes.iter().any(|change| matches!(change, Change::OptOut(out) if !out.imported))
        };
        let only_lent: Vec<(EventId, usize)> = self
            .told
            .iter()
            .filter(|(id, told)| {
                (held.sequence(id.origin) + 1..=lent.sequence(id.origin)).contains(&id.sequence)
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
