//! Where in the file the usage of a shard's persons is, and how it is read there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{HEAD_LEN, USAGE_LEN_MAX};
use crate::policy::ids::Identifier;
use crate::view::bytes::Damage;
use crate::view::error::{ViewError, io_error};

/// What one read fetches: the usage of nearly everybody.
pub const READ_LEN: usize = 256;

/// A file of entries.
#[derive(Debug)]
pub struct LogFile {
    pub path: PathBuf,
    pub file: File,
}

/// Where a person's last entry starts. The part of the identifier behind the first byte, which names the shard, stands for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub key: [u8; 8],
    at: u32,
}

impl Place {
    /// The entry of `who` starts at `at`.
    pub fn of(who: &Identifier, at: u32) -> Self {
        Self { key: key_of(who), at }
    }
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
    /// Of what was found in a file, in its order: the last place of each person holds.
    pub fn of(file: &Arc<LogFile>, mut places: Vec<Place>) -> Self {
        // Each sweep wrote them in order, and this sort uses that.
        places.sort();
        places.reverse();
        places.dedup_by_key(|place| place.key);
        places.reverse();
        Self { file: Arc::clone(file), places: places.into() }
    }

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
    pub fn with(&self, newer: &[Place]) -> (Self, usize) {
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
    /// The entry that starts at `at`.
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

/// The head of an entry: checksum, length of usage, person.
pub fn head(bytes: &[u8]) -> Option<(u32, u32, Identifier)> {
    let (sum, rest) = bytes.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (who, _) = rest.split_first_chunk()?;
    Some((u32::from_le_bytes(*sum), u32::from_le_bytes(*len), Identifier(*who)))
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
