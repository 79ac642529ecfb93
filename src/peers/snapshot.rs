//! Snapshots: an anchor gives one, an edge takes it, and so does, of what suppresses, an anchor that is far behind.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::anchors::{Anchors, Client};
use crate::engine::Engine;
use crate::engine::borrow;
use crate::engine::error::EngineError;
use crate::engine::snapshot::{Extent, Part, Taking};
use crate::grpc::status::{ApiError, details_of};
use crate::ledger::Head;
use crate::pb::replication::v1 as pb;
use crate::policy::ids::{Identifier, OriginId};
use crate::replication::wire;
use crate::view::PERSON_FORM_VERSION;

/// How many parts wait on their way out, or in.
const PARTS_WAITING_MAX: usize = 4;
/// How long an anchor may be silent in the middle of a snapshot.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// The wait before the anchors are asked again; doubles up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

type Heads = Vec<(OriginId, Head)>;

/// A snapshot on its way out.
pub struct Parts {
    parts: mpsc::Receiver<Result<pb::SnapshotResponse, Status>>,
}

impl Stream for Parts {
    type Item = Result<pb::SnapshotResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.parts.poll_recv(context)
    }
}

/// Whether this node knows enough to give a snapshot. What it knows to suppress is worth something at any vector: two nodes may each lack
/// what the other has.
pub fn may_give(engine: &Engine, extent: Extent) -> bool {
    let replica = engine.replica();
    extent == Extent::Suppressing || !replica.is_catching_up() && !replica.is_far_behind()
}

/// Gives a snapshot; without what first records name to a node that would not know it.
pub fn give(engine: &Engine, extent: Extent, wants_named: bool, turn: OwnedSemaphorePermit) -> Parts {
    let (sender, parts) = mpsc::channel(PARTS_WAITING_MAX);
    let engine = engine.clone();
    tokio::task::spawn_blocking(move || {
        // Another may begin once this one has ended, also where whoever asked has gone before.
        let _turn = turn;
        let mut persons = 0;
        let given = engine.snapshot(extent, |part| {
            if let Part::Persons(all) = &part {
                persons += all.len() as u64;
            }
            if matches!(part, Part::Named(_)) && !wants_named {
                return ControlFlow::Continue(());
            }
            match sender.blocking_send(Ok(encode(part))) {
                Ok(()) => ControlFlow::Continue(()),
                // Who asked has gone.
                Err(_) => ControlFlow::Break(()),
            }
        });
        let last = match given {
            Ok(()) => {
                let end = pb::snapshot_response::Part::End(pb::SnapshotEnd { persons });
                Ok(pb::SnapshotResponse { part: Some(end) })
            }
            Err(error) => {
                tracing::warn!(%error, "a snapshot for another node could not be finished");
                Err(ApiError::from(error).into())
            }
        };
        let _ = sender.blocking_send(last);
    });
    Parts { parts }
}

/// Writes a part.
pub fn encode(part: Part) -> pb::SnapshotResponse {
    use pb::snapshot_response::Part as Wire;
    let encode = |heads: Heads| pb::SnapshotHeads {
        heads: heads.into_iter().map(|(origin, head)| wire::encode_head(origin, head)).collect(),
    };
    let part = match part {
        Part::Heads(heads) => Wire::Heads(encode(heads)),
        Part::Named(named) => Wire::Named(encode(named)),
        Part::Persons(persons) => Wire::Persons(pb::SnapshotPersons {
            persons: persons
                .into_iter()
                .map(|(who, consent)| pb::SnapshotPerson { identifier: who.0.to_vec(), consent })
                .collect(),
        }),
        Part::Entries(payloads) => Wire::Entries(pb::SnapshotEntries { payloads }),
    };
    pb::SnapshotResponse { part: Some(part) }
}

