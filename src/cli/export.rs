//! `optgate export`: all consent events, as JSON lines or CSV.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::output::{Sink, note};
use super::{events, json, text};
use crate::pb::v1;

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One object a line, with the API's field names.
    Jsonl,
    /// A header, then one row for each event.
    Csv,
}

/// Flags of `export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Only the events of this business. [default: of all that the server gives out]
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub business: String,
    /// How events are written.
    #[arg(long, value_enum, default_value = "jsonl")]
    pub format: Format,
    /// Only the events after this cursor, which an earlier export printed at its end.
    #[arg(long, value_name = "CURSOR", default_value = "", hide_default_value = true)]
    pub cursor: String,
    /// Write evidence, texts and actors too: personal data.
    #[arg(long)]
    pub include_evidence: bool,
    /// Write to this new file. [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Where and how; with --json the closing line on standard error is JSON too.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Writes events until there are no more; the cursor for the next export goes to standard error.
///
/// # Errors
/// [`Fault`]; what was written before it is whole events.
pub async fn run(args: ExportArgs) -> Result<u8, Fault> {
    let ExportArgs { business, format, cursor, include_evidence, out, server } = args;
    let mut client = connect::consent(&server).await?;
    let asked =
        v1::ExportConsentEventsRequest { business_id: business, cursor: cursor.clone(), include_evidence };
    let mut answers = client.export_consent_events(asked).await?.into_inner();
    let mut sink = Sink::file(out.as_deref())?;
    if format == Format::Csv {
        sink.write(&csv_row(&events::COLUMNS)?)?;
    }
    let mut next = cursor;
    let mut count = 0;
    let ended = loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                for event in &answer.events {
                    count += 1;
                    match format {
                        Format::Jsonl => sink.line(&json::of(event))?,
                        Format::Csv => sink.write(&csv_row(&events::flat(event))?)?,
                    }
                }
                next = answer.cursor;
            }
            Ok(None) => break Ok(0),
            Err(status) => break Err(Fault::from(status)),
        }
    };
    sink.flush()?;
    // Also when it broke off: what was written stays, and the next export goes on behind it.
    note(&if server.json {
        serde_json::json!({ "events": count, "cursor": next }).to_string()
    } else {
        format!("{}; to go on from here: --cursor {next}", text::count(count, "event"))
    });
    ended
}

/// One row of CSV, with its end of line.
fn csv_row(cells: &[impl AsRef<[u8]>]) -> Result<String, Fault> {
    let faulty = |_| Fault::Answer("an event cannot be written as CSV");
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(cells).map_err(|_| Fault::Answer("an event cannot be written as CSV"))?;
    let bytes = writer.into_inner().map_err(faulty)?;
    String::from_utf8(bytes).map_err(|_| Fault::Answer("an event cannot be written as CSV"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_quotes_what_must_be_quoted() {
        assert_eq!(
            csv_row(&["a", "b,c", "say \"hi\"", "x\ny"]).ok().as_deref(),
            Some("a,\"b,c\",\"say \"\"hi\"\"\",\"x\ny\"\n")
        );
    }

    #[test]
    fn every_event_has_as_many_cells_as_the_header() {
        let header = csv_row(&events::COLUMNS).expect("is CSV");
        let row = csv_row(&events::flat(&v1::ConsentEvent::default())).expect("is CSV");
        assert_eq!(header.matches(',').count(), row.matches(',').count());
    }
}
