//! One spelling for every way of writing the same words.
//!
//! Both what people send and what the tables list pass through here, so that two texts are the same words exactly when
//! their results are equal. The result never has to be readable, only comparable.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// Stands between two words of which a clause ends with the first: punctuation, an emoji or a line break was there.
pub(super) const CLAUSE: char = '\n';

/// Folds case, width, accents, punctuation and emoji away: words in capitals with one space between them.
///
/// - Compatibility forms become plain letters (full-width, circled, mathematical).
/// - Accents go from Latin letters only: an Indic vowel sign or a Cyrillic breve makes another letter.
/// - Arabic vowel points and the stretching stroke (tatweel) go, as they are optional in writing. Hamza and madda stay; tables
///   list the spellings without them. *Needs review by a native reader.*
/// - Zero-width and bidirectional controls go, apostrophes go (`DON'T` is `DONT`), and all else that is neither letter nor
///   digit becomes one space.
/// - A letter held down (three or more in a row) counts once: `STOOOP`.
///
/// The result is unchanged by a second pass.
///
/// ```
/// use optgate::policy::keywords::normalise;
/// assert_eq!(normalise("«Ｓｔｏｐ!!!» 🛑"), "STOP");
/// assert_eq!(normalise("¡No  más, por_favor!"), "NO MAS POR FAVOR");
/// ```
pub fn normalise(text: &str) -> String {
    fold(text).replace(CLAUSE, " ")
}

/// As [`normalise`], with [`CLAUSE`] instead of the space where a clause ends.
///
/// Decomposing can bring up what a pass would fold differently, so passes go on until one changes nothing.
pub(super) fn fold(text: &str) -> String {
    /// Far more than any text has needed; each pass is linear.
    const PASSES_MAX: usize = 8;
    let mut folded = fold_once(text);
    for _ in 0..PASSES_MAX {
        let again = fold_once(&folded);
        if again == folded {
            break;
        }
        folded = again;
    }
    folded
}

fn fold_once(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    let mut gap = Gap::None;
    let mut base = Base::None;
    for c in visible(text).nfkd() {
        match kind(c) {
            Kind::Nothing => {}
            Kind::Mark => {
                if base == Base::KeepsMarks {
                    words.push(c);
                }
            }
            Kind::Letter => {
                if !words.is_empty() {
                    match gap {
                        Gap::None => {}
                        Gap::Space => words.push(' '),
                        Gap::Clause => words.push(CLAUSE),
                    }
                }
                gap = Gap::None;
                base = if is_latin(c) || c.is_ascii_digit() { Base::DropsMarks } else { Base::KeepsMarks };
                words.extend(c.to_uppercase());
            }
            Kind::Space => {
                gap = gap.max(Gap::Space);
                base = Base::None;
            }
            Kind::Clause => {
                gap = Gap::Clause;
                base = Base::None;
            }
        }
    }
    // What was dropped may have stood between two marks, which now have a canonical order of their own.
    release_held_keys(&words).nfkd().collect()
}

/// True of what leaves no trace when shown, or only steers how its neighbours are shown.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{20E3}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{E0000}'..='\u{E0FFF}')
}

/// Marks that people type for an apostrophe. They leave no gap, and a quote around a word leaves none either.
fn is_apostrophe(c: char) -> bool {
    matches!(
        c,
        '\'' | '`'
            | '´'
            | '\u{2B9}'
            | '\u{2BB}'..='\u{2BF}'
            | '\u{374}'
            | '\u{55A}'
            | '\u{2018}'..='\u{201B}'
            | '\u{2032}'
            | '\u{2035}'
            | '\u{FF07}'
    )
}

/// Arabic vowel points and the stretching stroke: optional in writing, so that with and without them is one spelling.
fn is_optional_arabic(c: char) -> bool {
    matches!(c, '\u{640}' | '\u{64B}'..='\u{652}' | '\u{670}')
}

/// The text's characters as seen, before decomposition: a letter shown as an emoji is no letter, a boxed one is.
fn visible(text: &str) -> impl Iterator<Item = char> + '_ {
    let mut rest = text.chars().peekable();
    std::iter::from_fn(move || {
        loop {
            let c = rest.next()?;
            if is_invisible(c) || is_apostrophe(c) || is_optional_arabic(c) {
                continue;
            }
            let shown_as_emoji = !c.is_ascii() && rest.peek() == Some(&'\u{FE0F}');
            // ℠ ™ ℹ decompose into letters, but nobody spells a word with them.
            if shown_as_emoji || matches!(c, '\u{2120}' | '\u{2122}' | '\u{2139}') {
                return Some(CLAUSE);
            }
            let boxed = match c {
                '\u{1F150}'..='\u{1F169}' => Some(u32::from(c) - 0x1F150),
                '\u{1F170}'..='\u{1F189}' => Some(u32::from(c) - 0x1F170),
                _ => None,
            };
            return Some(match boxed.and_then(|nth| char::from_u32(u32::from('A') + nth)) {
                Some(letter) => letter,
                None => c,
            });
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    None,
    Space,
    Clause,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    None,
    KeepsMarks,
    DropsMarks,
}

enum Kind {
    Nothing,
    Mark,
    Letter,
    Space,
    Clause,
}

fn kind(c: char) -> Kind {
    if is_invisible(c) || is_apostrophe(c) || is_optional_arabic(c) {
        Kind::Nothing // decomposition made it
    } else if is_combining_mark(c) {
        Kind::Mark
    } else if c.is_alphanumeric() {
        Kind::Letter
    } else if matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}') {
        Kind::Clause
    } else if c.is_whitespace()
        || c.is_control()
        || matches!(c, '-' | '_' | '\u{2010}'..='\u{2013}' | '\u{2212}')
    {
        Kind::Space
    } else {
        Kind::Clause
    }
}

