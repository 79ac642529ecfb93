//! What people read: moments, spans, event ids, aligned lines. Text that came from elsewhere is shown without its
//! control characters, so that nobody's message can steer the terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp as Moment;

use crate::pb::v1;

/// The column at which the values of [`Lines`] begin.
const VALUE_COLUMN: usize = 18;

/// A moment in RFC 3339, in UTC.
pub fn time(time: &prost_types::Timestamp) -> String {
    match Moment::new(time.seconds, time.nanos) {
        Ok(moment) => moment.to_string(),
        Err(_) => format!("{}s", time.seconds),
    }
}

/// A moment for people: without fractions of a second. `-` where there is none.
pub fn moment(time: Option<&prost_types::Timestamp>) -> String {
    match time.and_then(|time| Moment::new(time.seconds, 0).ok()) {
        Some(moment) => moment.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        None => "-".into(),
    }
}

/// A span in seconds: `90s`, `1.5s`.
pub fn seconds(span: &prost_types::Duration) -> String {
    let sign = if span.seconds < 0 || span.nanos < 0 { "-" } else { "" };
    let (whole, nanos) = (span.seconds.unsigned_abs(), span.nanos.unsigned_abs());
    if nanos == 0 {
        return format!("{sign}{whole}s");
    }
    let digits = format!("{nanos:09}");
    format!("{sign}{whole}.{}s", digits.trim_end_matches('0'))
}

/// A span for people: `2d 3h`, `1h 30m`, `45s`, `0.3s`; two units are enough.
pub fn span(span: &prost_types::Duration) -> String {
    let whole = span.seconds.unsigned_abs();
    if whole < 10 {
        return seconds(span);
    }
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut parts = Vec::new();
    let mut rest = whole;
    for (unit, name) in units {
        if rest >= unit && parts.len() < 2 {
            parts.push(format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    parts.join(" ")
}

/// An event id as every command takes it back: origin, hyphen, sequence.
pub fn event(id: &v1::EventId) -> String {
    format!("{}-{}", id.origin, id.sequence)
}

/// An event id that may be missing.
pub fn some_event(id: Option<&v1::EventId>) -> String {
    id.map_or_else(|| "-".into(), event)
}

/// Event ids, with commas between them.
pub fn events(ids: &[v1::EventId]) -> String {
    ids.iter().map(event).collect::<Vec<_>>().join(", ")
}

/// Text of somebody else, fit for a terminal: control characters become spaces.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_control) {
        Cow::Owned(text.chars().map(|c| if is_control(c) { ' ' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// Control characters, and those that turn the direction of what follows.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = count.saturating_mul(10) / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `1 row`, `2 rows`.
pub fn count(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// Names and values in two columns.
#[derive(Debug, Default)]
pub struct Lines(String);

impl Lines {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of its own.
    pub fn line(&mut self, text: impl AsRef<str>) -> &mut Self {
        self.0.push_str(text.as_ref());
        self.0.push('\n');
        self
    }

    /// A name and its value; nothing where the value is empty.
    pub fn row(&mut self, name: &str, value: impl AsRef<str>) -> &mut Self {
        let value = clean(value.as_ref());
        if !value.is_empty() {
            // Two spaces before the name, at least one behind it.
            let width = VALUE_COLUMN - 3;
            // Writing into a text cannot fail.
            let _ = writeln!(self.0, "  {name:<width$} {value}");
        }
        self
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Cells in columns as wide as their widest cell; the last one is not filled up.
pub fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let header = header.map(str::to_owned);
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            let cell = clean(cell);
            line.push_str(&cell);
            if at + 1 < N {
                let gap = width.saturating_sub(cell.chars().count()) + 2;
                line.extend(std::iter::repeat_n(' ', gap));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::{Duration, Timestamp};

    #[test]
    fn moments_and_spans_read_well() {
        let at = Timestamp { seconds: 1_795_341_600, nanos: 5_000_000 };
        assert_eq!(moment(Some(&at)), "2026-11-22 10:00:00Z");
        assert_eq!(time(&at), "2026-11-22T10:00:00.005Z");
        assert_eq!(moment(None), "-");
        let of = |seconds, nanos| Duration { seconds, nanos };
        for (given, expected) in [
            (of(0, 300_000_000), "0.3s"),
            (of(45, 0), "45s"),
            (of(5_400, 0), "1h 30m"),
            (of(86_400 + 7_200 + 59, 0), "1d 2h"),
            (of(86_400, 0), "1d"),
        ] {
            assert_eq!(span(&given), expected);
        }
        assert_eq!(seconds(&of(-1, -500_000_000)), "-1.5s");
    }

    #[test]
    fn strange_moments_are_no_panic() {
        assert_eq!(time(&Timestamp { seconds: i64::MAX, nanos: 0 }), format!("{}s", i64::MAX));
        assert_eq!(moment(Some(&Timestamp { seconds: i64::MIN, nanos: -1 })), "-");
    }

    #[test]
    fn nobodys_text_steers_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\u{202e}c\n"), "a [2Jb c ");
        let mut lines = Lines::new();
        lines.row("text", "x\u{7}y").row("nothing", "");
        assert_eq!(lines.text(), "  text            x y\n");
        let mut lines = Lines::new();
        lines.row("a name as long as its column", "x");
        assert_eq!(lines.text(), "  a name as long as its column x\n");
    }

    #[test]
    fn columns_align() {
        let rows = [["a".to_owned(), "b".to_owned()], ["long".to_owned(), "c".to_owned()]];
        assert_eq!(table(["x", "y"], &rows), "x     y\na     b\nlong  c\n");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(count(0, "row"), "0 rows");
    }
}
