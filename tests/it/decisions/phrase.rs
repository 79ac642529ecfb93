//! Reading a row's cells: words in a fixed vocabulary, in any order, nothing left over.

use optgate::policy::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS};

/// The words of one step or question. What is read is taken out, so that a misspelt word does not go unnoticed.
#[derive(Clone)]
pub struct Phrase {
    text: String,
    words: Vec<String>,
}

impl Phrase {
    /// Splits at spaces; a quoted text is one word.
    pub fn new(text: &str) -> Self {
        let mut words = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (word, tail) = match rest.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').unwrap_or_else(|| panic!("`{text}`: a quote is open")),
                None => rest.split_once(' ').unwrap_or((rest, "")),
            };
            words.push(word.replace("\\n", "\n"));
            rest = tail.trim_start();
        }
        Self { text: text.trim().to_owned(), words }
    }

    /// The whole phrase as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes the words of `start`, if the phrase begins with them.
    pub fn begins(&mut self, start: &str) -> bool {
        let wanted: Vec<&str> = start.split(' ').collect();
        let fits = self.words.len() >= wanted.len() && self.words.iter().zip(&wanted).all(|(a, b)| a == b);
        if fits {
            self.words.drain(..wanted.len());
        }
        fits
    }

    /// Takes the next word.
    pub fn next(&mut self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.remove(0))
    }

    /// Takes `words` wherever they stand.
    pub fn has(&mut self, words: &str) -> bool {
        let wanted: Vec<&str> = words.split(' ').collect();
        let at = self.words.windows(wanted.len()).position(|here| here.iter().eq(wanted.iter()));
        if let Some(at) = at {
            self.words.drain(at..at + wanted.len());
        }
        at.is_some()
    }

    /// Takes `words` and the word behind them.
    pub fn after(&mut self, words: &str) -> Option<String> {
        let wanted: Vec<&str> = words.split(' ').collect();
        let at = self.words.windows(wanted.len()).position(|here| here.iter().eq(wanted.iter()))?;
        let end = at + wanted.len();
        assert!(end < self.words.len(), "`{}`: something is missing after `{words}`", self.text);
        let value = self.words.remove(end);
        self.words.drain(at..end);
        Some(value)
    }

    /// Nothing may be left.
    pub fn end(&self) {
        assert!(self.words.is_empty(), "`{}`: not understood: {:?}", self.text, self.words);
    }
}

/// Reads a list by commas.
pub fn list(text: &str) -> Vec<&str> {
    text.split(',').filter(|part| !part.is_empty()).collect()
}

/// Reads a span such as `30d`, `-2h`, `5m`, `6s`, in milliseconds.
pub fn span(text: &str) -> i64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let unit_ms = match unit {
        "d" => DAY_MS,
        "h" => HOUR_MS,
        "m" => MINUTE_MS,
        "s" => SECOND_MS,
        _ => panic!("`{text}` is no length of time"),
    };
    number.parse::<i64>().unwrap_or_else(|_| panic!("`{text}` is no length of time")) * unit_ms
}
