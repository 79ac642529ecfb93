//! Lays a shard's buckets out anew: in twice as many when they hold too many persons, and in order when single writes have
//! scattered them.
//!
//! sled keeps a page as up to ten fragments, one for each write since the page was last written whole, and reading a cold page reads
//! each of them. Keys that come in order leave pages of one fragment behind, so that a person in no cache costs a quarter of the reads.
//! A sidecar that takes in little does this by itself; one that takes in much would only do it again.
//!
//! At each moment the store has either the old buckets or all of the new ones, and readers look where the shard's layout says.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use super::bucket::{DEPTH_MAX, PERSONS_PER_BUCKET_MAX, build, key_at, key_of, parse};
use super::drain::{BUCKETS_PER_BREATH, Pace};
use super::error::ViewError;
use super::inner::{Inner, MIB, SHARDS};
use super::meta::Meta;

/// Fewer buckets are on a few pages, which the page cache keeps.
const BUCKETS_MIN: u32 = 64;
/// A shard is scattered from one write for so many buckets on: two for a page.
const BUCKETS_PER_WRITE: u32 = 4;
/// A sidecar is quiet that takes in fewer events than this between two looks, which are a quarter of a second apart: with a million
/// persons what it then puts in order takes a twentieth of a processor.
const QUIET_EVENTS: u64 = 128;
/// Shards that are put in order between two looks at what else there is to do: about a tenth of a second's work.
const SHARDS_PER_LOOK: usize = 8;

/// Whether reading somebody of the shard from the disk takes longer than it should.
fn is_scattered(stored: &Meta, shard: usize) -> bool {
    let buckets = stored.layouts[shard].buckets();
    buckets >= BUCKETS_MIN && stored.scattered[shard] >= buckets / BUCKETS_PER_WRITE
}

/// How many shards are scattered.
pub(super) fn scattered_shards(stored: &Meta) -> usize {
    (0..SHARDS).filter(|shard| is_scattered(stored, *shard)).count()
}

impl Inner {
    /// Whether little was taken in since this was last asked.
    pub(super) fn is_quiet(&self) -> bool {
        let events = self.events.load(Ordering::Relaxed);
        self.events_seen.swap(events, Ordering::Relaxed).abs_diff(events) < QUIET_EVENTS
    }

    /// Puts a few scattered shards in order, those first that are most scattered.
    pub(super) fn order_some(&self) {
        if self.summary.lock().scattered_shards == 0 {
            return;
        }
        // What is left in the place of the old buckets is given back later.
        let needed = self.store.size_bytes() + u64::from(self.config.min_free_mib) * MIB;
        if (self.free_bytes)().is_some_and(|free| free < needed) {
            return;
        }
        // What could not be put in order is where it was.
        let _ordered = self.writing(|stored| {
            let mut scattered: Vec<_> = (0..SHARDS).filter(|shard| is_scattered(stored, *shard)).collect();
            scattered.sort_by_key(|shard| Reverse(stored.scattered[*shard]));
            for shard in scattered.into_iter().take(SHARDS_PER_LOOK) {
                if !self.lay_out(stored, shard, stored.layouts[shard].depth, Pace::Gentle)?
                    || !self.is_quiet()
                {
                    break;
                }
            }
            self.note_stored(stored);
            Ok(true)
        });
    }

    /// Doubles the number of a shard's buckets once they hold too many.
    pub(super) fn split_if_crowded(
        &self,
        stored: &mut Meta,
        shard: usize,
        pace: Pace,
    ) -> Result<bool, ViewError> {
        let layout = stored.layouts[shard];
        if layout.depth == DEPTH_MAX || stored.persons[shard] / layout.buckets() <= PERSONS_PER_BUCKET_MAX {
            return Ok(true);
        }
        self.lay_out(stored, shard, layout.depth + 1, pace)
    }

    /// Writes a shard's buckets in order beside the old ones, of this depth or of one more bit; `false`: it was cut short, and the old
    /// ones stay.
    pub(super) fn lay_out(
        &self,
        stored: &mut Meta,
        shard: usize,
        depth: u8,
        pace: Pace,
    ) -> Result<bool, ViewError> {
        let old = stored.layouts[shard];
        let new = old.beside(depth);
        let parts = new.buckets() / old.buckets();
        let mut persons = 0;
        for number in 0..old.buckets() {
            let mut bucket = Vec::new();
            self.store.get(&key_at(shard, number, old), &mut |bytes| bucket.extend_from_slice(bytes))?;
            let all = if bucket.is_empty() { Vec::new() } else { parse(&bucket)? };
            persons += all.len() as u32;
            let mut left = all.as_slice();
            for number in number * parts..(number + 1) * parts {
                let key = key_at(shard, number, new);
                let (here, behind) = left.split_at(left.partition_point(|(who, _)| key_of(who, new) <= key));
                left = behind;
                // An earlier attempt that was cut short may have left something there.
                if here.is_empty() {
                    self.store.remove(&key)?
                } else {
                    self.store.insert(&key, &build(here))?
                }
            }
            if (number as usize + 1).is_multiple_of(BUCKETS_PER_BREATH) && !self.breathe(pace) {
                return Ok(false);
            }
        }
        (stored.layouts[shard], stored.persons[shard], stored.scattered[shard]) = (new, persons, 0);
        stored.save(&*self.store)?;
        self.shards[shard].lock().layout = new;
        for number in 0..old.buckets() {
            self.store.remove(&key_at(shard, number, old))?;
        }
        Ok(true)
    }
}
