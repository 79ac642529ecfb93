//! Opt-outs whose numbers come late, and links that come to be known late: an opt-in comes after what it names, and after nothing that
//! whoever named it could not see.

use super::edges::{number, opts_out_at, snapshot};
use super::*;
use crate::engine::submitted::TakenIn;
use crate::outbox::Item;
use crate::policy::consent::ALONE_MAX;
use crate::policy::event::{Change, ConsentEvent, LedgerEntry, OptOut};
use crate::policy::ids::EventId;
use crate::policy::report::InvalidateReport;
use crate::policy::types::{InvalidateCause, Purpose, Scope};

/// Lets time pass for all of `nodes`, whose clocks are known to agree, in minutes.
fn in_step<'a>(nodes: &'a [&'a Node]) -> impl Fn(i64) + 'a {
    nodes.iter().for_each(|node| node.engine.replica().set_clocks_apart_ms(0));
    |minutes| nodes.iter().for_each(|node| node.clock.advance_ms(minutes * MINUTE_MS))
}

/// The person, known to both as opted in, opts out at the edge; the item that no anchor has.
async fn opted_out_at_the_edge(anchor: &Node, edge: &Node) -> Arc<Item> {
    anchor.opts_in().await;
    snapshot(anchor, edge);
    opts_out_at(edge).await
}

/// An opt-in again at `occurred`, which names `named`.
fn opts_in_again(occurred: Timestamp, named: Vec<EventId>) -> Report {
    Report::OptIn(OptInReport {
        channels: vec![Channel::Sms],
        topics: vec![offers()],
        supersedes: named,
        ..opt_in_by_form(occurred)
    })
}

/// The opt-in does not name all that it would have to, and the person stays opted out.
async fn refuses(node: &Node, again: Report) {
    let refused = node.try_record(person(), "O", again, Source::Caller).await;
    assert!(matches!(refused, Err(EngineError::Unsuperseded(_))), "{refused:?}");
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
}

/// The opt-in of `who` counts as long as nobody knows that the other address, opted out, is the same person's.
async fn counts_until_linked(node: &Node, who: Address, again: Report, linked: Address) {
    node.try_record(who.clone(), "O", again, Source::Caller).await.unwrap();
    assert_eq!(node.denies_to(who.clone(), "", Mode::Peek), None);
    node.links(linked, other_address()).await;
    assert_eq!(node.denies_to(who, "", Mode::Peek), Some(Reason::OptedOut));
}

/// The order of the person's acts: Y at the edge, O, X at the anchor. Y reaches the anchor last, and O names it.
#[tokio::test]
async fn who_names_what_came_late_has_not_named_what_came_after_it() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    let nodes = [&anchor, &edge];
    let pass = in_step(&nodes);
    let item = opted_out_at_the_edge(&anchor, &edge).await;
    let opted_in_again = edge.clock.now().plus_ms(4 * MINUTE_MS);
    pass(9);
    anchor.try_record(person(), "X", opt_out(anchor.clock.now()), Source::Caller).await.unwrap();
    pass(20);
    let y = number(&anchor, &edge, &item).await.unwrap().event;
    let again = opts_in_again(opted_in_again, vec![y]);
    refuses(&anchor, again).await;
}

/// The order of the person's acts: Y at the edge, Z at another anchor, O, X at the anchor. Z is reported after X, and Y reaches the anchor
/// last; O names Y and Z.
#[tokio::test]
async fn what_another_anchor_recorded_does_not_stand_for_what_came_after() {
    let (anchor, other, edge) = (Node::open(fresh()), Node::open(fresh()), Node::edge());
    let nodes = [&anchor, &other, &edge];
    let pass = in_step(&nodes);
    let begun = edge.clock.now();
    let item = opted_out_at_the_edge(&anchor, &edge).await;
    pass(9);
    anchor.try_record(person(), "X", opt_out(anchor.clock.now()), Source::Caller).await.unwrap();
    pass(1);
    let stated = begun.plus_ms(MINUTE_MS);
    let z = other.try_record(person(), "Z", opt_out(stated), Source::Caller).await.unwrap().event;
    replicate(&other, &anchor).await;
    pass(20);
    let y = number(&anchor, &edge, &item).await.unwrap().event;
    let again = opts_in_again(begun.plus_ms(4 * MINUTE_MS), vec![y, z]);
    refuses(&anchor, again).await;
}

