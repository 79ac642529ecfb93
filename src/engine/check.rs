//! `CheckSend`: policy first, limits last, consumed under the person's lock or not at all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::address::{Address, AddressFault, AddressKind};
use crate::limits::{Admission, Admitted, Denied, FrequencyLog, Mode as LimitMode, Receipt, RequestKey};
use crate::policy::check::{Verdict, Violation};
use crate::policy::ids::{EventId, Identifier, TopicId};
use crate::policy::record::Links;
use crate::policy::rules::{FrequencyCap, Rules};
use crate::policy::standing::Known;
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Channel, Reason};
use crate::view::{Person, Touched};

use super::decision::{Decided, Sealing};
use super::error::EngineError;
use super::people::{self, Identity, Others};
use super::token::Token;
use super::usage::Sent;
use super::{Engine, Inner};

mod context;
mod glance;

use context::Context;
use glance::Glance;

/// Whether a check consumes limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does when it allows.
    Enforce,
    /// It only asks.
    Peek,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedContent {
    /// A template.
    Template {
        /// Its name.
        name: String,
        /// Its language.
        language: String,
    },
    /// Any other message.
    Message {
        /// The claimed category.
        category: Option<Category>,
        /// The message type.
        topic: Option<TopicId>,
    },
}

/// A send to be judged.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// The caller's id, so that a retry consumes nothing more; may be empty.
    pub request_id: String,
    /// The business.
    pub business: String,
    /// The sender.
    pub sender: String,
    /// The person; a fault is a denial.
    pub recipient: Result<Address, AddressFault>,
    /// The channel.
    pub channel: Channel,
    /// What is to be sent.
    pub content: RequestedContent,
    /// The consent event that the message is about.
    pub about: Option<EventId>,
    /// Whether to consume.
    pub mode: Mode,
    /// Whether violations explain themselves.
    pub explain: bool,
    /// The person's zone, where the caller knows it.
    pub time_zone: Option<jiff::tz::TimeZone>,
    /// What must be known here.
    pub at_least_as_fresh: Option<Token>,
    /// A hash of everything but the request id.
    pub content_hash: u64,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct CheckAnswer {
    /// Every rule that fails, the leading one first; empty: allowed.
    pub violations: Vec<Violation>,
    /// Rules that fail but only report.
    pub shadowed: Vec<Violation>,
    /// The wait after which all of them may pass, in milliseconds; `None` where waiting does not help.
    pub retry_after_ms: Option<i64>,
    /// When it was judged.
    pub now: Timestamp,
    /// The opt-out instructions to include, where they are due.
    pub instructions: Option<String>,
    /// The sealed id; empty for a denial and for what was only asked.
    pub decision_id: String,
    /// The category it was judged as, where it came to that.
    pub category: Option<Category>,
    /// The events that decided.
    pub basis: Vec<EventId>,
    /// The version of the rules.
    pub rules_version: String,
    /// Until when an ALLOW may be acted on.
    pub valid_until: Option<Timestamp>,
    /// The token of what was known.
    pub as_of: String,
    /// Whether it passed although something could not be known.
    pub degraded: bool,
}

impl CheckAnswer {
    /// Whether the message may be sent.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.violations.is_empty()
    }
}

/// How often a check starts over because the person's links changed under it.
const LINK_RETRIES_MAX: usize = 4;

impl Engine {
    /// Whether all that a check asks to be known is known here.
    #[must_use]
    pub fn knows(&self, token: Token) -> bool {
        self.inner.vector.reaches(token)
    }

    /// Waits for what a check asks to be known, but not longer than `within`.
    pub async fn wait_for(&self, token: Token, within: Duration) {
        self.inner.vector.wait_for(token, within).await;
    }

    /// Takes note of a request's id, before it or any other of its batch consumes anything.
    ///
    /// # Errors
    /// When the id was used for other content.
    pub fn bind(&self, request: &CheckRequest) -> Result<(), EngineError> {
        // As a check of it would: one that is denied for whom it names may come again under its id, mended.
        let listed = self.inner.book.load().rules(&request.business).is_some();
        if listed && reachable(request).is_ok() {
            self.inner.bind(request, self.inner.clock.now()).map(|_| ())
        } else {
            Ok(())
        }
    }

    /// Judges a send.
    ///
    /// # Errors
    /// Only for a request id used with other content; everything else is a denial.
    pub fn check(&self, request: &CheckRequest) -> Result<CheckAnswer, EngineError> {
        self.inner.check(request, &Glance::at(&self.inner))
    }

