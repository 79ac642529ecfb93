//! `optgate serve`: load, open, serve, drain, close.

use std::process::ExitCode;

use super::{ServeFlags, exit};
use crate::app::{self, AppError};
use crate::config::Sources;
use crate::telemetry;

/// Serves until a signal asks to stop.
#[must_use]
pub fn run(flags: ServeFlags) -> ExitCode {
    let sources = Sources::of_process(flags.config.clone(), flags.into());
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(faults) => {
            eprintln!("{faults}");
            return exit::with(exit::CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("optgate: the system gives no threads: {error}");
            return exit::with(exit::OS);
        }
    };
    // The exporter of spans connects within the runtime.
    let started = {
        let _within = runtime.enter();
        telemetry::Telemetry::start(&loaded.config.telemetry)
    };
    let telemetry = match started {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("optgate: {error}");
            return exit::with(exit::CONFIG);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let ended = runtime.block_on(app::run(sources, loaded.config, &telemetry));
    telemetry.stop();
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("optgate: {error}");
            exit::with(code(&error))
        }
    }
}

fn code(error: &AppError) -> u8 {
    use crate::engine::start::StartError;
    use crate::ledger::OpenError;
    use crate::outbox;
    match error {
        AppError::Key(_)
        | AppError::Start(
            StartError::Ledger(OpenError::OtherKey) | StartError::Outbox(outbox::OpenError::OtherKey),
        ) => exit::KEY,
        AppError::Start(
            StartError::Ledger(OpenError::Locked) | StartError::Outbox(outbox::OpenError::Locked),
        ) => exit::LOCKED,
        AppError::Start(StartError::Ledger(OpenError::Setting { .. }))
        | AppError::Keywords(_)
        | AppError::WasAnchor(_)
        | AppError::WasEdge(_) => exit::CONFIG,
        AppError::Bind(_) => exit::UNAVAILABLE,
        AppError::Directory { .. } | AppError::Start(_) | AppError::Signals(_) => exit::OS,
        AppError::Ended(_) | AppError::Close(_) | AppError::DecisionLog(_) => exit::SOFTWARE,
    }
}
