//! Where a person stands towards one kind of message: opted out, opted in, or something between.

use super::consent::{Cell, Mark, Marks, Naming, OptIn};
use super::ids::{EventId, Identifier, TopicId};
use super::record::Record;
use super::rules::{Rules, SpanMs};
use super::time::{DAY_MS, Timestamp};
use super::types::{Category, Channel, Purpose, Scope};
use super::usage::Window;

/// How long the customer-service window stays open after the person's last message.
pub const WINDOW_MS: SpanMs = DAY_MS;

/// How an identifier relates to the one addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The very one.
    Own,
    /// Another written form of it (Mexico, Brazil, Argentina): its opt-outs count, its opt-ins do not.
    Alias,
    /// Another identifier of the person: its opt-outs count, its opt-ins beat no opt-out.
    Link(Identifier),
    /// Another written form of what is linked, or what is linked to another written form; it may be another person's: its opt-outs count,
    /// its opt-ins do not.
    AliasLink(Identifier),
}

impl Relation {
    /// A mark of a record with this relation, as who asks has it: by its own number an opt-in names nothing of another identifier, which may
    /// have come to be known as the person's only afterwards.
    fn mark(self, mark: Mark) -> Mark {
        #[cfg(sabotage)]
        if crate::sabotage::is("numbers-reach-links") {
            return mark;
        }
        match self {
            Self::Own | Self::Alias => mark,
            Self::Link(who) | Self::AliasLink(who) => mark.of_link(Some(who)),
        }
    }

    /// Whether opt-ins of such a record count.
    #[must_use]
    pub const fn gives_opt_ins(self) -> bool {
        matches!(self, Self::Own | Self::Link(_))
    }
}

/// A record that bears on the person addressed.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// How.
    pub relation: Relation,
    /// The record.
    pub record: &'a Record,
}

/// A kind of message, as consent sees it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The channel.
    pub channel: Channel,
    /// The category it is judged as.
    pub category: Category,
    /// Its message type, where it has one.
    pub topic: Option<&'a TopicId>,
}

/// Where a person stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// An opt-out is unbeaten.
    OptedOut,
    /// An opt-in permits.
    Granted,
    /// Asked for, not confirmed.
    Pending,
    /// The opt-in ran out.
    Expired,
    /// Opted in on this channel, to something else.
    TopicNotCovered,
    /// Never opted in.
    None,
}

/// A standing with what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The standing.
    pub standing: Standing,
    /// The events that decide: unbeaten opt-outs, or the opt-in, or the request.
    pub basis: Vec<EventId>,
    /// When an opt-in that permits ends.
    pub until: Option<Timestamp>,
    /// Since when, as far as the deciding events tell.
    pub since: Option<Timestamp>,
}

impl Finding {
    fn of(standing: Standing) -> Self {
        Self { standing, basis: Vec::new(), until: None, since: None }
    }
}

/// All opt-outs, and invalidations, that bear on a subject.
#[derive(Clone, Debug, Default)]
pub struct Against {
    /// Opt-outs.
    pub outs: Marks,
    /// Opt-outs taken over from other systems.
    pub imported_outs: Marks,
    /// Invalidations.
    pub voids: Marks,
}

impl Against {
    /// Adds what `other` holds.
    pub fn join(&mut self, other: &Self) {
        let pairs = [
            (&mut self.outs, &other.outs),
            (&mut self.imported_outs, &other.imported_outs),
            (&mut self.voids, &other.voids),
        ];
        for (marks, others) in pairs {
            others.iter().for_each(|mark| marks.gather(*mark));
        }
    }

    fn add(&mut self, relation: Relation, cell: &Cell) {
        let pairs = [
            (&mut self.outs, &cell.outs),
            (&mut self.imported_outs, &cell.imported_outs),
            (&mut self.voids, &cell.voids),
        ];
        for (marks, found) in pairs {
            found.iter().for_each(|mark| marks.gather(relation.mark(*mark)));
        }
    }

    /// Whether nobody opted out.
    #[must_use]
    pub fn has_no_out(&self) -> bool {
        self.outs.is_empty() && self.imported_outs.is_empty()
    }

    /// Every opt-out, one per origin and way, each with whether it was imported.
    pub fn all_outs(&self) -> impl Iterator<Item = (&Mark, bool)> {
        self.outs.iter().map(|mark| (mark, false)).chain(self.imported_outs.iter().map(|mark| (mark, true)))
    }

    fn beaten_by(&self, opt_in: &OptIn) -> bool {
        self.all_outs().all(|(mark, imported)| opt_in.beats(mark, imported))
    }
}

