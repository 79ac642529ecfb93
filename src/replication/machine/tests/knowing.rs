//! What a node knows of others, and what it does not.

use super::*;

/// The number of the last ping said.
fn pinged(effects: &[Effect]) -> Option<u64> {
    said(effects)
        .into_iter()
        .rev()
        .find_map(|frame| if let Frame::Ping { number } = frame { Some(*number) } else { None })
}

fn answer(answers: u64, changes: Vec<VectorEntry>, heard: Vec<Heard>, wall: i64) -> Frame {
    Frame::Heartbeat { answers, wall_ms: wall, changes, heard }
}

fn store(one: &mut Machine, effects: &[Effect], sequence: u64, ms: u64) -> Vec<Effect> {
    let ticket = effects
        .iter()
        .find_map(|effect| if let Effect::Store { ticket, .. } = effect { Some(*ticket) } else { None });
    let input = Input::Stored {
        ticket: ticket.expect("stored"),
        outcome: StoreOutcome::Stored { head: head(sequence) },
    };
    one.handle(input, at(ms))
}

#[test]
fn a_lone_anchor_is_fresh_and_a_lone_edge_is_not() {
    let mut lone = settings(1);
    lone.anchors = 1;
    assert!(Machine::new(lone.clone(), Heads::default()).is_fresh(Mono(1 << 40), 0));
    lone.role = Role::Edge;
    assert!(!Machine::new(lone, Heads::default()).is_fresh(Mono(0), 60_000));
    assert!(!machine(1).is_fresh(Mono(0), 60_000), "one of three is no majority");
}

#[test]
fn an_answer_counts_from_its_ping_and_once_its_vector_is_applied() {
    let mut one = machine(1);
    let effects = meet(&mut one, 1, hello(2, Vec::new()), 1_000);
    let ping = pinged(&effects).expect("a ping follows the hello");
    tell(&mut one, 1, answer(ping, vec![entry(5, 2)], Vec::new(), 0), 1_400);
    assert!(!one.is_fresh(Mono(1_400), 60_000), "told, not applied");
    let events = Events { origin: origin(5), first: 1, records: vec![record(9)] };
    let effects = tell(&mut one, 1, Frame::Events(events), 1_500);
    store(&mut one, &effects, 1, 1_500);
    assert!(!one.is_fresh(Mono(1_500), 60_000), "half of it applied");
    let events = Events { origin: origin(5), first: 2, records: vec![record(9)] };
    let effects = tell(&mut one, 1, Frame::Events(events), 1_600);
    assert!(!one.is_fresh(Mono(1_600), 60_000), "received, not stored");
    store(&mut one, &effects, 2, 1_700);
    assert!(one.is_fresh(Mono(1_700), 700), "the ping left 700 ms ago");
    assert!(!one.is_fresh(Mono(1_701), 700));
}

#[test]
fn what_the_answerer_says_of_others_counts_that_much_earlier() {
    let mut settings = settings(1);
    settings.anchors = 5;
    let mut one = Machine::new(settings, Heads::default());
    let effects = meet(&mut one, 1, hello(2, Vec::new()), 10_000);
    let ping = pinged(&effects).expect("a ping");
    let heard = vec![Heard { anchor: "c".into(), age_ms: 3_000 }];
    tell(&mut one, 1, answer(ping, Vec::new(), heard, 0), 10_500);
    assert_eq!(one.freshness(Mono(10_500)).get("c"), Some(&3_500));
    assert!(one.is_fresh(Mono(10_500), 3_500));
    assert!(!one.is_fresh(Mono(10_500), 3_499));
}

#[test]
fn no_wrong_clock_makes_a_node_fresher_or_staler() {
    for (theirs_off_ms, ours_off_ms) in [(600_000, 0), (-600_000, 0), (0, 600_000), (0, -600_000)] {
        let mut one = machine(1);
        let effects = meet(&mut one, 1, hello(2, Vec::new()), 1_000_000);
        let ping = pinged(&effects).expect("a ping follows the hello");
        // Our wall clock steps between the question and the answer.
        let mut now = at(1_000_400);
        let theirs = now.wall.0 + theirs_off_ms;
        now.wall.0 += ours_off_ms;
        let frame = answer(ping, Vec::new(), Vec::new(), theirs);
        one.handle(Input::Frame { link: Link(1), frame }, now);
        assert!(one.is_fresh(Mono(1_000_400), 400), "{theirs_off_ms} {ours_off_ms}");
        assert!(!one.is_fresh(Mono(1_000_401), 400), "{theirs_off_ms} {ours_off_ms}");
    }
}

#[test]
fn a_heartbeat_that_answers_nothing_proves_nothing() {
    let mut one = machine(1);
    meet(&mut one, 1, hello(2, Vec::new()), 1_000);
    tell(&mut one, 1, answer(0, Vec::new(), Vec::new(), 0), 1_001);
    tell(&mut one, 1, answer(77, Vec::new(), Vec::new(), 0), 1_002);
    assert!(!one.is_fresh(Mono(1_002), 60_000));
}

