//! Usage as one machine tells it and passes it on.

use super::*;
use crate::replication::frame::{USAGE_LEN_MAX, Usage, UsagePart};
use crate::replication::wire::{self, WireFault};

fn chunk(run: u8, serial: u64) -> Usage {
    Usage { run: Run([run; 16]), serial, bytes: [run].into() }
}

fn usage_said(effects: &[Effect]) -> Vec<(u64, Usage)> {
    let said = effects.iter().filter_map(|effect| match effect {
        Effect::Send { link, frame: Frame::Usage(usage) } => Some((link.0, usage.clone())),
        _ => None,
    });
    said.collect()
}

fn taken(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::TakeUsage { .. })).count()
}

#[test]
fn an_anchor_passes_on_what_is_new_and_an_edge_nothing() {
    for role in [Role::Anchor, Role::Edge] {
        let mut one = Machine::new(Settings { role, ..settings(1) }, Heads::default());
        for link in 2..5 {
            meet(&mut one, link, hello(link as u8, Vec::new()), 0);
        }
        let effects = tell(&mut one, 2, Frame::Usage(chunk(2, 1)), 1);
        let expected: &[(u64, Usage)] =
            if role == Role::Anchor { &[(3, chunk(2, 1)), (4, chunk(2, 1))] } else { &[] };
        assert_eq!((usage_said(&effects).as_slice(), taken(&effects)), (expected, 1));
        let effects = tell(&mut one, 3, Frame::Usage(chunk(2, 1)), 2);
        assert_eq!((usage_said(&effects).len(), taken(&effects)), (0, 0), "it is known");
        let effects = tell(&mut one, 3, Frame::Usage(chunk(1, 9)), 3);
        assert_eq!((usage_said(&effects).len(), taken(&effects)), (0, 0), "its own comes back");
        // Who told it first is not told, by whatever way it came.
        let effects = tell(&mut one, 4, Frame::Usage(chunk(3, 1)), 4);
        assert!(usage_said(&effects).iter().all(|(link, _)| *link == 2));
    }
}

#[test]
fn usage_goes_when_the_carrier_has_nothing_else_and_a_frame_at_a_time() {
    let mut one = machine(1);
    meet(&mut one, 2, hello(2, Vec::new()), 0);
    let own = |one: &mut Machine, number: u8| one.handle(Input::Usage { bytes: [number].into() }, at(5));
    assert_eq!(usage_said(&own(&mut one, 1)).len(), 1);
    assert_eq!(usage_said(&own(&mut one, 2)).len(), 0, "the first has not left yet");
    let effects = one.handle(Input::Frame { link: Link(2), frame: Frame::Ping { number: 1 } }, at(6));
    assert!(matches!(said(&effects)[..], [Frame::Heartbeat { .. }]), "an answer goes at once");
    assert!(said(&one.handle(Input::Sent { link: Link(2) }, at(7))).is_empty());
    assert_eq!(usage_said(&one.handle(Input::Sent { link: Link(2) }, at(8))).len(), 1);
}

#[test]
fn one_byte_too_many_is_refused() {
    let mut one = machine(1);
    meet(&mut one, 2, hello(2, Vec::new()), 0);
    let too_long: std::sync::Arc<[u8]> = vec![0; USAGE_LEN_MAX + 1].into();
    assert!(usage_said(&one.handle(Input::Usage { bytes: too_long.clone() }, at(1))).is_empty());
    assert_eq!(one.counters().usage_dropped, 1);
    for frame in [
        Frame::Usage(Usage { bytes: too_long.clone(), ..chunk(2, 1) }),
        Frame::UsageAnswer(UsagePart::Chunk(too_long.clone())),
    ] {
        assert_eq!(wire::decode(wire::encode(frame)), Err(WireFault::TooLong("content")));
    }
    assert_eq!(wire::decode(wire::encode(Frame::Usage(chunk(2, 0)))), Err(WireFault::Range("serial")));
    let most = Frame::Usage(Usage { bytes: too_long[1..].into(), ..chunk(2, 1) });
    assert_eq!(wire::decode(wire::encode(most.clone())), Ok(most));
}

#[test]
fn an_answer_that_nobody_asked_for_is_not_taken() {
    let mut one = machine(1);
    meet(&mut one, 2, hello(2, Vec::new()), 0);
    let effects = tell(&mut one, 2, Frame::UsageAnswer(UsagePart::Chunk([1].into())), 1);
    assert_eq!(taken(&effects), 0);
}
