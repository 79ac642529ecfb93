//! `CheckSend`, `BatchCheckSend` and `ReportSend`.

use std::hash::{Hash, Hasher};

use bytes::{BufMut as _, BytesMut};
use prost::Message as _;
use rustc_hash::FxHasher;

use crate::address;
use crate::address::AddressFault;
use crate::engine::feedback::{ReportAnswer, SendReport};
use crate::engine::registry::{LANGUAGE_LEN_MAX, TEMPLATE_NAME_LEN_MAX};
use crate::engine::{CheckAnswer, CheckRequest, Mode, RequestedContent};
use crate::grpc::status::ApiError;
use crate::pb::v1;
use crate::policy::check::Violation;
use crate::policy::ids::{TopicId, check_id};
use crate::policy::time::Timestamp;
use crate::policy::types::Channel;

use super::{Faults, pb_duration, pb_event_ids, pb_timestamp, read_address, words};

/// The most items of a batch.
pub const BATCH_ITEMS_MAX: usize = 1_000;
/// The longest provider error code or message id, in bytes.
pub const PROVIDER_TEXT_LEN_MAX: usize = 512;

/// Reads a check, the `item` of a batch or one by itself. An address that cannot be read stays in it, since that is a denial.
///
/// # Errors
/// Every other field at fault.
pub fn check_request(request: v1::CheckSendRequest, item: Option<usize>) -> Result<CheckRequest, ApiError> {
    let mut faults = Faults::default();
    let field = |name: &str| match item {
        Some(at) => format!("items[{at}].{name}"),
        None => name.to_owned(),
    };
    let content_hash = if request.request_id.is_empty() { 0 } else { content_hash(&request) };
    let v1::CheckSendRequest {
        request_id,
        business_id,
        sender_id,
        recipient,
        channel,
        content,
        about,
        mode,
        explain,
        time_zone,
        at_least_as_fresh,
    } = request;
    if !request_id.is_empty()
        && let Err(fault) = check_id(&request_id)
    {
        faults.add(field("request_id"), fault.to_string());
    }
    for (name, id) in [("business_id", &business_id), ("sender_id", &sender_id)] {
        if let Err(fault) = check_id(id) {
            faults.add(field(name), fault.to_string());
        }
    }
    let read_channel = words::channel(channel);
    if read_channel.is_none() {
        faults.add(field("channel"), "name a channel that this version knows");
    }
    let mode = match v1::CheckMode::try_from(mode) {
        Ok(v1::CheckMode::Unspecified | v1::CheckMode::Enforce) => Mode::Enforce,
        Ok(v1::CheckMode::Peek) => Mode::Peek,
        Err(_) => {
            faults.add(field("mode"), "is unknown; choose ENFORCE or PEEK");
            Mode::Peek
        }
    };
    let content = read_content(content, &field, &mut faults);
    let about = about.as_ref().and_then(|id| faults.event(&field("about"), id));
    let time_zone = if time_zone.is_empty() {
        None
    } else {
        address::resolve_zone(&time_zone)
            .map_err(|_| faults.add(field("time_zone"), "is no IANA time zone, such as `Europe/Berlin`"))
            .ok()
    };
    let at_least_as_fresh = faults.token(|| field("at_least_as_fresh"), &at_least_as_fresh);
    let recipient = read_address(recipient.as_ref()).unwrap_or(Err(AddressFault::Empty));
    let (Some(channel), Some(content)) = (read_channel, content) else {
        return faults.or(()).and(Err(ApiError::Internal));
    };
    faults.or(CheckRequest {
        request_id,
        business: business_id,
        sender: sender_id,
        recipient,
        channel,
        content,
        about,
        mode,
        explain,
        time_zone,
        at_least_as_fresh,
        content_hash,
    })
}

fn read_content(
    content: Option<v1::check_send_request::Content>,
    field: &impl Fn(&str) -> String,
    faults: &mut Faults,
) -> Option<RequestedContent> {
    use v1::check_send_request::Content;
    match content {
        None => {
            faults.add(field("content"), "give `template` or `message`");
            None
        }
        Some(Content::Template(v1::TemplateRef { name, language })) => {
            if name.is_empty() || name.len() > TEMPLATE_NAME_LEN_MAX {
                faults.add(field("template.name"), format!("must have 1 to {TEMPLATE_NAME_LEN_MAX} bytes"));
            }
            if language.is_empty() || language.len() > LANGUAGE_LEN_MAX {
                faults.add(field("template.language"), "give a language code such as `en_US`");
            }
            Some(RequestedContent::Template { name, language })
        }
        Some(Content::Message(v1::MessageContent { category, topic })) => {
            let claimed = words::category(category);
            if claimed.is_none() && category != 0 {
                faults.add(field("message.category"), "is unknown; choose one that this version knows");
            }
            let topic = if topic.is_empty() {
                None
            } else {
                TopicId::new(&topic)
                    .map_err(|fault| faults.add(field("message.topic"), fault.to_string()))
                    .ok()
            };
            Some(RequestedContent::Message { category: claimed, topic })
        }
    }
}

