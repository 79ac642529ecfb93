//! What files there are, and what their headers say.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile, read_lossy};
use super::format::{
    FOOTER_TRAILER_LEN, Footer, HEADER_LEN, Header, HeaderFault, Identity, SECOND_COPY_AT, Seed, VERSION,
};
use super::scan::UNREADABLE;
use super::{Damage, OpenError};

/// Held by the process that writes.
pub(crate) const LOCK: &str = "lock";
/// A segment in the making.
pub(crate) const NEW: &str = "new";
/// Room for priority entries.
pub(crate) const RESERVE: &str = "reserve";
/// A reserve in the making.
pub(crate) const NEW_RESERVE: &str = "new-reserve";
const SUFFIX: &str = ".seg";
const DIGITS: usize = 10;

/// The file name of a segment.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:0DIGITS$}{SUFFIX}")
}

/// The number in a segment's file name.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX)?;
    let well_formed = digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| well_formed && *number > 0)
}

/// A segment file. It is opened when it is needed: there may be more segments than a process may have files open.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) name: String,
    /// `None`: damaged.
    pub(crate) header: Option<Header>,
    pub(crate) len: u64,
}

/// All files of a ledger.
pub(crate) struct Catalog {
    /// `None`: there is no ledger yet.
    pub(crate) identity: Option<Identity>,
    /// In order of their numbers.
    pub(crate) segments: Vec<Segment>,
    /// Segments that others replaced.
    pub(crate) replaced: Vec<String>,
    /// The reserve, when no segment lives in it.
    pub(crate) reserve: Option<Arc<dyn DiskFile>>,
    /// Headers that do not verify and segments that are missing.
    pub(crate) damages: Vec<Damage>,
}

impl Catalog {
    /// Reads the directory and all headers. Changes nothing.
    pub(crate) fn load(disk: &dyn Disk) -> Result<Self, OpenError> {
        let names = disk.list().map_err(io_error("list", "."))?;
        let mut found = BTreeMap::new();
        for name in &names {
            if let Some(number) = segment_number(name) {
                let (_, len, header) = open(disk, name)?;
                found.insert(number, (name.clone(), len, header));
            }
        }
        let mut reserve = None;
        if names.iter().any(|name| name == RESERVE) {
            let (file, len, header) = open(disk, RESERVE)?;
            let number = match header {
                Ok(header) => Some(header.number),
                Err(HeaderFault::Version(version)) => return Err(other_version(version)),
                Err(HeaderFault::Blank) => None,
                // The first copy is synced before the second is begun: with the second untouched, it was never in use.
                Err(HeaderFault::Damaged) if second_copy_is_blank(&*file)? => None,
                Err(HeaderFault::Damaged) => Some(found.last_key_value().map_or(1, |(last, _)| last + 1)),
            };
            match number {
                Some(number) => drop(found.insert(number, (RESERVE.to_owned(), len, header))),
                None => reserve = Some(file),
            }
        }
        let mut identity = None;
        for (_, _, header) in found.values() {
            match header {
                Ok(header) => identity = identity.or(Some(header.identity)),
                Err(HeaderFault::Version(version)) => return Err(other_version(*version)),
                Err(_) => {}
            }
        }
        if identity.is_none() && !found.is_empty() {
            return Err(OpenError::Unreadable);
        }
        let mut catalog =
            Self { identity, segments: Vec::new(), replaced: Vec::new(), reserve, damages: Vec::new() };
        for (number, (name, len, header)) in found {
            // A header of another place or ledger says nothing about this segment.
            let header =
                header.ok().filter(|header| header.number == number && Some(header.identity) == identity);
            if header.is_none() {
                catalog.damages.push(Damage { segment: number, from: 0, to: HEADER_LEN });
            }
            catalog.segments.push(Segment { number, name, header, len });
        }
        catalog.drop_replaced();
        catalog.find_missing();
        Ok(catalog)
    }

