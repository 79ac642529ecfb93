//! A record: prefix, chained part, blob.

use sha2::{Digest, Sha256};

use super::chained::{
    CHAINED_BLOB, CHAINED_FIRST, CHAINED_PREFIX_LEN, CHAINED_VERSION, Chained, GENESIS_LEN,
};
use super::{ALIGN, Seed, array_at, u32_at, u64_at};
use crate::ledger::{BLOB_LEN_MAX, Head, PAYLOAD_LEN_MAX};
use crate::policy::ids::{EventId, OriginId};

/// The part of a record before its chained part.
pub(crate) const RECORD_PREFIX_LEN: usize = 64;
const RECORD_MAGIC: [u8; 3] = *b"ogr";

pub(super) const HASH_LEN: usize = 32;
const SALT_LEN: usize = 16;
/// State, checksum and salt before a blob's bytes.
pub(super) const BLOB_PREFIX_LEN: usize = 24;

const FLAG_LAST: u8 = 1;
const FLAG_OWN: u8 = 2;
const FLAG_BLOB: u8 = 4;

const BLOB_PRESENT: [u8; 4] = *b"PRES";
/// Being erased: nothing of it may be shown any more, but bytes may be left.
pub(crate) const BLOB_ERASING: [u8; 4] = *b"ERAS";
/// Erased: only zeros are left.
pub(crate) const BLOB_ERASED: [u8; 4] = *b"GONE";

/// A blob as it is written.
#[derive(Clone, Copy)]
pub(crate) struct NewBlob<'a> {
    pub(crate) salt: [u8; SALT_LEN],
    pub(crate) bytes: &'a [u8],
}

/// A record to be written.
pub(crate) struct NewRecord<'a> {
    pub(crate) id: EventId,
    /// The origin's record before this one; for the first, the store's previous origin.
    pub(crate) before: Before,
    pub(crate) payload: &'a [u8],
    pub(crate) blob: Option<NewBlob<'a>>,
    pub(crate) batch: u64,
    pub(crate) last: bool,
    /// Numbered by this store.
    pub(crate) own: bool,
}

/// What a record is chained to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// The hash of the same origin's record before.
    Record([u8; HASH_LEN]),
    /// Nothing of its own origin: the last record of the store's previous origin.
    Origin(Option<(OriginId, Head)>),
}

/// The length on disk of a record with these parts. `first`: of its origin.
pub(crate) fn record_len(payload_len: usize, blob_len: Option<usize>, first: bool) -> u64 {
    let chained = CHAINED_PREFIX_LEN
        + if first { GENESIS_LEN } else { 0 }
        + blob_len.map_or(0, |_| HASH_LEN)
        + payload_len;
    relayed_len(chained, blob_len)
}

/// The length on disk of a record whose chained part has `chained_len` bytes.
pub(crate) fn relayed_len(chained_len: usize, blob_len: Option<usize>) -> u64 {
    let body = padded(RECORD_PREFIX_LEN + chained_len);
    (body + blob_len.map_or(0, |len| padded(BLOB_PREFIX_LEN + len))) as u64
}

