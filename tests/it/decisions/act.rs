//! The steps of a row: what the person, the callers and the provider do before the question.

use optgate::engine::feedback::SendReport;
use optgate::engine::import::RowOutcome;
use optgate::engine::inbound::{Inbound, InboundContent, InboundOutcome};
use optgate::engine::record::RecordRequest;
use optgate::policy::event::SenderEntry;
use optgate::policy::evidence::Evidence;
use optgate::policy::ids::{BusinessId, TopicId};
use optgate::policy::recorder::Source;
use optgate::policy::report::{
    InvalidateReport, OptInReport, OptOutReport, ReleaseReport, Report, RequestReport,
};
use optgate::policy::time::Timestamp;
use optgate::policy::types::{
    Category, Channel, ConsentType, InvalidateCause, OptInMethod, OptOutMethod, Quality, SendOutcome,
    SenderStatus, TemplateStatus,
};

use super::phrase::{Phrase, list, span};
use super::world::{World, address, fault_words};
use super::{ask, raw, rules};

/// Does one step; the answer is its outcome in words.
pub fn act(world: &mut World<'_>, text: &str) -> String {
    let mut phrase = Phrase::new(text);
    let p = &mut phrase;
    let outcome = if p.begins("opt-in") {
        let id = p.after("id");
        let import = p.has("imported");
        let also = p.after("also");
        let report = Report::OptIn(opt_in(world, p));
        record(world, text, vec![report], id, also, import)
    } else if p.begins("opt-out") {
        let id = p.after("id");
        let import = p.has("imported");
        let with = p.after("together with an opt-in to");
        let mut reports = vec![Report::OptOut(opt_out(world, p))];
        reports.extend(
            with.map(|topics| {
                Report::OptIn(opt_in(world, &mut Phrase::new(&format!("{topics} on WHATSAPP"))))
            }),
        );
        record(world, text, reports, id, None, import)
    } else if p.begins("asks to opt in to") {
        let via = p.after("via").map(|text| channel(&text));
        let expire = p.after("lapsing in").map(|text| world.now().plus_ms(span(&text)));
        let opt_in = opt_in(world, p);
        record(world, text, vec![Report::Request(RequestReport { via, opt_in, expire })], None, None, false)
    } else if p.begins("confirms") {
        let mut report = opt_in(world, &mut Phrase::new("none"));
        report.confirms = world.request;
        report.occurred = Some(p.after("stated").map_or(world.now(), |at| world.moment(&at)));
        record(world, text, vec![Report::OptIn(report)], None, None, false)
    } else if let Some(cause) = p.after("invalidate") {
        let cause = InvalidateCause::from_word(&cause).expect("a cause");
        let occurred = p.after("stated").map(|at| world.moment(&at));
        let out = opt_out(world, p);
        let report = InvalidateReport {
            cause,
            channels: out.channels,
            topics: out.topics,
            categories: out.categories,
            occurred,
        };
        record(world, text, vec![Report::Invalidate(report)], None, None, false)
    } else if p.begins("release holds") {
        record(world, text, vec![Report::Release(ReleaseReport::Holds(Vec::new()))], None, None, false)
    } else if p.begins("release sender") {
        let report = ReleaseReport::Preference(world.sender.clone(), Some(world.now()));
        record(world, text, vec![Report::Release(report)], None, None, false)
    } else if p.begins("says") {
        let said = InboundContent::Text(p.next().expect("a text"));
        inbound(world, p, said)
    } else if p.begins("sends a picture") {
        inbound(world, p, InboundContent::Other)
    } else if p.begins("taps") {
        let tapped = p.next().expect("a button");
        let (payload, title) = tapped.split_once(" / ").unwrap_or(("", &tapped));
        inbound(world, p, InboundContent::Button { payload: payload.into(), title: title.into() })
    } else if let Some(span_text) = p.after("wait") {
        world.stage.clock.advance_ms(span(&span_text));
        String::new()
    } else if let Some(hour) = p.after("at hour") {
        world.go_to_hour(hour.parse().expect("an hour"));
        String::new()
    } else if p.begins("gets") {
        return sends(world, text.trim_start().trim_start_matches("gets "));
    } else if p.begins("reports") {
        report(world, p)
    } else if let Some(name) = p.after("template") {
        template(world, p, &name);
        String::new()
    } else if p.begins("sender is") {
        sender(world, p)
    } else if let Some(to) = p.after("person is") {
        world.person = world.address(&to);
        String::new()
    } else if let Some(to) = p.after("business is") {
        world.business = BusinessId::new(&to).expect("an id");
        String::new()
    } else if let Some(topics) = p.after("topics become") {
        world.rules.topics = rules::read_topics(&topics);
        world.put_rules();
        String::new()
    } else if p.begins("at the other node") {
        world.go_elsewhere();
        String::new()
    } else if p.begins("links 36 more addresses") {
        link_many(world)
    } else if p.begins("erase") {
        let engine = world.engine();
        let erased = engine.erase_evidence(world.business.as_str(), &world.person);
        let (erased, before) = world.stage.runtime.block_on(erased).expect("erased");
        format!("ERASED {erased}, before {before}")
    } else if p.begins("ledger verify") {
        if world.node().is_sound() { "SOUND".into() } else { "FAULTY".into() }
    } else if p.begins("raw opt-out") {
        raw::opt_out(world, p)
    } else {
        panic!("`{text}`: no such step");
    };
    phrase.end();
    outcome
}

