//! Usage between engine and machine: what is to be told, what was told, and all of it for a peer that lost its own.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::replication::frame::UsagePart;
use crate::replication::{Input, Link};

/// How long what is to be told waits for more, so that a busy node tells it in few chunks.
const GATHER: Duration = Duration::from_millis(20);
/// Chunks of peers that wait for the view; then the newest are dropped.
const WAITING_MAX: usize = 256;
/// Peers that are told all usage at once; more are told to ask elsewhere.
const TELLINGS_MAX: usize = 4;
/// Parts made ahead for a peer.
const PARTS_AHEAD: usize = 2;
/// A peer that wants no further part for this long is given up.
const GIVEN_UP: Duration = Duration::from_secs(60);
/// How often it is looked whether a peer has taken a part.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The counter of chunks that were dropped: at the start of their way, waiting for a link, or at the end of their way.
pub const DROPPED: &str = "optgate_usage_dropped_total";

type Parts = Arc<AsyncMutex<mpsc::Receiver<UsagePart>>>;

/// A chunk on its way to the view, and the link that it was asked for by.
type Merging = (Arc<[u8]>, Option<Link>);

/// All usage on its way to one peer.
struct Telling {
    parts: Parts,
    /// When a part was last wanted.
    wanted: Instant,
}

/// The tasks that move usage. They end with it.
pub struct Usage {
    engine: Engine,
    inputs: mpsc::Sender<Input>,
    to_merge: mpsc::Sender<Merging>,
    tellings: Arc<Mutex<HashMap<Link, Telling>>>,
    tasks: JoinSet<()>,
}

impl Usage {
    pub fn start(engine: &Engine, inputs: &mpsc::Sender<Input>) -> Self {
        let (to_merge, merging) = mpsc::channel(WAITING_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(tell(engine.clone(), inputs.clone()));
        tasks.spawn(merge(engine.clone(), merging, inputs.clone()));
        let (engine, inputs) = (engine.clone(), inputs.clone());
        Self { engine, inputs, to_merge, tellings: Arc::default(), tasks }
    }

    /// Joins a peer's chunk to what is known here, by and by.
    pub fn take(&self, bytes: Arc<[u8]>) {
        if self.to_merge.try_send((bytes, None)).is_err() {
            metrics::counter!(DROPPED, "at" => "end").increment(1);
        }
    }

    /// The same with a chunk that was asked for: there is one at a time, and it waits for room.
    pub fn take_part(&mut self, link: Link, bytes: Arc<[u8]>) {
        while self.tasks.try_join_next().is_some() {}
        let to_merge = self.to_merge.clone();
        self.tasks.spawn(async move {
            // Fails only once the node stops.
            let _ = to_merge.send((bytes, Some(link))).await;
        });
    }

    /// Makes the next part of all usage for `link`.
    pub fn make(&mut self, link: Link) {
        while self.tasks.try_join_next().is_some() {}
        let parts = self.parts_for(link);
        let (inputs, tellings) = (self.inputs.clone(), Arc::clone(&self.tellings));
        self.tasks.spawn(async move {
            let part = match parts {
                Some(parts) => parts.lock().await.recv().await,
                None => None,
            };
            // Broken off, or too many ask at once: somebody else may have all of it.
            let part = part.unwrap_or(UsagePart::End { complete: false });
            if matches!(part, UsagePart::End { .. }) {
                tellings.lock().remove(&link);
            }
            // Fails only once the node stops.
            let _ = inputs.send(Input::UsageMade { link, part }).await;
        });
    }

    fn parts_for(&self, link: Link) -> Option<Parts> {
        let mut tellings = self.tellings.lock();
        if let Some(telling) = tellings.get_mut(&link) {
            telling.wanted = Instant::now();
            return Some(Arc::clone(&telling.parts));
        }
        tellings.retain(|_, telling| telling.wanted.elapsed() < GIVEN_UP);
        if tellings.len() >= TELLINGS_MAX {
            return None;
        }
        let (made, parts) = mpsc::channel(PARTS_AHEAD);
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || make_all(&engine, &made));
        let parts = Arc::new(AsyncMutex::new(parts));
        tellings.insert(link, Telling { parts: Arc::clone(&parts), wanted: Instant::now() });
        Some(parts)
    }

    /// All that others have has been told.
    pub fn restored(&self) {
        tracing::info!("usage that is missing here was taken over from peers");
        self.engine.usage_restored();
    }
}

/// Tells what this node counted.
async fn tell(engine: Engine, inputs: mpsc::Sender<Input>) {
    if engine.lacks_usage() && inputs.send(Input::LacksUsage).await.is_err() {
        return;
    }
    loop {
        engine.usage_ready().await;
        tokio::time::sleep(GATHER).await;
        for chunk in engine.take_usage() {
            if inputs.send(Input::Usage { bytes: chunk.into() }).await.is_err() {
                return;
            }
        }
        metrics::counter!(DROPPED, "at" => "start").absolute(engine.usage_dropped());
    }
}