/// Why no snapshot was got from an anchor.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Call(#[from] Box<Status>),
    #[error("it fell silent")]
    Silent,
    #[error("a part of it cannot be read")]
    Malformed,
    #[error("it ended early")]
    Short,
    #[error("it has nothing that is missing here")]
    Needless,
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Asks the anchors until one gives a snapshot and it is in force, with who gave it; or none will ever: then all events are asked for. `None`: `stop` came first.
pub async fn obtain(
    engine: &Engine,
    anchors: &Arc<Anchors>,
    member: &pb::Membership,
    stop: &CancellationToken,
) -> Option<(Heads, Option<SocketAddr>)> {
    let obtaining = async {
        let mut wait = RETRY;
        loop {
            anchors.look_up().await;
            for (addr, client) in anchors.in_turn() {
                match from(engine, addr, client, member.clone()).await {
                    Ok(heads) => {
                        anchors.answered(addr);
                        return (heads, Some(addr));
                    }
                    Err(Failed::Call(status))
                        if details_of(&status).reason == ApiError::OtherForm.reason() =>
                    {
                        tracing::warn!(anchor = %addr, text = status.message(), "an anchor gives no snapshot; taking all events instead");
                        match begin_empty(engine).await {
                            Ok(()) => return (Vec::new(), None),
                            Err(error) => tracing::error!(%error, "the view cannot be begun"),
                        }
                    }
                    Err(failed) => tracing::debug!(anchor = %addr, %failed, "no snapshot from an anchor"),
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    };
    tokio::select! {
        () = stop.cancelled() => None,
        obtained = obtaining => Some(obtained),
    }
}

async fn begin_empty(engine: &Engine) -> Result<(), EngineError> {
    let engine = engine.clone();
    let begun = tokio::task::spawn_blocking(move || engine.load_snapshot()?.finish().map(drop));
    begun.await.unwrap_or(Err(EngineError::Abandoned))
}

async fn from(
    engine: &Engine,
    addr: SocketAddr,
    client: Client,
    member: pb::Membership,
) -> Result<Heads, Failed> {
    let begun = Instant::now();
    let request = request(member, Extent::All);
    let loading = engine.clone();
    let loading = taken(client, request, move || loading.load_snapshot()).await?;
    let persons = loading.persons();
    let finished = tokio::task::spawn_blocking(move || loading.finish()).await;
    let heads = finished.unwrap_or(Err(EngineError::Abandoned))?;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(anchor = %addr, persons, origins = heads.len(), took_ms, "a snapshot is in force");
    Ok(heads)
}

/// Takes from each anchor's snapshot in turn what suppresses, where it is at a vector that is wanted, until `enough`; whether any was taken.
pub async fn borrow(
    engine: &Engine,
    anchors: &Anchors,
    member: &pb::Membership,
    wanted: impl Fn(&borrow::Heads) -> bool + Clone + Send + 'static,
    enough: impl Fn() -> bool,
) -> bool {
    let mut any = false;
    for (addr, client) in anchors.in_turn() {
        if enough() {
            break;
        }
        let begun = Instant::now();
        let (borrower, wanted) = (engine.clone(), wanted.clone());
        let request = request(member.clone(), Extent::Suppressing);
        match taken(client, request, move || Ok(borrower.borrow_opt_outs(wanted))).await {
            Ok(borrowed) => {
                borrowed.finish();
                any = true;
                let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(
                    anchor = %addr,
                    records = engine.view().borrowed().records,
                    took_ms,
                    "this node is far behind; the opt-outs of an anchor's snapshot hold until their events come"
                );
            }
            Err(failed) => tracing::info!(anchor = %addr, %failed, "an anchor lends no opt-outs"),
        }
    }
    any
}

fn request(member: pb::Membership, extent: Extent) -> pb::SnapshotRequest {
    pb::SnapshotRequest {
        member: Some(member),
        person_form_version: PERSON_FORM_VERSION.into(),
        wants_named: extent == Extent::All,
        suppressing_only: extent == Extent::Suppressing,
    }
}

/// What was asked for.
#[must_use]
pub const fn extent_of(suppressing_only: bool) -> Extent {
    if suppressing_only { Extent::Suppressing } else { Extent::All }
}

/// Lets what `begin` makes take a whole snapshot.
async fn taken<T: Taking>(
    mut client: Client,
    request: pb::SnapshotRequest,
    begin: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, Failed> {
    let answer = tokio::time::timeout(SILENT_FOR, client.snapshot(request)).await;
    let mut parts = answer.map_err(|_| Failed::Silent)?.map_err(Box::new)?.into_inner();
    let (sender, mut receiver) = mpsc::channel::<Part>(PARTS_WAITING_MAX);
    let taking = tokio::task::spawn_blocking(move || -> Result<T, EngineError> {
        let mut taking = begin()?;
        while let Some(part) = receiver.blocking_recv() {
            taking.take(part)?;
            if !taking.wants_more() {
                break;
            }
        }
        Ok(taking)
    });
    let received = receive(&mut parts, sender).await;
    // Waited for in any case: there is one place for a snapshot that is being taken in.
    let taking = taking.await.unwrap_or(Err(EngineError::Abandoned))?;
    if !taking.wants_more() {
        return Err(Failed::Needless);
    }
    if taking.persons() != received? {
        return Err(Failed::Short);
    }
    Ok(taking)
}

/// Hands the parts on as they come; how many persons there should be in all.
async fn receive(
    parts: &mut tonic::Streaming<pb::SnapshotResponse>,
    sender: mpsc::Sender<Part>,
) -> Result<u64, Failed> {
    loop {
        let message = tokio::time::timeout(SILENT_FOR, parts.message()).await;
        let message = message.map_err(|_| Failed::Silent)?.map_err(Box::new)?.ok_or(Failed::Short)?;
        let part = match message.part.ok_or(Failed::Malformed)? {
            pb::snapshot_response::Part::End(pb::SnapshotEnd { persons }) => return Ok(persons),
            part => decode(part).ok_or(Failed::Malformed)?,
        };
        if sender.send(part).await.is_err() {
            // The other side failed; it says why.
            return Err(Failed::Short);
        }
    }
}

/// Reads a part; `None`: it is the end, or damaged.
pub fn decode(part: pb::snapshot_response::Part) -> Option<Part> {
    use pb::snapshot_response::Part as Wire;
    let decode = |pb::SnapshotHeads { heads }| -> Option<Heads> {
        heads.into_iter().map(|head| wire::decode_head(head).ok()).collect()
    };
    Some(match part {
        Wire::Heads(heads) => Part::Heads(decode(heads)?),
        Wire::Named(named) => Part::Named(decode(named)?),
        Wire::Persons(pb::SnapshotPersons { persons }) => Part::Persons(
            persons
                .into_iter()
                .map(|pb::SnapshotPerson { identifier, consent }| {
                    Some((Identifier(identifier.try_into().ok()?), consent))
                })
                .collect::<Option<_>>()?,
        ),
        Wire::Entries(pb::SnapshotEntries { payloads }) => Part::Entries(payloads),
        Wire::End(_) => return None,
    })
}
