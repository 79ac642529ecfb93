//! The writer thread and the queue before it. What queued while one group was synced is the next group.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use super::log::{Log, Verdict};
use super::{
    AppendError, Appended, Applier, BATCH_BYTES_MAX, BATCH_LEN_MAX, Committed, ERASE_QUEUE_LEN_MAX, Entry,
    EraseError, PRIORITY_QUEUE_LEN_MAX, Position, QUEUE_BYTES_MAX, QUEUE_LEN_MAX, State,
};

pub(super) type Answer = oneshot::Sender<Result<Appended, AppendError>>;
pub(super) type Erased = mpsc::SyncSender<Result<(), EraseError>>;

/// What a record costs beside its payload and blob, at most.
const RECORD_OVERHEAD: usize = 256;

/// Entries of one kind that wait.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<(Entry, Answer)>,
    bytes: usize,
}

/// What waits for the writer.
struct Queue {
    ordinary: Lane,
    priority: Lane,
    erasures: VecDeque<(Position, Erased)>,
    state: State,
    closing: bool,
}

/// Between the callers and the writer thread.
pub(super) struct Exchange {
    queue: Mutex<Queue>,
    work: Condvar,
    pub(super) head: watch::Sender<Position>,
    pub(super) reserve_ready: AtomicBool,
}

/// What the writer does next.
struct Work {
    entries: Vec<Entry>,
    answers: Vec<Answer>,
    erasures: VecDeque<(Position, Erased)>,
    done: bool,
}

impl Lane {
    fn push(&mut self, entry: Entry, answer: Answer, len_max: usize) -> Result<(), AppendError> {
        let bytes = cost(&entry);
        // An entry always fits in an empty lane, whatever its length.
        if self.waiting.len() >= len_max || (!self.waiting.is_empty() && self.bytes + bytes > QUEUE_BYTES_MAX)
        {
            return Err(AppendError::Busy);
        }
        self.bytes += bytes;
        self.waiting.push_back((entry, answer));
        Ok(())
    }

    /// Moves what still fits into the group.
    fn take(&mut self, work: &mut Work, bytes: &mut usize) {
        while let Some((entry, _)) = self.waiting.front() {
            let cost = cost(entry);
            let fits = work.entries.is_empty() || *bytes + cost <= BATCH_BYTES_MAX;
            if !fits || work.entries.len() >= BATCH_LEN_MAX {
                break;
            }
            let Some((entry, answer)) = self.waiting.pop_front() else { break };
            *bytes += cost;
            self.bytes -= cost;
            work.entries.push(entry);
            work.answers.push(answer);
        }
    }

    fn refuse(&mut self, why: &AppendError) {
        self.bytes = 0;
        for (_, answer) in self.waiting.drain(..) {
            // Whoever no longer waits needs no answer.
            let _ = answer.send(Err(why.clone()));
        }
    }
}

fn cost(entry: &Entry) -> usize {
    entry.payload.len() + entry.blob.as_ref().map_or(0, Vec::len) + RECORD_OVERHEAD
}

impl Exchange {
    pub(super) fn new(head: Position, reserve_ready: bool) -> Self {
        let queue = Queue {
            ordinary: Lane::default(),
            priority: Lane::default(),
            erasures: VecDeque::new(),
            state: State::Running,
            closing: false,
        };
        Self {
            queue: Mutex::new(queue),
            work: Condvar::new(),
            head: watch::Sender::new(head),
            reserve_ready: AtomicBool::new(reserve_ready),
        }
    }

