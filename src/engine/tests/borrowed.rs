//! Two anchors without anything between them: one lacks what the other has recorded, and borrows its opt-outs.

use std::ops::ControlFlow;

use super::*;
use crate::engine::borrow::Returned;
use crate::engine::snapshot::{Extent, Part, Taking as _};
use crate::policy::consent::{Cell, Mark, Naming};
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::record::Record;
use crate::policy::types::{Purpose, Scope};
use crate::view::{Borrowed, Person};

/// What `from` tells of itself.
fn parts_of(from: &Node, extent: Extent) -> Vec<Part> {
    let mut parts = Vec::new();
    let take = |part| {
        parts.push(part);
        ControlFlow::Continue(())
    };
    from.engine.snapshot(extent, take).unwrap();
    parts
}

/// `to` borrows.
fn borrows(to: &Node, parts: Vec<Part>) {
    let mut borrowing = to.engine.borrow_opt_outs(|_| true);
    parts.into_iter().for_each(|part| borrowing.take(part).unwrap());
    borrowing.finish();
}

fn persons_in(parts: &[Part]) -> usize {
    parts.iter().map(|part| if let Part::Persons(persons) = part { persons.len() } else { 0 }).sum()
}

/// The person opted in before the one was left behind, and opted out since.
async fn left_behind() -> (Node, Node) {
    let (ahead, behind) = (Node::open(fresh()), Node::open(fresh()));
    ahead.opts_in().await;
    replicate(&ahead, &behind).await;
    ahead.clock.advance_ms(SECOND_MS);
    ahead.opts_out(ahead.clock.now(), Source::Caller).await;
    assert_eq!(behind.denies(""), None, "it cannot know");
    (ahead, behind)
}

#[tokio::test]
async fn borrowed_opt_outs_hold_until_their_events_have_come() {
    let (ahead, behind) = left_behind().await;
    let range = usize::from(behind.engine.key().identifier("acme", &person()).0[0]);
    let before = behind.engine.range_digest(range).unwrap();
    borrows(&behind, parts_of(&ahead, Extent::Suppressing));
    assert_eq!(behind.denies(""), Some(Reason::OptedOut));
    assert_eq!(behind.engine.view().borrowed().records, 1);
    assert_eq!(behind.engine.borrowed_up_to().into_iter().collect::<Vec<_>>(), ahead.engine.heads());
    assert_eq!(behind.engine.range_digest(range).unwrap(), before, "nothing of it is written into the view");
    assert_eq!(behind.engine.return_opt_outs().unwrap(), Returned::NotYet);
    assert_eq!(behind.denies(""), Some(Reason::OptedOut));

    replicate(&ahead, &behind).await;
    assert_eq!(behind.engine.return_opt_outs().unwrap(), Returned::All);
    assert!(!behind.engine.view().borrows());
    assert_eq!(behind.denies(""), Some(Reason::OptedOut), "by the event itself");
    assert_eq!(behind.engine.range_digest(range).unwrap().map(|digest| digest.digest), {
        ahead.engine.range_digest(range).unwrap().map(|digest| digest.digest)
    });
}

/// As a build gives it that does not know of less than everything.
#[tokio::test]
async fn nothing_that_permits_is_borrowed() {
    let (ahead, behind) = (Node::open(fresh()), Node::open(fresh()));
    ahead.opts_in().await;
    ahead.try_record(other_address(), "out", opt_out(ahead.clock.now()), Source::Caller).await.unwrap();
    let parts = parts_of(&ahead, Extent::All);
    assert_eq!(persons_in(&parts), 2);
    borrows(&behind, parts);
    assert_eq!(behind.denies(""), Some(Reason::NoConsent));
    assert_eq!(behind.denies_to(other_address(), "", Mode::Peek), Some(Reason::OptedOut));
}

#[tokio::test]
async fn only_who_is_suppressed_is_told_of() {
    let (ahead, _behind) = left_behind().await;
    let report = OptInReport {
        channels: vec![Channel::Sms],
        topics: vec![offers()],
        ..opt_in_by_form(ahead.clock.now())
    };
    ahead.try_record(other_address(), "in", Report::OptIn(report), Source::Caller).await.unwrap();
    let parts = parts_of(&ahead, Extent::Suppressing);
    assert_eq!(persons_in(&parts), 1);
    assert!(parts.iter().all(|part| matches!(part, Part::Heads(_) | Part::Persons(_))));
    assert_eq!(persons_in(&parts_of(&ahead, Extent::All)), 2);
}

