//! The outbox's only writer.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use parking_lot::Mutex;

use super::format::{HEADER_LEN, header, put_done, put_item};
use super::{FILE, FILE_NEW, Item, Job, PutError, RENEW_FROM_BYTES, Shared, next_group};
use crate::ledger::disk::{Disk, DiskFile};

pub struct Writer {
    pub disk: Arc<dyn Disk>,
    pub identity: [u8; 16],
    pub key_check: [u8; 16],
    pub file: Arc<dyn DiskFile>,
    /// Behind the last record.
    pub end: u64,
    /// Something that waits is not in the file: there was no room for it.
    pub lacks: bool,
    pub shared: Arc<Mutex<Shared>>,
    /// Why nothing is written any more.
    pub failed: Option<String>,
}

impl Writer {
    /// Writes until nobody asks any more.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        while let Some(group) = next_group(jobs) {
            self.step(group);
        }
    }

    /// Writes one group.
    pub fn step(&mut self, group: Vec<Job>) {
        let outcome = match &self.failed {
            Some(why) => Err(PutError::Failed(why.clone())),
            None => self.write(&group),
        };
        if let Err(PutError::Failed(why)) = &outcome
            && self.failed.is_none()
        {
            self.failed = Some(self.fail(why.clone()));
        }
        for job in group {
            if let Job::Put(_, answer) = job {
                // Whoever gave up waiting needs no answer.
                let _ = answer.send(outcome.clone());
            }
        }
        self.lacks |= std::mem::take(&mut self.shared.lock().lacks) || outcome.is_err();
        if self.failed.is_none() {
            self.failed = self.renew_if_worth().err();
        }
    }

    fn write(&mut self, group: &[Job]) -> Result<(), PutError> {
        let mut bytes = Vec::new();
        let mut must_last = false;
        for job in group {
            match job {
                Job::Put(item, _) => {
                    must_last = true;
                    put_item(&mut bytes, item);
                }
                Job::Done(number) => put_done(&mut bytes, *number),
            }
        }
        #[cfg(sabotage)]
        let must_last = must_last && !crate::sabotage::is("outbox-not-synced");
        let written = self.file.write_at(&bytes, self.end);
        match written.and_then(|()| if must_last { self.file.fdatasync() } else { Ok(()) }) {
            Ok(()) => {
                self.end += bytes.len() as u64;
                Ok(())
            }
            Err(fault) if is_full(&fault) => {
                // Part of it may be there; the next group is written over it.
                Err(PutError::NoSpace)
            }
            Err(fault) => Err(PutError::Failed(fault.to_string())),
        }
    }

    /// Begins the file anew once most of it is done with, or it lacks something.
    ///
    /// # Errors
    /// When it cannot be told which of the two files a start would find.
    fn renew_if_worth(&mut self) -> Result<(), String> {
        if !self.lacks && self.end < RENEW_FROM_BYTES {
            return Ok(());
        }
        let (next, waiting, bytes) = {
            let shared = self.shared.lock();
            (shared.next, shared.waiting.values().cloned().collect::<Vec<_>>(), shared.bytes as u64)
        };
        if !self.lacks && self.end < RENEW_FROM_BYTES + 2 * bytes {
            return Ok(());
        }
        match write_new(&*self.disk, self.identity, self.key_check, next, waiting.iter()) {
            Ok((file, end)) => {
                put_in_place(&*self.disk).map_err(|fault| self.fail(fault.to_string()))?;
                (self.file, self.end, self.lacks) = (file, end, false);
            }
            // The old file is as good as it was; it only stays long.
            Err(fault) => {
                tracing::warn!(%fault, "the outbox's file could not be begun anew; trying again later");
            }
        }
        Ok(())
    }

    fn fail(&self, why: String) -> String {
        tracing::error!(fault = %why, "the outbox failed; what is taken in is kept in memory alone until a restart");
        self.shared.lock().failed = Some(why.clone());
        why
    }
}

/// There is no room.
pub fn is_full(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes a file with these items and puts it in place of the one there was; with where it ends.
pub fn renew<'a>(
    disk: &dyn Disk,
    identity: [u8; 16],
    key_check: [u8; 16],
    next: u64,
    items: impl Iterator<Item = &'a Arc<Item>>,
) -> io::Result<(Arc<dyn DiskFile>, u64)> {
    let written = write_new(disk, identity, key_check, next, items)?;
    put_in_place(disk)?;
    Ok(written)
}

fn put_in_place(disk: &dyn Disk) -> io::Result<()> {
    disk.rename(FILE_NEW, FILE)?;
    disk.sync_dir()
}

fn write_new<'a>(
    disk: &dyn Disk,
    identity: [u8; 16],
    key_check: [u8; 16],
    next: u64,
    items: impl Iterator<Item = &'a Arc<Item>>,
) -> io::Result<(Arc<dyn DiskFile>, u64)> {
    let mut bytes = header(identity, key_check, next);
    debug_assert_eq!(bytes.len(), HEADER_LEN);
    items.for_each(|item| put_item(&mut bytes, item));
    let file = disk.create(FILE_NEW)?;
    file.write_at(&bytes, 0)?;
    file.fdatasync()?;
    Ok((file, bytes.len() as u64))
}
