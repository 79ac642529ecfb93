//! Configuration: one YAML file, then `OPTGATE_…` variables, then flags; later ones win.
//!
//! Everything is optional. Whatever is wrong is found in one pass and reported together, each fault
//! with its place, its key, what is wrong and what to do. Nothing here starts, binds or opens
//! anything but the file. The policy part ([`Config::rules`]) may change while the process runs
//! (see [`reload`]); the rest needs a restart.

mod business;
mod canonical;
mod doubts;
mod fault;
mod node;
mod overlay;
mod policy_keys;
mod quiet_hours;
mod read;
pub mod reload;
mod settings;
mod span;
mod system;
#[cfg(test)]
mod tests;
mod word_lists;

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use canonical::version_of;
pub use fault::{FINDINGS_MAX, Faults, Finding, Place, Report};
pub use node::{DEPTH_MAX, FILE_BYTES_MAX, NODES_MAX};
pub use read::{ITEMS_MAX, TEXT_BYTES_MAX};

use crate::policy::rules::{RuleBook, Rules};
use node::{Node, Origin};
use read::{At, Section};

/// The exit code of a process whose configuration has faults (`EX_USAGE` of `sysexits.h`).
pub const EXIT_CODE_FAULTY: u8 = 64;

/// The prefix of environment variables that configure.
pub const VARIABLE_PREFIX: &str = "OPTGATE_";

/// What callers connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// gRPC over TCP; `None`: not at all.
    pub listen: Option<SocketAddr>,
    /// gRPC over a Unix socket.
    pub uds: Option<PathBuf>,
    /// The socket file's permissions.
    pub uds_mode: u32,
    /// Health and metrics over HTTP; `None`: not at all.
    pub http: Option<SocketAddr>,
    /// The webhooks' own listener.
    pub webhooks: Option<SocketAddr>,
    /// Connections at once, per TCP listener.
    pub max_connections: u32,
    /// How long running calls may take to end after a signal, in milliseconds.
    pub drain_ms: u64,
}

/// Memory of the store that answers reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The store's cache of pages, in MiB.
    pub page_cache_mib: u32,
    /// The cache of decoded records before it, in MiB.
    pub record_cache_mib: u32,
}

/// Files of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The size at which a new segment begins, in MiB.
    pub segment_mib: u32,
    /// Space kept for opt-outs on a full disk, in MiB.
    pub opt_out_reserve_mib: u32,
}

/// What the decision log does when its buffer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// Drops the entry and counts it.
    Drop,
    /// Makes the check wait.
    Slow,
}

/// The log of decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecisionLog {
    /// Its folder; a relative one is within the data folder.
    pub path: PathBuf,
    /// How long its files are kept, in milliseconds.
    pub keep_ms: u64,
    /// Entries that may wait to be written.
    pub buffer: u32,
    /// What happens when as many wait.
    pub on_full: OnFull,
}

/// Logs and traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// What is logged: a level or a filter such as `info,optgate::ledger=debug`.
    pub log: String,
    /// Where traces go, an `http://` address; `None`: nowhere.
    pub otlp_endpoint: Option<String>,
}

/// Whether this node keeps a ledger for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does.
    Anchor,
    /// It is disposable and relies on anchors.
    Edge,
}

/// Peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// What this node is among them.
    pub role: Role,
    /// Nodes of different clusters refuse each other.
    pub cluster_id: String,
    /// Where peers connect.
    pub listen: Option<SocketAddr>,
    /// Whom to connect to: `host:port`, or one DNS name with its port.
    pub peers: Vec<String>,
    /// How many anchors the cluster has; `None`: as many as there are peers, and this node if it is one.
    pub anchors: Option<u32>,
    /// Between two signs of life, in milliseconds.
    pub heartbeat_ms: u64,
    /// From when on a replica counts as stale, in milliseconds.
    pub max_staleness_ms: u64,
    /// How long to wait for peers at start, in milliseconds.
    pub bootstrap_budget_ms: u64,
    /// Between two ranges of the view that are compared with an anchor's, in milliseconds.
    pub compare_every_ms: u64,
    /// With more events missing than these, an anchor takes the opt-outs of others' snapshots while the events come.
    pub far_behind_events: u64,
    /// How long an opt-out may wait for an anchor, in milliseconds.
    pub opt_out_wait_ms: u64,
    /// Whether peers outside loopback may talk without TLS.
    pub allow_plaintext: bool,
}

