//! Opt-ins by which a person answers what was asked or offered before: a confirmation, START, a program's word or button.

use std::cmp::Reverse;

use super::{expiry, request_changes};
use crate::policy::consent::{self, Covers, Mark, Naming};
use crate::policy::event::{self, Change, OptIn};
use crate::policy::ids::EventId;
use crate::policy::report::{self, OptInReport, RequestReport};
use crate::policy::rules::Rules;
use crate::policy::standing::{self, Against, Known, Relation};
use crate::policy::state;
use crate::policy::time::Timestamp;
use crate::policy::types::{Channel, ConsentType, OptInMethod};

/// The opt-in that confirms what of the pending `request` was asked on `via`, if it still waits: it names the opt-outs applied
/// when the request was recorded. The reply was sent no later than `no_later`, by the clock of whoever times messages.
#[must_use]
pub fn confirm(
    request: EventId,
    via: Channel,
    occurred: Timestamp,
    no_later: Timestamp,
    known: &[Known<'_>],
    rules: &Rules,
    now: Timestamp,
) -> Option<OptIn> {
    let own = known.iter().find(|known| known.relation == Relation::Own)?;
    let mut confirmed: Option<OptIn> = None;
    let answered = |via: Channel, asked: Channel| {
        #[cfg(sabotage)]
        if crate::sabotage::is("confirmed-by-any-answer") {
            return true;
        }
        via == asked
    };
    for (scope, pending) in own.record.request(request).filter(|(_, pending)| answered(via, pending.via)) {
        let subject = state::subject(&scope.purpose, scope.channel?, rules);
        let against = standing::against(known.iter().copied(), &subject, rules);
        // Sent before a STOP by the provider's own order, it answers nothing that was asked for after that.
        let is_later = |mark: &Mark| {
            mark.message.is_some_and(|(channel, stop)| channel == pending.via && stop > no_later)
        };
        let precedes_stop = against.all_outs().any(|(mark, _)| is_later(mark))
            || standing::marks(known).any(|mark| is_later(&mark) && pending.covers.has(&mark));
        if now >= pending.expire || precedes_stop || !standing::is_live(pending, &against, rules) {
            return None;
        }
        let opt_in = confirmed.get_or_insert_with(|| OptIn {
            scopes: Vec::new(),
            occurred,
            covers: pending.covers.clone(),
            before: Some(occurred.minus_ms(rules.clock_margin_ms)),
            imported: false,
            expire: pending.opt_in_expire,
            consent_type: pending.consent_type,
            grade: pending.grade,
            method: pending.method,
            confirms: Some(request),
            renews: None,
        });
        opt_in.scopes.push((scope.clone(), pending.within));
    }
    confirmed
}

/// What of `against` a person's own message, timed `at` by the provider of `channel`, is shown to come after by
/// that provider's order.
///
/// Naming an event may name what its origin numbered before it; then it counts only where everything else
/// that the origin numbered is older by more than the margin.
fn covers_by_provider(
    against: &Against,
    known: &[Known<'_>],
    channel: Channel,
    at: Timestamp,
    rules: &Rules,
) -> Covers {
    let marks = || against.all_outs().map(|(mark, _)| mark).chain(against.voids.iter());
    let all: Vec<Mark> = standing::marks_on(known, channel).collect();
    let precedes =
        |mark: &Mark| mark.precedes_message(channel, at) || mark.time < at.minus_ms(rules.clock_margin_ms);
    let mut covers = Covers::default();
    marks()
        .filter(|mark| mark.precedes_message(channel, at) && named_with(mark, &all).all(precedes))
        .for_each(|mark| covers.name(mark));
    covers
}

/// What of `all` naming `named` may name as well: what its origin numbered at the same identifier. It need not speak against the topic in
/// its own category: a message may be sent as another one, and then it meets that category's opt-outs.
fn named_with<'a>(named: &Mark, all: &'a [Mark]) -> impl Iterator<Item = &'a Mark> + use<'a> {
    let Mark { id, naming, .. } = *named;
    all.iter().filter(move |other| {
        let also = other.id.origin == id.origin && other.naming == naming;
        also && (naming != Naming::Alone || other.id == id)
    })
}

/// The most opt-ins of one scope that a START renews, the latest first.
pub const RENEWED_MAX: usize = 16;

/// The opt-ins that START renews: those that the person's STOPs on this channel ended, and nothing else did.
///
/// The renewed opt-in comes after what the ended one came after, and after the STOPs that the same provider timed
/// earlier. What else bears on its scope and was numbered by the STOPs' origins before them must be beaten anyway, so that covering it is right.
#[must_use]
pub fn renew(
    channel: Channel,
    occurred: Timestamp,
    known: &[Known<'_>],
    rules: &Rules,
    now: Timestamp,
) -> Vec<OptIn> {
    let Some(own) = known.iter().find(|known| known.relation == Relation::Own) else { return Vec::new() };
    let mut renewed: Vec<OptIn> = Vec::new();
    for (scope, cell) in own.record.cells.iter().filter(|(scope, _)| scope.channel == Some(channel)) {
        let subject = state::subject(&scope.purpose, channel, rules);
        let against = standing::against(known.iter().copied(), &subject, rules);
        let bearing: Vec<Mark> = standing::marks_bearing_on(known, channel, &scope.purpose).collect();
        let mut lasting: Vec<&consent::OptIn> =
            cell.opt_ins.iter().filter(|opt_in| opt_in.lasts_at(now)).collect();
        lasting.sort_by_key(|opt_in| Reverse(opt_in.occurred));
        for ended in lasting.into_iter().take(RENEWED_MAX) {
            let by: Vec<&Mark> = against
                .all_outs()
                .filter(|(mark, imported)| !ended.beats(mark, *imported))
                .map(|(mark, _)| mark)
                .collect();
            let stopped = !by.is_empty();
            let by_stops_only = by.iter().all(|mark| mark.precedes_message(channel, occurred));
            let valid = against.voids.iter().all(|mark| ended.beats(mark, ended.imported));
            // What nobody can name is beaten by time alone.
            let before = ended.before.max(Some(occurred.minus_ms(rules.clock_margin_ms)));
            let in_vain = by
                .iter()
                .any(|mark| mark.naming == Naming::Never && before.is_none_or(|before| mark.time >= before));
            if !(stopped && by_stops_only && valid) || in_vain {
                continue;
            }
            let is_beaten = |mark: &Mark| {
                mark.precedes_message(channel, occurred)
                    || before.is_some_and(|before| mark.time < before)
                    || [false, true].iter().all(|imported| ended.beats(mark, *imported))
            };
            let names_too_much = by.iter().filter(|stop| stop.naming != Naming::Alone).any(|stop| {
                named_with(stop, &bearing)
                    .any(|other| other.id.sequence < stop.id.sequence && !is_beaten(other))
            });
            if names_too_much {
                continue;
            }
            let mut covers = ended.covers.clone();
            // What is not told apart any more can be named by nobody.
            covers.retain_alone(|id| standing::marks(known).any(|mark| mark.id == id));
            by.iter().for_each(|mark| covers.name(mark));
            // A START repeats what was agreed to; it does not lengthen it.
            match renewed.iter_mut().find(|opt_in| opt_in.renews == Some(ended.id)) {
                Some(opt_in) => {
                    opt_in.scopes.push((scope.clone(), ended.within));
                    opt_in.covers.join(&covers);
                }
                None => renewed.push(OptIn {
                    scopes: vec![(scope.clone(), ended.within)],
                    occurred,
                    covers,
                    before,
                    imported: false,
                    expire: ended.expire,
                    consent_type: ended.consent_type,
                    grade: ended.grade,
                    method: OptInMethod::SmsKeyword,
                    confirms: None,
                    renews: Some(ended.id),
                }),
            }
        }
    }
    renewed
}

/// The opt-in of a program's keyword or button: explicit, with the notice it was offered with.
#[must_use]
pub fn join_program(
    report: &OptInReport,
    channel: Channel,
    occurred: Timestamp,
    known: &[Known<'_>],
    rules: &Rules,
    now: Timestamp,
) -> Vec<Change> {
    if report.method.is_some_and(|method| rules.double_opt_in.contains(&method)) {
        let request = RequestReport { via: Some(channel), opt_in: report.clone(), expire: None };
        return request_changes(&request, known, rules, now);
    }
    let scopes = report::in_scopes(report, rules);
    let mut against = Against::default();
    for (scope, within) in &scopes {
        let mut subject = state::subject(&scope.purpose, channel, rules);
        subject.category = within.unwrap_or(subject.category);
        against.join(&standing::against(known.iter().copied(), &subject, rules));
    }
    vec![Change::OptIn(event::OptIn {
        scopes,
        occurred,
        covers: covers_by_provider(&against, known, channel, occurred, rules),
        before: Some(occurred.minus_ms(rules.clock_margin_ms)),
        imported: false,
        expire: expiry(None, occurred, rules),
        consent_type: ConsentType::Express,
        grade: report::grade(report, rules),
        method: report.method.unwrap_or(OptInMethod::Other),
        confirms: None,
        renews: None,
    })]
}
