//! The client side of the API on the command line: each command is one call or one stream, printed.
//!
//! Knows neither the engine nor the store: what a command does, any other client can do.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::fault::Fault;
use super::{
    audit, check, erase, exit, export, import, keys, ledger, record, refs, senders, status, templates, watch,
};

/// What a client can ask for.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Ask whether a message may be sent now; the exit code is 0 for ALLOW and 3 for DENY.
    Check(check::CheckArgs),
    /// Record a change of a person's consent.
    #[command(subcommand)]
    Record(record::RecordCommand),
    /// Show a person's audit trail, oldest event first.
    Audit(audit::AuditArgs),
    /// Take consents over from another system, from a CSV file.
    Import(import::ImportArgs),
    /// Write all consent events to standard output or a file.
    Export(export::ExportArgs),
    /// Print consent events as they are recorded, one line of JSON each.
    Watch(watch::WatchArgs),
    /// Translate addresses to the keyed hashes that events carry.
    Ref(refs::RefArgs),
    /// Overwrite the personal fields of a person's events.
    Erase(erase::EraseArgs),
    /// Register templates and list them.
    #[command(subcommand)]
    Template(templates::TemplateCommand),
    /// Set what the provider says of a sender and list senders.
    #[command(subcommand)]
    Sender(senders::SenderCommand),
    /// Tell how the server does.
    Status(status::StatusArgs),
    /// Look after the cluster key.
    #[command(subcommand)]
    Key(keys::KeyCommand),
    /// Look at a ledger on this machine's disk.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
}

impl ClientCommand {
    /// Does what was asked and tells what came of it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self {
            Self::Check(args) => call(args.server.json, check::run(args)),
            Self::Record(command) => call(command.json(), record::run(command)),
            Self::Audit(args) => call(args.server.json, audit::run(args)),
            Self::Import(args) => call(args.server.json, import::run(args)),
            Self::Export(args) => call(args.server.json, export::run(args)),
            Self::Watch(args) => call(args.server.json, watch::run(args)),
            Self::Ref(args) => call(args.server.json, refs::run(args)),
            Self::Erase(args) => call(args.server.json, erase::run(args)),
            Self::Template(command) => call(command.json(), templates::run(command)),
            Self::Sender(command) => call(command.json(), senders::run(command)),
            Self::Status(args) => call(args.server.json, status::run(args)),
            Self::Key(command) => end(command.json(), keys::run(command)),
            Self::Ledger(command) => end(command.json(), ledger::run(command)),
        }
    }
}

/// Runs a command that calls the server.
fn call(as_json: bool, command: impl Future<Output = Result<u8, Fault>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Fault::Runtime(error).report(as_json),
    };
    let ended = runtime.block_on(command);
    // A thread that still reads a file, or waits for input, must not keep the process.
    runtime.shutdown_timeout(Duration::ZERO);
    end(as_json, ended)
}

fn end(as_json: bool, ended: Result<u8, Fault>) -> ExitCode {
    match ended {
        Ok(code) => exit::with(code),
        Err(fault) => fault.report(as_json),
    }
}
