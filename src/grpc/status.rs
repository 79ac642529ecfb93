//! The one table from errors to gRPC statuses: code, public message, reason, and what a client can do about it.
//!
//! Every error that leaves a service passes through [`ApiError`]; its `match` is exhaustive, so that a new kind of
//! failure cannot reach a client, or a client's retry loop, unconsidered.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message as _;
use prost_types::Any;
use tonic::codegen::Bytes;
use tonic::{Code, Status};
use tonic_types::pb as rpc;

use crate::pb::v1;

/// The domain of every `google.rpc.ErrorInfo` that optgate answers.
pub const ERROR_DOMAIN: &str = "optgate.dev";

/// The most field violations that one answer names: response headers are bounded by clients, often at 8 KiB.
pub const FIELD_VIOLATIONS_MAX: usize = 32;

/// The most opt-outs that one answer names in `UnsupersededOptOuts`, for the same reason.
pub const UNSUPERSEDED_MAX: usize = 64;

const TYPE_URL: &str = "type.googleapis.com/";

/// One fault of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldFault {
    /// The field, as a path from the request: `items[3].channel`.
    pub field: String,
    /// What is wrong and what would be right; never an address.
    pub description: String,
}

impl FieldFault {
    /// Names a fault.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self { field: field.into(), description: description.into() }
    }
}

/// Everything that a call can fail with. A denial is not among them: it is an answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Fields are malformed, or evidence is missing. Nothing was written or consumed.
    #[error("{} invalid", count(.0.len(), "field is", "fields are"))]
    InvalidArgument(Vec<FieldFault>),
    /// The message is over the service's size.
    #[error("the message is too large; send less at once")]
    MessageTooLarge,
    /// The bytes are not the message that the method takes.
    #[error("the message cannot be decoded; generate the client from optgate's protos")]
    Undecodable,
    /// The request id belongs to another opt-in.
    #[error("the request id was used for another opt-in; use a new one")]
    RequestIdReused,
    /// The person is opted out and the opt-in does not say that it came after.
    #[error("the person is opted out; name the opt-outs in `supersedes` only if the person acted after them")]
    Unsuperseded(Vec<v1::OptOutRef>),
    /// Businesses are configured, and this is not one.
    #[error("`business_id` is not configured here; add it under `businesses`")]
    UnknownBusiness,
    /// The request to confirm does not wait.
    #[error("the opt-in request is not pending: unknown, lapsed, or an opt-out came after it")]
    NotPending,
    /// More identifiers are linked to the person than are followed.
    #[error("too many identifiers are linked to this person; ask an operator to look at the links")]
    TooManyLinks,
    /// The opt-outs of a request were recorded; the rest was refused.
    #[error("{refusal}; the opt-outs of the request were recorded all the same")]
    OnlyOptOuts {
        /// Why the rest was refused.
        refusal: Box<ApiError>,
    },
    /// An edge took it in, but no anchor has answered.
    #[error(
        "no anchor answered in time; it is kept here and sent on, and opt-outs hold here at once; repeat with the same request id"
    )]
    Kept,
    /// An edge's anchors will never take it.
    #[error("the anchors refuse this: {0}")]
    AnchorRefused(String),
    /// Only a node with a ledger can answer.
    #[error("this node is an edge and keeps no history; ask an anchor")]
    NoHistory,
    /// Another node asks that is not of this cluster.
    #[error("the nodes differ in {0}; give all nodes of a cluster the same")]
    NotOfThisCluster(&'static str),
    /// Another node encodes persons in another way.
    #[error("the nodes encode persons differently; take all events instead, or upgrade the older")]
    OtherForm,
    /// The thing asked for is not there.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The cursor is not of this store, or of a store restored since.
    #[error("the cursor is not of this store; start from the beginning")]
    UnknownCursor,
    /// Too little disk is left for anything but opt-outs.
    #[error("too little disk space is left for anything but opt-outs; free some")]
    DiskLow,
    /// Too many calls of this kind are being handled.
    #[error("too many calls at once; retry with backoff")]
    Overloaded,
    /// The time for the call ran out. A write may still happen.
    #[error("the deadline passed; a write may still happen, so repeat it with the same request id")]
    DeadlineExceeded,
    /// The store is not open yet, or has not caught up.
    #[error("optgate is starting; retry")]
    Starting,
    /// The process is stopping.
    #[error("optgate is stopping; retry elsewhere or later")]
    Stopping,
    /// The ledger refused the write: nothing was acknowledged.
    #[error("the ledger cannot be written; the process needs a restart")]
    LedgerFailed,
    /// The event is on this node's disk, not as far as the request demanded.
    #[error("recorded here but not as durable as asked; repeat with the same request id")]
    NotDurableEnough,
    /// This node may not know the newest events.
    #[error("this node does not know the newest events; retry")]
    Stale,
    /// The stream's reader did not keep up.
    #[error("the stream was read too slowly; resume at the last cursor")]
    SlowReader,
    /// A store could not be read.
    #[error("the store could not be read")]
    StoreUnreadable,
    /// A fault of optgate's own. What happened stands in its log, not in the answer.
    #[error("an internal fault; see optgate's log")]
    Internal,
}

