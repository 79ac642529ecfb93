//! Recipients of the messaging limit as nodes tell each other of them.
//!
//! ```text
//! news = portfolio: u64, recipient: 16 bytes, flags: 1 failed, 2 counted before, time: i64, milliseconds since it was counted before: u32
//! ```

use std::ops::ControlFlow;

use super::admission::Receipt;
use super::chained::Entry as _;
use super::distinct::{DistinctReceipt, PortfolioRecipient};
use super::limiter::{Limiter, NoRoom};
use crate::policy::time::Timestamp;

/// The length of news in bytes.
pub const NEWS_LEN: usize = 37;
/// Slots looked at per lock, as for a snapshot.
const SLOTS_PER_LOCK: u32 = 1_024;

const FAILED: u8 = 1;
const BEFORE: u8 = 2;

/// What became of a send to a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecipientNews {
    /// It was admitted.
    Sent,
    /// It failed.
    Failed,
}

impl Limiter {
    /// Tells the seed of this limiter's hashes from others without revealing it.
    #[must_use]
    pub fn seed_check(&self) -> u64 {
        self.keys.seed.check_value()
    }

    /// What other nodes are to be told of a send; `None`: it counted nobody.
    #[must_use]
    pub fn recipient_news(
        &self,
        business: &str,
        portfolio: Option<&str>,
        recipient: &PortfolioRecipient,
        receipt: &Receipt,
        news: RecipientNews,
    ) -> Option<[u8; NEWS_LEN]> {
        let distinct = receipt.distinct.as_ref()?;
        Some(write(self.keys.portfolio(business, portfolio), recipient, distinct, news))
    }

    /// Takes over another node's news; `true`: they are new here, `None`: they cannot be read, or there is no room.
    pub fn merge_recipient(&self, bytes: &[u8], now: Timestamp) -> Option<bool> {
        let (portfolio, key, receipt, news) = read(bytes)?;
        let mut portfolios = self.portfolio_shard(portfolio);
        let distinct = match portfolios.of(portfolio, true, &self.portfolios_room) {
            Ok(distinct) => distinct?,
            Err(NoRoom) => return None,
        };
        let changed = match news {
            RecipientNews::Sent => distinct.merge(&key, &receipt, now, &self.recipients_room).ok()?,
            RecipientNews::Failed => distinct.give_back(&key, &receipt, now, &self.recipients_room),
        };
        if let Some(time) = changed {
            portfolios.push_change(portfolio, &key, time);
        }
        Some(changed.is_some())
    }

    /// Hands news of every recipient that counts at `now` to `sink`, until it breaks off.
    pub fn each_recipient(
        &self,
        now: Timestamp,
        sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut news = Vec::new();
        for shard in &self.portfolios {
            let portfolios: Vec<u64> = shard.lock().distinct.keys().copied().collect();
            for portfolio in portfolios {
                let mut from = 0u32;
                loop {
                    let portfolios = shard.lock();
                    let Some(distinct) = portfolios.distinct.get(&portfolio) else { break };
                    let slots = distinct.entries.slots();
                    let to = slots.min(from + SLOTS_PER_LOCK);
                    let occupied = (from..to).filter_map(|slot| distinct.entries.occupied(slot));
                    for entry in occupied.filter(|entry| distinct.counts(entry, now)) {
                        let receipt = DistinctReceipt { time: entry.time(), previous: None };
                        news.push(write(portfolio, &entry.key(), &receipt, RecipientNews::Sent));
                    }
                    drop(portfolios);
                    for one in news.drain(..) {
                        sink(&one)?;
                    }
                    from = to;
                    if slots <= from {
                        break;
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }
}

fn write(
    portfolio: u64,
    recipient: &PortfolioRecipient,
    receipt: &DistinctReceipt,
    news: RecipientNews,
) -> [u8; NEWS_LEN] {
    let mut out = [0; NEWS_LEN];
    let before = receipt.previous.and_then(|before| u32::try_from(receipt.time.since_ms(before)).ok());
    out[..8].copy_from_slice(&portfolio.to_le_bytes());
    out[8..24].copy_from_slice(recipient);
    out[24] = if news == RecipientNews::Failed { FAILED } else { 0 } | before.map_or(0, |_| BEFORE);
    out[25..33].copy_from_slice(&receipt.time.0.to_le_bytes());
    out[33..].copy_from_slice(&before.unwrap_or(0).to_le_bytes());
    out
}

fn read(bytes: &[u8]) -> Option<(u64, PortfolioRecipient, DistinctReceipt, RecipientNews)> {
    let bytes: &[u8; NEWS_LEN] = bytes.try_into().ok()?;
    let flags = bytes[24];
    let time = Timestamp(i64::from_le_bytes(bytes[25..33].try_into().ok()?));
    let before_ms = u32::from_le_bytes(bytes[33..].try_into().ok()?);
    let previous = (flags & BEFORE != 0).then(|| time.minus_ms(before_ms.into()));
    let news = if flags & FAILED != 0 { RecipientNews::Failed } else { RecipientNews::Sent };
    Some((
        u64::from_le_bytes(bytes[..8].try_into().ok()?),
        bytes[8..24].try_into().ok()?,
        DistinctReceipt { time, previous },
        news,
    ))
}

#[cfg(test)]
mod tests;
