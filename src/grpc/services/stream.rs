//! Server streams of events: exports end at the ledger's head, watches go on behind it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::engine::Engine;
use crate::engine::audit::Events;
use crate::engine::error::EngineError;
use crate::grpc::convert::event::pb_events;
use crate::grpc::convert::{Faults, pb_timestamp};
use crate::grpc::status::ApiError;
use crate::ledger::Position;
use crate::pb::v1;
use crate::policy::ids::BusinessId;

/// How many answers wait for a slow reader; then the ledger is no longer read.
const ANSWERS_MAX: usize = 16;
/// How many events one answer holds.
const EVENTS_PER_ANSWER_MAX: usize = 256;
/// How many records are looked at for one answer, so that a business with few events still sees its cursor move.
const RECORDS_PER_ANSWER_MAX: usize = 16_384;
/// The version that starts every cursor.
const CURSOR_VERSION: &str = "1-";
/// The heartbeat where the caller names none, and its bounds.
const HEARTBEAT: Duration = Duration::from_secs(10);
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
const HEARTBEAT_MAX: Duration = Duration::from_secs(300);

/// A stream of answers that a task feeds; the task ends when the stream is dropped.
pub struct Answers<T>(mpsc::Receiver<Result<T, Status>>);

impl<T> Answers<T> {
    /// A stream and where its task puts answers.
    #[must_use]
    pub fn new() -> (mpsc::Sender<Result<T, Status>>, Self) {
        let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
        (sender, Self(receiver))
    }
}

impl<T> tokio_stream::Stream for Answers<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// A cursor names a place of this store and proves it: another's, or a made-up one, would be read as damage.
fn cursor(engine: &Engine, next: Position) -> String {
    format!("{CURSOR_VERSION}{:x}-{}", next.as_u64(), engine.place_mark(next))
}

fn read_cursor(engine: &Engine, text: &str) -> Result<Position, ApiError> {
    if text.is_empty() {
        return Ok(Position::START);
    }
    let parts = text.strip_prefix(CURSOR_VERSION).and_then(|rest| rest.split_once('-'));
    let place = parts.and_then(|(hex, mark)| Some((u64::from_str_radix(hex, 16).ok()?, mark)));
    let (number, mark) =
        place.ok_or_else(|| ApiError::field("cursor", "is not a cursor that optgate gave out"))?;
    let at = Position::from_u64(number);
    let head = engine.ledger()?.head();
    if at > head || engine.place_mark(at) != mark { Err(ApiError::UnknownCursor) } else { Ok(at) }
}

/// Reads whose events are wanted; empty: everybody's.
fn read_business(text: &str, faults: &mut Faults) -> Option<BusinessId> {
    if text.is_empty() { None } else { faults.business("business_id", text) }
}

/// A batch of events.
struct Batch {
    events: Vec<v1::ConsentEvent>,
    next: Position,
    at_head: bool,
}

/// Reads the next batch, blocking.
fn read_batch(
    events: &mut Events,
    business: Option<&BusinessId>,
    with_personal: bool,
    mut next: Position,
) -> Result<Batch, EngineError> {
    let mut batch = Vec::new();
    for _ in 0..RECORDS_PER_ANSWER_MAX {
        let Some(event) = events.next() else {
            return Ok(Batch { events: batch, next, at_head: true });
        };
        let event = event?;
        next = event.next;
        if event
            .consent()
            .is_some_and(|consent| business.is_none_or(|business| consent.business == *business))
        {
            batch.extend(pb_events(&event, with_personal));
        }
        if batch.len() >= EVENTS_PER_ANSWER_MAX {
            break;
        }
    }
    Ok(Batch { events: batch, next, at_head: false })
}

