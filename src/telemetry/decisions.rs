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
use parking_lot::Mutex;

use super::behind::Behind;
use super::line::write_line;
use super::metrics::Shared;
use crate::config::{self, OnFull};
use crate::engine::decision::{Decided, DecisionSink};
use crate::policy::check::Violation;
use crate::policy::time::{DAY_MS, Timestamp};

mod waiting;

use waiting::{Batch, Waiting};

/// How long a line may wait in memory before it is written to its file.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// So many bytes of lines a thread gathers before it hands them over.
const GATHERED_BYTES_MAX: usize = 64 * 1024;
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
}

struct Log {
    waiting: Arc<Waiting>,
    slow: bool,
    /// Lines for which there was no room.
    dropped: Counter,
    writer: Mutex<Option<JoinHandle<()>>>,
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
        let log = config.map(|config| Log::start(config, data_dir, dropped)).transpose()?;
        Ok(Arc::new(Self { metrics, log }))
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
        let mut writer = Writer { dir: dir.clone(), keep_ms, open: None, dropped: dropped.clone() };
        // Opening a file now shows at the start what would otherwise show at the first decision.
        fs::metadata(&dir).map_err(failed)?;
        let waiting = Arc::new(Waiting::new(config.buffer as usize));
        let lines = Arc::clone(&waiting);
        let thread = std::thread::Builder::new()
            .name("decision-log".into())
            .spawn(move || writer.run(&lines))
            .map_err(failed)?;
        let slow = config.on_full == OnFull::Slow;
        Ok(Self { waiting, slow, dropped, writer: Mutex::new(Some(thread)) })
    }
}

impl DecisionSink for Decisions {
    fn decided(&self, decided: &Decided<'_>) {
        let reasons = |violations: &'_ [Violation]| violations.first().map(|first| first.reason);
        self.metrics.decision(reasons(decided.violations), decided.shadowed.iter().map(|rule| rule.reason));
        if let Some(log) = &self.log {
            log.write(decided);
        }
    }

    fn together(&self, decide: &mut dyn FnMut()) {
        match &self.log {
            Some(log) => log.gather(decide),
            None => decide(),
        }
    }
}

impl Log {
    /// Writes a decision's line, and hands it over unless this thread gathers.
    fn write(&self, decided: &Decided<'_>) {
        let day = decided.time.0.div_euclid(DAY_MS);
        OWN.with_borrow_mut(|own| {
            if own.day != day {
                self.hand_over(own);
                own.day = day;
            }
            // A line that was not finished is none.
            own.text.truncate(own.whole);
            write_line(decided, &mut own.text);
            own.whole = own.text.len();
            own.count += 1;
            let full = own.whole >= GATHERED_BYTES_MAX || own.count >= self.waiting.gathered_max();
            if !own.gathers || full {
                self.hand_over(own);
            }
        });
    }

    /// Hands over at its end what is written while `decide` runs.
    fn gather(&self, decide: &mut dyn FnMut()) {
        /// Also where `decide` panics: a thread that went on gathering would hand nothing over for long.
        struct Gathering<'a>(&'a Log);

        impl Drop for Gathering<'_> {
            fn drop(&mut self) {
                OWN.with_borrow_mut(|own| {
                    own.gathers = false;
                    self.0.hand_over(own);
                });
            }
        }

        OWN.with_borrow_mut(|own| own.gathers = true);
        let _until_the_end = Gathering(self);
        decide();
    }

    fn hand_over(&self, own: &mut Own) {
        if own.count > 0 {
            let lost = self.waiting.push(&own.text[..own.whole], own.count, own.day, self.slow);
            if lost > 0 {
                self.dropped.increment(lost as u64);
            }
            (own.whole, own.count) = (0, 0);
        }
    }
}

/// What a thread has written and not handed over: one line, or those of checks that are judged together.
struct Own {
    text: Vec<u8>,
    /// How much of the text is whole lines.
    whole: usize,
    count: usize,
    day: i64,
    gathers: bool,
}

thread_local! {
    static OWN: RefCell<Own> =
        const { RefCell::new(Own { text: Vec::new(), whole: 0, count: 0, day: 0, gathers: false }) };
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

    use super::super::line::tests::allowed;
    use super::*;

    /// The first day's file takes no byte, the second's all: `/dev/full` is a disk without room.
    #[test]
    fn lines_that_could_not_be_written_are_counted() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let dropped = metrics::with_local_recorder(&recorder, || metrics::counter!("dropped"));
        let dir = tempfile::tempdir().expect("a directory");
        let full = dir.path().join("decisions-2026-01-05.0.jsonl");
        std::os::unix::fs::symlink("/dev/full", full).expect("a link");
        let day = Timestamp(1_767_614_400_000).0.div_euclid(DAY_MS);
        let waiting = Waiting::new(8);
        for (line, day) in [(&b"1\n"[..], day), (b"2\n", day), (b"3\n", day + 1), (b"4\n", day)] {
            assert_eq!(waiting.push(line, 1, day, false), 0);
        }
        waiting.close();
        let mut writer = Writer { dir: dir.path().to_owned(), keep_ms: DAY_MS, open: None, dropped };
        writer.run(&waiting);
        assert!(recorder.handle().render().contains("dropped 3\n"), "{}", recorder.handle().render());
        let next = fs::read_to_string(dir.path().join("decisions-2026-01-06.0.jsonl"));
        assert_eq!(next.expect("the next day's file"), "3\n");
    }

    fn log(max: usize) -> Log {
        let (waiting, dropped) = (Arc::new(Waiting::new(max)), Counter::noop());
        Log { waiting, slow: false, dropped, writer: Mutex::new(None) }
    }

    fn waiting_in(log: &Log) -> usize {
        let mut taken = Batch::default();
        log.waiting.close();
        log.waiting.take(&mut taken);
        taken.by_day().map(|(_, text)| lines(text) as usize).sum()
    }

    #[test]
    fn nobody_gathers_more_than_a_part_of_the_room() {
        let small = log(32);
        small.gather(&mut || {
            for _ in 0..3 {
                small.write(&allowed());
                assert!(OWN.with_borrow(|own| own.count < 2));
            }
        });
        assert_eq!(waiting_in(&small), 3);
    }

    #[test]
    fn what_is_decided_together_is_handed_over_at_the_end_even_of_a_panic() {
        let whole = log(10_000);
        whole.gather(&mut || {
            for _ in 0..1_000 {
                whole.write(&allowed());
            }
            // It gathers in memory that has a bound.
            assert!(OWN.with_borrow(|own| own.count > 0 && own.text.len() < GATHERED_BYTES_MAX));
        });
        whole.write(&allowed());
        assert_eq!(waiting_in(&whole), 1_001);

        let broken = log(10_000);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            broken.gather(&mut || {
                broken.write(&allowed());
                panic!("in the middle");
            });
        }));
        assert!(panicked.is_err());
        broken.write(&allowed());
        assert_eq!(waiting_in(&broken), 2);
    }
}
