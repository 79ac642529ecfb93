//! The judge: what may be answered at every moment, and what must be in the end. It knows the true order of the acts, which no node
//! does, and does not ask the merge rule, which would agree with its own mistakes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::node::offers;
use super::people::{Act, BUSINESS, CHANNELS, How, Told, What, address, other_identifier};
use super::world::{Clocks, MAX_STALENESS_MS, World};
use crate::engine::ranges::Verdict;
use crate::engine::{CheckAnswer, CheckRequest, Engine, Mode, RequestedContent};
use crate::ledger::Head;
use crate::policy::consent::Naming;
use crate::policy::event::{Change, ConsentEvent};
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::types::{Category, Channel, Reason};
use crate::replication::frame::Role;

/// How often things happened: a test in which they never do proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub steps: u64,
    pub leaps: u64,
    pub frames: u64,
    pub lost_frames: u64,
    pub lost_calls: u64,
    pub snapshots: u64,
    /// Times that opt-outs were borrowed, and opt-outs that were known by that alone.
    pub borrowed: u64,
    pub known_by_borrowing: u64,
    pub items_done: u64,
    pub taken: u64,
    /// Opt-outs at a person's other address that a node took in.
    pub taken_of_links: u64,
    pub kept_at_edges: u64,
    pub retries: u64,
    pub refused: u64,
    /// Starts after a kill or a power cut, and power cuts in the middle of a write.
    pub kills: u64,
    pub power_cuts: u64,
    pub torn: u64,
    pub stops: u64,
    pub restored: u64,
    pub disks_lost: u64,
    pub weeks_away: u64,
    pub edges_died_full: u64,
    pub cuts: u64,
    pub one_way_cuts: u64,
    pub clock_jumps: u64,
    /// Checks: allowed; allowed in spite of an opt-out that is applied there; denied for one; denied for not knowing enough.
    pub allowed: u64,
    pub allowed_again: u64,
    pub opted_out: u64,
    pub stale: u64,
    /// Denied although an opt-out that others have acknowledged has not arrived: too stale to tell.
    pub saved_by_staleness: u64,
    pub ranges_equal: u64,
    pub proven: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        let Self {
            steps,
            leaps,
            frames,
            lost_frames,
            lost_calls,
            snapshots,
            items_done,
            taken,
            kept_at_edges,
            ..
        } = other;
        self.steps += steps;
        self.leaps += leaps;
        self.frames += frames;
        self.lost_frames += lost_frames;
        self.lost_calls += lost_calls;
        self.snapshots += snapshots;
        self.items_done += items_done;
        self.taken += taken;
        self.kept_at_edges += kept_at_edges;
        self.borrowed += other.borrowed;
        self.known_by_borrowing += other.known_by_borrowing;
        self.taken_of_links += other.taken_of_links;
        self.retries += other.retries;
        self.refused += other.refused;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.torn += other.torn;
        self.stops += other.stops;
        self.restored += other.restored;
        self.disks_lost += other.disks_lost;
        self.weeks_away += other.weeks_away;
        self.edges_died_full += other.edges_died_full;
        self.cuts += other.cuts;
        self.one_way_cuts += other.one_way_cuts;
        self.clock_jumps += other.clock_jumps;
        self.allowed += other.allowed;
        self.allowed_again += other.allowed_again;
        self.opted_out += other.opted_out;
        self.stale += other.stale;
        self.saved_by_staleness += other.saved_by_staleness;
        self.ranges_equal += other.ranges_equal;
        self.proven += other.proven;
    }
}

/// What a node may send.
pub fn ask(engine: &Engine, person: usize, channel: Channel) -> CheckAnswer {
    let request = CheckRequest {
        request_id: String::new(),
        business: BUSINESS.to_owned(),
        sender: "Acme".to_owned(),
        recipient: Ok(address(person)),
        channel,
        content: RequestedContent::Message { category: None, topic: Some(offers()) },
        about: None,
        mode: Mode::Peek,
        explain: false,
        time_zone: None,
        at_least_as_fresh: None,
        content_hash: 1,
    };
    engine.check(&request).expect("a check is answered")
}

/// Whether an event ends consent on a channel.
fn ends(event: &ConsentEvent, channel: Channel) -> bool {
    let reaches = |at: Option<Channel>| at.is_none_or(|at| at == channel);
    event.changes.iter().any(|change| match change {
        Change::OptOut(out) => out.scopes.iter().any(|scope| reaches(scope.channel)),
        Change::Invalidate(invalidate) => invalidate.scopes.iter().any(|scope| reaches(scope.channel)),
        _ => false,
    })
}

