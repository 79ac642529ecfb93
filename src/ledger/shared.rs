//! What the writer and the readers both look at: which segments there are, and how far they are durable.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};

use super::disk::{Disk, DiskFile};
use super::format::{HEADER_LEN, Identity, Seed};
use super::index::Index;
use super::{Head, Position};
use crate::policy::ids::OriginId;

/// One segment, as far as readers care.
#[derive(Clone)]
pub(crate) struct Extent {
    pub(crate) number: u32,
    pub(crate) name: String,
    /// From its header: the segment before it.
    pub(crate) previous: u32,
    /// From its header: length of the batch that a start moved here.
    pub(crate) moved_len: u64,
    /// Where its records end. Of the last segment, the head tells instead.
    pub(crate) end: u64,
    /// Kept open while it is written.
    pub(crate) file: Option<Arc<dyn DiskFile>>,
}

/// What is durable.
#[derive(Default)]
pub(crate) struct Table {
    /// In order of their numbers.
    pub(crate) extents: Vec<Extent>,
    /// Everything before it is durable.
    pub(crate) head: Position,
    /// The last record of every origin.
    pub(crate) vector: BTreeMap<OriginId, Head>,
    /// What the first record of an origin names as the last of its store's origin before.
    pub(crate) previous: BTreeMap<OriginId, (OriginId, Head)>,
    /// This run's origin.
    pub(crate) own: Option<OriginId>,
}

/// A stretch of durable records.
pub(crate) struct Place {
    pub(crate) number: u32,
    pub(crate) offset: u64,
    /// Where the durable records of the segment end for now.
    pub(crate) limit: u64,
    pub(crate) seed: Seed,
    pub(crate) file: Arc<dyn DiskFile>,
}

impl Table {
    /// Finds what a position means today: its extent and the offset there. The rules are those of `docs/ledger-format.md`.
    pub(crate) fn resolve(&self, position: Position) -> Option<(&Extent, u64, u64)> {
        let mut number = position.segment();
        let mut offset = u64::from(position.offset());
        loop {
            let index = self.extents.partition_point(|extent| extent.number < number);
            let extent = self.extents.get(index)?;
            if extent.number != number {
                let replaced = extent.previous < number;
                offset = if replaced { offset.min(HEADER_LEN + extent.moved_len) } else { HEADER_LEN };
                number = extent.number;
            }
            offset = offset.max(HEADER_LEN);
            let Some(next) = self.extents.get(index + 1) else {
                return Some((extent, offset, u64::from(self.head.offset())));
            };
            if offset < extent.end {
                return Some((extent, offset, extent.end));
            }
            let moved_len = if next.previous == number { next.moved_len } else { 0 };
            offset = HEADER_LEN + (offset - extent.end).min(moved_len);
            number = next.number;
        }
    }
}

/// Shared by the writer and all readers.
pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) identity: Identity,
    pub(crate) table: RwLock<Table>,
    /// Never held together with the table.
    pub(crate) index: Mutex<Index>,
    /// How far apart the index wants its marks, in bytes.
    pub(crate) mark_every: u64,
    /// How many blobs were erased by this process: what was read before that may show too much.
    pub(crate) erasures: AtomicU64,
}

impl Shared {
    /// Opens what `position` means today; `None` if nothing durable lies there or behind it.
    pub(crate) fn locate(&self, position: Position) -> Result<Option<Place>, (u32, io::Error)> {
        // The name is looked up and opened under the lock: the reserve may be renamed at any time.
        let table = self.table.read();
        let Some((extent, offset, limit)) = table.resolve(position) else { return Ok(None) };
        if offset >= limit {
            return Ok(None);
        }
        let number = extent.number;
        let file = match &extent.file {
            Some(file) => Arc::clone(file),
            None => self.disk.open(&extent.name).map_err(|fault| (number, fault))?,
        };
        Ok(Some(Place { number, offset, limit, seed: Seed::new(&self.identity.ledger, number), file }))
    }
}
