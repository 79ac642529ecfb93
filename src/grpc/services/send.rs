//! `SendService`.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::engine::Engine;
use crate::engine::token::Token;
use crate::grpc::connection::put_message;
use crate::grpc::convert::check::{check_request, check_response, report_response, send_report};
use crate::grpc::method::CHECK;
use crate::grpc::routes::AnswersNow;
use crate::grpc::status::ApiError;
use crate::pb::v1;
use crate::pb::v1::send_service_server::SendService;

use super::{wait_for_all, wait_within};

/// The service.
#[derive(Clone)]
pub struct Send {
    pub(super) engine: Engine,
    /// How many batches are being judged.
    pub(super) judging: Arc<AtomicUsize>,
}

impl Send {
    /// Answers with `engine`.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        Self { engine, judging: Arc::default() }
    }

    fn check(&self, request: v1::CheckSendRequest) -> Result<v1::CheckSendResponse, ApiError> {
        let request = check_request(request, None)?;
        let answer = self.engine.check(&request)?;
        Ok(check_response(answer))
    }
}

impl AnswersNow for Send {
    fn answer(&self, message: Bytes, out: &mut BytesMut) -> Result<bool, Status> {
        let request = v1::CheckSendRequest::decode(message).map_err(|_| ApiError::Undecodable)?;
        if unknown_here(&self.engine, &request).is_some() {
            return Ok(false);
        }
        put_message(out, &self.check(request)?)?;
        Ok(true)
    }
}

/// What the request asks to be known and is not known here yet. A token that cannot be read is the check's to refuse.
fn unknown_here(engine: &Engine, request: &v1::CheckSendRequest) -> Option<Token> {
    if request.at_least_as_fresh.is_empty() {
        return None;
    }
    let token = request.at_least_as_fresh.parse().ok()?;
    (!engine.knows(token)).then_some(token)
}

/// What a check needs of its time to judge and answer.
pub(super) const TO_ANSWER: Duration = Duration::from_millis(25);

#[tonic::async_trait]
impl SendService for Send {
    async fn check_send(
        &self,
        request: Request<v1::CheckSendRequest>,
    ) -> Result<Response<v1::CheckSendResponse>, Status> {
        let within = wait_within(request.metadata(), CHECK, TO_ANSWER);
        let request = request.into_inner();
        wait_for_all(&self.engine, unknown_here(&self.engine, &request), within).await;
        // Microseconds: moving it to another thread would cost more than it takes.
        Ok(Response::new(self.check(request)?))
    }

    async fn batch_check_send(
        &self,
        request: Request<v1::BatchCheckSendRequest>,
    ) -> Result<Response<v1::BatchCheckSendResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let results = self.answer_batch(move || Ok(request), &metadata).await?;
        let response = v1::BatchCheckSendResponse::decode(results.concat().as_slice());
        Ok(Response::new(response.map_err(|_| ApiError::Internal)?))
    }

    async fn report_send(
        &self,
        request: Request<v1::ReportSendRequest>,
    ) -> Result<Response<v1::ReportSendResponse>, Status> {
        let report = send_report(request.into_inner())?;
        let answer = self.engine.report_send(report).await.map_err(ApiError::from)?;
        Ok(Response::new(report_response(answer)))
    }
}
