//! Locks that make one person's consent changes take turns.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::policy::ids::Identifier;

/// How many locks there are: persons share them by their identifier.
const STRIPES: usize = 1024;

/// Some persons' turn, until it is dropped or cleared.
pub type Turn = Vec<OwnedMutexGuard<()>>;

/// The locks.
pub struct Stripes(Vec<Arc<Mutex<()>>>);

impl Default for Stripes {
    fn default() -> Self {
        Self((0..STRIPES).map(|_| Arc::default()).collect())
    }
}

impl Stripes {
    /// Waits for the turn of all of `ids` at once.
    pub async fn lock(&self, ids: &[Identifier]) -> Turn {
        // In ascending order, so that two calls can never wait for each other.
        let mut stripes: Vec<usize> = ids.iter().map(stripe).collect();
        stripes.sort_unstable();
        stripes.dedup();
        let mut guards = Vec::with_capacity(stripes.len());
        for at in stripes {
            guards.push(Arc::clone(&self.0[at]).lock_owned().await);
        }
        guards
    }
}

fn stripe(id: &Identifier) -> usize {
    usize::from(u16::from_le_bytes([id.0[0], id.0[1]])) % STRIPES
}
