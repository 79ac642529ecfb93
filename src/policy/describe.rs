//! A business's opt-in and opt-out process in sentences that a compliance officer can sign.
//!
//! They are written from the rules in force and from what the product does whatever the rules say.
//! Nothing here decides anything.

mod words;

use std::fmt::Write;

use super::rules::{
    CapClass, ChannelLimits, Cooldowns, FrequencyCap, InstructionPeriod, Rules, Shadow, StopScope,
    UnregisteredTemplates,
};
use super::types::{Category, Channel, ConsentType, EvidenceGrade, OptInMethod, Reason};
use words::{LISTED_MAX, by, category, counted, figure, joined, messages, method, quoted, span};

/// The process that `rules` make, as plain text.
#[must_use]
pub fn describe(rules: &Rules) -> String {
    let mut page = Page { text: String::new() };
    let name = name_of(rules);
    page.title(&format!("How people opt in to and out of messages from {name}"));
    who(&mut page, rules, &name);
    if !rules.shadow.is_empty() {
        page.heading("Not enforced at present");
        shadows(&mut page, &rules.shadow);
    }
    page.heading("Opting in");
    opting_in(&mut page, rules, &name);
    page.heading("Opting out");
    opting_out(&mut page, rules, &name);
    page.heading("When and where messages are sent");
    hours(&mut page, rules);
    page.heading("How many messages are sent");
    limits(&mut page, rules);
    page.heading("What is kept as proof");
    records(&mut page);
    page.heading("When something cannot be known");
    doubt(&mut page, rules);
    page.text
}

struct Page {
    text: String,
}

impl Page {
    fn title(&mut self, title: &str) {
        let rule = "=".repeat(title.chars().count());
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(self.text, "{title}\n{rule}");
    }

    fn heading(&mut self, heading: &str) {
        let rule = "-".repeat(heading.chars().count());
        let _ = writeln!(self.text, "\n{heading}\n{rule}");
    }

    fn say(&mut self, sentences: impl AsRef<str>) {
        let _ = writeln!(self.text, "- {}", sentences.as_ref());
    }
}

fn name_of(rules: &Rules) -> String {
    rules.display_name.clone().unwrap_or_else(|| {
        rules
            .business_id
            .as_ref()
            .map_or_else(|| "a business".to_owned(), |id| format!("the business {}", quoted(id.as_str())))
    })
}

fn who(page: &mut Page, rules: &Rules, name: &str) {
    match &rules.business_id {
        None => page.say(
            "These rules hold for every business, since none is configured by name. A business's own name, topics \
             and senders are therefore not checked.",
        ),
        Some(id) => {
            let mut sentence = format!("These rules hold for {name}, known to the system as {}", quoted(id.as_str()));
            if !rules.also_known_as.is_empty() {
                let names = joined(rules.also_known_as.iter().map(|name| quoted(name)), "or");
                let _ = write!(sentence, ". An opt-in may also have been given to it under the name {names}");
            }
            page.say(sentence + ".");
            if rules.senders.is_empty() {
                page.say(format!("{} may send from any number or address.", capital(name)));
            } else {
                let senders = joined(rules.senders.iter().map(ToString::to_string), "and");
                page.say(format!("{} sends from {senders} and from nowhere else.", capital(name)));
            }
        }
    }
    for of in [Category::Marketing, Category::Utility, Category::Authentication] {
        let topics: Vec<String> = rules.topics_of(of).map(|topic| quoted(topic.as_str())).collect();
        if !topics.is_empty() {
            page.say(format!("Its {} messages are about {}.", category(of), joined(topics, "and")));
        }
    }
    if rules.is_configured() {
        page.say("A message about anything else counts as marketing.");
    }
}

