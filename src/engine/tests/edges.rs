//! An edge and an anchor, without anything between them.

use super::reports::stopped_marketing;
use super::*;
use crate::engine::edge::Numbered;
use crate::engine::ranges::{RANGES, Verdict};
use crate::engine::snapshot::{Extent, Part, Taking as _};
use crate::engine::submitted::TakenIn;
use crate::ledger::RelayError;
use crate::outbox::Item;

const SHORT: Duration = Duration::from_millis(300);

/// Brings all that the anchor knows to the edge.
pub(super) fn snapshot(anchor: &Node, edge: &Node) {
    let mut loading = edge.engine.load_snapshot().unwrap();
    let mut parts = Vec::new();
    anchor
        .engine
        .snapshot(Extent::All, |part| {
            parts.push(part);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert!(parts.first().is_none_or(|first| matches!(first, Part::Heads(_))));
    parts.into_iter().for_each(|part| loading.take(part).unwrap());
    loading.finish().unwrap();
    assert_eq!(edge.engine.named(), anchor.engine.named());
    assert!(matches!(edge.denies(""), Some(Reason::Unavailable)), "no range is believed yet");
    (0..RANGES).for_each(|range| edge.engine.believe_range(range));
}

/// Brings the events behind the edge's heads.
async fn catch_up(anchor: &Node, edge: &Node) {
    for (origin, _) in anchor.engine.heads() {
        let from = edge
            .engine
            .heads()
            .iter()
            .find(|(known, _)| *known == origin)
            .map_or(0, |(_, head)| head.sequence);
        let records: Vec<_> =
            anchor.engine.ledger().unwrap().records_of(origin, from + 1).map(Result::unwrap).collect();
        let (_, refusal) = edge.engine.take_relayed(origin, &records);
        assert!(refusal.is_none(), "{refusal:?}");
    }
}

pub(super) async fn number(anchor: &Node, edge: &Node, item: &Item) -> Result<Numbered, EngineError> {
    let taken_in =
        TakenIn { payload: item.payload.clone(), blob: item.blob.clone(), age_ms: edge.engine.age_ms(item) };
    let numbered = anchor.engine.number(taken_in, Duration::ZERO).await?;
    Ok(Numbered { replicated: true, ..numbered })
}

/// The person opts out at the edge while nobody carries; the item that waits.
pub(super) async fn opts_out_at(edge: &Node) -> Arc<Item> {
    let refused = edge.try_record(person(), "out", opt_out(edge.clock.now()), Source::Caller).await;
    assert!(matches!(refused, Err(EngineError::Kept)), "{refused:?}");
    edge.engine.edge().unwrap().next_unsent().await
}

#[tokio::test]
async fn a_snapshot_and_the_events_behind_it_are_all_there_is() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    assert_eq!(edge.denies(""), Some(Reason::Unavailable), "nothing is known yet");
    anchor.opts_in().await;
    snapshot(&anchor, &edge);
    assert_eq!(edge.denies(""), None);
    anchor.opts_out(anchor.clock.now(), Source::Caller).await;
    catch_up(&anchor, &edge).await;
    assert_eq!(edge.denies(""), Some(Reason::OptedOut));
    for range in 0..RANGES {
        let digest = edge.engine.range_digest(range).unwrap().unwrap();
        assert_ne!(anchor.engine.compare_range(&digest).unwrap(), Verdict::Different, "range {range}");
    }
}

#[tokio::test]
async fn an_opt_out_holds_at_the_edge_from_the_first_moment_and_until_its_own_event_is_there() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    anchor.opts_in().await;
    snapshot(&anchor, &edge);
    assert_eq!(edge.denies(""), None);
    let item = opts_out_at(&edge).await;
    assert_eq!(edge.denies(""), Some(Reason::OptedOut), "before any anchor has it");
    let numbered = number(&anchor, &edge, &item).await.unwrap();
    assert!(edge.engine.numbered(&item, numbered));
    assert_eq!(edge.denies(""), Some(Reason::OptedOut), "between the number and the event");
    assert_eq!(edge.engine.edge().unwrap().waiting().items, 0);
    catch_up(&anchor, &edge).await;
    assert_eq!(edge.denies(""), Some(Reason::OptedOut), "by its event");
    let standing = edge.engine.consent("acme", &person(), &[], None).unwrap();
    let outs = standing.person.record.cells.iter().flat_map(|(_, cell)| cell.outs.iter());
    assert!(outs.map(|mark| mark.id).eq([numbered.event]), "nothing else is left of it");
}

