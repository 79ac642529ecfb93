//! `RecordConsent`: reports become one event, durable before the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::ledger::Entry;
use crate::policy::consent::Mark;
use crate::policy::event::{Change, ConsentEvent, LedgerEntry, RequestMark};
use crate::policy::evidence::{Evidence, ImportSource, Personal};
use crate::policy::ids::{BusinessId, EventId, OriginId};
use crate::policy::recorder::{self, Recorded, Source};
use crate::policy::report::{FieldViolation, Report};
use crate::policy::rules::Rules;
use crate::policy::state::{self, ScopeState, State};
use crate::policy::types::{Channel, Purpose, Scope};

use super::carry_on::carry_on;
use super::codec;
use super::error::EngineError;
use super::people::{Identity, People, Whom};
use super::stripes::Turn;
use super::token::Token;
use super::{Engine, Inner, Log};

/// How long an opt-in waits for the opt-outs it names, where its caller set no deadline.
const SUPERSEDED_WITHIN: Duration = Duration::from_millis(1_500);

/// A reported set of consent changes for one person.
#[derive(Clone)]
pub struct RecordRequest {
    /// The business.
    pub business: BusinessId,
    /// The person.
    pub recipient: Address,
    /// Further identifiers of the person, which this links.
    pub also: Vec<Address>,
    /// The caller's id of the request; empty only where opt-outs alone are reported.
    pub request_id: String,
    /// A keyed hash of everything else in the request.
    pub content: [u8; 8],
    /// What is reported.
    pub reports: Vec<Report>,
    /// Who reports it: a kind, a colon and an id.
    pub actor: String,
    /// Whether the caller wants it on other disks before the answer, and then until when to wait for that.
    pub wants_replicated: Option<Instant>,
    /// Who vouches for the times stated.
    pub source: Source,
    /// The row of an import that this is.
    pub row: Option<ImportSource>,
    /// What was widened while the request was read.
    pub warnings: Vec<FieldViolation>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordAnswer {
    /// The event.
    pub event: EventId,
    /// The token that lets a later check see it.
    pub token: String,
    /// The person's state in the scopes of the request, after the merge.
    pub states: Vec<ScopeState>,
    /// Opt-outs that still stand against an opt-in of the request.
    pub blocked_by: Vec<EventId>,
    /// What was widened or doubtful.
    pub warnings: Vec<FieldViolation>,
    /// The same request was recorded before.
    pub repeated: bool,
    /// Whose disks it is on.
    pub durability: Durability,
}

/// Whose disks an event is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// This node's.
    Local,
    /// Those of a majority of the configured anchors.
    Replicated,
}

impl Engine {
    /// Records consent changes. The answer comes when they are durable and every later check sees them.
    ///
    /// # Errors
    /// [`EngineError`]; opt-outs are recorded whenever this process can write at all.
    pub async fn record_consent(&self, request: RecordRequest) -> Result<RecordAnswer, EngineError> {
        let inner = Arc::clone(&self.inner);
        let wants = request.wants_replicated;
        let has_out = request.reports.iter().any(|report| matches!(report, Report::OptOut(_)));
        let ends = |report: &Report| matches!(report, Report::OptOut(_) | Report::Invalidate(_));
        let suppresses = request.reports.iter().any(ends);
        if !has_out {
            inner.await_superseded(&request.reports, wants).await?;
        }
        let recorded = carry_on(async move { inner.record(request).await }).await;
        // Not carried on: who gives up waits no longer.
        match recorded {
            Ok(mut answer) => {
                answer.durability = self.inner.durability(answer.event, wants, suppresses).await?;
                Ok(answer)
            }
            Err(error) => {
                if let EngineError::OnlyOptOuts { recorded, .. } = &error {
                    self.inner.durability(*recorded, wants, true).await?;
                }
                Err(error)
            }
        }
    }
}

impl Engine {
    /// Waits until an event that is recorded here is on as many disks as is wanted; `suppresses`: a little in any case.
    ///
    /// # Errors
    /// [`EngineError::NotReplicated`] where REPLICATED was asked for, or an edge answers for what suppresses, and it was not reached.
    pub async fn durability(
        &self,
        event: EventId,
        wants_replicated: Option<Instant>,
        suppresses: bool,
    ) -> Result<Durability, EngineError> {
        self.inner.durability(event, wants_replicated, suppresses).await
    }
}