fn opting_in(page: &mut Page, rules: &Rules, name: &str) {
    let initiated = [Category::Marketing, Category::Utility, Category::Authentication];
    let (needed, free): (Vec<Category>, Vec<Category>) =
        initiated.into_iter().partition(|of| rules.consent_required.contains(of));
    page.say(format!(
        "Before {name} sends {} message of its own accord, the person must have opted in to this type of message on \
         this channel. Somebody who only wrote to {name} has not opted in.",
        joined(needed.iter().map(|of| format!("{} {}", article(*of), category(*of))), "or"),
    ));
    if !free.is_empty() {
        page.say(format!(
            "{} messages are sent without an opt-in, but never to somebody who opted out of them.",
            capital(&joined(free.iter().map(|of| category(*of).to_owned()), "and")),
        ));
    }
    page.say(format!(
        "For 24 hours after somebody wrote, {name} may reply to them on the same channel and from the same \
         sender without an opt-in. Such a reply carries no marketing unless the person opted in to marketing.",
    ));
    page.say(match rules.evidence {
        EvidenceGrade::Strict => format!(
            "An opt-in is recorded only together with the way it was given, the moment when the person acted, {}, \
             the channels and the message types that were named to the person, and the notice that the person saw. \
             If any of this is missing, the opt-in is refused.",
            shown_name(rules),
        ),
        EvidenceGrade::Basic => format!(
            "An opt-in is recorded only together with the way it was given, the moment when the person acted and {}. \
             The notice that the person saw need not be recorded. If any of this is missing, the opt-in is refused.",
            shown_name(rules),
        ),
    });
    consent_types(page, rules);
    confirmation(page, rules);
    page.say(match rules.opt_in_expires_after_ms {
        None => {
            "An opt-in lasts until the person opts out, unless it was given for a limited time.".to_owned()
        }
        Some(ms) => format!(
            "An opt-in runs out {} after it was given, or earlier if it was given for less.",
            span(ms)
        ),
    });
    page.say(
        "An opt-in is for the message types and channels it names and for no others. It ends when the number turns \
         out to be wrong or to belong to somebody else, or when its evidence proves false.",
    );
    for program in rules.opt_in_programs.iter().take(LISTED_MAX) {
        let mut ways = Vec::new();
        if !program.keywords.is_empty() {
            ways.push(format!("writing {}", joined(program.keywords.iter().map(|word| quoted(word)), "or")));
        }
        if !program.buttons.is_empty() {
            ways.push(format!(
                "pressing the button {}",
                joined(program.buttons.iter().map(|word| quoted(word)), "or")
            ));
        }
        let topics = joined(program.topics.iter().map(|topic| quoted(topic.as_str())), "and");
        page.say(format!(
            "A person opts in to {topics} {} by {}, having been told: {}",
            by(program.channel),
            joined(ways, "or"),
            quoted(&program.notice_text),
        ));
    }
    more_than_listed(page, rules.opt_in_programs.len(), "words and buttons");
}

fn shown_name(rules: &Rules) -> String {
    if !rules.is_configured() {
        return "the name of the business as the person saw it".to_owned();
    }
    let names = rules.display_name.iter().chain(&rules.also_known_as).map(|name| quoted(name));
    let names = joined(names, "or");
    if names.is_empty() {
        "the name of the business as the person saw it".to_owned()
    } else {
        format!("the name of the business as the person saw it, which must be {names}")
    }
}

fn consent_types(page: &mut Page, rules: &Rules) {
    let mut exceptions = Vec::new();
    for (channel, types) in &rules.consent_types {
        for consent_type in types {
            let what = match consent_type {
                ConsentType::Express => continue,
                ConsentType::Implied => "consent implied by an existing relationship",
                ConsentType::SoftOptIn => "the soft opt-in of an existing customer",
            };
            exceptions.push(format!("{what} {}", by(*channel)));
        }
    }
    page.say(if exceptions.is_empty() {
        "Only express consent counts: nothing is inferred from a purchase or a relationship.".to_owned()
    } else {
        format!("Express consent always counts. So does {}.", joined(exceptions, "and"))
    });
}

fn confirmation(page: &mut Page, rules: &Rules) {
    if rules.double_opt_in.len() == OptInMethod::ALL.len() {
        page.say("Every opt-in has to be confirmed.");
    } else if rules.double_opt_in.is_empty() {
        page.say("No way of opting in has to be confirmed by a second step.");
    } else {
        let ways = joined(rules.double_opt_in.iter().map(|way| method(*way).to_owned()), "or");
        page.say(format!("An opt-in by {ways} has to be confirmed."));
    }
    page.say(format!(
        "Where a confirmation is asked for, the person gets one question, and only a clear reply on the channel of the \
         question confirms the opt-in; a reply by email never confirms a telephone number. Until then nothing but the \
         question is sent. Without a reply the request lapses after {}.",
        span(rules.pending_expires_after_ms),
    ));
}

