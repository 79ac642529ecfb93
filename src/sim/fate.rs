//! What befalls nodes and persons, drawn from a seed.

use super::people::{How, Reach, What};
use super::world::{Clocks, MARGIN_MS, World};
use crate::ledger::sim::SimDisk;
use crate::policy::time::{DAY_MS, MINUTE_MS, SECOND_MS};
use crate::replication::frame::Role;

/// How long after the last misfortune all must be well: the silence of a broken link, the dial after it, two rounds of
/// heartbeats and of what edges try again.
const HEALING_MS: u64 = 18_000;
/// How long what is done in a sound cluster takes to be known everywhere.
const SPREADS_MS: u64 = 8_000;

/// Runs one seed to its end.
pub fn run(seed: u64) -> World {
    let mut world = begin(seed);
    let rounds = world.rng.between(14, 26);
    for round in 0..rounds {
        if round == 4 {
            (0..world.nodes.len()).for_each(|node| back_up(&mut world, node));
        }
        let gap_ms =
            *pick(&mut world, &[50, 300, 1_000, 1_000, 3_000, 9_000, 40_000, 4 * MINUTE_MS, 11 * MINUTE_MS]);
        world.pass(gap_ms);
        if world.rng.one_in(2) {
            person_acts(&mut world);
        } else {
            misfortune(&mut world);
        }
    }
    heal(&mut world);
    world.judge_healed();
    last_words(&mut world);
    world
}

fn begin(seed: u64) -> World {
    let mut dice = crate::replication::sim::rng::Rng::new(seed ^ 0xfa7e);
    let anchors = dice.between(1, 5).max(if dice.one_in(4) { 1 } else { 3 });
    let edges = dice.below(3).max(3_u64.saturating_sub(anchors));
    let roles: Vec<Role> =
        (0..anchors + edges).map(|node| if node < anchors { Role::Anchor } else { Role::Edge }).collect();
    let clocks = if dice.one_in(4) { Clocks::Wild } else { Clocks::WithinMargin };
    let mut world = World::new(seed, &roles, clocks);
    world.persons = (0..dice.between(1, 2) as usize).map(super::people::identifier).collect();
    world.delay_ms = [2, 5, 40, 300][dice.below(4) as usize];
    world.loss = [0, 0, 400, 100][dice.below(4) as usize];
    world
}

/// A person does something, and it is reported.
fn person_acts(world: &mut World) {
    let person = world.rng.below(world.persons.len() as u64) as usize;
    let reach = *pick(world, &[Reach::Sms, Reach::Sms, Reach::Voice, Reach::Both]);
    let what = match world.rng.below(16) {
        0..=6 => {
            // The caller looks up what the person acts after; some look nothing up.
            let node = any_node(world);
            let named = if world.rng.one_in(5) { None } else { world.look_up(node, person) };
            What::OptIn { reach, named: named.unwrap_or_default() }
        }
        7..=10 => {
            let how = *pick(
                world,
                &[How::Caller, How::Caller, How::Anonymous, How::Misdated, How::Signed, How::OtherAddress],
            );
            let reach = if world.rng.one_in(4) { Reach::Everything } else { reach };
            What::Stop { reach, how }
        }
        11..=13 => What::StopMessage,
        _ => What::StartMessage,
    };
    let act = world.act(person, what);
    let reports = if world.rng.one_in(4) { 2 } else { 1 };
    for _ in 0..reports {
        let delay_ms =
            *pick(world, &[0, 0, 0, 20, 400, 3 * SECOND_MS, 20 * SECOND_MS, 4 * MINUTE_MS, 12 * MINUTE_MS]);
        let node = any_node(world);
        world.report_at(delay_ms, act, node, 0);
    }
    world.pass(1);
}

