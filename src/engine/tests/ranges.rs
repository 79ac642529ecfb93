//! Two nodes that applied the same events look the same; where one is damaged, its own ledger mends it.

use super::*;
use crate::engine::ranges::{RANGES, REGISTRY, Verdict};
use crate::policy::event::{SenderEntry, TemplateEntry};
use crate::policy::ids::EventId;
use crate::policy::record::Record;
use crate::policy::types::{Quality, SenderStatus, TemplateStatus};
use crate::view::Registry;

fn range_of(node: &Node, address: &Address) -> usize {
    usize::from(node.engine.identity("acme", address).own.0[0])
}

fn somebody(number: u32) -> Address {
    Address::parse_phone(&format!("+49151{number:08}")).unwrap()
}

fn verdict(asker: &Node, other: &Node, range: usize) -> Verdict {
    let digest = asker.engine.range_digest(range).unwrap().unwrap();
    other.engine.compare_range(&digest).unwrap()
}

/// An opt-in and, of every other person, an opt-out.
async fn two_alike() -> (Node, Node) {
    let (a, b) = (Node::open(fresh()), Node::open(fresh()));
    for number in 0..200 {
        let form = OptInReport {
            channels: vec![Channel::Sms],
            topics: vec![offers()],
            ..opt_in_by_form(a.clock.now())
        };
        a.try_record(somebody(number), "in", Report::OptIn(form), Source::Caller).await.unwrap();
        if number % 2 == 0 {
            let out = opt_out(b.clock.now());
            b.try_record(somebody(number), "out", out, Source::Caller).await.unwrap();
        }
    }
    replicate(&a, &b).await;
    replicate(&b, &a).await;
    (a, b)
}

fn template(name: &str, status: TemplateStatus) -> TemplateEntry {
    TemplateEntry {
        business: BusinessId::new("acme").unwrap(),
        name: name.to_owned(),
        language: "en_US".to_owned(),
        category: Category::Marketing,
        topic: Some(offers()),
        status,
        quality: Quality::Green,
        has_opt_out_instructions: false,
        pause_until: None,
        time: Timestamp(0),
    }
}

fn sender(quality: Quality) -> SenderEntry {
    SenderEntry {
        business: BusinessId::new("acme").unwrap(),
        sender: SenderId::new("1").unwrap(),
        quality,
        status: SenderStatus::Connected,
        status_until: None,
        time: Timestamp(0),
    }
}

/// Two nodes with a template that is paused and a sender that got worse, each reported at one of them.
async fn two_with_registries() -> (Node, Node) {
    let (a, b) = (Node::open(fresh()), Node::open(fresh()));
    a.engine.put_template(template("promo", TemplateStatus::Approved)).await.unwrap();
    a.engine.put_template(template("promo", TemplateStatus::Paused)).await.unwrap();
    b.engine.put_sender(sender(Quality::Red)).await.unwrap();
    replicate(&a, &b).await;
    replicate(&b, &a).await;
    (a, b)
}

#[tokio::test]
async fn a_damaged_template_is_found_and_mended_from_the_own_ledger_alone() {
    let (a, b) = two_with_registries().await;
    assert_eq!(verdict(&a, &b, REGISTRY), Verdict::Equal);
    // The template may be sent again behind the node's back, and there are one and a sender whom no ledger knows.
    let status = |node: &Node, name: &str| {
        node.engine.view().template("acme", name, "en_US").map(|entry| entry.status)
    };
    let time = a.clock.now().plus_ms(1_000);
    a.engine.view().put_template(TemplateEntry { time, ..template("promo", TemplateStatus::Approved) });
    a.engine.view().put_template(TemplateEntry { time, ..template("never", TemplateStatus::Approved) });
    a.engine.view().put_sender(SenderEntry { time, ..sender(Quality::Green) });
    assert_eq!(status(&a, "promo"), Some(TemplateStatus::Approved));

    assert_eq!(verdict(&a, &b, REGISTRY), Verdict::Different);
    assert_eq!(verdict(&b, &a, REGISTRY), Verdict::Different);
    assert!(!b.engine.rebuild_range(REGISTRY).unwrap(), "what is sound stays as it is");
    assert_eq!(verdict(&a, &b, REGISTRY), Verdict::Different, "and the damage has not spread");
    assert_eq!(status(&b, "promo"), Some(TemplateStatus::Paused));
    assert!(a.engine.rebuild_range(REGISTRY).unwrap());
    assert_eq!(verdict(&a, &b, REGISTRY), Verdict::Equal);
    for node in [&a, &b] {
        assert_eq!(status(node, "promo"), Some(TemplateStatus::Paused));
        assert_eq!(status(node, "never"), None);
        assert_eq!(node.engine.view().sender("acme", "1").unwrap().quality, Quality::Red);
    }
    assert!(!a.engine.rebuild_range(REGISTRY).unwrap(), "it is mended once");
}

/// A view that forgot of a fork would let opt-ins count that no longer do.
#[tokio::test]
async fn a_fork_that_a_view_forgot_is_found_and_known_again_from_the_own_ledger() {
    let (a, b) = two_with_registries().await;
    let forked = OriginId([9; 16]);
    a.engine.distrust(forked, 4).await.unwrap();
    replicate(&a, &b).await;
    assert_eq!(verdict(&a, &b, REGISTRY), Verdict::Equal);
    assert!(b.engine.view().replace_registry(Registry::default()));
    assert!(!b.engine.distrusted().doubts(EventId { origin: forked, sequence: 4 }));
    assert_eq!(verdict(&a, &b, REGISTRY), Verdict::Different);
    assert!(b.engine.rebuild_range(REGISTRY).unwrap());
    assert_eq!(verdict(&a, &b, REGISTRY), Verdict::Equal);
    assert!(b.engine.distrusted().doubts(EventId { origin: forked, sequence: 4 }));
}

