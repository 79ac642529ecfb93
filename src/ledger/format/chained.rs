//! The chained part of a record: the bytes that an origin hashes and that peers relay unchanged.

use super::record::HASH_LEN;
use super::{array_at, u32_at, u64_at};
use crate::ledger::Head;
use crate::policy::ids::{EventId, OriginId};

pub(super) const CHAINED_VERSION: u8 = 1;
pub(super) const CHAINED_PREFIX_LEN: usize = 32;
/// The first of its origin.
pub(super) const CHAINED_FIRST: u8 = 1;
/// It has a blob.
pub(super) const CHAINED_BLOB: u8 = 2;
pub(super) const GENESIS_LEN: usize = 56;

/// A chained part, taken apart.
#[derive(Clone, Copy)]
pub(crate) struct Chained<'a> {
    pub(crate) id: EventId,
    /// In the first record of its origin: the store's previous origin, if there was one.
    pub(crate) genesis: Option<Option<(OriginId, Head)>>,
    pub(crate) blob_hash: Option<[u8; HASH_LEN]>,
    pub(crate) payload: &'a [u8],
    /// Where the payload starts.
    pub(crate) payload_at: usize,
}

/// Why bytes are no chained part that this version writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChainedFault {
    /// Another version, or flags that this one does not know.
    Unknown,
    /// Lengths, zeros or flags contradict each other.
    Form,
}

impl<'a> Chained<'a> {
    /// Takes apart what stands on the own disk behind a checksum that holds.
    pub(crate) fn split(chained: &'a [u8]) -> Option<Self> {
        if chained.len() < CHAINED_PREFIX_LEN || chained[0] != CHAINED_VERSION {
            return None;
        }
        let flags = chained[1];
        let mut at = CHAINED_PREFIX_LEN;
        let mut genesis = None;
        if flags & CHAINED_FIRST != 0 {
            let part = chained.get(at..at + GENESIS_LEN)?;
            let head = Head { sequence: u64_at(part, 16), hash: array_at(part, 24) };
            genesis = Some((head.sequence != 0).then(|| (OriginId(array_at(part, 0)), head)));
            at += GENESIS_LEN;
        }
        let mut blob_hash = None;
        if flags & CHAINED_BLOB != 0 {
            blob_hash = Some(array_at(chained.get(at..at + HASH_LEN)?, 0));
            at += HASH_LEN;
        }
        Some(Self {
            id: EventId { origin: OriginId(array_at(chained, 8)), sequence: u64_at(chained, 24) },
            genesis,
            blob_hash,
            payload: chained.get(at..at.checked_add(u32_at(chained, 4) as usize)?)?,
            payload_at: at,
        })
    }

    /// Takes apart what a peer sent: exactly the bytes that an origin of this version writes, or nothing.
    pub(crate) fn parse(chained: &'a [u8]) -> Result<Self, ChainedFault> {
        let (Some(version), Some(flags)) = (chained.first(), chained.get(1)) else {
            return Err(ChainedFault::Form);
        };
        if *version != CHAINED_VERSION || flags & !(CHAINED_FIRST | CHAINED_BLOB) != 0 {
            return Err(ChainedFault::Unknown);
        }
        let parts = Self::split(chained).ok_or(ChainedFault::Form)?;
        let no_previous = matches!(parts.genesis, Some(None));
        let zeros = |part: &[u8]| part.iter().all(|byte| *byte == 0);
        let sound = zeros(&chained[2..4])
            && parts.payload_at + parts.payload.len() == chained.len()
            && parts.id.origin != OriginId([0; 16])
            && parts.id.sequence != 0
            && parts.genesis.is_some() == (parts.id.sequence == 1)
            && (!no_previous || zeros(&chained[CHAINED_PREFIX_LEN..CHAINED_PREFIX_LEN + GENESIS_LEN]));
        if sound { Ok(parts) } else { Err(ChainedFault::Form) }
    }

    /// The chain hash that the first of an origin builds on; `None` for any other.
    pub(crate) fn genesis_hash(&self) -> Option<[u8; HASH_LEN]> {
        self.genesis.map(|previous| previous.map_or([0; HASH_LEN], |(_, head)| head.hash))
    }
}
