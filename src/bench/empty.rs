//! The measure: the same services in plain tonic, with handlers that answer nothing.

use std::path::Path;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::{BenchError, io};
use crate::pb::v1;
use crate::pb::v1::consent_service_server::{ConsentService, ConsentServiceServer};
use crate::pb::v1::send_service_server::{SendService, SendServiceServer};

/// Answers nothing.
struct Empty;

/// Serves until it is killed.
///
/// # Errors
/// When the socket cannot be bound.
pub async fn serve(uds: &Path) -> Result<(), BenchError> {
    if uds.exists() {
        std::fs::remove_file(uds).map_err(io("remove an old socket"))?;
    }
    let listener = UnixListener::bind(uds).map_err(io("bind a socket"))?;
    Server::builder()
        .add_service(SendServiceServer::new(Empty))
        .add_service(ConsentServiceServer::new(Empty))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?;
    Ok(())
}

#[tonic::async_trait]
impl SendService for Empty {
    async fn check_send(
        &self,
        _: Request<v1::CheckSendRequest>,
    ) -> Result<Response<v1::CheckSendResponse>, Status> {
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

type NoStream<T> = tokio_stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl ConsentService for Empty {
    type ImportConsentsStream = NoStream<v1::ImportConsentsResponse>;
    type ExportConsentEventsStream = NoStream<v1::ExportConsentEventsResponse>;
    type WatchConsentsStream = NoStream<v1::WatchConsentsResponse>;

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

    async fn import_consents(
        &self,
        _: Request<Streaming<v1::ImportConsentsRequest>>,
    ) -> Result<Response<Self::ImportConsentsStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn export_consent_events(
        &self,
        _: Request<v1::ExportConsentEventsRequest>,
    ) -> Result<Response<Self::ExportConsentEventsStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn watch_consents(
        &self,
        _: Request<v1::WatchConsentsRequest>,
    ) -> Result<Response<Self::WatchConsentsStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn get_recipient_refs(
        &self,
        _: Request<v1::GetRecipientRefsRequest>,
    ) -> Result<Response<v1::GetRecipientRefsResponse>, Status> {
        Ok(Response::new(v1::GetRecipientRefsResponse::default()))
    }

    async fn erase_evidence(
        &self,
        _: Request<v1::EraseEvidenceRequest>,
    ) -> Result<Response<v1::EraseEvidenceResponse>, Status> {
        Ok(Response::new(v1::EraseEvidenceResponse::default()))
    }
}
