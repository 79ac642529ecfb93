//! How much may be sent: rates, frequency caps, the messaging limit, cooldowns, repeated requests.
//!
//! [`Limiter`] is asked last, when nothing else stands against a message. It asks every rule, narrowest first,
//! and charges all of them or none, under one lock per business. Everything is in memory and bounded; a
//! table that is full of what must not be forgotten denies. A person's [`FrequencyLog`] lives in the person's
//! record and is handed in; all else is stored by whoever calls [`Limiter::drain`] and
//! [`Limiter::snapshot`].
//!
//! It has never heard of a clock, files, threads, gRPC or what a consent is.
//!
//! | rule | state | bytes each |
//! |---|---|---|
//! | pair rate | token bucket per business, channel, sender and recipient | 24 |
//! | sender rate, business rate | token bucket, with the rate it was charged under | 36 |
//! | frequency caps | exact times of past sends, in the person's record | 5–12 |
//! | messaging limit | last time per portfolio and recipient, in order of time | 40 |
//! | cooldowns | end and number of refusals in a row | 28 |
//! | repeated requests | content hash and what was consumed | 84 |

mod admission;
mod buckets;
mod capacity;
mod chained;
mod cooldowns;
mod distinct;
mod frequency;
mod gcra;
mod hash;
mod keys;
mod limiter;
mod persist;
mod recent;
mod share;

pub use admission::{Admission, Admitted, CooldownScope, Denied, Hold, Mode, Receipt, Refusal, Rule};
pub use cooldowns::{BACK_OFF_EXPONENT_MAX, BACK_OFF_MEMORY_MS, COOLDOWN_MAX_MS};
pub use distinct::{DistinctReceipt, PortfolioRecipient, VOIDED_MAX, WINDOW_MS};
pub use frequency::{FrequencyLog, LogFault, MARKS_MAX, MarkClass, SendMark, longest_per_ms, wait_ms};
pub use limiter::{GivenBack, Limiter, TableUsage};
pub use persist::{Applied, CHANGES_MAX, Drained, UsageFault};
pub use recent::{OtherContent, RequestKey};
pub use share::{NEWS_LEN, RecipientNews};

use crate::policy::time::MINUTE_MS;

/// The wait told when a table is full: entries expire all the time.
pub const OUT_OF_ROOM_RETRY_MS: u64 = 1_000;

/// How many entries each table may have, over all businesses of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Pairs of sender and recipient whose bucket is not full.
    pub pairs_max: usize,
    /// Senders, per channel, whose bucket is not full.
    pub senders_max: usize,
    /// Businesses, per channel, whose bucket is not full.
    pub businesses_max: usize,
    /// Cooldowns.
    pub cooldowns_max: usize,
    /// Recipients counted towards messaging limits.
    pub recipients_max: usize,
    /// Portfolios with such recipients.
    pub portfolios_max: usize,
    /// Requests remembered, at most for [`request_memory_ms`](Self::request_memory_ms).
    pub requests_max: usize,
    /// How long a request is remembered.
    pub request_memory_ms: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pairs_max: 1_000_000,
            senders_max: 100_000,
            businesses_max: 100_000,
            cooldowns_max: 1_000_000,
            recipients_max: 2_000_000,
            portfolios_max: 10_000,
            requests_max: 100_000,
            request_memory_ms: 10 * MINUTE_MS,
        }
    }
}
