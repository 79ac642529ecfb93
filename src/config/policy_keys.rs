//! The policy keys, as they stand under `defaults` and, key by key over those, under a business.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::fault::{Report, quote};
use super::quiet_hours;
use super::read::{At, Section, Word, listed};
use crate::address::Region;
use crate::policy::rules::{
    CapClass, ChannelLimits, Cooldowns, Every, FREQUENCY_CAP_MAX, FrequencyCap, InstructionPeriod,
    PerHourByQuality, PerSecond, Rules, Shadow, StopScope, UnregisteredTemplates,
};
use crate::policy::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Timestamp};
use crate::policy::types::{Category, Channel, ConsentType, EvidenceGrade, OptInMethod, Reason};

/// The longest that an opt-in may last before it runs out.
pub const OPT_IN_MS_MAX: i64 = 36_600 * DAY_MS;
/// The longest that a request may wait for its confirmation.
pub const PENDING_MS_MAX: i64 = 366 * DAY_MS;
/// The most by which clocks may differ. A larger margin would let no opt-in beat a STOP of the same day.
pub const CLOCK_MARGIN_MS_MAX: i64 = HOUR_MS;
/// The longest period between opt-out instructions.
pub const INSTRUCTIONS_MS_MAX: i64 = 366 * DAY_MS;
/// The longest after a STOP that its confirmation may come.
pub const CONFIRMATION_MS_MAX: i64 = DAY_MS;
/// The longest cooldown.
pub const COOLDOWN_MS_MAX: i64 = 90 * DAY_MS;
/// The longest time a frequency cap counts over.
pub const FREQUENCY_MS_MAX: i64 = 366 * DAY_MS;
/// The most frequency caps of one class.
pub const FREQUENCY_CAPS_MAX: usize = 8;
/// The highest rate and the largest burst.
pub const RATE_MAX: u32 = 1_000_000;
/// The most messages an hour.
pub const PER_HOUR_MAX: u32 = 1_000_000_000;
/// The longest time per message to one person.
pub const PAIR_MS_MAX: i64 = DAY_MS;
/// The most distinct recipients that are counted; above, set `null`.
pub const MESSAGING_LIMIT_MAX: u64 = 10_000_000;
/// The most rules in shadow.
pub const SHADOWS_MAX: usize = 64;
/// How soon after a STOP its confirmation is still within what US regulators presume (47 CFR 64.1200(a)(12)).
const CONFIRMATION_USUAL_MS: i64 = 5 * MINUTE_MS;

/// The categories a business sends in of its own accord; SERVICE only replies.
pub(super) const INITIATED: [Category; 3] =
    [Category::Marketing, Category::Utility, Category::Authentication];