/// The order of the person's acts: Y, O, X. Y is reported to the edge an hour late, and a webhook tells the anchor of X as late, with its
/// time, before Y reaches the anchor; O names Y.
#[tokio::test]
async fn a_webhooks_opt_out_is_not_named_by_an_edges_report_that_is_younger() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    let nodes = [&anchor, &edge];
    let pass = in_step(&nodes);
    anchor.opts_in().await;
    snapshot(&anchor, &edge);
    pass(1);
    let begun = edge.clock.now();
    pass(60);
    let kept = edge.try_record(person(), "Y", opt_out(begun), Source::Caller).await;
    assert!(matches!(kept, Err(EngineError::Kept)), "{kept:?}");
    let item = edge.engine.edge().unwrap().next_unsent().await;
    pass(5);
    let x = opt_out(begun.plus_ms(10 * MINUTE_MS));
    anchor.try_record(person(), "X", x, Source::Signed).await.unwrap();
    pass(5);
    let y = number(&anchor, &edge, &item).await.unwrap().event;
    let again = opts_in_again(begun.plus_ms(5 * MINUTE_MS), vec![y]);
    refuses(&anchor, again).await;
}

/// The order of the person's acts: Y at one address, O there, X at the other, all within the margin. Y is told to an edge, and reaches the
/// anchor behind X; O names Y; that both addresses are one person's comes to be known last.
#[tokio::test]
async fn who_names_what_came_late_has_not_named_what_came_after_it_at_an_address_linked_later() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    let nodes = [&anchor, &edge];
    let pass = in_step(&nodes);
    let item = opted_out_at_the_edge(&anchor, &edge).await;
    pass(1);
    let opted_in_again = edge.clock.now();
    pass(1);
    anchor.try_record(other_address(), "X", opt_out(anchor.clock.now()), Source::Caller).await.unwrap();
    let y = number(&anchor, &edge, &item).await.unwrap().event;
    let again = opts_in_again(opted_in_again, vec![y]);
    counts_until_linked(&anchor, person(), again, person()).await;
}

/// The same with Y told late to the anchor itself, and O with a warning.
#[tokio::test]
async fn who_names_what_was_told_late_has_not_named_what_came_after_it_at_an_address_linked_later() {
    let anchor = Node::open(fresh());
    let nodes = [&anchor];
    let pass = in_step(&nodes);
    anchor.opts_in().await;
    let opted_out = anchor.clock.now();
    pass(1);
    let opted_in_again = anchor.clock.now();
    pass(1);
    anchor.try_record(other_address(), "X", opt_out(anchor.clock.now()), Source::Caller).await.unwrap();
    let y = anchor.try_record(person(), "Y", opt_out(opted_out), Source::Caller).await.unwrap().event;
    let again = opts_in_again(opted_in_again, vec![y]);
    counts_until_linked(&anchor, person(), again, person()).await;
}

/// The order of the person's acts: Y at the edge, O, X at the anchor, all within the margin. Y reaches the anchor last, and O a peer that has
/// no more than Y.
#[tokio::test]
async fn who_names_what_came_late_is_refused_by_whoever_has_no_more_than_that() {
    let (anchor, peer, edge) = (Node::open(fresh()), Node::open(fresh()), Node::edge());
    let nodes = [&anchor, &peer, &edge];
    let pass = in_step(&nodes);
    let item = opted_out_at_the_edge(&anchor, &edge).await;
    pass(1);
    let opted_in_again = edge.clock.now();
    pass(1);
    anchor.try_record(person(), "X", opt_out(anchor.clock.now()), Source::Caller).await.unwrap();
    let y = number(&anchor, &edge, &item).await.unwrap().event;
    let records = anchor.engine.ledger().unwrap().records_of(y.origin, 1).map(Result::unwrap);
    for record in records.take(usize::try_from(y.sequence).unwrap()) {
        peer.engine.ledger().unwrap().relay(record, false).unwrap().await.unwrap();
    }
    refuses(&peer, opts_in_again(opted_in_again, vec![y])).await;
}

/// What is linked to another written form of a number may be another person's, and its numbers say nothing either.
#[tokio::test]
async fn who_names_what_was_told_late_has_not_named_what_is_linked_to_another_form_of_the_number() {
    let (number, other_form) = ("+5215512345678", "+525512345678");
    let [number, other_form] = [number, other_form].map(|number| Address::parse_phone(number).unwrap());
    let anchor = Node::open(fresh());
    let nodes = [&anchor];
    let pass = in_step(&nodes);
    let opted_out = anchor.clock.now();
    pass(1);
    let opted_in_again = anchor.clock.now();
    pass(1);
    anchor.try_record(other_address(), "X", opt_out(anchor.clock.now()), Source::Caller).await.unwrap();
    let y = anchor.try_record(number.clone(), "Y", opt_out(opted_out), Source::Caller).await.unwrap().event;
    let again = opts_in_again(opted_in_again, vec![y]);
    counts_until_linked(&anchor, number, again, other_form).await;
}

