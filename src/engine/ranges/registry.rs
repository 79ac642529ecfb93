//! The registry as one more range: what the ledger says of templates, senders and forked origins. What only configuration says is no part of it.

use sha2::{Digest as _, Sha256};

use super::REGISTRY;
use crate::engine::applying::read_entry;
use crate::engine::error::EngineError;
use crate::engine::{Inner, codec};
use crate::ledger::Position;
use crate::policy::event::LedgerEntry;
use crate::policy::time::Timestamp;
use crate::view::{Registry, View};

/// All entries of the registry, as the ledger would have them.
pub(in crate::engine) fn entries(view: &View) -> impl Iterator<Item = LedgerEntry> + use<> {
    let (templates, senders) = view.entries();
    let templates = templates.into_iter().map(|entry| LedgerEntry::Template((*entry).clone()));
    let senders = senders.into_iter().map(|entry| LedgerEntry::Sender((*entry).clone()));
    // When a fork was found out is not kept: what follows from it does not depend on that.
    let recorded = Timestamp(0);
    let forks: Vec<_> = view.distrust().iter().collect();
    let forks = forks.into_iter().map(move |(origin, from_sequence)| LedgerEntry::Distrust {
        origin,
        from_sequence,
        recorded,
    });
    templates.chain(senders).chain(forks)
}

/// Takes an entry that is of the registry; any other is passed over.
fn take(registry: &Registry, entry: LedgerEntry) {
    match entry {
        LedgerEntry::Template(entry) => registry.put_template(entry),
        LedgerEntry::Sender(entry) => registry.put_sender(entry),
        LedgerEntry::Distrust { origin, from_sequence, recorded: _ } => {
            registry.put_distrust(origin, from_sequence);
        }
        LedgerEntry::Consent(_) | LedgerEntry::Erasure { .. } => {}
    }
}

/// What the registry looks like, whatever order its entries came in.
pub(super) fn digest(view: &View) -> [u8; 32] {
    let mut digest = [0; 32];
    for entry in entries(view) {
        let of_one: [u8; 32] = Sha256::digest(codec::encode_entry(&entry)).into();
        digest.iter_mut().zip(of_one).for_each(|(sum, byte)| *sum ^= byte);
    }
    digest
}

impl Inner {
    pub(super) fn rebuild_registry(&self) -> Result<bool, EngineError> {
        let built = Registry::default();
        let mut next = self.read_registry(Position::START, &built)?;
        // Most of it is read; what came meanwhile is read while nothing moves.
        next = self.read_registry(next, &built)?;
        self.ranges.while_still(REGISTRY, || {
            self.read_registry(next, &built)?;
            #[cfg(sabotage)]
            if crate::sabotage::is("registry-joined-not-rebuilt") {
                entries(&self.view).for_each(|entry| take(&built, entry));
            }
            Ok(self.view.replace_registry(built))
        })
    }

    /// Gives the ledger's entries from `from` on to `built`; with where reading ended.
    fn read_registry(&self, from: Position, built: &Registry) -> Result<Position, EngineError> {
        let mut next = from;
        for record in self.ledger()?.iter_from(from) {
            // Also where a stretch is damaged it ends here: the view may know what was in it.
            let record = record?;
            next = record.appended.next;
            if let Some(entry) = read_entry(record.appended.id, &record.payload) {
                take(built, entry);
            }
        }
        Ok(next)
    }
}
