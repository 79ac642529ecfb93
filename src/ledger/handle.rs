//! The handle that callers hold.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::catalog::{LOCK, io_error, segment_number};
use super::commit::Incoming;
use super::disk::Disk;
use super::log::{Sizes, space_low};
use super::queue::{Answer, Exchange};
use super::relay::Checked;
use super::shared::Shared;
use super::writer::run;
use super::{
    AppendError, Appended, Applier, BLOB_LEN_MAX, Config, Entry, EraseError, Head, Health, OpenError, Opened,
    PAYLOAD_LEN_MAX, Position, ReadError, Reader, Record, Records, RecordsOf, RelayError, Relayed, Relaying,
    State, recover,
};
use crate::policy::ids::OriginId;

/// The open ledger. Share it in an `Arc`; every call takes `&self`. Dropping it closes it.
pub struct Ledger {
    shared: Arc<Shared>,
    exchange: Arc<Exchange>,
    sizes: Sizes,
    running: Mutex<Option<Running>>,
    #[cfg(test)]
    by_hand: Option<Box<Mutex<super::writer::ByHand>>>,
}

/// What closing takes apart.
struct Running {
    writer: JoinHandle<()>,
    /// Keeps other processes out.
    _lock: Box<dyn Send + Sync>,
}

impl Ledger {
    /// Opens the ledger on `disk`, creating it if there is none, and recovers from whatever a crash left.
    ///
    /// `key_check` tells the cluster key without revealing it; it is stored in a new ledger and compared with an old one's.
    ///
    /// # Errors
    /// [`OpenError`]; never because of a crash at any earlier moment.
    pub fn open(
        config: &Config,
        disk: Arc<dyn Disk>,
        key_check: [u8; 16],
        applier: Box<dyn Applier>,
    ) -> Result<(Self, Opened), OpenError> {
        config.check()?;
        let lock =
            disk.lock(LOCK, config.lock_wait).map_err(io_error("lock", LOCK))?.ok_or(OpenError::Locked)?;
        Self::start(Sizes::from(config), disk, key_check, applier, lock)
    }

    pub(super) fn start(
        sizes: Sizes,
        disk: Arc<dyn Disk>,
        key_check: [u8; 16],
        applier: Box<dyn Applier>,
        lock: Box<dyn Send + Sync>,
    ) -> Result<(Self, Opened), OpenError> {
        let (log, opened) = recover::open(disk, sizes, key_check)?;
        let shared = Arc::clone(&log.shared);
        let exchange = Arc::new(Exchange::new(opened.head, log.reserve.is_some()));
        let writer = thread::Builder::new()
            .name("ledger".to_owned())
            .spawn({
                let exchange = Arc::clone(&exchange);
                move || run(log, &exchange, applier)
            })
            .map_err(io_error("start the writer of", "."))?;
        let running = Mutex::new(Some(Running { writer, _lock: lock }));
        let ledger = Self {
            shared,
            exchange,
            sizes,
            running,
            #[cfg(test)]
            by_hand: None,
        };
        Ok((ledger, opened))
    }

    /// The same without a thread, and in small segments: [`Ledger::work`] writes. Nobody else has the disk.
    #[cfg(test)]
    pub(crate) fn open_by_hand(
        disk: Arc<dyn Disk>,
        key_check: [u8; 16],
        applier: Box<dyn Applier>,
    ) -> Result<(Self, Opened), OpenError> {
        let sizes = super::tests::BY_HAND;
        let (log, opened) = recover::open(disk, sizes, key_check)?;
        let shared = Arc::clone(&log.shared);
        let exchange = Arc::new(Exchange::new(opened.head, log.reserve.is_some()));
        let by_hand = Some(Box::new(Mutex::new(super::writer::ByHand::new(log, applier))));
        Ok((Self { shared, exchange, sizes, running: Mutex::new(None), by_hand }, opened))
    }

    /// Writes, syncs and applies what waits, where no thread does; `false`: nothing waited.
    #[cfg(test)]
    pub(crate) fn work(&self) -> bool {
        self.by_hand.as_ref().is_some_and(|by_hand| by_hand.lock().work(&self.exchange))
    }