/// Reads every policy key of `section` over what `rules` holds.
pub(super) fn read(section: &mut Section<'_>, rules: &mut Rules, report: &mut Report) {
    section.read("evidence", report, &mut rules.evidence, |at, report| {
        let grade =
            at.choice(report, &[("strict", EvidenceGrade::Strict), ("basic", EvidenceGrade::Basic)])?;
        if grade == EvidenceGrade::Basic {
            at.warn(
                report,
                "opt-ins need not show what the person was told",
                "use strict unless the law that applies to you asks for less",
            );
        }
        Some(grade)
    });
    section.read("consent_required", report, &mut rules.consent_required, consent_required);
    if let Some(at) = section.get("consent_types") {
        consent_types(&at, &mut rules.consent_types, report);
    }
    section.read("opt_in_expires_after", report, &mut rules.opt_in_expires_after_ms, |at, report| {
        at.or_null(report, |at, report| at.span(report, HOUR_MS..=OPT_IN_MS_MAX))
    });
    section.read("double_opt_in", report, &mut rules.double_opt_in, |at, report| {
        at.set(report, |item, report| item.word(report, OptInMethod::ALL))
    });
    section.read("pending_expires_after", report, &mut rules.pending_expires_after_ms, |at, report| {
        at.span(report, MINUTE_MS..=PENDING_MS_MAX)
    });
    section.read("clock_margin", report, &mut rules.clock_margin_ms, |at, report| {
        at.span(report, SECOND_MS..=CLOCK_MARGIN_MS_MAX)
    });
    section.read("unregistered_templates", report, &mut rules.unregistered_templates, |at, report| {
        let treated = at.choice(
            report,
            &[("deny", UnregisteredTemplates::Deny), ("as_marketing", UnregisteredTemplates::AsMarketing)],
        )?;
        if treated == UnregisteredTemplates::AsMarketing {
            at.warn(
                report,
                "templates that nobody registered are sent, as marketing",
                "use deny once the templates are registered",
            );
        }
        Some(treated)
    });
    if let Some(at) = section.get("opt_out_instructions") {
        instructions(&at, &mut rules.opt_out_instructions, report);
    }
    section.read("stop_scope", report, &mut rules.stop_scope, |at, report| {
        at.choice(report, &[("CHANNEL", StopScope::Channel), ("ALL_CHANNELS", StopScope::AllChannels)])
    });
    if let Some(mut inner) = section.get("stop_confirmation").and_then(|at| Section::open(at, report)) {
        inner.read("within", report, &mut rules.stop_confirmation_within_ms, |at, report| {
            let within = at.span(report, SECOND_MS..=CONFIRMATION_MS_MAX)?;
            if within > CONFIRMATION_USUAL_MS {
                at.warn(
                    report,
                    "a confirmation later than 5 minutes after the STOP needs its own justification in the US",
                    "keep it at 5m",
                );
            }
            Some(within)
        });
        inner.close(report);
    }
    section.read("fail_open", report, &mut rules.fail_open, fail_open);
    section.read("shadow", report, &mut rules.shadow, shadow);
    if let Some(mut inner) = section.get("cooldowns").and_then(|at| Section::open(at, report)) {
        let Cooldowns { recipient_marketing_ms, sender_ms } = &mut rules.cooldowns;
        let span = |at: &At<'_>, report: &mut Report| at.span(report, SECOND_MS..=COOLDOWN_MS_MAX);
        inner.read("recipient_marketing", report, recipient_marketing_ms, span);
        inner.read("sender", report, sender_ms, span);
        inner.close(report);
    }
    if let Some(at) = section.get("region_blocks") {
        region_blocks(&at, &mut rules.region_blocks, report);
    }
    section.read("default_time_zone", report, &mut rules.default_time_zone, |at, report| {
        at.or_null(report, time_zone)
    });
    if let Some(at) = section.get("quiet_hours") {
        quiet_hours::read(&at, &mut rules.quiet_hours, report);
    }
    if let Some(at) = section.get("limits") {
        limits(at, rules, report);
    }
}

fn consent_required(at: &At<'_>, report: &mut Report) -> Option<BTreeSet<Category>> {
    let set = at.set(report, |item, report| {
        let category = item.word(report, Category::ALL)?;
        if category == Category::Service {
            item.fault(report, "replies in the window need no opt-in", "remove SERVICE");
        }
        Some(category)
    })?;
    if !set.contains(&Category::Marketing) {
        at.fault(report, "marketing always needs an opt-in", "add MARKETING to the list");
        return None;
    }
    for category in INITIATED.iter().filter(|category| !set.contains(category)) {
        at.warn(
            report,
            format!("{category} messages are sent to people who never opted in"),
            format!("add {category} unless your law and Meta's policy let you do without"),
        );
    }
    Some(set)
}

fn consent_types(at: &At<'_>, types: &mut BTreeMap<Channel, BTreeSet<ConsentType>>, report: &mut Report) {
    for (channel, at) in at.by_word(report, Channel::ALL) {
        let Some(mut set) = at.set(report, |item, report| item.word(report, ConsentType::ALL)) else {
            continue;
        };
        // EXPRESS permits everywhere, whether it is written or not.
        set.remove(&ConsentType::Express);
        if set.is_empty() {
            types.remove(&channel);
        } else {
            types.insert(channel, set);
        }
    }
}

fn instructions(at: &At<'_>, periods: &mut BTreeMap<Channel, InstructionPeriod>, report: &mut Report) {
    for (channel, at) in at.by_word(report, Channel::ALL) {
        let Some(mut section) = Section::open(at, report) else { continue };
        if let Some(every) = section.required("every", report) {
            let period = match &every.node.value {
                super::node::Value::Scalar { text, .. } if text == "message" => {
                    Some(InstructionPeriod::EveryMessage)
                }
                _ => every.span(report, HOUR_MS..=INSTRUCTIONS_MS_MAX).map(InstructionPeriod::EveryMs),
            };
            if let Some(period) = period {
                periods.insert(channel, period);
            }
        }
        section.close(report);
    }
}

