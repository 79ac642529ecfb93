//! Carries what an edge took in to an anchor, again and again until one has it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

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
/// While no anchor answers, how long to wait before the next item is tried; doubles up to [`QUIET_MAX`].
const QUIET: Duration = Duration::from_millis(100);
const QUIET_MAX: Duration = Duration::from_secs(2);
/// The wait before an item is offered again that an anchor did not take now, refused although it opts out, or that no majority has.
pub const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What offering an item came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    Done,
    /// An anchor answered, but the item is not done with.
    Again,
    /// No anchor answers.
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

/// Carries until `stop`; what is under way then may or may not arrive, and is carried again after the next start.
pub async fn run(carrying: Carrying, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let quiet = Arc::new(Quiet::default());
    let mut tasks = JoinSet::new();
    loop {
        let next = async {
            // Never closed.
            let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
            quiet.over().await;
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
        let (carrying, stop, quiet) = (carrying.clone(), stop.clone(), Arc::clone(&quiet));
        tasks.spawn(async move {
            let carried = async {
                let offered = offer(&carrying, &item).await;
                drop(slot);
                match offered {
                    Offered::Done => return quiet.end(),
                    Offered::Again => {
                        quiet.end();
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                    Offered::Nobody => {
                        quiet.begin();
                        carrying.anchors.look_up().await;
                        return carrying.engine.not_offered(item);
                    }
                }
                carrying.engine.unsent(item);
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = carried => {}
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    tasks.shutdown().await;
}

/// While no anchor answers there is no use in trying all that waits.
#[derive(Default)]
struct Quiet(Mutex<Option<(Instant, Duration)>>);

impl Quiet {
    /// Waits until the next item may be tried.
    async fn over(&self) {
        let until = self.0.lock().map(|(until, _)| until);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }

    fn begin(&self) {
        let mut quiet = self.0.lock();
        let now = Instant::now();
        match *quiet {
            // Told by another item that was under way at the same time.
            Some((until, _)) if until > now => {}
            Some((_, last)) => {
                let next = (last * 2).min(QUIET_MAX);
                *quiet = Some((now + next, next));
            }
            None => *quiet = Some((now + QUIET, QUIET)),
        }
    }

    fn end(&self) {
        *self.0.lock() = None;
    }
}

/// Offers the item to each anchor in turn.
async fn offer(carrying: &Carrying, item: &Item) -> Offered {
    let mut offered = Offered::Nobody;
    for (addr, mut client) in carrying.anchors.in_turn() {
        let (request, within) = request(&carrying.engine, &carrying.member, item, carrying.replicated_within);
        let Ok(answer) = tokio::time::timeout(within, client.submit(request)).await else { continue };
        match answered(&carrying.engine, item, answer.map(tonic::Response::into_inner)) {
            Answered::Taken(offered) => {
                carrying.anchors.answered(addr);
                return offered;
            }
            Answered::Refused(offered) => return offered,
            Answered::NotNow => offered = Offered::Again,
            Answered::Unheard => {}
        }
    }
    offered
}

/// What an anchor is asked, and how long it may take to answer.
pub fn request(
    engine: &Engine,
    member: &pb::Membership,
    item: &Item,
    replicated_within: Duration,
) -> (pb::SubmitRequest, Duration) {
    // Only what opts somebody out has to be on a majority's disks before it is done with.
    let wait = if item.priority { replicated_within } else { Duration::ZERO };
    let request = pb::SubmitRequest {
        member: Some(member.clone()),
        payload: item.payload.clone(),
        blob: item.blob.clone(),
        wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        age_ms: engine.age_ms(item),
    };
    (request, wait + ANSWER_WITHIN)
}

/// What an anchor's answer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It numbered the item.
    Taken(Offered),
    /// It takes it never.
    Refused(Offered),
    /// It does not take it now: the next anchor may.
    NotNow,
    /// It did not really answer.
    Unheard,
}

/// Tells the engine what an anchor answered.
pub fn answered(engine: &Engine, item: &Item, answer: Result<pb::SubmitResponse, Status>) -> Answered {
    let after = |done| if done { Offered::Done } else { Offered::Again };
    match answer {
        Ok(pb::SubmitResponse { origin, sequence, replicated }) => {
            let Ok(origin) = <[u8; 16]>::try_from(origin) else { return Answered::Unheard };
            let event = EventId { origin: OriginId(origin), sequence };
            Answered::Taken(after(engine.numbered(item, Numbered { event, replicated })))
        }
        Err(status) if matches!(status.code(), Code::InvalidArgument | Code::AlreadyExists) => {
            Answered::Refused(after(engine.refused(item, status.message())))
        }
        Err(status) => {
            tracing::debug!(code = ?status.code(), text = status.message(), "an anchor does not take what was taken in here");
            match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Answered::Unheard,
                _ => Answered::NotNow,
            }
        }
    }
}
