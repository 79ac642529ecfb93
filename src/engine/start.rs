//! Opening: key, ledger, view; what the view lacks is replayed, what it lost is rebuilt, before anything is answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::key::ClusterKey;
use crate::ledger::disk::Disk;
use crate::ledger::{self, Damage, Ledger, Position};
use crate::limits::{self, Limiter};
use crate::outbox::{self, Outbox};
use crate::policy::event::LedgerEntry;
use crate::policy::ids::EventId;
use crate::policy::keywords::Lexicon;
use crate::policy::time::Timestamp;
use crate::view::{self, LedgerIdentity, Note, Placed, View, ViewError};

use super::applying::{Applying, read_entry};
use super::book::Book;
use super::decision::DecisionSink;
use super::edge::Edge;
use super::replica::Replica;
use super::stripes::Stripes;
use super::usage::Sharing;
use super::{Engine, Inner, Log, Phase};

/// The tag of the limits' changes in the view's journal.
const LIMITS_TAG: u8 = 1;
/// The name of the limits' part of a checkpoint.
const LIMITS_NAME: &str = "limits";
/// The most events that a start applies together: the more, the fewer pages of the store are read.
const REPLAY_EVENTS_MAX: usize = 32_768;
/// The most bytes of them, as the ledger has them.
const REPLAY_BYTES_MAX: usize = 16 << 20;

/// What an engine is opened with.
pub struct Parts {
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The cluster key.
    pub key: ClusterKey,
    /// Where events are kept.
    pub storage: Storage,
    /// The view's folder.
    pub view_dir: PathBuf,
    /// The view's settings.
    pub view: view::Config,
    /// The limits' bounds.
    pub limits: limits::Settings,
    /// The rules.
    pub book: Book,
    /// The word lists.
    pub lexicon: Arc<Lexicon>,
    /// Who hears of decisions.
    pub sink: Arc<dyn DecisionSink>,
    /// What is known of the cluster.
    pub replica: Arc<Replica>,
}

