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

/// Links at once: more than the machine keeps, since what a stranger opens is one until it is refused.
pub const LINKS_MAX: usize = 320;
/// What happens on a link beside the frames that the machine hands over: it stands, and two last words.
const EVENTS_BESIDE_FRAMES: usize = 3;

/// What the links have to tell: frames that came, and what happens to links. The second queue holds all that can happen to
/// [`LINKS_MAX`] links, and to those whose end waits among the frames, before the machine has heard of any of it.
pub struct Incomings {
    pub frames: mpsc::Receiver<Incoming>,
    pub events: mpsc::Receiver<Incoming>,
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
    events: mpsc::Sender<Incoming>,
}

/// A link that was just made: what whoever made it has to run.
pub struct Opened {
    pub link: Link,
    pub outgoing: Outgoing,
    pub closing: CancellationToken,
    pub hold: Arc<Mutex<Option<Hold>>>,
}

impl Inner {
    /// Tells what happened to `link`. There is room by the queue's measure; were there none, the machine would wait for ever for what it
    /// was not told, so the link ends.
    fn tell(&self, event: Incoming, link: Link) {
        if self.events.try_send(event).is_err()
            && let Some(handle) = self.handles.lock().get(&link)
        {
            handle.closing.cancel();
        }
    }
}

impl Links {
    /// No link yet. Each holds `queue_frames` frames on their way out.
    pub fn new(queue_frames: usize) -> (Self, Incomings) {
        let (frames, frames_in) = mpsc::channel(FRAMES_WAITING_MAX);
        let links = LINKS_MAX + FRAMES_WAITING_MAX + 1;
        let (events, events_in) = mpsc::channel(links * (queue_frames + EVENTS_BESIDE_FRAMES));
        let handles = Mutex::default();
        let inner = Inner { next: AtomicU64::new(1), queue_frames, handles, frames, events };
        (Self(Arc::new(inner)), Incomings { frames: frames_in, events: events_in })
    }

    /// A new link, if there may be one more. It is not told of before [`Links::connected`].
    pub fn open(&self) -> Option<Opened> {
        let mut handles = self.0.handles.lock();
        if handles.len() >= LINKS_MAX {
            return None;
        }
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
        handles.insert(link, handle);
        drop(handles);
        let outgoing = Outgoing {
            link,
            frames: outgoing,
            links: Arc::clone(&self.0),
            ends: Some(closing.clone().drop_guard()),
        };
        Some(Opened { link, outgoing, closing, hold })
    }

    /// The link stands.
    pub fn connected(&self, link: Link, dialled: bool) {
        self.0.tell(Incoming::Connected { link, dialled }, link);
    }

    /// The link is gone. Told behind the frames that came before, the last of which may say why.
    pub async fn ended(&self, link: Link, why: String) {
        // Fails only once nobody talks to peers any more.
        let _ = self.0.frames.send(Incoming::Disconnected { link, why }).await;
        // Only now: its place is taken until its end is told.
        if let Some(handle) = self.0.handles.lock().remove(&link) {
            handle.gone.cancel();
        }
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
            self.links.tell(Incoming::Sent { link: self.link }, self.link);
        }
        if let Poll::Ready(None) = &polled {
            // The last words are on their way; whoever closed the link ends it when they had their time.
            let _ = self.ends.take().map(DropGuard::disarm);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_link_more_than_there_may_be_is_refused_until_an_end_is_told() {
        let (links, mut incoming) = Links::new(8);
        let mut opened: Vec<Opened> = (0..LINKS_MAX).map(|_| links.open().expect("there is room")).collect();
        assert!(links.open().is_none());
        let first = opened.remove(0);
        links.ended(first.link, "it was enough".to_owned()).await;
        assert!(links.open().is_some());
        assert!(links.open().is_none());
        let told = incoming.frames.recv().await;
        assert!(matches!(told, Some(Incoming::Disconnected { link, .. }) if link == first.link));
    }

    #[tokio::test]
    async fn all_that_happens_to_all_links_is_told() {
        const QUEUE: usize = 8;
        let (links, mut incoming) = Links::new(QUEUE);
        let mut opened: Vec<Opened> = (0..LINKS_MAX).map(|_| links.open().expect("there is room")).collect();
        for one in &mut opened {
            links.connected(one.link, false);
            for _ in 0..QUEUE + 2 {
                links.send(one.link, pb::Frame::default());
            }
            // One more finds no room, and that is seen on no other link.
            links.send(one.link, pb::Frame::default());
            for _ in 0..QUEUE + 2 {
                assert!(one.outgoing.next().await.is_some());
            }
        }
        let mut told = 0;
        while incoming.events.try_recv().is_ok() {
            told += 1;
        }
        assert_eq!(told, LINKS_MAX * (QUEUE + EVENTS_BESIDE_FRAMES));
        assert!(opened.iter().all(|one| !one.closing.is_cancelled()));
    }

    #[tokio::test]
    async fn a_link_ends_when_nobody_takes_its_frames_but_not_when_all_have_left() {
        let (links, _incoming) = Links::new(8);
        let dropped = links.open().expect("there is room");
        drop(dropped.outgoing);
        assert!(dropped.closing.is_cancelled());
        let mut closed = links.open().expect("there is room");
        links.send(closed.link, pb::Frame::default());
        let closing = links.close(closed.link, None).expect("it is there");
        assert!(closed.outgoing.next().await.is_some());
        assert!(closed.outgoing.next().await.is_none());
        drop(closed.outgoing);
        assert!(!closing.is_cancelled());
    }
}
