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
use std::time::{Duration, Instant};

use super::bucket::{DEPTH_MAX, PERSONS_PER_BUCKET_MAX, build, key_at, key_of, parse, ranges_beside};
use super::drain::{BUCKETS_PER_BREATH, Pace};
use super::error::ViewError;
use super::inner::{Inner, MIB, SHARDS};
use super::meta::Meta;

/// Fewer buckets are on a few pages, which the page cache keeps.
const BUCKETS_MIN: u32 = 64;
/// A shard is scattered from one write for so many buckets on: two for a page.
const BUCKETS_PER_WRITE: u32 = 4;
/// A sidecar is quiet that takes in fewer changes of consent a second: what it puts in order then takes, with a million persons, a
/// twentieth of a processor.
const QUIET_CHANGES_PER_SECOND: u64 = 512;
/// How long changes are counted before they are compared.
const PULSE_EVERY: Duration = Duration::from_secs(1);
/// After this time whatever else there is to do is looked at before another shard is put in order.
const ORDER_FOR: Duration = Duration::from_millis(500);

/// How much consent is taken in.
#[derive(Debug)]
pub struct Pulse {
    since: Instant,
    changes: u64,
    quiet: bool,
}

impl Pulse {
    /// A start is not quiet.
    pub const fn begin(now: Instant) -> Self {
        Self { since: now, changes: 0, quiet: false }
    }

    fn is_quiet(&mut self, now: Instant, changes: u64) -> bool {
        let passed = now.saturating_duration_since(self.since);
        if passed >= PULSE_EVERY {
            let came = u128::from(changes.saturating_sub(self.changes));
            let quiet = came * 1_000 < u128::from(QUIET_CHANGES_PER_SECOND) * passed.as_millis();
            *self = Self { since: now, changes, quiet };
        }
        self.quiet
    }
}

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
    /// Whether little is taken in.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        self.pulse.lock().is_quiet(now, self.consent_changes.load(Ordering::Relaxed))
    }

    /// Puts some scattered shards in order, those first that are most scattered.
    pub(super) fn order_some(&self) {
        if self.summary.lock().scattered_shards == 0 {
            return;
        }
        // What is left in the place of the old buckets is given back later.
        let needed = self.store.size_bytes() + u64::from(self.config.min_free_mib) * MIB;
        if (self.free_bytes)().is_some_and(|free| free < needed) {
            return;
        }
        let begun = Instant::now();
        // What could not be put in order is where it was.
        let _ordered = self.writing(|stored| {
            let mut scattered: Vec<_> = (0..SHARDS).filter(|shard| is_scattered(stored, *shard)).collect();
            scattered.sort_by_key(|shard| Reverse(stored.scattered[*shard]));
            for shard in scattered {
                let depth = stored.layouts[shard].depth;
                if !self.lay_out(stored, shard, depth, Pace::Idle)? || begun.elapsed() >= ORDER_FOR {
                    break;
                }
            }
            self.note_stored(stored);
            Ok(true)
        });
    }

    /// Doubles the number of a shard's buckets once they hold too many; `false`: it was cut short.
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
        self.remove_left(stored, shard)?;
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
                if !here.is_empty() {
                    self.store.insert(&key, &build(here))?;
                }
            }
            if is_time_to_breathe(number) && !self.breathe(pace) {
                return Ok(false);
            }
        }
        (stored.layouts[shard], stored.persons[shard], stored.scattered[shard]) = (new, persons, 0);
        stored.save(&*self.store)?;
        self.shards[shard].lock().layout = new;
        for number in 0..old.buckets() {
            self.store.remove(&key_at(shard, number, old))?;
            if is_time_to_breathe(number) {
                // Whatever happens: what is removed only gives room, and what was left would stay.
                let _goes_on = self.breathe(pace);
            }
        }
        Ok(true)
    }

    /// Removes what an attempt that was cut short left of a shard in another layout.
    fn remove_left(&self, stored: &Meta, shard: usize) -> Result<(), ViewError> {
        let mut left = Vec::new();
        for range in ranges_beside(shard, stored.layouts[shard]) {
            self.store.scan(&range, &mut |key, _| left.push(key.to_vec()))?;
        }
        left.iter().try_for_each(|key| Ok(self.store.remove(key)?))
    }
}

const fn is_time_to_breathe(number: u32) -> bool {
    (number as usize + 1).is_multiple_of(BUCKETS_PER_BREATH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_not_quiet_and_changes_are_counted_by_time() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let mut pulse = Pulse::begin(begun);
        assert!(!pulse.is_quiet(at(999), 0), "not yet known");
        assert!(pulse.is_quiet(at(1_000), 511));
        assert!(pulse.is_quiet(at(1_001), 5_000), "looking often changes nothing");
        assert!(!pulse.is_quiet(at(2_000), 5_000));
        assert!(!pulse.is_quiet(at(3_000), 5_512), "one too many");
        assert!(pulse.is_quiet(at(13_000), 5_512 + 5_119));
        // Asked by somebody whose look began earlier.
        assert!(pulse.is_quiet(at(12_000), 100_000));
    }
}
