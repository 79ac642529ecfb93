//! A configuration as written: a tree whose every value knows its place.
//!
//! It is built from the parser's events rather than by its loader, because the loader stops at the
//! first key given twice and recurses into nested values, so that a file of a million `- ` would
//! end the process.

use std::collections::BTreeMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::fault::{Place, Report, quote};

/// The longest configuration file, in bytes.
pub const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The most values of a configuration, those that aliases repeat included.
pub const NODES_MAX: usize = 500_000;

/// How deep lists and sections may be nested. The configuration itself needs eight.
pub const DEPTH_MAX: usize = 32;

/// A text of so many bytes counts as one value more.
const TEXT_BYTES_PER_NODE: usize = 64;

/// The most characters of a key that a path repeats.
const KEY_CHARS_MAX: usize = 128;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

/// A value as written: no type is guessed here, so that `NO` stays Norway and `0660` keeps its zero.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Text, and whether it stood without quotes.
    Scalar { text: String, plain: bool },
    /// A list.
    List(Vec<Node>),
    /// A section: keys in the order written, each once.
    Map(Vec<Entry>),
}

/// A key of a section.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    /// Environment variables are written in capitals, whatever the key is.
    pub any_case: bool,
    pub value: Node,
}

impl Node {
    pub(super) const fn plain(place: Place, text: String) -> Self {
        Self { place, value: Value::Scalar { text, plain: true } }
    }

    pub(super) const fn section(place: Place) -> Self {
        Self { place, value: Value::Map(Vec::new()) }
    }

    /// Whether nothing, `~` or `null` is written.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What kind of value it is, in words.
    pub(super) fn kind(&self) -> String {
        match &self.value {
            Value::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Value::Scalar { text, .. } => quote(text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a section".to_owned(),
        }
    }
}

/// Where a parser's positions belong.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    File(Arc<str>),
    Variable(Arc<str>),
}

impl Origin {
    fn at(&self, mark: Marker) -> Place {
        match self {
            Self::File(file) => Place::Line { file: file.clone(), line: mark.line(), column: mark.col() + 1 },
            Self::Variable(name) => Place::Variable(name.clone()),
        }
    }

    fn whole(&self) -> Place {
        match self {
            Self::File(file) => Place::File { file: file.clone() },
            Self::Variable(name) => Place::Variable(name.clone()),
        }
    }
}

/// Reads YAML. `None`, with the fault in `report`, when it cannot be read to its end; an empty
/// section when nothing is written.
pub(super) fn parse(text: &str, origin: &Origin, report: &mut Report) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        origin,
        report,
        stack: Vec::new(),
        anchors: BTreeMap::new(),
        nodes: 0,
        root: None,
        documents: 0,
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(fault) => {
                let place = origin.at(*fault.marker());
                builder.report.fault(
                    &place,
                    "",
                    format!("this is not YAML: {}", fault.info()),
                    "correct the syntax; indentation, quotes and colons are the usual causes",
                );
                return None;
            }
        };
        builder.take(event, span.start)?;
    }
    Some(builder.root.unwrap_or_else(|| Node::section(origin.whole())))
}

/// A list or section whose end has not been read.
struct Frame {
    place: Place,
    anchor: usize,
    /// The count of values before it.
    nodes_before: usize,
    /// How deep the values within it are nested.
    height: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, first_places: BTreeMap<String, Place>, key: Option<Key> },
}

enum Key {
    /// A key that takes the next value.
    Takes(String, Place),
    /// A key with a fault: its value is read and dropped.
    Drops,
}

/// A value that an alias may repeat.
struct Anchored {
    node: Node,
    cost: usize,
    height: usize,
}

struct Builder<'a> {
    origin: &'a Origin,
    report: &'a mut Report,
    stack: Vec<Frame>,
    anchors: BTreeMap<usize, Anchored>,
    nodes: usize,
    root: Option<Node>,
    documents: usize,
}

