//! A cluster in small, and every way in which it may go: anchors, perhaps an edge, one person with one or two identifiers.
//!
//! What a node knows is how far it has every origin's events: a [`Vector`]. Relays bring an origin's events in order and origins in any
//! order, directly or through others, so that a node may know any vector that holds its own events and what it knew before. Relays and
//! partitions are therefore not steps of their own: whenever a node records something, it does so with every vector it may have by then, and
//! whatever has been recorded is judged at every vector.

use std::rc::Rc;

use super::script::{MARGIN_MS, Naming, Reported, SUBJECTS, What, topic};
use crate::policy::consent::Covers;
use crate::policy::event::{Change, ConsentEvent, RequestMark};
use crate::policy::ids::{BusinessId, EventId, Identifier, OriginId, TopicId};
use crate::policy::record::Record;
use crate::policy::recorder::late::Late;
use crate::policy::rules::Rules;
use crate::policy::standing::{self, Known, Relation, Standing, Subject};
use crate::policy::time::{MINUTE_MS, SECOND_MS, Timestamp};

/// The most anchors.
pub(super) const ANCHORS_MAX: usize = 3;
/// How long a step takes.
const STEP_MS: i64 = SECOND_MS;
/// How long nothing happens in a silence: what comes before it can be shown to come before what comes after it.
const SILENCE_MS: i64 = 2 * MARGIN_MS + MINUTE_MS;
/// The moment at which everything begins.
const EPOCH_MS: i64 = 1_760_000_000_000;
/// The person's identifiers.
const PERSON: [Identifier; 2] = [Identifier([1; 32]), Identifier([2; 32])];
/// What names what an edge holds.
const PROVISIONAL: OriginId = OriginId([0xee; 16]);

/// How far the events of each anchor are known.
type Vector = [usize; ANCHORS_MAX];
/// What is known of each identifier.
type Records = [Record; PERSON.len()];

/// One of the person's acts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    pub(super) what: What,
    /// By which identifier.
    pub(super) by: usize,
    /// The report carries the other identifier as well.
    pub(super) links: bool,
}

/// How large the cluster is, and what may befall it.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) anchors: usize,
    /// How many reports the edge gets.
    pub(super) edge_reports: usize,
    /// How often a report comes again, at another node; and an edge's item, to another anchor.
    pub(super) retries: usize,
    /// How often nothing happens for longer than the margin.
    pub(super) silences: usize,
    /// Acts happen between reports, too. Else those between two silences come before the reports between them: for what is no further
    /// apart than the margin, only the order of the acts and that of the reports make a difference while clocks are right.
    pub(super) acts_between_reports: bool,
    /// By how much the clocks of the callers, the provider and each anchor are ahead; an edge's is right.
    pub(super) skew_ms: [i64; 2 + ANCHORS_MAX],
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Runs in which everything was reported.
    pub(super) worlds: usize,
    /// Answers held against the truth.
    pub(super) judged: usize,
    /// Answers that granted.
    pub(super) granted: usize,
    /// Answers that had to grant in spite of opt-outs.
    pub(super) proven: usize,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.worlds += other.worlds;
        self.judged += other.judged;
        self.granted += other.granted;
        self.proven += other.proven;
    }
}

/// An event, with what is known of it here.
#[derive(Debug)]
struct Told {
    act: usize,
    by: usize,
    event: ConsentEvent,
    /// The step in which a node took it in.
    taken_in: usize,
    recorded_ms: i64,
    /// It only says something once more, behind a late one, with which it is relayed.
    says_again: bool,
    named: Vec<EventId>,
    /// What its recorder knew.
    knowing: Vector,
}

/// What an edge took in.
#[derive(Clone, Debug)]
struct Item {
    told: Rc<Told>,
    /// What of it holds at once.
    held: Option<Rc<ConsentEvent>>,
    numbered: Vec<EventId>,
}

/// The reports of one act.
#[derive(Clone, Debug, Default)]
struct Reports {
    /// The nodes that got one.
    at: Vec<usize>,
    /// What it names, the same in each.
    names: Vec<EventId>,
}

/// What happened, in words.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "printed where something is wrong")]
enum Step {
    Acts(usize),
    Silence,
    Reported { act: usize, at: usize, knowing: Vector, made: Option<EventId> },
    Numbered { act: usize, by: usize, knowing: Vector, made: Vec<EventId> },
}