impl Replication {
    /// Whether this node has no peers, neither to dial nor to wait for.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.listen.is_none() && self.peers.is_empty()
    }

    /// How many anchors the cluster has.
    #[must_use]
    pub fn anchors_or_counted(&self) -> usize {
        let itself = usize::from(self.role == Role::Anchor);
        self.anchors.map_or(self.peers.len() + itself, |anchors| anchors as usize)
    }
}

/// The keyword engine's word lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keywords {
    /// Languages whose lists are used, as ISO 639 codes.
    pub languages: Vec<String>,
    /// A folder whose lists add to or replace the built-in ones.
    pub dir: Option<PathBuf>,
    /// A number that changes with any word of the lists.
    pub fingerprint: u64,
}

/// Everything that can be configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// What callers connect to.
    pub server: Server,
    /// Where ledger, view and decision log are.
    pub data_dir: PathBuf,
    /// The cluster key's file; `None`: within the data folder.
    pub key_file: Option<PathBuf>,
    /// Memory of the store that answers reads.
    pub view: View,
    /// Files of the ledger.
    pub ledger: Ledger,
    /// Free space below which nothing but opt-outs is written, in MiB.
    pub min_free_mib: u64,
    /// The log of decisions; `None`: none.
    pub decision_log: Option<DecisionLog>,
    /// Logs and traces.
    pub telemetry: Telemetry,
    /// Peers.
    pub replication: Replication,
    /// The policy part.
    pub rules: RuleBook,
    /// The keyword engine's word lists.
    pub keywords: Keywords,
}

impl Default for Config {
    fn default() -> Self {
        let keywords = Keywords::default();
        Self {
            server: Server {
                listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50051)),
                uds: None,
                uds_mode: 0o660,
                http: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080)),
                webhooks: None,
                max_connections: 256,
                drain_ms: 10_000,
            },
            data_dir: PathBuf::from("./data"),
            key_file: None,
            view: View { page_cache_mib: 8, record_cache_mib: 32 },
            ledger: Ledger { segment_mib: 64, opt_out_reserve_mib: 8 },
            min_free_mib: 64,
            decision_log: Some(DecisionLog::default()),
            telemetry: Telemetry { log: "info".to_owned(), otlp_endpoint: None },
            replication: Replication {
                role: Role::Anchor,
                cluster_id: "default".to_owned(),
                listen: None,
                peers: Vec::new(),
                anchors: None,
                heartbeat_ms: 1_000,
                max_staleness_ms: 60_000,
                bootstrap_budget_ms: 10_000,
                compare_every_ms: 5_000,
                far_behind_events: 200_000,
                opt_out_wait_ms: 250,
                allow_plaintext: false,
            },
            rules: rule_book(Rules::built_in(), Vec::new(), &keywords),
            keywords,
        }
    }
}

impl Default for DecisionLog {
    fn default() -> Self {
        Self {
            path: PathBuf::from("decisions"),
            keep_ms: 90 * 24 * 60 * 60 * 1_000,
            buffer: 10_000,
            on_full: OnFull::Drop,
        }
    }
}

/// Languages that have built-in word lists.
pub const KEYWORD_LANGUAGES: [&str; 8] = ["en", "es", "pt", "fr", "de", "id", "hi", "ar"];

/// What the command line sets; it wins over everything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--key-file`
    pub key_file: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<String>,
    /// `--uds`
    pub uds: Option<PathBuf>,
    /// `--http`
    pub http: Option<String>,
    /// `--peer-listen`
    pub peer_listen: Option<String>,
    /// `--peer`, repeated.
    pub peers: Vec<String>,
}

/// Where a configuration comes from. Kept by whoever reloads, since a reload reads all of it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The file; `None`: built-in settings only.
    pub file: Option<PathBuf>,
    /// Environment variables; those without [`VARIABLE_PREFIX`] are skipped.
    pub environment: Vec<(String, String)>,
    /// Flags.
    pub overrides: Overrides,
}

