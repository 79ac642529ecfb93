//! Calls to anchors beside the streams: to whom, and as whom.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use super::dial::{ADDRESSES_MAX, KEEPALIVE, resolve};
use super::door::{PEER_MESSAGE_BYTES_MAX, PEER_STREAM_WINDOW_BYTES};
use crate::grpc::status::ApiError;
use crate::pb::replication::v1 as pb;
use crate::pb::replication::v1::peer_service_client::PeerServiceClient;
use crate::replication::Settings;
use crate::replication::frame::PROTOCOL;

/// How long a connection may take to stand.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How long resolving the names may take.
const RESOLVE_WITHIN: Duration = Duration::from_secs(2);

pub type Client = PeerServiceClient<Channel>;

/// The anchors that the configured names lead to.
pub struct Anchors {
    peers: Vec<String>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    clients: BTreeMap<SocketAddr, Client>,
    /// Who answered last: asked first.
    preferred: Option<SocketAddr>,
}

impl Anchors {
    pub fn new(peers: Vec<String>) -> Self {
        Self { peers, known: Mutex::default() }
    }

    /// Resolves the names again.
    pub async fn look_up(&self) {
        let found = match tokio::time::timeout(RESOLVE_WITHIN, resolve(&self.peers)).await {
            Ok(Ok(found)) => found,
            Ok(Err((peer, error))) => {
                tracing::warn!(peer, %error, "an anchor's name cannot be resolved; trying again");
                return;
            }
            Err(_) => return,
        };
        let mut known = self.known.lock();
        known.clients.retain(|addr, _| found.contains(addr));
        for addr in found.into_iter().take(ADDRESSES_MAX) {
            known.clients.entry(addr).or_insert_with(|| client(addr));
        }
    }

    /// All of them, who answered last first.
    pub fn in_turn(&self) -> Vec<(SocketAddr, Client)> {
        let known = self.known.lock();
        let mut all: Vec<_> = known.clients.iter().map(|(addr, client)| (*addr, client.clone())).collect();
        all.sort_by_key(|(addr, _)| Some(*addr) != known.preferred);
        all
    }

    pub fn answered(&self, addr: SocketAddr) {
        self.known.lock().preferred = Some(addr);
    }
}

fn client(addr: SocketAddr) -> Client {
    let endpoint = Endpoint::from(uri(addr))
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .tcp_nodelay(true)
        .initial_stream_window_size(PEER_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(PEER_STREAM_WINDOW_BYTES);
    PeerServiceClient::new(endpoint.connect_lazy())
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX)
}

fn uri(addr: SocketAddr) -> http::Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    // A socket's address is an authority, and with the path nothing is missing.
    parts.authority = addr.to_string().parse().ok();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    http::Uri::from_parts(parts).unwrap_or_default()
}

/// As whom this node asks.
pub fn membership(settings: &Settings) -> pb::Membership {
    pb::Membership {
        protocol: PROTOCOL,
        cluster_id: settings.cluster_id.clone(),
        key_check: settings.key_check.to_vec(),
        address_form_version: settings.address_form_version,
    }
}

/// Checks who asks.
pub fn check_member(member: Option<&pb::Membership>, ours: &pb::Membership) -> Result<(), ApiError> {
    let Some(pb::Membership { protocol, cluster_id, key_check, address_form_version }) = member else {
        return Err(ApiError::field("member", "is required"));
    };
    let differs = if *protocol != ours.protocol {
        "the protocol's version"
    } else if *cluster_id != ours.cluster_id {
        "replication.cluster_id"
    } else if *key_check != ours.key_check {
        "the cluster key"
    } else if *address_form_version != ours.address_form_version {
        "the form of addresses"
    } else {
        return Ok(());
    };
    tracing::error!(differs, "a node is refused: it is not of this cluster");
    Err(ApiError::NotOfThisCluster(differs))
}