fn opting_out(page: &mut Page, rules: &Rules, name: &str) {
    page.say(
        "People may opt out in any way and at any time: by a word such as STOP, a button, an unsubscribe link, a web \
         form, a key pressed in a call, by saying or writing so, by complaining, or in the settings of the platform.",
    );
    page.say(
        "An opt-out is in force as soon as it is recorded: every message it covers that is checked afterwards is refused. A \
         message handed to the provider before may still arrive.",
    );
    page.say(match rules.stop_scope {
        StopScope::Channel => {
            "STOP by itself ends all messages on the channel it came by. A person may also stop one channel by its \
             name, one kind of message, or everything."
        }
        StopScope::AllChannels => {
            "STOP by itself ends all messages on every channel. A person may also stop one channel by its name or \
             one kind of message."
        }
    });
    page.say(format!(
        "Within {} of an opt-out one confirmation may be sent, without any marketing. A repeated STOP is not answered.",
        span(rules.stop_confirmation_within_ms),
    ));
    page.say(
        "An opt-out is never refused for its form. What cannot be understood in it is taken to end more rather than \
         less. A reply that may or may not be an opt-out holds marketing back until the person says clearly.",
    );
    page.say(format!(
        "An opt-out never lapses. {} sends the person such messages again only after a new opt-in that is shown to \
         come after the opt-out, allowing for clocks that differ by up to {}. Recording an old opt-in again undoes \
         nothing.",
        capital(name),
        span(rules.clock_margin_ms),
    ));
    page.say(
        "An opt-out holds for every address known to be the person's, in each form in which a number may be written. \
         A person who moves to a new number has opted out at the old one.",
    );
    instructions(page, rules);
}

fn instructions(page: &mut Page, rules: &Rules) {
    let mut groups: Vec<(InstructionPeriod, Vec<String>)> = Vec::new();
    for channel in Channel::ALL {
        let Some(period) = rules.opt_out_instructions.get(channel) else { continue };
        match groups.iter_mut().find(|(known, _)| known == period) {
            Some((_, channels)) => channels.push(by(*channel).to_owned()),
            None => groups.push((*period, vec![by(*channel).to_owned()])),
        }
    }
    for (period, channels) in groups {
        let channels = capital(&joined(channels, "and"));
        page.say(match period {
            InstructionPeriod::EveryMessage => format!("{channels}, every message tells how to opt out."),
            InstructionPeriod::EveryMs(ms) => format!(
                "{channels}, the first message to a person tells how to opt out, and again one in every {}.",
                span(ms)
            ),
        });
    }
    page.say("One-time passcodes need not tell how to opt out.");
}

fn hours(page: &mut Page, rules: &Rules) {
    let mut any = false;
    for (of, quiet) in &rules.quiet_hours {
        for rule in words::quiet_rules(quiet) {
            any = true;
            page.say(format!("{} messages are not sent {rule}.", capital(category(*of))));
        }
    }
    if any {
        let otherwise = match &rules.default_time_zone {
            Some(zone) => format!("If the number tells none either, the time in {zone} counts."),
            None => "If the number tells none either, the message is not sent.".to_owned(),
        };
        page.say(format!(
            "The hours are the recipient's own. Where the caller does not tell the time zone, the message is sent only \
             if it is outside these hours in every zone that the number may belong to. {otherwise}",
        ));
        page.say("One-time passcodes, the confirmation of an opt-out and the answer to HELP are exempt from quiet hours.");
    } else {
        page.say("No quiet hours are set: messages may be sent at any time of day.");
    }
    for ((of, channel), countries) in &rules.region_blocks {
        let codes = countries.iter().map(|code| String::from_utf8_lossy(code).into_owned());
        page.say(format!(
            "{} messages are not sent {} to numbers of {}: {}.",
            capital(category(*of)),
            by(*channel),
            if countries.len() == 1 { "this country" } else { "these countries" },
            joined(codes, "and"),
        ));
    }
    page.say("On WhatsApp free text is sent only as a reply; every other message there is a template.");
    if rules.unregistered_templates == UnregisteredTemplates::Deny {
        page.say("A template is sent only if it is registered and its provider approved it. Its category is the registered one, whatever the caller says.");
    } else {
        page.say("A template's category is the registered one, whatever the caller says. A template that is not registered counts as marketing.");
    }
}

