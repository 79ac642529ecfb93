//! Peers over gRPC: the replication machine's carrier, its clock and its hands on the ledger.
//!
//! ```text
//!  peer ⇄ door │ dial ⇄ link ⇄ carrier ⇄ drive ⇄ Machine
//!                                        │ ├▶ hands ─▶ ledger: relay, read
//!                                        │ └▶ usage ⇄ engine: what was sent, heard and undone, here and elsewhere
//!                                        └▶ knowing ─▶ Replica: fresh until, backlog, members, clocks
//!  edge:  snapshot ◀─ anchor, once, before it talks      submit ─▶ anchor: what was taken in here, until one has it
//!  anchor that is far behind:  behind ◀─ anchor: the opt-outs of a snapshot, until their events are here
//! ```
//!
//! [`drive`] runs the machine in one task: all that happens comes to it in one order. It decides nothing: the protocol is the
//! machine's, what a stale node may allow is the policy's. Nothing here looks into a consent.

pub(crate) mod anchors;
mod behind;
mod carrier;
pub(crate) mod compare;
mod dial;
pub(crate) mod door;
mod drive;
mod figures;
pub(crate) mod hands;
pub(crate) mod knowing;
pub(crate) mod link;
pub(crate) mod snapshot;
pub(crate) mod submit;
#[cfg(test)]
mod tests;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::pb::replication::v1 as pb;
use crate::readiness::{Obstacle, Readiness};
use crate::replication::{PeerStatus, Progress, Settings, Unverified};

use anchors::Anchors;

pub use door::{Door, PEER_MESSAGE_BYTES_MAX, PEER_STREAM_WINDOW_BYTES};
pub use link::LINKS_MAX;

/// Connections at the peers' door: an edge has two, one for the stream and one for its other calls.
pub const CONNECTIONS_MAX: usize = 2 * LINKS_MAX;

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
    /// How long to wait between two ranges that are compared with an anchor's.
    pub compare_every: Duration,
    /// With more events missing than these, an anchor borrows another's opt-outs until they are here.
    pub far_behind_events: u64,
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
    engine: Engine,
    member: pb::Membership,
}

impl Peers {
    /// The part that takes streams of peers, to be served.
    #[must_use]
    pub fn door(&self) -> Door {
        Door::new(self.shared.links.clone(), self.engine.clone(), self.member.clone())
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
    let member = anchors::membership(&config.machine);
    let peers = Peers { shared: Arc::clone(&shared), engine: engine.clone(), member };
    (peers, Driver { shared, incoming, engine, readiness, config })
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
    let anchors = Arc::new(Anchors::new(driver.config.peers.clone()));
    let comparing = compare::Comparing {
        engine: driver.engine.clone(),
        readiness: driver.readiness.clone(),
        anchors: Arc::clone(&anchors),
        member: anchors::membership(&driver.config.machine),
        every: driver.config.compare_every,
    };
    if driver.engine.edge().is_some() {
        run_edge(driver, &comparing, stop).await;
    } else {
        let behind = behind::Behind {
            engine: driver.engine.clone(),
            readiness: driver.readiness.clone(),
            lacks_beyond: driver.shared.lacks_beyond(),
            anchors,
            member: comparing.member.clone(),
            far_events: driver.config.far_behind_events,
        };
        let behind = behind::run(behind, stop.clone());
        tokio::join!(talk(driver, stop.clone()), compare::run(&comparing, stop), behind);
    }
}

/// An edge begins with a snapshot; what it takes in is carried to anchors from the first moment.
async fn run_edge(driver: Driver, comparing: &compare::Comparing, stop: CancellationToken) {
    driver.readiness.raise(Obstacle::CatchingUp);
    let anchors = Arc::clone(&comparing.anchors);
    let member = anchors::membership(&driver.config.machine);
    anchors.look_up().await;
    let carrying = submit::Carrying {
        engine: driver.engine.clone(),
        anchors: Arc::clone(&anchors),
        member: member.clone(),
        replicated_within: driver.engine.replica().opt_out_wait(),
    };
    let talking = async {
        if let Some((heads, giver)) = snapshot::obtain(&driver.engine, &anchors, &member, &stop).await {
            driver.shared.begin_at(heads, &driver.engine, &driver.config);
            let confirmed = async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = comparing.confirm(giver) => compare::run(comparing, stop.clone()).await,
                }
            };
            tokio::join!(talk(driver, stop.clone()), confirmed);
        }
    };
    tokio::join!(submit::run(carrying, stop.clone()), talking);
}

async fn talk(driver: Driver, stop: CancellationToken) {
    let dialling = dial::run(driver.config.peers.clone(), driver.shared.links.clone(), stop.clone());
    let driving = drive::run(driver, stop.clone());
    tokio::join!(dialling, driving);
}
