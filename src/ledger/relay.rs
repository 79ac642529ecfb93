//! Records of other origins: as they travel between peers, and how they are let in.

use std::fmt;

use super::format::{BlobPart, Chained, ChainedFault, NewBlob, blob_hash, chain_hash, relayed_len};
use super::{AppendError, Appended, BLOB_LEN_MAX, Entry, Head, PAYLOAD_LEN_MAX};
use crate::policy::ids::{EventId, OriginId};

/// A record as it travels between peers: what its origin hashed, and its personal fields as they are now.
#[derive(Clone, PartialEq, Eq)]
pub struct Relayed {
    /// The exact bytes its origin hashed; the format document draws them.
    pub chained: Vec<u8>,
    /// Its chain hash: SHA-256(hash of the origin's record before ‖ `chained`).
    pub hash: [u8; 32],
    /// Its personal fields.
    pub blob: RelayedBlob,
}

/// The personal fields of a record that travels.
#[derive(Clone, PartialEq, Eq)]
pub enum RelayedBlob {
    /// The record never had any.
    None,
    /// As they were recorded. SHA-256(`salt` ‖ `bytes`) is in the chained part.
    Present {
        /// Keeps the chained hash from telling anything once it is erased.
        salt: [u8; 16],
        /// At most [`BLOB_LEN_MAX`] bytes.
        bytes: Vec<u8>,
    },
    /// They were erased, or cannot be read where the record comes from.
    Erased,
}

/// Shows lengths only: both parts hold personal data.
impl fmt::Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob_len = match &self.blob {
            RelayedBlob::None => None,
            RelayedBlob::Present { bytes, .. } => Some(bytes.len()),
            RelayedBlob::Erased => Some(0),
        };
        f.debug_struct("Relayed")
            .field("id", &self.id().ok())
            .field("chained_len", &self.chained.len())
            .field("blob_len", &blob_len)
            .finish()
    }
}

/// What a relayed record's bytes say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RelayedParts<'a> {
    /// Its name for ever.
    pub id: EventId,
    /// In the first record of an origin: the last record of the origin that its store had before, if there was one.
    /// It need not be held where the record is read.
    pub previous: Option<(OriginId, Head)>,
    /// What was appended.
    pub payload: &'a [u8],
}

/// Why bytes that a peer sent are no record. Nothing of them was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayFault {
    /// The origin runs a later version.
    #[error("the record's version or flags are unknown; use a newer optgate")]
    Unknown,
    /// The bytes contradict themselves, or record and personal fields do not belong together.
    #[error("the record's bytes are not as any optgate writes them")]
    Form,
    /// It is longer than any origin's records may be.
    #[error("the record's {part} has {len} bytes; at most {max} fit")]
    TooLong {
        /// `payload` or `blob`.
        part: &'static str,
        /// Its length.
        len: usize,
        /// The most that fits.
        max: usize,
    },
}

impl From<ChainedFault> for RelayFault {
    fn from(fault: ChainedFault) -> Self {
        match fault {
            ChainedFault::Unknown => Self::Unknown,
            ChainedFault::Form => Self::Form,
        }
    }
}

impl Relayed {
    /// Its name for ever.
    ///
    /// # Errors
    /// [`RelayFault`]
    pub fn id(&self) -> Result<EventId, RelayFault> {
        Ok(self.parse()?.id)
    }

    /// What its bytes say. Checks their form, not their hashes.
    ///
    /// # Errors
    /// [`RelayFault`]
    pub fn parse(&self) -> Result<RelayedParts<'_>, RelayFault> {
        let parts = self.split()?;
        Ok(RelayedParts { id: parts.id, previous: parts.genesis.flatten(), payload: parts.payload })
    }

    /// Verifies it against the record of `origin` that is held last, for whoever keeps no records: its name and what was appended.
    ///
    /// # Errors
    /// [`RelayError::Gap`] unless it is the next one, [`RelayError::Chain`], [`RelayError::Malformed`].
    pub fn verify_behind(
        &self,
        origin: OriginId,
        last: Option<Head>,
    ) -> Result<(EventId, &[u8]), RelayError> {
        let parts = self.split()?;
        let id = parts.id;
        let have = last.map_or(0, |head| head.sequence);
        if id.origin != origin {
            return Err(RelayError::Chain { id });
        }
        if have.checked_add(1) != Some(id.sequence) {
            return Err(RelayError::Gap { origin, have, got: id.sequence });
        }
        let before = parts.genesis_hash().or(last.map(|head| head.hash)).unwrap_or_default();
        let blob_is_chained = match &self.blob {
            RelayedBlob::Present { salt, bytes } => Some(blob_hash(salt, bytes)) == parts.blob_hash,
            RelayedBlob::None | RelayedBlob::Erased => true,
        };
        if blob_is_chained && chain_hash(&before, &self.chained) == self.hash {
            Ok((id, parts.payload))
        } else {
            Err(RelayError::Chain { id })
        }
    }

    fn split(&self) -> Result<Chained<'_>, RelayFault> {
        let parts = Chained::parse(&self.chained)?;
        let blob_len = match &self.blob {
            RelayedBlob::Present { bytes, .. } => bytes.len(),
            RelayedBlob::None | RelayedBlob::Erased => 0,
        };
        let lens = [("payload", parts.payload.len(), PAYLOAD_LEN_MAX), ("blob", blob_len, BLOB_LEN_MAX)];
        if let Some((part, len, max)) = lens.into_iter().find(|(_, len, max)| len > max) {
            return Err(RelayFault::TooLong { part, len, max });
        }
        if parts.blob_hash.is_some() == (self.blob == RelayedBlob::None) {
            return Err(RelayFault::Form);
        }
        Ok(parts)
    }
}

