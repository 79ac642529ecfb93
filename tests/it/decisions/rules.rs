//! The rules a row is judged by: `strict`, which is built in, or `acme`, the example configuration; then what differs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use optgate::config::{Sources, lint};
use optgate::engine::Book;
use optgate::policy::ids::{BusinessId, TopicId};
use optgate::policy::quiet_hours::{QuietHours, QuietRule};
use optgate::policy::rules::{
    CapClass, Every, FrequencyCap, PerHourByQuality, PerSecond, RuleBook, Rules, Shadow, StopScope,
    UnregisteredTemplates,
};
use optgate::policy::types::{Category, Channel, ConsentType, EvidenceGrade, OptInMethod, Reason};

use super::phrase::{Phrase, list, span};

static ACME: LazyLock<Rules> = LazyLock::new(|| {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("optgate.example.yaml");
    let sources = Sources { file: Some(file), ..Sources::default() };
    let loaded = sources.load().unwrap_or_else(|faults| panic!("the example is faulty: {faults}"));
    let rules = loaded.config.rules.of("acme-air").expect("the example's business");
    Rules { portfolio: None, ..Rules::clone(rules) }
});

/// Reads `strict` or `acme`, and after commas what differs, for the business `id`.
pub fn read(cell: &str, id: &BusinessId) -> Rules {
    let mut parts = cell.split(',').map(str::trim);
    let mut rules = match parts.next() {
        Some("strict") => Rules::built_in(),
        Some("acme") => Rules { business_id: Some(id.clone()), ..ACME.clone() },
        other => panic!("`{cell}`: no rules are named {other:?}"),
    };
    parts.for_each(|part| differ(&mut rules, Phrase::new(part)));
    rules
}

/// The book in which `rules` are those of `id`; with the built-in rules any business is known.
pub fn book(rules: Rules, id: &BusinessId) -> Book {
    let configured = rules.is_configured();
    let rules = Arc::new(rules);
    let businesses: BTreeMap<_, _> =
        configured.then(|| (id.clone(), Arc::clone(&rules))).into_iter().collect();
    let defaults = if configured { Arc::new(Rules::built_in()) } else { rules };
    Book::new(RuleBook { defaults, businesses, version: "table".into() })
}

fn word<T>(read: impl Fn(&str) -> Option<T>, text: &str) -> T {
    read(text).unwrap_or_else(|| panic!("`{text}` is no word of the field"))
}

fn differ(rules: &mut Rules, mut phrase: Phrase) {
    let channel = phrase.after("on").map(|text| word(Channel::from_word, &text));
    let limits = rules.limits.entry(channel.unwrap_or(Channel::Whatsapp)).or_default();
    let number = |phrase: &mut Phrase, before: &str| -> u32 {
        phrase.after(before).map_or(1, |text| text.parse().expect("a number"))
    };
    if phrase.begins("basic evidence") {
        rules.evidence = EvidenceGrade::Basic;
    } else if phrase.begins("double opt-in for") {
        let method = phrase.next().expect("a method");
        rules.double_opt_in.insert(word(OptInMethod::from_word, &method));
    } else if let Some(category) = phrase.after("no opt-in needed for") {
        rules.consent_required.remove(&word(Category::from_word, &category));
    } else if phrase.begins("STOP ends all channels") {
        rules.stop_scope = StopScope::AllChannels;
    } else if let Some(kind) = phrase.after("accepts") {
        let kinds = rules.consent_types.entry(channel.expect("a channel")).or_default();
        kinds.insert(word(ConsentType::from_word, &kind));
    } else if let Some(text) = phrase.after("opt-ins last") {
        rules.opt_in_expires_after_ms = Some(span(&text));
    } else if let Some(category) = phrase.after("quiet for") {
        let channels = channel.into_iter().collect();
        let from: u16 = phrase.after("from").map_or(21, |hour| hour.parse().expect("an hour"));
        let to: u16 = phrase.after("to").map_or(8, |hour| hour.parse().expect("an hour"));
        let rule = QuietRule::new([true; 7], from * 60, to * 60, channels).expect("a rule");
        rules.quiet_hours.insert(word(Category::from_word, &category), QuietHours::new(vec![rule]));
    } else if phrase.begins("no quiet hours") {
        rules.quiet_hours.clear();
    } else if let Some(zone) = phrase.after("default zone") {
        rules.default_time_zone = Some(zone);
    } else if phrase.begins("no caps") {
        rules.frequency.clear();
    } else if let Some(class) = phrase.after("cap") {
        let class = match class.as_str() {
            "MARKETING" => CapClass::Marketing,
            "UTILITY" => CapClass::Utility,
            "ANY" => CapClass::Any,
            other => panic!("`{other}` is no class of caps"),
        };
        let max = number(&mut phrase, "at");
        let per_ms = span(&phrase.after("per").expect("a span"));
        rules.frequency.push(FrequencyCap { class, max, per_ms });
    } else if let Some(every) = phrase.after("pair every") {
        let every_ms = u64::try_from(span(&every)).expect("a span");
        limits.pair = Some(Every { every_ms, burst: number(&mut phrase, "burst") });
    } else if let Some(per_second) = phrase.after("sender per second") {
        let per_second = per_second.parse().expect("a number");
        limits.sender = Some(PerSecond { per_second, burst: number(&mut phrase, "burst") });
    } else if let Some(per_hour) = phrase.after("business per hour") {
        let green = per_hour.parse().expect("a number");
        let red = number(&mut phrase, "RED");
        let burst = number(&mut phrase, "burst");
        limits.business_per_hour =
            Some(PerHourByQuality { green, yellow: green, red, unknown: green, burst });
    } else if let Some(limit) = phrase.after("messaging limit") {
        limits.messaging_limit = Some(limit.parse().expect("a number"));
    } else if let Some(rule) = phrase.after("shadow") {
        rules.shadow.push(Shadow { rule: word(Reason::from_word, &rule), until: None });
    } else if phrase.begins("unregistered templates as marketing") {
        rules.unregistered_templates = UnregisteredTemplates::AsMarketing;
    } else if let Some(topics) = phrase.after("topics") {
        rules.topics = read_topics(&topics);
    } else if let Some(region) = phrase.after("no marketing to") {
        let code = <[u8; 2]>::try_from(region.as_bytes()).expect("two letters");
        rules.region_blocks.entry((Category::Marketing, Channel::Whatsapp)).or_default().insert(code);
    }
    phrase.end();
    rules.limits.retain(|_, limits| *limits != optgate::policy::rules::ChannelLimits::default());
}

/// Reads `offers=MARKETING;…` with plus signs between.
pub fn read_topics(text: &str) -> BTreeMap<TopicId, Category> {
    list(&text.replace('+', ","))
        .into_iter()
        .map(|pair| {
            let (topic, category) = pair.split_once('=').expect("topic=CATEGORY");
            (TopicId::new(topic).expect("a topic"), word(Category::from_word, category))
        })
        .collect()
}

/// What the check of a configuration says of `text`.
pub fn examine(text: &str) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("optgate.yaml");
    std::fs::write(&file, text.replace("\\n", "\n")).expect("a file");
    let report = lint(&file);
    if report.is_usable() { "ACCEPTED".into() } else { "REFUSED".into() }
}
