//! What peers say to each other, in types of our own. [`super::wire`] writes and reads them.

use std::fmt;
use std::sync::Arc;

use crate::ledger::Head;
pub use crate::ledger::{Relayed as Record, RelayedBlob as RecordBlob};
use crate::policy::ids::OriginId;

/// The version of the protocol that this build speaks.
pub const PROTOCOL: u32 = 1;
/// The most entries of a vector, or origins wanted, in one frame.
pub const ENTRIES_MAX: usize = 4_096;
/// The most records in one frame.
pub const RECORDS_MAX: usize = 1_024;
/// The most bytes of records in one frame, as [`weight`] counts them, unless it holds a single record.
pub const EVENTS_BYTES_MAX: usize = 64 * 1024;
/// The longest chained part of a record, in bytes: a payload and what stands before it.
pub const CHAINED_LEN_MAX: usize = crate::ledger::PAYLOAD_LEN_MAX + 1_024;
/// The longest encoded frame, in bytes: one record of the longest kind. A carrier refuses longer ones unread.
pub const FRAME_LEN_MAX: usize = CHAINED_LEN_MAX + crate::ledger::BLOB_LEN_MAX + 1_024;
/// The longest name of a cluster or an anchor, in bytes.
pub const NAME_LEN_MAX: usize = 128;
/// The longest text of a refusal, in bytes.
pub const TEXT_LEN_MAX: usize = 512;
/// The most anchors told of in one frame, counted by or remembered.
pub const ANCHORS_MAX: usize = 64;

/// The longest chunk of usage, in bytes.
pub const USAGE_LEN_MAX: usize = 65 * 1024;

/// A store's identity: minted with it and copied with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(pub [u8; 16]);

/// One run of a process: random, so that a node is told from itself and from a copy of its store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub [u8; 16]);

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&OriginId(self.0), f)
    }
}

impl fmt::Debug for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&OriginId(self.0), f)
    }
}

/// What a node is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has a lasting disk and a ledger.
    Anchor,
    /// It is disposable: a view and an outbox, no history.
    Edge,
}

/// Who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// Which cluster.
    pub cluster_id: String,
    /// Tells the cluster key without revealing it.
    pub key_check: [u8; 16],
    /// How addresses are brought to their canonical form.
    pub address_form_version: u32,
    /// The store's identity.
    pub instance: Instance,
    /// This run of the process.
    pub run: Run,
    /// The origin of this run's own events; `None` before the first.
    pub origin: Option<OriginId>,
    /// What the node is.
    pub role: Role,
    /// The configured name of an anchor, by which it is counted; empty: its instance counts.
    pub anchor_name: String,
    /// How many bytes of events it takes before it has dealt with some.
    pub window_bytes: usize,
    /// How many frames of events it takes before it has dealt with some.
    pub window_frames: usize,
    /// The first part of its vector, as far as it is open.
    pub vector: Vec<VectorEntry>,
    /// The rest of it; `None`: an earlier build, which tells all and is to be told all one by one.
    pub closed: Option<ClosedSet>,
}

/// All closed origins of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedSet {
    /// How many they are.
    pub count: u32,
    /// Over each of them, by origin: its id, its last sequence, its chain hash there.
    pub hash: [u8; 32],
}

/// How far an origin is held, on disk and applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorEntry {
    /// The origin.
    pub origin: OriginId,
    /// Its last record there.
    pub head: Head,
    /// The teller numbers it in its present run.
    pub own: bool,
}

/// Why a Hello is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A reason of a newer version.
    Other,
    /// Another version of the protocol.
    Protocol,
    /// Another cluster.
    Cluster,
    /// Another cluster key.
    Key,
    /// Another canonical form of addresses.
    AddressForm,
    /// The node dialled itself.
    Itself,
    /// A field cannot be read.
    Malformed,
    /// The two already have a stream, which stays.
    Duplicate,
    /// Two edges have nothing to tell each other.
    Edge,
    /// As many peers as the node takes are connected.
    Full,
}

/// What `record` counts against windows and frames, in bytes: a little more than it takes on the wire.
#[must_use]
pub fn weight(record: &Record) -> usize {
    let blob = match &record.blob {
        RecordBlob::Present { bytes, .. } => bytes.len() + 32,
        RecordBlob::None | RecordBlob::Erased => 4,
    };
    record.chained.len() + blob + 48
}

/// Records of one origin that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// The origin.
    pub origin: OriginId,
    /// The sequence of the first record.
    pub first: u64,
    /// At least one.
    pub records: Vec<Record>,
}

impl Events {
    /// What the frame counts against the window, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.records.iter().map(weight).sum()
    }

    /// The sequence of the last record.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.first.saturating_add(self.records.len() as u64).saturating_sub(1)
    }
}

/// Everything that `anchor` held `age_ms` ago, the teller has applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The name it is counted under.
    pub anchor: String,
    /// How long ago.
    pub age_ms: u64,
}

/// A chunk of usage, as one node told it. What it says is the engine's affair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Who told it first.
    pub run: Run,
    /// Counts the chunks of that run.
    pub serial: u64,
    /// At most [`USAGE_LEN_MAX`].
    pub bytes: Arc<[u8]>,
}

/// A part of all the usage of a node, for one that lost its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsagePart {
    /// A chunk, at most [`USAGE_LEN_MAX`].
    Chunk(Arc<[u8]>),
    /// There is no more.
    End {
        /// The teller has not lost its own usage.
        complete: bool,
    },
}

/// One thing said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who is there. Boxed, since it is long and said once.
    Hello(Box<Hello>),
    /// Why the other's Hello is not accepted.
    HelloRefused {
        /// The reason.
        reason: Refusal,
        /// The same in words.
        text: String,
    },
    /// Which origins are to be sent, and which no more.
    Want {
        /// Each from this sequence on.
        origins: Vec<(OriginId, u64)>,
        /// These come from elsewhere.
        skip: Vec<OriginId>,
    },
    /// Records of one origin.
    Events(Events),
    /// What is on disk, and how many frames of events are dealt with.
    Ack {
        /// Counted from the stream's start.
        frames_done: u64,
        /// The highest sequence of each.
        origins: Vec<(OriginId, u64)>,
    },
    /// A question.
    Ping {
        /// Grows by one.
        number: u64,
    },
    /// Changes of the vector since it was last told.
    Heartbeat {
        /// The ping that it answers; 0: none.
        answers: u64,
        /// The teller's clock.
        wall_ms: i64,
        /// What changed.
        changes: Vec<VectorEntry>,
        /// How fresh the teller is of others.
        heard: Vec<Heard>,
    },
    /// What was sent does not follow from what is held.
    Doubt {
        /// The last record of the origin that the teller holds.
        held: VectorEntry,
    },
    /// What sends and inbound messages left behind.
    Usage(Usage),
    /// A wish for all of it.
    AskUsage,
    /// A part of what was wished for.
    UsageAnswer(UsagePart),
    /// A wish for the closed origins one by one.
    AskClosed,
    /// Something of a newer version.
    Unknown,
}
