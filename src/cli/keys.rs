//! `optgate key`: the file without which every opt-out is lost.

use std::path::PathBuf;

use clap::Subcommand;

use super::fault::Fault;
use super::output;
use crate::key::ClusterKey;

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a new cluster key; never overwrites a file.
    New {
        /// The file to make.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl KeyCommand {
    /// Whether to print JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        match self {
            Self::New { json, .. } => *json,
        }
    }
}

/// Does what was asked.
///
/// # Errors
/// [`Fault`].
pub fn run(command: KeyCommand) -> Result<u8, Fault> {
    match command {
        KeyCommand::New { file, json } => {
            ClusterKey::create(&file)?;
            output::print(&if json {
                serde_json::json!({ "file": file.display().to_string() }).to_string()
            } else {
                format!(
                    "A new cluster key is in {file}.\n\
                     Back it up now, apart from the ledger's copies: identifiers are hashed with it, so without it every \
                     opt-out is lost.\n\
                     Start optgate with it: optgate serve --key-file {file}",
                    file = file.display()
                )
            })?;
            Ok(0)
        }
    }
}
