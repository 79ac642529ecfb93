//! What a failed send teaches, and how little its report does when it comes again.

use super::*;
use crate::policy::event::TemplateEntry;
use crate::policy::types::{Quality, TemplateStatus};

/// A send that failed since the person stopped marketing, with no decision at hand.
pub(super) fn stopped_marketing(occurred: Option<Timestamp>) -> SendReport {
    SendReport {
        decision_id: String::new(),
        business: Some(BusinessId::new("acme").unwrap()),
        sender: Some(SenderId::new("Acme").unwrap()),
        recipient: Some(person()),
        channel: Channel::Whatsapp,
        outcome: SendOutcome::Failed,
        error_code: "131050".to_owned(),
        message_id: String::new(),
        instructions_included: false,
        occurred,
    }
}

/// How the person stands towards marketing on WhatsApp in the platform: whether it is stopped.
fn marketing_is_stopped(node: &Node) -> bool {
    let view = node.engine.consent("acme", &person(), &[], None).unwrap();
    let [(_, register)] = view.person.record.preferences[..] else { panic!("no preference is known") };
    register.suppresses
}

/// The person wants marketing again, and stops it once more a minute later; the clock here is behind by two.
#[tokio::test]
async fn that_the_person_stopped_marketing_again_is_not_lost_to_a_clock_that_is_behind() {
    for stated in [Some(NOON.plus_ms(MINUTE_MS)), None] {
        let node = Node::open(Replica::alone());
        let resumed = ReleaseReport::Preference(SenderId::new("Acme").unwrap(), Some(NOON));
        node.record("resumed", Report::Release(resumed), Source::Caller).await;
        assert!(!marketing_is_stopped(&node));
        node.clock.advance_ms(-2 * MINUTE_MS);
        node.engine.report_send(stopped_marketing(stated)).await.unwrap();
        assert!(marketing_is_stopped(&node), "{stated:?}");
    }
}

/// The provider's queue delivers a failure once more, after the person wanted marketing again.
#[tokio::test]
async fn a_failure_told_again_stops_no_marketing_that_was_wanted_since() {
    let node = Node::open(Replica::alone());
    let failed = SendReport { message_id: "one".to_owned(), ..stopped_marketing(None) };
    node.engine.report_send(failed.clone()).await.unwrap();
    assert!(marketing_is_stopped(&node));
    node.clock.advance_ms(MINUTE_MS);
    let resumed = ReleaseReport::Preference(SenderId::new("Acme").unwrap(), None);
    node.record("resumed", Report::Release(resumed), Source::Caller).await;
    node.engine.report_send(failed.clone()).await.unwrap();
    assert!(!marketing_is_stopped(&node));
    // Another failure has another name, or where its caller names all alike, another time.
    let at_last = Some(node.clock.now());
    for again in [
        SendReport { message_id: "two".to_owned(), ..failed.clone() },
        SendReport { occurred: at_last, ..failed },
    ] {
        let resumed =
            ReleaseReport::Preference(SenderId::new("Acme").unwrap(), at_last.map(|at| at.minus_ms(1)));
        node.record(&again.message_id, Report::Release(resumed), Source::Caller).await;
        node.engine.report_send(again).await.unwrap();
        assert!(marketing_is_stopped(&node));
        node.clock.advance_ms(SECOND_MS);
    }
}

/// What a PutTemplate said of a pause stays, whenever a failure that it caused is told.
#[tokio::test]
async fn a_failure_of_a_paused_template_does_not_take_the_end_of_its_pause_away() {
    let node = Node::open(Replica::alone());
    let paused = TemplateEntry {
        business: BusinessId::new("acme").unwrap(),
        name: "news".to_owned(),
        language: "en".to_owned(),
        category: Category::Marketing,
        topic: Some(offers()),
        status: TemplateStatus::Approved,
        quality: Quality::Green,
        has_opt_out_instructions: false,
        pause_until: None,
        time: NOON,
    };
    node.engine.put_template(paused.clone()).await.unwrap();
    node.opts_in().await;
    let content = RequestedContent::Template { name: "news".to_owned(), language: "en".to_owned() };
    let asks = CheckRequest { content, ..Node::asks(person(), "sent", Mode::Enforce) };
    let decision = node.engine.check(&asks).unwrap();
    let until = NOON.plus_ms(HOUR_MS);
    node.clock.advance_ms(SECOND_MS);
    let pause = TemplateEntry { status: TemplateStatus::Paused, pause_until: Some(until), ..paused };
    node.engine.put_template(pause).await.unwrap();
    for told_at in [MINUTE_MS, 2 * HOUR_MS] {
        node.clock.advance_ms(told_at);
        let failed = SendReport {
            decision_id: decision.decision_id.clone(),
            error_code: "132015".to_owned(),
            ..stopped_marketing(None)
        };
        node.engine.report_send(failed).await.unwrap();
        let known = node.engine.inner.view.template("acme", "news", "en").unwrap();
        assert_eq!((known.status, known.pause_until), (TemplateStatus::Paused, Some(until)));
    }
}

/// The provider tells again, an hour later, of a reply that came after its window.
#[tokio::test]
async fn a_report_told_again_closes_no_window_that_opened_since() {
    let node = Node::open(Replica::alone());
    let reply = || {
        let content = RequestedContent::Message { category: Some(Category::Service), topic: None };
        let reply = CheckRequest { content, ..Node::asks(person(), "", Mode::Peek) };
        node.judge(CheckRequest { channel: Channel::Whatsapp, ..reply })
    };
    let says = |text: &str| Inbound { channel: Channel::Whatsapp, ..message(text, node.clock.now()) };
    node.engine.handle_inbound(says("hello")).await.unwrap();
    assert_eq!(reply(), None);
    node.clock.advance_ms(MINUTE_MS);
    let occurred = Some(node.clock.now());
    let failed = SendReport { error_code: "131047".to_owned(), ..stopped_marketing(occurred) };
    node.engine.report_send(failed.clone()).await.unwrap();
    assert_eq!(reply(), Some(Reason::WindowClosed));
    node.clock.advance_ms(HOUR_MS);
    node.engine.handle_inbound(says("hello again")).await.unwrap();
    node.engine.report_send(failed).await.unwrap();
    assert_eq!(reply(), None);
}

/// A decision may be of a key long gone; that the person stopped marketing is true all the same.
#[tokio::test]
async fn a_report_whose_decision_cannot_be_read_is_taken_by_what_else_it_says() {
    let node = Node::open(Replica::alone());
    let stopped = SendReport { decision_id: "of-another-key".to_owned(), ..stopped_marketing(None) };
    for lacks in [
        SendReport { business: None, ..stopped.clone() },
        SendReport { sender: None, ..stopped.clone() },
        SendReport { recipient: None, ..stopped.clone() },
    ] {
        let refused = node.engine.report_send(lacks).await;
        assert!(matches!(refused, Err(EngineError::Invalid { .. })), "{refused:?}");
    }
    let answer = node.engine.report_send(stopped).await.unwrap();
    assert_eq!(answer.events.len(), 1);
    let view = node.engine.consent("acme", &person(), &[], None).unwrap();
    assert_eq!(view.person.record.preferences.len(), 1);
}