/// Appends the record's bytes to `out`, for the place `offset` of the segment that `seed` belongs to. Returns its chain hash.
pub(crate) fn encode_record(
    out: &mut Vec<u8>,
    seed: Seed,
    offset: u64,
    record: &NewRecord<'_>,
) -> [u8; HASH_LEN] {
    let start = out.len();
    out.resize(start + RECORD_PREFIX_LEN, 0);
    let (genesis, before) = match record.before {
        Before::Record(hash) => (None, hash),
        Before::Origin(previous) => (Some(previous), previous.map_or([0; HASH_LEN], |(_, head)| head.hash)),
    };
    let mut chained_flags = 0;
    if genesis.is_some() {
        chained_flags |= CHAINED_FIRST;
    }
    if record.blob.is_some() {
        chained_flags |= CHAINED_BLOB;
    }
    out.extend_from_slice(&[CHAINED_VERSION, chained_flags, 0, 0]);
    out.extend_from_slice(&(record.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&record.id.origin.0);
    out.extend_from_slice(&record.id.sequence.to_le_bytes());
    if let Some(previous) = genesis {
        let (origin, head) =
            previous.unwrap_or((OriginId([0; 16]), Head { sequence: 0, hash: [0; HASH_LEN] }));
        out.extend_from_slice(&origin.0);
        out.extend_from_slice(&head.sequence.to_le_bytes());
        out.extend_from_slice(&head.hash);
    }
    if let Some(blob) = record.blob {
        out.extend_from_slice(&blob_hash(&blob.salt, blob.bytes));
    }
    out.extend_from_slice(record.payload);
    let chained_end = out.len();
    let hash = chain_hash(&before, &out[start + RECORD_PREFIX_LEN..chained_end]);
    let flags = if record.last { FLAG_LAST } else { 0 } | if record.own { FLAG_OWN } else { 0 };
    let blob = record.blob.map_or(BlobPart::None, BlobPart::Present);
    complete(out, start, blob, flags, record.batch, hash).write(&mut out[start..], seed, offset);
    hash
}

/// A record of another origin, to be written with the bytes its origin hashed.
pub(crate) struct RelayedRecord<'a> {
    pub(crate) chained: &'a [u8],
    pub(crate) hash: [u8; HASH_LEN],
    pub(crate) blob: BlobPart<'a>,
    pub(crate) batch: u64,
    pub(crate) last: bool,
}

/// What stands behind the chained part.
#[derive(Clone, Copy)]
pub(crate) enum BlobPart<'a> {
    None,
    Present(NewBlob<'a>),
    /// It was erased before it came here; how long it was is not known.
    Erased,
}

impl BlobPart<'_> {
    /// `None`: the record has no blob. An erased one has no bytes.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Present(blob) => Some(blob.bytes.len()),
            Self::Erased => Some(0),
        }
    }
}

/// Appends the record's bytes to `out`, for the place `offset` of the segment that `seed` belongs to. It verifies as its caller found it.
pub(crate) fn encode_relayed(out: &mut Vec<u8>, seed: Seed, offset: u64, record: &RelayedRecord<'_>) {
    let start = out.len();
    out.resize(start + RECORD_PREFIX_LEN, 0);
    out.extend_from_slice(record.chained);
    let flags = if record.last { FLAG_LAST } else { 0 };
    complete(out, start, record.blob, flags, record.batch, record.hash).write(
        &mut out[start..],
        seed,
        offset,
    );
}

/// Writes what stands behind the chained part, which ends `out`, and tells the prefix of the record that starts at `start`.
fn complete(
    out: &mut Vec<u8>,
    start: usize,
    blob: BlobPart<'_>,
    flags: u8,
    batch: u64,
    hash: [u8; HASH_LEN],
) -> Prefix {
    let chained_len = out.len() - start - RECORD_PREFIX_LEN;
    pad(out, start);
    match blob {
        BlobPart::None => {}
        BlobPart::Present(NewBlob { salt, bytes }) => {
            out.extend_from_slice(&BLOB_PRESENT);
            out.extend_from_slice(&blob_crc(&salt, bytes).to_le_bytes());
            out.extend_from_slice(&salt);
            out.extend_from_slice(bytes);
            pad(out, start);
        }
        BlobPart::Erased => {
            out.extend_from_slice(&BLOB_ERASED);
            out.resize(out.len() + BLOB_PREFIX_LEN - BLOB_ERASED.len(), 0);
        }
    }
    Prefix {
        flags: if blob.len().is_some() { flags | FLAG_BLOB } else { flags },
        len: (out.len() - start) as u32,
        chained_len: chained_len as u32,
        blob_len: blob.len().unwrap_or(0) as u32,
        batch,
        hash,
    }
}

/// The fixed part of a record, without the checksum.
#[derive(Clone, Copy)]
struct Prefix {
    flags: u8,
    len: u32,
    chained_len: u32,
    blob_len: u32,
    batch: u64,
    hash: [u8; HASH_LEN],
}

