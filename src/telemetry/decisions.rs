//! The decision log: one JSON line a decision, with the person's keyed hash. Files rotate daily and are kept as
//! long as configured; a full queue drops lines and counts them, or slows checks down, as configured.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::Counter;
use parking_lot::{Condvar, Mutex};

use super::behind::Behind;
use super::line::write_line;
use super::metrics::Shared;
use crate::config::{self, OnFull};
use crate::engine::decision::{Decided, DecisionSink};
use crate::policy::check::Violation;
use crate::policy::time::{DAY_MS, Timestamp};

/// How long a line may wait in memory before it is written to its file.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How often the writer looks for lines by itself. To wake it for each would cost a check more than all the rest.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a batch's memory is at most once it was written.
const BATCH_BYTES_KEPT: usize = 256 * 1024;
/// Once a day's file has this, another of the same day follows.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why the log does not start.
#[derive(Debug, thiserror::Error)]
#[error("the decision log cannot be written in {}: {source}", dir.display())]
pub struct DecisionLogError {
    dir: PathBuf,
    source: std::io::Error,
}

/// Counts decisions, and writes them down where that is configured.
pub struct Decisions {
    metrics: Shared,
    log: Option<Log>,
    dropped: Counter,
}

struct Log {
    waiting: Arc<Waiting>,
    slow: bool,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Lines on their way to the writer.
struct Waiting {
    lines: Mutex<Lines>,
    /// Half of the room is taken, or the log is closing: the writer is to come now.
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
struct Batch {
    text: Vec<u8>,
    count: usize,
    /// Where the lines of a day begin: each day has files of its own.
    days: Vec<(usize, i64)>,
}

impl Batch {
    fn push(&mut self, line: &[u8], day: i64) {
        if self.days.last().is_none_or(|(_, last)| *last != day) {
            self.days.push((self.text.len(), day));
        }
        self.text.extend_from_slice(line);
        self.count += 1;
    }

    fn clear(&mut self) {
        self.text.clear();
        self.text.shrink_to(BATCH_BYTES_KEPT);
        self.days.clear();
        self.count = 0;
    }

    /// The lines of each day.
    fn by_day(&self) -> impl Iterator<Item = (i64, &[u8])> {
        self.days.iter().enumerate().map(|(at, (from, day))| {
            let to = self.days.get(at + 1).map_or(self.text.len(), |(next, _)| *next);
            (*day, &self.text[*from..to])
        })
    }
}

impl Waiting {
    /// Hands a line over; `false` where there is no room for it.
    fn push(&self, line: &[u8], day: i64, slow: bool) -> bool {
        let mut lines = self.lines.lock();
        while slow && lines.waiting.count >= self.max && !lines.closed {
            self.come.notify_one();
            self.room.wait(&mut lines);
        }
        if lines.closed || lines.waiting.count >= self.max {
            return false;
        }
        lines.waiting.push(line, day);
        if lines.waiting.count == self.max.div_ceil(2) {
            self.come.notify_one();
        }
        true
    }

    /// Takes all lines that wait, into `taken`; `false` once the log is closed and empty.
    fn take(&self, taken: &mut Batch) -> bool {
        let mut lines = self.lines.lock();
        if !lines.closed && lines.waiting.count < self.max.div_ceil(2) {
            self.come.wait_for(&mut lines, LOOK_EVERY);
        }
        std::mem::swap(&mut lines.waiting, taken);
        self.room.notify_all();
        !(lines.closed && taken.count == 0)
    }

    fn close(&self) {
        self.lines.lock().closed = true;
        self.come.notify_all();
        self.room.notify_all();
    }
}

impl Decisions {
    /// Counts into `metrics`; writes to the log's folder under `data_dir`.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn start(
        metrics: Shared,
        config: Option<&config::DecisionLog>,
        data_dir: &Path,
    ) -> Result<Arc<Self>, DecisionLogError> {
        let dropped = metrics::counter!("optgate_decision_log_dropped_total");
        let log = config.map(|config| Log::start(config, data_dir, dropped.clone())).transpose()?;
        Ok(Arc::new(Self { metrics, log, dropped }))
    }

