//! The keys of everything that is limited: keyed hashes of names, 64 bits each.

use super::admission::Hold;
use super::hash::{Hash, Seed};
use super::recent::RequestKey;
use crate::policy::ids::Identifier;
use crate::policy::types::Channel;

/// Locks over businesses, and over portfolios. The top bits of a key choose its shard.
pub(super) const SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 4;

/// What a hash stands for. Stored usage knows these by their numbers.
#[derive(Clone, Copy)]
enum Domain {
    Business = 1,
    Sender = 2,
    Recipient = 3,
    Pair = 4,
    OwnPortfolio = 5,
    Portfolio = 6,
    Request = 7,
    RequestAgain = 8,
    Content = 9,
    BusinessRate = 10,
}

/// Makes keys. All keys of a business share its shard.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub(super) seed: Seed,
}

impl Keys {
    fn start(self, domain: Domain) -> Hash {
        self.seed.start(domain as u64)
    }

    pub(super) fn business(self, business: &str) -> u64 {
        self.start(Domain::Business).bytes(business.as_bytes()).finish()
    }

    /// A business on a channel.
    pub(super) fn rate(self, business: u64, channel: Channel) -> u64 {
        let hash = self.start(Domain::BusinessRate).word(business).word(channel_word(channel));
        in_shard_of(business, hash.finish())
    }

    pub(super) fn sender(self, business: u64, channel: Channel, sender: &str) -> u64 {
        let hash = self.start(Domain::Sender).word(business).word(channel_word(channel));
        in_shard_of(business, hash.bytes(sender.as_bytes()).finish())
    }

    pub(super) fn pair(self, sender: u64, recipient: &Identifier) -> u64 {
        in_shard_of(sender, self.start(Domain::Pair).word(sender).bytes(&recipient.0).finish())
    }

    /// What a cooldown is about. Kinds of holds never share a key.
    pub(super) fn hold(self, business: u64, channel: Channel, hold: Hold<'_>) -> u64 {
        match hold {
            Hold::Business => self.rate(business, channel),
            Hold::Sender(sender) => self.sender(business, channel, sender),
            Hold::RecipientMarketing(recipient) => {
                let hash = self.start(Domain::Recipient).word(business).word(channel_word(channel));
                in_shard_of(business, hash.bytes(&recipient.0).finish())
            }
            Hold::Pair(sender, recipient) => self.pair(self.sender(business, channel, sender), recipient),
        }
    }

    /// A portfolio, or the one that a business without a named one has for itself.
    pub(super) fn portfolio(self, business: &str, portfolio: Option<&str>) -> u64 {
        match portfolio {
            Some(portfolio) => self.start(Domain::Portfolio).bytes(portfolio.as_bytes()).finish(),
            None => self.start(Domain::OwnPortfolio).bytes(business.as_bytes()).finish(),
        }
    }

    /// A request id, which its caller chose: 128 bits, since a collision would refuse an innocent request.
    pub(super) fn request(self, business: &str, request_id: &str) -> RequestKey {
        let half =
            |domain| self.start(domain).bytes(business.as_bytes()).bytes(request_id.as_bytes()).finish();
        let mut key = [0; 16];
        key[..8].copy_from_slice(&half(Domain::Request).to_le_bytes());
        key[8..].copy_from_slice(&half(Domain::RequestAgain).to_le_bytes());
        RequestKey(key)
    }

    /// A request's content.
    pub(super) fn content(self, parts: &[&[u8]]) -> u64 {
        parts.iter().fold(self.start(Domain::Content), |hash, part| hash.bytes(part)).finish()
    }
}

/// The shard of a key.
pub(super) const fn shard_of(key: u64) -> usize {
    (key >> (u64::BITS - SHARD_BITS)) as usize
}

/// A key with the shard of `owner`, so that stored keys find their shard by themselves.
const fn in_shard_of(owner: u64, key: u64) -> u64 {
    let rest = u64::MAX >> SHARD_BITS;
    owner & !rest | key & rest
}

/// A channel as stored keys know it, whatever order its type has.
const fn channel_word(channel: Channel) -> u64 {
    match channel {
        Channel::Whatsapp => 1,
        Channel::Sms => 2,
        Channel::Email => 3,
        Channel::Voice => 4,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_keys_of_a_business_differ_and_share_its_shard() {
        let keys = Keys { seed: Seed::new([5; 16]) };
        let mut seen = HashSet::new();
        for business in ["a", "b", "ab"] {
            let owner = keys.business(business);
            for channel in Channel::ALL {
                for person in [Identifier([1; 32]), Identifier([2; 32])] {
                    let hold = |hold| keys.hold(owner, *channel, hold);
                    for sender in ["1", "2"] {
                        assert!(seen.insert(hold(Hold::Pair(sender, &person))));
                    }
                    assert!(seen.insert(hold(Hold::RecipientMarketing(&person))));
                }
                for sender in ["1", "2"] {
                    assert!(seen.insert(keys.sender(owner, *channel, sender)));
                }
                assert!(seen.insert(keys.rate(owner, *channel)));
            }
            assert!(seen.iter().any(|key| shard_of(*key) == shard_of(owner)));
            assert!(seen.insert(owner));
        }
        let shards: HashSet<_> = ["a", "b", "ab"].map(|name| shard_of(keys.business(name))).into();
        assert!(seen.iter().all(|key| shards.contains(&shard_of(*key))));
        assert_ne!(keys.portfolio("a", Some("a")), keys.portfolio("a", None), "a name is not a business");
    }
}
