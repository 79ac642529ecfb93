//! The table of quiet hours: rows that need both the policy and what numbers tell of their zones.

use jiff::tz::TimeZone;

use super::{Address, resolve_zone, zones};
use crate::policy::quiet_hours::{Quiet, QuietHours, QuietRule};
use crate::policy::time::Timestamp;
use crate::policy::types::Channel;

const TABLE: &str = include_str!("../../tests/decisions/quiet_hours.txt");
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

fn day(word: &str) -> usize {
    DAYS.iter().position(|known| *known == word).unwrap_or_else(|| panic!("no day: {word}"))
}

fn days(text: &str) -> [bool; 7] {
    let mut on = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first = day(first);
        for step in 0..=(day(last) + 7 - first) % 7 {
            on[(first + step) % 7] = true;
        }
    }
    on
}

fn minute(text: &str) -> u16 {
    let (hours, minutes) = text.split_once(':').unwrap();
    hours.parse::<u16>().unwrap() * 60 + minutes.parse::<u16>().unwrap()
}

fn rules(text: &str) -> QuietHours {
    let rule = |text: &str| {
        let (on, window) = text.trim().split_once(' ').unwrap();
        let (from, to) = window.split_once('-').unwrap();
        QuietRule::new(days(on), minute(from), minute(to), Default::default()).unwrap()
    };
    QuietHours::new(text.split(';').filter(|text| !text.trim().is_empty()).map(rule).collect())
}

fn possible_zones(text: &str) -> Vec<TimeZone> {
    if text.starts_with('+') {
        return zones(&Address::parse_phone(text).unwrap()).resolved().to_vec();
    }
    text.split(' ').map(|name| resolve_zone(name).unwrap()).collect()
}

fn moment(text: &str) -> Timestamp {
    Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
}

#[test]
fn quiet_hours_by_the_table() {
    let mut rows = 0;
    let mut wrong = Vec::new();
    for (number, line) in TABLE.lines().enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [rules_text, zones_text, now, expected] = fields[..] else {
            panic!("line {}: not four fields", number + 1);
        };
        let (hours, possible) = (rules(rules_text), possible_zones(zones_text));
        let found = match hours.at(Channel::Sms, &possible, moment(now)) {
            Quiet::Allowed { .. } => "ALLOW".to_owned(),
            Quiet::Quiet { .. } if possible.is_empty() => "UNKNOWN".to_owned(),
            Quiet::Quiet { retry_at: Some(at) } => format!("QUIET until {at}"),
            Quiet::Quiet { retry_at: None } => "QUIET never".to_owned(),
        };
        if found != expected {
            wrong.push(format!("line {}: {line}\n    found {found}", number + 1));
        }
        rows += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows >= 60, "{rows}");
}
