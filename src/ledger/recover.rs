//! Opening: finds out how the last run ended and settles what it left in doubt. The rules are those of `docs/ledger-format.md`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Mutex, RwLock};

use super::catalog::{Catalog, NEW, NEW_RESERVE, RESERVE, Segment, io_error, segment_name};
use super::disk::{Disk, DiskFile};
use super::format::{Contents, Footer, HEADER_LEN, Header, Identity, Seed, record_len_at, reseal};
use super::index::Index;
use super::log::{
    Active, Failure, Log, Prior, Salts, Sizes, close_segment, make_file, make_segment, remove_all, space_low,
};
use super::read::position;
use super::reserve::{wipe_reserve, write_reserve_header};
use super::scan::{Cursor, Ending, Scan, scan};
use super::shared::{Extent, Shared, Table};
use super::{Head, OpenError, Opened};
use crate::policy::ids::{EventId, OriginId};

impl From<Failure> for OpenError {
    fn from(failure: Failure) -> Self {
        Self::Io { what: failure.what, name: failure.name, source: std::io::Error::other(failure.cause) }
    }
}

/// Opens the log, or makes a new one. The caller holds the lock.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    sizes: Sizes,
    key_check: [u8; 16],
) -> Result<(Log, Opened), OpenError> {
    // What is visible must also be durable before anything is built on it.
    disk.sync_dir().map_err(io_error("sync", "."))?;
    let names = disk.list().map_err(io_error("list", "."))?;
    let leftovers =
        names.into_iter().filter(|name| [NEW, NEW_RESERVE].contains(&name.as_str())).collect::<Vec<_>>();
    // With a batch that was to be moved may go what is erased later: the names must not come back after a power cut.
    remove_all(&*disk, &leftovers)?;
    let catalog = Catalog::load(&*disk)?;
    match catalog.identity {
        None => create(disk, sizes, key_check, catalog),
        Some(identity) if identity.key_check != key_check => Err(OpenError::OtherKey),
        Some(identity) => recover(disk, sizes, identity, catalog),
    }
}

fn create(
    disk: Arc<dyn Disk>,
    sizes: Sizes,
    key_check: [u8; 16],
    catalog: Catalog,
) -> Result<(Log, Opened), OpenError> {
    let no_space = OpenError::NoSpace { needed: sizes.reserve + sizes.step };
    let mut ledger = [0; 16];
    disk.random(&mut ledger).map_err(io_error("get randomness for", "."))?;
    let mut log = Log::new(disk, sizes, Identity { ledger, key_check });
    adopt_reserve(&mut log, &catalog)?;
    if log.reserve.is_none() {
        log.reserve = make_file(&*log.disk, NEW_RESERVE, RESERVE, &vec![0; sizes.reserve as usize])?;
    }
    let header = log.header(1);
    let allocated = sizes.step.min(sizes.segment);
    let name = segment_name(1);
    match make_segment(&*log.disk, &name, &header.area(), allocated)? {
        Some(file) if log.reserve.is_some() => log.begin(file, name, header, allocated)?,
        _ => return Err(no_space),
    }
    let head = log.shared.table.read().head;
    let opened = Opened { created: true, clean: true, head, found: head, ..Opened::default() };
    Ok((log, opened))
}

