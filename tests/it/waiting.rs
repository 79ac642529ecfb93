//! Calls that ask for something to be known wait for it, but not beyond their deadline.

use std::sync::Arc;
use std::time::Duration;

use optgate::clock::ManualClock;
use optgate::engine::token::Token;
use optgate::grpc::services::consent::Consent;
use optgate::grpc::services::send::Send;
use optgate::pb::v1;
use optgate::pb::v1::consent_service_server::ConsentService as _;
use optgate::pb::v1::send_service_server::SendService as _;
use optgate::policy::time::Timestamp;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::decisions::node::Node;

const PERSON: &str = "+4915123456789";
const OTHER: &str = "+4915123456780";
/// Who answers within this did not wait.
const EARLY: Duration = Duration::from_millis(100);

struct Scene {
    send: Send,
    consent: Consent,
    _node: Node,
}

fn phone(number: &str) -> Option<v1::Recipient> {
    Some(v1::Recipient { address: Some(v1::recipient::Address::Phone(number.into())) })
}

fn item(token: &str) -> v1::CheckSendRequest {
    v1::CheckSendRequest {
        business_id: "acme".into(),
        sender_id: "555".into(),
        recipient: phone(PERSON),
        channel: v1::Channel::Sms.into(),
        content: Some(v1::check_send_request::Content::Message(v1::MessageContent::default())),
        at_least_as_fresh: token.into(),
        ..Default::default()
    }
}

fn within<T>(ms: u64, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_millis(ms));
    request
}

/// The token of the event after the one that `token` names.
fn next(token: &str) -> String {
    let mut event = token.parse::<Token>().expect("a token").0.expect("an event");
    event.sequence += 1;
    Token(Some(event)).to_string()
}

impl Scene {
    fn new() -> Self {
        let node = Node::open(&Arc::new(ManualClock::at(Timestamp(1_767_614_400_000))));
        let consent = Consent::new(node.engine.clone(), CancellationToken::new());
        Self { send: Send::new(node.engine.clone()), consent, _node: node }
    }

    /// `who` opts out; the answer's token.
    async fn opts_out(&self, who: &str) -> String {
        let opt_out = v1::OptOut { method: v1::OptOutMethod::WebForm.into(), ..Default::default() };
        let change = v1::ConsentChange {
            change: Some(v1::consent_change::Change::OptOut(opt_out)),
            occurred_time: None,
        };
        let request = v1::RecordConsentRequest {
            request_id: who.into(),
            business_id: "acme".into(),
            recipient: phone(who),
            changes: vec![change],
            ..Default::default()
        };
        let answer = self.consent.record_consent(Request::new(request)).await.expect("recorded");
        answer.into_inner().token
    }

    /// The reasons of a batch whose items ask for these tokens.
    async fn batch(&self, ms: u64, tokens: &[&str]) -> Vec<v1::Reason> {
        let items = tokens.iter().map(|token| item(token)).collect();
        let request = v1::BatchCheckSendRequest { defaults: None, items };
        let answer = self.send.batch_check_send(within(ms, request)).await.expect("an answer").into_inner();
        answer.results.iter().map(v1::CheckSendResponse::reason).collect()
    }

    async fn get(&self, ms: u64, token: &str) -> Result<v1::GetConsentResponse, tonic::Status> {
        let request = v1::GetConsentRequest {
            business_id: "acme".into(),
            recipient: phone(PERSON),
            channels: Vec::new(),
            at_least_as_fresh: token.into(),
        };
        self.consent.get_consent(within(ms, request)).await.map(tonic::Response::into_inner)
    }
}

#[tokio::test]
async fn a_batch_waits_once_for_all_that_its_items_ask_for() {
    let scene = Scene::new();
    let known = scene.opts_out(OTHER).await;
    let coming = next(&known);
    let tokens = [known.as_str(), coming.as_str(), ""];
    let mut batch = std::pin::pin!(scene.batch(2_000, &tokens));
    let early = tokio::time::timeout(EARLY, batch.as_mut()).await;
    assert!(early.is_err(), "answered before it was known: {early:?}");
    assert_eq!(scene.opts_out(PERSON).await, coming);
    assert_eq!(batch.await, [v1::Reason::OptedOut; 3]);
}

#[tokio::test]
async fn a_long_batch_is_answered_in_its_order() {
    let scene = Scene::new();
    scene.opts_out(PERSON).await;
    let defaults = v1::CheckSendRequest { mode: v1::CheckMode::Peek.into(), ..item("") };
    let of = |number: usize| if number % 7 == 3 { PERSON } else { OTHER };
    let items = (0..1_000)
        .map(|number| v1::CheckSendRequest { recipient: phone(of(number)), ..Default::default() })
        .collect();
    let request = v1::BatchCheckSendRequest { defaults: Some(defaults), items };
    let answer = scene.send.batch_check_send(within(5_000, request)).await.expect("an answer").into_inner();
    assert_eq!(answer.results.len(), 1_000);
    for (number, answer) in answer.results.iter().enumerate() {
        let is_out = answer.reason() == v1::Reason::OptedOut;
        assert_eq!(is_out, of(number) == PERSON, "{number}");
    }
}

#[tokio::test]
async fn what_does_not_come_in_time_is_stale_for_those_that_asked_for_it() {
    let scene = Scene::new();
    let known = scene.opts_out(OTHER).await;
    let never = next(&known);
    let begun = std::time::Instant::now();
    let request = v1::BatchCheckSendRequest {
        defaults: None,
        items: vec![item(&never), item(&known), item("1-09090909090909090909090909090909-5")],
    };
    let answer = scene.send.batch_check_send(within(60, request)).await.expect("an answer").into_inner();
    let stale = |answer: &v1::CheckSendResponse| {
        answer.violations.iter().any(|violation| violation.reason() == v1::Reason::Stale)
    };
    assert_eq!(answer.results.iter().map(stale).collect::<Vec<_>>(), [true, false, true]);
    let refused = scene.get(60, &never).await.expect_err("it is not known");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(begun.elapsed() < Duration::from_secs(2), "none waits longer than its caller");
}

#[tokio::test]
async fn a_read_waits_for_what_it_asks_for() {
    let scene = Scene::new();
    let known = scene.opts_out(OTHER).await;
    let coming = next(&known);
    let mut read = std::pin::pin!(scene.get(2_000, &coming));
    let early = tokio::time::timeout(EARLY, read.as_mut()).await;
    assert!(early.is_err(), "answered before it was known: {early:?}");
    assert_eq!(scene.opts_out(PERSON).await, coming);
    let read = read.await.expect("an answer");
    assert!(!read.stale && read.opt_outs.len() == 1, "{read:?}");
}
