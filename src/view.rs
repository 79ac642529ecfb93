//! The store that answers reads: everything known of a person, in a few microseconds.
//!
//! It is built from the ledger and thrown away and rebuilt when damaged; only what sends leave behind (usage)
//! lives here alone. It has never heard of gRPC, of rules or of clocks, and nobody else has heard of sled.
//!
//! ```text
//! get, update ─▶ shard (one lock: overlay over record cache) ─▶ log of usage, over a bucket of several persons in sled
//!                  │ usage that changed                            ▲                    ▲
//!                  ├──▶ journal: a SIGKILL loses at most           │ usage: appended    │ consent: single inserts in key order,
//!                  │    the last second                            │                    │ then the ledger position they cover
//!                  └──▶ overlay: what is only in memory ───────────┴────── sweeps ──────┘
//! ```
//!
//! A sled insert costs as much as a whole check may, so checks never wait for one: usage goes to the overlay and to a
//! journal, consent (durable in the ledger already) to the overlay alone. One thread sweeps the overlay: consent into sled, usage
//! into a log of its own (`usage_log`), which gives some to sled only when its index would grow beyond its bound (`keep`). While little is
//! taken in it writes what sweeps have scattered in sled in order again (`order`). Who is new is told without a read (`presence`).
//! The trail of faults that sled 0.34.7 is known for is handled in `store::sled`, `open` and `drain`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::ledger::Position;
use crate::limits::FrequencyLog;
use crate::policy::distrust::Distrust;
use crate::policy::event::{ConsentEvent, SenderEntry, TemplateEntry};
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::record::Record;
use crate::policy::usage::Usage;

mod bucket;
mod bytes;
mod catch_up;
mod codes;
mod distrusts;
mod drain;
mod error;
mod export;
mod folder;
mod held;
mod inner;
mod journal;
mod keep;
mod lent;
mod meta;
mod notes;
mod open;
mod order;
mod presence;
mod rebuild;
mod record;
mod registry;
mod shard;
mod store;
mod usage_log;

pub use bytes::Damage;
pub use catch_up::Placed;
pub use error::{StoreError, ViewError};
pub use folder::LedgerIdentity;
pub use inner::{Health, Phase};
pub use lent::Borrowed;
pub use notes::Note;
pub use rebuild::Rebuilder;
pub use record::{PERSON_FORM_VERSION, Person};
pub use registry::{Entries, Registry};

use drain::Pace;
use folder::{Folder, State};
use inner::Inner;
pub(crate) use open::Surroundings;
use shard::Asker;
#[cfg(test)]
pub(crate) use store::faulty::Disk as MemoryDisk;

/// The longest note, in bytes.
pub const NOTE_LEN_MAX: usize = 8 * 1024 * 1024;

/// The view's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// sled's page cache; 1 to 4,096 MiB.
    pub page_cache_mib: u32,
    /// The cache of records before it; 0 to 65,536 MiB.
    pub record_cache_mib: u32,
    /// How much may be changed and only in memory; 1 to 4,096 MiB.
    pub overlay_max_mib: u32,
    /// Of how many persons the log of usage may have some, 12 bytes of memory each, before some goes to sled; 1,024 to 67,108,864.
    pub usage_persons_max: u32,
    /// How much of what others lend is remembered; 1 to 4,096 MiB.
    pub lent_max_mib: u32,
    /// Below this much free space nothing is written; 0: always written.
    pub min_free_mib: u32,
    /// How long to wait for a dying predecessor to let go of the store.
    pub lock_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            page_cache_mib: 8,
            record_cache_mib: 32,
            overlay_max_mib: 32,
            usage_persons_max: 2 * 1024 * 1024,
            lent_max_mib: 48,
            min_free_mib: 64,
            lock_wait: Duration::from_secs(5),
        }
    }
}

impl Config {
    fn check(&self) -> Result<(), ViewError> {
        let fault = |name, value: u32, allowed| ViewError::Setting { name, value: value.into(), allowed };
        if !(1..=4_096).contains(&self.page_cache_mib) {
            return Err(fault("page_cache_mib", self.page_cache_mib, "1 to 4,096"));
        }
        if self.record_cache_mib > 65_536 {
            return Err(fault("record_cache_mib", self.record_cache_mib, "0 to 65,536"));
        }
        if !(1..=4_096).contains(&self.overlay_max_mib) {
            return Err(fault("overlay_max_mib", self.overlay_max_mib, "1 to 4,096"));
        }
        if !(1..=4_096).contains(&self.lent_max_mib) {
            return Err(fault("lent_max_mib", self.lent_max_mib, "1 to 4,096"));
        }
        if !(1_024..=67_108_864).contains(&self.usage_persons_max) {
            return Err(fault("usage_persons_max", self.usage_persons_max, "1,024 to 67,108,864"));
        }
        Ok(())
    }
}

