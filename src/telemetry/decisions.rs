//! The decision log: one JSON line a decision, with the person's keyed hash. Files rotate daily and are kept as
//! long as configured; a full queue drops lines and counts them, or slows checks down, as configured.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metrics::Counter;
use parking_lot::{Condvar, Mutex};
use serde::Serialize;

use super::metrics::Shared;
use crate::config::{self, OnFull};
use crate::engine::decision::{Decided, DecisionSink};
use crate::policy::time::{DAY_MS, Timestamp};
use crate::policy::types::Reason;

/// How long a line may wait in memory before it is written to its file.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How often the writer looks for lines by itself. To wake it for each would cost a check more than all the rest.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a day's file is at most; then another of the same day follows.
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
    max: usize,
}

#[derive(Default)]
struct Lines {
    waiting: Vec<Decided>,
    closed: bool,
}

impl Waiting {
    /// Hands a line over; `false` where there is no room for it.
    fn push(&self, decided: Decided, slow: bool) -> bool {
        let mut lines = self.lines.lock();
        while slow && lines.waiting.len() >= self.max && !lines.closed {
            self.come.notify_one();
            self.room.wait(&mut lines);
        }
        if lines.closed || lines.waiting.len() >= self.max {
            return false;
        }
        lines.waiting.push(decided);
        if lines.waiting.len() == self.max.div_ceil(2) {
            self.come.notify_one();
        }
        true
    }

