//! Several persons under one key of the store: sled pays per key, in memory and in time.
//!
//! Identifiers are keyed hashes, so their first bits spread them evenly. A person's bucket is named by the first
//! `depth` bits; all buckets of a shard (the first byte) have the same depth, which grows with the shard. Each layout of a shard has a
//! range of keys of its own, so that another one can be written from the first bucket to the last beside it.
//!
//! ```text
//! key    = 'b', shard, layout, the bits behind the shard's, left-aligned in 3 bytes
//! bucket = version, count, count × (identifier: 32 bytes, length of consent, length of usage, consent, usage)
//! person = length of consent, consent, usage                                (as the record cache holds it)
//! ```

use super::bytes::{Damage, Reader, put_varint};
use super::record::Person;
use crate::policy::ids::Identifier;

/// The version that a bucket starts with.
const VERSION: u8 = 1;
/// Bits that name a shard: a bucket never spans two.
pub const DEPTH_MIN: u8 = 8;
/// Bits that a key can hold.
pub const DEPTH_MAX: u8 = 32;
/// A shard whose buckets hold more persons than this on average gets twice as many buckets.
pub const PERSONS_PER_BUCKET_MAX: u32 = 4;

/// The key of a bucket.
pub type Key = [u8; 6];

/// How the buckets of a shard are laid out in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many bits name a bucket, from [`DEPTH_MIN`] to [`DEPTH_MAX`].
    pub depth: u8,
    /// In which of two ranges of keys they lie.
    pub other_side: bool,
}

impl Layout {
    /// One bucket.
    pub const MIN: Self = Self::new(DEPTH_MIN);

    /// Buckets that nothing was laid out for before.
    pub const fn new(depth: u8) -> Self {
        Self { depth, other_side: false }
    }

    /// The layout that `persons` of one shard fit in.
    pub fn for_persons(persons: u32) -> Self {
        let roomy = |depth: &u8| persons / Self::new(*depth).buckets() <= PERSONS_PER_BUCKET_MAX;
        Self::new((DEPTH_MIN..DEPTH_MAX).find(roomy).unwrap_or(DEPTH_MAX))
    }

    /// Where buckets of `depth` can be written beside these.
    pub const fn beside(self, depth: u8) -> Self {
        Self { depth, other_side: !self.other_side }
    }

    /// How many buckets a shard has.
    pub const fn buckets(self) -> u32 {
        1 << (self.depth - DEPTH_MIN)
    }

    /// As one byte.
    pub const fn byte(self) -> u8 {
        self.depth | if self.other_side { OTHER_SIDE } else { 0 }
    }

    /// Reads what [`Layout::byte`] wrote.
    pub fn from_byte(byte: u8) -> Result<Self, Damage> {
        let (depth, other_side) = (byte & !OTHER_SIDE, byte & OTHER_SIDE != 0);
        let known = (DEPTH_MIN..=DEPTH_MAX).contains(&depth);
        known.then_some(Self { depth, other_side }).ok_or(Damage("layout"))
    }
}

/// The bit of a layout's byte that tells the side.
const OTHER_SIDE: u8 = 0x80;

/// The two parts of a person, encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts<'a> {
    pub consent: &'a [u8],
    pub usage: &'a [u8],
}

impl<'a> Parts<'a> {
    pub fn decode(self) -> Result<Person, Damage> {
        Person::decode(self.consent, self.usage)
    }

    /// As one run of bytes; nobody known has none.
    pub fn join(self) -> Box<[u8]> {
        if self.consent.is_empty() && self.usage.is_empty() {
            return Box::default();
        }
        // Reserved exactly: what the cache holds should not have to be copied again to lose its slack.
        let mut len = Vec::with_capacity(5);
        put_varint(&mut len, self.consent.len() as u64);
        let mut out = Vec::with_capacity(len.len() + self.consent.len() + self.usage.len());
        out.extend(len);
        out.extend_from_slice(self.consent);
        out.extend_from_slice(self.usage);
        out.into_boxed_slice()
    }

    /// Takes apart what [`Parts::join`] made.
    pub fn split(joined: &'a [u8]) -> Result<Self, Damage> {
        if joined.is_empty() {
            return Ok(Self::default());
        }
        let mut input = Reader::new(joined);
        let len = input.count()?;
        Ok(Self { consent: input.raw(len)?, usage: input.rest() })
    }
}

/// The shard of a person.
pub const fn shard_of(who: &Identifier) -> usize {
    who.0[0] as usize
}

/// What the keys of a shard's buckets start with, in each layout that it may have had but this one.
pub fn ranges_beside(shard: usize, layout: Layout) -> impl Iterator<Item = [u8; 3]> {
    let all =
        (DEPTH_MIN..=DEPTH_MAX).flat_map(|depth| [Layout::new(depth), Layout::new(depth).beside(depth)]);
    all.filter(move |other| *other != layout).map(move |other| {
        let [b, shard, other, ..] = key_at(shard, 0, other);
        [b, shard, other]
    })
}

/// The key of the bucket of a person.
pub fn key_of(who: &Identifier, layout: Layout) -> Key {
    let [a, b, c, d, ..] = who.0;
    key(u32::from_be_bytes([a, b, c, d]), layout)
}

/// The key of bucket number `number` of `shard`.
pub fn key_at(shard: usize, number: u32, layout: Layout) -> Key {
    let first = (shard as u32) << (DEPTH_MAX - DEPTH_MIN);
    let step = number.checked_shl(u32::from(DEPTH_MAX - layout.depth)).unwrap_or(0);
    key(first | step, layout)
}