/// What a change touched; only that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Nothing: the person stays as it was, whatever the closure did to it.
    Nothing,
    /// `usage` or `frequency`.
    Usage,
    /// `record` or `trail`. Only for what is durable in the ledger.
    Consent,
    /// All of it.
    Both,
}

/// What was found when the view was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Nothing usable was found, for this reason: feed the whole ledger to [`View::rebuild`] before anything else.
    pub rebuild: Option<String>,
    /// Otherwise: apply the ledger's entries from here on.
    pub replay_from: Position,
    /// It may hold entries up to the one that starts here. A ledger that ends before is not the one it was built from.
    pub ahead: Option<Position>,
    /// The ledger it belongs to.
    pub ledger: LedgerIdentity,
}

/// How the view is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Whether it answers.
    pub phase: Phase,
    /// Whether changes get into the store.
    pub health: Health,
    /// What made it [`Health::Degraded`].
    pub fault: Option<String>,
    /// Persons with changes that are not in the store yet.
    pub dirty: u64,
    /// What these take in memory, in bytes.
    pub overlay_bytes: u64,
    /// Reads since the start that did not need the store.
    pub cache_hits: u64,
    /// Reads since the start that did.
    pub cache_misses: u64,
    /// Persons in the log of usage.
    pub logged_persons: u64,
    /// Bytes of that log on disk.
    pub logged_bytes: u64,
    /// Bytes of the journals on disk.
    pub journal_bytes: u64,
    /// Times that the journals could not be written.
    pub journal_lost: u64,
    /// Bytes of the store on disk.
    pub store_bytes: u64,
    /// Persons in the store, nearly.
    pub persons: u64,
    /// Shards whose buckets are about to be written in order.
    pub scattered_shards: usize,
    /// Up to where the ledger was applied.
    pub applied: Position,
    /// Up to where of it the store has everything.
    pub stored: Position,
}

/// The view. Clones share it; when the last one goes without [`View::close`], the next start goes on as after a crash.
#[derive(Clone)]
pub struct View {
    inner: Arc<Inner>,
    opened: Opened,
    owner: Arc<Owner>,
}

/// Brings an event to one of its subjects. Repeats change nothing.
fn event_applied(
    person: &mut Person,
    at: Position,
    id: EventId,
    event: &ConsentEvent,
    subject: &Identifier,
) -> ((), Touched) {
    person.record.apply(id, event, subject);
    if let Err(place) = person.trail.binary_search(&at) {
        person.trail.insert(place, at);
    }
    ((), Touched::Consent)
}

/// Ends the view's thread with the last clone.
struct Owner {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
    boot: String,
}

impl Owner {
    /// Ends the thread; `false`: it had died.
    fn stop(&self) -> bool {
        self.inner.wishes.lock().stop = true;
        self.inner.wake.notify_all();
        let thread = self.thread.lock().take();
        let ended = thread.is_none_or(|thread| thread.join().is_ok());
        self.inner.drained_by_thread.store(false, Ordering::Release);
        ended
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop();
    }
}

impl View {
    /// Opens the view in `dir`, which is the view's alone, healing what can be healed.
    ///
    /// # Errors
    /// When a setting is out of range, another process holds the store, or the folder cannot be used at all.
    pub fn open(config: Config, dir: &Path, ledger: LedgerIdentity) -> Result<(Self, Opened), ViewError> {
        let surroundings = Surroundings::real(&config, dir);
        Self::open_in(config, dir, ledger, &surroundings)
    }

