//! Single fates, told out.

use super::world::{Topology, World};
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
    assert_eq!(process.machine.peers().len(), 1);
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
    }
}
