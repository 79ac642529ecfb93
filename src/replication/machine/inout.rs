//! What goes into the machine and what comes out.

use std::sync::Arc;

use crate::ledger::Head;
use crate::policy::ids::OriginId;
use crate::replication::Link;
use crate::replication::frame::{Events, Frame, Instance, Record, Refusal, UsagePart};
use crate::replication::settings::HELLO_WAIT_MS;

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A link stands.
    Connected {
        /// Its number.
        link: Link,
        /// This side dialled.
        dialled: bool,
    },
    /// A link is gone.
    Disconnected {
        /// Which.
        link: Link,
        /// Why.
        why: String,
    },
    /// A frame came.
    Frame {
        /// By this link.
        link: Link,
        /// What it says.
        frame: Frame,
    },
    /// Something came that is no frame.
    Garbled {
        /// By this link.
        link: Link,
        /// What is wrong with it.
        why: String,
    },
    /// The carrier has room for one more frame.
    Sent {
        /// On this link.
        link: Link,
    },
    /// An own event is on disk and applied. It must come in before the event's caller is answered: a ping that is answered
    /// after the caller was, and without the event, would let a peer think itself fresher than it is.
    OwnAppended {
        /// The origin of this run.
        origin: OriginId,
        /// Its last record.
        head: Head,
    },
    /// Nothing more is numbered as this origin of this run: another store writes as it too.
    OwnClosed {
        /// Which.
        origin: OriginId,
    },
    /// A record is on disk that is the first of its origin, and names the last of its store's origin before: that one is closed there.
    Named {
        /// The origin that is named.
        origin: OriginId,
        /// Its last record, as that store held it.
        head: Head,
    },
    /// The answer to [`Effect::Store`].
    Stored {
        /// Which of them.
        ticket: u64,
        /// What became of it.
        outcome: StoreOutcome,
    },
    /// The answer to [`Effect::KeepApart`].
    KeptApart {
        /// Which of them.
        ticket: u64,
        /// They are; if not, they are asked for again after a while, and until then their sender counts as not known in full.
        kept: bool,
    },
    /// The answer to [`Effect::Read`].
    Read {
        /// Which of them.
        ticket: u64,
        /// The records from the one asked for on; `None`: they cannot be read.
        records: Option<Vec<Record>>,
    },
    /// Usage of this node, which others are to be told of: at most [`USAGE_LEN_MAX`](crate::replication::frame::USAGE_LEN_MAX).
    Usage {
        /// What of it.
        bytes: Arc<[u8]>,
    },
    /// This node has lost its usage.
    LacksUsage,
    /// The answer to [`Effect::MakeUsage`].
    UsageMade {
        /// For this link.
        link: Link,
        /// The next part.
        part: UsagePart,
    },
    /// The answer to [`Effect::TakeUsagePart`].
    UsageTaken {
        /// By this link.
        link: Link,
    },
    /// Time passed. Wanted every 100 ms or so.
    Tick,
}

/// What became of records that were to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// They are on disk and applied, or were already.
    Stored {
        /// The origin's last record now.
        head: Head,
    },
    /// Not all of them are; those before the first that is not are kept.
    Refused {
        /// The origin's last record now, if any of it is held.
        head: Option<Head>,
        /// Why the rest is not.
        why: StoreRefusal,
    },
}

impl StoreOutcome {
    /// The origin's last record now, if any of it is held.
    #[must_use]
    pub const fn head(&self) -> Option<Head> {
        match self {
            Self::Stored { head } => Some(*head),
            Self::Refused { head, .. } => *head,
        }
    }
}

