//! The binary: arguments to commands.

use std::process::ExitCode;

use clap::Parser as _;
use optgate::cli::{self, Cli};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_pages_small();
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

/// Says no to huge pages, which the allocator asks for: where memory is used here and there, two mebibytes stay for each
/// spot, which came to a third of all. It is the process's own choice and passes on to its children.
fn keep_pages_small() {
    #[cfg(target_os = "linux")]
    // SAFETY: this request reads its flags by value and touches no memory of ours.
    let _no_harm_where_refused = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}
