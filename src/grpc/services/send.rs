//! `SendService`.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::engine::Engine;
use crate::grpc::connection::put_message;
use crate::grpc::convert::check::{
    BATCH_ITEMS_MAX, check_request, check_response, report_response, send_report, with_defaults,
};
use crate::grpc::routes::AnswersNow;
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
    fn answer(&self, message: Bytes, out: &mut BytesMut) -> Result<(), Status> {
        let request = v1::CheckSendRequest::decode(message).map_err(|_| ApiError::Undecodable)?;
        Ok(put_message(out, &self.check(request, "")?)?)
    }
}

#[tonic::async_trait]
impl SendService for Send {
    async fn check_send(
        &self,
        request: Request<v1::CheckSendRequest>,
    ) -> Result<Response<v1::CheckSendResponse>, Status> {
        // Microseconds: moving it to another thread would cost more than it takes.
        Ok(Response::new(self.check(request.into_inner(), "")?))
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
