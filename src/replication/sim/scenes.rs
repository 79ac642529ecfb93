//! Single fates, told out.

use super::world::{Topology, World};
use crate::policy::ids::OriginId;
use crate::replication::Note;
use crate::replication::frame::Role::{self, Anchor, Edge};

fn calm(roles: &[Role], topology: Topology) -> World {
    let mut world = World::new(1, roles, topology);
    world.run(world.now + 4_000);
    world
}

#[test]
fn an_event_crosses_a_star_and_a_line_as_fast_as_its_links() {
    for topology in [Topology::Mesh, Topology::Star, Topology::Line] {
        let mut world = calm(&[Anchor; 5], topology);
        // The first event of an origin is told of before it is asked for; the next come by themselves.
        for (event, waits_ms) in [(1, 250), (2, 150), (3, 150)] {
            world.append(4, 0, 100);
            world.run(world.now + waits_ms);
            for one in &world.nodes {
                let held: u64 = one.disk.heads().iter().map(|(_, head)| head.sequence).sum();
                assert_eq!(held, event, "{topology:?}");
            }
        }
        world.judge_healed();
    }
}

#[test]
fn edges_are_fresh_of_anchors_that_they_hear_of_through_one() {
    let mut world = World::new(3, &[Anchor, Anchor, Anchor, Edge], Topology::Star);
    world.nodes[3].peers = vec![1];
    world.crash(3);
    world.start(3);
    world.run(world.now + 6_000);
    world.judge_healed();
    let one = &world.nodes[3];
    let process = one.process.as_ref().expect("it runs");
    let ages = process.machine.freshness(one.now(world.now).mono);
    assert_eq!(ages.keys().map(String::as_str).collect::<Vec<_>>(), ["anchor-0", "anchor-1", "anchor-2"]);
    assert_eq!(process.machine.peers(one.now(world.now).mono).len(), 1);
}

#[test]
fn what_does_not_verify_holds_up_no_other_origin() {
    let mut world = World::new(5, &[Anchor; 3], Topology::Mesh);
    world.crash(2);
    world.crash(1);
    for _ in 0..9 {
        world.append(0, 0, 30);
        world.append(0, 1, 30);
    }
    let origins: Vec<_> = world.nodes[0].disk.heads().iter().map(|(origin, _)| origin).collect();
    world.nodes[0].disk.damage(origins[0], 5);
    world.start(1);
    world.start(2);
    world.run(world.now + 6_000);
    for node in 1..3 {
        assert_eq!(world.nodes[node].disk.sequence(origins[0]), 4, "what is good of it is kept");
        assert_eq!(world.nodes[node].disk.sequence(origins[1]), 9);
        let unverified = |(_, at, note): &&(u64, usize, Note)| {
            *at == node
                && matches!(note, Note::Unverified { origin, sequence: 5, .. } if *origin == origins[0])
        };
        assert_eq!(world.notes.iter().filter(unverified).count(), 1, "{:?}", world.notes);
        let apart: Vec<u64> =
            world.nodes[node].apart[&origins[0]].iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!(apart, (1..=9).collect::<Vec<_>>(), "its opt-outs are to hold");
    }
}

#[test]
fn both_sides_of_a_fork_learn_the_others_records_whichever_is_longer() {
    for (left, right) in [(6, 6), (6, 9), (9, 6)] {
        let mut world = World::new(6, &[Anchor; 3], Topology::Line);
        for (one, other) in [(1, 2), (2, 1)] {
            world.cut.insert((one, other));
        }
        world.run(world.now + 500);
        let forked = OriginId([7; 16]);
        let runs = [(1, left), (2, right)];
        for (node, records) in runs {
            for _ in 0..records {
                world.append_to(node, forked, &[node as u8; 9]);
            }
        }
        world.cut.clear();
        world.append(2, 1, 40);
        world.fork_is_news = true;
        world.run(world.now + 9_000);
        world.fork_is_news = false;
        world.run(world.now + 6_000);
        let branch = |node: usize| world.nodes[node].disk.records(forked);
        for (node, other) in [(1, 2), (2, 1)] {
            let kept: Vec<_> = world.nodes[node].apart[&forked].iter().map(|(_, hash)| *hash).collect();
            let theirs: Vec<_> = branch(other).iter().map(|record| record.hash).collect();
            assert!(theirs.iter().all(|hash| kept.contains(hash)), "{left} {right}: node {node} lacks some");
            let told = |(_, at, note): &&(u64, usize, Note)| {
                *at == node
                    && matches!(note, Note::Forked { origin, .. } | Note::NeverWritten { origin, .. } if *origin == forked)
            };
            assert!(world.notes.iter().any(|note| told(&note)), "{left} {right}: node {node} was not told");
        }
        let first = &world.nodes[0];
        assert_eq!(first.disk.heads().len(), 2, "the other origin came through");
        let process = first.process.as_ref().expect("it runs");
        assert!(process.machine.is_fresh(first.now(world.now).mono, 5_000), "what is kept apart is known");
        assert!(process.machine.is_caught_up());
    }
}
