//! Keeps the journal of usage short, moves usage out of memory into its log, and from there into the store once the index has too many
//! persons.
//!
//! Usage always goes through the log: what the log has of a person is never older than what the store has, whatever a crash keeps of
//! either.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use super::bucket::key_of;
use super::drain::{BUCKETS_PER_BREATH, PERSONS_PER_LOCK, Pace};
use super::error::ViewError;
use super::inner::{Inner, MIB, SHARDS, USAGE};
use super::meta::Meta;
use super::shard::{Part, Pending};
use super::usage_log::UsageLog;

/// A log of more bytes than this gives some of its persons to the store: places in it are 32 bits long.
const LOG_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Shards that go into the store together, before it is flushed and the log written anew without them.
const SHARDS_PER_MERGE: usize = 32;

impl Inner {
    /// Writes the journal anew with what the overlay has: what has left that is in the log. `false`: the journal is left as it is, since
    /// the disk takes nothing now.
    ///
    /// # Errors
    /// When the old journal cannot be removed.
    pub fn shorten_journal(&self) -> Result<bool, ViewError> {
        self.writing(|_| {
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
        })
    }

    /// Moves all usage that was changed before the call from the overlay to the log; `false`: not all of it.
    pub(super) fn drain_usage(&self, stored: &mut Meta, pace: Pace) -> Result<bool, ViewError> {
        if self.usage.is_empty() && self.overlay_bytes() == 0 {
            return Ok(true);
        }
        let mut log = self.log.lock();
        if log.bytes() > LOG_BYTES_MAX {
            // An earlier attempt was cut short, and what is moved now still needs a place.
            self.tidy(stored, &mut log, pace)?;
        }
        let open = self.usage.rotate();
        for shard in 0..SHARDS {
            self.move_shard(&mut log, shard)?;
            if !self.breathe(pace) {
                return Ok(false);
            }
        }
        if let Err(err) = self.usage.remove_before(open) {
            // It is tried again after the next sweep; until then a start reads more than it needs to.
            tracing::warn!(fault = %err, "a drained journal could not be removed");
        }
        self.tidy(stored, &mut log, pace)?;
        self.note_log(&log);
        self.note_stored(stored);
        Ok(true)
    }

    /// Keeps the log within its bounds and without too much that is old. What cannot be done now is tried again after the next sweep.
    fn tidy(&self, stored: &mut Meta, log: &mut UsageLog, pace: Pace) -> Result<(), ViewError> {
        let tidied = self
            .make_room(stored, log, pace)
            .and_then(|done| if done && log.is_stale() { self.renew(log, pace) } else { Ok(done) });
        match tidied {
            Ok(_) => Ok(()),
            Err(err) if err.is_passing() => {
                tracing::warn!(fault = %err, "the log of usage could not be written anew; it is tried again");
                Ok(())
            }
            Err(err) => Err(err),
        }
    }

    fn move_shard(&self, log: &mut UsageLog, shard: usize) -> Result<(), ViewError> {
        let (persons, index) = {
            let shard = self.shards[shard].lock();
            (shard.dirty_sorted(Part::Usage), shard.log.clone())
        };
        if persons.is_empty() {
            return Ok(());
        }
        let pending: Vec<Pending> = persons
            .chunks(PERSONS_PER_LOCK)
            .flat_map(|some| self.shards[shard].lock().pending(Part::Usage, some))
            .collect();
        let index = log.append(&index, pending.iter().map(|(who, usage)| (who, &**usage)))?;
        self.shards[shard].lock().log = index;
        self.settle(shard, Part::Usage, &pending)?;
        self.shards[shard].lock().shrink();
        Ok(())
    }

    /// Writes the log anew without what is old in it; `false`: it was cut short.
    fn renew(&self, log: &mut UsageLog, pace: Pace) -> Result<bool, ViewError> {
        let needed = log.live_bytes() + u64::from(self.config.min_free_mib) * MIB;
        if (self.free_bytes)().is_some_and(|free| free < needed) {
            return Ok(false);
        }
        // What is no longer in the index is in the store, but perhaps only in its memory.
        self.store.flush()?;
        let mut renewal = log.renew()?;
        for shard in &self.shards {
            let index = shard.lock().log.clone();
            renewal.copy(&index)?;
            if !self.breathe(pace) {
                return Ok(false);
            }
        }
        log.replace(renewal, |indexes| {
            for (shard, index) in self.shards.iter().zip(indexes) {
                shard.lock().log = index;
            }
        })?;
        Ok(true)
    }

    /// Gives shards to the store, the fullest first, until the log is within its bounds; `false`: it was cut short.
    fn make_room(&self, stored: &mut Meta, log: &mut UsageLog, pace: Pace) -> Result<bool, ViewError> {
        let max = u64::from(self.config.usage_persons_max);
        if log.bytes() > LOG_BYTES_MAX && log.is_mostly_old() && !self.renew(log, pace)? {
            return Ok(false);
        }
        for _ in 0..SHARDS.div_ceil(SHARDS_PER_MERGE) {
            if log.persons() <= max && log.bytes() <= LOG_BYTES_MAX {
                break;
            }
            stored.expect_usage(&*self.store)?;
            self.usage_in_store.store(true, Ordering::Release);
            let mut fullest: Vec<usize> = (0..SHARDS).collect();
            fullest.sort_by_cached_key(|shard| Reverse(self.shards[*shard].lock().log.len()));
            for shard in &fullest[..SHARDS_PER_MERGE] {
                if !self.merge_shard(stored, log, *shard, pace)? {
                    return Ok(false);
                }
            }
            if !self.renew(log, pace)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Brings what the log has of a shard into the store; `false`: it was cut short.
    fn merge_shard(
        &self,
        stored: &mut Meta,
        log: &mut UsageLog,
        shard: usize,
        pace: Pace,
    ) -> Result<bool, ViewError> {
        let (index, layout) = {
            let shard = self.shards[shard].lock();
            (shard.log.clone(), shard.layout)
        };
        let everybody = index.everybody().collect::<Result<Vec<Pending>, _>>()?;
        for (nth, bucket) in
            everybody.chunk_by(|(a, _), (b, _)| key_of(a, layout) == key_of(b, layout)).enumerate()
        {
            self.write_bucket(stored, Part::Usage, bucket)?;
            if nth % BUCKETS_PER_BREATH == BUCKETS_PER_BREATH - 1 && !self.breathe(pace) {
                return Ok(false);
            }
        }
        self.shards[shard].lock().log = index.emptied();
        log.forget(index.len());
        self.split_if_crowded(stored, shard, pace)
    }
}
