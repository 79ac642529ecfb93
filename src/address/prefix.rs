//! Longest-prefix lookup over decimal digits.

/// The digits of the longest prefix that is kept; longer ones are refused by [`PrefixMap::insert`].
pub(super) const PREFIX_DIGITS_MAX: usize = 9;

/// "No child" and "no value": an index that no real one reaches.
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Node {
    children: [u16; 10],
    value: u16,
}

const EMPTY: Node = Node { children: [NONE; 10], value: NONE };

/// A trie from digit prefixes to small numbers. One walk of at most nine steps answers a lookup,
/// which is why this is not a hash map asked once per length.
pub(super) struct PrefixMap {
    nodes: Vec<Node>,
}

impl Default for PrefixMap {
    fn default() -> Self {
        Self { nodes: vec![EMPTY] }
    }
}

impl PrefixMap {
    /// Gives `prefix` a value. Returns whether it could: the prefix must be one to nine digits,
    /// and table and value must fit into 16 bits.
    #[must_use]
    pub(super) fn insert(&mut self, prefix: &str, value: u16) -> bool {
        let digits = prefix.as_bytes();
        if digits.is_empty() || digits.len() > PREFIX_DIGITS_MAX || value == NONE {
            return false;
        }
        if !digits.iter().all(u8::is_ascii_digit) {
            return false;
        }
        let mut at = 0;
        for digit in digits {
            let slot = usize::from(digit - b'0');
            let child = self.nodes[at].children[slot];
            at = if child == NONE {
                let Some(fresh) = u16::try_from(self.nodes.len()).ok().filter(|&i| i != NONE) else {
                    return false;
                };
                self.nodes[at].children[slot] = fresh;
                self.nodes.push(EMPTY);
                usize::from(fresh)
            } else {
                usize::from(child)
            };
        }
        self.nodes[at].value = value;
        true
    }

    /// The value of the longest prefix of `digits` that has one.
    pub(super) fn longest(&self, digits: &str) -> Option<u16> {
        let mut best = NONE;
        let mut at = 0;
        for byte in digits.bytes() {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            let child = self.nodes[at].children[usize::from(digit)];
            if child == NONE {
                break;
            }
            at = usize::from(child);
            if self.nodes[at].value != NONE {
                best = self.nodes[at].value;
            }
        }
        (best != NONE).then_some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let mut map = PrefixMap::default();
        assert!(map.insert("1", 1));
        assert!(map.insert("1242", 2));
        assert!(map.insert("124", 3));
        for (digits, expected) in [
            ("12425550100", Some(2)),
            ("12435550100", Some(3)),
            ("1255", Some(1)),
            ("2", None),
            ("", None),
            ("12x", Some(1)),
        ] {
            assert_eq!(map.longest(digits), expected, "{digits}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut map = PrefixMap::default();
        assert!(!map.insert("", 1));
        assert!(!map.insert("1a", 1));
        assert!(!map.insert("1", u16::MAX));
        assert!(map.insert(&"1".repeat(PREFIX_DIGITS_MAX), 1));
        assert!(!map.insert(&"1".repeat(PREFIX_DIGITS_MAX + 1), 1));
    }
}
