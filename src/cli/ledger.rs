//! `optgate ledger`: looks at a ledger on this machine's disk, with or without an optgate running on it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::fault::Fault;
use super::text::{self, Lines};
use super::{exit, output};
use crate::app::{KEY_FILE, LEDGER_DIR};
use crate::key::ClusterKey;
use crate::ledger::OpenError;
use crate::ledger::disk::RealDisk;
use crate::ledger::verify::{self, Report};

/// What can be done with a ledger.
#[derive(Debug, Subcommand)]
pub enum LedgerCommand {
    /// Check every checksum, chain and blob; changes nothing, and may run beside the server.
    Verify(VerifyArgs),
}

impl LedgerCommand {
    /// Whether to print JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        match self {
            Self::Verify(args) => args.json,
        }
    }
}

/// Flags of `ledger verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The server's data directory.
    #[arg(long, value_name = "DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// The cluster key, to see that the ledger is its own. [default: the one in the data directory, if there is one]
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Does what was asked.
///
/// # Errors
/// [`Fault`] where the ledger cannot be read at all; damage is in the report.
pub fn run(command: LedgerCommand) -> Result<u8, Fault> {
    match command {
        LedgerCommand::Verify(args) => verify(&args),
    }
}

fn verify(args: &VerifyArgs) -> Result<u8, Fault> {
    let dir = args.data_dir.join(LEDGER_DIR);
    if !dir.is_dir() {
        return Err(Fault::Usage(format!("there is no ledger at {}; name its --data-dir", dir.display())));
    }
    let key_check = key(args)?.map(|key| key.check_value());
    let report = verify::verify(&RealDisk::read_only(&dir), key_check).map_err(|error| match error {
        OpenError::OtherKey => Fault::OtherKey,
        OpenError::Io { source, .. } => Fault::read(&dir, source),
        other => Fault::Data(other.to_string()),
    })?;
    let told = if args.json {
        as_json(&report, key_check.is_some())
    } else {
        readable(&report, key_check.is_some(), &dir)
    };
    output::print(&told)?;
    Ok(if report.is_sound() { 0 } else { exit::DATA })
}

fn key(args: &VerifyArgs) -> Result<Option<ClusterKey>, Fault> {
    let own = args.data_dir.join(KEY_FILE);
    Ok(match &args.key_file {
        Some(file) => Some(ClusterKey::load(file)?.key),
        None if own.exists() => Some(ClusterKey::load(&own)?.key),
        None => None,
    })
}

fn readable(report: &Report, key_known: bool, dir: &Path) -> String {
    let Report { segments, records, bytes, blobs, origins, faults, faults_unlisted, tail_bytes } = report;
    let mut lines = Lines::new();
    let all_faults = faults.len() as u64 + faults_unlisted;
    lines.line(if report.is_sound() {
        format!("The ledger at {} is sound.", dir.display())
    } else {
        format!("The ledger at {} has {}.", dir.display(), text::count(all_faults, "fault"))
    });
    lines.row(
        "records",
        format!("{records} in {}, {}", text::count(*segments, "segment"), text::bytes(*bytes)),
    );
    lines.row("key", if key_known { "its own" } else { "not looked at; name it with --key-file" });
    lines.row("personal fields", format!("{} kept, {} erased", blobs.sound, blobs.erased));
    if blobs.erasing > 0 {
        lines.row("half erased", format!("{}: erase them again", blobs.erasing));
    }
    if blobs.damaged > 0 {
        lines.row("damaged fields", blobs.damaged.to_string());
    }
    for (origin, found) in origins {
        let (first, last) = (found.first, found.head.sequence);
        lines.row("origin", format!("{origin}: {}, {first} to {last}", text::count(found.records, "record")));
    }
    if *tail_bytes > 0 {
        let tail =
            format!("{}: a batch being written, or cut off by the next start", text::bytes(*tail_bytes));
        lines.row("unfinished tail", tail);
    }
    for fault in faults {
        lines.row("fault", fault.to_string());
    }
    if *faults_unlisted > 0 {
        lines.row("fault", format!("and {faults_unlisted} more"));
    }
    lines.text().to_owned()
}

fn as_json(report: &Report, key_known: bool) -> String {
    let Report { segments, records, bytes, blobs, origins, faults, faults_unlisted, tail_bytes } = report;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let origins: Vec<_> = origins
        .iter()
        .map(|(origin, found)| {
            json!({
                "origin": origin.to_string(),
                "records": found.records,
                "first_sequence": found.first,
                "last_sequence": found.head.sequence,
                "chain_sha256": hex(&found.head.hash),
            })
        })
        .collect();
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    json!({
        "ok": report.is_sound(),
        "key_checked": key_known,
        "segments": segments,
        "records": records,
        "size_bytes": bytes,
        "sound_blobs": blobs.sound,
        "erased_blobs": blobs.erased,
        "half_erased_blobs": blobs.erasing,
        "damaged_blobs": blobs.damaged,
        "tail_bytes": tail_bytes,
        "origins": origins,
        "faults": told,
        "faults_unlisted": faults_unlisted,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Damage, verify::Fault as LedgerFault};

    fn args(dir: &Path) -> VerifyArgs {
        VerifyArgs { data_dir: dir.to_owned(), key_file: None, json: false }
    }

    #[test]
    fn no_ledger_is_told_and_an_empty_one_is_sound() {
        let dir = tempfile::tempdir().expect("a directory");
        let fault = verify(&args(dir.path())).expect_err("there is none");
        assert_eq!(fault.exit_code(), exit::CONFIG);
        std::fs::create_dir(dir.path().join(LEDGER_DIR)).expect("is made");
        assert_eq!(verify(&args(dir.path())).ok(), Some(0));
    }

    #[test]
    fn damage_is_told_in_both_forms() {
        let mut report = Report { records: 3, segments: 1, ..Report::default() };
        report.blobs.erased = 2;
        report.faults.push(LedgerFault::Damaged(Damage { segment: 1, from: 64, to: 128 }));
        let told = readable(&report, false, Path::new("data/ledger"));
        assert!(
            told.contains("has 1 fault") && told.contains("2 erased") && told.contains("--key-file"),
            "{told}"
        );
        let told: serde_json::Value = serde_json::from_str(&as_json(&report, true)).expect("is JSON");
        assert_eq!(told["ok"], false);
        assert_eq!(told["faults"].as_array().map(Vec::len), Some(1));
    }
}
