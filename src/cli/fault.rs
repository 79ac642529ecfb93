//! What a command can fail with: how it is told, as flags to change and what to do, and with which exit code it ends.
//!
//! Nothing here holds an address: the server's errors never do, and what the person typed is not repeated.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tonic::{Code, Status};

use super::{exit, json, output, text, words};
use crate::grpc::status::{ErrorDetails, details_of};
use crate::key::KeyFileFault;
use crate::pb::v1;

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The server cannot be reached.
    #[error("nobody answers at {server}: {why}")]
    Connect {
        /// Where it was looked for.
        server: String,
        /// What went wrong.
        why: String,
    },
    /// The server refused the call, or it was cut off.
    #[error("{}", .0.message())]
    Call(Box<Status>),
    /// The same, while a write may have happened.
    #[error("{}", .status.message())]
    Write {
        /// What the server answered.
        status: Box<Status>,
        /// The id that makes a repeat harmless.
        request_id: String,
    },
    /// The command line asks for something that cannot be done.
    #[error("{0}")]
    Usage(String),
    /// The input's data is wrong.
    #[error("{0}")]
    Data(String),
    /// The opt-in does not come after the opt-outs in force.
    #[error("the person opted out after this opt-in")]
    LaterOptOuts(Vec<v1::OptOutRef>),
    /// A file or a stream refused.
    #[error("{} cannot be {what}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read`, `written`.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The key is missing or faulty.
    #[error(transparent)]
    Key(#[from] KeyFileFault),
    /// The ledger belongs to another key.
    #[error("the ledger was written with another key; name its own one with --key-file")]
    OtherKey,
    /// The system gave no threads or no signals.
    #[error("the system refuses what every command needs: {0}")]
    Runtime(io::Error),
    /// The answer made no sense.
    #[error("the server's answer is not one of optgate's: {0}")]
    Answer(&'static str),
    /// Whoever read the output went away, which is no fault.
    #[error("nobody reads the output any more")]
    Closed,
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(status))
    }
}

impl Fault {
    /// A file could not be read.
    pub fn read(path: &Path, source: io::Error) -> Self {
        Self::File { path: path.to_owned(), what: "read", source }
    }

