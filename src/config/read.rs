//! Reads typed values out of the tree. A reader that finds a fault reports it and returns `None`,
//! so that reading goes on and every fault is found in one pass.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::fault::{Report, nearest, quote};
use super::node::{Entry, Node, Value, join};
use super::span::{self, Unread};
use crate::policy::ids::check_id;
use crate::policy::types::{Category, Channel, ConsentType, OptInMethod, Reason, TemplateStatus};

/// The longest text of a single setting, in bytes; a notice is the longest that makes sense.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// The most items of any one list or section.
pub const ITEMS_MAX: usize = 10_000;

/// A value and the path that leads to it.
#[derive(Clone, Debug)]
pub(super) struct At<'n> {
    pub node: &'n Node,
    pub path: String,
}

/// A closed set of words that configuration uses.
pub(super) trait Word: Copy + PartialEq + 'static {
    /// The value's word.
    fn text(self) -> &'static str;
}

macro_rules! word {
    ($($name:ty),+) => {
        $(impl Word for $name {
            fn text(self) -> &'static str { self.word() }
        })+
    };
}
word!(Category, Channel, ConsentType, OptInMethod, Reason, TemplateStatus);

/// The words, separated by commas.
pub(super) fn listed<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    words.into_iter().collect::<Vec<_>>().join(", ")
}

impl<'n> At<'n> {
    pub(super) fn root(node: &'n Node) -> Self {
        Self { node, path: String::new() }
    }

    /// Reports a fault of this value.
    pub(super) fn fault(&self, report: &mut Report, what: impl Into<String>, remedy: impl Into<String>) {
        report.fault(&self.node.place, &self.path, what, remedy);
    }

    /// Reports something doubtful about this value.
    pub(super) fn warn(&self, report: &mut Report, what: impl Into<String>, remedy: impl Into<String>) {
        report.warn(&self.node.place, &self.path, what, remedy);
    }

    fn expected(&self, report: &mut Report, wanted: &str, remedy: impl Into<String>) {
        self.fault(report, format!("expected {wanted}, found {}", self.node.kind()), remedy);
    }

    /// `None` inside where nothing, `~` or `null` is written, else what `read` makes of it.
    pub(super) fn or_null<T>(
        &self,
        report: &mut Report,
        read: impl FnOnce(&Self, &mut Report) -> Option<T>,
    ) -> Option<Option<T>> {
        if self.node.is_null() { Some(None) } else { read(self, report).map(Some) }
    }