#[tokio::test]
async fn a_borrowed_opt_out_reaches_what_is_linked_and_a_borrowed_link_lets_no_opt_in_through() {
    let (ahead, behind) = (Node::open(fresh()), Node::open(fresh()));
    for node in [&ahead, &behind] {
        node.opts_in().await;
    }
    ahead.links(other_address(), person()).await;
    assert_eq!(ahead.denies(""), None);
    assert_eq!(ahead.denies_to(other_address(), "", Mode::Peek), None, "the opt-in follows the link");
    borrows(&behind, parts_of(&ahead, Extent::All));
    assert_eq!(behind.denies(""), None, "nobody opted out of texts");
    assert_eq!(behind.denies_to(other_address(), "", Mode::Peek), Some(Reason::NoConsent));

    ahead.clock.advance_ms(SECOND_MS);
    let stop = opt_out(ahead.clock.now());
    ahead.try_record(other_address(), "out", stop, Source::Caller).await.unwrap();
    borrows(&behind, parts_of(&ahead, Extent::Suppressing));
    assert_eq!(behind.denies(""), Some(Reason::OptedOut));
}

/// The link is known to the lender alone, the opt-out to the borrower.
#[tokio::test]
async fn an_opt_out_goes_by_a_borrowed_link() {
    let (ahead, behind) = (Node::open(fresh()), Node::open(fresh()));
    behind.opts_in().await;
    ahead.links(other_address(), person()).await;
    borrows(&behind, parts_of(&ahead, Extent::Suppressing));
    assert_eq!(behind.denies(""), None);
    let stop = opt_out(behind.clock.now());
    behind.try_record(other_address(), "out", stop, Source::Caller).await.unwrap();
    assert_eq!(behind.denies(""), Some(Reason::OptedOut));
}

/// Who is not among those that found room may have opted out all the same.
#[tokio::test]
async fn with_more_opt_outs_than_can_be_borrowed_nothing_is_allowed() {
    let node = Node::open(fresh());
    node.opts_in().await;
    let mut cell = Cell::default();
    let id = EventId { origin: OriginId([9; 16]), sequence: 1 };
    cell.outs.add(Mark { id, time: NOON, message: None, naming: Naming::WithEarlier });
    let cells = vec![(Scope { channel: None, purpose: Purpose::All }, cell)];
    let consent =
        Person { record: Record { cells, ..Record::default() }, ..Person::default() }.encode_consent();
    let somebody = |number: u32| {
        let mut who = [0; 32];
        who[..4].copy_from_slice(&number.to_be_bytes());
        Part::Persons(vec![(Identifier(who), consent.clone())])
    };
    let mut taken = 0;
    while !node.engine.view().borrowed().overflows {
        assert_eq!(node.engine.view().borrowed().records, taken as usize);
        borrows(&node, vec![somebody(taken)]);
        taken += 1;
    }
    let fit = node.engine.view().borrowed().records;
    assert_eq!(fit, taken as usize - 1, "the first that finds no room is said");
    assert!((4_000..16_000).contains(&fit), "{fit} in a mebibyte");
    assert_eq!(node.denies(""), Some(Reason::Unavailable));
    node.engine.view().end_overflow();
    assert_eq!(node.denies(""), None);
    assert_eq!(node.engine.view().borrowed().records, fit, "who found room stays opted out");
    assert_eq!(node.engine.return_opt_outs().unwrap(), Returned::All);
    assert_eq!(node.engine.view().borrowed(), Borrowed::default());
}

#[tokio::test]
async fn nothing_is_allowed_while_others_are_asked_for_their_opt_outs() {
    let node = Node::open(fresh());
    node.opts_in().await;
    node.engine.replica().set_awaiting_opt_outs(true);
    assert_eq!(node.denies(""), Some(Reason::Unavailable));
    node.engine.replica().set_awaiting_opt_outs(false);
    assert_eq!(node.denies(""), None);
}

/// Two lenders, each of which knows an opt-out that the other does not.
#[tokio::test]
async fn what_is_borrowed_of_one_stays_when_another_lends() {
    let (one, other, behind) = (Node::open(fresh()), Node::open(fresh()), Node::open(fresh()));
    one.opts_out(one.clock.now(), Source::Caller).await;
    other.try_record(other_address(), "out", opt_out(other.clock.now()), Source::Caller).await.unwrap();
    let both = [person(), other_address()];
    for lender in [&one, &other] {
        borrows(&behind, parts_of(lender, Extent::Suppressing));
    }
    let denied = || both.clone().map(|who| behind.denies_to(who, "", Mode::Peek));
    assert_eq!(denied(), [Some(Reason::OptedOut); 2]);
    replicate(&one, &behind).await;
    assert_eq!(behind.engine.return_opt_outs().unwrap(), Returned::NotYet);
    assert_eq!(denied(), [Some(Reason::OptedOut); 2]);
    replicate(&other, &behind).await;
    assert_eq!(behind.engine.return_opt_outs().unwrap(), Returned::All);
    assert_eq!(denied(), [Some(Reason::OptedOut); 2]);
}

