//! What sends left behind, out of memory: appended to a file and found through an index of 12 bytes for each person.
//!
//! Sends change a few bytes of one person among millions. Brought into the store, each costs a write of its whole bucket and of the page
//! around it; here it costs what it is. The store gets it only when there are more persons than the index may have.
//!
//! ```text
//! file  = "optgate usage\x01\0\0", entries                          name = usage-NUMBER.log
//! entry = CRC32C of what follows: u32, length of usage: u32, identifier: 32 bytes, usage       (little endian)
//! ```
//!
//! Of several entries of a person the last one holds. What is appended is not synced before the view is closed: a SIGKILL loses none
//! of it, a power cut may tear its end. A file is written anew, and synced, once most of its entries are old; until it is whole its name ends
//! in `.log.new`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bucket::shard_of;
use super::error::{ViewError, io_error};
use super::folder::{files, fill};
use super::inner::SHARDS;
use crate::policy::ids::Identifier;

mod index;

pub use index::{Index, LogFile};
use index::{Place, head};

const MAGIC: &[u8; 16] = b"optgate usage\x01\0\0";
const NEW: &str = "log.new";
const HEAD_LEN: usize = 8 + ID_LEN;
const ID_LEN: usize = 32;
const BUFFER_LEN: usize = 256 * 1024;
/// The longest usage a reader believes in.
const USAGE_LEN_MAX: usize = 16 * 1024 * 1024;
/// Entries that may be old, beside as many as there are persons, before a file is written anew.
const OLD_ENTRIES_MIN: u64 = 65_536;

/// What writes the files: one at a time, in the hands of whoever sweeps.
#[derive(Debug)]
pub struct UsageLog {
    dir: PathBuf,
    number: u64,
    file: Arc<LogFile>,
    len: u64,
    /// Entries in the file, old ones too.
    entries: u64,
    /// Persons in the index.
    persons: u64,
    buffer: Vec<u8>,
}

impl UsageLog {
    /// Goes on with the file found in `dir`, of which it gives the index of each shard.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Index>), ViewError> {
        let mut numbers = Vec::new();
        for path in files(dir)? {
            let name =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix("usage-"));
            let Some(name) = name else { continue };
            if name.ends_with(".log.new") {
                remove(&path)?;
            } else if let Some(number) =
                name.strip_suffix(".log").and_then(|number| number.parse::<u64>().ok())
            {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        let last = numbers.pop();
        for older in numbers {
            // It was written anew, whole, as the last one.
            remove(&path_of(dir, older))?;
        }
        let number = last.unwrap_or(1);
        let path = path_of(dir, number);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(io_error("open", &path))?;
        let found = scan(&file).map_err(io_error("read", &path))?;
        let on_disk = file.metadata().map_err(io_error("read", &path))?.len();
        if on_disk > found.len {
            tracing::warn!(
                bytes = on_disk - found.len,
                "the end of what is known of past sends is torn or damaged and is cut off"
            );
            file.set_len(found.len).map_err(io_error("cut", &path))?;
        }
        let file = Arc::new(LogFile { path, file });
        let indexes: Vec<_> = found.shards.into_iter().map(|places| Index::of(&file, places)).collect();
        let persons = indexes.iter().map(|index| index.len() as u64).sum();
        let (dir, entries) = (dir.to_owned(), found.entries);
        let mut log = Self { dir, number, file, len: found.len, entries, persons, buffer: Vec::new() };
        if log.len == 0 {
            log.append_raw(MAGIC)?;
        }
        Ok((log, indexes))
    }

    /// Appends the usage of persons of one shard, who come in order, and gives the shard's index with it.
    pub fn append<'a>(
        &mut self,
        index: &Index,
        persons: impl Iterator<Item = (&'a Identifier, &'a [u8])>,
    ) -> Result<Index, ViewError> {
        let (mut bytes, mut newer) = (std::mem::take(&mut self.buffer), Vec::new());
        bytes.clear();
        for (who, usage) in persons {
            let at = u32::try_from(self.len + bytes.len() as u64).map_err(|_| ViewError::Full)?;
            newer.push(Place::of(who, at));
            put_entry(&mut bytes, who, usage);
        }
        self.append_raw(&bytes)?;
        bytes.shrink_to(BUFFER_LEN);
        self.buffer = bytes;
        // Only the last of persons with one key is found.
        newer.dedup_by(|later, earlier| {
            later.key == earlier.key && {
                *earlier = *later;
                true
            }
        });
        let (index, grown) = index.with(&newer);
        self.entries += newer.len() as u64;
        self.persons += grown as u64;
        Ok(index)
    }

    fn append_raw(&mut self, bytes: &[u8]) -> Result<(), ViewError> {
        let written = self.file.file.write_all_at(bytes, self.len);
        if written.is_err() {
            // What is torn is overwritten by what comes next, and cut off by the next start.
            let _is_a_tail_all_the_same = self.file.file.set_len(self.len);
        }
        written.map_err(io_error("write", &self.file.path))?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// A shard's persons are in the store now.
    pub fn forget(&mut self, persons: usize) {
        self.persons -= persons as u64;
    }

    /// Whether it is worth writing anew without what is old.
    pub const fn is_stale(&self) -> bool {
        self.entries > 2 * self.persons + OLD_ENTRIES_MIN
    }

    /// Whether most entries are old.
    pub const fn is_mostly_old(&self) -> bool {
        self.entries > 2 * self.persons
    }

    /// Bytes of what is not old, nearly.
    pub fn live_bytes(&self) -> u64 {
        let part = u128::from(self.len) * u128::from(self.persons) / u128::from(self.entries.max(1));
        MAGIC.len() as u64 + part as u64
    }

    /// Persons in the index.
    pub const fn persons(&self) -> u64 {
        self.persons
    }

    /// Bytes of the file.
    pub const fn bytes(&self) -> u64 {
        self.len
    }

    /// Begins to write the file anew.
    pub fn renew(&self) -> Result<Renewal, ViewError> {
        let number = self.number + 1;
        let path = path_of(&self.dir, number);
        let new = path.with_extension(NEW);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new);
        let file = file.map_err(io_error("make", &new))?;
        let file = Arc::new(LogFile { path, file });
        let leftover = Leftover(new);
        let mut log =
            Self { dir: self.dir.clone(), number, file, len: 0, entries: 0, persons: 0, buffer: Vec::new() };
        log.append_raw(MAGIC)?;
        Ok(Renewal { log, indexes: Vec::with_capacity(SHARDS), _leftover: leftover })
    }

    /// Goes on with the new file. What was only in the old one is gone when this was the last that knew of it, so `settle` is called
    /// with the new indexes before the old file goes.
    pub fn replace(&mut self, renewal: Renewal, settle: impl FnOnce(Vec<Index>)) -> Result<(), ViewError> {
        let Renewal { log, indexes, _leftover } = renewal;
        // The old file holds what a power cut would take of the new one.
        log.sync()?;
        let new = log.file.path.with_extension(NEW);
        fs::rename(&new, &log.file.path).map_err(io_error("rename", &new))?;
        let old = std::mem::replace(self, log);
        settle(indexes);
        remove(&old.file.path)
    }

    /// Makes it survive a power cut.
    pub fn sync(&self) -> Result<(), ViewError> {
        self.file.file.sync_all().map_err(io_error("sync", &self.file.path))
    }
}

