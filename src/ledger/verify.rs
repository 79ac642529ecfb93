//! Checks a whole ledger, read-only, also beside a running optgate: checksums, chain, sequences, blobs.

use std::collections::BTreeMap;
use std::fmt;

use super::catalog::{Catalog, Segment};
use super::disk::Disk;
use super::format::{BlobView, HEADER_LEN, Identity, RecordView};
use super::read::position;
use super::recover::{scan_closed, scan_last};
use super::scan::Cursor;
use super::{Damage, Head, OpenError, Position};
use crate::policy::ids::{EventId, OriginId};

/// How often a look at a ledger that changes meanwhile is taken again.
const LOOKS_MAX: usize = 3;
/// How many faults are listed; the rest is counted.
pub const FAULTS_MAX: usize = 1_000;

/// What a check of the whole ledger found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segment files read.
    pub segments: u64,
    /// Good records.
    pub records: u64,
    /// Bytes of good records.
    pub bytes: u64,
    /// Blobs, by their state.
    pub blobs: BlobCounts,
    /// Per origin.
    pub origins: BTreeMap<OriginId, OriginReport>,
    /// What is wrong, at most [`FAULTS_MAX`] of it.
    pub faults: Vec<Fault>,
    /// Faults beyond those listed.
    pub faults_unlisted: u64,
    /// Bytes behind the last whole record: a batch being written right now, or what a crash left, which the next start cuts off.
    pub tail_bytes: u64,
}

/// How many blobs are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobCounts {
    /// As they were written.
    pub sound: u64,
    /// Erased; the chain still verifies.
    pub erased: u64,
    /// Erasing was begun and not finished, and never acknowledged; erase it again.
    pub erasing: u64,
    /// Not what was written.
    pub damaged: u64,
}

/// One origin's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginReport {
    /// How many there are.
    pub records: u64,
    /// The first sequence.
    pub first: u64,
    /// The last one.
    pub head: Head,
}

/// Something wrong in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A stretch of bytes does not verify.
    Damaged(Damage),
    /// The record's hash does not follow from the one before it.
    Chain {
        /// The record.
        id: EventId,
        /// Its place.
        position: Position,
    },
    /// Sequences are missing before this record.
    Gap {
        /// The record.
        id: EventId,
        /// The sequence that should stand here.
        expected: u64,
        /// Its place.
        position: Position,
    },
    /// The record's blob is not the one that was chained.
    Blob {
        /// The record.
        id: EventId,
        /// Its place.
        position: Position,
    },
}

impl Fault {
    /// The segment it was found in.
    pub fn segment(&self) -> u32 {
        match self {
            Self::Damaged(damage) => damage.segment,
            Self::Chain { position, .. } | Self::Gap { position, .. } | Self::Blob { position, .. } => {
                position.segment()
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(damage) => damage.fmt(f),
            Self::Chain { id, position } => {
                write!(f, "event {id} at {position} is not chained to the event before it")
            }
            Self::Gap { id, expected, position } => {
                write!(f, "event {id} at {position} stands where sequence {expected} should")
            }
            Self::Blob { id, position } => {
                write!(f, "the personal fields of event {id} at {position} are not what was recorded")
            }
        }
    }
}

impl Report {
    /// Nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        } else {
            self.faults_unlisted += 1;
        }
    }
}

/// Checks everything that is on `disk`. With `key_check`, also that the ledger belongs to that key. An empty directory gives an empty report.
///
/// # Errors
/// [`OpenError`] when the files cannot be read at all. Damage is not an error; it is in the report.
pub fn verify(disk: &dyn Disk, key_check: Option<[u8; 16]>) -> Result<Report, OpenError> {
    for _ in 1..LOOKS_MAX {
        let before = files(disk)?;
        let report = look(disk, key_check)?;
        // A running optgate may write, roll or rename a segment in the middle of a look: what is wrong then may be the look.
        let last = before.last().map_or(0, |(number, _)| *number);
        if report.faults.iter().all(|fault| fault.segment() < last) && files(disk)? == before {
            return Ok(report);
        }
        if report.is_sound() {
            return Ok(report);
        }
    }
    look(disk, key_check)
}

