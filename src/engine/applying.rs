//! Applying: what the ledger, or at an edge an anchor, has numbered gets into the view.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::ledger::{self, Applier, Committed, Head};
use crate::policy::event::LedgerEntry;
use crate::policy::ids::{EventId, OriginId};
use crate::view::{View, ViewError};

use super::codec;
use super::ranges::{REGISTRY, Ranges};
use super::replica::Replica;
use super::token::Vector;

/// An entry; of one that this version cannot read, at least its opt-outs.
pub(super) fn read_entry(id: EventId, payload: &[u8]) -> Option<LedgerEntry> {
    match codec::decode_entry(payload) {
        Ok(entry) => Some(entry),
        Err(fault) => {
            tracing::error!(event = %id, %fault, "an event cannot be read; its opt-outs are kept");
            codec::salvage_opt_outs(payload).map(LedgerEntry::Consent)
        }
    }
}

/// Which ranges of the view an entry touches.
pub(super) fn ranges_of(entry: &LedgerEntry) -> Vec<u16> {
    match entry {
        LedgerEntry::Consent(event) => event.subjects.iter().map(|who| u16::from(who.0[0])).collect(),
        LedgerEntry::Template(_) | LedgerEntry::Sender(_) | LedgerEntry::Distrust { .. } => {
            vec![REGISTRY as u16]
        }
        LedgerEntry::Erasure { .. } => Vec::new(),
    }
}

/// Takes the news of a fork. Says it aloud, once.
fn take_distrust(view: &View, replica: &Replica, origin: OriginId, from_sequence: u64) {
    if !view.put_distrust(origin, from_sequence) {
        return;
    }
    tracing::error!(
        %origin,
        from_sequence,
        "two stores wrote as one origin: opt-ins that this origin numbered from there on do not count until their owner has recorded them \
         anew, which it does by itself while it runs among peers; find out which running node was copied or set back, as by a snapshot of \
         its memory, and end the copy"
    );
    replica.distrust_moved();
}

fn apply(
    view: &View,
    replica: &Replica,
    appended: ledger::Appended,
    entry: Option<&LedgerEntry>,
) -> Result<(), ViewError> {
    match entry {
        // Says so by itself.
        Some(LedgerEntry::Consent(_)) | None => {}
        Some(_) => view.bring(appended.position),
    }
    match entry {
        Some(LedgerEntry::Consent(event)) => view.apply(appended.position, appended.id, event)?,
        Some(LedgerEntry::Template(entry)) => view.put_template(entry.clone()),
        Some(LedgerEntry::Sender(entry)) => view.put_sender(entry.clone()),
        Some(LedgerEntry::Distrust { origin, from_sequence, .. }) => {
            take_distrust(view, replica, *origin, *from_sequence);
        }
        Some(LedgerEntry::Erasure { .. }) | None => {}
    }
    Ok(())
}

/// Applies an entry where no ledger has it, so that there is no place to remember.
pub(super) fn apply_without_place(
    view: &View,
    replica: &Replica,
    id: EventId,
    entry: &LedgerEntry,
) -> Result<(), ViewError> {
    match entry {
        LedgerEntry::Consent(event) => view.apply_without_place(id, event)?,
        LedgerEntry::Template(entry) => view.put_template(entry.clone()),
        LedgerEntry::Sender(entry) => view.put_sender(entry.clone()),
        LedgerEntry::Distrust { origin, from_sequence, .. } => {
            take_distrust(view, replica, *origin, *from_sequence);
        }
        LedgerEntry::Erasure { .. } => {}
    }
    Ok(())
}

/// Brings new events into the view, on the ledger's writer thread.
pub(super) struct Applying {
    view: OnceLock<View>,
    pub(super) vector: Arc<Vector>,
    pub(super) ranges: Arc<Ranges>,
    pub(super) behind: Arc<AtomicBool>,
    replica: Arc<Replica>,
}

impl Applying {
    pub(super) fn new(replica: Arc<Replica>) -> Self {
        Self {
            view: OnceLock::new(),
            vector: Arc::default(),
            ranges: Arc::default(),
            behind: Arc::default(),
            replica,
        }
    }

    pub(super) fn serve(&self, view: View) {
        // Set once, by `open`; a second view would be a mistake of this file.
        let _ = self.view.set(view);
    }
}

impl Applier for Arc<Applying> {
    fn on_durable(&mut self, batch: &[Committed]) {
        let _applying = self.ranges.applying();
        for committed in batch {
            let id = committed.appended.id;
            let entry = read_entry(id, &committed.entry.payload);
            let touched = entry.as_ref().map_or_else(Vec::new, ranges_of);
            let applied = self.view.get().map(|view| {
                self.ranges.touch(id, touched, || {
                    apply(view, &self.replica, committed.appended, entry.as_ref())?;
                    // Behind an event that could not be applied nothing counts as done: the next start reads on from that one.
                    if !self.behind.load(Ordering::Acquire) {
                        view.advance(committed.appended.next);
                    }
                    self.vector.applied(id);
                    Ok(())
                })
            });
            match applied {
                Some(Ok(())) => {
                    let EventId { origin, sequence } = id;
                    if committed.own {
                        self.replica.own_appended(origin, Head { sequence, hash: committed.hash });
                    }
                }
                Some(Err::<_, ViewError>(error)) => {
                    self.behind.store(true, Ordering::Release);
                    tracing::error!(%error, "an event could not be applied; nothing is allowed until a restart");
                }
                None => self.behind.store(true, Ordering::Release),
            }
        }
    }
}
