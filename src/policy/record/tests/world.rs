//! A small world: one person acts, the acts are reported late, again and in any order, to two nodes whose clocks and
//! whose callers' clocks disagree, and the nodes tell each other. It knows the true order of the acts, and after every
//! step it holds the nodes' answers against it.

use std::collections::{BTreeMap, BTreeSet};

use super::script::{
    Act, CALLER, FIRST_NODE, MARGIN_MS, Naming, PROVIDER, Reported, SUBJECTS, Script, What, topic,
};
use crate::policy::event::{Change, ConsentEvent};
use crate::policy::ids::{BusinessId, EventId, Identifier, OriginId, TopicId};
use crate::policy::record::Record;
use crate::policy::recorder::Refusal;
use crate::policy::rules::Rules;
use crate::policy::standing::{self, Known, Relation, Standing, Subject};
use crate::policy::time::{DAY_MS, Timestamp};

/// The moment at which every script begins.
const EPOCH_MS: i64 = 1_760_000_000_000;
const PERSON: Identifier = Identifier([1; 32]);

/// An event, with what the world knows of it.
#[derive(Clone, Debug)]
struct Told {
    act: usize,
    event: ConsentEvent,
    /// The true time of its recording.
    recorded_ms: i64,
    /// What its recorder had applied.
    knowing: BTreeSet<EventId>,
    /// What the caller named, of what was known there.
    named: BTreeSet<EventId>,
}

#[derive(Debug, Default)]
struct Node {
    record: Record,
    applied: BTreeSet<EventId>,
    numbered: BTreeMap<OriginId, u64>,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The person acts; the caller may look up opt-outs.
    Acts { act: usize },
    /// A report arrives.
    Reported { act: usize, node: usize },
    /// An event arrives from the other node.
    Relayed { id: EventId, node: usize },
}

/// How far the answers are held against the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clocks {
    /// They differ by less than the margin.
    WithinMargin,
    /// Nothing is known of them.
    Wild,
}

pub(super) struct World<'a> {
    script: &'a Script,
    rules: &'a Rules,
    clocks: Clocks,
    topics: [Option<TopicId>; SUBJECTS.len()],
    nodes: [Node; 2],
    events: BTreeMap<EventId, Told>,
    /// What the caller looked up when the person acted, by act.
    looked_up: BTreeMap<usize, Vec<EventId>>,
    steps: BTreeSet<(i64, usize, Step)>,
    steps_added: usize,
    relayed_until: BTreeMap<(OriginId, usize), i64>,
    /// How often something was granted, and how often it had to be in spite of opt-outs: a test that never gets
    /// there proves nothing.
    pub(super) granted: usize,
    pub(super) proven: usize,
}

impl<'a> World<'a> {
    pub(super) fn new(script: &'a Script, rules: &'a Rules, clocks: Clocks) -> Self {
        let mut world = Self {
            script,
            rules,
            clocks,
            topics: SUBJECTS.map(|(_, _, topic)| topic.map(self::topic)),
            nodes: Default::default(),
            events: BTreeMap::new(),
            looked_up: BTreeMap::new(),
            steps: BTreeSet::new(),
            steps_added: 0,
            relayed_until: BTreeMap::new(),
            granted: 0,
            proven: 0,
        };
        for (act, scripted) in script.acts.iter().enumerate() {
            world.add_step(scripted.at_ms, Step::Acts { act });
            for arrival in &scripted.arrivals {
                world.add_step(scripted.at_ms + arrival.delay_ms, Step::Reported { act, node: arrival.node });
            }
        }
        world
    }

    fn add_step(&mut self, at_ms: i64, step: Step) {
        self.steps_added += 1;
        self.steps.insert((at_ms, self.steps_added, step));
    }

    /// Lets everything happen.
    ///
    /// # Errors
    /// When an answer contradicts the true order, in words.
    pub(super) fn run(&mut self) -> Result<(), String> {
        while let Some((now_ms, _, step)) = self.steps.pop_first() {
            match step {
                Step::Acts { act } => {
                    let node = self.script.acts[act].arrivals[0].node;
                    let names = self.honest_names(act, node);
                    self.looked_up.insert(act, names);
                }
                Step::Reported { act, node } => self.report(act, node, now_ms)?,
                Step::Relayed { id, node } => {
                    self.apply(id, node);
                    self.judge(node, now_ms)?;
                }
            }
        }
        let [a, b] = &self.nodes;
        if a.record != b.record {
            return Err(format!("the nodes know the same and differ:\n{:?}\n{:?}", a.record, b.record));
        }
        Ok(())
    }

