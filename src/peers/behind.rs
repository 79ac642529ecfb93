//! What an anchor does that is far behind: the opt-outs of others' snapshots hold here while their events are on their way.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::anchors::Anchors;
use super::snapshot;
use crate::engine::Engine;
use crate::engine::borrow::{self, Heads, Returned};
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
/// From when on an event that was borrowed and that nobody tells of, while all is known that anybody has, is taken for lost.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// A snapshot is worth taking that has this part of what is missing.
const WORTH_TAKING: u64 = 8;

/// What it needs.
pub struct Behind {
    pub engine: Engine,
    pub readiness: Readiness,
    /// Tells how many events that anchors hold are neither applied here nor among those up to a vector.
    pub lacks_beyond: Arc<dyn Fn(&Heads) -> u64 + Send + Sync>,
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

impl Lacking {
    fn begin() -> Self {
        let now = Instant::now();
        Self { since: now, ask_at: now, wait: RETRY }
    }
}

/// Whether what was borrowed should have come by now.
#[derive(Default)]
struct Overdue {
    knows_all_since: Option<Instant>,
    said: bool,
}

impl Overdue {
    /// Whether it is time to say so, which is once.
    fn look(&mut self, knows_all: bool, borrows: bool) -> bool {
        if !(knows_all && borrows) {
            *self = Self::default();
            return false;
        }
        let since = *self.knows_all_since.get_or_insert_with(Instant::now);
        let is_news = since.elapsed() > LOST_AFTER && !self.said;
        self.said |= is_news;
        is_news
    }
}

impl Behind {
    async fn look_after(&self) {
        let mut lacking: Option<Lacking> = None;
        // When it is next looked whether what is borrowed can be given back; `None`: never, unless more is borrowed.
        let mut give_back_at = Some(Instant::now());
        let mut overdue = Overdue::default();
        loop {
            sleep(LOOK_EVERY).await;
            let replica = self.engine.replica();
            let missing = (self.lacks_beyond)(&Heads::new());
            replica.set_far_behind(missing > self.far_events);
            let knows_all = missing == 0 && !replica.is_catching_up() && !self.engine.is_stale();
            if knows_all {
                // Also where events never come that a lender had and lost: as much is known here as anybody knows.
                self.engine.view().end_overflow();
            }
            if overdue.look(knows_all, self.engine.view().borrows()) {
                tracing::error!(
                    records = self.engine.view().borrowed().records,
                    "events of borrowed opt-outs are at none of the anchors heard: they may have been lost with the one that lent them; \
                     they hold here alone, until they come or a restart; record them again elsewhere"
                );
            }
            if self.engine.view().borrows() && give_back_at.is_some_and(|at| at <= Instant::now()) {
                give_back_at = self.give_back().await;
            }
            if self.is_far_from(&self.engine.borrowed_up_to()) {
                if self.lack(lacking.get_or_insert_with(Lacking::begin)).await {
                    give_back_at = Some(Instant::now());
                }
            } else if knows_all || missing > 0 {
                // Nothing missing and not all known: the peers have gone. When they are back, what was waited counts.
                lacking = None;
            }
            replica.set_awaiting_opt_outs(
                replica.awaits_opt_outs() && self.is_far_from(&self.engine.borrowed_up_to()),
            );
            self.tell();
        }
    }

    fn is_far_from(&self, heads: &Heads) -> bool {
        (self.lacks_beyond)(heads) > self.far_events
    }

    /// Says whether calls should be sent here.
    fn tell(&self) {
        if self.engine.replica().awaits_opt_outs() || self.engine.view().borrowed().overflows {
            self.readiness.raise(Obstacle::AwaitingOptOuts);
        } else {
            self.readiness.clear(Obstacle::AwaitingOptOuts);
        }
    }

    /// Asks for what is lacking, if it is time to; whether something was borrowed.
    async fn lack(&self, lacking: &mut Lacking) -> bool {
        // A name that cannot be resolved is complained of, so not at each look.
        if self.anchors.in_turn().is_empty() && Instant::now() >= lacking.ask_at {
            self.anchors.look_up().await;
        }
        let until = lacking.since + AWAITED_FOR;
        let awaited = Instant::now() < until;
        // Where nobody can be asked there is nothing to wait for.
        self.engine.replica().set_awaiting_opt_outs(awaited && !self.anchors.in_turn().is_empty());
        self.tell();
        if Instant::now() < lacking.ask_at {
            return false;
        }
        let asking = async {
            tokio::select! {
                borrowed = self.ask() => borrowed,
                () = self.no_longer_far() => false,
            }
        };
        let borrowed = if awaited { timeout_at(until, asking).await.unwrap_or(false) } else { asking.await };
        lacking.ask_at = Instant::now() + lacking.wait;
        lacking.wait = (lacking.wait * 2).min(RETRY_MAX);
        borrowed
    }

