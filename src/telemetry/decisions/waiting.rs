//! Lines of decisions on their way to their writer.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::GATHERED_BYTES_MAX;

/// How often the writer looks for lines by itself. To wake it for each would cost a check more than all the rest.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// So many bytes that wait call the writer before it looks by itself, so that a batch hardly outgrows the memory it has.
const CALL_WRITER_BYTES: usize = 512 * 1024;
/// What a batch's memory is at most once it was written.
const BATCH_BYTES_KEPT: usize = CALL_WRITER_BYTES + 2 * GATHERED_BYTES_MAX;

/// Lines on their way to the writer.
pub(super) struct Waiting {
    lines: Mutex<Lines>,
    /// Much waits, or the log is closing: the writer is to come now.
    come: Condvar,
    /// There is room again.
    room: Condvar,
    /// How many lines may wait.
    max: usize,
}

#[derive(Default)]
struct Lines {
    waiting: Batch,
    closed: bool,
}

/// Lines one after the other: a check writes its own, which costs it less than to hand its parts to another thread.
#[derive(Default)]
pub(super) struct Batch {
    text: Vec<u8>,
    count: usize,
    /// Where the lines of a day begin: each day has files of its own.
    days: Vec<(usize, i64)>,
}

impl Batch {
    fn push(&mut self, text: &[u8], count: usize, day: i64) {
        if self.days.last().is_none_or(|(_, last)| *last != day) {
            self.days.push((self.text.len(), day));
        }
        self.text.extend_from_slice(text);
        self.count += count;
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(BATCH_BYTES_KEPT);
        self.days.clear();
        self.count = 0;
    }

    /// The lines of each day.
    pub(super) fn by_day(&self) -> impl Iterator<Item = (i64, &[u8])> {
        self.days.iter().enumerate().map(|(at, (from, day))| {
            let to = self.days.get(at + 1).map_or(self.text.len(), |(next, _)| *next);
            (*day, &self.text[*from..to])
        })
    }
}

impl Waiting {
    /// Room for `max` lines, but for one at least.
    pub(super) fn new(max: usize) -> Self {
        Self { lines: Mutex::default(), come: Condvar::new(), room: Condvar::new(), max: max.max(1) }
    }

    /// How many lines a thread may gather before it hands them over: several do at once, and the writer needs its time.
    pub(super) fn gathered_max(&self) -> usize {
        (self.max / 16).max(1)
    }

    /// Hands over `count` lines of one day; says for how many of them there was no room.
    pub(super) fn push(&self, mut text: &[u8], mut count: usize, day: i64, slow: bool) -> usize {
        let mut lines = self.lines.lock();
        loop {
            while slow && lines.waiting.count >= self.max && !lines.closed {
                self.come.notify_one();
                self.room.wait(&mut lines);
            }
            let room = if lines.closed { 0 } else { self.max.saturating_sub(lines.waiting.count) };
            let fits = count.min(room);
            let (now, later) = text.split_at(if fits == count { text.len() } else { end_of(text, fits) });
            if fits > 0 {
                let called = self.calls(&lines.waiting);
                lines.waiting.push(now, fits, day);
                if !called && self.calls(&lines.waiting) {
                    self.come.notify_one();
                }
            }
            (text, count) = (later, count - fits);
            if count == 0 || !slow || lines.closed {
                return count;
            }
        }
    }

    /// Whether what waits is enough to call the writer.
    fn calls(&self, waiting: &Batch) -> bool {
        waiting.count >= self.max.div_ceil(2) || waiting.text.len() >= CALL_WRITER_BYTES
    }

    /// Takes all lines that wait, into `taken`; `false` once the log is closed and empty.
    pub(super) fn take(&self, taken: &mut Batch) -> bool {
        let mut lines = self.lines.lock();
        if !lines.closed && !self.calls(&lines.waiting) {
            self.come.wait_for(&mut lines, LOOK_EVERY);
        }
        std::mem::swap(&mut lines.waiting, taken);
        self.room.notify_all();
        !(lines.closed && taken.count == 0)
    }

    pub(super) fn close(&self) {
        self.lines.lock().closed = true;
        self.come.notify_all();
        self.room.notify_all();
    }
}

/// Where the first `count` lines of `text` end.
fn end_of(text: &[u8], count: usize) -> usize {
    let mut ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    count.checked_sub(1).and_then(|before| ends.nth(before)).map_or(0, |(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_more_than_fits_is_lost() {
        let waiting = Waiting::new(2);
        assert_eq!(waiting.push(b"1\n", 1, 0, false), 0);
        assert_eq!(waiting.push(b"2\n", 1, 0, false), 0);
        assert_eq!(waiting.push(b"3\n", 1, 0, false), 1);
        let mut taken = Batch::default();
        assert!(waiting.take(&mut taken));
        assert_eq!((taken.count, taken.text.as_slice()), (2, &b"1\n2\n"[..]));
        // Of several those that fit are kept.
        taken.clear();
        assert_eq!(waiting.push(b"4\n5\n6\n", 3, 0, false), 1);
        assert!(waiting.take(&mut taken));
        assert_eq!((taken.count, taken.text.as_slice()), (2, &b"4\n5\n"[..]));
    }

    #[test]
    fn where_slowing_is_configured_a_full_log_waits_for_its_writer() {
        let waiting = Waiting::new(1);
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut taken, mut written) = (Batch::default(), 0);
                while waiting.take(&mut taken) {
                    written += taken.count;
                    taken.clear();
                }
                written
            });
            for _ in 0..50 {
                assert_eq!(waiting.push(b"a\n", 1, 0, true), 0);
            }
            // More than may wait at once.
            assert_eq!(waiting.push(&b"a\n".repeat(50), 50, 0, true), 0);
            waiting.close();
            writer.join().expect("the writer ends")
        });
        assert_eq!(written, 100);
        assert_eq!(waiting.push(b"1\n2\n", 2, 0, true), 2);
    }

    #[test]
    fn each_day_gets_its_own_lines() {
        let mut batch = Batch::default();
        for (line, day) in [(b"a", 1), (b"b", 1), (b"c", 2), (b"d", 1)] {
            batch.push(line, 1, day);
        }
        let days: Vec<_> = batch.by_day().collect();
        assert_eq!(days, [(1, &b"ab"[..]), (2, b"c"), (1, b"d")]);
        batch.clear();
        assert_eq!((batch.count, batch.by_day().count()), (0, 0));
    }
}
