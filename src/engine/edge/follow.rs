//! Following: a snapshot, then events of anchors, each verified against its origin's chain before it is applied.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::ledger::{Head, RelayError, Relayed};
use crate::policy::event::ConsentEvent;
use crate::policy::ids::{EventId, OriginId};
use crate::view::{View, ViewError};

use super::Edge;
use crate::engine::applying::{apply_without_place, ranges_of, read_entry};
use crate::engine::token::{Token, Vector};
use crate::engine::{Engine, Inner};

impl Engine {
    /// Lets the opt-outs of an event that does not verify hold here until a restart. Anchors keep them for good.
    pub(in crate::engine) fn hold_doubtful(&self, edge: &Edge, event: ConsentEvent) {
        let sequence = edge.doubtful.fetch_add(1, Ordering::Relaxed);
        let id = EventId { origin: OriginId(edge.doubtful_origin), sequence };
        self.inner.view.hold(id, &Arc::new(event));
    }

    /// A snapshot is in force that has all up to `heads`, and whose giver holds first records that name `named`.
    pub(in crate::engine) fn in_force(&self, heads: &[(OriginId, Head)], named: Vec<(OriginId, Head)>) {
        let Some(edge) = self.edge() else { return };
        *edge.named.lock() = named;
        *edge.heads.lock() = heads.iter().copied().collect();
        for (origin, head) in heads {
            self.inner.vector.applied(EventId { origin: *origin, sequence: head.sequence });
        }
        edge.let_go_arrived(&self.inner.vector, &self.inner.view);
    }

    /// What is known here differs from what the anchors know: nothing is allowed until a restart brings a new snapshot.
    pub fn distrust_view(&self) {
        self.inner.behind.store(true, Ordering::Release);
    }

    /// Verifies records that follow each other against their origin's chain and applies them. With the last that is applied, and
    /// which was not taken and why. Blocking.
    pub fn take_relayed(
        &self,
        origin: OriginId,
        records: &[Relayed],
    ) -> (Option<Head>, Option<(usize, RelayError)>) {
        let Some(edge) = self.edge() else { return (None, None) };
        let mut head = edge.heads.lock().get(&origin).copied();
        let mut refusal = None;
        for (at, record) in records.iter().enumerate() {
            match self.inner.take_one(edge, origin, head, record) {
                Ok(next) => head = Some(next),
                Err(error) => {
                    refusal = Some((at, error));
                    break;
                }
            }
        }
        edge.let_go_arrived(&self.inner.vector, &self.inner.view);
        (head, refusal)
    }
}

impl Inner {
    fn take_one(
        &self,
        edge: &Edge,
        origin: OriginId,
        head: Option<Head>,
        record: &Relayed,
    ) -> Result<Head, RelayError> {
        let (id, payload) = record.verify_behind(origin, head)?;
        let next = Head { sequence: id.sequence, hash: record.hash };
        let entry = read_entry(id, payload);
        let applied = self.ranges.touch(id, entry.as_ref().map_or_else(Vec::new, ranges_of), || {
            if let Some(entry) = &entry {
                apply_without_place(&self.view, &self.replica, id, entry)?;
            }
            self.vector.applied(id);
            Ok::<_, ViewError>(())
        });
        if let Err(error) = applied {
            self.behind.store(true, Ordering::Release);
            tracing::error!(%error, "an event could not be applied; nothing is allowed until a restart");
            return Err(RelayError::Unreadable { id });
        }
        edge.heads.lock().insert(origin, next);
        Ok(next)
    }
}

impl Edge {
    /// Lets go of what is held here in place of events that are applied by now.
    pub(super) fn let_go_arrived(&self, vector: &Vector, view: &View) {
        let mut arriving = self.arriving.lock();
        if arriving.is_empty() {
            return;
        }
        arriving.retain(|number, (event, held)| {
            let arrived = vector.reaches(Token(Some(*event)));
            if arrived {
                view.let_go(self.provisional(*number), held);
            }
            !arrived
        });
    }
}