/// Where events are kept.
pub enum Storage {
    /// In a ledger: this node is an anchor.
    Ledger {
        /// The ledger's disk.
        disk: Arc<dyn Disk>,
        /// The ledger's settings.
        config: ledger::Config,
    },
    /// At the anchors; here only what waits for them: this node is an edge.
    Outbox {
        /// The outbox's disk.
        disk: Arc<dyn Disk>,
    },
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Started {
    /// A new ledger was made.
    pub created: bool,
    /// Damage in the ledger that no crash explains.
    pub damages: Vec<Damage>,
    /// Events that were applied to bring the view up.
    pub replayed: u64,
    /// Why the view was rebuilt, if it was.
    pub rebuilt: Option<String>,
    /// Items in an edge's outbox.
    pub waiting: usize,
    /// How long it took, in milliseconds.
    pub took_ms: u128,
}

/// Why an engine does not open.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger does not open.
    #[error(transparent)]
    Ledger(#[from] ledger::OpenError),
    /// The outbox does not open.
    #[error(transparent)]
    Outbox(#[from] outbox::OpenError),
    /// The ledger cannot be read while the view is brought up.
    #[error("the ledger cannot be read while the view is brought up: {0}")]
    Read(#[from] ledger::ReadError),
    /// The view's folder cannot be removed.
    #[error("the view in {} cannot be removed: {source}", dir.display())]
    Directory {
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The view does not open.
    #[error("the view does not open: {0}")]
    View(#[from] ViewError),
}

impl Engine {
    /// Opens everything and brings the view up to the ledger. Blocking: call it off the runtime's threads.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(parts: Parts) -> Result<(Self, Started), StartError> {
        let surroundings = view::Surroundings::real(&parts.view, &parts.view_dir);
        Self::open_in(parts, &surroundings)
    }

    /// The same with other surroundings of the view. Where it has no thread, nothing of the engine has one, and
    /// [`Engine::work`] does what threads would.
    pub(crate) fn open_in(
        parts: Parts,
        surroundings: &view::Surroundings,
    ) -> Result<(Self, Started), StartError> {
        let begun = Instant::now();
        let check = parts.key.check_value();
        let applying = Arc::new(Applying::new(Arc::clone(&parts.replica)));
        let (Storage::Ledger { disk, .. } | Storage::Outbox { disk }) = &parts.storage;
        let run = run_name(&**disk, parts.clock.now());
        let identity = LedgerIdentity(check);
        let place = ViewPlace { config: parts.view, dir: &parts.view_dir, identity, surroundings };
        let (log, view, mut started) = match parts.storage {
            Storage::Ledger { disk, config } => {
                let (ledger, opened) = open_ledger(&config, disk, check, &applying, surroundings)?;
                let (view, started) = bring_up(&ledger, opened, &place)?;
                if !started.damages.is_empty() {
                    parts.replica.set_damaged();
                }
                for (origin, head) in ledger.vector() {
                    applying.vector.applied(EventId { origin, sequence: head.sequence });
                }
                applying.serve(view.clone());
                (Log::Ledger(ledger), view, started)
            }
            Storage::Outbox { disk } => {
                let (outbox, found) = open_outbox(disk, check, surroundings)?;
                let view = empty_view(&place)?;
                let started = Started { waiting: found.len(), ..Started::default() };
                let edge = Edge::new(outbox, &found, &view, parts.clock.mono_ms());
                (Log::Edge(Box::new(edge)), view, started)
            }
        };
        let vector = Arc::clone(&applying.vector);
        let usage_lost = started.created || started.rebuilt.is_some() || matches!(log, Log::Edge(_));

        let limiter = Limiter::new(&parts.limits, parts.key.mac16("limits", &[]));
        restore_limits(&view, &limiter, parts.clock.now())?;
        let inner = Arc::new(Inner {
            clock: parts.clock,
            key: parts.key,
            log,
            view,
            limiter,
            book: ArcSwap::from_pointee(parts.book),
            lexicon: parts.lexicon,
            stripes: Stripes::default(),
            vector,
            ranges: Arc::clone(&applying.ranges),
            replica: parts.replica,
            behind: Arc::clone(&applying.behind),
            sink: parts.sink,
            usage: Sharing::new(usage_lost),
            borrowed: parking_lot::Mutex::default(),
            first_origin: std::sync::OnceLock::new(),
            serial: AtomicU64::new(0),
            run,
            phase: watch::Sender::new(Phase::Serving),
        });
        let checkpoint = Arc::downgrade(&inner);
        inner.view.on_checkpoint(move || {
            checkpoint
                .upgrade()
                .map_or_else(Vec::new, |inner| vec![(LIMITS_NAME.to_owned(), inner.snapshot_limits())])
        });
        started.took_ms = begun.elapsed().as_millis();
        Ok((Self { inner }, started))
    }

    /// Writes down what the limits changed since the last call. To be called every second or so: what was not
    /// written is what a SIGKILL loses.
    pub fn note_usage(&self) {
        let inner = &self.inner;
        let drained = inner.limiter.drain(inner.clock.now());
        if !drained.chunk.is_empty() {
            inner.view.note(LIMITS_TAG, &drained.chunk);
        }
        if !drained.complete {
            inner.each_limit_chunk(|chunk| inner.view.note(LIMITS_TAG, chunk));
        }
    }

    /// Stops answering, writes everything out and closes. Blocking.
    ///
    /// # Errors
    /// When the ledger's or the view's end could not be written; the next start takes the crash path.
    pub fn close(&self) -> Result<(), CloseError> {
        self.inner.phase.send_replace(Phase::Stopping);
        let ledger = match &self.inner.log {
            Log::Ledger(ledger) => ledger.close(),
            Log::Edge(edge) => {
                edge.close();
                Ok(())
            }
        };
        self.note_usage();
        let view = self.inner.view.close();
        ledger?;
        view?;
        Ok(())
    }

    /// Does what waits for the writer of the ledger or the outbox, where it has no thread; `false`: nothing did.
    #[cfg(test)]
    pub(crate) fn work(&self) -> bool {
        match &self.inner.log {
            Log::Ledger(ledger) => ledger.work(),
            Log::Edge(edge) => edge.work(),
        }
    }

    /// Stops answering; calls under way finish.
    pub fn stop_answering(&self) {
        self.inner.phase.send_replace(Phase::Stopping);
    }
}

/// Why an engine does not close in order.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The ledger's end could not be written.
    #[error("the ledger's end could not be written: {0}")]
    Ledger(#[from] ledger::AppendError),
    /// The view's end could not be written.
    #[error("the view's end could not be written: {0}")]
    View(#[from] ViewError),
}

impl Inner {
    fn each_limit_chunk(&self, mut each: impl FnMut(&[u8])) {
        let written = self.limiter.snapshot(self.clock.now(), |chunk| {
            each(chunk);
            Ok::<(), std::convert::Infallible>(())
        });
        match written {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    /// All chunks in one, each behind its length.
    fn snapshot_limits(&self) -> Vec<u8> {
        let mut all = Vec::new();
        self.each_limit_chunk(|chunk| {
            let len = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            all.extend_from_slice(&len.to_le_bytes());
            all.extend_from_slice(chunk);
        });
        all
    }
}

/// How long to wait for a dying predecessor to let go of the outbox.
const OUTBOX_LOCK_WAIT: Duration = Duration::from_secs(5);

fn open_ledger(
    config: &ledger::Config,
    disk: Arc<dyn Disk>,
    check: [u8; 16],
    applying: &Arc<Applying>,
    surroundings: &view::Surroundings,
) -> Result<(Ledger, ledger::Opened), ledger::OpenError> {
    let applier = Box::new(Arc::clone(applying));
    #[cfg(test)]
    if !surroundings.thread {
        return Ledger::open_by_hand(disk, check, applier);
    }
    debug_assert!(surroundings.thread, "only tests go without");
    Ledger::open(config, disk, check, applier)
}

fn open_outbox(
    disk: Arc<dyn Disk>,
    check: [u8; 16],
    surroundings: &view::Surroundings,
) -> Result<(Outbox, Vec<Arc<outbox::Item>>), outbox::OpenError> {
    #[cfg(test)]
    if !surroundings.thread {
        return Outbox::open_by_hand(disk, check);
    }
    debug_assert!(surroundings.thread, "only tests go without");
    Outbox::open(disk, check, OUTBOX_LOCK_WAIT)
}

/// Where the view is, and in what surroundings.
struct ViewPlace<'a> {
    config: view::Config,
    dir: &'a Path,
    identity: LedgerIdentity,
    surroundings: &'a view::Surroundings,
}

impl ViewPlace<'_> {
    fn open(&self) -> Result<(View, view::Opened), ViewError> {
        View::open_in(self.config.clone(), self.dir, self.identity, self.surroundings)
    }
}

/// Opens the view and applies what it lacks of the ledger.
fn bring_up(
    ledger: &Ledger,
    opened: ledger::Opened,
    place: &ViewPlace<'_>,
) -> Result<(View, Started), StartError> {
    let (view, view_opened) = open_view(place, opened.found)?;
    let mut started = Started { created: opened.created, damages: opened.damages, ..Started::default() };
    started.replayed = match view_opened.rebuild {
        Some(why) => {
            if !opened.created {
                tracing::warn!(%why, "the view is rebuilt from the ledger");
                started.rebuilt = Some(why);
            }
            rebuild(ledger, &view, &mut started.damages)?
        }
        None => replay(ledger, &view, view_opened.replay_from, &mut started.damages)?,
    };
    if !started.damages.is_empty() {
        // Once the ledger is restored, what lay in the damaged stretch must get into the view.
        view.build_anew_next_time()?;
    }
    Ok((view, started))
}

/// A view that answers nothing before a snapshot is loaded. What an earlier run knew of consent is of no use: it may lack what came
/// since, and a snapshot has all of it.
fn empty_view(place: &ViewPlace<'_>) -> Result<View, StartError> {
    View::begin_anew(place.dir)?;
    Ok(place.open()?.0)
}

/// Opens the view. One that is ahead of the ledger belongs to what the ledger was before a backup was put back:
/// it would skip what is appended from now on, so it is built anew.
fn open_view(place: &ViewPlace<'_>, found: Position) -> Result<(View, view::Opened), StartError> {
    let (view, opened) = place.open()?;
    #[cfg(sabotage)]
    if crate::sabotage::is("view-ahead-of-its-ledger") {
        return Ok((view, opened));
    }
    let is_of_it = opened.replay_from <= found && opened.ahead.is_none_or(|at| at < found);
    if opened.rebuild.is_some() || is_of_it {
        return Ok((view, opened));
    }
    tracing::warn!(
        "the ledger ends before what the view holds: a backup was put back; the view is built anew"
    );
    drop(view);
    let dir = place.dir;
    std::fs::remove_dir_all(dir).map_err(|source| StartError::Directory { dir: dir.to_owned(), source })?;
    Ok(place.open()?)
}

fn restore_limits(view: &View, limiter: &Limiter, now: Timestamp) -> Result<(), ViewError> {
    let apply = |chunk: &[u8]| {
        if let Err(fault) = limiter.apply(chunk, now) {
            tracing::warn!(%fault, "stored limits are not taken over; counting starts afresh");
        }
    };
    view.restore_notes(|note| match note {
        Note::Checkpoint { name: LIMITS_NAME, bytes } => {
            let mut rest = bytes;
            while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*len) as usize;
                let Some((chunk, tail)) = tail.split_at_checked(len) else { break };
                apply(chunk);
                rest = tail;
            }
        }
        Note::Entry { tag: LIMITS_TAG, bytes } => apply(bytes),
        Note::Checkpoint { .. } | Note::Entry { .. } => {}
    })?;
    limiter.finish_apply(now);
    Ok(())
}

fn run_name(disk: &dyn Disk, now: Timestamp) -> [u8; 8] {
    let mut name = [0; 8];
    // Without randomness the clock still tells runs apart.
    if disk.random(&mut name).is_err() {
        name = now.0.to_le_bytes();
    }
    name
}

/// From this many events on, a rebuild takes long enough to be told of, at each tenth of it.
const TOLD_FROM_EVENTS: u64 = 100_000;

/// Feeds the whole ledger to an empty view.
fn rebuild(ledger: &Ledger, view: &View, damages: &mut Vec<Damage>) -> Result<u64, StartError> {
    let mut rebuilder = view.rebuild()?;
    let mut next = Position::START;
    let mut count = 0;
    for record in ledger.iter_from(Position::START) {
        let record = match record {
            Ok(record) => record,
            Err(ledger::ReadError::Damaged(damage)) => {
                note_damage(damage, damages);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let appended = record.appended;
        next = appended.next;
        match read_entry(appended.id, &record.payload) {
            Some(LedgerEntry::Consent(event)) => rebuilder.event(appended.position, appended.id, &event)?,
            Some(LedgerEntry::Template(entry)) => rebuilder.template(entry),
            Some(LedgerEntry::Sender(entry)) => rebuilder.sender(entry),
            Some(LedgerEntry::Distrust { origin, from_sequence, .. }) => {
                rebuilder.distrust(origin, from_sequence);
            }
            Some(LedgerEntry::Erasure { .. }) | None => {}
        }
        count += 1;
    }
    rebuilder.finish(next, |done, of| {
        if count >= TOLD_FROM_EVENTS && (done * 10 / of.max(1)) != ((done.max(1) - 1) * 10 / of.max(1)) {
            tracing::info!(done, of, "the view is being rebuilt");
        }
    })?;
    Ok(count)
}

/// What lies in a stretch that cannot be read, nobody knows here. A closed segment is not read to open the ledger, so that its damage may come
/// to light only now.
fn note_damage(damage: Damage, damages: &mut Vec<Damage>) {
    tracing::error!(%damage, "a stretch of the ledger cannot be read");
    #[cfg(sabotage)]
    if crate::sabotage::is("damage-passed-over") {
        return;
    }
    if !damages.contains(&damage) {
        damages.push(damage);
    }
}

/// Applies what the view lacks, many events at once.
fn replay(
    ledger: &Ledger,
    view: &View,
    from: Position,
    damages: &mut Vec<Damage>,
) -> Result<u64, StartError> {
    let mut behind = Behind::default();
    let mut count = 0;
    for record in ledger.iter_from(from) {
        let record = match record {
            Ok(record) => record,
            Err(ledger::ReadError::Damaged(damage)) => {
                note_damage(damage, damages);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        behind.take(view, record.appended, &record.payload)?;
        count += 1;
    }
    behind.apply(view)?;
    Ok(count)
}

/// What was read of the ledger and is not in the view yet.
#[derive(Default)]
struct Behind {
    events: Vec<Placed>,
    bytes: usize,
    /// Behind the last entry read.
    next: Option<Position>,
}

impl Behind {
    fn take(&mut self, view: &View, appended: ledger::Appended, payload: &[u8]) -> Result<(), ViewError> {
        // Also what is no person's, and goes to the view at once.
        view.bring(appended.position);
        match read_entry(appended.id, payload) {
            Some(LedgerEntry::Consent(event)) => {
                self.bytes += payload.len();
                self.events.push(Placed { at: appended.position, id: appended.id, event });
            }
            Some(LedgerEntry::Template(entry)) => view.put_template(entry),
            Some(LedgerEntry::Sender(entry)) => view.put_sender(entry),
            Some(LedgerEntry::Distrust { origin, from_sequence, .. }) => {
                view.put_distrust(origin, from_sequence);
            }
            Some(LedgerEntry::Erasure { .. }) | None => {}
        }
        self.next = Some(appended.next);
        let many = self.events.len() >= REPLAY_EVENTS_MAX || self.bytes >= REPLAY_BYTES_MAX;
        if many { self.apply(view) } else { Ok(()) }
    }

    fn apply(&mut self, view: &View) -> Result<(), ViewError> {
        view.apply_many(&self.events)?;
        self.events.clear();
        self.bytes = 0;
        if let Some(next) = self.next.take() {
            view.advance(next);
        }
        Ok(())
    }
}