/// Whether an opt-out (or invalidation) written as `scope` bears on `subject`.
///
/// A message without a topic is touched by an opt-out of any topic of its category, and of any
/// topic whose category is not known.
#[must_use]
pub fn touches(scope: &Scope, subject: &Subject<'_>, rules: &Rules) -> bool {
    if scope.channel.is_some_and(|channel| channel != subject.channel) {
        return false;
    }
    match (&scope.purpose, subject.topic) {
        (Purpose::All, _) => true,
        (Purpose::Category(category), Some(topic)) => {
            *category == subject.category || rules.category_of(topic) == Some(*category)
        }
        (Purpose::Category(category), None) => *category == subject.category,
        (Purpose::Topic(out), Some(topic)) => out == topic,
        // A reply is no message of any topic.
        (Purpose::Topic(_), None) if subject.category == Category::Service => false,
        (Purpose::Topic(out), None) => {
            rules.category_of(out).is_none_or(|category| category == subject.category)
        }
    }
}

/// Everything that speaks against sending `subject`.
#[must_use]
pub fn against<'a>(known: impl Iterator<Item = Known<'a>>, subject: &Subject<'_>, rules: &Rules) -> Against {
    let mut against = Against::default();
    for Known { relation, record } in known {
        for (_, cell) in record.cells.iter().filter(|(scope, _)| touches(scope, subject, rules)) {
            against.add(relation, cell);
        }
    }
    against
}

/// Every opt-out and invalidation that is known, whatever it reaches.
pub fn marks<'a>(known: &'a [Known<'a>]) -> impl Iterator<Item = Mark> {
    marks_in(known, |_| true)
}

/// Those that reach `channel`, or every channel.
pub fn marks_on<'a>(known: &'a [Known<'a>], channel: Channel) -> impl Iterator<Item = Mark> {
    marks_in(known, move |scope| scope.channel.is_none_or(|reached| reached == channel))
}

/// Those that may speak against something of `purpose` on `channel`, whichever category it is sent as.
pub fn marks_bearing_on<'a>(
    known: &'a [Known<'a>],
    channel: Channel,
    purpose: &'a Purpose,
) -> impl Iterator<Item = Mark> {
    marks_in(known, move |scope| {
        let is_of_another = matches!(
            (&scope.purpose, purpose),
            (Purpose::Topic(reached), Purpose::Topic(topic)) if reached != topic
        );
        !is_of_another && scope.channel.is_none_or(|reached| reached == channel)
    })
}

fn marks_in<'a>(
    known: &'a [Known<'a>],
    reaches: impl Fn(&Scope) -> bool + Copy + 'a,
) -> impl Iterator<Item = Mark> {
    known.iter().flat_map(move |Known { relation, record }| {
        let all = |cell: &'a Cell| cell.outs.iter().chain(cell.imported_outs.iter()).chain(cell.voids.iter());
        let cells = record.cells.iter().filter(move |(scope, _)| reaches(scope));
        cells.flat_map(move |(_, cell)| all(cell)).map(|mark| relation.mark(*mark))
    })
}

/// Each event once, with the latest of its times: one that stands for others has another in every scope.
#[must_use]
pub fn latest_by_id(marks: impl IntoIterator<Item = Mark>) -> Vec<Mark> {
    let mut latest = std::collections::BTreeMap::<EventId, Mark>::new();
    for mark in marks {
        let known = latest.entry(mark.id).or_insert(mark);
        known.time = known.time.max(mark.time);
    }
    latest.into_values().collect()
}

