//! Room kept for opt-outs: a file full of zeros that becomes a segment, in place, when the disk is full.

use std::io;
use std::sync::Arc;

use super::catalog::{NEW_RESERVE, RESERVE, segment_name};
use super::disk::{DiskFile, read_lossy};
use super::format::{HEADER_LEN, Header, SECOND_COPY_AT};
use super::log::{Failure, Log, failure, make_file, space_low};
use super::scan::UNREADABLE;

/// How much is wiped at once.
const WIPE_LEN: usize = 64 * 1024;

impl Log {
    /// Continues in the reserve, which needs nothing from the filesystem any more. False: it is used already, or too small.
    pub(crate) fn enter_reserve(&mut self, len: u64) -> Result<bool, Failure> {
        let Some(file) = &self.reserve else { return Ok(false) };
        let allocated = file.len().map_err(failure("measure", RESERVE))?;
        if HEADER_LEN + len > allocated {
            return Ok(false);
        }
        let file = Arc::clone(file);
        let header = self.header(self.next_number);
        write_reserve_header(&*file, &header)?;
        self.reserve = None;
        self.begin(file, RESERVE.to_owned(), header, allocated)?;
        Ok(true)
    }

    /// Makes a reserve if there is none and room for one. A segment that lives in the old one gets its own name first.
    pub(crate) fn restore_reserve(&mut self) -> Result<(), Failure> {
        if self.reserve.is_some() || space_low(&*self.disk, &self.sizes, false) {
            return Ok(());
        }
        self.rename_used_reserve()?;
        let zeros = vec![0; self.sizes.reserve as usize];
        self.reserve = make_file(&*self.disk, NEW_RESERVE, RESERVE, &zeros)?;
        Ok(())
    }

    fn rename_used_reserve(&mut self) -> Result<(), Failure> {
        let mut table = self.shared.table.write();
        let Some(extent) = table.extents.iter_mut().find(|extent| extent.name == RESERVE) else {
            return Ok(());
        };
        let name = segment_name(extent.number);
        self.disk.rename(RESERVE, &name).map_err(failure("rename", RESERVE))?;
        extent.name.clone_from(&name);
        drop(table);
        if let Some(active) = self.active.as_mut().filter(|active| active.name == RESERVE) {
            active.name.clone_from(&name);
        }
        self.disk.sync_dir().map_err(failure("sync the directory for", &name))
    }
}

/// Marks the reserve as a segment, in two steps, so that a crash leaves one copy whole or the second untouched.
pub(crate) fn write_reserve_header(file: &dyn DiskFile, header: &Header) -> Result<(), Failure> {
    for at in [0, SECOND_COPY_AT as u64] {
        file.write_at(&header.copy(), at).map_err(failure("write", RESERVE))?;
        file.fdatasync().map_err(failure("sync", RESERVE))?;
    }
    Ok(())
}

/// Makes sure that a reserve found on disk is all zeros, overwriting what a crash left in it. The second copy of its header is untouched,
/// or it would be a segment; so a crash in the middle of this leaves an unused reserve again.
pub(crate) fn wipe_reserve(file: &dyn DiskFile) -> Result<(), Failure> {
    if wipe(file).map_err(failure("wipe", RESERVE))? {
        file.fdatasync().map_err(failure("sync", RESERVE))?;
    }
    Ok(())
}

/// Overwrites with zeros what is not zero. False: there was nothing.
fn wipe(file: &dyn DiskFile) -> io::Result<bool> {
    let zeros = vec![0; WIPE_LEN];
    let mut bytes = vec![0; WIPE_LEN];
    let mut wiped = false;
    let len = file.len()?;
    let mut at = 0;
    while at < len {
        let wanted = WIPE_LEN.min((len - at) as usize);
        let read = read_lossy(file, &mut bytes[..wanted], at, UNREADABLE)?;
        if bytes[..read] != zeros[..read] {
            file.write_at(&zeros[..wanted], at)?;
            wiped = true;
        }
        at += wanted as u64;
    }
    Ok(wiped)
}
