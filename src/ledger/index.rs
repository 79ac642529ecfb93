//! Where an origin's records stand, roughly: a place to start looking from, without reading the whole ledger.

use std::collections::BTreeMap;

use super::Position;
use crate::policy::ids::{EventId, OriginId};

/// How many marks are kept beside one for each origin; 16 bytes each.
pub(crate) const MARKS_MAX: usize = 131_072;
/// How far apart an origin's marks stand in a segment, in bytes.
pub(crate) const MARK_EVERY_BYTES: u64 = 256 * 1024;

/// The origin's records from `sequence` on stand at `position` or behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    sequence: u64,
    position: Position,
}

/// Marks of all origins. Any of them may be missing: then more is read.
pub(crate) struct Index {
    /// In order of their sequences.
    marks: BTreeMap<OriginId, Vec<Mark>>,
    len: usize,
    every: u64,
    len_max: usize,
}

impl Index {
    pub(crate) fn new(every: u64, len_max: usize) -> Self {
        Self { marks: BTreeMap::new(), len: 0, every, len_max }
    }

    /// The record stands at `position`, or is the first of its origin behind it. Marked only where no mark is near.
    pub(crate) fn note(&mut self, id: EventId, position: Position) {
        let marks = self.marks.entry(id.origin).or_default();
        let at = marks.partition_point(|mark| mark.sequence <= id.sequence);
        let near = at.checked_sub(1).and_then(|before| marks.get(before)).is_some_and(|before| {
            before.sequence == id.sequence
                || before.position.segment() == position.segment()
                    && u64::from(position.offset().saturating_sub(before.position.offset())) < self.every
        });
        if near {
            return;
        }
        marks.insert(at, Mark { sequence: id.sequence, position });
        self.len += 1;
        if self.len - self.marks.len() > self.len_max {
            self.thin_out();
        }
    }

    /// Every second mark goes; the first of each origin stays.
    fn thin_out(&mut self) {
        self.len = 0;
        for marks in self.marks.values_mut() {
            let mut place = 0;
            marks.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.len += marks.len();
        }
    }

    /// Where to start looking for a record.
    pub(crate) fn before(&self, id: EventId) -> Position {
        let marks = self.marks.get(&id.origin).map_or(&[][..], Vec::as_slice);
        let at = marks.partition_point(|mark| mark.sequence <= id.sequence);
        at.checked_sub(1).and_then(|before| marks.get(before)).map_or(Position::START, |mark| mark.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: OriginId = OriginId([1; 16]);

    fn id(sequence: u64) -> EventId {
        EventId { origin: ORIGIN, sequence }
    }

    #[test]
    fn a_look_starts_at_the_last_mark_before() {
        let mut index = Index::new(100, 10);
        assert_eq!(index.before(id(1)), Position::START);
        for (sequence, segment, offset) in [(1, 1, 1024), (2, 1, 1100), (3, 1, 1124), (4, 2, 1030)] {
            index.note(id(sequence), Position::new(segment, offset));
        }
        // The second stands too near to the first for a mark of its own.
        assert_eq!(index.len, 3);
        for (sequence, segment, offset) in
            [(1, 1, 1024), (2, 1, 1024), (3, 1, 1124), (4, 2, 1030), (9, 2, 1030)]
        {
            assert_eq!(index.before(id(sequence)), Position::new(segment, offset), "{sequence}");
        }
        assert_eq!(index.before(EventId { origin: OriginId([2; 16]), sequence: 9 }), Position::START);
    }

    #[test]
    fn marks_are_bounded_and_what_is_left_is_true() {
        let mut index = Index::new(0, 10);
        for sequence in 1..=11 {
            index.note(id(sequence), Position::new(1, sequence as u32));
        }
        assert_eq!(index.len, 11);
        index.note(id(12), Position::new(1, 12));
        assert_eq!(index.len, 6);
        for sequence in 1..=12 {
            assert!(index.before(id(sequence)) <= Position::new(1, sequence as u32));
        }
        // One mark for each origin stands beside the bound.
        for number in 2..40 {
            index.note(EventId { origin: OriginId([number; 16]), sequence: 1 }, Position::new(1, 1));
        }
        assert_eq!(index.len, 6 + 38);
    }
}