/// A check that must allow, as often as `×n` says.
fn sends(world: &mut World<'_>, text: &str) -> String {
    let (text, times) = text.rsplit_once(" ×").map_or((text, 1), |(text, n)| (text, n.parse().expect("n")));
    for _ in 0..times {
        let answer = ask::check(world, &Phrase::new(text), false).expect("a send").expect("an answer");
        assert!(answer.allows(), "`gets {text}`: {:?}", answer.violations);
    }
    String::new()
}

fn channel(text: &str) -> Channel {
    Channel::from_word(text).unwrap_or_else(|| panic!("`{text}` is no channel"))
}

fn channels(text: Option<String>) -> Vec<Channel> {
    text.iter().flat_map(|text| list(text)).map(channel).collect()
}

/// Splits `offers,MARKETING` into topics and categories.
fn purposes(text: &str) -> (Vec<TopicId>, Vec<Category>) {
    let mut found = (Vec::new(), Vec::new());
    for word in list(text) {
        match Category::from_word(word) {
            Some(category) => found.1.push(category),
            None => found.0.push(TopicId::new(word).expect("a topic")),
        }
    }
    found
}

/// An opt-in with all that strict evidence asks for, but for what the phrase leaves out or says otherwise.
fn opt_in(world: &World<'_>, p: &mut Phrase) -> OptInReport {
    let named = p.next().expect("what is opted in to");
    let (topics, categories) = if named == "none" { (Vec::new(), Vec::new()) } else { purposes(&named) };
    let channels = channels(p.after("on"));
    let method = p.after("by").unwrap_or_else(|| "CHECKOUT_FLOW".into());
    let mut evidence = Evidence {
        business_name: world.rules.display_name.clone().unwrap_or_else(|| "Any Shop".into()),
        channels_named: channels.iter().map(|channel| channel.word().to_owned()).collect(),
        message_types: list(&named).iter().map(|word| word.to_lowercase()).collect(),
        notice_text: "We may send you what is named here. Reply STOP to end.".into(),
        action: "ticked an empty box".into(),
        ..Evidence::default()
    };
    if let Some(detail) = p.after("detail") {
        evidence.method_detail = detail;
    }
    if let Some(name) = p.after("shown as") {
        evidence.business_name = name;
    }
    if let Some(words) = p.after("naming") {
        evidence.channels_named = list(&words).iter().map(ToString::to_string).collect();
    }
    if let Some(words) = p.after("telling of") {
        evidence.message_types = list(&words).iter().map(ToString::to_string).collect();
    }
    if p.has("without name") {
        evidence.business_name.clear();
    }
    if p.has("without channels named") {
        evidence.channels_named.clear();
    }
    if p.has("without message types") {
        evidence.message_types.clear();
    }
    if p.has("with a link to the notice") {
        evidence.notice_text.clear();
        evidence.notice_uri = "https://example.org/notice".into();
        evidence.notice_sha256 = vec![3; 32];
    }
    if p.has("with a link and no hash") {
        evidence.notice_text.clear();
        evidence.notice_uri = "https://example.org/notice".into();
    }
    if p.has("without notice") {
        evidence.notice_text.clear();
    }
    if p.has("with nothing but a name") {
        evidence = Evidence { business_name: evidence.business_name, ..Evidence::default() };
    }
    let method = (!p.has("without method"))
        .then(|| OptInMethod::from_word(&method).unwrap_or_else(|| panic!("`{method}` is no way to opt in")));
    let stated = p.after("stated").map_or(world.now(), |at| world.moment(&at));
    OptInReport {
        channels,
        topics,
        categories,
        method,
        evidence,
        consent_type: p.after("type").map_or(ConsentType::Express, |text| {
            ConsentType::from_word(&text).unwrap_or_else(|| panic!("`{text}` is no consent type"))
        }),
        supersedes: if p.has("superseding") { world.outs.clone() } else { Vec::new() },
        occurred: (!p.has("without time")).then_some(stated),
        expire: p.after("for").map(|text| world.moment(&text)),
        confirms: None,
    }
}

