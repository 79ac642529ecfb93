//! One node: its disk, its view's store, its clock, and the process while there is one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;

use super::world::{EPOCH_MS, MARGIN_MS, MAX_STALENESS_MS};
use crate::clock::ManualClock;
use crate::engine::decision::NoSink;
use crate::engine::replica::Replica;
use crate::engine::start::{Parts, Storage};
use crate::engine::{Book, Engine};
use crate::key::ClusterKey;
use crate::ledger::sim::SimDisk;
use crate::outbox::Item;
use crate::peers::hands::{Kept, Work};
use crate::peers::knowing::Knowing;
use crate::policy::ids::TopicId;
use crate::policy::keywords::Lexicon;
use crate::policy::rules::{RuleBook, Rules};
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, EvidenceGrade};
use crate::replication::frame::Role;
use crate::replication::sim::carrier::MemoryCarrier;
use crate::replication::{Link, Machine, Mono, Now};
use crate::view::{MemoryDisk, Surroundings};
use crate::{ledger, limits, view};

/// How long a node that starts waits for what the anchors hold.
const BOOTSTRAP_BUDGET: Duration = Duration::from_secs(20);

/// The cluster's key.
pub const KEY: [u8; 32] = [7; 32];

static LEXICON: LazyLock<Arc<Lexicon>> =
    LazyLock::new(|| Arc::new(Lexicon::built_in().expect("it is sound")));

/// An address that is dialled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dial {
    /// The link it led to, or that made it needless.
    pub link: Option<Link>,
    pub not_before: u64,
}

/// What an edge has under way.
#[derive(Default)]
pub struct Carrying {
    /// Items that an anchor was asked to number, with the anchors still to be asked, and whether one answered.
    pub under_way: BTreeMap<u64, Offer>,
    /// No item is tried before then, and how long the last wait was.
    pub quiet_until: u64,
    pub quiet_ms: u64,
    /// Who answered last.
    pub preferred: Option<usize>,
}

/// An item that is offered to anchors in turn.
pub struct Offer {
    pub item: Arc<Item>,
    pub to: VecDeque<usize>,
    pub answered: bool,
}

/// A running process.
pub struct Process {
    pub engine: Engine,
    pub machine: Arc<Mutex<Machine>>,
    /// It talks: an edge only once a snapshot is in force.
    pub talks: bool,
    pub knowing: Knowing,
    pub kept: Kept,
    pub carrier: MemoryCarrier,
    /// Records on their way to the disk, with when they are there.
    pub storing: VecDeque<(u64, Work)>,
    pub dials: BTreeMap<usize, Dial>,
    pub carrying: Carrying,
    /// When an anchor is next asked for a snapshot.
    pub ask_snapshot_at: u64,
    /// When an anchor is next asked for its opt-outs.
    pub borrow_at: u64,
    /// When a range is next compared, and which.
    pub compare_at: u64,
    pub compare_next: usize,
    /// When it is next asked what may be sent although nothing has happened.
    pub judge_at: u64,
    pub usage_parts: BTreeMap<Link, VecDeque<Vec<u8>>>,
}

pub struct Node {
    pub role: Role,
    pub peers: Vec<usize>,
    pub disk: SimDisk,
    pub view: MemoryDisk,
    pub view_dir: PathBuf,
    pub boot: u64,
    pub clock: Arc<ManualClock>,
    /// By how much its wall clock is wrong.
    pub skew_ms: i64,
    pub process: Option<Process>,
    /// Counts processes, so that what was meant for an old one is dropped.
    pub epoch: u64,
    /// Copies of the disk as it was.
    pub backups: Vec<SimDisk>,
    /// When it last lost what it held.
    pub went_back: Option<u64>,
    /// Acts whose reports it took in and has not lost.
    pub took: BTreeSet<usize>,
}

pub fn offers() -> TopicId {
    TopicId::new("offers").expect("an id")
}

pub fn rules() -> Rules {
    Rules {
        topics: [(offers(), Category::Marketing)].into(),
        evidence: EvidenceGrade::Basic,
        clock_margin_ms: MARGIN_MS,
        ..Rules::built_in()
    }
}

impl Node {
    /// Puts its clocks where they stand at a moment of the world.
    pub fn set_clock(&self, mono_ms: u64, true_ms: i64) -> Now {
        let wall = Timestamp(EPOCH_MS + true_ms + self.skew_ms);
        self.clock.stand_at(wall, mono_ms);
        Now { mono: Mono(mono_ms), wall }
    }

    /// Opens the engine on what its disk has.
    pub fn open(&self) -> Result<Engine, String> {
        let disk = Arc::new(self.disk.clone());
        let storage = match self.role {
            Role::Anchor => Storage::Ledger { disk, config: ledger::Config::default() },
            Role::Edge => Storage::Outbox { disk },
        };
        let small = view::Config::default();
        let config = view::Config { page_cache_mib: 1, record_cache_mib: 1, min_free_mib: 0, ..small };
        let surroundings = Surroundings::by_hand(&self.view, format!("boot-{}", self.boot));
        let book = RuleBook { defaults: Arc::new(rules()), businesses: BTreeMap::new(), version: "1".into() };
        let parts = Parts {
            clock: Arc::<ManualClock>::clone(&self.clock),
            key: ClusterKey::from_bytes(&KEY),
            storage,
            view_dir: self.view_dir.clone(),
            view: config,
            limits: limits::Settings::default(),
            book: Book::new(book),
            lexicon: Arc::clone(&LEXICON),
            sink: Arc::new(NoSink),
            // Callers wait in virtual time, not within the engine.
            replica: Arc::new(Replica::among_others(Duration::ZERO)),
        };
        Engine::open_in(parts, &surroundings).map(|(engine, _)| engine).map_err(|error| error.to_string())
    }

    pub fn knowing(now: Now) -> Knowing {
        Knowing::new(Duration::from_millis(MAX_STALENESS_MS), BOOTSTRAP_BUDGET, now.mono)
    }
}
