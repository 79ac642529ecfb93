//! What a check brings to the limits and what it takes away.

use std::fmt;

use super::distinct::{DistinctReceipt, PortfolioRecipient};
use super::recent::RequestKey;
use crate::policy::ids::Identifier;
use crate::policy::rules::{ChannelLimits, Every, FrequencyCap, PerSecond};
use crate::policy::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Timestamp};
use crate::policy::types::{Category, Channel, Quality, Reason};

/// Whether an admission consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does, if nothing stands against it.
    Enforce,
    /// It only says what would be.
    Peek,
}

/// One message that has passed every other rule.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    /// The business.
    pub business: &'a str,
    /// The portfolio whose messaging limit it shares; `None`: its own.
    pub portfolio: Option<&'a str>,
    /// The sender.
    pub sender: &'a str,
    /// The channel.
    pub channel: Channel,
    /// What the message counts as.
    pub category: Category,
    /// The person, always by the same one of the identifiers.
    pub recipient: &'a Identifier,
    /// The person as the portfolio knows them.
    pub portfolio_recipient: &'a PortfolioRecipient,
    /// Whether the messaging limit counts it: WhatsApp outside the customer-service window.
    pub counts_distinct: bool,
    /// Whether no limit applies: messages about consent (design §4.4).
    pub exempt: bool,
    /// The channel's limits.
    pub limits: &'a ChannelLimits,
    /// The business's frequency caps.
    pub caps: &'a [FrequencyCap],
    /// The worst quality among the business's senders.
    pub quality: Quality,
    /// Among how many nodes business and sender rates are divided; at least 1.
    pub members: u32,
    /// The request, if its caller named it; first bound by [`Limiter::bind_request`](super::Limiter::bind_request).
    pub request: Option<RequestKey>,
    /// A random name for the decision that is being made.
    pub decision: [u8; 16],
    /// Whether to consume.
    pub mode: Mode,
}

/// What an admitted message consumed, small enough to travel inside its decision id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The number of the mark in the person's frequency log.
    pub nonce: u32,
    /// Whether there is such a mark.
    pub marked: bool,
    /// What it changed among the distinct recipients.
    pub distinct: Option<DistinctReceipt>,
    /// A tag of the request it was admitted under.
    pub request: Option<u64>,
}

impl Receipt {
    /// The length of its packed form in bytes.
    pub const LEN: usize = 25;

    /// Whether there is nothing to give back.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.marked && self.distinct.is_none()
    }

    /// The packed form: flags, nonce, time, time since the previous one, tag.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let previous = self.distinct.and_then(|distinct| Some((distinct.time, distinct.previous?)));
        out[0] = u8::from(self.marked)
            | u8::from(self.distinct.is_some()) << 1
            | u8::from(previous.is_some()) << 2
            | u8::from(self.request.is_some()) << 3;
        out[1..5].copy_from_slice(&self.nonce.to_le_bytes());
        out[5..13].copy_from_slice(&self.distinct.map_or(0, |distinct| distinct.time.0).to_le_bytes());
        // Less than the window of a day, or it would not be there.
        let since_ms = previous.map_or(0, |(time, before)| time.since_ms(before));
        out[13..17].copy_from_slice(&u32::try_from(since_ms).unwrap_or(u32::MAX).to_le_bytes());
        out[17..].copy_from_slice(&self.request.unwrap_or(0).to_le_bytes());
        out
    }

    /// Reads the packed form back; `None` when it is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let flags = bytes[0];
        if flags > 15 || flags & 6 == 4 {
            return None;
        }
        let time = Timestamp(i64::from_le_bytes(bytes[5..13].try_into().ok()?));
        let since_ms = u32::from_le_bytes(bytes[13..17].try_into().ok()?);
        let previous = (flags & 4 != 0).then(|| time.minus_ms(i64::from(since_ms)));
        Some(Self {
            nonce: u32::from_le_bytes(bytes[1..5].try_into().ok()?),
            marked: flags & 1 != 0,
            distinct: (flags & 2 != 0).then_some(DistinctReceipt { time, previous }),
            request: (flags & 8 != 0).then_some(u64::from_le_bytes(bytes[17..].try_into().ok()?)),
        })
    }
}

/// A message may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// What it consumed; empty after a peek.
    pub receipt: Receipt,
    /// The first decision under the same request, which had consumed already.
    pub repeats: Option<[u8; 16]>,
    /// Rules that would have refused, but only report.
    pub shadowed: Vec<Refusal>,
}

/// A message may not go; nothing was consumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Every rule that refused, narrowest first; at least one.
    pub refusals: Vec<Refusal>,
    /// Rules that would have refused, but only report.
    pub shadowed: Vec<Refusal>,
}

impl Denied {
    /// The wait after which all of these rules would let the message pass, in milliseconds; `None` where waiting
    /// cannot help.
    #[must_use]
    pub fn retry_after_ms(&self) -> Option<u64> {
        let waits = self.refusals.iter().map(|refusal| refusal.retry_after_ms);
        waits.reduce(|a, b| Some(a?.max(b?))).flatten()
    }
}

/// Whose cooldown refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CooldownScope {
    /// All of the business's messages on the channel.
    Business,
    /// The sender's.
    Sender,
    /// Marketing to the recipient.
    RecipientMarketing,
    /// The sender's to the recipient.
    Pair,
}

/// A rule with its figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The provider asked to wait.
    Cooldown(CooldownScope),
    /// A frequency cap.
    FrequencyCap(FrequencyCap),
    /// So many distinct recipients per moving 24 hours.
    MessagingLimit(u64),
    /// The rate between sender and recipient.
    PairRate(Every),
    /// The sender's rate.
    SenderRate(PerSecond),
    /// The business's rate at its present quality.
    BusinessRate {
        /// Messages an hour.
        per_hour: u32,
        /// Messages at once.
        burst: u32,
    },
}

