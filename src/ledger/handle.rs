//! The handle that callers hold.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{oneshot, watch};

use super::disk::Disk;
use super::{
    AppendError, Appended, Applier, Config, Entry, EraseError, Head, Health, OpenError, Opened, Position,
    ReadError, Record, State,
};
use crate::policy::ids::OriginId;

/// The open ledger. Share it in an `Arc`; every call takes `&self`.
pub struct Ledger {
    head: watch::Sender<Position>,
}

impl Ledger {
    /// Opens the ledger on `disk`, creating it if there is none, and recovers from whatever a crash left.
    ///
    /// `key_check` tells the cluster key without revealing it; it is stored in a new ledger and compared with an old one's.
    ///
    /// # Errors
    /// [`OpenError`]; never because of a crash at any earlier moment.
    pub fn open(
        _config: &Config,
        _disk: Arc<dyn Disk>,
        _key_check: [u8; 16],
        _applier: Box<dyn Applier>,
    ) -> Result<(Self, Opened), OpenError> {
        Ok((Self { head: watch::Sender::new(Position::START) }, Opened::default()))
    }

    /// Hands an entry to the writer. The answer comes when the entry is durable and applied.
    ///
    /// # Errors
    /// At once: [`AppendError::Busy`], [`AppendError::TooLong`], [`AppendError::Failed`], [`AppendError::Closed`]. Through the [`Ack`]:
    /// [`AppendError::NoSpace`], [`AppendError::Failed`].
    pub fn append(&self, _entry: Entry) -> Result<Ack, AppendError> {
        Err(AppendError::Closed)
    }

    /// Appends and waits, for callers that are not async.
    ///
    /// # Errors
    /// As [`Ledger::append`]. Panics inside an async context, as tokio's blocking calls do.
    pub fn append_blocking(&self, entry: Entry) -> Result<Appended, AppendError> {
        self.append(entry)?.wait()
    }

    /// Overwrites the personal fields of the record at `position` with zeros, durably. The chain still verifies. Erasing twice is fine.
    ///
    /// # Errors
    /// [`EraseError`].
    pub fn erase_blob(&self, position: Position) -> Result<(), EraseError> {
        Err(ReadError::NotFound(position).into())
    }

    /// A reader that can be cloned and moved to other threads.
    pub fn reader(&self) -> Reader {
        Reader {}
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

    /// The last durable record of every origin.
    pub fn vector(&self) -> Vec<(OriginId, Head)> {
        Vec::new()
    }

    /// This run's origin, once it has appended something.
    pub fn own_origin(&self) -> Option<OriginId> {
        None
    }

    /// Follows the head: every record before the position seen here is durable and applied.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    /// How the ledger is, now.
    pub fn health(&self) -> Health {
        Health {
            state: State::Closed,
            free_bytes: None,
            space_low: false,
            reserve_ready: false,
            queue_len: 0,
        }
    }

    /// Writes what waits, marks the end as clean and lets go of the files. Later appends get [`AppendError::Closed`].
    ///
    /// # Errors
    /// [`AppendError::Failed`] when the end could not be marked; the next start then takes the crash path.
    pub fn close(&self) -> Result<(), AppendError> {
        Ok(())
    }
}

/// An append under way.
#[derive(Debug)]
pub struct Ack(oneshot::Receiver<Result<Appended, AppendError>>);

impl Ack {
    /// Waits on this thread.
    ///
    /// # Errors
    /// [`AppendError::NoSpace`], [`AppendError::Failed`].
    pub fn wait(self) -> Result<Appended, AppendError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(writer_gone()))
    }
}

impl Future for Ack {
    type Output = Result<Appended, AppendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|answer| answer.unwrap_or_else(|_| Err(writer_gone())))
    }
}

fn writer_gone() -> AppendError {
    AppendError::Failed("its writer is gone".to_owned())
}

/// Reads durable records, beside the writer.
#[derive(Clone)]
pub struct Reader {}

impl Reader {
    /// As [`Ledger::iter_from`].
    pub fn iter_from(&self, _position: Position) -> Records {
        Records {}
    }

    /// As [`Ledger::read_at`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read_at(&self, position: Position) -> Result<Record, ReadError> {
        Err(ReadError::NotFound(position))
    }
}

/// Records in log order. `None` means the head was reached; after the head has moved, `next` goes on. After
/// [`ReadError::Damaged`] it goes on behind the damage.
pub struct Records {}

impl Iterator for Records {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

/// Whether a ledger was ever created on `disk`: if so, it must be opened with the key it was made with.
///
/// # Errors
/// What the system says when the directory cannot be listed.
pub fn exists(disk: &dyn Disk) -> std::io::Result<bool> {
    Ok(!disk.list()?.is_empty())
}
