//! A person's message: it opens the service window, and may opt out, opt in, ask for help, or leave doubt.

use std::sync::Arc;

use crate::address::Address;
use crate::policy::event::{Change, ConsentEvent, Hold, OptOut};
use crate::policy::evidence::{Evidence, Personal};
use crate::policy::ids::{BusinessId, EventId, Identifier, SenderId, TopicId};
use crate::policy::keywords::{self, Context, Outcome, StopCategory, StopScope as Named, TextKind};
use crate::policy::record::AboutKind;
use crate::policy::recorder;
use crate::policy::report::{self, OptInReport};
use crate::policy::rules::{OptInProgram, Rules, StopScope};
use crate::policy::standing::{Known, WINDOW_MS};
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Channel, ConsentType, OptInMethod, OptOutMethod, Purpose, Scope};
use crate::view::Touched;

use super::carry_on::carry_on;
use super::error::EngineError;
use super::people::{Identity, People, Whom};
use super::record::Durability;
use super::token::Token;
use super::{Engine, Inner};

/// What the person sent.
#[derive(Clone, PartialEq, Eq)]
pub enum InboundContent {
    /// Text.
    Text(String),
    /// A button or list entry.
    Button {
        /// What the business put behind it.
        payload: String,
        /// What the person saw.
        title: String,
    },
    /// Anything else: a picture, a voice message.
    Other,
}

/// A person's message.
#[derive(Clone)]
pub struct Inbound {
    /// The business.
    pub business: BusinessId,
    /// The sender written to.
    pub sender: SenderId,
    /// The channel.
    pub channel: Channel,
    /// The person's identifiers in the message, the first being the one it is answered to. At least one.
    pub identifiers: Vec<Address>,
    /// The provider's id of the message.
    pub message_id: String,
    /// What it says.
    pub content: InboundContent,
    /// The provider's id of the message that it quotes.
    pub quoted: String,
    /// When the provider says it was sent.
    pub occurred: Option<Timestamp>,
    /// The person's language.
    pub language: String,
    /// A keyed hash of the message.
    pub hash: [u8; 8],
}

/// What a message came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundOutcome {
    /// The person opted out.
    OptOut,
    /// The person opted in, confirmed, or renewed.
    OptIn,
    /// The person wants help.
    Help,
    /// Nothing about consent.
    None,
    /// Perhaps an opt-out; marketing waits for a clear word.
    Ambiguous,
}

/// A message to answer with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// Its text.
    pub text: String,
    /// Its language.
    pub language: String,
    /// The event that it is about; give it as `about` in the check.
    pub about: EventId,
    /// Until when it may be sent.
    pub send_before: Timestamp,
}

/// The answer to [`Engine::handle_inbound`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundAnswer {
    /// What it came to.
    pub outcome: InboundOutcome,
    /// The event that it became.
    pub event: Option<EventId>,
    /// What to answer with.
    pub confirmation: Option<Confirmation>,
    /// Until when free-form replies may be sent; `None` when the window is ended.
    pub window_until: Option<Timestamp>,
    /// The token that lets a later check see it.
    pub token: String,
    /// Whose disks the event is on, if there is one.
    pub durability: Option<Durability>,
}

impl Engine {
    /// Takes a person's message in. One that opts out waits a little until a majority of the anchors has it.
    ///
    /// # Errors
    /// [`EngineError`]; a message that opts out is recorded whenever this process can write at all.
    pub async fn handle_inbound(&self, inbound: Inbound) -> Result<InboundAnswer, EngineError> {
        let inner = Arc::clone(&self.inner);
        let mut answer = carry_on(async move { inner.inbound(&inbound).await }).await?;
        if let Some(event) = answer.event {
            let suppresses = matches!(answer.outcome, InboundOutcome::OptOut | InboundOutcome::Ambiguous);
            // Not carried on: who gives up waits no longer.
            answer.durability = Some(self.inner.durability(event, None, suppresses).await?);
        }
        Ok(answer)
    }
}

/// Where a message stands among the person's messages on its channel, by the provider's clock: an opt-out as late as it may have
/// been sent, anything else as early, so that neither the order of delivery nor a clock here that is behind lets another win.
#[derive(Clone, Copy)]
struct Order {
    /// Not sent before.
    no_earlier: Timestamp,
    /// Not sent after.
    no_later: Timestamp,
}

