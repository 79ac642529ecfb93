//! From a method to the service that answers it.

use std::convert::Infallible;

use http::{Request, Response};
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::{BoxFuture, Service};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService};

use bytes::{Bytes, BytesMut};
use tonic::Status;

use super::as_bytes::AsBytes;
use super::connection::RequestBody;
use super::method::{Group, Method, Owner};
use crate::pb::v1::admin_service_server::{AdminService, AdminServiceServer};
use crate::pb::v1::consent_service_server::{ConsentService, ConsentServiceServer};
use crate::pb::v1::inbound_service_server::{InboundService, InboundServiceServer};
use crate::pb::v1::send_service_server::{SendService, SendServiceServer};

/// The largest message to SendService and AdminService, in bytes. A batch of 1,000 takes about 200 KB.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// The largest message to ConsentService and InboundService, in bytes: an opt-out with far too long a text is cut, not
/// refused, so it has to come in first.
pub const CONSENT_MESSAGE_BYTES_MAX: usize = 4 << 20;

type Answer = BoxFuture<Response<Body>, Infallible>;

/// A service behind one virtual call; its future is boxed by the generated code already.
trait Answers: Send + Sync {
    fn answer(&self, request: Request<RequestBody>) -> Answer;
}

impl<S> Answers for S
where
    S: Service<Request<RequestBody>, Response = Response<Body>, Error = Infallible, Future = Answer>
        + Clone
        + Send
        + Sync,
{
    fn answer(&self, request: Request<RequestBody>) -> Answer {
        self.clone().call(request)
    }
}

/// Answers a message in microseconds, on the thread that has read it.
pub trait AnswersNow: Send + Sync + 'static {
    /// Appends the answer's message, with its head, to `out`; `false`: the answer has to be waited for, so a task must give it.
    ///
    /// # Errors
    /// What the caller is told instead; what `out` got is not sent.
    fn answer(&self, message: Bytes, out: &mut BytesMut) -> Result<bool, Status>;
}

/// Answers a message with an encoded one: for answers of which it costs much to have all in memory as messages.
pub trait AnswersEncoded: Clone + Send + Sync + 'static {
    /// The parts of the answer's message, one after the other.
    ///
    /// # Errors
    /// What the caller is told instead.
    fn answer(
        &self,
        message: Bytes,
        metadata: &MetadataMap,
    ) -> impl Future<Output = Result<Vec<Bytes>, Status>> + Send;
}

/// Such a service as tonic serves it.
struct Encoded<S>(S);

impl<S: AnswersEncoded> Answers for Encoded<S> {
    fn answer(&self, request: Request<RequestBody>) -> Answer {
        let service = self.0.clone();
        let answer = tower::service_fn(move |request: tonic::Request<Bytes>| {
            let service = service.clone();
            async move {
                let (metadata, _, message) = request.into_parts();
                service.answer(message, &metadata).await.map(tonic::Response::new)
            }
        });
        Box::pin(async move {
            let grpc = Grpc::new(AsBytes).accept_compressed(Gzip);
            Ok(grpc.max_decoding_message_size(MESSAGE_BYTES_MAX).unary(answer, request).await)
        })
    }
}

/// The services of one listener. A service that was not added answers UNIMPLEMENTED.
#[derive(Default)]
pub struct Routes {
    own: [Option<Box<dyn Answers>>; Owner::COUNT],
    checks: Option<Box<dyn AnswersNow>>,
    batches: Option<Box<dyn Answers>>,
    others: tonic::service::Routes,
}

impl Routes {
    /// No service.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds SendService.
    #[must_use]
    pub fn send(self, service: impl SendService) -> Self {
        let server = SendServiceServer::new(service)
            .accept_compressed(Gzip)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        self.with(Owner::Send, server)
    }

    /// Adds a way to answer `CheckSend` at once, where its message has arrived with its headers.
    #[must_use]
    pub fn checks_now(mut self, checks: impl AnswersNow) -> Self {
        self.checks = Some(Box::new(checks));
        self
    }

    /// Adds a way to answer `BatchCheckSend` with what is encoded already.
    #[must_use]
    pub fn batches(mut self, batches: impl AnswersEncoded) -> Self {
        self.batches = Some(Box::new(Encoded(batches)));
        self
    }

    pub(crate) fn checks(&self) -> Option<&dyn AnswersNow> {
        self.checks.as_deref()
    }

    /// Adds ConsentService.
    #[must_use]
    pub fn consent(self, service: impl ConsentService) -> Self {
        let server = ConsentServiceServer::new(service)
            .accept_compressed(Gzip)
            .max_decoding_message_size(CONSENT_MESSAGE_BYTES_MAX);
        self.with(Owner::Consent, server)
    }

    /// Adds InboundService.
    #[must_use]
    pub fn inbound(self, service: impl InboundService) -> Self {
        let server = InboundServiceServer::new(service)
            .accept_compressed(Gzip)
            .max_decoding_message_size(CONSENT_MESSAGE_BYTES_MAX);
        self.with(Owner::Inbound, server)
    }

    /// Adds AdminService.
    #[must_use]
    pub fn admin(self, service: impl AdminService) -> Self {
        let server = AdminServiceServer::new(service)
            .accept_compressed(Gzip)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        self.with(Owner::Admin, server)
    }

    /// Adds any other service: health, reflection.
    #[must_use]
    pub fn other<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.others = self.others.add_service(service);
        self
    }

    fn with(mut self, owner: Owner, service: impl Answers + 'static) -> Self {
        if let Some(slot) = self.own.get_mut(owner as usize) {
            *slot = Some(Box::new(service));
        }
        self
    }

    pub(crate) fn call(&self, method: &Method, request: Request<RequestBody>) -> Answer {
        if let Some(batches) = self.batches.as_ref().filter(|_| method.group == Group::Batches) {
            return batches.answer(request);
        }
        match self.own.get(method.owner as usize) {
            Some(Some(service)) => service.answer(request),
            _ => Box::pin(self.others.clone().call(request)),
        }
    }
}
