//! The queue before the writer: own entries and relayed records apart, so that peers who catch up crowd out no caller, and each
//! in an ordinary and a priority lane.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use super::commit::Incoming;
use super::{
    AppendError, Appended, BATCH_BYTES_MAX, BATCH_LEN_MAX, CLOSINGS_QUEUE_LEN_MAX, ERASE_QUEUE_LEN_MAX,
    EraseError, PRIORITY_QUEUE_LEN_MAX, Position, QUEUE_BYTES_MAX, QUEUE_LEN_MAX, RELAY_QUEUE_BYTES_MAX,
    RELAY_QUEUE_LEN_MAX, RelayError, Relaying, State,
};
use crate::policy::ids::OriginId;

pub(super) type Erased = mpsc::SyncSender<Result<(), EraseError>>;
/// Who waits to hear whether an origin was one of this run's and is closed.
pub(super) type OriginClosed = oneshot::Sender<Result<bool, AppendError>>;

/// What a record costs beside its payload and blob, at most.
const RECORD_OVERHEAD: usize = 256;

/// Who waits to hear what became of an entry.
pub(super) enum Answer {
    Own(oneshot::Sender<Result<Appended, AppendError>>),
    Relayed(oneshot::Sender<Result<Relaying, RelayError>>),
}

impl Answer {
    /// Whoever no longer waits needs no answer.
    pub(super) fn give(self, result: Result<Relaying, RelayError>) {
        match self {
            Self::Relayed(sender) => drop(sender.send(result)),
            Self::Own(sender) => drop(sender.send(match result {
                Ok(Relaying::Appended(appended)) => Ok(appended),
                Err(RelayError::Append(error)) => Err(error),
                // An own entry has no origin's chain to break.
                Ok(Relaying::Known) | Err(_) => {
                    Err(AppendError::Failed("its answer was mixed up".to_owned()))
                }
            })),
        }
    }

    pub(super) fn refuse(self, why: AppendError) {
        self.give(Err(why.into()));
    }
}

/// Entries of one kind that wait.
struct Lane {
    waiting: VecDeque<(Incoming, Answer)>,
    bytes: usize,
    len_max: usize,
    bytes_max: usize,
}

/// What waits for the writer.
struct Queue {
    ordinary: Lane,
    priority: Lane,
    relayed: Lane,
    relayed_priority: Lane,
    /// How many of each origin wait in the ordinary lane: no later one may overtake them.
    relayed_waiting: BTreeMap<OriginId, usize>,
    erasures: VecDeque<(Position, Erased)>,
    closings: Vec<(OriginId, OriginClosed)>,
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
pub(super) struct Work {
    pub(super) entries: Vec<Incoming>,
    pub(super) answers: Vec<Answer>,
    pub(super) erasures: VecDeque<(Position, Erased)>,
    /// Origins to be closed before anything is written.
    pub(super) closings: Vec<(OriginId, OriginClosed)>,
    pub(super) done: bool,
    bytes: usize,
}

impl Lane {
    fn new(len_max: usize, bytes_max: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, len_max, bytes_max }
    }

    fn push(&mut self, incoming: Incoming, answer: Answer) -> Result<(), AppendError> {
        let bytes = cost(&incoming);
        // An entry always fits in an empty lane, whatever its length.
        if self.waiting.len() >= self.len_max
            || (!self.waiting.is_empty() && self.bytes + bytes > self.bytes_max)
        {
            return Err(AppendError::Busy);
        }
        self.bytes += bytes;
        self.waiting.push_back((incoming, answer));
        Ok(())
    }

    /// Moves what still fits into the group: one `part`-th of what a group may have, counted from its start.
    fn take(&mut self, work: &mut Work, part: usize) {
        while let Some((incoming, _)) = self.waiting.front() {
            let cost = cost(incoming);
            let fits = work.entries.is_empty() || work.bytes + cost <= BATCH_BYTES_MAX / part;
            if !fits || work.entries.len() >= BATCH_LEN_MAX / part {
                break;
            }
            let Some((incoming, answer)) = self.waiting.pop_front() else { break };
            work.bytes += cost;
            self.bytes -= cost;
            work.entries.push(incoming);
            work.answers.push(answer);
        }
    }

    fn refuse(&mut self, why: &AppendError) {
        self.bytes = 0;
        for (_, answer) in self.waiting.drain(..) {
            answer.refuse(why.clone());
        }
    }
}

fn cost(incoming: &Incoming) -> usize {
    let bytes = match incoming {
        Incoming::Own(entry) => entry.payload.len() + entry.blob.as_ref().map_or(0, Vec::len),
        Incoming::Relayed(checked) => checked.bytes(),
    };
    bytes + RECORD_OVERHEAD
}

