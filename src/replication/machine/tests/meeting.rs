//! Who may talk to whom.

use super::*;

/// What is changed in a Hello, the reason it is refused for, and words of the text.
type Case = (fn(&mut Hello), Refusal, &'static str);

#[test]
fn strangers_are_refused_with_words_for_both_logs() {
    let cases: [Case; 5] = [
        (|hello| hello.protocol = 9, Refusal::Protocol, "protocol 9"),
        (|hello| hello.cluster_id = "eu".into(), Refusal::Cluster, "cluster `eu`, the other of `default`"),
        (|hello| hello.key_check = [9; 16], Refusal::Key, "different cluster keys"),
        (|hello| hello.address_form_version = 7, Refusal::AddressForm, "address form 7, the other 1"),
        (|hello| (hello.instance, hello.run) = (Instance([1; 16]), Run([1; 16])), Refusal::Itself, "itself"),
    ];
    for (change, expected, words) in cases {
        let mut one = machine(1);
        let mut stranger = hello(2, Vec::new());
        change(&mut stranger);
        let effects = meet(&mut one, 1, stranger, 0);
        let refused = said(&effects).into_iter().find_map(|frame| match frame {
            Frame::HelloRefused { reason, text } => Some((*reason, text.clone())),
            _ => None,
        });
        let (reason, text) = refused.expect("the other side is told");
        assert_eq!(reason, expected);
        assert!(text.contains(words), "{text}");
        assert_eq!(closed(&effects), Some(&CloseReason::Refused { reason, text: text.clone() }));
        assert_eq!(one.peers(Mono(0)), []);

        // The other side of the same.
        let mut other = machine(2);
        other.handle(Input::Connected { link: Link(1), dialled: true }, at(0));
        let effects = tell(&mut other, 1, Frame::HelloRefused { reason, text: text.clone() }, 1);
        assert_eq!(closed(&effects), Some(&CloseReason::RefusedByPeer { reason, text }));
    }
}

#[test]
fn a_hello_that_cannot_be_read_is_refused_with_words_and_anything_later_ends_the_link() {
    let mut one = machine(1);
    one.handle(Input::Connected { link: Link(1), dialled: false }, at(0));
    let garbled = || Input::Garbled { link: Link(1), why: "`run` has the wrong length".into() };
    let effects = one.handle(garbled(), at(0));
    assert!(matches!(said(&effects)[..], [Frame::HelloRefused { reason: Refusal::Malformed, .. }]));
    meet(&mut one, 1, hello(2, Vec::new()), 0);
    assert!(matches!(closed(&one.handle(garbled(), at(1))), Some(CloseReason::Violation(_))));
}

#[test]
fn two_edges_refuse_each_other() {
    let mut settings = settings(1);
    settings.role = Role::Edge;
    let mut edge = Machine::new(settings, Heads::default());
    let effects = meet(&mut edge, 1, Hello { role: Role::Edge, ..hello(2, Vec::new()) }, 0);
    assert!(matches!(closed(&effects), Some(CloseReason::Refused { reason: Refusal::Edge, .. })));
}

#[test]
fn a_copied_store_may_join_and_is_told_of() {
    let mut one = machine(1);
    let copy = Hello { instance: Instance([1; 16]), ..hello(2, Vec::new()) };
    let effects = meet(&mut one, 1, copy, 0);
    assert!(noted(&effects).contains(&&Note::CopiedStore { instance: Instance([1; 16]) }));
    assert_eq!(closed(&effects), None);
    assert_eq!(one.members(), 2);
}

/// The frames that one machine has for the other, in order.
fn pass(from: &mut Machine, to: &mut Machine, link: u64, effects: Vec<Effect>) {
    let mut waiting = std::collections::VecDeque::from([(true, effects)]);
    while let Some((outward, effects)) = waiting.pop_front() {
        for effect in effects {
            let (teller, hearer) = if outward { (&mut *from, &mut *to) } else { (&mut *to, &mut *from) };
            match effect {
                Effect::Send { link: by, frame } if by == Link(link) => {
                    waiting.push_back((outward, teller.handle(Input::Sent { link: by }, at(1))));
                    waiting.push_back((!outward, hearer.handle(Input::Frame { link: by, frame }, at(1))));
                }
                Effect::Close { link: by, .. } => {
                    let input = Input::Disconnected { link: by, why: String::new() };
                    waiting.push_back((!outward, hearer.handle(input, at(1))));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn of_two_streams_the_smaller_ones_dial_stays() {
    // Both dial at once: link 1 by the smaller, link 2 by the greater; hellos cross in either order.
    for first in [1, 2] {
        let (mut small, mut great) = (machine(1), machine(2));
        let greeted_by_great = great.handle(Input::Connected { link: Link(1), dialled: false }, at(0));
        small.handle(Input::Connected { link: Link(1), dialled: true }, at(0));
        let greeted_by_small = small.handle(Input::Connected { link: Link(2), dialled: false }, at(0));
        great.handle(Input::Connected { link: Link(2), dialled: true }, at(0));
        if first == 1 {
            pass(&mut great, &mut small, 1, greeted_by_great);
            pass(&mut small, &mut great, 2, greeted_by_small);
        } else {
            pass(&mut small, &mut great, 2, greeted_by_small);
            pass(&mut great, &mut small, 1, greeted_by_great);
        }
        for one in [&small, &great] {
            let links: Vec<Link> = one.peers(Mono(0)).iter().map(|peer| peer.link).collect();
            assert_eq!(links, [Link(1)], "hello of link {first} first");
        }
    }
}

#[test]
fn a_second_dial_to_a_peer_that_is_connected_tells_which_link_stands() {
    let mut one = machine(1);
    one.handle(Input::Connected { link: Link(1), dialled: true }, at(0));
    tell(&mut one, 1, Frame::Hello(Box::new(hello(2, Vec::new()))), 0);
    one.handle(Input::Connected { link: Link(2), dialled: true }, at(1));
    let effects = tell(&mut one, 2, Frame::Hello(Box::new(hello(2, Vec::new()))), 1);
    assert_eq!(closed(&effects), Some(&CloseReason::Duplicate { of: Link(1) }));
    assert_eq!(one.peers(Mono(0)).len(), 1);
}

#[test]
fn a_peer_that_dials_anew_is_believed() {
    let mut one = machine(2);
    meet(&mut one, 1, hello(1, Vec::new()), 0);
    let effects = meet(&mut one, 2, hello(1, Vec::new()), 1);
    assert_eq!(closed(&effects), Some(&CloseReason::Superseded));
    assert_eq!(one.peers(Mono(0))[0].link, Link(2));
}

#[test]
fn who_says_nothing_is_let_go() {
    let mut one = machine(1);
    one.handle(Input::Connected { link: Link(1), dialled: false }, at(0));
    assert_eq!(closed(&one.handle(Input::Tick, at(HELLO_WAIT_MS - 1))), None);
    assert_eq!(closed(&one.handle(Input::Tick, at(HELLO_WAIT_MS))), Some(&CloseReason::NoHello));

    meet(&mut one, 2, hello(2, Vec::new()), 10_000);
    assert_eq!(closed(&one.handle(Input::Tick, at(10_000 + SILENCE_MS - 1))), None);
    let effects = one.handle(Input::Tick, at(10_000 + SILENCE_MS));
    assert_eq!(closed(&effects), Some(&CloseReason::Silent { silent_ms: SILENCE_MS }));
}
