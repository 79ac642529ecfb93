//! The server's manners, tried on services that do nothing but wait, fail or answer.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use optgate::grpc::method::Group;
use optgate::grpc::routes::{MESSAGE_BYTES_MAX, Routes};
use optgate::grpc::server::{Config, Lifecycle, serve};
use optgate::grpc::stack::{Observed, Observer, Places, Unobserved};
use optgate::grpc::status::{ApiError, details_of};
use optgate::grpc::{health, reflection};
use optgate::net::accept::{Drained, Uncounted};
use optgate::net::listen::{BoundAddr, Listener};
use optgate::pb::v1;
use optgate::pb::v1::consent_service_client::ConsentServiceClient;
use optgate::pb::v1::consent_service_server::ConsentService;
use optgate::pb::v1::send_service_client::SendServiceClient;
use optgate::pb::v1::send_service_server::SendService;
use optgate::readiness::{Obstacle, Readiness};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Response, Status, Streaming};

/// Answers a check by what its request id says.
#[derive(Clone, Default)]
struct Fake {
    /// Told by each call that hangs.
    hanging: Arc<Notify>,
    /// Lets one hanging check go.
    release: Arc<Notify>,
    /// A call that never ends was dropped.
    abandoned: Arc<AtomicBool>,
}

struct SetWhenDropped(Arc<AtomicBool>);

impl Drop for SetWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl SendService for Fake {
    async fn check_send(
        &self,
        request: Request<v1::CheckSendRequest>,
    ) -> Result<Response<v1::CheckSendResponse>, Status> {
        match request.get_ref().request_id.as_str() {
            "hang" => {
                self.hanging.notify_one();
                self.release.notified().await;
            }
            "panic" => panic!("+12025550142"),
            "refuse" => return Err(ApiError::field("channel", "must be given").into()),
            _ => {}
        }
        Ok(Response::new(v1::CheckSendResponse::default()))
    }

    async fn batch_check_send(
        &self,
        _: Request<v1::BatchCheckSendRequest>,
    ) -> Result<Response<v1::BatchCheckSendResponse>, Status> {
        Ok(Response::new(v1::BatchCheckSendResponse::default()))
    }

    async fn report_send(
        &self,
        _: Request<v1::ReportSendRequest>,
    ) -> Result<Response<v1::ReportSendResponse>, Status> {
        Ok(Response::new(v1::ReportSendResponse::default()))
    }
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ConsentService for Fake {
    async fn record_consent(
        &self,
        _: Request<v1::RecordConsentRequest>,
    ) -> Result<Response<v1::RecordConsentResponse>, Status> {
        Ok(Response::new(v1::RecordConsentResponse::default()))
    }

    async fn get_consent(
        &self,
        _: Request<v1::GetConsentRequest>,
    ) -> Result<Response<v1::GetConsentResponse>, Status> {
        Ok(Response::new(v1::GetConsentResponse::default()))
    }

    async fn list_consent_events(
        &self,
        _: Request<v1::ListConsentEventsRequest>,
    ) -> Result<Response<v1::ListConsentEventsResponse>, Status> {
        Ok(Response::new(v1::ListConsentEventsResponse::default()))
    }

    type ImportConsentsStream = BoxStream<v1::ImportConsentsResponse>;

    async fn import_consents(
        &self,
        _: Request<Streaming<v1::ImportConsentsRequest>>,
    ) -> Result<Response<Self::ImportConsentsStream>, Status> {
        Err(ApiError::Internal.into())
    }

    type ExportConsentEventsStream = BoxStream<v1::ExportConsentEventsResponse>;

    async fn export_consent_events(
        &self,
        _: Request<v1::ExportConsentEventsRequest>,
    ) -> Result<Response<Self::ExportConsentEventsStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }

    type WatchConsentsStream = BoxStream<v1::WatchConsentsResponse>;

