//! The few things the ledger asks of a disk, behind a trait, so that a test disk can crash, tear, lose and
//! reorder what was not synced, fill up and fail. [`RealDisk`] is a directory; `sim::SimDisk` is the other one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

mod real;

pub use real::RealDisk;

/// One directory that holds nothing but the ledger's files.
///
/// Names are plain file names. What these calls promise is what POSIX promises: a new, renamed or removed
/// name survives a power cut only after [`Disk::sync_dir`], bytes and lengths only after [`DiskFile::fdatasync`].
pub trait Disk: Send + Sync {
    /// Creates a file, emptied if the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens an existing file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// The names of all files, in any order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Gives a file another name, atomically, in place of what bore that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a name away.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes all names as they are now survive a power cut.
    fn sync_dir(&self) -> io::Result<()>;
    /// How many bytes may still be written, as the filesystem sees it.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Takes the lock that keeps a second process out, waiting at most `wait` for a dying predecessor.
    /// `None`: somebody else holds it. Dropping the guard lets go.
    fn lock(&self, name: &str, wait: Duration) -> io::Result<Option<Box<dyn Send + Sync>>>;
    /// Fills `bytes` with randomness for origins, salts and the ledger's identity.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// An open file. All calls carry their offset, so one handle serves several threads.
pub trait DiskFile: Send + Sync {
    /// Fills `bytes` from `offset` as far as the file reaches; returns how many bytes were there.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, growing the file where needed.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes all that was written, and the length, survive a power cut.
    fn fdatasync(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Whether parts of the file have no place on the disk yet, so that writing there may fail for lack of space.
    fn has_holes(&self) -> io::Result<bool>;
    /// Cuts the file off, or grows it with a hole, to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Reads as [`DiskFile::read_at`] does, but takes `filler` for what the disk cannot give back, so that one bad sector is
/// damage to what lies there and not to the whole file.
pub(crate) fn read_lossy(
    file: &dyn DiskFile,
    bytes: &mut [u8],
    offset: u64,
    filler: u8,
) -> io::Result<usize> {
    match file.read_at(bytes, offset) {
        Err(fault) if is_bad_sector(&fault) => {}
        read => return read,
    }
    let wanted = usize::try_from(file.len()?.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
    let mut done = 0;
    while done < wanted {
        let at = offset + done as u64;
        let in_sector = (SECTOR_LEN - at % SECTOR_LEN) as usize;
        let part = &mut bytes[done..wanted.min(done + in_sector)];
        done += part.len();
        match file.read_at(part, at) {
            Err(fault) if is_bad_sector(&fault) => part.fill(filler),
            read => drop(read?),
        }
    }
    Ok(wanted)
}

fn is_bad_sector(fault: &io::Error) -> bool {
    fault.raw_os_error() == Some(libc::EIO)
}

/// The least that a disk loses at once.
const SECTOR_LEN: u64 = 512;
