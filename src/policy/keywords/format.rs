//! The text format of the keyword files (`data/keywords/README.md` describes it to those who edit them): lines → entries.

/// The largest keyword file, in bytes.
pub const FILE_LEN_MAX: usize = 256 * 1024;
/// The most files of one lexicon.
pub const FILES_MAX: usize = 64;
/// The most phrases that one line with `(a|b)` groups may stand for.
pub const ALTERNATIVES_MAX: usize = 1_000;
/// The longest confirmation text, in bytes.
pub const ANSWER_LEN_MAX: usize = 1_024;

use super::lexicon::{Role, TextKind};
use crate::policy::types::Channel;

/// The language name of words that count in every language and cannot be switched off.
pub const ANY_LANGUAGE: &str = "any";

/// One mistake in a keyword file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct Fault {
    /// The file's name as given.
    pub file: String,
    /// Its line, from 1; 0 where the fault is not of one line.
    pub line: usize,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// A parsed file: its header and its entries, phrases still as written.
pub(super) struct KeywordFile {
    pub name: String,
    pub language: String,
    /// Whether it drops what earlier files say of this language.
    pub replaces: bool,
    pub entries: Vec<Entry>,
    pub texts: Vec<(TextKind, String)>,
}

/// One phrase with its role, not normalised.
pub(super) struct Entry {
    pub line: usize,
    pub role: Role,
    pub phrase: String,
}

#[derive(Clone, Copy)]
enum Section {
    Phrases(Role),
    Text(TextKind),
    /// Its title was a fault; its lines are not read.
    Unknown,
}

/// Parses one file. Each fault is added to `faults` and its line skipped.
pub(super) fn parse(name: &str, text: &str, faults: &mut Vec<Fault>) -> Option<KeywordFile> {
    let mut fault =
        |line: usize, message: String| faults.push(Fault { file: name.to_owned(), line, message });
    if text.len() > FILE_LEN_MAX {
        fault(0, format!("the file has {} bytes; at most {FILE_LEN_MAX} are read", text.len()));
        return None;
    }
    let mut language = None;
    let mut replaces = false;
    let mut section = None;
    let mut entries = Vec::new();
    let mut texts: Vec<(TextKind, String)> = Vec::new();
    for (number, raw) in text.trim_start_matches('\u{FEFF}').lines().enumerate() {
        let number = number + 1;
        let whole = raw.trim();
        if whole.is_empty() || whole.starts_with('#') {
            continue;
        }
        // A text may hold a `#`; elsewhere one after a space starts a remark.
        let line = match section {
            Some(Section::Text(_)) => whole,
            _ => without_remark(whole),
        };
        if let Some(title) = without_remark(whole).strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let named = section_named(title).unwrap_or(Section::Unknown);
            section = Some(named);
            match named {
                Section::Unknown => {
                    fault(number, format!("unknown section `[{title}]`; see README.md of the built-in files"))
                }
                Section::Text(kind) => {
                    if texts.iter().any(|(known, _)| *known == kind) {
                        fault(number, format!("section `[{title}]` stands twice; keep one"));
                    } else {
                        texts.push((kind, String::new()));
                    }
                }
                Section::Phrases(_) => {}
            }
            continue;
        }
        match section {
            None => match line.split_once(':').map(|(key, value)| (key.trim(), value.trim())) {
                Some(("language", tag)) if is_language(tag) => language = Some(tag.to_owned()),
                Some(("language", tag)) => {
                    fault(
                        number,
                        format!("`{tag}` is no language; write 2 or 3 small letters, e.g. `en`, or `any`"),
                    );
                }
                Some(("mode", "add")) => replaces = false,
                Some(("mode", "replace")) => replaces = true,
                Some(("mode", mode)) => {
                    fault(number, format!("unknown mode `{mode}`; write `add` or `replace`"))
                }
                _ => {
                    fault(number, "expected `language:`, `mode:` or a section such as `[opt_out]`".to_owned())
                }
            },
            Some(Section::Text(kind)) => {
                if let Some((_, text)) = texts.iter_mut().find(|(known, _)| *known == kind) {
                    if !text.is_empty() {
                        text.push(' ');
                    }
                    text.push_str(line);
                }
            }
            Some(Section::Unknown) => {}
            Some(Section::Phrases(role)) => match expand(line) {
                Ok(phrases) => {
                    entries.extend(phrases.into_iter().map(|phrase| Entry { line: number, role, phrase }));
                }
                Err(message) => fault(number, message),
            },
        }
    }
    for (kind, text) in &texts {
        if let Err(message) = check_text(text) {
            fault(0, format!("section `[text {}]`: {message}", kind.word()));
        }
    }
    let Some(language) = language else {
        fault(1, "no `language:` line; begin the file with e.g. `language: en`".to_owned());
        return None;
    };
    Some(KeywordFile { name: name.to_owned(), language, replaces, entries, texts })
}