    /// One heartbeat, then silence without end.
    async fn watch_consents(
        &self,
        _: Request<v1::WatchConsentsRequest>,
    ) -> Result<Response<Self::WatchConsentsStream>, Status> {
        let heartbeat = tokio_stream::once(Ok(v1::WatchConsentsResponse::default()));
        Ok(Response::new(Box::pin(heartbeat.chain(tokio_stream::pending()))))
    }

    async fn get_recipient_refs(
        &self,
        _: Request<v1::GetRecipientRefsRequest>,
    ) -> Result<Response<v1::GetRecipientRefsResponse>, Status> {
        Ok(Response::new(v1::GetRecipientRefsResponse::default()))
    }

    /// Never ends.
    async fn erase_evidence(
        &self,
        _: Request<v1::EraseEvidenceRequest>,
    ) -> Result<Response<v1::EraseEvidenceResponse>, Status> {
        let _abandoned = SetWhenDropped(Arc::clone(&self.abandoned));
        self.hanging.notify_one();
        std::future::pending().await
    }
}

struct Running {
    addr: SocketAddr,
    fake: Fake,
    readiness: Readiness,
    lifecycle: Lifecycle,
    task: JoinHandle<Drained>,
}

fn tcp(connections_max: usize) -> Listener {
    Listener::tcp("127.0.0.1:0".parse().expect("an address"), connections_max).expect("binds")
}

fn port_of(listener: &Listener) -> SocketAddr {
    match listener.addr() {
        BoundAddr::Tcp(addr) => *addr,
        BoundAddr::Unix(path) => panic!("{} is not TCP", path.display()),
    }
}

fn run_on(listeners: Vec<Listener>, config: Config) -> Running {
    run_observed(listeners, config, Unobserved)
}

fn run_observed(listeners: Vec<Listener>, config: Config, observer: impl Observer) -> Running {
    let addr = port_of(&listeners[0]);
    let (fake, readiness, lifecycle) = (Fake::default(), Readiness::starting(), Lifecycle::default());
    let routes = Routes::new()
        .send(fake.clone())
        .consent(fake.clone())
        .other(health::service(readiness.clone()))
        .other(reflection::current().expect("the descriptors are sound"))
        .other(reflection::alpha().expect("the descriptors are sound"));
    let task = tokio::spawn(serve(
        listeners,
        routes,
        config,
        readiness.clone(),
        lifecycle.clone(),
        Arc::new(observer),
        Arc::new(Uncounted),
    ));
    Running { addr, fake, readiness, lifecycle, task }
}

fn run(config: Config) -> Running {
    run_on(vec![tcp(8)], config)
}

impl Running {
    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addr))
            .expect("an endpoint")
            .connect()
            .await
            .expect("connects")
    }

    async fn stop(self) -> Drained {
        self.lifecycle.stop.cancel();
        self.task.await.expect("the server ends")
    }
}

async fn unix_channel(path: &Path) -> Channel {
    let path = path.to_owned();
    Endpoint::from_static("http://optgate")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .expect("connects")
}

fn check(request_id: &str) -> v1::CheckSendRequest {
    v1::CheckSendRequest { request_id: request_id.into(), ..Default::default() }
}

fn few_checks(checks: usize) -> Config {
    Config { places: Places { checks, ..Places::default() }, ..Config::default() }
}

/// Starts a check that hangs and waits until it does.
async fn hang(running: &Running, channel: &Channel) -> JoinHandle<Result<(), Status>> {
    let mut client = SendServiceClient::new(channel.clone());
    let call = tokio::spawn(async move { client.check_send(check("hang")).await.map(drop) });
    running.fake.hanging.notified().await;
    call
}

