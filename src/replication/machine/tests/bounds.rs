//! Each bound, and one past it.

use super::*;
use crate::replication::frame::FRAME_LEN_MAX;
use crate::replication::settings::FOR_ANCHORS;

fn heartbeat(answers: u64, changes: Vec<VectorEntry>) -> Frame {
    Frame::Heartbeat { answers, wall_ms: 0, changes, heard: Vec::new() }
}

#[test]
fn one_peer_too_many_is_turned_away() {
    let mut settings = settings(1);
    settings.peers_max = 2;
    let mut one = Machine::new(settings, Heads::default());
    for number in 2..=3 {
        assert_eq!(closed(&meet(&mut one, u64::from(number), hello(number, Vec::new()), 0)), None);
    }
    let effects = one.handle(Input::Connected { link: Link(9), dialled: false }, at(0));
    assert!(matches!(closed(&effects), Some(CloseReason::Refused { reason: Refusal::Full, .. })));
    assert_eq!(one.peers(Mono(0)).len(), 2);
}

#[test]
fn one_origin_too_many_ends_the_link() {
    let mut settings = settings(1);
    settings.origins_max = 3;
    let mut one = Machine::new(settings, Heads::default());
    meet(&mut one, 1, hello(2, (1..=3).map(|number| entry(number, 1)).collect()), 0);
    assert_eq!(one.peers(Mono(0)).len(), 1);
    let effects = tell(&mut one, 1, heartbeat(0, vec![entry(4, 1)]), 1);
    assert!(matches!(closed(&effects), Some(CloseReason::Violation(_))));
}

#[test]
fn a_vector_longer_than_a_frame_is_told_in_parts() {
    let count = ENTRIES_MAX * 2 + 1;
    let held = (0..count).map(|number| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        (OriginId(id), head(1))
    });
    let mut settings = settings(1);
    settings.queue_frames = 1;
    let mut one = Machine::new(settings, held.collect());
    let link = Link(1);
    let mut effects = one.handle(Input::Connected { link, dialled: false }, at(0));
    effects.extend(
        one.handle(Input::Frame { link, frame: Frame::Hello(Box::new(hello(2, Vec::new()))) }, at(0)),
    );
    // The question comes while the vector is still being told.
    effects.extend(tell(&mut one, 1, Frame::Ping { number: 1 }, 1));
    for _ in 0..5 {
        effects.extend(one.handle(Input::Sent { link }, at(1)));
    }
    let mut told = 0;
    let mut parts = 0;
    for frame in said(&effects) {
        match frame {
            Frame::Hello(hello) => told += hello.vector.len(),
            Frame::Heartbeat { answers, changes, .. } => {
                (told, parts) = (told + changes.len(), parts + 1);
                assert_eq!(*answers > 0, told == count, "only the whole vector answers: {told}");
            }
            _ => {}
        }
    }
    assert_eq!(parts, 2);
    assert_eq!(told, count);
}

/// A machine that holds `sequence` records of an origin, and a peer that wants them all.
fn wanted(sequence: u64, window_frames: usize) -> (Machine, Vec<Effect>) {
    let mut one = Machine::new(settings(1), [(origin(5), head(sequence))].into_iter().collect());
    meet(&mut one, 1, Hello { window_frames, ..hello(2, Vec::new()) }, 0);
    let want = Frame::Want { origins: vec![(origin(5), 1)], skip: Vec::new() };
    let effects = tell(&mut one, 1, want, 0);
    (one, effects)
}

/// Answers reads with records of `len` bytes, one each, until no more are asked for. Returns the frames of events sent.
fn read_on(one: &mut Machine, mut effects: Vec<Effect>, len: usize) -> Vec<Events> {
    let mut sent = Vec::new();
    while !effects.is_empty() {
        let mut next = Vec::new();
        for effect in effects {
            match effect {
                Effect::Read { ticket, .. } => {
                    next.extend(one.handle(Input::Read { ticket, records: Some(vec![record(len)]) }, at(0)));
                }
                Effect::Send { link, frame } => {
                    if let Frame::Events(events) = frame {
                        sent.push(events);
                    }
                    next.extend(one.handle(Input::Sent { link }, at(0)));
                }
                _ => {}
            }
        }
        effects = next;
    }
    sent
}

#[test]
fn a_peer_that_acknowledges_nothing_gets_a_window_and_no_more() {
    // One origin may fill a quarter of the frames.
    let (mut one, effects) = wanted(1_000, 8);
    assert_eq!(read_on(&mut one, effects, 10).len(), 2);
    // By bytes: 16 reserves of 64 KiB.
    let (mut one, effects) = wanted(1_000, 1_000);
    let sent = read_on(&mut one, effects, 200_000);
    let bytes: usize = sent.iter().map(Events::weight).sum();
    assert!(bytes <= 16 * EVENTS_BYTES_MAX + FRAME_LEN_MAX, "{bytes}");
    assert!(bytes + 200_000 + EVENTS_BYTES_MAX > 16 * EVENTS_BYTES_MAX, "{bytes}");
    assert_eq!(one.peers(Mono(0))[0].window_bytes, bytes);
    // What is dealt with makes room.
    let effects = one.handle(
        Input::Frame { link: Link(1), frame: Frame::Ack { frames_done: 1, origins: Vec::new() } },
        at(1),
    );
    assert_eq!(read_on(&mut one, effects, 200_000).len(), 1);
}

