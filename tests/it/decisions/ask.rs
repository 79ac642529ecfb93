//! The questions of a row, and the checks among its steps.

use optgate::address;
use optgate::engine::token::Token;
use optgate::engine::{CheckAnswer, CheckRequest, Mode, RequestedContent};
use optgate::policy::event::TemplateEntry;
use optgate::policy::ids::{EventId, OriginId, TopicId};
use optgate::policy::time::Timestamp;
use optgate::policy::types::{Category, Channel, Quality, TemplateStatus};

use super::phrase::{Phrase, span};
use super::world::World;

/// Words that begin a question about a send.
const SENDS: &[&str] =
    &["promo", "update", "order", "code", "reply", "text", "template", "confirmation", "question", "answer"];

/// Judges the send that `phrase` names; `None` where it names none.
pub fn check(world: &mut World<'_>, phrase: &Phrase, peek: bool) -> Option<Result<CheckAnswer, String>> {
    let mut phrase = phrase.clone();
    let kind = phrase.next().filter(|word| SENDS.contains(&word.as_str()))?;
    let channel = phrase.after("on").map_or(Channel::Whatsapp, |text| {
        Channel::from_word(&text).unwrap_or_else(|| panic!("`{text}` is no channel"))
    });
    let template = |name: &str| RequestedContent::Template { name: name.into(), language: "en_US".into() };
    let topic = |name: &str| Some(TopicId::new(name).expect("a topic"));
    let message = |category, topic| RequestedContent::Message { category, topic };
    let claimed = phrase.after("as").map(|text| Category::from_word(&text).expect("a category"));
    let on_whatsapp = channel == Channel::Whatsapp;
    let mut about: Option<EventId> = None;
    let content = match kind.as_str() {
        "promo" if on_whatsapp => template("weekly_offers"),
        "promo" => message(claimed, topic("offers")),
        "update" if on_whatsapp => template("delivery_update"),
        "update" => message(claimed, topic("delivery_updates")),
        "order" => template("order_confirmation"),
        "code" => template("login_code"),
        "reply" => message(Some(Category::Service), None),
        "text" => {
            let named = phrase.next().expect("a topic or nothing");
            message(claimed, if named == "untyped" { None } else { topic(&named) })
        }
        "template" => template(&phrase.next().expect("a name")),
        "question" => {
            about = world.request;
            message(Some(Category::Service), None)
        }
        _ => {
            about = world.event;
            message(claimed.or(Some(Category::Service)), None)
        }
    };
    if phrase.has("about the last event") {
        about = world.event;
    }
    if let RequestedContent::Template { name, .. } = &content {
        register(world, name);
    }
    let unseen = EventId { origin: OriginId([9; 16]), sequence: 5 };
    let at_least_as_fresh = phrase.has("after an unseen write").then_some(Token(Some(unseen)));
    let time_zone = phrase.after("in").map(|zone| address::resolve_zone(&zone).expect("a zone"));
    let request_id = phrase.after("id").map_or_else(String::new, |id| format!("check-{id}"));
    let sender = phrase.after("from").unwrap_or_else(|| world.sender.as_str().to_owned());
    let recipient = match phrase.after("to") {
        None => Ok(world.reach(channel)),
        Some(text) if text.contains('@') => address::Address::parse_email(&text),
        Some(text) if text.starts_with("user:") => address::Address::parse_whatsapp_user_id(&text[5..]),
        Some(text) => address::Address::parse_phone(&text),
    };
    phrase.end();
    let request = CheckRequest {
        request_id,
        business: world.business.as_str().to_owned(),
        sender,
        recipient,
        channel,
        content_hash: phrase.text().bytes().fold(7, |hash, byte| hash * 31 % 1_000_003 + u64::from(byte)),
        content,
        about,
        mode: if peek { Mode::Peek } else { Mode::Enforce },
        explain: true,
        time_zone,
        at_least_as_fresh,
    };
    let answer = world.engine().check(&request).map_err(|error| super::world::fault_words(&error));
    if let Ok(answer) = &answer {
        world.decision.clone_from(&answer.decision_id);
    }
    Some(answer)
}

/// Registers the usual templates where no configuration knows them.
fn register(world: &World<'_>, name: &str) {
    let (category, topic, instructs) = match name {
        "weekly_offers" => (Category::Marketing, Some("offers"), false),
        "delivery_update" => (Category::Utility, Some("delivery_updates"), true),
        "order_confirmation" => (Category::Utility, Some("order_confirmations"), false),
        "login_code" => (Category::Authentication, None, false),
        _ => return,
    };
    let known = world.engine().templates(world.business.as_str());
    let listed = world.engine().book().rules(world.business.as_str()).is_some();
    if !listed || known.iter().any(|template| template.name == name) {
        return;
    }
    put(world, name, category, topic, TemplateStatus::Approved, instructs, None);
}

/// Registers a template.
pub fn put(
    world: &World<'_>,
    name: &str,
    category: Category,
    topic: Option<&str>,
    status: TemplateStatus,
    has_opt_out_instructions: bool,
    pause_until: Option<Timestamp>,
) {
    let entry = TemplateEntry {
        business: world.business.clone(),
        name: name.into(),
        language: "en_US".into(),
        category,
        topic: topic.map(|topic| TopicId::new(topic).expect("a topic")),
        status,
        quality: Quality::Green,
        has_opt_out_instructions,
        pause_until,
        time: world.now(),
    };
    let engine = world.engine();
    world.stage.runtime.block_on(engine.put_template(entry)).expect("a template is registered");
}

/// Compares an answer with what the row expects; `Err` says how it differs.
pub fn compare(answer: &CheckAnswer, expected: &str) -> Result<(), String> {
    let mut phrase = Phrase::new(&expected.replace(',', ""));
    let no_retry = phrase.has("no retry");
    let retry = phrase.after("retry");
    let category = phrase.after("as");
    let shadowed = phrase.after("shadowing");
    let mut verdict: Vec<String> = Vec::new();
    while let Some(word) = phrase.next() {
        verdict.push(word);
    }
    let mut got: Vec<String> = if answer.allows() {
        vec!["ALLOW".into()]
    } else {
        std::iter::once("DENY".to_owned())
            .chain(answer.violations.iter().map(|violation| violation.reason.word().to_owned()))
            .collect()
    };
    if answer.instructions.is_some() {
        got.push("+instructions".into());
    }
    let mut shown = got.join(" ");
    if let Some(wait_ms) = answer.retry_after_ms {
        shown.push_str(&format!(" retry {wait_ms} ms"));
    }
    let got_shadowed: Vec<&str> = answer.shadowed.iter().map(|violation| violation.reason.word()).collect();
    let fits = got == verdict
        && retry.is_none_or(|text| answer.retry_after_ms == Some(span(&text)))
        && !(no_retry && answer.retry_after_ms.is_some())
        && category.is_none_or(|word| answer.category.map(Category::word) == Some(&word))
        && got_shadowed == shadowed.as_deref().map(|word| vec![word]).unwrap_or_default();
    if fits {
        return Ok(());
    }
    let category = answer.category.map_or("nothing", Category::word);
    Err(format!("got {shown} as {category}, shadowing {got_shadowed:?}"))
}
