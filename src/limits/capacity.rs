//! A count of entries with a ceiling, shared by the shards of one table.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many entries a table may have, over all its shards.
pub(super) struct Capacity {
    max: usize,
    used: AtomicUsize,
}

impl Capacity {
    /// Room for `max` entries.
    pub(super) const fn new(max: usize) -> Self {
        Self { max, used: AtomicUsize::new(0) }
    }

    /// Takes room for one entry; `false` when there is none.
    pub(super) fn reserve(&self) -> bool {
        // Relaxed: the number guards no other memory.
        let more = |used| (used < self.max).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Whether one more entry would fit now.
    pub(super) fn has_room(&self) -> bool {
        self.used() < self.max
    }

    /// Gives the room of `count` entries back.
    pub(super) fn release(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }

    /// Entries that exist or are about to.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The ceiling.
    pub(super) const fn max(&self) -> usize {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_past_the_ceiling_is_refused() {
        let capacity = Capacity::new(2);
        assert!(capacity.reserve() && capacity.reserve());
        assert!(!capacity.has_room() && !capacity.reserve());
        capacity.release(1);
        assert!(capacity.has_room() && capacity.reserve() && !capacity.reserve());
        assert_eq!((capacity.used(), capacity.max()), (2, 2));
    }
}
