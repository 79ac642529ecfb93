//! What a person answers: questions and their confirmations, doubts and what ends them.

use super::*;

/// Offers by SMS are asked for by a form, to be confirmed by SMS.
fn asks_by_sms(occurred: Timestamp) -> Report {
    let opt_in =
        OptInReport { channels: vec![Channel::Sms], topics: vec![offers()], ..opt_in_by_form(occurred) };
    Report::Request(RequestReport { opt_in, via: Some(Channel::Sms), expire: None })
}

/// The clock steps back between the clear reply and the next doubtful one.
#[tokio::test]
async fn a_doubt_that_nobody_timed_holds_whatever_the_clock_does() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    let untimed = |text: &str| Inbound { occurred: None, message_id: String::new(), ..message(text, NOON) };
    node.clock.advance_ms(MINUTE_MS);
    node.engine.handle_inbound(untimed("remove my order")).await.unwrap();
    node.clock.advance_ms(MINUTE_MS);
    node.engine.handle_inbound(untimed("please don't stop")).await.unwrap();
    assert_eq!(node.denies_to(person(), "", Mode::Peek), None);
    node.clock.advance_ms(-HOUR_MS);
    node.engine.handle_inbound(untimed("remove my order")).await.unwrap();
    assert_eq!(node.denies_to(person(), "", Mode::Peek), Some(Reason::ConsentInDoubt));
    node.clock.advance_ms(MINUTE_MS);
    node.engine.handle_inbound(untimed("please don't stop")).await.unwrap();
    assert_eq!(node.denies(""), None);
}

/// The person opted in on three channels by one event; its confirmation is one message.
#[tokio::test]
async fn the_confirmation_of_an_opt_in_is_sent_once_on_whatever_channel() {
    let node = Node::open(Replica::alone());
    let report = OptInReport {
        channels: vec![Channel::Sms, Channel::Voice],
        topics: vec![offers()],
        ..opt_in_by_form(NOON)
    };
    let opted_in =
        node.try_record(person(), "in", Report::OptIn(report), Source::Caller).await.unwrap().event;
    let confirms = |channel| {
        let content = RequestedContent::Message { category: Some(Category::Service), topic: None };
        let asks = Node::asks(person(), "", Mode::Enforce);
        node.judge(CheckRequest { about: Some(opted_in), channel, content, ..asks })
    };
    assert_eq!(confirms(Channel::Sms), None);
    assert_eq!(confirms(Channel::Voice), Some(Reason::WindowClosed));
}

/// A request of one channel is confirmed; what the caller says of others beside it is no clear word of the person there.
#[tokio::test]
async fn a_confirmation_ends_a_doubt_where_it_confirms_and_nowhere_else() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    node.engine.handle_inbound(message("remove my order", NOON)).await.unwrap();
    assert_eq!(node.denies_to(person(), "", Mode::Peek), Some(Reason::ConsentInDoubt));
    node.clock.advance_ms(MINUTE_MS);
    let asked = node.asks_to_confirm_on(Channel::Voice).await.about;
    let confirms = |id: &'static str, channels: Vec<Channel>, asked| {
        let report = OptInReport { channels, confirms: asked, ..opt_in_by_form(node.clock.now()) };
        node.try_record(person(), id, Report::OptIn(report), Source::Caller)
    };
    confirms("voice", vec![Channel::Sms], asked).await.unwrap();
    assert_eq!(node.denies_to(person(), "", Mode::Peek), Some(Reason::ConsentInDoubt));
    let Report::Request(for_sms) = asks_by_sms(node.clock.now()) else { unreachable!() };
    let asked =
        node.try_record(person(), "sms", Report::Request(for_sms), Source::Caller).await.unwrap().event;
    confirms("text", Vec::new(), Some(asked)).await.unwrap();
    assert_eq!(node.denies_to(person(), "", Mode::Peek), None);
}

