//! The `businesses` section: who sends, from what, about what.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::{Place, Report, quote};
use super::policy_keys::{self, INITIATED};
use super::read::{At, Section};
use super::{doubts, read};
use crate::policy::ids::{BusinessId, SenderId, TopicId};
use crate::policy::keywords::Lexicon;
use crate::policy::rules::{OptInProgram, Rules, TemplateSeed};
use crate::policy::types::{Category, Channel, TemplateStatus};

/// The most other names of a business.
pub const NAMES_MAX: usize = 64;
/// The most topics of a business.
pub const TOPICS_MAX: usize = 1_000;
/// The most keyword and button programs of a business.
pub const PROGRAMS_MAX: usize = 1_000;
/// The most words, and the most buttons, of one program.
pub const PROGRAM_WORDS_MAX: usize = 64;

/// Reads every business over the defaults.
pub(super) fn read_all(
    top: &mut Section<'_>,
    defaults: &Rules,
    lexicon: Option<&Lexicon>,
    report: &mut Report,
) -> Vec<Rules> {
    let Some(at) = top.get("businesses") else {
        return Vec::new();
    };
    let entries = at.entries(report).unwrap_or_default();
    if entries.is_empty() {
        at.warn(
            report,
            "no business is listed, so that any business id may send by the defaults",
            "list your businesses: others are then refused",
        );
    }
    let mut shared = Shared { lexicon, senders: BTreeMap::new(), accounts: BTreeMap::new() };
    let mut businesses = Vec::new();
    for entry in entries {
        let inner = at.child(entry);
        let id = match BusinessId::new(&entry.key) {
            Ok(id) => Some(id),
            Err(fault) => {
                let what = format!("this cannot be a business id: it {fault}");
                report.fault(&entry.place, &inner.path, what, "correct the id");
                None
            }
        };
        // Read even under a faulty id, for the faults within.
        let mut rules = Rules { business_id: id, ..defaults.clone() };
        if let Some(section) = Section::open(inner, report) {
            let at = At { node: section.at.node, path: section.at.path.clone() };
            read_one(section, &mut rules, &mut shared, report);
            doubts::about(&rules, &entry.place, &at.path, report);
            businesses.push((rules, entry.place.clone(), at.path));
        }
    }
    doubts::about_portfolios(&businesses, report);
    businesses.into_iter().map(|(rules, _, _)| rules).collect()
}

/// What all businesses share: the word lists, and which business named a sender or account first.
struct Shared<'l> {
    lexicon: Option<&'l Lexicon>,
    senders: BTreeMap<String, String>,
    accounts: BTreeMap<String, String>,
}

fn read_one(mut section: Section<'_>, rules: &mut Rules, shared: &mut Shared<'_>, report: &mut Report) {
    section.read("display_name", report, &mut rules.display_name, |at, report| {
        at.text(report).map(|text| Some(text.trim().to_owned()))
    });
    section
        .read("also_known_as", report, &mut rules.also_known_as, |at, report| texts(at, report, NAMES_MAX));
    section.read("portfolio", report, &mut rules.portfolio, |at, report| {
        at.or_null(report, |at, report| at.id(report).map(str::to_owned))
    });
    let business = section.at.path.clone();
    section.read("whatsapp_accounts", report, &mut rules.whatsapp_accounts, |at, report| {
        let ids = ids(at, report)?;
        owned(&ids, &business, &mut shared.accounts, report);
        Some(ids.into_iter().map(|(id, _)| id).collect())
    });
    section.read("senders", report, &mut rules.senders, |at, report| {
        let ids = ids(at, report)?;
        owned(&ids, &business, &mut shared.senders, report);
        Some(ids.iter().filter_map(|(id, _)| SenderId::new(id).ok()).collect())
    });
    section.read("topics", report, &mut rules.topics, topics);
    if let Some(at) = section.get("templates") {
        rules.templates = templates(&at, &rules.topics, report);
    }
    if let Some(at) = section.get("opt_in_programs") {
        rules.opt_in_programs = programs(&at, rules, shared.lexicon, report);
    }
    policy_keys::read(&mut section, rules, report);
    if let Some(at) = section.get("keywords") {
        at.fault(report, "word lists are the same for every business", "move `keywords` under `defaults`");
    }
    section.close(report);
}

fn texts(at: &At<'_>, report: &mut Report, max: usize) -> Option<Vec<String>> {
    let items = at.list(report)?;
    if items.len() > max {
        at.fault(report, format!("{} items are too many", items.len()), format!("keep at most {max}"));
        return None;
    }
    let texts: Vec<String> =
        items.iter().filter_map(|item| item.text(report).map(|text| text.trim().to_owned())).collect();
    (texts.len() == items.len()).then_some(texts)
}

