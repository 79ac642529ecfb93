//! `InboundService`.

use tonic::{Request, Response, Status};

use crate::engine::Engine;
use crate::grpc::convert::inbound::{inbound, inbound_response};
use crate::grpc::status::ApiError;
use crate::pb::v1;
use crate::pb::v1::inbound_service_server::InboundService;

/// The service.
#[derive(Clone)]
pub struct Inbound {
    engine: Engine,
}

impl Inbound {
    /// Answers with `engine`.
    #[must_use]
    pub const fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl InboundService for Inbound {
    async fn handle_inbound_message(
        &self,
        request: Request<v1::HandleInboundMessageRequest>,
    ) -> Result<Response<v1::HandleInboundMessageResponse>, Status> {
        let (message, warnings) = inbound(request.into_inner(), self.engine.key())?;
        let channel = message.channel;
        let answer = self.engine.handle_inbound(message).await.map_err(ApiError::from)?;
        Ok(Response::new(inbound_response(answer, channel, warnings)))
    }
}
