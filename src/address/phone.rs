//! From what a person wrote to the canonical form of a phone number.

use super::national::{self, Country};
use super::{AddressFault, PHONE_DIGITS_MAX, PHONE_DIGITS_MIN, PHONE_WRITTEN_LEN_MAX};

/// The canonical form of `written`: `+`, calling code, national number, only ASCII digits.
pub(super) fn canonical(written: &str) -> Result<Box<str>, AddressFault> {
    let written = written.trim();
    if written.is_empty() {
        return Err(AddressFault::Empty);
    }
    if written.len() > PHONE_WRITTEN_LEN_MAX {
        return Err(AddressFault::TooLong { max_bytes: PHONE_WRITTEN_LEN_MAX });
    }
    let rest = written.strip_prefix('+').ok_or(AddressFault::PlusMissing)?;
    // Nearly every number arrives clean; then nothing is copied until the end.
    if rest.bytes().all(|byte| byte.is_ascii_digit()) {
        from_digits(rest)
    } else {
        from_digits(&cleaned(rest)?)
    }
}

/// The canonical form of a webhook's `wa_id`: E.164 without `+`, digits only.
pub(super) fn canonical_wa_id(wa_id: &str) -> Result<Box<str>, AddressFault> {
    if wa_id.is_empty() {
        return Err(AddressFault::Empty);
    }
    if wa_id.len() > PHONE_WRITTEN_LEN_MAX {
        return Err(AddressFault::TooLong { max_bytes: PHONE_WRITTEN_LEN_MAX });
    }
    if !wa_id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(AddressFault::NotDigits);
    }
    from_digits(wa_id)
}

/// `digits`: calling code and national number, ASCII digits only.
fn from_digits(digits: &str) -> Result<Box<str>, AddressFault> {
    let country = country_of(digits)?;
    let national = &digits[country.code.len()..];
    if country.may_have_trunk(national)
        && let Some(shorter) = country.without_trunk(national)
    {
        return assembled(country.code, &shorter);
    }
    assembled(country.code, national)
}

/// The same by the patterns alone, for the test that the short cut changes nothing.
#[cfg(test)]
pub(super) fn canonical_by_patterns(digits: &str) -> Result<Box<str>, AddressFault> {
    let country = country_of(digits)?;
    let national = &digits[country.code.len()..];
    assembled(country.code, country.without_trunk(national).as_deref().unwrap_or(national))
}

fn country_of(digits: &str) -> Result<&'static Country, AddressFault> {
    // Shorter than any number: say so rather than that its calling code is unknown.
    if digits.len() < PHONE_DIGITS_MIN {
        return Err(AddressFault::TooShort { min_digits: PHONE_DIGITS_MIN });
    }
    national::country(digits).ok_or(AddressFault::UnknownCallingCode)
}

fn assembled(code: &str, national: &str) -> Result<Box<str>, AddressFault> {
    let digits = code.len() + national.len();
    if digits < PHONE_DIGITS_MIN {
        return Err(AddressFault::TooShort { min_digits: PHONE_DIGITS_MIN });
    }
    if digits > PHONE_DIGITS_MAX {
        return Err(AddressFault::TooManyDigits { max_digits: PHONE_DIGITS_MAX });
    }
    let mut out = String::with_capacity(1 + digits);
    out.push('+');
    out.push_str(code);
    out.push_str(national);
    Ok(out.into_boxed_str())
}

/// `rest` without what people and address books put between digits. Letters are not digits here:
/// a vanity spelling or an extension is not a number one can text.
fn cleaned(rest: &str) -> Result<String, AddressFault> {
    let mut digits = String::with_capacity(rest.len());
    for character in rest.chars() {
        match character {
            '0'..='9' => digits.push(character),
            ' ' | '\t' | '-' | '.' | '(' | ')' | '/' => {}
            // No-break, thin and ideographic spaces, hyphens and dashes, minus, soft hyphen.
            '\u{A0}'
            | '\u{AD}'
            | '\u{2000}'..='\u{200B}'
            | '\u{2010}'..='\u{2015}'
            | '\u{202F}'
            | '\u{2060}'
            | '\u{2212}'
            | '\u{3000}'
            | '\u{FEFF}' => {}
            // Marks of writing direction, which address books add around numbers.
            '\u{200C}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => {}
            _ => return Err(AddressFault::NotDigits),
        }
    }
    Ok(digits)
}
