//! What all clones of a view share: the shards, the store under them, and what goes on between the two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::bucket::shard_of;
use super::error::{StoreError, ViewError};
use super::folder::Folder;
use super::held::Held;
use super::journal::Journal;
use super::lent::Lent;
use super::meta::Meta;
use super::order::{Pulse, scattered_shards};
use super::record::Person;
use super::registry::Registry;
use super::shard::{Asker, Shard};
use super::store::Store;
use super::usage_log::{Index, UsageLog};
use super::{Config, Touched};
use crate::ledger::Position;
use crate::policy::ids::Identifier;

/// One shard per value of an identifier's first byte.
pub const SHARDS: usize = 256;
/// How long a change waits at a full overlay, in steps of [`ROOM_STEP`], before it is refused.
const ROOM_STEPS: u32 = 10;
const ROOM_STEP: Duration = Duration::from_millis(5);
/// The journal's entry of a usage part.
pub const USAGE: u8 = 1;
pub const MIB: u64 = 1024 * 1024;

/// Whether the view answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not built yet.
    Rebuilding = 0,
    /// It does.
    Serving = 1,
    /// No more.
    Closed = 2,
}

/// Whether changes get into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// They do.
    Normal = 0,
    /// Not until there is space on the disk again.
    Paused = 1,
    /// Never again in this run: the store failed. The next start rebuilds.
    Degraded = 2,
}

/// What the view's thread is asked for.
#[derive(Debug, Default)]
pub struct Wishes {
    pub stop: bool,
}

/// What the store has, in short.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    pub position: Position,
    pub persons: u64,
    pub scattered_shards: usize,
    pub logged_persons: u64,
    pub logged_bytes: u64,
}

impl Summary {
    fn of(meta: &Meta, log: &UsageLog) -> Self {
        Self {
            position: meta.position,
            persons: persons_of(meta),
            scattered_shards: scattered_shards(meta),
            logged_persons: log.persons(),
            logged_bytes: log.bytes(),
        }
    }
}

fn persons_of(meta: &Meta) -> u64 {
    meta.persons.iter().map(|persons| u64::from(*persons)).sum()
}

/// Tells the free bytes on the view's disk.
pub type FreeBytes = Arc<dyn Fn() -> Option<u64> + Send + Sync>;
/// Writes somebody else's state down, as names with contents.
pub type Checkpoint = Box<dyn Fn() -> Vec<(String, Vec<u8>)> + Send + Sync>;

/// What all clones share.
pub struct Inner {
    pub config: Config,
    pub folder: Folder,
    pub store: Box<dyn Store>,
    pub shards: Box<[Mutex<Shard>]>,
    pub registry: Registry,
    pub held: Held,
    pub lent: Lent,
    /// Shards that differ from other nodes' and are being built anew; behind them, the registry.
    pub doubted: Box<[AtomicBool]>,
    /// The next start must not believe what is here.
    pub unkept: AtomicBool,
    pub usage: Journal,
    /// Events applied since the last sweep began, but for those that a start applies many at a time.
    pub events: AtomicU64,
    /// Changes of persons' consent since the start.
    pub consent_changes: AtomicU64,
    /// How many of them come in.
    pub pulse: Mutex<Pulse>,
    pub notes: Journal,
    /// From which generation of notes on the last checkpoint does not have them.
    pub notes_from: AtomicU64,
    pub checkpoint: Mutex<Option<Checkpoint>>,
    pub free_bytes: FreeBytes,
    /// What the store has; whoever holds it is the only one to write there, and to the log.
    pub stored: Mutex<Meta>,
    /// Locked behind `stored` only.
    pub log: Mutex<UsageLog>,
    /// Of how many shards it was asked who is in the store: what an earlier run left there is looked through bit by bit.
    pub looked_through: AtomicUsize,
    /// Whether the store may have usage that the log does not have.
    pub usage_in_store: AtomicBool,
    /// The same in short, for whoever only looks: a sweep holds `stored` for long.
    pub summary: Mutex<Summary>,
    applied: AtomicU64,
    /// One more than where the newest entry starts that was ever about to be brought here; 0: none was.
    newest: AtomicU64,
    overlay_bytes: AtomicI64,
    /// The bound of the overlay; higher than configured while what the journals gave back is not drained.
    overlay_max: AtomicI64,
    phase: AtomicU8,
    health: AtomicU8,
    pub fault: Mutex<Option<String>>,
    /// A thread drains, so that waiting for room makes sense.
    pub drained_by_thread: AtomicBool,
    pub wishes: Mutex<Wishes>,
    pub wake: Condvar,
    /// Somebody woke the thread already.
    pub woken: AtomicBool,
    /// When the journals were last written.
    pub journals_written: Mutex<Instant>,
    room: Mutex<()>,
    room_made: Condvar,
}

