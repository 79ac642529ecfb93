//! The listeners together, and the order of stopping.
//!
//! The server accepts and drives connections itself instead of through tonic's transport, since that one can neither cap
//! connections nor end a drain: a single call that hangs would keep the process for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::Http2;
use super::routes::Routes;
use super::stack::{Observer, Places, Stack};
use crate::net::accept::{self, ConnectionObserver, Drained};
use crate::net::listen::Listener;
use crate::readiness::{Obstacle, Readiness};

/// How the server treats its callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Calls of each group at once.
    pub places: Places,
    /// How long connections may finish once the server stops. Streams are ended after a second, or half of it if that is less.
    pub drain: Duration,
    /// Calls at once on one connection; more wait at the client.
    pub streams_per_connection_max: u32,
    /// Bytes that a client may send ahead on one stream: requests are small, and imports wait for their answers anyway.
    pub stream_window_bytes: u32,
    /// How long a new connection may take to speak HTTP/2.
    pub handshake: Duration,
    /// How often a silent connection is asked whether it lives.
    pub keepalive_interval: Duration,
    /// How long it may take to say so.
    pub keepalive_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            places: Places::default(),
            drain: Duration::from_secs(10),
            streams_per_connection_max: 128,
            stream_window_bytes: 64 * 1024,
            handshake: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

/// What a stop is made of, in its order.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    /// Cancelled from outside: stop.
    pub stop: CancellationToken,
    /// Cancelled by the server once it stops: handlers of streams that see it end them by themselves, which is kinder than
    /// the cut that follows.
    pub end_streams: CancellationToken,
}

/// Serves the listeners until `lifecycle.stop`. Then, in this order: not ready, no more connections, streams end, connections finish
/// within `config.drain`, the rest is cut. When it returns no call runs any more, so that the ledger can be closed.
pub async fn serve<O: Observer, C: ConnectionObserver>(
    listeners: Vec<Listener>,
    routes: Routes,
    config: Config,
    readiness: Readiness,
    lifecycle: Lifecycle,
    calls: Arc<O>,
    connections: Arc<C>,
) -> Drained {
    let cut = CancellationToken::new();
    let tracker = TaskTracker::new();
    let stack = Stack::new(routes, &config.places, calls, cut.clone());
    let protocol = Arc::new(Http2 { stack, config: config.clone(), tracker: tracker.clone() });
    let close = CancellationToken::new();
    let mut doors = JoinSet::new();
    for listener in listeners {
        let (protocol, connections) = (Arc::clone(&protocol), Arc::clone(&connections));
        doors.spawn(accept::serve(listener, protocol, connections, close.clone(), config.drain));
    }

    let mut drained = Drained::default();
    tokio::select! {
        () = lifecycle.stop.cancelled() => {}
        // Doors end only when they are closed. Half a server is worse than one that is restarted.
        Some(ended) = doors.join_next() => {
            readiness.raise(Obstacle::TaskEnded("listener"));
            drained = drained + of_door(ended);
            lifecycle.stop.cancelled().await;
        }
    }
    readiness.raise(Obstacle::Draining);
    lifecycle.end_streams.cancel();
    close.cancel();
    let mut streams_end = std::pin::pin!(tokio::time::sleep(STREAMS_END.min(config.drain / 2)));
    loop {
        tokio::select! {
            () = &mut streams_end, if !cut.is_cancelled() => cut.cancel(),
            ended = doors.join_next() => match ended {
                Some(ended) => drained = drained + of_door(ended),
                None => break,
            }
        }
    }
    // Calls whose connection was cut notice it at their next poll.
    tracker.close();
    if tokio::time::timeout(CALLS_END, tracker.wait()).await.is_err() {
        tracing::warn!(calls = tracker.len(), "calls still run after their connections were cut");
    }
    drained
}

fn of_door(ended: Result<Drained, tokio::task::JoinError>) -> Drained {
    ended.unwrap_or_else(|error| {
        tracing::error!(%error, "a listener's task failed");
        Drained::default()
    })
}

/// How long handlers of streams have to end them by themselves, e.g. after the answer to the chunk at hand.
const STREAMS_END: Duration = Duration::from_secs(1);

/// How long calls may take to notice that their connection is gone.
const CALLS_END: Duration = Duration::from_secs(1);
