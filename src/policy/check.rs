//! May this message be sent? Request + facts + rules + now → verdict. Limits come after, and only
//! where nothing here denies.

use super::consent::Request;
use super::event::{SenderEntry, TemplateEntry};
use super::ids::{EventId, TopicId};
use super::quiet_hours::Quiet;
use super::record::{AboutKind, Allowance, Record};
use super::rules::{InstructionPeriod, Rules, UnregisteredTemplates};
use super::standing::{self, Known, Relation, Standing, Subject, WindowState};
use super::time::{MINUTE_MS, Timestamp};
use super::types::{Category, Channel, Reason, Scope, SenderStatus, TemplateStatus};
use super::usage::Usage;

/// How long a decision may be acted on, unless something it rests on ends earlier.
pub const DECISION_VALID_MS: i64 = MINUTE_MS;

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// A registered template.
    Template,
    /// Any other message, with what the caller claims of it.
    Message {
        /// The claimed category.
        category: Option<Category>,
        /// The message type.
        topic: Option<&'a TopicId>,
    },
}

/// A send to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// The sender.
    pub sender: &'a str,
    /// The channel.
    pub channel: Channel,
    /// What is to be sent.
    pub content: Content<'a>,
    /// The consent event that the message is about.
    pub about: Option<EventId>,
    /// Whether violations explain themselves.
    pub explain: bool,
}

/// What the decision rests on besides the rules.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The record of the very identifier.
    pub own: &'a Record,
    /// Its usage.
    pub usage: &'a Usage,
    /// Records of aliases and links.
    pub others: &'a [Known<'a>],
    /// The template, as the registry knows it.
    pub template: Option<&'a TemplateEntry>,
    /// The sender, as the provider rates it.
    pub sender: Option<&'a SenderEntry>,
    /// The recipient's country.
    pub region: Option<[u8; 2]>,
    /// Every zone that the recipient may be in; empty: not known.
    pub zones: &'a [jiff::tz::TimeZone],
    /// Whether this replica may have missed an opt-out.
    pub stale: bool,
    /// Whether it lacks a write that the caller insists on.
    pub unseen_write: bool,
}

/// A rule that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub reason: Reason,
    /// What exactly, in rules and numbers; never an address, a text or another consent.
    pub detail: Option<String>,
    /// When waiting alone may have helped; `None`: waiting does not help.
    pub retry_at: Option<Timestamp>,
}

/// The policy's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The category the message is judged as.
    pub category: Category,
    /// Its message type, which a template has from the registry.
    pub topic: Option<TopicId>,
    /// Every rule that fails, the leading one first. Empty: the message may be sent.
    pub violations: Vec<Violation>,
    /// Rules that fail but only report.
    pub shadowed: Vec<Violation>,
    /// The consent events that decided.
    pub basis: Vec<EventId>,
    /// The message about consent that this is, which passes once.
    pub about: Option<AboutKind>,
    /// Whether it is a reply in the customer-service window.
    pub reply: bool,
    /// Whether opt-out instructions are due with it.
    pub owes_instructions: bool,
    /// Whether its template carries them.
    pub carries_instructions: bool,
    /// Until when the verdict may be acted on.
    pub valid_until: Timestamp,
    /// Whether it was let pass although this replica may have missed something.
    pub degraded: bool,
}

impl Verdict {
    /// Whether nothing denies.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.violations.is_empty()
    }

    /// Whether the limits apply to it: messages about consent are outside them.
    #[must_use]
    pub const fn is_limited(&self) -> bool {
        self.about.is_none()
    }
}

/// Why a template cannot be sent.
struct TemplateFault {
    reason: Reason,
    detail: String,
    retry_at: Option<Timestamp>,
}

/// What a message is, once its category is known.
struct Judged {
    category: Category,
    topic: Option<TopicId>,
    template_fault: Option<TemplateFault>,
    is_template: bool,
    /// Free-form text: on WhatsApp it exists only in the window.
    marketing_claim: bool,
    carries_instructions: bool,
}