fn count(n: usize, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// What a client can do with an error.
struct Row {
    code: Code,
    /// For `ErrorInfo.reason`: stable, upper case.
    reason: &'static str,
    /// For `RetryInfo`; unset where repeating the same call cannot help by itself.
    retry_after: Option<Duration>,
}

impl ApiError {
    /// One faulty field.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::InvalidArgument(vec![FieldFault::new(field, description)])
    }

    /// The table.
    fn row(&self) -> Row {
        let row = |code, reason, retry_after| Row { code, reason, retry_after };
        let soon = Some(Duration::from_millis(100));
        let later = Some(Duration::from_secs(1));
        match self {
            Self::InvalidArgument(_) => row(Code::InvalidArgument, "INVALID_FIELDS", None),
            Self::MessageTooLarge => row(Code::InvalidArgument, "MESSAGE_TOO_LARGE", None),
            Self::Undecodable => row(Code::InvalidArgument, "MALFORMED_MESSAGE", None),
            Self::RequestIdReused => row(Code::AlreadyExists, "REQUEST_ID_REUSED", None),
            Self::Unsuperseded(_) => row(Code::FailedPrecondition, "UNSUPERSEDED_OPT_OUTS", None),
            Self::UnknownBusiness => row(Code::NotFound, "UNKNOWN_BUSINESS", None),
            Self::NotPending => row(Code::FailedPrecondition, "NOT_PENDING", None),
            Self::TooManyLinks => row(Code::FailedPrecondition, "TOO_MANY_LINKS", None),
            Self::OnlyOptOuts { refusal } => Row { reason: "ONLY_OPT_OUTS_RECORDED", ..refusal.row() },
            Self::Kept => row(Code::Unavailable, "KEPT_FOR_ANCHORS", later),
            Self::AnchorRefused(_) => row(Code::FailedPrecondition, "REFUSED_BY_ANCHORS", None),
            Self::NoHistory => row(Code::FailedPrecondition, "EDGE_KEEPS_NO_HISTORY", None),
            Self::NotOfThisCluster(_) => row(Code::PermissionDenied, "NOT_OF_THIS_CLUSTER", None),
            Self::OtherForm => row(Code::FailedPrecondition, "OTHER_PERSON_FORM", None),
            Self::NotFound(_) => row(Code::NotFound, "NOT_FOUND", None),
            Self::UnknownCursor => row(Code::OutOfRange, "UNKNOWN_CURSOR", None),
            Self::DiskLow => row(Code::ResourceExhausted, "DISK_LOW", Some(Duration::from_secs(30))),
            Self::Overloaded => row(Code::ResourceExhausted, "OVERLOADED", soon),
            Self::DeadlineExceeded => row(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None),
            Self::Starting => row(Code::Unavailable, "STARTING", later),
            Self::Stopping => row(Code::Unavailable, "STOPPING", later),
            Self::LedgerFailed => row(Code::Unavailable, "LEDGER_FAILED", Some(Duration::from_secs(5))),
            Self::NotDurableEnough => row(Code::Unavailable, "NOT_DURABLE_ENOUGH", later),
            Self::Stale => row(Code::Unavailable, "STALE", soon),
            Self::SlowReader => row(Code::Unavailable, "SLOW_READER", soon),
            Self::StoreUnreadable => row(Code::Unavailable, "STORE_UNREADABLE", later),
            Self::Internal => row(Code::Internal, "INTERNAL", None),
        }
    }

    /// The code, for metrics and spans.
    #[must_use]
    pub fn code(&self) -> Code {
        self.row().code
    }

    /// The stable reason, for metrics, logs and `ErrorInfo`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.row().reason
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let Row { code, reason, retry_after } = error.row();
        let mut message = error.to_string();
        let mut metadata = HashMap::new();
        let mut details = Vec::with_capacity(3);
        match error {
            ApiError::InvalidArgument(mut faults) => {
                if faults.len() > FIELD_VIOLATIONS_MAX {
                    metadata.insert("violations".into(), faults.len().to_string());
                    faults.truncate(FIELD_VIOLATIONS_MAX);
                }
                if let Some(FieldFault { field, description }) = faults.first() {
                    message = format!("{message}: `{field}` {description}");
                }
                details.push(bad_request(faults));
            }
            ApiError::Unsuperseded(mut opt_outs) => {
                if opt_outs.len() > UNSUPERSEDED_MAX {
                    metadata.insert("opt_outs".into(), opt_outs.len().to_string());
                    opt_outs.truncate(UNSUPERSEDED_MAX);
                }
                details.push(any("optgate.v1.UnsupersededOptOuts", &v1::UnsupersededOptOuts { opt_outs }));
            }
            ApiError::OnlyOptOuts { refusal } => return only_opt_outs(*refusal, message),
            ApiError::Kept
            | ApiError::AnchorRefused(_)
            | ApiError::NoHistory
            | ApiError::NotOfThisCluster(_)
            | ApiError::OtherForm
            | ApiError::NotFound(_)
            | ApiError::UnknownBusiness
            | ApiError::NotPending
            | ApiError::TooManyLinks
            | ApiError::MessageTooLarge
            | ApiError::Undecodable
            | ApiError::RequestIdReused
            | ApiError::UnknownCursor
            | ApiError::DiskLow
            | ApiError::Overloaded
            | ApiError::DeadlineExceeded
            | ApiError::Starting
            | ApiError::Stopping
            | ApiError::LedgerFailed
            | ApiError::NotDurableEnough
            | ApiError::Stale
            | ApiError::SlowReader
            | ApiError::StoreUnreadable
            | ApiError::Internal => {}
        }
        let info = rpc::ErrorInfo { reason: reason.into(), domain: ERROR_DOMAIN.into(), metadata };
        details.insert(0, any("google.rpc.ErrorInfo", &info));
        if let Some(wait) = retry_after.and_then(|wait| prost_types::Duration::try_from(wait).ok()) {
            details.push(any("google.rpc.RetryInfo", &rpc::RetryInfo { retry_delay: Some(wait) }));
        }
        let status = rpc::Status { code: code as i32, message: message.clone(), details };
        Status::with_details(code, message, status.encode_to_vec().into())
    }
}

