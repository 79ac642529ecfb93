//! Small changes on disk before the store has them: appended, written at least every second, never synced.
//!
//! A SIGKILL loses what was not written yet; a power cut may lose more. Files are numbered generations: once
//! everything in a generation has found its place elsewhere, the file goes.
//!
//! ```text
//! file  = "optgate journal\x01", frames           name = PREFIX-NUMBER.journal
//! frame = length: u32, CRC32C of the content: u32, content     (little endian; a torn or rotten frame ends its file)
//! content = entries; entry = kind: u8, length, bytes
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::bytes::{Reader, put_varint};
use super::error::{ViewError, io_error};
use super::folder::{files, fill};

const MAGIC: &[u8; 16] = b"optgate journal\x01";
/// Once this much waits, it is time to write it.
pub const BUFFER_BYTES_FULL: usize = 64 * 1024;
/// Once this much waits, whoever appends writes it.
const BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// The longest frame a reader believes in.
const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A journal.
pub struct Journal {
    dir: PathBuf,
    prefix: &'static str,
    /// What waits to be written.
    buffer: Mutex<Vec<u8>>,
    /// Held while writing, so that frames keep the order of the buffer.
    writer: Mutex<Writer>,
    /// Bytes of all generations on disk, and in memory.
    bytes: AtomicU64,
    /// Entries thrown away because they could not be written.
    lost: AtomicU64,
}

struct Writer {
    generation: u64,
    file: Option<File>,
    /// Generations on disk, oldest first, the present one last, if it has a file.
    on_disk: Vec<(u64, u64)>,
    spare: Vec<u8>,
}

impl Journal {
    /// Goes on after the generations found in `dir`.
    pub fn open(dir: &Path, prefix: &'static str) -> Result<Self, ViewError> {
        let on_disk = generations(dir, prefix)?;
        let generation = on_disk.last().map_or(1, |(last, _)| last + 1);
        let bytes = on_disk.iter().map(|(_, bytes)| bytes).sum();
        Ok(Self {
            dir: dir.to_owned(),
            prefix,
            buffer: Mutex::default(),
            writer: Mutex::new(Writer { generation, file: None, on_disk, spare: Vec::new() }),
            bytes: AtomicU64::new(bytes),
            lost: AtomicU64::new(0),
        })
    }

    /// Hands back every entry of the generations from `from` on that were there when the journal was opened, oldest first.
    pub fn replay(&self, from: u64, each: &mut dyn FnMut(u8, &[u8])) -> Result<(), ViewError> {
        let (known, until) = {
            let writer = self.writer.lock();
            (writer.on_disk.clone(), writer.generation)
        };
        for (generation, _) in known.into_iter().filter(|(at, _)| (from..until).contains(at)) {
            let path = path_of(&self.dir, self.prefix, generation);
            File::open(&path).and_then(|file| replay_file(file, each)).map_err(io_error("read", &path))?;
        }
        Ok(())
    }

    /// Appends one entry; `true` when much waits to be written.
    pub fn append(&self, kind: u8, parts: &[&[u8]]) -> bool {
        let waiting = {
            let mut buffer = self.buffer.lock();
            buffer.push(kind);
            put_varint(&mut buffer, parts.iter().map(|part| part.len() as u64).sum());
            parts.iter().for_each(|part| buffer.extend_from_slice(part));
            buffer.len()
        };
        if waiting >= BUFFER_BYTES_MAX {
            self.flush();
        }
        waiting >= BUFFER_BYTES_FULL
    }

    /// Writes what waits. What cannot be written is gone from here; it is still in memory.
    pub fn flush(&self) {
        let mut writer = self.writer.lock();
        self.write_out(&mut writer);
    }