/// Judges `send`.
#[must_use]
pub fn check(send: &Send<'_>, facts: &Facts<'_>, rules: &Rules, now: Timestamp) -> Verdict {
    let mut known = Vec::with_capacity(1 + facts.others.len());
    known.push(Known { relation: Relation::Own, record: facts.own });
    known.extend_from_slice(facts.others);

    let judged = judge(send, facts, rules, now);
    let window = standing::window_state(
        facts.usage.window(send.channel, send.sender),
        &known,
        send.channel,
        rules,
        now,
    );
    let allowed = allowed_about(send, facts, &known, &judged, rules, now);
    let about = allowed.map(|allowance| allowance.kind);
    let mut found = Found { explain: send.explain, ..Found::default() };
    found.valid_until = now.plus_ms(DECISION_VALID_MS);
    if let Some(allowance) = allowed {
        found.valid_until = found.valid_until.min(allowance.until);
    }

    if !rules.senders.is_empty() && !rules.senders.contains(send.sender) {
        found.deny(Reason::UnknownSender, || "the sender is not among the business's `senders`".into());
    }
    let category = judge_consent(send, facts, &known, &judged, window, about, rules, now, &mut found);
    judge_sender(facts, found.reply, now, &mut found);
    if let Some(fault) = &judged.template_fault {
        found.deny_until(fault.reason, fault.retry_at, || fault.detail.clone());
    }
    judge_region(send, facts, category, rules, &mut found);
    let degraded = judge_freshness(facts, category, rules, &mut found);
    if about.is_none() && category != Category::Authentication {
        judge_quiet_hours(send, facts, category, rules, now, &mut found);
    }

    let owes = category != Category::Authentication
        && about != Some(AboutKind::OptOutConfirmation)
        && owes_instructions(facts.usage, send.channel, rules, now);
    found.violations.sort_by_key(|violation| violation.reason);
    let (shadowed, violations) = found
        .violations
        .into_iter()
        .partition(|violation| Rules::may_shadow(violation.reason) && rules.shadows(violation.reason, now));
    Verdict {
        category,
        topic: judged.topic,
        violations,
        shadowed,
        basis: found.basis,
        about,
        reply: found.reply,
        owes_instructions: owes && !judged.carries_instructions,
        carries_instructions: judged.carries_instructions,
        valid_until: found.valid_until,
        degraded,
    }
}

#[derive(Default)]
struct Found {
    explain: bool,
    violations: Vec<Violation>,
    basis: Vec<EventId>,
    valid_until: Timestamp,
    reply: bool,
}

impl Found {
    fn deny(&mut self, reason: Reason, detail: impl FnOnce() -> String) {
        self.deny_until(reason, None, detail);
    }

    fn deny_until(&mut self, reason: Reason, retry_at: Option<Timestamp>, detail: impl FnOnce() -> String) {
        let detail = self.explain.then(detail);
        self.violations.push(Violation { reason, detail, retry_at });
    }
}

/// The category and topic of the message: a template's from the registry, any other's from its
/// topic in the rules, which the caller may only make stricter.
fn judge(send: &Send<'_>, facts: &Facts<'_>, rules: &Rules, now: Timestamp) -> Judged {
    match send.content {
        Content::Template => judge_template(facts, rules, now),
        Content::Message { category, topic } => {
            let of_topic = topic.map(|topic| rules.category_of(topic).unwrap_or(Category::Marketing));
            let by_rules = of_topic.unwrap_or(Category::Marketing);
            let marketing_claim = category == Some(Category::Marketing)
                || of_topic == Some(Category::Marketing)
                || (category.is_none() && topic.is_none());
            Judged {
                category: category.map_or(by_rules, |claimed| by_rules.stricter(claimed)),
                topic: topic.cloned(),
                template_fault: None,
                is_template: false,
                marketing_claim,
                carries_instructions: false,
            }
        }
    }
}

