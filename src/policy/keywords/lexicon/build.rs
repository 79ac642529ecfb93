//! Files → lexicon, with every fault told at once.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Cut, FALLBACK_LANGUAGE, Lexicon, Meaning, PHRASE_WORDS_MAX, PHRASES_MAX, Role, TextKind};
use crate::policy::keywords::format::{ANY_LANGUAGE, FILES_MAX, Fault, KeywordFile, parse};
use crate::policy::keywords::message::{Message, has};
use crate::policy::keywords::normalise::normalise;

/// Builds the tables of `files` in `languages`, or in all there are.
pub(super) fn build(files: &[(&str, &str)], languages: Option<&[&str]>) -> Result<Lexicon, Vec<Fault>> {
    let mut faults = Vec::new();
    if files.len() > FILES_MAX {
        faults.push(general(format!("{} keyword files; at most {FILES_MAX} are read", files.len())));
        return Err(faults);
    }
    let mut kept: Vec<KeywordFile> = Vec::new();
    for (name, text) in files {
        if let Some(file) = parse(name, text, &mut faults) {
            if file.replaces {
                kept.retain(|earlier| earlier.language != file.language);
            }
            kept.push(file);
        }
    }
    let mut builder = Builder::new(&kept, languages, faults);
    builder.lexicon.fingerprint = fingerprint(files, &builder.lexicon.languages);
    builder.add_files(&kept);
    builder.finish(&kept)
}

fn general(message: String) -> Fault {
    Fault { file: "keywords".to_owned(), line: 0, message }
}