/// What became of a relayed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relaying {
    /// It is durable here now.
    Appended(Appended),
    /// It was durable here before, with the same hash.
    Known,
}

/// Why a relayed record was not taken. Nothing of it was written, unless it is [`AppendError::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// Records before it are missing here: ask for them first.
    #[error("event {got} of origin {origin} came after event {have}; send what is between them first")]
    Gap {
        /// The origin.
        origin: OriginId,
        /// The last sequence held here; 0: none.
        have: u64,
        /// The sequence that came.
        got: u64,
    },
    /// The sequence is held here with another hash. Which of the two is right is not decided here, nor whether `got` follows from anything.
    #[error("event {id} is held here with another hash; two stores may have been writing as one origin")]
    Fork {
        /// The record.
        id: EventId,
        /// The hash held here.
        held: [u8; 32],
        /// The hash that came.
        got: [u8; 32],
    },
    /// The origin is this run of this store itself, which has not written that record.
    #[error("event {id} claims to be of this store's present run, which never wrote it; find out who did")]
    NeverWritten {
        /// The record.
        id: EventId,
    },
    /// Its hash does not follow from the record held before it and its bytes, or its personal fields are not those that were chained.
    #[error("event {id} does not verify against its origin's chain; take it from another peer")]
    Chain {
        /// The record.
        id: EventId,
    },
    /// It is held here, but can no longer be read, so that the two cannot be compared.
    #[error("event {id} is held here but cannot be read; restore this store from a backup")]
    Unreadable {
        /// The record.
        id: EventId,
    },
    /// It is no record.
    #[error(transparent)]
    Malformed(#[from] RelayFault),
    /// The ledger did not take it, as it would not have taken an own entry.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// A relayed record that passed what can be told without the chain, on its way to the writer.
#[derive(Clone)]
pub(crate) struct Checked {
    pub(crate) id: EventId,
    pub(crate) priority: bool,
    record: Relayed,
    /// In the first of an origin: the last record of its store's origin before, if there was one.
    genesis: Option<Option<(OriginId, Head)>>,
    payload_at: usize,
    /// The personal fields are those that were chained.
    blob_is_chained: bool,
}

impl Checked {
    /// Does the work that needs no other record, so that the writer need not.
    pub(crate) fn new(record: Relayed, priority: bool) -> Result<Self, RelayFault> {
        let parts = record.split()?;
        let (id, payload_at, genesis) = (parts.id, parts.payload_at, parts.genesis);
        let blob_is_chained = match &record.blob {
            RelayedBlob::Present { salt, bytes } => Some(blob_hash(salt, bytes)) == parts.blob_hash,
            RelayedBlob::None | RelayedBlob::Erased => true,
        };
        Ok(Self { id, priority, record, genesis, payload_at, blob_is_chained })
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        self.record.hash
    }

    pub(crate) fn chained(&self) -> &[u8] {
        &self.record.chained
    }

    pub(crate) fn blob(&self) -> BlobPart<'_> {
        match &self.record.blob {
            RelayedBlob::None => BlobPart::None,
            RelayedBlob::Present { salt, bytes } => BlobPart::Present(NewBlob { salt: *salt, bytes }),
            RelayedBlob::Erased => BlobPart::Erased,
        }
    }

    /// Whether it verifies behind a record with the hash `before`.
    pub(crate) fn follows(&self, before: &[u8; 32]) -> bool {
        let before = self.genesis.map_or(*before, |previous| previous.map_or([0; 32], |(_, head)| head.hash));
        self.blob_is_chained && chain_hash(&before, &self.record.chained) == self.record.hash
    }

    /// What it names, if it is the first of its origin and its store had one before.
    pub(crate) fn previous(&self) -> Option<(OriginId, Head)> {
        self.genesis.flatten()
    }

    /// Its length on disk.
    pub(crate) fn record_len(&self) -> u64 {
        relayed_len(self.record.chained.len(), self.blob().len())
    }

    /// What it costs in a queue or group, but for what every record costs.
    pub(crate) fn bytes(&self) -> usize {
        self.record.chained.len() + self.blob().len().unwrap_or(0)
    }

    /// As whoever applies it wants it.
    pub(crate) fn into_entry(self) -> Entry {
        let mut payload = self.record.chained;
        payload.drain(..self.payload_at);
        let blob = match self.record.blob {
            RelayedBlob::Present { bytes, .. } => Some(bytes),
            RelayedBlob::None | RelayedBlob::Erased => None,
        };
        Entry { payload, blob, priority: self.priority, bulk: false }
    }
}
