//! The ledger's payloads: entries and erasable blobs to bytes and back.
//!
//! `proto/optgate/ledger/v1/event.proto` draws the format. Encoding is deterministic: equal entries give equal bytes,
//! for ever, since hashes are chained over them. Decoding fails closed on what it does not understand, with one
//! exception: an opt-out is widened rather than lost.

mod entry;
mod personal;
mod words;

#[cfg(test)]
mod tests;

pub use entry::{decode_entry, encode_entry, salvage_opt_outs};
pub use personal::{decode_personal, encode_personal};

use crate::policy::ids::IdFault;

/// The `needs_reader` up to which this version understands all that restricts.
pub const READER_VERSION: u32 = 2;

/// Why bytes are not a payload that this version may act upon. It never tells their content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadFault {
    /// Not the expected protobuf message.
    #[error("the payload is not a message of the ledger: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Restrictions in it are beyond this version.
    #[error(
        "the payload needs a reader of version {needs_reader}, this one is {READER_VERSION}; upgrade optgate"
    )]
    Newer {
        /// What it needs.
        needs_reader: u32,
    },
    /// A part that must be there is not, or is a kind or number that this version does not know.
    #[error("`{field}` of the payload is missing or unknown to this version; upgrade optgate")]
    Unknown {
        /// Which part.
        field: &'static str,
    },
    /// A part of fixed length has another one.
    #[error("`{field}` of the payload is {len} bytes long")]
    Length {
        /// Which part.
        field: &'static str,
        /// How long it is, in bytes.
        len: usize,
    },
    /// A part cannot be an id.
    #[error("`{field}` of the payload {fault}")]
    Id {
        /// Which part.
        field: &'static str,
        /// Why.
        fault: IdFault,
    },
}