/// Where the person stands towards a business-initiated `subject`.
#[must_use]
pub fn standing(known: &[Known<'_>], subject: &Subject<'_>, rules: &Rules, now: Timestamp) -> Finding {
    let against = against(known.iter().copied(), subject, rules);
    let wanted = match subject.topic {
        Some(topic) => Purpose::Topic(topic.clone()),
        None => Purpose::Category(subject.category),
    };
    let mut granted: Option<&OptIn> = None;
    let mut expired: Option<&OptIn> = None;
    let mut elsewhere = false;
    for Known { relation, record } in known {
        #[cfg(sabotage)]
        let relation = match relation {
            Relation::Link(_) if crate::sabotage::is("link-beats-opt-out") => &Relation::Own,
            relation => relation,
        };
        let through_link = matches!(relation, Relation::Link(_));
        if !relation.gives_opt_ins() || through_link && !against.has_no_out() {
            continue;
        }
        let of_link;
        let voids = if through_link && !against.voids.is_empty() {
            of_link = voids_seen_by(record, known, subject, rules);
            &of_link
        } else {
            &against.voids
        };
        for (scope, cell) in &record.cells {
            if scope.channel != Some(subject.channel) {
                continue;
            }
            for opt_in in &cell.opt_ins {
                let counts = rules.permits(opt_in.consent_type, subject.channel)
                    && voids.iter().all(|mark| opt_in.beats(mark, opt_in.imported));
                if !counts {
                    continue;
                }
                let fits = scope.purpose == wanted
                    && opt_in.within.is_none_or(|category| category == subject.category);
                match (fits, opt_in.lasts_at(now)) {
                    (false, lasts) => elsewhere |= lasts,
                    (true, _) if !against.beaten_by(opt_in) => {}
                    (true, true) => granted = Some(longer(granted, opt_in)),
                    (true, false) => expired = Some(longer(expired, opt_in)),
                }
            }
        }
    }
    if let Some(opt_in) = granted {
        return Finding {
            standing: Standing::Granted,
            basis: vec![opt_in.id],
            until: opt_in.expire,
            since: Some(opt_in.occurred),
        };
    }
    // An opt-in that ran out still shows what the person did last, but only where the message
    // would need one anyway: elsewhere it must not open the door that a STOP closed.
    let needs_consent = rules.consent_required.contains(&subject.category);
    let excused = needs_consent && expired.is_some();
    if !(against.has_no_out() || excused) {
        return Finding {
            standing: Standing::OptedOut,
            basis: against.all_outs().map(|(mark, _)| mark.id).collect(),
            until: None,
            since: against.all_outs().map(|(mark, _)| mark.time).max(),
        };
    }
    if let Some(request) = pending(known, subject, &wanted, &against, rules, now) {
        return Finding { basis: vec![request], ..Finding::of(Standing::Pending) };
    }
    if let Some(opt_in) = expired {
        return Finding { basis: vec![opt_in.id], since: opt_in.expire, ..Finding::of(Standing::Expired) };
    }
    Finding::of(if elsewhere { Standing::TopicNotCovered } else { Standing::None })
}

/// The invalidations as an opt-in of the linked `record` names them: its own by their numbers. Of the identifier asked for it cannot be told
/// here which it is, so those count unless they are long before.
fn voids_seen_by(record: &Record, known: &[Known<'_>], subject: &Subject<'_>, rules: &Rules) -> Marks {
    let mut voids = Marks::default();
    for other in known {
        for (_, cell) in other.record.cells.iter().filter(|(scope, _)| touches(scope, subject, rules)) {
            for mark in cell.voids.iter() {
                let seen = match other.relation {
                    _ if std::ptr::eq(other.record, record) => *mark,
                    Relation::Own | Relation::Alias => mark.of_link(None),
                    Relation::Link(who) | Relation::AliasLink(who) => mark.of_link(Some(who)),
                };
                voids.gather(seen);
            }
        }
    }
    voids
}

fn longer<'a>(best: Option<&'a OptIn>, other: &'a OptIn) -> &'a OptIn {
    let end = |opt_in: &OptIn| opt_in.expire.unwrap_or(Timestamp::MAX);
    match best {
        Some(best) if end(best) >= end(other) => best,
        _ => other,
    }
}

fn pending(
    known: &[Known<'_>],
    subject: &Subject<'_>,
    wanted: &Purpose,
    against: &Against,
    rules: &Rules,
    now: Timestamp,
) -> Option<EventId> {
    known
        .iter()
        .filter(|known| known.relation == Relation::Own)
        .flat_map(|known| &known.record.cells)
        .filter(|(scope, _)| scope.channel == Some(subject.channel) && scope.purpose == *wanted)
        .flat_map(|(_, cell)| &cell.requests)
        .find(|request| now < request.expire && is_live(request, against, rules))
        .map(|request| request.id)
}

/// Whether a request still waits: no opt-out came after it.
#[must_use]
pub fn is_live(request: &super::consent::Request, against: &Against, rules: &Rules) -> bool {
    let long_before = |mark: &Mark| mark.time < request.occurred.minus_ms(rules.clock_margin_ms);
    let covered = |mark: &Mark| request.covers.has(mark) || mark.naming == Naming::Never && long_before(mark);
    against.all_outs().all(|(mark, _)| covered(mark)) && against.voids.iter().all(covered)
}

/// Whether the customer-service window is open, and whether the person's STOP ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowState {
    /// Open until the moment given.
    Open(Timestamp),
    /// An opt-out of the whole channel ended it, and no later message reopened it.
    EndedByOptOut,
    /// The person has not written within the last 24 h.
    Closed,
}

/// The state of `window`, given every record of the person.
///
/// An opt-out of the whole channel ends it. A later message reopens it: later by the provider's own
/// time where the opt-outs came by the same channel as messages, else by more than the margin.
#[must_use]
pub fn window_state(
    window: Option<&Window>,
    known: &[Known<'_>],
    channel: Channel,
    rules: &Rules,
    now: Timestamp,
) -> WindowState {
    let whole = |scope: &Scope| scope.purpose == Purpose::All && scope.channel.is_none_or(|at| at == channel);
    let mut outs = Against::default();
    for Known { relation, record } in known {
        let cells = record.cells.iter().filter(|(scope, _)| whole(scope));
        cells.for_each(|(_, cell)| outs.add(*relation, cell));
    }
    let ended = outs.all_outs().any(|(mark, _)| {
        let reopened = window.and_then(|window| window.reopened);
        !reopened.is_some_and(|reopened| comes_after(reopened, mark, channel, rules.clock_margin_ms))
    });
    if ended {
        return WindowState::EndedByOptOut;
    }
    match window.map(|window| window.last.plus_ms(WINDOW_MS)) {
        Some(until) if now < until => WindowState::Open(until),
        _ => WindowState::Closed,
    }
}

/// Whether a message the provider timed `at` came after the opt-outs of `mark`: by the provider's own order
/// where those are messages too, else by more than the margin.
fn comes_after(at: Timestamp, mark: &Mark, channel: Channel, margin_ms: SpanMs) -> bool {
    mark.precedes_message(channel, at) || mark.time < at.minus_ms(margin_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::consent::{Covers, Register};
    use crate::policy::ids::OriginId;
    use crate::policy::types::{ConsentType, EvidenceGrade};

    #[test]
    fn a_tie_of_registers_suppresses() {
        let at = |suppresses, sequence| Register {
            time: Timestamp(5),
            suppresses,
            event: EventId { origin: OriginId([0; 16]), sequence },
        };
        assert!(at(false, 1).join(at(true, 2)).suppresses);
        assert!(at(true, 1).join(at(false, 2)).suppresses);
    }

    #[test]
    fn covers_reach_back_at_their_origin_only() {
        let id = |origin, sequence| EventId { origin: OriginId([origin; 16]), sequence };
        let covers: Covers = [id(1, 5)].into_iter().collect();
        assert_eq!(covers.of(OriginId([1; 16])), 5);
        assert_eq!(covers.of(OriginId([2; 16])), 0);
    }

    /// The person opted out at one address; what is linked to it may be another's by now, who opted in there later.
    #[test]
    fn through_a_link_an_opt_in_beats_no_opt_out() {
        let id = |sequence| EventId { origin: OriginId([1; 16]), sequence };
        let (mut left, mut joined) = (Cell::default(), Cell::default());
        left.outs.add(Mark { id: id(1), time: Timestamp(1_000), message: None, naming: Naming::WithEarlier });
        joined.add_opt_in(OptIn {
            id: id(2),
            occurred: Timestamp(DAY_MS),
            covers: [id(1)].into_iter().collect(),
            before: Some(Timestamp(DAY_MS)),
            imported: false,
            expire: None,
            within: None,
            consent_type: ConsentType::Express,
            grade: EvidenceGrade::Strict,
            confirms: None,
        });
        let scope = Scope { channel: Some(Channel::Sms), purpose: Purpose::Category(Category::Marketing) };
        let record = |cell: &Cell| Record { cells: vec![(scope.clone(), cell.clone())], ..Record::default() };
        let (left, joined) = (record(&left), record(&joined));
        let subject = Subject { channel: Channel::Sms, category: Category::Marketing, topic: None };
        let (unknown, other) = (Record::default(), Identifier([2; 32]));
        let finds = |own, relation, record| {
            let known = [Known { relation: Relation::Own, record: own }, Known { relation, record }];
            standing(&known, &subject, &Rules::built_in(), Timestamp(2 * DAY_MS)).standing
        };
        assert_eq!(finds(&left, Relation::Own, &joined), Standing::Granted, "at the address itself it does");
        assert_eq!(finds(&left, Relation::Link(other), &joined), Standing::OptedOut);
        assert_eq!(finds(&unknown, Relation::Link(other), &joined), Standing::Granted);
        assert_eq!(finds(&unknown, Relation::Alias, &joined), Standing::None);
    }
}
