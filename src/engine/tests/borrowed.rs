//! Two anchors without anything between them: one lacks what the other has recorded, and borrows its opt-outs.

use std::ops::ControlFlow;

use super::*;
use crate::engine::borrow::Returned;
use crate::engine::snapshot::{Extent, Part, Taking as _};
use crate::ledger::Head;
use crate::policy::consent::{Cell, Mark, Naming};
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::record::Record;
use crate::policy::types::{Purpose, Scope};
use crate::view::{Lent, Person};

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

/// `to` borrows; the vector at which it did.
fn borrows(to: &Node, parts: Vec<Part>) -> Vec<(OriginId, Head)> {
    let mut borrowing = to.engine.borrow_opt_outs();
    parts.into_iter().for_each(|part| borrowing.take(part).unwrap());
    let heads = borrowing.heads().to_vec();
    borrowing.finish();
    heads
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
    let heads = borrows(&behind, parts_of(&ahead, Extent::Suppressing));
    assert_eq!(behind.denies(""), Some(Reason::OptedOut));
    assert_eq!(behind.engine.view().lent().persons(), 1);
    assert_eq!(behind.engine.range_digest(range).unwrap(), before, "nothing of it is written into the view");
    assert_eq!(behind.engine.return_opt_outs(&heads).unwrap(), Returned::NotYet);
    assert_eq!(behind.denies(""), Some(Reason::OptedOut));

    replicate(&ahead, &behind).await;
    assert_eq!(behind.engine.return_opt_outs(&heads).unwrap(), Returned::All);
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
    let mut lent = Lent::default();
    lent.put(Identifier([1; 32]), &consent).unwrap();
    let room = lent.bytes() * 2;
    for (persons, answer) in [(2, None), (3, Some(Reason::Unavailable))] {
        let mut lent = Lent::with_room(room);
        for who in 0..persons {
            lent.put(Identifier([who; 32]), &consent).unwrap();
        }
        assert_eq!(lent.persons(), 2);
        node.engine.view().borrow(lent);
        assert_eq!(node.denies(""), answer, "{persons}");
    }
    assert_eq!(node.engine.return_opt_outs(&[]).unwrap(), Returned::All);
    assert_eq!(node.denies(""), None);
}

/// What is here may be another record than the one that the lender knew.
#[tokio::test]
async fn opt_outs_of_a_forked_origin_stay_borrowed() {
    let (ahead, behind) = left_behind().await;
    let mut heads = borrows(&behind, parts_of(&ahead, Extent::Suppressing));
    replicate(&ahead, &behind).await;
    let origin = heads[0].0;
    heads[0].1.hash[0] ^= 1;
    assert_eq!(behind.engine.return_opt_outs(&heads).unwrap(), Returned::Forked(origin));
    assert_eq!(behind.engine.view().lent().persons(), 1);
}
