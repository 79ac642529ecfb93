//! The command line: `serve` is the default, everything else is a client of the same API or works on files.

mod audit;
pub mod bench;
mod check;
pub mod client;
mod connect;
mod erase;
mod events;
pub mod exit;
mod export;
mod fault;
mod import;
mod input;
mod json;
mod keys;
mod ledger;
mod output;
pub mod policy;
mod record;
mod refs;
mod senders;
pub mod serve;
mod status;
mod templates;
mod text;
mod watch;
mod words;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Overrides, Sources};

/// Decides, before every message a business sends, whether it may be sent.
#[derive(Debug, Parser)]
#[command(name = "optgate", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do; `serve` where nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of `serve`.
    #[command(flatten)]
    pub serve: ServeFlags,
}

/// Flags of `serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeFlags {
    /// The configuration file (YAML); everything in it is optional.
    #[arg(long, env = "OPTGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the ledger, the view and the decision log live. [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The cluster key; without it every opt-out is lost. [default: a new one in the data directory]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Where callers reach the gRPC services; port 0 chooses one. [default: 127.0.0.1:50051]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// A Unix socket for callers on the same host.
    #[arg(long, value_name = "PATH")]
    pub uds: Option<PathBuf>,
    /// Where /healthz, /readyz and /metrics are. [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub http: Option<String>,
    /// Where peers reach this node.
    #[arg(long, value_name = "ADDR")]
    pub peer_listen: Option<String>,
    /// A peer to replicate with, repeatable. Needs the key that all share (--key-file).
    #[arg(long, value_name = "ADDR")]
    pub peer: Vec<String>,
}

impl From<ServeFlags> for Overrides {
    fn from(flags: ServeFlags) -> Self {
        let ServeFlags { config: _, data_dir, key_file, listen, uds, http, peer_listen, peer } = flags;
        Self { data_dir, key_file, listen, uds, http, peer_listen, peers: peer }
    }
}

/// What optgate can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API (the default).
    Serve(ServeFlags),
    /// Measure optgate against an empty handler and print JSON (release builds only).
    Bench(bench::BenchFlags),
    /// The empty handler that `bench` measures against.
    #[command(hide = true)]
    BenchEmpty {
        /// Its socket.
        #[arg(long)]
        uds: PathBuf,
    },
    /// Look at a policy before it takes force.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// What a client asks of a server, or of files.
    #[command(flatten)]
    Client(client::ClientCommand),
}

/// What can be done with a policy.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a configuration file and list every fault with its line.
    Lint {
        /// The file.
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say in sentences how a business opts people in and out.
    Describe {
        /// The configuration file; without it the built-in rules.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The business; without it the defaults.
        #[arg(long, value_name = "ID")]
        business: Option<String>,
    },
}

/// Does what the command line says.
#[must_use]
pub fn run(cli: Cli) -> std::process::ExitCode {
    match cli.command {
        None => serve::run(cli.serve),
        Some(Command::Serve(flags)) => serve::run(flags),
        Some(Command::Bench(flags)) => bench::run(flags),
        Some(Command::BenchEmpty { uds }) => bench::serve_empty(&uds),
        Some(Command::Client(command)) => command.run(),
        Some(Command::Policy(PolicyCommand::Lint { file, json })) => {
            policy::lint(&file, json, &mut std::io::stdout())
        }
        Some(Command::Policy(PolicyCommand::Describe { config, business })) => {
            let sources = Sources { file: config, ..Sources::default() };
            policy::describe(&sources, business.as_deref(), &mut std::io::stdout(), &mut std::io::stderr())
        }
    }
}