impl Engine {
    /// Records the opt-outs of an entry that cannot be trusted otherwise, as an event of this node.
    ///
    /// # Errors
    /// When the event cannot be written.
    pub async fn keep_opt_outs(&self, payload: &[u8]) -> Result<Option<EventId>, EngineError> {
        let event = match codec::decode_entry(payload) {
            Ok(LedgerEntry::Consent(event)) => Some(event),
            Ok(_) => None,
            Err(_) => codec::salvage_opt_outs(payload),
        };
        let Some(mut event) = event else { return Ok(None) };
        event.changes.retain(suppresses);
        if event.changes.is_empty() {
            return Ok(None);
        }
        // The id of the request names the other event; a retry of it is to find that one.
        event.request = None;
        // Its number tells nothing of what happened before it.
        event.numbered_late = true;
        if let Some(edge) = self.edge() {
            self.hold_doubtful(edge, event);
            return Ok(None);
        }
        // Their sender sends them again after each restart. What cannot be read is recorded, perhaps once more.
        if self.inner.is_recorded(&event, &self.distrusted()).unwrap_or(false) {
            return Ok(None);
        }
        let mut turn = Turn::default();
        Ok(Some(self.inner.append_event(event, &Personal::default(), None, &mut turn).await?))
    }
}

impl Inner {
    async fn record(&self, request: RecordRequest) -> Result<RecordAnswer, EngineError> {
        self.serving()?;
        let book = self.book();
        let business = request.business.as_str();
        let has_out = request.reports.iter().any(|report| matches!(report, Report::OptOut(_)));
        let listed = book.rules(business).is_some();
        if !(listed || has_out) {
            return Err(EngineError::UnknownBusiness);
        }
        // Whoever it was that the person opted out of, it must not be lost.
        let rules = Arc::clone(book.rules(business).unwrap_or(book.defaults()));
        let identity = Identity::of(&self.key, business, &request.recipient);
        let whom = Whom::of(&self.key, business, &identity, &request.also);
        let mut turn = self.stripes.lock(&whom.subjects).await;
        let (people, unreadable) = self.people_or_own(identity, has_out)?;

        let mark = self.request_mark(business, &request.request_id, request.content);
        let mut used_for = None;
        if let Some(mark) = mark {
            if let Some(taken) = people.own.record.taken_as(mark) {
                return Ok(self.answer(&request, &people, &rules, taken.event, true, Vec::new()));
            }
            used_for = people.own.record.taken(mark.key).map(|taken| taken.event);
        }

        let now = self.clock.now();
        let only_outs = request.reports.iter().all(|report| matches!(report, Report::OptOut(_)));
        let recorded = match (used_for, unreadable) {
            _ if !(listed || only_outs) => Err(EngineError::UnknownBusiness),
            (Some(event), _) if !only_outs => Err(EngineError::AlreadyExists(event)),
            // Whatever else is asked for rests on records that could not be read.
            (_, Some(error)) if !only_outs => Err(error),
            _ => recorder::record(&request.reports, &people.known(), request.source, &rules, now)
                .map_err(EngineError::from),
        };
        match recorded {
            Ok(recorded) => {
                let event = self.append_recorded(&request, whom, mark, recorded.clone(), &mut turn).await?;
                let (people, _) = self.people_or_own(people.identity, has_out)?;
                let warnings = recorded.warnings.into_iter().map(|text| FieldViolation::new("changes", text));
                let answer = self.answer(&request, &people, &rules, event, false, warnings.collect());
                Ok(answer)
            }
            Err(refusal) if has_out => {
                // The rest may be wrong; the opt-outs are not refused with it.
                let outs = RecordRequest {
                    reports: request
                        .reports
                        .iter()
                        .filter(|report| matches!(report, Report::OptOut(_)))
                        .cloned()
                        .collect(),
                    ..request
                };
                let recorded = recorder::record(&outs.reports, &people.known(), outs.source, &rules, now)
                    .unwrap_or_default();
                let event = self.append_recorded(&outs, whom, None, recorded, &mut turn).await?;
                Err(EngineError::OnlyOptOuts { recorded: event, refusal: Box::new(refusal) })
            }
            // What it would have to name has no number yet.
            Err(EngineError::Unsuperseded(marks)) => Err(match self.only_held(&marks) {
                Some(event) => EngineError::NotHere(event),
                None => EngineError::Unsuperseded(marks),
            }),
            Err(refusal) => Err(refusal),
        }
    }

    /// One of `marks` that only holds here, before an anchor has numbered it.
    fn only_held(&self, marks: &[Mark]) -> Option<EventId> {
        let held = OriginId(self.edge()?.identity());
        marks.iter().map(|mark| mark.id).find(|id| id.origin == held)
    }

