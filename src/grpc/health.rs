//! grpc.health.v1, told by [`Readiness`] alone.
//!
//! Services: `liveness` (should the process be left running; never depends on peers), `readiness` (should it be sent
//! calls), the empty name and each service of `optgate.v1`, which follow readiness.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt as _, wrappers::WatchStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::method::METHODS;
use super::status::ApiError;
use crate::readiness::{Readiness, State};

/// The name under which liveness is asked for.
pub const LIVENESS: &str = "liveness";

/// The name under which readiness is asked for.
pub const READINESS: &str = "readiness";

/// The health service.
#[must_use]
pub fn service(readiness: Readiness) -> HealthServer<impl Health> {
    HealthServer::new(HealthService { readiness })
}

struct HealthService {
    readiness: Readiness,
}

#[derive(Clone, Copy)]
enum Question {
    Live,
    Ready,
}

impl Question {
    fn of_name(name: &str) -> Option<Self> {
        match name {
            LIVENESS => Some(Self::Live),
            "" | READINESS => Some(Self::Ready),
            _ => METHODS.iter().any(|method| method.service == name).then_some(Self::Ready),
        }
    }

    fn answer(self, state: &State) -> HealthCheckResponse {
        let yes = match self {
            Self::Live => state.is_live(),
            Self::Ready => state.is_ready(),
        };
        let status = if yes { ServingStatus::Serving } else { ServingStatus::NotServing };
        HealthCheckResponse { status: status as i32 }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let question = Question::of_name(&request.get_ref().service).ok_or(ApiError::NotFound("service"))?;
        Ok(Response::new(question.answer(&self.readiness.now())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // The protocol wants SERVICE_UNKNOWN and an open stream here, since the service may be added later.
        let Some(question) = Question::of_name(&request.get_ref().service) else {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown as i32 };
            let never = tokio_stream::pending();
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(unknown)).chain(never))));
        };
        let mut last = None;
        let changes = WatchStream::new(self.readiness.watch()).filter_map(move |state| {
            let answer = question.answer(&state);
            (last.replace(answer.status) != Some(answer.status)).then_some(Ok(answer))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
