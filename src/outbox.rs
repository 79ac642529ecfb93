//! What an edge took in and no anchor has on disk yet.
//!
//! Opaque bytes in one file: each item is synced before its caller may rely on it, and stays until somebody says that it is done
//! with. It has never heard of consent, peers or sled.
//!
//! ```text
//! put ─▶ queue ─▶ writer: append, fdatasync ─▶ answer        done ─▶ queue ─▶ writer: append (a lost one costs a repeat)
//! ```
//!
//! One writer thread; what queued during one fdatasync is the next group. A failed fdatasync is never retried: nothing is taken any
//! more in this run. A start keeps what is not done with, in a new file, and skips what it cannot read, loudly.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ledger::disk::{Disk, DiskFile};

mod format;
#[cfg(test)]
mod tests;
mod writer;

use format::Contents;
use writer::Writer;

/// How many ordinary items may wait to be done with.
pub const ITEMS_MAX: usize = 4_096;
/// How many items may wait in all: what lies beyond [`ITEMS_MAX`] is for opt-outs.
pub const ITEMS_WITH_OPT_OUTS_MAX: usize = 65_536;
/// How many bytes the ordinary items that wait may have.
pub const BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many bytes the items that wait may have in all.
pub const BYTES_WITH_OPT_OUTS_MAX: usize = 64 * 1024 * 1024;
/// How many items may wait for the disk.
const QUEUE_LEN_MAX: usize = 1_024;
/// How many items one fdatasync covers at most.
const GROUP_LEN_MAX: usize = 256;
/// A file that holds nothing that waits, or mostly what is done with, is begun anew from this length on.
const RENEW_FROM_BYTES: u64 = 1024 * 1024;

/// The file, and what it is called while it is being made.
const FILE: &str = "outbox";
const FILE_NEW: &str = "outbox.new";
const LOCK: &str = "lock";

/// One thing that waits.
#[derive(PartialEq, Eq)]
pub struct Item {
    /// Grows by one with each item, also over restarts.
    pub number: u64,
    /// It may use the room that is kept for opt-outs.
    pub priority: bool,
    /// What it says.
    pub payload: Vec<u8>,
    /// Personal fields that go with it.
    pub blob: Option<Vec<u8>>,
}

impl Item {
    fn len(&self) -> usize {
        self.payload.len() + self.blob.as_ref().map_or(0, Vec::len)
    }
}

/// Shows lengths only: both parts hold personal data.
impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item").field("number", &self.number).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Why the outbox does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The system refused.
    #[error("cannot {what} the outbox: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process has the outbox open; stop it, or use another data directory")]
    Locked,
    /// It belongs to another key.
    #[error(
        "the outbox was written with another cluster key; give this node the key it had, or what waits in it is lost"
    )]
    OtherKey,
    /// A later version wrote it.
    #[error("the outbox was written by a newer optgate; use that one until it is empty")]
    Newer,
}

/// Why an item was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// As many wait as may.
    #[error("as much waits for an anchor as may wait")]
    Full,
    /// The disk is full.
    #[error("the disk is full")]
    NoSpace,
    /// It was closed.
    #[error("the outbox is closed")]
    Closed,
    /// The disk failed.
    #[error("the outbox takes nothing any more ({0}); look at its disk and restart")]
    Failed(String),
}

/// Tells whether an item is on disk.
pub type Synced = oneshot::Receiver<Result<(), PutError>>;

/// What waits, for metrics and status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many items.
    pub items: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// What the writer is asked for.
enum Job {
    Put(Arc<Item>, oneshot::Sender<Result<(), PutError>>),
    Done(u64),
}

/// What callers and the writer share.
#[derive(Default)]
struct Shared {
    waiting: BTreeMap<u64, Arc<Item>>,
    bytes: usize,
    next: u64,
    /// Something that waits is not in the file.
    lacks: bool,
    failed: Option<String>,
}

/// An outbox, what waits in it, its writer and what that is asked for.
type Prepared = (Outbox, Vec<Arc<Item>>, Writer, Receiver<Job>);

