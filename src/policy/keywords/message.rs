//! A message as words: politeness taken out, clauses known, phrases of the tables found in it.

use std::ops::Range;

use super::lexicon::{Lexicon, Meaning, Role};
use super::normalise::{CLAUSE, fold};

/// The words of one message.
pub(super) struct Message {
    /// All words with one space between them.
    flat: String,
    words: Vec<Word>,
    /// Whether there is nothing but politeness in it, which then was left in.
    pub polite_only: bool,
}

struct Word {
    bytes: Range<usize>,
    clause: u32,
}

/// A phrase of the tables at a place in a message.
pub(super) struct Found<'l> {
    pub words: Range<usize>,
    pub meanings: &'l [Meaning],
}

impl Message {
    /// Reads `text`, without the politeness in it unless there is nothing else.
    pub fn read(lexicon: &Lexicon, text: &str) -> Self {
        let whole = Self::unabridged(text);
        let polite = whole.polite_words(lexicon);
        if polite.iter().all(|polite| *polite) {
            return Self { polite_only: true, ..whole };
        }
        let mut kept =
            Self { flat: String::with_capacity(whole.flat.len()), words: Vec::new(), polite_only: false };
        for (word, polite) in whole.words.iter().zip(polite) {
            if !polite {
                kept.push(&whole.flat[word.bytes.clone()], word.clause);
            }
        }
        kept
    }

    /// Which of the words are politeness.
    pub fn polite_words(&self, lexicon: &Lexicon) -> Vec<bool> {
        let mut polite = vec![false; self.len()];
        let mut at = 0;
        while at < self.len() {
            let longest = self
                .found_at(lexicon, at)
                .filter(|found| found.has(Role::Politeness))
                .map(|found| found.words.end)
                .last();
            match longest {
                Some(end) => {
                    polite[at..end].fill(true);
                    at = end;
                }
                None => at += 1,
            }
        }
        polite
    }

    /// Reads `text` as it is.
    pub fn unabridged(text: &str) -> Self {
        let folded = fold(text);
        let mut message =
            Self { flat: String::with_capacity(folded.len()), words: Vec::new(), polite_only: false };
        for (clause, part) in (0..).zip(folded.split(CLAUSE)) {
            for word in part.split(' ').filter(|word| !word.is_empty()) {
                message.push(word, clause);
            }
        }
        message
    }

    fn push(&mut self, word: &str, clause: u32) {
        if !self.flat.is_empty() {
            self.flat.push(' ');
        }
        let start = self.flat.len();
        self.flat.push_str(word);
        self.words.push(Word { bytes: start..self.flat.len(), clause });
    }

    /// How many words it has.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// The words as one normalised text.
    pub fn flat(&self) -> &str {
        &self.flat
    }

    /// The given words as one normalised text.
    pub fn phrase(&self, words: Range<usize>) -> &str {
        match self.words.get(words) {
            Some([first, .., last]) => &self.flat[first.bytes.start..last.bytes.end],
            Some([only]) => &self.flat[only.bytes.clone()],
            _ => "",
        }
    }

    /// Whether a clause begins with this word.
    pub fn begins_clause(&self, word: usize) -> bool {
        word == 0 || !self.same_clause(word - 1..word + 1)
    }

    /// Whether all these words are in one clause.
    pub fn same_clause(&self, words: Range<usize>) -> bool {
        match self.words.get(words) {
            Some([first, .., last]) => first.clause == last.clause,
            Some(_) => true,
            None => false,
        }
    }

    /// The ranges of words between clause ends, in order.
    pub fn clauses(&self) -> Vec<Range<usize>> {
        let mut clauses: Vec<Range<usize>> = Vec::new();
        for word in 0..self.len() {
            match clauses.last_mut() {
                Some(clause) if !self.begins_clause(word) => clause.end = word + 1,
                _ => clauses.push(word..word + 1),
            }
        }
        clauses
    }

    /// The tables' phrases that start at a word, the shortest first.
    pub fn found_at<'l>(&self, lexicon: &'l Lexicon, word: usize) -> impl Iterator<Item = Found<'l>> {
        let longest = lexicon.longest_from(self.phrase(word..word + 1));
        let ends = word + 1..=self.len().min(word + longest);
        ends.filter_map(move |end| {
            let meanings = lexicon.meanings(self.phrase(word..end));
            (!meanings.is_empty()).then_some(Found { words: word..end, meanings })
        })
    }
}

