//! A footer: what a closed segment holds.

use std::collections::BTreeMap;

use super::{Seed, array_at, u32_at, u64_at};
use crate::ledger::Head;
use crate::policy::ids::{EventId, OriginId};

/// The end of a footer, by which it is found.
pub(crate) const FOOTER_TRAILER_LEN: usize = 16;
const FOOTER_MAGIC: &[u8; 8] = b"optgFOOT";
const FOOTER_END_MAGIC: &[u8; 8] = b"optgDONE";
const FOOTER_PREFIX_LEN: usize = 64;
const FOOTER_ORIGIN_LEN: usize = 64;
const FOOTER_PREVIOUS_LEN: usize = 72;

/// What a closed segment holds, so that a start need not scan it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) number: u32,
    pub(crate) end: u64,
    pub(crate) contents: Contents,
}

/// What a segment holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) records: u64,
    pub(crate) last_batch: u64,
    /// The last record that this store numbered itself.
    pub(crate) own: Option<(OriginId, Head)>,
    /// First sequence here and last record, per origin.
    pub(crate) origins: BTreeMap<OriginId, (u64, Head)>,
    /// What the first record of an origin names as the last of its store's origin before, for those whose first record is here.
    pub(crate) previous: BTreeMap<OriginId, (OriginId, Head)>,
}

/// A record, as far as a segment's contents go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) id: EventId,
    pub(crate) hash: [u8; 32],
    /// This store numbered it.
    pub(crate) own: bool,
    pub(crate) batch: u64,
    /// What it names, if it is the first of its origin and its store had one before.
    pub(crate) previous: Option<(OriginId, Head)>,
}

impl Contents {
    /// Counts one more record.
    pub(crate) fn add(&mut self, record: Counted) {
        let Counted { id, hash, own, batch, previous } = record;
        self.records += 1;
        self.last_batch = batch;
        let head = Head { sequence: id.sequence, hash };
        if own {
            self.own = Some((id.origin, head));
        }
        self.origins.entry(id.origin).and_modify(|(_, last)| *last = head).or_insert((id.sequence, head));
        if let Some(previous) = previous {
            self.previous.insert(id.origin, previous);
        }
    }

    /// Whether a footer can tell the last own record: it names only its origin, whose last record here may be one
    /// that a peer gave back.
    pub(crate) fn fits_footer(&self) -> bool {
        self.own.is_none_or(|(origin, head)| self.origins.get(&origin).is_some_and(|(_, last)| *last == head))
    }
}

impl Footer {
    pub(crate) fn encode(&self, seed: Seed) -> Vec<u8> {
        let contents = &self.contents;
        let mut out = Vec::with_capacity(
            FOOTER_PREFIX_LEN
                + contents.origins.len() * FOOTER_ORIGIN_LEN
                + contents.previous.len() * FOOTER_PREVIOUS_LEN
                + FOOTER_TRAILER_LEN,
        );
        out.extend_from_slice(FOOTER_MAGIC);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&(contents.origins.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        out.extend_from_slice(&contents.records.to_le_bytes());
        out.extend_from_slice(&contents.last_batch.to_le_bytes());
        out.extend_from_slice(&u32::from(contents.own.is_some()).to_le_bytes());
        // One more than there are, so that a footer of a build that did not tell is known by its zero.
        out.extend_from_slice(&(contents.previous.len() as u32 + 1).to_le_bytes());
        out.extend_from_slice(&contents.own.map_or([0; 16], |(origin, _)| origin.0));
        for (origin, (first, last)) in &contents.origins {
            out.extend_from_slice(&origin.0);
            out.extend_from_slice(&first.to_le_bytes());
            out.extend_from_slice(&last.sequence.to_le_bytes());
            out.extend_from_slice(&last.hash);
        }
        for (origin, (previous, head)) in &contents.previous {
            out.extend_from_slice(&origin.0);
            out.extend_from_slice(&previous.0);
            out.extend_from_slice(&head.sequence.to_le_bytes());
            out.extend_from_slice(&head.hash);
        }
        let len = (out.len() + FOOTER_TRAILER_LEN) as u32;
        out.extend_from_slice(&len.to_le_bytes());
        let crc = seed.checksum(self.end, &out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(FOOTER_END_MAGIC);
        out
    }

    /// The length of the footer whose last bytes these are.
    pub(crate) fn len_from_trailer(trailer: &[u8; FOOTER_TRAILER_LEN]) -> Option<u64> {
        (trailer[8..16] == *FOOTER_END_MAGIC).then(|| u64::from(u32_at(trailer, 0)))
    }

    /// Reads a footer that starts at `offset` and ends with the file. One that does not tell what first records name is none: its
    /// segment is scanned and gets a new one.
    pub(crate) fn parse(bytes: &[u8], seed: Seed, offset: u64) -> Option<Self> {
        let body_len = bytes.len().checked_sub(FOOTER_TRAILER_LEN)?;
        if body_len < FOOTER_PREFIX_LEN
            || bytes[0..8] != *FOOTER_MAGIC
            || u32_at(bytes, body_len + 4) != seed.checksum(offset, &bytes[..body_len + 4])
        {
            return None;
        }
        let entries = &bytes[FOOTER_PREFIX_LEN..body_len];
        let origins_len = (u32_at(bytes, 12) as usize).checked_mul(FOOTER_ORIGIN_LEN)?;
        let previous_len = (u32_at(bytes, 44).checked_sub(1)? as usize).checked_mul(FOOTER_PREVIOUS_LEN)?;
        if origins_len.checked_add(previous_len) != Some(entries.len()) || u64_at(bytes, 16) != offset {
            return None;
        }
        let (entries, previous) = entries.split_at(origins_len);
        let previous = previous
            .chunks_exact(FOOTER_PREVIOUS_LEN)
            .map(|entry| {
                let head = Head { sequence: u64_at(entry, 32), hash: array_at(entry, 40) };
                (OriginId(array_at(entry, 0)), (OriginId(array_at(entry, 16)), head))
            })
            .collect();
        let origins: BTreeMap<OriginId, (u64, Head)> = entries
            .chunks_exact(FOOTER_ORIGIN_LEN)
            .map(|entry| {
                let head = Head { sequence: u64_at(entry, 24), hash: array_at(entry, 32) };
                (OriginId(array_at(entry, 0)), (u64_at(entry, 16), head))
            })
            .collect();
        let own = OriginId(array_at(bytes, 48));
        let own_head = || origins.get(&own).map(|(_, head)| (own, *head));
        Some(Self {
            number: u32_at(bytes, 8),
            end: offset,
            contents: Contents {
                records: u64_at(bytes, 24),
                last_batch: u64_at(bytes, 32),
                own: if u32_at(bytes, 40) == 1 { own_head() } else { None },
                origins,
                previous,
            },
        })
    }
}
