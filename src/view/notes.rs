//! State that others keep in the view's folder: a checkpoint, and what was noted since.
//!
//! ```text
//! notes.checkpoint = "optgate notes\x00\x00\x01", CRC32C of the rest: u32, first generation of notes after it: u64,
//!                    count, count × (length of name, name, length of content, content)
//! ```

use std::fs;
use std::io;
use std::path::Path;

use super::bytes::{Reader, Writer};
use super::error::{ViewError, io_error};
use super::folder::write_whole;

const MAGIC: &[u8; 16] = b"optgate notes\x00\x00\x01";

/// A piece of somebody else's state, as [`View::restore_notes`](super::View::restore_notes) hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note<'a> {
    /// A part of the last checkpoint.
    Checkpoint {
        /// Its name.
        name: &'a str,
        /// Its content.
        bytes: &'a [u8],
    },
    /// An entry noted since.
    Entry {
        /// Its tag.
        tag: u8,
        /// Its content.
        bytes: &'a [u8],
    },
}

/// Writes a checkpoint in place of the one before.
pub fn write(path: &Path, from: u64, parts: &[(String, Vec<u8>)]) -> Result<(), ViewError> {
    let mut head = Writer::default();
    head.raw(&from.to_le_bytes());
    head.count(parts.len());
    let mut heads = vec![head.finish()];
    for (name, bytes) in parts {
        let mut head = Writer::default();
        head.text(name);
        head.count(bytes.len());
        heads.push(head.finish());
    }
    // Written as they lie: the contents may be large, and putting them together would double them.
    let bodies = std::iter::once(&[][..]).chain(parts.iter().map(|(_, bytes)| &bytes[..]));
    let pieces: Vec<&[u8]> = heads.iter().zip(bodies).flat_map(|(head, body)| [&head[..], body]).collect();
    let crc = pieces.iter().fold(0, |crc, piece| crc32c::crc32c_append(crc, piece)).to_le_bytes();
    write_whole(path, [&MAGIC[..], &crc].into_iter().chain(pieces))
}

/// Hands back the parts of the checkpoint; the answer is the first generation of notes after it. One that is damaged
/// or missing has no parts, and every note there is comes after it.
pub fn read(path: &Path, each: &mut dyn FnMut(Note<'_>)) -> Result<u64, ViewError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(err) => return Err(io_error("read", path)(err)),
    };
    let content = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk());
    let Some((_, content)) =
        content.filter(|(crc, content)| crc32c::crc32c(content) == u32::from_le_bytes(**crc))
    else {
        tracing::warn!("the checkpoint of the notes is damaged and left out");
        return Ok(0);
    };
    let mut input = Reader::new(content);
    let from = u64::from_le_bytes(input.array()?);
    for _ in 0..input.count()? {
        let name = input.text()?;
        let len = input.count()?;
        each(Note::Checkpoint { name, bytes: input.raw(len)? });
    }
    input.end()?;
    Ok(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_or_counts_as_none() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("notes.checkpoint");
        let read_all = || {
            let mut found = Vec::new();
            let from = read(&path, &mut |note| {
                if let Note::Checkpoint { name, bytes } = note {
                    found.push((name.to_owned(), bytes.to_vec()));
                }
            });
            (from.unwrap(), found)
        };
        assert_eq!(read_all(), (0, vec![]));
        let parts = vec![("buckets".to_owned(), vec![1, 2, 3]), ("recipients".to_owned(), vec![])];
        write(&path, 7, &parts).unwrap();
        assert_eq!(read_all(), (7, parts));
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut rotten = bytes.clone();
            rotten[at] ^= 1;
            fs::write(&path, rotten).unwrap();
            assert_eq!(read_all(), (0, vec![]), "at {at}");
            fs::write(&path, &bytes[..at]).unwrap();
            assert_eq!(read_all(), (0, vec![]), "cut at {at}");
        }
    }
}
