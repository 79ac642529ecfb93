//! The binary: arguments to commands.

use std::process::ExitCode;

use clap::Parser as _;
use optgate::cli::{self, Cli};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How the allocator is set, which it reads before `main`: few arenas, since each keeps free memory of its own and threads have
/// caches before them; what stays free for a second goes back to the system, and with its own settings a fifth more stayed
/// resident under load. Up to 128 KiB stays in a thread's cache: the store's pages are larger than what it keeps by itself, and
/// giving each back and faulting it in again made every other core stop for it. Where huge pages are on, it overwrites what is to be
/// zero instead of giving it back to be faulted in anew: a start, which reads the store's log in pieces of half a mebibyte, is a fifth
/// shorter. The huge pages themselves [`keep_pages_small`] declines. `_RJEM_MALLOC_CONF` in the environment overrides them.
#[cfg(all(feature = "jemalloc", target_os = "linux"))]
#[unsafe(export_name = "_rjem_malloc_conf")] // the one name that jemalloc looks for; nothing else has it
static ALLOCATOR_SETTINGS: &[u8; 58] = b"narenas:2,dirty_decay_ms:1000,lg_tcache_max:17,thp:always\0";

/// As on Linux, but for what only Linux has.
#[cfg(all(feature = "jemalloc", not(target_os = "linux")))]
#[unsafe(export_name = "_rjem_malloc_conf")]
static ALLOCATOR_SETTINGS: &[u8; 47] = b"narenas:2,dirty_decay_ms:1000,lg_tcache_max:17\0";

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

/// Says no to huge pages, whoever asks for them: where memory is used here and there, two mebibytes stay for each spot, a fifth of
/// all under load. It is the process's own choice and passes on to its children. A system that refuses it only spends that memory.
fn keep_pages_small() {
    #[cfg(target_os = "linux")]
    // SAFETY: this request reads its flags by value and touches no memory of ours.
    let _only_memory_where_refused = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}