impl Exchange {
    pub(super) fn new(head: Position, reserve_ready: bool) -> Self {
        let queue = Queue {
            ordinary: Lane::new(QUEUE_LEN_MAX, QUEUE_BYTES_MAX),
            priority: Lane::new(PRIORITY_QUEUE_LEN_MAX, QUEUE_BYTES_MAX),
            relayed: Lane::new(RELAY_QUEUE_LEN_MAX, RELAY_QUEUE_BYTES_MAX),
            relayed_priority: Lane::new(RELAY_QUEUE_LEN_MAX, RELAY_QUEUE_BYTES_MAX),
            relayed_waiting: BTreeMap::new(),
            erasures: VecDeque::new(),
            closings: Vec::new(),
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

    pub(super) fn append(&self, incoming: Incoming, answer: Answer) -> Result<(), AppendError> {
        let mut queue = self.queue.lock();
        queue.check()?;
        queue.push(incoming, answer)?;
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

    pub(super) fn close_origin(&self, origin: OriginId, closed: OriginClosed) -> Result<(), AppendError> {
        let mut queue = self.queue.lock();
        queue.check()?;
        if queue.closings.len() >= CLOSINGS_QUEUE_LEN_MAX {
            return Err(AppendError::Busy);
        }
        queue.closings.push((origin, closed));
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
        (queue.state.clone(), queue.len())
    }

    /// Whether [`Exchange::next`] would answer at once.
    #[cfg(test)]
    pub(super) fn has_work(&self) -> bool {
        let queue = self.queue.lock();
        !queue.is_empty() || queue.closing
    }

    pub(super) fn next(&self) -> Work {
        let mut queue = self.queue.lock();
        while queue.is_empty() && !queue.closing {
            self.work.wait(&mut queue);
        }
        let mut work = Work {
            entries: Vec::new(),
            answers: Vec::new(),
            erasures: std::mem::take(&mut queue.erasures),
            closings: std::mem::take(&mut queue.closings),
            done: queue.is_empty() && queue.closing,
            bytes: 0,
        };
        queue.fill(&mut work);
        work
    }

    /// Ends the queue: everything that waits or comes later gets the state's error.
    pub(super) fn end(&self, state: State) {
        let mut queue = self.queue.lock();
        // A failure is not forgotten by closing.
        if queue.state == State::Running {
            queue.state = state;
        }
        let why = queue.check().err().unwrap_or(AppendError::Closed);
        for lane in queue.lanes() {
            lane.refuse(&why);
        }
        queue.relayed_waiting.clear();
        for (_, erased) in queue.erasures.drain(..) {
            let _ = erased.send(Err(why.clone().into()));
        }
        for (_, closed) in queue.closings.drain(..) {
            let _ = closed.send(Err(why.clone()));
        }
    }
}

impl Queue {
    fn push(&mut self, incoming: Incoming, answer: Answer) -> Result<(), AppendError> {
        match &incoming {
            Incoming::Own(entry) if entry.priority => self.priority.push(incoming, answer),
            Incoming::Own(_) => self.ordinary.push(incoming, answer),
            Incoming::Relayed(checked) => {
                let origin = checked.id.origin;
                if checked.priority && !self.relayed_waiting.contains_key(&origin) {
                    return self.relayed_priority.push(incoming, answer);
                }
                self.relayed.push(incoming, answer)?;
                *self.relayed_waiting.entry(origin).or_default() += 1;
                Ok(())
            }
        }
    }

    /// Priority first, own before relayed. Where own entries wait, relayed records leave them half of the group, and the other way round, so
    /// that neither starves.
    fn fill(&mut self, work: &mut Work) {
        self.priority.take(work, 1);
        let part = if self.ordinary.waiting.is_empty() { 1 } else { 2 };
        self.relayed_priority.take(work, part);
        if !self.relayed_priority.waiting.is_empty() {
            // An ordinary one must not overtake a priority one of the same origin.
            self.ordinary.take(work, 1);
            self.relayed_priority.take(work, 1);
            return;
        }
        if !self.relayed.waiting.is_empty() {
            self.ordinary.take(work, 2);
        }
        let from = work.entries.len();
        self.relayed.take(work, 1);
        self.leave(&work.entries[from..]);
        self.ordinary.take(work, 1);
    }

    /// These have left the ordinary lane.
    fn leave(&mut self, relayed: &[Incoming]) {
        for incoming in relayed {
            let Incoming::Relayed(checked) = incoming else { continue };
            if let Some(waiting) = self.relayed_waiting.get_mut(&checked.id.origin) {
                *waiting -= 1;
                if *waiting == 0 {
                    self.relayed_waiting.remove(&checked.id.origin);
                }
            }
        }
    }

    fn lanes(&mut self) -> [&mut Lane; 4] {
        [&mut self.priority, &mut self.ordinary, &mut self.relayed_priority, &mut self.relayed]
    }

    /// Entries and records that wait.
    fn len(&self) -> usize {
        let lanes = [&self.priority, &self.ordinary, &self.relayed_priority, &self.relayed];
        lanes.into_iter().map(|lane| lane.waiting.len()).sum()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0 && self.erasures.is_empty() && self.closings.is_empty()
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
