//! Who may be in the store, so that a person of whom nothing is known costs no read there.
//!
//! A Bloom filter for each shard. It may take somebody for known who is not, which costs the read that it would have spared; that it
//! took somebody for unknown who is in the store would lose an opt-out. So bits are only ever set, before the store has the person, and nobody is
//! taken for unknown until all that the store had before is noted.

use crate::policy::ids::Identifier;

/// Bits of a shard; 2 MiB in all. With a million persons one in 500 is taken for known in vain, with ten million two in three.
const BITS: usize = 1 << 16;
/// Bits that a person sets.
const PROBES: usize = 4;

/// Who may be in one shard's store.
pub struct Presence {
    bits: Box<[u64]>,
    /// Everybody in the store is noted.
    complete: bool,
}

impl Presence {
    /// Nobody is noted, and nobody known to be absent.
    pub fn unknown() -> Self {
        Self { bits: vec![0; BITS / 64].into_boxed_slice(), complete: false }
    }

    /// `who` may be in the store from now on.
    pub fn note(&mut self, who: &Identifier) {
        for at in probes(who) {
            self.bits[at / 64] |= 1 << (at % 64);
        }
    }

    /// Whoever is in the store is noted, and whoever comes will be.
    pub const fn complete(&mut self) {
        self.complete = true;
    }

    /// Whether `who` is certainly not in the store.
    pub fn is_absent(&self, who: &Identifier) -> bool {
        self.complete && probes(who).any(|at| self.bits[at / 64] & 1 << (at % 64) == 0)
    }
}

/// An identifier is a keyed hash, so that any of its bits do; its first ones name the shard and the bucket.
fn probes(who: &Identifier) -> impl Iterator<Item = usize> + use<'_> {
    let words = who.0.chunks_exact(2).skip(8).take(PROBES);
    words.map(|word| usize::from(u16::from_le_bytes([word[0], word[1]])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ClusterKey;

    fn person(n: usize) -> Identifier {
        let mut who = Identifier([0; 32]);
        let key = ClusterKey::from_bytes(&[7; 32]);
        who.0[..16].copy_from_slice(&key.mac16("a", &[&n.to_le_bytes()]));
        who.0[16..].copy_from_slice(&key.mac16("b", &[&n.to_le_bytes()]));
        who
    }

    #[test]
    fn nobody_is_absent_before_all_are_noted_and_nobody_noted_ever_is() {
        let mut presence = Presence::unknown();
        assert!(!presence.is_absent(&person(0)));
        // A shard's part of a million.
        let known = 0..3_906;
        known.clone().for_each(|n| presence.note(&person(n)));
        assert!(!presence.is_absent(&person(10_000)));
        presence.complete();
        assert!(known.clone().all(|n| !presence.is_absent(&person(n))));
        let in_vain = (10_000..20_000).filter(|n| !presence.is_absent(&person(*n))).count();
        assert!(in_vain < 100, "{in_vain} of 10,000");
    }
}
