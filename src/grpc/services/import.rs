//! `ImportConsents`: chunks of rows up, per chunk what is durable and what was refused down.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::engine::Engine;
use crate::engine::import::{IMPORT_ROWS_MAX, RowOutcome};
use crate::grpc::convert::Faults;
use crate::grpc::convert::import::{Import, import_row};
use crate::grpc::convert::record::{pb_warning, read_sha256};
use crate::grpc::status::{ApiError, FieldFault};
use crate::pb::v1;
use crate::policy::report::FieldViolation;

use super::stream::Answers;

/// How long the next chunk may be waited for.
const IDLE: Duration = Duration::from_secs(300);
/// How many warnings one chunk answers.
const WARNINGS_MAX: usize = 32;

/// Runs an import; its answers come as it goes.
#[must_use]
pub fn run(
    engine: Engine,
    requests: Streaming<v1::ImportConsentsRequest>,
    end: CancellationToken,
) -> Answers<v1::ImportConsentsResponse> {
    let (sender, answers) = Answers::new();
    tokio::spawn(async move {
        let running =
            Running { engine, requests, sender: sender.clone(), summary: v1::ImportSummary::default() };
        let ended = tokio::select! {
            ended = running.run() => ended,
            () = end.cancelled() => Err(ApiError::Stopping.into()),
        };
        if let Err(status) = ended {
            // A reader that went away needs no answer.
            let _ = sender.send(Err(status)).await;
        }
    });
    answers
}

struct Running {
    engine: Engine,
    requests: Streaming<v1::ImportConsentsRequest>,
    sender: tokio::sync::mpsc::Sender<Result<v1::ImportConsentsResponse, Status>>,
    summary: v1::ImportSummary,
}

impl Running {
    async fn run(mut self) -> Result<(), Status> {
        use v1::import_consents_request::Part;
        let start = match self.next().await? {
            Some(Part::Start(start)) => start,
            Some(Part::Chunk(_)) | None => return Err(ApiError::field("start", "must come first").into()),
        };
        let dry_run = start.dry_run;
        let import = read_start(start)?;
        // Rows name themselves, so a resumed import may send any row again: the first is always right.
        let started = v1::ImportStarted { next_row: 1 };
        self.answer(v1::import_consents_response::Result::Started(started)).await;
        while let Some(part) = self.next().await? {
            let chunk = match part {
                Part::Chunk(chunk) => chunk,
                Part::Start(_) => return Err(ApiError::field("start", "may come only once").into()),
            };
            let result = self.chunk(&import, chunk, dry_run).await?;
            self.answer(v1::import_consents_response::Result::Chunk(result)).await;
        }
        let token = self.engine.as_of();
        let summary = v1::ImportSummary { token, ..self.summary.clone() };
        self.answer(v1::import_consents_response::Result::Summary(summary)).await;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<v1::import_consents_request::Part>, Status> {
        let message = tokio::time::timeout(IDLE, self.requests.message()).await;
        let message = message.map_err(|_| Status::from(ApiError::DeadlineExceeded))??;
        let Some(v1::ImportConsentsRequest { part }) = message else { return Ok(None) };
        part.map(Some).ok_or_else(|| ApiError::field("part", "give `start` or `chunk`").into())
    }

    async fn answer(&self, result: v1::import_consents_response::Result) {
        // A reader that went away is noticed at its next chunk.
        let _ = self.sender.send(Ok(v1::ImportConsentsResponse { result: Some(result) })).await;
    }

    async fn chunk(
        &mut self,
        import: &Import,
        chunk: v1::ImportChunk,
        dry_run: bool,
    ) -> Result<v1::ImportChunkResult, ApiError> {
        let v1::ImportChunk { first_row, rows } = chunk;
        if rows.len() > IMPORT_ROWS_MAX {
            return Err(ApiError::field("chunk.rows", format!("may hold {IMPORT_ROWS_MAX} rows")));
        }
        let count = rows.len() as u64;
        let mut result = v1::ImportChunkResult {
            first_row,
            durable_row: first_row.saturating_add(count).saturating_sub(1),
            ..v1::ImportChunkResult::default()
        };
        let mut numbers = Vec::with_capacity(rows.len());
        let mut requests = Vec::with_capacity(rows.len());
        let mut warnings = Vec::new();
        for (number, row) in (first_row..).zip(rows) {
            match import_row(import, number, row, self.engine.key()) {
                Ok(mut request) => {
                    warnings.extend(request.warnings.drain(..).map(|warning| FieldViolation {
                        field: format!("row {number}: {}", warning.field),
                        ..warning
                    }));
                    numbers.push(number);
                    requests.push(request);
                }
                Err(faults) => result.errors.push(row_error(number, faults)),
            }
        }
        let outcomes = self.engine.import(requests, dry_run).await.map_err(ApiError::from)?;
        for (number, outcome) in numbers.into_iter().zip(outcomes) {
            match outcome {
                RowOutcome::Recorded(_) | RowOutcome::Sound => result.recorded_rows += 1,
                RowOutcome::Repeated => result.repeated_rows += 1,
                RowOutcome::Refused(error) => result.errors.push(refusal(number, error.into())?),
            }
        }
        result.errors.sort_by_key(|error| error.row);
        result.warnings = warnings.into_iter().take(WARNINGS_MAX).map(pb_warning).collect();
        self.summary.recorded_rows += u64::from(result.recorded_rows);
        self.summary.repeated_rows += u64::from(result.repeated_rows);
        self.summary.refused_rows += result.errors.len() as u64;
        Ok(result)
    }
}

fn read_start(start: v1::ImportStart) -> Result<Import, ApiError> {
    let v1::ImportStart { business_id, import_id, file_sha256, dry_run: _, actor } = start;
    let mut faults = Faults::default();
    let business = faults.business("start.business_id", &business_id);
    if let Err(fault) = crate::policy::ids::check_id(&import_id) {
        faults.add("start.import_id", fault.to_string());
    }
    let sha256 = read_sha256(&file_sha256);
    if sha256.is_none() {
        faults.add("start.file_sha256", "must be 64 hex digits");
    }
    let (Some(business), Some(sha256)) = (business, sha256) else {
        return faults.or(()).and(Err(ApiError::Internal));
    };
    let actor = crate::grpc::convert::record::read_actor(actor);
    faults.or(Import { business, import_id, sha256, actor })
}

fn row_error(row: u64, faults: Vec<FieldFault>) -> v1::ImportRowError {
    let violations = faults
        .into_iter()
        .map(|FieldFault { field, description }| v1::FieldViolation { field, description })
        .collect();
    v1::ImportRowError { row, violations }
}

/// A row's own fault is answered with the row; what concerns every row ends the import.
fn refusal(row: u64, error: ApiError) -> Result<v1::ImportRowError, ApiError> {
    match error {
        ApiError::InvalidArgument(faults) => Ok(row_error(row, faults)),
        ApiError::RequestIdReused => {
            Ok(row_error(row, vec![FieldFault::new("request_id", ApiError::RequestIdReused.to_string())]))
        }
        ApiError::UnknownBusiness => Err(ApiError::UnknownBusiness),
        other => Err(other),
    }
}
