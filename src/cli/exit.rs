//! Exit codes, as sysexits.h numbers them where it has a number.

use std::process::ExitCode;

/// The command line or the configuration is wrong.
pub const CONFIG: u8 = 64;
/// The input's data is wrong.
pub const DATA: u8 = 65;
/// Another process, or the server, is not available.
pub const UNAVAILABLE: u8 = 69;
/// Something of optgate's own went wrong.
pub const SOFTWARE: u8 = 70;
/// The system refused: a file, a disk.
pub const OS: u8 = 71;
/// Another process uses the data directory.
pub const LOCKED: u8 = 75;
/// The key is missing or another one.
pub const KEY: u8 = 77;

/// An exit with `code`.
#[must_use]
pub fn with(code: u8) -> ExitCode {
    ExitCode::from(code)
}
