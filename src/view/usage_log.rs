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
//! Of several entries of a person the last one holds. Nothing is synced before the view is closed: a SIGKILL loses none of it, a power
//! cut may tear its end. Files are written anew once most of their entries are old; one that is not whole yet is named `.log.new`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bucket::shard_of;
use super::bytes::Damage;
use super::error::{ViewError, io_error};
use super::folder::files;
use super::inner::SHARDS;
use crate::policy::ids::Identifier;

const MAGIC: &[u8; 16] = b"optgate usage\x01\0\0";
const NEW: &str = "log.new";
const HEAD_LEN: usize = 8 + ID_LEN;
const ID_LEN: usize = 32;
/// What one read fetches: the usage of nearly everybody.
const READ_LEN: usize = 256;
const BUFFER_LEN: usize = 256 * 1024;
/// The longest usage a reader believes in.
const USAGE_LEN_MAX: usize = 16 * 1024 * 1024;
/// Entries that may be old, beside as many as there are persons, before a file is written anew.
const OLD_ENTRIES_MIN: u64 = 65_536;

/// A file of entries.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
}

/// Where a person's last entry starts. The part of the identifier behind the first byte, which names the shard, stands for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    key: [u8; 8],
    at: u32,
}

fn key_of(who: &Identifier) -> [u8; 8] {
    let mut key = [0; 8];
    key.copy_from_slice(&who.0[1..9]);
    key
}

/// Where the usage of a shard's persons is.
#[derive(Clone, Debug)]
pub struct Index {
    file: Arc<LogFile>,
    /// In order, each key once.
    places: Arc<[Place]>,
}

impl Index {
    /// How many persons there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The usage of `who`, if there is some here.
    pub fn read(&self, who: &Identifier) -> Result<Option<Box<[u8]>>, ViewError> {
        let Ok(at) = self.places.binary_search_by_key(&key_of(who), |place| place.key) else {
            return Ok(None);
        };
        let (found, usage) = self.file.entry(self.places[at].at)?;
        // Two persons may share a key, once in 10,000 million indexes as full as they may be: one of them is then not known here.
        Ok((found == *who).then_some(usage))
    }

    /// Everybody, with their usage, in order.
    pub fn everybody(&self) -> impl Iterator<Item = Result<(Identifier, Box<[u8]>), ViewError>> + '_ {
        self.places.iter().map(|place| self.file.entry(place.at))
    }

    /// With `newer` entries of the same file, in order; how many persons are new.
    fn with(&self, newer: &[Place]) -> (Self, usize) {
        let mut places = Vec::with_capacity(self.places.len() + newer.len());
        let mut old = self.places.iter().peekable();
        for new in newer {
            while let Some(place) = old.next_if(|place| place.key < new.key) {
                places.push(*place);
            }
            old.next_if(|place| place.key == new.key);
            places.push(*new);
        }
        places.extend(old);
        let grown = places.len() - self.places.len();
        (Self { file: Arc::clone(&self.file), places: places.into() }, grown)
    }

    /// Of the same file, with nobody.
    pub fn emptied(&self) -> Self {
        Self { file: Arc::clone(&self.file), places: Arc::default() }
    }
}

impl LogFile {
    fn entry(&self, at: u32) -> Result<(Identifier, Box<[u8]>), ViewError> {
        let mut first = [0; READ_LEN];
        let read = self.fill(&mut first, u64::from(at))?;
        let (sum, len, who) = head(&first[..read]).ok_or(Damage("entry of usage"))?;
        let len = len as usize;
        if len > USAGE_LEN_MAX {
            return Err(Damage("length of usage").into());
        }
        let mut long = Vec::new();
        let whole = if HEAD_LEN + len <= read {
            &first[..HEAD_LEN + len]
        } else {
            long.resize(HEAD_LEN + len, 0);
            let read = self.fill(&mut long, u64::from(at))?;
            &long[..read]
        };
        if whole.len() < HEAD_LEN + len || crc32c::crc32c(&whole[4..]) != sum {
            return Err(Damage("checksum of usage").into());
        }
        Ok((who, whole[HEAD_LEN..].into()))
    }

    /// Reads as much as there is.
    fn fill(&self, bytes: &mut [u8], at: u64) -> Result<usize, ViewError> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(io_error("read", &self.path)(err)),
            }
        }
        Ok(done)
    }
}

fn head(bytes: &[u8]) -> Option<(u32, u32, Identifier)> {
    let (sum, rest) = bytes.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (who, _) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*sum), u32::from_le_bytes(*len), Identifier(*who)))
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
        let indexes =
            found.shards.into_iter().map(|places| Index { file: Arc::clone(&file), places: latest(places) });
        let indexes: Vec<_> = indexes.collect();
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
            newer.push(Place { key: key_of(who), at });
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
        let empty = Index { file: Arc::clone(&self.log.file), places: Arc::default() };
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
        found.shards[shard_of(&who)].push(Place { key: key_of(&who), at: place });
        found.entries += 1 + std::mem::take(&mut damaged);
        found.len = at;
    }
}

