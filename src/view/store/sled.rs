//! sled 0.34.7 as a store. What is known of its faults is handled here and in the view's opening:
//!
//! - Opening may panic and so may any call: all of them are caught, and a caught panic counts as a failure.
//! - A kill while it opens can leave `snap.*.generating`, which reads as corruption ever after: removed before opening.
//! - `flush_async` deadlocks beside another flush: never used. Batches and transactions stop readers: never used.
//! - Its own limit of the cache knows only cgroup v1: the capacity is always given.
//! - Only its own flusher collects garbage, so it has to run; it also syncs the file each time, so it runs seldom.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use parking_lot::RwLock;
use sled::Db;

use super::Store;
use crate::view::error::StoreError;

/// How often sled's flusher writes, syncs and collects garbage, in milliseconds. The view flushes by itself where it matters.
const FLUSH_EVERY_MS: u64 = 1_000;
/// How long to wait between two attempts to take the lock.
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// sled ends a lock's failure in this text and has no type for it.
const LOCK_TEXT: &str = "could not acquire lock";

/// One sled tree.
pub struct SledStore {
    /// Gone once closed.
    db: RwLock<Option<Db>>,
}

impl SledStore {
    /// Opens or makes the store in `dir`, with a page cache of `cache_bytes`, trying for the lock during `lock_wait`.
    pub fn open(dir: &Path, cache_bytes: u64, lock_wait: Duration) -> Result<Self, StoreError> {
        remove_generating(dir).map_err(|err| StoreError::Failed(err.to_string()))?;
        let attempts = 1 + lock_wait.as_millis() / LOCK_RETRY.as_millis();
        for _ in 1..attempts {
            match Self::open_once(dir, cache_bytes) {
                Err(StoreError::Locked) => std::thread::sleep(LOCK_RETRY),
                other => return other,
            }
        }
        Self::open_once(dir, cache_bytes)
    }

    fn open_once(dir: &Path, cache_bytes: u64) -> Result<Self, StoreError> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .mode(sled::Mode::HighThroughput);
        let db = guarded(|| config.open())?;
        Ok(Self { db: RwLock::new(Some(db)) })
    }

    fn with<T>(&self, call: impl FnOnce(&Db) -> sled::Result<T>) -> Result<T, StoreError> {
        let db = self.db.read();
        let db = db.as_ref().ok_or(StoreError::Closed)?;
        guarded(|| call(db))
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        let value = self.with(|db| db.get(key))?;
        if let Some(value) = &value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.with(|db| db.insert(key, value)).map(drop)
    }

    fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        self.with(|db| db.remove(key)).map(drop)
    }

    fn scan(&self, prefix: &[u8], read: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.with(|db| {
            for pair in db.scan_prefix(prefix) {
                let (key, value) = pair?;
                read(&key, &value);
            }
            Ok(())
        })
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.with(|db| db.flush()).map(drop)
    }

    fn size_bytes(&self) -> u64 {
        self.with(|db| db.size_on_disk()).unwrap_or(0)
    }

    fn close(&self) -> Result<(), StoreError> {
        let Some(db) = self.db.write().take() else { return Err(StoreError::Closed) };
        guarded(|| {
            let flushed = db.flush().map(drop);
            // Dropping the last handle ends sled's flusher, which flushes once more.
            drop(db);
            flushed
        })
    }
}

/// Runs `call`; a panic becomes an error.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(err)) => {
            let text = err.to_string();
            Err(if text.contains(LOCK_TEXT) { StoreError::Locked } else { StoreError::Failed(text) })
        }
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(StoreError::Panicked(text.to_owned()))
        }
    }
}

/// Removes snapshots that a kill left half written.
fn remove_generating(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
