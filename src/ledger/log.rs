//! The log itself: rolls segments, erases blobs; `commit` writes its groups. Synchronous and single-threaded, so that a test can drive
//! it step by step; the `writer` gives it a thread and a queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::catalog::{NEW, RESERVE, segment_name};
use super::disk::{Disk, DiskFile};
use super::format::{
    BLOB_ERASED, BLOB_ERASING, BlobView, Contents, Footer, HEADER_LEN, Header, Identity, Seed, blob_place,
};
use super::index::{MARK_EVERY_BYTES, MARKS_MAX};
use super::read::position;
use super::scan::Cursor;
use super::shared::{Extent, Shared};
use super::{Config, Damage, EraseError, Head, Position, ReadError, RecordsOf};
use crate::policy::ids::OriginId;

/// Segments grow by this, written with zeros ahead of the records.
const STEP_BYTES: u64 = 1024 * 1024;
/// How much randomness is fetched at once.
const SALTS_LEN: usize = 4096;

/// The settings in bytes. Tests choose small ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) segment: u64,
    pub(crate) step: u64,
    pub(crate) reserve: u64,
    pub(crate) min_free: u64,
    /// How far apart the index marks an origin's records.
    pub(crate) mark_every: u64,
    /// How many marks the index keeps beside one for each origin.
    pub(crate) marks_max: usize,
}

impl From<&Config> for Sizes {
    fn from(config: &Config) -> Self {
        let mib = |number: u32| u64::from(number) * 1024 * 1024;
        Self {
            segment: mib(config.segment_mib),
            step: STEP_BYTES,
            reserve: mib(config.opt_out_reserve_mib),
            min_free: mib(config.min_free_mib),
            mark_every: MARK_EVERY_BYTES,
            marks_max: MARKS_MAX,
        }
    }
}

/// The disk failed. The log must not be written any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {what} `{name}`: {cause}")]
pub(crate) struct Failure {
    pub(crate) what: &'static str,
    pub(crate) name: String,
    pub(crate) cause: String,
}

pub(crate) fn failure(what: &'static str, name: &str) -> impl FnOnce(io::Error) -> Failure {
    let name = name.to_owned();
    move |fault| Failure { what, name, cause: fault.to_string() }
}

/// The segment being written.
pub(crate) struct Active {
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) seed: Seed,
    /// Behind the last record.
    pub(crate) end: u64,
    /// Up to here the filesystem has given room, written with zeros and synced.
    pub(crate) allocated: u64,
    pub(crate) contents: Contents,
    /// Known damage: it gets no footer, so that each start finds the damage again.
    pub(crate) damaged: bool,
}

/// What the next segment's header will name as previous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prior {
    pub(crate) number: u32,
    pub(crate) end: u64,
}

/// The ledger's files, and the only thing that writes them.
pub(crate) struct Log {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) sizes: Sizes,
    pub(crate) identity: Identity,
    pub(crate) shared: Arc<Shared>,
    pub(crate) active: Option<Active>,
    /// Used when no segment is active.
    pub(crate) prior: Prior,
    pub(crate) next_number: u32,
    /// Number of the last batch.
    pub(crate) batch: u64,
    pub(crate) own: Option<(OriginId, Head)>,
    /// The origin of this run's imports, once there is one.
    pub(crate) bulk: Option<(OriginId, Head)>,
    /// The origin before this run's.
    pub(crate) previous_own: Option<(OriginId, Head)>,
    /// The reserve, all zeros, when it stands by.
    pub(crate) reserve: Option<Arc<dyn DiskFile>>,
    pub(crate) salts: Salts,
    pub(crate) buffer: Vec<u8>,
    /// Where the last record that came a second time was found: the next one often follows it.
    pub(crate) lookback: Option<RecordsOf>,
}

impl Log {
    /// Sees to it that the active segment takes `len` more bytes. False: there is no room.
    pub(super) fn make_room(&mut self, len: u64, priority: bool) -> Result<bool, Failure> {
        if let Some(active) = &self.active {
            let in_reserve = active.name == RESERVE;
            if in_reserve && !priority {
                return Ok(false);
            }
            if active.end + len <= active.allocated {
                return Ok(true);
            }
            // The reserve must not grow: its name is needed for the next one.
            let grows = !in_reserve && active.end + len <= self.sizes.segment;
            if priority && self.enter_reserve(len)? {
                return Ok(true);
            }
            return if grows { self.step(len) } else { self.roll(len) };
        }
        if priority && self.enter_reserve(len)? {
            return Ok(true);
        }
        self.roll(len)
    }

