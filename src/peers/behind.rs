//! What an anchor does that is far behind: the opt-outs of another's snapshot hold here while their events are on their way.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::anchors::Anchors;
use super::drive::Shared;
use super::snapshot;
use crate::engine::Engine;
use crate::engine::borrow::Returned;
use crate::engine::error::EngineError;
use crate::ledger::Head;
use crate::pb::replication::v1 as pb;
use crate::policy::ids::OriginId;
use crate::replication::vector::Heads;

/// How often it is looked how far behind this node is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The wait before the anchors are asked again; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What it needs.
pub struct Behind {
    pub engine: Engine,
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

impl Behind {
    async fn look_after(&self) {
        let mut lent = Heads::default();
        let mut wait = RETRY;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if !lent.is_empty() && self.has_returned(&lent).await {
                lent = Heads::default();
            }
            if self.shared.lacks_beyond(&lent) <= self.far_events {
                continue;
            }
            self.anchors.look_up().await;
            let has_enough = |heads: &[(OriginId, Head)]| {
                self.shared.lacks_beyond(&heads.iter().copied().collect()) <= self.far_events
            };
            match snapshot::borrow(&self.engine, &self.anchors, &self.member, has_enough).await {
                Some(heads) => (lent, wait) = (heads.into_iter().collect(), RETRY),
                None => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Whether what was borrowed at `lent` is looked after no more.
    async fn has_returned(&self, lent: &Heads) -> bool {
        let heads: Vec<_> = lent.iter().collect();
        let engine = self.engine.clone();
        let returned = tokio::task::spawn_blocking(move || engine.return_opt_outs(&heads)).await;
        match returned.unwrap_or(Err(EngineError::Abandoned)) {
            Ok(Returned::NotYet) => false,
            Ok(Returned::All) => {
                tracing::info!("the events of all opt-outs that were borrowed are here");
                true
            }
            Ok(Returned::Forked(origin)) => {
                tracing::error!(
                    %origin,
                    "the anchor that lent its opt-outs holds other events of an origin than this node; they hold here until a restart"
                );
                true
            }
            Err(error) => {
                tracing::error!(%error, "it cannot be told whether the opt-outs that were borrowed are here; they hold until a restart");
                true
            }
        }
    }
}
