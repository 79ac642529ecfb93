//! How a report becomes an event: the recorder fixes the times and covers that the merge rests on.

use super::consent::{Covers, Mark, Naming};
use super::distrust;
use super::event::{Change, Hold, Invalidate, OptIn, OptOut, Preference, Request};
use super::ids::EventId;
use super::report::{
    self, FieldViolation, InvalidateReport, OptInReport, OptOutReport, ReleaseReport, Report, RequestReport,
};
use super::rules::Rules;
use super::standing::{self, Known, Relation, Standing};
use super::state;
use super::time::{DAY_MS, Timestamp};
use super::types::{Category, Channel, InvalidateCause, OptInMethod, OptOutMethod, Purpose, Scope};

mod answers;

pub use answers::{RENEWED_MAX, confirm, join_program, renew};

/// By how much an imported opt-in must be later than an imported opt-out to beat it.
pub const IMPORT_MARGIN_MS: i64 = DAY_MS;

/// Who vouches for the time that a report states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A caller: an opt-out counts from its recording.
    Caller,
    /// A provider's signature: its time counts.
    Signed,
    /// Another system's records: their times count.
    Import,
}

/// Why a report is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Fields cannot be accepted.
    Invalid(Vec<FieldViolation>),
    /// The person is opted out, and the opt-in does not name these opt-outs in `supersedes`.
    Unsuperseded(Vec<Mark>),
    /// The pending request is unknown, lapsed, or an opt-out came after it.
    NotPending(EventId),
}

impl Refusal {
    /// The refusal of what stands at `path` in the request.
    fn within(self, path: &str) -> Self {
        let Self::Invalid(faults) = self else { return self };
        let placed =
            |fault: FieldViolation| FieldViolation { field: format!("{path}.{}", fault.field), ..fault };
        Self::Invalid(faults.into_iter().map(placed).collect())
    }
}

/// The changes of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The changes, opt-outs first.
    pub changes: Vec<Change>,
    /// For each change, the report it came from.
    pub from: Vec<usize>,
    /// What was widened or doubtful.
    pub warnings: Vec<String>,
}

impl Recorded {
    fn push(&mut self, change: Change, from: usize) {
        self.changes.push(change);
        self.from.push(from);
    }
}