    /// Writes zeros ahead of the records; a whole step, or what is needed if there is no room for that.
    fn step(&mut self, len: u64) -> Result<bool, Failure> {
        let Some(active) = &mut self.active else { return Ok(false) };
        let needed = active.end + len;
        let whole = needed.max((active.allocated + self.sizes.step).min(self.sizes.segment));
        for wanted in [whole, needed] {
            let zeros = vec![0; (wanted - active.allocated) as usize];
            let written =
                active.file.write_at(&zeros, active.allocated).and_then(|()| active.file.fdatasync());
            match written {
                Ok(()) => {
                    active.allocated = wanted;
                    return Ok(true);
                }
                // What was got so far must not lie idle. If it cannot be given back, a new segment or start does it.
                Err(fault) if is_full(&fault) => drop(active.file.set_len(active.allocated)),
                Err(fault) => return Err(failure("grow", &active.name)(fault)),
            }
        }
        Ok(false)
    }

    /// Closes the active segment and starts another.
    fn roll(&mut self, len: u64) -> Result<bool, Failure> {
        let number = self.next_number;
        let header = self.header(number);
        let allocated = (HEADER_LEN + len).max(self.sizes.step.min(self.sizes.segment));
        let name = segment_name(number);
        let Some(file) = make_segment(&*self.disk, &name, &header.area(), allocated)? else {
            return Ok(false);
        };
        self.begin(file, name, header, allocated)?;
        Ok(true)
    }

    /// The header of a new, empty segment.
    pub(crate) fn header(&self, number: u32) -> Header {
        let prior = self.prior();
        Header {
            identity: self.identity,
            number,
            previous: prior.number,
            previous_end: prior.end,
            moved_len: 0,
            first_batch: self.batch + 1,
        }
    }

    fn prior(&self) -> Prior {
        self.active.as_ref().map_or(self.prior, |active| Prior { number: active.number, end: active.end })
    }

    /// A new segment stands: goes on there.
    pub(crate) fn begin(
        &mut self,
        file: Arc<dyn DiskFile>,
        name: String,
        header: Header,
        allocated: u64,
    ) -> Result<(), Failure> {
        if let Some(old) = self.active.take() {
            self.seal(old)?;
        }
        self.next_number = header.number + 1;
        let extent = Extent {
            number: header.number,
            name: name.clone(),
            previous: header.previous,
            moved_len: 0,
            end: HEADER_LEN,
            file: Some(Arc::clone(&file)),
        };
        let mut table = self.shared.table.write();
        if let Some(last) = table.extents.last_mut() {
            last.end = header.previous_end;
            last.file = None;
        }
        table.extents.push(extent);
        table.head = position(header.number, HEADER_LEN);
        drop(table);
        self.active = Some(Active {
            file,
            number: header.number,
            name,
            seed: Seed::new(&self.identity.ledger, header.number),
            end: HEADER_LEN,
            allocated,
            contents: Contents::default(),
            damaged: false,
        });
        Ok(())
    }

    /// Closes a segment with its footer. All its records are durable already; the footer only spares the next start a scan.
    fn seal(&mut self, active: Active) -> Result<(), Failure> {
        if active.damaged || !active.contents.fits_footer() {
            return Ok(());
        }
        let footer = Footer { number: active.number, end: active.end, contents: active.contents };
        close_segment(&*active.file, &active.name, footer, active.seed)
    }

    /// Numbers nothing more as `origin`: what is appended next mints another, chained to it. Says whether it was one of this run's.
    pub(crate) fn close_origin(&mut self, origin: OriginId) -> bool {
        #[cfg(sabotage)]
        if crate::sabotage::is("forked-origin-goes-on") {
            return false;
        }
        let mut closed = false;
        for current in [&mut self.own, &mut self.bulk] {
            if let Some(last) = current.take_if(|(known, _)| *known == origin) {
                self.previous_own = Some(last);
                closed = true;
            }
        }
        if closed {
            // A copy of this process has the same randomness in stock, and would mint the same origin again.
            self.salts = Salts::new();
            self.shared.table.write().own = self.own.map(|(origin, _)| origin);
        }
        closed
    }

    /// Closes the log in order.
    pub(crate) fn close(&mut self) -> Result<(), Failure> {
        match self.active.take() {
            // Closing would give away what is left of the reserve; the next start goes on there.
            Some(active) if active.name != RESERVE => self.seal(active),
            _ => Ok(()),
        }
    }

