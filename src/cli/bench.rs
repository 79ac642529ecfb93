//! `optgate bench`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::exit;
use crate::bench::{self, BenchError, Options};

/// Flags of `bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchFlags {
    /// How many recipients are stored.
    #[arg(long, default_value_t = 1_000_000)]
    recipients: u64,
    /// How many of them the active load touches.
    #[arg(long, default_value_t = 100_000)]
    active: u64,
    /// How often each side is measured.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measure this many nodes with each other instead, 3 to 7
    #[arg(long, value_name = "NODES")]
    peers: Option<usize>,
    /// Where data is kept meanwhile; the disk under it is what is synced. [default: the temporary directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// What to measure besides the import; may be given several times or as a list. [default: everything]
    #[arg(long, value_delimiter = ',', conflicts_with = "peers")]
    only: Vec<bench::Part>,
}

/// Measures and prints JSON.
#[must_use]
pub fn run(flags: BenchFlags) -> ExitCode {
    if cfg!(debug_assertions) {
        eprintln!("optgate: this is a debug build; its figures mean nothing (cargo run --release -- bench)");
    }
    let BenchFlags { recipients, active, rounds, seconds, peers, dir, only } = flags;
    let options = Options {
        // Numbers have seven free digits.
        recipients: recipients.clamp(1, 9_999_999),
        active: active.max(1),
        rounds: rounds.clamp(1, 100),
        seconds: seconds.clamp(0.05, 60.0),
        dir,
        only,
    };
    let figures = match peers {
        None => in_runtime(bench::run(&options)),
        Some(nodes) => in_runtime(bench::run_peers(&options, nodes)),
    };
    finish(figures.map(|figures| println!("{figures:#}")))
}

/// Serves the empty handler.
#[must_use]
pub fn serve_empty(uds: &Path) -> ExitCode {
    finish(in_runtime(bench::serve_empty(uds)))
}

fn in_runtime<T>(task: impl Future<Output = Result<T, BenchError>>) -> Result<T, BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| BenchError::Io { what: "start threads", source })?;
    runtime.block_on(task)
}

fn finish(ended: Result<(), BenchError>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("optgate: {error}");
            exit::with(exit::UNAVAILABLE)
        }
    }
}
