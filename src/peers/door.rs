//! Takes the streams that peers dial.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::link::{Links, Outgoing};
use crate::grpc::status::ApiError;
use crate::pb::replication::v1 as pb;
use crate::pb::replication::v1::peer_service_server::{PeerService, PeerServiceServer};
use crate::replication::frame::FRAME_LEN_MAX;

/// The longest message between peers, in bytes.
pub const PEER_MESSAGE_BYTES_MAX: usize = FRAME_LEN_MAX + 1_024;
/// Bytes that a peer may send ahead on its stream, so that a distant one keeps it full.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// The service that peers dial.
#[derive(Clone)]
pub struct Door {
    links: Links,
}

impl Door {
    pub(super) const fn new(links: Links) -> Self {
        Self { links }
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

#[tonic::async_trait]
impl PeerService for Door {
    type ExchangeStream = Answers;

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
