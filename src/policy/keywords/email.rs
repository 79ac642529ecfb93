//! The person's own words of an email: what stands above the quoted message and the signature.

use super::both_ends;
use super::lexicon::{Cut, Lexicon};
use super::normalise::normalise;

/// The shortest line of only hyphens or underscores that mail programs set above a quoted message.
const RULE_LEN_MIN: usize = 8;
/// Lines longer than this are prose, in bytes: neither introduction nor signature.
const MARKER_LEN_MAX: usize = 512;
/// How many bytes of own words are looked through for their end.
const OWN_WORDS_LEN_MAX: usize = 2 * super::TEXT_LEN_MAX;
/// Of longer emails the middle is not read, in bytes.
const EMAIL_LEN_MAX: usize = 64 * 1024;

/// The text above the first quoted line, introduction to one (`On … wrote:`) or signature. Where nothing stands above it, the
/// unquoted lines below: some people answer underneath. A name under the words is not known for one and stays. Words that go
/// on for long are cut, yet never to so few that they would pass for a short message.
pub(super) fn own_words(lexicon: &Lexicon, text: &str) -> String {
    let shortened;
    let text = if text.len() > EMAIL_LEN_MAX {
        shortened = both_ends(text, EMAIL_LEN_MAX);
        shortened.as_str()
    } else {
        text
    };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let first = lines.iter().position(|line| !line.is_empty()).unwrap_or(lines.len());
    let own = up_to_end(lexicon, &lines[first..]);
    if !own.is_empty() {
        return own.join("\n");
    }
    let Some(last_quoted) = lines.iter().rposition(|line| is_quoted(line)) else {
        return String::new();
    };
    up_to_end(lexicon, &lines[last_quoted + 1..]).join("\n")
}

fn up_to_end<'a, 't>(lexicon: &Lexicon, lines: &'a [&'t str]) -> &'a [&'t str] {
    let mut read = 0;
    let end = (0..lines.len()).find(|at| {
        let enough = read > OWN_WORDS_LEN_MAX;
        read += lines[*at].len();
        enough || ends_own_words(lexicon, lines, *at)
    });
    &lines[..end.unwrap_or(lines.len())]
}

fn is_quoted(line: &str) -> bool {
    line.starts_with('>')
}

fn ends_own_words(lexicon: &Lexicon, lines: &[&str], at: usize) -> bool {
    let line = lines[at];
    if is_quoted(line) || line == "--" || is_rule(line) {
        return true;
    }
    if line.is_empty() || line.len() > MARKER_LEN_MAX {
        return false;
    }
    if is_header(lexicon, line) && lines.get(at + 1).is_some_and(|next| is_header(lexicon, next)) {
        return true;
    }
    let folded = normalise(line);
    if lexicon.signatures().iter().any(|cut| matches(cut, &folded)) {
        return true;
    }
    // Mail programs break a long introduction into two lines.
    let next = lines.get(at + 1).filter(|next| next.len() <= MARKER_LEN_MAX && !is_quoted(next));
    let joined = next.map(|next| normalise(&format!("{line} {next}")));
    lexicon
        .quoted_from()
        .iter()
        .any(|cut| matches(cut, &folded) || joined.as_ref().is_some_and(|joined| matches(cut, joined)))
}

fn is_rule(line: &str) -> bool {
    line.len() >= RULE_LEN_MIN && (line.bytes().all(|b| b == b'_') || line.bytes().all(|b| b == b'-'))
}

/// `From: …`, as some mail programs quote.
fn is_header(lexicon: &Lexicon, line: &str) -> bool {
    line.split_once(':')
        .is_some_and(|(word, _)| word.len() <= 40 && lexicon.is_quoted_header(&normalise(word)))
}

fn matches(cut: &Cut, line: &str) -> bool {
    let Some((first, others)) = cut.parts.split_first() else {
        return false;
    };
    let Some(mut rest) = line.strip_prefix(first.as_str()) else {
        return false;
    };
    let Some((last, middle)) = others.split_last() else {
        return rest.is_empty();
    };
    if !rest.is_empty() && !rest.starts_with(' ') {
        return false; // a longer word
    }
    for part in middle {
        match rest.split_once(&format!(" {part} ")) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    last.is_empty() || rest.ends_with(&format!(" {last}"))
}
