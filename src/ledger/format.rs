//! The bytes on disk, as `docs/ledger-format.md` draws them. Pure: nothing here touches a file.

mod chained;
mod footer;
mod record;

pub(crate) use chained::{Chained, ChainedFault};
pub(crate) use footer::{Contents, Counted, FOOTER_TRAILER_LEN, Footer};
pub(crate) use record::{
    BLOB_ERASED, BLOB_ERASING, Before, BlobPart, BlobView, NewBlob, NewRecord, RECORD_PREFIX_LEN, RecordView,
    RelayedRecord, blob_hash, blob_place, chain_hash, encode_record, encode_relayed, record_len,
    record_len_at, relayed_len, reseal,
};

/// The format version this program reads and writes.
pub(crate) const VERSION: u32 = 1;
/// Where the records of a segment start.
pub(crate) const HEADER_LEN: u64 = 1024;
/// Where the second copy of the header starts: in another sector than the first.
pub(crate) const SECOND_COPY_AT: usize = 512;
/// Records start at multiples of this.
pub(crate) const ALIGN: u64 = 8;

const HEADER_COPY_LEN: usize = 128;
const SEGMENT_MAGIC: &[u8; 8] = b"optgLEDG";

/// What all segments of one ledger share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Random, made with the ledger. Secret enough that no caller can forge a record's checksum.
    pub(crate) ledger: [u8; 16],
    /// Tells the cluster key without revealing it.
    pub(crate) key_check: [u8; 16],
}

/// The start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) identity: Identity,
    pub(crate) number: u32,
    /// The segment before this one; 0: none.
    pub(crate) previous: u32,
    /// Where that one ends.
    pub(crate) previous_end: u64,
    /// Length of the batch moved here from there.
    pub(crate) moved_len: u64,
    /// Number of the first batch here.
    pub(crate) first_batch: u64,
}

/// Why a header was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// Another format version, which verifies otherwise.
    Version(u32),
    /// Not a header, or a damaged one.
    Damaged,
    /// The header area is untouched.
    Blank,
}

impl Header {
    /// One copy of the header.
    pub(crate) fn copy(&self) -> [u8; HEADER_COPY_LEN] {
        let mut copy = [0; HEADER_COPY_LEN];
        copy[0..8].copy_from_slice(SEGMENT_MAGIC);
        copy[8..12].copy_from_slice(&VERSION.to_le_bytes());
        copy[12..16].copy_from_slice(&self.number.to_le_bytes());
        copy[16..32].copy_from_slice(&self.identity.ledger);
        copy[32..48].copy_from_slice(&self.identity.key_check);
        copy[48..52].copy_from_slice(&self.previous.to_le_bytes());
        copy[56..64].copy_from_slice(&self.previous_end.to_le_bytes());
        copy[64..72].copy_from_slice(&self.moved_len.to_le_bytes());
        copy[72..80].copy_from_slice(&self.first_batch.to_le_bytes());
        let crc = crc32c::crc32c(&copy[..124]);
        copy[124..128].copy_from_slice(&crc.to_le_bytes());
        copy
    }

    /// The whole header area with both copies.
    pub(crate) fn area(&self) -> Vec<u8> {
        let mut area = vec![0; HEADER_LEN as usize];
        let copy = self.copy();
        area[..HEADER_COPY_LEN].copy_from_slice(&copy);
        area[SECOND_COPY_AT..SECOND_COPY_AT + HEADER_COPY_LEN].copy_from_slice(&copy);
        area
    }

    /// Reads the header area; one good copy suffices.
    pub(crate) fn parse(area: &[u8]) -> Result<Self, HeaderFault> {
        if *area == [0; HEADER_LEN as usize] {
            return Err(HeaderFault::Blank);
        }
        let first = area.get(..HEADER_COPY_LEN).map_or(Err(HeaderFault::Damaged), Self::parse_copy);
        if first.is_ok() {
            return first;
        }
        let second = area.get(SECOND_COPY_AT..SECOND_COPY_AT + HEADER_COPY_LEN);
        match second.map_or(Err(HeaderFault::Damaged), Self::parse_copy) {
            Ok(header) => Ok(header),
            Err(HeaderFault::Version(version)) => Err(HeaderFault::Version(version)),
            Err(_) => first,
        }
    }

    fn parse_copy(copy: &[u8]) -> Result<Self, HeaderFault> {
        if copy[0..8] != *SEGMENT_MAGIC || u32_at(copy, 124) != crc32c::crc32c(&copy[..124]) {
            return Err(HeaderFault::Damaged);
        }
        let version = u32_at(copy, 8);
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        Ok(Self {
            identity: Identity { ledger: array_at(copy, 16), key_check: array_at(copy, 32) },
            number: u32_at(copy, 12),
            previous: u32_at(copy, 48),
            previous_end: u64_at(copy, 56),
            moved_len: u64_at(copy, 64),
            first_batch: u64_at(copy, 72),
        })
    }
}

/// What record checksums of one segment start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(ledger: &[u8; 16], segment: u32) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(ledger), &segment.to_le_bytes()))
    }

    pub(crate) fn checksum(self, offset: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &offset.to_le_bytes()), bytes)
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests;
