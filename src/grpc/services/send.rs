//! `SendService`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::engine::Engine;
use crate::engine::token::Token;
use crate::grpc::connection::put_message;
use crate::grpc::convert::check::{
    BATCH_ITEMS_MAX, check_request, check_response, report_response, send_report, with_defaults,
};
use crate::grpc::method::CHECK;
use crate::grpc::routes::AnswersNow;
use crate::grpc::stack::asked_deadline;
use crate::grpc::status::ApiError;
use crate::pb::v1;
use crate::pb::v1::send_service_server::SendService;

/// The service.
#[derive(Clone)]
pub struct Send {
    engine: Engine,
}

impl Send {
    /// Answers with `engine`.
    #[must_use]
    pub const fn new(engine: Engine) -> Self {
        Self { engine }
    }

    fn check(&self, request: v1::CheckSendRequest, path: &str) -> Result<v1::CheckSendResponse, ApiError> {
        let request = check_request(request, path)?;
        let answer = self.engine.check(&request)?;
        Ok(check_response(answer, || self.engine.instructions(&request.business)))
    }
}

impl AnswersNow for Send {
    fn answer(&self, message: Bytes, out: &mut BytesMut) -> Result<bool, Status> {
        let request = v1::CheckSendRequest::decode(message).map_err(|_| ApiError::Undecodable)?;
        if unknown_here(&self.engine, &request).is_some() {
            return Ok(false);
        }
        put_message(out, &self.check(request, "")?)?;
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

/// What remains of a check's time to judge and answer.
const ANSWER_BEFORE: Duration = Duration::from_millis(25);

/// How long a check may wait for what it asks to be known.
fn wait_within(metadata: &MetadataMap) -> Duration {
    let asked = asked_deadline(metadata.as_ref());
    asked.map_or(CHECK, |asked| asked.min(CHECK)).saturating_sub(ANSWER_BEFORE)
}

#[tonic::async_trait]
impl SendService for Send {
    async fn check_send(
        &self,
        request: Request<v1::CheckSendRequest>,
    ) -> Result<Response<v1::CheckSendResponse>, Status> {
        let within = wait_within(request.metadata());
        let request = request.into_inner();
        if let Some(token) = unknown_here(&self.engine, &request) {
            self.engine.wait_for(token, within).await;
        }
        // Microseconds: moving it to another thread would cost more than it takes.
        Ok(Response::new(self.check(request, "")?))
    }

    async fn batch_check_send(
        &self,
        request: Request<v1::BatchCheckSendRequest>,
    ) -> Result<Response<v1::BatchCheckSendResponse>, Status> {
        let v1::BatchCheckSendRequest { defaults, items } = request.into_inner();
        if items.is_empty() || items.len() > BATCH_ITEMS_MAX {
            let why = format!("must hold 1 to {BATCH_ITEMS_MAX} items");
            return Err(ApiError::field("items", why).into());
        }
        let this = self.clone();
        // Milliseconds: on the runtime's threads it would hold up single checks.
        let answered = tokio::task::spawn_blocking(move || this.check_all(items, defaults.as_ref()));
        let results = answered.await.unwrap_or(Err(ApiError::Internal))?;
        Ok(Response::new(v1::BatchCheckSendResponse { results }))
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

impl Send {
    /// A malformed item refuses the batch before any item consumes.
    fn check_all(
        &self,
        items: Vec<v1::CheckSendRequest>,
        defaults: Option<&v1::CheckSendRequest>,
    ) -> Result<Vec<v1::CheckSendResponse>, ApiError> {
        let mut faults = Vec::new();
        let mut requests = Vec::with_capacity(items.len());
        for (at, item) in items.into_iter().enumerate() {
            match check_request(with_defaults(item, defaults), &format!("items[{at}].")) {
                Ok(request) => requests.push(request),
                Err(ApiError::InvalidArgument(of_item)) => faults.extend(of_item),
                Err(other) => return Err(other),
            }
        }
        if !faults.is_empty() {
            return Err(ApiError::InvalidArgument(faults));
        }
        let answers = requests.iter().map(|request| {
            let answer = self.engine.check(request)?;
            Ok(check_response(answer, || self.engine.instructions(&request.business)))
        });
        answers.collect()
    }
}