    fn write_out(&self, writer: &mut Writer) {
        let mut content = std::mem::take(&mut writer.spare);
        std::mem::swap(&mut *self.buffer.lock(), &mut content);
        if !content.is_empty() {
            match self.write_frame(writer, &content) {
                Ok(written) => {
                    self.bytes.fetch_add(written, Ordering::Relaxed);
                    if let Some((_, bytes)) = writer.on_disk.last_mut() {
                        *bytes += written;
                    }
                }
                Err(_) => {
                    // The frame may be torn, and a reader stops there: what follows needs a file of its own.
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    writer.file = None;
                    writer.generation += 1;
                }
            }
        }
        content.clear();
        content.shrink_to(2 * BUFFER_BYTES_FULL);
        writer.spare = content;
    }

    fn write_frame(&self, writer: &mut Writer, content: &[u8]) -> io::Result<u64> {
        let mut written = 0;
        let file = match &mut writer.file {
            Some(file) => file,
            none => {
                let mut file = File::create(path_of(&self.dir, self.prefix, writer.generation))?;
                writer.on_disk.push((writer.generation, 0));
                file.write_all(MAGIC)?;
                written += MAGIC.len() as u64;
                none.insert(file)
            }
        };
        let mut head = [0; 8];
        head[..4].copy_from_slice(&(content.len() as u32).to_le_bytes());
        head[4..].copy_from_slice(&crc32c::crc32c(content).to_le_bytes());
        file.write_all(&head)?;
        file.write_all(content)?;
        Ok(written + (head.len() + content.len()) as u64)
    }

    /// Throws away what waits: the disk is too full to write it.
    pub fn discard(&self) {
        let mut buffer = self.buffer.lock();
        if !buffer.is_empty() {
            buffer.clear();
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the present generation. All that was appended before is in those before the returned one, all that
    /// is appended from now on is in it or later.
    pub fn rotate(&self) -> u64 {
        let mut writer = self.writer.lock();
        self.write_out(&mut writer);
        if writer.file.take().is_some() {
            writer.generation += 1;
        }
        writer.generation
    }

    /// Removes the generations before `generation`.
    pub fn remove_before(&self, generation: u64) -> Result<(), ViewError> {
        let mut writer = self.writer.lock();
        while let Some((first, bytes)) = writer.on_disk.first().copied().filter(|(at, _)| *at < generation) {
            let path = path_of(&self.dir, self.prefix, first);
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
            writer.on_disk.remove(0);
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Times that something could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether no entry is on disk or waits.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0 && self.buffer.lock().is_empty()
    }

    /// Writes what waits and makes all of it survive a power cut.
    pub fn sync(&self) -> Result<(), ViewError> {
        let mut writer = self.writer.lock();
        self.write_out(&mut writer);
        let path = path_of(&self.dir, self.prefix, writer.generation);
        writer.file.as_ref().map_or(Ok(()), File::sync_all).map_err(io_error("sync", path))
    }
}

fn path_of(dir: &Path, prefix: &str, generation: u64) -> PathBuf {
    dir.join(format!("{prefix}-{generation}.journal"))
}

/// The generations on disk and their lengths, oldest first.
fn generations(dir: &Path, prefix: &str) -> Result<Vec<(u64, u64)>, ViewError> {
    let mut found: Vec<(u64, u64)> = files(dir)?
        .into_iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let number = name.strip_prefix(prefix)?.strip_prefix('-')?.strip_suffix(".journal")?;
            Some((number.parse().ok()?, fs::metadata(&path).ok()?.len()))
        })
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// Hands out a file's entries, a frame in memory at a time.
fn replay_file(file: File, each: &mut dyn FnMut(u8, &[u8])) -> io::Result<()> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES_FULL, file);
    let mut magic = [0; MAGIC.len()];
    if !fill(&mut file, &mut magic)? || &magic != MAGIC {
        return Ok(());
    }
    let mut content = Vec::new();
    while next_frame(&mut file, &mut content)? {
        let mut input = Reader::new(&content);
        while let Ok(kind) = input.byte() {
            match input.count().and_then(|len| input.raw(len)) {
                Ok(entry) => each(kind, entry),
                Err(_) => return Ok(()),
            }
        }
    }
    Ok(())
}

