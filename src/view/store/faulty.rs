//! A store in memory for tests: it survives its handles, fails at a chosen write, and crashes.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Store;
use crate::view::error::StoreError;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The disk of a test's stores: what is in it outlives them.
#[derive(Clone, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// As all readers see it.
    now: Map,
    /// As of the last flush.
    flushed: Map,
    /// Writes since then, in order; `None` removes.
    since: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    writes: u64,
    fail_at: Option<u64>,
    failed: bool,
}

impl Disk {
    /// Another store on this disk.
    pub fn store(&self) -> MemoryStore {
        MemoryStore { disk: self.clone() }
    }

    /// Ends the process: of the writes since the last flush the first `keep` stay.
    pub fn crash(&self, keep: usize) {
        let mut state = self.state.lock();
        let state = &mut *state;
        for (key, value) in state.since.drain(..).take(keep) {
            set(&mut state.flushed, key, value);
        }
        state.now = state.flushed.clone();
        state.failed = false;
        state.fail_at = None;
    }

    /// Writes since the last flush.
    pub fn unflushed(&self) -> usize {
        self.state.lock().since.len()
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.state.lock().writes
    }

    /// From the `n`-th write from now on every write and flush fails.
    pub fn fail_after(&self, n: u64) {
        let mut state = self.state.lock();
        state.fail_at = Some(state.writes + n);
    }

    /// Empties it, as a removed folder.
    pub fn wipe(&self) {
        *self.state.lock() = State::default();
    }
}

fn set(map: &mut Map, key: Vec<u8>, value: Option<Vec<u8>>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

/// A store on a [`Disk`].
pub struct MemoryStore {
    disk: Disk,
}

impl MemoryStore {
    fn write(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        let mut state = self.disk.state.lock();
        state.writes += 1;
        if state.failed || state.fail_at.is_some_and(|at| state.writes >= at) {
            state.failed = true;
            return Err(StoreError::Failed("no space left on device".into()));
        }
        let value = value.map(<[u8]>::to_vec);
        state.since.push((key.to_vec(), value.clone()));
        set(&mut state.now, key.to_vec(), value);
        Ok(())
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        let state = self.disk.state.lock();
        let value = state.now.get(key);
        if let Some(value) = value {
            read(value);
        }
        Ok(value.is_some())
    }

    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.write(key, Some(value))
    }

    fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        self.write(key, None)
    }

    fn scan(&self, prefix: &[u8], read: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let state = self.disk.state.lock();
        let from = state.now.range(prefix.to_vec()..);
        from.take_while(|(key, _)| key.starts_with(prefix)).for_each(|(key, value)| read(key, value));
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut state = self.disk.state.lock();
        if state.failed {
            return Err(StoreError::Failed("no space left on device".into()));
        }
        state.since.clear();
        state.flushed = state.now.clone();
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        let state = self.disk.state.lock();
        state.now.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.flush()
    }
}