/// Why records were not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRefusal {
    /// Records before them are missing.
    Gap,
    /// One does not follow from the record before, or is not what it says.
    Chain {
        /// Its sequence.
        sequence: u64,
    },
    /// One of them is held with another hash.
    Fork {
        /// Its sequence.
        sequence: u64,
        /// The hash that is held.
        ours: [u8; 32],
        /// The hash that came.
        theirs: [u8; 32],
    },
    /// The store cannot take anything now.
    Later,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand the frame to the carrier.
    Send {
        /// On this link.
        link: Link,
        /// What to say.
        frame: Frame,
    },
    /// End the link once what was handed over has left.
    Close {
        /// Which.
        link: Link,
        /// Why.
        why: CloseReason,
    },
    /// Verify, append, sync and apply; then answer [`Input::Stored`]. Those of one origin come in sequence and are to be answered in
    /// that order.
    Store {
        /// To be named in the answer.
        ticket: u64,
        /// Who sent them.
        link: Link,
        /// Whose they are.
        events: Events,
    },
    /// These do not verify: let their opt-outs hold and nothing else of them; then answer [`Input::KeptApart`]. They come from the
    /// origin's first record on, those included that are held here with the same hash and of which nothing need be kept. They come once
    /// nobody else has more of the origin that verifies, and again after a restart of either side.
    KeepApart {
        /// To be named in the answer.
        ticket: u64,
        /// Who sent them.
        link: Link,
        /// Whose they say they are.
        events: Events,
    },
    /// Read records of an origin: at least one, and as many as `bytes_max` and `records_max` allow; then answer [`Input::Read`].
    Read {
        /// To be named in the answer.
        ticket: u64,
        /// Whose.
        origin: OriginId,
        /// The first sequence.
        from: u64,
        /// By [`weight`](crate::replication::frame::weight).
        bytes_max: usize,
        /// How many.
        records_max: usize,
    },
    /// Own events up to `sequence` are on the disks of a majority of the anchors.
    Replicated {
        /// An origin of this run.
        origin: OriginId,
        /// The highest.
        sequence: u64,
    },
    /// Join another node's usage to this node's. If it is dropped, that weakens caps and nothing else.
    TakeUsage {
        /// What of it.
        bytes: Arc<[u8]>,
    },
    /// The same with a part of all the usage of a peer, which is not to be dropped; then answer [`Input::UsageTaken`].
    TakeUsagePart {
        /// By this link.
        link: Link,
        /// What of it.
        bytes: Arc<[u8]>,
    },
    /// Make the next part of all the usage there is, for this link; then answer [`Input::UsageMade`]. The first time, and after the
    /// last part, begin.
    MakeUsage {
        /// Which.
        link: Link,
    },
    /// The usage that was lost has been told again, in full or as far as any peer has it.
    UsageTold,
    /// Something for the log and the metrics.
    Note(Note),
}

/// Why a link is ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// Its Hello was not accepted.
    #[error("refused: {text}")]
    Refused {
        /// Why.
        reason: Refusal,
        /// The same in words.
        text: String,
    },
    /// The peer did not accept ours.
    #[error("the peer refuses: {text}")]
    RefusedByPeer {
        /// Why.
        reason: Refusal,
        /// The same in words.
        text: String,
    },
    /// The peer is connected by this link already. The address need not be dialled while it stands.
    #[error("the peer is connected already")]
    Duplicate {
        /// That link.
        of: Link,
    },
    /// A newer link to the same peer took its place.
    #[error("a newer link to the same peer took its place")]
    Superseded,
    /// No Hello came in time.
    #[error("no hello within {} ms", HELLO_WAIT_MS)]
    NoHello,
    /// Nothing came for too long.
    #[error("nothing heard for {silent_ms} ms")]
    Silent {
        /// How long.
        silent_ms: u64,
    },
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(String),
}

/// Something for the log and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A peer was accepted.
    Joined {
        /// By this link.
        link: Link,
        /// Its store.
        instance: Instance,
    },
    /// Two nodes run from copies of one store. They share a name, so they count once.
    CopiedStore {
        /// The store.
        instance: Instance,
    },
    /// An anchor holds less than it acknowledged: its disk was restored from a backup. It is sent what it lacks.
    WentBack {
        /// The name it is counted under.
        anchor: String,
        /// How many origins went back.
        origins: usize,
    },
    /// Records of an origin that a peer sent do not verify.
    Unverified {
        /// The origin.
        origin: OriginId,
        /// The sequence of the first that does not.
        sequence: u64,
        /// Who sent them.
        instance: Instance,
    },
    /// A peer holds events of this run that this run never wrote.
    NeverWritten {
        /// The origin.
        origin: OriginId,
        /// The highest that it holds.
        sequence: u64,
        /// Who holds it.
        instance: Instance,
    },
    /// One id has two hashes: both opt-outs must hold, no opt-in, and the origin be closed.
    Forked {
        /// The origin.
        origin: OriginId,
        /// Where.
        sequence: u64,
        /// The hash here.
        ours: [u8; 32],
        /// The hash there.
        theirs: [u8; 32],
    },
}
