//! Any message of the API as one line of JSON, by its descriptor: field names as on the wire, moments in RFC 3339,
//! spans in seconds (`"1.5s"`), enums as words without their prefix, 64-bit numbers as numbers. What is unset or at its
//! zero value is left out.
//!
//! By the descriptor, so that a new field of the API shows up in every command's output by itself.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::text;
use crate::pb::{self, v1};

/// A message of the API that commands print.
pub trait Printable: Message {
    /// Its full name.
    const NAME: &'static str;
}

macro_rules! printable {
    ($($name:ident),+ $(,)?) => {
        $(impl Printable for v1::$name {
            const NAME: &'static str = concat!("optgate.v1.", stringify!($name));
        })+

        #[cfg(test)]
        const NAMES: &[&str] = &[$(<v1::$name as Printable>::NAME),+];
    };
}

printable!(
    CheckSendResponse,
    ConsentEvent,
    EraseEvidenceResponse,
    FieldViolation,
    GetConsentResponse,
    GetStatusResponse,
    ImportRowError,
    ImportSummary,
    OptOutRef,
    PutSenderStateResponse,
    PutTemplateResponse,
    RecipientRefs,
    RecordConsentResponse,
    SenderState,
    Template,
);

/// How a field's bytes are to be read.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Bool,
    Signed,
    Unsigned,
    Text,
    Enum(String),
    Message(String),
    Timestamp,
    Duration,
}

#[derive(Debug)]
struct Field {
    name: String,
    number: u64,
    kind: Kind,
    repeated: bool,
}

#[derive(Debug, Default)]
struct Schema {
    messages: HashMap<String, Vec<Field>>,
    enums: HashMap<String, HashMap<u64, String>>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    // The build wrote the set; a test reads it. Without it output would be empty objects, never wrong ones.
    let set = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).unwrap_or_default();
    let mut schema = Schema::default();
    for file in &set.file {
        for message in &file.message_type {
            schema.add(file.package(), message);
        }
        for values in &file.enum_type {
            schema.add_enum(file.package(), values);
        }
    }
    schema
});

impl Schema {
    fn add(&mut self, package: &str, message: &DescriptorProto) {
        let name = format!("{package}.{}", message.name());
        for inner in &message.nested_type {
            self.add(&name, inner);
        }
        let fields = message.field.iter().filter_map(|field| {
            let kind = kind(field)?;
            let number = u64::try_from(field.number()).ok()?;
            let repeated = field.label() == Label::Repeated;
            Some(Field { name: field.name().to_owned(), number, kind, repeated })
        });
        let fields = fields.collect();
        self.messages.insert(name, fields);
    }

    fn add_enum(&mut self, package: &str, values: &EnumDescriptorProto) {
        // The style of the protos: every value begins with the enum's own name.
        let mut prefix = String::new();
        for (at, letter) in values.name().char_indices() {
            if letter.is_uppercase() && at > 0 {
                prefix.push('_');
            }
            prefix.extend(letter.to_uppercase());
        }
        prefix.push('_');
        let words = values.value.iter().filter_map(|value| {
            let word = value.name().strip_prefix(&prefix).unwrap_or_else(|| value.name());
            Some((u64::try_from(value.number()).ok()?, word.to_owned()))
        });
        self.enums.insert(format!("{package}.{}", values.name()), words.collect());
    }
}

fn kind(field: &FieldDescriptorProto) -> Option<Kind> {
    let type_name = field.type_name().trim_start_matches('.');
    Some(match field.r#type() {
        Type::Bool => Kind::Bool,
        Type::Int32 | Type::Int64 => Kind::Signed,
        Type::Uint32 | Type::Uint64 => Kind::Unsigned,
        Type::String => Kind::Text,
        Type::Enum => Kind::Enum(type_name.to_owned()),
        Type::Message if type_name == "google.protobuf.Timestamp" => Kind::Timestamp,
        Type::Message if type_name == "google.protobuf.Duration" => Kind::Duration,
        Type::Message => Kind::Message(type_name.to_owned()),
        // The API uses none of the others, which a test holds.
        _ => return None,
    })
}