    /// Hands an entry to the writer. The answer comes when the entry is durable and applied. Dropping the [`Ack`] does not take the entry back.
    ///
    /// # Errors
    /// At once: [`AppendError::Busy`], [`AppendError::TooLong`], [`AppendError::Failed`], [`AppendError::Closed`]. Through the [`Ack`]:
    /// [`AppendError::NoSpace`], [`AppendError::Failed`].
    pub fn append(&self, entry: Entry) -> Result<Ack, AppendError> {
        check_len("payload", entry.payload.len(), PAYLOAD_LEN_MAX)?;
        check_len("blob", entry.blob.as_ref().map_or(0, Vec::len), BLOB_LEN_MAX)?;
        let (answer, ack) = oneshot::channel();
        self.exchange.append(Incoming::Own(entry), Answer::Own(answer))?;
        Ok(Ack(ack))
    }

    /// Hands a record of another origin to the writer, or one that an earlier run of this store lost. It is verified against what is held
    /// of its origin, written as the same bytes its origin hashed, and the answer comes when it is durable and applied. It is never
    /// written as this store's own: nothing that is appended here is chained to it.
    ///
    /// The records of one origin are written in the order in which they are handed over. `priority` ones go before ordinary ones of
    /// other origins and may use the reserve, as opt-outs do; one whose origin has ordinary ones waiting queues behind these, so that the
    /// caller best decides for an origin as a whole. They have queues of their own: [`RELAY_QUEUE_LEN_MAX`](super::RELAY_QUEUE_LEN_MAX).
    ///
    /// # Errors
    /// At once: [`AppendError::Busy`], [`AppendError::Failed`], [`AppendError::Closed`]. Through the [`RelayAck`]: [`RelayError`].
    pub fn relay(&self, record: Relayed, priority: bool) -> Result<RelayAck, AppendError> {
        let (answer, ack) = oneshot::channel();
        match Checked::new(record, priority) {
            Ok(checked) => {
                self.exchange.append(Incoming::Relayed(Box::new(checked)), Answer::Relayed(answer))?;
            }
            // There is nothing to wait for.
            Err(fault) => Answer::Relayed(answer).give(Err(fault.into())),
        }
        Ok(Ack(ack))
    }

    /// The durable records of `origin` from `sequence` on, in order, in bounded memory; each as it is when it is asked for.
    pub fn records_of(&self, origin: OriginId, sequence: u64) -> RecordsOf {
        self.reader().records_of(origin, sequence)
    }

    /// Appends and waits, for callers that are not async.
    ///
    /// # Errors
    /// As [`Ledger::append`]. Panics inside an async context, as tokio's blocking calls do.
    pub fn append_blocking(&self, entry: Entry) -> Result<Appended, AppendError> {
        self.append(entry)?.wait()
    }

    /// Overwrites the personal fields of the record at `position` with zeros, durably; blocks meanwhile. The chain still verifies. Erasing twice is fine.
    ///
    /// # Errors
    /// [`EraseError`].
    pub fn erase_blob(&self, position: Position) -> Result<(), EraseError> {
        let (erased, answer) = mpsc::sync_channel(1);
        self.exchange.erase(position, erased)?;
        answer.recv().unwrap_or_else(|_| Err(writer_gone().into()))
    }

    /// Numbers nothing more as `origin`, if it is one of this run's: whatever is appended after the answer has come gets another origin, and
    /// everything numbered before is durable and applied. Says whether it was one of this run's.
    ///
    /// # Errors
    /// [`AppendError::Busy`], [`AppendError::Failed`], [`AppendError::Closed`].
    pub async fn close_origin(&self, origin: OriginId) -> Result<bool, AppendError> {
        let (closed, answer) = oneshot::channel();
        self.exchange.close_origin(origin, closed)?;
        answer.await.unwrap_or_else(|_| Err(writer_gone()))
    }

    /// A reader that can be cloned and moved to other threads.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// All durable records from `position` on, in order, in bounded memory.
    pub fn iter_from(&self, position: Position) -> Records {
        self.reader().iter_from(position)
    }

