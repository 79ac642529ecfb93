//! Single fates, told out.

use super::fate::{goes_back, sweep};
use super::people::{How, Reach, What};
use super::world::{Clocks, World};
use crate::replication::frame::Role::{Anchor, Edge};

fn calm(roles: &[crate::replication::frame::Role]) -> World {
    let mut world = World::new(1, roles, Clocks::WithinMargin);
    world.pass(4_000);
    world
}

#[test]
fn what_one_anchor_records_holds_at_all_of_them() {
    let mut world = calm(&[Anchor; 3]);
    let opt_in = world.act(0, What::OptIn { reach: Reach::Both, named: Vec::new() });
    world.report_at(0, opt_in, 0, 0);
    world.pass(1_000);
    world.judge_all(0, true, "an opt-in");
    let stop = world.act(0, What::Stop { reach: Reach::Both, how: How::Caller });
    world.report_at(0, stop, 1, 0);
    world.pass(1_000);
    world.judge_all(0, false, "an opt-out");
    world.judge_healed();
}

/// Nodes are backed up while they run, so that a start finds a ledger that was not closed, and puts its last batch elsewhere.
#[test]
fn a_view_that_has_more_than_a_restored_ledger_is_built_anew() {
    let mut world = calm(&[Anchor; 3]);
    let opt_in = world.act(0, What::OptIn { reach: Reach::Both, named: Vec::new() });
    world.report_at(0, opt_in, 0, 0);
    world.pass(1_000);
    let backup = world.nodes[0].disk.copy(7);
    for other in 1..3 {
        world.cut.insert((0, other));
        world.cut.insert((other, 0));
    }
    let stop = world.act(0, What::Stop { reach: Reach::Both, how: How::Caller });
    world.report_at(0, stop, 0, 0);
    world.pass(1_000);
    assert_eq!(world.look_up(0, 0).map(|outs| outs.len()), Some(1));
    sweep(&mut world, 0);
    goes_back(&mut world, 0, backup);
    world.start(0);
    assert_eq!(world.look_up(0, 0), Some(Vec::new()), "its ledger knows of no opt-out");
    world.cut.clear();
    world.pass(9_000);
    world.judge_healed();
    world.judge_all(0, true, "the only opt-out was lost with the only disk that had it");
}

/// An edge whose anchors are gone takes an opt-out in, dies with it, and an anchor numbers it in the end.
#[test]
fn an_edge_that_dies_with_a_full_outbox_loses_nothing() {
    for torn in [false, true] {
        let mut world = calm(&[Anchor, Anchor, Anchor, Edge]);
        let opt_in = world.act(0, What::OptIn { reach: Reach::Both, named: Vec::new() });
        world.report_at(0, opt_in, 3, 0);
        world.pass(3_000);
        world.judge_all(0, true, "an opt-in at an edge");
        for anchor in 0..3 {
            world.cut.insert((3, anchor));
            world.cut.insert((anchor, 3));
        }
        for how in [How::Caller, How::Anonymous] {
            let stop = world.act(0, What::Stop { reach: Reach::Both, how });
            // The caller gives up at once.
            world.report_at(0, stop, 3, u32::MAX);
        }
        world.pass(100);
        if torn {
            world.power_cut(3)
        } else {
            world.kill(3)
        }
        world.cut.clear();
        world.start(3);
        world.pass(12_000);
        world.judge_healed();
        world.judge_all(0, false, "opt-outs at an edge that died");
    }
}
