//! The services: read the request, ask the engine, write the answer. They decide nothing.

pub mod admin;
mod batch;
pub mod consent;
pub mod import;
pub mod inbound;
pub mod send;
pub mod stream;

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;

use crate::engine::token::Token;
use crate::engine::{Engine, EngineError};
use crate::policy::consent::Mark;

use super::convert::{pb_event_id, pb_timestamp, record::field_fault};
use super::method::WRITE;
use super::stack::asked_deadline;
use super::status::ApiError;
use crate::pb::v1;

/// What a call needs of its time to answer once it has waited.
const ANSWER_BEFORE: Duration = Duration::from_millis(50);

/// Until when a call that arrives now may wait for other disks: shortly before its deadline.
fn replicated_until(metadata: &MetadataMap) -> Instant {
    let asked = asked_deadline(metadata.as_ref());
    Instant::now() + asked.map_or(WRITE, |asked| asked.min(WRITE)).saturating_sub(ANSWER_BEFORE)
}

/// How long a call may wait for what it asks to be known: it may take `most`, unless its caller asks for less, and needs `to_answer` of
/// that itself.
fn wait_within(metadata: &MetadataMap, most: Duration, to_answer: Duration) -> Duration {
    asked_deadline(metadata.as_ref()).map_or(most, |asked| asked.min(most)).saturating_sub(to_answer)
}

/// Waits until everything that `tokens` names is known here, but not longer than `within` in all.
async fn wait_for_all(engine: &Engine, tokens: impl IntoIterator<Item = Token>, within: Duration) {
    let until = Instant::now() + within;
    // One after the other is as good as all at once: none is reached sooner by being waited for.
    for token in tokens {
        if !engine.knows(token) {
            engine.wait_for(token, until.saturating_duration_since(Instant::now())).await;
        }
    }
}

/// The engine's errors as the API's.
impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Invalid(violations) => {
                Self::InvalidArgument(violations.into_iter().map(field_fault).collect())
            }
            EngineError::UnknownBusiness => Self::UnknownBusiness,
            EngineError::AlreadyExists(_) => Self::RequestIdReused,
            EngineError::Unsuperseded(marks) => {
                Self::Unsuperseded(marks.into_iter().map(opt_out_ref).collect())
            }
            EngineError::NotPending(_) => Self::NotPending,
            EngineError::NoSpace => Self::DiskLow,
            EngineError::Busy => Self::Overloaded,
            EngineError::LedgerFailed(_) => Self::LedgerFailed,
            EngineError::NotServing("stopping") => Self::Stopping,
            EngineError::NotServing(_) => Self::Starting,
            EngineError::View(error) => {
                tracing::error!(%error, "the view cannot be read");
                Self::StoreUnreadable
            }
            EngineError::TooManyLinks(_) => Self::TooManyLinks,
            EngineError::NotReplicated(_) => Self::NotDurableEnough,
            EngineError::NotHere(_) => Self::Stale,
            EngineError::Kept => Self::Kept,
            EngineError::AnchorRefused(why) => Self::AnchorRefused(why),
            EngineError::NoHistory => Self::NoHistory,
            EngineError::NotFound(what) => {
                tracing::debug!(what, "not found");
                Self::NotFound("event or record")
            }
            EngineError::Read(error) => {
                tracing::error!(%error, "the ledger cannot be read");
                Self::StoreUnreadable
            }
            EngineError::OnlyOptOuts { recorded: _, refusal } => {
                Self::OnlyOptOuts { refusal: Box::new(Self::from(*refusal)) }
            }
            EngineError::Abandoned => Self::Internal,
        }
    }
}

/// Writes a reference to an opt-out.
#[must_use]
pub fn opt_out_ref(mark: Mark) -> v1::OptOutRef {
    v1::OptOutRef {
        event: Some(pb_event_id(mark.id)),
        time: Some(pb_timestamp(mark.time)),
        channels: Vec::new(),
        topics: Vec::new(),
        categories: Vec::new(),
    }
}