/// Everything but the request id; of addresses only a hash is made, which never leaves this process.
fn content_hash(request: &v1::CheckSendRequest) -> u64 {
    use v1::recipient::Address as Given;
    let mut hasher = FxHasher::default();
    (&request.business_id, &request.sender_id, request.channel, request.mode).hash(&mut hasher);
    match request.recipient.as_ref().and_then(|recipient| recipient.address.as_ref()) {
        None => 0.hash(&mut hasher),
        Some(Given::Phone(text)) => (1, text).hash(&mut hasher),
        Some(Given::WhatsappUserId(text)) => (2, text).hash(&mut hasher),
        Some(Given::Email(text)) => (3, text).hash(&mut hasher),
    }
    match &request.content {
        None => 0.hash(&mut hasher),
        Some(v1::check_send_request::Content::Template(template)) => {
            (1, &template.name, &template.language).hash(&mut hasher);
        }
        Some(v1::check_send_request::Content::Message(message)) => {
            (2, message.category, &message.topic).hash(&mut hasher);
        }
    }
    request.about.as_ref().map(v1::EventId::encode_to_vec).hash(&mut hasher);
    request.time_zone.hash(&mut hasher);
    hasher.finish()
}

/// Fills what an item leaves unset from the batch's defaults.
#[must_use]
pub fn with_defaults(
    item: v1::CheckSendRequest,
    defaults: Option<&v1::CheckSendRequest>,
) -> v1::CheckSendRequest {
    let Some(defaults) = defaults else { return item };
    let text = |own: String, default: &String| if own.is_empty() { default.clone() } else { own };
    let number = |own: i32, default: i32| if own == 0 { default } else { own };
    let v1::CheckSendRequest {
        request_id,
        business_id,
        sender_id,
        recipient,
        channel,
        content,
        about,
        mode,
        explain,
        time_zone,
        at_least_as_fresh,
    } = item;
    v1::CheckSendRequest {
        // An id is one request's: a default would make every item a repetition of the first.
        request_id,
        business_id: text(business_id, &defaults.business_id),
        sender_id: text(sender_id, &defaults.sender_id),
        recipient: recipient.or_else(|| defaults.recipient.clone()),
        channel: number(channel, defaults.channel),
        content: content.or_else(|| defaults.content.clone()),
        about: about.or_else(|| defaults.about.clone()),
        mode: number(mode, defaults.mode),
        explain: explain || defaults.explain,
        time_zone: text(time_zone, &defaults.time_zone),
        at_least_as_fresh: text(at_least_as_fresh, &defaults.at_least_as_fresh),
    }
}

/// Writes an answer.
#[must_use]
pub fn check_response(answer: CheckAnswer) -> v1::CheckSendResponse {
    let CheckAnswer {
        violations,
        shadowed,
        retry_after_ms,
        now,
        instructions,
        decision_id,
        category,
        basis,
        rules_version,
        valid_until,
        as_of,
        degraded,
    } = answer;
    let decision = if violations.is_empty() { v1::Decision::Allow } else { v1::Decision::Deny };
    let reason =
        violations.first().map_or(v1::Reason::Unspecified, |violation| words::pb_reason(violation.reason));
    let kind = v1::Obligation::IncludeOptOutInstructions.into();
    let obligations = instructions.map(|text| v1::DueObligation { kind, text }).into_iter().collect();
    v1::CheckSendResponse {
        decision: decision.into(),
        reason: reason.into(),
        violations: violations.into_iter().map(|violation| pb_violation(violation, now)).collect(),
        retry_after: retry_after_ms.map(pb_duration),
        obligations,
        decision_id,
        category: category.map_or(v1::Category::Unspecified, words::pb_category).into(),
        basis: pb_event_ids(&basis),
        rules_version,
        valid_until: valid_until.map(pb_timestamp),
        as_of,
        degraded,
        shadow_violations: shadowed.into_iter().map(|violation| pb_violation(violation, now)).collect(),
    }
}

/// The key of `BatchCheckSendResponse.results` on the wire: field 1, with its length before it.
const RESULTS_KEY: u8 = 1 << 3 | 2;