impl Order {
    fn of(inbound: &Inbound, rules: &Rules, now: Timestamp) -> Self {
        let latest = now.plus_ms(rules.clock_margin_ms);
        match inbound.occurred {
            Some(stated) => Self { no_earlier: stated.min(now), no_later: stated.min(latest) },
            None => Self { no_earlier: now.minus_ms(rules.clock_margin_ms), no_later: latest },
        }
    }
}

/// What a message means once the person's records are known.
struct Meaning {
    outcome: InboundOutcome,
    changes: Vec<Change>,
    answer: Option<TextKind>,
    evidence: Evidence,
}

impl Meaning {
    fn of(outcome: InboundOutcome) -> Self {
        Self { outcome, changes: Vec::new(), answer: None, evidence: Evidence::default() }
    }
}

impl Inner {
    async fn inbound(&self, inbound: &Inbound) -> Result<InboundAnswer, EngineError> {
        self.serving()?;
        let book = self.book();
        let business = inbound.business.as_str();
        let Some(first) = inbound.identifiers.first() else {
            return Err(EngineError::field("identifiers", "give at least one identifier of the person"));
        };
        // An unlisted business's opt-outs are recorded all the same; opt-ins to it are not.
        let rules = Arc::clone(book.rules(business).unwrap_or(book.defaults()));
        let identity = Identity::of(&self.key, business, first);
        let Whom { subjects, forms } = Whom::of(&self.key, business, &identity, &inbound.identifiers[1..]);
        let mut turn = self.stripes.lock(&subjects).await;
        let reading = self.lexicon_read(inbound, &rules);
        let opts_out = matches!(reading.0, Outcome::OptOut(_));
        let (people, _) = self.people_or_own(identity, opts_out)?;

        let now = self.clock.now();
        let at = inbound.occurred.unwrap_or(now).min(now);
        let order = Order::of(inbound, &rules, now);
        let mark = self.request_mark(business, &format!("inbound\0{}", inbound.message_id), inbound.hash);
        let mark = mark.filter(|_| !inbound.message_id.is_empty());
        // Another message under an id that was used before is no repetition where it opts out.
        let taken = mark.and_then(|mark| {
            let record = &people.own.record;
            record.taken_as(mark).or_else(|| record.taken(mark.key).filter(|_| !opts_out))
        });
        if let Some(taken) = taken {
            let answer = self.repeated(taken.event, &people, inbound, &reading.0, now);
            // The first delivery may have ended between its event and its window.
            let reopens = !matches!(answer.outcome, InboundOutcome::OptOut | InboundOutcome::Ambiguous);
            self.hear(&subjects, inbound, at, reopens.then_some(order.no_earlier))?;
            return Ok(answer);
        }
        let known = people.known();
        let (outcome, language) = reading;
        let meaning = self.meaning(&outcome, inbound, &rules, &people, &known, at, order, now);

        let reopens = !matches!(meaning.outcome, InboundOutcome::OptOut | InboundOutcome::Ambiguous);
        let mut event = None;
        let links_anew = !people.own.record.links.hold(&people.identity.own, &subjects, &forms);
        if !meaning.changes.is_empty() || links_anew {
            let personal = Personal {
                texts: vec![words_of(&inbound.content)],
                evidence: vec![meaning.evidence],
                actor: "subject:".into(),
                request_id: inbound.message_id.clone(),
                source: None,
            };
            let consent_event = ConsentEvent {
                business: inbound.business.clone(),
                subjects: subjects.clone(),
                forms,
                recorded: now,
                request: mark,
                rules_version: book.version().to_owned(),
                numbered_late: false,
                changes: meaning.changes,
            };
            event = Some(self.append_event(consent_event, &personal, None, &mut turn).await?);
        }
        self.hear(&subjects, inbound, at, reopens.then_some(order.no_earlier))?;
        let own = self.view.get(&people.identity.own)?;
        let confirmation = event.and_then(|event| {
            let allowance = own.record.allowance(event)?;
            let kind = meaning.answer?;
            let name = rules.display_name.as_deref().unwrap_or(business);
            Some(Confirmation {
                text: self.lexicon().render(kind, &language, name),
                language: language.clone(),
                about: event,
                send_before: allowance.until,
            })
        });
        let window = own.usage.window(inbound.channel, inbound.sender.as_str());
        let until = window.map(|window| window.last.plus_ms(WINDOW_MS)).filter(|until| now < *until);
        Ok(InboundAnswer {
            outcome: meaning.outcome,
            event,
            confirmation,
            window_until: until.filter(|_| meaning.outcome != InboundOutcome::OptOut),
            token: event.map_or_else(|| self.vector.token(), |event| Token(Some(event)).to_string()),
            durability: None,
        })
    }

