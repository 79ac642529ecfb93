//! The binary: arguments to commands.

use std::process::ExitCode;

use clap::Parser as _;
use optgate::cli::{self, Cli};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(error) => {
            // Help and the version are errors to clap, and none to whoever asked for them. Where nobody reads
            // what is printed, nothing is left to do.
            let _ = error.print();
            if error.use_stderr() { cli::exit::with(cli::exit::CONFIG) } else { ExitCode::SUCCESS }
        }
    }
}
