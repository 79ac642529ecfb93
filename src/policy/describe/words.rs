//! The field's words as people say them.

use super::super::quiet_hours::{DAY_MIN, QuietHours};
use super::super::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS};
use super::super::types::{Category, Channel, OptInMethod};

pub(super) const fn category(of: Category) -> &'static str {
    match of {
        Category::Marketing => "marketing",
        Category::Utility => "utility",
        Category::Authentication => "authentication (one-time passcode)",
        Category::Service => "service (reply)",
    }
}

/// The channel as an adverb: "by email".
pub(super) const fn by(channel: Channel) -> &'static str {
    match channel {
        Channel::Whatsapp => "on WhatsApp",
        Channel::Sms => "by text message",
        Channel::Email => "by email",
        Channel::Voice => "by telephone call",
    }
}

pub(super) const fn method(way: OptInMethod) -> &'static str {
    match way {
        OptInMethod::AgentConversation => "a conversation with a person of the business",
        OptInMethod::CustomerRequest => "the customer's own request",
        OptInMethod::WhatsappMenu => "a WhatsApp menu",
        OptInMethod::WhatsappButton => "a WhatsApp button",
        OptInMethod::SmsKeyword => "a keyword sent as a message",
        OptInMethod::SmsLink => "a link in a text message",
        OptInMethod::EmailLink => "a link in an email",
        OptInMethod::IvrKeyPress => "a key pressed in a telephone menu",
        OptInMethod::SocialMedia => "social media",
        OptInMethod::CheckoutFlow => "a box in a checkout",
        OptInMethod::PreferenceForm => "a form of contact preferences",
        OptInMethod::InPerson => "word or paper, face to face",
        OptInMethod::Other => "any way that has no name of its own",
    }
}

/// The most items that a sentence lists.
pub(super) const LISTED_MAX: usize = 50;

/// "a", "a or b", "a, b or c"; of very many the first and how many more there are.
pub(super) fn joined(items: impl IntoIterator<Item = String>, word: &str) -> String {
    let mut items: Vec<String> = items.into_iter().collect();
    if items.len() > LISTED_MAX {
        let more = items.len() - LISTED_MAX;
        items.truncate(LISTED_MAX);
        items.push(format!("{more} more"));
    }
    match (items.pop(), items.is_empty()) {
        (None, _) => String::new(),
        (Some(last), true) => last,
        (Some(last), false) => format!("{} {word} {last}", items.join(", ")),
    }
}

/// In curly quotes, on one line.
pub(super) fn quoted(text: &str) -> String {
    format!("“{}”", text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// 1,000,000
pub(super) fn figure(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

pub(super) fn counted(number: u32, one: &str, many: &str) -> String {
    format!("{} {}", figure(u64::from(number)), if number == 1 { one } else { many })
}

/// "2 marketing messages"
pub(super) fn messages(number: u32, kind: &str) -> String {
    let space = if kind.is_empty() { "" } else { " " };
    counted(number, &format!("{kind}{space}message"), &format!("{kind}{space}messages"))
}

/// A length of time in its largest whole unit; a day stays 24 hours, as rules are written.
pub(super) fn span(ms: i64) -> String {
    let units = [(DAY_MS, "day"), (HOUR_MS, "hour"), (MINUTE_MS, "minute"), (SECOND_MS, "second")];
    let fits = |unit_ms: i64| ms % unit_ms == 0 && ms != 0 && !(unit_ms == DAY_MS && ms == DAY_MS);
    let (unit_ms, unit) = units.into_iter().find(|(unit_ms, _)| fits(*unit_ms)).unwrap_or((1, "millisecond"));
    let count = u64::try_from(ms / unit_ms).unwrap_or(0);
    format!("{} {unit}{}", figure(count), if count == 1 { "" } else { "s" })
}

/// Each window of quiet hours, to follow "messages are not sent".
pub(super) fn quiet_rules(hours: &QuietHours) -> impl Iterator<Item = String> {
    hours.rules().iter().map(|rule| {
        let days: Vec<String> = DAYS
            .iter()
            .zip(rule.days())
            .filter(|(_, is_on)| *is_on)
            .map(|(day, _)| (*day).to_owned())
            .collect();
        let days = if days.len() == DAYS.len() { "any day".to_owned() } else { joined(days, "and") };
        let channels = joined(rule.channels().iter().map(|channel| by(*channel).to_owned()), "or");
        let channels = if channels.is_empty() { "on any channel".to_owned() } else { channels };
        format!("{}, on {days}, {channels}", window(rule.from_min(), rule.to_min()))
    })
}

const DAYS: [&str; 7] = ["Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays"];

fn window(from_min: u16, to_min: u16) -> String {
    // A window that ends at midnight ends with its own day, which 24:00 says better than 00:00.
    let to_min = if to_min == 0 { DAY_MIN } else { to_min };
    let next = match to_min {
        _ if to_min > from_min => "",
        _ if to_min < DAY_MIN / 2 => " the next morning",
        _ => " the next day",
    };
    if (from_min, to_min) == (0, DAY_MIN) {
        return "at any hour".to_owned();
    }
    format!("from {} to {}{next}", time_of_day(from_min), time_of_day(to_min))
}

fn time_of_day(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}
