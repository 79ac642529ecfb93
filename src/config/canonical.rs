//! One text per policy, whatever file it was written in: what a rules version is the hash of.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Keywords;
use crate::policy::ids::BusinessId;
use crate::policy::rules::Rules;

/// How many hex digits of the hash are the version.
const VERSION_DIGITS: usize = 12;

/// The version of a policy: the first 12 hex digits of SHA-256 over a text that is the same for the
/// same rules, however they are written, and another for any other rules.
#[must_use]
pub fn version_of(
    defaults: &Rules,
    businesses: &BTreeMap<BusinessId, Arc<Rules>>,
    keywords: &Keywords,
) -> Arc<str> {
    let mut text = String::new();
    let Keywords { languages, dir: _, fingerprint } = keywords;
    // The words count, and not where they came from.
    line(&mut text, "keywords", (languages, fingerprint));
    write_rules(&mut text, defaults);
    for (id, rules) in businesses {
        line(&mut text, "business", id.as_str());
        write_rules(&mut text, rules);
    }
    let mut version = String::new();
    for byte in Sha256::digest(text.as_bytes()).iter().take(VERSION_DIGITS / 2) {
        line_hex(&mut version, *byte);
    }
    version.into()
}

/// `Debug` quotes and escapes texts, so that no value can pass for the next line.
fn line(text: &mut String, key: &str, value: impl std::fmt::Debug) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{key}={value:?}");
}

fn line_hex(text: &mut String, byte: u8) {
    let _ = write!(text, "{byte:02x}");
}

fn write_rules(text: &mut String, rules: &Rules) {
    // By name, so that a new rule fails to compile here until it is part of the version.
    let Rules {
        business_id,
        display_name,
        also_known_as,
        portfolio,
        whatsapp_accounts,
        senders,
        topics,
        templates,
        opt_in_programs,
        evidence,
        consent_required,
        consent_types,
        opt_in_expires_after_ms,
        double_opt_in,
        pending_expires_after_ms,
        clock_margin_ms,
        unregistered_templates,
        opt_out_instructions,
        stop_scope,
        stop_confirmation_within_ms,
        fail_open,
        shadow,
        cooldowns,
        region_blocks,
        default_time_zone,
        quiet_hours,
        limits,
        frequency,
    } = rules;
    line(text, "business_id", business_id);
    line(text, "display_name", display_name);
    line(text, "also_known_as", also_known_as);
    line(text, "portfolio", portfolio);
    line(text, "whatsapp_accounts", whatsapp_accounts);
    line(text, "senders", senders);
    line(text, "topics", topics);
    line(text, "templates", templates);
    line(text, "opt_in_programs", opt_in_programs);
    line(text, "evidence", evidence);
    line(text, "consent_required", consent_required);
    line(text, "consent_types", consent_types);
    line(text, "opt_in_expires_after_ms", opt_in_expires_after_ms);
    line(text, "double_opt_in", double_opt_in);
    line(text, "pending_expires_after_ms", pending_expires_after_ms);
    line(text, "clock_margin_ms", clock_margin_ms);
    line(text, "unregistered_templates", unregistered_templates);
    line(text, "opt_out_instructions", opt_out_instructions);
    line(text, "stop_scope", stop_scope);
    line(text, "stop_confirmation_within_ms", stop_confirmation_within_ms);
    line(text, "fail_open", fail_open);
    line(text, "shadow", shadow);
    line(text, "cooldowns", cooldowns);
    line(text, "region_blocks", region_blocks);
    line(text, "default_time_zone", default_time_zone);
    line(text, "quiet_hours", quiet_hours);
    line(text, "limits", limits);
    line(text, "frequency", frequency);
}
