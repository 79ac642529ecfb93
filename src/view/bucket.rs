//! Several persons under one key of the store: sled pays per key, in memory and in time.
//!
//! Identifiers are keyed hashes, so their first bits spread them evenly. A person's bucket is named by the first
//! `depth` bits; all buckets of a shard (the first byte) have the same depth, which grows with the shard.
//!
//! ```text
//! key    = 'b', the first bits, left-aligned in 4 bytes, depth: u8        (buckets of a shard lie side by side)
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
pub const PERSONS_PER_BUCKET_MAX: u32 = 8;

/// The key of a bucket.
pub type Key = [u8; 6];

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

/// The key of the bucket of a person.
pub fn key_of(who: &Identifier, depth: u8) -> Key {
    let [a, b, c, d, ..] = who.0;
    key(u32::from_be_bytes([a, b, c, d]), depth)
}

/// The key of bucket number `number` of `shard`.
pub fn key_at(shard: usize, number: u32, depth: u8) -> Key {
    let first = (shard as u32) << (DEPTH_MAX - DEPTH_MIN);
    let step = number.checked_shl(u32::from(DEPTH_MAX - depth)).unwrap_or(0);
    key(first | step, depth)
}

fn key(bits: u32, depth: u8) -> Key {
    let [a, b, c, d] = (bits & u32::MAX << (DEPTH_MAX - depth.clamp(DEPTH_MIN, DEPTH_MAX))).to_be_bytes();
    [b'b', a, b, c, d, depth]
}

/// How many buckets a shard has.
pub const fn buckets_of_shard(depth: u8) -> u32 {
    1 << (depth - DEPTH_MIN)
}

/// The depth at which `persons` of one shard fit.
pub fn depth_for(persons: u32) -> u8 {
    let roomy = |depth: &u8| persons / buckets_of_shard(*depth) <= PERSONS_PER_BUCKET_MAX;
    (DEPTH_MIN..DEPTH_MAX).find(roomy).unwrap_or(DEPTH_MAX)
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
    fn buckets_of_a_shard_lie_side_by_side_and_tell_their_depth() {
        let who = Identifier([0xab; 32]);
        assert_eq!(key_of(&who, 8), [b'b', 0xab, 0, 0, 0, 8]);
        assert_eq!(key_of(&who, 12), [b'b', 0xab, 0xa0, 0, 0, 12]);
        assert_eq!(key_of(&who, 32), [b'b', 0xab, 0xab, 0xab, 0xab, 32]);
        assert_eq!(key_at(0xab, 0, 8), key_of(&who, 8));
        assert_eq!(key_at(0xab, 0xa, 12), key_of(&who, 12));
        assert_eq!(key_at(0xab, 0xab_abab, 32), key_of(&who, 32));
    }

    #[test]
    fn a_shard_has_room_for_its_persons() {
        assert_eq!(depth_for(0), 8);
        assert_eq!(depth_for(8), 8);
        assert_eq!(depth_for(17), 9);
        assert_eq!(depth_for(18), 10);
        assert_eq!(depth_for(4_000), 17);
        assert_eq!(depth_for(u32::MAX), 32);
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