fn without_remark(line: &str) -> &str {
    match line.split_once(" #") {
        Some((entry, _)) => entry.trim_end(),
        None => line,
    }
}

fn is_language(tag: &str) -> bool {
    tag == ANY_LANGUAGE || (matches!(tag.len(), 2 | 3) && tag.bytes().all(|b| b.is_ascii_lowercase()))
}

fn section_named(title: &str) -> Option<Section> {
    let mut words = title.split_whitespace();
    let section = match (words.next()?, words.next()) {
        ("text", Some(kind)) => Section::Text(TextKind::from_word(kind)?),
        ("channel", Some(word)) => Section::Phrases(Role::Channel(Channel::from_word(word)?)),
        (word, None) => Section::Phrases(Role::from_word(word)?),
        _ => return None,
    };
    words.next().is_none().then_some(section)
}

/// What a confirmation text must be: not empty, not too long, naming the business, no other placeholder.
fn check_text(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("the text is empty; write it on the lines below".to_owned());
    }
    if text.len() > ANSWER_LEN_MAX {
        return Err(format!("the text has {} bytes; at most {ANSWER_LEN_MAX} fit", text.len()));
    }
    let bare = text.replace("{business}", "");
    if bare.len() == text.len() {
        return Err("the text must name the business with `{business}`".to_owned());
    }
    if bare.contains(['{', '}']) {
        return Err("`{business}` is the only placeholder".to_owned());
    }
    Ok(())
}

/// All phrases that a line with groups stands for: `no more (texts|calls|)` are three.
fn expand(line: &str) -> Result<Vec<String>, String> {
    let mut phrases = vec![String::new()];
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('(') {
        let Some((group, behind)) = after.split_once(')') else {
            return Err("`(` without `)`".to_owned());
        };
        if before.contains([')', '|']) || group.contains('(') {
            return Err("groups are written `(a|b)` and do not nest".to_owned());
        }
        let choices: Vec<&str> = group.split('|').collect();
        if phrases.len() * choices.len() > ALTERNATIVES_MAX {
            return Err(format!("the line stands for more than {ALTERNATIVES_MAX} phrases; split it"));
        }
        phrases = phrases
            .iter()
            .flat_map(|phrase| choices.iter().map(move |choice| format!("{phrase}{before}{choice}")))
            .collect();
        rest = behind;
    }
    if rest.contains([')', '|']) {
        return Err("groups are written `(a|b)` and do not nest".to_owned());
    }
    for phrase in &mut phrases {
        phrase.push_str(rest);
    }
    Ok(phrases)
}

#[cfg(test)]
mod tests {
    use super::{ALTERNATIVES_MAX, FILE_LEN_MAX, expand, parse};

    fn faults(text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        parse("x.txt", text, &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn groups_stand_for_every_choice() {
        assert_eq!(expand("no (more|) (a|b)").unwrap(), ["no more a", "no more b", "no  a", "no  b"]);
        assert_eq!(expand("plain").unwrap(), ["plain"]);
    }

    #[test]
    fn every_fault_names_its_line() {
        let text =
            "mode: perhaps\nstop\n[opt_out]\nstop # fine\n(a\na)\n(a|(b))\n[nonsense]\nx\n[channel FAX]\n";
        assert_eq!(
            faults(text),
            [
                "x.txt:1: unknown mode `perhaps`; write `add` or `replace`",
                "x.txt:2: expected `language:`, `mode:` or a section such as `[opt_out]`",
                "x.txt:5: `(` without `)`",
                "x.txt:6: groups are written `(a|b)` and do not nest",
                "x.txt:7: groups are written `(a|b)` and do not nest",
                "x.txt:8: unknown section `[nonsense]`; see README.md of the built-in files",
                "x.txt:10: unknown section `[channel FAX]`; see README.md of the built-in files",
                "x.txt:1: no `language:` line; begin the file with e.g. `language: en`",
            ]
        );
    }

    #[test]
    fn texts_must_name_the_business_and_nothing_else() {
        for (text, part) in [
            ("Bye.", "must name the business"),
            ("{business} {name}", "only placeholder"),
            ("", "is empty"),
            (&"{business}".repeat(200), "at most 1024"),
        ] {
            let all = faults(&format!("language: en\n[text help]\n{text}\n"));
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(all[0].contains(part), "{all:?}");
        }
        assert!(faults("language: en\n[text help]\n{business} # 1\nline 2\n").is_empty());
        assert_eq!(faults("language: en\n[text help]\n{business}\n[text help]\n").len(), 1);
    }

    #[test]
    fn sizes_are_bounded() {
        let group = format!("({})", vec!["a"; ALTERNATIVES_MAX].join("|"));
        assert!(expand(&group).is_ok());
        assert!(expand(&format!("{group}(a|b)")).is_err());
        let largest = format!("language: en\n{}", "#".repeat(FILE_LEN_MAX - 13));
        assert!(faults(&largest).is_empty());
        assert_eq!(faults(&format!("{largest}#")).len(), 1);
    }
}
