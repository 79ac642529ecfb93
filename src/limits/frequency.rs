//! Frequency caps: "at most 2 marketing messages in 24 hours" to one person.
//!
//! A cap is judged on the exact times of past sends, since a token bucket admits one more than the cap in
//! some windows. The window of length `per` that ends at `now` is open at its start: a send at `t` counts
//! until just before `t + per`.

use crate::policy::rules::{CapClass, FREQUENCY_CAP_MAX, FrequencyCap};
use crate::policy::time::{DAY_MS, Timestamp};
use crate::policy::types::Category;

/// A mark further ahead of the clock than this was made by a clock that was wrong.
const CLOCK_STEP_MS: i64 = DAY_MS;
/// The most marks one log can have: a full set of each class.
pub const MARKS_MAX: usize = 2 * FREQUENCY_CAP_MAX as usize;
/// The most sends that failed which one log remembers; the latest stay.
pub const VOIDED_MAX: usize = 64;

/// What kind of message a mark stands for. Others do not count towards any cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkClass {
    /// A marketing message.
    Marketing,
    /// A utility message.
    Utility,
}

impl MarkClass {
    /// The class of a message of `category`, if it counts.
    #[must_use]
    pub const fn of(category: Category) -> Option<Self> {
        match category {
            Category::Marketing => Some(Self::Marketing),
            Category::Utility => Some(Self::Utility),
            Category::Authentication | Category::Service => None,
        }
    }

    /// Whether a cap on `class` counts it.
    #[must_use]
    pub const fn counts_for(self, class: CapClass) -> bool {
        match class {
            CapClass::Any => true,
            CapClass::Marketing => matches!(self, Self::Marketing),
            CapClass::Utility => matches!(self, Self::Utility),
        }
    }
}

/// One admitted send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendMark {
    /// When it was admitted.
    pub time: Timestamp,
    /// A random number that tells it from other sends of the same person.
    pub nonce: u32,
    /// What it counts as.
    pub class: MarkClass,
}

/// Bytes that are not a frequency log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFault {
    /// It ends early.
    #[error(
        "a frequency log ends after {at} bytes, in the middle of a mark; the record holding it is damaged"
    )]
    Truncated {
        /// Where.
        at: usize,
    },
    /// Its count is beyond what is ever written.
    #[error("a frequency log claims {count} marks, more than {MARKS_MAX}; the record holding it is damaged")]
    TooMany {
        /// The count it claims.
        count: u64,
    },
    /// A number is longer than 64 bits.
    #[error("a frequency log has an overlong number at byte {at}; the record holding it is damaged")]
    Overlong {
        /// Where.
        at: usize,
    },
    /// Bytes follow the last mark.
    #[error("a frequency log has {count} bytes too many; the record holding it is damaged")]
    Trailing {
        /// How many.
        count: usize,
    },
}

/// The sends to one person that caps may still count, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrequencyLog {
    marks: Vec<SendMark>,
    /// Sends that failed, so that they stay undone when another node tells of them.
    voided: Vec<SendMark>,
}

impl FrequencyLog {
    /// A log without sends.
    #[must_use]
    pub const fn new() -> Self {
        Self { marks: Vec::new(), voided: Vec::new() }
    }

    /// A log of this send alone, as one node tells others of it.
    #[must_use]
    pub fn of(mark: SendMark) -> Self {
        Self { marks: vec![mark], voided: Vec::new() }
    }

    /// A log of this alone, that the send failed.
    #[must_use]
    pub fn of_voided(mark: SendMark) -> Self {
        Self { marks: Vec::new(), voided: vec![mark] }
    }