impl Rule {
    /// The reason it denies with.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Cooldown(_) => Reason::Cooldown,
            Self::FrequencyCap(_) => Reason::FrequencyCap,
            Self::MessagingLimit(_) => Reason::MessagingLimit,
            Self::PairRate(_) => Reason::PairRate,
            Self::SenderRate(_) => Reason::SenderRate,
            Self::BusinessRate { .. } => Reason::BusinessRate,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cooldown(CooldownScope::Business) => f.write_str("the provider asked the business to wait"),
            Self::Cooldown(CooldownScope::Sender) => f.write_str("the provider asked the sender to wait"),
            Self::Cooldown(CooldownScope::RecipientMarketing) => {
                f.write_str("the provider asked to wait with marketing to this recipient")
            }
            Self::Cooldown(CooldownScope::Pair) => {
                f.write_str("the provider asked the sender to wait with this recipient")
            }
            Self::FrequencyCap(cap) => {
                let class = match cap.class {
                    crate::policy::rules::CapClass::Marketing => "marketing ",
                    crate::policy::rules::CapClass::Utility => "utility ",
                    crate::policy::rules::CapClass::Any => "",
                };
                write!(f, "at most {} {class}messages to one person in {}", cap.max, Span(cap.per_ms))
            }
            Self::MessagingLimit(limit) => write!(f, "at most {limit} different recipients in 24h"),
            Self::PairRate(Every { every_ms, burst }) => {
                let span = Span(i64::try_from(*every_ms).unwrap_or(i64::MAX));
                write!(f, "one message from a sender to a recipient every {span}, {burst} at once")
            }
            Self::SenderRate(PerSecond { per_second, burst }) => {
                write!(f, "{per_second} messages a second from a sender, {burst} at once")
            }
            Self::BusinessRate { per_hour, burst } => {
                write!(f, "{per_hour} messages an hour from the business, {burst} at once")
            }
        }
    }
}

/// A span in the largest unit that divides it, as the configuration writes it.
struct Span(i64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days only from two on: a window of 24 hours is no calendar day.
        let units = [(DAY_MS, "d", 2), (HOUR_MS, "h", 1), (MINUTE_MS, "m", 1), (SECOND_MS, "s", 1)];
        for (unit_ms, name, least) in units {
            if self.0 % unit_ms == 0 && self.0 / unit_ms >= least {
                return write!(f, "{}{name}", self.0 / unit_ms);
            }
        }
        write!(f, "{}ms", self.0)
    }
}

/// One rule's refusal. Its text names the rule and its figures, never a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// The wait after which this rule would let the message pass, in milliseconds; `None`: never.
    pub retry_after_ms: Option<u64>,
    /// Whether the rule itself did not refuse, but its memory is full of what must not be forgotten.
    pub out_of_room: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rule.fmt(f)?;
        f.write_str(if self.out_of_room { " (there is no room to count this one)" } else { "" })
    }
}

/// What a provider's refusal holds up. On one channel of one business.
#[derive(Clone, Copy, Debug)]
pub enum Hold<'a> {
    /// Everything.
    Business,
    /// A sender.
    Sender(&'a str),
    /// Marketing to a recipient.
    RecipientMarketing(&'a Identifier),
    /// A sender's messages to a recipient.
    Pair(&'a str, &'a Identifier),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::rules::CapClass;

    proptest! {
        #[test]
        fn receipts_read_back(
            nonce: u32, marked: bool, request: Option<u64>,
            distinct in proptest::option::of((any::<i64>(), proptest::option::of(1i64..DAY_MS)))
        ) {
            let distinct = distinct.map(|(time, since_ms)| DistinctReceipt {
                time: Timestamp(time / 2),
                previous: since_ms.map(|since_ms| Timestamp(time / 2 - since_ms)),
            });
            let receipt = Receipt { nonce, marked, distinct, request };
            prop_assert_eq!(Receipt::from_bytes(&receipt.to_bytes()), Some(receipt));
        }
    }

    #[test]
    fn the_longest_wait_counts_and_never_is_longest() {
        let refusal =
            |retry_after_ms| Refusal { rule: Rule::MessagingLimit(1), retry_after_ms, out_of_room: false };
        let denied = |waits: &[Option<u64>]| Denied {
            refusals: waits.iter().map(|wait| refusal(*wait)).collect(),
            shadowed: vec![refusal(Some(99))],
        };
        assert_eq!(denied(&[Some(3)]).retry_after_ms(), Some(3));
        assert_eq!(denied(&[Some(3), Some(7), Some(5)]).retry_after_ms(), Some(7));
        assert_eq!(denied(&[Some(3), None]).retry_after_ms(), None);
    }

    #[test]
    fn rules_speak_in_figures() {
        let cap = Rule::FrequencyCap(FrequencyCap { class: CapClass::Marketing, max: 2, per_ms: DAY_MS });
        assert_eq!(cap.to_string(), "at most 2 marketing messages to one person in 24h");
        let any = Rule::FrequencyCap(FrequencyCap { class: CapClass::Any, max: 9, per_ms: 7 * DAY_MS });
        assert_eq!(any.to_string(), "at most 9 messages to one person in 7d");
        let pair = Rule::PairRate(Every { every_ms: 1_500, burst: 3 });
        assert_eq!(pair.to_string(), "one message from a sender to a recipient every 1500ms, 3 at once");
    }
}