    /// A text of 1 to [`TEXT_BYTES_MAX`] bytes.
    pub(super) fn text(&self, report: &mut Report) -> Option<&'n str> {
        let Value::Scalar { text, plain } = &self.node.value else {
            self.expected(report, "a text", "write one value after the colon");
            return None;
        };
        if self.node.is_null() || text.trim().is_empty() {
            self.fault(report, "nothing is written", "write a value, or leave the key out for its default");
            return None;
        }
        if *plain && matches!(text.to_ascii_lowercase().as_str(), "true" | "false") {
            self.expected(report, "a text", "put it in quotes if this is meant as a text");
            return None;
        }
        if text.len() > TEXT_BYTES_MAX {
            self.fault(
                report,
                format!("{} bytes are too long", text.len()),
                format!("shorten it to {TEXT_BYTES_MAX} bytes"),
            );
            return None;
        }
        Some(text)
    }

    /// An id: short, without control characters.
    pub(super) fn id(&self, report: &mut Report) -> Option<&'n str> {
        let text = self.text(report)?;
        if let Err(fault) = check_id(text) {
            self.fault(report, format!("{} cannot be an id: it {fault}", quote(text)), "correct the id");
            return None;
        }
        Some(text)
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, report: &mut Report) -> Option<bool> {
        match &self.node.value {
            Value::Scalar { text, plain: true } if text.eq_ignore_ascii_case("true") => Some(true),
            Value::Scalar { text, plain: true } if text.eq_ignore_ascii_case("false") => Some(false),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.expected(report, "true or false", "write true or false, without quotes");
                None
            }
        }
    }

    /// A whole number within `range`.
    pub(super) fn number(&self, report: &mut Report, range: RangeInclusive<u64>) -> Option<u64> {
        let bounds = format!("write a whole number from {} to {}", range.start(), range.end());
        let text = match &self.node.value {
            Value::Scalar { text, plain: true } if !self.node.is_null() => text.as_str(),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.expected(report, "a number", bounds);
                return None;
            }
        };
        // Underscores as in 100_000 are a habit of people who read many zeros.
        let digits = text.replace('_', "");
        let number = match digits.parse::<i128>() {
            Ok(number) => number,
            Err(_) => {
                self.expected(report, "a whole number", bounds);
                return None;
            }
        };
        match u64::try_from(number).ok().filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => {
                self.fault(report, format!("{} is out of bounds", quote(text)), bounds);
                None
            }
        }
    }

    /// A whole number within `range` that fits 32 bits.
    pub(super) fn number32(&self, report: &mut Report, range: RangeInclusive<u32>) -> Option<u32> {
        let (from, to) = range.into_inner();
        self.number(report, u64::from(from)..=u64::from(to)).and_then(|number| u32::try_from(number).ok())
    }

    /// A length of time within `range`, in milliseconds.
    pub(super) fn span(&self, report: &mut Report, range: RangeInclusive<i64>) -> Option<i64> {
        let bounds =
            format!("write a time from {} to {}", span::written(*range.start()), span::written(*range.end()));
        let text = match &self.node.value {
            Value::Scalar { text, .. } if !self.node.is_null() => text.as_str(),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.expected(
                    report,
                    "a length of time",
                    "write a number and a unit: 250ms, 5s, 6m, 24h or 30d",
                );
                return None;
            }
        };
        match span::read(text) {
            Ok(ms) if range.contains(&ms) => Some(ms),
            Ok(_) | Err(Unread::TooLong) => {
                self.fault(report, format!("{} is out of bounds", quote(text)), bounds);
                None
            }
            Err(Unread::Negative) => {
                self.fault(report, format!("{} is negative", quote(text)), bounds);
                None
            }
            Err(Unread::NoUnit) => {
                self.fault(
                    report,
                    format!("{} has no unit", quote(text)),
                    "add ms, s, m, h or d, as in 250ms, 5s, 6m, 24h or 30d",
                );
                None
            }
            Err(Unread::NotOne) => {
                self.expected(
                    report,
                    "a length of time",
                    "write a whole number and a unit: 250ms, 5s, 6m, 24h or 30d",
                );
                None
            }
        }
    }

    /// One of `choices`, each with the word that names it.
    pub(super) fn choice<T: Copy>(&self, report: &mut Report, choices: &[(&str, T)]) -> Option<T> {
        let known = || choices.iter().map(|(word, _)| *word);
        let Value::Scalar { text, .. } = &self.node.value else {
            self.expected(report, "one word", format!("write one of {}", listed(known())));
            return None;
        };
        if let Some((_, value)) = choices.iter().find(|(word, _)| word == text) {
            return Some(*value);
        }
        let found = self.node.kind();
        match nearest(text, known()) {
            Some(near) if !self.node.is_null() => self.fault(
                report,
                format!("{found} is not known"),
                format!("did you mean {near}? known are {}", listed(known())),
            ),
            _ => self.fault(
                report,
                format!("{found} is not known"),
                format!("write one of {}", listed(known())),
            ),
        }
        None
    }

    /// One of the words in `allowed`.
    pub(super) fn word<T: Word>(&self, report: &mut Report, allowed: &[T]) -> Option<T> {
        let choices: Vec<(&str, T)> = allowed.iter().map(|value| (value.text(), *value)).collect();
        self.choice(report, &choices)
    }

    /// The items of a list.
    pub(super) fn list(&self, report: &mut Report) -> Option<Vec<At<'n>>> {
        let Value::List(items) = &self.node.value else {
            let remedy = match &self.node.value {
                Value::Scalar { .. } if self.node.is_null() => "write [] for an empty list".to_owned(),
                Value::Scalar { text, .. } => format!("write [{}]", quote(text).trim_matches('`')),
                Value::List(_) | Value::Map(_) => {
                    "put the items between [ and ], or each after a `- `".to_owned()
                }
            };
            self.expected(report, "a list", remedy);
            return None;
        };
        if items.len() > ITEMS_MAX {
            self.fault(
                report,
                format!("{} items are too many", items.len()),
                format!("keep at most {ITEMS_MAX}"),
            );
            return None;
        }
        Some(
            items
                .iter()
                .enumerate()
                .map(|(index, node)| At { node, path: format!("{}[{index}]", self.path) })
                .collect(),
        )
    }

    /// The distinct values of a list. A faulty item drops the whole list, after all were read.
    pub(super) fn set<T: Ord>(
        &self,
        report: &mut Report,
        mut read: impl FnMut(&At<'n>, &mut Report) -> Option<T>,
    ) -> Option<BTreeSet<T>> {
        let mut set = BTreeSet::new();
        let mut whole = true;
        for item in self.list(report)? {
            match read(&item, report) {
                None => whole = false,
                Some(value) => {
                    if !set.insert(value) {
                        item.fault(
                            report,
                            format!("{} is listed twice", item.node.kind()),
                            "keep one of the two",
                        );
                    }
                }
            }
        }
        whole.then_some(set)
    }

    /// The keys of a section and their values; nothing written is an empty section.
    pub(super) fn entries(&self, report: &mut Report) -> Option<&'n [Entry]> {
        if self.node.is_null() {
            return Some(&[]);
        }
        let Value::Map(entries) = &self.node.value else {
            self.expected(report, "a section", "write `key: value` lines, indented, or { key: value }");
            return None;
        };
        if entries.len() > ITEMS_MAX {
            self.fault(
                report,
                format!("{} keys are too many", entries.len()),
                format!("keep at most {ITEMS_MAX}"),
            );
            return None;
        }
        Some(entries)
    }

    /// The value under one of this section's keys.
    pub(super) fn child(&self, entry: &'n Entry) -> At<'n> {
        At { node: &entry.value, path: join(&self.path, &entry.key) }
    }

    /// The entries of a section whose keys are words.
    pub(super) fn by_word<T: Word>(&self, report: &mut Report, allowed: &[T]) -> Vec<(T, At<'n>)> {
        let mut found = Vec::new();
        for entry in self.entries(report).unwrap_or_default() {
            let known = allowed.iter().find(|value| {
                entry.key == value.text() || entry.any_case && entry.key.eq_ignore_ascii_case(value.text())
            });
            match known {
                Some(value) => found.push((*value, self.child(entry))),
                None => unknown_key(report, &self.path, entry, allowed.iter().map(|value| value.text())),
            }
        }
        found
    }

    /// A path of a file or folder.
    pub(super) fn path(&self, report: &mut Report) -> Option<PathBuf> {
        let text = self.text(report)?;
        if text.contains('\0') {
            self.fault(report, "a path cannot hold a NUL character", "correct the path");
            return None;
        }
        Some(PathBuf::from(text))
    }

    /// A socket address, e.g. `127.0.0.1:50051`.
    pub(super) fn socket(&self, report: &mut Report) -> Option<SocketAddr> {
        let text = self.text(report)?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                self.expected(
                    report,
                    "an IP address and a port",
                    "write it like 127.0.0.1:50051 or [::1]:50051; port 0 takes any free one",
                );
                None
            }
        }
    }
}