    /// Judges sends one after the other, all by the rules that are in force now, and gives each answer to `each`.
    ///
    /// # Errors
    /// As [`Engine::check`]; sends before the one at fault were judged.
    pub fn check_each(
        &self,
        requests: &[CheckRequest],
        mut each: impl FnMut(CheckAnswer),
    ) -> Result<(), EngineError> {
        let mut judged = Ok(());
        self.inner.sink.together(&mut || {
            let glance = Glance::at(&self.inner);
            judged = requests.iter().try_for_each(|request| {
                each(self.inner.check(request, &glance)?);
                Ok(())
            });
        });
        judged
    }
}

/// What a person's record and the limits say.
struct Judged {
    verdict: Verdict,
    limits: LimitAnswer,
}

/// Asks the limits about a person whose caps are counted over every identifier and written form; what the send consumed
/// is marked on the record addressed only.
fn limits_of(
    person: &mut Person,
    others: &Others,
    caps: &[FrequencyCap],
    now: Timestamp,
    admit: impl FnOnce(&mut FrequencyLog) -> Result<Admitted, Denied>,
) -> LimitAnswer {
    if others.is_empty() {
        return admit(&mut person.frequency).map_or_else(LimitAnswer::Denied, LimitAnswer::Admitted);
    }
    let mut log = person.frequency.clone();
    for (_, _, other) in others {
        log.merge(&other.frequency);
    }
    match admit(&mut log) {
        Ok(admitted) => {
            let nonce = admitted.receipt.nonce;
            let mark = log.marks().iter().find(|mark| mark.nonce == nonce);
            if let Some(mark) = mark.filter(|_| admitted.receipt.marked && admitted.repeats.is_none()) {
                person.frequency.push(*mark, caps, now);
            }
            LimitAnswer::Admitted(admitted)
        }
        Err(denied) => LimitAnswer::Denied(denied),
    }
}

enum LimitAnswer {
    NotAsked,
    Admitted(Admitted),
    Denied(Denied),
}

impl Inner {
    fn check(&self, request: &CheckRequest, glance: &Glance) -> Result<CheckAnswer, EngineError> {
        let now = self.clock.now();
        let Some(rules) = glance.book.rules(&request.business) else {
            return Ok(self.denied(request, glance, now, None, Reason::UnknownBusiness, || {
                "the business is not configured here; add it under `businesses`".into()
            }));
        };
        let address = match reachable(request) {
            Ok(address) => address,
            Err(why) => return Ok(self.denied(request, glance, now, None, Reason::InvalidRecipient, || why)),
        };
        let request_key = self.bind(request, now)?;
        let identity = Identity::of(&self.key, &request.business, address);
        let is_catching_up = self.replica.is_catching_up();
        #[cfg(sabotage)]
        let is_catching_up = is_catching_up && !crate::sabotage::is("backlog-ignored");
        if !glance.serving || self.is_behind() || is_catching_up || self.lacks_opt_outs() {
            let own = Some(identity.own);
            return Ok(self.denied(request, glance, now, own, Reason::Unavailable, || {
                "the sidecar does not have every consent at hand; see its readiness".into()
            }));
        }

        let context = Context::of(self, request, rules, &glance.book, address, &identity);
        // What was only asked leaves nothing that would need a name.
        let decision = if request.mode == Mode::Enforce { self.serial() } else { [0; 16] };
        let admit = |verdict: &Verdict, log: &mut FrequencyLog| {
            let admission = Admission {
                business: &request.business,
                portfolio: rules.portfolio.as_deref(),
                sender: &request.sender,
                channel: request.channel,
                category: verdict.category,
                recipient: &identity.own,
                portfolio_recipient: &context.portfolio_recipient,
                counts_distinct: request.channel == Channel::Whatsapp && !verdict.reply,
                exempt: !verdict.is_limited(),
                limits: &context.limits,
                caps: &rules.frequency,
                quality: context.quality,
                members: self.replica.members(),
                request: request_key,
                decision,
                mode: if request.mode == Mode::Enforce { LimitMode::Enforce } else { LimitMode::Peek },
            };
            let shadow = |reason: Reason| rules.shadows(reason, now);
            self.limiter.try_admit(&admission, log, &shadow, now)
        };
        let judged = match self.judge(request, rules, &identity, &context, now, admit) {
            Ok(judged) => judged,
            Err(error) => {
                tracing::warn!(%error, "a person's record cannot be read; the send is denied");
                let own = Some(identity.own);
                return Ok(self.denied(request, glance, now, own, Reason::Unavailable, || error.to_string()));
            }
        };
        Ok(self.answer_check(request, glance, &identity, &context, judged, now))
    }