#[tokio::test]
async fn a_request_is_numbered_once_however_often_and_wherever_it_comes() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    anchor.opts_in().await;
    snapshot(&anchor, &edge);
    let item = opts_out_at(&edge).await;
    let again = edge.try_record(person(), "out", opt_out(edge.clock.now()), Source::Caller).await;
    assert!(matches!(again, Err(EngineError::Kept)));
    assert_eq!(edge.engine.edge().unwrap().waiting().items, 1, "a retry waits for the same item");
    let first = number(&anchor, &edge, &item).await.unwrap();
    assert_eq!(number(&anchor, &edge, &item).await.unwrap(), first);
    edge.engine.numbered(&item, first);
    catch_up(&anchor, &edge).await;
    let answer = edge.try_record(person(), "out", opt_out(edge.clock.now()), Source::Caller).await;
    // On one anchor's disk, as far as this edge knows of a majority.
    assert_eq!(answer.unwrap().event, first.event);
    assert_eq!(anchor.engine.heads().iter().map(|(_, head)| head.sequence).sum::<u64>(), 2);
}

/// A STOP that one anchor has, and that the provider delivers once more, to an edge that has it from that anchor.
#[tokio::test]
async fn an_edge_does_not_answer_for_a_stop_that_no_majority_has() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    anchor.opts_in().await;
    let stop = || message("STOP", anchor.clock.now());
    anchor.engine.handle_inbound(stop()).await.unwrap();
    snapshot(&anchor, &edge);
    let answer = edge.engine.handle_inbound(stop()).await;
    assert!(matches!(answer, Err(EngineError::NotReplicated(_))), "{:?}", answer.map(|answer| answer.event));
    assert_eq!(edge.denies(""), Some(Reason::OptedOut));
}

#[tokio::test]
async fn what_no_majority_has_stays_in_the_outbox_if_it_opts_out() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    anchor.opts_in().await;
    snapshot(&anchor, &edge);
    let item = opts_out_at(&edge).await;
    let numbered = number(&anchor, &edge, &item).await.unwrap();
    assert!(!edge.engine.numbered(&item, Numbered { replicated: false, ..numbered }));
    assert!(!edge.engine.refused(&item, "it is not liked"));
    assert_eq!(edge.engine.edge().unwrap().waiting().items, 1);
    assert_eq!(edge.denies(""), Some(Reason::OptedOut));
    assert!(edge.engine.numbered(&item, numbered));
    assert_eq!(edge.engine.edge().unwrap().waiting().items, 0);
}

#[tokio::test]
async fn an_edge_whose_clock_is_ahead_wins_nothing_by_its_time() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    for node in [&anchor, &edge] {
        node.engine.replica().set_clocks_apart_ms(0);
    }
    snapshot(&anchor, &edge);
    edge.clock.advance_ms(30 * MINUTE_MS);
    let form = OptInReport {
        channels: vec![Channel::Sms],
        topics: vec![offers()],
        ..opt_in_by_form(edge.clock.now())
    };
    let kept =
        tokio::time::timeout(SHORT, edge.try_record(person(), "in", Report::OptIn(form), Source::Caller));
    let _ = kept.await;
    let item = edge.engine.edge().unwrap().next_unsent().await;
    // It was away for long, so what it says is not in the future any more.
    for node in [&anchor, &edge] {
        node.clock.advance_ms(40 * MINUTE_MS);
    }
    number(&anchor, &edge, &item).await.unwrap();
    assert_eq!(anchor.denies(""), None);
    // After the opt-in truly, where it has not arrived, and before it by the edge's clock.
    let other = Node::open(fresh());
    other.clock.advance_ms(MINUTE_MS);
    other.opts_out(other.clock.now(), Source::Caller).await;
    replicate(&other, &anchor).await;
    assert_eq!(anchor.denies(""), Some(Reason::OptedOut));
}

