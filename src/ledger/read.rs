//! Reading durable records, beside the writer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::format::{BlobView, RecordView};
use super::scan::Cursor;
use super::shared::Shared;
use super::{Appended, Blob, Damage, Position, ReadError, Record};
use crate::policy::ids::{EventId, OriginId};

mod origin;

pub use origin::RecordsOf;

/// Reads durable records, beside the writer. Cheap to clone; works after the ledger was closed, too.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// All durable records from `position` on, in order, in bounded memory. A position at or behind the head gives nothing until the head passes it.
    pub fn iter_from(&self, position: Position) -> Records {
        let erasures = self.shared.erasures.load(Ordering::Acquire);
        Records { shared: Arc::clone(&self.shared), at: position, open: None, erasures }
    }

    /// The durable records of `origin` from `sequence` on, in order, in bounded memory. It reads little more of the
    /// ledger than where they stand.
    pub fn records_of(&self, origin: OriginId, sequence: u64) -> RecordsOf {
        RecordsOf::new(self, origin, sequence)
    }

    /// What this store itself numbered as `origin` from `sequence` on, in order, in bounded memory. It reads little before that, and on to
    /// the head of the ledger. Errors tell of what cannot be read, whosever it is.
    pub fn own_records_of(
        &self,
        origin: OriginId,
        sequence: u64,
    ) -> impl Iterator<Item = Result<Record, ReadError>> + Send + use<> {
        let start = self.shared.index.lock().before(EventId { origin, sequence: sequence.max(1) });
        self.iter_from(start).filter(move |record| match record {
            Ok(record) => {
                let id = record.appended.id;
                record.own && id.origin == origin && id.sequence >= sequence
            }
            Err(_) => true,
        })
    }

    /// The record that starts at `position`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_at(&self, position: Position) -> Result<Record, ReadError> {
        let fault = |(segment, source)| ReadError::Io { segment, source };
        let place = self.shared.locate(position).map_err(fault)?.ok_or(ReadError::NotFound(position))?;
        let number = place.number;
        let mut cursor = Cursor::small(place.file, place.seed, place.limit);
        for last_try in [false, true] {
            let record = match cursor.record(place.offset).map_err(|source| fault((number, source)))? {
                Some(view) => own(&view, number, place.offset),
                None => {
                    let next =
                        cursor.next_good(place.offset + 1, 0).map_err(|source| fault((number, source)))?;
                    let to = next.unwrap_or(place.limit);
                    return Err(ReadError::Damaged(Damage { segment: number, from: place.offset, to }));
                }
            };
            // A blob that is being erased while it is read looks damaged once.
            if last_try || record.blob != Blob::Damaged {
                return Ok(record);
            }
            cursor.forget();
        }
        Err(ReadError::NotFound(position))
    }
}

/// Records in log order. `None` means the head was reached; once the head has moved, `next` goes on. After
/// [`ReadError::Damaged`] it goes on behind the damage.
pub struct Records {
    shared: Arc<Shared>,
    at: Position,
    open: Option<(u32, Cursor)>,
    /// How many blobs had been erased when the cursor's window was filled, at least.
    erasures: u64,
}

impl Records {
    /// Where the next record will be looked for: what to remember in order to go on later.
    pub fn position(&self) -> Position {
        self.at
    }

    /// Makes sure that the open cursor has something to read at the current place; false at the head.
    fn prepare(&mut self) -> Result<bool, ReadError> {
        let (number, offset) = (self.at.segment(), u64::from(self.at.offset()));
        let erasures = self.shared.erasures.load(Ordering::Acquire);
        if erasures != self.erasures
            && let Some((_, cursor)) = &mut self.open
        {
            // What was read ahead may hold what was erased meanwhile.
            cursor.forget();
        }
        self.erasures = erasures;
        let usable =
            self.open.as_ref().is_some_and(|(open, cursor)| *open == number && offset < cursor.limit());
        if !usable {
            let place =
                self.shared.locate(self.at).map_err(|(segment, source)| ReadError::Io { segment, source })?;
            let Some(place) = place else { return Ok(false) };
            self.at = position(place.number, place.offset);
            match &mut self.open {
                Some((open, cursor)) if *open == place.number => cursor.set_limit(place.limit),
                _ => self.open = Some((place.number, Cursor::new(place.file, place.seed, place.limit))),
            }
        }
        Ok(true)
    }
}

impl Iterator for Records {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.prepare() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(fault) => return Some(Err(fault)),
        }
        let (segment, offset) = (self.at.segment(), u64::from(self.at.offset()));
        let (_, cursor) = self.open.as_mut()?;
        let read = cursor.record(offset).map(|view| view.map(|view| own(&view, segment, offset)));
        match read {
            Ok(Some(record)) => {
                self.at = record.appended.next;
                Some(Ok(record))
            }
            Ok(None) => match cursor.next_good(offset + 1, 0) {
                Ok(next) => {
                    let to = next.unwrap_or(cursor.limit());
                    self.at = position(segment, to);
                    Some(Err(ReadError::Damaged(Damage { segment, from: offset, to })))
                }
                Err(source) => Some(Err(ReadError::Io { segment, source })),
            },
            Err(source) => Some(Err(ReadError::Io { segment, source })),
        }
    }
}

/// Offsets fit, since no segment reaches 4 GiB.
pub(crate) fn position(segment: u32, offset: u64) -> Position {
    Position::new(segment, u32::try_from(offset).unwrap_or(u32::MAX))
}

fn own(view: &RecordView<'_>, segment: u32, offset: u64) -> Record {
    Record {
        appended: Appended {
            id: view.id,
            position: position(segment, offset),
            next: position(segment, offset + view.len),
        },
        payload: view.payload.to_vec(),
        blob: match view.blob {
            BlobView::None => Blob::None,
            BlobView::Present { bytes, .. } => Blob::Present(bytes.to_vec()),
            BlobView::Erased { .. } => Blob::Erased,
            BlobView::Damaged => Blob::Damaged,
        },
        hash: view.hash,
        own: view.own,
    }
}
