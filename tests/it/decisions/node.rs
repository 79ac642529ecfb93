//! An engine of its own in a directory that cleans up after itself, under a clock that tests move.

use std::sync::Arc;

use optgate::clock::ManualClock;
use optgate::engine::decision::NoSink;
use optgate::engine::start::{Parts, Storage};
use optgate::engine::{Book, Engine};
use optgate::key::ClusterKey;
use optgate::ledger::disk::RealDisk;
use optgate::ledger::verify::verify;
use optgate::policy::keywords::Lexicon;
use optgate::policy::rules::{RuleBook, Rules};
use optgate::{ledger, limits, view};
use tempfile::TempDir;

/// The key of every node here: decisions of one are read by all.
const KEY: [u8; 32] = [7; 32];

/// One sidecar.
pub struct Node {
    pub engine: Engine,
    dir: TempDir,
}

impl Node {
    /// Opens one on a new directory.
    pub fn open(clock: &Arc<ManualClock>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealDisk::new(&dir.path().join("ledger")).expect("a disk");
        let rules = RuleBook {
            defaults: Arc::new(Rules::built_in()),
            businesses: std::collections::BTreeMap::new(),
            version: "table".into(),
        };
        let (engine, _) = Engine::open(Parts {
            clock: Arc::<ManualClock>::clone(clock),
            key: ClusterKey::from_bytes(&KEY),
            storage: Storage::Ledger {
                disk: Arc::new(disk),
                config: ledger::Config {
                    segment_mib: 4,
                    opt_out_reserve_mib: 1,
                    min_free_mib: 0,
                    ..ledger::Config::default()
                },
            },
            view_dir: dir.path().join("view"),
            view: view::Config {
                page_cache_mib: 1,
                record_cache_mib: 1,
                min_free_mib: 0,
                ..view::Config::default()
            },
            limits: limits::Settings::default(),
            book: Book::new(rules),
            lexicon: Arc::new(Lexicon::built_in().expect("the built-in words")),
            sink: Arc::new(NoSink),
            replica: Arc::new(optgate::engine::replica::Replica::alone()),
        })
        .expect("an engine");
        Self { engine, dir }
    }

    /// Whether all that is on disk verifies.
    pub fn is_sound(&self) -> bool {
        let disk = RealDisk::read_only(&self.dir.path().join("ledger"));
        let check = ClusterKey::from_bytes(&KEY).check_value();
        let report = verify(&disk, Some(check)).expect("a report");
        report.is_sound()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A test that fails has said why already.
        let _ = self.engine.close();
    }
}
