//! Reads the file ahead of the answers, chunk by chunk, in bounded memory.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, Reader, ReaderBuilder, Terminator};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::columns::{Header, Row};
use crate::cli::fault::Fault;
use crate::pb::v1;

/// The most rows of one chunk, as the API bounds it.
pub const ROWS_PER_CHUNK_MAX: usize = 1_000;
/// The size at which a chunk is closed before it has all its rows: half of what the server takes in one message.
const BYTES_PER_CHUNK: usize = 512 << 10;
/// How much of the file is read at once.
const READ_BYTES: usize = 256 << 10;

/// A file to import: opened, hashed, its header read.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    reader: Reader<BufReader<File>>,
    header: Header,
    facts: Facts,
}

/// What is known of a file once all of it was read.
#[derive(Debug, Default)]
struct Facts {
    sha256: String,
    len: u64,
    ends_with_newline: bool,
}

/// A chunk, and what the server does not know of its rows.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The number of its first row.
    pub first_row: u64,
    /// The lines on which its rows begin.
    pub lines: Vec<u64>,
    /// Rows that are sent empty, for the numbers' sake, and why.
    pub faults: Vec<v1::ImportRowError>,
    /// Rows that were widened here.
    pub warnings: Vec<(u64, v1::FieldViolation)>,
    /// Where the file goes on behind it, in bytes.
    pub end_bytes: u64,
    rows: Vec<v1::ImportRow>,
    size_bytes: usize,
}

impl Prepared {
    /// The rows, for sending.
    pub fn take_rows(&mut self) -> v1::ImportChunk {
        v1::ImportChunk { first_row: self.first_row, rows: std::mem::take(&mut self.rows) }
    }

    /// The line on which a row of this chunk begins.
    pub fn line(&self, row: u64) -> Option<u64> {
        let at = usize::try_from(row.checked_sub(self.first_row)?).ok()?;
        self.lines.get(at).copied()
    }

    fn push(&mut self, number: u64, line: u64, read: Row) {
        let Row { row, faults, warnings } = read;
        self.size_bytes += row.encoded_len();
        self.rows.push(row);
        self.lines.push(line);
        if !faults.is_empty() {
            self.faults.push(v1::ImportRowError { row: number, violations: faults });
        }
        self.warnings.extend(warnings.into_iter().map(|warning| (number, warning)));
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_PER_CHUNK_MAX || self.size_bytes >= BYTES_PER_CHUNK
    }
}

impl Source {
    /// Opens a file, hashes it and reads its header. Blocking.
    ///
    /// # Errors
    /// [`Fault::File`] if it cannot be read, [`Fault::Data`] with everything that is wrong with the header.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let failed = |source: io::Error| Fault::read(path, source);
        let mut file = File::open(path).map_err(failed)?;
        let facts = look_through(&mut file).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let mut reader = ReaderBuilder::new()
            .flexible(true)
            .has_headers(false)
            // Not the default, which counts a `\r\n` as a line only when the next record is read. Cells are trimmed later.
            .terminator(Terminator::Any(b'\n'))
            .from_reader(BufReader::with_capacity(READ_BYTES, file));
        let mut record = ByteRecord::new();
        let has_header = reader.read_byte_record(&mut record).map_err(|error| csv_fault(path, error))?;
        if !has_header {
            return Err(Fault::Data(format!("{} is empty; it needs a header", path.display())));
        }
        let header = Header::read(&record)
            .map_err(|faults| Fault::Data(format!("{}: {}", path.display(), faults.join("\n  "))))?;
        Ok(Self { path: path.to_owned(), reader, header, facts })
    }

    /// The file's length in bytes.
    pub const fn len(&self) -> u64 {
        self.facts.len
    }

    /// SHA-256 of the file, as 64 lower-case hex digits.
    pub fn sha256(&self) -> &str {
        &self.facts.sha256
    }

    /// Reads the rows from number `from_row` on and hands over chunks, waiting where nobody takes them. Blocking.
    ///
    /// # Errors
    /// [`Fault::File`]; every whole chunk before was handed over.
    pub fn read(mut self, from_row: u64, ready: &mpsc::Sender<Prepared>) -> Result<(), Fault> {
        let mut record = ByteRecord::new();
        let mut number = 0;
        let mut chunk = Prepared::default();
        while self.reader.read_byte_record(&mut record).map_err(|error| csv_fault(&self.path, error))? {
            if is_blank(&record) {
                continue;
            }
            number += 1;
            if number < from_row {
                continue;
            }
            if chunk.rows.is_empty() {
                chunk.first_row = number;
            }
            chunk.push(number, self.line_of(&record), self.header.row(&record));
            if chunk.is_full() {
                chunk.end_bytes = self.reader.position().byte();
                if ready.blocking_send(std::mem::take(&mut chunk)).is_err() {
                    // The import ended for another reason, which is told elsewhere.
                    return Ok(());
                }
            }
        }
        if !chunk.rows.is_empty() {
            chunk.end_bytes = self.facts.len;
            // As above.
            let _ = ready.blocking_send(chunk);
        }
        Ok(())
    }

    /// The line on which the record that was just read begins: back from where the reader stands now, since blank lines
    /// before it belong to no record.
    fn line_of(&self, record: &ByteRecord) -> u64 {
        let now = self.reader.position();
        let is_cut_off = now.byte() == self.facts.len && !self.facts.ends_with_newline;
        let within = record.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
        now.line().saturating_sub(within + u64::from(!is_cut_off))
    }
}