/// One moment of one run.
#[derive(Clone, Debug)]
struct State {
    now_ms: i64,
    steps: Vec<Step>,
    acted_ms: Vec<i64>,
    reports: Vec<Reports>,
    /// What each node knew when it last recorded something; the edge's is the last.
    knew: [Vector; ANCHORS_MAX + 1],
    told: [Vec<Rc<Told>>; ANCHORS_MAX],
    outbox: Vec<Item>,
    retries_left: usize,
    silences_left: usize,
    /// Something was reported since the last silence.
    reported: bool,
    /// Where the last step recorded an event, and which.
    last: Option<(usize, EventId)>,
    /// Every record that a node may have.
    records: Vec<(Vector, Rc<Records>)>,
}

/// Goes through every run.
pub(super) struct Explorer<'a> {
    rules: &'a Rules,
    bounds: &'a Bounds,
    acts: &'a [Act],
    topic: TopicId,
    pub(super) tally: Tally,
}

fn id_of(anchor: usize, sequence: usize) -> EventId {
    let origin = OriginId([u8::try_from(anchor).unwrap() + 1; 16]);
    EventId { origin, sequence: sequence as u64 }
}

fn anchor_of(id: EventId) -> usize {
    usize::from(id.origin.0[0]) - 1
}

fn index_of(id: EventId) -> usize {
    usize::try_from(id.sequence).unwrap() - 1
}

fn includes(vector: &Vector, id: EventId) -> bool {
    vector[anchor_of(id)] > index_of(id)
}

fn known_of(records: &Records, by: usize) -> Vec<Known<'_>> {
    let mut known = vec![Known { relation: Relation::Own, record: &records[by] }];
    let other = 1 - by;
    if records[by].links.contains(&PERSON[other]) {
        known.push(Known { relation: Relation::Link, record: &records[other] });
    }
    known
}

fn mark_of(act: usize) -> RequestMark {
    RequestMark { key: [u8::try_from(act).unwrap(); 8], content: [0; 8] }
}

impl State {
    fn new(acts: usize, bounds: &Bounds) -> Self {
        Self {
            now_ms: 0,
            steps: Vec::new(),
            acted_ms: Vec::new(),
            reports: vec![Reports::default(); acts],
            knew: [[0; ANCHORS_MAX]; ANCHORS_MAX + 1],
            told: Default::default(),
            outbox: Vec::new(),
            retries_left: bounds.retries,
            silences_left: bounds.silences,
            reported: false,
            last: None,
            records: vec![([0; ANCHORS_MAX], Rc::default())],
        }
    }

    fn get(&self, id: EventId) -> &Told {
        &self.told[anchor_of(id)][index_of(id)]
    }

    fn records(&self, at: &Vector) -> &Rc<Records> {
        &self.records.iter().find(|(known, _)| known == at).expect("every vector's records are kept").1
    }

    /// The vectors from `floor` on; of `own` all that there is.
    fn vectors(&self, floor: &Vector, own: Option<usize>, whole: bool) -> Vec<Vector> {
        let mut vectors = vec![[0; ANCHORS_MAX]];
        for anchor in 0..ANCHORS_MAX {
            let told = &self.told[anchor];
            let from = if own == Some(anchor) { told.len() } else { floor[anchor] };
            let may_end = |at: usize| !whole || told.get(at).is_none_or(|next| !next.says_again);
            vectors = vectors
                .iter()
                .flat_map(|vector| {
                    (from..=told.len()).filter(|at| may_end(*at)).map(|at| {
                        let mut vector = *vector;
                        vector[anchor] = at;
                        vector
                    })
                })
                .collect();
        }
        vectors
    }

    /// What is known at `vector`.
    fn events(&self, vector: &Vector) -> impl Iterator<Item = (EventId, &Told)> {
        let vector = *vector;
        (0..ANCHORS_MAX).flat_map(move |anchor| {
            let told = self.told[anchor].iter().take(vector[anchor]).enumerate();
            told.map(move |(at, told)| (id_of(anchor, at + 1), &**told))
        })
    }