impl Inner {
    #[expect(clippy::too_many_arguments, reason = "called once, where all of it was just made")]
    pub fn new(
        config: Config,
        folder: Folder,
        store: Box<dyn Store>,
        meta: Meta,
        usage: Journal,
        (log, indexes): (UsageLog, Vec<Index>),
        notes: Journal,
        free_bytes: FreeBytes,
        phase: Phase,
    ) -> Self {
        let lent = Lent::new(config.lent_max_mib);
        let cache_bytes = u64::from(config.record_cache_mib) * MIB / SHARDS as u64;
        let overlay_max = (u64::from(config.overlay_max_mib) * MIB).cast_signed();
        let shards = meta.layouts.iter().zip(indexes);
        let shards =
            shards.map(|(layout, index)| Mutex::new(Shard::new(*layout, index, cache_bytes))).collect();
        Self {
            config,
            folder,
            store,
            shards,
            registry: Registry::default(),
            held: Held::default(),
            lent,
            unkept: AtomicBool::new(false),
            doubted: (0..=SHARDS).map(|_| AtomicBool::new(false)).collect(),
            usage,
            events: AtomicU64::new(0),
            consent_changes: AtomicU64::new(0),
            pulse: Mutex::new(Pulse::begin(Instant::now())),
            notes,
            notes_from: AtomicU64::new(0),
            checkpoint: Mutex::default(),
            free_bytes,
            applied: AtomicU64::new(meta.position.as_u64()),
            newest: AtomicU64::new(0),
            looked_through: AtomicUsize::new(0),
            summary: Mutex::new(Summary::of(&meta, &log)),
            usage_in_store: AtomicBool::new(meta.usage),
            log: Mutex::new(log),
            stored: Mutex::new(meta),
            overlay_bytes: AtomicI64::new(0),
            overlay_max: AtomicI64::new(overlay_max),
            phase: AtomicU8::new(phase as u8),
            health: AtomicU8::new(Health::Normal as u8),
            fault: Mutex::default(),
            drained_by_thread: AtomicBool::new(false),
            wishes: Mutex::default(),
            wake: Condvar::new(),
            woken: AtomicBool::new(false),
            journals_written: Mutex::new(Instant::now()),
            room: Mutex::default(),
            room_made: Condvar::new(),
        }
    }

    /// Tells those who only look what the store has.
    pub fn note_stored(&self, stored: &Meta) {
        let mut summary = self.summary.lock();
        (summary.position, summary.persons) = (stored.position, persons_of(stored));
        summary.scattered_shards = scattered_shards(stored);
    }