fn misfortune(world: &mut World) {
    world.stirred = world.now;
    let (node, other) = (any_node(world), any_node(world));
    match world.rng.below(25) {
        0..=2 => {
            world.cut.insert((node, other));
            world.tally.one_way_cuts += 1;
            world.note(format!("nothing gets from node {node} to node {other}"));
        }
        3..=5 => {
            world.cut.insert((node, other));
            world.cut.insert((other, node));
            world.tally.cuts += 1;
            world.note(format!("nodes {node} and {other} are cut off from each other"));
        }
        6..=7 => {
            // From everybody.
            for other in 0..world.nodes.len() {
                world.cut.insert((node, other));
                world.cut.insert((other, node));
            }
            world.tally.cuts += 1;
            world.note(format!("node {node} is cut off"));
        }
        8..=9 => {
            world.cut.clear();
            world.note("all links are whole".to_owned());
        }
        10 => {
            world.tally.kills += 1;
            world.kill(node);
        }
        11 => {
            if world.nodes[node].process.is_some() {
                world.tally.power_cuts += 1;
                world.power_cut(node);
            }
        }
        12..=13 => {
            // In the middle of a write to come.
            let operations = world.rng.below(12);
            world.nodes[node].disk.power_cut_in(Some(operations));
        }
        14 => {
            world.tally.stops += 1;
            world.stop(node);
        }
        15..=17 => (0..world.nodes.len()).for_each(|node| world.start(node)),
        18 => sweep(world, node),
        19 => back_up(world, node),
        20 => restore(world, node),
        21 => lose_disk(world, node),
        22 => die_full(world),
        23 => week_away(world, node),
        _ => jump(world, node),
    }
}

pub fn sweep(world: &mut World, node: usize) {
    if let Some(process) = &world.nodes[node].process
        && let Err(error) = process.engine.view().sweep()
    {
        world.fail(&format!("the view of node {node} cannot be swept: {error}"));
    }
}

/// Fewer than half of the anchors may lose what they hold: more would break promises rightly.
fn may_lose(world: &World, node: usize) -> bool {
    if world.is_edge(node) {
        return true;
    }
    let lost = |one: &&super::node::Node| one.role == Role::Anchor && one.went_back.is_some();
    world.nodes[node].went_back.is_some() || world.nodes.iter().filter(lost).count() < (world.anchors - 1) / 2
}

/// What a node had is no more, or as it was.
pub fn goes_back(world: &mut World, node: usize, disk: SimDisk) {
    world.kill(node);
    world.nodes[node].disk = disk;
    world.nodes[node].went_back = Some(world.now);
    let took = std::mem::take(&mut world.nodes[node].took);
    for act in took {
        world.acts[act].taken_by.remove(&node);
    }
    // Until all is whole again, it may be missed: one of the disks that had it has it no more.
    let missed: Vec<_> = world.replicated.keys().copied().collect();
    world.excused.extend(missed);
}

fn back_up(world: &mut World, node: usize) {
    if !world.is_edge(node) {
        let seed = world.rng.next();
        let backup = world.nodes[node].disk.copy(seed);
        world.nodes[node].backups.push(backup);
        world.note(format!("node {node} is backed up"));
    }
}

fn restore(world: &mut World, node: usize) {
    if !world.nodes[node].backups.is_empty() && may_lose(world, node) {
        world.tally.restored += 1;
        world.note(format!("a backup of node {node} is restored"));
        let seed = world.rng.next();
        let which = world.rng.below(world.nodes[node].backups.len() as u64) as usize;
        let disk = world.nodes[node].backups[which].copy(seed);
        // Its view is not restored with it: it may have what the ledger no longer has.
        sweep(world, node);
        goes_back(world, node, disk);
        world.start(node);
        world.pass(2_000);
        person_acts(world);
        world.pass(1_000);
        world.kill(node);
        world.start(node);
    }
}

/// The disk is lost for good; a new one takes its place.
fn lose_disk(world: &mut World, node: usize) {
    if !may_lose(world, node) {
        return;
    }
    world.tally.disks_lost += 1;
    world.note(format!("node {node} loses its disk"));
    let seed = world.rng.next();
    goes_back(world, node, SimDisk::new(seed));
    world.nodes[node].backups.clear();
    world.items.retain(|(of, _), _| *of != node);
    world.start(node);
}

/// An edge that is cut off takes opt-outs in and dies with all of them in its outbox.
fn die_full(world: &mut World) {
    let Some(node) = (0..world.nodes.len()).rev().find(|node| world.is_edge(*node)) else { return };
    if world.nodes[node].process.is_none() {
        return;
    }
    world.note(format!("node {node} is cut off and will die"));
    for other in 0..world.nodes.len() {
        world.cut.insert((node, other));
        world.cut.insert((other, node));
    }
    for person in 0..world.persons.len() {
        for how in [How::Caller, How::Anonymous] {
            let act = world.act(person, What::Stop { reach: Reach::Both, how });
            world.report_at(0, act, node, 0);
        }
    }
    world.pass(200);
    let full = world.nodes[node]
        .process
        .as_ref()
        .and_then(|process| process.engine.edge())
        .is_some_and(|edge| edge.waiting().items > 0);
    world.tally.edges_died_full += u64::from(full);
    if world.nodes[node].process.is_some() {
        if world.rng.one_in(2) {
            world.kill(node);
        } else {
            world.power_cut(node);
        }
    }
    world.pass(2_000);
    world.cut.retain(|(from, to)| *from != node && *to != node);
    world.start(node);
}