/// One event asks by email for the email and by SMS for the phone that belongs to it.
#[tokio::test]
async fn an_answer_by_email_confirms_nothing_for_the_phone() {
    let email = Address::parse_email("someone@example.org").unwrap();
    let asks = |channel: Channel| {
        let opt_in = OptInReport { channels: vec![channel], topics: vec![offers()], ..opt_in_by_form(NOON) };
        Report::Request(RequestReport { opt_in, via: Some(channel), expire: None })
    };
    let request = |reports: Vec<Report>, id: &str| RecordRequest {
        business: BusinessId::new("acme").unwrap(),
        recipient: email.clone(),
        also: vec![person()],
        request_id: id.to_owned(),
        content: [1; 8],
        reports,
        actor: "system:test".to_owned(),
        wants_replicated: None,
        source: Source::Caller,
        row: None,
        warnings: Vec::new(),
    };
    let node = Node::open(Replica::alone());
    let both = request(vec![asks(Channel::Email), asks(Channel::Sms)], "asks");
    let asked = node.engine.record_consent(both).await.unwrap().event;
    let clicked = |channels: Vec<Channel>| {
        let confirms = OptInReport { channels, confirms: Some(asked), ..opt_in_by_form(NOON) };
        Report::OptIn(confirms)
    };
    let refused = node.engine.record_consent(request(vec![clicked(Vec::new())], "clicks")).await;
    let Err(EngineError::Invalid { .. }) = refused else { panic!("{refused:?}") };
    let by_email = request(vec![clicked(vec![Channel::Email])], "clicks");
    node.engine.record_consent(by_email).await.unwrap();
    let by_mail = CheckRequest { channel: Channel::Email, ..Node::asks(email.clone(), "", Mode::Peek) };
    assert_eq!(node.judge(by_mail), None);
    assert!(node.denies_to(person(), "", Mode::Peek).is_some());
}

#[tokio::test]
async fn where_nobody_times_messages_a_yes_soon_after_a_stop_counts() {
    let node = Node::open(Replica::alone());
    let timeless = |text| Inbound { occurred: None, ..message(text, NOON) };
    node.engine.handle_inbound(timeless("STOP")).await.unwrap();
    node.clock.advance_ms(MINUTE_MS);
    let question = node.asks_to_confirm().await;
    assert_eq!(node.judge(question), None);
    node.clock.advance_ms(SECOND_MS);
    node.engine.handle_inbound(timeless("YES")).await.unwrap();
    assert_eq!(node.denies(""), None);
}

/// It was sent before the STOP, by the provider's own order, so it answers no question that came after the STOP.
#[tokio::test]
async fn a_late_yes_of_before_a_stop_confirms_nothing_that_was_asked_for_after_it() {
    let node = Node::open(Replica::alone());
    let (yes, stop) = (NOON.plus_ms(6 * MINUTE_MS), NOON.plus_ms(7 * MINUTE_MS));
    node.clock.advance_ms(7 * MINUTE_MS);
    node.engine.handle_inbound(message("STOP", stop)).await.unwrap();
    node.clock.advance_ms(MINUTE_MS);
    let question = node.asks_to_confirm().await;
    assert_eq!(node.judge(question), None);
    node.clock.advance_ms(SECOND_MS);
    node.engine.handle_inbound(message("YES", yes)).await.unwrap();
    assert!(node.denies("").is_some());
    node.engine.handle_inbound(message("yes", node.clock.now())).await.unwrap();
    assert_eq!(node.denies(""), None, "a YES of now does");
}

/// The STOP ended SMS alone, and calls were asked for after it, to be confirmed by SMS.
#[tokio::test]
async fn a_late_yes_of_before_a_stop_confirms_nothing_for_another_channel_either() {
    let node = Node::open(Replica::alone());
    let (yes, stop) = (NOON.plus_ms(6 * MINUTE_MS), NOON.plus_ms(7 * MINUTE_MS));
    node.clock.advance_ms(7 * MINUTE_MS);
    node.engine.handle_inbound(message("STOP", stop)).await.unwrap();
    node.clock.advance_ms(MINUTE_MS);
    let question = node.asks_to_confirm_on(Channel::Voice).await;
    assert_eq!(node.judge(question), None);
    let may_call = || {
        let call = CheckRequest { channel: Channel::Voice, ..Node::asks(person(), "", Mode::Peek) };
        node.judge(call).is_none()
    };
    node.clock.advance_ms(SECOND_MS);
    node.engine.handle_inbound(message("YES", yes)).await.unwrap();
    assert!(!may_call());
    node.engine.handle_inbound(message("yes", node.clock.now())).await.unwrap();
    assert!(may_call(), "a YES of now does");
}