    /// Appends at `anchor`, and works out every record that a node may have from then on, each in every order of relaying.
    fn append(&mut self, anchor: usize, told: Told) -> Result<EventId, String> {
        self.told[anchor].push(Rc::new(told));
        let newest = self.told[anchor].len();
        for vector in self.vectors(&[0; ANCHORS_MAX], Some(anchor), false) {
            let mut found: Option<Records> = None;
            for last in (0..ANCHORS_MAX).filter(|last| vector[*last] > 0) {
                let mut before = vector;
                before[last] -= 1;
                let mut records = Records::clone(self.records(&before));
                let (id, told) = (id_of(last, vector[last]), &self.told[last][vector[last] - 1]);
                for (record, who) in records.iter_mut().zip(&PERSON) {
                    if told.event.subjects.contains(who) {
                        record.apply(id, &told.event, who);
                    }
                }
                match &found {
                    None => {
                        // Duplicates change nothing, and a snapshot joined to what is known is what events make of it.
                        let mut again = records.clone();
                        for (record, who) in again.iter_mut().zip(&PERSON) {
                            if told.event.subjects.contains(who) {
                                record.apply(id, &told.event, who);
                            }
                        }
                        if again != records {
                            return Err(format!("{id} changes something when it comes again"));
                        }
                        found = Some(records);
                    }
                    Some(found) if *found == records => {}
                    Some(found) => {
                        return Err(format!("at {vector:?} the order matters:\n{found:?}\n{records:?}"));
                    }
                }
            }
            let found = found.unwrap_or_default();
            let (mut others, mut own) = (vector, [0; ANCHORS_MAX]);
            (others[anchor], own[anchor]) = (0, newest);
            if own != vector {
                let mut joined = Records::clone(self.records(&own));
                for (record, other) in joined.iter_mut().zip(self.records(&others).iter()) {
                    record.join(other);
                }
                if joined != found {
                    return Err(format!("at {vector:?} the join differs:\n{found:?}\n{joined:?}"));
                }
            }
            self.records.push((vector, Rc::new(found)));
        }
        Ok(id_of(anchor, newest))
    }

    /// What holds at the edge, beside what it knows, until the anchor's event arrives.
    fn held(&self, knowing: &Vector) -> impl Iterator<Item = (EventId, &Item)> {
        let knowing = *knowing;
        let waits = move |item: &Item| !item.numbered.iter().any(|id| includes(&knowing, *id));
        let numbers = (1..).map(|sequence| EventId { origin: PROVISIONAL, sequence });
        numbers.zip(&self.outbox).filter(move |(_, item)| waits(item))
    }

    /// The records at the edge.
    fn edges(&self, knowing: &Vector) -> Records {
        let mut records = Records::clone(self.records(knowing));
        for (id, item) in self.held(knowing) {
            for (record, who) in records.iter_mut().zip(&PERSON) {
                if let Some(held) = item.held.as_ref().filter(|held| held.subjects.contains(who)) {
                    record.apply(id, held, who);
                }
            }
        }
        records
    }

    fn anchors_used(&self) -> usize {
        let at = self.reports.iter().flat_map(|reports| &reports.at).copied();
        let by = self.outbox.iter().flat_map(|item| &item.numbered).map(|id| anchor_of(*id));
        // The edge is behind all of them, and does not count.
        at.filter(|at| *at < ANCHORS_MAX).chain(by).map(|at| at + 1).max().unwrap_or(0)
    }

    fn next(&self, step: Step, ms: i64) -> Self {
        let mut next = self.clone();
        next.now_ms += ms;
        next.last = None;
        next.steps.push(step);
        next
    }
}

/// The edge, where a node is named.
pub(super) const EDGE: usize = ANCHORS_MAX;
const CALLER: usize = 0;
const PROVIDER: usize = 1;
const FIRST_ANCHOR: usize = 2;

impl<'a> Explorer<'a> {
    pub(super) fn new(rules: &'a Rules, bounds: &'a Bounds, acts: &'a [Act]) -> Self {
        Self { rules, bounds, acts, topic: topic("offers"), tally: Tally::default() }
    }

    /// Lets everything happen in every way.
    ///
    /// # Errors
    /// When an answer contradicts the true order of the acts, in words.
    pub(super) fn run(&mut self) -> Result<(), String> {
        let state = State::new(self.acts.len(), self.bounds);
        self.explore(&state)
    }

    fn at(&self, clock: usize, true_ms: i64) -> Timestamp {
        Timestamp(EPOCH_MS + true_ms + self.bounds.skew_ms.get(clock).copied().unwrap_or(0))
    }