    /// What `node` answers for each of the subjects.
    pub(super) fn answers(&self, node: usize, now_ms: i64) -> [Standing; SUBJECTS.len()] {
        let known = [Known { relation: Relation::Own, record: &self.nodes[node].record }];
        let now = self.at(FIRST_NODE + node, now_ms);
        let mut topics = self.topics.iter();
        SUBJECTS.map(|(channel, category, _)| {
            let subject = Subject { channel, category, topic: topics.next().and_then(Option::as_ref) };
            standing::standing(&known, &subject, self.rules, now).standing
        })
    }

    fn at(&self, clock: usize, true_ms: i64) -> Timestamp {
        Timestamp(EPOCH_MS + true_ms + self.script.skew_ms[clock])
    }

    /// The opt-outs known at `node` that a caller who tells the truth may name: an id stands for all that its origin
    /// numbered up to it, so that all of those must precede the act.
    fn honest_names(&self, act: usize, node: usize) -> Vec<EventId> {
        let acted_ms = self.script.acts[act].at_ms;
        let cells = self.nodes[node].record.cells.iter();
        let marks = cells
            .flat_map(|(_, cell)| cell.outs.iter().chain(cell.imported_outs.iter()).chain(cell.voids.iter()));
        let ids: BTreeSet<EventId> = marks.map(|mark| mark.id).collect();
        let precedes = |id: &EventId| {
            self.ending_events(node)
                .filter(|(other, _)| other.origin == id.origin && other.sequence <= id.sequence)
                .all(|(_, told)| self.script.acts[told.act].at_ms < acted_ms)
        };
        ids.into_iter().filter(precedes).collect()
    }

    /// The events applied at `node` that end something.
    fn ending_events(&self, node: usize) -> impl Iterator<Item = (&EventId, &Told)> {
        self.nodes[node]
            .applied
            .iter()
            .filter_map(|id| self.events.get_key_value(id))
            .filter(|(_, told)| self.script.acts[told.act].what.ends_something())
    }

    fn report(&mut self, act: usize, node: usize, now_ms: i64) -> Result<(), String> {
        let Act { what, at_ms, .. } = self.script.acts[act];
        let now = self.at(FIRST_NODE + node, now_ms);
        let by_caller = self.at(CALLER, at_ms);
        let by_provider = self.at(PROVIDER, at_ms);
        let mut named = Vec::new();
        let known = [Known { relation: Relation::Own, record: &self.nodes[node].record }];
        if let What::OptIn { naming, .. } = what {
            named = match naming {
                Naming::Nothing => Vec::new(),
                Naming::WhenActed => self.looked_up.get(&act).cloned().unwrap_or_default(),
                Naming::WhenReported => self.honest_names(act, node),
            };
        }
        let asked = self.latest_question(node, at_ms);
        let reported = Reported { by_caller, by_provider, now, named: &named, asked };
        let recorded = reported.changes(what, &known, self.rules);
        let changes = match recorded {
            Ok(changes) => changes,
            Err(refusal) => return self.judge_refusal(act, node, &refusal),
        };
        if changes.is_empty() {
            return Ok(());
        }
        let imported = matches!(what, What::ImportedStop(_) | What::ImportedOptIn(_));
        self.append(act, node, imported, now_ms, now, changes, named);
        self.judge(node, now_ms)
    }

    /// The latest request whose question had been asked when the person answered.
    fn latest_question(&self, node: usize, answered_ms: i64) -> Option<EventId> {
        self.nodes[node]
            .applied
            .iter()
            .filter_map(|id| self.events.get(id).map(|told| (told.recorded_ms, *id, told.act)))
            .filter(|(recorded_ms, _, act)| {
                *recorded_ms < answered_ms && matches!(self.script.acts[*act].what, What::Request(_))
            })
            .max()
            .map(|(_, id, _)| id)
    }

