//! A decision as one line of JSON. Field names are those of `CheckSendResponse`.
//!
//! It is written by hand, since a line is written for every check: nothing is allocated, and what is known to need no
//! escaping is copied.

use std::cell::RefCell;

use crate::engine::decision::Decided;
use crate::policy::check::Violation;
use crate::policy::ids::EventId;
use crate::policy::time::Timestamp;

/// Appends the line of `decided`, with its end.
pub(super) fn write_line(decided: &Decided<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    put_time(out, decided.time);
    out.extend_from_slice(b"\",\"business_id\":");
    put_text(out, decided.business);
    out.extend_from_slice(b",\"sender_id\":");
    put_text(out, decided.sender);
    out.extend_from_slice(b",\"recipient_ref\":");
    match decided.recipient {
        Some(recipient) => {
            out.push(b'"');
            put_hex(out, &recipient.0);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
    put_word(out, "channel", decided.channel.map(|channel| channel.word()));
    put_word(out, "category", decided.category.map(|category| category.word()));
    put_word(out, "decision", Some(if decided.violations.is_empty() { "ALLOW" } else { "DENY" }));
    put_reasons(out, "reasons", decided.violations);
    put_reasons(out, "shadowed", decided.shadowed);
    out.extend_from_slice(b",\"basis\":[");
    for (at, event) in decided.basis.iter().enumerate() {
        out.extend_from_slice(if at == 0 { b"\"" } else { b",\"" });
        put_event(out, event);
        out.push(b'"');
    }
    out.push(b']');
    put_word(out, "mode", Some(if decided.peek { "PEEK" } else { "ENFORCE" }));
    out.extend_from_slice(if decided.degraded { b",\"degraded\":true" } else { b",\"degraded\":false" });
    out.extend_from_slice(b",\"rules_version\":");
    put_text(out, decided.rules_version);
    out.extend_from_slice(b",\"decision_id_end\":");
    put_text(out, decided.decision);
    out.extend_from_slice(b"}\n");
}

/// `,"name":"word"`; words are optgate's own and need no escaping.
fn put_word(out: &mut Vec<u8>, name: &str, word: Option<&str>) {
    for part in [",\"", name, "\":"] {
        out.extend_from_slice(part.as_bytes());
    }
    match word {
        Some(word) => {
            for part in ["\"", word, "\""] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        None => out.extend_from_slice(b"null"),
    }
}

fn put_reasons(out: &mut Vec<u8>, name: &str, violations: &[Violation]) {
    for part in [",\"", name, "\":["] {
        out.extend_from_slice(part.as_bytes());
    }
    for (at, violation) in violations.iter().enumerate() {
        for part in [if at == 0 { "\"" } else { ",\"" }, violation.reason.word(), "\""] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    out.push(b']');
}

/// A text of a caller.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else if serde_json::to_writer(&mut *out, text).is_err() {
        // Writing a text into memory does not fail.
        out.extend_from_slice(b"null");
    }
}

fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let from = out.len();
    out.resize(from + 2 * bytes.len(), 0);
    for (pair, byte) in out[from..].chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn put_event(out: &mut Vec<u8>, event: &EventId) {
    put_hex(out, &event.origin.0);
    out.push(b'-');
    put_number(out, event.sequence);
}

thread_local! {
    /// The last second that this thread wrote, and its text: a second has thousands of lines.
    static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
}

/// RFC 3339 in UTC with milliseconds, so that lines sort as text.
fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    let (second, ms) = (time.0.div_euclid(1_000), time.0.rem_euclid(1_000));
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != second {
            *known = second;
            *text = Timestamp(second * 1_000).to_string();
            text.truncate(text.len().saturating_sub(1));
        }
        out.extend_from_slice(text.as_bytes());
    });
    out.push(b'.');
    for part in [ms / 100, ms / 10 % 10, ms % 10] {
        out.push(b'0' + part as u8);
    }
    out.push(b'Z');
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::ids::{Identifier, OriginId};
    use crate::policy::types::{Category, Channel, Reason};

    fn line(decided: &Decided<'_>) -> Value {
        let mut text = Vec::new();
        write_line(decided, &mut text);
        assert_eq!(text.last(), Some(&b'\n'));
        serde_json::from_slice(&text).expect("JSON")
    }

    fn violation(reason: Reason) -> Violation {
        Violation { reason, detail: None, retry_at: None }
    }

    pub fn allowed<'a>() -> Decided<'a> {
        Decided {
            time: Timestamp(0),
            business: "acme",
            sender: "1",
            recipient: None,
            channel: None,
            category: None,
            violations: &[],
            shadowed: &[],
            basis: &[],
            peek: false,
            degraded: false,
            rules_version: "v",
            decision: "end",
        }
    }

    #[test]
    fn a_line_has_every_field() {
        let events = [
            EventId { origin: OriginId([0xab; 16]), sequence: 10 },
            EventId { origin: OriginId([1; 16]), sequence: 1 },
        ];
        let (denied, shadowed) =
            ([violation(Reason::OptedOut), violation(Reason::PairRate)], [violation(Reason::QuietHours)]);
        let decided = Decided {
            time: Timestamp(1_000_000_000_007),
            recipient: Some(Identifier([0x0f; 32])),
            channel: Some(Channel::Whatsapp),
            category: Some(Category::Utility),
            violations: &denied,
            shadowed: &shadowed,
            basis: &events,
            peek: true,
            degraded: true,
            ..allowed()
        };
        assert_eq!(
            line(&decided),
            json!({
                "time": "2001-09-09T01:46:40.007Z", "business_id": "acme", "sender_id": "1",
                "recipient_ref": "0f".repeat(32), "channel": "WHATSAPP", "category": "UTILITY", "decision": "DENY",
                "reasons": ["OPTED_OUT", "PAIR_RATE"], "shadowed": ["QUIET_HOURS"],
                "basis": [events[0].to_string(), events[1].to_string()],
                "mode": "PEEK", "degraded": true, "rules_version": "v", "decision_id_end": "end"
            })
        );
        let line = line(&allowed());
        assert_eq!((&line["decision"], &line["recipient_ref"]), (&json!("ALLOW"), &Value::Null));
        assert_eq!(
            (&line["reasons"], &line["basis"], &line["mode"]),
            (&json!([]), &json!([]), &json!("ENFORCE"))
        );
    }

    proptest! {
        #[test]
        fn texts_of_callers_read_back(business in any::<String>(), sender in "[ -~]{0,20}", number in any::<u64>()) {
            let decided = Decided { business: &business, sender: &sender, ..allowed() };
            let line = line(&decided);
            prop_assert_eq!(line["business_id"].as_str(), Some(business.as_str()));
            prop_assert_eq!(line["sender_id"].as_str(), Some(sender.as_str()));
            let mut text = Vec::new();
            put_number(&mut text, number);
            prop_assert_eq!(String::from_utf8(text), Ok(number.to_string()));
        }

        #[test]
        fn times_are_as_everywhere_else(ms in 0_i64..253_402_300_799_999) {
            let mut text = Vec::new();
            put_time(&mut text, Timestamp(ms));
            let read: jiff::Timestamp = String::from_utf8(text).unwrap().parse().unwrap();
            prop_assert_eq!(read.as_millisecond(), ms);
        }
    }
}