    pub(super) fn append(&self, entry: Entry, answer: Answer) -> Result<(), AppendError> {
        let mut queue = self.queue.lock();
        queue.check()?;
        if entry.priority {
            queue.priority.push(entry, answer, PRIORITY_QUEUE_LEN_MAX)?;
        } else {
            queue.ordinary.push(entry, answer, QUEUE_LEN_MAX)?;
        }
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    pub(super) fn erase(&self, position: Position, erased: Erased) -> Result<(), AppendError> {
        let mut queue = self.queue.lock();
        queue.check()?;
        if queue.erasures.len() >= ERASE_QUEUE_LEN_MAX {
            return Err(AppendError::Busy);
        }
        queue.erasures.push_back((position, erased));
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    /// Lets the writer finish what waits, and no more.
    pub(super) fn finish(&self) {
        self.queue.lock().closing = true;
        self.work.notify_one();
    }

    pub(super) fn state(&self) -> (State, usize) {
        let queue = self.queue.lock();
        (queue.state.clone(), queue.ordinary.waiting.len() + queue.priority.waiting.len())
    }

    fn next(&self) -> Work {
        let mut queue = self.queue.lock();
        while queue.is_empty() && !queue.closing {
            self.work.wait(&mut queue);
        }
        let mut work = Work {
            entries: Vec::new(),
            answers: Vec::new(),
            erasures: std::mem::take(&mut queue.erasures),
            done: queue.is_empty() && queue.closing,
        };
        let mut bytes = 0;
        queue.priority.take(&mut work, &mut bytes);
        queue.ordinary.take(&mut work, &mut bytes);
        work
    }

    /// Ends the queue: everything that waits or comes later gets the state's error.
    fn end(&self, state: State) {
        let mut queue = self.queue.lock();
        // A failure is not forgotten by closing.
        if queue.state == State::Running {
            queue.state = state;
        }
        let why = queue.check().err().unwrap_or(AppendError::Closed);
        queue.priority.refuse(&why);
        queue.ordinary.refuse(&why);
        for (_, erased) in queue.erasures.drain(..) {
            let _ = erased.send(Err(why.clone().into()));
        }
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.ordinary.waiting.is_empty() && self.priority.waiting.is_empty() && self.erasures.is_empty()
    }

    fn check(&self) -> Result<(), AppendError> {
        match &self.state {
            State::Failed(why) => Err(AppendError::Failed(why.clone())),
            State::Closed => Err(AppendError::Closed),
            State::Running if self.closing => Err(AppendError::Closed),
            State::Running => Ok(()),
        }
    }
}

/// The writer thread's life: groups until it is told to finish or the disk fails.
pub(super) fn run(mut log: Log, exchange: &Exchange, mut applier: Box<dyn Applier>) {
    let _guard = EndGuard(exchange);
    loop {
        let work = exchange.next();
        if work.done {
            let state =
                log.close().map_or_else(|failure| State::Failed(failure.to_string()), |()| State::Closed);
            exchange.end(state);
            return;
        }
        if !step(&mut log, exchange, &mut *applier, work) {
            return;
        }
    }
}

/// Whatever ends the writer, nobody waits for it in vain.
struct EndGuard<'a>(&'a Exchange);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.end(State::Failed("its writer is gone".to_owned()));
    }
}

/// One group. False: the ledger has failed.
fn step(log: &mut Log, exchange: &Exchange, applier: &mut dyn Applier, work: Work) -> bool {
    let Work { entries, answers, erasures, .. } = work;
    if !entries.is_empty() {
        let verdicts = match log.commit(entries) {
            Ok(verdicts) => verdicts,
            Err(failure) => return fail(exchange, answers, erasures, failure.to_string()),
        };
        exchange.reserve_ready.store(log.reserve.is_some(), Ordering::Relaxed);
        let mut committed: Vec<Committed> = Vec::with_capacity(verdicts.len());
        let mut results = Vec::with_capacity(verdicts.len());
        for verdict in verdicts {
            match verdict {
                Verdict::Committed(one) => {
                    results.push(Ok(one.appended));
                    committed.push(one);
                }
                Verdict::NoSpace => results.push(Err(AppendError::NoSpace)),
            }
        }
        if let Some(last) = committed.last() {
            let head = last.appended.next;
            // The applier touches a store that may panic; the records are safe, but nobody may be told that they count.
            if catch_unwind(AssertUnwindSafe(|| applier.on_durable(&committed))).is_err() {
                return fail(
                    exchange,
                    answers,
                    erasures,
                    "applying a record to the view panicked".to_owned(),
                );
            }
            exchange.head.send_replace(head);
        }
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever no longer waits needs no answer.
            let _ = answer.send(result);
        }
    }
    let mut erasures = erasures;
    while let Some((position, erased)) = erasures.pop_front() {
        match log.erase(position) {
            Ok(result) => drop(erased.send(result)),
            Err(failure) => {
                erasures.push_front((position, erased));
                return fail(exchange, Vec::new(), erasures, failure.to_string());
            }
        }
    }
    true
}

/// Whoever learns of the failure finds the ledger failed already.
fn fail(
    exchange: &Exchange,
    answers: Vec<Answer>,
    erasures: VecDeque<(Position, Erased)>,
    why: String,
) -> bool {
    exchange.end(State::Failed(why.clone()));
    let why = AppendError::Failed(why);
    for answer in answers {
        let _ = answer.send(Err(why.clone()));
    }
    for (_, erased) in erasures {
        let _ = erased.send(Err(why.clone().into()));
    }
    false
}