    /// Whether no send is on record, nor any that failed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.voided.is_empty()
    }

    /// The sends, oldest first.
    #[must_use]
    pub fn marks(&self) -> &[SendMark] {
        &self.marks
    }

    /// Adds a send and drops what no cap can count any more: sends older than the longest period, and more
    /// than the largest count of each class.
    pub fn push(&mut self, mark: SendMark, caps: &[FrequencyCap], now: Timestamp) {
        self.prune(now, longest_per_ms(caps));
        place(&mut self.marks, mark);
        let keep = largest_max(caps, mark.class);
        let mut excess = self.marks.iter().filter(|own| own.class == mark.class).count().saturating_sub(keep);
        if excess > 0 {
            self.marks.retain(|own| {
                let drop = excess > 0 && own.class == mark.class;
                excess -= usize::from(drop);
                !drop
            });
        }
    }

    /// Takes a send back, found by its number; `false` when it is not on record.
    pub fn remove(&mut self, nonce: u32) -> bool {
        let found = self.marks.iter().rfind(|mark| mark.nonce == nonce).copied();
        found.is_some_and(|mark| self.void(mark))
    }

    /// Takes a send back for good, be it on record or not heard of yet; `false` when that is known.
    pub fn void(&mut self, mark: SendMark) -> bool {
        self.marks.retain(|own| own.nonce != mark.nonce);
        if let Some(known) = self.voided.iter_mut().find(|known| known.nonce == mark.nonce) {
            known.time = known.time.min(mark.time);
            return false;
        }
        place(&mut self.voided, mark);
        if self.voided.len() > VOIDED_MAX {
            self.voided.remove(0);
        }
        true
    }

    /// Dates back to `now` what a wrong clock dated far ahead, so that it counts for one period and not until
    /// that day.
    pub fn settle(&mut self, now: Timestamp) {
        if self.marks.last().is_none_or(|mark| mark.time.since_ms(now) <= CLOCK_STEP_MS) {
            return;
        }
        for mark in self.marks.iter_mut().filter(|mark| mark.time.since_ms(now) > CLOCK_STEP_MS) {
            mark.time = now;
        }
        self.marks.sort_by_key(|mark| mark.time);
    }

    /// Drops sends that are older than `longest_per_ms`.
    pub fn prune(&mut self, now: Timestamp, longest_per_ms: i64) {
        self.settle(now);
        let gone = self.marks.iter().take_while(|mark| now.since_ms(mark.time) >= longest_per_ms).count();
        self.marks.drain(..gone);
        self.voided.retain(|mark| (0..longest_per_ms).contains(&now.since_ms(mark.time).saturating_abs()));
    }

    /// Takes over the sends another node, or another identifier of the person, has on record; `true`: there was something
    /// new. Sends are told apart by their numbers. Below [`MARKS_MAX`] and [`VOIDED_MAX`] neither order nor repetition
    /// matters.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for mark in &other.voided {
            changed |= self.void(*mark);
        }
        for mark in &other.marks {
            if self.voided.iter().any(|voided| voided.nonce == mark.nonce) {
                continue;
            }
            match self.marks.iter_mut().find(|own| own.nonce == mark.nonce) {
                Some(own) => {
                    changed |= mark.time < own.time;
                    own.time = own.time.min(mark.time);
                }
                None => {
                    place(&mut self.marks, *mark);
                    changed = true;
                }
            }
        }
        self.marks.sort_by_key(|mark| (mark.time, mark.nonce));
        if self.marks.len() > MARKS_MAX {
            self.marks.drain(..self.marks.len() - MARKS_MAX);
        }
        changed
    }

    /// The log as bytes, for the record it is kept in: a list of the sends and, if there are some, one of those that failed.
    /// A list is a varint count, then per mark a varint of the zigzagged difference to the time before, shifted by one for
    /// the class, and 4 bytes of its number.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + self.marks.len() * 8);
        put_marks(&mut out, &self.marks);
        if !self.voided.is_empty() {
            put_marks(&mut out, &self.voided);
        }
        out
    }

    /// Reads back what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// When `bytes` are anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, LogFault> {
        let mut at = 0;
        let marks = take_marks(bytes, &mut at, MARKS_MAX)?;
        let voided = if at < bytes.len() { take_marks(bytes, &mut at, VOIDED_MAX)? } else { Vec::new() };
        if at < bytes.len() {
            return Err(LogFault::Trailing { count: bytes.len() - at });
        }
        Ok(Self { marks, voided })
    }
}