#[test]
fn durable_is_what_a_majority_of_the_anchors_acknowledged() {
    let mut settings = settings(1);
    settings.anchors = 5;
    let mut one = Machine::new(settings, Heads::default());
    let own = origin(8);
    one.handle(Input::OwnAppended { origin: own, head: head(4) }, at(0));
    let mut replicated = Vec::new();
    for number in 2..=4_u8 {
        let link = u64::from(number);
        let effects = meet(&mut one, link, hello(number, vec![entry(8, 1)]), 0);
        assert_eq!(
            one.replicated_up_to(own),
            if number == 4 { 3 } else { 0 },
            "not before it told all: {number}"
        );
        let ping = pinged(&effects).expect("a ping");
        tell(&mut one, link, answer(ping, Vec::new(), Vec::new(), 0), 1);
        let ack = Frame::Ack { frames_done: 0, origins: vec![(own, u64::from(number.min(3)) + 1)] };
        replicated.extend(tell(&mut one, link, ack, 1));
    }
    // This node 4, the others 3, 4 and 4: three of five hold 4.
    assert_eq!(one.replicated_up_to(own), 4);
    assert!(replicated.contains(&Effect::Replicated { origin: own, sequence: 3 }));
    // A disk that is away is still a disk.
    for link in 2..=4 {
        one.handle(Input::Disconnected { link: Link(link), why: String::new() }, at(2));
    }
    assert_eq!(one.replicated_up_to(own), 4);
}

/// Two stores wrote as one: under the same ids the other has other records, or records that were never written here.
#[test]
fn a_disk_with_another_record_under_the_same_id_does_not_count() {
    let own = origin(8);
    let other = VectorEntry { head: Head { sequence: 4, hash: [0xee; 32] }, ..entry(8, 4) };
    for theirs in [other, entry(8, 5)] {
        let mut one = machine(1);
        one.handle(Input::OwnAppended { origin: own, head: head(4) }, at(0));
        let mut effects = meet(&mut one, 1, hello(2, vec![theirs]), 0);
        let ping = pinged(&effects).expect("a ping");
        effects.extend(tell(&mut one, 1, answer(ping, Vec::new(), Vec::new(), 0), 1));
        let ack = Frame::Ack { frames_done: 0, origins: vec![(own, theirs.head.sequence)] };
        effects.extend(tell(&mut one, 1, ack, 1));
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Replicated { .. })), "{effects:?}");
        assert_eq!(one.replicated_up_to(own), 0);
    }
}

/// One of five loses its disk and comes back with an empty one under another identity, to which the event is sent again.
#[test]
fn a_disk_that_was_lost_does_not_count_beside_the_one_that_replaces_it() {
    let mut settings = settings(1);
    settings.anchors = 5;
    let mut one = Machine::new(settings, Heads::default());
    let own = origin(8);
    one.handle(Input::OwnAppended { origin: own, head: head(4) }, at(0));
    let comes = |one: &mut Machine, number: u8, held: u64| {
        let link = u64::from(number);
        let effects = meet(one, link, hello(number, vec![entry(8, held)]), 0);
        tell(one, link, answer(pinged(&effects).expect("a ping"), Vec::new(), Vec::new(), 0), 1);
    };
    for number in 2..=5 {
        comes(&mut one, number, if number == 2 { 4 } else { 1 });
    }
    assert_eq!(one.replicated_up_to(own), 1);
    one.handle(Input::Disconnected { link: Link(2), why: String::new() }, at(2));
    comes(&mut one, 6, 4);
    assert_eq!(one.replicated_up_to(own), 1, "two disks of five have it");
}

#[test]
fn a_disk_that_went_back_no_longer_counts_and_is_told_of() {
    let mut one = machine(1);
    let own = origin(8);
    one.handle(Input::OwnAppended { origin: own, head: head(4) }, at(0));
    let effects = meet(&mut one, 1, hello(2, vec![entry(8, 4)]), 0);
    tell(&mut one, 1, answer(pinged(&effects).expect("a ping"), Vec::new(), Vec::new(), 0), 1);
    assert_eq!(one.replicated_up_to(own), 4);
    one.handle(Input::Disconnected { link: Link(1), why: String::new() }, at(2));
    let restored = Hello { run: Run([99; 16]), ..hello(2, vec![entry(8, 1)]) };
    let effects = meet(&mut one, 2, restored, 3);
    let effects = tell(&mut one, 2, answer(pinged(&effects).expect("a ping"), Vec::new(), Vec::new(), 0), 4);
    let anchor = Instance([2; 16]).to_string();
    assert!(noted(&effects).contains(&&Note::WentBack { anchor, origins: 1 }));
    assert_eq!(one.replicated_up_to(own), 1);
}