/// A usable configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What is allowed and yet most likely not meant.
    pub warnings: Vec<Finding>,
}

impl Sources {
    /// The file and flags given, and this process's environment.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, overrides: Overrides) -> Self {
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
            .collect();
        Self { file, environment, overrides }
    }

    /// Reads and checks everything.
    ///
    /// # Errors
    /// With every fault found, in the order of the file.
    pub fn load(&self) -> Result<Loaded, Faults> {
        let (config, report) = self.examine();
        match config {
            Some(config) if report.is_usable() => Ok(Loaded { config, warnings: report.warnings }),
            _ => Err(Faults(report)),
        }
    }

    /// Reads and checks everything, and reports what was found either way. The configuration is
    /// absent where the file could not be read to its end, and worth nothing while there are faults.
    #[must_use]
    pub fn examine(&self) -> (Option<Config>, Report) {
        let mut report = Report::default();
        let text = match &self.file {
            None => Some(String::new()),
            Some(file) => read_file(file, &mut report),
        };
        match text {
            None => (None, report),
            Some(text) => self.examine_text(&text, report),
        }
    }

    /// Checks `text` as if it had been read from the file.
    fn examine_text(&self, text: &str, mut report: Report) -> (Option<Config>, Report) {
        let name = self.file.as_deref().map_or_else(|| "configuration".into(), shown);
        let config = node::parse(text, &Origin::File(name), &mut report).map(|mut root| {
            overlay::environment(&mut root, &self.environment, &mut report);
            overlay::flags(&mut root, &self.overrides, &mut report);
            judge(&root, &mut report)
        });
        report.sort();
        (config, report)
    }
}

/// Checks a file by itself, without environment and flags: what `optgate policy lint` shows.
#[must_use]
pub fn lint(file: &Path) -> Report {
    Sources { file: Some(file.to_owned()), ..Sources::default() }.examine().1
}

fn shown(path: &Path) -> Arc<str> {
    path.display().to_string().into()
}

fn read_file(path: &Path, report: &mut Report) -> Option<String> {
    let place = Place::File { file: shown(path) };
    let mut bytes = Vec::new();
    // Read rather than asked for its length, which a device or a growing file would not tell.
    let read =
        std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    if let Err(fault) = read {
        report.fault(
            &place,
            "",
            format!("the file cannot be read: {fault}"),
            "check its path and permissions, or start without a file for the built-in rules",
        );
        return None;
    }
    if bytes.len() as u64 > FILE_BYTES_MAX {
        report.fault(
            &place,
            "",
            format!("the file is longer than {FILE_BYTES_MAX} bytes"),
            "keep templates in the registry and consents in the ledger, not in this file",
        );
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(fault) => {
            let good = &fault.as_bytes()[..fault.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            let column = 1 + good.iter().rev().take_while(|byte| **byte != b'\n').count();
            let place = Place::Line { file: shown(path), line, column };
            report.fault(&place, "", "this is not UTF-8", "save the file as UTF-8");
            None
        }
    }
}

/// Turns the tree into settings. What is faulty keeps its default, so that reading goes on.
fn judge(root: &Node, report: &mut Report) -> Config {
    let mut config = Config::default();
    let Some(mut top) = Section::open(At::root(root), report) else {
        return config;
    };
    system::read(&mut top, &mut config, report);
    let mut defaults = Rules::built_in();
    let mut section = top.get("defaults").and_then(|at| Section::open(at, report));
    let lexicon = word_lists::read(section.as_mut(), &mut config.keywords, report);
    if let Some(mut section) = section {
        policy_keys::read(&mut section, &mut defaults, report);
        section.close(report);
    }
    let businesses = business::read_all(&mut top, &defaults, lexicon.as_deref(), report);
    top.close(report);
    config.rules = rule_book(defaults, businesses, &config.keywords);
    config
}

fn rule_book(defaults: Rules, businesses: Vec<Rules>, keywords: &Keywords) -> RuleBook {
    let businesses = businesses
        .into_iter()
        .filter_map(|rules| Some((rules.business_id.clone()?, Arc::new(rules))))
        .collect();
    let version = version_of(&defaults, &businesses, keywords);
    RuleBook { defaults: Arc::new(defaults), businesses, version }
}