/// The order of the person's acts: Y by voice at one address, O there, V at the other, where it turns out that nobody agreed. Y is told behind V.
#[tokio::test]
async fn an_opt_in_through_a_link_has_not_named_a_finding_at_the_address_asked_for() {
    let anchor = Node::open(fresh());
    let nodes = [&anchor];
    let pass = in_step(&nodes);
    let hung_up = anchor.clock.now();
    pass(1);
    let opted_in = anchor.clock.now();
    pass(1);
    let found = Report::Invalidate(InvalidateReport {
        cause: InvalidateCause::EvidenceFalse,
        channels: vec![Channel::Sms],
        topics: Vec::new(),
        categories: Vec::new(),
        occurred: Some(anchor.clock.now()),
    });
    anchor.try_record(other_address(), "V", found, Source::Caller).await.unwrap();
    let y = anchor.try_record(person(), "Y", no_calls(hung_up), Source::Caller).await.unwrap().event;
    anchor.try_record(person(), "O", opts_in_again(opted_in, vec![y]), Source::Caller).await.unwrap();
    anchor.links(person(), other_address()).await;
    for recipient in [person(), other_address()] {
        assert_eq!(anchor.denies_to(recipient, "", Mode::Peek), Some(Reason::NoConsent));
    }
}

/// What a peer said of Y does not verify, so this node records it under a number of its own, behind X.
#[tokio::test]
async fn an_opt_out_that_is_kept_for_a_peer_has_a_late_number_too() {
    let (anchor, peer) = (Node::open(fresh()), Node::open(fresh()));
    let nodes = [&anchor, &peer];
    let pass = in_step(&nodes);
    anchor.opts_in().await;
    let y = peer.try_record(person(), "Y", opt_out(peer.clock.now()), Source::Caller).await.unwrap().event;
    pass(1);
    let opted_in_again = anchor.clock.now();
    pass(1);
    anchor.try_record(person(), "X", opt_out(anchor.clock.now()), Source::Caller).await.unwrap();
    let record = peer.engine.ledger().unwrap().records_of(y.origin, y.sequence).next().unwrap().unwrap();
    let kept = anchor.engine.keep_opt_outs(record.parse().unwrap().payload).await.unwrap().unwrap();
    let again = opts_in_again(opted_in_again, vec![kept]);
    refuses(&anchor, again).await;
}

/// Somebody who says STOP again and again while the edge has no anchor.
#[tokio::test]
async fn more_late_opt_outs_than_stand_alone_are_beaten_by_time_and_by_nothing_else() {
    let anchor = Node::open(fresh());
    let nodes = [&anchor];
    let pass = in_step(&nodes);
    anchor.opts_in().await;
    let out = |time: Timestamp| {
        LedgerEntry::Consent(ConsentEvent {
            business: BusinessId::new("acme").unwrap(),
            subjects: vec![ClusterKey::from_bytes(&[7; 32]).identifier("acme", &person())],
            forms: Vec::new(),
            recorded: time,
            request: None,
            rules_version: "1".to_owned(),
            numbered_late: true,
            changes: vec![Change::OptOut(OptOut {
                scopes: vec![Scope { channel: Some(Channel::Sms), purpose: Purpose::All }],
                time,
                stated: None,
                imported: false,
                inbound: None,
                method: OptOutMethod::Keyword,
                confirm_until: None,
            })],
        })
    };
    for _ in 0..=ALONE_MAX {
        anchor.clock.advance_ms(SECOND_MS);
        let payload = codec::encode_entry(&out(anchor.clock.now()));
        anchor.engine.number(TakenIn { payload, blob: None, age_ms: 0 }, Duration::ZERO).await.unwrap();
    }
    let shown = || -> Vec<EventId> {
        let standing = anchor.engine.consent("acme", &person(), &[], None).unwrap();
        let cells = standing.person.record.cells.iter();
        cells.flat_map(|(_, cell)| cell.outs.iter()).map(|mark| mark.id).collect()
    };
    assert_eq!(shown().len(), ALONE_MAX + 1);
    // Nobody can name all of them.
    refuses(&anchor, opts_in_again(anchor.clock.now(), shown())).await;
    pass(6);
    let later = opts_in_again(anchor.clock.now(), shown());
    anchor.try_record(person(), "later", later, Source::Caller).await.unwrap();
    assert_eq!(anchor.denies(""), None);
}