/// How an opt-in of `who` names an event.
fn naming(event: &ConsentEvent, who: Identifier) -> Naming {
    match event.subjects.first() {
        Some(first) if !event.numbered_late && *first != who => Naming::OfLink(*first),
        _ => event.naming(),
    }
}

impl World {
    pub fn fail(&self, what: &str) -> ! {
        let start = self.log.len().saturating_sub(400);
        for line in &self.log[start..] {
            println!("  {line}");
        }
        for (number, one) in self.nodes.iter().enumerate() {
            let heads = one.process.as_ref().map(|process| process.engine.heads().len());
            println!("  node {number} {:?} skew {} ms, {heads:?} origins", one.role, one.skew_ms);
        }
        panic!(
            "at {} ms: {what}\nreplay with OPTGATE_SIM_SEED={} cargo test --lib sim::seeds::whatever_befalls_nodes_and_people",
            self.now, self.seed
        )
    }

    /// The ranges in which somebody is.
    pub fn ranges(&self) -> Vec<usize> {
        let others = (0..self.persons.len()).map(other_identifier);
        self.persons.iter().copied().chain(others).map(|who| usize::from(who.0[0])).collect()
    }

    /// Holds all that `node` answers now against the truth.
    pub fn judge_node(&mut self, node: usize) {
        self.learn(node);
        self.publish(node);
        let Some(process) = &self.nodes[node].process else { return };
        let engine = process.engine.clone();
        let applied: BTreeMap<OriginId, u64> =
            engine.heads().into_iter().map(|(origin, head)| (origin, head.sequence)).collect();
        for person in 0..self.persons.len() {
            for channel in CHANNELS {
                let answer = ask(&engine, person, channel);
                match answer.violations.first().map(|violation| violation.reason) {
                    None => self.judge_allowed(node, person, channel, &answer, &applied),
                    Some(Reason::OptedOut) => self.tally.opted_out += 1,
                    Some(Reason::Stale) => {
                        self.tally.stale += 1;
                        let missed = self.missed(&applied, person, channel);
                        self.tally.saved_by_staleness += u64::from(missed.is_some());
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// An event that ends consent, was acknowledged as replicated longer ago than a node may be behind, and is not in `applied`.
    fn missed(&self, applied: &BTreeMap<OriginId, u64>, person: usize, channel: Channel) -> Option<EventId> {
        let who = self.persons[person];
        let not_applied = |id: &EventId| applied.get(&id.origin).is_none_or(|upto| *upto < id.sequence);
        let long_ago = |since: u64| self.now.saturating_sub(since) > MAX_STALENESS_MS;
        self.replicated
            .iter()
            .filter(|(id, since)| long_ago(**since) && not_applied(id) && !self.excused.contains(id))
            .find(|(id, _)| {
                let told = self.told.get(id);
                told.is_some_and(|told| told.event.subjects.contains(&who) && ends(&told.event, channel))
            })
            .map(|(id, _)| *id)
    }

    fn judge_allowed(
        &mut self,
        node: usize,
        person: usize,
        channel: Channel,
        answer: &CheckAnswer,
        applied: &BTreeMap<OriginId, u64>,
    ) {
        self.tally.allowed += 1;
        let who = self.persons[person];
        let Some(basis) = answer.basis.first().copied() else {
            self.fail(&format!("node {node} allows {channel} to person {person} by nothing"))
        };
        if let Some(missed) = self.missed(applied, person, channel) {
            self.fail(&format!(
                "node {node} is fresh and allows {channel} to person {person} by {basis}, but lacks {missed}, acknowledged as \
                 replicated for longer than a node may be behind"
            ));
        }
        let Some(word) = self.last_word(basis) else { return };
        let reached: Vec<(EventId, Told)> = self
            .told
            .iter()
            .filter(|(id, told)| {
                applied.get(&id.origin).is_some_and(|upto| *upto >= id.sequence)
                    && told.event.subjects.contains(&who)
                    && ends(&told.event, channel)
            })
            .map(|(id, told)| (*id, told.clone()))
            .collect();
        self.tally.allowed_again += u64::from(!reached.is_empty());
        for (id, told) in &reached {
            let Some(act) = told.act else { continue };
            if act > word && !(self.clocks == Clocks::Wild && self.may_lose(told, basis)) {
                self.fail(&format!(
                    "node {node} allows {channel} to person {person} by {basis} (act {word}), though {id} (act {act}) came after it"
                ));
            }
        }
        if self.clocks == Clocks::Wild {
            return;
        }
        let later = self.nodes[node].took.iter().copied().find(|act| {
            let Act { person: of, what, .. } = &self.acts[*act];
            *act > word && *of == person && what.ends(channel)
        });
        if let Some(act) = later {
            self.fail(&format!(
                "node {node} allows {channel} to person {person} by {basis} (act {word}), though act {act} came after it and was \
                 taken in here"
            ));
        }
    }

    /// With wild clocks, only an opt-out reported late or recorded without knowing the opt-in can lose.
    fn may_lose(&self, end: &Told, opt_in: EventId) -> bool {
        let Some(act) = end.act.map(|act| &self.acts[act]) else { return true };
        let signed = matches!(act.what, What::StopMessage | What::Stop { how: How::Signed, .. });
        let knew = |knowing: &BTreeMap<OriginId, u64>| {
            knowing.get(&opt_in.origin).is_some_and(|upto| *upto >= opt_in.sequence)
        };
        // What the provider's clock says may be anything.
        signed || !end.knowing.as_ref().is_some_and(knew)
    }

    /// A node was told that an event of its own is on a majority's disks.
    pub fn judge_replicated(&mut self, node: usize, event: EventId) {
        self.learn(node);
        let from = self.replicated_upto.insert(event.origin, event.sequence).unwrap_or(0);
        for sequence in from + 1..=event.sequence {
            self.replicated.insert(EventId { origin: event.origin, sequence }, self.now);
        }
        let holds = |one: &super::node::Node| {
            let head = one.process.as_ref().and_then(|process| {
                process.engine.heads().into_iter().find(|(origin, _)| *origin == event.origin)
            });
            // Who is down may have it on disk.
            one.process.is_none()
                || one.went_back.is_some()
                || head.is_some_and(|(_, head)| head.sequence >= event.sequence)
        };
        let disks = self.nodes.iter().filter(|one| one.role == Role::Anchor && holds(one)).count();
        if disks < self.anchors / 2 + 1 {
            self.fail(&format!("node {node} takes {event} for replicated on {disks} disks"));
        }
    }

    /// Two nodes that applied the same events have the same of a range.
    pub fn judge_range(&mut self, node: usize, with: usize, range: usize) {
        let (Some(one), Some(other)) = (&self.nodes[node].process, &self.nodes[with].process) else { return };
        let Ok(Some(digest)) = one.engine.range_digest(range) else { return };
        match other.engine.compare_range(&digest) {
            Ok(Verdict::Different) => self.fail(&format!(
                "nodes {node} and {with} applied the same events and differ in range {range}:\n{}\n{}",
                self.records_in(node, range),
                self.records_in(with, range)
            )),
            Ok(Verdict::Equal) => self.tally.ranges_equal += 1,
            Ok(Verdict::Incomparable) | Err(_) => {}
        }
    }

    /// What a node has of everybody in a range.
    fn records_in(&self, node: usize, range: usize) -> String {
        let Some(process) = &self.nodes[node].process else { return String::new() };
        let mut records = Vec::new();
        let read = process.engine.view().each_of(range, |_, person| {
            records.push(format!("  node {node} has {:?}", person.record));
            ControlFlow::Continue(())
        });
        read.map_or_else(|error| error.to_string(), |()| records.join("\n"))
    }

    /// Everything is as it must be when the cluster has been whole for a while.
    pub fn judge_healed(&mut self) {
        let heads = |world: &Self, node: usize| {
            let Some(process) = &world.nodes[node].process else {
                world.fail(&format!("node {node} is down after healing"))
            };
            let mut heads = process.engine.heads();
            heads.sort_unstable_by_key(|(origin, _)| *origin);
            heads
        };
        let first = heads(self, 0);
        for node in 0..self.nodes.len() {
            self.learn(node);
            let ours = heads(self, node);
            if ours != first {
                self.fail(&format!("nodes 0 and {node} differ after healing:\n{first:?}\n{ours:?}"));
            }
            self.publish(node);
            let Some(process) = &self.nodes[node].process else { return };
            let engine = process.engine.clone();
            if engine.is_stale() || engine.replica().is_catching_up() || engine.is_behind() {
                let machine = process.machine.lock();
                self.fail(&format!(
                    "node {node} does not know enough after healing: stale {}, catching up {}, behind {}, {:?}",
                    engine.is_stale(),
                    engine.replica().is_catching_up(),
                    engine.is_behind(),
                    machine.progress()
                ));
            }
            if let Some(edge) = engine.edge()
                && edge.waiting().items > 0
            {
                self.fail(&format!("node {node} still has {:?} in its outbox after healing", edge.waiting()));
            }
            for range in self.ranges() {
                let digest = engine.range_digest(range);
                let compared = digest.ok().flatten().map(|digest| {
                    let with = self.nodes[0].process.as_ref().map(|process| &process.engine);
                    with.and_then(|engine| engine.compare_range(&digest).ok())
                });
                if compared.flatten() != Some(Verdict::Equal) {
                    self.fail(&format!(
                        "nodes 0 and {node} differ in range {range} after healing: {compared:?}\n{}\n{}",
                        self.records_in(0, range),
                        self.records_in(node, range)
                    ));
                }
            }
        }
        let held = |id: &EventId| {
            first.iter().any(|(origin, head)| *origin == id.origin && head.sequence >= id.sequence)
        };
        for (origin, sequence) in &self.replicated_upto {
            let last = EventId { origin: *origin, sequence: *sequence };
            if !held(&last) {
                self.fail(&format!("{last} was on a majority's disks and is lost"));
            }
        }
        for (number, act) in self.acts.iter().enumerate().filter(|(_, act)| act.what.ends_something()) {
            if !act.taken_by.is_empty() && !act.events.iter().any(held) {
                self.fail(&format!(
                    "act {number}, an opt-out, was taken in by {:?} and is lost; it became {:?}",
                    act.taken_by, act.events
                ));
            }
        }
        let heads = first.clone();
        self.judge_proven(&heads);
    }

    /// An opt-in that names every opt-out there is counts everywhere.
    fn judge_proven(&mut self, heads: &[(OriginId, Head)]) {
        // What a lost disk alone had is nobody's any more.
        let is_held = |id: &EventId| {
            heads.iter().any(|(origin, head)| *origin == id.origin && head.sequence >= id.sequence)
        };
        for person in 0..self.persons.len() {
            let who = self.persons[person];
            for channel in CHANNELS {
                let of_person = || {
                    let told = self.told.iter().filter(|(_, told)| told.event.subjects.contains(&who));
                    told.filter(|(id, _)| is_held(id))
                };
                let outs: Vec<(EventId, Naming)> = of_person()
                    .filter(|(_, told)| ends(&told.event, channel))
                    .map(|(id, told)| (*id, naming(&told.event, who)))
                    .collect();
                let names_all = of_person().find(|(_, told)| {
                    told.event.changes.iter().any(|change| match change {
                        Change::OptIn(opt_in) => {
                            opt_in.scopes.iter().any(|(scope, _)| scope.channel == Some(channel))
                                && outs.iter().all(|(id, naming)| opt_in.covers.has_event(*id, *naming))
                        }
                        _ => false,
                    })
                });
                let Some((id, _)) = names_all else { continue };
                let id = *id;
                for node in 0..self.nodes.len() {
                    self.publish(node);
                    let Some(process) = &self.nodes[node].process else { continue };
                    let answer = ask(&process.engine, person, channel);
                    if !answer.allows() {
                        self.fail(&format!(
                            "node {node} denies {channel} to person {person}, though {id} is shown to come after {outs:?}: {:?}",
                            answer.violations
                        ));
                    }
                }
                self.tally.proven += u64::from(!outs.is_empty());
            }
        }
    }

    /// Nobody may be sent anything on `channel`, or everybody may.
    pub fn judge_all(&mut self, person: usize, allowed: bool, because: &str) {
        for node in 0..self.nodes.len() {
            self.publish(node);
            let Some(process) = &self.nodes[node].process else { continue };
            for channel in CHANNELS {
                let answer = ask(&process.engine, person, channel);
                let category = answer.category.unwrap_or(Category::Marketing);
                if answer.allows() != allowed {
                    self.fail(&format!(
                        "node {node}: {channel} ({category:?}) to person {person} is answered {:?} after {because}",
                        answer.violations
                    ));
                }
            }
        }
    }
}
