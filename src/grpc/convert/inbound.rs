//! `HandleInboundMessage`.

use prost::Message as _;

use crate::engine::inbound::{Confirmation, Inbound, InboundAnswer, InboundContent, InboundOutcome};
use crate::grpc::status::ApiError;
use crate::key::ClusterKey;
use crate::pb::v1;
use crate::policy::report::{ALSO_MAX, FieldViolation};
use crate::policy::types::Channel;

use super::record::{cut, pb_durability, pb_warning};
use super::{Faults, pb_event_id, pb_timestamp, words};

/// The longest provider message id, in bytes.
const MESSAGE_ID_LEN_MAX: usize = 512;

/// Reads a message.
///
/// With it, what was read differently from how it was written.
///
/// # Errors
/// Every field at fault. What the person wrote never is one.
pub fn inbound(
    request: v1::HandleInboundMessageRequest,
    key: &ClusterKey,
) -> Result<(Inbound, Vec<FieldViolation>), ApiError> {
    let mut faults = Faults::default();
    let mac = key.mac16("inbound", &[&request.encode_to_vec()]);
    let mut hash = [0; 8];
    hash.copy_from_slice(&mac[..8]);
    let v1::HandleInboundMessageRequest {
        business_id,
        sender_id,
        channel,
        identifiers,
        message_id,
        content,
        quoted_message_id,
        occurred_time,
        language,
    } = request;
    let business = faults.business("business_id", &business_id);
    let sender = faults.sender("sender_id", &sender_id);
    let channel = words::channel(channel);
    if channel.is_none() {
        faults.add("channel", "name the channel that the message came by");
    }
    if identifiers.is_empty() {
        faults.add("identifiers", "give at least one identifier of the person");
    }
    // What the person says is not lost to what stands beside it, so long as one identifier tells whose it is.
    let mut read = Vec::new();
    let mut warnings = Vec::new();
    for (at, identifier) in identifiers.iter().enumerate().take(1 + ALSO_MAX) {
        match super::address(Some(identifier)) {
            Ok(address) => read.push(address),
            Err(fault) => warnings.push(FieldViolation::new(format!("identifiers[{at}]"), fault)),
        }
    }
    if read.is_empty() {
        warnings.drain(..).for_each(|FieldViolation { field, description }| faults.add(field, description));
    }
    if identifiers.len() > 1 + ALSO_MAX {
        let why = format!("names more than {} identifiers; the rest was left out", 1 + ALSO_MAX);
        warnings.push(FieldViolation::new("identifiers", why));
    }
    let mut bounded = |field: &str, text: String| {
        if text.len() <= MESSAGE_ID_LEN_MAX {
            return text;
        }
        warnings.push(FieldViolation::new(field, format!("has over {MESSAGE_ID_LEN_MAX} bytes and was cut")));
        cut(&text, MESSAGE_ID_LEN_MAX).to_owned()
    };
    let message_id = bounded("message_id", message_id);
    let quoted = bounded("quoted_message_id", quoted_message_id);
    let content = match content {
        None => InboundContent::Other,
        Some(v1::handle_inbound_message_request::Content::Text(text)) => InboundContent::Text(text),
        Some(v1::handle_inbound_message_request::Content::Button(v1::ButtonReply { payload, title })) => {
            InboundContent::Button { payload, title }
        }
    };
    // A time that cannot be read must not keep a STOP out: the moment of recording stands in.
    let occurred = occurred_time.as_ref().and_then(super::timestamp);
    let (Some(business), Some(sender), Some(channel)) = (business, sender, channel) else {
        return faults.or(()).and(Err(ApiError::Internal));
    };
    let inbound = faults.or(Inbound {
        business,
        sender,
        channel,
        identifiers: read,
        message_id,
        content,
        quoted,
        occurred,
        language,
        hash,
    })?;
    Ok((inbound, warnings))
}

/// Writes an answer.
#[must_use]
pub fn inbound_response(
    answer: InboundAnswer,
    channel: Channel,
    warnings: Vec<FieldViolation>,
) -> v1::HandleInboundMessageResponse {
    let InboundAnswer { outcome, event, confirmation, window_until, token, durability } = answer;
    let outcome = match outcome {
        InboundOutcome::OptOut => v1::InboundOutcome::OptOut,
        InboundOutcome::OptIn => v1::InboundOutcome::OptIn,
        InboundOutcome::Help => v1::InboundOutcome::Help,
        InboundOutcome::None => v1::InboundOutcome::None,
        InboundOutcome::Ambiguous => v1::InboundOutcome::Ambiguous,
    };
    v1::HandleInboundMessageResponse {
        outcome: outcome.into(),
        events: event.into_iter().map(pb_event_id).collect(),
        confirmation: confirmation.map(|Confirmation { text, language, about, send_before }| {
            v1::Confirmation {
                text,
                about: Some(pb_event_id(about)),
                send_before: Some(pb_timestamp(send_before)),
                channel: words::pb_channel(channel).into(),
                language,
            }
        }),
        window_until: window_until.map(pb_timestamp),
        token,
        durability: durability.map_or(v1::Durability::Unspecified, pb_durability).into(),
        warnings: warnings.into_iter().map(pb_warning).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::recipient::Address;

    fn phone(number: &str) -> v1::Recipient {
        v1::Recipient { address: Some(Address::Phone(number.to_owned())) }
    }

    fn stop(identifiers: Vec<v1::Recipient>) -> v1::HandleInboundMessageRequest {
        v1::HandleInboundMessageRequest {
            business_id: "acme".to_owned(),
            sender_id: "Acme".to_owned(),
            channel: v1::Channel::Sms.into(),
            identifiers,
            content: Some(v1::handle_inbound_message_request::Content::Text("STOP".to_owned())),
            ..Default::default()
        }
    }

    fn read(request: v1::HandleInboundMessageRequest) -> Result<(Inbound, Vec<String>), ApiError> {
        let (message, warnings) = inbound(request, &ClusterKey::from_bytes(&[7; 32]))?;
        Ok((message, warnings.into_iter().map(|warning| warning.field).collect()))
    }

    #[test]
    fn one_identifier_that_can_be_read_is_enough() {
        let (message, warned) = read(stop(vec![phone("nobody"), phone("+4915123456789")])).unwrap();
        assert_eq!((message.identifiers.len(), warned), (1, vec!["identifiers[0]".to_owned()]));
        assert!(matches!(read(stop(vec![phone("nobody")])), Err(ApiError::InvalidArgument(_))));
        let many = (0..=1 + ALSO_MAX).map(|n| phone(&format!("+491512345{n:04}"))).collect();
        let (message, warned) = read(stop(many)).unwrap();
        assert_eq!((message.identifiers.len(), warned), (1 + ALSO_MAX, vec!["identifiers".to_owned()]));
    }

    #[test]
    fn ids_that_are_too_long_are_cut() {
        let long = |more| "ü".repeat(MESSAGE_ID_LEN_MAX / 2) + more;
        let of = |more| v1::HandleInboundMessageRequest {
            message_id: long(more),
            quoted_message_id: long(more),
            ..stop(vec![phone("+4915123456789")])
        };
        assert!(read(of("")).unwrap().1.is_empty());
        let (message, warned) = read(of("x")).unwrap();
        assert_eq!((message.message_id, message.quoted), (long(""), long("")));
        assert_eq!(warned, ["message_id", "quoted_message_id"]);
    }
}