    #[expect(clippy::too_many_arguments, reason = "each is a plain fact of the event")]
    fn append(
        &mut self,
        act: usize,
        node: usize,
        imported: bool,
        now_ms: i64,
        now: Timestamp,
        changes: Vec<Change>,
        named: Vec<EventId>,
    ) {
        let n = u8::try_from(node).unwrap();
        let origin = OriginId([if imported { 3 + n } else { 1 + n }; 16]);
        let at = &mut self.nodes[node];
        let next = at.numbered.entry(origin).or_insert(0);
        *next += 1;
        let id = EventId { origin, sequence: *next };
        let event = ConsentEvent {
            business: BusinessId::new("acme").unwrap(),
            subjects: vec![PERSON],
            forms: Vec::new(),
            recorded: now,
            request: None,
            rules_version: String::new(),
            numbered_late: false,
            changes,
        };
        let knowing = at.applied.clone();
        let named = named.into_iter().filter(|id| knowing.contains(id)).collect();
        let told = Told { act, event, recorded_ms: now_ms, knowing, named };
        self.events.insert(id, told);
        self.apply(id, node);
        let other = 1 - node;
        let relay_ms = &self.script.relay_ms;
        let delay_ms = if relay_ms.is_empty() { 0 } else { relay_ms[self.events.len() % relay_ms.len()] };
        let until = self.relayed_until.entry((origin, other)).or_insert(0);
        *until = (*until).max(now_ms + delay_ms);
        let at_ms = *until;
        self.add_step(at_ms, Step::Relayed { id, node: other });
    }

    fn apply(&mut self, id: EventId, node: usize) {
        let event = &self.events[&id].event;
        self.nodes[node].record.apply(id, event, &PERSON);
        self.nodes[node].applied.insert(id);
    }

    /// An opt-in that names all it may must not be refused while no opt-out came after it.
    fn judge_refusal(&self, act: usize, node: usize, refusal: &Refusal) -> Result<(), String> {
        let Act { what, at_ms, .. } = self.script.acts[act];
        match (what, refusal) {
            (What::OptIn { naming: Naming::WhenReported, .. }, Refusal::Unsuperseded(_)) => {
                let later =
                    self.ending_events(node).any(|(_, told)| self.script.acts[told.act].at_ms > at_ms);
                if later {
                    Ok(())
                } else {
                    Err(format!("act {act} names every opt-out and is refused: {refusal:?}"))
                }
            }
            (What::OptIn { .. }, Refusal::Unsuperseded(_)) => Ok(()),
            // A clock that runs ahead by more than the margin is told so.
            (What::OptIn { .. } | What::ImportedOptIn(_) | What::Request(_), Refusal::Invalid(_))
                if self.clocks == Clocks::Wild =>
            {
                Ok(())
            }
            _ => Err(format!("act {act} is refused: {refusal:?}")),
        }
    }

    /// Holds what `node` answers against the true order of the acts.
    fn judge(&mut self, node: usize, now_ms: i64) -> Result<(), String> {
        let known = [Known { relation: Relation::Own, record: &self.nodes[node].record }];
        let now = self.at(FIRST_NODE + node, now_ms);
        let (mut granted, mut proven) = (0, 0);
        for (which, (channel, category, _)) in SUBJECTS.into_iter().enumerate() {
            let subject = Subject { channel, category, topic: self.topics[which].as_ref() };
            let finding = standing::standing(&known, &subject, self.rules, now);
            let ends: Vec<(&EventId, &Told)> = self
                .ending_events(node)
                .filter(|(_, told)| self.script.acts[told.act].what.touches()[which])
                .collect();
            if finding.standing == Standing::Granted {
                granted += 1;
                let basis = finding.basis[0];
                let acted_ms = self.last_word_ms(basis);
                for (id, told) in &ends {
                    let later = self.script.acts[told.act].at_ms > acted_ms;
                    if later && !(self.clocks == Clocks::Wild && self.may_lose(told, basis)) {
                        return Err(format!(
                            "node {node} grants subject {which} at {now_ms} by {basis} (act {}), though {id} (act {}) \
                             came after it",
                            self.events[&basis].act, told.act,
                        ));
                    }
                }
            }
            if self.clocks == Clocks::Wild {
                continue;
            }
            let shown = self.nodes[node].applied.iter().find(|id| self.is_proven(**id, which, &ends));
            if let Some(shown) = shown {
                if finding.standing != Standing::Granted {
                    return Err(format!(
                        "node {node} answers {finding:?} for subject {which} at {now_ms}, though {shown} (act {}) is \
                         shown to come last",
                        self.events[shown].act,
                    ));
                }
                proven += usize::from(!ends.is_empty());
            }
        }
        self.granted += granted;
        self.proven += proven;
        Ok(())
    }