/// The open outbox.
pub struct Outbox {
    disk: Arc<dyn Disk>,
    identity: [u8; 16],
    shared: Arc<Mutex<Shared>>,
    queue: Mutex<Option<SyncSender<Job>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    #[cfg(test)]
    by_hand: Mutex<Option<(Writer, Receiver<Job>)>>,
    _lock: Box<dyn Send + Sync>,
}

impl Outbox {
    /// Opens the outbox on `disk`, which is its own, or makes one; with what waits in it. `key_check` tells the cluster key without revealing it.
    ///
    /// # Errors
    /// [`OpenError`]; never because of a crash at any earlier moment.
    pub fn open(
        disk: Arc<dyn Disk>,
        key_check: [u8; 16],
        lock_wait: Duration,
    ) -> Result<(Self, Vec<Arc<Item>>), OpenError> {
        let (mut outbox, found, writer, jobs) = Self::prepare(disk, key_check, lock_wait)?;
        let thread =
            std::thread::Builder::new().name("optgate-outbox".into()).spawn(move || writer.run(&jobs));
        outbox.writer = Mutex::new(Some(thread.map_err(io_error("start the thread of"))?));
        Ok((outbox, found))
    }

    /// The same without a thread: [`Outbox::work`] writes.
    #[cfg(test)]
    pub(crate) fn open_by_hand(
        disk: Arc<dyn Disk>,
        key_check: [u8; 16],
    ) -> Result<(Self, Vec<Arc<Item>>), OpenError> {
        let (mut outbox, found, writer, jobs) = Self::prepare(disk, key_check, Duration::ZERO)?;
        outbox.by_hand = Mutex::new(Some((writer, jobs)));
        Ok((outbox, found))
    }

    /// Writes and syncs what waits, where no thread does; `false`: nothing waited.
    #[cfg(test)]
    pub(crate) fn work(&self) -> bool {
        let mut by_hand = self.by_hand.lock();
        let Some((writer, jobs)) = by_hand.as_mut() else { return false };
        let group: Vec<Job> = jobs.try_iter().take(GROUP_LEN_MAX).collect();
        let worked = !group.is_empty();
        if worked {
            writer.step(group);
        }
        worked
    }

    fn prepare(disk: Arc<dyn Disk>, key_check: [u8; 16], lock_wait: Duration) -> Result<Prepared, OpenError> {
        let lock = disk.lock(LOCK, lock_wait).map_err(io_error("lock"))?.ok_or(OpenError::Locked)?;
        let Contents { identity, next, items } = match format::read(&*disk, key_check)? {
            Some(contents) => contents,
            None => {
                let mut identity = [0; 16];
                disk.random(&mut identity).map_err(io_error("get randomness for"))?;
                Contents { identity, next: 1, items: BTreeMap::new() }
            }
        };
        let waiting: BTreeMap<u64, Arc<Item>> =
            items.into_iter().map(|(number, item)| (number, Arc::new(item))).collect();
        let (file, end) = begin(&*disk, identity, key_check, next, &waiting).map_err(io_error("write"))?;
        let found = waiting.values().cloned().collect();
        let bytes = waiting.values().map(|item| item.len()).sum();
        let shared = Arc::new(Mutex::new(Shared { waiting, bytes, next, lacks: false, failed: None }));
        let (queue, jobs) = sync_channel(QUEUE_LEN_MAX);
        let kept = Arc::clone(&disk);
        let writer = Writer {
            disk,
            identity,
            key_check,
            file,
            end,
            lacks: false,
            shared: Arc::clone(&shared),
            failed: None,
        };
        let outbox = Self {
            disk: kept,
            identity,
            shared,
            queue: Mutex::new(Some(queue)),
            writer: Mutex::default(),
            #[cfg(test)]
            by_hand: Mutex::default(),
            _lock: lock,
        };
        Ok((outbox, found, writer, jobs))
    }

    /// What tells this outbox from any other: random, made with it.
    #[must_use]
    pub fn identity(&self) -> [u8; 16] {
        self.identity
    }

