//! Lets go of what was written: a log is not read again by whoever writes it, and its pages would count as memory of the
//! sidecar's container and push others out of the system's cache.

use std::fs::File;

/// Written so much at a time: large enough to cost no more than a thousandth of the writing.
const STRETCH_BYTES: u64 = 1024 * 1024;

/// How far a file has gone to the disk.
#[derive(Debug)]
pub(super) struct Behind {
    /// Up to here the disk was asked to take it.
    asked: u64,
    /// Up to here memory was given back, as far as the disk had it by then.
    let_go: u64,
}

impl Behind {
    /// A file that is gone on with at `len`.
    pub(super) const fn at(len: u64) -> Self {
        Self { asked: len, let_go: len }
    }

    /// The file has `len` bytes by now. Waits for nothing: the stretch before the last one usually is on the disk by then, and
    /// what is not yet stays in memory as it always did.
    pub(super) fn wrote(&mut self, file: &File, len: u64) {
        if len < self.asked + STRETCH_BYTES {
            return;
        }
        let (asked, until) = (self.asked, len);
        advise(file, Advice::Write, asked, until);
        advise(file, Advice::LetGo, self.let_go, asked);
        self.let_go = asked;
        self.asked = until;
    }
}

enum Advice {
    Write,
    LetGo,
}

#[cfg(target_os = "linux")]
fn advise(file: &File, advice: Advice, from: u64, until: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(len)) = (i64::try_from(from), i64::try_from(until - from)) else { return };
    let fd = file.as_raw_fd();
    // Both are wishes: where the file system does not know them, nothing is lost.
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and neither call touches memory of ours.
    let _granted = unsafe {
        match advice {
            Advice::Write => libc::sync_file_range(fd, offset, len, libc::SYNC_FILE_RANGE_WRITE),
            Advice::LetGo => libc::posix_fadvise(fd, offset, len, libc::POSIX_FADV_DONTNEED),
        }
    };
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &File, _: Advice, _: u64, _: u64) {}
