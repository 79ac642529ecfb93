//! Usage as bytes, for the part of the system that stores it.
//!
//! A chunk is a header (`U`, version, check value of the hash seed) and any number of entries, each a tag and
//! fixed fields. Entries say what a thing's state *is*, so applying one twice, or an old chunk before
//! a newer one, is harmless. A snapshot is chunks of everything; a drain is one chunk of what changed since
//! the last. Start a new journal of drains, then take a snapshot: applying the snapshot and after it the
//! journal gives the whole. The caller adds length and checksum.

use std::collections::HashSet;

use super::admission::Receipt;
use super::buckets::{Bucket, PairBucket, RateBucket};
use super::chained::Entry;
use super::cooldowns::Cooldown;
use super::distinct::PortfolioRecipient;
use super::gcra;
use super::limiter::{Limiter, Portfolios, Shard};
use super::recent::StoredRequest;
use crate::policy::time::Timestamp;

/// The format's version.
const VERSION: u8 = 1;
/// Slots written per lock, which keeps checks from waiting long: about 50 µs.
const SLOTS_PER_CHUNK: u32 = 1_024;
/// Changes kept per shard between two drains, 1 MiB; more are reported as missed.
pub const CHANGES_MAX: usize = 65_536;
/// Expired recipients removed per portfolio with every drain.
const EXPIRE_STEPS: usize = 4_096;

/// Which table an entry belongs to; the number is its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Table {
    Pairs = 1,
    Senders = 2,
    Rates = 3,
    Cooldowns = 4,
}

const TAG_RECIPIENT: u8 = 5;
const TAG_REQUEST: u8 = 6;

/// What changed in a shard since the last drain.
#[derive(Default)]
pub(super) struct Changes {
    keys: Vec<(Table, u64)>,
    missed: bool,
    /// Counts drains, so that a busy bucket is noted once between two.
    drain: u32,
}

impl Changes {
    /// Notes a changed entry.
    pub(super) fn push(&mut self, table: Table, key: u64) {
        if self.keys.len() < CHANGES_MAX {
            self.keys.push((table, key));
        } else {
            self.missed = true;
        }
    }

    /// Notes a changed bucket unless it is noted already.
    pub(super) fn push_rate(&mut self, table: Table, bucket: &mut RateBucket) {
        let drain = self.drain.wrapping_add(1);
        if bucket.noted_in != drain {
            bucket.noted_in = drain;
            self.push(table, bucket.key());
        }
    }
}

impl Portfolios {
    /// Notes a recipient's new time.
    pub(super) fn push_change(&mut self, portfolio: u64, key: &PortfolioRecipient, time: Option<Timestamp>) {
        if self.changes.len() < CHANGES_MAX {
            self.changes.push((portfolio, *key, time));
        } else {
            self.missed = true;
        }
    }
}

/// What changed since the last drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drained {
    /// One chunk, or nothing when nothing changed.
    pub chunk: Vec<u8>,
    /// Whether it holds every change. If not, only a new snapshot does.
    pub complete: bool,
}

/// What applying a chunk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries read.
    pub entries: usize,
    /// Entries for which there was no room.
    pub dropped: usize,
}

/// Bytes that are no usage of this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageFault {
    /// The first byte is another.
    #[error("stored usage does not begin as usage does; delete it to start with fresh limits")]
    NotUsage,
    /// A version this program does not know.
    #[error(
        "stored usage has version {found}, this program reads {VERSION}; delete it or run the newer program"
    )]
    Version {
        /// The version found.
        found: u8,
    },
    /// It was written under another hash seed.
    #[error("stored usage was written with another key; give that key or delete the usage")]
    OtherKey,
    /// It ends inside an entry.
    #[error("stored usage ends in the middle of an entry; what came before it was applied")]
    Truncated,
    /// An entry of a kind this program does not know.
    #[error("stored usage has an entry of unknown kind {tag} at byte {at}; what came before it was applied")]
    UnknownEntry {
        /// The kind.
        tag: u8,
        /// Where it is.
        at: usize,
    },
}