#[tokio::test]
async fn an_edge_takes_only_what_follows() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    anchor.opts_in().await;
    snapshot(&anchor, &edge);
    anchor.opts_out(anchor.clock.now(), Source::Caller).await;
    let (origin, head) = anchor.engine.heads()[0];
    let record = anchor.engine.ledger().unwrap().records_of(origin, head.sequence).next().unwrap().unwrap();
    let mut torn = record.clone();
    torn.chained[40] ^= 1;
    let mut foreign = record.clone();
    foreign.hash[0] ^= 1;
    for bad in [torn, foreign] {
        let (taken, refusal) = edge.engine.take_relayed(origin, &[bad]);
        assert_eq!(taken.map(|head| head.sequence), Some(head.sequence - 1));
        assert!(
            matches!(refusal, Some((0, RelayError::Chain { .. } | RelayError::Malformed(_)))),
            "{refusal:?}"
        );
    }
    assert_eq!(edge.denies(""), None);
    let (taken, refusal) = edge.engine.take_relayed(origin, &[record.clone(), record]);
    assert_eq!(taken, Some(head));
    assert!(matches!(refusal, Some((1, RelayError::Gap { .. }))), "the same again follows from nothing");
    assert_eq!(edge.denies(""), Some(Reason::OptedOut));
}

#[tokio::test]
async fn tries_without_a_request_id_wait_for_one_item() {
    let edge = Node::edge();
    for _ in 0..3 {
        let refused = edge.try_record(person(), "", opt_out(edge.clock.now()), Source::Caller).await;
        assert!(matches!(refused, Err(EngineError::Kept)), "{refused:?}");
        edge.clock.advance_ms(SECOND_MS);
    }
    let state = edge.engine.edge().unwrap();
    assert_eq!(state.waiting().items, 1);
    edge.clock.advance_ms(10 * MINUTE_MS);
    let refused = edge.try_record(person(), "", opt_out(edge.clock.now()), Source::Caller).await;
    assert!(matches!(refused, Err(EngineError::Kept)), "{refused:?}");
    assert_eq!(state.waiting().items, 2, "an opt-in may have come in between");
    state.next_unsent().await;
    state.next_unsent().await;
    let refused = edge.try_record(person(), "", opt_out(edge.clock.now()), Source::Caller).await;
    assert!(matches!(refused, Err(EngineError::Kept)), "{refused:?}");
    assert_eq!(state.waiting().items, 3, "an opt-in may have named what an anchor was offered");
}

/// The first would else stand for both, and a release of between the two would end what came after it.
#[tokio::test]
async fn an_edge_tells_apart_what_the_person_did_at_two_times() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    snapshot(&anchor, &edge);
    let waiting = || edge.engine.edge().unwrap().waiting().items;
    for (at, items) in
        [(NOON.minus_ms(HOUR_MS), 1), (NOON.minus_ms(MINUTE_MS), 2), (NOON.minus_ms(HOUR_MS), 2)]
    {
        let kept = edge.engine.report_send(stopped_marketing(Some(at))).await;
        assert!(matches!(kept, Err(EngineError::Kept) | Ok(_)), "{kept:?}");
        assert_eq!(waiting(), items, "{at:?}");
    }
}

#[tokio::test]
async fn a_text_without_a_time_or_an_id_waits_for_one_item_however_often_it_is_told() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    snapshot(&anchor, &edge);
    let stop = Inbound { message_id: String::new(), occurred: None, ..message("STOP", NOON) };
    for _ in 0..3 {
        let kept = edge.engine.handle_inbound(stop.clone()).await;
        assert!(matches!(kept, Err(EngineError::Kept)), "{kept:?}");
        edge.clock.advance_ms(SECOND_MS);
    }
    assert_eq!(edge.engine.edge().unwrap().waiting().items, 1);
}