/// FNV-1a over names, texts and languages: enough to tell versions apart, which is all it is for.
fn fingerprint(files: &[(&str, &str)], languages: &[String]) -> u64 {
    let parts =
        files.iter().flat_map(|(name, text)| [*name, *text]).chain(languages.iter().map(String::as_str));
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for byte in parts.flat_map(|part| part.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    hash
}

/// Fills a lexicon and keeps the faults met on the way.
struct Builder {
    lexicon: Lexicon,
    faults: Vec<Fault>,
    count: usize,
}

impl Builder {
    fn new(files: &[KeywordFile], languages: Option<&[&str]>, mut faults: Vec<Fault>) -> Self {
        let mut known: Vec<String> = Vec::new();
        for file in files {
            if file.language != ANY_LANGUAGE && !known.contains(&file.language) {
                known.push(file.language.clone());
            }
        }
        let mut used = Vec::new();
        match languages {
            None => used = known,
            Some(wanted) => {
                for language in wanted {
                    if !known.iter().any(|tag| tag == language) {
                        faults.push(general(format!(
                            "no keyword file has the language `{language}`; there are {}",
                            known.join(", ")
                        )));
                    } else if !used.iter().any(|tag| tag == language) {
                        used.push((*language).to_owned());
                    }
                }
            }
        }
        let lexicon = Lexicon {
            languages: used,
            phrases: HashMap::new(),
            squashed: HashMap::new(),
            stems: Vec::new(),
            emoji: HashMap::new(),
            quoted_from: Vec::new(),
            quoted_headers: HashSet::new(),
            signatures: Vec::new(),
            texts: BTreeMap::new(),
            longest_from: HashMap::new(),
            fingerprint: 0,
        };
        Self { lexicon, faults, count: 0 }
    }

    fn fault(&mut self, file: &KeywordFile, line: usize, message: String) {
        self.faults.push(Fault { file: file.name.clone(), line, message });
    }

    /// Politeness first: the other phrases are stored without it.
    fn add_files(&mut self, files: &[KeywordFile]) {
        for polite in [true, false] {
            for file in files {
                for entry in file.entries.iter().filter(|entry| (entry.role == Role::Politeness) == polite) {
                    if let Err(message) = self.add(&file.language, entry.role, &entry.phrase) {
                        self.fault(file, entry.line, message);
                    }
                }
            }
        }
        for file in files {
            for (kind, text) in &file.texts {
                self.lexicon.texts.entry(*kind).or_default().insert(file.language.clone(), text.clone());
            }
        }
    }

    fn add(&mut self, language: &str, role: Role, phrase: &str) -> Result<(), String> {
        // How an email ends and what a signature looks like has nothing to do with the words one listens to.
        match role {
            Role::QuotedFrom => return cut(phrase).map(|cut| self.lexicon.quoted_from.push(cut)),
            Role::Signature => return cut(phrase).map(|cut| self.lexicon.signatures.push(cut)),
            Role::QuotedHeader => {
                self.lexicon.quoted_headers.insert(normalise(phrase));
                return Ok(());
            }
            _ => {}
        }
        let language = match language {
            ANY_LANGUAGE => None,
            tag => match self.lexicon.languages.iter().position(|known| known == tag) {
                Some(index) => Some(index),
                None => return Ok(()),
            },
        };
        match role {
            Role::StopEmoji | Role::StopEmojiAlone => return self.add_emoji(phrase, role),
            Role::StopWord if phrase.ends_with('*') => {
                let stem = normalise(phrase);
                if stem.chars().count() < 4 || stem.contains(' ') {
                    return Err(format!("the stem `{phrase}` must be one word of 4 letters or more"));
                }
                self.lexicon.stems.push(stem);
                return Ok(());
            }
            _ => {}
        }
        let shield = matches!(role, Role::Negation | Role::NotARequest);
        let (begins_clause, rest) = match phrase.trim().strip_prefix('^') {
            Some(rest) if shield => (true, rest),
            _ => (false, phrase),
        };
        let (covers_next, rest) = match rest.trim().strip_suffix("...") {
            Some(rest) if shield => (true, rest),
            _ => (false, rest),
        };
        let key = self.key(role, rest)?;
        let meaning = Meaning { role, language, begins_clause, covers_next };
        self.insert(&key, meaning)
    }

    fn add_emoji(&mut self, phrase: &str, role: Role) -> Result<(), String> {
        let mut symbols = phrase.chars().filter(|c| *c != '\u{FE0F}' && !c.is_whitespace());
        match (symbols.next(), symbols.next()) {
            (Some(symbol), None) if !symbol.is_ascii() => {
                self.lexicon.emoji.insert(symbol, role == Role::StopEmojiAlone);
                Ok(())
            }
            _ => Err(format!("`{phrase}` is not one emoji")),
        }
    }

    /// The normalised phrase. One that politeness would shorten could come to mean something else.
    fn key(&self, role: Role, phrase: &str) -> Result<String, String> {
        let message = Message::unabridged(phrase);
        if message.len() == 0 {
            return Err(format!("`{phrase}` has no letters"));
        }
        if message.len() > PHRASE_WORDS_MAX {
            return Err(format!("`{phrase}` has more than {PHRASE_WORDS_MAX} words"));
        }
        if role != Role::Politeness {
            let polite = message.polite_words(&self.lexicon);
            let all_polite = polite.iter().all(|polite| *polite);
            if !all_polite && polite.contains(&true) {
                return Err(format!("`{phrase}` contains politeness; write it without"));
            }
            if all_polite && role.is_stop() {
                return Err(format!("`{phrase}` is also politeness, so it would be overlooked; remove one"));
            }
        }
        Ok(message.flat().to_owned())
    }

    fn insert(&mut self, key: &str, meaning: Meaning) -> Result<(), String> {
        if self.count >= PHRASES_MAX {
            return Err(format!("more than {PHRASES_MAX} phrases; remove some"));
        }
        let first = key.split(' ').next().unwrap_or_default();
        let longest = self.lexicon.longest_from.entry(first.into()).or_insert(0);
        *longest = (*longest).max(key.split(' ').count());
        let squashed = key.replace(' ', "");
        if matches!(meaning.role, Role::OptOut | Role::OptOutAll) && squashed.chars().count() >= 3 {
            self.lexicon.squashed.entry(squashed.into()).or_insert_with(|| key.into());
        }
        let meanings = self.lexicon.phrases.entry(key.into()).or_default();
        if !meanings.contains(&meaning) {
            meanings.push(meaning);
            self.count += 1;
        }
        Ok(())
    }

    /// Checks that need all phrases to be there.
    fn finish(mut self, files: &[KeywordFile]) -> Result<Lexicon, Vec<Fault>> {
        for file in files {
            for entry in &file.entries {
                if let Some(message) = self.contradiction(file, entry.role, &entry.phrase) {
                    self.fault(file, entry.line, message);
                }
            }
        }
        if !has(self.lexicon.meanings("STOP"), Role::OptOut) {
            self.faults.push(general("`STOP` must stay among the opt-outs".to_owned()));
        }
        for kind in TextKind::ALL {
            if self.lexicon.text(*kind, FALLBACK_LANGUAGE).is_empty() {
                let message = format!("section `[text {}]` is missing in `{FALLBACK_LANGUAGE}`", kind.word());
                self.faults.push(general(message));
            }
        }
        // A line with groups has the same fault in many phrases.
        self.faults.dedup_by(|later, earlier| {
            later.line > 0 && (&later.file, later.line) == (&earlier.file, earlier.line)
        });
        if self.faults.is_empty() { Ok(self.lexicon) } else { Err(self.faults) }
    }

    fn contradiction(&self, file: &KeywordFile, role: Role, phrase: &str) -> Option<String> {
        if !matches!(role, Role::OptIn | Role::Confirm | Role::Help | Role::AloneOnly | Role::MayMeanOrder) {
            return None;
        }
        let meanings = self.lexicon.meanings(Message::unabridged(phrase).flat());
        if meanings.is_empty() {
            return None; // a language not in use
        }
        match role {
            Role::OptIn | Role::Confirm | Role::Help => {
                let same = |meaning: &&Meaning| {
                    meaning.language.is_none_or(|index| self.lexicon.languages[index] == file.language)
                };
                meanings
                    .iter()
                    .filter(same)
                    .any(|meaning| matches!(meaning.role, Role::OptOut | Role::OptOutAll))
                    .then(|| format!("`{phrase}` is also an opt-out; remove one"))
            }
            Role::AloneOnly | Role::MayMeanOrder => (!meanings.iter().any(|meaning| meaning.role.is_stop()))
                .then(|| {
                    format!(
                        "`{phrase}` is in none of [opt_out], [stop_words], [stop_before]; check its spelling"
                    )
                }),
            _ => None,
        }
    }
}

/// A line of an email: `on ... wrote`, or all of it.
fn cut(phrase: &str) -> Result<Cut, String> {
    let parts: Vec<String> = phrase.split("...").map(normalise).collect();
    let last = parts.len() - 1;
    if parts.iter().enumerate().any(|(nth, part)| part.is_empty() && (nth == 0 || nth < last)) {
        return Err(format!("`{phrase}` has no letters before a `...`"));
    }
    Ok(Cut { parts })
}
