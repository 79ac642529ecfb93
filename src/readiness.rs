//! Whether this process should be sent calls, and whether it should be restarted.
//!
//! Parts that know of an obstacle raise it and clear it; health, over gRPC and over HTTP, only reads. Knows no
//! network and no store.

use std::collections::BTreeSet;
use std::fmt;

use tokio::sync::watch;

/// Something that keeps the process from taking calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Obstacle {
    /// The store is being opened.
    Starting,
    /// The view is being rebuilt from the ledger.
    RebuildingView,
    /// The peers' newest events have not been applied yet.
    CatchingUp,
    /// This node is far behind, and others are asked for their opt-outs, or have more of them than it can remember.
    AwaitingOptOuts,
    /// Anchors are asked whether a snapshot that another gave is sound.
    ConfirmingSnapshot,
    /// An fsync failed: nothing can be acknowledged any more. Only a restart helps.
    LedgerFailed,
    /// A task that everything rests on ended. Only a restart helps.
    TaskEnded(&'static str),
    /// The process is stopping.
    Draining,
}

impl Obstacle {
    /// Whether a restart is the remedy. Never for the state of peers: restarting helps nobody there.
    #[must_use]
    pub const fn is_fatal(self) -> bool {
        match self {
            Self::LedgerFailed | Self::TaskEnded(_) => true,
            Self::Starting
            | Self::RebuildingView
            | Self::CatchingUp
            | Self::AwaitingOptOuts
            | Self::ConfirmingSnapshot
            | Self::Draining => false,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("the store is being opened"),
            Self::RebuildingView => f.write_str("the view is being rebuilt from the ledger"),
            Self::CatchingUp => f.write_str("the peers' newest events are not applied yet"),
            Self::AwaitingOptOuts => f.write_str("the peers' newest opt-outs are not known yet"),
            Self::ConfirmingSnapshot => f.write_str("anchors are asked whether the snapshot is sound"),
            Self::LedgerFailed => f.write_str("the ledger could not be synced to disk; restart the process"),
            Self::TaskEnded(name) => write!(f, "the {name} task ended; restart the process"),
            Self::Draining => f.write_str("the process is stopping"),
        }
    }
}

/// Something an operator should know of, though calls may be sent here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remark {
    /// Too little is known of a majority of the anchors.
    Stale,
    /// What peers sent of this many origins does not verify.
    Unverified {
        /// How many.
        origins: usize,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale => f.write_str(
                "too little is known of a majority of the anchors; what needs consent is denied unless `fail_open` names it",
            ),
            Self::Unverified { origins } => {
                write!(
                    f,
                    "records of {origins} origin(s) do not verify; only their opt-outs hold; `optgate status` names them"
                )
            }
        }
    }
}

/// What stands in the way at one moment, and what is remarkable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    obstacles: BTreeSet<Obstacle>,
    remarks: BTreeSet<Remark>,
}

impl State {
    /// Whether calls should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.obstacles.is_empty()
    }

    /// Whether the process should be left running.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.obstacles.iter().any(|obstacle| obstacle.is_fatal())
    }

    /// What stands in the way.
    pub fn obstacles(&self) -> impl Iterator<Item = Obstacle> + '_ {
        self.obstacles.iter().copied()
    }

    /// What should be known, and keeps nobody from sending calls here.
    pub fn remarks(&self) -> impl Iterator<Item = Remark> + '_ {
        self.remarks.iter().copied()
    }
}

/// The shared state: cheap to clone, one for the whole process.
#[derive(Clone, Debug)]
pub struct Readiness {
    state: watch::Sender<State>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::starting()
    }
}

impl Readiness {
    /// Not ready, since [`Obstacle::Starting`] stands.
    #[must_use]
    pub fn starting() -> Self {
        Self {
            state: watch::Sender::new(State {
                obstacles: BTreeSet::from([Obstacle::Starting]),
                remarks: BTreeSet::new(),
            }),
        }
    }

    /// Raises an obstacle. Raising it twice changes nothing.
    pub fn raise(&self, obstacle: Obstacle) {
        self.state.send_if_modified(|state| state.obstacles.insert(obstacle));
    }

    /// Clears an obstacle. A fatal one stays: what could not be trusted before cannot be trusted again.
    pub fn clear(&self, obstacle: Obstacle) {
        if !obstacle.is_fatal() {
            self.state.send_if_modified(|state| state.obstacles.remove(&obstacle));
        }
    }

    /// Sets what is remarkable, in place of what was.
    pub fn remark(&self, remarks: impl IntoIterator<Item = Remark>) {
        let remarks = remarks.into_iter().collect();
        self.state.send_if_modified(|state| {
            state.remarks = remarks;
            // Watchers wait for readiness, which this does not change.
            false
        });
    }

    /// The state now.
    #[must_use]
    pub fn now(&self) -> State {
        self.state.borrow().clone()
    }

    /// The state and its changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_every_obstacle_is_cleared() {
        let readiness = Readiness::starting();
        readiness.raise(Obstacle::RebuildingView);
        readiness.clear(Obstacle::Starting);
        assert!(!readiness.now().is_ready());
        assert!(readiness.now().is_live());
        readiness.clear(Obstacle::RebuildingView);
        assert!(readiness.now().is_ready());
    }

    #[test]
    fn a_fatal_obstacle_stays_and_ends_liveness() {
        let readiness = Readiness::starting();
        readiness.clear(Obstacle::Starting);
        readiness.raise(Obstacle::LedgerFailed);
        readiness.clear(Obstacle::LedgerFailed);
        assert!(!readiness.now().is_live());
        assert!(!readiness.now().is_ready());
    }

    #[test]
    fn a_remark_stands_in_nobodys_way_and_wakes_nobody() {
        let readiness = Readiness::starting();
        readiness.clear(Obstacle::Starting);
        let watch = readiness.watch();
        readiness.remark([Remark::Unverified { origins: 2 }, Remark::Stale]);
        assert!(!watch.has_changed().expect("the sender lives"));
        assert!(readiness.now().is_ready() && readiness.now().is_live());
        assert_eq!(
            readiness.now().remarks().collect::<Vec<_>>(),
            [Remark::Stale, Remark::Unverified { origins: 2 }]
        );
        readiness.remark([]);
        assert_eq!(readiness.now().remarks().count(), 0);
    }

    #[test]
    fn watchers_hear_of_changes_only() {
        let readiness = Readiness::starting();
        let mut watch = readiness.watch();
        readiness.raise(Obstacle::Starting);
        assert!(!watch.has_changed().expect("the sender lives"));
        readiness.clear(Obstacle::Starting);
        assert!(watch.has_changed().expect("the sender lives"));
        assert!(watch.borrow_and_update().is_ready());
    }
}
