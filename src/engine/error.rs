//! What the engine refuses, worded for whoever must act. The gRPC side maps it in one table.

use crate::ledger::{AppendError, EraseError, ReadError};
use crate::policy::consent::Mark;
use crate::policy::ids::EventId;
use crate::policy::recorder::Refusal;
use crate::policy::report::FieldViolation;
use crate::view::ViewError;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Fields cannot be accepted; nothing was written.
    #[error("{} cannot be accepted", fields(.0))]
    Invalid(Vec<FieldViolation>),
    /// Businesses are configured, and this is not one.
    #[error("`business_id` is not configured here; add it under `businesses`")]
    UnknownBusiness,
    /// The request id was used before with other content.
    #[error(
        "`request_id` was used before with other content, recorded as {0}; use a new id for a new request"
    )]
    AlreadyExists(EventId),
    /// An opt-in for someone opted out does not name the opt-outs.
    #[error(
        "the person opted out here; name the opt-outs that the person acted after in `supersedes`: {}",
        ids(.0)
    )]
    Unsuperseded(Vec<Mark>),
    /// The request to confirm is not pending.
    #[error("the opt-in request {0} is not pending: unknown, lapsed, or an opt-out came after it")]
    NotPending(EventId),
    /// The disk is nearly full.
    #[error("the disk is nearly full; only opt-outs are recorded until space is freed")]
    NoSpace,
    /// Too much waits for the disk.
    #[error("too many records wait for the disk; retry")]
    Busy,
    /// The ledger stopped.
    #[error("the ledger takes no more records ({0}); restart optgate after looking at its disk")]
    LedgerFailed(String),
    /// Not up yet, or going down.
    #[error("optgate is {0}; retry")]
    NotServing(&'static str),
    /// The store of a person cannot be read.
    #[error("the person's record cannot be read ({0})")]
    View(#[from] ViewError),
    /// More identifiers are linked than are followed.
    #[error("more than {0} identifiers are linked to this person; ask an operator to look at the links")]
    TooManyLinks(usize),
    /// Written here, but not on the disks of a majority of the anchors, although that was asked for.
    #[error(
        "recorded here as {0}, but a majority of the anchors did not confirm it in time; retry with the same `request_id`"
    )]
    NotReplicated(EventId),
    /// An event that the request names, or would have to name, has not arrived from the node that numbers it.
    #[error(
        "{0}, which `supersedes` names or would have to, is not known here by its final number yet; retry, or name only events of this cluster"
    )]
    NotHere(EventId),
    /// Taken in by an edge, but no anchor has answered.
    #[error(
        "no anchor answered in time; what was asked for is kept here and sent on, and opt-outs hold here at once; retry with the same `request_id`"
    )]
    Kept,
    /// An edge's anchors refuse what it took in.
    #[error("the anchors refuse this: {0}")]
    AnchorRefused(String),
    /// Only who has a ledger can answer.
    #[error("this node is an edge and keeps no history; ask an anchor")]
    NoHistory,
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// The ledger cannot be read.
    #[error("the ledger cannot be read ({0})")]
    Read(#[from] ReadError),
    /// Opt-outs of the request were recorded; the rest was refused for this reason.
    #[error("{refusal}; its opt-outs were recorded as {recorded}")]
    OnlyOptOuts {
        /// The event that the opt-outs became.
        recorded: EventId,
        /// Why the rest was refused.
        refusal: Box<EngineError>,
    },
    /// A task ended without an answer.
    #[error("the request was abandoned within optgate; retry with the same `request_id`")]
    Abandoned,
}

impl EngineError {
    /// One field that cannot be accepted.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldViolation::new(field, description)])
    }
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(violations) => Self::Invalid(violations),
            Refusal::Unsuperseded(marks) => Self::Unsuperseded(marks),
            Refusal::NotPending(request) => Self::NotPending(request),
        }
    }
}

impl From<AppendError> for EngineError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Self::Busy,
            AppendError::NoSpace => Self::NoSpace,
            AppendError::TooLong { .. } => Self::field("changes", "the request is too long to be recorded"),
            AppendError::Failed(why) => Self::LedgerFailed(why),
            AppendError::Closed => Self::NotServing("stopping"),
        }
    }
}

impl From<EraseError> for EngineError {
    fn from(error: EraseError) -> Self {
        match error {
            EraseError::Read(error) => Self::Read(error),
            EraseError::NoBlob(_) => Self::NotFound("the event has no personal fields".into()),
            EraseError::Ledger(error) => error.into(),
        }
    }
}

fn fields(violations: &[FieldViolation]) -> String {
    violations.iter().map(|violation| format!("`{}`", violation.field)).collect::<Vec<_>>().join(", ")
}

fn ids(marks: &[Mark]) -> String {
    marks.iter().map(|mark| mark.id.to_string()).collect::<Vec<_>>().join(", ")
}