/// Distinct ids, each with its place.
fn ids<'n>(at: &At<'n>, report: &mut Report) -> Option<Vec<(String, At<'n>)>> {
    let items = at.list(report)?;
    let mut seen = BTreeSet::new();
    let mut ids = Vec::new();
    for item in &items {
        let Some(id) = item.id(report) else { continue };
        if seen.insert(id) {
            ids.push((id.to_owned(), item.clone()));
        } else {
            item.fault(report, format!("{} is listed twice", quote(id)), "keep one of the two");
        }
    }
    (ids.len() == items.len()).then_some(ids)
}

/// Warns where another business has the same sender or account: what arrives there could be meant
/// for either.
fn owned(
    ids: &[(String, At<'_>)],
    business: &str,
    owners: &mut BTreeMap<String, String>,
    report: &mut Report,
) {
    for (id, at) in ids {
        match owners.get(id) {
            Some(owner) => at.warn(
                report,
                format!("{} belongs to {owner} too, and a reply to it could be meant for either", quote(id)),
                "list it under one business",
            ),
            None => {
                owners.insert(id.clone(), business.to_owned());
            }
        }
    }
}

fn topics(at: &At<'_>, report: &mut Report) -> Option<BTreeMap<TopicId, Category>> {
    let entries = at.entries(report)?;
    if entries.len() > TOPICS_MAX {
        at.fault(
            report,
            format!("{} topics are too many", entries.len()),
            format!("keep at most {TOPICS_MAX}"),
        );
        return None;
    }
    let mut topics = BTreeMap::new();
    for entry in entries {
        let at = at.child(entry);
        let topic = TopicId::new(&entry.key);
        if let Err(fault) = &topic {
            let what = format!("this cannot be a topic: it {fault}");
            report.fault(&entry.place, &at.path, what, "correct the topic's name");
        }
        let category = at.word(report, &INITIATED);
        if let (Ok(topic), Some(category)) = (topic, category) {
            topics.insert(topic, category);
        }
    }
    Some(topics)
}

fn templates(at: &At<'_>, topics: &BTreeMap<TopicId, Category>, report: &mut Report) -> Vec<TemplateSeed> {
    let mut seeds: Vec<TemplateSeed> = Vec::new();
    let mut seen: BTreeMap<(String, String), Place> = BTreeMap::new();
    for item in at.list(report).unwrap_or_default() {
        let Some(seed) =
            Section::open(item.clone(), report).and_then(|section| template(section, topics, report))
        else {
            continue;
        };
        let key = (seed.name.clone(), seed.language.clone());
        if let Some(first) = seen.get(&key) {
            let what = format!("{} in {} was given before, at {first}", quote(&seed.name), seed.language);
            item.fault(report, what, "keep one of the two");
        } else {
            seen.insert(key, item.node.place.clone());
            seeds.push(seed);
        }
    }
    seeds
}

fn template(
    mut section: Section<'_>,
    topics: &BTreeMap<TopicId, Category>,
    report: &mut Report,
) -> Option<TemplateSeed> {
    let sendable: Vec<TemplateStatus> =
        TemplateStatus::ALL.iter().copied().filter(|status| *status != TemplateStatus::Unknown).collect();
    let name = section.required("name", report).and_then(|at| at.id(report));
    let language = section.required("language", report).and_then(|at| language(&at, report));
    let category = section.required("category", report).and_then(|at| at.word(report, &INITIATED));
    let status = section.required("status", report).and_then(|at| at.word(report, &sendable));
    let mut has_opt_out_instructions = false;
    section.read("has_opt_out_instructions", report, &mut has_opt_out_instructions, At::switch);
    let mut topic = None;
    let topic_at = section.get("topic");
    section.read("topic", report, &mut topic, |at, report| {
        at.or_null(report, |at, report| at.id(report).and_then(|id| TopicId::new(id).ok()))
    });
    if let (Some(at), Some(topic)) = (&topic_at, &topic) {
        match (topics.get(topic), category) {
            (None, _) => at.warn(
                report,
                format!(
                    "the business has no topic {}, so that no opt-in to a topic can cover this template",
                    quote(topic.as_str())
                ),
                "add it to `topics`",
            ),
            (Some(of), Some(category)) if *of != category => at.fault(
                report,
                format!("the topic {} is {of} and the template is {category}", quote(topic.as_str())),
                "give the template a topic of its own category, since an opt-in to one is none to the other",
            ),
            (Some(_), _) => {}
        }
    }
    section.close(report);
    Some(TemplateSeed {
        name: name?.to_owned(),
        language: language?,
        category: category?,
        topic,
        status: status?,
        has_opt_out_instructions,
    })
}

/// A template's language as send calls write it: `en_US`, where webhooks write `en-US`.
fn language(at: &At<'_>, report: &mut Report) -> Option<String> {
    let text = at.id(report)?.replace('-', "_");
    let mut parts = text.split('_');
    let is_language = parts.next().is_some_and(|part| {
        (2..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_lowercase())
    });
    if is_language
        && parts.all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    {
        return Some(text);
    }
    at.fault(report, format!("{} is not a language", quote(&text)), "write it like en or en_US");
    None
}

fn programs(at: &At<'_>, rules: &Rules, lexicon: Option<&Lexicon>, report: &mut Report) -> Vec<OptInProgram> {
    let items = at.list(report).unwrap_or_default();
    if items.len() > PROGRAMS_MAX {
        at.fault(
            report,
            format!("{} programs are too many", items.len()),
            format!("keep at most {PROGRAMS_MAX}"),
        );
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let mut programs = Vec::new();
    for item in items {
        let Some(program) =
            Section::open(item.clone(), report).and_then(|section| program(section, &item, rules, report))
        else {
            continue;
        };
        let words = program.keywords.iter().map(|word| ("keyword", word));
        for (kind, word) in words.chain(program.buttons.iter().map(|word| ("button", word))) {
            if !seen.insert((program.channel, kind, word.to_lowercase())) {
                item.fault(
                    report,
                    format!("the {kind} {} already joins on {}", quote(word), program.channel),
                    "let each word join one program per channel",
                );
            }
        }
        for word in &program.keywords {
            if let Some(meaning) = lexicon.and_then(|lexicon| lexicon.reserved(word)) {
                item.fault(
                    report,
                    format!(
                        "the word {} means {meaning} to everybody and cannot join a program",
                        quote(word)
                    ),
                    "choose another word",
                );
            }
        }
        programs.push(program);
    }
    programs
}

fn program(
    mut section: Section<'_>,
    at: &At<'_>,
    rules: &Rules,
    report: &mut Report,
) -> Option<OptInProgram> {
    let mut words = |key, report: &mut Report| {
        section.get(key).map_or(Some(Vec::new()), |at| texts(&at, report, PROGRAM_WORDS_MAX))
    };
    let keywords = words("keywords", report);
    let buttons = words("buttons", report);
    if keywords.as_ref().is_some_and(Vec::is_empty) && buttons.as_ref().is_some_and(Vec::is_empty) {
        at.fault(report, "nothing joins this program", "add `keywords` or `buttons`");
    }
    let channel = section.required("channel", report).and_then(|at| at.word(report, Channel::ALL));
    let topics = section.required("topics", report).and_then(|at| program_topics(&at, rules, report));
    let notice = section.required("notice_text", report).and_then(|at| {
        let text = at.text(report)?;
        if let Some(name) = &rules.display_name
            && !text.to_lowercase().contains(&name.to_lowercase())
        {
            at.warn(
                report,
                format!(
                    "the notice does not name {}, and strict evidence asks for the name people saw",
                    quote(name)
                ),
                "write the business's name into the notice",
            );
        }
        Some(text.to_owned())
    });
    section.close(report);
    Some(OptInProgram {
        keywords: keywords?,
        buttons: buttons?,
        channel: channel?,
        topics: topics?,
        notice_text: notice?,
    })
}

fn program_topics(at: &At<'_>, rules: &Rules, report: &mut Report) -> Option<Vec<TopicId>> {
    let items = at.list(report)?;
    if items.is_empty() {
        at.fault(report, "the program opts in to nothing", "list at least one topic");
    }
    let mut topics = Vec::new();
    for item in &items {
        let Some(id) = item.id(report) else { continue };
        match rules.topics.get_key_value(id) {
            Some((topic, _)) => topics.push(topic.clone()),
            None => {
                let known = rules.topics.keys().map(TopicId::as_str);
                let remedy = match super::fault::nearest(id, known.clone()) {
                    Some(near) => format!("did you mean {near}?"),
                    None if rules.topics.is_empty() => "add it to `topics`".to_owned(),
                    None => format!("add it to `topics`, or choose among {}", read::listed(known)),
                };
                item.fault(report, format!("the business has no topic {}", quote(id)), remedy);
            }
        }
    }
    (!topics.is_empty() && topics.len() == items.len()).then_some(topics)
}
