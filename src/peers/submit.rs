//! Carries what an edge took in to an anchor, again and again until one has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::anchors::Anchors;
use crate::engine::Engine;
use crate::engine::edge::Numbered;
use crate::outbox::Item;
use crate::pb::replication::v1 as pb;
use crate::policy::ids::{EventId, OriginId};

/// How many items are under way at once.
const UNDER_WAY_MAX: usize = 64;
/// How long an anchor may take beyond what it was asked to wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The wait before an item is tried again; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// The wait before an opt-out that an anchor refused, or that no majority has, is tried again.
const RETRY_KEPT: Duration = Duration::from_secs(5);

/// What an item's turn came to.
enum Turn {
    Done,
    /// Somebody has it, but it is not done with.
    Later,
    /// Nobody answered.
    Nobody,
}

/// What carrying needs.
#[derive(Clone)]
pub struct Carrying {
    pub engine: Engine,
    pub anchors: Arc<Anchors>,
    pub member: pb::Membership,
    /// How long an anchor is to wait for a majority.
    pub replicated_within: Duration,
}

/// Carries until `stop`; then what is under way may end.
pub async fn run(carrying: Carrying, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut tasks = JoinSet::new();
    loop {
        let next = async {
            // Never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            let item = carrying.engine.edge()?.next_unsent().await;
            Some((slot, item))
        };
        let (slot, item) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => match next {
                Some(next) => next,
                None => break,
            },
        };
        let (carrying, stop) = (carrying.clone(), stop.clone());
        tasks.spawn(async move {
            let carried = carry(&carrying, &item);
            let later = tokio::select! {
                () = stop.cancelled() => return,
                later = carried => later,
            };
            drop(slot);
            if later {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(RETRY_KEPT) => {}
                }
                carrying.engine.unsent(item);
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    tasks.shutdown().await;
}

/// Tries until an anchor has the item; `true`: it is to be tried again later all the same.
async fn carry(carrying: &Carrying, item: &Arc<Item>) -> bool {
    let mut wait = RETRY;
    loop {
        match offer(carrying, item).await {
            Turn::Done => return false,
            Turn::Later => return true,
            Turn::Nobody => {}
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
        carrying.anchors.look_up().await;
    }
}

/// Offers the item to each anchor in turn.
async fn offer(carrying: &Carrying, item: &Item) -> Turn {
    let wait_ms = u32::try_from(carrying.replicated_within.as_millis()).unwrap_or(u32::MAX);
    let within = carrying.replicated_within + ANSWER_WITHIN;
    for (addr, mut client) in carrying.anchors.in_turn() {
        let request = pb::SubmitRequest {
            member: Some(carrying.member.clone()),
            payload: item.payload.clone(),
            blob: item.blob.clone(),
            wait_ms,
        };
        let answer = match tokio::time::timeout(within, client.submit(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) if matches!(status.code(), Code::InvalidArgument | Code::AlreadyExists) => {
                let done = carrying.engine.refused(item, status.message());
                return if done { Turn::Done } else { Turn::Later };
            }
            Ok(Err(status)) => {
                tracing::debug!(anchor = %addr, code = ?status.code(), text = status.message(), "an anchor does not take what was taken in here");
                continue;
            }
            Err(_) => continue,
        };
        let pb::SubmitResponse { origin, sequence, replicated } = answer;
        let Ok(origin) = <[u8; 16]>::try_from(origin) else { continue };
        carrying.anchors.answered(addr);
        let event = EventId { origin: OriginId(origin), sequence };
        let done = carrying.engine.numbered(item, Numbered { event, replicated });
        return if done { Turn::Done } else { Turn::Later };
    }
    Turn::Nobody
}