    /// A file could not be written; the output's reader going away is [`Fault::Closed`].
    pub fn written(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Self::Closed;
        }
        Self::File { path: path.to_owned(), what: "written", source }
    }

    /// A fault of a write that a repeat with `request_id` makes good.
    pub fn write(status: Status, request_id: &str) -> Self {
        Self::Write { status: Box::new(status), request_id: request_id.to_owned() }
    }

    fn status(&self) -> Option<&Status> {
        match self {
            Self::Call(status) | Self::Write { status, .. } => Some(status),
            _ => None,
        }
    }

    /// How the process ends.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Connect { .. } => exit::UNAVAILABLE,
            Self::Call(status) | Self::Write { status, .. } if is_broken(status) => exit::UNAVAILABLE,
            Self::Call(status) | Self::Write { status, .. } => match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => {
                    exit::UNAVAILABLE
                }
                Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::AlreadyExists
                | Code::NotFound
                | Code::OutOfRange => exit::DATA,
                _ => exit::SOFTWARE,
            },
            Self::Usage(_) => exit::CONFIG,
            Self::Data(_) | Self::LaterOptOuts(_) => exit::DATA,
            Self::File { .. } | Self::Runtime(_) => exit::OS,
            Self::Key(_) | Self::OtherKey => exit::KEY,
            Self::Answer(_) => exit::SOFTWARE,
            Self::Closed => 0,
        }
    }

    /// Tells the fault on standard error, in words or as one line of JSON, and gives the exit code.
    #[must_use]
    pub fn report(&self, as_json: bool) -> ExitCode {
        if !matches!(self, Self::Closed) {
            let told = if as_json { self.json() } else { self.words() };
            output::note(&told);
        }
        exit::with(self.exit_code())
    }

    /// The first line. A refusal of fields repeats the first of them for clients that read no details; here each has a
    /// line of its own.
    fn headline(&self) -> String {
        let told = self.to_string();
        if self.status().is_some_and(is_broken) {
            return format!("the connection to the server broke: {told}");
        }
        let has_lines = self.status().is_some_and(|status| !details_of(status).field_faults.is_empty());
        match told.split_once(": `") {
            Some((before, _)) if has_lines => before.to_owned(),
            _ => told,
        }
    }

    /// The fault in words, with every remedy known.
    #[must_use]
    pub fn words(&self) -> String {
        let mut out = format!("optgate: {}\n", text::clean(&self.headline()));
        if let Self::Connect { .. } = self {
            out.push_str(
                "  start it with `optgate serve`, or say where it is with --server or OPTGATE_ADDRESS\n",
            );
        }
        if self.status().is_some_and(is_broken) {
            out.push_str(
                "  see whether --server or OPTGATE_ADDRESS names the gRPC address of an optgate (server.listen), not that of its \
                 metrics or of its peers\n",
            );
        }
        if let Self::LaterOptOuts(opt_outs) = self {
            list(&mut out, opt_outs);
            out.push_str(
                "  an opt-in beats an opt-out only if the person acted after it: if they did, give that later moment \
                 as --occurred-time; nothing was written\n",
            );
        }
        let Some(status) = self.status() else { return out };
        let ErrorDetails { reason, field_faults, unsuperseded, retry_after } = details_of(status);
        for fault in &field_faults {
            out.push_str(&format!("  {}: {}\n", flag(&fault.field), text::clean(&fault.description)));
        }
        if !unsuperseded.is_empty() {
            list(&mut out, &unsuperseded);
            out.push_str(
                "  nothing was written; if the person acted after these, repeat with --supersedes EVENT for each of \
                 them, or without any --supersedes to have them looked up\n",
            );
        }
        match reason.as_str() {
            "REQUEST_ID_REUSED" => out.push_str("  give another --request-id, or none to have one made\n"),
            "UNKNOWN_BUSINESS" => out.push_str("  --business: is it spelt as in the configuration?\n"),
            "UNKNOWN_CURSOR" => out.push_str("  leave --cursor out to begin at the first event\n"),
            _ => {}
        }
        if let Some(wait) = retry_after {
            out.push_str(&format!("  try again after {}\n", text::span(&pb_span(wait))));
        }
        if let Self::Write { request_id, status } = self
            && may_have_been_written(status.code())
        {
            out.push_str(&format!("  it may have been recorded: repeat with --request-id {request_id}\n"));
        }
        out
    }

    /// The fault as one line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let mut members =
            vec![("message", quoted(&self.to_string())), ("exit_code", self.exit_code().to_string())];
        let later: &[v1::OptOutRef] = if let Self::LaterOptOuts(opt_outs) = self { opt_outs } else { &[] };
        let mut unsuperseded = later.to_vec();
        if let Some(status) = self.status() {
            let details = details_of(status);
            members.push(("code", quoted(code_word(status.code()))));
            if !details.reason.is_empty() {
                members.push(("reason", quoted(&details.reason)));
            }
            if !details.field_faults.is_empty() {
                let faults = details
                    .field_faults
                    .into_iter()
                    .map(|fault| v1::FieldViolation { field: fault.field, description: fault.description });
                let faults: Vec<_> = faults.collect();
                members.push(("field_violations", json::list(&faults)));
            }
            if let Some(wait) = details.retry_after {
                members.push(("retry_after", quoted(&text::seconds(&pb_span(wait)))));
            }
            unsuperseded.extend(details.unsuperseded);
        }
        if !unsuperseded.is_empty() {
            members.push(("opt_outs", json::list(&unsuperseded)));
        }
        if let Self::Write { request_id, .. } = self {
            members.push(("request_id", quoted(request_id)));
        }
        let members: Vec<String> =
            members.into_iter().map(|(name, value)| format!("{}:{value}", quoted(name))).collect();
        format!("{{\"error\":{{{}}}}}", members.join(","))
    }
}

/// The connection broke: not an error that optgate answered.
pub fn is_broken(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Internal) && details_of(status).reason.is_empty()
}

/// After these the write may stand although its answer is lost.
fn may_have_been_written(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal
    )
}

fn list(out: &mut String, opt_outs: &[v1::OptOutRef]) {
    for opt_out in opt_outs {
        let v1::OptOutRef { event, time, channels, topics, categories } = opt_out;
        let scope = scope(channels, topics, categories);
        let (id, time) = (text::some_event(event.as_ref()), text::moment(time.as_ref()));
        out.push_str(&format!("  opted out {time} of {scope}: {id}\n"));
    }
}

/// What a scope is, in words.
#[must_use]
pub fn scope(channels: &[i32], topics: &[String], categories: &[i32]) -> String {
    let channels = match channels {
        [] => "all channels".to_owned(),
        channels => words::join::<v1::Channel>(channels, ", "),
    };
    let mut purposes: Vec<String> =
        categories.iter().map(|number| words::of::<v1::Category>(*number).into_owned()).collect();
    purposes.extend(topics.iter().map(|topic| text::clean(topic).into_owned()));
    if purposes.is_empty() {
        purposes.push("everything".into());
    }
    format!("{} on {channels}", purposes.join(", "))
}

fn quoted(value: &str) -> String {
    let mut out = String::new();
    json::quote(&mut out, value);
    out
}

fn pb_span(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).unwrap_or_default()
}

/// A status code as the gRPC documents write it.
fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Fields whose flag has a shorter name than they have.
const FLAGS: &[(&str, &str)] = &[
    ("business_id", "business"),
    ("sender_id", "sender"),
    ("recipient", "to"),
    ("recipients", "to"),
    ("channels", "channel"),
    ("channels_named", "channel-named"),
    ("topics", "topic"),
    ("categories", "category"),
    ("message_types", "message-type"),
    ("content", "template NAME --language CODE, or --category or --topic"),
];