fn judge_template(facts: &Facts<'_>, rules: &Rules, now: Timestamp) -> Judged {
    let Some(template) = facts.template else {
        let fault = match rules.unregistered_templates {
            UnregisteredTemplates::Deny => Some(TemplateFault {
                reason: Reason::TemplateUnknown,
                detail: "no such template is registered in this language; register it with PutTemplate"
                    .into(),
                retry_at: None,
            }),
            UnregisteredTemplates::AsMarketing => None,
        };
        return Judged {
            category: Category::Marketing,
            topic: None,
            template_fault: fault,
            is_template: true,
            marketing_claim: true,
            carries_instructions: false,
        };
    };
    let pause = template.pause_until.filter(|_| template.status == TemplateStatus::Paused);
    let is_sent = template.status == TemplateStatus::Approved || pause.is_some_and(|until| until <= now);
    let fault = (!is_sent).then(|| TemplateFault {
        reason: Reason::TemplateNotApproved,
        detail: format!("the template's status is {}; only APPROVED is sent", template.status),
        retry_at: pause,
    });
    Judged {
        category: template.category,
        topic: template.topic.clone(),
        template_fault: fault,
        is_template: true,
        marketing_claim: template.category == Category::Marketing,
        carries_instructions: template.has_opt_out_instructions,
    }
}

/// By what this is a message about consent, if it is one that may still be sent.
fn allowed_about(
    send: &Send<'_>,
    facts: &Facts<'_>,
    known: &[Known<'_>],
    judged: &Judged,
    rules: &Rules,
    now: Timestamp,
) -> Option<Allowance> {
    let event = send.about?;
    if judged.category == Category::Marketing && (judged.is_template || judged.marketing_claim) {
        return None;
    }
    facts.own.allowances_of(event).copied().find(|allowance| {
        let here = allowance.channel.is_none_or(|channel| channel == send.channel);
        let is_spent = facts.usage.is_spent(event, allowance.channel);
        let is_due = here && now < allowance.until && !is_spent;
        is_due && stands(allowance, send, facts, known, rules, now)
    })
}

/// Whether what `allowance` is about still stands, so that it may be told or asked.
fn stands(
    allowance: &Allowance,
    send: &Send<'_>,
    facts: &Facts<'_>,
    known: &[Known<'_>],
    rules: &Rules,
    now: Timestamp,
) -> bool {
    let event = allowance.event;
    match allowance.kind {
        AboutKind::OptOutConfirmation | AboutKind::HelpAnswer => true,
        // Who said STOP since is asked neither about what the STOP ended nor where it was said.
        AboutKind::Question => {
            let asked_here = |(_, request): &(&Scope, &Request)| request.via == send.channel;
            facts.own.request(event).filter(asked_here).any(|(scope, request)| {
                let asked = subject_of(scope, send.channel);
                let here = Subject { channel: send.channel, ..asked };
                let is_live = |subject: &Subject<'_>| {
                    let against = standing::against(known.iter().copied(), subject, rules);
                    standing::is_live(request, &against, rules)
                };
                now < request.expire && is_live(&asked) && is_live(&here)
            })
        }
        // Its opt-in may have been ended in the meantime; then nothing is left to confirm. A reply may have confirmed it on a channel that it
        // does not reach: there it is told as long as the person did not say STOP there.
        AboutKind::OptInConfirmation => facts.own.cells.iter().any(|(scope, cell)| {
            cell.opt_ins.iter().any(|opt_in| opt_in.id == event) && {
                let subject = subject_of(scope, send.channel);
                let here = Subject { channel: send.channel, ..subject };
                let standing =
                    |subject: &Subject<'_>| standing::standing(known, subject, rules, now).standing;
                standing(&subject) == Standing::Granted && standing(&here) != Standing::OptedOut
            }
        }),
    }
}

fn subject_of(scope: &super::types::Scope, fallback: Channel) -> Subject<'_> {
    use super::types::Purpose;
    let (category, topic) = match &scope.purpose {
        Purpose::All => (Category::Marketing, None),
        Purpose::Category(category) => (*category, None),
        Purpose::Topic(topic) => (Category::Marketing, Some(topic)),
    };
    Subject { channel: scope.channel.unwrap_or(fallback), category, topic }
}

