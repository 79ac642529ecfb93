//! What people type: addresses, moments, spans, event ids.

use prost_types::Timestamp;

use crate::clock::{Clock as _, SystemClock};
use crate::pb::v1;
use crate::policy::ids::EventId;

/// Reads an address by its look: `@` an email address, `+` a phone number, letters and a dot a WhatsApp user id. What is
/// none of these goes to the server as a phone number, which refuses it with the reason.
pub fn recipient(text: &str) -> v1::Recipient {
    use v1::recipient::Address;
    let text = text.trim().to_owned();
    let address = if text.contains('@') {
        Address::Email(text)
    } else if text.starts_with('+') || !is_user_id(&text) {
        Address::Phone(text)
    } else {
        Address::WhatsappUserId(text)
    };
    v1::Recipient { address: Some(address) }
}

/// Two letters, a dot, more: `US.ENT.1234`.
fn is_user_id(text: &str) -> bool {
    text.split_once('.').is_some_and(|(region, _)| {
        region.len() == 2 && region.bytes().all(|letter| letter.is_ascii_alphabetic())
    })
}

/// Reads addresses.
pub fn recipients(texts: &[String]) -> Vec<v1::Recipient> {
    texts.iter().map(|text| recipient(text)).collect()
}

/// Reads a moment: RFC 3339 with its zone, or `now`.
///
/// # Errors
/// What a moment looks like.
pub fn time(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        let now_ms = SystemClock.now().0;
        let nanos = i32::try_from(now_ms.rem_euclid(1_000) * 1_000_000).unwrap_or(0);
        return Ok(Timestamp { seconds: now_ms.div_euclid(1_000), nanos });
    }
    let moment: jiff::Timestamp = text
        .parse()
        .map_err(|_| "give a moment with its zone, such as `2026-03-01T09:30:00Z`, or `now`".to_owned())?;
    // The wire's nanoseconds count forward, jiff's away from 1970.
    let nanos = i64::from(moment.subsec_nanosecond());
    let seconds = moment.as_second() + nanos.div_euclid(1_000_000_000);
    Ok(Timestamp { seconds, nanos: i32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0) })
}

/// Reads an event id as it is printed: origin, hyphen, sequence.
///
/// # Errors
/// What an event id looks like.
pub fn event(text: &str) -> Result<v1::EventId, String> {
    let id: EventId =
        text.trim().parse().map_err(|fault: crate::policy::ids::EventIdFault| fault.to_string())?;
    Ok(v1::EventId { origin: id.origin.to_string(), sequence: id.sequence })
}

/// A new request id: a random UUID (RFC 9562, version 4). `None` if the system gives no randomness.
#[must_use]
pub fn new_request_id() -> Option<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::recipient::Address;

    #[test]
    fn addresses_are_told_apart_by_their_look() {
        let of = |text: &str| recipient(text).address;
        assert_eq!(of(" +12025550142 "), Some(Address::Phone("+12025550142".into())));
        assert_eq!(of("ana@example.com"), Some(Address::Email("ana@example.com".into())));
        assert_eq!(of("US.ENT.100007"), Some(Address::WhatsappUserId("US.ENT.100007".into())));
        assert_eq!(of("12025550142"), Some(Address::Phone("12025550142".into())));
        assert_eq!(of("202.555.0142"), Some(Address::Phone("202.555.0142".into())));
        assert_eq!(recipients(&["+1".into(), "a@b".into()]).len(), 2);
    }

    #[test]
    fn moments_need_a_zone() {
        assert_eq!(time("1970-01-01T01:00:00+01:00"), Ok(Timestamp { seconds: 0, nanos: 0 }));
        assert_eq!(time("1970-01-01T00:00:01.5Z"), Ok(Timestamp { seconds: 1, nanos: 500_000_000 }));
        assert_eq!(time("1969-12-31T23:59:59.5Z"), Ok(Timestamp { seconds: -1, nanos: 500_000_000 }));
        assert!(time("now").is_ok_and(|now| now.seconds > 1_700_000_000));
        for text in ["2026-03-01", "2026-03-01T09:30:00", "yesterday", ""] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn event_ids_read_as_they_are_printed() {
        let id = v1::EventId { origin: "0a".repeat(16), sequence: 12 };
        assert_eq!(event(&crate::cli::text::event(&id)), Ok(id));
        assert!(event("12").is_err());
    }

    #[test]
    fn request_ids_differ() {
        let (one, other) = (new_request_id(), new_request_id());
        assert!(one.as_ref().is_some_and(|id| id.len() == 36 && id.as_bytes()[14] == b'4'), "{one:?}");
        assert_ne!(one, other);
    }
}