    /// An opt-in may name an opt-out that is on its way here from a peer: recorded without it, it could never be shown to come after
    /// it. So it is waited for, as a check waits for a write.
    ///
    /// # Errors
    /// [`EngineError::NotHere`] when it does not come. Nothing is written.
    async fn await_superseded(&self, reports: &[Report], until: Option<Instant>) -> Result<(), EngineError> {
        if self.replica.is_alone() {
            return Ok(());
        }
        let until = until.unwrap_or_else(|| Instant::now() + SUPERSEDED_WITHIN);
        let named = reports.iter().flat_map(|report| match report {
            Report::OptIn(report) => report.supersedes.as_slice(),
            Report::Request(report) => report.opt_in.supersedes.as_slice(),
            _ => &[],
        });
        for event in named {
            let token = Token(Some(*event));
            if !self.vector.reaches(token) {
                self.vector.wait_for(token, until.saturating_duration_since(Instant::now())).await;
                if !self.vector.reaches(token) {
                    return Err(EngineError::NotHere(*event));
                }
            }
        }
        Ok(())
    }

    /// Waits until `event` is on as many disks as is wanted. What suppresses, an opt-out above all, is waited for a little also where
    /// nobody asked, so that its caller learns the truth; it holds here already.
    ///
    /// # Errors
    /// [`EngineError::NotReplicated`] where REPLICATED was asked for, or an edge answers for what suppresses, and it was not reached.
    pub(super) async fn durability(
        &self,
        event: EventId,
        wants_replicated: Option<Instant>,
        suppresses: bool,
    ) -> Result<Durability, EngineError> {
        let within = match wants_replicated {
            Some(until) => until.saturating_duration_since(Instant::now()),
            None if suppresses => self.replica.opt_out_wait(),
            None => return Ok(Durability::Local),
        };
        let edge = self.edge();
        let is_replicated = edge.is_some_and(|edge| edge.is_replicated(event))
            || self.replica.replicated(event, within).await;
        match (is_replicated, wants_replicated) {
            (true, _) => Ok(Durability::Replicated),
            // On one anchor's disk alone: an edge does not call that kept.
            (false, None) if edge.is_some() => Err(EngineError::NotReplicated(event)),
            (false, None) => Ok(Durability::Local),
            (false, Some(_)) => Err(EngineError::NotReplicated(event)),
        }
    }

