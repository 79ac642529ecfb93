//! What every view promises, on sled and in memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use tempfile::TempDir;

use super::folder::LedgerIdentity;
use super::inner::SHARDS;
use super::store::faulty::Disk;
use super::store::sled::SledStore;
use super::store::{Opener, Store};
use super::*;
use crate::policy::ids::OriginId;
use crate::policy::strategies;
use crate::policy::time::Timestamp;
use crate::policy::types::Channel;

mod contract;
mod crash;
mod opening;
mod order;

const LEDGER: LedgerIdentity = LedgerIdentity([0x1e; 16]);
const MIB: u64 = 1024 * 1024;

/// A place for views of one test: it outlives them.
struct Place {
    temp: TempDir,
    /// The store's disk in memory, or sled.
    disk: Option<Disk>,
    free_mib: Arc<AtomicU64>,
    boot: String,
    config: Config,
    thread: bool,
}

impl Place {
    fn new(disk: Option<Disk>) -> Self {
        let config = Config {
            page_cache_mib: 1,
            record_cache_mib: 1,
            overlay_max_mib: 8,
            usage_persons_max: 1_024 * 1_024,
            lent_max_mib: 1,
            min_free_mib: 64,
            lock_wait: Duration::from_millis(0),
        };
        Self {
            temp: tempfile::tempdir().unwrap(),
            disk,
            free_mib: Arc::new(AtomicU64::new(1_000)),
            boot: "boot-1".into(),
            config,
            thread: false,
        }
    }

    fn sled() -> Self {
        Self::new(None)
    }

    fn memory() -> Self {
        Self::new(Some(Disk::default()))
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("view")
    }

    fn try_open(&self) -> Result<(View, Opened), ViewError> {
        let free_mib = Arc::clone(&self.free_mib);
        let surroundings = Surroundings {
            opener: opener(self.disk.clone()),
            free_bytes: Arc::new(move || Some(free_mib.load(Ordering::Relaxed) * MIB)),
            boot: self.boot.clone(),
            thread: self.thread,
        };
        View::open_in(self.config.clone(), &self.dir(), LEDGER, &surroundings)
    }

    fn open(&self) -> (View, Opened) {
        self.try_open().unwrap()
    }

    /// A view that serves, whatever it takes.
    fn serving(&self, ledger: &Ledger) -> View {
        let (view, opened) = self.open();
        match opened.rebuild {
            Some(_) => ledger.rebuild(&view),
            None => ledger.replay(&view, opened.replay_from),
        }
        view
    }
}

fn opener(disk: Option<Disk>) -> Opener {
    Arc::new(move |dir: &Path| {
        let Some(disk) = &disk else {
            return Ok(Box::new(SledStore::open(dir, MIB, Duration::ZERO)?) as Box<dyn Store>);
        };
        // The disk goes with its folder.
        if !dir.exists() {
            disk.wipe();
            fs::create_dir_all(dir).unwrap();
        }
        Ok(Box::new(disk.store()))
    })
}

/// Random choices that a seed repeats.
struct Dice(TestRunner);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Self(TestRunner::new_with_rng(Default::default(), rng))
    }

    fn roll<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(&mut self.0).unwrap().current()
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll(0..n)
    }
}

/// Person number `n`; hashed, as identifiers are.
fn person(n: u64) -> Identifier {
    use sha2::Digest;
    Identifier(sha2::Sha256::digest(n.to_le_bytes()).into())
}

/// A ledger in memory, and what its events make of each person.
#[derive(Clone, Default)]
struct Ledger {
    events: Vec<(EventId, ConsentEvent)>,
    persons: BTreeMap<Identifier, Person>,
}

impl Ledger {
    /// Appends an event about one or two of `persons`.
    fn append(&mut self, dice: &mut Dice, persons: u64) {
        let mut event = dice.roll(strategies::consent_event());
        event.subjects.truncate(2);
        for subject in &mut event.subjects {
            *subject = person(dice.below(persons));
        }
        let sequence = self.events.len() as u64 + 1;
        let id = EventId { origin: OriginId([dice.below(3) as u8; 16]), sequence };
        let at = self.position(self.events.len());
        for subject in &event.subjects {
            let person = self.persons.entry(*subject).or_default();
            person.record.apply(id, &event, subject);
            if person.trail.last() != Some(&at) {
                person.trail.push(at);
            }
        }
        self.events.push((id, event));
    }

    /// Where the event numbered `at` from 0 starts.
    fn position(&self, at: usize) -> Position {
        Position::from_u64(64 + 100 * at as u64)
    }

    /// Applies the events from `at` on.
    fn apply_from(&self, view: &View, at: usize) {
        for (at, (id, event)) in self.events.iter().enumerate().skip(at) {
            view.apply(self.position(at), *id, event).unwrap();
            view.advance(self.position(at + 1));
        }
    }

    /// Applies what the view lacks, as a start does: some at a time.
    fn replay(&self, view: &View, from: Position) {
        const TOGETHER: usize = 50;
        let first = (0..self.events.len()).find(|at| self.position(*at) >= from);
        let events: Vec<_> = (first.unwrap_or(self.events.len())..self.events.len())
            .map(|at| {
                let (id, event) = self.events[at].clone();
                Placed { at: self.position(at), id, event }
            })
            .collect();
        for (nth, some) in events.chunks(TOGETHER).enumerate() {
            view.apply_many(some).unwrap();
            let done = self.events.len() - events.len() + nth * TOGETHER + some.len();
            view.advance(self.position(done));
        }
    }

    fn rebuild(&self, view: &View) {
        let mut rebuilder = view.rebuild().unwrap();
        for (at, (id, event)) in self.events.iter().enumerate() {
            rebuilder.event(self.position(at), *id, event).unwrap();
        }
        rebuilder.finish(self.position(self.events.len()), |_, _| {}).unwrap();
    }

    /// Everybody's consent is what the ledger makes of it.
    fn check(&self, view: &View, persons: u64, context: &str) {
        for n in 0..persons {
            let found = view.get(&person(n)).unwrap();
            let expected = self.persons.get(&person(n)).cloned().unwrap_or_default();
            assert_eq!(found.trail, expected.trail, "{context}: {n}");
            // Not printed: records are long.
            assert!(found.record == expected.record, "{context}: {n}");
        }
    }
}

/// Counts one more send of a person.
fn count(view: &View, who: &Identifier) -> Result<u64, ViewError> {
    view.update(who, |person| {
        let now = counted(person) + 1;
        person.usage.allowed(Channel::Sms, None, Timestamp(now.cast_signed()));
        (now, Touched::Usage)
    })
}

fn counted(person: &Person) -> u64 {
    person.usage.last_allowed(Channel::Sms).map_or(0, |last| last.time.0.cast_unsigned())
}

fn count_of(view: &View, who: &Identifier) -> u64 {
    counted(&view.get(who).unwrap())
}

#[test]
fn a_view_that_lacked_something_is_built_anew_by_the_next_start_even_if_it_was_closed_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { page_cache_mib: 1, record_cache_mib: 1, min_free_mib: 0, ..Config::default() };
    let open = || View::open(config.clone(), &dir.path().join("view"), LedgerIdentity([7; 16])).unwrap();
    let (view, opened) = open();
    assert!(opened.rebuild.is_some());
    view.rebuild().unwrap().finish(Position::START, |_, _| {}).unwrap();
    view.close().unwrap();
    drop(view);
    let (view, opened) = open();
    assert_eq!(opened.rebuild, None);
    view.build_anew_next_time().unwrap();
    view.close().unwrap();
    drop(view);
    assert!(open().1.rebuild.is_some());
}