impl Prefix {
    fn write(&self, record: &mut [u8], seed: Seed, offset: u64) {
        record[4..7].copy_from_slice(&RECORD_MAGIC);
        record[7] = self.flags;
        record[8..12].copy_from_slice(&self.len.to_le_bytes());
        record[12..16].copy_from_slice(&self.chained_len.to_le_bytes());
        record[16..20].copy_from_slice(&self.blob_len.to_le_bytes());
        record[24..32].copy_from_slice(&self.batch.to_le_bytes());
        record[32..64].copy_from_slice(&self.hash);
        seal(record, seed, offset, self.chained_len);
    }

    /// `None`: no record starts here, whatever follows.
    fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < RECORD_PREFIX_LEN || bytes[4..7] != RECORD_MAGIC {
            return None;
        }
        let prefix = Self {
            flags: bytes[7],
            len: u32_at(bytes, 8),
            chained_len: u32_at(bytes, 12),
            blob_len: u32_at(bytes, 16),
            batch: u64_at(bytes, 24),
            hash: array_at(bytes, 32),
        };
        if prefix.chained_len > RECORD_LEN_MAX || prefix.blob_len > RECORD_LEN_MAX {
            return None;
        }
        let body = padded(RECORD_PREFIX_LEN + prefix.chained_len as usize);
        let blob = if prefix.flags & FLAG_BLOB == 0 {
            0
        } else {
            padded(BLOB_PREFIX_LEN + prefix.blob_len as usize)
        };
        let plausible = prefix.len as usize == body + blob
            && prefix.len <= RECORD_LEN_MAX
            && prefix.chained_len as usize >= CHAINED_PREFIX_LEN;
        plausible.then_some(prefix)
    }
}

/// Longer records are never written, so a longer length is damage.
const RECORD_LEN_MAX: u32 = (PAYLOAD_LEN_MAX + BLOB_LEN_MAX + 1024) as u32;

fn seal(record: &mut [u8], seed: Seed, offset: u64, chained_len: u32) {
    let crc = seed.checksum(offset, &record[4..RECORD_PREFIX_LEN + chained_len as usize]);
    record[0..4].copy_from_slice(&crc.to_le_bytes());
}

/// A record found on disk, borrowed from the bytes read. Its checksum holds.
#[derive(Clone, Copy)]
pub(crate) struct RecordView<'a> {
    pub(crate) len: u64,
    pub(crate) batch: u64,
    pub(crate) last: bool,
    pub(crate) own: bool,
    pub(crate) hash: [u8; HASH_LEN],
    pub(crate) id: EventId,
    /// In the first record of its origin: the store's previous origin, if there was one.
    pub(crate) genesis: Option<Option<(OriginId, Head)>>,
    pub(crate) payload: &'a [u8],
    pub(crate) blob: BlobView<'a>,
    blob_hash: Option<[u8; HASH_LEN]>,
    /// What its origin hashed.
    pub(crate) chained: &'a [u8],
}

/// The blob of a record found on disk.
#[derive(Clone, Copy)]
pub(crate) enum BlobView<'a> {
    None,
    Present {
        salt: [u8; SALT_LEN],
        bytes: &'a [u8],
    },
    /// Erasing was begun; `complete`: only zeros are left.
    Erased {
        complete: bool,
    },
    Damaged,
}

/// How many bytes the record that starts with `bytes` has, if they look like one.
pub(crate) fn record_len_at(bytes: &[u8]) -> Option<u64> {
    Prefix::parse(bytes).map(|prefix| u64::from(prefix.len))
}

