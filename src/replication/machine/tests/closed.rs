//! Closed origins: one hash where both hold the same, and each of them where they do not.

use std::collections::VecDeque;

use prost::Message as _;

use super::*;
use crate::pb::replication::v1 as pb;
use crate::replication::frame::{ClosedSet, FRAME_LEN_MAX};
use crate::replication::wire::{self, WireFault};

const LINK: Link = Link(1);

fn numbered(number: usize) -> OriginId {
    OriginId((number as u128).to_be_bytes())
}

/// A machine that holds `held` and the first records that name `named`.
fn holding(number: u8, held: &[(OriginId, Head)], named: &[(OriginId, Head)]) -> Machine {
    Machine::new(settings(number), held.iter().copied().collect()).with_named(named.iter().copied())
}

/// So many closed origins.
fn closed_ones(count: usize) -> Vec<(OriginId, Head)> {
    (1..=count).map(|number| (numbered(number), head(number as u64 % 7 + 1))).collect()
}

/// What two machines said to each other, in order, with who said it: the first was dialled.
struct Talk {
    said: Vec<(usize, Frame)>,
    effects: [Vec<Effect>; 2],
}

impl Talk {
    fn frames(&self, by: usize) -> Vec<&Frame> {
        self.said.iter().filter(|(who, _)| *who == by).map(|(_, frame)| frame).collect()
    }

    fn asked(&self, by: usize) -> bool {
        self.frames(by).contains(&&Frame::AskClosed)
    }
}

fn connect(ends: &mut [Machine; 2]) -> Talk {
    let [first, second] = ends;
    let begun = [
        first.handle(Input::Connected { link: LINK, dialled: false }, at(1_000)),
        second.handle(Input::Connected { link: LINK, dialled: true }, at(1_000)),
    ];
    talk_on(ends, begun)
}

/// Lets them talk until neither has anything more to say.
fn talk_on(ends: &mut [Machine; 2], begun: [Vec<Effect>; 2]) -> Talk {
    let mut talk = Talk { said: Vec::new(), effects: [Vec::new(), Vec::new()] };
    let mut waiting: VecDeque<(usize, Vec<Effect>)> = begun.into_iter().enumerate().collect();
    while let Some((who, effects)) = waiting.pop_front() {
        for effect in effects {
            if let Effect::Send { frame, .. } = &effect {
                let bytes = wire::encode(frame.clone());
                assert!(bytes.encoded_len() <= FRAME_LEN_MAX);
                let frame = wire::decode(bytes).unwrap();
                talk.said.push((who, frame.clone()));
                waiting.push_back((who, ends[who].handle(Input::Sent { link: LINK }, at(1_001))));
                let input = Input::Frame { link: LINK, frame };
                waiting.push_back((1 - who, ends[1 - who].handle(input, at(1_001))));
            }
            talk.effects[who].push(effect);
        }
    }
    talk
}