impl Limiter {
    /// Takes what changed since the last drain, and clears away expired recipients. To be called every second or
    /// so; what was not drained is what a crash loses.
    #[must_use]
    pub fn drain(&self, now: Timestamp) -> Drained {
        let mut chunk = self.header();
        let empty = chunk.len();
        let mut complete = true;
        for shard in &self.shards {
            let mut shard = shard.lock();
            complete &= !std::mem::take(&mut shard.changes.missed);
            shard.changes.drain = shard.changes.drain.wrapping_add(1);
            let keys = std::mem::take(&mut shard.changes.keys);
            let mut seen = HashSet::with_capacity(keys.len());
            for (table, key) in keys {
                if seen.insert((table, key)) {
                    put_by_key(&mut chunk, &shard, table, key);
                }
            }
        }
        for portfolios in &self.portfolios {
            let mut portfolios = portfolios.lock();
            complete &= !std::mem::take(&mut portfolios.missed);
            for (portfolio, key, time) in std::mem::take(&mut portfolios.changes) {
                put_recipient(&mut chunk, portfolio, &key, time);
            }
            for distinct in portfolios.distinct.values_mut() {
                distinct.expire(EXPIRE_STEPS, now, &self.recipients_room);
            }
            portfolios.drop_empty(&self.portfolios_room);
        }
        let (requests, all) = self.recent.lock().drain();
        complete &= all;
        for request in &requests {
            put_request(&mut chunk, request);
        }
        if chunk.len() == empty {
            chunk.clear();
        }
        Drained { chunk, complete }
    }

    /// Writes everything in use at `now`, in chunks of at most some 100 KiB. Checks go on meanwhile; what they
    /// change may or may not be in it, but is in the next drain.
    ///
    /// # Errors
    /// The first error of `sink`.
    pub fn snapshot<E>(&self, now: Timestamp, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let header = self.header();
        let mut chunk = header.clone();
        let mut flush = |chunk: &mut Vec<u8>| {
            let outcome = if chunk.len() > header.len() { sink(chunk) } else { Ok(()) };
            chunk.truncate(header.len());
            outcome
        };
        let now_ns = gcra::nanos(now);
        for shard in &self.shards {
            let mut from = 0u32;
            loop {
                let shard = shard.lock();
                let rates = shard.senders.table.slots().max(shard.rates.table.slots());
                let slots = rates.max(shard.pairs.table.slots()).max(shard.cooldowns.table.slots());
                let to = slots.min(from + SLOTS_PER_CHUNK);
                for slot in from..to {
                    put_slot(&mut chunk, &shard, slot, now, now_ns);
                }
                drop(shard);
                flush(&mut chunk)?;
                from = to;
                if slots <= from {
                    break;
                }
            }
        }
        for portfolios in &self.portfolios {
            let keys: Vec<u64> = portfolios.lock().distinct.keys().copied().collect();
            for key in keys {
                let mut from = 0u32;
                loop {
                    let mut portfolios = portfolios.lock();
                    let Some(distinct) = portfolios.distinct.get_mut(&key) else { break };
                    let slots = distinct.entries.slots();
                    let to = slots.min(from + SLOTS_PER_CHUNK);
                    for slot in from..to {
                        if let Some(entry) = distinct.entries.occupied(slot)
                            && distinct.counts(entry, now)
                        {
                            put_recipient(&mut chunk, key, &entry.key(), Some(entry.time()));
                        }
                    }
                    drop(portfolios);
                    flush(&mut chunk)?;
                    from = to;
                    if slots <= from {
                        break;
                    }
                }
            }
        }
        let mut from = 0;
        loop {
            let recent = self.recent.lock();
            for request in recent.stored(from, SLOTS_PER_CHUNK as usize) {
                put_request(&mut chunk, &request);
            }
            let len = recent.len();
            drop(recent);
            flush(&mut chunk)?;
            from += SLOTS_PER_CHUNK as usize;
            if len <= from {
                return Ok(());
            }
        }
    }