    /// A person's records. Where they cannot be read in full and an opt-out waits, what can be read of the record
    /// addressed, and why there is no more: an opt-out is recorded all the same.
    pub(super) fn people_or_own(
        &self,
        identity: Identity,
        has_out: bool,
    ) -> Result<(People, Option<EngineError>), EngineError> {
        match People::read(&self.view, identity.clone()) {
            Ok(people) => Ok((people, None)),
            Err(error) if has_out => {
                tracing::warn!(%error, "an opt-out is recorded without all that is known of the person");
                let own = self.view.get(&identity.own).unwrap_or_default();
                Ok((People { identity, own, others: Vec::new() }, Some(error)))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn request_mark(
        &self,
        business: &str,
        request_id: &str,
        content: [u8; 8],
    ) -> Option<RequestMark> {
        if request_id.is_empty() {
            return None;
        }
        let mac = self.key.mac16("request", &[business.as_bytes(), request_id.as_bytes()]);
        let mut key = [0; 8];
        key.copy_from_slice(&mac[..8]);
        Some(RequestMark { key, content })
    }

    /// While a peer's clock is off by more than half the margin, no opt-in is taken to come after an opt-out by its time: only
    /// what it names counts.
    pub(super) fn leave_out_doubtful_times(&self, event: &mut ConsentEvent) {
        #[cfg(sabotage)]
        if crate::sabotage::is("doubtful-clocks-believed") {
            return;
        }
        let book = self.book();
        let rules = book.rules(event.business.as_str()).unwrap_or(book.defaults());
        if self.replica.clocks_agree(rules.clock_margin_ms) {
            return;
        }
        for change in &mut event.changes {
            if let Change::OptIn(opt_in) = change {
                opt_in.before = opt_in.before.filter(|_| opt_in.imported);
            }
        }
    }

    async fn append_recorded(
        &self,
        request: &RecordRequest,
        whom: Whom,
        mark: Option<RequestMark>,
        recorded: Recorded,
        turn: &mut Turn,
    ) -> Result<EventId, EngineError> {
        let personal = personal_of(request, &recorded);
        let event = ConsentEvent {
            business: request.business.clone(),
            subjects: whom.subjects,
            forms: whom.forms,
            recorded: self.clock.now(),
            request: mark,
            rules_version: self.book().version().to_owned(),
            numbered_late: false,
            changes: recorded.changes,
        };
        self.append_event(event, &personal, request.wants_replicated, turn).await
    }

    /// Appends an event and waits until it is durable and applied; at an edge, no longer than `until`.
    pub(super) async fn append_event(
        &self,
        mut event: ConsentEvent,
        personal: &Personal,
        until: Option<Instant>,
        turn: &mut Turn,
    ) -> Result<EventId, EngineError> {
        self.leave_out_doubtful_times(&mut event);
        self.come_after_forks(&mut event);
        let ledger = match &self.log {
            Log::Ledger(ledger) => ledger,
            Log::Edge(edge) => {
                let entry = LedgerEntry::Consent(event);
                return self.submit(edge, entry, personal, false, until, turn).await;
            }
        };
        let priority = event.changes.iter().any(suppresses);
        let entry = Entry {
            payload: codec::encode_entry(&LedgerEntry::Consent(event)),
            blob: (!personal.is_empty()).then(|| codec::encode_personal(personal)),
            priority,
            bulk: false,
        };
        Ok(ledger.append(entry)?.await?.id)
    }

    fn answer(
        &self,
        request: &RecordRequest,
        people: &People,
        rules: &Rules,
        event: EventId,
        repeated: bool,
        warnings: Vec<FieldViolation>,
    ) -> RecordAnswer {
        let now = self.clock.now();
        let known = people.known();
        let scopes = scopes_of(&request.reports, rules);
        let mut states = Vec::new();
        let mut blocked_by = Vec::new();
        for (scope, opts_in) in scopes {
            let channels = scope.channel.as_ref().map_or(Channel::ALL, std::slice::from_ref);
            for channel in channels {
                let state = state::state_of(&known, *channel, &scope.purpose, rules, now);
                if opts_in && state.state == State::OptedOut {
                    blocked_by.extend(state.basis.iter().copied());
                }
                states.push(state);
            }
        }
        blocked_by.sort_unstable();
        blocked_by.dedup();
        let mut all_warnings = request.warnings.clone();
        all_warnings.extend(warnings);
        RecordAnswer {
            event,
            token: Token(Some(event)).to_string(),
            states,
            blocked_by,
            warnings: all_warnings,
            repeated,
            durability: Durability::Local,
        }
    }
}

/// Whether a change may use the room kept for opt-outs.
pub(super) fn suppresses(change: &Change) -> bool {
    match change {
        Change::OptOut(_) | Change::Invalidate(_) => true,
        Change::Hold(hold) => hold.held,
        Change::Preference(preference) => preference.stopped,
        Change::OptIn(_) | Change::Request(_) | Change::Help { .. } => false,
    }
}

/// The scopes that reports name, each with whether it is opted in to.
fn scopes_of(reports: &[Report], rules: &Rules) -> Vec<(Scope, bool)> {
    use crate::policy::report::{in_scopes, out_scopes};
    let mut scopes: Vec<(Scope, bool)> = Vec::new();
    for report in reports {
        match report {
            Report::OptIn(report) => {
                scopes.extend(in_scopes(report, rules).into_iter().map(|(scope, _)| (scope, true)));
            }
            Report::Request(report) => {
                scopes.extend(in_scopes(&report.opt_in, rules).into_iter().map(|(scope, _)| (scope, true)));
            }
            Report::OptOut(report) => {
                let outs = out_scopes(&report.channels, &report.topics, &report.categories, rules);
                scopes.extend(outs.into_iter().map(|scope| (scope, false)));
            }
            Report::Invalidate(report) => {
                let outs = out_scopes(&report.channels, &report.topics, &report.categories, rules);
                scopes.extend(
                    outs.into_iter().filter(|s| s.purpose != Purpose::All).map(|scope| (scope, false)),
                );
            }
            Report::Release(_) => {}
        }
    }
    scopes.sort();
    scopes.dedup();
    scopes
}

pub(super) fn personal_of(request: &RecordRequest, recorded: &Recorded) -> Personal {
    let mut personal = Personal {
        actor: request.actor.clone(),
        request_id: request.request_id.clone(),
        source: request.row.clone(),
        ..Personal::default()
    };
    let of = |at: &usize| request.reports.get(*at);
    let evidence = |report: Option<&Report>| match report {
        Some(Report::OptIn(report)) => report.evidence.clone(),
        Some(Report::Request(report)) => report.opt_in.evidence.clone(),
        _ => Evidence::default(),
    };
    let text = |report: Option<&Report>| match report {
        Some(Report::OptOut(report)) => report.text.clone(),
        _ => String::new(),
    };
    let evidences: Vec<Evidence> = recorded.from.iter().map(|at| evidence(of(at))).collect();
    if evidences.iter().any(|evidence| *evidence != Evidence::default()) {
        personal.evidence = evidences;
    }
    let texts: Vec<String> = recorded.from.iter().map(|at| text(of(at))).collect();
    if texts.iter().any(|text| !text.is_empty()) {
        personal.texts = texts;
    }
    personal
}