    fn explore(&mut self, state: &State) -> Result<(), String> {
        let unacted = state.acted_ms.len() < self.acts.len();
        let unreported = state.reports.iter().any(|reports| reports.at.is_empty());
        let unnumbered = state.outbox.iter().any(|item| item.numbered.is_empty());
        let silent = matches!(state.steps.last(), None | Some(Step::Silence));
        if !(unacted || unreported || unnumbered || silent) {
            self.tally.worlds += 1;
        }
        let acts_may_come = self.bounds.acts_between_reports || !state.reported;
        if unacted && acts_may_come {
            let mut next = state.next(Step::Acts(state.acted_ms.len()), STEP_MS);
            next.acted_ms.push(next.now_ms);
            self.explore(&next)?;
        }
        let rest = unacted || unreported || unnumbered || state.retries_left > 0;
        if !silent && state.silences_left > 0 && rest {
            let mut next = state.next(Step::Silence, SILENCE_MS);
            next.silences_left -= 1;
            next.reported = false;
            self.explore(&next)?;
        }
        // Acts that come too late for this stretch need another one.
        let reports_may_come = !unacted || self.bounds.acts_between_reports || state.silences_left > 0;
        if !reports_may_come {
            return Ok(());
        }
        for act in 0..state.acted_ms.len() {
            let reports = &state.reports[act];
            if !reports.at.is_empty() && state.retries_left == 0 {
                continue;
            }
            // Anchors are alike: the first of which nothing was heard yet stands for the others.
            let anchors = 0..self.bounds.anchors.min(state.anchors_used() + 1);
            let edge = (state.outbox.len() < self.bounds.edge_reports).then_some(EDGE);
            for at in anchors.chain(edge).filter(|at| !reports.at.contains(at)) {
                self.report(state, act, at)?;
            }
        }
        for item in 0..state.outbox.len() {
            self.number(state, item)?;
        }
        Ok(())
    }

    /// A report of `act` arrives `at` a node, whatever that node knows by then. Of what it may know that makes no difference to the
    /// event, the least is enough: who knows less may learn the rest later.
    fn report(&mut self, state: &State, act: usize, at: usize) -> Result<(), String> {
        let Act { what, by, links } = self.acts[act];
        let is_retry = !state.reports[act].at.is_empty();
        let now_ms = state.now_ms + STEP_MS;
        let now = if at == EDGE { self.at(usize::MAX, now_ms) } else { self.at(FIRST_ANCHOR + at, now_ms) };
        let mut seen: Vec<(Option<Vec<Change>>, Vec<EventId>)> = Vec::new();
        let own = (at != EDGE).then_some(at);
        for knowing in state.vectors(&state.knew[at], own, true) {
            let edges;
            let records: &Records = if at == EDGE {
                edges = state.edges(&knowing);
                &edges
            } else {
                state.records(&knowing)
            };
            let waits_here = at == EDGE && state.outbox.iter().any(|item| item.told.act == act);
            if waits_here || records[by].taken_as(mark_of(act)).is_some() {
                continue;
            }
            let names = match what {
                What::OptIn { naming: Naming::WhenReported, .. } if !is_retry => {
                    self.honest_names(state, act, &knowing)
                }
                _ => state.reports[act].names.clone(),
            };
            // What it names is waited for.
            if !names.iter().all(|id| includes(&knowing, *id)) {
                continue;
            }
            let reported = Reported {
                by_caller: self.at(CALLER, state.acted_ms[act]),
                by_provider: self.at(PROVIDER, state.acted_ms[act]),
                now,
                named: &names,
                asked: None,
            };
            let changes = match reported.changes(what, &known_of(records, by), self.rules) {
                Ok(changes) => Some(changes).filter(|changes| links || !changes.is_empty()),
                Err(refusal) => {
                    let held = at == EDGE && state.held(&knowing).any(|(_, item)| item.held.is_some());
                    let names_all = matches!(what, What::OptIn { naming: Naming::WhenReported, .. });
                    let ends = |told: &Told| self.acts[told.act].what.ends_something();
                    let comes_last = state.events(&knowing).all(|(_, told)| !ends(told) || told.act < act);
                    if names_all && !is_retry && !held && comes_last {
                        return Err(self.told(state, &format!("act {act} is refused at {at}: {refusal:?}")));
                    }
                    None
                }
            };
            if seen.contains(&(changes.clone(), names.clone())) {
                continue;
            }
            seen.push((changes.clone(), names.clone()));
            // Of two reports to different nodes, neither of which knows of the other, it is enough to try one order.
            let unordered = |(last_at, last): (usize, EventId)| {
                at < last_at && last_at != EDGE && at != EDGE && !includes(&knowing, last)
            };
            if state.last.is_some_and(unordered) {
                continue;
            }
            let mut next = state.next(Step::Reported { act, at, knowing, made: None }, STEP_MS);
            next.reported = true;
            next.retries_left -= usize::from(is_retry);
            next.reports[act].at.push(at);
            next.reports[act].names.clone_from(&names);
            let Some(changes) = changes else {
                self.explore(&next)?;
                continue;
            };
            next.knew[at] = knowing;
            let mut subjects = vec![PERSON[by]];
            if links {
                subjects.push(PERSON[1 - by]);
            }
            let told = Told {
                act,
                by,
                event: self.event(subjects, now, Some(mark_of(act)), changes),
                taken_in: next.steps.len(),
                recorded_ms: next.now_ms,
                says_again: false,
                named: names,
                knowing,
            };
            if at == EDGE {
                self.take_in(&mut next, told);
                self.judge_edge(&next, &next.knew[EDGE], None)?;
            } else {
                let made = next.append(at, told).map_err(|wrong| self.told(state, &wrong))?;
                next.knew[at][at] = next.told[at].len();
                next.last = Some((at, made));
                if let Some(Step::Reported { made: said, .. }) = next.steps.last_mut() {
                    *said = Some(made);
                }
                self.judge_all(&next, at)?;
            }
            self.explore(&next)?;
        }
        Ok(())
    }

