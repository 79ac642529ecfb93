//! `ReportSend`: what became of a send. Failures give back what they consumed, and the provider's codes teach.

use std::sync::Arc;

use crate::address::Address;
use crate::limits::{Hold, MarkClass, RecipientNews, SendMark};
use crate::policy::event::{Change, ConsentEvent, LedgerEntry, Preference, SenderEntry};
use crate::policy::evidence::Personal;
use crate::policy::feedback::{self, Lesson};
use crate::policy::ids::{BusinessId, EventId, Identifier, SenderId};
use crate::policy::rules::Rules;
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Channel, Quality, SendOutcome, SenderStatus};
use crate::view::{Person, Touched};

use super::carry_on::carry_on;
use super::decision::Decision;
use super::error::EngineError;
use super::people::Identity;
use super::registry::after;
use super::stripes::Turn;
use super::token::Token;
use super::{Engine, Inner};

/// What became of a send.
#[derive(Clone, Debug)]
pub struct SendReport {
    /// The decision's id; empty where the send was never checked.
    pub decision_id: String,
    /// The business, where there is no decision that can be opened.
    pub business: Option<BusinessId>,
    /// The sender, where there is no decision that can be opened.
    pub sender: Option<SenderId>,
    /// The person, where there is no decision that can be opened.
    pub recipient: Option<Address>,
    /// The channel, where there is no decision that can be opened.
    pub channel: Channel,
    /// What became of it.
    pub outcome: SendOutcome,
    /// The provider's code of a failure.
    pub error_code: String,
    /// The provider's id of the message.
    pub message_id: String,
    /// Whether the message carried opt-out instructions.
    pub instructions_included: bool,
    /// When it happened, by the provider's time.
    pub occurred: Option<Timestamp>,
}

/// What the report came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportAnswer {
    /// Events that it became.
    pub events: Vec<EventId>,
    /// The token that lets a later check see them.
    pub token: String,
}

/// What a failure taught.
#[derive(Default)]
struct Learned {
    /// Events that it became.
    events: Vec<EventId>,
    /// The one by which the person stopped marketing.
    stopped: Option<EventId>,
}

/// Whom and what a report is about.
struct About {
    business: BusinessId,
    sender: Option<SenderId>,
    channel: Channel,
    recipient: Identifier,
    decision: Option<Decision>,
}

impl Engine {
    /// Takes a report in.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn report_send(&self, report: SendReport) -> Result<ReportAnswer, EngineError> {
        let inner = Arc::clone(&self.inner);
        let (answer, stopped) = carry_on(async move { inner.report(&report).await }).await?;
        if let Some(event) = stopped {
            // The provider tells of it once. Not carried on: who gives up waits no longer.
            self.inner.durability(event, None, true).await?;
        }
        Ok(answer)
    }
}

impl Inner {
    /// The answer, and the event by which the person stopped marketing, if the report told of that.
    async fn report(&self, report: &SendReport) -> Result<(ReportAnswer, Option<EventId>), EngineError> {
        self.serving()?;
        let about = self.about(report)?;
        let book = self.book();
        let rules = Arc::clone(book.rules(about.business.as_str()).unwrap_or(book.defaults()));
        let now = self.clock.now();
        let learned = match report.outcome {
            SendOutcome::Sent | SendOutcome::Delivered | SendOutcome::Read => {
                self.note_sent(report, &about, report.occurred.unwrap_or(now).min(now))?;
                Learned::default()
            }
            SendOutcome::Failed => {
                self.give_back(&about, &rules, now)?;
                self.learn(report, &about, &rules, now).await?
            }
        };
        let Learned { events, stopped } = learned;
        let token = events.last().map_or_else(|| self.vector.token(), |id| Token(Some(*id)).to_string());
        Ok((ReportAnswer { events, token }, stopped))
    }

    fn about(&self, report: &SendReport) -> Result<About, EngineError> {
        let unreadable = if report.decision_id.is_empty() {
            None
        } else {
            match self.about_decision(&report.decision_id) {
                Ok(about) => return Ok(about),
                Err(fault) => Some(fault),
            }
        };
        let (Some(business), Some(sender), Some(recipient)) =
            (&report.business, &report.sender, &report.recipient)
        else {
            return Err(unreadable.unwrap_or_else(|| {
                EngineError::field(
                    "decision_id",
                    "give the decision's id, or `business_id`, `sender_id` and `recipient` of a send that was not checked",
                )
            }));
        };
        if unreadable.is_some() {
            // Refusing it would lose an opt-out that the provider tells of only once.
            tracing::warn!(
                business = business.as_str(),
                "a report's decision cannot be opened; it is taken as of a send that was not checked"
            );
        }
        let identity = Identity::of(&self.key, business.as_str(), recipient);
        Ok(About {
            business: business.clone(),
            sender: Some(sender.clone()),
            channel: report.channel,
            recipient: identity.own,
            decision: None,
        })
    }

