//! The store that answers reads: everything known of a person, in a few microseconds.
//!
//! It is built from the ledger and thrown away and rebuilt when damaged; only what sends leave behind (usage)
//! lives here alone. It has never heard of gRPC, of rules or of clocks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::ledger::Position;
use crate::policy::event::{ConsentEvent, SenderEntry, TemplateEntry};
use crate::policy::ids::{EventId, Identifier};
use crate::policy::record::Record;
use crate::policy::usage::Usage;

/// The view's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// sled's page cache; 1 to 4,096 MiB.
    pub page_cache_mib: u32,
    /// The cache of records before it; 0 to 65,536 MiB.
    pub record_cache_mib: u32,
    /// How much may be changed and not yet in sled; 1 to 4,096 MiB.
    pub overlay_max_mib: u32,
    /// Below this much free space nothing is written; 0: always written.
    pub min_free_mib: u32,
    /// How long to wait for a dying predecessor to let go of the store.
    pub lock_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            page_cache_mib: 8,
            record_cache_mib: 64,
            overlay_max_mib: 32,
            min_free_mib: 64,
            lock_wait: Duration::from_secs(5),
        }
    }
}

/// Names the ledger that a view was built from; a view of another ledger is rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerIdentity(pub [u8; 16]);

/// All that the view keeps of one identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// Consent, from the ledger.
    pub record: Record,
    /// Where the person's events are in the ledger, in its order.
    pub trail: Vec<Position>,
    /// What sends and inbound messages left behind.
    pub usage: Usage,
    /// The times of past sends, encoded.
    pub frequency: Vec<u8>,
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

/// Why the view cannot answer or open.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// Being rebuilt.
    #[error("the view is being rebuilt from the ledger; try again when it is ready")]
    Rebuilding,
}

/// What was found when the view was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Nothing usable was found, for this reason: feed the whole ledger to [`View::rebuild`] before anything else.
    pub rebuild: Option<String>,
    /// Otherwise: apply the ledger's entries from here on.
    pub replay_from: Position,
}

/// The view. Clones share it.
#[derive(Clone)]
pub struct View {
    inner: Arc<Inner>,
}

struct Inner {
    persons: Mutex<FxHashMap<Identifier, Person>>,
    templates: Mutex<Vec<TemplateEntry>>,
    senders: Mutex<Vec<SenderEntry>>,
    applied: AtomicU64,
}

impl View {
    /// Opens the view in `dir`, which is the view's alone, healing what can be healed.
    ///
    /// # Errors
    /// When the folder cannot be used at all.
    pub fn open(_config: Config, _dir: &Path, _ledger: LedgerIdentity) -> Result<(Self, Opened), ViewError> {
        let inner = Inner {
            persons: Mutex::default(),
            templates: Mutex::default(),
            senders: Mutex::default(),
            applied: AtomicU64::new(0),
        };
        let rebuild = Some("there is no view yet".to_owned());
        Ok((Self { inner: Arc::new(inner) }, Opened { rebuild, replay_from: Position::START }))
    }

    /// Reads a person; nobody known is an empty person.
    ///
    /// # Errors
    /// When the store cannot be read: the caller must deny.
    pub fn get(&self, who: &Identifier) -> Result<Person, ViewError> {
        Ok(self.inner.persons.lock().get(who).cloned().unwrap_or_default())
    }

    /// Reads, lets `change` judge and alter, and keeps what it says it touched, all under the person's lock.
    /// `change` must be short and must not come back to the view.
    ///
    /// # Errors
    /// When the store cannot be read, or changes of usage cannot be held: nothing was changed.
    pub fn update<R>(
        &self,
        who: &Identifier,
        change: impl FnOnce(&mut Person) -> (R, Touched),
    ) -> Result<R, ViewError> {
        let mut persons = self.inner.persons.lock();
        let mut person = persons.get(who).cloned().unwrap_or_default();
        let (answer, touched) = change(&mut person);
        if touched != Touched::Nothing {
            persons.insert(*who, person);
        }
        Ok(answer)
    }

    /// Applies a consent event of the ledger, whose record starts at `at`, to all its subjects. Repeats change nothing.
    ///
    /// # Errors
    /// As [`View::update`].
    pub fn apply(&self, at: Position, id: EventId, event: &ConsentEvent) -> Result<(), ViewError> {
        for subject in &event.subjects {
            self.update(subject, |person| {
                person.record.apply(id, event, subject);
                if let Err(place) = person.trail.binary_search(&at) {
                    person.trail.insert(place, at);
                }
                ((), Touched::Consent)
            })?;
        }
        Ok(())
    }

    /// Takes a template of the ledger; the latest time wins.
    pub fn put_template(&self, entry: TemplateEntry) {
        self.inner.templates.lock().push(entry);
    }

