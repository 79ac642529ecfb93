//! Everybody's usage, one after the other, for a node that lost its own.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::View;
use super::bucket::{buckets_of_shard, key_at, parse};
use super::error::ViewError;
use super::inner::SHARDS;
use crate::policy::ids::Identifier;

impl View {
    /// Hands every identifier's usage part to `each`, until it breaks off. Blocking. No lock is held while `each` runs. What
    /// changes meanwhile may or may not be in it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn each_usage(
        &self,
        each: &mut dyn FnMut(&Identifier, &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ViewError> {
        for shard in 0..SHARDS {
            for (who, usage) in self.inner.usage_of_shard(shard)? {
                if !usage.is_empty() && each(&who, &usage).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl super::inner::Inner {
    /// The usage of a shard's persons: that of the overlay over that of the store. A 256th of all of it is in memory at once.
    fn usage_of_shard(&self, shard: usize) -> Result<HashMap<Identifier, Box<[u8]>>, ViewError> {
        // Whoever holds this is the only one to move persons between overlay and buckets.
        let _stored = self.stored.lock();
        let (mut usage, depth) = {
            let shard = self.shards[shard].lock();
            (shard.dirty_usage(), shard.depth)
        };
        for number in 0..buckets_of_shard(depth) {
            let mut outcome = Ok(());
            self.store.get(&key_at(shard, number, depth), &mut |bucket| {
                outcome = parse(bucket).map(|persons| {
                    for (who, parts) in persons {
                        usage.entry(who).or_insert_with(|| parts.usage.into());
                    }
                });
            })?;
            outcome?;
        }
        Ok(usage)
    }
}
