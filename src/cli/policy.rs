//! `optgate policy lint` and `optgate policy describe`: both read a configuration and nothing else.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::config::{EXIT_CODE_FAULTY, Finding, Report, Sources};
use crate::policy::describe::describe as in_sentences;
use crate::policy::rules::{RuleBook, Rules};

/// Prints what is wrong and what is doubtful in `file`, as lines or as one JSON object. The exit
/// code is [`EXIT_CODE_FAULTY`] when there are faults.
pub fn lint(file: &Path, as_json: bool, out: &mut dyn Write) -> ExitCode {
    let sources = Sources { file: Some(file.to_owned()), ..Sources::default() };
    let (config, report) = sources.examine();
    let rules = config.map(|config| config.rules).filter(|_| report.is_usable());
    let printed = if as_json {
        writeln!(out, "{:#}", lint_json(file, &report, rules.as_ref()))
    } else {
        lint_lines(file, &report, rules.as_ref(), out)
    };
    match printed {
        Ok(()) if report.is_usable() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(EXIT_CODE_FAULTY),
        Err(_) => ExitCode::FAILURE,
    }
}

fn lint_lines(file: &Path, report: &Report, rules: Option<&RuleBook>, out: &mut dyn Write) -> io::Result<()> {
    for fault in &report.faults {
        writeln!(out, "fault    {fault}")?;
    }
    if report.faults_omitted > 0 {
        writeln!(out, "fault    and {} more", report.faults_omitted)?;
    }
    for warning in &report.warnings {
        writeln!(out, "warning  {warning}")?;
    }
    let faults = counted(report.faults.len() + report.faults_omitted, "fault");
    let warnings = counted(report.warnings.len(), "warning");
    write!(out, "{}: {faults}, {warnings}", file.display())?;
    match rules {
        None => writeln!(out, "; this file cannot be used"),
        Some(rules) => {
            let businesses = match rules.businesses.len() {
                0 => "any business".to_owned(),
                count => counted(count, "business"),
            };
            writeln!(out, "; rules version {} for {businesses}", rules.version)
        }
    }
}

fn lint_json(file: &Path, report: &Report, rules: Option<&RuleBook>) -> Value {
    json!({
        "file": file.display().to_string(),
        "usable": report.is_usable(),
        "faults": report.faults.iter().map(finding_json).collect::<Vec<_>>(),
        "faults_omitted": report.faults_omitted,
        "warnings": report.warnings.iter().map(finding_json).collect::<Vec<_>>(),
        "rules_version": rules.map(|rules| &*rules.version),
        "businesses": rules.map(|rules| rules.businesses.keys().map(|id| id.as_str()).collect::<Vec<_>>()),
    })
}

fn finding_json(finding: &Finding) -> Value {
    let Finding { place, key, what, remedy } = finding;
    json!({
        "line": place.line(),
        "column": place.column(),
        "key": key,
        "what": what,
        "remedy": remedy,
    })
}

fn counted(count: usize, what: &str) -> String {
    let plural = if what.ends_with('s') { "es" } else { "s" };
    match count {
        0 => format!("no {what}{plural}"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}{plural}"),
    }
}

