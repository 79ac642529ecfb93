//! The view's folder: what lies where, what it says of itself, and how it is put away when it cannot be trusted.
//!
//! ```text
//! view/state               of which ledger, since which boot, built or not, closed cleanly or not
//! view/store/              sled
//! view/usage-*.journal     changes of usage that the log may not have yet
//! view/usage-*.log         usage
//! view/notes-*.journal     what others noted since the checkpoint
//! view/notes.checkpoint
//! view/rebuild.spill       while rebuilding
//! view.quarantine-N/       views that could not be trusted, the latest two
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::{ViewError, io_error};

/// How many views that could not be trusted are kept for a look.
pub const QUARANTINES_MAX: usize = 2;
const STATE: &str = "state";
const STATE_FIRST_LINE: &str = "optgate view 1";

/// Names the ledger that a view was built from; a view of another ledger is rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerIdentity(pub [u8; 16]);

/// What the folder says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The ledger it was built from.
    pub ledger: LedgerIdentity,
    /// The machine's boot during which it was opened.
    pub boot: String,
    /// A rebuild was finished.
    pub built: bool,
    /// It was closed in order, and everything synced.
    pub clean: bool,
}

/// The view's folder.
#[derive(Clone, Debug)]
pub struct Folder {
    dir: PathBuf,
}

impl Folder {
    /// Makes the folder where there is none.
    pub fn open(dir: &Path) -> Result<Self, ViewError> {
        make(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub fn spill(&self) -> PathBuf {
        self.dir.join("rebuild.spill")
    }

    pub fn checkpoint(&self) -> PathBuf {
        self.dir.join("notes.checkpoint")
    }

    /// What it says of itself; `None`: nothing that can be believed.
    pub fn state(&self) -> Option<State> {
        parse(&fs::read_to_string(self.dir.join(STATE)).ok()?)
    }

    /// Says `state`, so that it survives a power cut.
    pub fn say(&self, state: &State) -> Result<(), ViewError> {
        write_whole(&self.dir.join(STATE), [render(state).as_bytes()])
    }

    /// Takes the store away, and what was said of it.
    pub fn begin_anew(&self) -> Result<(), ViewError> {
        self.disown()?;
        self.wipe_store()
    }

    /// Unsays everything: the next start rebuilds. It needs no space on the disk.
    pub fn disown(&self) -> Result<(), ViewError> {
        let path = self.dir.join(STATE);
        match fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(err)),
            _ => Ok(()),
        }
    }

    /// Removes the store, to start anew.
    pub fn wipe_store(&self) -> Result<(), ViewError> {
        let path = self.store();
        match fs::remove_dir_all(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(err)),
            _ => Ok(()),
        }
    }

    /// Puts the whole folder away and starts an empty one. What is checked entry by entry (journals, the log of usage, the
    /// checkpoint) moves over if `keep_usage`.
    pub fn quarantine(&self, keep_usage: bool) -> Result<PathBuf, ViewError> {
        let mut known = self.quarantines();
        let number = known.last().map_or(1, |(number, _)| number + 1);
        let mut name = self.dir.file_name().unwrap_or("view".as_ref()).to_owned();
        name.push(format!(".quarantine-{number}"));
        let away = self.dir.with_file_name(name);
        fs::rename(&self.dir, &away).map_err(io_error("rename", &self.dir))?;
        make(&self.dir)?;
        if keep_usage {
            for path in files(&away)? {
                let name = path.file_name().unwrap_or_default().to_owned();
                let text = name.to_string_lossy();
                if text.ends_with(".journal") || text.ends_with(".log") || text == "notes.checkpoint" {
                    fs::rename(&path, self.dir.join(&name)).map_err(io_error("rename", &path))?;
                }
            }
        }
        known.push((number, away.clone()));
        let excess = known.len().saturating_sub(QUARANTINES_MAX);
        for (_, path) in known.drain(..excess) {
            fs::remove_dir_all(&path).map_err(io_error("remove", &path))?;
        }
        Ok(away)
    }

    /// The views put away, oldest first.
    fn quarantines(&self) -> Vec<(u64, PathBuf)> {
        let prefix = format!("{}.quarantine-", self.dir.file_name().unwrap_or_default().to_string_lossy());
        let entries = self.dir.parent().and_then(|parent| fs::read_dir(parent).ok());
        let mut found: Vec<_> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let number = name.to_str()?.strip_prefix(&prefix)?.parse().ok()?;
                Some((number, entry.path()))
            })
            .collect();
        found.sort();
        found
    }

    /// Syncs every file of the store: what sled calls a flush does not survive a power cut.
    pub fn sync_store(&self) -> Result<(), ViewError> {
        sync_all(&self.store())
    }
}

