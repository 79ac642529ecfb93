//! Reads everybody, a shard at a time, beside all that goes on.

use std::ops::ControlFlow;

use super::View;
use super::bucket::{Parts, key_at, key_of, parse};
use super::error::ViewError;
use super::inner::SHARDS;
use super::record::Person;
use super::registry::Entries;
use super::shard::Part;
use crate::policy::ids::Identifier;

impl View {
    /// How many shards there are for [`View::each_of`].
    pub const SHARDS: usize = SHARDS;

    /// Hands everybody of one shard, 0 to [`View::SHARDS`] − 1, to `each`, until it breaks. Whoever was known when the call began is
    /// handed over as known at some moment since; a few persons are read at a time, so that checks of the same shard go on.
    ///
    /// # Errors
    /// When the store cannot be read, or the view is not serving.
    pub fn each_of(
        &self,
        shard: usize,
        mut each: impl FnMut(Identifier, Person) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        let inner = &self.inner;
        let Some(lock) = inner.shards.get(shard) else { return Ok(()) };
        let (mut layout, mut unstored, log) = {
            let shard = lock.lock();
            let mut dirty = shard.dirty_sorted(Part::Consent);
            dirty.extend(shard.dirty_sorted(Part::Usage));
            (shard.layout, dirty, shard.log.clone())
        };
        // Without the lock, since there may be thousands. Who was in the log stays readable there, whatever happens to it meanwhile.
        for logged in log.everybody() {
            unstored.push(logged?.0);
        }
        unstored.sort_unstable();
        unstored.dedup();
        let mut unstored = unstored.as_slice();
        let mut number = 0;
        loop {
            let mut persons = Vec::new();
            {
                let held = lock.lock();
                inner.require_serving()?;
                // Each bucket may have been split in two meanwhile, and those read are the first of them still.
                number <<= held.layout.depth.saturating_sub(layout.depth);
                layout = held.layout;
                if number >= layout.buckets() {
                    return Ok(());
                }
                let key = key_at(shard, number, layout);
                let mut bucket = Vec::new();
                inner.store.get(&key, &mut |bytes| bucket.extend_from_slice(bytes))?;
                let mut stored = if bucket.is_empty() { Vec::new() } else { parse(&bucket)? };
                let here = unstored.iter().take_while(|who| key_of(who, layout) <= key).count();
                for who in &unstored[..here] {
                    if let Err(at) = stored.binary_search_by_key(who, |(who, _)| *who) {
                        stored.insert(at, (*who, Parts::default()));
                    }
                }
                unstored = &unstored[here..];
                for (who, parts) in stored {
                    persons.push((who, held.over(&who, parts)?));
                }
            }
            number += 1;
            for (who, person) in persons {
                if each(who, person).is_break() {
                    return Ok(());
                }
            }
        }
    }

    /// Every template and sender.
    #[must_use]
    pub fn entries(&self) -> Entries {
        self.inner.registry.entries()
    }
}