/// Prints the opt-in and opt-out process of `business`, or of every configured one, in sentences;
/// that of the built-in rules where none is configured. Faults of the configuration, and a business
/// that it does not know, go to `errors` with [`EXIT_CODE_FAULTY`].
pub fn describe(
    sources: &Sources,
    business: Option<&str>,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> ExitCode {
    let rules = match sources.load() {
        Ok(loaded) => loaded.config.rules,
        Err(faults) => return refuse(errors, &faults.to_string()),
    };
    let chosen: Vec<&Rules> = match business {
        None if rules.businesses.is_empty() => vec![&rules.defaults],
        None => rules.businesses.values().map(AsRef::as_ref).collect(),
        Some(id) => match rules.of(id) {
            Some(rules) => vec![rules],
            None => {
                let known: Vec<&str> = rules.businesses.keys().map(|id| id.as_str()).collect();
                return refuse(
                    errors,
                    &format!("no business `{id}` is configured; known are {}", known.join(", ")),
                );
            }
        },
    };
    for (index, rules_of) in chosen.into_iter().enumerate() {
        let gap = if index > 0 { "\n\n" } else { "" };
        let page = in_sentences(rules_of);
        if write!(out, "{gap}{page}\nRules version {}\n", rules.version).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn refuse(errors: &mut dyn Write, why: &str) -> ExitCode {
    // The exit code says it too, should nobody be reading.
    let _ = writeln!(errors, "{why}");
    ExitCode::from(EXIT_CODE_FAULTY)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("optgate.yaml");
        std::fs::write(&file, text).unwrap();
        (dir, file)
    }

    fn lint_of(text: &str, as_json: bool) -> (String, ExitCode) {
        let (dir, file) = file(text);
        let mut out = Vec::new();
        let code = lint(&file, as_json, &mut out);
        let out = String::from_utf8(out).unwrap();
        (out.replace(&format!("{}/", dir.path().display()), ""), code)
    }

    #[test]
    fn lint_prints_faults_warnings_and_a_sum() {
        let (out, code) = lint_of("server: { drain: 5 }\nbusinesses: { a: { senders: ['1'] } }\n", false);
        assert_eq!(code, ExitCode::from(64));
        assert_eq!(
            out,
            "fault    optgate.yaml:1:18: server.drain: `5` has no unit; add ms, s, m, h or d, as in 250ms, 5s, \
             6m, 24h or 30d\n\
             warning  optgate.yaml:2:15: businesses.a.display_name: evidence must show the business's name, and \
             only its id is known; set the name that people see\n\
             optgate.yaml: 1 fault, 1 warning; this file cannot be used\n"
        );
        let (out, code) = lint_of("businesses: { a: { display_name: A, senders: ['1'] } }\n", false);
        assert_eq!(code, ExitCode::SUCCESS);
        assert!(out.starts_with("optgate.yaml: no faults, no warnings; rules version "), "{out}");
        assert!(out.ends_with(" for 1 business\n"), "{out}");
    }

    #[test]
    fn lint_prints_json() {
        let (out, code) = lint_of("server: { drain: 5 }\n", true);
        assert_eq!(code, ExitCode::from(64));
        let found: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(found["usable"], false);
        assert_eq!((&found["faults"][0]["line"], &found["faults"][0]["column"]), (&json!(1), &json!(18)));
        assert_eq!(found["faults"][0]["key"], "server.drain");
        assert_eq!(found["rules_version"], Value::Null);
        let (out, code) = lint_of("businesses: { a: {} }", true);
        assert_eq!(code, ExitCode::SUCCESS);
        let found: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(found["businesses"], json!(["a"]));
        assert_eq!(found["warnings"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn describe_chooses_the_business() {
        let of = |text: &str, business: Option<&str>| {
            let (_dir, file) = file(text);
            let sources = Sources { file: Some(file), ..Sources::default() };
            let (mut out, mut errors) = (Vec::new(), Vec::new());
            let code = describe(&sources, business, &mut out, &mut errors);
            (String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap(), code)
        };
        let two = "businesses: { a: { display_name: Ay }, b: { display_name: Bee } }";
        let (out, _, code) = of(two, Some("b"));
        assert!(out.contains("Bee") && !out.contains("Ay"), "{out}");
        assert_eq!(code, ExitCode::SUCCESS);
        let (out, _, _) = of(two, None);
        assert!(out.contains("Bee") && out.contains("Ay"));
        let (out, errors, code) = of(two, Some("c"));
        assert_eq!((out.as_str(), code), ("", ExitCode::from(64)));
        assert_eq!(errors, "no business `c` is configured; known are a, b\n");
        let (out, _, _) = of("", Some("anybody"));
        assert!(out.contains("hold for every business"), "{out}");
        let (_, errors, code) = of("x: 1", None);
        assert!(errors.contains("this key is not known"), "{errors}");
        assert_eq!(code, ExitCode::from(64));
    }
}
