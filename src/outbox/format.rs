//! The outbox's file.
//!
//! ```text
//! file   = header, records
//! header = "OGOUTBX", version: u8, identity: 16, key check: 16, next number: u64, CRC32C of all that: u32
//! record = length of body: u32, CRC32C of body: u32, body
//! body   = 1, number: u64, priority: u8, has blob: u8, length of payload: u32, payload, blob        (an item)
//!        | 2, number: u64                                                                        (done with)
//! ```
//!
//! Numbers are little-endian.

use std::collections::BTreeMap;
use std::io;

use super::{FILE, Item, OpenError, io_error};
use crate::ledger::disk::Disk;

const MAGIC: &[u8; 7] = b"OGOUTBX";
const VERSION: u8 = 1;
/// The length of the header.
pub const HEADER_LEN: usize = 52;
const PREFIX_LEN: usize = 8;
const ITEM: u8 = 1;
const DONE: u8 = 2;
/// No body is longer.
const BODY_LEN_MAX: usize = crate::ledger::PAYLOAD_LEN_MAX + crate::ledger::BLOB_LEN_MAX + 64;

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents {
    pub identity: [u8; 16],
    /// The number of the next item.
    pub next: u64,
    /// What is not done with.
    pub items: BTreeMap<u64, Item>,
}

pub fn header(identity: [u8; 16], key_check: [u8; 16], next: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&identity);
    out.extend_from_slice(&key_check);
    out.extend_from_slice(&next.to_le_bytes());
    let check = crc32c::crc32c(&out);
    out.extend_from_slice(&check.to_le_bytes());
    out
}

pub fn put_item(out: &mut Vec<u8>, item: &Item) {
    put(out, |out| {
        out.push(ITEM);
        out.extend_from_slice(&item.number.to_le_bytes());
        out.push(u8::from(item.priority));
        out.push(u8::from(item.blob.is_some()));
        out.extend_from_slice(&(item.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&item.payload);
        out.extend_from_slice(item.blob.as_deref().unwrap_or_default());
    });
}

pub fn put_done(out: &mut Vec<u8>, number: u64) {
    put(out, |out| {
        out.push(DONE);
        out.extend_from_slice(&number.to_le_bytes());
    });
}

fn put(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX_LEN]);
    body(out);
    let (len, check) = (out.len() - start - PREFIX_LEN, crc32c::crc32c(&out[start + PREFIX_LEN..]));
    out[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
    out[start + 4..start + PREFIX_LEN].copy_from_slice(&check.to_le_bytes());
}

/// What the file holds, if there is one.
pub fn read(disk: &dyn Disk, key_check: [u8; 16]) -> Result<Option<Contents>, OpenError> {
    let names = disk.list().map_err(io_error("list"))?;
    if !names.iter().any(|name| name == FILE) {
        return Ok(None);
    }
    let bytes = read_all(disk).map_err(io_error("read"))?;
    parse(&bytes, key_check)
}

fn read_all(disk: &dyn Disk) -> io::Result<Vec<u8>> {
    let file = disk.open(FILE)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

fn parse(bytes: &[u8], key_check: [u8; 16]) -> Result<Option<Contents>, OpenError> {
    let damaged = |what: &str| io_error("read")(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()));
    let Some((header, mut rest)) = bytes.split_at_checked(HEADER_LEN) else {
        return Err(damaged("its header is cut off; move the file away to begin anew"));
    };
    let (fields, check) = header.split_at(HEADER_LEN - 4);
    if &fields[..7] == MAGIC && fields[7] > VERSION {
        return Err(OpenError::Newer);
    }
    if &fields[..7] != MAGIC || crc32c::crc32c(fields).to_le_bytes() != check {
        return Err(damaged("its header is damaged; move the file away to begin anew"));
    }
    if fields[24..40] != key_check {
        return Err(OpenError::OtherKey);
    }
    let mut contents =
        Contents { identity: array(&fields[8..]), next: number(&fields[40..]), items: BTreeMap::new() };
    let mut skipped = 0usize;
    let mut skipped_before_good = 0usize;
    while !rest.is_empty() {
        match record(rest) {
            Some((body, tail)) if contents.take(body) => {
                skipped_before_good = skipped;
                rest = tail;
            }
            // A torn end, or rot. Whatever can be read behind it is worth having.
            _ => {
                skipped += 1;
                rest = &rest[1..];
            }
        }
    }
    if skipped_before_good > 0 {
        tracing::error!(
            bytes = skipped_before_good,
            "part of the outbox cannot be read; what was taken in there and not sent on is lost unless its caller tries again"
        );
    }
    Ok(Some(contents))
}

impl Contents {
    fn take(&mut self, body: &[u8]) -> bool {
        match *body {
            [DONE, ref rest @ ..] if rest.len() == 8 => {
                let number = number(rest);
                self.items.remove(&number);
                self.next = self.next.max(number.saturating_add(1));
                true
            }
            [ITEM, ref rest @ ..] if rest.len() >= 14 => {
                let payload_len = u32::from_le_bytes(array(&rest[10..])) as usize;
                let Some((payload, blob)) = rest[14..].split_at_checked(payload_len) else { return false };
                let number = number(rest);
                let item = Item {
                    number,
                    priority: rest[8] != 0,
                    payload: payload.to_vec(),
                    blob: (rest[9] != 0).then(|| blob.to_vec()),
                };
                self.items.insert(number, item);
                self.next = self.next.max(number.saturating_add(1));
                true
            }
            _ => false,
        }
    }
}

/// The body of the first record, and what is behind it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (prefix, rest) = bytes.split_at_checked(PREFIX_LEN)?;
    let len = u32::from_le_bytes(array(prefix)) as usize;
    if len == 0 || len > BODY_LEN_MAX {
        return None;
    }
    let (body, rest) = rest.split_at_checked(len)?;
    (crc32c::crc32c(body).to_le_bytes() == prefix[4..]).then_some((body, rest))
}

/// The first bytes; zeros where there are fewer.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    let len = bytes.len().min(N);
    out[..len].copy_from_slice(&bytes[..len]);
    out
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(array(bytes))
}
