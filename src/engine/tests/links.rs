//! Addresses tied together: an opt-out under any written form of any of them reaches all, an opt-in under another form reaches none.

use super::*;
use crate::engine::people::LINKS_MAX;
use crate::policy::event::ConsentEvent;
use crate::policy::evidence::Personal;

/// Both written forms of a Mexican number: the one that is linked, and the other.
fn both_forms() -> [Address; 2] {
    ["+5215512345678", "+525512345678"].map(|number| Address::parse_phone(number).unwrap())
}

impl Node {
    async fn opts_out_at(&self, address: Address) {
        self.try_record(address, "stop", opt_out(self.clock.now()), Source::Caller).await.unwrap();
    }

    fn may_be_sent_to(&self, address: Address) -> Option<Reason> {
        self.denies_to(address, "", Mode::Peek)
    }
}

#[tokio::test]
async fn a_stop_under_another_written_form_reaches_what_is_linked_to_the_number() {
    let node = Node::open(Replica::alone());
    let [linked, other_form] = both_forms();
    node.opts_in().await;
    node.links(person(), linked).await;
    assert_eq!(node.may_be_sent_to(person()), None);
    node.clock.advance_ms(SECOND_MS);
    node.opts_out_at(other_form).await;
    assert_eq!(node.may_be_sent_to(person()), Some(Reason::OptedOut));
}

#[tokio::test]
async fn a_stop_under_another_written_form_reaches_what_is_linked_to_the_number_later() {
    let (here, there) = (Node::open(fresh()), Node::open(fresh()));
    let [linked, other_form] = both_forms();
    here.opts_in().await;
    there.opts_out_at(other_form).await;
    here.links(linked, person()).await;
    replicate(&there, &here).await;
    assert_eq!(here.may_be_sent_to(person()), Some(Reason::OptedOut));
}

/// Three addresses in a row, each tied to the next by one event, and the STOP under the last one's other form.
#[tokio::test]
async fn a_stop_under_another_written_form_goes_from_link_to_link() {
    let node = Node::open(Replica::alone());
    let [linked, other_form] = both_forms();
    node.opts_in().await;
    node.links(person(), other_address()).await;
    node.try_record_of(other_address(), vec![linked], "next", no_calls(node.clock.now()), Source::Caller)
        .await
        .unwrap();
    assert_eq!(node.may_be_sent_to(person()), None);
    node.clock.advance_ms(SECOND_MS);
    node.opts_out_at(other_form).await;
    assert_eq!(node.may_be_sent_to(person()), Some(Reason::OptedOut));
}

#[tokio::test]
async fn an_opt_in_counts_for_what_is_linked_and_not_for_what_another_written_form_is_linked_to() {
    let node = Node::open(Replica::alone());
    let [linked, other_form] = both_forms();
    node.links(person(), linked.clone()).await;
    let opts_in = |address| {
        let report = OptInReport {
            channels: vec![Channel::Sms],
            topics: vec![offers()],
            ..opt_in_by_form(node.clock.now())
        };
        node.try_record(address, "opt-in", Report::OptIn(report), Source::Caller)
    };
    opts_in(other_form.clone()).await.unwrap();
    assert_eq!(node.may_be_sent_to(other_form), None);
    assert_eq!(node.may_be_sent_to(person()), Some(Reason::NoConsent));
    opts_in(linked).await.unwrap();
    assert_eq!(node.may_be_sent_to(person()), None);
}

/// As a build before forms were kept wrote it; the next message that carries both says what that one left out.
#[tokio::test]
async fn a_message_ties_what_an_earlier_link_left_out() {
    let node = Node::open(Replica::alone());
    let [linked, other_form] = both_forms();
    node.opts_in().await;
    let of = |address: &Address| node.engine.inner.key.identifier("acme", address);
    let without_forms = ConsentEvent {
        business: BusinessId::new("acme").unwrap(),
        subjects: vec![of(&person()), of(&linked)],
        forms: Vec::new(),
        recorded: node.clock.now(),
        request: None,
        rules_version: String::new(),
        numbered_late: false,
        changes: Vec::new(),
    };
    let mut turn = crate::engine::stripes::Turn::default();
    node.engine.inner.append_event(without_forms, &Personal::default(), None, &mut turn).await.unwrap();
    let hello = Inbound { identifiers: vec![person(), linked], ..message("hello", node.clock.now()) };
    assert!(node.engine.handle_inbound(hello.clone()).await.unwrap().event.is_some());
    let again = Inbound { message_id: "again".to_owned(), ..hello };
    assert_eq!(node.engine.handle_inbound(again).await.unwrap().event, None);
    node.clock.advance_ms(SECOND_MS);
    node.opts_out_at(other_form).await;
    assert_eq!(node.may_be_sent_to(person()), Some(Reason::OptedOut));
}

#[tokio::test]
async fn nothing_is_allowed_where_more_is_linked_than_is_followed() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    let numbered = |n: usize| Address::parse_phone(&format!("+49151234{n:05}")).unwrap();
    for n in 1..=LINKS_MAX {
        let report = no_calls(node.clock.now());
        node.try_record_of(person(), vec![numbered(n)], &n.to_string(), report, Source::Caller)
            .await
            .unwrap();
    }
    assert_eq!(node.may_be_sent_to(person()), None);
    let one_more = no_calls(node.clock.now());
    node.try_record_of(person(), vec![numbered(LINKS_MAX + 1)], "more", one_more, Source::Caller)
        .await
        .unwrap();
    assert_eq!(node.may_be_sent_to(person()), Some(Reason::Unavailable));
    // An opt-out is recorded all the same.
    node.opts_out(node.clock.now(), Source::Caller).await;
}

/// The clock steps back between the opt-in under one form and the STOP under the other.
#[tokio::test]
async fn a_stop_under_another_written_form_comes_after_an_opt_in_that_is_known_whatever_the_clock_does() {
    let node = Node::open(Replica::alone());
    let [form, other_form] = both_forms();
    let report = OptInReport {
        channels: vec![Channel::Sms],
        topics: vec![offers()],
        ..opt_in_by_form(node.clock.now())
    };
    node.try_record(form.clone(), "opt-in", Report::OptIn(report), Source::Caller).await.unwrap();
    assert_eq!(node.may_be_sent_to(form.clone()), None);
    node.clock.advance_ms(-HOUR_MS);
    node.opts_out_at(other_form).await;
    node.clock.advance_ms(2 * HOUR_MS);
    assert_eq!(node.may_be_sent_to(form), Some(Reason::OptedOut));
}
