//! The decision tables: rows that a compliance officer can read, played on a whole engine with its ledger and view.
//!
//! A row is `name | rules | steps; … | question | answer`. The files say what the words mean.

mod act;
mod ask;
pub mod node;
mod phrase;
mod raw;
mod rules;
mod world;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use optgate::policy::types::{OptInMethod, OptOutMethod, Reason};
use phrase::Phrase;
use world::{Stage, World};

const SENDING: &str = include_str!("../decisions/sending.txt");
const CONSENT: &str = include_str!("../decisions/consent.txt");
const EVIDENCE: &str = include_str!("../decisions/evidence.txt");
const LIMITS: &str = include_str!("../decisions/limits.txt");
const ALL: &[&str] = &[SENDING, CONSENT, EVIDENCE, LIMITS];

/// One line of a table.
struct Row<'a> {
    line: usize,
    name: &'a str,
    rules: &'a str,
    steps: Vec<&'a str>,
    question: &'a str,
    expected: &'a str,
}

fn rows(table: &str) -> impl Iterator<Item = Row<'_>> {
    table.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')).map(
        |(at, line)| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [name, rules, steps, question, expected] = cells[..] else {
                panic!("line {}: a row has five cells: {line}", at + 1)
            };
            let steps = steps.split(';').map(str::trim).filter(|step| !step.is_empty()).collect();
            Row { line: at + 1, name, rules, steps, question, expected }
        },
    )
}

fn play(row: &Row<'_>, world: &mut World<'_>) -> Result<(), String> {
    for step in &row.steps {
        let (may_fail, step) = step.strip_prefix("tries: ").map_or((false, *step), |step| (true, step));
        let outcome = act::act(world, step);
        let failed = ["INVALID", "FAILED", "UNKNOWN", "ALREADY", "NOT_PENDING", "OPT_OUTS_ONLY"];
        if !may_fail && failed.iter().any(|word| outcome.starts_with(word)) {
            return Err(format!("step `{step}`: {outcome}"));
        }
    }
    if let Some(text) = row.question.strip_prefix("configuration ") {
        let got = rules::examine(text);
        return if got == row.expected { Ok(()) } else { Err(format!("got {got}")) };
    }
    match ask::check(world, &Phrase::new(row.question), false) {
        Some(Ok(answer)) => ask::compare(&answer, row.expected),
        Some(Err(fault)) if fault == row.expected => Ok(()),
        Some(Err(fault)) => Err(format!("got {fault}")),
        None => {
            let got = act::act(world, row.question);
            if got == row.expected { Ok(()) } else { Err(format!("got {got}")) }
        }
    }
}

/// Plays every row and tells of all that differ.
fn run(name: &str, table: &str) {
    let mut stage = Stage::new();
    let mut wrong = Vec::new();
    let mut count = 0;
    for row in rows(table) {
        count += 1;
        let played = catch_unwind(AssertUnwindSafe(|| play(&row, &mut stage.row(row.rules))));
        let played = played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
        });
        if let Err(why) = played {
            wrong.push(format!("{name}:{} {}: expected {}; {why}", row.line, row.name, row.expected));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} rows:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn sends_are_judged_as_the_table_says() {
    run("sending.txt", SENDING);
}

#[test]
fn consent_is_kept_as_the_table_says() {
    run("consent.txt", CONSENT);
}

#[test]
fn evidence_is_asked_for_as_the_table_says() {
    run("evidence.txt", EVIDENCE);
}

#[test]
fn limits_hold_as_the_table_says() {
    run("limits.txt", LIMITS);
}

#[test]
fn names_are_used_once() {
    let mut seen = BTreeSet::new();
    for row in ALL.iter().flat_map(|table| rows(table)) {
        assert!(seen.insert(row.name), "two rows are named `{}`", row.name);
    }
}

#[test]
fn every_reason_and_every_way_of_consent_has_a_row() {
    let answers: Vec<&str> = ALL.iter().flat_map(|table| rows(table)).map(|row| row.expected).collect();
    let leads = |reason: Reason| {
        answers.iter().any(|answer| {
            answer.starts_with("DENY ") && Phrase::new(&answer.replace(',', "")).has(reason.word())
        })
    };
    let missing: Vec<&str> =
        Reason::ALL.iter().filter(|reason| !leads(**reason)).map(|reason| reason.word()).collect();
    assert!(missing.is_empty(), "no row is denied for {missing:?}");

    let steps: Vec<&str> = ALL
        .iter()
        .flat_map(|table| rows(table))
        .flat_map(|row| [row.steps, vec![row.question]].concat())
        .collect();
    let done = |start: &str, by: &str| {
        steps
            .iter()
            .any(|step| step.starts_with(start) && Phrase::new(step).after("by").as_deref() == Some(by))
    };
    let unused = |start: &str, words: Vec<&'static str>| -> Vec<&'static str> {
        words.into_iter().filter(|word| !done(start, word)).collect()
    };
    let ways_in = unused("opt-in", OptInMethod::ALL.iter().map(|method| method.word()).collect());
    assert!(ways_in.is_empty(), "no row opts in by {ways_in:?}");
    let ways_out = unused("opt-out", OptOutMethod::ALL.iter().map(|method| method.word()).collect());
    assert!(ways_out.is_empty(), "no row opts out by {ways_out:?}");
}

/// Each is a way in which real systems fail: its row must not get lost.
#[test]
fn the_known_ways_to_fail_have_their_rows() {
    let names: BTreeSet<&str> = ALL.iter().flat_map(|table| rows(table)).map(|row| row.name).collect();
    let missing: Vec<&str> = KNOWN_FAILURES.iter().copied().filter(|name| !names.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

const KNOWN_FAILURES: &[&str] = &[
    "a retry with the same id after a STOP",
    "STOP without any opt-in",
    "a STOP with a stated time before the opt-in",
    "a STOP stated in 1970",
    "an opt-in after STOP without supersedes",
    "an import row dated after a live STOP",
    "an opt-out with an unknown enum",
    "an opt-out with an unknown topic",
    "an opt-out with a reused request_id",
    "an opt-out from an unlisted business",
    "an opt-out with 1 MiB of text",
    "STOP, STOP, free-form",
    "a free-form promotion inside the confirmation's 5 minutes",
    "Stop promotions leaves replies open",
    "AUTHENTICATION not in consent_required and STOP",
    "shadow OPTED_OUT is refused at start",
    "131050 reported to a node that never saw the decision",
    "IVR key with double opt-in, its question allowed",
    "IVR key with double opt-in, its question allowed once",
    "YES after an unrelated later message",
    "YES after STOP",
    "START with nothing to renew",
    "a number changed",
    "a number recycled",
    "email with quiet hours and no zone",
    "a toll-free number with no common hour",
    "SENT without the instructions flag still owes them",
    "FAILED restores the instructions owed",
    "UTILITY claimed for a MARKETING topic on SMS",
    "an opt-in made wholly inside WhatsApp is accepted",
    "an opt-out of a category whose topic later moves",
    "a Mexican number in both forms",
    "a Brazilian number in both forms",
    "an Argentine number in both forms",
    "an erased blob and ledger verify",
];
