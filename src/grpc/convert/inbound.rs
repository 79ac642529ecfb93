//! `HandleInboundMessage`.

use prost::Message as _;

use crate::engine::inbound::{Confirmation, Inbound, InboundAnswer, InboundContent, InboundOutcome};
use crate::grpc::status::ApiError;
use crate::key::ClusterKey;
use crate::pb::v1;
use crate::policy::report::ALSO_MAX;
use crate::policy::types::Channel;

use super::record::pb_durability;
use super::{Faults, pb_event_id, pb_timestamp, words};

/// The longest provider message id, in bytes.
const MESSAGE_ID_LEN_MAX: usize = 512;

/// Reads a message.
///
/// # Errors
/// Every field at fault. What the person wrote never is one.
pub fn inbound(request: v1::HandleInboundMessageRequest, key: &ClusterKey) -> Result<Inbound, ApiError> {
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
    if identifiers.len() > 1 + ALSO_MAX {
        faults.add("identifiers", format!("may name {} identifiers", 1 + ALSO_MAX));
    }
    let mut read = Vec::new();
    for (at, identifier) in identifiers.iter().enumerate().take(1 + ALSO_MAX) {
        read.extend(faults.address(&format!("identifiers[{at}]"), Some(identifier)));
    }
    for (name, text) in [("message_id", &message_id), ("quoted_message_id", &quoted_message_id)] {
        if text.len() > MESSAGE_ID_LEN_MAX {
            faults.add(name, format!("must have at most {MESSAGE_ID_LEN_MAX} bytes"));
        }
    }
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
    faults.or(Inbound {
        business,
        sender,
        channel,
        identifiers: read,
        message_id,
        content,
        quoted: quoted_message_id,
        occurred,
        language,
        hash,
    })
}

/// Writes an answer.
#[must_use]
pub fn inbound_response(answer: InboundAnswer, channel: Channel) -> v1::HandleInboundMessageResponse {
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
        warnings: Vec::new(),
    }
}