    async fn ask(&self) -> bool {
        self.anchors.look_up().await;
        let (engine, lacks_beyond) = (self.engine.clone(), Arc::clone(&self.lacks_beyond));
        let wanted = move |heads: &Heads| {
            let mut with = engine.borrowed_up_to();
            let before = lacks_beyond(&with);
            borrow::raise(&mut with, heads);
            let gained = before.saturating_sub(lacks_beyond(&with));
            gained > 0 && gained >= before / WORTH_TAKING
        };
        let enough = || !self.is_far_from(&self.engine.borrowed_up_to());
        snapshot::borrow(&self.engine, &self.anchors, &self.member, wanted, enough).await
    }

    async fn no_longer_far(&self) {
        while self.is_far_from(&Heads::new()) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends what is borrowed, if its events are here; when to look again.
    async fn give_back(&self) -> Option<Instant> {
        let engine = self.engine.clone();
        let returned = tokio::task::spawn_blocking(move || engine.return_opt_outs()).await;
        match returned.unwrap_or(Err(EngineError::Abandoned)) {
            Ok(Returned::NotYet) => Some(Instant::now()),
            Ok(Returned::All) => {
                tracing::info!("the events of all opt-outs that were borrowed have come");
                Some(Instant::now())
            }
            Ok(Returned::Forked(origin)) => {
                tracing::error!(
                    %origin,
                    "an anchor that lent its opt-outs holds other events of an origin than this node; they hold here until a restart"
                );
                None
            }
            Err(error) => {
                tracing::error!(%error, "it cannot be told whether the events of borrowed opt-outs have come; they hold on");
                Some(Instant::now() + RETRY_MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::net::TcpListener;

    use super::*;
    use crate::engine::replica::Replica;
    use crate::engine::tests::Node;

    /// A node that lacks so many events, and an anchor that takes connections and never answers.
    struct Alone {
        node: Node,
        missing: Arc<AtomicU64>,
        readiness: Readiness,
        stop: CancellationToken,
        _silent: TcpListener,
    }

    impl Alone {
        async fn lacking(missing: u64) -> Self {
            let node = Node::open(Replica::among_others(Duration::ZERO));
            node.engine.replica().set_catching_up(false);
            let missing = Arc::new(AtomicU64::new(missing));
            let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let lacks = Arc::clone(&missing);
            let (readiness, stop) = (Readiness::default(), CancellationToken::new());
            let behind = Behind {
                engine: node.engine.clone(),
                readiness: readiness.clone(),
                lacks_beyond: Arc::new(move |_| lacks.load(Ordering::Acquire)),
                anchors: Arc::new(Anchors::new(vec![silent.local_addr().unwrap().to_string()])),
                member: pb::Membership::default(),
                far_events: 100,
            };
            tokio::spawn(run(behind, stop.clone()));
            Self { node, missing, readiness, stop, _silent: silent }
        }

        fn denies(&self) -> bool {
            let raised = self.readiness.now().obstacles().any(|raised| raised == Obstacle::AwaitingOptOuts);
            let denies = self.node.engine.replica().awaits_opt_outs();
            assert_eq!(raised, denies, "readiness says so");
            denies
        }
    }

    impl Drop for Alone {
        fn drop(&mut self) {
            self.stop.cancel();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_denied_while_an_anchor_that_may_tell_is_asked_and_no_longer_than_that() {
        let alone = Alone::lacking(101).await;
        sleep(LOOK_EVERY * 2).await;
        let begun = Instant::now();
        while alone.denies() {
            assert!(begun.elapsed() < AWAITED_FOR * 2, "it must end");
            sleep(LOOK_EVERY).await;
        }
        let took = begun.elapsed() + LOOK_EVERY * 2;
        assert!((AWAITED_FOR - LOOK_EVERY..AWAITED_FOR + RETRY_MAX).contains(&took), "{took:?}");
        sleep(AWAITED_FOR).await;
        assert!(!alone.denies(), "once is enough");
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_comes_is_said_once() {
        let mut overdue = Overdue::default();
        let said = async |overdue: &mut Overdue, looks: u32, knows_all| {
            let mut said = 0;
            for _ in 0..looks {
                said += u32::from(overdue.look(knows_all, true));
                sleep(LOOK_EVERY).await;
            }
            said
        };
        assert_eq!(said(&mut overdue, 590, true).await, 0);
        assert_eq!(said(&mut overdue, 1, false).await, 0, "a lender that is away may come back");
        assert_eq!(said(&mut overdue, 590, true).await, 0);
        assert_eq!(said(&mut overdue, 590, true).await, 1);
        assert!(!overdue.look(true, false), "it has come");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_when_the_events_are_here_and_does_not_begin_anew_with_each_connection() {
        let alone = Alone::lacking(100).await;
        sleep(LOOK_EVERY * 2).await;
        assert!(!alone.denies(), "that is not far");
        let mut denied = Duration::ZERO;
        for _ in 0..10 {
            alone.missing.store(101, Ordering::Release);
            for _ in 0..50 {
                sleep(LOOK_EVERY).await;
                denied += if alone.denies() { LOOK_EVERY } else { Duration::ZERO };
            }
            // Its connection ends, and with it all that is known to be missing.
            alone.missing.store(0, Ordering::Release);
            sleep(LOOK_EVERY * 3).await;
            assert!(!alone.denies());
        }
        assert!((AWAITED_FOR / 2..AWAITED_FOR + RETRY_MAX).contains(&denied), "{denied:?}");
    }
}
