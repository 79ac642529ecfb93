//! Batches over the wire: their answers are encoded where they are judged, and are the same messages.

use std::sync::Arc;

use optgate::clock::ManualClock;
use optgate::grpc::routes::{MESSAGE_BYTES_MAX, Routes};
use optgate::grpc::server::{Config, Lifecycle, serve};
use optgate::grpc::services::send::Send;
use optgate::grpc::stack::Unobserved;
use optgate::grpc::status::details_of;
use optgate::net::accept::{Drained, Uncounted};
use optgate::net::listen::{BoundAddr, Listener};
use optgate::pb::v1;
use optgate::pb::v1::send_service_client::SendServiceClient;
use optgate::pb::v1::send_service_server::SendService as _;
use optgate::policy::time::Timestamp;
use optgate::readiness::Readiness;
use prost::Message as _;
use tokio::task::JoinHandle;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::decisions::node::Node;

struct Scene {
    send: Send,
    channel: Channel,
    lifecycle: Lifecycle,
    server: JoinHandle<Drained>,
    _node: Node,
}

impl Scene {
    async fn new() -> Self {
        let node = Node::open(&Arc::new(ManualClock::at(Timestamp(1_767_614_400_000))));
        let send = Send::new(node.engine.clone());
        let listener = Listener::tcp("127.0.0.1:0".parse().expect("an address"), 8).expect("binds");
        let BoundAddr::Tcp(addr) = listener.addr().clone() else { panic!("it is TCP") };
        let lifecycle = Lifecycle::default();
        let server = tokio::spawn(serve(
            vec![listener],
            Routes::new().send(send.clone()).batches(send.clone()),
            Config::default(),
            Readiness::starting(),
            lifecycle.clone(),
            Arc::new(Unobserved),
            Arc::new(Uncounted),
        ));
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("an endpoint");
        let channel = endpoint.connect().await.expect("connects");
        Self { send, channel, lifecycle, server, _node: node }
    }

    async fn stop(self) {
        drop(self.channel);
        self.lifecycle.stop.cancel();
        self.server.await.expect("the server ends");
    }
}

/// A batch of `count`, every seventh of whom has an address that cannot be read.
fn batch(count: usize) -> v1::BatchCheckSendRequest {
    let defaults = v1::CheckSendRequest {
        business_id: "acme".into(),
        sender_id: "555".into(),
        channel: v1::Channel::Sms.into(),
        content: Some(v1::check_send_request::Content::Message(v1::MessageContent::default())),
        mode: v1::CheckMode::Peek.into(),
        explain: true,
        ..Default::default()
    };
    let item = |number: usize| {
        let phone = if number % 7 == 3 { "nobody".into() } else { format!("+491510{number:07}") };
        let address = Some(v1::recipient::Address::Phone(phone));
        v1::CheckSendRequest { recipient: Some(v1::Recipient { address }), ..Default::default() }
    };
    v1::BatchCheckSendRequest { defaults: Some(defaults), items: (0..count).map(item).collect() }
}

/// What item `number` is answered where it is checked by itself.
async fn alone(scene: &Scene, batch: &v1::BatchCheckSendRequest, number: usize) -> v1::CheckSendResponse {
    let recipient = batch.items[number].recipient.clone();
    let request = v1::CheckSendRequest { recipient, ..batch.defaults.clone().unwrap_or_default() };
    scene.send.check_send(Request::new(request)).await.expect("an answer").into_inner()
}

fn refused<T>(answer: Result<T, Status>, code: Code, reason: &str) {
    let Err(status) = answer else { panic!("it was answered") };
    assert_eq!((status.code(), details_of(&status).reason.as_str()), (code, reason), "{status:?}");
}

#[tokio::test]
async fn a_batch_over_the_wire_is_the_same_message() {
    let scene = Scene::new().await;
    let plain = SendServiceClient::new(scene.channel.clone());
    for mut client in [plain.clone(), plain.send_compressed(Gzip)] {
        for count in [1, 2, 499, 1_000] {
            let asked = batch(count);
            let there = client.batch_check_send(asked.clone()).await.expect("an answer").into_inner();
            let here = scene.send.batch_check_send(Request::new(asked.clone())).await.expect("an answer");
            assert_eq!(there, here.into_inner());
            assert_eq!(there.results.len(), count);
            for (number, answer) in there.results.iter().enumerate() {
                let unread = answer.reason() == v1::Reason::InvalidRecipient;
                assert_eq!(unread, number % 7 == 3, "{number}: {answer:?}");
                assert_eq!(*answer, alone(&scene, &asked, number).await);
            }
        }
    }
    scene.stop().await;
}

#[tokio::test]
async fn a_batch_that_cannot_be_taken_is_the_callers_fault() {
    let scene = Scene::new().await;
    let mut client = SendServiceClient::new(scene.channel.clone());
    for count in [0, 1_001] {
        refused(client.batch_check_send(batch(count)).await, Code::InvalidArgument, "INVALID_FIELDS");
    }
    let mut large = batch(1);
    large.items[0].request_id = "x".repeat(MESSAGE_BYTES_MAX - large.encoded_len());
    assert!(large.encoded_len() > MESSAGE_BYTES_MAX, "one past what is taken");
    refused(client.batch_check_send(large).await, Code::InvalidArgument, "MESSAGE_TOO_LARGE");

    let mut client = tonic::client::Grpc::new(scene.channel.clone());
    client.ready().await.expect("ready");
    // The defaults, a text here, are a message on the other side's wire, and this is none.
    let wrong = v1::EventId { origin: "x".into(), sequence: 1 };
    let codec = tonic_prost::ProstCodec::<v1::EventId, v1::BatchCheckSendResponse>::default();
    let path = "/optgate.v1.SendService/BatchCheckSend".parse().expect("a path");
    let answer = client.unary(Request::new(wrong), path, codec).await;
    refused(answer, Code::InvalidArgument, "MALFORMED_MESSAGE");
    scene.stop().await;
}