    fn drop_replaced(&mut self) {
        let spans: Vec<(u32, u32)> = self
            .segments
            .iter()
            .filter_map(|s| s.header.map(|header| (header.previous, header.number)))
            .collect();
        let replaced =
            |number: u32| spans.iter().any(|(previous, next)| *previous < number && number < *next);
        let (gone, kept) = std::mem::take(&mut self.segments).into_iter().partition(|s| replaced(s.number));
        self.segments = kept;
        self.replaced = gone.into_iter().map(|s: Segment| s.name).collect();
        self.damages.retain(|damage| !replaced(damage.segment));
    }

    fn find_missing(&mut self) {
        let mut before = 0;
        for segment in &self.segments {
            if let Some(header) = segment.header
                && header.previous > before
            {
                self.damages.push(Damage { segment: header.previous, from: 0, to: header.previous_end });
            }
            before = segment.number;
        }
    }

    /// Where the segment at `index` ends, if the next one's header says so.
    pub(crate) fn known_end(&self, index: usize) -> Option<u64> {
        let next = self.segments.get(index + 1)?.header?;
        (next.previous == self.segments[index].number).then_some(next.previous_end)
    }
}

impl Segment {
    /// What the checksums of its records start from.
    pub(crate) fn seed(&self, identity: &Identity) -> Seed {
        Seed::new(&identity.ledger, self.number)
    }

    /// Opens its file.
    pub(crate) fn open(&self, disk: &dyn Disk) -> Result<Arc<dyn DiskFile>, OpenError> {
        disk.open(&self.name).map_err(io_error("open", &self.name))
    }

    /// Its footer, if a good one ends the file.
    pub(crate) fn footer(&self, disk: &dyn Disk, identity: &Identity) -> Result<Option<Footer>, OpenError> {
        let file = self.open(disk)?;
        self.read_footer(&*file, identity).map_err(io_error("read", &self.name))
    }

    fn read_footer(&self, file: &dyn DiskFile, identity: &Identity) -> io::Result<Option<Footer>> {
        let mut trailer = [0; FOOTER_TRAILER_LEN];
        let Some(trailer_at) = self.len.checked_sub(FOOTER_TRAILER_LEN as u64) else { return Ok(None) };
        read_lossy(file, &mut trailer, trailer_at, UNREADABLE)?;
        let start = Footer::len_from_trailer(&trailer).and_then(|len| self.len.checked_sub(len));
        let Some(start) = start.filter(|start| *start >= HEADER_LEN) else { return Ok(None) };
        let mut bytes = vec![0; (self.len - start) as usize];
        read_lossy(file, &mut bytes, start, UNREADABLE)?;
        Ok(Footer::parse(&bytes, self.seed(identity), start).filter(|footer| footer.number == self.number))
    }
}

type OpenedFile = (Arc<dyn DiskFile>, u64, Result<Header, HeaderFault>);

fn open(disk: &dyn Disk, name: &str) -> Result<OpenedFile, OpenError> {
    let file = disk.open(name).map_err(io_error("open", name))?;
    let len = file.len().map_err(io_error("measure", name))?;
    let mut area = vec![0; HEADER_LEN as usize];
    read_lossy(&*file, &mut area, 0, UNREADABLE).map_err(io_error("read", name))?;
    Ok((file, len, Header::parse(&area)))
}

fn second_copy_is_blank(file: &dyn DiskFile) -> Result<bool, OpenError> {
    let mut area = vec![0; HEADER_LEN as usize];
    read_lossy(file, &mut area, 0, UNREADABLE).map_err(io_error("read", RESERVE))?;
    Ok(area[SECOND_COPY_AT..].iter().all(|byte| *byte == 0))
}

fn other_version(found: u32) -> OpenError {
    OpenError::Version { found, known: VERSION }
}

/// Says what was tried with which file.
pub(crate) fn io_error(what: &'static str, name: &str) -> impl FnOnce(io::Error) -> OpenError {
    let name = name.to_owned();
    move |source| OpenError::Io { what, name, source }
}