fn recover(
    disk: Arc<dyn Disk>,
    sizes: Sizes,
    identity: Identity,
    mut catalog: Catalog,
) -> Result<(Log, Opened), OpenError> {
    if let Some(segment) = catalog.segments.last().filter(|segment| segment.name == RESERVE)
        && let Some(header) = &segment.header
    {
        // Its header may be in the page cache only, after a sync that failed; what it replaces must not go before it is on disk.
        write_reserve_header(&*segment.open(&*disk)?, header)?;
    }
    remove_all(&*disk, &catalog.replaced)?;
    let mut log = Log::new(Arc::clone(&disk), sizes, identity);
    let disk = &*disk;
    let mut opened =
        Opened { clean: true, damages: std::mem::take(&mut catalog.damages), ..Opened::default() };
    let mut table = Table::default();
    let mut heads = Heads::default();
    let mut origins = Index::new(sizes.mark_every, sizes.marks_max);
    let mut last_scan = None;
    for (index, segment) in catalog.segments.iter().enumerate() {
        log.next_number = segment.number + 1;
        let is_last = index + 1 == catalog.segments.len();
        let (end, contents) = if is_last {
            match settled_by_footer(disk, segment, &identity, None)? {
                Some(footer) => (footer.end, footer.contents),
                None => {
                    let scan = scan_last(disk, segment, &identity)?;
                    let found = (scan.end, scan.all());
                    opened.clean = false;
                    opened.cut_bytes = scan.cut_bytes;
                    opened.damages.extend_from_slice(&scan.damages);
                    last_scan = Some(scan);
                    found
                }
            }
        } else {
            let known_end = catalog.known_end(index);
            match settled_by_footer(disk, segment, &identity, known_end)? {
                Some(footer) => {
                    // If the last start failed right after cutting off what it had moved, the cut may not be on disk yet.
                    if index + 2 == catalog.segments.len() {
                        segment.open(disk)?.fdatasync().map_err(io_error("sync", &segment.name))?;
                    }
                    (footer.end, footer.contents)
                }
                None => {
                    let scan = scan_closed(disk, segment, &identity, known_end)?;
                    opened.damages.extend_from_slice(&scan.damages);
                    finish_closing(disk, segment, &identity, known_end, &scan)?;
                    (known_end.unwrap_or(scan.end), scan.all())
                }
            }
        };
        let header = segment.header;
        let first_batch = header.map_or(1, |header| header.first_batch);
        log.batch = log.batch.max(contents.last_batch).max(first_batch.saturating_sub(1));
        heads.add(&contents);
        note_origins(&mut origins, segment.number, &contents);
        table.extents.push(Extent {
            number: segment.number,
            name: segment.name.clone(),
            previous: header.map_or(segment.number - 1, |header| header.previous),
            moved_len: header.map_or(0, |header| header.moved_len),
            end,
            file: None,
        });
    }
    log.previous_own = heads.own;
    table.vector = heads.vector;
    table.previous = heads.previous;
    if let Some(extent) = table.extents.last() {
        log.prior = Prior { number: extent.number, end: extent.end };
        table.head = position(extent.number, extent.end);
        opened.found = table.head;
    }
    *log.shared.table.write() = table;
    *log.shared.index.lock() = origins;
    adopt_reserve(&mut log, &catalog)?;
    if let (Some(scan), Some(segment)) = (last_scan, catalog.segments.last()) {
        settle(&mut log, segment, scan)?;
    }
    log.restore_reserve()?;
    opened.head = log.shared.table.read().head;
    Ok((log, opened))
}

impl Log {
    fn new(disk: Arc<dyn Disk>, sizes: Sizes, identity: Identity) -> Self {
        let shared = Shared {
            disk: Arc::clone(&disk),
            identity,
            table: RwLock::default(),
            index: Mutex::new(Index::new(sizes.mark_every, sizes.marks_max)),
            mark_every: sizes.mark_every,
            erasures: AtomicU64::new(0),
        };
        Self {
            disk,
            sizes,
            identity,
            shared: Arc::new(shared),
            active: None,
            prior: Prior::default(),
            next_number: 1,
            batch: 0,
            own: None,
            bulk: None,
            previous_own: None,
            reserve: None,
            salts: Salts::new(),
            buffer: Vec::new(),
            lookback: None,
        }
    }
}

impl Log {
    /// Goes on writing a segment that is there already.
    fn resume(
        &mut self,
        segment: &Segment,
        file: Arc<dyn DiskFile>,
        end: u64,
        contents: Contents,
        damaged: bool,
    ) {
        if let Some(extent) = self.shared.table.write().extents.last_mut() {
            extent.file = Some(Arc::clone(&file));
        }
        self.active = Some(Active {
            file,
            number: segment.number,
            name: segment.name.clone(),
            seed: segment.seed(&self.identity),
            end,
            allocated: segment.len,
            contents,
            damaged,
        });
    }
}

/// The last record of each origin, gathered segment by segment.
#[derive(Default)]
struct Heads {
    vector: BTreeMap<OriginId, Head>,
    own: Option<(OriginId, Head)>,
    previous: BTreeMap<OriginId, (OriginId, Head)>,
}

impl Heads {
    fn add(&mut self, contents: &Contents) {
        for (origin, (_, head)) in &contents.origins {
            let known = self.vector.entry(*origin).or_insert(*head);
            if head.sequence > known.sequence {
                *known = *head;
            }
        }
        self.own = contents.own.or(self.own);
        self.previous.extend(&contents.previous);
    }
}