    /// Writes what waits and closes the log. Blocking.
    pub fn close(&self) {
        let Some(log) = &self.log else { return };
        log.waiting.close();
        let writer = log.writer.lock().take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the decision log's writer failed");
        }
    }
}

impl Log {
    fn start(
        config: &config::DecisionLog,
        data_dir: &Path,
        dropped: Counter,
    ) -> Result<Self, DecisionLogError> {
        let dir = data_dir.join(&config.path);
        let failed = |source| DecisionLogError { dir: dir.clone(), source };
        fs::create_dir_all(&dir).map_err(failed)?;
        let keep_ms = i64::try_from(config.keep_ms).unwrap_or(i64::MAX);
        let mut writer = Writer { dir: dir.clone(), keep_ms, open: None, dropped };
        // Opening a file now shows at the start what would otherwise show at the first decision.
        fs::metadata(&dir).map_err(failed)?;
        let waiting = Arc::new(Waiting {
            lines: Mutex::default(),
            come: Condvar::new(),
            room: Condvar::new(),
            max: (config.buffer as usize).max(1),
        });
        let lines = Arc::clone(&waiting);
        let thread = std::thread::Builder::new()
            .name("decision-log".into())
            .spawn(move || writer.run(&lines))
            .map_err(failed)?;
        Ok(Self { waiting, slow: config.on_full == OnFull::Slow, writer: Mutex::new(Some(thread)) })
    }
}

impl DecisionSink for Decisions {
    fn decided(&self, decided: &Decided<'_>) {
        let reasons = |violations: &'_ [Violation]| violations.first().map(|first| first.reason);
        self.metrics.decision(reasons(decided.violations), decided.shadowed.iter().map(|rule| rule.reason));
        let Some(log) = &self.log else { return };
        let written = LINE.with_borrow_mut(|line| {
            line.clear();
            write_line(decided, line);
            log.waiting.push(line, decided.time.0.div_euclid(DAY_MS), log.slow)
        });
        if !written {
            self.dropped.increment(1);
        }
    }
}

thread_local! {
    /// Where a thread writes its line before it hands it over.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Writer {
    dir: PathBuf,
    keep_ms: i64,
    open: Option<Open>,
    /// Lines that could not be written.
    dropped: Counter,
}

struct Open {
    day: i64,
    bytes: u64,
    behind: Behind,
    file: BufWriter<File>,
}

impl Writer {
    fn run(&mut self, waiting: &Waiting) {
        let mut taken = Batch::default();
        let mut flushed = Instant::now();
        while waiting.take(&mut taken) {
            for (day, text) in taken.by_day() {
                if let Err(error) = self.write(text, day) {
                    self.lose(&error, lines(text));
                }
            }
            taken.clear();
            if flushed.elapsed() >= FLUSH_EVERY {
                self.flush();
                flushed = Instant::now();
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        let failed = self.open.as_mut().and_then(|open| open.file.flush().err());
        if let Some(error) = failed {
            self.lose(&error, 0);
        }
    }

    /// Gives up what the file's buffer holds, and `more` lines.
    fn lose(&mut self, error: &std::io::Error, more: u64) {
        // Taken apart: merely dropped, it would try to write once more what is counted as lost here.
        let buffered = self.open.take().and_then(|open| open.file.into_parts().1.ok());
        let lost = more + buffered.map_or(0, |text| lines(&text));
        tracing::error!(%error, lines = lost, "decisions could not be logged");
        self.dropped.increment(lost);
    }

    fn write(&mut self, text: &[u8], day: i64) -> std::io::Result<()> {
        let full = self.open.as_ref().is_some_and(|open| open.day != day || open.bytes >= FILE_BYTES_MAX);
        if full {
            self.flush();
            self.open = None;
        }
        if self.open.is_none() {
            self.prune(day);
            self.open = Some(self.next_file(day)?);
        }
        if let Some(open) = &mut self.open {
            open.bytes += text.len() as u64;
            open.file.write_all(text)?;
            open.behind.wrote(open.file.get_ref(), open.bytes - open.file.buffer().len() as u64);
        }
        Ok(())
    }

    /// The first file of the day that still has room.
    fn next_file(&self, day: i64) -> std::io::Result<Open> {
        let date = Timestamp(day * DAY_MS).to_string();
        let date = date.get(..10).unwrap_or(&date);
        let mut number = 0;
        loop {
            let path = self.dir.join(format!("decisions-{date}.{number}.jsonl"));
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let bytes = file.metadata()?.len();
            if bytes < FILE_BYTES_MAX {
                let file = BufWriter::with_capacity(1 << 16, file);
                return Ok(Open { day, bytes, behind: Behind::at(bytes), file });
            }
            number += 1;
        }
    }

    /// Removes files of days that need no longer be kept.
    fn prune(&self, today: i64) {
        let keep_from = Timestamp(today * DAY_MS).minus_ms(self.keep_ms).to_string();
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let day = name
                .to_str()
                .and_then(|name| name.strip_prefix("decisions-"))
                .and_then(|rest| rest.get(..10));
            if day.is_some_and(|day| day < keep_from.get(..10).unwrap_or(""))
                && let Err(error) = fs::remove_file(entry.path())
            {
                tracing::warn!(%error, "an old decision log cannot be removed");
            }
        }
    }
}

/// How many lines end in `text`.
fn lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn waiting(max: usize) -> Waiting {
        Waiting { lines: Mutex::default(), come: Condvar::new(), room: Condvar::new(), max }
    }