/// The flag that sets a field, from the field's path: `changes[0].opt_in.evidence.notice_text` is `--notice-text`.
#[must_use]
pub fn flag(path: &str) -> String {
    let named = |part: &str| part.split('[').next().unwrap_or(part).to_owned();
    let mut parts = path.rsplit('.').map(named);
    let last = parts.next().unwrap_or_default();
    let before = parts.next().unwrap_or_default();
    let name = match (before.as_str(), last.as_str()) {
        // A template is named by the flag of its kind.
        ("template", "name") => "template",
        ("recipient" | "also", "phone" | "email" | "whatsapp_user_id") => {
            if before == "also" {
                "also"
            } else {
                "to"
            }
        }
        ("release", "sender_id") | ("sender", "sender_id") => "sender",
        ("", "changes") => return "the command".into(),
        (_, last) => FLAGS.iter().find(|(field, _)| *field == last).map_or(last, |(_, flag)| flag),
    };
    if name.contains(' ') { format!("--{name}") } else { format!("--{}", name.replace('_', "-")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::status::{ApiError, FieldFault};

    #[test]
    fn fields_are_told_as_flags() {
        for (path, expected) in [
            ("changes[0].opt_in.evidence.notice_text", "--notice-text"),
            ("changes[0].opt_in.channels", "--channel"),
            ("changes[0].opt_in.evidence.channels_named[1]", "--channel-named"),
            ("changes[0].occurred_time", "--occurred-time"),
            ("recipient", "--to"),
            ("recipient.phone", "--to"),
            ("also[2]", "--also"),
            ("business_id", "--business"),
            ("template.name", "--template"),
            ("template.pause_until", "--pause-until"),
            ("message.topic", "--topic"),
            ("content", "--template NAME --language CODE, or --category or --topic"),
        ] {
            assert_eq!(flag(path), expected, "{path}");
        }
    }

    #[test]
    fn a_refusal_names_the_flags_to_add() {
        let status = Status::from(ApiError::InvalidArgument(vec![
            FieldFault::new("changes[0].opt_in.evidence.method", "state how the person opted in"),
            FieldFault::new("changes[0].opt_in.evidence.notice_uri", "give the notice"),
        ]));
        let fault = Fault::write(status, "r-1");
        let told = fault.words();
        assert!(told.starts_with("optgate: 2 fields are invalid\n"), "{told}");
        assert!(told.contains("  --method: state how the person opted in\n"), "{told}");
        assert!(told.contains("  --notice-uri: give the notice\n"), "{told}");
        // Nothing was written, so there is nothing to repeat.
        assert!(!told.contains("r-1"), "{told}");
        assert_eq!(fault.exit_code(), exit::DATA);
        let json: serde_json::Value = serde_json::from_str(&fault.json()).expect("is JSON");
        assert_eq!(json["error"]["code"], "INVALID_ARGUMENT");
        assert_eq!(json["error"]["field_violations"][0]["field"], "changes[0].opt_in.evidence.method");
    }

    #[test]
    fn opt_outs_in_the_way_are_listed_with_what_to_do() {
        let opt_out = v1::OptOutRef {
            event: Some(v1::EventId { origin: "ab".repeat(16), sequence: 7 }),
            time: Some(prost_types::Timestamp { seconds: 1_795_341_600, nanos: 0 }),
            channels: vec![v1::Channel::Sms.into()],
            ..Default::default()
        };
        let told = Fault::from(Status::from(ApiError::Unsuperseded(vec![opt_out.clone()]))).words();
        let line = format!("opted out 2026-11-22 10:00:00Z of everything on SMS: {}-7", "ab".repeat(16));
        assert!(told.contains(&line) && told.contains("--supersedes"), "{told}");
        let told = Fault::LaterOptOuts(vec![opt_out]);
        assert!(told.words().contains(&line) && told.words().contains("--occurred-time"));
        assert!(told.json().contains("\"opt_outs\":[{"), "{}", told.json());
        assert_eq!(told.exit_code(), exit::DATA);
    }

    #[test]
    fn a_lost_answer_says_how_to_repeat_and_when() {
        let fault = Fault::write(Status::from(ApiError::Stopping), "r-2");
        let told = fault.words();
        assert!(told.contains("--request-id r-2") && told.contains("try again after 1s"), "{told}");
        assert_eq!(fault.exit_code(), exit::UNAVAILABLE);
        assert!(fault.json().contains("\"request_id\":\"r-2\""), "{}", fault.json());
    }

    #[test]
    fn a_broken_connection_is_no_fault_of_optgate() {
        let fault = Fault::write(Status::unknown("h2 protocol error"), "r-3");
        assert_eq!(fault.exit_code(), exit::UNAVAILABLE);
        assert!(fault.words().contains("broke") && fault.words().contains("--request-id r-3"));
        assert!(fault.words().contains("gRPC address") && fault.words().contains("--server"));
        assert_eq!(Fault::from(Status::from(ApiError::Internal)).exit_code(), exit::SOFTWARE);
        assert!(fault.json().contains("\"exit_code\":69"), "{}", fault.json());
    }

    #[test]
    fn a_reader_that_left_is_no_fault() {
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(Fault::written(Path::new("-"), gone).exit_code(), 0);
    }
}
