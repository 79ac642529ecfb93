//! The region an address belongs to.

use std::fmt;
use std::sync::LazyLock;

use super::national::{self, lines};
use super::prefix::PrefixMap;
use super::{Address, AddressKind};

/// The table as it was generated: the exceptions to each calling code's main region.
pub(super) const DATA: &str = include_str!("data/regions.txt");

/// A country or territory by its two letters (ISO 3166-1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(pub [u8; 2]);

impl Region {
    /// The region that `code` names, in capital letters.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        national::region_code(code).map(Self).filter(|&region| super::zones::is_known(region))
    }

    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("??")
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

struct Regions {
    by_prefix: PrefixMap,
    codes: Vec<[u8; 2]>,
}

static REGIONS: LazyLock<Regions> = LazyLock::new(|| {
    let mut regions = Regions { by_prefix: PrefixMap::default(), codes: Vec::new() };
    for country in national::countries() {
        if let Some(code) = country.main_region {
            regions.add(country.code, code);
        }
    }
    for (prefix, code) in exceptions() {
        regions.add(prefix, code);
    }
    regions
});

impl Regions {
    fn add(&mut self, prefix: &str, code: [u8; 2]) {
        let index = self.codes.iter().position(|known| *known == code).unwrap_or_else(|| {
            self.codes.push(code);
            self.codes.len() - 1
        });
        // There are fewer regions than pairs of letters, and the prefixes are short.
        let fits = u16::try_from(index).is_ok_and(|index| self.by_prefix.insert(prefix, index));
        debug_assert!(fits, "prefix {prefix} does not fit");
    }
}

/// Prefixes that belong to another region than the main one of their calling code.
pub(super) fn exceptions() -> impl Iterator<Item = (&'static str, [u8; 2])> {
    lines(DATA).filter_map(|line| {
        let (prefix, code) = line.split_once(' ')?;
        Some((prefix, national::region_code(code)?))
    })
}

/// The region of `address`: a phone's by its number, a WhatsApp user id's by its first letters,
/// none for an email address or a number of no country (+800, +88…).
///
/// A number that fits no region of its calling code gets the main one (the United States for +1),
/// so that a block of that region holds for numbers that were never assigned.
#[must_use]
pub fn region(address: &Address) -> Option<Region> {
    match address.kind() {
        AddressKind::Phone => {
            let regions = &*REGIONS;
            let index = regions.by_prefix.longest(address.digits())?;
            regions.codes.get(usize::from(index)).copied().map(Region)
        }
        AddressKind::WhatsappUserId => address.as_str().get(..2).and_then(national::region_code).map(Region),
        AddressKind::Email => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        assert_eq!(lines(DATA).count(), exceptions().count());
        for (prefix, code) in exceptions() {
            let address = Address::from_canonical(AddressKind::Phone, format!("+{prefix}").into());
            assert_eq!(region(&address), Some(Region(code)), "{prefix}");
        }
    }
}
