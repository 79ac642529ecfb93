//! A cluster in small, and every way in which it may go: anchors, perhaps an edge, one person with one or two identifiers.
//!
//! What a node knows is how far it has every origin's events: a [`Vector`]. Relays bring an origin's events in order and origins in any
//! order, directly or through others, so that a node may know any vector that holds its own events and what it knew before. Relays and
//! partitions are therefore not steps of their own: whenever a node records something, it does so with every vector it may have by then, and
//! whatever has been recorded is judged at every vector.

use std::rc::Rc;

use super::script::{MARGIN_MS, Naming, Reported, SUBJECTS, What, topic};
use crate::policy::event::{Change, ConsentEvent, RequestMark};
use crate::policy::ids::{BusinessId, EventId, Identifier, OriginId, TopicId};
use crate::policy::record::Record;
use crate::policy::rules::Rules;
use crate::policy::standing::{self, Known, Relation, Standing, Subject};
use crate::policy::time::{MINUTE_MS, SECOND_MS, Timestamp};

mod explore;
mod judge;

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
    recorded_ms: i64,
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
    Numbered { act: usize, by: usize, knowing: Vector, made: Option<EventId> },
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

/// What a report comes to.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    /// What is recorded; `None`: it is refused, or there is nothing to record.
    changes: Option<Vec<Change>>,
    named: Vec<EventId>,
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
    if records[by].links.identifiers.contains(&PERSON[other]) {
        known.push(Known { relation: Relation::Link(PERSON[other]), record: &records[other] });
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
    fn vectors(&self, floor: &Vector, own: Option<usize>) -> Vec<Vector> {
        let mut vectors = vec![[0; ANCHORS_MAX]];
        for anchor in 0..ANCHORS_MAX {
            let told = &self.told[anchor];
            let from = if own == Some(anchor) { told.len() } else { floor[anchor] };
            vectors = vectors
                .iter()
                .flat_map(|vector| {
                    (from..=told.len()).map(|at| {
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
    fn append(&mut self, anchor: usize, told: Rc<Told>) -> Result<EventId, String> {
        self.told[anchor].push(told);
        let newest = self.told[anchor].len();
        for vector in self.vectors(&[0; ANCHORS_MAX], Some(anchor)) {
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
/// A clock that is right: the edge's.
const RIGHT: usize = usize::MAX;

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

    fn now_at(&self, node: usize, true_ms: i64) -> Timestamp {
        self.at(if node == EDGE { RIGHT } else { FIRST_ANCHOR + node }, true_ms)
    }

    fn told(&self, state: &State, wrong: &str) -> String {
        format!("{wrong}\nacts: {:#?}\nsteps: {:#?}\n{:#?}", self.acts, state.steps, self.bounds)
    }
}
