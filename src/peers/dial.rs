//! Dials the configured peers, each address by a task of its own, for as long as the name leads there.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::door::{PEER_MESSAGE_BYTES_MAX, PEER_STREAM_WINDOW_BYTES};
use super::link::{Hold, Links};
use crate::pb::replication::v1 as pb;
use crate::pb::replication::v1::peer_service_client::PeerServiceClient;

/// How often names are resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// The most addresses of all names together that are dialled.
pub(super) const ADDRESSES_MAX: usize = 64;
/// The wait before an address is dialled again; doubles up to [`REDIAL_MAX`].
const REDIAL: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(5);
/// The wait before a peer that refused is asked again: an operator has to act first.
const REDIAL_REFUSED: Duration = Duration::from_secs(30);
/// How long a connection may take to stand.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How often a silent connection is asked whether it lives, and how long it may take to say so.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(10);
/// A link that stood this long was a good one: the next wait is short again.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Dials until `stop`.
pub async fn run(peers: Vec<String>, links: Links, stop: CancellationToken) {
    let mut dialling: BTreeMap<SocketAddr, CancellationToken> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        match resolve(&peers).await {
            Ok(addresses) => {
                dialling.retain(|addr, leave| {
                    let stays = addresses.contains(addr);
                    if !stays {
                        tracing::info!(peer = %addr, "the peer's name leads there no more");
                        leave.cancel();
                    }
                    stays
                });
                for addr in addresses.into_iter().take(ADDRESSES_MAX) {
                    dialling.entry(addr).or_insert_with(|| {
                        let leave = stop.child_token();
                        tasks.spawn(keep(addr, links.clone(), leave.clone()));
                        leave
                    });
                }
            }
            // A name that cannot be resolved now says nothing about the peers that are connected.
            Err((peer, error)) => {
                tracing::warn!(peer, %error, "a peer's name cannot be resolved; trying again")
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(RESOLVE_EVERY) => {}
        }
        while tasks.try_join_next().is_some() {}
    }
    links.close_all();
    tasks.shutdown().await;
}

pub(super) async fn resolve(peers: &[String]) -> Result<Vec<SocketAddr>, (String, std::io::Error)> {
    let mut addresses = Vec::new();
    let mut fault = None;
    for peer in peers {
        match tokio::net::lookup_host(peer.as_str()).await {
            Ok(found) => addresses.extend(found),
            Err(error) => fault = Some((peer.clone(), error)),
        }
    }
    addresses.sort_unstable();
    addresses.dedup();
    // Some of the names are better than none; but with one missing, nobody is given up.
    match fault {
        Some(fault) if addresses.is_empty() => Err(fault),
        Some((peer, error)) => {
            tracing::debug!(peer, %error, "a peer's name cannot be resolved");
            Ok(addresses)
        }
        None => Ok(addresses),
    }
}

/// Dials `addr` again and again until `leave`.
async fn keep(addr: SocketAddr, links: Links, leave: CancellationToken) {
    let mut wait = REDIAL;
    while !leave.is_cancelled() {
        let begun = tokio::time::Instant::now();
        // A link that stands is kept, even if the name leads elsewhere by now: its peer may be reached by no other.
        let until = match once(addr, &links).await {
            Some(Hold::Until(other)) => {
                tokio::select! {
                    () = leave.cancelled() => return,
                    () = other.cancelled() => REDIAL,
                }
            }
            Some(Hold::Long) => REDIAL_REFUSED,
            None => {
                wait = if begun.elapsed() >= GOOD_AFTER { REDIAL } else { (wait * 2).min(REDIAL_MAX) };
                wait
            }
        };
        tokio::select! {
            () = leave.cancelled() => return,
            () = tokio::time::sleep(until) => {}
        }
    }
}

/// Dials once and serves the link until it ends; says why not to dial again at once.
async fn once(addr: SocketAddr, links: &Links) -> Option<Hold> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))
        .ok()?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(PEER_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(PEER_STREAM_WINDOW_BYTES);
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => {
            tracing::debug!(peer = %addr, %error, "a peer cannot be reached");
            return None;
        }
    };
    let mut client = PeerServiceClient::new(channel)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
    let opened = links.open()?;
    let outgoing = opened.outgoing.map(|frame| pb::ExchangeRequest { frame: Some(frame) });
    let exchange = tokio::time::timeout(CONNECT_WITHIN, client.exchange(outgoing)).await;
    let frames = match exchange {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => {
            tracing::debug!(peer = %addr, code = ?status.code(), text = status.message(), "a peer does not talk");
            links.ended(opened.link, status.message().to_owned()).await;
            return None;
        }
        Err(_) => {
            links.ended(opened.link, "the peer did not answer in time".to_owned()).await;
            return None;
        }
    };
    links.connected(opened.link, true);
    let frames =
        frames.map(|message| message.map(|pb::ExchangeResponse { frame }| frame.unwrap_or_default()));
    let why = links.read(opened.link, frames, opened.closing).await;
    tracing::debug!(peer = %addr, why, "a stream to a peer ended");
    links.ended(opened.link, why).await;
    opened.hold.lock().take()
}
