//! Links: one stream each, whichever side dialled.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use prost::Message as _;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;

use crate::pb::replication::v1 as pb;
use crate::replication::wire;
use crate::replication::{Incoming, Link};

/// Frames of all links that wait for the machine; then the peers wait.
const FRAMES_WAITING_MAX: usize = 64;

/// What the links have to tell: frames, and what happens to links. The second queue needs no bound of its own: a link tells of
/// its beginning, its end and of frames that left, of which the machine hands over a few at a time.
pub struct Incomings {
    pub frames: mpsc::Receiver<Incoming>,
    pub events: mpsc::UnboundedReceiver<Incoming>,
}

/// Why an address is not dialled again at once.
#[derive(Clone, Debug)]
pub enum Hold {
    /// The peer is connected by another link; until that ends.
    Until(CancellationToken),
    /// For good reason, and for long: it is this node itself, or it refuses.
    Long,
}

/// One link's handles.
struct Handle {
    frames: Option<mpsc::Sender<pb::Frame>>,
    /// Cancelled to end it from here.
    closing: CancellationToken,
    /// Cancelled once it is gone.
    gone: CancellationToken,
    hold: Arc<Mutex<Option<Hold>>>,
    received_bytes: u64,
    sent_bytes: u64,
}

/// All links. Clones share them.
#[derive(Clone)]
pub struct Links(Arc<Inner>);

struct Inner {
    next: AtomicU64,
    queue_frames: usize,
    handles: Mutex<FxHashMap<Link, Handle>>,
    frames: mpsc::Sender<Incoming>,
    events: mpsc::UnboundedSender<Incoming>,
}

/// A link that was just made: what whoever made it has to run.
pub struct Opened {
    pub link: Link,
    pub outgoing: Outgoing,
    pub closing: CancellationToken,
    pub hold: Arc<Mutex<Option<Hold>>>,
}

impl Links {
    /// No link yet. Each holds `queue_frames` frames on their way out.
    pub fn new(queue_frames: usize) -> (Self, Incomings) {
        let (frames, frames_in) = mpsc::channel(FRAMES_WAITING_MAX);
        let (events, events_in) = mpsc::unbounded_channel();
        let handles = Mutex::default();
        let inner = Inner { next: AtomicU64::new(1), queue_frames, handles, frames, events };
        (Self(Arc::new(inner)), Incomings { frames: frames_in, events: events_in })
    }

    /// A new link. It is not told of before [`Links::connected`].
    pub fn open(&self) -> Opened {
        let link = Link(self.0.next.fetch_add(1, Ordering::Relaxed));
        // One more than the machine hands over: its last word before a close needs no room.
        let (frames, outgoing) = mpsc::channel(self.0.queue_frames + 2);
        let (closing, hold) = (CancellationToken::new(), Arc::default());
        let handle = Handle {
            frames: Some(frames),
            closing: closing.clone(),
            gone: CancellationToken::new(),
            hold: Arc::clone(&hold),
            received_bytes: 0,
            sent_bytes: 0,
        };
        self.0.handles.lock().insert(link, handle);
        let outgoing = Outgoing {
            link,
            frames: outgoing,
            events: self.0.events.clone(),
            links: Arc::clone(&self.0),
            ends: Some(closing.clone().drop_guard()),
        };
        Opened { link, outgoing, closing, hold }
    }

    /// The link stands.
    pub fn connected(&self, link: Link, dialled: bool) {
        // The receiver lives as long as the process talks to peers.
        let _ = self.0.events.send(Incoming::Connected { link, dialled });
    }

    /// The link is gone. Told behind the frames that came before, the last of which may say why.
    pub async fn ended(&self, link: Link, why: String) {
        if let Some(handle) = self.0.handles.lock().remove(&link) {
            handle.gone.cancel();
        }
        let _ = self.0.frames.send(Incoming::Disconnected { link, why }).await;
    }

    /// Hands a frame over; a link that is gone or full does nothing with it: the machine never fills it.
    pub fn send(&self, link: Link, frame: pb::Frame) {
        let handles = self.0.handles.lock();
        if let Some(frames) = handles.get(&link).and_then(|handle| handle.frames.as_ref())
            && frames.try_send(frame).is_err()
        {
            tracing::debug!(link = link.0, "a frame found no room on its way out");
        }
    }

    /// Takes no more for `link`; what was handed over still leaves. Returns what ends it altogether.
    pub fn close(&self, link: Link, hold: Option<Hold>) -> Option<CancellationToken> {
        let mut handles = self.0.handles.lock();
        let handle = handles.get_mut(&link)?;
        if hold.is_some() {
            *handle.hold.lock() = hold;
        }
        handle.frames = None;
        Some(handle.closing.clone())
    }

    /// What is cancelled once `link` is gone.
    pub fn gone(&self, link: Link) -> Option<CancellationToken> {
        self.0.handles.lock().get(&link).map(|handle| handle.gone.clone())
    }

    /// Bytes received and sent.
    pub fn bytes(&self, link: Link) -> (u64, u64) {
        self.0.handles.lock().get(&link).map_or((0, 0), |handle| (handle.received_bytes, handle.sent_bytes))
    }

    /// Ends all links.
    pub fn close_all(&self) {
        for handle in self.0.handles.lock().values_mut() {
            handle.frames = None;
            handle.closing.cancel();
        }
    }

    /// Reads frames until the stream ends or the link is closed; returns why it ended.
    pub async fn read(
        &self,
        link: Link,
        mut stream: impl Stream<Item = Result<pb::Frame, Status>> + Unpin,
        closing: CancellationToken,
    ) -> String {
        loop {
            let item = tokio::select! {
                () = closing.cancelled() => return "closed here".to_owned(),
                item = stream.next() => item,
            };
            let frame = match item {
                None => return "the peer closed it".to_owned(),
                Some(Err(status)) => return format!("{}: {}", status.code(), status.message()),
                Some(Ok(frame)) => frame,
            };
            let len = frame.encoded_len();
            if let Some(handle) = self.0.handles.lock().get_mut(&link) {
                handle.received_bytes += len as u64;
            }
            let frame = match wire::decode(frame) {
                Ok(frame) => frame,
                Err(fault) => return format!("the peer broke the protocol: {fault}"),
            };
            let incoming = Incoming::Frame { link, frame, len, cursor: None };
            tokio::select! {
                () = closing.cancelled() => return "closed here".to_owned(),
                sent = self.0.frames.send(incoming) => if sent.is_err() {
                    return "the node is stopping".to_owned();
                },
            }
        }
    }
}

/// The frames of a link on their way out. Dropped, it ends the link: nobody takes them any more.
pub struct Outgoing {
    link: Link,
    frames: mpsc::Receiver<pb::Frame>,
    events: mpsc::UnboundedSender<Incoming>,
    links: Arc<Inner>,
    /// Ends the link if nobody takes frames any more; not if all of them have left.
    ends: Option<DropGuard>,
}

impl Stream for Outgoing {
    type Item = pb::Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<pb::Frame>> {
        let polled = self.frames.poll_recv(context);
        if let Poll::Ready(Some(frame)) = &polled {
            if let Some(handle) = self.links.handles.lock().get_mut(&self.link) {
                handle.sent_bytes += frame.encoded_len() as u64;
            }
            let _ = self.events.send(Incoming::Sent { link: self.link });
        }
        if let Poll::Ready(None) = &polled {
            // The last words are on their way; whoever closed the link ends it when they had their time.
            let _ = self.ends.take().map(DropGuard::disarm);
        }
        polled
    }
}