    /// The record that starts at `position`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_at(&self, position: Position) -> Result<Record, ReadError> {
        self.reader().read_at(position)
    }

    /// The last durable record of every origin, own and others.
    pub fn vector(&self) -> Vec<(OriginId, Head)> {
        self.shared.table.read().vector.iter().map(|(origin, head)| (*origin, *head)).collect()
    }

    /// What the first record of `origin` names as the last of the origin that its store had before: that one is closed there. `None` if
    /// it names nothing or is not held.
    pub fn previous_of(&self, origin: OriginId) -> Option<(OriginId, Head)> {
        self.shared.table.read().previous.get(&origin).copied()
    }

    /// All that first records name so; one origin may be named at several places, by stores that were restored or copied.
    pub fn named(&self) -> Vec<(OriginId, Head)> {
        self.shared.table.read().previous.values().copied().collect()
    }

    /// What tells this ledger from any other: random, made with it, and the same in every copy of it.
    pub fn identity(&self) -> [u8; 16] {
        self.shared.identity.ledger
    }

    /// This run's origin, once it has appended something.
    pub fn own_origin(&self) -> Option<OriginId> {
        self.shared.table.read().own
    }

    /// Every record before this place is durable and applied.
    pub fn head(&self) -> Position {
        *self.exchange.head.borrow()
    }

    /// Follows the head: every record before the position seen here is durable and applied.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.exchange.head.subscribe()
    }

    /// How the ledger is, now.
    pub fn health(&self) -> Health {
        let (state, queue_len) = self.exchange.state();
        let reserve_ready = self.exchange.reserve_ready.load(Ordering::Relaxed);
        Health {
            state,
            free_bytes: self.shared.disk.free_bytes().ok(),
            space_low: space_low(&*self.shared.disk, &self.sizes, reserve_ready),
            reserve_ready,
            queue_len,
        }
    }

    /// Writes what waits, marks the end as clean and lets go of the files; blocks meanwhile. Later appends get [`AppendError::Closed`]; reading goes on.
    ///
    /// # Errors
    /// [`AppendError::Failed`] when the ledger had failed or the end could not be marked; the next start then takes the crash path.
    pub fn close(&self) -> Result<(), AppendError> {
        #[cfg(test)]
        if self.by_hand.is_some() {
            self.exchange.finish();
            self.work();
        }
        let Some(running) = self.running.lock().take() else { return Ok(()) };
        self.exchange.finish();
        if running.writer.join().is_err() {
            return Err(writer_gone());
        }
        match self.exchange.state().0 {
            State::Failed(why) => Err(AppendError::Failed(why)),
            State::Running | State::Closed => Ok(()),
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        #[cfg(test)]
        if self.by_hand.is_some() {
            // Ended like a process that is killed.
            return;
        }
        // Whoever wants to know how it ended calls `close`.
        let _ = self.close();
    }
}

/// An append under way.
#[derive(Debug)]
pub struct Ack<T = Appended, E = AppendError>(oneshot::Receiver<Result<T, E>>);

/// A relayed record under way.
pub type RelayAck = Ack<Relaying, RelayError>;

impl<T, E: From<AppendError>> Ack<T, E> {
    /// Waits on this thread.
    ///
    /// # Errors
    /// [`AppendError::NoSpace`], [`AppendError::Failed`]; of a relayed record any [`RelayError`].
    pub fn wait(self) -> Result<T, E> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(writer_gone().into()))
    }
}

impl<T, E: From<AppendError>> Future for Ack<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(writer_gone().into())))
    }
}

fn writer_gone() -> AppendError {
    AppendError::Failed("its writer is gone".to_owned())
}

fn check_len(part: &'static str, len: usize, max: usize) -> Result<(), AppendError> {
    if len > max { Err(AppendError::TooLong { part, len, max }) } else { Ok(()) }
}

/// Whether a ledger was ever created on `disk`: if so, it must be opened with the key it was made with.
///
/// # Errors
/// What the system says when the directory cannot be listed.
pub fn exists(disk: &dyn Disk) -> std::io::Result<bool> {
    Ok(disk.list()?.iter().any(|name| segment_number(name).is_some()))
}
