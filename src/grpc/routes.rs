//! From a method to the service that answers it.

use std::convert::Infallible;

use http::{Request, Response};
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

use bytes::{Bytes, BytesMut};
use tonic::Status;

use super::connection::RequestBody;
use super::method::Owner;
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

/// The services of one listener. A service that was not added answers UNIMPLEMENTED.
#[derive(Default)]
pub struct Routes {
    own: [Option<Box<dyn Answers>>; Owner::COUNT],
    checks: Option<Box<dyn AnswersNow>>,
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

    pub(crate) fn call(&self, owner: Owner, request: Request<RequestBody>) -> Answer {
        match self.own.get(owner as usize) {
            Some(Some(service)) => service.answer(request),
            _ => Box::pin(self.others.clone().call(request)),
        }
    }
}
