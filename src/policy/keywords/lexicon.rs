//! All keyword files as one table: phrase → what it means, in which language; and the confirmation texts.

mod build;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::format::Fault;
use super::message::{Message, has};
use super::{Outcome, StopCategory, StopScope};
use crate::policy::types::Channel;

/// The most words of one phrase.
pub const PHRASE_WORDS_MAX: usize = 12;
/// The most phrases of a lexicon, groups counted out.
pub const PHRASES_MAX: usize = 50_000;
/// The language whose texts must be complete, since all others fall back to them.
pub const FALLBACK_LANGUAGE: &str = "en";

/// The files built in, name and text.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("any.txt", include_str!("../../../data/keywords/any.txt")),
    ("en.txt", include_str!("../../../data/keywords/en.txt")),
    ("es.txt", include_str!("../../../data/keywords/es.txt")),
    ("pt.txt", include_str!("../../../data/keywords/pt.txt")),
    ("fr.txt", include_str!("../../../data/keywords/fr.txt")),
    ("de.txt", include_str!("../../../data/keywords/de.txt")),
    ("id.txt", include_str!("../../../data/keywords/id.txt")),
    ("hi.txt", include_str!("../../../data/keywords/hi.txt")),
    ("ar.txt", include_str!("../../../data/keywords/ar.txt")),
];

/// What a phrase is good for; the sections of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Role {
    OptOut,
    OptOutAll,
    OptIn,
    Confirm,
    Help,
    Politeness,
    Negation,
    NotARequest,
    StopWord,
    AloneOnly,
    MayMeanOrder,
    StopBefore,
    Everything,
    Marketing,
    Noun,
    Connector,
    Channel(Channel),
    StopEmoji,
    StopEmojiAlone,
    QuotedFrom,
    QuotedHeader,
    Signature,
}

impl Role {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("opt_out", Self::OptOut),
        ("opt_out_all", Self::OptOutAll),
        ("opt_in", Self::OptIn),
        ("confirm", Self::Confirm),
        ("help", Self::Help),
        ("politeness", Self::Politeness),
        ("negation", Self::Negation),
        ("not_a_request", Self::NotARequest),
        ("stop_words", Self::StopWord),
        ("alone_only", Self::AloneOnly),
        ("may_mean_order", Self::MayMeanOrder),
        ("stop_before", Self::StopBefore),
        ("everything", Self::Everything),
        ("marketing", Self::Marketing),
        ("nouns", Self::Noun),
        ("connectors", Self::Connector),
        ("stop_emoji", Self::StopEmoji),
        ("stop_emoji_alone", Self::StopEmojiAlone),
        ("quoted_from", Self::QuotedFrom),
        ("quoted_header", Self::QuotedHeader),
        ("signature", Self::Signature),
    ];

    /// The role of a section's title; channels have one of their own.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, role)| *role)
    }

    /// Whether such phrases ask to stop, clearly or perhaps.
    const fn is_stop(self) -> bool {
        matches!(self, Self::OptOut | Self::OptOutAll | Self::StopWord | Self::StopBefore)
    }
}

/// The texts that answer a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TextKind {
    /// Confirms an opt-out from the channel it came by.
    OptOut,
    /// Confirms an opt-out from all channels.
    OptOutAll,
    /// Confirms an opt-out from marketing.
    OptOutMarketing,
    /// Confirms an opt-out from what was named: another channel, topics.
    OptOutPart,
    /// Confirms an opt-in.
    OptIn,
    /// Answers HELP.
    Help,
}

impl TextKind {
    /// Every kind.
    pub const ALL: &'static [Self] =
        &[Self::OptOut, Self::OptOutAll, Self::OptOutMarketing, Self::OptOutPart, Self::OptIn, Self::Help];

