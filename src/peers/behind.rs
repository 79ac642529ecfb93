//! What an anchor does that is far behind: the opt-outs of others' snapshots hold here while their events are on their way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::anchors::Anchors;
use super::drive::Shared;
use super::snapshot;
use crate::engine::Engine;
use crate::engine::borrow::{Heads, Returned};
use crate::engine::error::EngineError;
use crate::pb::replication::v1 as pb;
use crate::readiness::{Obstacle, Readiness};

/// How often it is looked how far behind this node is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The wait before the anchors are asked again; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long everything is denied while there are anchors to ask. After that `fail_open` decides, as it does where none can be asked.
const AWAITED_FOR: Duration = Duration::from_secs(30);

/// What it needs.
pub struct Behind {
    pub engine: Engine,
    pub readiness: Readiness,
    pub shared: Arc<Shared>,
    pub anchors: Arc<Anchors>,
    pub member: pb::Membership,
    /// With more events missing than these, this node is far behind.
    pub far_events: u64,
}

/// Borrows and returns until `stop`.
pub async fn run(behind: Behind, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = behind.look_after() => {}
    }
}

/// While this node is far behind and lacks opt-outs that others could tell.
struct Lacking {
    since: Instant,
    ask_at: Instant,
    wait: Duration,
}

impl Behind {
    async fn look_after(&self) {
        let mut lacking: Option<Lacking> = None;
        // What was said once is not said again.
        let mut complained = false;
        loop {
            sleep(LOOK_EVERY).await;
            let replica = self.engine.replica();
            let missing = self.shared.lacks_beyond(&Heads::new());
            replica.set_far_behind(missing > self.far_events);
            if missing == 0 && !replica.is_catching_up() && !self.engine.is_stale() {
                // Also where events never come that a lender had and lost: as much is known here as anybody knows.
                self.engine.view().end_overflow();
            }
            if self.engine.view().borrows() && !complained {
                complained = self.give_back().await;
            }
            if self.is_far_from(&self.engine.borrowed_up_to()) {
                let now = Instant::now();
                let lacking = lacking.get_or_insert(Lacking { since: now, ask_at: now, wait: RETRY });
                self.lack(lacking).await;
                complained = false;
            } else {
                lacking = None;
                replica.set_awaiting_opt_outs(false);
            }
            if replica.awaits_opt_outs() || self.engine.view().borrowed().overflows {
                self.readiness.raise(Obstacle::AwaitingOptOuts);
            } else {
                self.readiness.clear(Obstacle::AwaitingOptOuts);
            }
        }
    }

    fn is_far_from(&self, heads: &Heads) -> bool {
        self.shared.lacks_beyond(heads) > self.far_events
    }

    async fn lack(&self, lacking: &mut Lacking) {
        let until = lacking.since + AWAITED_FOR;
        let awaited = Instant::now() < until;
        // Where nobody can be asked there is nothing to wait for.
        self.engine.replica().set_awaiting_opt_outs(awaited && !self.anchors.in_turn().is_empty());
        if Instant::now() < lacking.ask_at {
            return;
        }
        if self.engine.replica().awaits_opt_outs() {
            self.readiness.raise(Obstacle::AwaitingOptOuts);
        }
        let asking = async {
            tokio::select! {
                () = self.ask() => {}
                () = self.no_longer_far() => {}
            }
        };
        if awaited {
            let _ = timeout_at(until, asking).await;
        } else {
            asking.await;
        }
        lacking.ask_at = Instant::now() + lacking.wait;
        lacking.wait = (lacking.wait * 2).min(RETRY_MAX);
    }

    async fn ask(&self) {
        self.anchors.look_up().await;
        let (engine, shared) = (self.engine.clone(), Arc::clone(&self.shared));
        let wanted = move |heads: &Heads| {
            let mut with = engine.borrowed_up_to();
            let before = shared.lacks_beyond(&with);
            crate::engine::borrow::raise(&mut with, heads);
            shared.lacks_beyond(&with) < before
        };
        let enough = || !self.is_far_from(&self.engine.borrowed_up_to());
        snapshot::borrow(&self.engine, &self.anchors, &self.member, wanted, enough).await;
    }

    async fn no_longer_far(&self) {
        while self.is_far_from(&Heads::new()) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends what is borrowed, if its events are here; whether it cannot be ended.
    async fn give_back(&self) -> bool {
        let engine = self.engine.clone();
        let returned = tokio::task::spawn_blocking(move || engine.return_opt_outs()).await;
        match returned.unwrap_or(Err(EngineError::Abandoned)) {
            Ok(Returned::NotYet) => false,
            Ok(Returned::All) => {
                tracing::info!("the events of all opt-outs that were borrowed have come");
                false
            }
            Ok(Returned::Forked(origin)) => {
                tracing::error!(
                    %origin,
                    "an anchor that lent its opt-outs holds other events of an origin than this node; they hold here until a restart"
                );
                true
            }
            Err(error) => {
                tracing::error!(%error, "it cannot be told whether the events of borrowed opt-outs have come; they hold until a restart");
                true
            }
        }
    }
}