#[tokio::test]
async fn what_is_known_takes_no_room_and_a_snapshot_of_nothing_new_is_not_taken() {
    let (ahead, behind) = left_behind().await;
    replicate(&ahead, &behind).await;
    borrows(&behind, parts_of(&ahead, Extent::Suppressing));
    assert_eq!(behind.engine.view().borrowed().records, 0);

    let (ahead, behind) = left_behind().await;
    let mut borrowing = behind.engine.borrow_opt_outs(|heads| heads.is_empty());
    let parts = parts_of(&ahead, Extent::Suppressing);
    parts.into_iter().for_each(|part| borrowing.take(part).unwrap());
    assert!(!borrowing.wants_more());
    assert!(!behind.engine.view().borrows());
}

/// An event that comes while the snapshot is read may be in it, though not in the vector it began with.
#[tokio::test]
async fn what_was_recorded_while_the_snapshot_was_read_holds_until_its_own_event_comes() {
    let (ahead, behind) = left_behind().await;
    let mut borrowing = behind.engine.borrow_opt_outs(|_| true);
    for part in parts_of(&ahead, Extent::Suppressing) {
        if let Part::Heads(_) = part {
            borrowing.take(part).unwrap();
            break;
        }
    }
    let first: Vec<_> = ahead.engine.heads();
    ahead.try_record(other_address(), "out", opt_out(ahead.clock.now()), Source::Caller).await.unwrap();
    let late = parts_of(&ahead, Extent::Suppressing);
    late.into_iter().skip(1).for_each(|part| borrowing.take(part).unwrap());
    borrowing.finish();
    let records = ahead.engine.ledger().unwrap().records_of(first[0].0, 1);
    for record in records.map(Result::unwrap).take(first[0].1.sequence as usize) {
        behind.engine.ledger().unwrap().relay(record, false).unwrap().await.unwrap();
    }
    assert_eq!(behind.engine.return_opt_outs().unwrap(), Returned::NotYet);
    assert_eq!(behind.denies_to(other_address(), "", Mode::Peek), Some(Reason::OptedOut));
    replicate(&ahead, &behind).await;
    assert_eq!(behind.engine.return_opt_outs().unwrap(), Returned::All);
}

/// A START at a node that only borrowed the STOP names it, and what else the lender has; nothing that no ledger has.
#[tokio::test]
async fn an_opt_in_recorded_by_what_is_borrowed_covers_what_exists_and_no_more() {
    for inflated in [false, true] {
        let (ahead, behind) = left_behind().await;
        let mut parts = parts_of(&ahead, Extent::Suppressing);
        if inflated {
            for part in &mut parts {
                let Part::Persons(persons) = part else { continue };
                for (_, consent) in persons {
                    let mut person = Person::decode(consent, &[]).unwrap();
                    let marks = &mut person.record.cells[0].1.outs;
                    *marks = marks
                        .iter()
                        .map(|mark| Mark { id: EventId { sequence: 1_000, ..mark.id }, ..*mark })
                        .collect();
                    *consent = person.encode_consent();
                }
            }
        }
        borrows(&behind, parts);
        let origin = ahead.engine.heads()[0].0;
        let report = RequestReport {
            opt_in: OptInReport {
                channels: vec![Channel::Sms],
                topics: vec![offers()],
                ..opt_in_by_form(behind.clock.now())
            },
            via: Some(Channel::Sms),
            expire: None,
        };
        let asked =
            behind.try_record(person(), "asks", Report::Request(report), Source::Caller).await.unwrap();
        let who = behind.engine.key().identifier("acme", &person());
        let record = behind.engine.view().get(&who).unwrap().record;
        let covered = record.request(asked.event).map(|(_, request)| request.covers.of(origin)).max();
        assert_eq!(covered, Some(if inflated { 0 } else { 2 }), "{inflated}");
    }
}

/// What is here may be another record than the one that the lender knew.
#[tokio::test]
async fn opt_outs_of_a_forked_origin_stay_borrowed() {
    let (ahead, behind) = left_behind().await;
    let mut parts = parts_of(&ahead, Extent::Suppressing);
    let origin = ahead.engine.heads()[0].0;
    for part in &mut parts {
        if let Part::Heads(heads) = part {
            heads[0].1.hash[0] ^= 1;
        }
    }
    borrows(&behind, parts);
    replicate(&ahead, &behind).await;
    assert_eq!(behind.engine.return_opt_outs().unwrap(), Returned::Forked(origin));
    assert_eq!(behind.engine.view().borrowed().records, 1);
}
