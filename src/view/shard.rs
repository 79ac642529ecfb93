//! One shard of the persons: what is not in the store yet, and what was read lately, under one lock.
//!
//! Everything about a person happens under the lock of the person's shard: reading the store too, so that an old
//! value read there can never take the place of a newer one that was drained meanwhile.

use quick_cache::Weighter;
use quick_cache::unsync::{Cache, DefaultLifecycle};
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::bucket::{Layout, Parts, find, key_of};
use super::bytes::Damage;
use super::error::ViewError;
use super::presence::Presence;
use super::record::Person;
use super::store::Store;
use super::usage_log::Index;
use crate::policy::ids::Identifier;

/// What a person in the overlay takes beside its parts: key, table slot, allocations.
pub const DIRTY_BYTES: u64 = 120;
/// What a person in the cache takes beside its parts: key, table slots, allocation, and a share of the table of those
/// evicted lately.
const CACHED_BYTES: u64 = 112;
/// The least that a person in the cache counts for, which sizes its tables: they never shrink, so a flood of persons
/// with nothing known (an import asks for each) would otherwise leave tables several times as large as what they hold.
const CACHED_BYTES_MIN: u64 = 208;
/// The most persons for which a shard's cache makes room up front: some 900 MiB of cache in all.
const RESERVED_MAX: usize = 16_384;
/// What an overlay's table may have room for, times what it holds, before it is made smaller.
const DIRTY_SLACK: usize = 4;
/// A table of this size is not worth making smaller.
const DIRTY_CAPACITY_MIN: usize = 64;

/// The two parts of a person, which change apart from each other and go to different places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Consent,
    Usage,
}

/// Who reads a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A send or a question: what one asks for is likely asked for again.
    Caller,
    /// What the ledger brings: that says nothing of what will be asked, and an import of a million must not push out of the cache whom
    /// sends are about.
    Ledger,
}

/// Parts of a person that are newer than in the store and the log of usage.
#[derive(Clone, Debug, Default)]
struct Dirty {
    /// The whole consent part, if it changed.
    consent: Option<Box<[u8]>>,
    /// The whole usage part, if it changed.
    usage: Option<Box<[u8]>>,
}

impl Dirty {
    fn bytes(&self) -> u64 {
        let len = |part: &Option<Box<[u8]>>| part.as_ref().map_or(0, |part| part.len() as u64);
        DIRTY_BYTES + len(&self.consent) + len(&self.usage)
    }

    /// These parts, and those of `base` that did not change.
    fn over<'a>(&'a self, base: Parts<'a>) -> Parts<'a> {
        Parts {
            consent: self.consent.as_deref().unwrap_or(base.consent),
            usage: self.usage.as_deref().unwrap_or(base.usage),
        }
    }

    const fn part(&self, part: Part) -> &Option<Box<[u8]>> {
        match part {
            Part::Consent => &self.consent,
            Part::Usage => &self.usage,
        }
    }

    const fn part_mut(&mut self, part: Part) -> &mut Option<Box<[u8]>> {
        match part {
            Part::Consent => &mut self.consent,
            Part::Usage => &mut self.usage,
        }
    }
}

/// A part of a person that waits in the overlay.
pub type Pending = (Identifier, Box<[u8]>);

#[derive(Clone)]
struct Weigh;

impl Weighter<Identifier, Box<[u8]>> for Weigh {
    fn weight(&self, _: &Identifier, joined: &Box<[u8]>) -> u64 {
        (CACHED_BYTES + joined.len() as u64).max(CACHED_BYTES_MIN)
    }
}

/// One shard.
pub struct Shard {
    /// How its buckets are laid out in the store.
    pub layout: Layout,
    /// The usage that is neither in the overlay nor, where it is older, in the store.
    pub log: Index,
    /// Who may be in the store.
    pub presence: Presence,
    dirty: FxHashMap<Identifier, Dirty>,
    cache: Cache<Identifier, Box<[u8]>, Weigh, FxBuildHasher>,
    /// Reads that did not need the store.
    pub hits: u64,
    /// Reads that did.
    pub misses: u64,
}