    /// Opens the service window for every identifier that the message carries.
    fn hear(
        &self,
        subjects: &[Identifier],
        inbound: &Inbound,
        at: Timestamp,
        reopened: Option<Timestamp>,
    ) -> Result<(), EngineError> {
        for subject in subjects {
            self.view.update(subject, |person| {
                person.usage.heard(inbound.channel, &inbound.sender, at, reopened);
                ((), Touched::Usage)
            })?;
            self.tell_usage(subject, |told| {
                told.usage.heard(inbound.channel, &inbound.sender, at, reopened);
            });
        }
        Ok(())
    }

    /// The provider delivered the same message again: the answer is the same, nothing is written.
    fn repeated(
        &self,
        event: EventId,
        people: &People,
        inbound: &Inbound,
        outcome: &Outcome,
        now: Timestamp,
    ) -> InboundAnswer {
        let allowance = people.own.record.allowance(event);
        let outcome = match (allowance.map(|allowance| allowance.kind), outcome) {
            (Some(AboutKind::OptInConfirmation | AboutKind::Question), _) => InboundOutcome::OptIn,
            (_, Outcome::OptOut(_)) => InboundOutcome::OptOut,
            (_, Outcome::Help) => InboundOutcome::Help,
            (_, Outcome::Ambiguous) => InboundOutcome::Ambiguous,
            (_, Outcome::OptIn | Outcome::Confirm | Outcome::Program(_)) => InboundOutcome::OptIn,
            (_, Outcome::None { .. }) => InboundOutcome::None,
        };
        let window = people.own.usage.window(inbound.channel, inbound.sender.as_str());
        let until = window.map(|window| window.last.plus_ms(WINDOW_MS)).filter(|until| now < *until);
        InboundAnswer {
            outcome,
            event: Some(event),
            confirmation: None,
            window_until: until.filter(|_| outcome != InboundOutcome::OptOut),
            token: Token(Some(event)).to_string(),
            durability: None,
        }
    }

