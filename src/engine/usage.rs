//! Usage that other nodes are told of: what was sent, heard, met and undone here, and what of it was elsewhere.
//!
//! It travels in chunks, best-effort: losing one weakens caps and closes windows, nothing else. What a chunk says is joined
//! to what is known, so it may come twice, late and in any order.
//!
//! ```text
//! chunk = 'G', version, check value of the limits' hash seed: 8 bytes, entries
//! entry = kind, length: u16, 1: identifier: 32 bytes, usage as the view keeps it │ 2: a recipient's news as the limits write it
//! ```

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::{self, FrequencyLog, MarkClass, Receipt, RecipientNews, SendMark};
use crate::policy::ids::{EventId, Identifier};
use crate::policy::rules::Rules;
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Channel};
use crate::view::{Person, View, ViewError};

use super::people::Identity;
use super::{Engine, Inner};

/// The most bytes of a chunk, unless it holds a single entry.
pub const CHUNK_LEN_MAX: usize = 16 * 1024;
/// The most bytes of any chunk.
pub const CHUNK_LEN_LONGEST: usize = 10 + ENTRY_HEAD_LEN + u16::MAX as usize;
/// Chunks that wait to be told; then the oldest is dropped, and counted.
pub const CHUNKS_MAX: usize = 64;
/// The format's version.
const VERSION: u8 = 1;
/// Kind, length.
const ENTRY_HEAD_LEN: usize = 3;
const PERSON: u8 = 1;
const RECIPIENT: u8 = 2;

/// What waits to be told.
pub struct Sharing {
    chunks: Mutex<VecDeque<Vec<u8>>>,
    ready: Notify,
    dropped: AtomicU64,
    lost: AtomicBool,
}

impl Sharing {
    /// Nothing yet. `lost`: the view was empty or had to be rebuilt, so what was counted before is gone.
    #[must_use]
    pub fn new(lost: bool) -> Self {
        Self {
            chunks: Mutex::default(),
            ready: Notify::new(),
            dropped: AtomicU64::new(0),
            lost: AtomicBool::new(lost),
        }
    }

    fn push(&self, header: [u8; 10], kind: u8, parts: &[&[u8]]) {
        let mut chunks = self.chunks.lock();
        let was_empty = chunks.is_empty();
        let len = ENTRY_HEAD_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
        let fits = chunks.back().is_some_and(|chunk| chunk.len() + len <= CHUNK_LEN_MAX);
        if !fits {
            if chunks.len() >= CHUNKS_MAX {
                chunks.pop_front();
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            chunks.push_back(header.to_vec());
        }
        if let Some(chunk) = chunks.back_mut() {
            put_entry(chunk, kind, parts);
        }
        drop(chunks);
        if was_empty {
            self.ready.notify_one();
        }
    }
}

/// Appends an entry; one that is too long is left out.
fn put_entry(chunk: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let Ok(len) = u16::try_from(len) else { return };
    chunk.push(kind);
    chunk.extend(len.to_le_bytes());
    parts.iter().for_each(|part| chunk.extend_from_slice(part));
}

/// What a send consumed.
pub(super) struct Sent<'a> {
    /// What it counts as.
    pub category: Category,
    /// Where it is sent.
    pub channel: Channel,
    /// The consent event it was about.
    pub about: Option<EventId>,
    /// What it consumed of limits.
    pub receipt: &'a Receipt,
}

/// What merging a chunk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Entries read.
    pub entries: usize,
    /// Entries that told something new.
    pub news: usize,
    /// Entries that were lost: they could not be read, or there was no room.
    pub dropped: usize,
}

/// Bytes that are no usage of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    /// They begin otherwise.
    #[error("the chunk does not begin as usage does")]
    NotUsage,
    /// A version this program does not know.
    #[error("the chunk has version {found}, this program reads {VERSION}")]
    Version {
        /// The version found.
        found: u8,
    },
    /// It was made under another cluster key.
    #[error("the chunk was made with another cluster key")]
    OtherKey,
    /// It ends inside an entry.
    #[error("the chunk ends in the middle of an entry; what came before it was taken")]
    Truncated,
}