/// The last place of each key.
fn latest(mut places: Vec<Place>) -> Arc<[Place]> {
    // Each sweep wrote them in order, and this sort uses that.
    places.sort();
    places.reverse();
    places.dedup_by_key(|place| place.key);
    places.reverse();
    places.into()
}

/// Fills `bytes`; `false`: the file ends before.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(err) => Err(err),
    }
}

#[cfg(test)]
impl Index {
    /// Of a file that takes nothing and gives nothing.
    pub fn nowhere() -> Self {
        let path = PathBuf::from("/dev/null");
        let file = File::open(&path).unwrap();
        Self { file: Arc::new(LogFile { path, file }), places: Arc::default() }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn person(n: u8) -> Identifier {
        let mut who = Identifier([n; 32]);
        who.0[0] = 7;
        who
    }

    fn usage_of(indexes: &[Index], who: &Identifier) -> Option<Vec<u8>> {
        indexes[shard_of(who)].read(who).unwrap().map(Vec::from)
    }

    /// Appends persons of one shard.
    fn append(log: &mut UsageLog, indexes: &mut [Index], persons: &[(Identifier, Vec<u8>)]) {
        let shard = shard_of(&persons[0].0);
        let persons = persons.iter().map(|(who, usage)| (who, usage.as_slice()));
        indexes[shard] = log.append(&indexes[shard], persons).unwrap();
    }

    #[test]
    fn the_last_entry_holds_now_and_after_a_start() {
        let temp = tempfile::tempdir().unwrap();
        let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
        assert_eq!(usage_of(&indexes, &person(1)), None);
        let long = vec![9; 3 * READ_LEN];
        append(&mut log, &mut indexes, &[(person(1), vec![1]), (person(3), long.clone())]);
        append(&mut log, &mut indexes, &[(person(1), vec![2]), (person(2), vec![])]);
        let mut other = person(1);
        other.0[0] = 8;
        append(&mut log, &mut indexes, &[(other, vec![8])]);
        for _ in 0..2 {
            assert_eq!(usage_of(&indexes, &person(1)), Some(vec![2]));
            assert_eq!(usage_of(&indexes, &person(2)), Some(vec![]), "to have none is told as well");
            assert_eq!(usage_of(&indexes, &person(3)), Some(long.clone()));
            assert_eq!(usage_of(&indexes, &other), Some(vec![8]));
            assert_eq!(usage_of(&indexes, &person(4)), None);
            let everybody: Vec<_> = indexes[7].everybody().map(|one| one.unwrap().0).collect();
            assert_eq!(everybody, [person(1), person(2), person(3)]);
            assert_eq!((log.persons(), log.entries), (4, 5));
            (log, indexes) = UsageLog::open(temp.path()).unwrap();
        }
    }

    #[test]
    fn two_persons_of_one_key_are_never_taken_for_each_other() {
        let temp = tempfile::tempdir().unwrap();
        let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
        let (one, mut other) = (person(1), person(1));
        other.0[31] = 2;
        append(&mut log, &mut indexes, &[(one, vec![1]), (other, vec![2])]);
        for _ in 0..2 {
            assert_eq!((usage_of(&indexes, &one), usage_of(&indexes, &other)), (None, Some(vec![2])));
            (log, indexes) = UsageLog::open(temp.path()).unwrap();
            assert_eq!(log.persons(), 1);
        }
    }

    #[test]
    fn a_torn_or_rotten_tail_is_cut_wherever_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
        append(&mut log, &mut indexes, &[(person(1), vec![1; 5])]);
        let one = log.len as usize;
        append(&mut log, &mut indexes, &[(person(1), vec![2; 5]), (person(2), vec![3; 5])]);
        let two = one + HEAD_LEN + 5;
        let path = temp.path().join("usage-1.log");
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.len(), two + HEAD_LEN + 5);
        // What is found of the two persons, if only these of the three entries are.
        let expected = |kept: [bool; 3]| {
            let first = if kept[1] { Some(2) } else { kept[0].then_some(1) };
            (first.map(|byte| vec![byte; 5]), kept[2].then(|| vec![3; 5]))
        };
        let check = |bytes: &[u8], kept: [bool; 3], what: String| {
            fs::write(&path, bytes).unwrap();
            let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
            let found = (usage_of(&indexes, &person(1)), usage_of(&indexes, &person(2)));
            assert_eq!(found, expected(kept), "{what}");
            // It goes on behind what was kept.
            append(&mut log, &mut indexes, &[(person(3), vec![4])]);
            let (_, indexes) = UsageLog::open(temp.path()).unwrap();
            assert_eq!(usage_of(&indexes, &person(3)), Some(vec![4]), "{what}");
        };
        let starts = [MAGIC.len(), one, two, whole.len()];
        for cut in 0..whole.len() {
            let kept = [starts[1] <= cut, starts[2] <= cut, false];
            check(&whole[..cut], kept, format!("cut at {cut}"));
        }
        for at in 0..whole.len() {
            let mut rotten = whole.clone();
            rotten[at] ^= 0x40;
            let nth = starts.iter().rposition(|start| *start <= at);
            let kept = match nth {
                None => [false; 3],
                // Where its length is rotten nobody knows where the next one starts.
                Some(nth) if (4..8).contains(&(at - starts[nth])) => [0, 1, 2].map(|other| other < nth),
                Some(nth) => [0, 1, 2].map(|other| other != nth),
            };
            check(&rotten, kept, format!("rot at {at}"));
        }
    }

    #[test]
    fn rot_is_found_when_it_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
        append(&mut log, &mut indexes, &[(person(1), vec![1; 5]), (person(2), vec![1; 2 * READ_LEN])]);
        let path = temp.path().join("usage-1.log");
        let whole = fs::read(&path).unwrap();
        for at in MAGIC.len()..whole.len() {
            let mut rotten = whole.clone();
            rotten[at] ^= 0x10;
            fs::write(&path, &rotten).unwrap();
            let who = if at < MAGIC.len() + HEAD_LEN + 5 { person(1) } else { person(2) };
            assert!(matches!(indexes[7].read(&who), Err(ViewError::Damaged(_))), "rot at {at}");
        }
    }

    #[test]
    fn a_file_is_written_anew_without_what_is_old() {
        let temp = tempfile::tempdir().unwrap();
        let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
        while !log.is_stale() {
            append(&mut log, &mut indexes, &[(person(1), vec![1]), (person(2), vec![2])]);
        }
        assert_eq!(log.entries, OLD_ENTRIES_MIN + 4 + 2);
        append(&mut log, &mut indexes, &[(person(2), vec![3])]);
        let long = log.bytes();
        let begun = log.renew().unwrap();
        assert!(temp.path().join("usage-2.log.new").exists());
        drop(begun);
        assert!(!temp.path().join("usage-2.log.new").exists(), "given up, it takes no space");
        let mut renewal = log.renew().unwrap();
        indexes.iter().for_each(|index| renewal.copy(index).unwrap());
        log.replace(renewal, |renewed| indexes = renewed).unwrap();
        assert!(log.bytes() * 100 < long && !log.is_stale());
        assert_eq!(log.persons(), 2);
        let kept = fs::read_dir(temp.path()).unwrap().flatten().map(|entry| entry.file_name());
        assert_eq!(kept.collect::<Vec<_>>(), ["usage-2.log"]);
        for _ in 0..2 {
            assert_eq!(usage_of(&indexes, &person(1)), Some(vec![1]));
            assert_eq!(usage_of(&indexes, &person(2)), Some(vec![3]));
            (log, indexes) = UsageLog::open(temp.path()).unwrap();
        }
        assert_eq!(log.number, 2);
    }

    #[test]
    fn of_two_files_the_newer_is_whole_and_of_one_begun_nothing_stays() {
        let temp = tempfile::tempdir().unwrap();
        let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
        append(&mut log, &mut indexes, &[(person(1), vec![1])]);
        let older = fs::read(temp.path().join("usage-1.log")).unwrap();
        append(&mut log, &mut indexes, &[(person(1), vec![2])]);
        fs::rename(temp.path().join("usage-1.log"), temp.path().join("usage-10.log")).unwrap();
        fs::write(temp.path().join("usage-9.log"), older).unwrap();
        fs::write(temp.path().join("usage-11.log.new"), "begun").unwrap();
        fs::write(temp.path().join("usage-12.journal"), "another's").unwrap();
        let (log, indexes) = UsageLog::open(temp.path()).unwrap();
        assert_eq!((usage_of(&indexes, &person(1)), log.number), (Some(vec![2]), 10));
        let mut kept: Vec<_> =
            fs::read_dir(temp.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        kept.sort();
        assert_eq!(kept, ["usage-10.log", "usage-12.journal"]);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
            let temp = tempfile::tempdir().unwrap();
            let file = if magic { [MAGIC.as_slice(), &bytes].concat() } else { bytes };
            fs::write(temp.path().join("usage-1.log"), file).unwrap();
            let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
            append(&mut log, &mut indexes, &[(person(1), vec![1])]);
            prop_assert_eq!(usage_of(&indexes, &person(1)), Some(vec![1]));
        }

        #[test]
        fn an_index_says_what_a_map_says(rounds in proptest::collection::vec(
            proptest::collection::btree_map(any::<u8>(), proptest::collection::vec(any::<u8>(), 0..4), 1..9), 1..9,
        )) {
            let temp = tempfile::tempdir().unwrap();
            let (mut log, mut indexes) = UsageLog::open(temp.path()).unwrap();
            let mut all = std::collections::BTreeMap::new();
            for round in rounds {
                let persons: Vec<_> = round.iter().map(|(n, usage)| (person(*n), usage.clone())).collect();
                append(&mut log, &mut indexes, &persons);
                all.extend(persons);
                let found: Vec<_> = indexes[7].everybody().map(|one| one.unwrap()).collect();
                let expected: Vec<_> = all.iter().map(|(who, usage)| (*who, usage.clone().into_boxed_slice())).collect();
                prop_assert_eq!(found, expected);
                prop_assert_eq!(log.persons(), all.len() as u64);
            }
        }
    }
}
