//! The carrier over gRPC streams.

use std::time::Duration;

use super::link::{Hold, Incomings, Links};
use crate::replication::frame::{Frame, Refusal};
use crate::replication::{Carrier, CloseReason, Incoming, Link, wire};

/// How long what was handed over may take to leave once a link is closed.
const LEAVE: Duration = Duration::from_secs(1);

/// Streams between peers.
pub struct Streams {
    links: Links,
    incoming: Incomings,
    /// What was received while waiting.
    next: Option<Incoming>,
}

impl Streams {
    pub fn new(links: Links, incoming: Incomings) -> Self {
        Self { links, incoming, next: None }
    }

    /// Waits until there is something to tell.
    pub async fn wait(&mut self) {
        if self.next.is_some() {
            return;
        }
        self.next = tokio::select! {
            biased;
            event = self.incoming.events.recv() => event,
            frame = self.incoming.frames.recv() => frame,
        };
    }

    /// Keeps the address of `link` from being dialled again at once where that is of no use.
    pub fn hold(&self, link: Link, why: &CloseReason) {
        let hold = match why {
            CloseReason::Duplicate { of } => self.links.gone(*of).map(Hold::Until),
            // Its other stream may end at any moment.
            CloseReason::RefusedByPeer { reason: Refusal::Duplicate, .. } => None,
            CloseReason::Refused { .. } | CloseReason::RefusedByPeer { .. } => Some(Hold::Long),
            _ => None,
        };
        if hold.is_some() {
            let _ = self.links.close(link, hold);
        }
    }
}

impl Carrier for Streams {
    fn send(&mut self, link: Link, frame: Frame) {
        self.links.send(link, wire::encode(frame));
    }

    fn close(&mut self, link: Link) {
        if let Some(closing) = self.links.close(link, None) {
            tokio::spawn(async move {
                tokio::time::sleep(LEAVE).await;
                closing.cancel();
            });
        }
    }

    fn next(&mut self) -> Option<Incoming> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        // What happens to links goes first: a frame never comes before its link stands.
        self.incoming.events.try_recv().ok().or_else(|| self.incoming.frames.try_recv().ok())
    }
}