impl Engine {
    /// Waits for something to tell.
    pub async fn usage_ready(&self) {
        self.inner.usage.ready.notified().await;
    }

    /// Takes what is to be told, in chunks: see [`CHUNK_LEN_MAX`].
    #[must_use]
    pub fn take_usage(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.inner.usage.chunks.lock()).into()
    }

    /// Chunks that were dropped since the start because nobody took them.
    #[must_use]
    pub fn usage_dropped(&self) -> u64 {
        self.inner.usage.dropped.load(Ordering::Relaxed)
    }

    /// Whether usage was lost before this start and nobody has told it again.
    #[must_use]
    pub fn lacks_usage(&self) -> bool {
        self.inner.usage.lost.load(Ordering::Relaxed)
    }

    /// Usage was told again by somebody who had it.
    pub fn usage_restored(&self) {
        self.inner.usage.lost.store(false, Ordering::Relaxed);
    }

    /// Takes over what a chunk of another node says. Blocking. Kept as this node's own usage is, without an fsync.
    ///
    /// # Errors
    /// [`ChunkFault`].
    pub fn usage_merge(&self, chunk: &[u8]) -> Result<Merged, ChunkFault> {
        let inner = &self.inner;
        let mut entries = entries_of(chunk, inner.limiter.seed_check())?;
        let now = inner.clock.now();
        let longest_per_ms = inner.longest_per_ms();
        let mut merged = Merged::default();
        while let Some((kind, bytes)) = next_entry(&mut entries)? {
            merged.entries += 1;
            let news = match kind {
                PERSON => inner.merge_person(bytes, longest_per_ms, now),
                RECIPIENT => inner.limiter.merge_recipient(bytes, now),
                // Of a newer version.
                _ => Some(false),
            };
            match news {
                Some(news) => merged.news += usize::from(news),
                None => merged.dropped += 1,
            }
        }
        Ok(merged)
    }

    /// Hands everybody's usage to `sink`, in chunks (see [`CHUNK_LEN_MAX`]), until it breaks off. Blocking. What
    /// changes meanwhile may or may not be in it.
    ///
    /// # Errors
    /// When the view cannot be read.
    pub fn usage_dump(&self, sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), ViewError> {
        let inner = &self.inner;
        let header = inner.chunk_header();
        let mut chunk = header.to_vec();
        let mut put = |kind: u8, parts: &[&[u8]]| {
            let len: usize = ENTRY_HEAD_LEN + parts.iter().map(|part| part.len()).sum::<usize>();
            let flow = if chunk.len() + len > CHUNK_LEN_MAX && chunk.len() > header.len() {
                let flow = sink(&chunk);
                chunk.truncate(header.len());
                flow
            } else {
                ControlFlow::Continue(())
            };
            put_entry(&mut chunk, kind, parts);
            flow
        };
        let mut flow = ControlFlow::Continue(());
        for shard in 0..View::SHARDS {
            inner.view.each_of(shard, |who, person| {
                let usage = person.encode_usage();
                if !usage.is_empty() {
                    flow = put(PERSON, &[&who.0, &usage]);
                }
                flow
            })?;
            if flow.is_break() {
                return Ok(());
            }
        }
        if flow.is_continue() {
            flow = inner.limiter.each_recipient(inner.clock.now(), &mut |news| put(RECIPIENT, &[news]));
        }
        if flow.is_continue() && chunk.len() > header.len() {
            let _ = sink(&chunk);
        }
        Ok(())
    }
}

impl Inner {
    fn chunk_header(&self) -> [u8; 10] {
        let mut header = [b'G', VERSION, 0, 0, 0, 0, 0, 0, 0, 0];
        header[2..].copy_from_slice(&self.limiter.seed_check().to_le_bytes());
        header
    }

