//! The append-only, hash-chained log: audit record and source of truth.
//!
//! It stores opaque bytes and has never heard of consent, gRPC or sled. Each entry is a *payload*, which is chained and never
//! changes, and an optional *blob* of personal fields, of which the chain holds only a salted hash, so that erasing it leaves
//! the chain whole. One writer thread commits in groups: whatever queued during one fdatasync is the next group. The bytes on disk, the
//! invariants and the rules of recovery are drawn in `docs/ledger-format.md`.
//!
//! ```text
//! append ─┬▶ queue ─▶ writer: verify, encode, write, fdatasync ─▶ Applier ─▶ acks
//!  relay ─┘                                       readers see it from here ─▶ iter_from, records_of, read_at, watch
//! ```
//!
//! Records of other origins are [relayed](Ledger::relay) into it exactly as those origins hashed them and read back by
//! sequence through [`Ledger::records_of`], so that ledgers can replicate to each other and for each other.

use std::fmt;
use std::time::Duration;

use crate::policy::ids::EventId;

mod catalog;
mod commit;
pub mod disk;
mod error;
mod format;
mod handle;
mod index;
mod log;
mod queue;
mod read;
mod recover;
mod relay;
mod reserve;
mod scan;
mod shared;
pub mod sim;
#[cfg(test)]
mod tests;
pub mod verify;
mod writer;

pub use error::{AppendError, EraseError, OpenError, ReadError};
pub use handle::{Ack, Ledger, RelayAck, exists};
pub use read::{Reader, Records, RecordsOf};
pub use relay::{RelayError, RelayFault, Relayed, RelayedBlob, RelayedParts, Relaying};

/// The longest payload, in bytes.
pub const PAYLOAD_LEN_MAX: usize = 256 * 1024;
/// The longest blob, in bytes.
pub const BLOB_LEN_MAX: usize = 1024 * 1024;
/// How many ordinary entries may wait for the writer.
pub const QUEUE_LEN_MAX: usize = 8_192;
/// How many priority entries may wait for the writer, beside the ordinary ones.
pub const PRIORITY_QUEUE_LEN_MAX: usize = 8_192;
/// How many bytes of ordinary entries may wait for the writer; as many again of priority entries.
pub const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many relayed records may wait for the writer; as many again of priority ones.
pub const RELAY_QUEUE_LEN_MAX: usize = 8_192;
/// How many bytes of relayed records may wait for the writer; as many again of priority ones.
pub const RELAY_QUEUE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How many bytes one group commit may have; a record always fits.
pub const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How many entries one group commit may have.
pub const BATCH_LEN_MAX: usize = 4_096;
/// How many erasures may wait for the writer.
pub const ERASE_QUEUE_LEN_MAX: usize = 256;
/// How many origins may wait for the writer to be closed.
pub const CLOSINGS_QUEUE_LEN_MAX: usize = 16;

/// The ledger's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Segment files are closed at this size; 4 to 1,024 MiB.
    pub segment_mib: u32,
    /// Room kept on disk for priority entries once the disk is nearly full; 1 to 1,024 MiB.
    pub opt_out_reserve_mib: u32,
    /// Below this much free space only priority entries are written.
    pub min_free_mib: u32,
    /// How long to wait for a dying predecessor to let go of the ledger.
    pub lock_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { segment_mib: 64, opt_out_reserve_mib: 8, min_free_mib: 64, lock_wait: Duration::from_secs(5) }
    }
}

impl Config {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`OpenError::Setting`] for the first setting outside its range.
    pub fn check(&self) -> Result<(), OpenError> {
        let ranges =
            [("segment_mib", self.segment_mib, 4), ("opt_out_reserve_mib", self.opt_out_reserve_mib, 1)];
        for (name, value, least) in ranges {
            if !(least..=1024).contains(&value) {
                let allowed = if least == 4 { "4 to 1024" } else { "1 to 1024" };
                return Err(OpenError::Setting { name, value: u64::from(value), allowed });
            }
        }
        Ok(())
    }
}

