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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::time::Timestamp;
    use crate::policy::types::Channel;
    use crate::view::{Config, LedgerIdentity, Touched};

    fn who(number: u16) -> Identifier {
        let mut id = [7; 32];
        // Shards by the high byte, buckets by the low one.
        id[..2].copy_from_slice(&number.rotate_left(8).to_le_bytes());
        Identifier(id)
    }

    fn note(view: &View, number: u16, at: i64) {
        view.update(&who(number), |person| {
            person.usage.instruct(Channel::Sms, Timestamp(at));
            ((), Touched::Usage)
        })
        .unwrap();
    }

    fn all(view: &View) -> Vec<(Identifier, Option<Timestamp>)> {
        let mut found = Vec::new();
        let mut each = |who: &Identifier, usage: &[u8]| {
            let person = crate::view::Person::decode(&[], usage).unwrap();
            found.push((*who, person.usage.instructed(Channel::Sms)));
            ControlFlow::Continue(())
        };
        assert!(view.each_usage(&mut each).unwrap().is_continue());
        found.sort();
        found
    }

    #[test]
    fn everybody_is_told_once_as_of_now_from_store_and_overlay() {
        const PERSONS: u16 = 2_000;
        let dir = tempfile::tempdir().unwrap();
        let config = Config { page_cache_mib: 1, min_free_mib: 0, ..Config::default() };
        let open = || View::open(config.clone(), dir.path(), LedgerIdentity([1; 16])).unwrap().0;
        let view = open();
        view.rebuild().unwrap().finish(crate::ledger::Position::START, |_, _| {}).unwrap();
        (0..PERSONS).for_each(|number| note(&view, number, 1));
        assert_eq!(all(&view).len(), usize::from(PERSONS), "from the overlay");
        view.close().unwrap();
        drop(view);
        let view = open();
        note(&view, 3, 2);
        note(&view, PERSONS, 2);
        let found = all(&view);
        assert_eq!(found.len(), usize::from(PERSONS) + 1);
        let of = |number| found.iter().find(|(id, _)| *id == who(number)).map(|(_, at)| at.unwrap().0);
        assert_eq!((of(2), of(3), of(PERSONS)), (Some(1), Some(2), Some(2)));
        let mut told = 0;
        let mut once = |_: &Identifier, _: &[u8]| {
            told += 1;
            ControlFlow::Break(())
        };
        assert!(view.each_usage(&mut once).unwrap().is_break());
        assert_eq!(told, 1);
        view.close().unwrap();
    }
}