fn limits(page: &mut Page, rules: &Rules) {
    for FrequencyCap { class, max, per_ms } in &rules.frequency {
        let what = match class {
            CapClass::Marketing => messages(*max, "marketing"),
            CapClass::Utility => messages(*max, "utility"),
            CapClass::Any => format!("{} (marketing and utility together)", messages(*max, "")),
        };
        page.say(format!("One person gets at most {what} in any {}, over all channels.", span(*per_ms)));
    }
    if rules.frequency.is_empty() {
        page.say("There is no limit to how often one person gets messages.");
    }
    for (channel, limits) in &rules.limits {
        for sentence in channel_limits(*limits) {
            page.say(format!("{}, {sentence}.", capital(by(*channel))));
        }
    }
    let Cooldowns { recipient_marketing_ms, sender_ms } = rules.cooldowns;
    page.say(format!(
        "When the provider refuses marketing to a person, that person gets none for {}. When it finds a sender \
         suspicious, that sender rests for {}.",
        span(recipient_marketing_ms),
        span(sender_ms),
    ));
}

fn channel_limits(limits: ChannelLimits) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(rate) = limits.pair {
        let every = span(i64::try_from(rate.every_ms).unwrap_or(i64::MAX));
        sentences.push(format!(
            "one sender writes to one person at most once every {every}, or {} at once after a pause",
            counted(rate.burst, "time", "times"),
        ));
    }
    if let Some(rate) = limits.sender {
        sentences.push(format!(
            "one sender sends at most {} a second, or {} at once after a pause",
            counted(rate.per_second, "message", "messages"),
            figure(u64::from(rate.burst)),
        ));
    }
    if let Some(rate) = limits.business_per_hour {
        sentences.push(format!(
            "the business sends at most {} messages an hour while all its senders are rated good, {} with one of \
             medium rating, {} with a bad one and {} with an unrated one",
            figure(u64::from(rate.green)),
            figure(u64::from(rate.yellow)),
            figure(u64::from(rate.red)),
            figure(u64::from(rate.unknown)),
        ));
    }
    if let Some(limit) = limits.messaging_limit {
        sentences.push(format!(
            "at most {} different people are written to in any 24 hours, replies apart",
            figure(limit)
        ));
    }
    sentences
}

fn records(page: &mut Page) {
    page.say(
        "Every opt-in, opt-out, confirmation and correction is written to a ledger, with its time, its way and its \
         evidence, before it is acknowledged. The ledger is only added to, and each record is chained to the one \
         before, so that a later change shows.",
    );
    page.say(
        "Records do not expire. The personal part of an evidence is kept so that it can be erased; that somebody opted \
         in or out stays on record under a keyed hash of the address, and an opt-out survives the erasure.",
    );
    page.say(
        "Each decision names its reason, the version of these rules and the records it rests on. The log of decisions \
         holds no address.",
    );
}

fn doubt(page: &mut Page, rules: &Rules) {
    page.say(
        "If the record of a person's consent cannot be read, nothing is sent to that person. Messages to numbers and \
         addresses that cannot be understood are refused.",
    );
    page.say(if rules.fail_open.is_empty() {
        "While news of an opt-out may be late, or it is unknown how much was sent, nothing is sent.".to_owned()
    } else {
        format!(
            "While news of an opt-out may be late, or it is unknown how much was sent, only {} messages are sent, and \
             never to somebody who is known to have opted out.",
            joined(rules.fail_open.iter().map(|of| category(*of).to_owned()), "and"),
        )
    });
}

fn shadows(page: &mut Page, shadows: &[Shadow]) {
    for Shadow { rule, until } in shadows {
        let what = match rule {
            Reason::RegionBlocked => "The countries that messages are not sent to",
            Reason::QuietHours => "Quiet hours",
            Reason::Cooldown => "The rest after a provider's refusal",
            Reason::FrequencyCap => "The limit to how often one person gets messages",
            Reason::MessagingLimit => "The limit to how many different people are written to",
            Reason::PairRate => "The rate from one sender to one person",
            Reason::SenderRate => "The rate of one sender",
            Reason::BusinessRate => "The rate of the business",
            _ => rule.word(),
        };
        page.say(match until {
            Some(until) => {
                format!("{what}: a breach is only reported and the message is sent, until {until}.")
            }
            None => format!(
                "{what}: a breach is only reported and the message is sent, until these rules change."
            ),
        });
    }
}

fn more_than_listed(page: &mut Page, count: usize, what: &str) {
    if count > LISTED_MAX {
        page.say(format!("There are {} more such {what}.", count - LISTED_MAX));
    }
}

fn article(of: Category) -> &'static str {
    match of {
        Category::Authentication => "an",
        Category::Marketing | Category::Utility | Category::Service => "a",
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_rules_in_sentences() {
        // A changed sentence is a changed promise: read the difference before taking it over.
        assert_eq!(describe(&Rules::built_in()), include_str!("describe/built_in.txt"));
    }
}