/// The segments and their lengths.
fn files(disk: &dyn Disk) -> Result<Vec<(u32, u64)>, OpenError> {
    let catalog = Catalog::load(disk)?;
    Ok(catalog.segments.iter().map(|segment| (segment.number, segment.len)).collect())
}

fn look(disk: &dyn Disk, key_check: Option<[u8; 16]>) -> Result<Report, OpenError> {
    let catalog = Catalog::load(disk)?;
    let mut report = Report::default();
    let Some(identity) = catalog.identity else { return Ok(report) };
    if key_check.is_some_and(|check| check != identity.key_check) {
        return Err(OpenError::OtherKey);
    }
    for damage in &catalog.damages {
        report.fault(Fault::Damaged(*damage));
    }
    for (index, segment) in catalog.segments.iter().enumerate() {
        report.segments += 1;
        let end = end_of(disk, &catalog, index, segment, &identity, &mut report)?;
        let mut cursor = Cursor::new(segment.open(disk)?, segment.seed(&identity), end);
        walk(&mut cursor, segment, &mut report).map_err(|source| OpenError::Io {
            what: "read",
            name: segment.name.clone(),
            source,
        })?;
    }
    Ok(report)
}

/// Where the segment's records end.
fn end_of(
    disk: &dyn Disk,
    catalog: &Catalog,
    index: usize,
    segment: &Segment,
    identity: &Identity,
    report: &mut Report,
) -> Result<u64, OpenError> {
    let is_last = index + 1 == catalog.segments.len();
    let known_end = catalog.known_end(index);
    if let Some(end) = known_end {
        return Ok(end);
    }
    if let Some(footer) = segment.footer(disk, identity)? {
        return Ok(footer.end);
    }
    if is_last {
        let scan = scan_last(disk, segment, identity)?;
        report.tail_bytes = scan.cut_bytes;
        return Ok(scan.end);
    }
    Ok(scan_closed(disk, segment, identity, None)?.end)
}

fn walk(cursor: &mut Cursor, segment: &Segment, report: &mut Report) -> std::io::Result<()> {
    let mut at = HEADER_LEN;
    while at < cursor.limit() {
        let place = position(segment.number, at);
        match cursor.record(at)? {
            Some(record) => {
                at += record.len;
                count(&record, place, report);
            }
            None => {
                let to = cursor.next_good(at + 1, 0)?.unwrap_or(cursor.limit());
                report.fault(Fault::Damaged(Damage { segment: segment.number, from: at, to }));
                at = to;
            }
        }
    }
    Ok(())
}

fn count(record: &RecordView<'_>, position: Position, report: &mut Report) {
    report.records += 1;
    report.bytes += record.len;
    let id = record.id;
    match record.blob {
        BlobView::None => {}
        BlobView::Present { .. } if record.blob_is_chained() => report.blobs.sound += 1,
        BlobView::Present { .. } | BlobView::Damaged => {
            report.blobs.damaged += 1;
            report.fault(Fault::Blob { id, position });
        }
        BlobView::Erased { complete: true } => report.blobs.erased += 1,
        BlobView::Erased { complete: false } => report.blobs.erasing += 1,
    }
    let known = report.origins.get(&id.origin).map(|origin| origin.head);
    let expected = known.map_or(1, |head| head.sequence + 1);
    // What the first record names as the store's previous origin must be what stands in this log, if it is this store's.
    // Another store may have seen another course of its own past, which says nothing about the bytes here.
    let previous = record.genesis.flatten();
    let previous_agrees = !record.own
        || previous.is_none_or(|(origin, named)| {
            report
                .origins
                .get(&origin)
                .is_none_or(|known| known.head.sequence != named.sequence || known.head == named)
        });
    if id.sequence != expected {
        report.fault(Fault::Gap { id, expected, position });
    } else {
        let before = match (known, previous) {
            (Some(head), _) => head.hash,
            (None, Some((_, head))) => head.hash,
            (None, None) => [0; 32],
        };
        if !record.follows(&before) || !previous_agrees || record.genesis.is_some() != (id.sequence == 1) {
            report.fault(Fault::Chain { id, position });
        }
    }
    let head = Head { sequence: id.sequence, hash: record.hash };
    let origin =
        report.origins.entry(id.origin).or_insert(OriginReport { records: 0, first: id.sequence, head });
    origin.records += 1;
    if head.sequence >= origin.head.sequence {
        origin.head = head;
    }
}