/// Makes a folder that only its owner may look into: keyed hashes are personal data.
fn make(dir: &Path) -> Result<(), ViewError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("make", dir))
}

fn sync_all(dir: &Path) -> Result<(), ViewError> {
    if !dir.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.is_dir() {
            sync_all(&path)?;
        } else {
            sync(&path)?;
        }
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<(), ViewError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("sync", path))
}

/// The plain files of a folder.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>, ViewError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Fills `bytes`; `false`: the file ends before.
pub fn fill(file: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(err) => Err(err),
    }
}

/// Writes a file so that a crash leaves either the old one or the new one.
pub fn write_whole<'a>(path: &Path, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(), ViewError> {
    let new = path.with_extension("new");
    let write = || {
        let mut file = File::create(&new)?;
        for piece in pieces {
            file.write_all(piece)?;
        }
        file.sync_all()?;
        fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(io_error("write", path))
}

/// The machine's present boot; empty where the system does not tell, which counts as another one each time.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn render(state: &State) -> String {
    use std::fmt::Write as _;
    let ledger = state.ledger.0.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    });
    let State { boot, built, clean, .. } = state;
    format!("{STATE_FIRST_LINE}\nledger {ledger}\nboot {boot}\nbuilt {built}\nclean {clean}\nend\n")
}

fn parse(text: &str) -> Option<State> {
    let mut lines = text.lines();
    let mut field = |name: &str| lines.next()?.strip_prefix(name);
    field(STATE_FIRST_LINE)?;
    let ledger = parse_hex(field("ledger ")?)?;
    let boot = field("boot ")?.to_owned();
    let built = field("built ")?.parse().ok()?;
    let clean = field("clean ")?.parse().ok()?;
    field("end")?;
    Some(State { ledger: LedgerIdentity(ledger), boot, built, clean })
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let mut out = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_what_it_was_told() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(&temp.path().join("view")).unwrap();
        assert_eq!(folder.state(), None);
        let state =
            State { ledger: LedgerIdentity([0xa7; 16]), boot: "some-boot".into(), built: true, clean: false };
        folder.say(&state).unwrap();
        assert_eq!(folder.state(), Some(state.clone()));
        let text = fs::read_to_string(folder.dir().join(STATE)).unwrap();
        for cut in 0..text.len() - 1 {
            fs::write(folder.dir().join(STATE), &text[..cut]).unwrap();
            assert_eq!(folder.state(), None, "cut at {cut}");
        }
        folder.say(&state).unwrap();
        folder.disown().unwrap();
        folder.disown().unwrap();
        assert_eq!(folder.state(), None);
    }

    #[test]
    fn two_quarantines_stay_and_usage_moves_over() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(&temp.path().join("view")).unwrap();
        for round in 1..=3 {
            fs::create_dir_all(folder.store()).unwrap();
            fs::write(folder.store().join("db"), format!("{round}")).unwrap();
            fs::write(folder.dir().join("usage-1.journal"), "j").unwrap();
            let away = folder.quarantine(round != 3).unwrap();
            assert!(away.ends_with(format!("view.quarantine-{round}")));
            assert!(!folder.store().exists());
            assert_eq!(folder.dir().join("usage-1.journal").exists(), round != 3);
        }
        let left: Vec<_> = folder.quarantines().into_iter().map(|(number, _)| number).collect();
        assert_eq!(left, [2, 3]);
    }
}
