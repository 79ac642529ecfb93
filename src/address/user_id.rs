//! WhatsApp's business-scoped user ids: `US.13491208655302741918`, or `US.ENT.…` for the parent
//! form that several portfolios of one owner share (domain §1).

use super::AddressFault;

/// The longest id after country code and dot.
const ID_LEN_MAX: usize = 128;
const PARENT: &str = "ENT.";

/// Checks `written` and keeps it as it is: the id is opaque, so even its case counts. Only the
/// country code is raised, since it is not opaque.
pub(super) fn canonical(written: &str) -> Result<Box<str>, AddressFault> {
    let written = written.trim();
    if written.is_empty() {
        return Err(AddressFault::Empty);
    }
    let (country, rest) = written.split_once('.').ok_or(AddressFault::MalformedUserId)?;
    let id = rest.strip_prefix(PARENT).unwrap_or(rest);
    if id.len() > ID_LEN_MAX {
        return Err(AddressFault::TooLong { max_bytes: ID_LEN_MAX });
    }
    let country_is_sound = country.len() == 2 && country.bytes().all(|b| b.is_ascii_alphabetic());
    let id_is_sound = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if !country_is_sound || !id_is_sound {
        return Err(AddressFault::MalformedUserId);
    }
    let mut out = String::with_capacity(written.len());
    out.push_str(&country.to_ascii_uppercase());
    out.push('.');
    out.push_str(rest);
    Ok(out.into_boxed_str())
}
