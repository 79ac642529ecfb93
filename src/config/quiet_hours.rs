//! Reads quiet hours: per category, a list of `{ days, from, to, channels }`.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::{Report, quote};
use super::read::{At, Section, listed};
use crate::policy::quiet_hours::{DAY_MIN, QuietHours, QuietRule};
use crate::policy::types::{Category, Channel};

/// The most rules of one category.
pub const QUIET_RULES_MAX: usize = 64;

/// Days as configuration writes them, Monday first.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Reads the section over what `hours` holds; a category's list replaces the one underneath.
pub(super) fn read(at: &At<'_>, hours: &mut BTreeMap<Category, QuietHours>, report: &mut Report) {
    for (category, at) in at.by_word(report, Category::ALL) {
        if category == Category::Authentication {
            at.fault(
                report,
                "one-time passcodes are exempt from quiet hours, since the person waits for them",
                "remove AUTHENTICATION",
            );
            continue;
        }
        let Some(rules) = at.or_null(report, rules) else { continue };
        match rules.unwrap_or_default() {
            rules if rules.is_empty() => {
                hours.remove(&category);
            }
            rules => {
                hours.insert(category, QuietHours::new(rules));
            }
        }
    }
}

fn rules(at: &At<'_>, report: &mut Report) -> Option<Vec<QuietRule>> {
    let items = at.list(report)?;
    if items.len() > QUIET_RULES_MAX {
        at.fault(
            report,
            format!("{} rules are too many", items.len()),
            format!("keep at most {QUIET_RULES_MAX}"),
        );
        return None;
    }
    let rules: Vec<QuietRule> = items.iter().filter_map(|item| rule(item, report)).collect();
    (rules.len() == items.len()).then_some(rules)
}

fn rule(at: &At<'_>, report: &mut Report) -> Option<QuietRule> {
    let mut section = Section::open(at.clone(), report)?;
    let mut on = Some([true; 7]);
    if let Some(at) = section.get("days") {
        on = days(&at, report);
    }
    let from = section.required("from", report).and_then(|at| minute(&at, report, false));
    let to = section.required("to", report).and_then(|at| minute(&at, report, true));
    let mut channels = Some(BTreeSet::new());
    if let Some(at) = section.get("channels") {
        channels = at.set(report, |item, report| item.word(report, Channel::ALL));
        if channels.as_ref().is_some_and(BTreeSet::is_empty) {
            at.fault(
                report,
                "no channel is listed",
                "list channels, or leave `channels` out for all of them",
            );
        }
    }
    section.close(report);
    match QuietRule::new(on?, from?, to?, channels?) {
        Ok(rule) => Some(rule),
        Err(fault) => {
            at.fault(report, fault.to_string(), "correct the times, or remove the rule");
            None
        }
    }
}

/// Days such as `mon-fri`, `sat,sun` or a list of these.
fn days(at: &At<'_>, report: &mut Report) -> Option<[bool; 7]> {
    let items = match &at.node.value {
        super::node::Value::List(_) => at.list(report)?,
        _ => vec![at.clone()],
    };
    let mut on = [false; 7];
    for item in &items {
        for part in item.text(report)?.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Some(first), Some(last)) = (day(first), day(last)) else {
                item.fault(
                    report,
                    format!("{} names no days", quote(part.trim())),
                    format!("write days like mon-sun, mon-fri or sat,sun; known are {}", listed(DAYS)),
                );
                return None;
            };
            // A range may run over the weekend, as in fri-mon.
            let length = (last + 7 - first) % 7;
            for step in 0..=length {
                on[(first + step) % 7] = true;
            }
        }
    }
    if !on.contains(&true) {
        at.fault(report, "no day is listed", "list days, or leave `days` out for every day");
        return None;
    }
    Some(on)
}

fn day(word: &str) -> Option<usize> {
    DAYS.iter().position(|known| word.trim().eq_ignore_ascii_case(known))
}

/// Minutes since midnight of `HH:MM`; 24:00 only as an end.
fn minute(at: &At<'_>, report: &mut Report, is_end: bool) -> Option<u16> {
    let text = at.text(report)?;
    let minutes = text.split_once(':').and_then(|(hours, minutes)| {
        let digits = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits(hours, 2) || !digits(minutes, 2) {
            return None;
        }
        let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok()?);
        let total = hours * 60 + minutes;
        (minutes < 60 && (total < DAY_MIN || is_end && total == DAY_MIN)).then_some(total)
    });
    if minutes.is_none() {
        at.fault(
            report,
            format!("{} is not a time of day", quote(text)),
            "write it like \"21:00\", in quotes",
        );
    }
    minutes
}
