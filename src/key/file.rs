//! The key's file: one line, `optgate-key-v1` and 64 hex digits, made readable by its owner only.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{ClusterKey, KEY_LEN, Secret, wipe};

const WORD: &str = "optgate-key-v1";
/// More than any key file has; the rest of a longer one is not read.
const FILE_LEN_MAX: usize = 256;
const OWNER_ONLY: u32 = 0o600;
const OTHERS: u32 = 0o007;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileFault {
    /// The file is there already and is left alone.
    #[error("`{}` exists already; a key is never overwritten, since every opt-out depends on it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is no such file.
    #[error("there is no key file `{}`; restore it from a backup, or name it with --key-file", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file's content is something else.
    #[error("`{}` is not a key file; it must hold the line `optgate-key-v1` and 64 hex digits", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes for a key: {0}")]
    NoRandomness(getrandom::Error),
    /// Reading or writing failed.
    #[error("cannot {action} the key file `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A key and what is to be said of its file.
#[derive(Debug)]
pub struct LoadedKey {
    /// The key.
    pub key: ClusterKey,
    /// Others than the owner and its group may read or write the file. It works, but deserves a warning. The group may well read it:
    /// that is how Kubernetes hands a mounted secret to a process that is not root.
    pub open_to_others: bool,
}

impl ClusterKey {
    /// Reads the key from `path`.
    ///
    /// # Errors
    /// When the file is missing, unreadable or not a key file.
    pub fn load(path: &Path) -> Result<LoadedKey, KeyFileFault> {
        let io = |action| move |source| KeyFileFault::Io { action, path: path.to_owned(), source };
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => KeyFileFault::Missing { path: path.to_owned() },
            _ => io("open")(source),
        })?;
        let mode = file.metadata().map_err(io("look at"))?.permissions().mode();
        let mut text = Vec::with_capacity(FILE_LEN_MAX + 1);
        let limit = u64::try_from(FILE_LEN_MAX + 1).unwrap_or(u64::MAX);
        file.take(limit).read_to_end(&mut text).map_err(io("read"))?;
        let bytes = parse(&text);
        wipe(&mut text);
        let bytes = bytes.ok_or_else(|| KeyFileFault::Malformed { path: path.to_owned() })?;
        let open_to_others = mode & OTHERS != 0;
        Ok(LoadedKey { key: Self::from_bytes(&bytes.0), open_to_others })
    }

    /// Makes a new key and writes it to `path`, where nothing may be yet: on the disk, file and
    /// directory entry, when this returns. A crash on the way leaves no half-written key there.
    ///
    /// # Errors
    /// When the file exists, or randomness or the disk fail.
    pub fn create(path: &Path) -> Result<Self, KeyFileFault> {
        let mut bytes = Secret([0; KEY_LEN]);
        getrandom::fill(&mut bytes.0).map_err(KeyFileFault::NoRandomness)?;
        let mut content = line(&bytes).into_bytes();
        let written = write_new(path, &content);
        wipe(&mut content);
        written?;
        Ok(Self::from_bytes(&bytes.0))
    }
}

fn line(key: &Secret) -> String {
    use std::fmt::Write;
    let mut line = String::with_capacity(WORD.len() + 2 * KEY_LEN + 2);
    line.push_str(WORD);
    line.push(' ');
    for byte in key.0 {
        // Writing to a string does not fail.
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    line
}

fn parse(text: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= FILE_LEN_MAX)?;
    let digits = text.trim_ascii_end().strip_prefix(WORD)?.strip_prefix(' ')?.as_bytes();
    if digits.len() != 2 * KEY_LEN {
        return None;
    }
    let mut key = Secret([0; KEY_LEN]);
    for (byte, pair) in key.0.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(key)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Writes a file beside `path` and gives it its name only when it is complete.
fn write_new(path: &Path, content: &[u8]) -> Result<(), KeyFileFault> {
    let io = |action| move |source| KeyFileFault::Io { action, path: path.to_owned(), source };
    let suffix = getrandom::u64().map_err(KeyFileFault::NoRandomness)?;
    let mut name = OsString::from(path);
    name.push(format!(".new-{suffix:016x}"));
    let draft = PathBuf::from(name);
    let written = write_synced(&draft, content).map_err(io("write"));
    // A link, unlike a rename, fails where the name is taken. Not every file system has links.
    let named = written.and_then(|()| {
        let linked = fs::hard_link(&draft, path).or_else(|fault| match fault.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => write_synced(path, content),
            _ => Err(fault),
        });
        linked.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileFault::Exists { path: path.to_owned() },
            _ => io("create")(source),
        })
    });
    // Where even this fails, a key that nothing uses stays behind: untidy, not harmful.
    let _ = fs::remove_file(&draft);
    named?;
    sync_directory_of(path).map_err(io("sync"))
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_new_key_reads_back_and_is_its_owners_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("optgate.key");
        let key = ClusterKey::create(&path).unwrap();
        let loaded = ClusterKey::load(&path).unwrap();
        assert_eq!(loaded.key.check_value(), key.check_value());
        assert!(!loaded.open_to_others);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, OWNER_ONLY);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("optgate-key-v1 ") && text.ends_with('\n') && text.len() == 80,
            "{}",
            text.len()
        );
        assert_eq!(names(directory.path()), ["optgate.key"]);
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("optgate.key");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(ClusterKey::create(&path), Err(KeyFileFault::Exists { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(names(directory.path()), ["optgate.key"]);
    }

    #[test]
    fn keys_differ() {
        let directory = tempfile::tempdir().unwrap();
        let one = ClusterKey::create(&directory.path().join("one")).unwrap();
        let other = ClusterKey::create(&directory.path().join("other")).unwrap();
        assert_ne!(one.check_value(), other.check_value());
    }

    #[test]
    fn a_file_that_others_can_read_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for (mode, expected) in [(0o600, false), (0o440, false), (0o660, false), (0o604, true), (0o602, true)]
        {
            fs::write(&path, line(&Secret([5; KEY_LEN]))).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(ClusterKey::load(&path).unwrap().open_to_others, expected, "{mode:o}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_is_no_key_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(matches!(ClusterKey::load(&path), Err(KeyFileFault::Missing { .. })));
        let digits = "0f".repeat(KEY_LEN);
        for bad in [
            String::new(),
            digits.clone(),
            format!("optgate-key-v2 {digits}"),
            format!("{WORD}  {digits}"),
            format!("{WORD} {}", &digits[1..]),
            format!("{WORD} {digits}0"),
            format!("{WORD} {}zz", &digits[2..]),
            format!("{WORD} {digits}\nmore"),
            format!("{WORD} {digits}{}", "\n".repeat(FILE_LEN_MAX)),
        ] {
            fs::write(&path, &bad).unwrap();
            let fault = ClusterKey::load(&path).unwrap_err();
            assert!(matches!(fault, KeyFileFault::Malformed { .. }), "{bad}: {fault}");
            assert!(!fault.to_string().contains("0f0f"), "{fault}");
        }
        for good in [format!("{WORD} {digits}"), format!("{WORD} {}\r\n\n", digits.to_uppercase())] {
            fs::write(&path, &good).unwrap();
            assert_eq!(
                ClusterKey::load(&path).unwrap().key.check_value(),
                ClusterKey::from_bytes(&[0x0f; KEY_LEN]).check_value()
            );
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let fault = ClusterKey::create(&directory.path().join("no").join("key")).unwrap_err();
        assert!(matches!(fault, KeyFileFault::Io { action: "write", .. }), "{fault}");
    }
}