/// Streams a business's events up to the head.
///
/// # Errors
/// Every field at fault.
pub fn export(
    engine: &Engine,
    request: v1::ExportConsentEventsRequest,
    end: &CancellationToken,
) -> Result<Answers<v1::ExportConsentEventsResponse>, ApiError> {
    let v1::ExportConsentEventsRequest { business_id, cursor: from, include_evidence } = request;
    let mut faults = Faults::default();
    let business = read_business(&business_id, &mut faults);
    faults.or(())?;
    let mut next = read_cursor(engine, &from)?;
    let mut events = engine.events_from(next)?;
    let (sender, answers) = Answers::new();
    let (engine, end) = (engine.clone(), end.clone());
    tokio::task::spawn_blocking(move || {
        loop {
            let answer =
                read_batch(&mut events, business.as_ref(), include_evidence, next).map_err(ApiError::from);
            let (answer, last) = match answer {
                Ok(batch) => {
                    next = batch.next;
                    let answer = v1::ExportConsentEventsResponse {
                        events: batch.events,
                        cursor: cursor(&engine, next),
                    };
                    (Ok(answer), batch.at_head)
                }
                Err(error) => (Err(error.into()), true),
            };
            // A reader that went away, or a server that stops, ends the export; the cursor resumes it.
            if end.is_cancelled() || sender.blocking_send(answer).is_err() || last {
                return;
            }
        }
    });
    Ok(answers)
}

/// Streams a business's events from a cursor on, for as long as the reader listens.
///
/// # Errors
/// Every field at fault.
pub fn watch(
    engine: &Engine,
    request: v1::WatchConsentsRequest,
    end: &CancellationToken,
) -> Result<Answers<v1::WatchConsentsResponse>, ApiError> {
    let v1::WatchConsentsRequest {
        business_id,
        cursor: from,
        include_evidence,
        heartbeat_interval,
        from_now,
    } = request;
    let mut faults = Faults::default();
    let business = read_business(&business_id, &mut faults);
    if from_now && !from.is_empty() {
        faults.add("from_now", "goes without a cursor; leave one of them out");
    }
    let heartbeat = match heartbeat_interval.map(Duration::try_from) {
        None => HEARTBEAT,
        Some(Ok(interval)) => interval.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX),
        Some(Err(_)) => {
            faults.add("heartbeat_interval", "must not be negative");
            HEARTBEAT
        }
    };
    faults.or(())?;
    let head = engine.ledger()?.watch();
    let durable = *head.borrow();
    let from = if from_now { durable } else { read_cursor(engine, &from)? };
    let (sender, answers) = Answers::new();
    let watching =
        Watching { engine: engine.clone(), business, include_evidence, heartbeat, end: end.clone() };
    tokio::spawn(watching.run(from, head, sender));
    Ok(answers)
}

struct Watching {
    engine: Engine,
    /// `None`: all of them.
    business: Option<BusinessId>,
    include_evidence: bool,
    heartbeat: Duration,
    end: CancellationToken,
}

impl Watching {
    async fn run(
        self,
        mut next: Position,
        mut head: watch::Receiver<Position>,
        sender: mpsc::Sender<Result<v1::WatchConsentsResponse, Status>>,
    ) {
        loop {
            head.mark_unchanged();
            let (engine, business, with) =
                (self.engine.clone(), self.business.clone(), self.include_evidence);
            let read = tokio::task::spawn_blocking(move || {
                read_batch(&mut engine.events_from(next)?, business.as_ref(), with, next)
            });
            let batch = match read.await.unwrap_or(Err(EngineError::Abandoned)) {
                Ok(batch) => batch,
                Err(error) => {
                    // The reader is told once; it resumes at its last cursor.
                    let _ = sender.send(Err(ApiError::from(error).into())).await;
                    return;
                }
            };
            next = batch.next;
            if !batch.events.is_empty() && self.send(&sender, batch.events, next).await.is_err() {
                return;
            }
            if !batch.at_head {
                continue;
            }
            tokio::select! {
                changed = head.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(self.heartbeat) => {
                    if self.send(&sender, Vec::new(), next).await.is_err() {
                        return;
                    }
                }
                () = self.end.cancelled() => {
                    // Not an end in good order: the reader is to resume at its cursor, here or elsewhere.
                    let _ = sender.send(Err(ApiError::Stopping.into())).await;
                    return;
                }
                () = sender.closed() => return,
            }
        }
    }

    async fn send(
        &self,
        sender: &mpsc::Sender<Result<v1::WatchConsentsResponse, Status>>,
        events: Vec<v1::ConsentEvent>,
        next: Position,
    ) -> Result<(), ()> {
        let sent_time = Some(pb_timestamp(self.engine.now()));
        let answer = v1::WatchConsentsResponse { events, cursor: cursor(&self.engine, next), sent_time };
        sender.send(Ok(answer)).await.map_err(|_| ())
    }
}
