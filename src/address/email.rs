//! The canonical form of an email address: the form under which an opt-out is found again.

use unicode_normalization::UnicodeNormalization;

use super::{AddressFault, EMAIL_LEN_MAX};

/// The longest part before the `@`, in bytes (RFC 5321).
const LOCAL_LEN_MAX: usize = 64;
/// The longest label of a domain, in bytes (RFC 1035).
const LABEL_LEN_MAX: usize = 63;

/// `written` in lower case, local part included: the standard lets a server tell `Ana@` from
/// `ana@`, yet hardly any does, and a person who opted out must be found however they are spelt.
/// Tags (`+news`) and dots stay: they may be other mailboxes.
pub(super) fn canonical(written: &str) -> Result<Box<str>, AddressFault> {
    let written = written.trim();
    if written.is_empty() {
        return Err(AddressFault::Empty);
    }
    let too_long = AddressFault::TooLong { max_bytes: EMAIL_LEN_MAX };
    // A domain may end in its root's dot, which is dropped below.
    if written.len() > EMAIL_LEN_MAX + 1 {
        return Err(too_long);
    }
    let folded = if written.is_ascii() {
        written.to_ascii_lowercase()
    } else {
        // Composed and decomposed letters are one address to those who read them.
        written.nfc().flat_map(char::to_lowercase).nfc().collect()
    };
    let canonical = folded.strip_suffix('.').unwrap_or(&folded);
    if canonical.len() > EMAIL_LEN_MAX {
        return Err(too_long);
    }
    let (local, domain) = canonical.rsplit_once('@').ok_or(AddressFault::MalformedEmail)?;
    if local_is_sound(local) && domain.split('.').all(label_is_sound) {
        Ok(canonical.into())
    } else {
        Err(AddressFault::MalformedEmail)
    }
}

fn local_is_sound(local: &str) -> bool {
    !local.is_empty()
        && local.len() <= LOCAL_LEN_MAX
        && !local.chars().any(|c| {
            c.is_whitespace()
                || c.is_control()
                || matches!(c, '@' | '"' | '\\' | '(' | ')' | '<' | '>' | ',' | ';' | ':')
        })
}

fn label_is_sound(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= LABEL_LEN_MAX
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_' || is_mark(c))
}

/// Non-ASCII characters that are neither letters nor digits but occur in internationalised names
/// (vowel signs, joiners): anything that is visible or combines.
fn is_mark(c: char) -> bool {
    !c.is_ascii() && !c.is_whitespace() && !c.is_control()
}
