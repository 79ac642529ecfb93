//! The node among others: what its peers' side is told, and the listener that peers dial.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::{self, Config};
use crate::engine::Engine;
use crate::engine::replica::Replica;
use crate::grpc::routes::Routes;
use crate::grpc::server::{self, Lifecycle};
use crate::grpc::stack::Unobserved;
use crate::net::accept::Uncounted;
use crate::net::listen::Listener;
use crate::peers::{self, Driver, PEER_STREAM_WINDOW_BYTES, Peers};
use crate::policy::ids::EventId;
use crate::readiness::{Obstacle, Readiness};
use crate::replication::Settings;
use crate::replication::frame::{Instance, Role, Run};
use crate::{address, clock};

/// What checks read of the cluster.
pub fn replica(replication: &config::Replication) -> Arc<Replica> {
    Arc::new(if replication.is_alone() {
        Replica::alone()
    } else {
        Replica::among_others(Duration::from_millis(replication.opt_out_wait_ms))
    })
}

/// The peers' side of the node, where it is among others.
pub fn start(config: &Config, engine: &Engine, readiness: &Readiness) -> Option<(Peers, Driver)> {
    let replication = &config.replication;
    if replication.is_alone() {
        return None;
    }
    readiness.raise(Obstacle::CatchingUp);
    let machine = Settings {
        cluster_id: replication.cluster_id.clone(),
        key_check: engine.key().check_value(),
        address_form_version: address::ADDRESS_FORM_VERSION,
        anchors: replication.anchors_or_counted(),
        role: match replication.role {
            config::Role::Anchor => Role::Anchor,
            config::Role::Edge => Role::Edge,
        },
        heartbeat_ms: replication.heartbeat_ms,
        ..Settings::new(Instance(engine.identity_of_store()), Run(run()))
    };
    let config = peers::Config {
        machine,
        peers: replication.peers.clone(),
        max_staleness: Duration::from_millis(replication.max_staleness_ms),
        bootstrap_budget: Duration::from_millis(replication.bootstrap_budget_ms),
        compare_every: Duration::from_millis(replication.compare_every_ms),
        far_behind_events: replication.far_behind_events,
    };
    Some(peers::new(engine.clone(), readiness.clone(), config))
}

fn run() -> [u8; 16] {
    let mut run = [0; 16];
    // Without randomness the clock still tells runs apart.
    if getrandom::fill(&mut run).is_err() {
        run[..8].copy_from_slice(&clock::mono_ms().to_le_bytes());
    }
    run
}

/// How long a node that stops waits until others have its last events.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(2);

/// Waits until a majority has the last own event: what was acknowledged here alone would be missed elsewhere until this node is back.
pub async fn hand_over(engine: &Engine) {
    if let Some(edge) = engine.edge()
        && !edge.emptied(HAND_OVER_WITHIN).await
    {
        let items = edge.waiting().items;
        tracing::warn!(
            items,
            "anchors do not have all that was taken in here; it is sent on after the next start"
        );
    }
    let Ok(ledger) = engine.ledger() else { return };
    let Some(origin) = ledger.own_origin() else { return };
    let last = ledger.vector().into_iter().find(|(known, _)| *known == origin);
    let Some((origin, head)) = last else { return };
    let event = EventId { origin, sequence: head.sequence };
    if !engine.replica().is_alone() && !engine.replica().replicated(event, HAND_OVER_WITHIN).await {
        tracing::warn!(%event, "a majority of the anchors does not have the last events of this node yet");
    }
}

/// Serves the streams that peers dial, until `stop`.
pub async fn serve(
    listener: Option<Listener>,
    peers: Option<Peers>,
    drain: Duration,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let (Some(listener), Some(peers)) = (listener, peers) else { return };
    tracing::info!(address = %listener.addr(), "listening for peers");
    let config = server::Config {
        drain,
        stream_window_bytes: PEER_STREAM_WINDOW_BYTES,
        // A peer that is gone without a word is noticed by the protocol's own heartbeats.
        ..server::Config::default()
    };
    let routes = Routes::new().other(peers.door().service());
    let lifecycle = Lifecycle { stop, end_streams: CancellationToken::new() };
    server::serve(
        vec![listener],
        routes,
        config,
        readiness,
        lifecycle,
        Arc::new(Unobserved),
        Arc::new(Uncounted),
    )
    .await;
}