    /// Takes an item. It waits from now on, whatever the disk says; the answer says whether it also would after a crash.
    ///
    /// # Errors
    /// [`PutError`], at once: it was not taken.
    pub fn put(
        &self,
        payload: Vec<u8>,
        blob: Option<Vec<u8>>,
        priority: bool,
    ) -> Result<(Arc<Item>, Synced), PutError> {
        let (answer, synced) = oneshot::channel();
        let queue = self.queue.lock();
        let Some(queue) = queue.as_ref() else { return Err(PutError::Closed) };
        let mut shared = self.shared.lock();
        let mut item = Item { number: shared.next, priority, payload, blob };
        let len = item.len();
        let (items_max, bytes_max) = if priority {
            (ITEMS_WITH_OPT_OUTS_MAX, BYTES_WITH_OPT_OUTS_MAX)
        } else {
            (ITEMS_MAX, BYTES_MAX)
        };
        if shared.waiting.len() >= items_max || shared.bytes + len > bytes_max {
            return Err(PutError::Full);
        }
        if let Some(why) = &shared.failed
            && !priority
        {
            return Err(PutError::Failed(why.clone()));
        }
        item.number = shared.next;
        let item = Arc::new(item);
        shared.next += 1;
        shared.bytes += len;
        shared.waiting.insert(item.number, Arc::clone(&item));
        // Under the lock, so that the file has them in the order of their numbers.
        ask(queue, &mut shared, Job::Put(Arc::clone(&item), answer));
        Ok((item, synced))
    }

    /// `number` is done with. A crash right now may bring it back.
    pub fn done(&self, number: u64) {
        let queue = self.queue.lock();
        let mut shared = self.shared.lock();
        if let Some(item) = shared.waiting.remove(&number) {
            shared.bytes -= item.len();
            if let Some(queue) = queue.as_ref() {
                ask(queue, &mut shared, Job::Done(number));
            }
        }
    }

    /// What waits.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        let shared = self.shared.lock();
        Waiting { items: shared.waiting.len(), bytes: shared.bytes }
    }

    /// Fills `bytes` with its disk's randomness; `false`: there is none.
    #[must_use]
    pub fn random(&self, bytes: &mut [u8]) -> bool {
        self.disk.random(bytes).is_ok()
    }

    /// How much its disk has left, in bytes, if that can be told.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes().ok()
    }

    /// Why nothing is taken any more, if that is so.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        self.shared.lock().failed.clone()
    }

    /// Writes what is queued and lets go of the file. Blocking.
    pub fn close(&self) {
        drop(self.queue.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            // One that panicked has nothing left to write.
            let _ = writer.join();
        }
    }
}

/// Whoever waits for a full queue's answer is told that the disk does not keep up. The item waits in memory meanwhile, and the file is
/// written anew with it as soon as that can be.
fn ask(queue: &SyncSender<Job>, shared: &mut Shared, job: Job) {
    let (job, why) = match queue.try_send(job) {
        Ok(()) => return,
        Err(TrySendError::Full(job)) => (job, PutError::Full),
        Err(TrySendError::Disconnected(job)) => (job, PutError::Failed("its writer is gone".into())),
    };
    if let Job::Put(_, answer) = job {
        shared.lacks = true;
        let _ = answer.send(Err(why));
    }
}

/// The file to go on with: a new one that holds what waits, or the old one where there is no room for another.
fn begin(
    disk: &dyn Disk,
    identity: [u8; 16],
    key_check: [u8; 16],
    next: u64,
    waiting: &BTreeMap<u64, Arc<Item>>,
) -> io::Result<(Arc<dyn DiskFile>, u64)> {
    match writer::renew(disk, identity, key_check, next, waiting.values()) {
        Err(fault) if writer::is_full(&fault) && disk.list()?.iter().any(|name| name == FILE) => {
            let file = disk.open(FILE)?;
            let end = file.len()?;
            Ok((file, end))
        }
        begun => begun,
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.close();
    }
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { what, source }
}

/// The next group of jobs; `None`: there will be no more.
fn next_group(jobs: &Receiver<Job>) -> Option<Vec<Job>> {
    let mut group = vec![jobs.recv().ok()?];
    while group.len() < GROUP_LEN_MAX
        && let Ok(job) = jobs.try_recv()
    {
        group.push(job);
    }
    Some(group)
}
