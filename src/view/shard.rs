//! One shard of the persons: what is not in the store yet, and what was read lately, under one lock.
//!
//! Everything about a person happens under the lock of the person's shard: reading the store too, so that an old
//! value read there can never take the place of a newer one that was drained meanwhile.

use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::bucket::{Parts, find, key_of};
use super::bytes::Damage;
use super::error::ViewError;
use super::record::Person;
use super::store::Store;
use crate::policy::ids::Identifier;

/// What a person in the overlay takes beside its parts: key, table slot, allocations.
pub const DIRTY_BYTES: u64 = 128;
/// What a person in the cache takes beside its parts.
const CACHED_BYTES: u64 = 112;
/// What a person takes in the cache, roughly; only to size its tables.
const CACHED_BYTES_TYPICAL: u64 = 256;

/// Parts of a person that are newer than in the store.
#[derive(Clone, Debug)]
pub struct Dirty {
    /// The whole consent part, if it changed.
    pub consent: Option<Box<[u8]>>,
    /// The whole usage part, if it changed.
    pub usage: Option<Box<[u8]>>,
    /// Raised by each change, so that a drained state is told from a newer one.
    version: u64,
}

impl Dirty {
    fn bytes(&self) -> u64 {
        let len = |part: &Option<Box<[u8]>>| part.as_ref().map_or(0, |part| part.len() as u64);
        DIRTY_BYTES + len(&self.consent) + len(&self.usage)
    }

    /// These parts, and those of `base` that did not change.
    pub fn over<'a>(&'a self, base: Parts<'a>) -> Parts<'a> {
        Parts {
            consent: self.consent.as_deref().unwrap_or(base.consent),
            usage: self.usage.as_deref().unwrap_or(base.usage),
        }
    }
}

#[derive(Clone)]
struct Weigh;

impl Weighter<Identifier, Box<[u8]>> for Weigh {
    fn weight(&self, _: &Identifier, joined: &Box<[u8]>) -> u64 {
        CACHED_BYTES + joined.len() as u64
    }
}

/// One shard.
pub struct Shard {
    /// The depth of its buckets in the store.
    pub depth: u8,
    dirty: FxHashMap<Identifier, Dirty>,
    cache: Cache<Identifier, Box<[u8]>, Weigh, FxBuildHasher>,
    version: u64,
    /// Reads that did not need the store.
    pub hits: u64,
    /// Reads that did.
    pub misses: u64,
}

impl Shard {
    /// An empty shard whose cache holds `cache_bytes`.
    pub fn new(depth: u8, cache_bytes: u64) -> Self {
        let items = (cache_bytes / CACHED_BYTES_TYPICAL) as usize;
        let cache = Cache::with(items, cache_bytes, Weigh, FxBuildHasher, DefaultLifecycle::default());
        Self { depth, dirty: FxHashMap::default(), cache, version: 0, hits: 0, misses: 0 }
    }

    /// Reads a person: overlay over cache over store.
    pub fn load(&mut self, who: &Identifier, store: &dyn Store) -> Result<Person, ViewError> {
        let dirty = self.dirty.get(who);
        if let Some(Dirty { consent: Some(consent), usage: Some(usage), .. }) = dirty {
            self.hits += 1;
            return Ok(Parts { consent, usage }.decode()?);
        }
        if let Some(joined) = self.cache.get(who) {
            self.hits += 1;
            return Ok(decode_over(dirty, Parts::split(joined)?)?);
        }
        self.misses += 1;
        let mut outcome = Ok((Person::default(), Box::default()));
        let mut read = |bucket: &[u8]| {
            outcome = find(bucket, who).and_then(|parts| {
                let parts = parts.unwrap_or_default();
                Ok((decode_over(dirty, parts)?, parts.join()))
            });
        };
        if !store.get(&key_of(who, self.depth), &mut read)? {
            outcome = decode_over(dirty, Parts::default()).map(|person| (person, Box::default()));
        }
        let (person, joined) = outcome?;
        self.cache.insert(*who, joined);
        Ok(person)
    }

    /// Keeps changed parts; returns by how many bytes the overlay grew or shrank.
    pub fn put(&mut self, who: &Identifier, consent: Option<Vec<u8>>, usage: Option<Vec<u8>>) -> i64 {
        self.version += 1;
        let version = self.version;
        let mut before = 0;
        let dirty = match self.dirty.entry(*who) {
            std::collections::hash_map::Entry::Occupied(entry) => {
                before = entry.get().bytes();
                entry.into_mut()
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Dirty { consent: None, usage: None, version })
            }
        };
        dirty.version = version;
        if let Some(consent) = consent {
            dirty.consent = Some(consent.into_boxed_slice());
        }
        if let Some(usage) = usage {
            dirty.usage = Some(usage.into_boxed_slice());
        }
        dirty.bytes().cast_signed() - before.cast_signed()
    }

    /// Whether the person's usage is in the overlay already, so that a change makes it hardly larger.
    pub fn holds_usage(&self, who: &Identifier) -> bool {
        self.dirty.get(who).is_some_and(|dirty| dirty.usage.is_some())
    }

    /// Who is in the overlay, in order.
    pub fn dirty_sorted(&self) -> Vec<Identifier> {
        let mut all: Vec<_> = self.dirty.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// How many persons are in the overlay.
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// What the overlay has of these.
    pub fn pending(&self, persons: &[Identifier]) -> Vec<(Identifier, Dirty)> {
        persons.iter().filter_map(|who| Some((*who, self.dirty.get(who)?.clone()))).collect()
    }

    /// The store has what `pending` gave, as `stored`: takes it out of the overlay unless it changed again. Returns the bytes freed.
    pub fn settle(&mut self, who: &Identifier, pending: &Dirty, stored: Parts<'_>) -> u64 {
        if self.dirty.get(who).is_none_or(|dirty| dirty.version != pending.version) {
            // The cached value stays as it is: the overlay still hides every part of it that is old.
            return 0;
        }
        self.dirty.remove(who);
        // Removed first: an insertion that is too heavy for the cache must not leave the old value.
        if self.cache.remove(who).is_some() {
            self.cache.insert(*who, stored.join());
        }
        if self.dirty.is_empty() && self.dirty.capacity() > 1_024 {
            self.dirty.shrink_to(64);
        }
        pending.bytes()
    }

    /// Forgets what was read and all consent: both are about to come anew, in buckets of this depth. Usage in the overlay
    /// stays. Returns the bytes freed.
    pub fn forget_consent(&mut self, depth: u8) -> u64 {
        self.cache.clear();
        self.depth = depth;
        let held = |shard: &Self| shard.dirty.values().map(Dirty::bytes).sum::<u64>();
        let before = held(self);
        self.dirty.retain(|_, dirty| {
            dirty.consent = None;
            dirty.usage.is_some()
        });
        before - held(self)
    }
}

fn decode_over(dirty: Option<&Dirty>, base: Parts<'_>) -> Result<Person, Damage> {
    dirty.map_or(base, |dirty| dirty.over(base)).decode()
}
