//! `optgate import`: a CSV file up, a result for every bad row down.
//!
//! Rows name themselves (by their `request_id` or by their content), so a file may be imported again at any time: what was
//! recorded before is told apart and changes nothing.

mod columns;
mod reader;
mod results;

use std::collections::VecDeque;
use std::path::PathBuf;

use clap::Args;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use self::reader::{Prepared, Source};
use self::results::Results;
use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::{exit, output};
use crate::pb::v1;
use crate::pb::v1::import_consents_request::Part;
use crate::pb::v1::import_consents_response::Result as Answer;

/// How many chunks may be on their way unanswered, as the API bounds it.
const CHUNKS_AHEAD_MAX: usize = 4;

/// Flags of `import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The CSV file: UTF-8, a header, lists separated by `;`. Columns: recipient, channels, change (opt_in or
    /// opt_out), topics, categories, occurred_time, method, business_name, channels_named, message_types,
    /// notice_text, notice_uri, notice_sha256, language, request_id.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Whose consent record.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// Only look for faults: nothing is written.
    #[arg(long)]
    pub dry_run: bool,
    /// Names the import in the audit trail. [default: made from the file's SHA-256]
    #[arg(long, value_name = "ID")]
    pub import_id: Option<String>,
    /// Begin at this row, counted from 1 without the header.
    #[arg(long, value_name = "ROW", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub from_row: u64,
    /// Begin where the server knows this import id to have got to.
    #[arg(long)]
    pub resume: bool,
    /// Who imports, by their name in your system.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub actor: String,
    /// Where and how; with --json one line for each bad row, then one with the sums.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Imports. The exit code tells whether rows were refused.
///
/// # Errors
/// [`Fault`], after telling where to go on.
pub async fn run(args: ImportArgs) -> Result<u8, Fault> {
    let file = args.file.clone();
    let opened = tokio::task::spawn_blocking(move || Source::open(&file)).await;
    let source = opened.map_err(|_| Fault::Answer("the reader ended"))??;
    let mut results = Results::new(args.server.json, args.dry_run, source.len());
    match stream(&args, source, &mut results).await {
        Ok(()) => {
            results.finish()?;
            Ok(if results.refused() > 0 { exit::DATA } else { 0 })
        }
        Err(fault) => {
            results.abandon();
            if !args.dry_run {
                output::note(&format!(
                    "every row up to {row} is recorded or refused; to go on: --from-row {next} --import-id {id}",
                    row = results.durable_row(),
                    next = results.durable_row() + 1,
                    id = results.import_id(),
                ));
            }
            Err(fault)
        }
    }
}

/// Sends the file and takes the answers in, until the last one.
async fn stream(args: &ImportArgs, source: Source, results: &mut Results) -> Result<(), Fault> {
    let import_id = args.import_id.clone().unwrap_or_else(|| format!("file-{}", &source.sha256()[..32]));
    results.named(&import_id, args.from_row);
    let mut client = connect::consent(&args.server).await?;
    let (requests, outgoing) = mpsc::channel(CHUNKS_AHEAD_MAX + 1);
    let start = v1::ImportStart {
        business_id: args.business.clone(),
        import_id,
        file_sha256: source.sha256().to_owned(),
        dry_run: args.dry_run,
        actor: Some(v1::Actor { kind: v1::ActorKind::Operator.into(), id: args.actor.clone() }),
    };
    let sent = requests.send(v1::ImportConsentsRequest { part: Some(Part::Start(start)) }).await;
    sent.map_err(|_| gone())?;
    let mut answers = client.import_consents(ReceiverStream::new(outgoing)).await?.into_inner();
    let Some(Answer::Started(started)) = next(&mut answers).await? else {
        return Err(Fault::Answer("it does not begin the import"));
    };
    let mut from_row = args.from_row;
    if args.resume && started.next_row > from_row {
        from_row = started.next_row;
        output::note(&format!("going on at row {from_row}"));
    }
    results.begins_at(from_row);

    let (ready, mut prepared) = mpsc::channel(CHUNKS_AHEAD_MAX);
    let reading = tokio::task::spawn_blocking(move || source.read(from_row, &ready));
    let mut requests = Some(requests);
    let mut in_flight: VecDeque<Prepared> = VecDeque::with_capacity(CHUNKS_AHEAD_MAX);
    loop {
        let room = requests.is_some() && in_flight.len() < CHUNKS_AHEAD_MAX;
        tokio::select! {
            chunk = prepared.recv(), if room => match (chunk, &requests) {
                (Some(mut chunk), Some(requests)) => {
                    let part = Some(Part::Chunk(chunk.take_rows()));
                    // A call that ended is told by its answer, which holds the reason.
                    let _ = requests.send(v1::ImportConsentsRequest { part }).await;
                    in_flight.push_back(chunk);
                }
                // The file is at its end, or could not be read on: the server answers what it has.
                _ => requests = None,
            },
            answer = next(&mut answers) => match answer? {
                Some(Answer::Chunk(result)) => {
                    let chunk = in_flight.pop_front().filter(|chunk| chunk.first_row == result.first_row);
                    let chunk = chunk.ok_or(Fault::Answer("it answers a chunk that was not sent"))?;
                    results.chunk(&chunk, result)?;
                }
                Some(Answer::Summary(summary)) => {
                    // Only now is the reader done for sure.
                    reading.await.map_err(|_| Fault::Answer("the reader ended"))??;
                    results.summary(summary);
                    return Ok(());
                }
                Some(Answer::Started(_)) => return Err(Fault::Answer("it begins the import twice")),
                None => return Err(Fault::Answer("it ends without the sums")),
            },
        }
    }
}

async fn next(answers: &mut Streaming<v1::ImportConsentsResponse>) -> Result<Option<Answer>, Fault> {
    let answer = answers.message().await?;
    Ok(match answer {
        Some(v1::ImportConsentsResponse { result: None }) => return Err(Fault::Answer("an answer is empty")),
        Some(v1::ImportConsentsResponse { result }) => result,
        None => None,
    })
}

fn gone() -> Fault {
    Fault::from(Status::unavailable("the server went away"))
}
