//! Whole configurations in, settings or faults out.

mod bounds;
mod faults;
mod sentences;
mod sources;
mod word_lists;

use std::path::PathBuf;

use super::{Config, Loaded, Overrides, Report, Sources};

/// The example that users start from.
const EXAMPLE: &str = include_str!("../../optgate.example.yaml");

fn examine(text: &str, environment: &[(&str, &str)], overrides: Overrides) -> (Option<Config>, Report) {
    let sources = Sources {
        file: Some(PathBuf::from("test.yaml")),
        environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        overrides,
    };
    sources.examine_text(text, Report::default())
}

fn load(text: &str, environment: &[(&str, &str)], overrides: Overrides) -> Loaded {
    let (config, report) = examine(text, environment, overrides);
    assert!(report.is_usable(), "{:#?}", report.faults);
    Loaded { config: config.expect("a configuration without faults"), warnings: report.warnings }
}

fn config(text: &str) -> Config {
    load(text, &[], Overrides::default()).config
}

/// The faults of `text`, one a line.
fn faults(text: &str) -> Vec<String> {
    let (_, report) = examine(text, &[], Overrides::default());
    report.faults.iter().map(ToString::to_string).collect()
}

/// The warnings of `text`, one a line.
fn warnings(text: &str) -> Vec<String> {
    load(text, &[], Overrides::default()).warnings.iter().map(ToString::to_string).collect()
}