    /// Tells other nodes what `note` notes of a person that nothing is known of.
    pub(super) fn tell_usage(&self, who: &Identifier, note: impl FnOnce(&mut Person)) {
        if self.replica.is_alone() {
            return;
        }
        let mut told = Person::default();
        note(&mut told);
        let usage = told.encode_usage();
        if !usage.is_empty() {
            self.usage.push(self.chunk_header(), PERSON, &[&who.0, &usage]);
        }
    }

    /// Tells other nodes of a send.
    pub(super) fn tell_sent(
        &self,
        business: &str,
        rules: &Rules,
        identity: &Identity,
        portfolio_recipient: &[u8; 16],
        sent: &Sent<'_>,
        now: Timestamp,
    ) {
        let Sent { category, channel, about, receipt } = sent;
        let class = MarkClass::of(*category).filter(|_| receipt.marked);
        if class.is_some() || about.is_some() {
            self.tell_usage(&identity.own, |told| {
                if let Some(class) = class {
                    told.frequency = FrequencyLog::of(SendMark { time: now, nonce: receipt.nonce, class });
                }
                about.map(|event| told.usage.spend(event, *channel, now));
            });
        }
        self.tell_recipient(business, rules, portfolio_recipient, receipt, RecipientNews::Sent);
    }

    /// Tells other nodes that a recipient was counted towards the messaging limit, or no more.
    pub(super) fn tell_recipient(
        &self,
        business: &str,
        rules: &Rules,
        recipient: &[u8; 16],
        receipt: &Receipt,
        news: RecipientNews,
    ) {
        if self.replica.is_alone() {
            return;
        }
        let told =
            self.limiter.recipient_news(business, rules.portfolio.as_deref(), recipient, receipt, news);
        if let Some(told) = told {
            self.usage.push(self.chunk_header(), RECIPIENT, &[&told]);
        }
    }

    /// The longest period of any business's caps.
    fn longest_per_ms(&self) -> i64 {
        let book = self.book();
        let rules = book.all().businesses.values().chain([book.defaults()]);
        rules.map(|rules| limits::longest_per_ms(&rules.frequency)).max().unwrap_or(0)
    }

    /// Joins a person's usage to what is known; `None`: it is lost.
    fn merge_person(&self, bytes: &[u8], longest_per_ms: i64, now: Timestamp) -> Option<bool> {
        let (who, usage) = bytes.split_first_chunk()?;
        let told = Person::decode(&[], usage).ok()?;
        let merged = self.view.update_usage(&Identifier(*who), |usage, frequency| {
            let news = usage.merge(&told.usage);
            let news = frequency.merge(&told.frequency) || news;
            // Where nothing is sent from here, nothing else would ever let old sends go.
            frequency.prune(now, longest_per_ms);
            news
        });
        merged.ok()
    }
}

/// The entries of a chunk.
fn entries_of(chunk: &[u8], check: u64) -> Result<&[u8], ChunkFault> {
    let ([b'G', version, theirs @ ..], entries) =
        chunk.split_first_chunk::<10>().ok_or(ChunkFault::NotUsage)?
    else {
        return Err(ChunkFault::NotUsage);
    };
    if *version != VERSION {
        return Err(ChunkFault::Version { found: *version });
    }
    if u64::from_le_bytes(*theirs) != check {
        return Err(ChunkFault::OtherKey);
    }
    Ok(entries)
}

fn next_entry<'a>(entries: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, ChunkFault> {
    if entries.is_empty() {
        return Ok(None);
    }
    let ([kind, len @ ..], rest) =
        entries.split_first_chunk::<ENTRY_HEAD_LEN>().ok_or(ChunkFault::Truncated)?;
    let len = usize::from(u16::from_le_bytes(*len));
    let (entry, rest) = rest.split_at_checked(len).ok_or(ChunkFault::Truncated)?;
    *entries = rest;
    Ok(Some((*kind, entry)))
}
