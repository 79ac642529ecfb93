//! Reads the keyword engine's word lists: the built-in ones and those of the configured folder.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use super::fault::{Place, Report, quote};
use super::read::{At, Section};
use super::{KEYWORD_LANGUAGES, Keywords};
use crate::policy::keywords::{BUILT_IN, FILE_LEN_MAX, FILES_MAX, Fault, Lexicon};

/// The most languages of word lists.
pub const LANGUAGES_MAX: usize = 64;

/// What the files of a folder of word lists end in; others are skipped.
const SUFFIX: &str = "txt";

/// The built-in lists are parsed once, since every configuration is checked against them.
static BUILT_IN_LISTS: LazyLock<Result<Arc<Lexicon>, Vec<Fault>>> =
    LazyLock::new(|| Lexicon::built_in().map(Arc::new));

impl Default for Keywords {
    fn default() -> Self {
        Self {
            languages: KEYWORD_LANGUAGES.iter().map(|code| (*code).to_owned()).collect(),
            dir: None,
            fingerprint: BUILT_IN_LISTS.as_ref().map_or(0, |lexicon| lexicon.fingerprint()),
        }
    }
}

impl Keywords {
    /// The word lists themselves, with the files of [`Keywords::dir`] as they are now.
    ///
    /// # Errors
    /// With every fault of the files: what cannot be read, or contradicts itself.
    pub fn lexicon(&self) -> Result<Arc<Lexicon>, Vec<Fault>> {
        let files = self.dir.as_deref().map_or_else(|| Ok(Vec::new()), read_files)?;
        if files.is_empty() && self.languages == KEYWORD_LANGUAGES {
            return BUILT_IN_LISTS.clone();
        }
        let files: Vec<(&str, &str)> =
            files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let languages: Vec<&str> = self.languages.iter().map(String::as_str).collect();
        Lexicon::with_files(&files, &languages).map(Arc::new)
    }
}

/// The folder's files by name, names with the folder's path.
fn read_files(dir: &Path) -> Result<Vec<(String, String)>, Vec<Fault>> {
    let fault = |path: &Path, message: String| Fault { file: path.display().to_string(), line: 0, message };
    let unreadable = |path: &Path, why: &io::Error| fault(path, format!("cannot be read: {why}"));
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(|why| vec![unreadable(dir, &why)])? {
        let path = entry.map_err(|why| vec![unreadable(dir, &why)])?.path();
        // Kubernetes keeps its own entries there, whose names begin with two dots.
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|suffix| suffix == SUFFIX) {
            paths.push(path);
        }
        if paths.len() + BUILT_IN.len() > FILES_MAX {
            return Err(vec![fault(
                dir,
                format!("holds too many files; keep at most {}", FILES_MAX - BUILT_IN.len()),
            )]);
        }
    }
    paths.sort();
    let mut faults = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        let mut text = String::new();
        // One byte more than allowed, so that the parser sees that it is too long.
        let read = fs::File::open(&path)
            .and_then(|file| file.take(FILE_LEN_MAX as u64 + 1).read_to_string(&mut text));
        match read {
            Ok(_) => files.push((path.display().to_string(), text)),
            Err(why) => faults.push(unreadable(&path, &why)),
        }
    }
    if faults.is_empty() { Ok(files) } else { Err(faults) }
}

/// Reads the word lists' settings, which stand among the defaults and are the same for everyone, and
/// the lists; `None` where these have faults.
pub(super) fn read(
    defaults: Option<&mut Section<'_>>,
    keywords: &mut Keywords,
    report: &mut Report,
) -> Option<Arc<Lexicon>> {
    let at = defaults.and_then(|defaults| defaults.get("keywords"));
    let faults = report.faults.len() + report.faults_omitted;
    if let Some(section) = at.clone().and_then(|at| Section::open(at, report)) {
        read_section(section, keywords, report);
    }
    if report.faults.len() + report.faults_omitted > faults {
        return None;
    }
    match keywords.lexicon() {
        Ok(lexicon) => {
            keywords.fingerprint = lexicon.fingerprint();
            Some(lexicon)
        }
        Err(faults) => {
            for Fault { file, line, message } in faults {
                let file = file.into();
                let place = match line {
                    0 => Place::File { file },
                    line => Place::Line { file, line, column: 1 },
                };
                report.fault(&place, "defaults.keywords", message, "correct the word lists");
            }
            None
        }
    }
}

fn read_section(mut section: Section<'_>, keywords: &mut Keywords, report: &mut Report) {
    let Keywords { languages, dir, fingerprint: _ } = keywords;
    section.read("dir", report, dir, |at, report| at.or_null(report, At::path));
    let own_lists = dir.is_some();
    section.read("languages", report, languages, |at, report| read_languages(at, own_lists, report));
    section.close(report);
}

fn read_languages(at: &At<'_>, own_lists: bool, report: &mut Report) -> Option<Vec<String>> {
    let items = at.list(report)?;
    if items.is_empty() || items.len() > LANGUAGES_MAX {
        at.fault(
            report,
            "a STOP could not be understood in any language, or in too many",
            format!("list 1 to {LANGUAGES_MAX} languages"),
        );
        return None;
    }
    let mut codes: Vec<String> = Vec::new();
    for item in &items {
        let Some(code) = item.text(report) else { continue };
        let is_code = (2..=3).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_lowercase());
        if !is_code || !own_lists && !KEYWORD_LANGUAGES.contains(&code) {
            item.fault(
                report,
                format!("there is no built-in word list for {}", quote(code)),
                format!(
                    "choose among {}, or set `dir` to a folder with your own",
                    KEYWORD_LANGUAGES.join(", ")
                ),
            );
        } else if codes.iter().any(|known| known == code) {
            item.fault(report, format!("{} is listed twice", quote(code)), "keep one of the two");
        } else {
            codes.push(code.to_owned());
        }
    }
    (codes.len() == items.len()).then_some(codes)
}