impl Shard {
    /// An empty shard whose cache holds `cache_bytes`.
    pub fn new(layout: Layout, log: Index, cache_bytes: u64) -> Self {
        let items = (cache_bytes / CACHED_BYTES_MIN) as usize;
        let mut cache = Cache::with(items, cache_bytes, Weigh, FxBuildHasher, DefaultLifecycle::default());
        // At once: growing by doubling could leave half of the tables unused for ever. Untouched room costs nothing.
        cache.reserve(items.min(RESERVED_MAX));
        let presence = Presence::unknown();
        Self { layout, log, presence, dirty: FxHashMap::default(), cache, hits: 0, misses: 0 }
    }

    /// Reads a person: overlay over cache over log and store.
    pub fn load(&mut self, who: &Identifier, asker: Asker, store: &dyn Store) -> Result<Person, ViewError> {
        let dirty = self.dirty.get(who);
        if let Some(Dirty { consent: Some(consent), usage: Some(usage) }) = dirty {
            self.hits += 1;
            return Ok(Parts { consent, usage }.decode()?);
        }
        let cached = match asker {
            Asker::Caller => self.cache.get(who),
            Asker::Ledger => self.cache.peek(who),
        };
        if let Some(joined) = cached {
            self.hits += 1;
            return Ok(decode_over(dirty, Parts::split(joined)?)?);
        }
        let absent = self.presence.is_absent(who);
        #[cfg(test)]
        assert!(!(absent && self.is_stored(who, store)), "{who:?} is in the store and was not noted");
        *if absent { &mut self.hits } else { &mut self.misses } += 1;
        // What the overlay hides is not worth a read.
        let logged =
            if dirty.is_some_and(|dirty| dirty.usage.is_some()) { None } else { self.log.read(who)? };
        let mut outcome = Ok((Person::default(), Box::default()));
        let mut read = |parts: Parts<'_>| {
            let base = Parts { usage: logged.as_deref().unwrap_or(parts.usage), ..parts };
            outcome = decode_over(dirty, base).map(|person| (person, base.join()));
        };
        let mut damage = None;
        let mut in_bucket = |bucket: &[u8]| match find(bucket, who) {
            Ok(parts) => read(parts.unwrap_or_default()),
            Err(fault) => damage = Some(fault),
        };
        if absent || !store.get(&key_of(who, self.layout), &mut in_bucket)? {
            read(Parts::default());
        }
        if let Some(fault) = damage {
            return Err(fault.into());
        }
        let (person, joined) = outcome?;
        self.cache.insert(*who, joined);
        Ok(person)
    }

    /// Reads the usage of a person and no consent, which leaves the store alone unless `store` may have some.
    pub fn load_usage(&mut self, who: &Identifier, store: Option<&dyn Store>) -> Result<Person, ViewError> {
        if let Some(usage) = self.dirty.get(who).and_then(|dirty| dirty.usage.as_deref()) {
            return Ok(Person::decode(&[], usage)?);
        }
        // What a peer tells of a person says nothing of what will be asked here.
        if let Some(joined) = self.cache.peek(who) {
            return Ok(Person::decode(&[], Parts::split(joined)?.usage)?);
        }
        if let Some(usage) = self.log.read(who)? {
            return Ok(Person::decode(&[], &usage)?);
        }
        let mut person = Ok(Person::default());
        if let Some(store) = store.filter(|_| !self.presence.is_absent(who)) {
            store.get(&key_of(who, self.layout), &mut |bucket| {
                let parts = find(bucket, who).map(Option::unwrap_or_default);
                person = parts.and_then(|parts| Person::decode(&[], parts.usage));
            })?;
        }
        Ok(person?)
    }

    /// Whether the store has the person, asked as if nothing else were known.
    #[cfg(test)]
    fn is_stored(&self, who: &Identifier, store: &dyn Store) -> bool {
        let mut found = false;
        let mut look = |bucket: &[u8]| found = find(bucket, who).is_ok_and(|parts| parts.is_some());
        store.get(&key_of(who, self.layout), &mut look).is_ok() && found
    }

    /// Forgets what was read.
    #[cfg(test)]
    pub fn forget_read(&mut self) {
        self.cache.clear();
    }

    /// Keeps changed parts; returns by how many bytes the overlay grew or shrank.
    pub fn put(&mut self, who: &Identifier, consent: Option<Vec<u8>>, usage: Option<Vec<u8>>) -> i64 {
        let mut before = 0;
        let dirty = match self.dirty.entry(*who) {
            std::collections::hash_map::Entry::Occupied(entry) => {
                before = entry.get().bytes();
                entry.into_mut()
            }
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Dirty::default()),
        };
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

    /// Hands out the usage that is in the overlay.
    pub fn each_usage(&self, mut each: impl FnMut(&Identifier, &[u8])) {
        for (who, dirty) in &self.dirty {
            if let Some(usage) = &dirty.usage {
                each(who, usage);
            }
        }
    }

    /// Whose `part` is in the overlay, in order.
    pub fn dirty_sorted(&self, part: Part) -> Vec<Identifier> {
        let dirty = self.dirty.iter().filter(|(_, dirty)| dirty.part(part).is_some());
        let mut all: Vec<_> = dirty.map(|(who, _)| *who).collect();
        all.sort_unstable();
        all
    }

    /// A person of whom the store has `stored`, which is older than what the log has.
    pub fn over(&self, who: &Identifier, stored: Parts<'_>) -> Result<Person, ViewError> {
        let logged = self.log.read(who)?;
        let base = Parts { usage: logged.as_deref().unwrap_or(stored.usage), ..stored };
        Ok(decode_over(self.dirty.get(who), base)?)
    }

    /// How many persons are in the overlay.
    pub fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// What the overlay has of these persons' `part`.
    pub fn pending(&self, part: Part, persons: &[Identifier]) -> Vec<Pending> {
        let of = |who: &Identifier| Some((*who, self.dirty.get(who)?.part(part).clone()?));
        persons.iter().filter_map(of).collect()
    }

    /// What `pending` gave is where it belongs: takes it out of the overlay unless it changed again. Returns the bytes freed.
    pub fn settle(&mut self, part: Part, (who, settled): &Pending) -> Result<u64, Damage> {
        let Some(dirty) = self.dirty.get_mut(who) else { return Ok(0) };
        let before = dirty.bytes();
        let Some(settled) = dirty.part_mut(part).take_if(|present| present == settled) else {
            // The cached value stays as it is: the overlay still hides every part of it that is old.
            return Ok(0);
        };
        let freed = if dirty.consent.is_none() && dirty.usage.is_none() {
            self.dirty.remove(who);
            before
        } else {
            before - dirty.bytes()
        };
        if let Some(joined) = self.cache.peek(who) {
            let mut parts = Parts::split(joined)?;
            match part {
                Part::Consent => parts.consent = &settled,
                Part::Usage => parts.usage = &settled,
            }
            let joined = parts.join();
            // In its place, for nobody asked. What has become too heavy for the cache is taken out of it.
            let _unless_too_heavy = self.cache.replace(*who, joined, true);
        }
        Ok(freed)
    }

    /// Gives back the room of an overlay that was fuller than it is. To be called now and then, not with each change.
    pub fn shrink(&mut self) {
        let needed = self.dirty.len().max(DIRTY_CAPACITY_MIN / DIRTY_SLACK);
        if self.dirty.capacity() > DIRTY_SLACK * needed {
            self.dirty.shrink_to(2 * needed);
        }
    }

    /// Forgets what was read and all consent: both are about to come anew, in buckets laid out like this. Usage in the overlay
    /// stays. Returns the bytes freed.
    pub fn forget_consent(&mut self, layout: Layout) -> u64 {
        self.cache.clear();
        self.layout = layout;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Position;
    use crate::view::store::faulty::Disk;

    fn person(n: u32) -> Identifier {
        let mut who = Identifier([0; 32]);
        who.0[..4].copy_from_slice(&n.wrapping_mul(0x9e37_79b9).to_le_bytes());
        who
    }

    #[test]
    fn persons_of_whom_nothing_is_known_do_not_swell_the_cache() {
        const BYTES: u64 = 64 * 1024;
        let (disk, mut shard) = (Disk::default(), Shard::new(Layout::MIN, Index::nowhere(), BYTES));
        let store = disk.store();
        for n in 0..10_000 {
            shard.load(&person(n), Asker::Caller, &store).unwrap();
        }
        let most = (BYTES / CACHED_BYTES_MIN) as usize;
        assert!(shard.cache.len() <= most, "{} of {most}", shard.cache.len());
        assert!(shard.cache.len() > most / 2, "they are remembered all the same");
        let (last, misses) = (person(9_999), shard.misses);
        shard.load(&last, Asker::Caller, &store).unwrap();
        assert_eq!(shard.misses, misses, "the last one is known to be nobody");
    }

    /// A shard whose cache has room for a few more persons than `ACTIVE`, all of them in it as of callers who come back.
    fn with_active(store: &dyn Store) -> Shard {
        let mut shard =
            Shard::new(Layout::MIN, Index::nowhere(), u64::from(ACTIVE + ACTIVE / 10) * CACHED_BYTES_MIN);
        for _ in 0..3 {
            (0..ACTIVE).for_each(|n| drop(shard.load(&person(n), Asker::Caller, store).unwrap()));
        }
        assert_eq!(misses_of_active(&mut shard, store), 0);
        shard
    }

    const ACTIVE: u32 = 500;

    /// The consent of a person who is in the ledger at one place.
    fn consent() -> Vec<u8> {
        Person { trail: vec![Position::from_u64(7)], ..Person::default() }.encode_consent()
    }

    fn misses_of_active(shard: &mut Shard, store: &dyn Store) -> u64 {
        let before = shard.misses;
        (0..ACTIVE).for_each(|n| drop(shard.load(&person(n), Asker::Caller, store).unwrap()));
        shard.misses - before
    }

    #[test]
    fn an_import_pushes_nobody_out_whom_sends_are_about() {
        let disk = Disk::default();
        let store = disk.store();
        let mut shard = with_active(&store);
        for n in ACTIVE..ACTIVE + 20_000 {
            shard.load(&person(n), Asker::Caller, &store).unwrap();
            shard.load(&person(n), Asker::Ledger, &store).unwrap();
            shard.put(&person(n), Some(consent()), None);
            if n % 50 == 0 {
                let all = shard.dirty_sorted(Part::Consent);
                let pending = shard.pending(Part::Consent, &all);
                for pending in &pending {
                    shard.settle(Part::Consent, pending).unwrap();
                }
            }
        }
        assert_eq!(misses_of_active(&mut shard, &store), 0);
    }

    #[test]
    fn what_becomes_too_heavy_leaves_the_cache_and_not_its_old_value() {
        let disk = Disk::default();
        let store = disk.store();
        let mut shard = Shard::new(Layout::MIN, Index::nowhere(), 4_096);
        let who = person(1);
        shard.load(&who, Asker::Caller, &store).unwrap();
        shard.put(&who, None, Some(vec![1; 8_192]));
        let pending = shard.pending(Part::Usage, &[who]);
        shard.settle(Part::Usage, &pending[0]).unwrap();
        assert_eq!(shard.cache.len(), 0);
    }

    #[test]
    fn an_overlay_that_was_drained_gives_its_room_back() {
        let (disk, mut shard) = (Disk::default(), Shard::new(Layout::MIN, Index::nowhere(), 64 * 1024));
        let store = disk.store();
        for n in 0..5_000 {
            shard.put(&person(n), None, Some(vec![1]));
        }
        shard.shrink();
        assert!(shard.dirty.capacity() >= 5_000);
        let all = shard.dirty_sorted(Part::Usage);
        assert!(shard.dirty_sorted(Part::Consent).is_empty());
        for pending in shard.pending(Part::Usage, &all[..4_990]) {
            assert_eq!(shard.settle(Part::Usage, &pending).unwrap(), DIRTY_BYTES + 1);
            assert_eq!(shard.settle(Part::Usage, &pending).unwrap(), 0, "it is gone");
        }
        shard.shrink();
        assert!(shard.dirty.capacity() < 100, "{}", shard.dirty.capacity());
        assert_eq!(shard.dirty_len(), 10);
        assert!(all[4_990..].iter().all(|who| shard.holds_usage(who)), "what is left stays");
        drop(store);
    }
}