/// Judges consent and the window; the answer is the category that everything else is judged by.
#[expect(clippy::too_many_arguments, reason = "one step of `check`, which owns all of them")]
fn judge_consent(
    send: &Send<'_>,
    facts: &Facts<'_>,
    known: &[Known<'_>],
    judged: &Judged,
    window: WindowState,
    about: Option<AboutKind>,
    rules: &Rules,
    now: Timestamp,
    found: &mut Found,
) -> Category {
    if let Some(event) = send.about.filter(|_| about.is_some()) {
        found.basis.push(event);
        let category = if judged.is_template { judged.category } else { Category::Service };
        let heard = facts.usage.window(send.channel, send.sender);
        let until = heard.map(|window| window.last.plus_ms(standing::WINDOW_MS)).filter(|until| now < *until);
        match until {
            _ if send.channel != Channel::Whatsapp || judged.is_template => {}
            Some(until) => found.valid_until = found.valid_until.min(until),
            None => found.deny(Reason::WindowClosed, || {
                "free-form text needs a message of the person within 24 h; send a template".into()
            }),
        }
        return category;
    }

    let is_reply = match window {
        WindowState::Open(until) if !judged.is_template => {
            found.valid_until = found.valid_until.min(until);
            true
        }
        _ => false,
    };
    if is_reply && !judged.marketing_claim {
        found.reply = true;
        return Category::Service;
    }

    if claims_service(send) {
        if window == WindowState::EndedByOptOut {
            found.deny(Reason::OptedOut, || consent_detail(Reason::OptedOut, Category::Service));
        }
        found.deny(Reason::WindowClosed, || {
            "the person has not written to this sender within 24 h; send a template".into()
        });
        return Category::Service;
    }

    let category = judged.category;
    let subject = Subject { channel: send.channel, category, topic: judged.topic.as_ref() };
    let finding = standing::standing(known, &subject, rules, now);
    let required = rules.consent_required.contains(&category);
    let ended = !judged.is_template && window == WindowState::EndedByOptOut;
    let reason = match finding.standing {
        Standing::OptedOut => Some(Reason::OptedOut),
        Standing::Granted => None,
        _ if ended => Some(Reason::OptedOut),
        _ if !required => None,
        Standing::Pending => Some(Reason::ConsentPending),
        Standing::Expired => Some(Reason::ConsentExpired),
        Standing::TopicNotCovered => Some(Reason::TopicNotCovered),
        Standing::None => Some(Reason::NoConsent),
    };
    // The claimed reply of a person who opted out of the whole channel is denied as such even where
    // an opt-in for a topic would permit a business-initiated message.
    let claims_reply = !judged.is_template && !judged.marketing_claim;
    match reason {
        Some(reason) => found.deny(reason, || consent_detail(reason, category)),
        None if ended && claims_reply && send.channel == Channel::Whatsapp => {
            found.deny(Reason::OptedOut, || consent_detail(Reason::OptedOut, category));
        }
        None => {}
    }
    found.basis.extend(finding.basis);
    if let Some(until) = finding.until {
        found.valid_until = found.valid_until.min(until);
    }

    if category == Category::Marketing {
        judge_marketing_switches(send, known, found);
    }
    if !judged.is_template && !is_reply && send.channel == Channel::Whatsapp {
        found.deny(Reason::WindowClosed, || {
            "the person has not written to this sender within 24 h; send a template".into()
        });
    }
    found.reply = is_reply;
    category
}

fn consent_detail(reason: Reason, category: Category) -> String {
    match reason {
        Reason::OptedOut => {
            format!("an opt-out bears on {category} here and no opt-in is shown to come after it")
        }
        Reason::ConsentPending => "asked for, not yet confirmed by the person".into(),
        Reason::ConsentExpired => "the opt-in has run out".into(),
        Reason::TopicNotCovered => "the opt-ins on this channel do not name this message type".into(),
        _ => format!("{category} needs an opt-in on this channel"),
    }
}

/// Holds after ambiguous replies, and the platform's own marketing switch.
fn judge_marketing_switches(send: &Send<'_>, known: &[Known<'_>], found: &mut Found) {
    for Known { record, .. } in known {
        let switch = record.preferences.iter().find(|(sender, _)| sender.as_str() == send.sender);
        if let Some((_, register)) = switch.filter(|(_, register)| register.suppresses) {
            if !found.violations.iter().any(|violation| violation.reason == Reason::OptedOut) {
                found.violations.retain(|violation| !is_consent_reason(violation.reason));
                found.deny(Reason::OptedOut, || {
                    "the person stopped marketing from this sender in the platform's settings".into()
                });
            }
            found.basis.push(register.event);
        }
        let hold =
            record.holds.iter().find(|(channel, register)| *channel == send.channel && register.suppresses);
        if let Some((_, register)) = hold {
            if !found.violations.iter().any(|violation| violation.reason == Reason::ConsentInDoubt) {
                found.deny(Reason::ConsentInDoubt, || {
                    "an ambiguous reply holds marketing back until a clear one or a release".into()
                });
            }
            found.basis.push(register.event);
        }
    }
}