#[test]
fn a_record_longer_than_a_window_still_passes() {
    let (mut one, effects) = wanted(3, 1_000);
    let sent = read_on(&mut one, effects, 2_000_000);
    assert_eq!(sent.len(), 1);
}

#[test]
fn acknowledging_what_was_never_sent_ends_the_link() {
    let (mut one, effects) = wanted(1_000, 8);
    let sent = read_on(&mut one, effects, 10).len() as u64;
    tell(&mut one, 1, Frame::Ack { frames_done: sent, origins: Vec::new() }, 1);
    assert_eq!(one.peers(Mono(0)).len(), 1);
    let (mut one, effects) = wanted(1_000, 8);
    let sent = read_on(&mut one, effects, 10).len() as u64;
    let effects = tell(&mut one, 1, Frame::Ack { frames_done: sent + 1, origins: Vec::new() }, 1);
    assert!(matches!(closed(&effects), Some(CloseReason::Violation(_))));
}

#[test]
fn a_peer_that_sends_more_than_the_window_is_let_go() {
    let mut settings = settings(1);
    settings.window_frames = 3;
    let mut one = Machine::new(settings, Heads::default());
    meet(&mut one, 1, hello(2, vec![entry(5, 100)]), 0);
    for first in 1..=3 {
        let events = Events { origin: origin(5), first, records: vec![record(10)] };
        assert_eq!(closed(&tell(&mut one, 1, Frame::Events(events), 1)), None);
    }
    let events = Events { origin: origin(5), first: 4, records: vec![record(10)] };
    let effects = tell(&mut one, 1, Frame::Events(events), 1);
    assert!(matches!(closed(&effects), Some(CloseReason::Violation(_))));
}

#[test]
fn the_carrier_is_never_handed_more_than_it_holds() {
    let held = (1..=200).map(|number| (origin(number), head(1)));
    let mut one = Machine::new(settings(1), held.collect());
    meet(&mut one, 1, hello(2, Vec::new()), 0);
    // Nothing leaves any more, while events come, pings are asked and time passes.
    let mut handed = 0;
    for round in 1..2_000_u64 {
        let mut effects =
            one.handle(Input::Frame { link: Link(1), frame: Frame::Ping { number: round } }, at(round));
        effects.extend(one.handle(Input::OwnAppended { origin: origin(250), head: head(round) }, at(round)));
        effects.extend(one.handle(Input::Tick, at(round)));
        handed += said(&effects).len();
    }
    assert_eq!(handed, settings(1).queue_frames);
}

#[test]
fn a_stop_does_not_wait_behind_an_import() {
    let (mut one, effects) = wanted(100_000, 32);
    // The import has all the room that it may have.
    let sent = read_on(&mut one, effects, 40_000);
    assert!(sent.len() >= 8);
    let effects = one.handle(Input::OwnAppended { origin: origin(6), head: head(1) }, at(1));
    let mut told = read_on(&mut one, effects, 40);
    let want = Frame::Want { origins: vec![(origin(6), 1)], skip: Vec::new() };
    let effects = one.handle(Input::Frame { link: Link(1), frame: want }, at(1));
    told.extend(read_on(&mut one, effects, 40));
    assert_eq!(told.iter().map(|events| events.origin).collect::<Vec<_>>(), [origin(6)]);
}

#[test]
fn members_are_those_seen_within_a_day() {
    let mut one = machine(1);
    meet(&mut one, 1, hello(2, Vec::new()), 0);
    meet(&mut one, 2, hello(3, Vec::new()), 0);
    assert_eq!(one.members(), 3);
    for link in [1, 2] {
        one.handle(Input::Disconnected { link: Link(link), why: String::new() }, at(1));
    }
    one.handle(Input::Tick, at(MEMBER_UNSEEN_MS - 1));
    assert_eq!(one.members(), 3);
    one.handle(Input::Tick, at(MEMBER_UNSEEN_MS));
    assert_eq!(one.members(), 1);
}

#[test]
fn edges_leave_room_for_anchors() {
    let mut settings = settings(1);
    settings.peers_max = FOR_ANCHORS + 1;
    let mut machine = Machine::new(settings, Heads::default());
    let edge = |number| Hello { role: Role::Edge, ..hello(number, Vec::new()) };
    let refused = |effects: &[Effect]| {
        effects.iter().any(|effect| {
            matches!(effect, Effect::Close { why: CloseReason::Refused { reason: Refusal::Full, .. }, .. })
        })
    };
    assert!(!refused(&meet(&mut machine, 1, edge(2), 0)));
    assert!(refused(&meet(&mut machine, 2, edge(3), 0)));
    assert!(!refused(&meet(&mut machine, 3, hello(4, Vec::new()), 0)));
}