    /// Takes a sender's state of the ledger; the latest time wins.
    pub fn put_sender(&self, entry: SenderEntry) {
        self.inner.senders.lock().push(entry);
    }

    /// The template, if it is registered.
    #[must_use]
    pub fn template(&self, business: &str, name: &str, language: &str) -> Option<Arc<TemplateEntry>> {
        let templates = self.inner.templates.lock();
        let found = templates.iter().find(|entry| {
            entry.business.as_str() == business && entry.name == name && entry.language == language
        });
        found.cloned().map(Arc::new)
    }

    /// The sender's state, if it was reported.
    #[must_use]
    pub fn sender(&self, business: &str, sender: &str) -> Option<Arc<SenderEntry>> {
        let senders = self.inner.senders.lock();
        let found = senders
            .iter()
            .find(|entry| entry.business.as_str() == business && entry.sender.as_str() == sender);
        found.cloned().map(Arc::new)
    }

    /// The templates of `business`, by name and language.
    #[must_use]
    pub fn templates(&self, business: &str) -> Vec<Arc<TemplateEntry>> {
        let templates = self.inner.templates.lock();
        templates.iter().filter(|entry| entry.business.as_str() == business).cloned().map(Arc::new).collect()
    }

    /// The senders of `business`, by id.
    #[must_use]
    pub fn senders(&self, business: &str) -> Vec<Arc<SenderEntry>> {
        let senders = self.inner.senders.lock();
        senders.iter().filter(|entry| entry.business.as_str() == business).cloned().map(Arc::new).collect()
    }

    /// All of the ledger before `next` was applied.
    pub fn advance(&self, next: Position) {
        self.inner.applied.fetch_max(next.as_u64(), Ordering::AcqRel);
    }

    /// Up to where the ledger was applied; it may not all be in sled yet.
    #[must_use]
    pub fn applied(&self) -> Position {
        Position::from_u64(self.inner.applied.load(Ordering::Acquire))
    }

    /// Starts a rebuild from nothing: the caller feeds the whole ledger. Until [`Rebuilder::finish`] nothing else answers.
    ///
    /// # Errors
    /// When the store cannot be emptied.
    pub fn rebuild(&self) -> Result<Rebuilder, ViewError> {
        Ok(Rebuilder { view: self.clone() })
    }

    /// Keeps a small entry of somebody else's state (limiters, recipients counted) in the view's journal: a SIGKILL loses at most the
    /// last second. Entries come back in order by [`View::restore_notes`]; one that is already part of a checkpoint may come
    /// back as well, so taking one twice must not matter.
    pub fn note(&self, _tag: u8, _bytes: &[u8]) {}

    /// Whoever notes things hands in how to write all of them down at once: now and then, and at the end, the answer
    /// (names with contents) replaces the entries noted before. Called on the view's own thread.
    pub fn on_checkpoint(&self, _write: impl Fn() -> Vec<(String, Vec<u8>)> + Send + Sync + 'static) {}

    /// Hands back, once after opening, the last checkpoint and then what was noted since.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn restore_notes(&self, _each: impl FnMut(Note<'_>)) -> Result<(), ViewError> {
        Ok(())
    }

    /// Writes everything out and marks the view clean. Later changes fail.
    ///
    /// # Errors
    /// When something could not be written; the next start heals it from the ledger and the journal.
    pub fn close(&self) -> Result<(), ViewError> {
        Ok(())
    }
}

/// A piece of somebody else's state, as [`View::restore_notes`] hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note<'a> {
    /// A part of the last checkpoint.
    Checkpoint {
        /// Its name.
        name: &'a str,
        /// Its content.
        bytes: &'a [u8],
    },
    /// An entry noted since.
    Entry {
        /// Its tag.
        tag: u8,
        /// Its content.
        bytes: &'a [u8],
    },
}

/// Builds the view anew in bounded memory.
pub struct Rebuilder {
    view: View,
}

impl Rebuilder {
    /// Takes a consent event whose record starts at `at`; all its subjects learn of it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn event(&mut self, at: Position, id: EventId, event: &ConsentEvent) -> Result<(), ViewError> {
        self.view.apply(at, id, event)
    }

    /// Takes a template.
    pub fn template(&mut self, entry: TemplateEntry) {
        self.view.put_template(entry);
    }

    /// Takes a sender's state.
    pub fn sender(&mut self, entry: SenderEntry) {
        self.view.put_sender(entry);
    }

    /// Loads what was taken; reading the ledger goes on at `next`. `progress` hears parts done of parts in all.
    ///
    /// # Errors
    /// When the disk or the store fails.
    pub fn finish(self, next: Position, mut progress: impl FnMut(u32, u32)) -> Result<(), ViewError> {
        self.view.advance(next);
        progress(1, 1);
        Ok(())
    }
}
