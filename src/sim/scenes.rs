//! Single fates, told out.

use super::people::{How, Reach, What};
use super::world::{Clocks, World};
use crate::replication::frame::Role::Anchor;

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