    /// When the person last said what the opt-in `id` says: a START repeats the opt-in that it renews, which may
    /// have been given after the START was written and before it was reported.
    fn last_word_ms(&self, id: EventId) -> i64 {
        let told = &self.events[&id];
        let renewed = told.event.changes.iter().filter_map(|change| match change {
            Change::OptIn(opt_in) => opt_in.renews.map(|renewed| self.last_word_ms(renewed)),
            _ => None,
        });
        renewed.fold(self.script.acts[told.act].at_ms, i64::max)
    }

    /// With wild clocks, only an opt-out reported late or recorded without knowing the opt-in can lose.
    fn may_lose(&self, end: &Told, opt_in: EventId) -> bool {
        let act = &self.script.acts[end.act];
        let stated = match act.what {
            What::Stop(_) | What::MisdatedStop(_) | What::StopMessage { signed: false, .. } => None,
            What::SignedStop(_) | What::StopMessage { .. } => Some(self.at(PROVIDER, act.at_ms)),
            // Taken over by what another system states, or ended by what a caller states.
            What::ImportedStop(_) | What::Void => return true,
            What::Start(_)
            | What::OptIn { .. }
            | What::Request(_)
            | What::Confirm
            | What::ImportedOptIn(_) => return false,
        };
        let late = stated.is_some_and(|stated| end.event.recorded.since_ms(stated) > MARGIN_MS);
        late || !end.knowing.contains(&opt_in)
    }

    /// Whether the event `id` opts in to the subject `which`, and both that it came after every one of `ends` and
    /// that it can be shown to: of each origin it either names them all, or came long after all of them.
    fn is_proven(&self, id: EventId, which: usize, ends: &[(&EventId, &Told)]) -> bool {
        let told = &self.events[&id];
        let Act { what, at_ms, .. } = self.script.acts[told.act];
        let (grant, imported) = match what {
            What::OptIn { grant, .. } => (grant, false),
            What::ImportedOptIn(grant) => (grant, true),
            _ => return false,
        };
        if !grant.permits()[which] {
            return false;
        }
        let origins: BTreeSet<OriginId> = ends.iter().map(|(end, _)| end.origin).collect();
        origins.into_iter().all(|origin| {
            let mut of_origin = ends.iter().filter(|(end, _)| end.origin == origin);
            let named = |end: &EventId| {
                told.named.iter().any(|name| name.origin == end.origin && name.sequence >= end.sequence)
            };
            let all_named = of_origin.clone().all(|(end, _)| named(end));
            let all_long_before = of_origin.all(|(_, end)| self.is_long_before(end, at_ms, imported));
            // Nor was anything known to its recorder that came after it: then it was in vain.
            let known = told.knowing.iter().filter_map(|id| self.events.get(id));
            let known = known.filter(|end| self.script.acts[end.act].what.touches()[which]);
            let mut all = ends.iter().map(|(_, end)| *end).chain(known);
            let precede = all.all(|end| self.script.acts[end.act].at_ms < at_ms);
            precede && (!imported && all_named || all_long_before)
        })
    }

    fn is_long_before(&self, end: &Told, acted_ms: i64, by_import: bool) -> bool {
        let act = &self.script.acts[end.act];
        let stated_by_source =
            matches!(act.what, What::SignedStop(_) | What::StopMessage { signed: true, .. })
                || matches!(act.what, What::ImportedStop(_));
        if by_import && !matches!(act.what, What::ImportedStop(_) | What::Void) {
            return false;
        }
        // A report within the margin may be taken for as late as its arrival, and clocks blur the margin.
        let reported_late = end.recorded_ms - act.at_ms > 2 * MARGIN_MS;
        let counts_from_ms = if stated_by_source && reported_late { act.at_ms } else { end.recorded_ms };
        let margin_ms = if by_import { DAY_MS + MARGIN_MS } else { 2 * MARGIN_MS };
        counts_from_ms + margin_ms < acted_ms
    }
}