/// Turns reports into the changes of one event, opt-outs first. Nothing is recorded unless all of
/// them can be.
///
/// # Errors
/// When an opt-in or request is refused; opt-outs never are.
pub fn record(
    reports: &[Report],
    known: &[Known<'_>],
    source: Source,
    rules: &Rules,
    now: Timestamp,
) -> Result<Recorded, Refusal> {
    validate(reports, rules, now)?;
    let mut recorded = Recorded::default();
    for (from, report) in reports.iter().enumerate() {
        if let Report::OptOut(report) = report {
            record_opt_out(report, from, known, source, rules, now, &mut recorded);
        }
    }
    let mut missing = Vec::new();
    for (from, report) in reports.iter().enumerate() {
        match report {
            Report::OptOut(_) => {}
            Report::OptIn(report) => {
                let change = opt_in_change(report, known, source, rules, now, &mut recorded, &mut missing)
                    .map_err(|refusal| refusal.within(&format!("changes[{from}].opt_in")))?;
                // A request that waits for its confirmation clears up nothing.
                let opted_in = change.iter().flat_map(|change| match change {
                    Change::OptIn(opt_in) => opt_in.scopes.as_slice(),
                    _ => &[],
                });
                let mut channels: Vec<Channel> = opted_in.filter_map(|(scope, _)| scope.channel).collect();
                channels.sort_unstable();
                channels.dedup();
                change.into_iter().for_each(|change| recorded.push(change, from));
                release_holds(&channels, report.occurred, known, from, &mut recorded);
            }
            Report::Request(report) => {
                request_changes(report, known, rules, now)
                    .into_iter()
                    .for_each(|change| recorded.push(change, from));
            }
            Report::Invalidate(report) => {
                record_invalidation(report, from, known, rules, now, &mut recorded);
            }
            Report::Release(ReleaseReport::Holds(channels)) => {
                let channels = if channels.is_empty() { Channel::ALL } else { channels };
                for channel in channels {
                    let time = after_hold(known, *channel, now);
                    recorded.push(Change::Hold(Hold { channel: *channel, held: false, time }), from);
                }
            }
            Report::Release(ReleaseReport::Preference(sender, time)) => {
                let time = time.unwrap_or(now).min(now);
                recorded.push(
                    Change::Preference(Preference { sender: sender.clone(), stopped: false, time }),
                    from,
                );
            }
        }
    }
    if missing.is_empty() {
        Ok(recorded)
    } else {
        Err(Refusal::Unsuperseded(standing::latest_by_id(missing)))
    }
}

fn validate(reports: &[Report], rules: &Rules, now: Timestamp) -> Result<(), Refusal> {
    let mut faults = Vec::new();
    for (at, report) in reports.iter().enumerate() {
        match report {
            Report::OptIn(report) if report.confirms.is_none() => {
                report::validate_opt_in(report, rules, &format!("changes[{at}].opt_in"), now, &mut faults);
            }
            Report::OptIn(report) => {
                if report.occurred.is_none_or(|occurred| occurred > now.plus_ms(rules.clock_margin_ms)) {
                    faults.push(FieldViolation::new(
                        format!("changes[{at}].occurred_time"),
                        "state when the person confirmed, not in the future",
                    ));
                }
            }
            Report::Request(report) => validate_request(report, rules, at, now, &mut faults),
            Report::OptOut(_) | Report::Invalidate(_) | Report::Release(_) => {}
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Refusal::Invalid(faults)) }
}

fn validate_request(
    report: &RequestReport,
    rules: &Rules,
    at: usize,
    now: Timestamp,
    faults: &mut Vec<FieldViolation>,
) {
    let path = format!("changes[{at}].opt_in_request");
    report::validate_opt_in(&report.opt_in, rules, &path, now, faults);
    match report.via {
        None => faults.push(FieldViolation::new(format!("{path}.via"), "name the channel of the question")),
        // BGH I ZR 164/09: a confirmation by email proves nothing for a phone number.
        Some(Channel::Email) if report.opt_in.channels.iter().any(|channel| *channel != Channel::Email) => {
            faults.push(FieldViolation::new(
                format!("{path}.via"),
                "a reply by email never confirms a phone number; ask on the phone's own channel",
            ));
        }
        Some(via) if via != Channel::Email && report.opt_in.channels.contains(&Channel::Email) => {
            faults.push(FieldViolation::new(
                format!("{path}.via"),
                "a reply by phone does not confirm an email address; ask by email",
            ));
        }
        Some(_) => {}
    }
    if report.expire.is_some_and(|expire| expire <= now) {
        faults.push(FieldViolation::new(format!("{path}.expire_time"), "must lie in the future"));
    }
}

/// The time by which the merge judges an opt-out (design §5): never later than now, unless an opt-in known here
/// is. A clock that lags must not make an opt-out look older than an opt-in that it was recorded after.
#[must_use]
pub fn opt_out_time(
    stated: Option<Timestamp>,
    source: Source,
    known: &[Known<'_>],
    rules: &Rules,
    now: Timestamp,
) -> Timestamp {
    let time = match source {
        Source::Caller => now,
        Source::Signed | Source::Import => stated.unwrap_or(now).min(now),
    };
    #[cfg(sabotage)]
    let time = match stated {
        Some(stated) if crate::sabotage::is("opt-out-time-believed") => stated.min(now),
        Some(stated) if crate::sabotage::is("opt-out-time-unbounded") && source == Source::Signed => stated,
        _ => time,
    };
    if now.since_ms(time) > rules.clock_margin_ms {
        return time;
    }
    // Those under other written forms too: the opt-out reaches them. Opt-ins of an import do not count for its opt-outs, so that the order
    // of its rows is indifferent.
    known
        .iter()
        .flat_map(|known| distrust::every_opt_in(known.record))
        .filter(|opt_in| !(opt_in.imported && source == Source::Import))
        .map(|opt_in| opt_in.before.map_or(opt_in.occurred, |before| before.max(opt_in.occurred)))
        .fold(time, Timestamp::max)
}

fn record_opt_out(
    report: &OptOutReport,
    from: usize,
    known: &[Known<'_>],
    source: Source,
    rules: &Rules,
    now: Timestamp,
    recorded: &mut Recorded,
) {
    let scopes = report::out_scopes(&report.channels, &report.topics, &report.categories, rules);
    if !report::unknown_topics(&report.topics, rules).is_empty() {
        recorded
            .warnings
            .push("the opt-out names a topic that the business does not have; taken for everything".into());
    }
    let only = match report.channels[..] {
        [channel] => Some(channel),
        _ => None,
    };
    let repeated = is_repeat(&scopes, known, rules, now);
    let confirmed = source != Source::Import && only.is_some() && !repeated;
    recorded.push(
        Change::OptOut(OptOut {
            scopes,
            time: opt_out_time(report.occurred, source, known, rules, now),
            stated: report.occurred,
            imported: source == Source::Import,
            inbound: None,
            method: report.method,
            confirm_until: confirmed.then(|| now.plus_ms(rules.stop_confirmation_within_ms)),
        }),
        from,
    );
    if source != Source::Import {
        let channels = if report.channels.is_empty() { Channel::ALL } else { &report.channels };
        // One that was said before the doubt clears up nothing of it.
        release_holds(channels, report.occurred.or(Some(Timestamp::MAX)), known, from, recorded);
    }
}

/// Whether the person is already opted out of every one of `scopes`.
#[must_use]
pub fn is_repeat(scopes: &[Scope], known: &[Known<'_>], rules: &Rules, now: Timestamp) -> bool {
    scopes.iter().all(|scope| {
        let channels = scope.channel.map_or(Channel::ALL.to_vec(), |channel| vec![channel]);
        let outs_here = known.iter().any(|known| {
            known.record.cells.iter().any(|(written, cell)| {
                written.purpose == scope.purpose
                    && (written.channel.is_none() || written.channel == scope.channel)
                    && !(cell.outs.is_empty() && cell.imported_outs.is_empty())
            })
        });
        outs_here
            && channels.iter().all(|channel| {
                let subject = state::subject(&scope.purpose, *channel, rules);
                standing::standing(known, &subject, rules, now).standing == Standing::OptedOut
            })
    })
}

fn hold_of(known: &[Known<'_>], channel: Channel) -> Option<Timestamp> {
    known
        .iter()
        .flat_map(|known| &known.record.holds)
        .filter(|(at, register)| *at == channel && register.suppresses)
        .map(|(_, register)| register.time)
        .max()
}

fn after_hold(known: &[Known<'_>], channel: Channel, now: Timestamp) -> Timestamp {
    hold_of(known, channel).map_or(now, |held| held.plus_ms(1).max(now))
}

/// Ends holds that a clear act came after.
fn release_holds(
    channels: &[Channel],
    occurred: Option<Timestamp>,
    known: &[Known<'_>],
    from: usize,
    recorded: &mut Recorded,
) {
    for channel in channels {
        let held = hold_of(known, *channel);
        if let Some(held) = held.filter(|held| occurred.is_some_and(|occurred| occurred > *held)) {
            let change = Change::Hold(Hold { channel: *channel, held: false, time: held.plus_ms(1) });
            recorded.push(change, from);
        }
    }
}

fn opt_in_change(
    report: &OptInReport,
    known: &[Known<'_>],
    source: Source,
    rules: &Rules,
    now: Timestamp,
    recorded: &mut Recorded,
    missing: &mut Vec<Mark>,
) -> Result<Vec<Change>, Refusal> {
    let occurred = report.occurred.unwrap_or(now).min(now);
    if let Some(request) = report.confirms {
        let method = report.method;
        // Whoever records it does not go by the clock that timed a STOP.
        let no_later = Timestamp::MAX;
        let via = confirmed_on(request, report, known)?;
        let confirmed = confirm(request, via, occurred, no_later, known, rules, now)
            .ok_or(Refusal::NotPending(request))?;
        return Ok(vec![Change::OptIn(OptIn { method: method.unwrap_or(confirmed.method), ..confirmed })]);
    }
    if source != Source::Import && report.method.is_some_and(|method| rules.double_opt_in.contains(&method)) {
        // One request per channel, each confirmed on its own: a reply by email proves nothing for a phone.
        let requests = report.channels.iter().flat_map(|channel| {
            let opt_in = OptInReport { channels: vec![*channel], ..report.clone() };
            request_changes(&RequestReport { via: Some(*channel), opt_in, expire: None }, known, rules, now)
        });
        return Ok(requests.collect());
    }
    let scopes = report::in_scopes(report, rules);
    let covers = if source == Source::Import {
        Covers::default()
    } else {
        let covers = covers_of(&report.supersedes, known, recorded);
        #[cfg(sabotage)]
        let covers = if crate::sabotage::is("covers-on-arrival") { all_known(known) } else { covers };
        missing.extend(unsuperseded(&scopes, &covers, occurred, known, rules, now));
        if late_supersedes(&covers, known, occurred.plus_ms(rules.clock_margin_ms)) {
            recorded.warnings.push(
                "`supersedes` names an opt-out recorded after this opt-in's occurred_time; make sure that the \
                 person really opted in again"
                    .into(),
            );
        }
        covers
    };
    let margin = if source == Source::Import { IMPORT_MARGIN_MS } else { rules.clock_margin_ms };
    #[cfg(sabotage)]
    let margin = if crate::sabotage::is("no-margin") { 0 } else { margin };
    let before = occurred.minus_ms(margin);
    #[cfg(sabotage)]
    let before = if crate::sabotage::is("before-on-arrival") { now.minus_ms(margin) } else { before };
    let opt_in = |(covers, scopes)| {
        Change::OptIn(OptIn {
            scopes,
            occurred,
            covers,
            before: Some(before),
            imported: source == Source::Import,
            expire: expiry(report.expire, occurred, rules),
            consent_type: report.consent_type,
            grade: report::grade(report, rules),
            method: report.method.unwrap_or(OptInMethod::Other),
            confirms: None,
            renews: None,
        })
    };
    Ok(by_covers(scopes, &covers, before, known, rules).into_iter().map(opt_in).collect())
}

/// The channel whose question `report` says is answered: where one event asked on several, that of the channels it names. An answer by
/// email proves nothing for a phone.
fn confirmed_on(request: EventId, report: &OptInReport, known: &[Known<'_>]) -> Result<Channel, Refusal> {
    let asked = |named: &dyn Fn(&Scope) -> bool| {
        let own = known.iter().filter(|known| known.relation == Relation::Own);
        let pending = own.flat_map(|known| known.record.request(request)).filter(|(scope, _)| named(scope));
        let mut vias: Vec<Channel> = pending.map(|(_, pending)| pending.via).collect();
        vias.sort_unstable();
        vias.dedup();
        vias
    };
    if let [via] = asked(&|_| true)[..] {
        return Ok(via);
    }
    match asked(&|scope| scope.channel.is_some_and(|channel| report.channels.contains(&channel)))[..] {
        [via] => Ok(via),
        _ if asked(&|_| true).is_empty() => Err(Refusal::NotPending(request)),
        _ => Err(Refusal::Invalid(vec![FieldViolation::new(
            "channels",
            "the request asked on several channels; name those that the answer on one of them confirms",
        )])),
    }
}

type BoundScope = (Scope, Option<Category>);

/// The scopes with what the opt-in covers in each.
///
/// Where something that an origin numbered is known and ends the opt-in all the same, nothing of that origin is covered up to a number: it
/// would be in vain here, and where that is not known yet it would beat what it did not come after, if the one that was named had been
/// reported late.
fn by_covers(
    scopes: Vec<BoundScope>,
    covers: &Covers,
    before: Timestamp,
    known: &[Known<'_>],
    rules: &Rules,
) -> Vec<(Covers, Vec<BoundScope>)> {
    let mut grouped: Vec<(Covers, Vec<BoundScope>)> = Vec::new();
    for (scope, within) in scopes {
        let mut here = covers.clone();
        if let Some(channel) = scope.channel.filter(|_| !covers.is_empty()) {
            let mut subject = state::subject(&scope.purpose, channel, rules);
            subject.category = within.unwrap_or(subject.category);
            let against = standing::against(known.iter().copied(), &subject, rules);
            let marks = against.all_outs().map(|(mark, _)| mark).chain(against.voids.iter());
            let ends = |mark: &&Mark| !covers.has(mark) && mark.time >= before;
            marks.filter(ends).for_each(|mark| here.forget_up_to(mark.id.origin));
        }
        #[cfg(sabotage)]
        let here = if crate::sabotage::is("covers-in-vain") { covers.clone() } else { here };
        match grouped.iter_mut().find(|(covers, _)| *covers == here) {
            Some((_, scopes)) => scopes.push((scope, within)),
            None => grouped.push((here, vec![(scope, within)])),
        }
    }
    grouped
}

fn expiry(stated: Option<Timestamp>, occurred: Timestamp, rules: &Rules) -> Option<Timestamp> {
    let by_rules = rules.opt_in_expires_after_ms.map(|after| occurred.plus_ms(after));
    match (stated, by_rules) {
        (Some(stated), Some(by_rules)) => Some(stated.min(by_rules)),
        (stated, by_rules) => stated.or(by_rules),
    }
}

/// The covers of named opt-outs. A name counts only where it is one that this node shows, so that what it stands for was before the eyes
/// of whoever named it: nobody can act after an opt-out that has not happened.
fn covers_of(named: &[EventId], known: &[Known<'_>], recorded: &mut Recorded) -> Covers {
    let mut covers = Covers::default();
    for id in named {
        let mut shown = standing::marks(known).filter(|mark| mark.id == *id).peekable();
        if shown.peek().is_none() {
            recorded.warnings.push(format!(
                "`supersedes` names {id}, which is not among the opt-outs of this person that are shown here"
            ));
        }
        shown.for_each(|mark| covers.name(&mark));
    }
    covers
}

fn late_supersedes(covers: &Covers, known: &[Known<'_>], at_latest: Timestamp) -> bool {
    standing::marks(known).any(|mark| covers.has(&mark) && mark.time > at_latest)
}

/// The opt-outs that hold in `scopes` and that `covers` does not name.
fn unsuperseded(
    scopes: &[(Scope, Option<Category>)],
    covers: &Covers,
    occurred: Timestamp,
    known: &[Known<'_>],
    rules: &Rules,
    now: Timestamp,
) -> Vec<Mark> {
    let mut missing = Vec::new();
    for (scope, within) in scopes {
        let Some(channel) = scope.channel else { continue };
        let mut subject = state::subject(&scope.purpose, channel, rules);
        subject.category = within.unwrap_or(subject.category);
        if standing::standing(known, &subject, rules, now).standing != Standing::OptedOut {
            continue;
        }
        let against = standing::against(known.iter().copied(), &subject, rules);
        // What nobody can name need not be named where time beats it.
        let is_beaten = |mark: &Mark| {
            mark.naming == Naming::Never && mark.time < occurred.minus_ms(rules.clock_margin_ms)
        };
        let unnamed = against.all_outs().filter(|(mark, _)| !(covers.has(mark) || is_beaten(mark)));
        missing.extend(unnamed.map(|(mark, _)| *mark));
    }
    missing
}

/// The covers of who acted after all that is known here.
fn all_known(known: &[Known<'_>]) -> Covers {
    let mut covers = Covers::default();
    standing::marks(known).for_each(|mark| covers.name(&mark));
    covers
}

fn request_changes(
    report: &RequestReport,
    known: &[Known<'_>],
    rules: &Rules,
    now: Timestamp,
) -> Vec<Change> {
    let Some(via) = report.via else { return Vec::new() };
    let opt_in = &report.opt_in;
    let occurred = opt_in.occurred.unwrap_or(now).min(now);
    let lapses = now.plus_ms(rules.pending_expires_after_ms);
    vec![Change::Request(Request {
        scopes: report::in_scopes(opt_in, rules),
        via,
        occurred,
        covers: all_known(known),
        expire: report.expire.map_or(lapses, |expire| expire.min(lapses)),
        opt_in_expire: expiry(opt_in.expire, occurred, rules),
        consent_type: opt_in.consent_type,
        grade: report::grade(opt_in, rules),
        method: opt_in.method.unwrap_or(OptInMethod::Other),
    })]
}

fn record_invalidation(
    report: &InvalidateReport,
    from: usize,
    known: &[Known<'_>],
    rules: &Rules,
    now: Timestamp,
    recorded: &mut Recorded,
) {
    // Whoever ends opt-ins without saying when ends all that are known.
    let latest = opt_out_time(None, Source::Caller, known, rules, now);
    let time = report.occurred.map_or(latest, |stated| stated.min(latest));
    let scopes = report::out_scopes(&report.channels, &report.topics, &report.categories, rules);
    if report.cause == InvalidateCause::NumberChanged {
        // Nobody who moved away wants messages to arrive at the number left behind.
        let everything = vec![Scope { channel: None, purpose: Purpose::All }];
        let out = OptOut {
            scopes: everything,
            time: latest,
            stated: report.occurred,
            imported: false,
            inbound: None,
            method: OptOutMethod::Unknown,
            confirm_until: None,
        };
        recorded.push(Change::OptOut(out), from);
    }
    recorded.push(Change::Invalidate(Invalidate { scopes, cause: report.cause, time }), from);
}
