//! The word lists' settings and files.

use std::fs;

use super::*;
use crate::config::{KEYWORD_LANGUAGES, Keywords, Place};
use crate::policy::keywords::Lexicon;
use faults::check;

#[test]
fn the_built_in_languages_are_those_that_have_lists() {
    let lexicon = Lexicon::built_in().expect("the shipped lists");
    assert_eq!(lexicon.languages(), KEYWORD_LANGUAGES);
    assert_eq!(Keywords::default().fingerprint, lexicon.fingerprint());
    let spelt_out: Vec<&str> = KEYWORD_LANGUAGES.to_vec();
    let same = Lexicon::with_files(&[], &spelt_out).expect("the shipped lists");
    assert_eq!(same.fingerprint(), lexicon.fingerprint(), "so that the example is the default");
}

#[test]
fn languages() {
    check(
        "defaults: { keywords: { languages: [en, xx] } }",
        &["1 defaults.keywords.languages[1]: there is no built-in word list for `xx`"],
    );
    check(
        "defaults: { keywords: { languages: [] } }",
        &["1 defaults.keywords.languages: a STOP could not be understood"],
    );
    check(
        "defaults: { keywords: { languages: [EN] } }",
        &["1 defaults.keywords.languages[0]: there is no built-in"],
    );
    check(
        "defaults: { keywords: { languages: [en, en] } }",
        &["1 defaults.keywords.languages[1]: `en` is listed twice"],
    );
    let only_german = config("defaults: { keywords: { languages: [de] } }").keywords;
    assert_eq!(only_german.lexicon().expect("no faults").languages(), ["de"]);
    assert_ne!(only_german.fingerprint, Keywords::default().fingerprint);
}

#[test]
fn a_folder_adds_words() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("sv.txt");
    fs::write(&list, "language: sv\n[opt_out]\nsluta\n").unwrap();
    fs::write(dir.path().join("notes.md"), "not a list").unwrap();
    fs::write(dir.path().join("..hidden.txt"), "not a list").unwrap();
    let text = |languages: &str| {
        format!("defaults: {{ keywords: {{ dir: '{}', languages: {languages} }} }}", dir.path().display())
    };
    let with = config(&text("[en, sv]"));
    let lexicon = with.keywords.lexicon().expect("no faults");
    assert_eq!(lexicon.reserved("SLUTA"), Some("opt_out"));
    assert_eq!(Lexicon::built_in().unwrap().reserved("SLUTA"), None);
    // Another word is another policy.
    fs::write(&list, "language: sv\n[opt_out]\nsluta\navsluta\n").unwrap();
    assert_ne!(config(&text("[en, sv]")).rules.version, with.rules.version);
    // A fault of a list is shown where it stands.
    fs::write(&list, "language: sv\n[opt_uot]\nsluta\n").unwrap();
    let (_, report) = examine(&text("[en, sv]"), &[], Overrides::default());
    let first = &report.faults[0];
    assert_eq!(
        first.place,
        Place::Line { file: list.display().to_string().into(), line: 2, column: 1 },
        "{report:#?}"
    );
    let (_, report) = examine(&text("[en, xx]"), &[], Overrides::default());
    assert!(!report.is_usable(), "no list has the language");
}

#[test]
fn a_folder_that_cannot_be_read_is_a_fault() {
    check("defaults: { keywords: { dir: /nowhere/words } }", &["- defaults.keywords: cannot be read"]);
    let dir = tempfile::tempdir().unwrap();
    let text = format!("defaults: {{ keywords: {{ dir: '{}' }} }}", dir.path().display());
    check(&text, &[]);
    for i in 0..56 {
        fs::write(dir.path().join(format!("{i}.txt")), "language: sv\n").unwrap();
    }
    assert_eq!(faults(&text).iter().filter(|fault| fault.contains("too many files")).count(), 1);
    fs::remove_file(dir.path().join("0.txt")).unwrap();
    assert_eq!(faults(&text).iter().filter(|fault| fault.contains("too many files")).count(), 0);
}

#[test]
fn a_program_cannot_take_a_word_that_means_something() {
    for word in ["STOP", "start", "Help", "unsubscribe", "PARAR"] {
        check(
            &format!(
                "businesses: {{ a: {{ topics: {{ t: MARKETING }}, opt_in_programs: [{{ keywords: [{word}], \
                 channel: SMS, topics: [t], notice_text: x }}] }} }}"
            ),
            &[&format!("1 businesses.a.opt_in_programs[0]: the word `{word}` means")],
        );
    }
}