/// The refusal's own status, saying that the opt-outs are kept.
fn only_opt_outs(refusal: ApiError, message: String) -> Status {
    let status = Status::from(refusal);
    Status::with_details(status.code(), message, Bytes::copy_from_slice(status.details()))
}

fn any(name: &str, message: &impl prost::Message) -> Any {
    Any { type_url: format!("{TYPE_URL}{name}"), value: message.encode_to_vec() }
}

fn bad_request(faults: Vec<FieldFault>) -> Any {
    let field_violations = faults
        .into_iter()
        .map(|FieldFault { field, description }| rpc::bad_request::FieldViolation {
            field,
            description,
            ..Default::default()
        })
        .collect();
    any("google.rpc.BadRequest", &rpc::BadRequest { field_violations })
}

/// What a client finds in an error of optgate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorDetails {
    /// `ErrorInfo.reason`; empty if the error is not of optgate.
    pub reason: String,
    /// The faulty fields.
    pub field_faults: Vec<FieldFault>,
    /// The opt-outs that an opt-in did not name.
    pub unsuperseded: Vec<v1::OptOutRef>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// Reads the details of an error, for clients.
#[must_use]
pub fn details_of(status: &Status) -> ErrorDetails {
    let mut found = ErrorDetails::default();
    let Ok(decoded) = rpc::Status::decode(status.details()) else { return found };
    for Any { type_url, value } in decoded.details {
        match type_url.trim_start_matches(TYPE_URL) {
            "google.rpc.ErrorInfo" => {
                found.reason = rpc::ErrorInfo::decode(&value[..]).map(|info| info.reason).unwrap_or_default();
            }
            "google.rpc.BadRequest" => {
                found.field_faults = rpc::BadRequest::decode(&value[..])
                    .map(|bad| bad.field_violations)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|violation| FieldFault::new(violation.field, violation.description))
                    .collect();
            }
            "google.rpc.RetryInfo" => {
                found.retry_after = rpc::RetryInfo::decode(&value[..])
                    .ok()
                    .and_then(|retry| retry.retry_delay)
                    .and_then(|delay| Duration::try_from(delay).ok());
            }
            "optgate.v1.UnsupersededOptOuts" => {
                found.unsuperseded = v1::UnsupersededOptOuts::decode(&value[..])
                    .map(|refused| refused.opt_outs)
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<ApiError> {
        vec![
            ApiError::field("channel", "must be given"),
            ApiError::MessageTooLarge,
            ApiError::Undecodable,
            ApiError::RequestIdReused,
            ApiError::Unsuperseded(vec![v1::OptOutRef {
                event: Some(v1::EventId { origin: "0".repeat(32), sequence: 7 }),
                ..Default::default()
            }]),
            ApiError::UnknownBusiness,
            ApiError::NotPending,
            ApiError::TooManyLinks,
            ApiError::NotFound("template"),
            ApiError::Kept,
            ApiError::AnchorRefused("`payload` cannot be read".into()),
            ApiError::NoHistory,
            ApiError::NotOfThisCluster("the cluster key"),
            ApiError::OtherForm,
            ApiError::UnknownCursor,
            ApiError::DiskLow,
            ApiError::Overloaded,
            ApiError::DeadlineExceeded,
            ApiError::Starting,
            ApiError::Stopping,
            ApiError::LedgerFailed,
            ApiError::NotDurableEnough,
            ApiError::Stale,
            ApiError::SlowReader,
            ApiError::StoreUnreadable,
            ApiError::Internal,
        ]
    }

    #[test]
    fn every_error_names_its_reason_and_reads_back() {
        for error in every_kind() {
            let (code, reason) = (error.code(), error.reason());
            let status = Status::from(error);
            assert_eq!(status.code(), code);
            assert_eq!(details_of(&status).reason, reason);
            assert!(!status.message().is_empty() && !status.message().ends_with('.'), "{status:?}");
        }
    }

    #[test]
    fn reasons_are_unique() {
        let mut reasons: Vec<_> = every_kind().iter().map(ApiError::reason).collect();
        let all = reasons.len();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), all);
    }

    #[test]
    fn what_repeating_cannot_help_asks_for_no_retry() {
        for error in every_kind() {
            let code = error.code();
            let retry = details_of(&Status::from(error)).retry_after;
            let expected = matches!(code, Code::Unavailable | Code::ResourceExhausted);
            assert_eq!(retry.is_some(), expected, "{code:?}");
        }
    }

    #[test]
    fn field_faults_are_named_up_to_their_bound() {
        let faults =
            |n| (0..n).map(|i| FieldFault::new(format!("items[{i}].channel"), "is unknown")).collect();
        let status = Status::from(ApiError::InvalidArgument(faults(FIELD_VIOLATIONS_MAX)));
        assert_eq!(details_of(&status).field_faults.len(), FIELD_VIOLATIONS_MAX);
        assert_eq!(status.message(), "32 fields are invalid: `items[0].channel` is unknown");
        let status = Status::from(ApiError::InvalidArgument(faults(FIELD_VIOLATIONS_MAX + 1)));
        assert_eq!(details_of(&status).field_faults.len(), FIELD_VIOLATIONS_MAX);
        assert!(status.message().starts_with("33 fields"));
        // What clients accept of headers is often 8 KiB.
        assert!(status.details().len() < 6 * 1024, "{}", status.details().len());
    }

    #[test]
    fn unsuperseded_opt_outs_are_named_up_to_their_bound() {
        let opt_out = v1::OptOutRef {
            event: Some(v1::EventId { origin: "a".repeat(32), sequence: u64::MAX }),
            time: Some(prost_types::Timestamp { seconds: 1_795_341_600, nanos: 0 }),
            ..Default::default()
        };
        let status = Status::from(ApiError::Unsuperseded(vec![opt_out; UNSUPERSEDED_MAX + 1]));
        assert_eq!(details_of(&status).unsuperseded.len(), UNSUPERSEDED_MAX);
        assert!(status.details().len() < 6 * 1024, "{}", status.details().len());
    }

    #[test]
    fn foreign_errors_have_no_reason() {
        assert_eq!(details_of(&Status::internal("elsewhere")), ErrorDetails::default());
    }
}