    /// Applies a chunk of a snapshot or a drain. What is over at `now` is passed by.
    ///
    /// # Errors
    /// When the chunk is damaged, or not from this limiter's kind.
    pub fn apply(&self, chunk: &[u8], now: Timestamp) -> Result<Applied, UsageFault> {
        let mut reader = Reader { bytes: chunk, at: 0 };
        if reader.array::<1>()? != *b"U" {
            return Err(UsageFault::NotUsage);
        }
        let [found] = reader.array()?;
        if found != VERSION {
            return Err(UsageFault::Version { found });
        }
        if reader.word()? != self.keys.seed.check_value() {
            return Err(UsageFault::OtherKey);
        }
        let now_ns = gcra::nanos(now);
        let mut applied = Applied::default();
        while reader.at < chunk.len() {
            let at = reader.at;
            let [tag] = reader.array()?;
            let fits = match tag {
                1 => {
                    let bucket = PairBucket::restored(reader.word()?, reader.word()?);
                    self.shard(bucket.key()).pairs.restore(bucket, now_ns, &self.pairs_room)
                }
                2 => {
                    let bucket = RateBucket::restored(reader.word()?, reader.word()?, reader.word()?);
                    self.shard(bucket.key()).senders.restore(bucket, now_ns, &self.senders_room)
                }
                3 => {
                    let bucket = RateBucket::restored(reader.word()?, reader.word()?, reader.word()?);
                    self.shard(bucket.key()).rates.restore(bucket, now_ns, &self.rates_room)
                }
                4 => {
                    let (key, until) = (reader.word()?, reader.time()?);
                    let [strikes] = reader.array()?;
                    let cooldown = Cooldown::restored(key, until, u32::from(strikes));
                    self.shard(key).cooldowns.restore(cooldown, now, &self.cooldowns_room)
                }
                TAG_RECIPIENT => {
                    let (portfolio, key) = (reader.word()?, reader.array()?);
                    let time = reader.time()?;
                    let time = (time != Timestamp::MIN).then_some(time);
                    self.restore_recipient(portfolio, &key, time, now)
                }
                TAG_REQUEST => {
                    let (key, content, seen) = (reader.array()?, reader.word()?, reader.time()?);
                    let [consumed] = reader.array()?;
                    let (decision, receipt) = (reader.array()?, reader.array::<{ Receipt::LEN }>()?);
                    let consumed = (consumed != 0).then_some((decision, receipt));
                    self.recent.lock().restore(StoredRequest { key, content, seen, consumed }, now);
                    true
                }
                tag => return Err(UsageFault::UnknownEntry { tag, at }),
            };
            applied.entries += 1;
            applied.dropped += usize::from(!fits);
        }
        Ok(applied)
    }

    /// Brings applied recipients in order. To be called after the last chunk; else the first check of each
    /// portfolio does it, which takes 0.1 s at a million.
    pub fn finish_apply(&self, now: Timestamp) {
        for portfolios in &self.portfolios {
            for distinct in portfolios.lock().distinct.values_mut() {
                distinct.settle(now);
            }
        }
    }

    fn restore_recipient(
        &self,
        portfolio: u64,
        key: &PortfolioRecipient,
        time: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        let mut portfolios = self.portfolio_shard(portfolio);
        match portfolios.of(portfolio, time.is_some(), &self.portfolios_room) {
            Ok(Some(distinct)) => distinct.restore(key, time, now, &self.recipients_room),
            Ok(None) => true,
            Err(super::limiter::NoRoom) => false,
        }
    }

    fn header(&self) -> Vec<u8> {
        let mut header = vec![b'U', VERSION];
        header.extend(self.keys.seed.check_value().to_le_bytes());
        header
    }
}