/// A place in the ledger. Ordered as the log is. Zero is before everything; a record's place is never zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// Before the first record.
    pub const START: Self = Self(0);

    /// The place `offset` bytes into segment number `segment`.
    pub fn new(segment: u32, offset: u32) -> Self {
        Self(u64::from(segment) << 32 | u64::from(offset))
    }

    /// A number to keep elsewhere, which [`Position::from_u64`] takes back.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The position that [`Position::as_u64`] gave.
    pub fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The segment's number.
    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bytes into the segment.
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment(), self.offset())
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a caller wants appended.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Chained and kept for ever; at most [`PAYLOAD_LEN_MAX`] bytes.
    pub payload: Vec<u8>,
    /// Personal fields, which [`Ledger::erase_blob`] can take away; at most [`BLOB_LEN_MAX`] bytes.
    pub blob: Option<Vec<u8>>,
    /// Opt-outs: they have a queue of their own, go first, and continue in the reserve when the disk is nearly full.
    pub priority: bool,
    /// Rows of an import: they are numbered by an origin of their own, so that nothing else waits behind them on its way to peers.
    pub bulk: bool,
}

/// Shows lengths only: both parts hold personal data.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("payload_len", &self.payload.len())
            .field("blob_len", &self.blob.as_ref().map(Vec::len))
            .field("priority", &self.priority)
            .finish()
    }
}

/// Where an entry ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its name for ever.
    pub id: EventId,
    /// Where its record starts.
    pub position: Position,
    /// Where reading goes on after it: what to remember once it is applied.
    pub next: Position,
}

/// An entry that is on disk, as the [`Applier`] gets it.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its id and place.
    pub appended: Appended,
    /// This store numbered it; else it is another origin's, or one that an earlier run of this store lost.
    pub own: bool,
    /// Its chain hash.
    pub hash: [u8; 32],
    /// What was appended. Of a relayed record without its blob if that had been erased.
    pub entry: Entry,
}

/// Brings new records into the view. Called on the writer thread after fdatasync and before the acks, once per group and in order.
///
/// It gets only what is appended after [`Ledger::open`]; older records the caller replays itself through [`Ledger::iter_from`]
/// before its first append. While it runs, no further group is written. A panic fails the ledger.
pub trait Applier: Send {
    /// These are durable now.
    fn on_durable(&mut self, batch: &[Committed]);
}

/// The personal fields of a record, as they are now.
#[derive(Clone, PartialEq, Eq)]
pub enum Blob {
    /// The record never had any.
    None,
    /// As they were appended.
    Present(Vec<u8>),
    /// They were erased; the chain still holds.
    Erased,
    /// The bytes on disk are not what was written.
    Damaged,
}

/// A stretch of a segment that is not what was written. Records before and after it stay readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "segment {segment} of the ledger is damaged from byte {from} to byte {to}; restore it from a backup or a peer"
)]
pub struct Damage {
    /// The segment's number.
    pub segment: u32,
    /// First damaged byte.
    pub from: u64,
    /// First good byte after it.
    pub to: u64,
}

/// What was found when the ledger was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// There was no ledger before.
    pub created: bool,
    /// The last run closed the ledger in order.
    pub clean: bool,
    /// Bytes that a crash left behind the last whole record and that were cut off. None of them was ever acknowledged.
    pub cut_bytes: u64,
    /// Damage that no crash explains. The rest of the ledger is readable and takes appends; whoever opens it decides what that means for readiness.
    pub damages: Vec<Damage>,
    /// Where the next record will go or later: everything before it is durable.
    pub head: Position,
    /// Where the records ended as they were found, before this start put any of them elsewhere: what was built from this ledger covers no
    /// more of it, else it was built from another one, of which this is a backup.
    pub found: Position,
}

/// The last record of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its sequence.
    pub sequence: u64,
    /// Its chain hash.
    pub hash: [u8; 32],
}

/// Whether the ledger takes appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Running,
    /// A write or fsync failed: nothing is acknowledged any more, and only a restart helps. The text names the fault.
    Failed(String),
    /// It was closed.
    Closed,
}

/// How the ledger is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it takes appends.
    pub state: State,
    /// Free bytes on its disk, where the system tells.
    pub free_bytes: Option<u64>,
    /// Free space is below the bound: only priority entries are taken.
    pub space_low: bool,
    /// The reserve for priority entries stands by unused.
    pub reserve_ready: bool,
    /// Entries that wait for the writer.
    pub queue_len: usize,
}

/// One record, as read back.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Its id and place.
    pub appended: Appended,
    /// What was appended.
    pub payload: Vec<u8>,
    /// Its personal fields, as they are now.
    pub blob: Blob,
    /// The chain hash.
    pub hash: [u8; 32],
    /// This store numbered it.
    pub own: bool,
}
