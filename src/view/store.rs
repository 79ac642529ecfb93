//! The few things the view asks of a store, behind a trait, so that a test's store can fail and crash.

use std::path::Path;
use std::sync::Arc;

use super::error::StoreError;

#[cfg(test)]
pub mod faulty;
pub mod sled;

/// An ordered map of bytes. One thread writes; many read.
///
/// Writes become durable in their order: what a crash of the process keeps is everything up to some write, and at
/// least everything before the last [`Store::flush`].
pub trait Store: Send + Sync {
    /// Hands the value of `key` to `read`; `false`: there is none.
    fn get(&self, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError>;
    /// Writes one value.
    fn insert(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    /// Takes one key away.
    fn remove(&self, key: &[u8]) -> Result<(), StoreError>;
    /// Hands every key that starts with `prefix`, and its value, to `read`, in order.
    fn scan(&self, prefix: &[u8], read: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError>;
    /// Makes all that was written survive the end of the process.
    fn flush(&self) -> Result<(), StoreError>;
    /// What it takes on disk.
    fn size_bytes(&self) -> u64;
    /// Flushes and lets go; later calls fail.
    fn close(&self) -> Result<(), StoreError>;
}

/// Opens the store in a folder of its own, which may not exist yet.
pub type Opener = Arc<dyn Fn(&Path) -> Result<Box<dyn Store>, StoreError> + Send + Sync>;