#[tokio::test]
async fn who_is_ahead_by_a_template_cannot_compare_the_registry_and_can_compare_persons() {
    let (a, b) = two_with_registries().await;
    b.engine.put_template(template("other", TemplateStatus::Approved)).await.unwrap();
    assert_eq!(verdict(&a, &b, REGISTRY), Verdict::Incomparable);
    assert_eq!(verdict(&a, &b, range_of(&a, &somebody(0))), Verdict::Equal);
    replicate(&b, &a).await;
    b.try_record(somebody(0), "out", opt_out(b.clock.now()), Source::Caller).await.unwrap();
    assert_eq!(verdict(&a, &b, REGISTRY), Verdict::Equal);
}

#[tokio::test]
async fn nobody_is_sent_to_while_the_registry_is_in_doubt_and_opt_outs_are_taken() {
    let node = Node::open(fresh());
    node.opts_in().await;
    assert_eq!(node.denies(""), None);
    node.engine.view().doubt(REGISTRY, true);
    assert_eq!(node.engine.view().doubted(), 1);
    assert_eq!(node.denies(""), Some(Reason::Unavailable));
    node.opts_out(node.clock.now(), Source::Caller).await;
    node.engine.view().doubt(REGISTRY, false);
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
}

#[tokio::test]
async fn the_same_events_in_another_order_look_the_same() {
    let (a, b) = two_alike().await;
    for range in 0..RANGES {
        assert_eq!(verdict(&a, &b, range), Verdict::Equal, "range {range}");
    }
}

#[tokio::test]
async fn damage_is_found_and_mended_from_the_own_ledger_alone() {
    let (a, b) = two_alike().await;
    let who = a.engine.identity("acme", &somebody(0)).own;
    let range = range_of(&a, &somebody(0));
    // The opt-out is gone behind the node's back, and somebody is there whom no ledger knows.
    let person = a.engine.view().get(&who).unwrap();
    let mut damaged = person.record.clone();
    damaged.cells.iter_mut().for_each(|(_, cell)| cell.outs = Default::default());
    assert_ne!(damaged, person.record);
    a.engine.view().replace_consent(&who, damaged, person.trail.clone()).unwrap();
    let mut stranger = who;
    stranger.0[31] ^= 1;
    a.engine.view().replace_consent(&stranger, person.record.clone(), Vec::new()).unwrap();

    assert_eq!(verdict(&a, &b, range), Verdict::Different);
    assert_eq!(verdict(&b, &a, range), Verdict::Different);
    assert!(!b.engine.rebuild_range(range).unwrap(), "what is sound stays as it is");
    assert_eq!(verdict(&a, &b, range), Verdict::Different, "and the damage has not spread");
    assert!(a.engine.rebuild_range(range).unwrap());
    assert_eq!(verdict(&a, &b, range), Verdict::Equal);
    let mended = a.engine.view().get(&who).unwrap();
    assert_eq!((mended.record, mended.trail), (person.record, person.trail));
    assert_eq!(a.engine.view().get(&stranger).unwrap().record, Record::default());
}

#[tokio::test]
async fn who_is_ahead_compares_only_what_that_left_alone() {
    let (a, b) = two_alike().await;
    let (here, there) = (range_of(&a, &somebody(0)), range_of(&a, &somebody(1)));
    assert_ne!(here, there);
    b.try_record(somebody(0), "again", opt_out(b.clock.now()), Source::Caller).await.unwrap();
    assert_eq!(verdict(&a, &b, there), Verdict::Equal);
    assert_eq!(verdict(&a, &b, here), Verdict::Incomparable);
    // Who is behind cannot tell.
    assert_eq!(verdict(&b, &a, there), Verdict::Incomparable);
    let mut digest = a.engine.range_digest(there).unwrap().unwrap();
    digest.moving.clear();
    assert_eq!(b.engine.compare_range(&digest).unwrap(), Verdict::Incomparable);
}

#[tokio::test]
async fn nobody_of_a_range_in_doubt_is_sent_to_and_opt_outs_are_taken() {
    let node = Node::open(fresh());
    node.opts_in().await;
    assert_eq!(node.denies(""), None);
    let range = range_of(&node, &person());
    node.engine.view().doubt(range, true);
    let request = node.engine.consent("acme", &person(), &[], None);
    assert!(matches!(request, Err(EngineError::View(_))));
    node.opts_out(node.clock.now(), Source::Caller).await;
    node.engine.view().doubt(range, false);
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
}

#[tokio::test]
async fn what_arrives_while_a_range_is_built_anew_is_not_lost() {
    let (a, b) = two_alike().await;
    let range = range_of(&a, &somebody(0));
    let (engine, rebuilding) = (
        a.engine.clone(),
        std::thread::spawn({
            let engine = a.engine.clone();
            move || (0..20).map(|_| engine.rebuild_range(range).unwrap()).filter(|changed| *changed).count()
        }),
    );
    let mut last = EventId { origin: engine.heads()[0].0, sequence: 0 };
    for number in 0..50 {
        let out = opt_out(a.clock.now());
        last = a
            .try_record(somebody(number * 2), &format!("more-{number}"), out, Source::Caller)
            .await
            .unwrap()
            .event;
    }
    assert_eq!(rebuilding.join().unwrap(), 0, "nothing was damaged");
    assert!(last.sequence > 0);
    replicate(&a, &b).await;
    for range in 0..RANGES {
        assert_eq!(verdict(&a, &b, range), Verdict::Equal, "range {range}");
    }
}