    /// Its name in the files: `[text opt_out]`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::OptOut => "opt_out",
            Self::OptOutAll => "opt_out_all",
            Self::OptOutMarketing => "opt_out_marketing",
            Self::OptOutPart => "opt_out_part",
            Self::OptIn => "opt_in",
            Self::Help => "help",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.word() == word)
    }

    /// The text that answers `outcome`, if one does.
    #[must_use]
    pub fn answering(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::OptOut(scopes) => Some(match &scopes[..] {
                [scope] if scope.is_everything_here() => Self::OptOut,
                [scope] if scope.all_channels && scope.is_every_kind() => Self::OptOutAll,
                [StopScope { channels, all_channels: _, category: StopCategory::Marketing, topics }]
                    if channels.is_empty() && topics.is_empty() =>
                {
                    Self::OptOutMarketing
                }
                _ => Self::OptOutPart,
            }),
            Outcome::OptIn | Outcome::Confirm | Outcome::Program(_) => Some(Self::OptIn),
            Outcome::Help => Some(Self::Help),
            Outcome::None { .. } | Outcome::Ambiguous => None,
        }
    }
}

/// One meaning of a phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub role: Role,
    /// An index into the lexicon's languages; `None`: any language.
    pub language: Option<usize>,
    /// Of a negation: only at the start of a clause (`^`).
    pub begins_clause: bool,
    /// Of a negation: also covers the stop word that follows (`...`).
    pub covers_next: bool,
}

/// A line of an email that begins what is not the person's own words.
#[derive(Clone)]
pub(super) struct Cut {
    /// What stands before, between and behind each `...`, normalised; a single part is the whole line.
    pub parts: Vec<String>,
}

/// The keyword tables and texts of all languages in use.
#[derive(Clone)]
pub struct Lexicon {
    languages: Vec<String>,
    phrases: HashMap<Box<str>, Vec<Meaning>>,
    /// Clear opt-outs without their spaces → the phrase.
    squashed: HashMap<Box<str>, Box<str>>,
    stems: Vec<String>,
    /// Emoji that ask to stop, and whether only as the whole message.
    emoji: HashMap<char, bool>,
    quoted_from: Vec<Cut>,
    quoted_headers: HashSet<String>,
    signatures: Vec<Cut>,
    texts: BTreeMap<TextKind, BTreeMap<String, String>>,
    /// First word of a phrase → the most words of a phrase that begins with it.
    longest_from: HashMap<Box<str>, usize>,
    fingerprint: u64,
}

impl std::fmt::Debug for Lexicon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lexicon({:?}, {} phrases)", self.languages, self.phrases.len())
    }
}

impl Lexicon {
    /// The built-in tables in all their languages.
    ///
    /// # Errors
    /// None for the files as they are shipped.
    pub fn built_in() -> Result<Self, Vec<Fault>> {
        Self::parse(BUILT_IN)
    }

    /// The built-in tables with `files` added to them, in `languages` only.
    ///
    /// # Errors
    /// As [`Lexicon::parse_languages`].
    pub fn with_files(files: &[(&str, &str)], languages: &[&str]) -> Result<Self, Vec<Fault>> {
        let all: Vec<_> = BUILT_IN.iter().chain(files).copied().collect();
        Self::parse_languages(&all, Some(languages))
    }

    /// Tables from `files` (name, text) alone, later ones adding to earlier ones or, with `mode: replace`, replacing what
    /// those say of their language.
    ///
    /// # Errors
    /// As [`Lexicon::parse_languages`].
    pub fn parse(files: &[(&str, &str)]) -> Result<Self, Vec<Fault>> {
        Self::parse_languages(files, None)
    }

    /// As [`Lexicon::parse`], with the phrases of `languages` only, whose order decides which language a word of several
    /// languages is taken for. Phrases of the language `any` always count; texts of all languages stay.
    ///
    /// # Errors
    /// Every fault of every file: what cannot be read, phrases of contrary meaning, a language that no file has, STOP not
    /// among the opt-outs, English texts missing.
    pub fn parse_languages(files: &[(&str, &str)], languages: Option<&[&str]>) -> Result<Self, Vec<Fault>> {
        build::build(files, languages)
    }

    /// The languages in use, in order.
    #[must_use]
    pub fn languages(&self) -> &[String] {
        &self.languages
    }

    /// A number that changes with any change of the tables, for the version that decisions quote.
    #[must_use]
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The text of `kind` in `language` (`pt`, `pt_BR` or `pt-BR`), else in English, with its `{business}` placeholder.
    #[must_use]
    pub fn text(&self, kind: TextKind, language: &str) -> &str {
        self.texts
            .get(&kind)
            .and_then(|by_language| {
                by_language.get(&primary(language)).or_else(|| by_language.get(FALLBACK_LANGUAGE))
            })
            .map_or("", String::as_str)
    }