#[tokio::test]
async fn a_flood_of_checks_is_shed_and_starves_no_record() {
    let running = run(few_checks(2));
    let channel = running.channel().await;
    let first = hang(&running, &channel).await;
    let second = hang(&running, &channel).await;

    let refused = SendServiceClient::new(channel.clone()).check_send(check("")).await.expect_err("shed");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let details = details_of(&refused);
    assert_eq!(details.reason, "OVERLOADED");
    assert!(details.retry_after.is_some());

    let mut consent = ConsentServiceClient::new(channel.clone());
    consent.record_consent(v1::RecordConsentRequest::default()).await.expect("records have their own places");

    running.fake.release.notify_one();
    let released = tokio::select! { done = first => done, done = second => done };
    released.expect("joins").expect("answers");
    SendServiceClient::new(channel).check_send(check("")).await.expect("a place is free again");
    assert_eq!(running.stop().await.cut, 0);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_takes_too_long_is_answered_all_the_same() {
    let running = run(Config::default());
    let channel = running.channel().await;
    let begin = tokio::time::Instant::now();
    let late = SendServiceClient::new(channel).check_send(check("hang")).await.expect_err("late");
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert_eq!(details_of(&late).reason, "DEADLINE_EXCEEDED");
    assert_eq!(begin.elapsed().as_millis() / 10, 25, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_caller_cannot_ask_for_more_time() {
    let running = run(Config::default());
    let mut request = Request::new(check("hang"));
    request.set_timeout(Duration::from_secs(9));
    let begin = tokio::time::Instant::now();
    let late = SendServiceClient::new(running.channel().await).check_send(request).await.expect_err("late");
    assert_eq!(details_of(&late).reason, "DEADLINE_EXCEEDED");
    assert_eq!(begin.elapsed().as_millis() / 10, 25);
}

#[tokio::test]
async fn errors_carry_their_details() {
    let running = run(Config::default());
    let mut client = SendServiceClient::new(running.channel().await);
    let error = client.check_send(check("refuse")).await.expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument);
    let details = details_of(&error);
    assert_eq!(details.reason, "INVALID_FIELDS");
    assert_eq!(details.field_faults[0].field, "channel");
}

#[tokio::test]
async fn a_panic_is_an_internal_error_that_tells_nothing_and_harms_nobody() {
    let running = run(few_checks(1));
    let mut client = SendServiceClient::new(running.channel().await);
    let error = client.check_send(check("panic")).await.expect_err("fails");
    assert_eq!(error.code(), Code::Internal);
    assert_eq!(details_of(&error).reason, "INTERNAL");
    assert!(!error.message().contains("2025550142"));
    client.check_send(check("")).await.expect("its place is free again");
}

#[tokio::test]
async fn oversize_messages_are_the_callers_fault() {
    let running = run(Config::default());
    let mut client = SendServiceClient::new(running.channel().await);
    let just_fits = check(&"x".repeat(MESSAGE_BYTES_MAX - 4));
    assert_eq!(prost::Message::encoded_len(&just_fits), MESSAGE_BYTES_MAX);
    client.check_send(just_fits).await.expect("fits");
    let error = client.check_send(check(&"x".repeat(MESSAGE_BYTES_MAX - 3))).await.expect_err("too large");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(details_of(&error).reason, "MESSAGE_TOO_LARGE");
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_fault() {
    let running = run(Config::default());
    let mut client = tonic::client::Grpc::new(running.channel().await);
    client.ready().await.expect("ready");
    // The recipient, a number here, is a text on the other method's wire: a wrong wire type.
    let wrong = v1::EventId { origin: "x".into(), sequence: 1 };
    let codec = tonic_prost::ProstCodec::<v1::EventId, v1::CheckSendResponse>::default();
    let path = "/optgate.v1.SendService/CheckSend".parse().expect("a path");
    let error = client.unary(Request::new(wrong), path, codec).await.expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(details_of(&error).reason, "MALFORMED_MESSAGE");
}

#[tokio::test]
async fn one_connection_past_the_cap_is_refused() {
    let running = run_on(vec![tcp(2)], Config::default());
    let (first, second) = (running.channel().await, running.channel().await);
    for channel in [&first, &second] {
        SendServiceClient::new(channel.clone()).check_send(check("")).await.expect("answers");
    }
    let third =
        Endpoint::from_shared(format!("http://{}", running.addr)).expect("an endpoint").connect_lazy();
    let error = SendServiceClient::new(third).check_send(check("")).await.expect_err("refused");
    assert_eq!(details_of(&error).reason, "", "not an answer: {error:?}");
    SendServiceClient::new(first).check_send(check("")).await.expect("the others are not disturbed");
}

#[tokio::test]
async fn a_socket_serves_beside_a_port_and_goes_at_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("api.sock");
    let unix = Listener::unix(&path, 0o660, 4).expect("binds");
    let running = run_on(vec![tcp(4), unix], Config::default());
    let channels = [unix_channel(&path).await, running.channel().await];
    for channel in &channels {
        SendServiceClient::new(channel.clone()).check_send(check("")).await.expect("answers");
    }
    assert_eq!(running.stop().await, Drained { finished: 2, cut: 0 });
    assert!(!path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_end_is_cut_by_the_deadline() {
    let running = run(Config::default());
    let mut client = ConsentServiceClient::new(running.channel().await);
    let call = tokio::spawn(async move { client.erase_evidence(v1::EraseEvidenceRequest::default()).await });
    running.fake.hanging.notified().await;
    let begin = tokio::time::Instant::now();
    let abandoned = Arc::clone(&running.fake.abandoned);
    assert_eq!(running.stop().await, Drained { finished: 0, cut: 1 });
    assert!(begin.elapsed() >= Config::default().drain && begin.elapsed() < Duration::from_secs(11));
    call.await.expect("joins").expect_err("cut");
    assert!(abandoned.load(Ordering::SeqCst), "the handler does not outlive the server");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_ended_politely_while_the_server_stops() {
    let running = run(Config::default());
    let mut client = ConsentServiceClient::new(running.channel().await);
    let mut stream =
        client.watch_consents(v1::WatchConsentsRequest::default()).await.expect("begins").into_inner();
    stream.message().await.expect("no error").expect("a heartbeat");

    let begin = tokio::time::Instant::now();
    let ending = tokio::spawn(async move { stream.message().await });
    let drained = running.stop().await;
    let error = ending.await.expect("joins").expect_err("cut");
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(details_of(&error).reason, "STOPPING");
    assert_eq!(drained, Drained { finished: 1, cut: 0 });
    assert!(begin.elapsed() >= Duration::from_secs(1) && begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_running_call_is_answered_while_the_server_stops_and_new_ones_are_refused() {
    let running = run(Config::default());
    let channel = running.channel().await;
    let call = hang(&running, &channel).await;
    running.lifecycle.stop.cancel();
    running.lifecycle.end_streams.cancelled().await;
    assert!(!running.readiness.now().is_ready());
    running.fake.release.notify_one();
    call.await.expect("joins").expect("is answered");
    assert_eq!(running.task.await.expect("ends").cut, 0);
    assert!(tokio::net::TcpStream::connect(running.addr).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_loses_its_place() {
    use tokio::io::AsyncReadExt as _;
    let running = run_on(vec![tcp(1)], Config::default());
    let mut silent = tokio::net::TcpStream::connect(running.addr).await.expect("connects");
    let mut bytes = Vec::new();
    silent.read_to_end(&mut bytes).await.expect("is closed");
    let channel = running.channel().await;
    SendServiceClient::new(channel).check_send(check("")).await.expect("the place is free");
}

#[tokio::test]
async fn health_follows_readiness() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

    let running = run(Config::default());
    let mut client = HealthClient::new(running.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    let is = |status: ServingStatus| HealthCheckResponse { status: status as i32 };

    let mut watch = client.watch(ask("readiness")).await.expect("begins").into_inner();
    assert_eq!(watch.message().await.expect("no error"), Some(is(ServingStatus::NotServing)));
    assert_eq!(client.check(ask("liveness")).await.expect("known").into_inner(), is(ServingStatus::Serving));

    running.readiness.clear(Obstacle::Starting);
    assert_eq!(watch.message().await.expect("no error"), Some(is(ServingStatus::Serving)));
    for service in ["", "readiness", "liveness", "optgate.v1.SendService", "optgate.v1.AdminService"] {
        let answer = client.check(ask(service)).await.expect("known").into_inner();
        assert_eq!(answer, is(ServingStatus::Serving), "{service}");
    }
    let unknown = client.check(ask("optgate.v1.NoService")).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    let mut unknown = client.watch(ask("optgate.v1.NoService")).await.expect("begins").into_inner();
    assert_eq!(unknown.message().await.expect("no error"), Some(is(ServingStatus::ServiceUnknown)));
    drop(unknown);

    running.readiness.raise(Obstacle::LedgerFailed);
    assert_eq!(watch.message().await.expect("no error"), Some(is(ServingStatus::NotServing)));
    assert_eq!(
        client.check(ask("liveness")).await.expect("known").into_inner(),
        is(ServingStatus::NotServing)
    );
}

#[tokio::test]
async fn reflection_lists_the_services_in_both_versions() {
    use tonic_reflection::pb::{v1 as current, v1alpha as alpha};

    let running = run(Config::default());
    let channel = running.channel().await;
    let ask = current::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            current::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let mut answers = current::server_reflection_client::ServerReflectionClient::new(channel.clone())
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .expect("begins")
        .into_inner();
    let answer = answers.message().await.expect("no error").expect("an answer").message_response;
    let Some(current::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer
    else {
        panic!("not a list: {answer:?}");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    for service in ["Admin", "Consent", "Inbound", "Send"] {
        assert!(names.contains(&format!("optgate.v1.{service}Service")), "{names:?}");
    }
    assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");

    let ask = alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "optgate.v1.SendService".into(),
        )),
    };
    let mut answers = alpha::server_reflection_client::ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .expect("begins")
        .into_inner();
    let answer = answers.message().await.expect("no error").expect("an answer").message_response;
    assert!(
        matches!(answer, Some(alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn unknown_methods_and_absent_services_are_unimplemented() {
    let running = run(Config::default());
    let channel = running.channel().await;
    let mut client = v1::admin_service_client::AdminServiceClient::new(channel);
    let error = client.get_status(v1::GetStatusRequest::default()).await.expect_err("absent");
    assert_eq!(error.code(), Code::Unimplemented);
}

struct Recorder(mpsc::UnboundedSender<(&'static str, Group, Code)>);

struct Recorded(mpsc::UnboundedSender<(&'static str, Group, Code)>, &'static str, Group);

impl Observer for Recorder {
    type Call = Recorded;

    fn start(&self, method: &'static optgate::grpc::method::Method, _: &http::HeaderMap) -> Recorded {
        Recorded(self.0.clone(), method.name, method.group)
    }
}

impl Observed for Recorded {
    fn finish(self, code: Code) {
        self.0.send((self.1, self.2, code)).expect("the test listens");
    }

    fn forget(self) {}
}

#[tokio::test]
async fn calls_are_observed_with_their_codes() {
    let (send, mut seen) = mpsc::unbounded_channel();
    let running = run_observed(vec![tcp(1)], Config::default(), Recorder(send));
    let channel = running.channel().await;
    let mut client = SendServiceClient::new(channel.clone());
    client.check_send(check("")).await.expect("answers");
    client.check_send(check("refuse")).await.expect_err("refused");
    ConsentServiceClient::new(channel)
        .record_consent(v1::RecordConsentRequest::default())
        .await
        .expect("answers");
    assert_eq!(seen.recv().await, Some(("CheckSend", Group::Checks, Code::Ok)));
    assert_eq!(seen.recv().await, Some(("CheckSend", Group::Checks, Code::InvalidArgument)));
    assert_eq!(seen.recv().await, Some(("RecordConsent", Group::Records, Code::Ok)));
}
