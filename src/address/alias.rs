//! The other written forms of a number: Mexico's 1, Brazil's ninth digit, Argentina's 9.
//!
//! WhatsApp and the carriers of these countries write one subscriber in two ways (domain §13). An
//! opt-out counts for every form; an opt-in only for the form it was given for, since two
//! Argentine forms can be two people.

use super::{Address, AddressKind};

/// The most other forms one address has.
pub const ALIASES_MAX: usize = 1;

/// The other forms of an address: none for nearly all of the world.
#[derive(Clone, PartialEq, Eq)]
pub struct Aliases([Option<Address>; ALIASES_MAX]);

impl Aliases {
    const NONE: Self = Self([None]);

    /// The forms, at most [`ALIASES_MAX`].
    pub fn iter(&self) -> impl Iterator<Item = &Address> {
        self.0.iter().flatten()
    }

    /// Whether the address has one form only.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

impl IntoIterator for Aliases {
    type Item = Address;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Address>, ALIASES_MAX>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

impl std::fmt::Debug for Aliases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The other written forms of `address`, itself left out. Symmetric: if b is among the aliases of
/// a, then a is among those of b.
#[must_use]
pub fn aliases(address: &Address) -> Aliases {
    if address.kind() != AddressKind::Phone {
        return Aliases::NONE;
    }
    // `+52`, `+54`, `+55` and nothing else: one look at three bytes settles it for other countries.
    let other = match address.as_str().as_bytes() {
        [b'+', b'5', b'2', national @ ..] => toggled(address, national, b'1'),
        [b'+', b'5', b'4', national @ ..] => toggled(address, national, b'9'),
        [b'+', b'5', b'5', national @ ..] => brazilian(address, national),
        _ => None,
    };
    Aliases([other])
}

/// Mexico and Argentina: ten national digits, with or without `mark` before them.
fn toggled(address: &Address, national: &[u8], mark: u8) -> Option<Address> {
    match national.len() {
        10 => Some(with_digit(address, 3, mark)),
        11 if national[0] == mark => Some(without_digit(address, 3)),
        _ => None,
    }
}

/// Brazil: an area code of two digits, neither 0, then eight digits or a 9 and eight digits.
fn brazilian(address: &Address, national: &[u8]) -> Option<Address> {
    if national.iter().take(2).any(|&digit| digit == b'0') {
        return None;
    }
    match national.len() {
        10 => Some(with_digit(address, 5, b'9')),
        11 if national[2] == b'9' => Some(without_digit(address, 5)),
        _ => None,
    }
}

fn with_digit(address: &Address, at: usize, digit: u8) -> Address {
    let text = address.as_str();
    let mut out = String::with_capacity(text.len() + 1);
    out.push_str(&text[..at]);
    out.push(char::from(digit));
    out.push_str(&text[at..]);
    Address::from_canonical(AddressKind::Phone, out.into_boxed_str())
}

fn without_digit(address: &Address, at: usize) -> Address {
    let text = address.as_str();
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..at]);
    out.push_str(&text[at + 1..]);
    Address::from_canonical(AddressKind::Phone, out.into_boxed_str())
}