/// Reads the next frame's content; `false` at the end and at a torn or rotten one.
fn next_frame(file: &mut impl Read, content: &mut Vec<u8>) -> io::Result<bool> {
    let mut head = [[0; 4]; 2];
    if !fill(file, head.as_flattened_mut())? {
        return Ok(false);
    }
    let [len, crc] = head.map(u32::from_le_bytes);
    if len as usize > FRAME_BYTES_MAX {
        return Ok(false);
    }
    content.resize(len as usize, 0);
    Ok(fill(file, content)? && crc32c::crc32c(content) == crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(journal: &Journal, from: u64) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        journal.replay(from, &mut |kind, bytes| found.push((kind, bytes.to_vec()))).unwrap();
        found
    }

    fn reopened(dir: &Path) -> Vec<(u8, Vec<u8>)> {
        entries(&Journal::open(dir, "usage").unwrap(), 0)
    }

    #[test]
    fn what_was_written_comes_back_in_order() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Journal::open(temp.path(), "usage").unwrap();
        journal.append(1, &[b"ab", b"c"]);
        journal.append(2, &[]);
        journal.flush();
        journal.append(3, &[b"later"]);
        assert_eq!(reopened(temp.path()), [(1, b"abc".to_vec()), (2, vec![])]);
        journal.flush();
        assert_eq!(reopened(temp.path()).len(), 3);
        assert!(entries(&journal, 0).is_empty(), "its own entries are not handed back");
    }

    #[test]
    fn generations_go_once_their_content_is_elsewhere() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Journal::open(temp.path(), "usage").unwrap();
        assert!(journal.is_empty());
        journal.append(1, &[b"old"]);
        let sealed = journal.rotate();
        journal.append(1, &[b"new"]);
        assert_eq!(journal.rotate(), sealed + 1);
        journal.remove_before(sealed).unwrap();
        assert_eq!(reopened(temp.path()), [(1, b"new".to_vec())]);
        journal.remove_before(sealed + 1).unwrap();
        assert!(journal.is_empty() && files(temp.path()).unwrap().is_empty());
        // Nothing new: no new generation.
        assert_eq!(journal.rotate(), sealed + 1);
    }

    #[test]
    fn a_torn_or_rotten_tail_is_cut_wherever_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Journal::open(temp.path(), "usage").unwrap();
        journal.append(1, &[b"first"]);
        journal.flush();
        journal.append(1, &[b"second"]);
        journal.rotate();
        journal.append(1, &[b"third"]);
        journal.flush();
        let path = path_of(temp.path(), "usage", 1);
        let whole = fs::read(&path).unwrap();
        let one = MAGIC.len() + 8 + 7;
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let expected = if cut < one { 1 } else { 2 };
            assert_eq!(reopened(temp.path()).len(), expected, "cut at {cut}");
        }
        for at in one..whole.len() {
            let mut rotten = whole.clone();
            rotten[at] ^= 0x40;
            fs::write(&path, &rotten).unwrap();
            assert_eq!(reopened(temp.path()).len(), 2, "rot at {at}");
        }
    }

    #[test]
    fn a_full_buffer_is_written_by_whoever_appends() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Journal::open(temp.path(), "usage").unwrap();
        let entry = vec![7; BUFFER_BYTES_FULL];
        assert!(journal.append(1, &[&entry]));
        for _ in 0..BUFFER_BYTES_MAX / BUFFER_BYTES_FULL {
            journal.append(1, &[&entry]);
        }
        assert!(journal.bytes() > BUFFER_BYTES_MAX as u64 / 2);
        assert!(!reopened(temp.path()).is_empty());
    }

    #[test]
    fn a_failed_write_loses_its_entries_and_no_others() {
        let temp = tempfile::tempdir().unwrap();
        let journal = Journal::open(temp.path(), "usage").unwrap();
        // A folder where the file should be.
        fs::create_dir(path_of(temp.path(), "usage", 1)).unwrap();
        journal.append(1, &[b"lost"]);
        journal.flush();
        journal.append(1, &[b"kept"]);
        journal.flush();
        assert_eq!((journal.lost(), reopened(temp.path())), (1, vec![(1, b"kept".to_vec())]));
    }
}
