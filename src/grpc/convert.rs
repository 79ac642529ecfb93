//! Between the wire's types and the domain's: the only place that knows both.
//!
//! Every message is destructured by name, so that a new field does not compile until someone decides about it.

pub mod admin;
pub mod check;
pub mod event;
pub mod import;
pub mod inbound;
pub mod record;
pub mod words;

use prost_types::{Duration, Timestamp as PbTimestamp};

use crate::address::{Address, AddressFault};
use crate::engine::token::{Token, TokenFault};
use crate::pb::v1;
use crate::policy::ids::{BusinessId, EventId, OriginId, SenderId, TopicId};
use crate::policy::time::Timestamp;

use super::status::{ApiError, FieldFault};

/// Collects the faults of one request, so that all are answered at once.
#[derive(Debug, Default)]
pub struct Faults(pub Vec<FieldFault>);

impl Faults {
    /// Notes a fault of `field`.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldFault::new(field, description));
    }

    /// The value, unless something is faulty.
    ///
    /// # Errors
    /// Every fault collected.
    pub fn or<T>(self, value: T) -> Result<T, ApiError> {
        if self.0.is_empty() { Ok(value) } else { Err(ApiError::InvalidArgument(self.0)) }
    }

    /// Reads an id, noting what is wrong with it.
    pub fn business(&mut self, field: &str, text: &str) -> Option<BusinessId> {
        BusinessId::new(text).map_err(|fault| self.add(field, fault.to_string())).ok()
    }

    /// Reads an id, noting what is wrong with it.
    pub fn sender(&mut self, field: &str, text: &str) -> Option<SenderId> {
        SenderId::new(text).map_err(|fault| self.add(field, fault.to_string())).ok()
    }

    /// Reads ids, noting what is wrong with them.
    pub fn topics(&mut self, field: &str, texts: &[String]) -> Vec<TopicId> {
        let mut topics = Vec::with_capacity(texts.len());
        for text in texts {
            match TopicId::new(text) {
                Ok(topic) => topics.push(topic),
                Err(fault) => self.add(field, fault.to_string()),
            }
        }
        topics
    }

    /// Reads an address, noting what is wrong with it.
    pub fn address(&mut self, field: &str, recipient: Option<&v1::Recipient>) -> Option<Address> {
        address(recipient).map_err(|fault| self.add(field, fault)).ok()
    }

    /// Reads a moment, noting what is wrong with it.
    pub fn time(&mut self, field: &str, time: Option<&PbTimestamp>) -> Option<Timestamp> {
        let time = time?;
        let read = timestamp(time);
        if read.is_none() {
            self.add(field, "is no moment between the years 1 and 9999");
        }
        read
    }

    /// Reads an event id, noting what is wrong with it.
    pub fn event(&mut self, field: &str, id: &v1::EventId) -> Option<EventId> {
        let read = event_id(id);
        if read.is_none() {
            self.add(field, "is no event id: `origin` has 32 lower-case hex digits, `sequence` starts at 1");
        }
        read
    }

    /// Reads a token, noting what is wrong with it. Empty: none.
    pub fn token(&mut self, field: impl FnOnce() -> String, text: &str) -> Option<Token> {
        if text.is_empty() {
            return None;
        }
        text.parse().map_err(|fault: TokenFault| self.add(field(), fault.to_string())).ok()
    }
}

/// Reads a recipient.
///
/// # Errors
/// What is wrong with it, without the address.
pub fn address(recipient: Option<&v1::Recipient>) -> Result<Address, String> {
    match read_address(recipient) {
        Some(read) => read.map_err(|fault| fault.to_string()),
        None => Err("give `phone`, `whatsapp_user_id` or `email`".into()),
    }
}

/// Reads a recipient; `None` where nothing was given.
pub fn read_address(recipient: Option<&v1::Recipient>) -> Option<Result<Address, AddressFault>> {
    use v1::recipient::Address as Given;
    let v1::Recipient { address } = recipient?;
    Some(match address.as_ref()? {
        Given::Phone(phone) => Address::parse_phone(phone),
        Given::WhatsappUserId(id) => Address::parse_whatsapp_user_id(id),
        Given::Email(email) => Address::parse_email(email),
    })
}

/// Reads a moment; `None` where it is out of range.
#[must_use]
pub fn timestamp(time: &PbTimestamp) -> Option<Timestamp> {
    /// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, as the type's own documentation bounds it.
    const RANGE_S: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    let PbTimestamp { seconds, nanos } = *time;
    if !RANGE_S.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return None;
    }
    Some(Timestamp(seconds * 1_000 + i64::from(nanos) / 1_000_000))
}

/// Writes a moment.
#[must_use]
pub fn pb_timestamp(time: Timestamp) -> PbTimestamp {
    let nanos = i32::try_from(time.0.rem_euclid(1_000) * 1_000_000).unwrap_or(0);
    PbTimestamp { seconds: time.0.div_euclid(1_000), nanos }
}

/// Writes a span.
#[must_use]
pub fn pb_duration(span_ms: i64) -> Duration {
    let nanos = i32::try_from(span_ms % 1_000 * 1_000_000).unwrap_or(0);
    Duration { seconds: span_ms / 1_000, nanos }
}

/// Reads an event id; `None` where it is none.
#[must_use]
pub fn event_id(id: &v1::EventId) -> Option<EventId> {
    let v1::EventId { origin, sequence } = id;
    let origin: OriginId = origin.parse().ok()?;
    (*sequence > 0).then_some(EventId { origin, sequence: *sequence })
}

/// Writes an event id.
#[must_use]
pub fn pb_event_id(id: EventId) -> v1::EventId {
    v1::EventId { origin: id.origin.to_string(), sequence: id.sequence }
}

/// Writes event ids.
#[must_use]
pub fn pb_event_ids(ids: &[EventId]) -> Vec<v1::EventId> {
    ids.iter().copied().map(pb_event_id).collect()
}
