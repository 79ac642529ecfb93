//! One HTTP/2 connection, from its handshake to its end.
//!
//! It drives h2 itself: of each turn of the connection it takes all calls that have arrived, answers at once those that take
//! microseconds (checks), and starts a task for every other. A check that is answered here costs no task, no
//! wake-up of another thread and no boxed body, and all answers of a turn leave in one write. So one connection keeps at most one
//! core busy with checks, which is what a caller's own connection does on its side too.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use super::gathered::Gathered;
use super::method::of_path;
use super::quiet::Quiet;
use super::server::Config;
use super::stack::{Observer, Stack};
use super::status::ApiError;
use crate::net::accept::{Io, Protocol};

/// Bytes that a client may send ahead on all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Metadata of one call: a trace context and a token, with room to spare.
const HEADER_BYTES_MAX: u32 = 8 * 1024;
/// Streams that a client opened and reset before they were accepted (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
/// Streams that were reset since the client broke the protocol.
const ERROR_RESETS_MAX: usize = 128;
/// Calls taken in one turn. What was answered in it leaves when the turn ends, so it is to stay below a millisecond.
const CALLS_PER_TURN: usize = 32;
/// The length of a message's head: whether it is compressed, and its length.
const MESSAGE_HEAD_LEN: usize = 5;
/// Room for a turn's answers, so that most turns allocate once.
const ANSWERS_BYTES: usize = 16 * 1024;
/// What most answers need at most.
const ANSWER_BYTES_USUAL: usize = 512;

type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// gRPC over HTTP/2.
pub(super) struct Http2<O> {
    pub(super) stack: Stack<O>,
    pub(super) config: Config,
    /// Counts the calls that run as tasks, so that none outlives the server unseen.
    pub(super) tracker: TaskTracker,
}

impl<O: Observer> Protocol for Http2<O> {
    async fn serve(&self, io: impl Io, stop: CancellationToken) {
        let mut builder = h2::server::Builder::new();
        builder
            .max_concurrent_streams(self.config.streams_per_connection_max)
            .initial_window_size(self.config.stream_window_bytes)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
            .max_local_error_reset_streams(Some(ERROR_RESETS_MAX));
        let handshake = tokio::time::timeout(self.config.handshake, builder.handshake(Gathered(io)));
        let connection = tokio::select! {
            () = stop.cancelled() => return,
            shaken = handshake => match shaken {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a connection's handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!("a connection never spoke HTTP/2");
                    return;
                }
            },
        };
        self.run(connection, stop).await;
    }
}

impl<O: Observer> Http2<O> {
    async fn run(&self, mut connection: Connection<impl Io, Bytes>, stop: CancellationToken) {
        let busy = AtomicBool::new(false);
        let pings = connection.ping_pong();
        let mut silent = std::pin::pin!(until_dead(pings, &busy, &self.config));
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut stopping = false;
        let quiet = Quiet::new();
        let mut turn = Turn { calls: Vec::with_capacity(CALLS_PER_TURN), answers: BytesMut::new() };
        loop {
            let goes_on = tokio::select! {
                biased;
                goes_on = turn.take(&mut connection, &quiet) => goes_on,
                () = &mut stopped, if !stopping => {
                    stopping = true;
                    connection.graceful_shutdown();
                    true
                }
                () = &mut silent => {
                    tracing::debug!("a connection does not answer any more");
                    false
                }
            };
            if !goes_on {
                return;
            }
            if !stopping && stop.is_cancelled() {
                // A caller that always has another call ready would keep the stop from being heard above.
                stopping = true;
                connection.graceful_shutdown();
            }
            busy.store(true, Ordering::Relaxed);
            // The next turn looks at the connection anyway.
            quiet.hush();
            for (request, respond) in turn.calls.drain(..) {
                self.begin(request, respond, &mut turn.answers);
            }
        }
    }

    /// Answers a check now, or starts a task for the call.
    fn begin(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, answers: &mut BytesMut) {
        let (head, mut stream) = request.into_parts();
        let method = of_path(head.uri.path());
        let mut ahead = None;
        if self.stack.answers_now(method) && !is_encoded(&head.headers) {
            match arrived(&mut stream) {
                Arrived::Whole(body) => {
                    let message = body.slice(MESSAGE_HEAD_LEN..);
                    if answers.capacity() < ANSWER_BYTES_USUAL {
                        answers.reserve(ANSWERS_BYTES);
                    }
                    let answer =
                        self.stack.answer_now(method, &head.headers, |now| now.answer(message, answers));
                    // A caller that has gone needs no answer.
                    match answer {
                        Ok(true) => {
                            let _ = send_whole(&mut respond, answers.split().freeze());
                            return;
                        }
                        Ok(false) => ahead = Some(body),
                        Err(status) => {
                            answers.clear();
                            let _ = respond.send_response(status.into_http(), true);
                            return;
                        }
                    }
                }
                Arrived::Part(part) => ahead = part,
                Arrived::Broken => return,
            }
        }
        let request = Request::from_parts(head, RequestBody { ahead, stream });
        let call = self.stack.call(method, request);
        self.tracker.spawn(async move {
            if let Err(error) = answer(call, respond).await {
                tracing::debug!(%error, "an answer was not sent in full");
            }
        });
    }
}

/// What arrived in one turn of the connection.
struct Turn {
    calls: Vec<Call>,
    answers: BytesMut,
}