/// A node is away for a week in which the others go on.
fn week_away(world: &mut World, node: usize) {
    world.tally.weeks_away += 1;
    world.kill(node);
    world.pass(3 * DAY_MS);
    person_acts(world);
    world.pass(4 * DAY_MS);
    world.start(node);
}

/// A clock is set.
fn jump(world: &mut World, node: usize) {
    let span = match world.clocks {
        Clocks::WithinMargin => MARGIN_MS as u64,
        Clocks::Wild => 4 * 3_600_000,
    };
    let skew_ms = world.rng.below(span) as i64;
    world.tally.clock_jumps += 1;
    world.note(format!("the clock of node {node} is set to be {skew_ms} ms ahead"));
    world.nodes[node].skew_ms = skew_ms;
}

/// Ends all misfortunes and waits for what must follow.
pub fn heal(world: &mut World) {
    // Reports that are still to come do.
    while let Some((at, _, _)) = world.reports.last().copied() {
        let left_ms = at - world.true_ms();
        world.pass(left_ms.max(0) + 1);
    }
    world.cut.clear();
    world.loss = 0;
    restart_who_may_know_more(world);
    for node in 0..world.nodes.len() {
        world.nodes[node].disk.power_cut_in(None);
        // One that lost its power while it started is started again.
        for _ in 0..3 {
            world.start(node);
        }
    }
    world.note("all is whole".to_owned());
    world.settle(HEALING_MS);
    world.excused.clear();
}

/// What a lost disk alone had may have come to an edge, or to an anchor that borrowed it, which goes on with it and cannot give it back:
/// README tells operators when to restart them.
fn restart_who_may_know_more(world: &mut World) {
    let is_anchor_back = |one: &super::node::Node| one.role == Role::Anchor && one.went_back.is_some();
    if world.nodes.iter().any(is_anchor_back) {
        let borrows = |one: &super::node::Node| {
            one.process.as_ref().is_some_and(|process| process.engine.view().borrows())
        };
        let may = |node: &usize| world.is_edge(*node) || borrows(&world.nodes[*node]);
        for node in (0..world.nodes.len()).filter(may).collect::<Vec<_>>() {
            world.kill(node);
        }
    }
}

/// Every person opts in once more, naming what there is, and out once more.
fn last_words(world: &mut World) {
    for person in 0..world.persons.len() {
        let node = any_node(world);
        let Some(named) = world.look_up(node, person) else {
            world.fail(&format!("node {node} cannot tell what person {person} opted out of"))
        };
        let act = world.act(person, What::OptIn { reach: Reach::Both, named });
        // The caller's clock is right for once: one that is far ahead is refused.
        world.acts[act].at_ms -= world.caller_skew_ms - world.nodes[node].skew_ms;
        world.report_at(1, act, node, 0);
    }
    spread(world);
    for person in 0..world.persons.len() {
        world.judge_all(person, true, "a last opt-in that names every opt-out");
    }
    for person in 0..world.persons.len() {
        let node = any_node(world);
        let act = world.act(person, What::Stop { reach: Reach::Everything, how: How::Caller });
        world.report_at(1, act, node, 0);
    }
    spread(world);
    for person in 0..world.persons.len() {
        world.judge_all(person, false, "a last opt-out");
    }
    world.judge_healed();
}

fn spread(world: &mut World) {
    world.stirred = world.now;
    world.pass(2);
    // A caller who was not told that it is done comes again.
    while let Some((at, _, _)) = world.reports.last().copied() {
        let left_ms = at - world.true_ms();
        world.pass(left_ms.max(0) + 1);
    }
    world.settle(SPREADS_MS);
}

fn any_node(world: &mut World) -> usize {
    world.rng.below(world.nodes.len() as u64) as usize
}

fn pick<T: Copy>(world: &mut World, from: &'static [T]) -> &'static T {
    &from[world.rng.below(from.len() as u64) as usize]
}