/// A line with nothing on it is no row.
fn is_blank(record: &ByteRecord) -> bool {
    record.len() == 1 && record.as_slice().trim_ascii().is_empty()
}

fn csv_fault(path: &Path, error: csv::Error) -> Fault {
    match error.into_kind() {
        csv::ErrorKind::Io(source) => Fault::read(path, source),
        // Rows are flexible and read as bytes, so that nothing else can be wrong with them.
        other => Fault::Data(format!("{}: {other:?}", path.display())),
    }
}

fn look_through(file: &mut File) -> io::Result<Facts> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut facts = Facts::default();
    loop {
        let count = file.read(&mut buffer)?;
        let Some(last) = buffer[..count].last() else { break };
        hasher.update(&buffer[..count]);
        facts.len += count as u64;
        facts.ends_with_newline = *last == b'\n';
    }
    facts.sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;
    use std::io::Write as _;

    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text).expect("is written");
        file
    }

    fn chunks(text: &[u8], from_row: u64) -> Vec<Prepared> {
        let file = file(text);
        let source = Source::open(file.path()).expect("is a file");
        let (ready, mut prepared) = mpsc::channel(16);
        source.read(from_row, &ready).expect("is read");
        drop(ready);
        std::iter::from_fn(|| prepared.blocking_recv()).collect()
    }

    fn rows(count: usize) -> String {
        let mut text = String::from("recipient,change\n");
        for row in 0..count {
            writeln!(text, "+1202{row:07},opt_out").expect("is written");
        }
        text
    }

    #[test]
    fn chunks_have_at_most_their_rows_and_follow_each_other() {
        for (count, expected) in [(0, vec![]), (1, vec![1]), (1_000, vec![1]), (1_001, vec![1, 1_001])] {
            let found = chunks(rows(count).as_bytes(), 1);
            assert_eq!(found.iter().map(|chunk| chunk.first_row).collect::<Vec<_>>(), expected, "{count}");
            assert_eq!(found.iter().map(|chunk| chunk.rows.len()).sum::<usize>(), count);
        }
    }

    #[test]
    fn large_rows_close_a_chunk_early() {
        let mut text = String::from("recipient,change,notice_text\n");
        let notice = "x".repeat(8_000);
        for row in 0..100 {
            writeln!(text, "+1202{row:07},opt_in,{notice}").expect("is written");
        }
        let found = chunks(text.as_bytes(), 1);
        assert!(found.len() > 1 && found.iter().all(|chunk| chunk.size_bytes < 1 << 20), "{}", found.len());
        let mut next = 1;
        for chunk in &found {
            assert_eq!(chunk.first_row, next);
            next += chunk.rows.len() as u64;
        }
        assert_eq!(next, 101);
        assert_eq!(found.last().map(|chunk| chunk.end_bytes), Some(text.len() as u64));
    }

    #[test]
    fn a_file_can_be_taken_up_again_with_the_same_numbers() {
        let found = chunks(rows(1_500).as_bytes(), 1_001);
        assert_eq!((found.len(), found[0].first_row, found[0].rows.len()), (1, 1_001, 500));
        assert_eq!(found[0].rows[0].recipient, "+12020001000");
        assert_eq!(found[0].line(1_001), Some(1_002), "the header is line 1");
        assert!(chunks(rows(3).as_bytes(), 9).is_empty());
    }

    #[test]
    fn quoted_line_breaks_and_byte_order_marks_are_understood() {
        let text =
            b"\xef\xbb\xbfrecipient,change,notice_text\r\n+12025550142,opt_in,\"one\ntwo\"\r\n+1,opt_in\r\n";
        let found = chunks(text, 1);
        assert_eq!(found[0].rows[0].notice_text, "one\ntwo");
        assert_eq!(found[0].lines, [2, 4]);
        assert_eq!(found[0].faults.len(), 1, "two cells where the header has three");
        assert_eq!(found[0].rows[1], v1::ImportRow::default(), "sent empty, so that numbers stay");
    }

    #[test]
    fn lines_are_those_of_an_editor() {
        let text = b"recipient,change\n\n\n+1,opt_out\n\r\n  \n+2,opt_out\n+3,\"opt\nout\"\n+4,opt_out";
        let found = chunks(text, 1);
        assert_eq!(found[0].lines, [4, 7, 8, 10]);
        assert_eq!(found[0].rows.len(), 4);
    }

    #[test]
    fn files_that_are_none_are_told() {
        let code =
            |text: &[u8]| Source::open(file(text).path()).map(|_| ()).map_err(|fault| fault.exit_code());
        assert_eq!(code(b""), Err(crate::cli::exit::DATA));
        assert_eq!(code(b"+12025550142,opt_out\n"), Err(crate::cli::exit::DATA));
        assert_eq!(code(b"recipient,change\n"), Ok(()));
        let missing = Source::open(Path::new("/nonexistent/file.csv")).map(|_| ());
        assert!(matches!(missing, Err(Fault::File { .. })));
    }

    #[test]
    fn the_hash_is_the_files() {
        let file = file(b"recipient,change\n");
        let source = Source::open(file.path()).expect("is a file");
        assert_eq!(source.sha256().len(), 64);
        assert_eq!(source.len(), 17);
        let again = Sha256::digest(b"recipient,change\n");
        assert_eq!(source.sha256()[..2], format!("{:02x}", again[0]));
    }
}