/// Whether the caller says that this is nothing but a reply.
const fn claims_service(send: &Send<'_>) -> bool {
    matches!(send.content, Content::Message { category: Some(Category::Service), topic: None })
}

const fn is_consent_reason(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConsentPending | Reason::ConsentExpired | Reason::TopicNotCovered | Reason::NoConsent
    )
}

fn judge_sender(facts: &Facts<'_>, reply: bool, now: Timestamp, found: &mut Found) {
    let Some(sender) = facts.sender.filter(|sender| sender.status_until.is_none_or(|until| now < until))
    else {
        return;
    };
    let denies = match sender.status {
        SenderStatus::Connected | SenderStatus::Flagged => false,
        SenderStatus::Restricted => !reply,
        SenderStatus::Pending | SenderStatus::Offline | SenderStatus::Banned => true,
    };
    if denies {
        found.deny_until(Reason::SenderSuspended, sender.status_until, || {
            format!("the sender's status is {}", sender.status)
        });
    }
}

fn judge_region(send: &Send<'_>, facts: &Facts<'_>, category: Category, rules: &Rules, found: &mut Found) {
    let Some(blocked) = rules.region_blocks.get(&(category, send.channel)) else { return };
    let Some(region) = facts.region.filter(|region| blocked.contains(region)) else { return };
    found.deny(Reason::RegionBlocked, || {
        let region = String::from_utf8_lossy(&region).into_owned();
        format!("{category} on {} is not sent to {region}", send.channel)
    });
}

fn judge_freshness(facts: &Facts<'_>, category: Category, rules: &Rules, found: &mut Found) -> bool {
    if facts.unseen_write {
        found.deny(Reason::Stale, || {
            "the write named by `at_least_as_fresh` has not arrived here; retry".into()
        });
        return false;
    }
    if !facts.stale {
        return false;
    }
    if category != Category::Marketing && rules.fail_open.contains(&category) {
        return true;
    }
    found.deny(Reason::Stale, || {
        "this replica may have missed an opt-out; retry when it has caught up".into()
    });
    false
}

fn judge_quiet_hours(
    send: &Send<'_>,
    facts: &Facts<'_>,
    category: Category,
    rules: &Rules,
    now: Timestamp,
    found: &mut Found,
) {
    let Some(hours) = rules.quiet_hours.get(&category).filter(|hours| hours.concern(send.channel)) else {
        return;
    };
    if facts.zones.is_empty() {
        found.deny(Reason::QuietHours, || {
            "the recipient's time zone is not known; give `time_zone` or configure `default_time_zone`".into()
        });
        return;
    }
    match hours.at(send.channel, facts.zones, now) {
        Quiet::Allowed { until } => {
            if let Some(until) = until {
                found.valid_until = found.valid_until.min(until);
            }
        }
        Quiet::Quiet { retry_at } => found.deny_until(Reason::QuietHours, retry_at, || {
            format!("quiet hours for {category} in at least one zone the recipient may be in")
        }),
    }
}

/// Whether opt-out instructions are due on `channel`.
#[must_use]
pub fn owes_instructions(usage: &Usage, channel: Channel, rules: &Rules, now: Timestamp) -> bool {
    let Some(last) = usage.instructed(channel) else { return true };
    match rules.opt_out_instructions.get(&channel) {
        Some(InstructionPeriod::EveryMessage) => true,
        Some(InstructionPeriod::EveryMs(every_ms)) => now.since_ms(last) >= *every_ms,
        None => false,
    }
}
