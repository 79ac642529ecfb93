//! The application layer: one door for every entrance.
//!
//! It knows the policy, the ledger, the view and the limits, and puts them in order. It has never heard of
//! gRPC, HTTP, command lines or sled.

mod applying;
pub mod audit;
pub mod book;
pub mod borrow;
mod carry_on;
pub mod check;
pub mod codec;
pub mod decision;
mod distrust;
pub mod edge;
pub mod error;
pub mod feedback;
pub mod import;
pub mod inbound;
pub mod people;
pub mod ranges;
pub mod record;
pub mod registry;
pub mod replica;
pub mod snapshot;
pub mod start;
pub mod stripes;
pub mod submitted;
pub mod token;
pub mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::key::ClusterKey;
use crate::ledger::{Head, Ledger, Position, State};
use crate::limits::Limiter;
use crate::policy::ids::OriginId;
use crate::policy::keywords::Lexicon;
use crate::view::View;

pub use book::Book;
pub use check::{CheckAnswer, CheckRequest, Mode, RequestedContent};
pub use decision::DecisionSink;
pub use error::EngineError;

use edge::Edge;
use ranges::Ranges;
use replica::Replica;
use stripes::Stripes;
use token::Vector;

/// Whether the engine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Opening, replaying or rebuilding.
    Starting,
    /// Serving.
    Serving,
    /// Closing.
    Stopping,
}

/// The engine. Clones share it.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

/// Where events are numbered.
enum Log {
    /// Here.
    Ledger(Ledger),
    /// At the anchors.
    Edge(Box<Edge>),
}

/// What the engine is made of.
pub(crate) struct Inner {
    clock: Arc<dyn Clock>,
    key: ClusterKey,
    log: Log,
    view: View,
    limiter: Limiter,
    book: ArcSwap<Book>,
    lexicon: Arc<Lexicon>,
    stripes: Stripes,
    vector: Arc<Vector>,
    ranges: Arc<Ranges>,
    replica: Arc<Replica>,
    /// An event could not be applied: the view lacks something the ledger holds, so nothing is allowed.
    behind: Arc<AtomicBool>,
    sink: Arc<dyn DecisionSink>,
    usage: usage::Sharing,
    borrowed: Mutex<borrow::Borrowed>,
    first_origin: std::sync::OnceLock<[u8; 16]>,
    /// Numbers this run's decisions.
    serial: AtomicU64,
    /// Tells this run's numbers from another's.
    run: [u8; 8],
    phase: watch::Sender<Phase>,
}

impl Inner {
    pub(crate) fn book(&self) -> Arc<Book> {
        self.book.load_full()
    }

    pub(crate) fn lexicon(&self) -> &Lexicon {
        &self.lexicon
    }

    /// Whether calls are answered now.
    pub(crate) fn serving(&self) -> Result<(), EngineError> {
        match *self.phase.borrow() {
            Phase::Starting => Err(EngineError::NotServing("starting")),
            Phase::Serving => Ok(()),
            Phase::Stopping => Err(EngineError::NotServing("stopping")),
        }
    }

    /// # Errors
    /// [`EngineError::NoHistory`] at an edge.
    pub(crate) fn ledger(&self) -> Result<&Ledger, EngineError> {
        match &self.log {
            Log::Ledger(ledger) => Ok(ledger),
            Log::Edge(_) => Err(EngineError::NoHistory),
        }
    }

    pub(crate) fn edge(&self) -> Option<&Edge> {
        match &self.log {
            Log::Ledger(_) => None,
            Log::Edge(edge) => Some(edge),
        }
    }

    /// What tells this ledger from any other: the name of its first event. Empty while there is none.
    fn store_mark(&self) -> [u8; 16] {
        if let Some(mark) = self.first_origin.get() {
            return *mark;
        }
        match self.ledger().ok().and_then(|ledger| ledger.iter_from(Position::START).next()) {
            Some(Ok(record)) => *self.first_origin.get_or_init(|| record.appended.id.origin.0),
            _ => [0; 16],
        }
    }

    /// Whether the view holds everything that the ledger does.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.load(Ordering::Acquire)
    }
}

impl Engine {
    /// The rules in force.
    #[must_use]
    pub fn book(&self) -> Arc<Book> {
        self.inner.book()
    }

    /// Puts new rules in force; checks under way finish by the old ones.
    pub fn set_book(&self, book: Book) {
        self.inner.book.store(Arc::new(book));
    }

    /// Whether calls are answered.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.inner.phase.subscribe()
    }

    /// The ledger, for readers and health.
    ///
    /// # Errors
    /// [`EngineError::NoHistory`] at an edge.
    pub fn ledger(&self) -> Result<&Ledger, EngineError> {
        self.inner.ledger()
    }

    /// The last event of every origin that is applied here.
    #[must_use]
    pub fn heads(&self) -> Vec<(OriginId, Head)> {
        match &self.inner.log {
            Log::Ledger(ledger) => ledger.vector(),
            Log::Edge(edge) => edge.heads(),
        }
    }

    /// What first records that are held here name as the last of the origin before; an edge knows it of its snapshot.
    #[must_use]
    pub fn named(&self) -> Vec<(OriginId, Head)> {
        match &self.inner.log {
            Log::Ledger(ledger) => ledger.named(),
            Log::Edge(edge) => edge.named(),
        }
    }

    /// What tells this node's store from any other: made with it, and the same in every copy of it.
    #[must_use]
    pub fn identity_of_store(&self) -> [u8; 16] {
        match &self.inner.log {
            Log::Ledger(ledger) => ledger.identity(),
            Log::Edge(edge) => edge.identity(),
        }
    }

    /// Why nothing can be kept any more, if that is so; only a restart helps.
    #[must_use]
    pub fn storage_failed(&self) -> Option<String> {
        match &self.inner.log {
            Log::Ledger(ledger) => match ledger.health().state {
                State::Failed(why) => Some(why),
                State::Running | State::Closed => None,
            },
            // A restart would lose what is in memory alone, so it waits until that has been carried away.
            Log::Edge(edge) => edge.failed().filter(|_| edge.waiting().items == 0),
        }
    }

    /// What is known of the cluster.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.inner.replica
    }

    /// Whether too little is known of a majority of the anchors now.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.inner.replica.is_stale(self.inner.clock.mono_ms())
    }

    /// The view's figures and state, for metrics and health.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.inner.view
    }

    /// The limits' figures, for metrics.
    #[must_use]
    pub fn limiter(&self) -> &Limiter {
        &self.inner.limiter
    }

    /// The cluster key's uses that entrances need: hashing a request's content and a person's address.
    #[must_use]
    pub fn key(&self) -> &ClusterKey {
        &self.inner.key
    }

    /// The token of everything applied here.
    #[must_use]
    pub fn as_of(&self) -> String {
        self.inner.vector.token()
    }

    /// Proves that `place` was given out by this store: another store, or a made-up place, has another mark.
    #[must_use]
    pub fn place_mark(&self, place: Position) -> String {
        let inner = &self.inner;
        let mac = inner.key.mac16("place", &[&inner.store_mark(), &place.as_u64().to_le_bytes()]);
        mac[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A name for this run.
    #[must_use]
    pub fn run_name(&self) -> String {
        self.inner.run.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The engine's clock.
    #[must_use]
    pub fn now(&self) -> crate::policy::time::Timestamp {
        self.inner.clock.now()
    }

    /// Whether the view lacks something the ledger holds: then nothing is allowed until a restart.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.inner.is_behind()
    }
}

#[cfg(test)]
pub(crate) mod tests;