    pub(crate) fn open_in(
        config: Config,
        dir: &Path,
        ledger: LedgerIdentity,
        surroundings: &Surroundings,
    ) -> Result<(Self, Opened), ViewError> {
        let (inner, opened) = open::open(config, dir, ledger, surroundings)?;
        let inner = Arc::new(inner);
        let thread = if surroundings.thread {
            let shared = Arc::clone(&inner);
            let thread = std::thread::Builder::new().name("optgate-view".into()).spawn(move || shared.run());
            inner.drained_by_thread.store(true, Ordering::Release);
            Some(thread.map_err(error::io_error("start the thread of", dir))?)
        } else {
            None
        };
        let boot = surroundings.boot.clone();
        let owner = Arc::new(Owner { inner: Arc::clone(&inner), thread: Mutex::new(thread), boot });
        Ok((Self { inner, opened: opened.clone(), owner }, opened))
    }

    /// Takes away what a view in `dir` knew of consent, so that it is opened empty. What sends left behind, but for what outgrew its
    /// log, and the notes of others stay. Only while nobody has it open.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn begin_anew(dir: &Path) -> Result<(), ViewError> {
        Folder::open(dir)?.begin_anew()
    }

    /// Starts a rebuild from nothing: the caller feeds the whole ledger. Where [`Opened::rebuild`] asks for it, or when the view
    /// proves wrong: it claims more of the ledger than there is, or differs from a peer's. Until
    /// [`Rebuilder::finish`] the view does not answer; nothing may be applied meanwhile. Usage stays, but for what outgrew its log.
    ///
    /// # Errors
    /// When the disk or the store fails.
    pub fn rebuild(&self) -> Result<Rebuilder, ViewError> {
        Rebuilder::start(self.clone())
    }

    /// Reads a person; nobody known is an empty person.
    ///
    /// # Errors
    /// When the store cannot be read: the caller must deny.
    pub fn get(&self, who: &Identifier) -> Result<Person, ViewError> {
        self.inner.require_undoubted(who)?;
        // Looked up first: what is let go meanwhile is in the store by then.
        let (held, lent) = (self.inner.held.of(who), self.inner.lent.of(who)?);
        self.inner.get(who, |person| {
            held.over(who, person);
            lent::lay_over(lent.as_ref(), person);
            self.inner.registry.distrusts.lay_over(&mut person.record);
        })
    }

    /// Reads, lets `change` judge and alter, and keeps what it says it touched, all under the person's lock: of several
    /// callers each sees what the one before left. `change` must be short and must not come back to the view. What lies over the person's
    /// consent (see [`View::hold`], [`View::lend`], [`View::put_distrust`]) must not be kept, so `change` may say of usage only that it touched it.
    ///
    /// # Errors
    /// When the store cannot be read, or changes of usage cannot be held: nothing was changed, `change` not called.
    pub fn update<R>(
        &self,
        who: &Identifier,
        change: impl FnOnce(&mut Person) -> (R, Touched),
    ) -> Result<R, ViewError> {
        self.inner.require_undoubted(who)?;
        let lent = self.inner.lent.of(who)?;
        self.inner.update(who, Asker::Caller, |person| {
            self.inner.held.of(who).over(who, person);
            lent::lay_over(lent.as_ref(), person);
            self.inner.registry.distrusts.lay_over(&mut person.record);
            change(person)
        })
    }

    /// As [`View::update`] for usage alone, where consent does not matter: it is not read, and `change` finds none. Says whether
    /// usage changed.
    ///
    /// # Errors
    /// As [`View::update`].
    pub fn update_usage(
        &self,
        who: &Identifier,
        change: impl FnOnce(&mut Usage, &mut FrequencyLog) -> bool,
    ) -> Result<bool, ViewError> {
        self.inner.update_usage(who, |person| {
            let changed = change(&mut person.usage, &mut person.frequency);
            (changed, if changed { Touched::Usage } else { Touched::Nothing })
        })
    }

    /// Applies a consent event of the ledger, whose record starts at `at`, to all its subjects. Repeats change nothing.
    /// It is never refused for want of room, only slowed down.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn apply(&self, at: Position, id: EventId, event: &ConsentEvent) -> Result<(), ViewError> {
        self.inner.bring(at);
        self.inner.events.fetch_add(1, Ordering::Relaxed);
        for subject in &event.subjects {
            self.inner
                .update(subject, Asker::Ledger, |person| event_applied(person, at, id, event, subject))?;
        }
        Ok(())
    }

    /// As [`View::apply`], where no ledger has the event: a person's trail stays empty.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn apply_without_place(&self, id: EventId, event: &ConsentEvent) -> Result<(), ViewError> {
        for subject in &event.subjects {
            self.inner.update(subject, Asker::Ledger, |person| {
                person.record.apply(id, event, subject);
                ((), Touched::Consent)
            })?;
        }
        Ok(())
    }

    /// Puts what the ledger says of a person in place of what is known here; usage stays.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn replace_consent(
        &self,
        who: &Identifier,
        record: Record,
        trail: Vec<Position>,
    ) -> Result<(), ViewError> {
        trail.last().iter().for_each(|at| self.inner.bring(**at));
        self.inner.update(who, Asker::Ledger, |person| {
            person.record = record;
            person.trail = trail;
            ((), Touched::Consent)
        })
    }

    /// How many shards are in doubt; the registry counts as one.
    #[must_use]
    pub fn doubted(&self) -> usize {
        (0..=Self::SHARDS).filter(|shard| self.is_doubted(*shard)).count()
    }

    /// Whether a shard is in doubt; the one behind the last is the registry.
    #[must_use]
    pub fn is_doubted(&self, shard: usize) -> bool {
        self.inner.doubted.get(shard).is_some_and(|doubt| doubt.load(Ordering::Acquire))
    }

    /// While a shard is in doubt, nobody of it is read, and while the registry is, nobody at all. Says whether it was before.
    pub fn doubt(&self, shard: usize, doubted: bool) -> bool {
        self.inner.doubted.get(shard).is_some_and(|doubt| doubt.swap(doubted, Ordering::AcqRel))
    }

    /// Puts `built` in place of the registry. Says whether that changed anything.
    #[must_use]
    pub fn replace_registry(&self, built: Registry) -> bool {
        self.inner.registry.replace(built)
    }

    /// The ledger's entry that starts at `at` is about to be brought here. [`View::apply`] says so by itself.
    pub fn bring(&self, at: Position) {
        self.inner.bring(at);
    }

    /// Takes a template of the ledger; the latest time wins.
    pub fn put_template(&self, entry: TemplateEntry) {
        self.inner.registry.put_template(entry);
    }

    /// Takes a sender's state of the ledger; the latest time wins.
    pub fn put_sender(&self, entry: SenderEntry) {
        self.inner.registry.put_sender(entry);
    }

    /// Takes from the ledger that ids of `origin` name more than one event from `from` on. From now on nothing that permits counts under
    /// them in what is read here. Says whether that is news.
    pub fn put_distrust(&self, origin: OriginId, from: u64) -> bool {
        self.inner.registry.put_distrust(origin, from)
    }

    /// The origins that are forked.
    #[must_use]
    pub fn distrust(&self) -> Arc<Distrust> {
        self.inner.registry.distrusts.all()
    }

    /// The template, if it is registered.
    #[must_use]
    pub fn template(&self, business: &str, name: &str, language: &str) -> Option<Arc<TemplateEntry>> {
        self.inner.registry.template(business, name, language)
    }

    /// The sender's state, if it was reported.
    #[must_use]
    pub fn sender(&self, business: &str, sender: &str) -> Option<Arc<SenderEntry>> {
        self.inner.registry.sender(business, sender)
    }

    /// A template, by name and language, and a sender's state in one look: every check asks for both.
    #[must_use]
    pub fn template_and_sender(
        &self,
        business: &str,
        template: Option<(&str, &str)>,
        sender: &str,
    ) -> (Option<Arc<TemplateEntry>>, Option<Arc<SenderEntry>>) {
        self.inner.registry.template_and_sender(business, template, sender)
    }

    /// The templates of `business`, by name and language.
    #[must_use]
    pub fn templates(&self, business: &str) -> Vec<Arc<TemplateEntry>> {
        self.inner.registry.templates(business)
    }

    /// The senders of `business`, by id.
    #[must_use]
    pub fn senders(&self, business: &str) -> Vec<Arc<SenderEntry>> {
        self.inner.registry.senders(business)
    }

    /// All of the ledger before `next` was applied. Call it after the last of what it covers.
    pub fn advance(&self, next: Position) {
        self.inner.advance(next);
    }

    /// Up to where the ledger was applied; it may not all be in the store yet.
    #[must_use]
    pub fn applied(&self) -> Position {
        self.inner.applied()
    }

    /// Keeps a small entry of somebody else's state (limiters, recipients counted) in the view's folder: a SIGKILL loses at
    /// most the last second. Entries come back in order by [`View::restore_notes`]; one that is already part of a
    /// checkpoint may come back as well, so taking one twice must not matter. One longer than [`NOTE_LEN_MAX`] is left to the
    /// next checkpoint, and said.
    pub fn note(&self, tag: u8, bytes: &[u8]) {
        if bytes.len() > NOTE_LEN_MAX {
            tracing::error!(
                len = bytes.len(),
                max = NOTE_LEN_MAX,
                "a note is too long to be kept before the next checkpoint"
            );
        } else if self.inner.notes.append(tag, &[bytes]) {
            self.inner.wake_thread();
        }
    }

    /// Whoever notes things hands in how to write all of them down at once: now and then, and at the end, the answer
    /// (names with contents) replaces the entries noted before. Called on the view's own thread; it must not hold a clone
    /// of the view, which would never close by itself.
    pub fn on_checkpoint(&self, write: impl Fn() -> Vec<(String, Vec<u8>)> + Send + Sync + 'static) {
        *self.inner.checkpoint.lock() = Some(Box::new(write));
    }

    /// Hands back, once after opening and before [`View::on_checkpoint`], the last checkpoint and then what was noted since.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn restore_notes(&self, mut each: impl FnMut(Note<'_>)) -> Result<(), ViewError> {
        let from = notes::read(&self.inner.folder.checkpoint(), &mut each)?;
        self.inner.notes.replay(from, &mut |tag, bytes| each(Note::Entry { tag, bytes }))
    }

    /// The next start builds the view anew, whatever happens until then: what it was built from lacked something.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn build_anew_next_time(&self) -> Result<(), ViewError> {
        self.inner.unkept.store(true, Ordering::Release);
        self.inner.folder.disown()
    }

    /// How the view is, for metrics and status.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = &self.inner;
        let (mut dirty, mut cache_hits, mut cache_misses) = (0, 0, 0);
        for shard in &inner.shards {
            let shard = shard.lock();
            dirty += shard.dirty_len() as u64;
            cache_hits += shard.hits;
            cache_misses += shard.misses;
        }
        let summary = *inner.summary.lock();
        Stats {
            phase: inner.phase(),
            health: inner.health(),
            fault: inner.fault.lock().clone(),
            dirty,
            overlay_bytes: inner.overlay_bytes(),
            cache_hits,
            cache_misses,
            journal_bytes: inner.usage.bytes() + inner.notes.bytes(),
            logged_persons: summary.logged_persons,
            logged_bytes: summary.logged_bytes,
            journal_lost: inner.usage.lost() + inner.notes.lost(),
            store_bytes: inner.store.size_bytes(),
            persons: summary.persons,
            scattered_shards: summary.scattered_shards,
            applied: inner.applied(),
            stored: summary.position,
        }
    }

    /// Writes everything out, makes it survive a power cut, and marks the view clean. Later calls fail with [`ViewError::Closed`].
    ///
    /// # Errors
    /// When something could not be written; the next start heals it from the ledger and the journal.
    pub fn close(&self) -> Result<(), ViewError> {
        let inner = &self.inner;
        let was = inner.phase();
        if was == Phase::Closed {
            return Ok(());
        }
        inner.set_phase(Phase::Closed);
        self.owner.stop();
        if was == Phase::Rebuilding {
            return Ok(inner.store.close()?);
        }
        let drained = if inner.look_for_space() { inner.sweep(Pace::Full) } else { Ok(false) };
        // Whatever fails, the rest is still worth writing.
        let journals = inner.usage.sync().and(inner.log.lock().sync());
        let journals = journals.and(inner.write_checkpoint()).and(inner.notes.sync());
        let closed = inner.store.close();
        if !drained? {
            let fault = inner.fault.lock().clone();
            return Err(fault.map_or(ViewError::Full, |fault| StoreError::Failed(fault).into()));
        }
        journals?;
        closed?;
        inner.folder.sync_store()?;
        if inner.unkept.load(Ordering::Acquire) {
            return Ok(());
        }
        inner.folder.say(&State { clean: true, ..self.state() })
    }

    /// Does what the view's thread does now and then, where there is none.
    #[cfg(test)]
    pub(crate) fn sweep(&self) -> Result<bool, ViewError> {
        self.inner.sweep(Pace::Full)
    }

    /// What the folder says of a view that is built and in use.
    fn state(&self) -> State {
        State { ledger: self.opened.ledger, boot: self.owner.boot.clone(), built: true, clean: false }
    }
}

#[cfg(test)]
mod tests;