    fn event(
        &self,
        subjects: Vec<Identifier>,
        recorded: Timestamp,
        request: Option<RequestMark>,
        changes: Vec<Change>,
    ) -> ConsentEvent {
        let business = self.rules.business_id.clone().unwrap_or_else(|| BusinessId::new("acme").unwrap());
        ConsentEvent { business, subjects, recorded, request, rules_version: String::new(), changes }
    }

    fn take_in(&self, state: &mut State, mut told: Told) {
        for change in &mut told.event.changes {
            if let Change::OptIn(opt_in) = change {
                // What only holds here has no number yet, so nothing can be said to come after it.
                let numbered = opt_in.covers.iter().filter(|id| id.origin != PROVISIONAL);
                opt_in.covers = numbered.collect::<Covers>();
            }
        }
        let suppresses = self.acts[told.act].what.ends_something();
        let held = suppresses.then(|| Rc::new(ConsentEvent { request: None, ..told.event.clone() }));
        state.outbox.push(Item { told: Rc::new(told), held, numbered: Vec::new() });
    }

    /// The edge's item reaches an anchor, whatever that one knows by then.
    fn number(&mut self, state: &State, item: usize) -> Result<(), String> {
        let Item { told, numbered, .. } = &state.outbox[item];
        if !numbered.is_empty() && state.retries_left == 0 {
            return Ok(());
        }
        let now_ms = state.now_ms + STEP_MS;
        for by in 0..self.bounds.anchors.min(state.anchors_used() + 1) {
            if numbered.iter().any(|id| anchor_of(*id) == by) {
                continue;
            }
            let now = self.at(FIRST_ANCHOR + by, now_ms);
            let mut seen = Vec::new();
            for knowing in state.vectors(&state.knew[by], Some(by), true) {
                let records = state.records(&knowing);
                let taken = records[told.by].taken_as(mark_of(told.act)).map(|taken| taken.event);
                let age_ms = now_ms - told.recorded_ms;
                let own = Some(id_of(by, 1).origin);
                let late = Late::taken_in(&told.event, own, taken, age_ms, self.rules, now);
                let again: Vec<(usize, Vec<Change>)> = if self.acts[told.act].what.ends_something() {
                    let known = known_of(records, told.by);
                    let by = [told.by, 1 - told.by].into_iter().take(known.len());
                    by.zip(known)
                        .map(|(by, known)| {
                            (by, late.map_or_else(Vec::new, |late| late.said_again(known.record)))
                        })
                        .collect()
                } else {
                    Vec::new()
                };
                let outcome = (taken, again);
                if seen.contains(&outcome) {
                    continue;
                }
                seen.push(outcome.clone());
                let (_, again) = outcome;
                let mut next =
                    state.next(Step::Numbered { act: told.act, by, knowing, made: Vec::new() }, STEP_MS);
                next.reported = true;
                next.retries_left -= usize::from(!numbered.is_empty());
                next.knew[by] = knowing;
                let mut made = Vec::new();
                let first = match taken {
                    Some(first) => first,
                    None => {
                        let told = Told { event: told.event.clone(), named: told.named.clone(), ..**told };
                        let first = next.append(by, told).map_err(|wrong| self.told(state, &wrong))?;
                        made.push(first);
                        first
                    }
                };
                next.outbox[item].numbered.push(first);
                for (who, changes) in again.into_iter().filter(|(_, changes)| !changes.is_empty()) {
                    let told = Told {
                        act: told.act,
                        by: who,
                        event: self.event(vec![PERSON[who]], now, None, changes),
                        taken_in: next.steps.len(),
                        recorded_ms: next.now_ms,
                        says_again: true,
                        named: Vec::new(),
                        knowing,
                    };
                    made.push(next.append(by, told).map_err(|wrong| self.told(state, &wrong))?);
                }
                next.knew[by][by] = next.told[by].len();
                if let Some(Step::Numbered { made: said, .. }) = next.steps.last_mut() {
                    said.clone_from(&made);
                }
                if !made.is_empty() {
                    self.judge_all(&next, by)?;
                }
                self.explore(&next)?;
            }
        }
        Ok(())
    }