fn fail_open(at: &At<'_>, report: &mut Report) -> Option<BTreeSet<Category>> {
    at.set(report, |item, report| {
        let category = item.word(report, Category::ALL)?;
        match category {
            Category::Marketing => item.fault(
                report,
                "marketing never passes where an opt-out may have been missed",
                "remove MARKETING",
            ),
            Category::Utility | Category::Service => item.warn(
                report,
                format!("{category} messages may reach people whose opt-out has not arrived here yet"),
                format!("remove {category} unless a late message does more harm than an unwanted one"),
            ),
            Category::Authentication => {}
        }
        Some(category)
    })
}

fn shadow(at: &At<'_>, report: &mut Report) -> Option<Vec<Shadow>> {
    let allowed: Vec<Reason> = Reason::ALL.iter().copied().filter(|rule| Rules::may_shadow(*rule)).collect();
    let rule_of = |at: &At<'_>, report: &mut Report| {
        let rule = at.word(report, Reason::ALL)?;
        if Rules::may_shadow(rule) {
            return Some(rule);
        }
        at.fault(
            report,
            format!("{rule} must always be enforced and cannot be in shadow"),
            format!("only these can: {}", listed(allowed.iter().map(|rule| rule.text()))),
        );
        None
    };
    // `shadow: OPTED_OUT` and `[OPTED_OUT]` must say that the rule cannot be shadowed, not only that
    // something else was expected; a bare word is as good as `{ rule: … }`.
    let items = match &at.node.value {
        super::node::Value::Scalar { .. } if !at.node.is_null() => vec![at.clone()],
        _ => at.list(report)?,
    };
    if items.len() > SHADOWS_MAX {
        at.fault(
            report,
            format!("{} rules are too many", items.len()),
            format!("keep at most {SHADOWS_MAX}"),
        );
        return None;
    }
    let mut shadows: Vec<Shadow> = Vec::new();
    for item in &items {
        let shadow = match &item.node.value {
            super::node::Value::Scalar { .. } => {
                rule_of(item, report).map(|rule| Shadow { rule, until: None })
            }
            _ => Section::open(item.clone(), report).and_then(|mut section| {
                let mut until = None;
                let rule = section.required("rule", report).and_then(|at| rule_of(&at, report));
                section.read("until", report, &mut until, |at, report| at.or_null(report, moment));
                section.close(report);
                rule.map(|rule| Shadow { rule, until })
            }),
        };
        let Some(shadow) = shadow else { continue };
        if shadows.iter().any(|other| other.rule == shadow.rule) {
            item.fault(report, format!("{} is listed twice", shadow.rule), "keep one of the two");
        }
        if shadow.until.is_none() {
            item.warn(
                report,
                format!("{} only reports, for good", shadow.rule),
                "add `until` with the date on which it takes force",
            );
        }
        shadows.push(shadow);
    }
    (shadows.len() == items.len()).then_some(shadows)
}

/// A date, meaning its midnight in UTC, or a moment with its offset.
fn moment(at: &At<'_>, report: &mut Report) -> Option<Timestamp> {
    let text = at.text(report)?;
    let moment = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let date = text.parse::<jiff::civil::Date>().ok().filter(|_| text.len() == "2027-01-31".len())?;
        date.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    });
    if moment.is_none() {
        at.fault(
            report,
            format!("{} is not a date", quote(text)),
            "write it like 2027-01-31, or 2027-01-31T09:00:00+01:00",
        );
    }
    moment.map(|moment| Timestamp(moment.as_millisecond()))
}

fn region_blocks(
    at: &At<'_>,
    blocks: &mut BTreeMap<(Category, Channel), BTreeSet<[u8; 2]>>,
    report: &mut Report,
) {
    for (category, at) in at.by_word(report, &INITIATED) {
        for (channel, at) in at.by_word(report, Channel::ALL) {
            match at.set(report, country) {
                None => {}
                Some(countries) if countries.is_empty() => {
                    blocks.remove(&(category, channel));
                }
                Some(countries) => {
                    blocks.insert((category, channel), countries);
                }
            }
        }
    }
}