/// One field's value as it stands in the bytes.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Writes a message.
#[must_use]
pub fn of<M: Printable>(message: &M) -> String {
    with(&[], message)
}

/// Writes a message, with further texts before its own fields.
#[must_use]
pub fn with<M: Printable>(first: &[(&str, &str)], message: &M) -> String {
    let mut out = String::from("{");
    for (name, value) in first {
        member(&mut out, name);
        quote(&mut out, value);
    }
    members(&mut out, M::NAME, &message.encode_to_vec());
    out.push('}');
    out
}

/// Writes messages as an array.
#[must_use]
pub fn list<'a, M: Printable + 'a>(messages: impl IntoIterator<Item = &'a M>) -> String {
    let mut out = String::from("[");
    for message in messages {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&of(message));
    }
    out.push(']');
    out
}

/// Writes a text with its quotes.
pub fn quote(out: &mut String, value: &str) {
    // A text always has a JSON form.
    out.push_str(&serde_json::to_string(value).unwrap_or_else(|_| "\"\"".into()));
}

fn member(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    quote(out, name);
    out.push(':');
}

fn members(out: &mut String, message: &str, bytes: &[u8]) {
    let Some(fields) = SCHEMA.messages.get(message) else { return };
    let found = split(bytes);
    for field in fields {
        let mut values = found.iter().filter(|(number, _)| *number == field.number).map(|(_, raw)| *raw);
        if field.repeated {
            let values: Vec<Raw<'_>> = values.flat_map(|raw| unpack(&field.kind, raw)).collect();
            if values.is_empty() {
                continue;
            }
            member(out, &field.name);
            out.push('[');
            for (at, raw) in values.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                value(out, &field.kind, raw);
            }
            out.push(']');
        } else if let Some(raw) = values.next_back() {
            member(out, &field.name);
            value(out, &field.kind, raw);
        }
    }
}

/// Numbers may stand one by one or packed together.
fn unpack<'a>(kind: &Kind, raw: Raw<'a>) -> Vec<Raw<'a>> {
    match (kind, raw) {
        (Kind::Bool | Kind::Signed | Kind::Unsigned | Kind::Enum(_), Raw::Bytes(mut bytes)) => {
            let mut values = Vec::new();
            while let Some(number) = varint(&mut bytes) {
                values.push(Raw::Number(number));
            }
            values
        }
        (_, raw) => vec![raw],
    }
}

fn value(out: &mut String, kind: &Kind, raw: Raw<'_>) {
    let written = match (kind, raw) {
        (Kind::Bool, Raw::Number(number)) => write!(out, "{}", number != 0),
        (Kind::Signed, Raw::Number(number)) => write!(out, "{}", number.cast_signed()),
        (Kind::Unsigned, Raw::Number(number)) => write!(out, "{number}"),
        (Kind::Enum(name), Raw::Number(number)) => {
            match SCHEMA.enums.get(name).and_then(|words| words.get(&number)) {
                Some(word) => quote(out, word),
                None => out.push_str(&number.to_string()),
            }
            Ok(())
        }
        (Kind::Text, Raw::Bytes(bytes)) => {
            quote(out, &String::from_utf8_lossy(bytes));
            Ok(())
        }
        (Kind::Message(name), Raw::Bytes(bytes)) => {
            out.push('{');
            members(out, name, bytes);
            out.push('}');
            Ok(())
        }
        (Kind::Timestamp, Raw::Bytes(bytes)) => {
            quote(out, &text::time(&prost_types::Timestamp::decode(bytes).unwrap_or_default()));
            Ok(())
        }
        (Kind::Duration, Raw::Bytes(bytes)) => {
            quote(out, &text::seconds(&prost_types::Duration::decode(bytes).unwrap_or_default()));
            Ok(())
        }
        _ => {
            out.push_str("null");
            Ok(())
        }
    };
    // Writing into a text cannot fail.
    let _: std::fmt::Result = written;
}