/// True of letters of the Latin script, as they are after decomposition.
fn is_latin(c: char) -> bool {
    matches!(c, 'A'..='Z' | 'a'..='z' | '\u{AA}' | '\u{BA}' | '\u{C0}'..='\u{2AF}' | '\u{1D00}'..='\u{1DBF}'
        | '\u{1E00}'..='\u{1EFF}' | '\u{2C60}'..='\u{2C7F}' | '\u{A722}'..='\u{A7FF}' | '\u{AB30}'..='\u{AB6F}')
}

/// Shortens each run of three or more of one letter to one.
fn release_held_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let mut run = 1;
        while rest.next_if_eq(&c).is_some() {
            run += 1;
        }
        let kept = if run >= 3 && c.is_alphabetic() { 1 } else { run };
        out.extend(std::iter::repeat_n(c, kept));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{fold, normalise};
    use proptest::prelude::*;

    #[test]
    fn every_way_of_writing_it_is_one_spelling() {
        for (written, spelling) in [
            ("ＳＴＯＰ", "STOP"),
            ("𝐒𝐓𝐎𝐏", "STOP"),
            ("ⓢⓣⓞⓟ", "STOP"),
            ("🅂🅃🄾🄿", "STOP"),
            ("🆂🆃🅾🅿", "STOP"),
            ("S̶t̶o̶p̶", "STOP"),
            ("\u{202E}stop\u{202C}", "STOP"),
            ("st\u{200B}o\u{FEFF}p", "STOP"),
            ("‘stop’", "STOP"),
            ("don’t", "DONT"),
            ("don´t", "DONT"),
            ("opt__out - now", "OPT OUT NOW"),
            ("stop 👩‍👩‍👧‍👦 🇲🇽 👍🏽 1️⃣", "STOP 1"),
            ("help ℹ️ ™", "HELP"),
            ("stop 🅿️ Ⓜ️", "STOP"),
            ("и\u{301}\u{2057}\u{323}", "И\u{323}\u{301}"),
            ("Stooooppp", "STOP"),
            ("désabonné œuvre", "DESABONNE ŒUVRE"),
            ("Schluß", "SCHLUSS"),
            ("ıi İI", "II II"),
            ("रोकें", "रोकें"),
            ("  \u{200F}إيقاف\u{200E} ", "ا\u{655}يقاف"),
            ("إِيقَـــاف", "ا\u{655}يقاف"),
            ("…", ""),
        ] {
            assert_eq!(normalise(written), spelling, "{written}");
        }
    }

    #[test]
    fn indic_vowel_signs_make_another_word() {
        assert_ne!(normalise("रोकें"), normalise("रकं"));
        assert_ne!(normalise("बंद"), normalise("बद"));
    }

    #[test]
    fn clauses_end_at_punctuation_but_not_at_hyphens() {
        assert_eq!(fold("No, opt-out now! ok"), "NO\nOPT OUT NOW\nOK");
    }

    #[test]
    fn a_second_pass_changes_no_single_character() {
        // Without the ideographs and syllables that have no case and no mark.
        let chars = ('\0'..'\u{4E00}').chain('\u{A000}'..'\u{AC80}').chain('\u{F900}'..'\u{17000}');
        for c in chars.chain('\u{1D000}'..'\u{20000}').chain('\u{E0000}'..'\u{E0200}') {
            let once = normalise(&format!("{c} a{c} и{c}\u{301}\u{323}b"));
            assert_eq!(normalise(&once), once, "U+{:04X}", u32::from(c));
        }
    }

    proptest! {
        #[test]
        fn a_second_pass_changes_nothing(text in any::<String>()) {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once);
        }

        #[test]
        fn a_second_pass_changes_nothing_of_marks(
            text in "[aиकا\u{300}-\u{330}\u{345}\u{64B}-\u{655}\u{93C}\u{94D}\u{200D}\u{FE0F}\u{FF07}\u{149}\u{2057} ']{0,40}"
        ) {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once);
        }
    }
}
