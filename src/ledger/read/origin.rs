//! Reading one origin's records in order, as peers get them.

use crate::ledger::format::{BlobView, HEADER_LEN, RecordView};
use crate::ledger::{Position, ReadError, Relayed, RelayedBlob};
use crate::policy::ids::{EventId, OriginId};

use super::{Reader, Records, position};

/// One origin's durable records in sequence. `None` means that the last one was reached; once there are more, `next` goes on.
///
/// Each comes as it is when it is asked for: personal fields erased since the last one are not shown any more.
pub struct RecordsOf {
    records: Records,
    /// The record wanted.
    next: EventId,
    /// Where the index was last told something.
    noted: Position,
}

impl RecordsOf {
    pub(super) fn new(reader: &Reader, origin: OriginId, from: u64) -> Self {
        let next = EventId { origin, sequence: from.max(1) };
        let start = reader.shared.index.lock().before(next);
        Self { records: reader.iter_from(start), next, noted: start }
    }

    /// The record that is wanted next.
    pub fn wanted(&self) -> EventId {
        self.next
    }

    /// At the start of a segment: jumps over those that hold nothing of the origin, as far as the index knows.
    fn jumps(&mut self) -> bool {
        let at = self.records.at;
        if u64::from(at.offset()) > HEADER_LEN {
            return false;
        }
        let mark = self.records.shared.index.lock().before(self.next);
        self.records.at = at.max(mark);
        mark > at
    }

    /// Tells the index of a place far from the last one it knows, so that the next look there is shorter.
    fn note(&mut self, id: EventId) {
        let at = self.records.at;
        let every = self.records.shared.mark_every;
        if at.segment() != self.noted.segment()
            || u64::from(at.offset()) >= u64::from(self.noted.offset()) + every
        {
            self.records.shared.index.lock().note(id, at);
            self.noted = at;
        }
    }

    /// Sequences from the wanted one up to before `found` cannot be read here.
    fn lost(&mut self, found: u64) -> ReadError {
        let EventId { origin, sequence: from } = self.next;
        self.next.sequence = found;
        ReadError::Lost { origin, from, to: found - 1 }
    }

    fn advance(&mut self, len: u64) {
        let at = self.records.at;
        self.records.at = position(at.segment(), u64::from(at.offset()) + len);
    }
}

impl Iterator for RecordsOf {
    type Item = Result<Relayed, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.records.shared.table.read().vector.get(&self.next.origin).map(|head| head.sequence);
        // Nothing is read in search of what is not there.
        let head = head.filter(|head| self.next.sequence <= *head)?;
        loop {
            match self.records.prepare() {
                Ok(true) if self.jumps() => continue,
                Ok(true) => {}
                // The last ones are nowhere to be found.
                Ok(false) => return Some(Err(self.lost(head + 1))),
                Err(fault) => return Some(Err(fault)),
            }
            let at = self.records.at;
            let (segment, offset) = (at.segment(), u64::from(at.offset()));
            let (_, cursor) = self.records.open.as_mut()?;
            let fault = |source| Some(Err(ReadError::Io { segment, source }));
            let (id, len, relayed) = match cursor.record(offset) {
                Ok(Some(view)) => {
                    let wanted = view.id == self.next;
                    (view.id, view.len, wanted.then(|| relayed(&view)))
                }
                // What is lost with it shows when the sequence goes on behind it.
                Ok(None) => match cursor.next_good(offset + 1, 0) {
                    Ok(next) => {
                        self.records.at = position(segment, next.unwrap_or(cursor.limit()));
                        continue;
                    }
                    Err(source) => return fault(source),
                },
                Err(source) => return fault(source),
            };
            if id.origin == self.next.origin && id.sequence >= self.next.sequence {
                self.note(id);
                let Some(relayed) = relayed else { return Some(Err(self.lost(id.sequence))) };
                self.next.sequence += 1;
                self.advance(len);
                return Some(Ok(relayed));
            }
            self.advance(len);
        }
    }
}

fn relayed(view: &RecordView<'_>) -> Relayed {
    let blob = match view.blob {
        BlobView::None => RelayedBlob::None,
        BlobView::Present { salt, bytes } => RelayedBlob::Present { salt, bytes: bytes.to_vec() },
        // Damage to personal fields must not keep back the record, which may be an opt-out. One that is being erased looks damaged, too.
        BlobView::Erased { .. } | BlobView::Damaged => RelayedBlob::Erased,
    };
    Relayed { chained: view.chained.to_vec(), hash: view.hash, blob }
}
