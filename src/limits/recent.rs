//! Requests of the last minutes: a repeated one consumes nothing more, and one with other content is a fault.

use std::collections::VecDeque;

use super::admission::Receipt;
use super::chained::{Chained, Entry, SLOTS_MAX, Word};
use super::hash::halves;
use crate::policy::time::Timestamp;

/// Old requests forgotten with every new one, more than the one it adds.
const FORGET_STEPS: usize = 4;

/// Names a request of a business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestKey(pub(super) [u8; 16]);

impl RequestKey {
    /// What a receipt keeps of it.
    pub(super) fn tag(self) -> u64 {
        halves(&self.0).0
    }
}

/// The same request id came with other content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request id was used for other content in the last minutes; choose a new one")]
pub struct OtherContent;

/// One remembered request.
#[derive(Clone, Copy)]
pub(super) struct Request {
    key: [u8; 16],
    content: Word,
    seen_ms: Word,
    /// What it consumed, and the decision that said so; packed, since there are many.
    consumed: Option<([u8; 16], [u8; Receipt::LEN])>,
}

impl Entry for Request {
    type Key = [u8; 16];

    fn key(&self) -> [u8; 16] {
        self.key
    }

    fn spread(key: &[u8; 16]) -> u64 {
        halves(key).0
    }
}

impl Request {
    fn new(key: RequestKey, content: u64, now: Timestamp) -> Self {
        Self { key: key.0, content: Word::new(content), seen_ms: Word::signed(now.0), consumed: None }
    }

    fn stored(&self) -> StoredRequest {
        StoredRequest {
            key: self.key,
            content: self.content.get(),
            seen: Timestamp(self.seen_ms.get_signed()),
            consumed: self.consumed,
        }
    }
}

/// A request as it is stored.
pub(super) struct StoredRequest {
    pub(super) key: [u8; 16],
    pub(super) content: u64,
    pub(super) seen: Timestamp,
    pub(super) consumed: Option<([u8; 16], [u8; Receipt::LEN])>,
}

/// The requests of one node, over all businesses.
pub(super) struct RecentRequests {
    entries: Chained<Request>,
    /// Slots in the order of their first sight.
    order: VecDeque<u32>,
    /// Requests noted since the last drain, and whether more were than fit.
    changed: Vec<[u8; 16]>,
    missed: bool,
    max: usize,
    memory_ms: i64,
}

impl RecentRequests {
    /// Room for the last `max` requests of `memory_ms`.
    pub(super) fn new(max: usize, memory_ms: i64) -> Self {
        Self {
            entries: Chained::new(),
            order: VecDeque::new(),
            changed: Vec::new(),
            missed: false,
            max: max.clamp(1, SLOTS_MAX),
            memory_ms,
        }
    }

    /// Binds a request id to its content, or checks that it is bound to the same.
    pub(super) fn bind(&mut self, key: RequestKey, content: u64, now: Timestamp) -> Result<(), OtherContent> {
        self.forget(now);
        let Some(slot) = self.entries.find(&key.0) else {
            self.add(Request::new(key, content, now));
            return Ok(());
        };
        let known = *self.entries.get(slot);
        if self.is_over(&known, now) {
            // Not yet swept out. It keeps its place in the order, which at worst ends its new life early.
            *self.entries.get_mut(slot) = Request::new(key, content, now);
            return Ok(());
        }
        if known.content.get() == content { Ok(()) } else { Err(OtherContent) }
    }

    /// What the request consumed, and the decision that said so.
    pub(super) fn consumed(&self, key: RequestKey, now: Timestamp) -> Option<([u8; 16], Receipt)> {
        let request = self.entries.get(self.entries.find(&key.0)?);
        let (decision, receipt) = request.consumed.filter(|_| !self.is_over(request, now))?;
        Some((decision, Receipt::from_bytes(&receipt)?))
    }

    /// Notes what a bound request consumed. One that fell out in between is not taken in again: it is past
    /// being repeated.
    pub(super) fn note(&mut self, key: RequestKey, decision: [u8; 16], receipt: &Receipt) {
        if let Some(slot) = self.entries.find(&key.0) {
            self.entries.get_mut(slot).consumed = Some((decision, receipt.to_bytes()));
            self.noted(key);
        }
    }

    /// Forgets what was consumed under a receipt that was given back, so that a retry is charged again.
    pub(super) fn unnote(&mut self, receipt: &Receipt) {
        let Some(tag) = receipt.request else { return };
        let bytes = receipt.to_bytes();
        let same = |request: &Request| request.consumed.is_some_and(|(_, consumed)| consumed == bytes);
        if let Some(slot) = self.entries.find_where(tag, same) {
            self.entries.get_mut(slot).consumed = None;
            self.noted(RequestKey(self.entries.get(slot).key));
        }
    }

    /// How many requests are remembered.
    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// The requests that consumed something, oldest first, from the `from`-th on.
    pub(super) fn stored(&self, from: usize, count: usize) -> impl Iterator<Item = StoredRequest> {
        let slots = self.order.iter().skip(from).take(count);
        slots.map(|slot| self.entries.get(*slot).stored()).filter(|stored| stored.consumed.is_some())
    }