    /// What a request that consumes is known by when it comes again.
    ///
    /// # Errors
    /// When its id was used for other content.
    fn bind(&self, request: &CheckRequest, now: Timestamp) -> Result<Option<RequestKey>, EngineError> {
        if request.request_id.is_empty() || request.mode != Mode::Enforce {
            return Ok(None);
        }
        let key = self.limiter.request_key(&request.business, &request.request_id);
        self.limiter.bind_request(key, &[&request.content_hash.to_le_bytes()], now).map_err(|_| {
            EngineError::field(
                "request_id",
                "was used for other content in the last minutes; use a new id for a new message",
            )
        })?;
        Ok(Some(key))
    }

    /// A name for a decision, unlike any other of this or another run.
    fn serial(&self) -> [u8; 16] {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut name = [0; 16];
        // Its first bytes number a send in the person's log, beside those of other runs and nodes.
        name[..8].copy_from_slice(&spread(serial ^ u64::from_le_bytes(self.run)).to_le_bytes());
        name[8..].copy_from_slice(&self.run);
        name
    }

    /// Judges under the person's lock, so that asking and consuming are one step.
    fn judge(
        &self,
        request: &CheckRequest,
        rules: &Rules,
        identity: &Identity,
        context: &Context<'_>,
        now: Timestamp,
        admit: impl Fn(&Verdict, &mut FrequencyLog) -> Result<Admitted, Denied>,
    ) -> Result<Judged, EngineError> {
        let mut links = Links::default();
        let mut others: Others = people::others(&self.view, identity, &links)?;
        for _ in 0..LINK_RETRIES_MAX {
            let evaluate = |person: &mut Person| {
                if person.record.links != links {
                    return (Err(person.record.links.clone()), Touched::Nothing);
                }
                let known: Vec<Known<'_>> = people::others_known(&others).collect();
                let verdict = context.verdict(request, rules, person, &known, now);
                #[cfg(sabotage)]
                if crate::sabotage::is("replayed-allow")
                    && admit(&verdict, &mut person.frequency.clone())
                        .is_ok_and(|known| known.repeats.is_some())
                {
                    let verdict = Verdict { violations: Vec::new(), ..verdict };
                    return (Ok(Judged { verdict, limits: LimitAnswer::NotAsked }), Touched::Nothing);
                }
                if !verdict.allows() {
                    return (Ok(Judged { verdict, limits: LimitAnswer::NotAsked }), Touched::Nothing);
                }
                let limits = limits_of(person, &others, &rules.frequency, now, |log| admit(&verdict, log));
                let consumes = request.mode == Mode::Enforce
                    && matches!(&limits, LimitAnswer::Admitted(admitted) if admitted.repeats.is_none());
                if consumes {
                    let about = verdict.about.and(request.about);
                    person.usage.allowed(request.channel, about, now);
                    if let Some(event) = about {
                        person.usage.spend(event, request.channel, now);
                    }
                    if let LimitAnswer::Admitted(admitted) = &limits {
                        let sent = Sent {
                            category: verdict.category,
                            channel: request.channel,
                            about,
                            receipt: &admitted.receipt,
                        };
                        self.tell_sent(
                            &request.business,
                            rules,
                            identity,
                            &context.portfolio_recipient,
                            &sent,
                            now,
                        );
                    }
                }
                let touched = if consumes { Touched::Usage } else { Touched::Nothing };
                (Ok(Judged { verdict, limits }), touched)
            };
            let judged = match request.mode {
                Mode::Enforce => self.view.update(&identity.own, evaluate)?,
                // It changes nothing, so it needs no lock and no room for changes.
                Mode::Peek => evaluate(&mut self.view.get(&identity.own)?).0,
            };
            match judged {
                Ok(judged) => return Ok(judged),
                Err(now_linked) => {
                    links = now_linked;
                    others = people::others(&self.view, identity, &links)?;
                }
            }
        }
        Err(EngineError::TooManyLinks(people::LINKS_MAX))
    }