impl Turn {
    /// Waits for calls and takes those that are there; `false`: the connection is over.
    async fn take(&mut self, connection: &mut Connection<impl Io, Bytes>, quiet: &Quiet) -> bool {
        let mut poll = |context: &mut Context<'_>| {
            while self.calls.len() < CALLS_PER_TURN {
                match connection.poll_accept(context) {
                    Poll::Ready(Some(Ok(call))) => self.calls.push(call),
                    Poll::Ready(Some(Err(error))) => {
                        tracing::debug!(%error, "a connection ended with an error");
                        return Poll::Ready(false);
                    }
                    Poll::Ready(None) => return Poll::Ready(false),
                    Poll::Pending => break,
                }
            }
            if self.calls.is_empty() { Poll::Pending } else { Poll::Ready(true) }
        };
        std::future::poll_fn(|context| quiet.poll(context, &mut poll)).await
    }
}

/// Returns once the other side no longer answers pings, which it is sent when it has been silent for a while.
async fn until_dead(pings: Option<PingPong>, busy: &AtomicBool, config: &Config) {
    // h2 hands them out once; this is the only taker.
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(config.keepalive_interval).await;
        if busy.swap(false, Ordering::Relaxed) {
            continue;
        }
        let pong = async {
            pings.send_ping(Ping::opaque())?;
            std::future::poll_fn(|context| pings.poll_pong(context)).await
        };
        if !matches!(tokio::time::timeout(config.keepalive_timeout, pong).await, Ok(Ok(_))) {
            return;
        }
    }
}

/// Whether the request's message may be compressed.
fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity")
}

enum Arrived {
    /// The only message, with its head.
    Whole(Bytes),
    /// Not all of it yet, or something else than one plain message.
    Part(Option<Bytes>),
    /// The caller took the call back.
    Broken,
}

/// Takes what has arrived of a call's body. Usually that is all: clients send a small message along with its headers.
fn arrived(stream: &mut RecvStream) -> Arrived {
    // Whoever goes on reading the stream leaves its own waker.
    let mut context = Context::from_waker(Waker::noop());
    let mut body: Option<Bytes> = None;
    loop {
        match stream.poll_data(&mut context) {
            Poll::Ready(Some(Ok(chunk))) => {
                // Fails only for bytes that were never received.
                let _ = stream.flow_control().release_capacity(chunk.len());
                body = Some(match body {
                    None => chunk,
                    Some(before) if chunk.is_empty() => before,
                    Some(before) => [before, chunk].concat().into(),
                });
            }
            Poll::Ready(Some(Err(_))) => return Arrived::Broken,
            Poll::Ready(None) => break,
            Poll::Pending => return Arrived::Part(body),
        }
    }
    match body {
        Some(body) if holds_one_plain_message(&body) => Arrived::Whole(body),
        body => Arrived::Part(body),
    }
}

fn holds_one_plain_message(body: &[u8]) -> bool {
    let Some((&[compressed, a, b, c, d], message)) = body.split_first_chunk::<MESSAGE_HEAD_LEN>() else {
        return false;
    };
    compressed == 0 && usize::try_from(u32::from_be_bytes([a, b, c, d])) == Ok(message.len())
}

/// Appends `message` with its head.
pub(super) fn put_message(out: &mut BytesMut, message: &impl prost::Message) -> Result<(), ApiError> {
    use bytes::BufMut as _;
    let len = message.encoded_len();
    out.reserve(MESSAGE_HEAD_LEN + len);
    out.put_u8(0);
    out.put_u32(u32::try_from(len).map_err(|_| ApiError::Internal)?);
    message.encode(out).map_err(|_| ApiError::Internal)
}

/// Sends an answer that is one message and no error.
fn send_whole(respond: &mut SendResponse<Bytes>, message: Bytes) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(message, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

/// Runs a call to its answer and sends that as the caller takes it; drops both once the caller takes the call back.
async fn answer(
    call: impl Future<Output = Response<Body>>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut call = std::pin::pin!(call);
    let response = std::future::poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => respond.poll_reset(context).map(|_| None),
    })
    .await;
    let Some(response) = response else { return Ok(()) };
    let (head, body) = response.into_parts();
    let ends = body.is_end_stream();
    let mut stream = respond.send_response(Response::from_parts(head, ()), ends)?;
    if ends {
        return Ok(());
    }
    let mut body = std::pin::pin!(body);
    loop {
        let frame = std::future::poll_fn(|context| match body.as_mut().poll_frame(context) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => stream.poll_reset(context).map(|_| None),
        })
        .await;
        match frame {
            None => return Ok(()),
            Some(None) => return stream.send_data(Bytes::new(), true),
            Some(Some(Err(_))) => {
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
                return Ok(());
            }
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => send_data(&mut stream, data).await?,
                Err(frame) => {
                    // A frame is data or trailers.
                    return stream.send_trailers(frame.into_trailers().unwrap_or_default());
                }
            },
        }
    }
}

/// Hands `data` over in as many pieces as the caller's window asks for, so that no more than that waits in memory.
async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
            Some(room) => room?,
            None => return Err(h2::Reason::CANCEL.into()),
        };
        if room > 0 {
            stream.send_data(data.split_to(room.min(data.len())), false)?;
        }
    }
    Ok(())
}

/// What a caller sends, as far as it has not been read yet.
pub struct RequestBody {
    ahead: Option<Bytes>,
    stream: RecvStream,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(ahead) = self.ahead.take() {
            return Poll::Ready(Some(Ok(Frame::data(ahead))));
        }
        match ready!(self.stream.poll_data(context)) {
            Some(Ok(data)) => {
                // Fails only for bytes that were never received.
                let _ = self.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => self
                .stream
                .poll_trailers(context)
                .map(|trailers| trailers.map(|trailers| trailers.map(Frame::trailers)).transpose()),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.stream.is_end_stream()
    }
}
