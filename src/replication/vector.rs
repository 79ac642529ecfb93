//! How far each origin is held: the version vector, with the chain hash of each head so that forks show.

use std::collections::BTreeMap;

use crate::ledger::Head;
use crate::policy::ids::OriginId;

/// The head of each origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads(BTreeMap<OriginId, Head>);

impl Heads {
    /// The head of `origin`, if any of it is held.
    #[must_use]
    pub fn get(&self, origin: OriginId) -> Option<Head> {
        self.0.get(&origin).copied()
    }

    /// The highest sequence of `origin`; 0: none of it is held.
    #[must_use]
    pub fn sequence(&self, origin: OriginId) -> u64 {
        self.get(origin).map_or(0, |head| head.sequence)
    }

    /// Puts `origin` at `head` unless it is as far already. Says whether it moved.
    pub fn raise(&mut self, origin: OriginId, head: Head) -> bool {
        if head.sequence <= self.sequence(origin) {
            return false;
        }
        self.0.insert(origin, head);
        true
    }

    /// All of them, by origin.
    pub fn iter(&self) -> impl Iterator<Item = (OriginId, Head)> + '_ {
        self.0.iter().map(|(origin, head)| (*origin, *head))
    }

    /// How many origins there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(OriginId, Head)> for Heads {
    fn from_iter<I: IntoIterator<Item = (OriginId, Head)>>(heads: I) -> Self {
        Self(heads.into_iter().collect())
    }
}