    fn about_decision(&self, id: &str) -> Result<About, EngineError> {
        let decision = Decision::open(&self.key, id)
            .map_err(|fault| EngineError::field("decision_id", fault.to_string()))?;
        let business = BusinessId::new(&decision.business)
            .map_err(|fault| EngineError::field("decision_id", fault.to_string()))?;
        Ok(About {
            business,
            sender: SenderId::new(&decision.sender).ok(),
            channel: decision.channel,
            recipient: decision.recipient,
            decision: Some(decision),
        })
    }

    fn note_sent(&self, report: &SendReport, about: &About, at: Timestamp) -> Result<(), EngineError> {
        let carried = report.instructions_included
            || about.decision.as_ref().is_some_and(|decision| decision.carries_instructions);
        let authentication =
            about.decision.as_ref().is_some_and(|decision| decision.category == Category::Authentication);
        let question = about.decision.as_ref().and_then(|decision| Some((decision.about?, decision.time)));
        let named = question.filter(|_| !report.message_id.is_empty());
        let met = carried && !authentication;
        if !met && named.is_none() {
            return Ok(());
        }
        let note = |person: &mut Person| {
            if met {
                person.usage.instruct(about.channel, at);
            }
            if let Some((event, allowed)) = named {
                person.usage.name_message(
                    event,
                    about.channel,
                    allowed,
                    self.message_hash(&report.message_id),
                );
            }
        };
        self.view.update(&about.recipient, |person| {
            note(person);
            ((), Touched::Usage)
        })?;
        self.tell_usage(&about.recipient, note);
        Ok(())
    }

    /// The first FAILED gives back what the send consumed; a receipt is good once.
    fn give_back(&self, about: &About, rules: &Rules, now: Timestamp) -> Result<(), EngineError> {
        let Some(decision) = about.decision.as_ref().filter(|decision| decision.consumed) else {
            return Ok(());
        };
        let receipt = &decision.receipt;
        let class = MarkClass::of(decision.category).filter(|_| receipt.marked);
        let mark = class.map(|class| SendMark { time: decision.time, nonce: receipt.nonce, class });
        let owed = self.view.update(&about.recipient, |person| {
            let given = self.limiter.give_back(
                about.business.as_str(),
                rules.portfolio.as_deref(),
                &decision.portfolio_recipient,
                receipt,
                &mut person.frequency,
                now,
            );
            // The send, or its question, may have been another node's and not be heard of yet.
            let voided = mark.is_some_and(|mark| person.frequency.void(mark)) || given.mark;
            let failed = decision.about.is_some_and(|event| person.usage.unspend(event, decision.time));
            // Instructions that did not arrive are owed again. Which message carried them is not known where the
            // report said so; owing them once more is the lesser fault. Providers' times may lag.
            let met = person.usage.instructed(about.channel);
            let owed = met.filter(|met| met.plus_ms(rules.clock_margin_ms) >= decision.time);
            if owed.is_some() {
                person.usage.owe_instructions(about.channel);
            }
            let changed = voided || failed || owed.is_some();
            (owed, if changed { Touched::Usage } else { Touched::Nothing })
        })?;
        self.tell_usage(&about.recipient, |told| {
            mark.map(|mark| told.frequency.void(mark));
            decision.about.map(|event| told.usage.unspend(event, decision.time));
            told.usage.undone.owed.extend(owed.map(|met| (about.channel, met)));
        });
        self.tell_recipient(
            about.business.as_str(),
            rules,
            &decision.portfolio_recipient,
            receipt,
            RecipientNews::Failed,
        );
        Ok(())
    }

