//! Standard output and files, without a panic when the reader goes away.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use super::fault::Fault;

/// Where a command's results go.
pub struct Sink {
    path: PathBuf,
    to: BufWriter<Box<dyn Write + Send>>,
}

impl Sink {
    /// Standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self { path: "standard output".into(), to: BufWriter::new(Box::new(io::stdout())) }
    }

    /// A new file, or standard output where none is named.
    ///
    /// # Errors
    /// [`Fault::File`] if it exists or cannot be made: an earlier export is not overwritten by accident.
    pub fn file(path: Option<&Path>) -> Result<Self, Fault> {
        let Some(path) = path else { return Ok(Self::stdout()) };
        let file = File::create_new(path).map_err(|source| Fault::written(path, source))?;
        Ok(Self { path: path.to_owned(), to: BufWriter::with_capacity(1 << 16, Box::new(file)) })
    }

    /// Writes `text` as it is.
    ///
    /// # Errors
    /// [`Fault::File`], or [`Fault::Closed`] when the reader has gone.
    pub fn write(&mut self, text: &str) -> Result<(), Fault> {
        self.to.write_all(text.as_bytes()).map_err(|source| Fault::written(&self.path, source))
    }

    /// Writes `text` and ends the line.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub fn line(&mut self, text: &str) -> Result<(), Fault> {
        self.write(text)?;
        self.write("\n")
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub fn flush(&mut self) -> Result<(), Fault> {
        self.to.flush().map_err(|source| Fault::written(&self.path, source))
    }
}

/// Prints `text` on standard output, ending its line where it does not end one.
///
/// # Errors
/// As [`Sink::write`].
pub fn print(text: &str) -> Result<(), Fault> {
    let mut sink = Sink::stdout();
    sink.write(text)?;
    if !text.ends_with('\n') {
        sink.write("\n")?;
    }
    sink.flush()
}

/// A word to the person beside the results, on standard error.
pub fn note(text: &str) {
    // With nobody to tell there is nothing else to do.
    let _ = writeln!(io::stderr(), "{}", text.trim_end());
}

/// Asks on standard error and reads one line; `false` unless it is `yes` or where nobody sits at a terminal.
///
/// # Errors
/// [`Fault::File`] when the answer cannot be read.
pub fn confirm(question: &str) -> Result<bool, Fault> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("{question} Type `yes` to go on: ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|source| Fault::read(Path::new("standard input"), source))?;
    Ok(answer.trim().eq_ignore_ascii_case("yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("out.jsonl");
        let mut sink = Sink::file(Some(&path)).expect("is new");
        sink.line("one").and_then(|()| sink.flush()).expect("is written");
        assert_eq!(std::fs::read_to_string(&path).expect("is there"), "one\n");
        assert!(matches!(Sink::file(Some(&path)), Err(Fault::File { .. })));
    }
}