    /// The text of `kind`, ready to send, naming `business`.
    #[must_use]
    pub fn render(&self, kind: TextKind, language: &str, business: &str) -> String {
        self.text(kind, language).replace("{business}", business)
    }

    /// What the tables say of `word` as a whole message, if anything: `opt_out`, `opt_in`, `confirm` or `help`. An opt-in
    /// program's keyword must not be one of them.
    #[must_use]
    pub fn reserved(&self, word: &str) -> Option<&'static str> {
        let meanings = self.whole(&Message::read(self, word));
        [
            (Role::OptOut, "opt_out"),
            (Role::OptOutAll, "opt_out"),
            (Role::Help, "help"),
            (Role::OptIn, "opt_in"),
            (Role::Confirm, "confirm"),
        ]
        .into_iter()
        .find(|(role, _)| has(meanings, *role))
        .map(|(_, name)| name)
    }

    /// The meanings of a normalised phrase.
    pub(super) fn meanings(&self, phrase: &str) -> &[Meaning] {
        self.phrases.get(phrase).map_or(&[], Vec::as_slice)
    }

    /// The meanings of a whole message; opt-outs are also found with other spaces: `S T O P`, `unsub scribe`.
    pub(super) fn whole(&self, message: &Message) -> &[Meaning] {
        let meanings = self.meanings(message.flat());
        if !meanings.is_empty() || message.len() > PHRASE_WORDS_MAX {
            return meanings;
        }
        let squashed = message.flat().replace(' ', "");
        self.squashed.get(squashed.as_str()).map_or(&[], |phrase| self.meanings(phrase))
    }

    /// All phrases that have the role.
    #[cfg(test)]
    pub(super) fn phrases_with(&self, role: Role) -> impl Iterator<Item = &str> {
        self.phrases
            .iter()
            .filter(move |(_, meanings)| has(meanings, role))
            .map(|(phrase, _)| phrase.as_ref())
    }

    /// The most words of any phrase that begins with `word`; 0 if none does.
    pub(super) fn longest_from(&self, word: &str) -> usize {
        self.longest_from.get(word).copied().unwrap_or(0)
    }

    pub(super) fn has_stem(&self, word: &str) -> bool {
        self.stems.iter().any(|stem| word.starts_with(stem.as_str()))
    }

    /// Whether `text` holds an emoji that asks to stop; those that do so only alone count with `alone`.
    pub(super) fn has_stop_emoji(&self, text: &str, alone: bool) -> bool {
        text.chars()
            .any(|c| !c.is_ascii() && self.emoji.get(&c).is_some_and(|only_alone| alone || !only_alone))
    }

    pub(super) fn quoted_from(&self) -> &[Cut] {
        &self.quoted_from
    }

    pub(super) fn signatures(&self) -> &[Cut] {
        &self.signatures
    }

    pub(super) fn is_quoted_header(&self, word: &str) -> bool {
        self.quoted_headers.contains(word)
    }

    /// The language that most of the meanings share; of several the person's own, else the first in order; of none the
    /// person's own, else English.
    pub(super) fn language_of<'l>(
        &'l self,
        languages: impl Iterator<Item = Option<usize>>,
        own: Option<&str>,
    ) -> &'l str {
        let own = own.map(primary);
        let mut votes = vec![0_usize; self.languages.len()];
        for language in languages.flatten() {
            votes[language] += 1;
        }
        let most = votes.iter().copied().max().unwrap_or(0);
        let mut leading =
            votes.iter().zip(&self.languages).filter(|(count, _)| **count == most).map(|(_, tag)| tag);
        let leader = if most == 0 { None } else { leading.clone().next() };
        if let Some(mine) = own.as_deref().and_then(|own| leading.find(|tag| *tag == own)) {
            return mine;
        }
        if let Some(leader) = leader {
            return leader;
        }
        let has_texts = own.and_then(|own| {
            self.texts
                .values()
                .find_map(|by_language| by_language.get_key_value(&own))
                .map(|(tag, _)| tag.as_str())
        });
        has_texts.unwrap_or(FALLBACK_LANGUAGE)
    }
}

/// `pt` of `pt_BR`.
fn primary(language: &str) -> String {
    language.split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase()
}