    async fn learn(
        &self,
        report: &SendReport,
        about: &About,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<Learned, EngineError> {
        let mut learned = Learned::default();
        let business = about.business.as_str();
        // A report may come again long after. What came to be known since is not undone by it.
        let failed = report.occurred.or(about.decision.as_ref().map(|decision| decision.time));
        let is_old_news =
            |known: Timestamp| failed.is_some_and(|failed| failed.plus_ms(rules.clock_margin_ms) < known);
        let sender = about.sender.as_ref();
        let lasts_past = |until: Option<Timestamp>| until.is_none_or(|until| until > failed.unwrap_or(now));
        for lesson in feedback::lessons(&report.error_code, about.channel) {
            match lesson {
                Lesson::MarketingStopped => {
                    let Some(sender) = sender else { continue };
                    let event = self.stop_marketing(report, about, sender, rules, now).await?;
                    learned.events.push(event);
                    learned.stopped = Some(event);
                }
                Lesson::WindowClosed => {
                    let Some(sender) = sender else { continue };
                    let closed = self.view.update(&about.recipient, |person| {
                        let window = person.usage.window(about.channel, sender.as_str());
                        // What the person wrote since opened another one.
                        let window =
                            window.filter(|window| failed.is_none_or(|failed| window.last <= failed));
                        let closed = window.map(|window| (about.channel, sender.clone(), window.last));
                        if closed.is_none() {
                            return (None, Touched::Nothing);
                        }
                        person.usage.close_window(about.channel, sender.as_str());
                        (closed, Touched::Usage)
                    })?;
                    self.tell_usage(&about.recipient, |told| told.usage.undone.closed.extend(closed));
                }
                Lesson::RecipientMarketingCooldown => {
                    let hold = Hold::RecipientMarketing(&about.recipient);
                    let span_ms = rules.cooldowns.recipient_marketing_ms;
                    self.limiter.cool_down(business, about.channel, hold, span_ms, now);
                }
                Lesson::SenderCooldown => {
                    let hold = sender.map_or(Hold::Business, |sender| Hold::Sender(sender.as_str()));
                    self.limiter.cool_down(business, about.channel, hold, rules.cooldowns.sender_ms, now);
                }
                Lesson::SenderWait(span_ms) => {
                    let hold = sender.map_or(Hold::Business, |sender| Hold::Sender(sender.as_str()));
                    self.limiter.cool_down(business, about.channel, hold, *span_ms, now);
                }
                Lesson::SenderBackOff => {
                    let hold = sender.map_or(Hold::Business, |sender| Hold::Sender(sender.as_str()));
                    self.limiter.back_off(business, about.channel, hold, now);
                }
                Lesson::PairBackOff => {
                    let hold = sender.map_or(Hold::RecipientMarketing(&about.recipient), |sender| {
                        Hold::Pair(sender.as_str(), &about.recipient)
                    });
                    self.limiter.back_off(business, about.channel, hold, now);
                }
                Lesson::BusinessBackOff => {
                    self.limiter.back_off(business, about.channel, Hold::Business, now);
                }
                Lesson::BusinessWait(span_ms) => {
                    self.limiter.cool_down(business, about.channel, Hold::Business, *span_ms, now);
                }
                Lesson::SenderStopped => {
                    let Some(sender) = sender else { continue };
                    let known = self.view.sender(business, sender.as_str());
                    let is_known = |known: &SenderEntry| {
                        known.status == SenderStatus::Banned && lasts_past(known.status_until)
                    };
                    if known.as_ref().is_some_and(|known| is_known(known) || is_old_news(known.time)) {
                        continue;
                    }
                    let quality = known.as_ref().map_or(Quality::Unknown, |known| known.quality);
                    let entry = SenderEntry {
                        business: about.business.clone(),
                        sender: sender.clone(),
                        quality,
                        status: SenderStatus::Banned,
                        status_until: None,
                        time: after(now, known.map(|known| known.time)),
                    };
                    learned.events.push(self.append_entry(LedgerEntry::Sender(entry), true).await?);
                }
                Lesson::TemplateIs(status) => {
                    let template = about.decision.as_ref().and_then(|decision| decision.template.as_ref());
                    let Some((name, language)) = template else { continue };
                    let known = self
                        .view
                        .template(business, name, language)
                        .or_else(|| self.book().seed(business, name, language).cloned());
                    let Some(known) = known else { continue };
                    // What the provider said of it, and until when, is not undone by hearing of it once more.
                    let is_known = known.status == *status && lasts_past(known.pause_until);
                    if is_known || is_old_news(known.time) {
                        continue;
                    }
                    let mut entry = (*known).clone();
                    entry.status = *status;
                    // The provider does not say here until when; the end of an earlier pause is not that of this one.
                    entry.pause_until = None;
                    entry.time = after(now, Some(entry.time));
                    learned.events.push(self.append_entry(LedgerEntry::Template(entry), true).await?);
                }
            }
        }
        Ok(learned)
    }

    /// Error 131050: the person stopped marketing from this sender in the platform.
    async fn stop_marketing(
        &self,
        report: &SendReport,
        about: &About,
        sender: &SenderId,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<EventId, EngineError> {
        // The same failure told again, by whoever names it. At another time the person stopped marketing once more, whatever the name.
        let told = [&report.decision_id, &report.message_id].into_iter().find(|id| !id.is_empty());
        let content = report.occurred.map_or([0; 8], |at| at.0.to_le_bytes());
        let request = told
            .and_then(|id| self.request_mark(about.business.as_str(), &format!("stopped\0{id}"), content));
        let person = self.view.get(&about.recipient).unwrap_or_default();
        if let Some(taken) = request.and_then(|mark| person.record.taken_as(mark)) {
            return Ok(taken.event);
        }
        let time = match report.occurred {
            // The platform's time decides, even where the clock here is behind it.
            Some(stated) => stated.min(now.plus_ms(rules.clock_margin_ms)),
            // Whatever the clock here does, it is told after what is known here.
            None => {
                let known = person.record.preferences.iter().find(|(of, _)| of == sender);
                known.map_or(now, |(_, register)| register.time.max(now))
            }
        };
        let preference = Preference { sender: sender.clone(), stopped: true, time };
        let event = ConsentEvent {
            business: about.business.clone(),
            subjects: vec![about.recipient],
            forms: Vec::new(),
            recorded: now,
            request,
            rules_version: self.book().version().to_owned(),
            numbered_late: false,
            changes: vec![Change::Preference(preference)],
        };
        let personal = Personal { actor: "provider:".into(), ..Personal::default() };
        self.append_event(event, &personal, None, &mut Turn::default()).await
    }
}