    fn lexicon_read(&self, inbound: &Inbound, rules: &Rules) -> (Outcome, String) {
        let topics: Vec<(&str, bool)> = rules
            .topics
            .iter()
            .map(|(topic, category)| (topic.as_str(), *category == Category::Marketing))
            .collect();
        let names: Vec<&str> =
            rules.display_name.iter().chain(&rules.also_known_as).map(String::as_str).collect();
        let programs = programs_on(rules, inbound.channel);
        let words: Vec<&str> = match inbound.content {
            InboundContent::Button { .. } => {
                programs.iter().flat_map(|program| &program.buttons).map(String::as_str).collect()
            }
            _ => programs.iter().flat_map(|program| &program.keywords).map(String::as_str).collect(),
        };
        let language = (!inbound.language.is_empty()).then_some(inbound.language.as_str());
        let context = Context { topics: &topics, opt_in_words: &words, business_names: &names, language };
        let lexicon = self.lexicon();
        let reading = match &inbound.content {
            InboundContent::Text(text) => keywords::classify(lexicon, inbound.channel, text, &context),
            InboundContent::Button { payload, title } => {
                keywords::classify_button(lexicon, payload, title, &context)
            }
            InboundContent::Other => keywords::classify(lexicon, inbound.channel, "", &context),
        };
        (reading.outcome, reading.language.to_owned())
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `inbound`, which owns all of them")]
    fn meaning(
        &self,
        outcome: &Outcome,
        inbound: &Inbound,
        rules: &Rules,
        people: &People,
        known: &[Known<'_>],
        at: Timestamp,
        order: Order,
        now: Timestamp,
    ) -> Meaning {
        let listed = self.book().rules(inbound.business.as_str()).is_some();
        let channel = inbound.channel;
        // What nobody timed comes after every doubt that is known, whatever the clock does.
        let clears = inbound.occurred.map_or_else(|| latest_hold(known, channel, now).plus_ms(1), |_| at);
        match outcome {
            Outcome::OptOut(named) => {
                let mut changes = vec![opt_out(named, inbound, rules, known, at, order, now)];
                changes.extend(release_hold(known, channel, clears));
                Meaning {
                    changes,
                    answer: TextKind::answering(outcome),
                    ..Meaning::of(InboundOutcome::OptOut)
                }
            }
            Outcome::Ambiguous => Meaning {
                // As late as the provider timed it: a clear reply that was sent before must not end it.
                changes: vec![Change::Hold(Hold {
                    channel,
                    held: true,
                    time: inbound
                        .occurred
                        .map_or_else(|| latest_hold(known, channel, now), |_| order.no_later),
                })],
                ..Meaning::of(InboundOutcome::Ambiguous)
            },
            Outcome::Help => Meaning {
                changes: vec![Change::Help { channel }],
                answer: Some(TextKind::Help),
                ..Meaning::of(InboundOutcome::Help)
            },
            Outcome::None { negated_stop } => Meaning {
                changes: if *negated_stop { release_hold(known, channel, clears) } else { Vec::new() },
                ..Meaning::of(InboundOutcome::None)
            },
            Outcome::OptIn | Outcome::Confirm | Outcome::Program(_) if !listed => {
                Meaning::of(InboundOutcome::None)
            }
            Outcome::Confirm => {
                let confirmed = self.asked(inbound, people, rules, at).and_then(|request| {
                    recorder::confirm(request, channel, at, order.no_later, known, rules, now)
                });
                opted_in(confirmed.into_iter().map(Change::OptIn).collect(), known, channel, clears)
            }
            Outcome::OptIn => {
                let asked = self.asked(inbound, people, rules, at).and_then(|request| {
                    recorder::confirm(request, channel, at, order.no_later, known, rules, now)
                });
                let renewed = match asked {
                    Some(confirmed) => vec![confirmed],
                    None => recorder::renew(channel, order.no_earlier, known, rules, now),
                };
                opted_in(renewed.into_iter().map(Change::OptIn).collect(), known, channel, clears)
            }
            Outcome::Program(word) => {
                let Some(program) = program_of(*word, inbound, rules) else {
                    return Meaning::of(InboundOutcome::None);
                };
                let report = program_report(program, inbound, rules, at);
                let changes = recorder::join_program(&report, channel, order.no_earlier, known, rules, now);
                let pending = changes.iter().any(|change| matches!(change, Change::Request(_)));
                let meaning = opted_in(changes, known, channel, clears);
                Meaning {
                    evidence: report.evidence,
                    answer: if pending { None } else { meaning.answer },
                    ..meaning
                }
            }
        }
    }

    /// The question that this message answers: the one it quotes, else the last message allowed here.
    fn asked(&self, inbound: &Inbound, people: &People, rules: &Rules, at: Timestamp) -> Option<EventId> {
        if !inbound.quoted.is_empty() {
            return people.own.usage.about_message(self.message_hash(&inbound.quoted));
        }
        let last = people.own.usage.last_allowed(inbound.channel)?;
        // A YES that was written before the question, and only arrived after it, answers something else.
        last.about.filter(|_| at.plus_ms(rules.clock_margin_ms) >= last.time)
    }

    /// A keyed hash of a provider's message id.
    pub(super) fn message_hash(&self, message_id: &str) -> [u8; 8] {
        let mac = self.key.mac16("message", &[message_id.as_bytes()]);
        let mut hash = [0; 8];
        hash.copy_from_slice(&mac[..8]);
        hash
    }
}

fn opted_in(mut changes: Vec<Change>, known: &[Known<'_>], channel: Channel, at: Timestamp) -> Meaning {
    if changes.is_empty() {
        return Meaning::of(InboundOutcome::None);
    }
    // A request that waits for its confirmation clears up nothing.
    if changes.iter().any(|change| matches!(change, Change::OptIn(_))) {
        changes.extend(release_hold(known, channel, at));
    }
    Meaning { changes, answer: Some(TextKind::OptIn), ..Meaning::of(InboundOutcome::OptIn) }
}

/// When a doubt begins that nobody timed: now, and before no hold or release that is known, whatever the clock does.
fn latest_hold(known: &[Known<'_>], channel: Channel, now: Timestamp) -> Timestamp {
    let registers = known.iter().flat_map(|known| &known.record.holds);
    registers.filter(|(at, _)| *at == channel).map(|(_, register)| register.time).fold(now, Timestamp::max)
}

/// A clear reply ends the doubt that an earlier one left.
fn release_hold(known: &[Known<'_>], channel: Channel, at: Timestamp) -> Vec<Change> {
    let held = known
        .iter()
        .flat_map(|known| &known.record.holds)
        .filter(|(at, register)| *at == channel && register.suppresses)
        .map(|(_, register)| register.time)
        .max()
        // A message that was written before the doubtful one, and only arrived after it, clears up nothing.
        .filter(|held| *held < at);
    held.map(|held| Change::Hold(Hold { channel, held: false, time: held.plus_ms(1) })).into_iter().collect()
}

/// The scopes of what a message named, as the business's rules have them.
fn scopes_named(named: &Named, inbound: &Inbound, rules: &Rules) -> Vec<Scope> {
    let everywhere =
        named.all_channels || (named.is_everything_here() && rules.stop_scope == StopScope::AllChannels);
    let channels: Vec<Channel> = match (everywhere, named.channels.is_empty()) {
        (true, _) => Vec::new(),
        (false, true) => vec![inbound.channel],
        (false, false) => named.channels.clone(),
    };
    let categories: &[Category] = match named.category {
        StopCategory::Marketing => &[Category::Marketing],
        StopCategory::Unspecified => &[],
    };
    let topics: Vec<TopicId> = named.topics.iter().filter_map(|topic| TopicId::new(topic).ok()).collect();
    let mut scopes = report::out_scopes(&channels, &topics, categories, rules);
    if topics.len() < named.topics.len() {
        scopes.push(Scope { channel: None, purpose: Purpose::All });
    }
    scopes
}

fn opt_out(
    named: &[Named],
    inbound: &Inbound,
    rules: &Rules,
    known: &[Known<'_>],
    at: Timestamp,
    order: Order,
    now: Timestamp,
) -> Change {
    let mut scopes: Vec<Scope> = named.iter().flat_map(|named| scopes_named(named, inbound, rules)).collect();
    scopes.sort_unstable();
    scopes.dedup();
    let repeated = recorder::is_repeat(&scopes, known, rules, now);
    Change::OptOut(OptOut {
        scopes,
        time: recorder::opt_out_time(Some(at), recorder::Source::Caller, known, rules, now),
        stated: inbound.occurred,
        imported: false,
        inbound: Some((inbound.channel, order.no_later)),
        method: match inbound.content {
            InboundContent::Button { .. } => OptOutMethod::Button,
            _ => OptOutMethod::Keyword,
        },
        confirm_until: (!repeated).then(|| now.plus_ms(rules.stop_confirmation_within_ms)),
    })
}

fn programs_on(rules: &Rules, channel: Channel) -> Vec<&OptInProgram> {
    rules.opt_in_programs.iter().filter(|program| program.channel == channel).collect()
}

fn program_of<'a>(word: usize, inbound: &Inbound, rules: &'a Rules) -> Option<&'a OptInProgram> {
    let is_button = matches!(inbound.content, InboundContent::Button { .. });
    let mut at = word;
    for program in programs_on(rules, inbound.channel) {
        let words = if is_button { &program.buttons } else { &program.keywords };
        if at < words.len() {
            return Some(program);
        }
        at -= words.len();
    }
    None
}

/// A program's notice names the business, the channel and the topics: it is the evidence.
fn program_report(program: &OptInProgram, inbound: &Inbound, rules: &Rules, at: Timestamp) -> OptInReport {
    let is_button = matches!(inbound.content, InboundContent::Button { .. });
    OptInReport {
        channels: vec![program.channel],
        topics: program.topics.clone(),
        categories: Vec::new(),
        method: Some(if is_button { OptInMethod::WhatsappButton } else { OptInMethod::SmsKeyword }),
        evidence: Evidence {
            business_name: rules.display_name.clone().unwrap_or_default(),
            channels_named: vec![program.channel.word().to_owned()],
            message_types: program.topics.iter().map(|topic| topic.as_str().to_owned()).collect(),
            notice_text: program.notice_text.clone(),
            language: inbound.language.clone(),
            action: words_of(&inbound.content),
            message_id: inbound.message_id.clone(),
            ..Evidence::default()
        },
        consent_type: ConsentType::Express,
        supersedes: Vec::new(),
        occurred: Some(at),
        expire: None,
        confirms: None,
    }
}

fn words_of(content: &InboundContent) -> String {
    let mut text = match content {
        InboundContent::Text(text) => text.clone(),
        InboundContent::Button { payload, title } => format!("{title} [{payload}]"),
        InboundContent::Other => String::new(),
    };
    let mut end = text.len().min(report::OPT_OUT_TEXT_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