fn opt_out(world: &World<'_>, p: &mut Phrase) -> OptOutReport {
    let channels = channels(p.after("on"));
    let method = p.after("by").map_or(OptOutMethod::WebForm, |text| {
        OptOutMethod::from_word(&text).unwrap_or_else(|| panic!("`{text}` is no way to opt out"))
    });
    let occurred = p.after("stated").map(|at| world.moment(&at));
    let text = p.after("text").unwrap_or_default();
    let (topics, categories) = match p.next().as_deref() {
        None | Some("all") => (Vec::new(), Vec::new()),
        Some(named) => purposes(named),
    };
    OptOutReport { channels, topics, categories, method, text, occurred }
}

fn record(
    world: &mut World<'_>,
    text: &str,
    reports: Vec<Report>,
    id: Option<String>,
    also: Option<String>,
    import: bool,
) -> String {
    let report = &reports[0];
    let out = matches!(report, Report::OptOut(_) | Report::Invalidate(_));
    let asks = matches!(report, Report::Request(_));
    let first_channel = match report {
        Report::OptIn(report) => report.channels.first().copied(),
        Report::Request(report) => report.opt_in.channels.first().copied(),
        Report::OptOut(report) => report.channels.first().copied(),
        Report::Invalidate(_) | Report::Release(_) => None,
    };
    let confirmed = matches!(report, Report::OptIn(report) if report.confirms.is_some());
    let hash =
        text.trim().bytes().fold(11_u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    let request = RecordRequest {
        business: world.business.clone(),
        recipient: first_channel.map_or_else(|| world.person.clone(), |channel| world.reach(channel)),
        also: also.iter().map(|text| world.address(text)).collect(),
        request_id: world.next_id(id),
        content: hash.to_le_bytes(),
        reports,
        actor: "service:tables".into(),
        wants_replicated: None,
        source: if import { Source::Import } else { Source::Caller },
        row: None,
        warnings: Vec::new(),
    };
    let engine = world.engine();
    if import {
        let outcomes = world.stage.runtime.block_on(engine.import(vec![request], false)).expect("an import");
        return match &outcomes[0] {
            RowOutcome::Recorded(event) => {
                world.known_events(Some(*event));
                "RECORDED".into()
            }
            RowOutcome::Repeated => "REPEATED".into(),
            RowOutcome::Sound => "SOUND".into(),
            RowOutcome::Refused(error) => fault_words(error),
        };
    }
    match world.stage.runtime.block_on(engine.record_consent(request)) {
        Ok(answer) => {
            world.known_events(Some(answer.event));
            if out {
                world.outs.push(answer.event);
            }
            // A method that must be confirmed makes a request of an opt-in.
            if asks || !confirmed {
                world.request = Some(answer.event);
            }
            let word = if answer.repeated { "REPEATED" } else { "RECORDED" };
            let blocked = if answer.blocked_by.is_empty() { "" } else { ", blocked" };
            let warned = if answer.warnings.is_empty() { "" } else { ", warned" };
            format!("{word}{blocked}{warned}")
        }
        Err(error) => fault_words(&error),
    }
}

fn inbound(world: &mut World<'_>, p: &mut Phrase, content: InboundContent) -> String {
    let channel = p.after("on").map_or(Channel::Whatsapp, |text| channel(&text));
    let quoted = if p.has("quoting the question") { "question-message".into() } else { String::new() };
    let mut identifiers = vec![world.reach(channel)];
    identifiers.extend(p.after("also").map(|text| world.address(&text)));
    if let Some(first) = p.after("as") {
        identifiers.insert(0, world.address(&first));
    }
    let occurred = p.after("stated").map_or(world.now(), |at| world.moment(&at));
    let given = p.after("id");
    let mut hash = [0; 8];
    if let InboundContent::Text(text) = &content {
        text.bytes().take(8).enumerate().for_each(|(at, byte)| hash[at] = byte);
    }
    let message = Inbound {
        business: world.business.clone(),
        sender: world.sender.clone(),
        channel,
        identifiers,
        message_id: world.next_id(given),
        content,
        quoted,
        occurred: Some(occurred),
        language: "en".into(),
        hash,
    };
    let engine = world.engine();
    match world.stage.runtime.block_on(engine.handle_inbound(message)) {
        Ok(answer) => {
            world.known_events(answer.event);
            if answer.outcome == InboundOutcome::OptOut {
                world.outs.extend(answer.event);
            }
            if answer.outcome == InboundOutcome::OptIn && answer.confirmation.is_none() {
                world.request = answer.event;
            }
            let word = match answer.outcome {
                InboundOutcome::OptOut => "OPT_OUT",
                InboundOutcome::OptIn => "OPT_IN",
                InboundOutcome::Help => "HELP",
                InboundOutcome::None => "NONE",
                InboundOutcome::Ambiguous => "AMBIGUOUS",
            };
            let confirmed = if answer.confirmation.is_some() { ", confirmation to send" } else { "" };
            format!("{word}{confirmed}")
        }
        Err(error) => fault_words(&error),
    }
}

fn report(world: &mut World<'_>, p: &mut Phrase) -> String {
    let outcome = p.next().expect("an outcome");
    let outcome = SendOutcome::from_word(&outcome).unwrap_or_else(|| panic!("`{outcome}` is no outcome"));
    let instructions_included = p.has("with instructions");
    let unchecked = p.has("of an unchecked send");
    let named = p.has("naming the message");
    let occurred = p.after("stated").map(|at| world.moment(&at));
    let report = SendReport {
        decision_id: if unchecked { String::new() } else { world.decision.clone() },
        business: unchecked.then(|| world.business.clone()),
        sender: unchecked.then(|| world.sender.clone()),
        recipient: unchecked.then(|| world.person.clone()),
        channel: Channel::Whatsapp,
        outcome,
        error_code: p.next().unwrap_or_default(),
        message_id: if named { "question-message".into() } else { String::new() },
        instructions_included,
        occurred,
    };
    let engine = world.engine();
    match world.stage.runtime.block_on(engine.report_send(report)) {
        Ok(answer) => {
            world.known_events(answer.events.last().copied());
            format!("TAKEN, events {}", answer.events.len())
        }
        Err(error) => fault_words(&error),
    }
}

fn template(world: &World<'_>, p: &mut Phrase, name: &str) {
    let status = p.after("is").map_or(TemplateStatus::Approved, |text| {
        TemplateStatus::from_word(&text).unwrap_or_else(|| panic!("`{text}` is no status"))
    });
    let pause_until = p.after("for").map(|text| world.moment(&text));
    let instructs = p.has("with instructions");
    let category = p.after("of").map_or(Category::Marketing, |text| {
        Category::from_word(&text).unwrap_or_else(|| panic!("`{text}` is no category"))
    });
    let topic = p.after("topic").or_else(|| (name == "weekly_offers").then(|| "offers".into()));
    ask::put(world, name, category, topic.as_deref(), status, instructs, pause_until);
}

fn sender(world: &World<'_>, p: &mut Phrase) -> String {
    let word = p.next().expect("a quality or status");
    let status_until: Option<Timestamp> = p.after("for").map(|text| world.moment(&text));
    let entry = SenderEntry {
        business: world.business.clone(),
        sender: world.sender.clone(),
        quality: Quality::from_word(&word).unwrap_or(Quality::Unknown),
        status: SenderStatus::from_word(&word).unwrap_or(SenderStatus::Connected),
        status_until,
        time: world.now(),
    };
    assert!(
        Quality::from_word(&word).is_some() || SenderStatus::from_word(&word).is_some(),
        "`{word}` is neither a quality nor a status"
    );
    let engine = world.engine();
    match world.stage.runtime.block_on(engine.put_sender(entry)) {
        Ok(_) => String::new(),
        Err(error) => fault_words(&error),
    }
}

/// More addresses than are followed, three requests' worth.
fn link_many(world: &mut World<'_>) -> String {
    for at in 0..6 {
        let also = (0..6).map(|n| address(&format!("+49151300{at}{n}000")).expect("a number")).collect();
        let request = RecordRequest {
            business: world.business.clone(),
            recipient: world.person.clone(),
            also,
            request_id: world.next_id(None),
            content: [at; 8],
            reports: vec![Report::OptIn(opt_in(world, &mut Phrase::new("offers on WHATSAPP")))],
            actor: String::new(),
            wants_replicated: None,
            source: Source::Caller,
            row: None,
            warnings: Vec::new(),
        };
        let engine = world.engine();
        if let Err(error) = world.stage.runtime.block_on(engine.record_consent(request)) {
            return fault_words(&error);
        }
    }
    String::new()
}