/// Joins what peers told, one chunk after the other.
async fn merge(engine: Engine, mut chunks: mpsc::Receiver<Merging>, inputs: mpsc::Sender<Input>) {
    while let Some((chunk, asked_by)) = chunks.recv().await {
        let engine = engine.clone();
        let merged = tokio::task::spawn_blocking(move || engine.usage_merge(&chunk)).await;
        match merged {
            Ok(Ok(merged)) if merged.dropped > 0 => {
                metrics::counter!(DROPPED, "at" => "end").increment(1);
                tracing::debug!(lost = merged.dropped, "usage that a peer told of could not be kept");
            }
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => tracing::warn!(%fault, "usage that a peer told of cannot be read"),
            Err(_) => return,
        }
        if let Some(link) = asked_by
            && inputs.send(Input::UsageTaken { link }).await.is_err()
        {
            return;
        }
    }
}

/// Makes all parts, as fast as they are taken.
fn make_all(engine: &Engine, made: &mpsc::Sender<UsagePart>) {
    let complete = !engine.lacks_usage();
    let told = engine.usage_dump(&mut |chunk| hand_over(made, UsagePart::Chunk(chunk.into())));
    match told {
        Ok(()) => {
            let _ = hand_over(made, UsagePart::End { complete });
        }
        Err(error) => tracing::warn!(%error, "usage cannot be read for a peer"),
    }
}

fn hand_over(made: &mpsc::Sender<UsagePart>, mut part: UsagePart) -> ControlFlow<()> {
    let begun = Instant::now();
    while begun.elapsed() < GIVEN_UP {
        match made.try_send(part) {
            Ok(()) => return ControlFlow::Continue(()),
            Err(TrySendError::Closed(_)) => break,
            // Not a blocking send: a peer that is gone takes nothing more, and this thread must end.
            Err(TrySendError::Full(again)) => part = again,
        }
        std::thread::sleep(LOOK_EVERY);
    }
    ControlFlow::Break(())
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::engine::replica::Replica;
    use crate::engine::tests::Node;

    /// An engine that lacks nothing, and its usage's tasks: on a test's one thread they move only while the test waits.
    fn start() -> (Node, Usage, mpsc::Receiver<Input>) {
        let node = Node::open(Replica::alone());
        node.engine.usage_restored();
        let (inputs, made) = mpsc::channel(TELLINGS_MAX + 1);
        let usage = Usage::start(&node.engine, &inputs);
        (node, usage, made)
    }

    /// Whether the next part made says that all was told, and for whom it is.
    async fn told(made: &mut mpsc::Receiver<Input>) -> (Link, bool) {
        match made.recv().await {
            Some(Input::UsageMade { link, part: UsagePart::End { complete } }) => (link, complete),
            other => panic!("no end: {other:?}"),
        }
    }

    #[tokio::test]
    async fn one_peer_more_than_is_told_at_once_is_told_to_ask_elsewhere() {
        let (_node, mut usage, mut made) = start();
        let links = [0, 1, 2, 3, 4].map(Link);
        let [at_once @ .., one_more] = links;
        assert_eq!(at_once.len(), TELLINGS_MAX);
        for link in links {
            usage.make(link);
        }
        let mut all = Vec::new();
        for _ in links {
            all.push(told(&mut made).await);
        }
        all.sort_unstable();
        assert_eq!(all, links.map(|link| (link, link != one_more)));
        usage.make(one_more);
        assert_eq!(told(&mut made).await, (one_more, true), "once the others are through");
    }

    #[tokio::test]
    async fn one_chunk_more_than_may_wait_is_dropped_unless_it_was_asked_for() {
        let (_node, mut usage, mut made) = start();
        let recorder = PrometheusBuilder::new().build_recorder();
        let chunk: Arc<[u8]> = Arc::from(&b"no usage"[..]);
        let take = |usage: &Usage| metrics::with_local_recorder(&recorder, || usage.take(Arc::clone(&chunk)));
        let dropped =
            || recorder.handle().render().lines().find(|line| line.starts_with(DROPPED)).map(String::from);
        for _ in 0..WAITING_MAX {
            take(&usage);
        }
        assert_eq!(dropped(), None);
        take(&usage);
        let one = Some(format!("{DROPPED}{{at=\"end\"}} 1"));
        assert_eq!(dropped(), one);
        usage.take_part(Link(7), Arc::clone(&chunk));
        let taken = made.recv().await;
        assert!(matches!(taken, Some(Input::UsageTaken { link: Link(7) })), "it waits for room: {taken:?}");
        take(&usage);
        assert_eq!(dropped(), one, "there is room again");
    }
}