fn country(at: &At<'_>, report: &mut Report) -> Option<[u8; 2]> {
    let text = at.text(report)?;
    match Region::from_code(text) {
        Some(Region(code)) => Some(code),
        None => {
            let remedy = match text {
                "UK" => "the United Kingdom is GB".to_owned(),
                "EU" => "list the countries one by one".to_owned(),
                _ => "write two capital letters of ISO 3166, as in US".to_owned(),
            };
            at.fault(report, format!("{} is not a country", quote(text)), remedy);
            None
        }
    }
}

fn time_zone(at: &At<'_>, report: &mut Report) -> Option<String> {
    let text = at.text(report)?;
    let bundled = jiff::tz::TimeZoneDatabase::bundled();
    if let Ok(zone) = bundled.get(text) {
        return Some(zone.iana_name().unwrap_or(text).to_owned());
    }
    let names: Vec<String> = bundled.available().map(|name| name.as_str().to_owned()).collect();
    let remedy = match super::fault::nearest(text, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "write an IANA name, as in Europe/Berlin".to_owned(),
    };
    at.fault(report, format!("{} is not a time zone", quote(text)), remedy);
    None
}

fn limits(at: At<'_>, rules: &mut Rules, report: &mut Report) {
    let Some(mut section) = Section::open(at, report) else { return };
    for (key, channel) in [
        ("WHATSAPP", Channel::Whatsapp),
        ("SMS", Channel::Sms),
        ("EMAIL", Channel::Email),
        ("VOICE", Channel::Voice),
    ] {
        let Some(at) = section.get(key) else { continue };
        let mut limits = rules.limits.get(&channel).copied().unwrap_or_default();
        if at.node.is_null() {
            limits = ChannelLimits::default();
        } else {
            channel_limits(at, channel, &mut limits, report);
        }
        if limits == ChannelLimits::default() {
            rules.limits.remove(&channel);
        } else {
            rules.limits.insert(channel, limits);
        }
    }
    if let Some(at) = section.get("frequency") {
        frequency(at, &mut rules.frequency, report);
    }
    section.close(report);
}

fn channel_limits(at: At<'_>, channel: Channel, limits: &mut ChannelLimits, report: &mut Report) {
    let Some(mut section) = Section::open(at, report) else { return };
    let ChannelLimits { sender, pair, business_per_hour, messaging_limit } = limits;
    let base = *sender;
    section.read("sender", report, sender, |at, report| {
        at.or_null(report, |at, report| per_second(at, base, report))
    });
    let base = *pair;
    section.read("pair", report, pair, |at, report| {
        at.or_null(report, |at, report| every(at, channel, base, report))
    });
    let base = *business_per_hour;
    section.read("business_per_hour", report, business_per_hour, |at, report| {
        at.or_null(report, |at, report| per_hour(at, base, report))
    });
    section.read("messaging_limit", report, messaging_limit, |at, report| {
        let limit = at.or_null(report, |at, report| at.number(report, 1..=MESSAGING_LIMIT_MAX))?;
        if limit.is_some() && channel != Channel::Whatsapp {
            at.fault(
                report,
                format!("only WhatsApp counts distinct recipients, not {channel}"),
                "remove it here",
            );
            return None;
        }
        Some(limit)
    });
    section.close(report);
}

/// A number of a limit: as written, else as in the limit underneath, else missing.
fn figure(
    section: &mut Section<'_>,
    key: &'static str,
    base: Option<u32>,
    range: RangeInclusive<u32>,
    report: &mut Report,
) -> Option<u32> {
    match (section.get(key), base) {
        (Some(at), _) => at.number32(report, range),
        (None, Some(base)) => Some(base),
        (None, None) => section.required(key, report).and(None),
    }
}