/// The STOP waits for an anchor; the START that comes after it does, in its caller's hands.
#[tokio::test]
async fn a_start_after_a_stop_that_is_only_held_waits_for_it() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    anchor.opts_in().await;
    snapshot(&anchor, &edge);
    for node in [&anchor, &edge] {
        node.clock.advance_ms(MINUTE_MS);
    }
    let kept = edge.engine.handle_inbound(message("STOP", edge.clock.now())).await;
    assert!(matches!(kept, Err(EngineError::Kept)), "{kept:?}");
    let stop = edge.engine.edge().unwrap().next_unsent().await;
    for node in [&anchor, &edge] {
        node.clock.advance_ms(MINUTE_MS);
    }
    let start = message("START", edge.clock.now());
    let refused = edge.engine.handle_inbound(start.clone()).await;
    assert!(matches!(refused, Err(EngineError::NotHere(_))), "{refused:?}");
    assert_eq!(edge.engine.edge().unwrap().waiting().items, 1);
    let numbered = number(&anchor, &edge, &stop).await.unwrap();
    assert!(edge.engine.numbered(&stop, numbered));
    catch_up(&anchor, &edge).await;
    let kept = edge.engine.handle_inbound(start.clone()).await;
    assert!(matches!(kept, Err(EngineError::Kept)), "{kept:?}");
    let item = edge.engine.edge().unwrap().next_unsent().await;
    let numbered = number(&anchor, &edge, &item).await.unwrap();
    assert!(edge.engine.numbered(&item, numbered));
    catch_up(&anchor, &edge).await;
    assert_eq!(edge.denies(""), None);
}

/// Whose number changed is opted out of everything there.
#[tokio::test]
async fn an_edge_does_not_answer_for_a_number_that_changed_before_a_majority_knows() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    anchor.opts_in().await;
    let changed = || {
        Report::Invalidate(InvalidateReport {
            cause: InvalidateCause::NumberChanged,
            channels: Vec::new(),
            topics: Vec::new(),
            categories: Vec::new(),
            occurred: None,
        })
    };
    anchor.record("changed", changed(), Source::Caller).await;
    snapshot(&anchor, &edge);
    let answer = edge.try_record(person(), "changed", changed(), Source::Caller).await;
    assert!(matches!(answer, Err(EngineError::NotReplicated(_))), "{answer:?}");
}

/// The person stops marketing, wants it again, and stops it again, and nobody times either stop; each failure is told several times.
#[tokio::test]
async fn two_failures_that_tell_of_stopped_marketing_are_two_items_however_often_they_are_told() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    snapshot(&anchor, &edge);
    for (message, waiting) in [("one", 1), ("one", 1), ("two", 2), ("two", 2)] {
        let failed = SendReport { message_id: message.to_owned(), ..stopped_marketing(None) };
        let kept = edge.engine.report_send(failed).await;
        assert!(matches!(kept, Err(EngineError::Kept)), "{kept:?}");
        assert_eq!(edge.engine.edge().unwrap().waiting().items, waiting, "{message}");
        edge.clock.advance_ms(10 * SECOND_MS);
    }
}

/// One anchor alone numbered the STOP: its item waits for a majority, but what comes after it need not.
#[tokio::test]
async fn a_start_after_a_stop_that_one_anchor_has_is_taken_in() {
    let (anchor, edge) = (Node::open(fresh()), Node::edge());
    anchor.opts_in().await;
    snapshot(&anchor, &edge);
    for node in [&anchor, &edge] {
        node.clock.advance_ms(MINUTE_MS);
    }
    let kept = edge.engine.handle_inbound(message("STOP", edge.clock.now())).await;
    assert!(matches!(kept, Err(EngineError::Kept)), "{kept:?}");
    let stop = edge.engine.edge().unwrap().next_unsent().await;
    let numbered = Numbered { replicated: false, ..number(&anchor, &edge, &stop).await.unwrap() };
    assert!(!edge.engine.numbered(&stop, numbered));
    catch_up(&anchor, &edge).await;
    edge.clock.advance_ms(MINUTE_MS);
    let kept = edge.engine.handle_inbound(message("START", edge.clock.now())).await;
    assert!(matches!(kept, Err(EngineError::Kept)), "{kept:?}");
}
