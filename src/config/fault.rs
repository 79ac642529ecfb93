//! What is wrong, or doubtful, in a configuration: where, which key, why, and what to do.

use std::fmt;
use std::sync::Arc;

/// The most faults, and the most warnings, that one report lists. A file with more is most likely
/// not a configuration at all; the rest is counted.
pub const FINDINGS_MAX: usize = 200;

/// The most characters of a value that a report repeats.
const QUOTE_CHARS_MAX: usize = 60;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the file as a whole, e.g. when it cannot be opened.
    File {
        /// The file as it was named.
        file: Arc<str>,
    },
    /// At a place of the file.
    Line {
        /// The file as it was named.
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
    },
    /// In an environment variable.
    Variable(Arc<str>),
    /// In a command-line flag.
    Flag(&'static str),
    /// Nowhere: a default, or something that is missing.
    BuiltIn,
}

impl Place {
    /// The line of the file, from 1, where there is one.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        match self {
            Self::Line { line, .. } => Some(*line),
            Self::File { .. } | Self::Variable(_) | Self::Flag(_) | Self::BuiltIn => None,
        }
    }

    /// The column of the line, from 1, where there is one.
    #[must_use]
    pub const fn column(&self) -> Option<usize> {
        match self {
            Self::Line { column, .. } => Some(*column),
            Self::File { .. } | Self::Variable(_) | Self::Flag(_) | Self::BuiltIn => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file } => f.write_str(file),
            Self::Line { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::BuiltIn => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong or doubtful.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where it stands.
    pub place: Place,
    /// The path of the key, e.g. `businesses.acme-air.topics.offers`; empty for the whole file.
    pub key: String,
    /// What is wrong, without a full stop.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

/// Everything found in one configuration, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What must be corrected before the configuration can be used.
    pub faults: Vec<Finding>,
    /// What is allowed and yet most likely not meant.
    pub warnings: Vec<Finding>,
    /// How many more faults there are than are listed.
    pub faults_omitted: usize,
}

impl Report {
    /// Whether the configuration may be used.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.faults.is_empty()
    }

    pub(super) fn fault(
        &mut self,
        place: &Place,
        key: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.faults.len() >= FINDINGS_MAX {
            self.faults_omitted += 1;
            return;
        }
        self.faults.push(Finding {
            place: place.clone(),
            key: key.to_owned(),
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    pub(super) fn warn(
        &mut self,
        place: &Place,
        key: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.warnings.len() < FINDINGS_MAX {
            self.warnings.push(Finding {
                place: place.clone(),
                key: key.to_owned(),
                what: what.into(),
                remedy: remedy.into(),
            });
        }
    }

    /// Puts the findings into the order of the file and drops what was found twice.
    pub(super) fn sort(&mut self) {
        self.faults.sort();
        self.faults.dedup();
        self.warnings.sort();
        self.warnings.dedup();
    }
}

/// A configuration that cannot be used, with every fault of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Report);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.faults.len() + self.0.faults_omitted;
        write!(f, "the configuration has {count} fault{}", if count == 1 { "" } else { "s" })?;
        for fault in &self.0.faults {
            write!(f, "\n  {fault}")?;
        }
        if self.0.faults_omitted > 0 {
            write!(f, "\n  and {} more", self.0.faults_omitted)?;
        }
        Ok(())
    }
}

/// `text` in backticks, shortened, on one line.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("`");
    for (count, c) in text.chars().enumerate() {
        if count == QUOTE_CHARS_MAX {
            out.push('…');
            break;
        }
        out.push(if c.is_control() { '\u{fffd}' } else { c });
    }
    out.push('`');
    out
}

/// The word of `known` that `word` was most likely meant to be.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word: Vec<char> = word.chars().take(QUOTE_CHARS_MAX).flat_map(char::to_lowercase).collect();
    known
        .into_iter()
        .map(|candidate| {
            let letters: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
            (distance(&word, &letters), letters.len(), candidate)
        })
        // A third of the letters wrong is a typing error; more is another word.
        .filter(|(distance, length, _)| *distance <= (length / 3).max(1))
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, candidate)| candidate)
}

/// How many letters must be inserted, removed, replaced or swapped with their neighbour.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_a_typing_error_away() {
        let known = ["listen", "uds", "http", "max_connections"];
        assert_eq!(nearest("lisetn", known), Some("listen"));
        assert_eq!(nearest("LISTEN", known), Some("listen"));
        assert_eq!(nearest("htp", known), Some("http"));
        assert_eq!(nearest("max_connection", known), Some("max_connections"));
        assert_eq!(nearest("webhooks", known), None);
        assert_eq!(nearest("", known), None);
    }

    #[test]
    fn quotes_are_short_and_on_one_line() {
        assert_eq!(quote("a\nb"), "`a\u{fffd}b`");
        assert_eq!(quote(&"x".repeat(QUOTE_CHARS_MAX)), format!("`{}`", "x".repeat(QUOTE_CHARS_MAX)));
        assert_eq!(quote(&"x".repeat(QUOTE_CHARS_MAX + 1)), format!("`{}…`", "x".repeat(QUOTE_CHARS_MAX)));
    }

    #[test]
    fn a_report_lists_so_many_and_counts_the_rest() {
        let mut report = Report::default();
        for i in 0..=FINDINGS_MAX {
            report.fault(&Place::BuiltIn, &i.to_string(), "wrong", "correct it");
            report.warn(&Place::BuiltIn, &i.to_string(), "odd", "look at it");
        }
        assert_eq!((report.faults.len(), report.faults_omitted), (FINDINGS_MAX, 1));
        assert_eq!(report.warnings.len(), FINDINGS_MAX);
        assert!(Faults(report).to_string().ends_with("and 1 more"));
    }
}