fn unknown_key<'k>(
    report: &mut Report,
    path: &str,
    entry: &Entry,
    known: impl Iterator<Item = &'k str> + Clone,
) {
    let remedy = match nearest(&entry.key, known.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here are {}", listed(known)),
    };
    report.fault(&entry.place, &join(path, &entry.key), "this key is not known", remedy);
}

/// A section being read: remembers which keys were asked for, so that the others are faults.
pub(super) struct Section<'n> {
    pub at: At<'n>,
    entries: &'n [Entry],
    known: Vec<&'static str>,
}

impl<'n> Section<'n> {
    /// Opens a section; nothing written is an empty one.
    pub(super) fn open(at: At<'n>, report: &mut Report) -> Option<Self> {
        let entries = at.entries(report)?;
        Some(Self { at, entries, known: Vec::new() })
    }

    /// The value under `key`, where it is written.
    pub(super) fn get(&mut self, key: &'static str) -> Option<At<'n>> {
        self.known.push(key);
        let matches =
            |entry: &&Entry| entry.key == key || entry.any_case && entry.key.eq_ignore_ascii_case(key);
        self.entries.iter().find(matches).map(|entry| self.at.child(entry))
    }

    /// The value under `key`, or a fault.
    pub(super) fn required(&mut self, key: &'static str, report: &mut Report) -> Option<At<'n>> {
        let found = self.get(key);
        if found.is_none() {
            let what = format!("`{key}` is missing");
            self.at.fault(report, what, format!("add `{key}: …`"));
        }
        found
    }

    /// Puts what `read` makes of the value under `key` into `slot`; absent or faulty leaves it.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        report: &mut Report,
        slot: &mut T,
        read: impl FnOnce(&At<'n>, &mut Report) -> Option<T>,
    ) {
        if let Some(value) = self.get(key).and_then(|at| read(&at, report)) {
            *slot = value;
        }
    }

    /// Reports every key that was not asked for.
    pub(super) fn close(self, report: &mut Report) {
        for entry in self.entries {
            let known = self.known.iter().copied();
            let asked = known
                .clone()
                .any(|key| entry.key == key || entry.any_case && entry.key.eq_ignore_ascii_case(key));
            if !asked {
                unknown_key(report, &self.at.path, entry, known);
            }
        }
    }
}