    /// Takes the requests noted since the last time, and whether none were missed.
    pub(super) fn drain(&mut self) -> (Vec<StoredRequest>, bool) {
        let complete = !std::mem::take(&mut self.missed);
        let keys = std::mem::take(&mut self.changed);
        let found = keys.iter().filter_map(|key| self.entries.find(key));
        (found.map(|slot| self.entries.get(slot).stored()).collect(), complete)
    }

    /// Puts a stored request in its place.
    pub(super) fn restore(&mut self, stored: StoredRequest, now: Timestamp) {
        let request = Request {
            key: stored.key,
            content: Word::new(stored.content),
            seen_ms: Word::signed(stored.seen.0),
            consumed: stored.consumed,
        };
        match self.entries.find(&stored.key) {
            Some(slot) => *self.entries.get_mut(slot) = request,
            None if self.is_over(&request, now) => {}
            None => self.add(request),
        }
    }

    fn noted(&mut self, key: RequestKey) {
        if self.changed.len() < self.max {
            self.changed.push(key.0);
        } else {
            self.missed = true;
        }
    }

    fn add(&mut self, request: Request) {
        while self.entries.len() >= self.max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.entries.remove(oldest);
        }
        self.order.push_back(self.entries.insert(request));
    }

    fn forget(&mut self, now: Timestamp) {
        for _ in 0..FORGET_STEPS {
            let Some(oldest) = self.order.front().copied() else { break };
            if !self.is_over(self.entries.get(oldest), now) {
                break;
            }
            self.order.pop_front();
            self.entries.remove(oldest);
        }
    }

    fn is_over(&self, request: &Request, now: Timestamp) -> bool {
        let age_ms = now.since_ms(Timestamp(request.seen_ms.get_signed()));
        // One seen far ahead was seen before the clock was set back.
        age_ms >= self.memory_ms || age_ms < -self.memory_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_795_341_600_000);
    const TEN_MINUTES_MS: i64 = 600_000;

    fn key(n: u32) -> RequestKey {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&n.to_le_bytes());
        RequestKey(key)
    }

    fn receipt(n: u32) -> Receipt {
        Receipt { nonce: n, marked: true, request: Some(u64::from(n)), ..Receipt::default() }
    }

    #[test]
    fn an_id_is_bound_to_its_content_for_ten_minutes() {
        let mut recent = RecentRequests::new(100, TEN_MINUTES_MS);
        assert_eq!(recent.bind(key(1), 7, NOW), Ok(()));
        assert_eq!(recent.bind(key(1), 7, NOW), Ok(()));
        assert_eq!(recent.bind(key(1), 8, NOW.plus_ms(TEN_MINUTES_MS - 1)), Err(OtherContent));
        recent.note(key(1), [9; 16], &receipt(1));
        assert_eq!(recent.consumed(key(1), NOW), Some(([9; 16], receipt(1))));
        assert_eq!(recent.consumed(key(1), NOW.plus_ms(TEN_MINUTES_MS)), None);
        assert_eq!(recent.bind(key(1), 8, NOW.plus_ms(TEN_MINUTES_MS)), Ok(()));
        assert_eq!(
            recent.consumed(key(1), NOW.plus_ms(TEN_MINUTES_MS)),
            None,
            "a new life starts unconsumed"
        );
    }

    #[test]
    fn an_old_request_not_yet_swept_out_starts_anew() {
        let mut recent = RecentRequests::new(100, TEN_MINUTES_MS);
        let last = 3 * FORGET_STEPS as u32;
        for n in 0..=last {
            recent.bind(key(n), 1, NOW).unwrap();
            recent.note(key(n), [0; 16], &receipt(n));
        }
        let later = NOW.plus_ms(TEN_MINUTES_MS);
        assert_eq!(recent.bind(key(last), 2, later), Ok(()));
        assert_eq!(recent.consumed(key(last), later), None);
        assert_eq!(recent.bind(key(last), 1, later), Err(OtherContent));
    }

    #[test]
    fn one_past_the_most_forgets_the_oldest() {
        let mut recent = RecentRequests::new(3, TEN_MINUTES_MS);
        for n in 0..4 {
            recent.bind(key(n), 1, NOW).unwrap();
        }
        assert_eq!(recent.len(), 3);
        assert_eq!(recent.bind(key(1), 2, NOW), Err(OtherContent));
        assert_eq!(recent.bind(key(0), 2, NOW), Ok(()), "the first was forgotten");
        for n in 0..10 {
            recent.note(key(2), [n; 16], &receipt(2));
        }
        let (changed, complete) = recent.drain();
        assert_eq!((changed.len(), complete), (3, false), "more changes than fit are reported as missed");
        assert!(recent.drain().1);
    }

    #[test]
    fn a_receipt_given_back_is_no_longer_consumed() {
        let mut recent = RecentRequests::new(3, TEN_MINUTES_MS);
        for n in [1, 2] {
            recent.bind(key(n), 1, NOW).unwrap();
            recent.note(key(n), [0; 16], &receipt(n));
        }
        recent.unnote(&receipt(1));
        recent.unnote(&Receipt::default());
        assert_eq!(recent.consumed(key(1), NOW), None);
        assert!(recent.consumed(key(2), NOW).is_some());
    }
}