fn key(bits: u32, layout: Layout) -> Key {
    let [shard, b, c, d] = (bits & u32::MAX << (DEPTH_MAX - layout.depth)).to_be_bytes();
    [b'b', shard, layout.byte(), b, c, d]
}

/// The person named `who`, if the bucket has it.
pub fn find<'a>(bucket: &'a [u8], who: &Identifier) -> Result<Option<Parts<'a>>, Damage> {
    let mut found = None;
    walk(bucket, |at, parts| {
        if at == &who.0 {
            found = Some(parts);
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Everybody in a bucket, in order.
pub fn parse(bucket: &[u8]) -> Result<Vec<(Identifier, Parts<'_>)>, Damage> {
    let mut all = Vec::new();
    walk(bucket, |at, parts| {
        all.push((Identifier(*at), parts));
        true
    })?;
    Ok(all)
}

fn walk<'a>(bucket: &'a [u8], mut each: impl FnMut(&'a [u8; 32], Parts<'a>) -> bool) -> Result<(), Damage> {
    let mut input = Reader::new(bucket);
    if input.byte()? != VERSION {
        return Err(Damage("version"));
    }
    for _ in 0..input.count()? {
        let (at, _) = input.raw(32)?.split_first_chunk().ok_or(Damage("end"))?;
        let (consent, usage) = (input.count()?, input.count()?);
        let parts = Parts { consent: input.raw(consent)?, usage: input.raw(usage)? };
        if !each(at, parts) {
            return Ok(());
        }
    }
    input.end()
}

/// A bucket of these persons, who come in order.
pub fn build(persons: &[(Identifier, Parts<'_>)]) -> Vec<u8> {
    let lens = persons.iter().map(|(_, parts)| 36 + parts.consent.len() + parts.usage.len());
    let mut out = Vec::with_capacity(3 + lens.sum::<usize>());
    out.push(VERSION);
    put_varint(&mut out, persons.len() as u64);
    for (who, parts) in persons {
        out.extend_from_slice(&who.0);
        put_varint(&mut out, parts.consent.len() as u64);
        put_varint(&mut out, parts.usage.len() as u64);
        out.extend_from_slice(parts.consent);
        out.extend_from_slice(parts.usage);
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_of_a_layout_lie_side_by_side_and_apart_from_those_of_another() {
        let who = Identifier([0xab; 32]);
        let at = Layout::new;
        assert_eq!(key_of(&who, at(8)), [b'b', 0xab, 8, 0, 0, 0]);
        assert_eq!(key_of(&who, at(12)), [b'b', 0xab, 12, 0xa0, 0, 0]);
        assert_eq!(key_of(&who, at(12).beside(13)), [b'b', 0xab, 0x80 | 13, 0xa8, 0, 0]);
        assert_eq!(key_of(&who, at(32)), [b'b', 0xab, 32, 0xab, 0xab, 0xab]);
        assert_eq!(key_at(0xab, 0, at(8)), key_of(&who, at(8)));
        assert_eq!(key_at(0xab, 0xa, at(12)), key_of(&who, at(12)));
        assert_eq!(key_at(0xab, 0xab_abab, at(32)), key_of(&who, at(32)));
    }

    #[test]
    fn a_layout_reads_back() {
        for depth in DEPTH_MIN..=DEPTH_MAX {
            let here = Layout::new(depth);
            let there = here.beside(depth);
            assert_eq!(there.beside(depth), here);
            for layout in [here, there] {
                assert_eq!(Layout::from_byte(layout.byte()), Ok(layout));
            }
        }
        for byte in [0, DEPTH_MIN - 1, DEPTH_MAX + 1, OTHER_SIDE, OTHER_SIDE | (DEPTH_MAX + 1), u8::MAX] {
            assert!(Layout::from_byte(byte).is_err(), "{byte}");
        }
    }

    #[test]
    fn a_shard_has_room_for_its_persons() {
        for (persons, depth) in [(0, 8), (4, 8), (5, 9), (9, 9), (10, 10), (4_000, 18), (u32::MAX, 32)] {
            assert_eq!(Layout::for_persons(persons), Layout::new(depth), "{persons}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = find(&bytes, &Identifier([1; 32]));
            let _ = Parts::split(&bytes);
            let mut versioned = vec![VERSION];
            versioned.extend(bytes);
            let _ = parse(&versioned);
        }

        #[test]
        fn buckets_read_back(parts in proptest::collection::btree_map(
            any::<[u8; 32]>(), (proptest::collection::vec(any::<u8>(), 0..300), proptest::collection::vec(any::<u8>(), 0..40)), 0..12,
        )) {
            let persons: Vec<_> = parts
                .iter()
                .map(|(id, (consent, usage))| (Identifier(*id), Parts { consent, usage }))
                .collect();
            let bucket = build(&persons);
            prop_assert_eq!(&parse(&bucket).unwrap(), &persons);
            for (who, parts) in &persons {
                prop_assert_eq!(find(&bucket, who).unwrap(), Some(*parts));
                let joined = parts.join();
                prop_assert_eq!(Parts::split(&joined).unwrap(), *parts);
            }
            prop_assert_eq!(find(&bucket, &Identifier([7; 32])).unwrap(), None);
            for cut in 0..bucket.len() {
                prop_assert!(parse(&bucket[..cut]).is_err());
            }
        }
    }
}