/// A file that is being written anew.
#[derive(Debug)]
pub struct Renewal {
    log: UsageLog,
    indexes: Vec<Index>,
    _leftover: Leftover,
}

/// A file that takes no space once nobody goes on with it; renamed, it is no longer there.
#[derive(Debug)]
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        // The next start removes it otherwise.
        let _may_be_gone = fs::remove_file(&self.0);
    }
}

impl Renewal {
    /// Copies what is known of the next shard's persons.
    pub fn copy(&mut self, index: &Index) -> Result<(), ViewError> {
        let everybody = index.everybody().collect::<Result<Vec<_>, _>>()?;
        let empty = Index::of(&self.log.file, Vec::new());
        let persons = everybody.iter().map(|(who, usage)| (who, &**usage));
        let index = self.log.append(&empty, persons)?;
        self.indexes.push(index);
        Ok(())
    }
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("usage-{number}.log"))
}

fn remove(path: &Path) -> Result<(), ViewError> {
    fs::remove_file(path).map_err(io_error("remove", path))
}

fn put_entry(out: &mut Vec<u8>, who: &Identifier, usage: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(usage.len() as u32).to_le_bytes());
    out.extend_from_slice(&who.0);
    out.extend_from_slice(usage);
    let sum = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&sum.to_le_bytes());
}

struct Scanned {
    shards: Vec<Vec<Place>>,
    entries: u64,
    len: u64,
}

/// Finds every whole entry. Behind the last of them the file is torn; a damaged one before it is left out, if its length is not
/// what was damaged.
fn scan(file: &File) -> io::Result<Scanned> {
    let mut found = Scanned { shards: vec![Vec::new(); SHARDS], entries: 0, len: 0 };
    let mut input = BufReader::with_capacity(BUFFER_LEN, file);
    let mut magic = [0; MAGIC.len()];
    if !fill(&mut input, &mut magic)? || &magic != MAGIC {
        return Ok(found);
    }
    found.len = MAGIC.len() as u64;
    let mut entry = vec![0; HEAD_LEN];
    let (mut at, mut damaged) = (found.len, 0_u64);
    loop {
        entry.truncate(HEAD_LEN);
        if !fill(&mut input, &mut entry)? {
            return Ok(found);
        }
        let Some((sum, len, who)) = head(&entry) else { return Ok(found) };
        let Ok(place) = u32::try_from(at) else { return Ok(found) };
        if len as usize > USAGE_LEN_MAX {
            return Ok(found);
        }
        entry.resize(HEAD_LEN + len as usize, 0);
        if !fill(&mut input, &mut entry[HEAD_LEN..])? {
            return Ok(found);
        }
        at += entry.len() as u64;
        if crc32c::crc32c(&entry[4..]) != sum {
            damaged += 1;
            continue;
        }
        if damaged > 0 {
            tracing::warn!(entries = damaged, "entries of past sends are damaged and are left out");
        }
        found.shards[shard_of(&who)].push(Place::of(&who, place));
        found.entries += 1 + std::mem::take(&mut damaged);
        found.len = at;
    }
}

#[cfg(test)]
impl UsageLog {
    /// From now on every write fails for want of space.
    pub fn on_a_full_disk(&mut self) -> Arc<LogFile> {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        std::mem::replace(&mut self.file, Arc::new(LogFile { path, file }))
    }

    /// Writes find their way again.
    pub fn on_its_own_disk(&mut self, file: Arc<LogFile>) {
        self.file = file;
    }

    /// Most entries are old from now on.
    pub fn grow_old(&mut self) {
        self.entries += 3 * OLD_ENTRIES_MIN + 2 * self.persons;
    }
}

#[cfg(test)]
mod tests;
