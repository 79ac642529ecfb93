//! Walking through a segment's records, and telling a crash from rot.

use std::io;
use std::sync::Arc;

use super::Damage;
use super::disk::{DiskFile, read_lossy};
use super::format::{
    ALIGN, BlobView, Contents, Counted, HEADER_LEN, RECORD_PREFIX_LEN, RecordView, Seed, record_len_at,
};
/// How much of a segment is read at once.
const WINDOW_LEN: usize = 256 * 1024;

/// Stands for bytes that the disk cannot give back. Not zero, which would mean that nothing was written there.
pub(crate) const UNREADABLE: u8 = 0xff;

/// Reads a segment from one place to the next, a window at a time.
pub(crate) struct Cursor {
    file: Arc<dyn DiskFile>,
    seed: Seed,
    /// Nothing is read from here on.
    limit: u64,
    window: Vec<u8>,
    /// Where the window starts, and how much of it is filled.
    window_at: u64,
    filled: usize,
    window_len: usize,
}

impl Cursor {
    /// `limit`: where the records end.
    pub(crate) fn new(file: Arc<dyn DiskFile>, seed: Seed, limit: u64) -> Self {
        Self { file, seed, limit, window: Vec::new(), window_at: 0, filled: 0, window_len: WINDOW_LEN }
    }

    /// As [`Cursor::new`], for reading one record only.
    pub(crate) fn small(file: Arc<dyn DiskFile>, seed: Seed, limit: u64) -> Self {
        Self { window_len: 4096, ..Self::new(file, seed, limit) }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// The limit has moved on.
    pub(crate) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Forgets what was read, since it may have changed.
    pub(crate) fn forget(&mut self) {
        self.filled = 0;
    }

    /// `len` bytes from `offset` on, fewer at the limit.
    pub(crate) fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let len = len.min(usize::try_from(self.limit.saturating_sub(offset)).unwrap_or(usize::MAX));
        let held = offset >= self.window_at && offset + len as u64 <= self.window_at + self.filled as u64;
        if !held {
            let most = usize::try_from(self.limit.saturating_sub(offset)).unwrap_or(usize::MAX);
            let wanted = self.window_len.max(len).min(most);
            if self.window.len() < wanted {
                self.window = vec![0; wanted];
            }
            self.filled = 0;
            self.filled = read_lossy(&*self.file, &mut self.window[..wanted], offset, UNREADABLE)?;
            self.window_at = offset;
        }
        let from = (offset - self.window_at) as usize;
        let to = (from + len).min(self.filled);
        Ok(self.window.get(from..to).unwrap_or_default())
    }

    /// The record at `offset`, if a good one stands there.
    pub(crate) fn record(&mut self, offset: u64) -> io::Result<Option<RecordView<'_>>> {
        let seed = self.seed;
        let Some(len) = record_len_at(self.bytes(offset, RECORD_PREFIX_LEN)?) else { return Ok(None) };
        Ok(RecordView::parse(self.bytes(offset, len as usize)?, seed, offset))
    }

    /// The raw bytes of the record at `offset`, known to be `len` long.
    pub(crate) fn raw(&mut self, offset: u64, len: u64) -> io::Result<&[u8]> {
        self.bytes(offset, len as usize)
    }

    /// The first place from `from` on where a good record of batch `batch_min` or later stands.
    pub(crate) fn next_good(&mut self, from: u64, batch_min: u64) -> io::Result<Option<u64>> {
        let mut at = from.next_multiple_of(ALIGN);
        while at + RECORD_PREFIX_LEN as u64 <= self.limit {
            // Most of what is searched is the space ahead of the last record.
            let ahead = self.bytes(at, ZEROS.len())?;
            if !ahead.is_empty() && *ahead == ZEROS[..ahead.len()] {
                at += (ahead.len() as u64).next_multiple_of(ALIGN);
                continue;
            }
            let candidate = record_len_at(self.bytes(at, RECORD_PREFIX_LEN)?).is_some();
            if candidate && self.record(at)?.is_some_and(|record| record.batch >= batch_min) {
                return Ok(Some(at));
            }
            at += ALIGN;
        }
        Ok(None)
    }

    /// Where the last byte other than zero from `from` on ends; `from` if there is none.
    pub(crate) fn used_end(&mut self, from: u64) -> io::Result<u64> {
        let mut end = from;
        let mut at = from;
        while at < self.limit {
            let bytes = self.bytes(at, ZEROS.len())?;
            if bytes.is_empty() {
                break;
            }
            if *bytes != ZEROS[..bytes.len()]
                && let Some(last) = bytes.iter().rposition(|byte| *byte != 0)
            {
                end = at + last as u64 + 1;
            }
            at += bytes.len() as u64;
        }
        Ok(end)
    }
}

