//! `optgate watch`: consent events as they come, for ever; a broken connection is taken up again where it broke.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tonic::{Code, Status};

use super::connect::{self, ServerFlags};
use super::fault::{Fault, is_broken};
use super::output::{Sink, note};
use super::{exit, json, text};
use crate::pb::v1;

/// The first wait before connecting again, which doubles up to the last one.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long nothing may come, heartbeats included, before the connection counts as broken: three heartbeats.
const SILENCE_HEARTBEATS: u32 = 3;

/// Flags of `watch`.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Only the events of this business. [default: of all that the server gives out]
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub business: String,
    /// Begin after this cursor. [default: at the first event]
    #[arg(long, value_name = "CURSOR", conflicts_with = "from_now")]
    pub cursor: Option<String>,
    /// Begin at the newest event.
    #[arg(long)]
    pub from_now: bool,
    /// Print evidence, texts and actors too: personal data.
    #[arg(long)]
    pub include_evidence: bool,
    /// Print a line with the cursor after each batch of events and each heartbeat, so that a reader can begin there.
    #[arg(long)]
    pub cursors: bool,
    /// How often the server says that there is nothing new, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub heartbeat: u32,
    /// End with an error when the connection breaks, instead of connecting again.
    #[arg(long)]
    pub no_reconnect: bool,
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Prints events until interrupted.
///
/// # Errors
/// [`Fault`] for what connecting again does not help.
pub async fn run(args: WatchArgs) -> Result<u8, Fault> {
    let mut watch = Watch { cursor: args.cursor.clone().unwrap_or_default(), sink: Sink::stdout(), args };
    tokio::select! {
        ended = watch.run() => ended,
        stopped = stop_signal() => stopped,
    }
    .inspect(|_| watch.tell_cursor())
    .inspect_err(|_| watch.tell_cursor())
}

/// Waits for SIGINT or SIGTERM.
async fn stop_signal() -> Result<u8, Fault> {
    let mut term = signal(SignalKind::terminate()).map_err(Fault::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Fault::Runtime)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(0)
}

struct Watch {
    args: WatchArgs,
    cursor: String,
    sink: Sink,
}

impl Watch {
    fn tell_cursor(&self) {
        if !self.cursor.is_empty() {
            note(&format!("to go on from here: --cursor {}", self.cursor));
        }
    }

    async fn run(&mut self) -> Result<u8, Fault> {
        let mut backoff = BACKOFF_MIN;
        loop {
            let before = self.cursor.clone();
            let fault = match self.follow().await {
                // The server ended the stream in order: it stops.
                Ok(()) => Fault::from(Status::unavailable("the server ended the stream")),
                Err(fault) => fault,
            };
            if self.args.no_reconnect || !is_passing(&fault) {
                return Err(fault);
            }
            if self.cursor != before {
                backoff = BACKOFF_MIN;
            }
            note(&format!("optgate: {fault}; connecting again in {}", text::span(&seconds(backoff))));
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Follows one stream to its end.
    async fn follow(&mut self) -> Result<(), Fault> {
        let heartbeat = Duration::from_secs(u64::from(self.args.heartbeat));
        let mut client = connect::consent(&self.args.server).await?;
        let asked = v1::WatchConsentsRequest {
            business_id: self.args.business.clone(),
            cursor: self.cursor.clone(),
            include_evidence: self.args.include_evidence,
            heartbeat_interval: Some(seconds(heartbeat)),
            // After the first answer there is a cursor, and nothing in between may be missed.
            from_now: self.args.from_now && self.cursor.is_empty(),
        };
        let mut answers = client.watch_consents(asked).await?.into_inner();
        let silence = heartbeat * SILENCE_HEARTBEATS;
        loop {
            let answer = tokio::time::timeout(silence, answers.message()).await;
            let answer = answer.map_err(|_| Status::unavailable("nothing came, not even a heartbeat"))??;
            let Some(answer) = answer else { return Ok(()) };
            for event in &answer.events {
                self.sink.line(&json::of(event))?;
            }
            if self.args.cursors {
                let line = serde_json::json!({ "cursor": &answer.cursor }).to_string();
                self.sink.line(&line)?;
            }
            // Only what is out of this process's hands moves the cursor.
            self.sink.flush()?;
            self.cursor = answer.cursor;
        }
    }
}

/// Whether connecting again can help.
fn is_passing(fault: &Fault) -> bool {
    match fault {
        Fault::Call(status) => {
            let passes =
                [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded, Code::ResourceExhausted];
            is_broken(status) || passes.contains(&status.code())
        }
        fault => fault.exit_code() == exit::UNAVAILABLE,
    }
}

fn seconds(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::status::ApiError;

    #[test]
    fn only_what_passes_is_tried_again() {
        let fault = |error: ApiError| Fault::from(Status::from(error));
        assert!(is_passing(&fault(ApiError::Stopping)));
        assert!(is_passing(&fault(ApiError::SlowReader)));
        assert!(is_passing(&Fault::from(Status::unknown("h2 protocol error"))));
        assert!(!is_passing(&fault(ApiError::Internal)));
        assert!(is_passing(&Fault::Connect { server: "x".into(), why: "refused".into() }));
        assert!(!is_passing(&fault(ApiError::UnknownCursor)));
        assert!(!is_passing(&fault(ApiError::field("cursor", "is none"))));
        assert!(!is_passing(&Fault::Closed));
    }
}