impl<'a> RecordView<'a> {
    /// Reads the record that starts with `bytes`, the place `offset` of the segment that `seed` belongs to. `None`: the
    /// bytes are no record, or not one that was written there, or not all of one.
    pub(crate) fn parse(bytes: &'a [u8], seed: Seed, offset: u64) -> Option<Self> {
        let prefix = Prefix::parse(bytes)?;
        let record = bytes.get(..prefix.len as usize)?;
        let chained_end = RECORD_PREFIX_LEN + prefix.chained_len as usize;
        if u32_at(record, 0) != seed.checksum(offset, &record[4..chained_end]) {
            return None;
        }
        let chained = &record[RECORD_PREFIX_LEN..chained_end];
        let parts = Chained::split(chained)?;
        let blob_area = || {
            record.get(padded(chained_end)..padded(chained_end) + BLOB_PREFIX_LEN + prefix.blob_len as usize)
        };
        let blob = match parts.blob_hash {
            Some(_) => blob_area().map_or(BlobView::Damaged, BlobView::parse),
            None => BlobView::None,
        };
        Some(Self {
            len: u64::from(prefix.len),
            batch: prefix.batch,
            last: prefix.flags & FLAG_LAST != 0,
            own: prefix.flags & FLAG_OWN != 0,
            hash: prefix.hash,
            id: parts.id,
            genesis: parts.genesis,
            payload: parts.payload,
            blob,
            blob_hash: parts.blob_hash,
            chained,
        })
    }

    /// Whether the record's hash follows from the hash before it (of the same origin; its genesis tells by itself).
    pub(crate) fn follows(&self, before: &[u8; HASH_LEN]) -> bool {
        chain_hash(before, self.chained) == self.hash
    }

    /// Whether the blob is the one the chain speaks of: stronger than its checksum, and slower. An erased one is.
    pub(crate) fn blob_is_chained(&self) -> bool {
        match (self.blob, self.blob_hash) {
            (BlobView::Present { salt, bytes }, Some(hash)) => blob_hash(&salt, bytes) == hash,
            _ => true,
        }
    }
}

impl<'a> BlobView<'a> {
    fn parse(area: &'a [u8]) -> Self {
        let (prefix, bytes) = area.split_at(BLOB_PREFIX_LEN);
        match array_at::<4>(prefix, 0) {
            BLOB_PRESENT => {
                let salt: [u8; SALT_LEN] = array_at(prefix, 8);
                if u32_at(prefix, 4) == blob_crc(&salt, bytes) {
                    Self::Present { salt, bytes }
                } else {
                    Self::Damaged
                }
            }
            BLOB_ERASING => Self::Erased { complete: false },
            BLOB_ERASED => Self::Erased { complete: area[4..].iter().all(|byte| *byte == 0) },
            _ => Self::Damaged,
        }
    }
}

/// Where in a record its blob's state stands, and how many bytes behind it are to be zeroed. `None`: it has no blob.
pub(crate) fn blob_place(record: &[u8]) -> Option<(u64, usize)> {
    let prefix = Prefix::parse(record)?;
    let state_at = padded(RECORD_PREFIX_LEN + prefix.chained_len as usize) as u64;
    (prefix.flags & FLAG_BLOB != 0).then_some((state_at, BLOB_PREFIX_LEN - 4 + prefix.blob_len as usize))
}

/// Makes the record at the start of `record` ready for another place, or for being the last of its batch.
pub(crate) fn reseal(record: &mut [u8], seed: Seed, offset: u64, last: bool) {
    if let Some(prefix) = Prefix::parse(record) {
        record[7] = if last { prefix.flags | FLAG_LAST } else { prefix.flags & !FLAG_LAST };
        seal(record, seed, offset, prefix.chained_len);
    }
}

pub(crate) fn chain_hash(before: &[u8; HASH_LEN], chained: &[u8]) -> [u8; HASH_LEN] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(chained);
    hash.finalize().into()
}

pub(crate) fn blob_hash(salt: &[u8; SALT_LEN], bytes: &[u8]) -> [u8; HASH_LEN] {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(bytes);
    hash.finalize().into()
}

fn blob_crc(salt: &[u8; SALT_LEN], bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(salt), bytes)
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGN as usize)
}

fn pad(out: &mut Vec<u8>, start: usize) {
    let len = padded(out.len() - start);
    out.resize(start + len, 0);
}
