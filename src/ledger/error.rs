//! What can go wrong, typed where it arises.

use std::io;

use super::{Damage, Position};
use crate::policy::ids::OriginId;

/// Why a ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting is outside its range.
    #[error("ledger setting `{name}` is {value}; choose {allowed}")]
    Setting {
        /// The setting's name in the configuration.
        name: &'static str,
        /// What was given.
        value: u64,
        /// What may be given.
        allowed: &'static str,
    },
    /// Another process holds the ledger.
    #[error("another process uses this ledger; stop it or choose another data directory")]
    Locked,
    /// The ledger was made with another key.
    #[error("this ledger was made with another key; give the key file that belongs to it")]
    OtherKey,
    /// The ledger was written by a version of optgate that this one cannot read.
    #[error("the ledger's format version is {found} and this program reads {known}; use a newer optgate")]
    Version {
        /// The version found on disk.
        found: u32,
        /// The version this program writes.
        known: u32,
    },
    /// Segment files exist, but not one of their headers can be read: nothing can be trusted, not even the key.
    #[error(
        "no segment of the ledger has a readable header; restore the ledger's directory from a backup or a peer"
    )]
    Unreadable,
    /// There is no room for a new ledger and the reserve kept for opt-outs.
    #[error("no room for a new ledger with its reserve of {needed} bytes; free some space")]
    NoSpace {
        /// Bytes a new ledger needs.
        needed: u64,
    },
    /// The disk failed.
    #[error("cannot {what} `{name}` in the ledger's directory: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Why an entry was not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much waits to be written already. Nothing was written; try again later.
    #[error("the ledger's queue is full; try again shortly")]
    Busy,
    /// The disk is nearly full (ordinary entries) or the reserve is used up as well (priority entries). Nothing was written.
    #[error("the disk is nearly full; free some space")]
    NoSpace,
    /// The entry is too long. Nothing was written.
    #[error("the {part} has {len} bytes; at most {max} fit")]
    TooLong {
        /// `payload` or `blob`.
        part: &'static str,
        /// Its length.
        len: usize,
        /// The most that fits.
        max: usize,
    },
    /// A write or fsync failed, now or earlier. Whether this entry is on disk is unknown until the next start.
    #[error("the ledger stopped after a disk fault: {0}; check the disk and restart")]
    Failed(String),
    /// The ledger is closing. Nothing was written.
    #[error("the ledger is closed")]
    Closed,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes on disk are not what was written.
    #[error("{0}")]
    Damaged(Damage),
    /// No durable record starts there.
    #[error("no record at position {0}")]
    NotFound(Position),
    /// Records of an origin cannot be found any more, though later ones are here.
    #[error(
        "events {from} to {to} of origin {origin} cannot be read here; restore them from a backup or a peer"
    )]
    Lost {
        /// The origin.
        origin: OriginId,
        /// First sequence lost.
        from: u64,
        /// Last sequence lost.
        to: u64,
    },
    /// The disk failed.
    #[error("cannot read segment {segment} of the ledger: {source}")]
    Io {
        /// The segment's number.
        segment: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// Why a blob could not be erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// No record there, or it cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The record never had a blob.
    #[error("the record at position {0} has no personal fields")]
    NoBlob(Position),
    /// The ledger failed or is closed; see [`AppendError`].
    #[error(transparent)]
    Ledger(#[from] AppendError),
}
