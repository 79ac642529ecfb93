//! Tests of the ledger as a whole, on the simulated disk unless they say otherwise.

use std::sync::Arc;

use super::commit::{Incoming, Verdict};
use super::log::{Log, Sizes};
use super::read::Reader;
use super::sim::SimDisk;
use super::{Appended, Committed, Entry, Opened, Position, ReadError, Record, recover};

mod crash;
mod mesh;
mod previous;
mod real;
mod relay;
mod relay_queue;
mod rot;
mod service;
mod source;
mod space;

const KEY_CHECK: [u8; 16] = [7; 16];

/// Small enough for several segments, large enough for a few records each.
/// Of ledgers that are written by hand: many small segments.
pub(crate) const BY_HAND: Sizes =
    Sizes { segment: 32_768, step: 4096, reserve: 8192, min_free: 0, mark_every: 512, marks_max: 8 };

const SIZES: Sizes =
    Sizes { segment: 8192, step: 4096, reserve: 4096, min_free: 0, mark_every: 512, marks_max: 8 };

fn entry(payload: &str) -> Entry {
    Entry { payload: payload.as_bytes().to_vec(), blob: None, priority: false, bulk: false }
}

fn with_blob(payload: &str, blob: &str) -> Entry {
    Entry { blob: Some(blob.as_bytes().to_vec()), ..entry(payload) }
}

fn open(disk: &SimDisk, sizes: Sizes) -> (Log, Opened) {
    recover::open(Arc::new(disk.clone()), sizes, KEY_CHECK).unwrap()
}

fn reader(log: &Log) -> Reader {
    Reader::new(Arc::clone(&log.shared))
}

fn own(entries: Vec<Entry>) -> Vec<Incoming> {
    entries.into_iter().map(Incoming::Own).collect()
}

/// One group, all of which must fit.
fn commit(log: &mut Log, entries: Vec<Entry>) -> Vec<Appended> {
    let committed = |verdict| match verdict {
        Verdict::Committed(Committed { appended, .. }) => appended,
        other => panic!("{other:?}"),
    };
    log.commit(own(entries)).unwrap().into_iter().map(committed).collect()
}

fn read_all(log: &Log) -> Vec<Result<Record, ReadError>> {
    reader(log).iter_from(Position::START).collect()
}

fn payloads(log: &Log) -> Vec<String> {
    read_all(log).into_iter().flatten().map(|record| String::from_utf8(record.payload).unwrap()).collect()
}