    #[test]
    fn one_line_more_than_fits_is_lost() {
        let waiting = waiting(2);
        assert!(waiting.push(b"1\n", 0, false));
        assert!(waiting.push(b"2\n", 0, false));
        assert!(!waiting.push(b"3\n", 0, false));
        let mut taken = Batch::default();
        assert!(waiting.take(&mut taken));
        assert_eq!((taken.count, taken.text.as_slice()), (2, &b"1\n2\n"[..]));
        assert!(waiting.push(b"4\n", 0, false));
    }

    /// The first day's file takes no byte, the second's all: `/dev/full` is a disk without room.
    #[test]
    fn lines_that_could_not_be_written_are_counted() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let dropped = metrics::with_local_recorder(&recorder, || metrics::counter!("dropped"));
        let dir = tempfile::tempdir().expect("a directory");
        let full = dir.path().join("decisions-2026-01-05.0.jsonl");
        std::os::unix::fs::symlink("/dev/full", full).expect("a link");
        let day = Timestamp(1_767_614_400_000).0.div_euclid(DAY_MS);
        let waiting = waiting(8);
        for (line, day) in [(&b"1\n"[..], day), (b"2\n", day), (b"3\n", day + 1), (b"4\n", day)] {
            assert!(waiting.push(line, day, false));
        }
        waiting.close();
        let mut writer = Writer { dir: dir.path().to_owned(), keep_ms: DAY_MS, open: None, dropped };
        writer.run(&waiting);
        assert!(recorder.handle().render().contains("dropped 3\n"), "{}", recorder.handle().render());
        let next = fs::read_to_string(dir.path().join("decisions-2026-01-06.0.jsonl"));
        assert_eq!(next.expect("the next day's file"), "3\n");
    }

    #[test]
    fn where_slowing_is_configured_a_full_log_waits_for_its_writer() {
        let waiting = waiting(1);
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut taken, mut written) = (Batch::default(), 0);
                while waiting.take(&mut taken) {
                    written += taken.count;
                    taken.clear();
                }
                written
            });
            for number in 0..100 {
                assert!(waiting.push(&[number], 0, true));
            }
            waiting.close();
            writer.join().expect("the writer ends")
        });
        assert_eq!(written, 100);
        assert!(!waiting.push(b"1\n", 0, true));
    }

    #[test]
    fn each_day_gets_its_own_lines() {
        let mut batch = Batch::default();
        for (line, day) in [(b"a", 1), (b"b", 1), (b"c", 2), (b"d", 1)] {
            batch.push(line, day);
        }
        let days: Vec<_> = batch.by_day().collect();
        assert_eq!(days, [(1, &b"ab"[..]), (2, b"c"), (1, b"d")]);
        batch.clear();
        assert_eq!((batch.count, batch.by_day().count()), (0, 0));
    }
}