    fn answer_check(
        &self,
        request: &CheckRequest,
        glance: &Glance,
        identity: &Identity,
        context: &Context<'_>,
        judged: Judged,
        now: Timestamp,
    ) -> CheckAnswer {
        let Judged { verdict, limits } = judged;
        let mut violations = verdict.violations;
        let mut shadowed = verdict.shadowed;
        let mut receipt = Receipt::default();
        let explained = |refusal: &crate::limits::Refusal| Violation {
            reason: refusal.rule.reason(),
            detail: request.explain.then(|| refusal.to_string()),
            retry_at: refusal
                .retry_after_ms
                .map(|wait_ms| now.plus_ms(i64::try_from(wait_ms).unwrap_or(i64::MAX))),
        };
        let mut admitted_now = false;
        match limits {
            LimitAnswer::NotAsked => {}
            LimitAnswer::Admitted(admitted) => {
                shadowed.extend(admitted.shadowed.iter().map(explained));
                receipt = admitted.receipt;
                admitted_now = request.mode == Mode::Enforce;
            }
            LimitAnswer::Denied(denied) => {
                shadowed.extend(denied.shadowed.iter().map(explained));
                violations.extend(denied.refusals.iter().map(explained));
            }
        }
        let allows = violations.is_empty();
        // What nobody may send is reported by nobody, nor what was only asked.
        let is_reported = admitted_now && allows;
        let sealing = is_reported.then(|| Sealing {
            time: now,
            business: &request.business,
            sender: &request.sender,
            channel: request.channel,
            category: verdict.category,
            recipient: identity.own,
            portfolio_recipient: context.portfolio_recipient,
            template: context.template_key.as_ref().map(|(name, language)| (*name, &**language)),
            about: verdict.about.and(request.about),
            carries_instructions: verdict.carries_instructions,
            receipt: Some(&receipt),
        });
        let answer = CheckAnswer {
            retry_after_ms: retry_after_ms(&violations, now),
            violations,
            shadowed,
            now,
            instructions: (allows && verdict.owes_instructions)
                .then(|| glance.book.instructions(&request.business).to_owned()),
            decision_id: sealing.map_or_else(String::new, |sealing| sealing.seal(&self.key)),
            category: Some(verdict.category),
            basis: verdict.basis,
            rules_version: glance.book.version().to_owned(),
            valid_until: allows.then_some(verdict.valid_until),
            // Behind all that was read: who asks elsewhere for as much must not be told of less.
            as_of: self.vector.token(),
            degraded: verdict.degraded,
        };
        self.note(request, &answer, Some(identity.own));
        answer
    }

    /// A denial before anything about the person was looked at.
    fn denied(
        &self,
        request: &CheckRequest,
        glance: &Glance,
        now: Timestamp,
        recipient: Option<Identifier>,
        reason: Reason,
        detail: impl FnOnce() -> String,
    ) -> CheckAnswer {
        let violation = Violation { reason, detail: request.explain.then(detail), retry_at: None };
        let answer = CheckAnswer {
            violations: vec![violation],
            shadowed: Vec::new(),
            retry_after_ms: None,
            now,
            instructions: None,
            decision_id: String::new(),
            category: None,
            basis: Vec::new(),
            rules_version: glance.book.version().to_owned(),
            valid_until: None,
            as_of: self.vector.token(),
            degraded: false,
        };
        self.note(request, &answer, recipient);
        answer
    }

    fn note(&self, request: &CheckRequest, answer: &CheckAnswer, recipient: Option<Identifier>) {
        let id = &answer.decision_id;
        self.sink.decided(&Decided {
            time: answer.now,
            business: &request.business,
            sender: &request.sender,
            recipient,
            channel: Some(request.channel),
            category: answer.category,
            violations: &answer.violations,
            shadowed: &answer.shadowed,
            basis: &answer.basis,
            peek: request.mode == Mode::Peek,
            degraded: answer.degraded,
            rules_version: &answer.rules_version,
            decision: &id[id.len().saturating_sub(DECISION_TAIL)..],
        });
    }
}

/// How much of a decision id the log keeps: enough to find it, its end being an authentication tag.
pub const DECISION_TAIL: usize = 22;

/// The wait after which every violation may have passed.
fn retry_after_ms(violations: &[Violation], now: Timestamp) -> Option<i64> {
    let waits = violations.iter().map(|violation| violation.retry_at.map(|at| at.since_ms(now).max(0)));
    waits.reduce(|a, b| Some(a?.max(b?))).flatten()
}

/// The address, if the channel reaches it.
fn reachable(request: &CheckRequest) -> Result<&Address, String> {
    let address = request.recipient.as_ref().map_err(ToString::to_string)?;
    if reaches(request.channel, address.kind()) {
        Ok(address)
    } else {
        Err(format!("{} does not reach this kind of address", request.channel))
    }
}

/// Whether messages of `channel` can go to an address of `kind`.
#[must_use]
pub const fn reaches(channel: Channel, kind: AddressKind) -> bool {
    match channel {
        Channel::Whatsapp => matches!(kind, AddressKind::Phone | AddressKind::WhatsappUserId),
        Channel::Sms | Channel::Voice => matches!(kind, AddressKind::Phone),
        Channel::Email => matches!(kind, AddressKind::Email),
    }
}

/// Another number for each number, without any likeness to it.
const fn spread(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}
