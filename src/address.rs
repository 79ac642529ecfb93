//! Addresses of people: phone numbers, WhatsApp user ids, email addresses.
//!
//! Everything that is known of a person is kept under a keyed hash of an address's canonical form
//! ([`crate::key`]), so one person's spellings must come to one form, and two persons' never to
//! one. What follows from an address alone is here too: its other written forms, its region and
//! the time zones it may lie in. Nothing here knows of consent, of stores or of the wire.

mod alias;
mod email;
mod national;
mod phone;
mod prefix;
mod region;
mod user_id;
mod zones;

#[cfg(test)]
mod quiet_table;
#[cfg(test)]
mod tests;

use std::fmt;

pub use alias::{ALIASES_MAX, Aliases, aliases};
pub use region::{Region, region};
pub use zones::{ZONE_NAME_LEN_MAX, ZoneFault, Zones, resolve_zone, zones};

/// The version of the canonical forms. Peers must agree on it, and it must be raised whenever the
/// form of any address that was accepted before changes, since stored hashes are of the old form.
pub const ADDRESS_FORM_VERSION: u32 = 1;

/// The fewest digits of a phone number, calling code included: fewer are short codes or slips.
pub const PHONE_DIGITS_MIN: usize = 7;
/// The most digits of a phone number, calling code included: E.164 says 15, some German and
/// Austrian lines have two more.
pub const PHONE_DIGITS_MAX: usize = 17;
/// The longest phone number as written, with all that stands between digits, in bytes.
pub const PHONE_WRITTEN_LEN_MAX: usize = 64;
/// The longest email address, in bytes (RFC 5321).
pub const EMAIL_LEN_MAX: usize = 254;

/// What kind of address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressKind {
    /// A telephone number.
    Phone,
    /// A WhatsApp business-scoped user id.
    WhatsappUserId,
    /// An email address.
    Email,
}

impl AddressKind {
    /// The byte that stands for the kind in hashes. Never change one.
    #[must_use]
    pub const fn tag(self) -> u8 {
        match self {
            Self::Phone => 1,
            Self::WhatsappUserId => 2,
            Self::Email => 3,
        }
    }
}

/// An address of a person in its canonical form. `Debug` does not show it, there is no `Display`,
/// and only [`Address::as_str`] gives it away.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    kind: AddressKind,
    text: Box<str>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}(redacted)", self.kind)
    }
}

impl Address {
    fn from_canonical(kind: AddressKind, text: Box<str>) -> Self {
        Self { kind, text }
    }

    /// Reads a phone number in international form: `+`, calling code, number. Spaces, dashes,
    /// dots, slashes and parentheses may stand between the digits; a trunk prefix that does not
    /// belong after the calling code is taken out, as libphonenumber does (`+44 (0)7911 123456`).
    /// Whether the number is assigned is not asked: lists of ranges are always behind.
    ///
    /// # Errors
    /// When there is no `+`, anything but digits, too few or too many of them, or a calling code
    /// that does not exist.
    pub fn parse_phone(written: &str) -> Result<Self, AddressFault> {
        Ok(Self::from_canonical(AddressKind::Phone, phone::canonical(written)?))
    }

    /// Reads WhatsApp's `wa_id`: the digits of a phone number in international form, without `+`.
    ///
    /// # Errors
    /// As [`Address::parse_phone`]; here every character must be a digit.
    pub fn parse_wa_id(wa_id: &str) -> Result<Self, AddressFault> {
        Ok(Self::from_canonical(AddressKind::Phone, phone::canonical_wa_id(wa_id)?))
    }

    /// Reads a WhatsApp business-scoped user id, also in the parent form `US.ENT.…`.
    ///
    /// # Errors
    /// When it is not two letters, a dot and 1 to 128 letters or digits.
    pub fn parse_whatsapp_user_id(written: &str) -> Result<Self, AddressFault> {
        Ok(Self::from_canonical(AddressKind::WhatsappUserId, user_id::canonical(written)?))
    }

    /// Reads an email address; upper and lower case do not count.
    ///
    /// # Errors
    /// When it is longer than [`EMAIL_LEN_MAX`] or has not the form `name@domain`.
    pub fn parse_email(written: &str) -> Result<Self, AddressFault> {
        Ok(Self::from_canonical(AddressKind::Email, email::canonical(written)?))
    }

    /// What kind of address it is.
    #[must_use]
    pub fn kind(&self) -> AddressKind {
        self.kind
    }

    /// The canonical form, in clear: for hashing and for sending only.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// A phone's digits, without `+`.
    fn digits(&self) -> &str {
        self.text.strip_prefix('+').unwrap_or("")
    }
}

/// Why a text is not an address. No fault repeats the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More bytes than any address has.
    #[error("must be at most {max_bytes} bytes long")]
    TooLong {
        /// The limit.
        max_bytes: usize,
    },
    /// A phone number without `+`: which country it means cannot be known.
    #[error("must begin with `+` and the calling code, e.g. `+12025550142`")]
    PlusMissing,
    /// A phone number with letters or digits of another script.
    #[error("must have only the digits 0 to 9 after the `+`; leave out extensions and letters")]
    NotDigits,
    /// Too few digits for a phone number.
    #[error("must have at least {min_digits} digits, the calling code included")]
    TooShort {
        /// The limit.
        min_digits: usize,
    },
    /// Too many digits for a phone number.
    #[error("must have at most {max_digits} digits, the calling code included")]
    TooManyDigits {
        /// The limit.
        max_digits: usize,
    },
    /// The number begins with no calling code.
    #[error("does not begin with a calling code in use; write the country's code after the `+`")]
    UnknownCallingCode,
    /// Not a WhatsApp user id.
    #[error("must be two letters, a dot and an id of letters and digits, e.g. `US.10000000042`")]
    MalformedUserId,
    /// Not an email address.
    #[error("must have the form `name@domain`")]
    MalformedEmail,
}
