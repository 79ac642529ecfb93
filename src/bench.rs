//! `optgate bench`: how much of the cost of a call is ours.
//!
//! An empty tonic handler and optgate itself run as processes of their own on Unix sockets, are loaded in turns
//! by the same client over several rounds, and compared. The machine may be noisy: ratios within one run mean
//! something, single figures little.

mod child;
mod empty;
mod load;
mod peers;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use child::{Child, Kind};
use load::{Callers, Sample, Target};
use report::{Rounds, per_second};

pub use empty::serve as serve_empty;
pub use peers::run as run_peers;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many recipients are stored.
    pub recipients: u64,
    /// How many of them the active load touches.
    pub active: u64,
    /// How often each side is measured.
    pub rounds: u32,
    /// How long each measurement takes.
    pub seconds: f64,
    /// Where data is kept meanwhile; by default the system's temporary directory.
    pub dir: Option<PathBuf>,
    /// What is measured besides the import; empty: everything.
    pub only: Vec<Part>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Checks one by one.
    Checks,
    /// Batches of checks.
    Batches,
    /// Opt-outs.
    Records,
    /// Starts after a kill and without a view.
    Starts,
}

impl Options {
    fn measures(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Why a bench fails.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or process.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A server did not come up.
    #[error("{0} did not answer in time; its log is {1}")]
    NotUp(&'static str, PathBuf),
    /// Something did not arrive.
    #[error("{0} did not arrive in time")]
    NotThere(&'static str),
    /// A call failed.
    #[error("a call failed: {0}")]
    Call(#[from] Box<tonic::Status>),
    /// A connection failed.
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> BenchError {
    move |source| BenchError::Io { what, source }
}

const MANY: Callers = Callers { connections: 4, per_connection: 32 };
/// How often each active recipient was asked for before anything is measured.
const ASKED_BEFORE: usize = 3;
/// What passes between two syncs of the ledger when one caller records.
const CALLER_PAUSE: Duration = Duration::from_micros(300);
const ONE: Callers = Callers { connections: 1, per_connection: 1 };
const RECORDERS: Callers = Callers { connections: 4, per_connection: 16 };

/// Checks, and what they cost on both sides.
async fn checks(
    server: &Child,
    callers: Callers,
    target: Target,
    span: Duration,
) -> Result<Sample, BenchError> {
    let spent = || (server.cpu().unwrap_or_default(), child::cpu_of("self").unwrap_or_default());
    let before = spent();
    let mut sample = load::checks(&server.uds, callers, target, span).await?;
    let after = spent();
    sample.server_cpu = after.0.saturating_sub(before.0);
    sample.client_cpu = after.1.saturating_sub(before.1);
    Ok(sample)
}

/// Checks of both sides in turns, both about the same recipients.
async fn compare_checks(
    empty: &Child,
    gate: &Child,
    callers: Callers,
    target: Target,
    draws: &mut std::ops::RangeFrom<u32>,
    options: &Options,
    span: Duration,
) -> Result<Rounds, BenchError> {
    let mut rounds = Rounds::default();
    for draw in draws.take(options.rounds as usize) {
        let target = target.drawn(draw);
        let base = checks(empty, callers, target, span).await?;
        rounds.push(base, checks(gate, callers, target, span).await?);
    }
    Ok(rounds)
}

/// Runs everything and answers the figures.
///
/// # Errors
/// [`BenchError`].
pub async fn run(options: &Options) -> Result<Value, BenchError> {
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = dir.join(format!("optgate-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(io("make the bench's directory"))?;
    let measured = measure(options, &dir).await;
    // The data is of no use any more; what cannot be removed is the system's to clean.
    let _ = std::fs::remove_dir_all(&dir);
    measured
}

async fn measure(options: &Options, dir: &std::path::Path) -> Result<Value, BenchError> {
    let span = Duration::from_secs_f64(options.seconds);
    let mut figures = serde_json::Map::new();
    let mut note = |name: &str, value: Value| {
        eprintln!("{name}: {value}");
        figures.insert(name.to_owned(), value);
    };
    let mut gate = Child::start(Kind::Optgate, dir).await?;
    let empty = Child::start(Kind::Empty, dir).await?;

    let begun = Instant::now();
    load::import(&gate.uds, options.recipients).await?;
    note("import_rows_per_second", per_second(options.recipients, begun.elapsed()));
    let begun = Instant::now();
    load::settled(&gate.uds).await?;
    note("import_settled_ms", json!(begun.elapsed().as_millis()));

    let uniform = Target { recipients: options.recipients, stored: options.recipients, draw: 0 };
    // No measurement asks for whom another has just brought to mind.
    let mut draws = 1..;
    let active = Target { recipients: options.active.min(options.recipients), ..uniform };
    // A service has been sending to its active recipients for a while.
    for _ in 0..ASKED_BEFORE {
        load::ask_for_all(&gate.uds, active).await?;
    }
    for (load, target) in [("active", active), ("uniform", uniform)] {
        load::checks(&gate.uds, MANY, target, span).await?;
        for (name, callers) in [("128_callers", MANY), ("1_caller", ONE)] {
            if options.measures(Part::Checks) {
                let rounds =
                    compare_checks(&empty, &gate, callers, target, &mut draws, options, span).await?;
                note(&format!("checks_{name}_{load}"), rounds.summary());
            }
        }
        if options.measures(Part::Batches) {
            let mut rates = Vec::new();
            for draw in draws.by_ref().take(options.rounds as usize) {
                let (decisions, took) = load::batches(&gate.uds, target.drawn(draw), span).await?;
                rates.push(decisions as f64 / took.as_secs_f64());
            }
            note(&format!("batch_peek_{load}_decisions_per_second"), report::median_and_spread(rates, 0));
        }
    }
    if options.measures(Part::Records) {
        let mut rounds = Rounds::default();
        for _ in 0..options.rounds {
            let base = load::records(&empty.uds, RECORDERS, span).await?;
            rounds.push(base, load::records(&gate.uds, RECORDERS, span).await?);
        }
        note("records_64_callers", rounds.summary());
        for (name, pause) in [("fdatasync_p50_us", Duration::ZERO), ("fdatasync_paced_p50_us", CALLER_PAUSE)]
        {
            note(name, json!(load::fdatasync_us(dir, 300, pause).map_err(io("sync a file"))?));
        }
        let one: Sample = load::records(&gate.uds, ONE, span).await?;
        note("records_1_caller_p50_us", json!(one.quantile_us(0.5)));
    }

    note("rss_after_load_mib", json!(gate.rss_mib()));
    note("rss_peak_mib", json!(gate.rss_peak_mib()));

    if options.measures(Part::Starts) {
        gate.kill();
        let begun = Instant::now();
        gate = Child::start(Kind::Optgate, dir).await?;
        note("ready_after_sigkill_ms", json!(begun.elapsed().as_millis()));
        gate.kill();
        std::fs::remove_dir_all(dir.join("data/view")).map_err(io("remove the view"))?;
        let begun = Instant::now();
        gate = Child::start(Kind::Optgate, dir).await?;
        note("view_rebuilt_ms", json!(begun.elapsed().as_millis()));
        note("view_rebuild_rss_peak_mib", json!(gate.rss_peak_mib()));
    }
    note("recipients", json!(options.recipients));
    drop((gate, empty));
    Ok(Value::Object(figures))
}