#[test]
fn a_hello_with_ten_thousand_closed_origins_is_short() {
    let closed = closed_ones(10_000);
    let held: Vec<_> = closed.iter().copied().chain([(origin(200), head(3))]).collect();
    let mut one = holding(1, &held, &closed);
    let effects = one.handle(Input::Connected { link: LINK, dialled: false }, at(0));
    let [frame @ Frame::Hello(hello)] = said(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(hello.vector, [entry(200, 3)]);
    assert_eq!(hello.closed.map(|closed| closed.count), Some(10_000));
    let len = wire::encode(frame.clone()).encoded_len();
    assert!(len < 256, "{len} bytes");
}

#[test]
fn nodes_with_the_same_closed_origins_tell_none_of_them_and_know_all() {
    let closed = closed_ones(5_000);
    let held: Vec<_> = closed.iter().copied().chain([(origin(200), head(3))]).collect();
    let mut ends = [holding(1, &held, &closed), holding(2, &held, &closed)];
    let talk = connect(&mut ends);
    for (who, one) in ends.iter().enumerate() {
        assert!(!talk.asked(who));
        assert_eq!((one.counters().closed_equal, one.counters().closed_asked), (1, 0));
        let told: usize = talk
            .frames(who)
            .into_iter()
            .map(|frame| match frame {
                Frame::Hello(hello) => hello.vector.len(),
                Frame::Heartbeat { changes, .. } => changes.len(),
                _ => 0,
            })
            .sum();
        assert_eq!(told, 1, "the open one");
        let peer = &one.peers(Mono(1_001))[0];
        assert_eq!((peer.lag_events, peer.peer_lag_events), (0, 0));
        assert!(one.is_caught_up() && one.is_fresh(Mono(1_001), 1));
        // What was recorded in an earlier run is known to be on two disks of three.
        assert_eq!(one.replicated_up_to(closed[0].0), closed[0].1.sequence);
    }
}

#[test]
fn nodes_with_other_closed_origins_tell_each_of_them_before_anything_is_claimed() {
    let closed = closed_ones(ENTRIES_MAX * 2 + 5);
    let (missing, rest) = closed.split_last().unwrap();
    let mut ends = [holding(1, &closed, &closed), holding(2, rest, &closed)];
    let talk = connect(&mut ends);
    assert!(talk.asked(0) && talk.asked(1));
    assert_eq!(ends[1].counters().closed_asked, 1);
    let (mut told, mut answered) = (0, 0);
    for frame in talk.frames(0) {
        if let Frame::Heartbeat { answers, changes, .. } = frame {
            told += changes.len();
            assert!(changes.len() <= ENTRIES_MAX);
            assert!(*answers == 0 || told == closed.len(), "answered after {told}");
            answered = *answers;
        }
    }
    assert_eq!((told, answered), (closed.len(), 1));
    // It lacks one, so it claims neither to have caught up nor to be fresh.
    assert!(!ends[1].is_caught_up() && !ends[1].is_fresh(Mono(1_001), 60_000));
    assert_eq!(ends[1].progress().backlog_events, missing.1.sequence);
    assert!(ends[0].is_caught_up() && ends[0].is_fresh(Mono(1_001), 60_000));
    assert_eq!(ends[0].replicated_up_to(missing.0), 0, "one disk of three");
    assert_eq!(ends[0].replicated_up_to(rest[0].0), rest[0].1.sequence);
}

#[test]
fn while_closed_origins_are_being_told_nothing_is_claimed() {
    let closed = closed_ones(3);
    let mut one = holding(1, &closed, &closed);
    let theirs = ClosedSet { count: 4, hash: [9; 32] };
    meet(&mut one, LINK.0, Hello { closed: Some(theirs), ..hello(2, Vec::new()) }, 1_000);
    let changes = |from: usize, to: usize| {
        let entry =
            |number| VectorEntry { origin: numbered(number), head: head(number as u64 % 7 + 1), own: false };
        (from..=to).map(entry).collect()
    };
    let part = Frame::Heartbeat { answers: 0, wall_ms: 0, changes: changes(1, 3), heard: Vec::new() };
    tell(&mut one, LINK.0, part, 1_100);
    assert!(!one.is_fresh(Mono(1_100), 60_000));
    assert_eq!((one.progress().anchors, one.replicated_up_to(numbered(1))), (0, 0));
    // The last of them comes with the answer.
    let part = Frame::Heartbeat { answers: 1, wall_ms: 0, changes: changes(4, 4), heard: Vec::new() };
    tell(&mut one, LINK.0, part, 1_200);
    assert_eq!((one.progress().anchors, one.replicated_up_to(numbered(1))), (1, closed[0].1.sequence));
    assert!(!one.is_fresh(Mono(1_200), 60_000), "the fourth is not here");
    assert_eq!(one.progress().backlog_events, 5);
}

#[test]
fn who_answers_before_it_told_its_closed_origins_is_let_go() {
    let mut one = holding(1, &[], &[]);
    let theirs = ClosedSet { count: 2, hash: [9; 32] };
    let effects = meet(&mut one, LINK.0, Hello { closed: Some(theirs), ..hello(2, vec![entry(200, 3)]) }, 0);
    let asks = said(&effects).iter().position(|frame| **frame == Frame::AskClosed);
    let pings = said(&effects).iter().position(|frame| matches!(frame, Frame::Ping { .. }));
    assert!(asks.is_some() && asks < pings, "it asks before it pings");
    let answer = Frame::Heartbeat { answers: 1, wall_ms: 0, changes: vec![entry(5, 1)], heard: Vec::new() };
    let effects = tell(&mut one, LINK.0, answer, 1);
    assert!(matches!(closed(&effects), Some(CloseReason::Violation(_))));
    assert!(one.freshness(Mono(1)).is_empty());
    assert_eq!(one.progress().anchors, 0);
}

#[test]
fn a_fork_in_a_closed_origin_shows() {
    let [ours, theirs] = [[1; 32], [2; 32]].map(|hash| (origin(5), Head { sequence: 4, hash }));
    let mut ends = [holding(1, &[ours], &[ours]), holding(2, &[theirs], &[theirs])];
    let talk = connect(&mut ends);
    for (who, (held, other)) in [(ours, theirs), (theirs, ours)].into_iter().enumerate() {
        let (ours, theirs) = (held.1.hash, other.1.hash);
        let expected = Note::Forked { origin: origin(5), sequence: 4, ours, theirs };
        assert!(noted(&talk.effects[who]).contains(&&expected), "node {who} knows nothing of the fork");
    }
}

#[test]
fn what_a_restored_store_names_too_early_is_told_as_open() {
    // A backup with ten records was put back; what was recorded behind them came back from a peer.
    let (early, late) = ((origin(5), head(10)), (origin(5), head(15)));
    let next = (origin(6), head(1));
    let mut ends = [holding(1, &[late, next], &[early]), holding(2, &[early, next], &[early])];
    let talk = connect(&mut ends);
    let Some(Frame::Hello(hello)) = talk.frames(0).first().copied() else { panic!("no hello") };
    assert_eq!((hello.vector.len(), hello.closed.map(|closed| closed.count)), (2, Some(0)));
    let Some(Frame::Hello(hello)) = talk.frames(1).first().copied() else { panic!("no hello") };
    assert_eq!((hello.vector.len(), hello.closed.map(|closed| closed.count)), (1, Some(1)));
    let wants = Frame::Want { origins: vec![(origin(5), 11)], skip: Vec::new() };
    assert!(talk.frames(1).contains(&&wants), "{:?}", talk.said);
    assert!(!ends[1].is_caught_up());
}

#[test]
fn an_origin_that_grows_again_is_open_and_told_as_a_change() {
    let closed = closed_ones(2);
    let mut ends = [holding(1, &closed, &closed), holding(2, &closed, &closed)];
    connect(&mut ends);
    let (again, was) = closed[0];
    let now = head(was.sequence + 1);
    // What the restored store named was too early a place.
    let grown = ends[0].handle(Input::OwnAppended { origin: again, head: now }, at(1_100));
    let talk = talk_on(&mut ends, [grown, Vec::new()]);
    let told: Vec<VectorEntry> = talk
        .frames(0)
        .into_iter()
        .filter_map(
            |frame| if let Frame::Heartbeat { changes, .. } = frame { Some(changes.clone()) } else { None },
        )
        .flatten()
        .collect();
    assert_eq!(told, [VectorEntry { origin: again, head: now, own: true }]);
    assert_eq!(ends[1].peers(Mono(2_500))[0].lag_events, 1);
    let effects = ends[0].handle(Input::Connected { link: Link(2), dialled: false }, at(3_000));
    let [Frame::Hello(hello)] = said(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(hello.vector.len(), 1);
    assert_eq!(hello.closed.map(|closed| closed.count), Some(1));
}

#[test]
fn an_origin_is_closed_once_its_successor_is_held() {
    let mut one = holding(1, &[(origin(5), head(2))], &[]);
    let hello_of = |one: &mut Machine, link| {
        let effects = one.handle(Input::Connected { link: Link(link), dialled: false }, at(0));
        let [Frame::Hello(hello)] = said(&effects)[..] else { panic!("{effects:?}") };
        (hello.vector.len(), hello.closed.map(|closed| closed.count))
    };
    assert_eq!(hello_of(&mut one, 1), (1, Some(0)));
    one.handle(Input::Named { origin: origin(5), head: head(2) }, at(0));
    one.handle(Input::OwnAppended { origin: origin(6), head: head(1) }, at(0));
    assert_eq!(hello_of(&mut one, 2), (1, Some(1)), "its successor is open");
}

#[test]
fn heartbeats_carry_changes_only() {
    let held: Vec<_> = (1..=3).map(|number| (origin(number), head(2))).collect();
    let mut one = holding(1, &held, &[]);
    meet(&mut one, LINK.0, hello(2, Vec::new()), 0);
    let answered = |one: &mut Machine, number| {
        let effects = tell(one, LINK.0, Frame::Ping { number }, number);
        let [Frame::Heartbeat { changes, .. }] = said(&effects)[..] else { panic!("{effects:?}") };
        changes.clone()
    };
    assert_eq!(answered(&mut one, 1), []);
    tell(&mut one, LINK.0, Frame::Want { origins: Vec::new(), skip: vec![origin(2)] }, 1);
    one.handle(Input::OwnAppended { origin: origin(2), head: head(3) }, at(1));
    assert_eq!(answered(&mut one, 2), [VectorEntry { own: true, ..entry(2, 3) }]);
    assert_eq!(answered(&mut one, 3), []);
}

#[test]
fn what_is_told_of_closed_origins_is_read_with_bounds() {
    let closed = Some(ClosedSet { count: 1, hash: [9; 32] });
    let frame = || {
        let frame = wire::encode(Frame::Hello(Box::new(Hello { closed, ..hello(2, Vec::new()) })));
        let Some(pb::frame::Frame::Hello(hello)) = frame.frame else { panic!("no hello") };
        hello
    };
    let read = |hello: pb::Hello| wire::decode(pb::Frame { frame: Some(pb::frame::Frame::Hello(hello)) });
    let Ok(Frame::Hello(told)) = read(frame()) else { panic!("not read") };
    assert_eq!(told.closed, closed);
    let with =
        |count, len| pb::Hello { closed: Some(pb::ClosedOrigins { count, hash: vec![9; len] }), ..frame() };
    for len in [31, 33] {
        assert_eq!(read(with(1, len)), Err(WireFault::Length("hash")));
    }
}

/// How many origins are told in `frames`, and whether an answer came before all `count` were.
fn told_one_by_one(frames: &[&Frame], count: usize) -> usize {
    let mut told = 0;
    for frame in frames {
        match frame {
            Frame::Hello(hello) => told += hello.vector.len(),
            Frame::Heartbeat { answers, changes, .. } => {
                told += changes.len();
                assert!(*answers == 0 || told == count, "answered after {told}");
            }
            other => assert_ne!(**other, Frame::AskClosed, "an earlier build does not know it"),
        }
    }
    told
}

#[test]
fn a_peer_of_an_earlier_build_is_told_all_one_by_one_before_its_ping_is_answered() {
    let closed = closed_ones(ENTRIES_MAX + 900);
    let held: Vec<_> = closed.iter().copied().chain([(origin(200), head(3))]).collect();
    let all = held.iter().map(|(origin, head)| VectorEntry { origin: *origin, head: *head, own: false });
    let earlier = || Hello { closed: None, ..hello(2, all.clone().take(ENTRIES_MAX).collect()) };
    for dialled in [false, true] {
        let mut one = holding(1, &held, &closed);
        let mut effects = one.handle(Input::Connected { link: LINK, dialled }, at(0));
        for _ in 0..said(&effects).len() {
            effects.extend(one.handle(Input::Sent { link: LINK }, at(0)));
        }
        effects.extend(tell(&mut one, LINK.0, Frame::Hello(Box::new(earlier())), 0));
        effects.extend(tell(&mut one, LINK.0, Frame::Ping { number: 1 }, 1));
        assert_eq!(told_one_by_one(&said(&effects), held.len()), held.len(), "dialled: {dialled}");
        // What it holds is known once it told the rest and answered, as ever.
        let rest = all.clone().skip(ENTRIES_MAX).collect();
        assert!(!one.is_fresh(Mono(2), 60_000));
        let answer = Frame::Heartbeat { answers: 1, wall_ms: 0, changes: rest, heard: Vec::new() };
        tell(&mut one, LINK.0, answer, 2);
        assert!(one.is_fresh(Mono(2), 60_000));
        assert_eq!(one.peers(Mono(2))[0].peer_lag_events, 0);
    }
}

#[test]
fn one_closed_origin_more_than_allowed_ends_the_link() {
    for (count, fits) in [(2, true), (3, false), (u32::MAX, false)] {
        let mut settings = settings(1);
        settings.origins_max = 3;
        let mut one = Machine::new(settings, Heads::default());
        let theirs = Some(ClosedSet { count, hash: [9; 32] });
        let effects = meet(&mut one, LINK.0, Hello { closed: theirs, ..hello(2, vec![entry(200, 3)]) }, 0);
        assert_eq!(closed(&effects).is_none(), fits, "{count}");
    }
}
