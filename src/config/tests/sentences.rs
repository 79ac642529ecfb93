//! The opt-in and opt-out process of configured businesses, in sentences.

use super::*;
use crate::policy::describe::describe;

/// The sentences about business `a`, whose section is `text`.
fn sentences(text: &str) -> String {
    let config = config(&format!("businesses: {{ a: {text} }}"));
    describe(config.rules.of("a").expect("configured"))
}

#[test]
fn the_example_business_in_sentences() {
    let config = config(EXAMPLE);
    let page = describe(config.rules.of("acme-air").expect("configured"));
    // A changed sentence is a changed promise: read the difference before taking it over.
    assert_eq!(page, include_str!("acme_air.txt"));
}

#[test]
fn every_rule_changes_the_sentences() {
    let base = sentences("{}");
    for change in [
        "display_name: Ay",
        "also_known_as: [Ah]",
        "senders: ['1']",
        "topics: { offers: MARKETING }",
        "topics: { offers: MARKETING }, opt_in_programs: [{ keywords: [GO], channel: SMS, topics: [offers], notice_text: x }]",
        "evidence: basic",
        "consent_required: [MARKETING]",
        "consent_types: { EMAIL: [SOFT_OPT_IN] }",
        "opt_in_expires_after: 730d",
        "double_opt_in: [SMS_KEYWORD]",
        "pending_expires_after: 8d",
        "clock_margin: 6m",
        "unregistered_templates: as_marketing",
        "opt_out_instructions: { SMS: { every: message } }",
        "stop_scope: ALL_CHANNELS",
        "stop_confirmation: { within: 4m }",
        "fail_open: []",
        "shadow: [{ rule: COOLDOWN, until: 2027-01-31 }]",
        "cooldowns: { sender: 2h }",
        "region_blocks: { UTILITY: { SMS: [FR] } }",
        "quiet_hours: { MARKETING: [{ from: '21:00', to: '08:00' }] }",
        "limits: { SMS: { pair: { every: 1s, burst: 1 } } }",
        "limits: { WHATSAPP: { messaging_limit: null } }",
        "limits: { frequency: { ANY: [{ max: 5, per: 7d }] } }",
    ] {
        assert_ne!(sentences(&format!("{{ {change} }}")), base, "{change}");
    }
}

#[test]
fn what_is_not_enforced_is_said() {
    let page = sentences("{ shadow: [{ rule: FREQUENCY_CAP, until: 2027-01-31 }, QUIET_HOURS] }");
    let tail = page.split_once("Not enforced at present").expect("its own section").1;
    assert!(tail.contains("only reported and the message is sent, until 2027-01-31T00:00:00Z."), "{tail}");
    assert!(tail.contains("Quiet hours: a breach is only reported"), "{tail}");
}

#[test]
fn quiet_hours_in_sentences() {
    let of = |rule: &str| {
        let page = sentences(&format!("{{ quiet_hours: {{ MARKETING: [{rule}] }} }}"));
        let line = page.lines().find(|line| line.starts_with("- Marketing messages are not sent"));
        line.expect("the quiet hours").trim_start_matches("- Marketing messages are not sent ").to_owned()
    };
    for (rule, sentence) in [
        (
            "{ from: '21:00', to: '08:00' }",
            "from 21:00 to 08:00 the next morning, on any day, on any channel.",
        ),
        (
            "{ days: sat-sun, from: '08:00', to: '12:30', channels: [SMS, VOICE] }",
            "from 08:00 to 12:30, on Saturdays and Sundays, by text message or by telephone call.",
        ),
        ("{ days: sun, from: '00:00', to: '24:00' }", "at any hour, on Sundays, on any channel."),
        (
            "{ days: mon, from: '13:00', to: '12:00' }",
            "from 13:00 to 12:00 the next day, on Mondays, on any channel.",
        ),
        (
            "{ days: mon-wed, from: '20:00', to: '24:00' }",
            "from 20:00 to 24:00, on Mondays, Tuesdays and Wednesdays, on any channel.",
        ),
        ("{ days: mon, from: '20:00', to: '00:00' }", "from 20:00 to 24:00, on Mondays, on any channel."),
    ] {
        assert_eq!(of(rule), sentence);
    }
    let hours = "quiet_hours: { MARKETING: [{ from: '21:00', to: '08:00' }] }";
    let with_zone = sentences(&format!("{{ {hours}, default_time_zone: Europe/Berlin }}"));
    assert!(with_zone.contains("the time in Europe/Berlin counts."));
    assert!(sentences(&format!("{{ {hours} }}")).contains("tells none either, the message is not sent."));
}
