//! Names of things: origins, events, identifiers, businesses, senders, topics.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest business, sender, topic, template or request id, in bytes.
pub const ID_LEN_MAX: usize = 128;

/// One run of one anchor, random, minted at its first own event after each start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginId(pub [u8; 16]);

impl fmt::Display for OriginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for OriginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// The name of one event of the ledger, everywhere and for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Who numbered it.
    pub origin: OriginId,
    /// Its number there, from 1.
    pub sequence: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.origin, self.sequence)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an event id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event id is 32 lower-case hex digits, a hyphen and a number from 1")]
pub struct EventIdFault;

impl FromStr for OriginId {
    type Err = EventIdFault;

    fn from_str(text: &str) -> Result<Self, EventIdFault> {
        parse_hex(text).map(Self).ok_or(EventIdFault)
    }
}

impl FromStr for EventId {
    type Err = EventIdFault;

    fn from_str(text: &str) -> Result<Self, EventIdFault> {
        let (origin, sequence) = text.split_once('-').ok_or(EventIdFault)?;
        let sequence: u64 = sequence.parse().map_err(|_| EventIdFault)?;
        if sequence == 0 {
            return Err(EventIdFault);
        }
        Ok(Self { origin: origin.parse()?, sequence })
    }
}

/// One address of a person at one business, as a keyed hash. It reveals the address to nobody
/// without the cluster key, yet it is still personal data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identifier(pub [u8; 32]);

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..4])?;
        f.write_str("…")
    }
}

impl FromStr for Identifier {
    type Err = EventIdFault;

    fn from_str(text: &str) -> Result<Self, EventIdFault> {
        parse_hex(text).map(Self).ok_or(EventIdFault)
    }
}

/// Writes at most 32 bytes at once: formatting digit by digit is a good part of a check's cost.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    let pairs = text.chunks_exact_mut(2);
    for (pair, byte) in pairs.zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    let written = text.get(..2 * bytes.len()).and_then(|text| std::str::from_utf8(text).ok());
    f.write_str(written.unwrap_or_default())
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Why a text cannot be an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdFault {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More than [`ID_LEN_MAX`] bytes were given.
    #[error("must be at most {ID_LEN_MAX} bytes long")]
    TooLong,
    /// A control character or a line break was given.
    #[error("must not contain control characters")]
    Control,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps `text`.
            ///
            /// # Errors
            /// When it is empty, too long or contains control characters.
            pub fn new(text: &str) -> Result<Self, IdFault> {
                check_id(text)?;
                Ok(Self(text.into()))
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// The controller who sends, as the callers name it.
    BusinessId
}
text_id! {
    /// A number or address of a business; WhatsApp's `phone_number_id`.
    SenderId
}
text_id! {
    /// A message type that a person agrees to, e.g. `delivery_updates`.
    TopicId
}

/// Checks `text` as an id.
///
/// # Errors
/// When it is empty, too long or contains control characters.
pub fn check_id(text: &str) -> Result<(), IdFault> {
    if text.is_empty() {
        return Err(IdFault::Empty);
    }
    if text.len() > ID_LEN_MAX {
        return Err(IdFault::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(IdFault::Control);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_read_back() {
        let id = EventId { origin: OriginId([0xab; 16]), sequence: 42 };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in
            ["", "ab-1", "-1", &format!("{}-0", OriginId([1; 16])), &format!("{}-x", OriginId([1; 16]))]
        {
            assert_eq!(bad.parse::<EventId>(), Err(EventIdFault), "{bad}");
        }
    }

    #[test]
    fn ids_are_bounded() {
        assert!(BusinessId::new(&"x".repeat(ID_LEN_MAX)).is_ok());
        assert_eq!(BusinessId::new(&"x".repeat(ID_LEN_MAX + 1)), Err(IdFault::TooLong));
        assert_eq!(BusinessId::new(""), Err(IdFault::Empty));
        assert_eq!(BusinessId::new("a\nb"), Err(IdFault::Control));
    }

    #[test]
    fn an_identifier_prints_little_of_itself_in_debug() {
        let text = format!("{:?}", Identifier([7; 32]));
        assert_eq!(text, "07070707…");
    }
}
