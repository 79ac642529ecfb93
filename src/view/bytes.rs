//! Numbers, times and origins as few bytes, in one pass and without a table up front.

use crate::policy::ids::{EventId, OriginId};
use crate::policy::time::Timestamp;

/// Bytes that are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record of the view is damaged at its {0}; delete the view's folder to rebuild it from the ledger")]
pub struct Damage(pub &'static str);

/// Builds a part of a record.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    origins: Vec<OriginId>,
    before: i64,
}

/// Appends `value`, seven bits a byte, the lowest first.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl Writer {
    /// An empty part that takes over the room of `bytes`.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        Self { bytes, origins: Vec::new(), before: 0 }
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub fn number(&mut self, number: u64) {
        put_varint(&mut self.bytes, number);
    }

    /// How many of something follow.
    pub fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    /// Bytes whose number the reader knows.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn text(&mut self, text: &str) {
        self.count(text.len());
        self.raw(text.as_bytes());
    }

    /// A time, as the difference to the one written before: times of one person lie close together.
    pub fn time(&mut self, time: Timestamp) {
        let step = time.0.wrapping_sub(self.before);
        self.number((step << 1 ^ step >> 63).cast_unsigned());
        self.before = time.0;
    }

    /// An origin: its place among those seen so far, and itself when it is new.
    pub fn origin(&mut self, origin: OriginId) {
        let place = self.origins.iter().position(|seen| *seen == origin);
        self.count(place.unwrap_or(self.origins.len()));
        if place.is_none() {
            self.raw(&origin.0);
            self.origins.push(origin);
        }
    }

    pub fn event(&mut self, id: EventId) {
        self.origin(id.origin);
        self.number(id.sequence);
    }
}

/// Reads a part of a record. Nothing it is given makes it panic or reserve more than it was given.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    origins: Vec<OriginId>,
    before: i64,
}

impl<'a> Reader<'a> {
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, origins: Vec::new(), before: 0 }
    }

    /// What is left.
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Asserts that all was read.
    pub const fn end(&self) -> Result<(), Damage> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Damage("end")) }
    }

    pub fn byte(&mut self) -> Result<u8, Damage> {
        let (first, rest) = self.bytes.split_first().ok_or(Damage("end"))?;
        self.bytes = rest;
        Ok(*first)
    }

    pub fn number(&mut self) -> Result<u64, Damage> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damage("number"))
    }

    /// How many things of at least one byte each follow.
    pub fn count(&mut self) -> Result<usize, Damage> {
        let count = self.number()?;
        usize::try_from(count).ok().filter(|count| *count <= self.bytes.len()).ok_or(Damage("count"))
    }

    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], Damage> {
        let (raw, rest) = self.bytes.split_at_checked(len).ok_or(Damage("end"))?;
        self.bytes = rest;
        Ok(raw)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (array, rest) = self.bytes.split_first_chunk().ok_or(Damage("end"))?;
        self.bytes = rest;
        Ok(*array)
    }

    pub fn text(&mut self) -> Result<&'a str, Damage> {
        let len = self.count()?;
        str::from_utf8(self.raw(len)?).map_err(|_| Damage("text"))
    }

    pub fn time(&mut self) -> Result<Timestamp, Damage> {
        let zigzag = self.number()?;
        let step = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        self.before = self.before.wrapping_add(step);
        Ok(Timestamp(self.before))
    }

    pub fn origin(&mut self) -> Result<OriginId, Damage> {
        let place = usize::try_from(self.number()?).map_err(|_| Damage("origin"))?;
        if place == self.origins.len() {
            let origin = OriginId(self.array()?);
            self.origins.push(origin);
        }
        self.origins.get(place).copied().ok_or(Damage("origin"))
    }

    pub fn event(&mut self) -> Result<EventId, Damage> {
        Ok(EventId { origin: self.origin()?, sequence: self.number()? })
    }
}