#[test]
fn a_peers_clock_is_told_by_the_quickest_round_trip() {
    let mut one = machine(1);
    let effects = meet(&mut one, 1, hello(2, Vec::new()), 1_000);
    assert_eq!(one.clocks_off_ms().next().map(|(_, off_ms)| off_ms), None);
    let theirs = |ms: u64| at(ms).wall.0 + 90_000;
    tell(
        &mut one,
        1,
        answer(pinged(&effects).expect("a ping"), Vec::new(), Vec::new(), theirs(1_900)),
        2_000,
    );
    assert_eq!(
        one.clocks_off_ms().next().map(|(_, off_ms)| off_ms),
        Some(90_000 + 400),
        "half of a slow round trip is a poor guess"
    );
    let effects = one.handle(Input::Tick, at(3_000));
    let number = pinged(&effects).expect("a ping each heartbeat");
    tell(&mut one, 1, answer(number, Vec::new(), Vec::new(), theirs(3_005)), 3_010);
    assert_eq!(one.clocks_off_ms().next().map(|(_, off_ms)| off_ms), Some(90_000));
}

#[test]
fn equal_sequences_with_unequal_hashes_are_a_fork() {
    let mut one = Machine::new(settings(1), [(origin(5), head(3))].into_iter().collect());
    let theirs = [0xee; 32];
    let forked = VectorEntry { head: Head { sequence: 3, hash: theirs }, ..entry(5, 3) };
    let effects = meet(&mut one, 1, hello(2, vec![forked]), 0);
    let expected = Note::Forked { origin: origin(5), sequence: 3, ours: head(3).hash, theirs };
    assert!(noted(&effects).contains(&&expected));
}

/// Set back to an earlier moment of its memory, a node is told more of its own origin than it wrote.
#[test]
fn once_an_own_origin_is_closed_the_rest_of_it_is_taken_back() {
    let mut one = machine(1);
    let own = origin(8);
    one.handle(Input::OwnAppended { origin: own, head: head(2) }, at(0));
    let effects = meet(&mut one, 1, hello(2, vec![entry(8, 3)]), 0);
    let never = Note::NeverWritten {
        origin: own,
        sequence: 3,
        instance: crate::replication::frame::Instance([2; 16]),
    };
    assert!(noted(&effects).contains(&&never));
    assert_eq!(one.unverified_origins().len(), 1);
    let from_the_next = Frame::Want { origins: vec![(own, 3)], skip: Vec::new() };
    assert!(!said(&effects).contains(&&from_the_next));
    let effects = one.handle(Input::OwnClosed { origin: own }, at(1));
    assert!(said(&effects).contains(&&from_the_next), "{effects:?}");
    assert_eq!(one.unverified_origins().len(), 0);
    let events = Events { origin: own, first: 3, records: vec![record(9)] };
    let effects = tell(&mut one, 1, Frame::Events(events), 2);
    store(&mut one, &effects, 3, 2);
    assert!(one.is_caught_up());
}

#[test]
fn caught_up_is_when_all_that_was_told_at_the_hello_is_applied() {
    let mut one = machine(1);
    meet(&mut one, 1, hello(2, vec![entry(5, 2)]), 0);
    assert!(!one.is_caught_up());
    assert_eq!(one.progress().backlog_events, 2);
    let events = Events { origin: origin(5), first: 1, records: vec![record(9), record(9)] };
    let effects = tell(&mut one, 1, Frame::Events(events), 1);
    assert!(!one.is_caught_up());
    store(&mut one, &effects, 2, 2);
    assert!(one.is_caught_up());
}

#[test]
fn an_origin_moves_to_a_peer_that_is_ahead_for_a_second() {
    let mut one = machine(1);
    meet(&mut one, 1, hello(2, vec![entry(5, 1)]), 0);
    let events = Events { origin: origin(5), first: 1, records: vec![record(9)] };
    let effects = tell(&mut one, 1, Frame::Events(events), 100);
    store(&mut one, &effects, 1, 100);
    let effects = meet(&mut one, 2, hello(3, vec![entry(5, 2)]), 200);
    let skip = Frame::Want { origins: Vec::new(), skip: vec![origin(5)] };
    assert!(said(&effects).contains(&&skip), "it comes from the first");
    assert_eq!(
        said(&one.handle(Input::Tick, at(1_050)))
            .iter()
            .filter(|frame| matches!(frame, Frame::Want { .. }))
            .count(),
        0
    );
    let effects = one.handle(Input::Tick, at(1_101));
    let want = Frame::Want { origins: vec![(origin(5), 2)], skip: Vec::new() };
    assert!(effects.contains(&Effect::Send { link: Link(2), frame: want }));
    assert!(effects.contains(&Effect::Send { link: Link(1), frame: skip }));
}

#[test]
fn a_gap_is_asked_for_once_and_nothing_behind_it_is_stored() {
    let mut one = machine(1);
    meet(&mut one, 1, hello(2, vec![entry(5, 9)]), 0);
    let mut asked = 0;
    for first in [3, 4, 5] {
        let events = Events { origin: origin(5), first, records: vec![record(9)] };
        let effects = tell(&mut one, 1, Frame::Events(events), 1);
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Store { .. })));
        let want = Frame::Want { origins: vec![(origin(5), 1)], skip: Vec::new() };
        asked += said(&effects).into_iter().filter(|frame| **frame == want).count();
    }
    assert_eq!(asked, 1);
}