/// Inserts a mark behind all that are not later.
fn place(marks: &mut Vec<SendMark>, mark: SendMark) {
    let at = marks.iter().rposition(|own| own.time <= mark.time).map_or(0, |at| at + 1);
    marks.insert(at, mark);
}

/// The wait in milliseconds until `cap` lets one more message of `class` pass; `None` when it does now or does
/// not count such messages.
#[must_use]
pub fn wait_ms(cap: &FrequencyCap, marks: &[SendMark], class: MarkClass, now: Timestamp) -> Option<u64> {
    if !class.counts_for(cap.class) {
        return None;
    }
    let mut counted = marks.iter().rev().filter(|mark| mark.class.counts_for(cap.class));
    // Room comes when the cap's last but `max` send leaves the window.
    let deciding = counted.nth((cap.max.max(1) - 1) as usize)?;
    let wait_ms = deciding.time.plus_ms(cap.per_ms).since_ms(now);
    u64::try_from(wait_ms).ok().filter(|wait_ms| *wait_ms > 0)
}

/// The longest period among `caps`.
#[must_use]
pub fn longest_per_ms(caps: &[FrequencyCap]) -> i64 {
    caps.iter().map(|cap| cap.per_ms).max().unwrap_or(0)
}

/// The largest count among the caps that concern `class`.
fn largest_max(caps: &[FrequencyCap], class: MarkClass) -> usize {
    let of_class = caps.iter().filter(|cap| class.counts_for(cap.class));
    of_class.map(|cap| cap.max.clamp(1, FREQUENCY_CAP_MAX) as usize).max().unwrap_or(0)
}

fn put_marks(out: &mut Vec<u8>, marks: &[SendMark]) {
    put_varint(out, marks.len() as u128);
    let mut before = 0i64;
    for mark in marks {
        let step = i128::from(mark.time.0) - i128::from(before);
        let zigzag = (step << 1 ^ step >> 127).cast_unsigned();
        put_varint(out, zigzag << 1 | u128::from(mark.class == MarkClass::Utility));
        out.extend(mark.nonce.to_le_bytes());
        before = mark.time.0;
    }
}

fn take_marks(bytes: &[u8], at: &mut usize, marks_max: usize) -> Result<Vec<SendMark>, LogFault> {
    let count = take_varint(bytes, at)?;
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= marks_max)
        .ok_or_else(|| LogFault::TooMany { count: u64::try_from(count).unwrap_or(u64::MAX) })?;
    let mut marks = Vec::with_capacity(count);
    let mut before = 0i64;
    for _ in 0..count {
        let start = *at;
        let word = take_varint(bytes, at)?;
        let zigzag = word >> 1;
        let step = (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed());
        let time = i64::try_from(i128::from(before) + step).map_err(|_| LogFault::Overlong { at: start })?;
        let nonce = bytes.get(*at..*at + 4).and_then(|four| four.try_into().ok());
        let nonce = u32::from_le_bytes(nonce.ok_or(LogFault::Truncated { at: bytes.len() })?);
        *at += 4;
        let class = if word & 1 == 1 { MarkClass::Utility } else { MarkClass::Marketing };
        marks.push(SendMark { time: Timestamp(time), nonce, class });
        before = time;
    }
    Ok(marks)
}

fn put_varint(out: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &[u8], at: &mut usize) -> Result<u128, LogFault> {
    let start = *at;
    let mut value = 0u128;
    // Ten groups of seven bits hold any difference of two times and its class.
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at).ok_or(LogFault::Truncated { at: bytes.len() })?;
        *at += 1;
        value |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(LogFault::Overlong { at: start })
}

#[cfg(test)]
mod tests;