    /// Takes all lines that wait, into `taken`; `false` once the log is closed and empty.
    fn take(&self, taken: &mut Vec<Decided>) -> bool {
        let mut lines = self.lines.lock();
        if !lines.closed && lines.waiting.len() < self.max.div_ceil(2) {
            self.come.wait_for(&mut lines, LOOK_EVERY);
        }
        std::mem::swap(&mut lines.waiting, taken);
        self.room.notify_all();
        !(lines.closed && taken.is_empty())
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
        let log = config.map(|config| Log::start(config, data_dir)).transpose()?;
        let dropped = metrics::counter!("optgate_decision_log_dropped_total");
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
    fn start(config: &config::DecisionLog, data_dir: &Path) -> Result<Self, DecisionLogError> {
        let dir = data_dir.join(&config.path);
        let failed = |source| DecisionLogError { dir: dir.clone(), source };
        fs::create_dir_all(&dir).map_err(failed)?;
        let keep_ms = i64::try_from(config.keep_ms).unwrap_or(i64::MAX);
        let mut writer = Writer { dir: dir.clone(), keep_ms, open: None };
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
    fn wants_lines(&self) -> bool {
        self.log.is_some()
    }

    fn decided(&self, decided: Decided) {
        let Some(log) = &self.log else { return };
        let lost = !log.waiting.push(decided, log.slow);
        if lost {
            self.dropped.increment(1);
        }
    }

    fn count(&self, allowed: bool, reason: Option<Reason>, shadowed: &[Reason]) {
        self.metrics.decision(allowed, reason, shadowed);
    }
}

struct Writer {
    dir: PathBuf,
    keep_ms: i64,
    open: Option<Open>,
}

struct Open {
    day: i64,
    bytes: u64,
    file: BufWriter<File>,
}

impl Writer {
    fn run(&mut self, waiting: &Waiting) {
        let mut text = Vec::with_capacity(1024);
        let mut taken = Vec::new();
        let mut flushed = Instant::now();
        while waiting.take(&mut taken) {
            for decided in taken.drain(..) {
                text.clear();
                write_line(&decided, &mut text);
                if let Err(error) = self.write(&text, decided.time) {
                    tracing::error!(%error, "a decision could not be logged");
                    self.open = None;
                }
            }
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
            tracing::error!(%error, "decisions could not be logged");
            self.open = None;
        }
    }

    fn write(&mut self, text: &[u8], at: Timestamp) -> std::io::Result<()> {
        let day = at.0.div_euclid(DAY_MS);
        let full = self.open.as_ref().is_some_and(|open| open.day != day || open.bytes >= FILE_BYTES_MAX);
        if full && let Some(mut open) = self.open.take() {
            open.file.flush()?;
        }
        if self.open.is_none() {
            self.prune(day);
            self.open = Some(self.next_file(day)?);
        }
        if let Some(open) = &mut self.open {
            open.bytes += text.len() as u64;
            open.file.write_all(text)?;
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
                return Ok(Open { day, bytes, file: BufWriter::with_capacity(1 << 16, file) });
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

/// One line of JSON. Field names are those of `CheckSendResponse`.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    business_id: &'a str,
    sender_id: &'a str,
    recipient_ref: Option<String>,
    channel: Option<&'static str>,
    category: Option<&'static str>,
    decision: &'static str,
    reasons: Vec<&'static str>,
    shadowed: Vec<&'static str>,
    basis: Vec<String>,
    mode: &'static str,
    degraded: bool,
    rules_version: &'a str,
    decision_id_end: &'a str,
}

fn write_line(decided: &Decided, out: &mut Vec<u8>) {
    let words = |reasons: &[Reason]| reasons.iter().map(|reason| reason.word()).collect();
    let line = Line {
        time: decided.time.to_string(),
        business_id: &decided.business,
        sender_id: &decided.sender,
        recipient_ref: decided.recipient.map(|recipient| recipient.to_string()),
        channel: decided.channel.map(|channel| channel.word()),
        category: decided.category.map(|category| category.word()),
        decision: if decided.reasons.is_empty() { "ALLOW" } else { "DENY" },
        reasons: words(&decided.reasons),
        shadowed: words(&decided.shadowed),
        basis: decided.basis.iter().map(ToString::to_string).collect(),
        mode: if decided.peek { "PEEK" } else { "ENFORCE" },
        degraded: decided.degraded,
        rules_version: &decided.rules_version,
        decision_id_end: &decided.decision,
    };
    // Serialising plain values into memory cannot fail.
    if serde_json::to_writer(&mut *out, &line).is_ok() {
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(number: i64) -> Decided {
        Decided {
            time: Timestamp(number),
            business: "acme".into(),
            sender: "1".into(),
            recipient: None,
            channel: None,
            category: None,
            reasons: vec![Reason::NoConsent],
            shadowed: Vec::new(),
            basis: Vec::new(),
            peek: false,
            degraded: false,
            rules_version: "v".into(),
            decision: "end".into(),
        }
    }

    fn waiting(max: usize) -> Waiting {
        Waiting { lines: Mutex::default(), come: Condvar::new(), room: Condvar::new(), max }
    }

    #[test]
    fn one_line_more_than_fits_is_lost() {
        let waiting = waiting(2);
        assert!(waiting.push(decided(1), false));
        assert!(waiting.push(decided(2), false));
        assert!(!waiting.push(decided(3), false));
        let mut taken = Vec::new();
        assert!(waiting.take(&mut taken));
        assert_eq!(taken.len(), 2);
        assert!(waiting.push(decided(4), false));
    }

    #[test]
    fn where_slowing_is_configured_a_full_log_waits_for_its_writer() {
        let waiting = waiting(1);
        let written = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut taken, mut written) = (Vec::new(), 0);
                while waiting.take(&mut taken) {
                    written += taken.drain(..).count();
                }
                written
            });
            for number in 0..100 {
                assert!(waiting.push(decided(number), true));
            }
            waiting.close();
            writer.join().expect("the writer ends")
        });
        assert_eq!(written, 100);
        assert!(!waiting.push(decided(1), true));
    }

    #[test]
    fn lines_are_json_of_their_own() {
        let mut text = Vec::new();
        write_line(&decided(0), &mut text);
        let line: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(line["decision"], "DENY");
        assert_eq!(line["reasons"][0], "NO_CONSENT");
        assert_eq!(text.last(), Some(&b'\n'));
    }
}