    /// Overwrites the blob of the record at `at`. Between the steps the blob counts as erased, yet not all of it may be gone.
    pub(crate) fn erase(&mut self, at: Position) -> Result<Result<(), EraseError>, Failure> {
        let place = match self.shared.locate(at) {
            Ok(Some(place)) => place,
            Ok(None) => return Ok(Err(ReadError::NotFound(at).into())),
            Err((segment, source)) => return Ok(Err(ReadError::Io { segment, source }.into())),
        };
        let segment = place.number;
        let mut cursor = Cursor::small(Arc::clone(&place.file), place.seed, place.limit);
        let io_fault = |source| EraseError::from(ReadError::Io { segment, source });
        let len = match cursor.record(place.offset) {
            Ok(Some(record)) => match record.blob {
                BlobView::None => return Ok(Err(EraseError::NoBlob(at))),
                BlobView::Erased { complete: true } => return Ok(Ok(())),
                _ => record.len,
            },
            Ok(None) => {
                let damage = Damage { segment, from: place.offset, to: place.limit };
                return Ok(Err(ReadError::Damaged(damage).into()));
            }
            Err(fault) => return Ok(Err(io_fault(fault))),
        };
        let blob = match cursor.raw(place.offset, len) {
            Ok(record) => blob_place(record),
            Err(fault) => return Ok(Err(io_fault(fault))),
        };
        let Some((state_at, rest_len)) = blob else { return Ok(Err(EraseError::NoBlob(at))) };
        let state_at = place.offset + state_at;
        let name = segment_name(segment);
        for (bytes, at) in [
            (BLOB_ERASING.to_vec(), state_at),
            (vec![0; rest_len], state_at + 4),
            (BLOB_ERASED.to_vec(), state_at),
        ] {
            place.file.write_at(&bytes, at).map_err(failure("erase in", &name))?;
            place.file.fdatasync().map_err(failure("sync", &name))?;
        }
        self.shared.erasures.fetch_add(1, Ordering::Release);
        Ok(Ok(()))
    }
}

/// Whether only priority entries may be written. Without its reserve, the log keeps ordinary entries out until there is room to make one.
pub(crate) fn space_low(disk: &dyn Disk, sizes: &Sizes, reserve_ready: bool) -> bool {
    let reserve = if reserve_ready { 0 } else { sizes.reserve + sizes.step };
    // A filesystem that cannot tell how much is free says so when it is written.
    disk.free_bytes().is_ok_and(|free| free < sizes.min_free.saturating_add(reserve))
}

/// Randomness, fetched in larger pieces than it is used in.
pub(crate) struct Salts {
    bytes: Vec<u8>,
}

impl Salts {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    pub(super) fn take(&mut self, disk: &dyn Disk) -> Result<[u8; 16], Failure> {
        if self.bytes.len() < 16 {
            self.bytes.resize(SALTS_LEN, 0);
            disk.random(&mut self.bytes).map_err(failure("get randomness for", "salts"))?;
        }
        let mut salt = [0; 16];
        salt.copy_from_slice(&self.bytes[self.bytes.len() - 16..]);
        self.bytes.truncate(self.bytes.len() - 16);
        Ok(salt)
    }
}

/// Makes a segment that starts with `bytes`, room up to `allocated`, and names it once all of that is on disk. `None`: there is no room.
pub(crate) fn make_segment(
    disk: &dyn Disk,
    name: &str,
    bytes: &[u8],
    allocated: u64,
) -> Result<Option<Arc<dyn DiskFile>>, Failure> {
    let mut whole = vec![0; bytes.len().max(allocated as usize)];
    whole[..bytes.len()].copy_from_slice(bytes);
    make_file(disk, NEW, name, &whole)
}

/// Makes a file under one name and gives it another once its bytes are on disk. `None`: there is no room.
pub(crate) fn make_file(
    disk: &dyn Disk,
    temporary: &str,
    name: &str,
    bytes: &[u8],
) -> Result<Option<Arc<dyn DiskFile>>, Failure> {
    let made = disk.create(temporary).and_then(|file| {
        file.write_at(bytes, 0)?;
        file.fdatasync()?;
        disk.rename(temporary, name)?;
        Ok(file)
    });
    match made {
        Ok(file) => {
            disk.sync_dir().map_err(failure("sync the directory for", name))?;
            Ok(Some(file))
        }
        Err(fault) if is_full(&fault) => {
            // A batch that a start moves may be in it, and with that what is erased later: the name must not come back after a power cut.
            // There may be no room for taking it away either; then the next start does it.
            let _ = disk.remove(temporary);
            disk.sync_dir().map_err(failure("sync the directory without", temporary))?;
            Ok(None)
        }
        Err(fault) => Err(failure("make", name)(fault)),
    }
}

/// Cuts off what is behind the records and writes the footer there, if there is room for it.
pub(crate) fn close_segment(
    file: &dyn DiskFile,
    name: &str,
    footer: Footer,
    seed: Seed,
) -> Result<(), Failure> {
    let end = footer.end;
    let bytes = footer.encode(seed);
    let end = match file.write_at(&bytes, end) {
        Ok(()) => end + bytes.len() as u64,
        Err(fault) if is_full(&fault) => end,
        Err(fault) => return Err(failure("write", name)(fault)),
    };
    file.set_len(end).map_err(failure("cut", name))?;
    file.fdatasync().map_err(failure("sync", name))
}

/// Removes files that nothing needs any more.
pub(crate) fn remove_all(disk: &dyn Disk, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    for name in names {
        disk.remove(name).map_err(failure("remove", name))?;
    }
    disk.sync_dir().map_err(failure("sync the directory without", "replaced segments"))
}

/// The disk, or the owner's share of it, is full.
pub(crate) fn is_full(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
