//! What befalls a cluster, drawn from its seed.

use super::rng::Rng;
use super::world::{Topology, World};
use crate::replication::Link;
use crate::replication::frame::{Instance, Role};

/// How long the misfortunes last, in virtual milliseconds.
const CHAOS_MS: u64 = 20_000;
/// How long after the last of them all must be well: the silence of a broken link, the dial after it, and some heartbeats.
pub const HEALING_MS: u64 = 14_000;

/// Runs one seed to its end.
pub fn run(seed: u64) -> World {
    let mut dice = Rng::new(seed ^ 0x5eed);
    let anchors = dice.between(1, 5);
    let edges = dice.below(3);
    let total = (anchors + edges).max(3) as usize;
    let anchors = if anchors + edges < 3 { anchors.max(total as u64 - edges) } else { anchors };
    let roles: Vec<Role> =
        (0..total).map(|node| if (node as u64) < anchors { Role::Anchor } else { Role::Edge }).collect();
    let topology = match dice.below(4) {
        0 | 1 => Topology::Mesh,
        2 => Topology::Star,
        _ => Topology::Line,
    };
    let topology = if topology == Topology::Line && edges > 0 { Topology::Star } else { topology };
    let mut world = World::new(seed, &roles, topology);
    world.delay_ms = *pick(&mut dice, &[2, 5, 40, 300]);
    let mut restored = 0;
    let end = world.now + CHAOS_MS;
    while world.now < end {
        let pause = dice.between(20, 400);
        world.run(world.now + pause);
        misfortune(&mut world, &mut dice, &mut restored);
    }
    heal(&mut world);
    world.judge_healed();
    world
}

/// Ends all misfortunes and waits for what must follow.
pub fn heal(world: &mut World) {
    world.cut.clear();
    for node in 0..world.nodes.len() {
        world.nodes[node].frozen_until = 0;
        world.nodes[node].slowness = 0;
        world.start(node);
    }
    world.run(world.now + HEALING_MS);
}

fn misfortune(world: &mut World, dice: &mut Rng, restored: &mut usize) {
    let node = dice.below(world.nodes.len() as u64) as usize;
    let other = dice.below(world.nodes.len() as u64) as usize;
    match dice.below(40) {
        0..=17 => {
            let len = if dice.one_in(40) { 90_000 } else { dice.below(200) as usize };
            world.append(node, 0, len);
        }
        18..=19 => {
            // An import: many at once, in an origin of its own.
            let slot = dice.between(1, 2) as usize;
            for _ in 0..dice.between(5, 60) {
                world.append(node, slot, 1_500);
            }
        }
        20..=22 => {
            let links: Vec<Link> = world.wires.keys().copied().collect();
            if !links.is_empty() {
                world.break_link(*pick(dice, &links), None);
            }
        }
        23..=24 => {
            world.cut.insert((node, other));
        }
        25 => {
            world.cut.insert((node, other));
            world.cut.insert((other, node));
        }
        26..=28 => world.cut.clear(),
        29 => world.crash(node),
        30..=32 => world.start(node),
        33 => {
            world.crash(node);
            world.start(node);
        }
        34 => world.nodes[node].frozen_until = world.now + dice.between(100, 8_000),
        35 => world.nodes[node].slowness = *pick(dice, &[0, 0, 20, 200]),
        36 => {
            let backup = world.nodes[node].disk.clone();
            world.nodes[node].backups.push(backup);
        }
        37 => restore(world, dice, node, restored),
        38 => copy(world, node, other, restored),
        _ => rare(world, dice, node),
    }
}

/// A node comes back with its disk as it was in a backup.
fn restore(world: &mut World, dice: &mut Rng, node: usize, restored: &mut usize) {
    if world.nodes[node].backups.is_empty() || !may_lose(world, node, restored) {
        return;
    }
    world.crash(node);
    let backups = world.nodes[node].backups.clone();
    let disk = pick(dice, &backups).clone();
    let now = world.now;
    world.nodes[node].replace_disk(disk, now);
    world.start(node);
}

/// A node's disk is replaced by a copy of another's.
fn copy(world: &mut World, node: usize, from: usize, restored: &mut usize) {
    if node == from || world.nodes[from].role == Role::Edge || !may_lose(world, node, restored) {
        return;
    }
    world.crash(node);
    let (disk, instance, now) = (world.nodes[from].disk.clone(), world.nodes[from].instance, world.now);
    world.nodes[node].replace_disk(disk, now);
    world.nodes[node].instance = instance;
    world.nodes[node].backups.clear();
    world.start(node);
}

/// Fewer than half of the anchors may lose what they hold: more would break promises rightly.
fn may_lose(world: &World, node: usize, restored: &mut usize) -> bool {
    if world.nodes[node].role == Role::Edge || world.nodes[node].went_back > 0 {
        return world.nodes[node].role == Role::Anchor;
    }
    if *restored + 1 > (world.anchors - 1) / 2 {
        return false;
    }
    *restored += 1;
    true
}

fn rare(world: &mut World, dice: &mut Rng, node: usize) {
    match dice.below(6) {
        0 => world.nodes[node].wall_offset += dice.below(1_200_000) as i64 - 600_000,
        1 => {
            // A week passes in which this node is away and nothing else happens.
            world.crash(node);
            let links: Vec<Link> = world.wires.keys().copied().collect();
            for link in links {
                world.break_link(link, None);
            }
            world.skip(7 * 24 * 3_600_000);
        }
        2 => {
            // Its disk is lost for good; a new one takes its place.
            if world.nodes[node].role == Role::Edge {
                world.crash(node);
                world.nodes[node].instance = Instance(dice.bytes16());
                world.start(node);
            }
        }
        _ => {
            for _ in 0..dice.between(1, 10) {
                world.append(node, 0, 50);
            }
        }
    }
}

fn pick<'a, T>(dice: &mut Rng, from: &'a [T]) -> &'a T {
    &from[dice.below(from.len() as u64) as usize]
}
