//! HTTP/2 on the accepted connections, and the order of stopping.
//!
//! The server drives hyper itself instead of through tonic's transport, since that one can neither cap connections nor end
//! a drain: a single call that hangs would keep the process for ever. It also spares each call a router, two boxes
//! and a date header.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::routes::Routes;
use super::stack::{Observer, Places, Stack};
use crate::net::accept::{self, ConnectionObserver, Drained, Io, Protocol};
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
            handshake: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
        }
    }
}

/// Bytes that a client may send ahead on one stream: requests are small, and imports wait for their answers anyway.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// Bytes that a client may send ahead on all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Metadata of one call: a trace context and a token, with room to spare.
const HEADER_BYTES_MAX: u32 = 8 * 1024;
/// Streams that a client opened and reset before they were accepted (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Streams that were reset since the client broke the protocol.
const ERROR_RESETS_MAX: usize = 128;

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

struct Http2<O> {
    stack: Stack<O>,
    config: Config,
    tracker: TaskTracker,
}

/// Runs each call as a task that is counted, so that none outlives the server unseen.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.0.spawn(call);
    }
}

impl<O: Observer> Protocol for Http2<O> {
    async fn serve(&self, io: impl Io, stop: CancellationToken) {
        let greeted = Arc::new(AtomicBool::new(false));
        let io = Greeting { io, left: HTTP2_PREFACE_BYTES, greeted: Arc::clone(&greeted) };
        let mut builder = http2::Builder::new(Tracked(self.tracker.clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.config.streams_per_connection_max)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(ERROR_RESETS_MAX)
            .keep_alive_interval(self.config.keepalive_interval)
            .keep_alive_timeout(self.config.keepalive_timeout)
            .auto_date_header(false);
        let connection = builder.serve_connection(TokioIo::new(io), self.stack.clone());
        let mut connection = std::pin::pin!(connection);
        let mut handshake = std::pin::pin!(tokio::time::sleep(self.config.handshake));
        let (mut shaking, mut stopping) = (true, false);
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended with an error");
                    }
                    return;
                }
                () = &mut handshake, if shaking => {
                    shaking = false;
                    if !greeted.load(Ordering::Relaxed) {
                        tracing::debug!("a connection never spoke HTTP/2");
                        return;
                    }
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    if !greeted.load(Ordering::Relaxed) {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Bytes of the preface with which every HTTP/2 client begins.
const HTTP2_PREFACE_BYTES: usize = 24;

/// Notices whether the client has sent its preface: hyper waits for it without a limit, and a connection that says
/// nothing would hold its place for ever.
struct Greeting<T> {
    io: T,
    left: usize,
    greeted: Arc<AtomicBool>,
}

impl<T: Io> AsyncRead for Greeting<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if self.left > 0 {
            self.left = self.left.saturating_sub(buffer.filled().len() - before);
            if self.left == 0 {
                self.greeted.store(true, Ordering::Relaxed);
            }
        }
        polled
    }
}

impl<T: Io> AsyncWrite for Greeting<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