impl Builder<'_> {
    /// Takes one event; `None` when reading on makes no sense.
    fn take(&mut self, event: Event<'_>, mark: Marker) -> Option<()> {
        let place = self.origin.at(mark);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.report.fault(
                        &place,
                        "",
                        "a second document begins here",
                        "keep one document in the file: remove the `---`",
                    );
                    return None;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), &place);
                let cost = 1 + text.len() / TEXT_BYTES_PER_NODE;
                self.grow(cost, &place)?;
                let plain = style == ScalarStyle::Plain;
                let node = Node { place, value: Value::Scalar { text: text.into_owned(), plain } };
                self.keep(anchor, &node, cost, 0)?;
                self.put(node, 0);
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), &place);
                self.open(place, anchor, Content::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), &place);
                let content = Content::Map { entries: Vec::new(), first_places: BTreeMap::new(), key: None };
                self.open(place, anchor, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(anchor) => {
                let Some(anchored) = self.anchors.get(&anchor) else {
                    let path = self.path();
                    self.report.fault(
                        &place,
                        &path,
                        "this alias stands inside the value it repeats",
                        "write the value out",
                    );
                    return None;
                };
                let (cost, height) = (anchored.cost, anchored.height);
                self.grow(cost, &place)?;
                self.check_depth(self.stack.len() + height, &place)?;
                let node = self.anchors.get(&anchor)?.node.clone();
                self.put(node, height);
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        Some(())
    }

    fn check_tag(&mut self, tag: Option<&Tag>, place: &Place) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            let path = self.path();
            self.report.fault(
                place,
                &path,
                format!("the tag {} means nothing here", quote(&tag.to_string())),
                "remove it",
            );
        }
    }

    /// Counts `cost` more values; long texts count for several, since an alias repeats them whole.
    fn grow(&mut self, cost: usize, place: &Place) -> Option<()> {
        self.nodes = self.nodes.saturating_add(cost);
        if self.nodes > NODES_MAX {
            let path = self.path();
            self.report.fault(
                place,
                &path,
                format!("there are more than {NODES_MAX} values up to here, repeated ones included"),
                "shorten the file, and repeat less through aliases",
            );
            return None;
        }
        Some(())
    }

    fn check_depth(&mut self, depth: usize, place: &Place) -> Option<()> {
        if depth > DEPTH_MAX {
            let path = self.path();
            self.report.fault(
                place,
                &path,
                format!("lists and sections are nested more than {DEPTH_MAX} deep"),
                "remove the needless brackets or indentation",
            );
            return None;
        }
        Some(())
    }

    fn open(&mut self, place: Place, anchor: usize, content: Content) -> Option<()> {
        self.grow(1, &place)?;
        self.check_depth(self.stack.len() + 1, &place)?;
        let nodes_before = self.nodes - 1;
        self.stack.push(Frame { place, anchor, nodes_before, height: 1, content });
        Some(())
    }

    fn close(&mut self) -> Option<()> {
        let frame = self.stack.pop()?;
        let value = match frame.content {
            Content::List(items) => Value::List(items),
            Content::Map { entries, .. } => Value::Map(entries),
        };
        let node = Node { place: frame.place, value };
        self.keep(frame.anchor, &node, self.nodes - frame.nodes_before, frame.height)?;
        self.put(node, frame.height);
        Some(())
    }

    /// Keeps what an anchor names; the copy counts, or nested anchors would multiply a file.
    fn keep(&mut self, anchor: usize, node: &Node, cost: usize, height: usize) -> Option<()> {
        // The parser numbers anchors from 1; 0 is none.
        if anchor > 0 {
            self.grow(cost, &node.place)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), cost, height });
        }
        Some(())
    }

    fn put(&mut self, node: Node, height: usize) {
        let is_key = matches!(self.stack.last(), Some(Frame { content: Content::Map { key: None, .. }, .. }));
        let judged = if is_key { Err(self.judge_key(node)) } else { Ok(node) };
        let Some(frame) = self.stack.last_mut() else {
            self.root = judged.ok();
            return;
        };
        frame.height = frame.height.max(height + 1);
        match (&mut frame.content, judged) {
            (Content::List(items), Ok(node)) => items.push(node),
            (Content::Map { entries, key, .. }, Ok(node)) => {
                if let Some(Key::Takes(name, place)) = key.take() {
                    entries.push(Entry { key: name, place, any_case: false, value: node });
                }
            }
            (Content::Map { first_places, key, .. }, Err(judged)) => {
                if let Key::Takes(name, place) = &judged {
                    first_places.insert(name.clone(), place.clone());
                }
                *key = Some(judged);
            }
            (Content::List(_), Err(_)) => {}
        }
    }

    /// Judges a value in a key's position.
    fn judge_key(&mut self, node: Node) -> Key {
        let path = self.path();
        let Value::Scalar { text, plain } = node.value else {
            self.report.fault(
                &node.place,
                &path,
                "a list or section stands where a key belongs",
                "write a word before the colon",
            );
            return Key::Drops;
        };
        if plain && text == "<<" {
            self.report.fault(
                &node.place,
                &path,
                "merge keys are not part of YAML 1.2 and are not understood",
                "write the settings out; what all businesses share belongs under `defaults`",
            );
            return Key::Drops;
        }
        if let Some(Frame { content: Content::Map { first_places, .. }, .. }) = self.stack.last()
            && let Some(first) = first_places.get(&text)
        {
            let what = format!("this key was given before, at {first}");
            self.report.fault(&node.place, &join(&path, &text), what, "keep one of the two");
            return Key::Drops;
        }
        Key::Takes(text, node.place)
    }

    /// The path of the value being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.stack {
            match &frame.content {
                Content::List(items) => path = format!("{path}[{}]", items.len()),
                Content::Map { key: Some(Key::Takes(name, _)), .. } => path = join(&path, name),
                Content::Map { .. } => {}
            }
        }
        path
    }
}

/// The path of `key` within the section at `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    let key: String =
        key.chars().take(KEY_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
