//! Lengths of time as configuration writes them: `250ms`, `5s`, `6m`, `24h`, `30d`.

use crate::policy::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS};

/// Units, longest first. `ms` stands before `m` and `s`, which it ends in.
const UNITS: [(&str, i64); 5] =
    [("ms", 1), ("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS)];

/// Why a text is not a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// A bare number, which could mean anything.
    NoUnit,
    /// Below zero.
    Negative,
    /// More than can be counted in milliseconds.
    TooLong,
    /// Something else.
    NotOne,
}

/// Milliseconds of `text`.
pub(super) fn read(text: &str) -> Result<i64, Unread> {
    let text = text.trim();
    let (number, unit_ms) = UNITS
        .iter()
        .find_map(|(unit, ms)| text.strip_suffix(unit).map(|number| (number, Some(*ms))))
        .unwrap_or((text, None));
    let number = number.trim_end();
    let digits = number.strip_prefix('-').unwrap_or(number);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Unread::NotOne);
    }
    let unit_ms = unit_ms.ok_or(Unread::NoUnit)?;
    if digits.len() < number.len() {
        return Err(Unread::Negative);
    }
    digits.parse::<i64>().ok().and_then(|count| count.checked_mul(unit_ms)).ok_or(Unread::TooLong)
}

/// The shortest way to write `ms` exactly.
pub(super) fn written(ms: i64) -> String {
    let (unit, unit_ms) = [("d", DAY_MS), ("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS)]
        .into_iter()
        .find(|(_, unit_ms)| ms != 0 && ms % unit_ms == 0)
        .unwrap_or(("ms", 1));
    format!("{}{unit}", ms / unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_and_write_back() {
        for (text, ms) in
            [("250ms", 250), ("5s", 5_000), ("6m", 360_000), ("24h", 86_400_000), ("30d", 2_592_000_000)]
        {
            assert_eq!(read(text), Ok(ms), "{text}");
            assert_eq!(read(&written(ms)), Ok(ms), "{text}");
        }
        assert_eq!(written(86_400_000), "1d");
        assert_eq!(written(0), "0ms");
        assert_eq!(read("5 s"), Ok(5_000));
    }

    #[test]
    fn everything_else_says_why() {
        for (text, why) in [
            ("5", Unread::NoUnit),
            ("-5", Unread::NoUnit),
            ("-5s", Unread::Negative),
            ("9999999999999999999s", Unread::TooLong),
            ("106751991168d", Unread::TooLong),
            ("", Unread::NotOne),
            ("s", Unread::NotOne),
            ("1.5h", Unread::NotOne),
            ("1h30m", Unread::NotOne),
            ("5 weeks", Unread::NotOne),
            ("٥s", Unread::NotOne),
        ] {
            assert_eq!(read(text), Err(why), "{text}");
        }
    }
}
