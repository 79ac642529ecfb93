//! The hash table under every limit: compact, and never slow for one caller.
//!
//! A growing `HashMap` moves all its entries at once, tens of milliseconds at a million. Here entries stay
//! where they are, in chunks, chained per bucket; buckets are split one at a time (linear hashing), so
//! every insertion costs about the same. An entry's slot is stable, which lets other structures link to
//! it, and a cursor over the slots finds what may be evicted, a few slots per insertion.
//!
//! Cost beside the entry: 4 bytes for its chain and 4 for its bucket.

/// The end of a chain, and no slot.
pub(super) const NIL: u32 = (1 << 31) - 1;
/// Marks a slot that holds nothing; its link then leads through the vacant slots.
const VACANT: u32 = 1 << 31;
/// The most slots a table may have.
pub(super) const SLOTS_MAX: usize = NIL as usize;
/// Items allocated together.
const CHUNK: usize = 1_024;

/// An entry that carries its own key.
pub(super) trait Entry: Copy {
    /// What it is found by. Keys are keyed hashes, hence spread evenly by nature.
    type Key: Copy + Eq;

    /// The entry's key.
    fn key(&self) -> Self::Key;

    /// The key as an even 64-bit number.
    fn spread(key: &Self::Key) -> u64;
}

/// A list that grows without moving what it holds, but for the first chunk.
struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T> Chunks<T> {
    const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    fn push(&mut self, item: T) {
        if self.len.is_multiple_of(CHUNK) {
            // The first chunk grows with its content: most businesses have few recipients at a time.
            self.chunks.push(if self.len == 0 { Vec::new() } else { Vec::with_capacity(CHUNK) });
        }
        if let Some(last) = self.chunks.last_mut() {
            last.push(item);
            self.len += 1;
        }
    }

    fn at(&self, index: u32) -> &T {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    fn at_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

#[derive(Clone, Copy)]
struct Slot<E> {
    entry: E,
    link: u32,
}

/// The table.
pub(super) struct Chained<E> {
    slots: Chunks<Slot<E>>,
    heads: Chunks<u32>,
    vacant: u32,
    len: usize,
    cursor: u32,
}

impl<E: Entry> Chained<E> {
    /// An empty table, which holds no memory.
    pub(super) const fn new() -> Self {
        Self { slots: Chunks::new(), heads: Chunks::new(), vacant: NIL, len: 0, cursor: 0 }
    }

    /// How many entries there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// How many slots were ever needed at once; slots are numbered below this.
    pub(super) const fn slots(&self) -> u32 {
        self.slots.len as u32 // at most SLOTS_MAX
    }

    /// The slot of `key`.
    pub(super) fn find(&self, key: &E::Key) -> Option<u32> {
        self.find_where(E::spread(key), |entry| entry.key() == *key)
    }

    /// The first slot in the chain of `spread` whose entry `matches`.
    pub(super) fn find_where(&self, spread: u64, matches: impl Fn(&E) -> bool) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        let mut slot = *self.heads.at(self.bucket_of(spread));
        while slot != NIL {
            let found = self.slots.at(slot);
            if matches(&found.entry) {
                return Some(slot);
            }
            slot = found.link;
        }
        None
    }

    /// The entry in an occupied slot.
    pub(super) fn get(&self, slot: u32) -> &E {
        &self.slots.at(slot).entry
    }

    /// The entry in an occupied slot; its key must stay as it is.
    pub(super) fn get_mut(&mut self, slot: u32) -> &mut E {
        &mut self.slots.at_mut(slot).entry
    }

    /// The entry in `slot`, if it is occupied.
    pub(super) fn occupied(&self, slot: u32) -> Option<&E> {
        let found = (slot < self.slots()).then(|| self.slots.at(slot))?;
        (found.link & VACANT == 0).then_some(&found.entry)
    }

    /// Adds an entry whose key is not there yet and says in which slot it is.
    pub(super) fn insert(&mut self, entry: E) -> u32 {
        debug_assert!(self.find(&entry.key()).is_none(), "the caller looked the key up first");
        if self.len >= self.heads.len {
            self.split();
        }
        let bucket = self.bucket_of(E::spread(&entry.key()));
        let link = *self.heads.at(bucket);
        let slot = if self.vacant == NIL {
            self.slots.push(Slot { entry, link });
            self.slots() - 1
        } else {
            let slot = self.vacant;
            let free = self.slots.at_mut(slot);
            self.vacant = free.link & !VACANT;
            *free = Slot { entry, link };
            slot
        };
        *self.heads.at_mut(bucket) = slot;
        self.len += 1;
        slot
    }

    /// Removes the entry of an occupied slot.
    pub(super) fn remove(&mut self, slot: u32) {
        let bucket = self.bucket_of(E::spread(&self.get(slot).key()));
        let after = self.slots.at(slot).link;
        let mut at = *self.heads.at(bucket);
        if at == slot {
            *self.heads.at_mut(bucket) = after;
        } else {
            while self.slots.at(at).link != slot {
                at = self.slots.at(at).link;
            }
            self.slots.at_mut(at).link = after;
        }
        self.slots.at_mut(slot).link = self.vacant | VACANT;
        self.vacant = slot;
        self.len -= 1;
    }

    /// Looks at the next `steps` slots and removes entries that are `idle`; says how many those were.
    pub(super) fn sweep(&mut self, steps: u32, idle: impl Fn(&E) -> bool) -> usize {
        let before = self.len;
        for _ in 0..steps.min(self.slots()) {
            self.cursor = if self.cursor + 1 < self.slots() { self.cursor + 1 } else { 0 };
            if self.occupied(self.cursor).is_some_and(&idle) {
                self.remove(self.cursor);
            }
        }
        before - self.len
    }

    /// The bucket of a spread key while `heads.len` buckets exist: those not split yet take the keys of
    /// their future halves too.
    fn bucket_of(&self, spread: u64) -> u32 {
        let buckets = self.heads.len as u64;
        let mask = buckets.next_power_of_two() - 1;
        let bucket = spread & mask;
        (if bucket < buckets { bucket } else { bucket & (mask >> 1) }) as u32
    }

    /// Adds one bucket and moves there what belongs to it now.
    fn split(&mut self) {
        let added = self.heads.len as u32;
        self.heads.push(NIL);
        if added == 0 {
            return;
        }
        let source = added - (1 << added.ilog2());
        let mut slot = *self.heads.at(source);
        let (mut kept, mut moved) = (NIL, NIL);
        while slot != NIL {
            let next = self.slots.at(slot).link;
            let goes = self.bucket_of(E::spread(&self.get(slot).key())) == added;
            let list = if goes { &mut moved } else { &mut kept };
            self.slots.at_mut(slot).link = *list;
            *list = slot;
            slot = next;
        }
        *self.heads.at_mut(source) = kept;
        *self.heads.at_mut(added) = moved;
    }
}

/// A 64-bit number at 4-byte alignment: an entry of two of them and its chain then takes 20 bytes, not 24.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Word([u32; 2]);

impl Word {
    pub(super) const fn new(value: u64) -> Self {
        Self([value as u32, (value >> 32) as u32])
    }

    pub(super) const fn get(self) -> u64 {
        self.0[0] as u64 | (self.0[1] as u64) << 32
    }

    pub(super) const fn signed(value: i64) -> Self {
        Self::new(value.cast_unsigned())
    }

    pub(super) const fn get_signed(self) -> i64 {
        self.get().cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Pair(u64, u32);

    impl Entry for Pair {
        type Key = u64;

        fn key(&self) -> u64 {
            self.0
        }

        fn spread(key: &u64) -> u64 {
            *key
        }
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in proptest::collection::vec((0u64..200, any::<u32>(), 0u8..4), 1..800)) {
            let mut table = Chained::new();
            let mut oracle = HashMap::new();
            for (key, value, act) in steps {
                match (act, table.find(&key)) {
                    (0, Some(slot)) => {
                        table.remove(slot);
                        oracle.remove(&key);
                    }
                    (1, _) => {
                        let gone = table.sweep(3, |entry: &Pair| entry.1.is_multiple_of(5));
                        let before = oracle.len();
                        oracle.retain(|key, _| table.find(key).is_some());
                        prop_assert_eq!(before - oracle.len(), gone);
                    }
                    (_, Some(slot)) => {
                        table.get_mut(slot).1 = value;
                        oracle.insert(key, value);
                    }
                    (_, None) => {
                        table.insert(Pair(key, value));
                        oracle.insert(key, value);
                    }
                }
                prop_assert_eq!(table.len(), oracle.len());
                let found = table.find(&key).map(|slot| table.get(slot).1);
                prop_assert_eq!(found, oracle.get(&key).copied());
            }
            let all: HashMap<u64, u32> =
                (0..table.slots()).filter_map(|slot| table.occupied(slot)).map(|e| (e.0, e.1)).collect();
            prop_assert_eq!(all, oracle);
        }
    }

    #[test]
    fn slots_are_used_again_and_a_sweep_comes_round() {
        let mut table = Chained::new();
        for key in 0..5_000u64 {
            table.insert(Pair(key, 0));
        }
        assert_eq!(table.sweep(table.slots(), |entry| entry.0 % 2 == 0), 2_500);
        for key in 10_000..12_500u64 {
            table.insert(Pair(key, 1));
        }
        assert_eq!((table.len(), table.slots()), (5_000, 5_000));
        assert!((0..5_000).all(|key| table.find(&key).is_some() == (key % 2 == 1)));
    }

    #[test]
    fn an_entry_of_two_words_takes_24_bytes_with_its_bucket() {
        assert_eq!(size_of::<Slot<(Word, Word)>>() + size_of::<u32>(), 24);
        let value = 0x0123_4567_89ab_cdef;
        assert_eq!(Word::new(value).get(), value);
        assert_eq!(Word::signed(-5).get_signed(), -5);
    }
}