fn put_by_key(chunk: &mut Vec<u8>, shard: &Shard, table: Table, key: u64) {
    match table {
        Table::Pairs => {
            if let Some(slot) = shard.pairs.table.find(&key) {
                put_pair(chunk, shard.pairs.table.get(slot));
            }
        }
        Table::Senders => {
            if let Some(slot) = shard.senders.table.find(&key) {
                put_rate(chunk, Table::Senders, shard.senders.table.get(slot));
            }
        }
        Table::Rates => {
            if let Some(slot) = shard.rates.table.find(&key) {
                put_rate(chunk, Table::Rates, shard.rates.table.get(slot));
            }
        }
        Table::Cooldowns => {
            if let Some(slot) = shard.cooldowns.table.find(&key) {
                put_cooldown(chunk, shard.cooldowns.table.get(slot));
            }
        }
    }
}

fn put_slot(chunk: &mut Vec<u8>, shard: &Shard, slot: u32, now: Timestamp, now_ns: u64) {
    if let Some(pair) = shard.pairs.table.occupied(slot).filter(|pair| !pair.is_full(now_ns)) {
        put_pair(chunk, pair);
    }
    if let Some(sender) = shard.senders.table.occupied(slot).filter(|sender| !sender.is_full(now_ns)) {
        put_rate(chunk, Table::Senders, sender);
    }
    if let Some(rate) = shard.rates.table.occupied(slot).filter(|rate| !rate.is_full(now_ns)) {
        put_rate(chunk, Table::Rates, rate);
    }
    if let Some(cooldown) = shard.cooldowns.table.occupied(slot).filter(|cooldown| !cooldown.is_over(now)) {
        put_cooldown(chunk, cooldown);
    }
}

fn put_pair(chunk: &mut Vec<u8>, pair: &PairBucket) {
    chunk.push(Table::Pairs as u8);
    chunk.extend(pair.key().to_le_bytes());
    chunk.extend(pair.arrival_ns().to_le_bytes());
}

fn put_rate(chunk: &mut Vec<u8>, table: Table, bucket: &RateBucket) {
    chunk.push(table as u8);
    chunk.extend(bucket.key().to_le_bytes());
    chunk.extend(bucket.arrival_ns().to_le_bytes());
    chunk.extend(bucket.interval_ns().to_le_bytes());
}

fn put_cooldown(chunk: &mut Vec<u8>, cooldown: &Cooldown) {
    chunk.push(Table::Cooldowns as u8);
    chunk.extend(cooldown.key().to_le_bytes());
    chunk.extend(cooldown.until().0.to_le_bytes());
    chunk.push(u8::try_from(cooldown.strikes()).unwrap_or(u8::MAX));
}

fn put_recipient(chunk: &mut Vec<u8>, portfolio: u64, key: &PortfolioRecipient, time: Option<Timestamp>) {
    chunk.push(TAG_RECIPIENT);
    chunk.extend(portfolio.to_le_bytes());
    chunk.extend(key);
    chunk.extend(time.unwrap_or(Timestamp::MIN).0.to_le_bytes());
}

fn put_request(chunk: &mut Vec<u8>, request: &StoredRequest) {
    chunk.push(TAG_REQUEST);
    chunk.extend(request.key);
    chunk.extend(request.content.to_le_bytes());
    chunk.extend(request.seen.0.to_le_bytes());
    chunk.push(u8::from(request.consumed.is_some()));
    let (decision, receipt) = request.consumed.unwrap_or(([0; 16], [0; Receipt::LEN]));
    chunk.extend(decision);
    chunk.extend(receipt);
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], UsageFault> {
        let part = self.bytes.get(self.at..self.at + N).and_then(|part| part.try_into().ok());
        self.at += N;
        part.ok_or(UsageFault::Truncated)
    }

    fn word(&mut self) -> Result<u64, UsageFault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn time(&mut self) -> Result<Timestamp, UsageFault> {
        Ok(Timestamp(i64::from_le_bytes(self.array()?)))
    }
}

#[cfg(test)]
mod tests;