impl Found<'_> {
    /// Whether the phrase has this role in some language.
    pub fn has(&self, role: Role) -> bool {
        has(self.meanings, role)
    }

    /// Whether it asks to stop, clearly or perhaps.
    fn stops(&self) -> bool {
        self.has(Role::OptOut) || self.has(Role::OptOutAll) || self.has(Role::StopWord)
    }
}

/// Whether one of the meanings is this role.
pub(super) fn has(meanings: &[Meaning], role: Role) -> bool {
    meanings.iter().any(|meaning| meaning.role == role)
}

/// What a text says of stopping where it is not, as a whole, a clear request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mentions {
    /// A stop word that neither a negation nor a harmless phrase covers.
    pub open: bool,
    /// A stop word that a negation covers.
    pub negated: bool,
}

/// How words that may mean an order or an appointment count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OrderWords {
    /// As any other: text messages and calls.
    Count,
    /// Only as the whole message, and then they are in doubt: email.
    DoubtAlone,
    /// Not at all: a business's own button.
    Ignored,
}

/// Searches the words for stop words. Linear in the text: each place is looked at for phrases up to the longest.
pub(super) fn mentions(lexicon: &Lexicon, message: &Message, order_words: OrderWords) -> Mentions {
    let shields = Shields::of(lexicon, message);
    let mut mentions = Mentions::default();
    for at in 0..message.len() {
        let stem = lexicon.has_stem(message.phrase(at..at + 1)).then_some(at..at + 1);
        let phrases = message.found_at(lexicon, at).filter(Found::stops).map(|found| {
            let open = counts(&found, message.len(), order_words);
            (found.words, open)
        });
        for (words, counts) in stem.map(|words| (words, true)).into_iter().chain(phrases) {
            match shields.over(&words) {
                Some(Role::Negation) => mentions.negated = true,
                Some(_) => {}
                None => mentions.open |= counts,
            }
        }
    }
    mentions
}

fn counts(found: &Found<'_>, message_words: usize, order_words: OrderWords) -> bool {
    let whole = found.words.len() == message_words;
    let ordered = match order_words {
        OrderWords::Count => true,
        OrderWords::DoubtAlone => whole || !found.has(Role::MayMeanOrder),
        OrderWords::Ignored => !found.has(Role::MayMeanOrder),
    };
    ordered && (whole || !found.has(Role::AloneOnly))
}

/// Where negations and harmless phrases cover the words of a message.
struct Shields {
    negations: Cover,
    harmless: Cover,
}

/// The stretches that phrases of one role cover.
struct Cover {
    /// For each word the furthest end of a stretch that starts there or before.
    reach: Vec<usize>,
    /// Words directly behind a phrase that also covers what follows it.
    behind: Vec<bool>,
}

impl Cover {
    fn over(&self, words: &Range<usize>) -> bool {
        self.reach[words.start] >= words.end || self.behind[words.start]
    }
}

impl Shields {
    fn of(lexicon: &Lexicon, message: &Message) -> Self {
        Self {
            negations: cover(lexicon, message, Role::Negation),
            harmless: cover(lexicon, message, Role::NotARequest),
        }
    }

    fn over(&self, words: &Range<usize>) -> Option<Role> {
        if self.negations.over(words) {
            Some(Role::Negation)
        } else {
            self.harmless.over(words).then_some(Role::NotARequest)
        }
    }
}

fn cover(lexicon: &Lexicon, message: &Message, role: Role) -> Cover {
    let mut cover = Cover { reach: vec![0; message.len()], behind: vec![false; message.len()] };
    let mut furthest = 0;
    for at in 0..message.len() {
        for found in message.found_at(lexicon, at).filter(|found| message.same_clause(found.words.clone())) {
            for meaning in found.meanings.iter().filter(|meaning| meaning.role == role) {
                if meaning.begins_clause && !message.begins_clause(at) {
                    continue;
                }
                let end = found.words.end;
                furthest = furthest.max(end);
                if meaning.covers_next && end < message.len() && !message.begins_clause(end) {
                    cover.behind[end] = true;
                }
            }
        }
        cover.reach[at] = furthest;
    }
    cover
}
