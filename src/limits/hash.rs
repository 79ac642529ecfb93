//! Keyed 64-bit hashing of names: tables keep 8 or 16 bytes per key instead of texts and identifiers.
//!
//! The hash multiplies each word into a 128-bit product and folds it, seeded with two secret words.
//! It is no message authentication: nobody sees its output, and without the seed nobody can aim two
//! names at one slot.

/// The odd constants that keep the seed from cancelling out: digits of the golden ratio and of pi.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const FINISH: u64 = 0x2438_6a88_85a3_08d3;

/// The seed, the same for one data directory over restarts, so that stored usage finds its owners.
#[derive(Clone, Copy)]
pub(super) struct Seed {
    first: u64,
    second: u64,
}

impl Seed {
    /// Takes the seed from 16 secret bytes.
    pub(super) fn new(key: [u8; 16]) -> Self {
        let (first, second) = halves(&key);
        Self { first, second }
    }

    /// Starts a hash of the kind `domain`; hashes of two domains are unrelated.
    pub(super) const fn start(self, domain: u64) -> Hash {
        Hash { state: fold(self.first ^ domain.wrapping_mul(STEP), self.second | 1), seed: self.second }
    }

    /// What a snapshot carries to show which seed its keys were made with.
    pub(super) fn check_value(self) -> u64 {
        self.start(0xc4ec).bytes(b"optgate usage").finish()
    }
}

/// A hash under way.
#[derive(Clone, Copy)]
pub(super) struct Hash {
    state: u64,
    seed: u64,
}

impl Hash {
    /// Takes in one word.
    pub(super) const fn word(self, word: u64) -> Self {
        Self { state: fold(self.state ^ word, self.seed ^ STEP), seed: self.seed.rotate_left(23) ^ word }
    }

    /// Takes in a byte string with its length, so that no two sequences of strings run together.
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let mut hash = self.word(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            hash = hash.word(word_of(chunk));
        }
        let rest = chunks.remainder();
        if rest.is_empty() { hash } else { hash.word(word_of(rest)) }
    }

    /// The hash.
    pub(super) const fn finish(self) -> u64 {
        fold(self.state ^ FINISH, self.seed | 1)
    }
}

/// The little-endian word of up to 8 bytes.
fn word_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Both words of 16 bytes.
pub(super) fn halves(bytes: &[u8; 16]) -> (u64, u64) {
    (word_of(&bytes[..8]), word_of(&bytes[8..]))
}

const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn strings_do_not_run_together() {
        let seed = Seed::new([7; 16]);
        let mut seen = HashSet::new();
        for (a, b) in [("ab", "c"), ("a", "bc"), ("abc", ""), ("", "abc"), ("abc\0", ""), ("abc", "\0")] {
            assert!(seen.insert(seed.start(1).bytes(a.as_bytes()).bytes(b.as_bytes()).finish()), "{a} {b}");
        }
        assert!(seen.insert(seed.start(2).bytes(b"ab").bytes(b"c").finish()), "domains are apart");
        assert!(
            seen.insert(Seed::new([8; 16]).start(1).bytes(b"ab").bytes(b"c").finish()),
            "seeds are apart"
        );
    }

    #[test]
    fn similar_names_spread() {
        let seed = Seed::new(*b"0123456789abcdef");
        let mut seen = HashSet::new();
        let mut low_bits = [0u32; 16];
        for n in 0..100_000u64 {
            let hash = seed.start(3).bytes(format!("business-{n}").as_bytes()).word(n % 4).finish();
            assert!(seen.insert(hash));
            low_bits[(hash & 15) as usize] += 1;
        }
        for count in low_bits {
            assert!((5_500..7_000).contains(&count), "{count} of 100,000 fell into one of 16 slots");
        }
    }
}