fn per_second(at: &At<'_>, base: Option<PerSecond>, report: &mut Report) -> Option<PerSecond> {
    let mut section = Section::open(at.clone(), report)?;
    let per_second =
        figure(&mut section, "per_second", base.map(|base| base.per_second), 1..=RATE_MAX, report);
    let burst = figure(&mut section, "burst", base.map(|base| base.burst), 1..=RATE_MAX, report);
    section.close(report);
    Some(PerSecond { per_second: per_second?, burst: burst? })
}

fn every(at: &At<'_>, channel: Channel, base: Option<Every>, report: &mut Report) -> Option<Every> {
    let mut section = Section::open(at.clone(), report)?;
    let every_ms = match (section.get("every"), base) {
        (Some(at), _) => at.span(report, 1..=PAIR_MS_MAX).and_then(|ms| u64::try_from(ms).ok()),
        (None, Some(base)) => Some(base.every_ms),
        (None, None) => section.required("every", report).and(None),
    };
    let burst = figure(&mut section, "burst", base.map(|base| base.burst), 1..=RATE_MAX, report);
    section.close(report);
    let every = Every { every_ms: every_ms?, burst: burst? };
    // Meta borrows what goes beyond and then makes the sender wait (domain §5).
    if channel == Channel::Whatsapp && (every.every_ms < 6_000 || every.burst > 20) {
        at.warn(
            report,
            "WhatsApp takes one message to a person every 6 s, and answers larger bursts with error 131056",
            "keep `every` at 6s or more and `burst` in single digits",
        );
    }
    Some(every)
}

fn per_hour(at: &At<'_>, base: Option<PerHourByQuality>, report: &mut Report) -> Option<PerHourByQuality> {
    let mut section = Section::open(at.clone(), report)?;
    let mut take = |key, base| figure(&mut section, key, base, 1..=PER_HOUR_MAX, report);
    let green = take("GREEN", base.map(|base| base.green));
    let yellow = take("YELLOW", base.map(|base| base.yellow));
    let red = take("RED", base.map(|base| base.red));
    let unknown = take("UNKNOWN", base.map(|base| base.unknown));
    let burst = figure(&mut section, "burst", base.map(|base| base.burst), 1..=RATE_MAX, report);
    section.close(report);
    Some(PerHourByQuality { green: green?, yellow: yellow?, red: red?, unknown: unknown?, burst: burst? })
}

fn frequency(at: At<'_>, caps: &mut Vec<FrequencyCap>, report: &mut Report) {
    let Some(mut section) = Section::open(at, report) else { return };
    for (key, class) in
        [("MARKETING", CapClass::Marketing), ("UTILITY", CapClass::Utility), ("ANY", CapClass::Any)]
    {
        let Some(at) = section.get(key) else { continue };
        let Some(Some(list)) =
            at.or_null(report, |at, report| frequency_caps(at, class, report)).map(Option::Some)
        else {
            continue;
        };
        caps.retain(|cap| cap.class != class);
        caps.extend(list.unwrap_or_default());
        if class == CapClass::Marketing && !caps.iter().any(|cap| cap.class == class) {
            at.warn(
                report,
                "nothing caps how often one person gets marketing",
                "set e.g. [{ max: 2, per: 24h }]",
            );
        }
    }
    // One order, so that the same caps are the same policy however they were put together.
    caps.sort_by_key(|cap| (cap.class as u8, cap.per_ms, cap.max));
    section.close(report);
}

fn frequency_caps(at: &At<'_>, class: CapClass, report: &mut Report) -> Option<Vec<FrequencyCap>> {
    let items = at.list(report)?;
    if items.len() > FREQUENCY_CAPS_MAX {
        at.fault(
            report,
            format!("{} caps are too many", items.len()),
            format!("keep at most {FREQUENCY_CAPS_MAX}"),
        );
        return None;
    }
    let mut caps = Vec::new();
    for item in &items {
        let Some(mut section) = Section::open(item.clone(), report) else { continue };
        let max = section.required("max", report).and_then(|at| at.number32(report, 1..=FREQUENCY_CAP_MAX));
        let per_ms =
            section.required("per", report).and_then(|at| at.span(report, SECOND_MS..=FREQUENCY_MS_MAX));
        section.close(report);
        if let (Some(max), Some(per_ms)) = (max, per_ms) {
            caps.push(FrequencyCap { class, max, per_ms });
        }
    }
    (caps.len() == items.len()).then_some(caps)
}
