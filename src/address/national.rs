//! Calling codes and trunk prefixes: what libphonenumber does to a number after its country is
//! known, by the rules in `src/address/data/national.txt`.
//!
//! The crate `phonenumber` is not used for this: version 0.3.10 takes digits out of valid numbers
//! (+7 800 123 45 67 becomes +7 001 234 567, alike in Lithuania, Belarus, Colombia and Iran), so
//! that two subscribers would share an identity, and its result changes with its version, whereas
//! stored identifiers need a form that never does.

use std::sync::{LazyLock, OnceLock};

use regex::{Captures, Regex};

use super::prefix::PrefixMap;

/// The table as it was generated.
pub(super) const DATA: &str = include_str!("data/national.txt");

/// Enough passes for any number of [`super::PHONE_WRITTEN_LEN_MAX`] digits: each pass drops a digit
/// or is the last but one.
const PASSES_MAX: usize = super::PHONE_WRITTEN_LEN_MAX;

/// A calling code.
pub(super) struct Country {
    /// The digits, without `+`.
    pub(super) code: &'static str,
    /// The region most of its numbers belong to; `None` for codes of no country.
    pub(super) main_region: Option<[u8; 2]>,
    trunk: Option<Trunk>,
}

/// How a trunk prefix ("0", "8", Argentina's "15") is told from the number and taken out.
struct Trunk {
    /// Bit d is set when the pattern can begin to match at digit d. All else skips the patterns.
    first_digits: u16,
    lengths: Vec<usize>,
    local_lengths: Vec<usize>,
    replacement: Option<&'static str>,
    prefix_source: &'static str,
    national_source: &'static str,
    /// Compiled on first use: most of the world's rules are never needed by one business.
    patterns: OnceLock<Option<Patterns>>,
}

struct Patterns {
    prefix: Regex,
    national: Regex,
}

struct Countries {
    all: Vec<Country>,
    by_code: PrefixMap,
}

static COUNTRIES: LazyLock<Countries> = LazyLock::new(|| {
    let mut all = Vec::new();
    let mut by_code = PrefixMap::default();
    for line in lines(DATA) {
        // A line that cannot be read is left out; the tests show that there is none.
        let Some(country) = read(line) else { continue };
        let Ok(index) = u16::try_from(all.len()) else { break };
        if by_code.insert(country.code, index) {
            all.push(country);
        }
    }
    Countries { all, by_code }
});

/// The lines of a data file that are neither empty nor comments.
pub(super) fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Two upper-case letters as a region.
pub(super) fn region_code(text: &str) -> Option<[u8; 2]> {
    let code: [u8; 2] = text.as_bytes().try_into().ok()?;
    code.iter().all(u8::is_ascii_uppercase).then_some(code)
}

fn read(line: &'static str) -> Option<Country> {
    let mut fields = line.split('\t');
    let code = fields.next()?;
    let main_region = match fields.next()? {
        "-" => None,
        text => Some(region_code(text)?),
    };
    let trunk = match fields.next() {
        None => None,
        Some(digits) => Some(Trunk {
            first_digits: digits.bytes().filter(u8::is_ascii_digit).fold(0, |mask, d| mask | bit(d)),
            prefix_source: fields.next()?,
            replacement: Some(fields.next()?).filter(|&text| text != "-"),
            national_source: fields.next()?,
            lengths: read_lengths(fields.next()?)?,
            local_lengths: read_lengths(fields.next()?)?,
            patterns: OnceLock::new(),
        }),
    };
    Some(Country { code, main_region, trunk })
}

fn read_lengths(text: &str) -> Option<Vec<usize>> {
    if text == "-" {
        return Some(Vec::new());
    }
    text.split(',').map(|length| length.parse().ok()).collect()
}

const fn bit(digit: u8) -> u16 {
    1 << (digit - b'0')
}

/// The country whose calling code begins `digits`.
pub(super) fn country(digits: &str) -> Option<&'static Country> {
    let countries = &*COUNTRIES;
    countries.all.get(usize::from(countries.by_code.longest(digits)?))
}

/// Every calling code.
pub(super) fn countries() -> &'static [Country] {
    &COUNTRIES.all
}

impl Country {
    /// Whether [`without_trunk`](Self::without_trunk) can change `national` at all: nearly always
    /// it cannot, and this says so by one digit.
    pub(super) fn may_have_trunk(&self, national: &str) -> bool {
        match (&self.trunk, national.as_bytes().first()) {
            (Some(trunk), Some(&digit)) => trunk.first_digits & bit(digit) != 0,
            _ => false,
        }
    }

    /// `national` without trunk and carrier prefixes; `None` when there were none.
    ///
    /// libphonenumber makes one pass. Here passes repeat until nothing changes, so that the
    /// canonical form of a canonical form is itself.
    pub(super) fn without_trunk(&self, national: &str) -> Option<String> {
        let trunk = self.trunk.as_ref()?;
        let mut current = trunk.pass(national)?;
        for _ in 0..PASSES_MAX {
            match trunk.pass(&current) {
                Some(next) => current = next,
                None => break,
            }
        }
        Some(current)
    }
}

impl Trunk {
    fn patterns(&self) -> Option<&Patterns> {
        self.patterns.get_or_init(|| compile(self.prefix_source, self.national_source)).as_ref()
    }

    /// One pass: the changed number, or `None` when it stays.
    fn pass(&self, national: &str) -> Option<String> {
        let patterns = self.patterns()?;
        let found = patterns.prefix.captures(national)?;
        let stripped = self.replaced(&found, national);
        if stripped == national || !self.length_fits(stripped.len()) {
            return None;
        }
        // A number that is already one of the country's must not cease to be by the change.
        if patterns.national.is_match(national) && !patterns.national.is_match(&stripped) {
            return None;
        }
        Some(stripped)
    }

    fn replaced(&self, found: &Captures<'_>, national: &str) -> String {
        let mut out = String::with_capacity(national.len() + 4);
        let last_group = found.len().checked_sub(1).filter(|&group| group > 0);
        if let (Some(replacement), Some(_)) = (self.replacement, last_group.and_then(|g| found.get(g))) {
            found.expand(replacement, &mut out);
        }
        let end = found.get(0).map_or(0, |whole| whole.end());
        out.push_str(&national[end..]);
        out
    }

    /// A length the country has, or a longer one than any; not one that is too short, only local,
    /// or between.
    fn length_fits(&self, length: usize) -> bool {
        !self.local_lengths.contains(&length)
            && (self.lengths.contains(&length) || self.lengths.iter().all(|&known| known < length))
    }
}

fn compile(prefix: &str, national: &str) -> Option<Patterns> {
    Some(Patterns {
        prefix: Regex::new(&format!("^(?:{prefix})")).ok()?,
        national: Regex::new(&format!("^(?:{national})$")).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_and_every_pattern_compiles() {
        assert_eq!(lines(DATA).count(), countries().len());
        assert!(countries().len() > 200);
        for country in countries() {
            if let Some(trunk) = &country.trunk {
                assert!(trunk.patterns().is_some(), "+{}", country.code);
                assert!(trunk.first_digits != 0, "+{}", country.code);
                assert!(!trunk.lengths.is_empty(), "+{}", country.code);
            }
        }
    }

    #[test]
    fn calling_codes_are_free_of_prefixes_of_one_another() {
        for one in countries() {
            for other in countries() {
                assert!(one.code == other.code || !other.code.starts_with(one.code));
            }
        }
    }
}
