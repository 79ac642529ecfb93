//! Closed origins: those of runs that ended, told to a peer as one hash.
//!
//! The first record that a store numbers in a run names the last one of its run before. Once such a record is held, and what it names
//! is the very head that is held, nothing more of that origin is to be expected, and a peer that holds the same need not be told. What
//! is named at another place than is held (a backup was put back, a store was copied) stays open and is told as ever: so does
//! everything of which nothing is known here. An origin of the present run is never closed, whatever a copy of the store names.
//!
//! Closed is what is known of a head at a moment, no promise: should more of such an origin come to light, it is open again, its
//! change is told like any other, and the hash is another.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::frame::ClosedSet;
use super::vector::Heads;
use crate::ledger::Head;
use crate::policy::ids::OriginId;

/// What first records name. Each record that is held names one place at most, so there are no more of them than origins.
#[derive(Debug, Default)]
pub(super) struct Closed {
    named: BTreeMap<OriginId, Vec<Head>>,
    /// What is told of the set as it is; `None`: it may have changed since.
    told: Option<ClosedSet>,
}

impl Closed {
    /// A record is held that names `head` as the last of `origin`.
    pub(super) fn name(&mut self, origin: OriginId, head: Head) {
        let places = self.named.entry(origin).or_default();
        if !places.contains(&head) {
            places.push(head);
            self.told = None;
        }
    }

    /// `origin` is held further than before, or is one of this run.
    pub(super) fn moved(&mut self, origin: OriginId) {
        if self.named.contains_key(&origin) {
            self.told = None;
        }
    }

    /// Whether `origin`, held up to `head`, is closed.
    pub(super) fn holds(&self, origin: OriginId, head: Head, own: &BTreeSet<OriginId>) -> bool {
        self.named.get(&origin).is_some_and(|places| places.contains(&head)) && !own.contains(&origin)
    }

    /// The closed origins among `held`, by origin.
    pub(super) fn of<'a>(
        &'a self,
        held: &'a Heads,
        own: &'a BTreeSet<OriginId>,
    ) -> impl Iterator<Item = (OriginId, Head)> + 'a {
        let named = self.named.keys().filter_map(move |origin| Some((*origin, held.get(*origin)?)));
        named.filter(move |(origin, head)| self.holds(*origin, *head, own))
    }

    /// What a peer is told of them all.
    pub(super) fn told(&mut self, held: &Heads, own: &BTreeSet<OriginId>) -> ClosedSet {
        if let Some(told) = self.told {
            return told;
        }
        let told = digest(self.of(held, own));
        self.told = Some(told);
        told
    }
}

/// How many they are, and the hash over each of them, which must come by origin.
fn digest(origins: impl Iterator<Item = (OriginId, Head)>) -> ClosedSet {
    let mut count = 0;
    let mut hash = Sha256::new();
    for (origin, head) in origins {
        count += 1;
        hash.update(origin.0);
        hash.update(head.sequence.to_le_bytes());
        #[cfg(sabotage)]
        if crate::sabotage::is("closed-hash-without-heads") {
            continue;
        }
        hash.update(head.hash);
    }
    ClosedSet { count, hash: hash.finalize().into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origin(number: u8) -> OriginId {
        OriginId([number; 16])
    }

    fn head(sequence: u64) -> Head {
        Head { sequence, hash: [sequence as u8; 32] }
    }

    fn told(held: &[(OriginId, Head)]) -> ClosedSet {
        let mut closed = Closed::default();
        held.iter().for_each(|(origin, head)| closed.name(*origin, *head));
        closed.told(&held.iter().copied().collect(), &BTreeSet::new())
    }

    #[test]
    fn the_hash_is_sensitive_to_each_part_and_to_nothing_else() {
        let base = [(origin(1), head(5)), (origin(2), head(9))];
        let whole = told(&base);
        assert_eq!(whole.count, 2);
        let changed = [
            vec![(origin(3), head(5)), base[1]],
            vec![(origin(1), Head { sequence: 6, ..head(5) }), base[1]],
            vec![(origin(1), Head { hash: [9; 32], ..head(5) }), base[1]],
            vec![(origin(1), head(9)), (origin(2), head(5))],
            vec![base[0]],
            vec![base[0], base[1], (origin(3), head(1))],
        ];
        for other in changed {
            assert_ne!(told(&other), whole, "{other:?}");
        }
        assert_eq!(told(&[]).count, 0);
        // What is open beside them is not in it.
        let mut closed = Closed::default();
        base.iter().for_each(|(origin, head)| closed.name(*origin, *head));
        let held = base.into_iter().chain([(origin(7), head(3))]).collect();
        assert_eq!(closed.told(&held, &BTreeSet::new()), whole);
    }

    proptest! {
        #[test]
        fn the_hash_does_not_depend_on_the_order_of_arrival(
            (heads, shuffled) in proptest::collection::btree_map(any::<[u8; 16]>(), (1u64..99, any::<[u8; 32]>()), 1..20)
                .prop_map(|heads| heads.into_iter().map(|(id, (sequence, hash))| (OriginId(id), Head { sequence, hash })).collect::<Vec<_>>())
                .prop_flat_map(|heads| (Just(heads.clone()), Just(heads).prop_shuffle())),
        ) {
            prop_assert_eq!(told(&heads), told(&shuffled));
        }
    }

    #[test]
    fn closed_is_what_is_held_exactly_as_far_as_it_is_named() {
        let mut closed = Closed::default();
        let mut held: Heads = [(origin(1), head(5))].into_iter().collect();
        let own = BTreeSet::new();
        let all = |closed: &Closed, held: &Heads| closed.of(held, &own).count();
        assert_eq!(all(&closed, &held), 0, "nobody names it");
        // A backup was put back: its next run names an earlier place.
        closed.name(origin(1), head(3));
        assert_eq!(all(&closed, &held), 0);
        // The run that really followed names the last.
        closed.name(origin(1), head(5));
        assert_eq!(all(&closed, &held), 1);
        assert_eq!(closed.told(&held, &own).count, 1);
        // More of it comes to light.
        held.raise(origin(1), head(6));
        closed.moved(origin(1));
        assert_eq!(closed.told(&held, &own), told(&[]));
        // What is named and not held, or held with another hash, is not closed.
        closed.name(origin(2), head(4));
        assert_eq!(all(&closed, &held), 0);
        held.raise(origin(2), Head { hash: [0xee; 32], ..head(4) });
        assert_eq!(all(&closed, &held), 0);
    }

    #[test]
    fn an_origin_of_this_run_is_open_whatever_a_copy_names() {
        let mut closed = Closed::default();
        let held = [(origin(1), head(5))].into_iter().collect();
        closed.name(origin(1), head(5));
        assert_eq!(closed.told(&held, &BTreeSet::new()).count, 1);
        closed.moved(origin(1));
        assert_eq!(closed.told(&held, &BTreeSet::from([origin(1)])), told(&[]));
    }
}
