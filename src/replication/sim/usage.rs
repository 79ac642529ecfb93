//! How usage travels: to everybody, once, behind everything else.

use super::rng::Rng;
use super::world::{Topology, World};
use crate::replication::frame::Role::{self, Anchor, Edge};
use crate::replication::{Input, Link};

fn tell(world: &mut World, node: usize, word: u8) {
    world.nodes[node].usage.push(vec![word]);
    world.input(node, Input::Usage { bytes: [word].into() });
}

fn calm(roles: &[Role], topology: Topology) -> World {
    let mut world = World::new(1, roles, topology);
    world.run(world.now + 4_000);
    world
}

fn heard(world: &World, node: usize) -> Vec<u8> {
    let mut words: Vec<u8> = world.nodes[node].usage.iter().map(|bytes| bytes[0]).collect();
    words.sort_unstable();
    words
}

#[test]
fn everybody_hears_of_everything_once() {
    let all = [Anchor, Anchor, Anchor, Edge, Edge];
    // In a line only the last can be an edge.
    for (topology, roles) in [(Topology::Mesh, &all[..]), (Topology::Star, &all), (Topology::Line, &all[..4])]
    {
        let mut world = calm(roles, topology);
        for word in 0..40 {
            tell(&mut world, usize::from(word) % roles.len(), word);
            world.run(world.now + 3);
        }
        let before = world.frames;
        world.run(world.now + 500);
        for node in 0..roles.len() {
            assert_eq!(heard(&world, node), (0..40).collect::<Vec<u8>>(), "{topology:?}, node {node}");
        }
        world.run(world.now + 500);
        assert!(world.frames - before < 2_000, "nothing goes in circles");
        world.judge_healed();
    }
}

#[test]
fn a_restarted_node_is_a_new_teller_and_nothing_old_comes_back() {
    let mut world = calm(&[Anchor; 3], Topology::Mesh);
    tell(&mut world, 0, 1);
    world.run(world.now + 100);
    world.crash(0);
    world.run(world.now + 1_000);
    world.start(0);
    world.run(world.now + 5_000);
    tell(&mut world, 0, 2);
    world.run(world.now + 100);
    for node in 0..3 {
        assert_eq!(heard(&world, node), [1, 2], "node {node}");
    }
}

#[test]
fn who_lost_usage_is_told_by_one_that_has_it() {
    let mut world = calm(&[Anchor; 3], Topology::Mesh);
    world.crash(2);
    for word in 0..100 {
        tell(&mut world, 1, word);
        world.run(world.now + 2);
    }
    world.run(world.now + 500);
    // It hears nothing of what was before, unless it asks; the first one asked has lost its own.
    world.nodes[0].usage.clear();
    world.start(2);
    world.run(world.now + 5_000);
    assert_eq!(heard(&world, 2), [] as [u8; 0]);
    world.input(2, Input::LacksUsage);
    world.run(world.now + 5_000);
    assert_eq!(heard(&world, 2), (0..100).collect::<Vec<u8>>());
    assert_eq!(world.nodes[2].usage_told, 1);
    assert_eq!(heard(&world, 0), [] as [u8; 0], "nobody else is told");
}

#[test]
fn usage_neither_holds_up_events_nor_fills_a_slow_link() {
    let mut world = calm(&[Anchor; 2], Topology::Mesh);
    // A frame takes long to leave, so more is told than can be.
    world.nodes[0].slowness = 20;
    for round in 0..200u8 {
        tell(&mut world, 0, round);
        if round % 50 == 0 {
            world.append(0, 0, 100);
        }
        world.run(world.now + 2);
    }
    // One frame of usage at most is before an event.
    world.run(world.now + 200);
    let held: u64 = world.nodes[1].disk.heads().iter().map(|(_, head)| head.sequence).sum();
    assert_eq!(held, 4);
    world.run(world.now + 5_000);
    let process = world.nodes[0].process.as_ref().expect("it runs");
    let dropped = process.machine.counters().usage_dropped;
    assert!(dropped > 0, "what finds no room is dropped, and counted");
    assert_eq!(world.nodes[1].usage.len() as u64 + dropped, 200);
    assert_eq!(heard(&world, 1).last(), Some(&199), "the newest is told");
}

/// Links that break, processes that die or stand still: nobody hears of anything twice (the world sees to that), events
/// heal as ever, and once all is well everybody hears of everything.
#[test]
fn whatever_befalls_a_cluster_its_usage_goes_in_no_circles() {
    for seed in 0..60 {
        let mut dice = Rng::new(seed);
        let topologies = [Topology::Mesh, Topology::Star, Topology::Line];
        let topology = topologies[dice.below(3) as usize];
        let nodes = dice.between(2, 6) as usize;
        let mut world = World::new(seed, &vec![Anchor; nodes], topology);
        world.run(world.now + 2_000);
        for number in 0..200u64 {
            let node = dice.below(nodes as u64) as usize;
            match dice.below(20) {
                0 => world.crash(node),
                1 => world.start(node),
                2 => world.nodes[node].frozen_until = world.now + dice.below(400),
                3 => {
                    let links: Vec<Link> = world.wires.keys().copied().collect();
                    if !links.is_empty() {
                        world.break_link(links[dice.below(links.len() as u64) as usize], None);
                    }
                }
                4 => world.append(node, 0, 50),
                _ => world.input(node, Input::Usage { bytes: number.to_le_bytes().into() }),
            }
            world.run(world.now + dice.below(60));
        }
        for node in 0..nodes {
            world.start(node);
        }
        world.run(world.now + 20_000);
        world.judge_healed();
        world.input(0, Input::Usage { bytes: [9; 9].into() });
        world.run(world.now + 500);
        for node in &world.nodes[1..] {
            assert_eq!(node.usage.last().map(Vec::as_slice), Some(&[9; 9][..]), "seed {seed}");
        }
    }
}
