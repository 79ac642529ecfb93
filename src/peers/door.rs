//! Takes the streams that peers dial.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::anchors::check_member;
use super::compare;
use super::link::{Links, Outgoing};
use super::snapshot::{self, Parts};
use crate::engine::Engine;
use crate::engine::edge::Numbered;
use crate::engine::submitted::TakenIn;
use crate::grpc::status::ApiError;
use crate::pb::replication::v1 as pb;
use crate::pb::replication::v1::peer_service_server::{PeerService, PeerServiceServer};
use crate::policy::ids::EventId;
use crate::replication::frame::FRAME_LEN_MAX;
use crate::view::PERSON_FORM_VERSION;

/// How many snapshots are given at once: each reads the whole view.
const SNAPSHOTS_MAX: usize = 2;
/// How many ranges are compared at once.
const COMPARISONS_MAX: usize = 2;
/// How many events of edges are under way at once: fewer than there are places for calls, so that streams of peers find one.
const SUBMITS_MAX: usize = 128;
/// The longest that an edge's event waits for a majority, in milliseconds.
const SUBMIT_WAIT_MS_MAX: u32 = 60_000;
/// The longest message between peers, in bytes.
pub const PEER_MESSAGE_BYTES_MAX: usize = FRAME_LEN_MAX + 1_024;
/// Bytes that a peer may send ahead on its stream, so that a distant one keeps it full.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// The service that peers dial.
#[derive(Clone)]
pub struct Door {
    links: Links,
    engine: Engine,
    member: Arc<pb::Membership>,
    snapshots: Arc<Semaphore>,
    comparisons: Arc<Semaphore>,
    submits: Arc<Semaphore>,
}

impl Door {
    pub(super) fn new(links: Links, engine: Engine, member: pb::Membership) -> Self {
        let snapshots = Arc::new(Semaphore::new(SNAPSHOTS_MAX));
        let comparisons = Arc::new(Semaphore::new(COMPARISONS_MAX));
        let submits = Arc::new(Semaphore::new(SUBMITS_MAX));
        Self { links, engine, member: Arc::new(member), snapshots, comparisons, submits }
    }

    /// As a service.
    #[must_use]
    pub fn service(self) -> PeerServiceServer<Self> {
        PeerServiceServer::new(self)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
    }
}

/// What goes out on a stream that a peer dialled.
pub struct Answers(Outgoing);

impl Stream for Answers {
    type Item = Result<pb::ExchangeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let frame = Pin::new(&mut self.0).poll_next(context);
        frame.map(|frame| frame.map(|frame| Ok(pb::ExchangeResponse { frame: Some(frame) })))
    }
}

/// Numbers what an edge took in.
pub async fn number(
    engine: &Engine,
    request: pb::SubmitRequest,
    within: Duration,
) -> Result<pb::SubmitResponse, Status> {
    let pb::SubmitRequest { member: _, payload, blob, wait_ms: _, age_ms } = request;
    let taken_in = TakenIn { payload, blob, age_ms };
    let Numbered { event, replicated } = engine.number(taken_in, within).await.map_err(ApiError::from)?;
    let EventId { origin, sequence } = event;
    Ok(pb::SubmitResponse { origin: origin.0.to_vec(), sequence, replicated })
}

#[tonic::async_trait]
impl PeerService for Door {
    type ExchangeStream = Answers;
    type SnapshotStream = Parts;

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Parts>, Status> {
        let pb::SnapshotRequest { member, person_form_version, wants_named, suppressing_only } =
            request.into_inner();
        check_member(member.as_ref(), &self.member)?;
        if person_form_version != u32::from(PERSON_FORM_VERSION) {
            return Err(ApiError::OtherForm.into());
        }
        self.engine.ledger().map_err(ApiError::from)?;
        let extent = snapshot::extent_of(suppressing_only);
        if !snapshot::may_give(&self.engine, extent) {
            return Err(ApiError::Starting.into());
        }
        let turn = Arc::clone(&self.snapshots).try_acquire_owned().map_err(|_| ApiError::Overloaded)?;
        Ok(Response::new(snapshot::give(&self.engine, extent, wants_named, turn)))
    }

    async fn compare(
        &self,
        request: Request<pb::CompareRequest>,
    ) -> Result<Response<pb::CompareResponse>, Status> {
        let request = request.into_inner();
        check_member(request.member.as_ref(), &self.member)?;
        let _turn = self.comparisons.try_acquire().map_err(|_| ApiError::Overloaded)?;
        Ok(Response::new(compare::answer(&self.engine, request).await?))
    }

    async fn submit(
        &self,
        request: Request<pb::SubmitRequest>,
    ) -> Result<Response<pb::SubmitResponse>, Status> {
        let request = request.into_inner();
        check_member(request.member.as_ref(), &self.member)?;
        let _turn = self.submits.try_acquire().map_err(|_| ApiError::Overloaded)?;
        let within = Duration::from_millis(request.wait_ms.min(SUBMIT_WAIT_MS_MAX).into());
        Ok(Response::new(number(&self.engine, request, within).await?))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let opened = self.links.open().ok_or(ApiError::Overloaded)?;
        let (links, link, closing) = (self.links.clone(), opened.link, opened.closing);
        let frames = request
            .into_inner()
            .map(|message| message.map(|pb::ExchangeRequest { frame }| frame.unwrap_or_default()));
        links.connected(link, false);
        tokio::spawn(async move {
            let why = links.read(link, frames, closing).await;
            links.ended(link, why).await;
        });
        Ok(Response::new(Answers(opened.outgoing)))
    }
}
