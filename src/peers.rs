//! Peers over gRPC: the replication machine's carrier, its clock and its hands on the ledger.
//!
//! ```text
//!  peer ⇄ door │ dial ⇄ link ⇄ carrier ⇄ drive ⇄ Machine
//!                                        │ └▶ hands ─▶ ledger: relay, read
//!                                        └──▶ Replica: fresh until, backlog, members, clocks, what a majority holds
//! ```
//!
//! [`drive`] runs the machine in one task: all that happens comes to it in one order. It decides nothing: the protocol is the
//! machine's, what a stale node may allow is the policy's. Nothing here has heard of consent.

mod carrier;
mod dial;
mod door;
mod drive;
mod figures;
mod hands;
mod link;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::readiness::Readiness;
use crate::replication::{PeerStatus, Progress, Settings, Unverified};

pub use door::{Door, PEER_MESSAGE_BYTES_MAX, PEER_STREAM_WINDOW_BYTES};
pub use link::LINKS_MAX;

/// How the node talks to its peers.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the machine is told.
    pub machine: Settings,
    /// Whom to dial: `host:port`, resolved again and again.
    pub peers: Vec<String>,
    /// From when on this node counts as stale.
    pub max_staleness: Duration,
    /// How long to wait at the start for what the anchors hold.
    pub bootstrap_budget: Duration,
}

/// One peer, for whoever asks how it is.
#[derive(Clone, Debug)]
pub struct PeerReport {
    /// What the machine knows.
    pub status: PeerStatus,
    /// How long the stream has stood.
    pub connected: Duration,
    /// Bytes of frames that came from it.
    pub received_bytes: u64,
    /// Bytes of frames that went to it.
    pub sent_bytes: u64,
}

/// How the cluster looks from here.
#[derive(Clone, Debug)]
pub struct Report {
    /// Every peer that is connected.
    pub peers: Vec<PeerReport>,
    /// Per anchor, how old the state of it is that is applied here, in milliseconds.
    pub freshness_ms: Vec<(String, u64)>,
    /// What peers sent of origins that does not verify.
    pub unverified: Vec<Unverified>,
    /// How far catching up has come.
    pub progress: Progress,
    /// How many other anchors have to be heard in full before this node has caught up.
    pub anchors_wanted: usize,
    /// The last thing that went wrong with a peer, in words; empty: nothing yet.
    pub last_error: String,
}

/// The running peers' side of the node.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<drive::Shared>,
}

impl Peers {
    /// The part that takes streams of peers, to be served.
    #[must_use]
    pub fn door(&self) -> Door {
        Door::new(self.shared.links.clone())
    }

    /// How the cluster looks from here.
    #[must_use]
    pub fn report(&self) -> Report {
        self.shared.report()
    }
}

/// Makes the peers' side; [`run`] drives it.
#[must_use]
pub fn new(engine: Engine, readiness: Readiness, config: Config) -> (Peers, Driver) {
    let (links, incoming) = link::Links::new(config.machine.queue_frames);
    let shared = Arc::new(drive::Shared::new(links, &engine, &config));
    let driver = Driver { shared: Arc::clone(&shared), incoming, engine, readiness, config };
    (Peers { shared }, driver)
}

/// What [`run`] needs.
pub struct Driver {
    shared: Arc<drive::Shared>,
    incoming: link::Incomings,
    engine: Engine,
    readiness: Readiness,
    config: Config,
}

/// Dials and talks until `stop`.
pub async fn run(driver: Driver, stop: CancellationToken) {
    let dialling = dial::run(driver.config.peers.clone(), driver.shared.links.clone(), stop.clone());
    let driving = drive::run(driver, stop.clone());
    tokio::join!(dialling, driving);
}