/// Each origin of a segment stands somewhere in it: more is not known without reading it. Who reads it tells the index more.
fn note_origins(index: &mut Index, segment: u32, contents: &Contents) {
    for (origin, (first, _)) in &contents.origins {
        index.note(EventId { origin: *origin, sequence: *first }, position(segment, HEADER_LEN));
    }
}

fn settled_by_footer(
    disk: &dyn Disk,
    segment: &Segment,
    identity: &Identity,
    known_end: Option<u64>,
) -> Result<Option<Footer>, OpenError> {
    let footer = segment.footer(disk, identity)?;
    Ok(footer.filter(|footer| known_end.is_none_or(|end| end == footer.end)))
}

/// Scans the last segment, which was not closed in order.
pub(crate) fn scan_last(disk: &dyn Disk, segment: &Segment, identity: &Identity) -> Result<Scan, OpenError> {
    let mut cursor = Cursor::new(segment.open(disk)?, segment.seed(identity), segment.len);
    let ending = Ending::Open { first_batch: segment.header.map(|header| header.first_batch) };
    scan(&mut cursor, segment.number, ending).map_err(io_error("read", &segment.name))
}

/// Scans a segment that others follow.
pub(crate) fn scan_closed(
    disk: &dyn Disk,
    segment: &Segment,
    identity: &Identity,
    known_end: Option<u64>,
) -> Result<Scan, OpenError> {
    let fault = || io_error("read", &segment.name);
    let mut cursor = Cursor::new(segment.open(disk)?, segment.seed(identity), segment.len);
    let end = match known_end {
        Some(end) => end,
        None => cursor.used_end(HEADER_LEN).map_err(fault())?,
    };
    cursor.set_limit(end);
    scan(&mut cursor, segment.number, Ending::Known).map_err(fault())
}

/// Does what a crash kept the last start from: cuts off what is void behind the end, and writes the footer of a sound segment.
fn finish_closing(
    disk: &dyn Disk,
    segment: &Segment,
    identity: &Identity,
    known_end: Option<u64>,
    scan: &Scan,
) -> Result<(), OpenError> {
    let Some(end) = known_end else { return Ok(()) };
    let file = segment.open(disk)?;
    let contents = scan.all();
    if !scan.damages.is_empty() || segment.header.is_none() || !contents.fits_footer() {
        if segment.len > end {
            file.set_len(end).map_err(io_error("cut", &segment.name))?;
            file.fdatasync().map_err(io_error("sync", &segment.name))?;
        }
        return Ok(());
    }
    let footer = Footer { number: segment.number, end, contents };
    Ok(close_segment(&*file, &segment.name, footer, segment.seed(identity))?)
}

/// Takes over the reserve that is there, if it is worth its name.
fn adopt_reserve(log: &mut Log, catalog: &Catalog) -> Result<(), OpenError> {
    let Some(file) = &catalog.reserve else { return Ok(()) };
    // A copy made by a backup may be all holes, which reserve nothing.
    let room = !file.has_holes().map_err(io_error("measure", RESERVE))?;
    let len = file.len().map_err(io_error("measure", RESERVE))?;
    // One of another size is replaced when there is space for that.
    if room && (len == log.sizes.reserve || space_low(&*log.disk, &log.sizes, false)) {
        wipe_reserve(&**file)?;
        log.reserve = Some(Arc::clone(file));
    }
    Ok(())
}