/// To compare with, a stretch at a time.
static ZEROS: [u8; 4096] = [0; 4096];

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Known: what does not verify before the cursor's limit is rot.
    Known,
    /// The last segment, not closed in order: a torn tail is possible. Carries the number of its first batch, where its header tells.
    Open { first_batch: Option<u64> },
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Behind the last good record that counts.
    pub(crate) end: u64,
    /// What was found before the last batch.
    pub(crate) contents: Contents,
    /// The records of the last batch.
    pub(crate) last_batch: Vec<Counted>,
    /// Where the last batch starts, if there is a record.
    pub(crate) last_batch_at: Option<u64>,
    /// Rot.
    pub(crate) damages: Vec<Damage>,
    /// Bytes of a torn tail.
    pub(crate) cut_bytes: u64,
}

impl Scan {
    /// What was found, the last batch included.
    pub(crate) fn all(&self) -> Contents {
        let mut contents = self.contents.clone();
        self.last_batch.iter().for_each(|record| contents.add(*record));
        contents
    }
}

/// Something that does not verify.
struct Suspect {
    from: u64,
    to: u64,
    /// The batch it belongs to.
    batch: u64,
}

/// Walks through the records of segment `number` from its start to the cursor's limit.
pub(crate) fn scan(cursor: &mut Cursor, number: u32, ending: Ending) -> io::Result<Scan> {
    let (mut scan, mut suspects) = walk(cursor, ending)?;
    let last_batch = scan.last_batch.last().map_or(0, |found| found.batch);
    let cut = match ending {
        Ending::Known => None,
        // What belongs to the last batch may be a crash's doing; a batch before it was on disk before the last was written.
        Ending::Open { .. } => {
            suspects.iter().filter(|suspect| suspect.batch >= last_batch).map(|suspect| suspect.from).min()
        }
    };
    #[cfg(sabotage)]
    let cut = match ending {
        _ if crate::sabotage::is("torn-tail-as-rot") => None,
        Ending::Open { .. } if crate::sabotage::is("rot-truncated") => {
            suspects.iter().map(|suspect| suspect.from).min()
        }
        _ => cut,
    };
    if let Some(cut) = cut {
        let cut_bytes = cursor.used_end(cut)? - cut;
        let limit = cursor.limit();
        cursor.set_limit(cut);
        (scan, suspects) = walk(cursor, Ending::Known)?;
        cursor.set_limit(limit);
        scan.cut_bytes = cut_bytes;
    }
    scan.damages = suspects
        .into_iter()
        .map(|suspect| Damage { segment: number, from: suspect.from, to: suspect.to })
        .collect();
    Ok(scan)
}

fn walk(cursor: &mut Cursor, ending: Ending) -> io::Result<(Scan, Vec<Suspect>)> {
    let mut scan = Scan { end: HEADER_LEN, ..Scan::default() };
    let mut suspects = Vec::new();
    let mut at = HEADER_LEN;
    let mut previous: Option<(u64, bool)> = None;
    while at < cursor.limit() {
        let batch_min = previous.map_or(0, |(batch, _)| batch);
        if let Some(record) = cursor.record(at)?.filter(|record| record.batch >= batch_min) {
            if matches!(record.blob, BlobView::Damaged) {
                suspects.push(Suspect { from: at, to: at + record.len, batch: record.batch });
            }
            if scan.last_batch_at.is_none() || record.batch > batch_min {
                scan.last_batch_at = Some(at);
                let done = std::mem::take(&mut scan.last_batch);
                done.iter().for_each(|record| scan.contents.add(*record));
            }
            scan.last_batch.push(Counted {
                id: record.id,
                hash: record.hash,
                own: record.own,
                batch: record.batch,
                previous: record.genesis.flatten(),
            });
            previous = Some((record.batch, record.last));
            at += record.len;
            scan.end = at;
            continue;
        }
        let next = cursor.next_good(at, batch_min)?;
        let to = match (next, ending) {
            (Some(next), _) => next,
            (None, Ending::Known) => cursor.limit(),
            (None, Ending::Open { .. }) => cursor.used_end(at)?,
        };
        if to > at {
            suspects.push(Suspect { from: at, to, batch: owner(cursor, previous, ending, next)? });
        }
        let Some(next) = next else { break };
        at = next;
    }
    Ok((scan, suspects))
}

/// The batch that damage belongs to: that of the record before it, or the next one if that record ended its batch.
fn owner(
    cursor: &mut Cursor,
    previous: Option<(u64, bool)>,
    ending: Ending,
    next: Option<u64>,
) -> io::Result<u64> {
    match (previous, ending) {
        (Some((batch, last)), _) => Ok(if last { batch + 1 } else { batch }),
        (None, Ending::Open { first_batch: Some(batch) }) => Ok(batch),
        // With nothing before it and no header, it belongs to the batch behind it: rather cut too little.
        _ => match next {
            Some(next) => Ok(cursor.record(next)?.map_or(0, |record| record.batch)),
            None => Ok(0),
        },
    }
}
