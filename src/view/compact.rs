//! Writes the journal of usage anew with what the overlay has, once it is much longer than that.
//!
//! Who is sent to again and again has one entry in the overlay and one in the journal for each send. A sweep into the store costs a
//! write of a whole bucket for each of them, a hundred times as much as a line of journal. So as long as the overlay has room, a
//! long journal is made short and the store is left alone.

use std::sync::atomic::Ordering;

use super::error::ViewError;
use super::inner::{Health, Inner, Phase, USAGE};

/// How often in a row the journal is made short before a sweep is due all the same: consent in the overlay has to get into the
/// store, or a start has ever more of the ledger to apply.
const IN_A_ROW_MAX: u32 = 8;

impl Inner {
    /// Whether the journal may be made short in place of a sweep.
    pub fn may_compact(&self) -> bool {
        self.compacted.load(Ordering::Relaxed) < IN_A_ROW_MAX
    }

    /// Makes the journal as short as the overlay is; `false`: it is left as it is, since the disk takes nothing now.
    ///
    /// # Errors
    /// When the store fails, or the old journal cannot be removed.
    pub fn compact_usage(&self) -> Result<bool, ViewError> {
        // Held, so that nothing leaves the overlay meanwhile.
        let _stored = self.stored.lock();
        if self.phase() == Phase::Rebuilding || self.health() != Health::Normal {
            return Ok(false);
        }
        self.compacted.fetch_add(1, Ordering::Relaxed);
        // What left the overlay earlier is in the store, but after a sweep that was cut short only in its memory.
        self.store.flush()?;
        let lost = self.usage.lost();
        let open = self.usage.rotate();
        for shard in &self.shards {
            // Under the lock a change and its entry are one step: what follows in the journal is newer.
            shard.lock().each_usage(|who, usage| {
                self.usage.append(USAGE, &[&who.0, usage]);
            });
        }
        self.usage.flush();
        if self.usage.lost() != lost {
            return Ok(false);
        }
        self.usage.remove_before(open)?;
        Ok(true)
    }
}