/// Writes the last batch again, so that it is durable for certain, and continues behind it.
fn settle(log: &mut Log, segment: &Segment, scan: Scan) -> Result<(), OpenError> {
    let Some(start) = scan.last_batch_at else {
        return resume_empty(log, segment, scan.cut_bytes);
    };
    let seed = segment.seed(&log.identity);
    let mut batch = vec![0; (scan.end - start) as usize];
    let file = segment.open(&*log.disk)?;
    file.read_at(&mut batch, start).map_err(io_error("read", &segment.name))?;
    // Nothing else in there: the new segment takes the old one's place.
    let replaces = start == HEADER_LEN && segment.header.is_some();
    let (previous, previous_end) = match segment.header {
        Some(header) if replaces => (header.previous, header.previous_end),
        _ => (segment.number, start),
    };
    let header = Header {
        identity: log.identity,
        number: log.next_number,
        previous,
        previous_end,
        moved_len: batch.len() as u64,
        first_batch: log.batch,
    };
    let moved = reseal_all(batch.clone(), Seed::new(&log.identity.ledger, header.number), HEADER_LEN);
    // What is left of a reserve in use is worth more than another place for the batch.
    let in_place = segment.name == RESERVE && space_low(&*log.disk, &log.sizes, false);
    let made = if in_place { None } else { place_moved(log, &header, &moved)? };
    let Some(made) = made else {
        return rewrite_in_place(log, segment, file, scan, reseal_all(batch, seed, start), start);
    };
    log.next_number = header.number + 1;
    let (file, name, allocated) = made;
    let mut table = log.shared.table.write();
    if replaces {
        table.extents.pop();
    } else if let Some(old) = table.extents.last_mut() {
        old.end = start;
    }
    let end = HEADER_LEN + header.moved_len;
    table.extents.push(Extent {
        number: header.number,
        name: name.clone(),
        previous: header.previous,
        moved_len: header.moved_len,
        end,
        file: Some(Arc::clone(&file)),
    });
    table.head = position(header.number, end);
    drop(table);
    let mut contents = scan.clone();
    contents.contents = Contents::default();
    log.active = Some(Active {
        seed: Seed::new(&log.identity.ledger, header.number),
        file,
        number: header.number,
        name,
        end,
        allocated,
        contents: contents.all(),
        damaged: false,
    });
    if replaces {
        return Ok(remove_all(&*log.disk, std::slice::from_ref(&segment.name))?);
    }
    let before = Scan { last_batch: Vec::new(), ..scan };
    finish_closing(&*log.disk, segment, &log.identity, Some(start), &before)
}

/// A segment that holds only its header goes on being written, once that header is durable for certain.
fn resume_empty(log: &mut Log, segment: &Segment, cut_bytes: u64) -> Result<(), OpenError> {
    let Some(header) = segment.header else { return Ok(()) };
    let mut bytes = header.area();
    bytes.resize(bytes.len() + cut_bytes as usize, 0);
    let file = segment.open(&*log.disk)?;
    file.write_at(&bytes, 0).map_err(io_error("write", &segment.name))?;
    file.fdatasync().map_err(io_error("sync", &segment.name))?;
    log.resume(segment, file, HEADER_LEN, Contents::default(), false);
    Ok(())
}

/// Seals the records of a batch for their new place.
fn reseal_all(mut batch: Vec<u8>, seed: Seed, offset: u64) -> Vec<u8> {
    let mut at = 0;
    while let Some(len) = record_len_at(&batch[at..]) {
        let next = at + len as usize;
        let last = next >= batch.len();
        reseal(&mut batch[at..], seed, offset + at as u64, last);
        if last {
            break;
        }
        at = next;
    }
    batch
}

type Made = (Arc<dyn DiskFile>, String, u64);

/// Puts header and batch into a new segment or, on a full disk, into the reserve.
fn place_moved(log: &mut Log, header: &Header, moved: &[u8]) -> Result<Option<Made>, OpenError> {
    let mut bytes = header.area();
    bytes.extend_from_slice(moved);
    let len = bytes.len() as u64;
    let allocated = len.max(log.sizes.step.min(log.sizes.segment));
    let name = segment_name(header.number);
    if let Some(file) = make_segment(&*log.disk, &name, &bytes, allocated)? {
        return Ok(Some((file, name, allocated)));
    }
    let Some(file) = log.reserve.take() else { return Ok(None) };
    let allocated = file.len().map_err(io_error("measure", RESERVE))?;
    if allocated < len {
        log.reserve = Some(file);
        return Ok(None);
    }
    file.write_at(moved, HEADER_LEN).map_err(io_error("write", RESERVE))?;
    file.fdatasync().map_err(io_error("sync", RESERVE))?;
    write_reserve_header(&*file, header)?;
    Ok(Some((file, RESERVE.to_owned(), allocated)))
}

/// With no room anywhere, the batch is written again where it stands, and what is behind it is wiped.
fn rewrite_in_place(
    log: &mut Log,
    segment: &Segment,
    file: Arc<dyn DiskFile>,
    scan: Scan,
    mut batch: Vec<u8>,
    start: u64,
) -> Result<(), OpenError> {
    batch.resize(batch.len() + scan.cut_bytes as usize, 0);
    file.write_at(&batch, start).map_err(io_error("write", &segment.name))?;
    file.fdatasync().map_err(io_error("sync", &segment.name))?;
    let damaged = !scan.damages.is_empty() || segment.header.is_none();
    log.resume(segment, file, scan.end, scan.all(), damaged);
    Ok(())
}