    /// Tells those who only look what the log has.
    pub fn note_log(&self, log: &UsageLog) {
        let mut summary = self.summary.lock();
        (summary.logged_persons, summary.logged_bytes) = (log.persons(), log.bytes());
    }

    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Rebuilding,
            1 => Phase::Serving,
            _ => Phase::Closed,
        }
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    pub fn require_serving(&self) -> Result<(), ViewError> {
        match self.phase() {
            Phase::Serving => Ok(()),
            Phase::Rebuilding => Err(ViewError::Rebuilding),
            Phase::Closed => Err(ViewError::Closed),
        }
    }

    pub fn require_undoubted(&self, who: &Identifier) -> Result<(), ViewError> {
        // Nothing is decided without the registry either.
        let doubted = |place: usize| self.doubted[place].load(Ordering::Acquire);
        if doubted(shard_of(who)) || doubted(SHARDS) { Err(ViewError::Rebuilding) } else { Ok(()) }
    }

    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Acquire) {
            0 => Health::Normal,
            1 => Health::Paused,
            _ => Health::Degraded,
        }
    }

    /// Pauses, or goes on: never out of [`Health::Degraded`].
    pub fn set_paused(&self, paused: bool) {
        let (from, to) =
            if paused { (Health::Normal, Health::Paused) } else { (Health::Paused, Health::Normal) };
        let _unless_degraded =
            self.health.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The store cannot be trusted with writes any more. Reads go on; the next start rebuilds.
    pub fn degrade(&self, why: &ViewError) {
        if self.health.swap(Health::Degraded as u8, Ordering::AcqRel) != Health::Degraded as u8 {
            let mut text = why.to_string();
            if let Err(err) = self.folder.disown() {
                text = format!("{text}; moreover {err}");
            }
            tracing::error!(fault = %text, "the view's store takes no more writes; restart to rebuild it");
            *self.fault.lock() = Some(text);
        }
        self.room_made.notify_all();
    }

    /// Locks the shard of `who`.
    pub fn shard(&self, who: &Identifier) -> MutexGuard<'_, Shard> {
        self.shards[shard_of(who)].lock()
    }

    /// Reads a person, with what `over` lays over.
    pub fn get(&self, who: &Identifier, over: impl FnOnce(&mut Person)) -> Result<Person, ViewError> {
        let mut shard = self.shard(who);
        // Under the lock, all of it: a rebuild takes each lock after it has said so, and before it empties anything.
        self.require_serving()?;
        let person = shard.load(who, Asker::Caller, &*self.store);
        let mut person = person.map_err(|err| self.noting_damage(err))?;
        over(&mut person);
        Ok(person)
    }

    /// Damage found while reading means that the next start has to rebuild.
    fn noting_damage(&self, err: ViewError) -> ViewError {
        if matches!(err, ViewError::Damaged(_) | ViewError::Store(StoreError::Panicked(_))) {
            self.degrade(&err);
        }
        err
    }

    /// Changes what is known of a person. What a caller changes has to find room in the overlay; what the ledger brings waits for some
    /// but goes in without as well.
    pub fn update<R>(
        &self,
        who: &Identifier,
        asker: Asker,
        change: impl FnOnce(&mut Person) -> (R, Touched),
    ) -> Result<R, ViewError> {
        let room = self.await_room();
        let load = |shard: &mut Shard| shard.load(who, asker, &*self.store);
        self.change_loaded(who, room || asker == Asker::Ledger, load, change)
    }

    /// Changes what is known of a person as the ledger brings it, without waiting for room.
    pub fn bring_in<R>(
        &self,
        who: &Identifier,
        change: impl FnOnce(&mut Person) -> (R, Touched),
    ) -> Result<R, ViewError> {
        self.change_loaded(who, true, |shard| shard.load(who, Asker::Ledger, &*self.store), change)
    }

    /// As [`Inner::update`] where `change` sees and touches usage alone.
    pub fn update_usage<R>(
        &self,
        who: &Identifier,
        change: impl FnOnce(&mut Person) -> (R, Touched),
    ) -> Result<R, ViewError> {
        let room = self.await_room();
        let load = |shard: &mut Shard| {
            // Under the lock: it is set before a shard's usage goes to the store and leaves the log under this lock.
            let store = self.usage_in_store.load(Ordering::Acquire).then_some(&*self.store);
            shard.load_usage(who, store)
        };
        self.change_loaded(who, room, load, change)
    }

    fn change_loaded<R>(
        &self,
        who: &Identifier,
        room: bool,
        load: impl FnOnce(&mut Shard) -> Result<Person, ViewError>,
        change: impl FnOnce(&mut Person) -> (R, Touched),
    ) -> Result<R, ViewError> {
        let mut shard = self.shard(who);
        // Under the lock: a rebuild and closing take each lock after they have said so, and then nothing changes any more.
        self.require_serving()?;
        if !room && !shard.holds_usage(who) {
            return Err(ViewError::Full);
        }
        let mut person = load(&mut shard).map_err(|err| self.noting_damage(err))?;
        let (answer, touched) = change(&mut person);
        let consent = matches!(touched, Touched::Consent | Touched::Both).then(|| person.encode_consent());
        let usage = matches!(touched, Touched::Usage | Touched::Both).then(|| person.encode_usage());
        if touched == Touched::Nothing {
            return Ok(answer);
        }
        if consent.is_some() {
            self.consent_changes.fetch_add(1, Ordering::Relaxed);
        }
        let journal_full = usage.as_ref().is_some_and(|usage| self.usage.append(USAGE, &[&who.0, usage]));
        let grown = shard.put(who, consent, usage);
        drop(shard);
        let before = self.overlay_bytes.fetch_add(grown, Ordering::Relaxed);
        let crowded = self.overlay_max() / 2;
        if journal_full || before < crowded && before + grown >= crowded {
            self.wake_thread();
        }
        Ok(answer)
    }

    /// Puts a usage part from the journal into the overlay.
    pub fn restore_usage(&self, who: &Identifier, usage: &[u8]) {
        let grown = self.shard(who).put(who, None, Some(usage.to_vec()));
        self.overlay_bytes.fetch_add(grown, Ordering::Relaxed);
    }

    fn overlay_max(&self) -> i64 {
        self.overlay_max.load(Ordering::Relaxed)
    }

    /// Leaves room beside what the journals gave back, which may be more than a running view would have let in.
    pub fn widen_overlay(&self) {
        let held = self.overlay_bytes.load(Ordering::Relaxed);
        self.overlay_max.fetch_max(held + held / 4, Ordering::Relaxed);
    }

    /// The bound as configured, once everything that the journals gave back is drained.
    pub fn narrow_overlay(&self) {
        let max = u64::from(self.config.overlay_max_mib) * MIB;
        self.overlay_max.store(max.cast_signed(), Ordering::Relaxed);
    }

    /// Bytes in the overlay.
    pub fn overlay_bytes(&self) -> u64 {
        self.overlay_bytes.load(Ordering::Relaxed).max(0).cast_unsigned()
    }

    /// How full the overlay is, in percent of its bound.
    pub fn overlay_percent(&self) -> i64 {
        self.overlay_bytes.load(Ordering::Relaxed) * 100 / self.overlay_max()
    }

    /// Bytes left the overlay.
    pub fn freed(&self, bytes: u64) {
        let now = self.overlay_bytes.fetch_sub(bytes.cast_signed(), Ordering::Relaxed) - bytes.cast_signed();
        if now < self.overlay_max() {
            self.room_made.notify_all();
        }
    }

    /// Waits a little for room in the overlay while somebody makes it; whether there is some.
    fn await_room(&self) -> bool {
        let full = || self.overlay_bytes.load(Ordering::Relaxed) >= self.overlay_max();
        if !full() {
            return true;
        }
        self.wake_thread();
        let mut held = self.room.lock();
        for _ in 0..ROOM_STEPS {
            if !full() || self.health() != Health::Normal || !self.drained_by_thread.load(Ordering::Acquire) {
                break;
            }
            self.room_made.wait_for(&mut held, ROOM_STEP);
        }
        !full()
    }

    /// Asks the view's thread to look around now.
    pub fn wake_thread(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let _held = self.wishes.lock();
            self.wake.notify_all();
        }
    }

    pub fn advance(&self, next: Position) {
        self.applied.fetch_max(next.as_u64(), Ordering::AcqRel);
    }

    /// The entry that starts at `at` is about to be brought here.
    pub fn bring(&self, at: Position) {
        self.newest.fetch_max(at.as_u64().saturating_add(1), Ordering::AcqRel);
    }

    /// Where the newest entry starts that may be here.
    pub fn newest(&self) -> Option<Position> {
        self.newest.load(Ordering::Acquire).checked_sub(1).map(Position::from_u64)
    }

    /// Nothing of the ledger is applied any more.
    pub fn restart(&self) {
        self.applied.store(Position::START.as_u64(), Ordering::Release);
    }

    pub fn applied(&self) -> Position {
        Position::from_u64(self.applied.load(Ordering::Acquire))
    }
}
