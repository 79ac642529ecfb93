//! Opt-outs as they come over the wire, with what callers get wrong in them.

use optgate::grpc::convert::record::record_request;
use optgate::pb::v1;

use super::phrase::Phrase;
use super::world::{World, fault_words};

/// A number that no enum of this version has.
const UNKNOWN: i32 = 777;

/// Sends an opt-out with the fault that the phrase names.
pub fn opt_out(world: &mut World<'_>, p: &mut Phrase) -> String {
    let mut out = v1::OptOut {
        channels: vec![v1::Channel::Whatsapp.into()],
        topics: vec!["offers".into()],
        categories: Vec::new(),
        method: v1::OptOutMethod::WebForm.into(),
        text: String::new(),
    };
    let mut request_id = world.next_id(None);
    let mut recipient = v1::recipient::Address::Phone(world.person.as_str().to_owned());
    let mut min_durability = 0;
    if p.has("of an unknown channel") {
        out.channels.push(UNKNOWN);
    } else if p.has("of an unknown category") {
        out.topics.clear();
        out.categories.push(UNKNOWN);
    } else if p.has("of an unreadable topic") {
        out.topics = vec!["\u{7}".into()];
    } else if p.has("of a topic nobody configured") {
        out.topics = vec!["gossip".into()];
    } else if p.has("by an unknown method") {
        out.method = UNKNOWN;
    } else if p.has("with 1 MiB of text") {
        out.text = "no more ".repeat(131_072);
    } else if p.has("without a request id") {
        request_id.clear();
    } else if p.has("with a request id that is too long") {
        request_id = "x".repeat(100_000);
    } else if p.has("of unknown durability") {
        min_durability = UNKNOWN;
    } else if p.has("to an unreadable number") {
        recipient = v1::recipient::Address::Phone("not a number".into());
    }
    if let Some(id) = p.after("id") {
        request_id = world.next_id(Some(id));
    }
    let request = v1::RecordConsentRequest {
        request_id,
        business_id: world.business.as_str().to_owned(),
        recipient: Some(v1::Recipient { address: Some(recipient) }),
        also: Vec::new(),
        changes: vec![v1::ConsentChange {
            change: Some(v1::consent_change::Change::OptOut(out)),
            occurred_time: None,
        }],
        actor: None,
        min_durability,
    };
    let engine = world.engine();
    let (request, refused) = match record_request(request, engine.key(), std::time::Instant::now()) {
        Ok(read) => read,
        Err(_) => return "REFUSED".into(),
    };
    assert!(refused.is_none(), "an opt-out is widened, not refused");
    match world.stage.runtime.block_on(engine.record_consent(request)) {
        Ok(answer) => {
            world.outs.push(answer.event);
            world.known_events(Some(answer.event));
            let mut fields: Vec<&str> = answer
                .warnings
                .iter()
                .map(|warning| warning.field.trim_start_matches("changes[0].opt_out."))
                .collect();
            fields.dedup();
            let warned =
                if fields.is_empty() { String::new() } else { format!(", warned {}", fields.join(" ")) };
            format!("{}{warned}", if answer.repeated { "REPEATED" } else { "RECORDED" })
        }
        Err(error) => fault_words(&error),
    }
}