/// The fields of an encoded message, in their order; what cannot be read ends it.
fn split(mut bytes: &[u8]) -> Vec<(u64, Raw<'_>)> {
    let mut found = Vec::new();
    while let Some(key) = varint(&mut bytes) {
        let raw = match key & 7 {
            0 => varint(&mut bytes).map(Raw::Number),
            1 => take(&mut bytes, 8).map(Raw::Bytes),
            2 => varint(&mut bytes)
                .and_then(|len| usize::try_from(len).ok())
                .and_then(|len| take(&mut bytes, len))
                .map(Raw::Bytes),
            5 => take(&mut bytes, 4).map(Raw::Bytes),
            _ => None,
        };
        let Some(raw) = raw else { break };
        found.push((key >> 3, raw));
    }
    found
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_message_is_described_and_every_field_of_the_api_can_be_written() {
        for name in NAMES {
            assert!(SCHEMA.messages.contains_key(*name), "{name}");
        }
        let set = FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).expect("the build writes it");
        let api = set.file.iter().filter(|file| file.package() == "optgate.v1");
        for message in api.flat_map(|file| &file.message_type) {
            assert!(message.nested_type.is_empty() && message.enum_type.is_empty(), "{}", message.name());
            for field in &message.field {
                assert!(kind(field).is_some(), "{}.{}", message.name(), field.name());
            }
        }
    }

    #[test]
    fn an_event_reads_as_documented() {
        let event = v1::ConsentEvent {
            event: Some(v1::EventId { origin: "ab".repeat(16), sequence: 9_007_199_254_740_993 }),
            business_id: "acme \"shop\"".into(),
            kind: Some(v1::consent_event::Kind::OptIn(v1::OptIn {
                channels: vec![1, 2, 99],
                topics: vec!["delivery_updates".into()],
                consent_type: v1::ConsentType::SoftOptIn.into(),
                ..Default::default()
            })),
            occurred_time: Some(prost_types::Timestamp { seconds: 1_795_341_600, nanos: 250_000_000 }),
            erased: true,
            ..Default::default()
        };
        let line = of(&event);
        assert_eq!(
            line,
            format!(
                "{{\"event\":{{\"origin\":\"{}\",\"sequence\":9007199254740993}},\
                 \"business_id\":\"acme \\\"shop\\\"\",\
                 \"opt_in\":{{\"channels\":[\"WHATSAPP\",\"SMS\",99],\"topics\":[\"delivery_updates\"],\
                 \"consent_type\":\"SOFT_OPT_IN\"}},\
                 \"occurred_time\":\"2026-11-22T10:00:00.25Z\",\"erased\":true}}",
                "ab".repeat(16)
            )
        );
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
    }

    #[test]
    fn spans_words_and_added_texts_are_written() {
        let answer = v1::CheckSendResponse {
            decision: v1::Decision::Deny.into(),
            reason: v1::Reason::QuietHours.into(),
            retry_after: Some(prost_types::Duration { seconds: 90, nanos: 500_000_000 }),
            ..Default::default()
        };
        assert_eq!(
            with(&[("request_id", "r1")], &answer),
            r#"{"request_id":"r1","decision":"DENY","reason":"QUIET_HOURS","retry_after":"90.5s"}"#
        );
        assert_eq!(list(&[answer.clone(), answer]).matches("DENY").count(), 2);
        assert_eq!(list::<v1::Template>(&[]), "[]");
    }

    #[test]
    fn bytes_that_end_early_are_no_panic() {
        let event = v1::ConsentEvent {
            event: Some(v1::EventId { origin: "cd".repeat(16), sequence: 300 }),
            business_id: "acme".into(),
            ..Default::default()
        };
        let bytes = event.encode_to_vec();
        for end in 0..bytes.len() {
            let mut out = String::new();
            members(&mut out, v1::ConsentEvent::NAME, &bytes[..end]);
        }
    }
}