/// The YES was sent first, and comes last: the STOP ends SMS, not what the YES is about.
#[tokio::test]
async fn a_yes_for_another_channel_outlives_a_stop_that_was_sent_after_it() {
    let node = Node::open(Replica::alone());
    let question = node.asks_to_confirm_on(Channel::Voice).await;
    assert_eq!(node.judge(question), None);
    node.clock.advance_ms(MINUTE_MS);
    let (yes, stop) = (node.clock.now().minus_ms(2 * SECOND_MS), node.clock.now().minus_ms(SECOND_MS));
    node.engine.handle_inbound(message("STOP", stop)).await.unwrap();
    node.engine.handle_inbound(message("YES", yes)).await.unwrap();
    let call = CheckRequest { channel: Channel::Voice, ..Node::asks(person(), "", Mode::Peek) };
    assert_eq!(node.judge(call), None);
}

/// What a message about a consent event meets on a channel.
fn about(node: &Node, event: EventId, channel: Channel) -> Option<Reason> {
    let content = RequestedContent::Message { category: Some(Category::Service), topic: None };
    node.judge(CheckRequest { about: Some(event), channel, content, ..Node::asks(person(), "", Mode::Peek) })
}

#[tokio::test]
async fn an_opt_in_is_confirmed_only_where_it_still_stands() {
    let node = Node::open(Replica::alone());
    let report = OptInReport {
        channels: vec![Channel::Sms, Channel::Voice],
        topics: vec![offers()],
        ..opt_in_by_form(node.clock.now())
    };
    let answer = node.try_record(person(), "both", Report::OptIn(report), Source::Caller).await.unwrap();
    let event = answer.event;
    assert_eq!([Channel::Sms, Channel::Voice].map(|channel| about(&node, event, channel)), [None, None]);
    node.clock.advance_ms(SECOND_MS);
    node.opts_out(node.clock.now(), Source::Caller).await;
    assert_eq!(about(&node, event, Channel::Sms), Some(Reason::OptedOut));
    assert_eq!(about(&node, event, Channel::Voice), None);
}

/// What the confirmation of a STOP rests on ends five minutes after it, so an ALLOW of the last minute does not outlast that.
#[tokio::test]
async fn a_confirmation_may_be_sent_no_longer_than_its_event_allows() {
    let node = Node::open(Replica::alone());
    let stop = node.engine.handle_inbound(message("STOP", NOON)).await.unwrap();
    let until = NOON.plus_ms(5 * MINUTE_MS);
    assert_eq!(stop.confirmation.unwrap().send_before, until);
    node.clock.advance_ms(5 * MINUTE_MS - SECOND_MS);
    let content = RequestedContent::Message { category: Some(Category::Service), topic: None };
    let confirms = CheckRequest { about: stop.event, content, ..Node::asks(person(), "", Mode::Peek) };
    let answer = node.engine.check(&confirms).unwrap();
    assert!(answer.violations.is_empty(), "{:?}", answer.violations);
    assert_eq!(answer.valid_until, Some(until));
}

#[tokio::test]
async fn a_question_is_not_asked_where_the_person_said_stop_meanwhile() {
    let node = Node::open(Replica::alone());
    let report = RequestReport {
        opt_in: OptInReport {
            channels: vec![Channel::Voice],
            topics: vec![offers()],
            ..opt_in_by_form(node.clock.now())
        },
        via: Some(Channel::Sms),
        expire: None,
    };
    let answer = node.try_record(person(), "asks", Report::Request(report), Source::Caller).await.unwrap();
    let event = answer.event;
    assert_eq!(about(&node, event, Channel::Sms), None);
    node.clock.advance_ms(SECOND_MS);
    node.opts_out(node.clock.now(), Source::Caller).await;
    assert_eq!(about(&node, event, Channel::Sms), Some(Reason::OptedOut));
}