/// Appends an answer as one of `BatchCheckSendResponse.results`. A batch's answers are encoded one by one: as messages all of them
/// would be in memory at once, in many pieces that another thread has to free.
///
/// # Errors
/// None while there is memory.
pub fn put_result(out: &mut BytesMut, answer: &v1::CheckSendResponse) -> Result<(), ApiError> {
    out.put_u8(RESULTS_KEY);
    answer.encode_length_delimited(out).map_err(|_| ApiError::Internal)
}

fn pb_violation(violation: Violation, now: Timestamp) -> v1::Violation {
    let Violation { reason, detail, retry_at } = violation;
    v1::Violation {
        reason: words::pb_reason(reason).into(),
        detail: detail.unwrap_or_default(),
        retry_after: retry_at.map(|at| pb_duration(at.since_ms(now).max(0))),
    }
}

/// Reads a report.
///
/// # Errors
/// Every field at fault.
pub fn send_report(request: v1::ReportSendRequest) -> Result<SendReport, ApiError> {
    let mut faults = Faults::default();
    let v1::ReportSendRequest {
        decision_id,
        business_id,
        sender_id,
        recipient,
        outcome,
        provider_error_code,
        provider_message_id,
        opt_out_instructions_included,
        occurred_time,
        channel,
    } = request;
    let unchecked = decision_id.is_empty();
    let business = (unchecked || !business_id.is_empty())
        .then(|| faults.business("business_id", &business_id))
        .flatten();
    let sender =
        (unchecked || !sender_id.is_empty()).then(|| faults.sender("sender_id", &sender_id)).flatten();
    let recipient = if unchecked {
        faults.address("recipient", recipient.as_ref())
    } else {
        // The decision says who it is; this is for one that cannot be opened.
        read_address(recipient.as_ref()).and_then(Result::ok)
    };
    let outcome = words::send_outcome(outcome);
    if outcome.is_none() {
        faults.add("outcome", "choose SENT, DELIVERED, READ or FAILED");
    }
    let read_channel = words::channel(channel);
    if read_channel.is_none() && channel != 0 {
        faults.add("channel", "is unknown; choose one that this version knows");
    }
    for (name, text) in
        [("provider_error_code", &provider_error_code), ("provider_message_id", &provider_message_id)]
    {
        if text.len() > PROVIDER_TEXT_LEN_MAX {
            faults.add(name, format!("must have at most {PROVIDER_TEXT_LEN_MAX} bytes"));
        }
    }
    let occurred = faults.time("occurred_time", occurred_time.as_ref());
    let Some(outcome) = outcome else { return faults.or(()).and(Err(ApiError::Internal)) };
    faults.or(SendReport {
        decision_id,
        business,
        sender,
        recipient,
        // The provider's codes that teach are WhatsApp's; a report without a channel is taken for one.
        channel: read_channel.unwrap_or(Channel::Whatsapp),
        outcome,
        error_code: provider_error_code,
        message_id: provider_message_id,
        instructions_included: opt_out_instructions_included,
        occurred,
    })
}

/// Writes what a report came to.
#[must_use]
pub fn report_response(answer: ReportAnswer) -> v1::ReportSendResponse {
    let ReportAnswer { events, token } = answer;
    v1::ReportSendResponse { events: pb_event_ids(&events), token }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(decision_id: &str, phone: &str) -> v1::ReportSendRequest {
        v1::ReportSendRequest {
            decision_id: decision_id.into(),
            business_id: "acme".into(),
            sender_id: "555".into(),
            recipient: Some(v1::Recipient { address: Some(v1::recipient::Address::Phone(phone.into())) }),
            outcome: v1::SendOutcome::Failed.into(),
            ..Default::default()
        }
    }

    #[test]
    fn results_one_by_one_are_the_message_with_all() {
        let answer = |id: &str| v1::CheckSendResponse {
            decision_id: id.into(),
            violations: vec![v1::Violation::default(); 3],
            ..Default::default()
        };
        let results = vec![answer("a"), v1::CheckSendResponse::default(), answer(&"b".repeat(300))];
        let mut out = BytesMut::new();
        for result in &results {
            put_result(&mut out, result).expect("room");
        }
        assert_eq!(out.freeze(), v1::BatchCheckSendResponse { results }.encode_to_vec());
    }

    #[test]
    fn the_recipient_is_read_beside_a_decision_too() {
        let read = send_report(report("a decision", "+4915123456789")).expect("well formed");
        assert!(read.recipient.is_some() && read.business.is_some() && read.sender.is_some());
        // The decision may well say who it is.
        assert!(send_report(report("a decision", "nobody")).expect("well formed").recipient.is_none());
        assert!(send_report(report("", "nobody")).is_err());
    }
}