    fn is_linked(&self, state: &State, vector: &Vector) -> bool {
        state.events(vector).any(|(_, told)| self.acts[told.act].links && !told.says_again)
    }

    /// The events known at `vector` that end something for who is addressed `by` an identifier.
    fn ends<'s>(&self, state: &'s State, vector: &Vector, by: usize) -> Vec<(EventId, &'s Told)> {
        let linked = self.is_linked(state, vector);
        let touches = |told: &Told| {
            self.acts[told.act].what.touches()[0] && (told.by == by || linked) && !told.says_again
        };
        state.events(vector).filter(|(_, told)| touches(told)).collect()
    }

    /// What a caller who tells the truth may name: an id stands for all that its origin numbered up to it of the person, so that all of
    /// those must precede the act. Of what came late from an edge the caller cannot know which numbers lie below it: there it stands for
    /// what had been taken in by then.
    fn honest_names(&self, state: &State, act: usize, knowing: &Vector) -> Vec<EventId> {
        let linked = self.is_linked(state, knowing);
        let by = self.acts[act].by;
        let ends = |told: &Told| self.acts[told.act].what.ends_something();
        let stands_for = |id: EventId, named: &Told, other: EventId, told: &Told| {
            other.origin == id.origin && other.sequence <= id.sequence && told.taken_in <= named.taken_in
        };
        state
            .events(knowing)
            .filter(|(_, named)| ends(named) && (named.by == by || linked))
            .filter(|(id, named)| {
                let mut all = state.events(knowing).filter(|(_, told)| ends(told));
                all.all(|(other, told)| !stands_for(*id, named, other, told) || told.act < act)
            })
            .map(|(id, _)| id)
            .collect()
    }

    /// Judges every answer that the newest event of `anchor` may bear on.
    fn judge_all(&mut self, state: &State, anchor: usize) -> Result<(), String> {
        for vector in state.vectors(&[0; ANCHORS_MAX], Some(anchor), true) {
            let records = Rc::clone(state.records(&vector));
            self.judge(state, &vector, &records, false)?;
        }
        if self.bounds.edge_reports > 0 {
            self.judge_edge(state, &state.knew[EDGE], Some(anchor))?;
        }
        Ok(())
    }

    /// Judges what the edge may answer, having at least `floor` and of `anchor` all.
    fn judge_edge(&mut self, state: &State, floor: &Vector, anchor: Option<usize>) -> Result<(), String> {
        for vector in state.vectors(floor, anchor, true) {
            if state.held(&vector).any(|(_, item)| item.held.is_some()) {
                self.judge(state, &vector, &state.edges(&vector), true)?;
            }
        }
        Ok(())
    }

    /// Holds what a node with `records` answers against the true order of the acts.
    fn judge(
        &mut self,
        state: &State,
        vector: &Vector,
        records: &Records,
        at_edge: bool,
    ) -> Result<(), String> {
        let (channel, category, _) = SUBJECTS[0];
        let subject = Subject { channel, category, topic: Some(&self.topic) };
        let now = self.at(usize::MAX, state.now_ms);
        let people = if self.acts.iter().any(|act| act.by > 0) { PERSON.len() } else { 1 };
        for by in 0..people {
            let finding = standing::standing(&known_of(records, by), &subject, self.rules, now);
            let ends = self.ends(state, vector, by);
            let linked = self.is_linked(state, vector);
            let held: Vec<usize> = state
                .held(vector)
                .filter(|(_, item)| at_edge && item.held.is_some() && (item.told.by == by || linked))
                .map(|(_, item)| item.told.act)
                .collect();
            self.tally.judged += 1;
            let is_granted = finding.standing == Standing::Granted;
            if is_granted {
                self.tally.granted += 1;
                let basis = finding.basis[0];
                let through_link = state.get(basis).by != by;
                let last_word = last_word(state, basis);
                let mut all = ends.iter().map(|(_, told)| told.act).chain(held.iter().copied());
                if let Some(later) = all.find(|end| through_link || *end > last_word) {
                    let why = if through_link { "through a link, in spite of" } else { "though before" };
                    let act = state.get(basis).act;
                    let wrong = format!(
                        "at {vector:?} identifier {by} is granted by {basis} (act {act}), {why} act {later}"
                    );
                    return Err(self.told(state, &wrong));
                }
            }
            // What the edge holds has no number yet, and cannot be named.
            if !held.is_empty() || is_granted && ends.is_empty() {
                continue;
            }
            let proven = state.events(vector).find(|(id, told)| self.is_proven(state, vector, by, *id, told));
            match proven {
                Some(_) if is_granted => self.tally.proven += 1,
                Some((id, told)) => {
                    let wrong = format!(
                        "at {vector:?} identifier {by} gets {finding:?}, though {id} (act {}) is shown to come last",
                        told.act,
                    );
                    return Err(self.told(state, &wrong));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Whether the event `id` opts in, and both that it came after everything that ends it at `vector` and that it can be shown to: of
    /// each origin it either names all, or came long after all.
    fn is_proven(&self, state: &State, vector: &Vector, by: usize, id: EventId, told: &Told) -> bool {
        let What::OptIn { grant, .. } = self.acts[told.act].what else { return false };
        if !grant.permits()[0] || told.by != by || told.says_again {
            return false;
        }
        let ends = self.ends(state, vector, by);
        let acted_ms = state.acted_ms[told.act];
        let named = |end: EventId| {
            told.named.iter().any(|name| name.origin == end.origin && name.sequence >= end.sequence)
        };
        let all_named = |anchor: usize| {
            let again = state.events(vector).filter(|(_, again)| again.says_again).map(|(id, _)| id);
            let mut all = ends.iter().map(|(id, _)| *id).chain(again).filter(|end| anchor_of(*end) == anchor);
            all.all(named)
        };
        let all_long_before = |anchor: usize| {
            let mut of_anchor = ends.iter().filter(|(end, _)| anchor_of(*end) == anchor);
            of_anchor.all(|(_, end)| self.is_long_before(state, end, acted_ms))
        };
        // Nor was anything known to its recorder that came after it: then it was in vain.
        let known = self.ends(state, &told.knowing, by);
        ends.iter().chain(&known).all(|(end, ended)| *end != id && ended.act < told.act)
            && (0..ANCHORS_MAX).all(|anchor| all_named(anchor) || all_long_before(anchor))
    }

    fn is_long_before(&self, state: &State, end: &Told, acted_ms: i64) -> bool {
        let what = self.acts[end.act].what;
        let signed = matches!(what, What::SignedStop(_) | What::StopMessage { signed: true, .. });
        let ended_ms = state.acted_ms[end.act];
        // A report within the margin may be taken for as late as its arrival, and clocks blur the margin.
        let reported_late = end.recorded_ms - ended_ms > 2 * MARGIN_MS;
        let counts_from_ms = if signed && reported_late { ended_ms } else { end.recorded_ms };
        counts_from_ms + 2 * MARGIN_MS < acted_ms
    }

    fn told(&self, state: &State, wrong: &str) -> String {
        format!("{wrong}\nacts: {:#?}\nsteps: {:#?}\n{:#?}", self.acts, state.steps, self.bounds)
    }
}

/// The act by which the person last said what the opt-in `id` says: a START repeats the opt-in that it renews.
fn last_word(state: &State, id: EventId) -> usize {
    let told = state.get(id);
    let renewed = told.event.changes.iter().filter_map(|change| match change {
        Change::OptIn(opt_in) => opt_in.renews.map(|renewed| last_word(state, renewed)),
        _ => None,
    });
    renewed.fold(told.act, usize::max)
}
