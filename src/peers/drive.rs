//! Runs the machine: one task, one order of events.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::carrier::Streams;
use super::figures::Figures;
use super::hands::{self, Kept, Work};
use super::knowing::Knowing;
use super::link::Links;
use super::usage::Usage;
use super::{Config, Driver, PeerReport, Report};
use crate::clock::{self, Clock as _, SystemClock};
use crate::engine::{Engine, borrow};
use crate::ledger::Head;
use crate::policy::ids::OriginId;
use crate::readiness::{Obstacle, Readiness};
use crate::replication::frame::Refusal;
use crate::replication::vector::Heads;
use crate::replication::{
    Carrier as _, CloseReason, Effect, Incoming, Input, Machine, Mono, Note, Now, StoreOutcome, StoreRefusal,
};

/// How often the machine is told that time passed.
const TICK: Duration = Duration::from_millis(100);
/// Frames and events of links that are taken in one turn.
const FRAMES_PER_TURN: usize = 64;
/// Answers of the ledger that wait for the machine; then the ledger's side waits.
const ANSWERS_WAITING_MAX: usize = 256;
/// Frames of records that wait for the ledger: those of as many peers as there may be, each with a full window.
const WORK_WAITING_MAX: usize = 2_048;
/// How long to wait after events could not be recorded anew.
const ANEW_RETRY: Duration = Duration::from_secs(1);

/// What reports are made from.
pub struct Shared {
    pub links: Links,
    machine: Mutex<Machine>,
    last_error: Mutex<String>,
}

impl Shared {
    pub fn new(links: Links, engine: &Engine, config: &Config) -> Self {
        let held: Heads = engine.heads().into_iter().collect();
        let machine = Mutex::new(Machine::new(config.machine.clone(), held).with_named(engine.named()));
        Self { links, machine, last_error: Mutex::default() }
    }

    /// A snapshot is in force: talks from there on. Only before anybody talks.
    pub fn begin_at(&self, heads: Vec<(OriginId, Head)>, engine: &Engine, config: &Config) {
        let machine = Machine::new(config.machine.clone(), heads.into_iter().collect());
        *self.machine.lock() = machine.with_named(engine.named());
    }

    /// Tells how many events that anchors held when they connected are neither applied here nor among those up to a vector.
    pub fn lacks_beyond(self: &Arc<Self>) -> Arc<dyn Fn(&borrow::Heads) -> u64 + Send + Sync> {
        let shared = Arc::clone(self);
        Arc::new(move |heads| {
            let sequence = |origin| heads.get(&origin).map_or(0, |head| head.sequence);
            shared.machine.lock().lacks_beyond(sequence)
        })
    }

    pub fn report(&self) -> Report {
        let now = now().mono;
        let machine = self.machine.lock();
        let peers = machine
            .peers(now)
            .into_iter()
            .map(|status| {
                let (received_bytes, sent_bytes) = self.links.bytes(status.link);
                PeerReport {
                    connected: Duration::from_millis(now.since_ms(status.since)),
                    received_bytes,
                    sent_bytes,
                    status,
                }
            })
            .collect();
        Report {
            peers,
            freshness_ms: machine.freshness(now).into_iter().collect(),
            unverified: machine.unverified_origins(),
            progress: machine.progress(),
            anchors_wanted: machine.others_wanted(),
            last_error: self.last_error.lock().clone(),
        }
    }
}

fn now() -> Now {
    Now { mono: Mono(clock::mono_ms()), wall: SystemClock.now() }
}

pub async fn run(driver: Driver, stop: CancellationToken) {
    let Driver { shared, incoming, engine, readiness, config } = driver;
    let older = Arc::downgrade(&shared);
    engine.replica().ask_of_older(move |event| {
        older
            .upgrade()
            .is_some_and(|shared| shared.machine.lock().replicated_up_to(event.origin) >= event.sequence)
    });
    let (inputs, mut answers) = mpsc::channel(ANSWERS_WAITING_MAX);
    let (to_store, storing) = mpsc::channel(WORK_WAITING_MAX);
    let storer = tokio::spawn(store_in_order(engine.clone(), storing, inputs.clone()));
    let anew = tokio::spawn(record_anew(engine.clone(), stop.clone()));
    let mut node = Node {
        usage: Usage::start(&engine, &inputs),
        carrier: Streams::new(shared.links.clone(), incoming),
        shared,
        engine,
        readiness,
        to_store,
        inputs,
        refused: Vec::new(),
        knowing: Knowing::new(config.max_staleness, config.bootstrap_budget, now().mono),
        own: HashSet::new(),
        figures: Figures::new(config.machine.peers_max),
    };
    node.readiness.raise(Obstacle::CatchingUp);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let engine = node.engine.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = node.carrier.wait() => {
                // A few at a time, so that no flood of frames keeps time and answers away.
                for _ in 0..FRAMES_PER_TURN {
                    let Some(incoming) = node.carrier.next() else { break };
                    node.handle(input_of(incoming));
                }
            }
            Some(input) = answers.recv() => node.handle(input),
            () = engine.replica().own_moved() => node.hear_own(),
            _ = ticks.tick() => node.handle(Input::Tick),
        }
        node.publish();
    }
    // Neither waits for the other: nobody hears answers any more.
    drop((node, answers));
    // Ends once its queue is dropped and what waits is on disk or refused.
    let _ = storer.await;
    // Ends as this does.
    let _ = anew.await;
}

fn input_of(incoming: Incoming) -> Input {
    match incoming {
        Incoming::Connected { link, dialled } => Input::Connected { link, dialled },
        Incoming::Frame { link, frame, len: _, cursor: _ } => Input::Frame { link, frame },
        Incoming::Sent { link } => Input::Sent { link },
        Incoming::Disconnected { link, why } => Input::Disconnected { link, why },
    }
}

struct Node {
    shared: Arc<Shared>,
    carrier: Streams,
    usage: Usage,
    engine: Engine,
    readiness: Readiness,
    to_store: mpsc::Sender<Work>,
    inputs: mpsc::Sender<Input>,
    /// Answers to what found no room on its way to the ledger.
    refused: Vec<Input>,
    knowing: Knowing,
    /// The origins of this run.
    own: HashSet<OriginId>,
    figures: Figures,
}

impl Node {
    /// Own events go first: a ping that came after an event's caller was answered must find the event told.
    fn hear_own(&mut self) {
        for (origin, head) in self.engine.replica().take_own() {
            if self.own.insert(origin)
                && let Some(named) = hands::named_by(&self.engine, origin)
            {
                let effects = self.shared.machine.lock().handle(named, now());
                self.act(effects);
            }
            let effects = self.shared.machine.lock().handle(Input::OwnAppended { origin, head }, now());
            self.act(effects);
        }
    }

    fn handle(&mut self, input: Input) {
        self.hear_own();
        let mut next = Some(input);
        while let Some(input) = next {
            let effects = self.shared.machine.lock().handle(input, now());
            self.act(effects);
            next = self.refused.pop();
        }
    }

    fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { link, frame } => self.carrier.send(link, frame),
                Effect::Close { link, why } => {
                    self.note_close(&why);
                    self.carrier.hold(link, &why);
                    self.carrier.close(link);
                }
                Effect::Store { ticket, link: _, events } => match self.to_store.try_reserve() {
                    Ok(room) => room.send(Work::Store(hands::store(&self.engine, ticket, events))),
                    // Links that came and went left more than may wait: the machine asks again after a pause.
                    Err(_) => self.refused.push(Input::Stored {
                        ticket,
                        outcome: StoreOutcome::Refused { head: None, why: StoreRefusal::Later },
                    }),
                },
                Effect::KeepApart { ticket, link: _, events } => match self.to_store.try_reserve() {
                    Ok(room) => room.send(Work::KeepApart { ticket, events }),
                    Err(_) => self.refused.push(Input::KeptApart { ticket, kept: false }),
                },
                Effect::Read { ticket, origin, from, bytes_max, records_max } => {
                    let (engine, inputs) = (self.engine.clone(), self.inputs.clone());
                    tokio::task::spawn_blocking(move || {
                        let records = hands::read(&engine, origin, from, bytes_max, records_max);
                        // Fails only once the node stops.
                        let _ = inputs.blocking_send(Input::Read { ticket, records });
                    });
                }
                Effect::Replicated { origin, sequence } => {
                    self.engine.replica().set_replicated(origin, sequence);
                }
                Effect::TakeUsage { bytes } => self.usage.take(bytes),
                Effect::TakeUsagePart { link, bytes } => self.usage.take_part(link, bytes),
                Effect::MakeUsage { link } => self.usage.make(link),
                Effect::UsageTold => self.usage.restored(),
                Effect::Note(note) => self.note(&note),
            }
        }
    }

    /// Tells the engine what follows for checks, and others how it is.
    fn publish(&mut self) {
        let replica = self.engine.replica();
        let machine = self.shared.machine.lock();
        let mono = now().mono;
        let catching_up = self.knowing.publish(&machine, replica, mono);
        let remarks = self.figures.show(&machine, replica.is_stale(mono.0), mono);
        drop(machine);
        if let Some(remarks) = remarks {
            self.readiness.remark(remarks);
        }
        if catching_up {
            self.readiness.raise(Obstacle::CatchingUp);
        } else {
            self.readiness.clear(Obstacle::CatchingUp);
        }
    }

    fn note_close(&self, why: &CloseReason) {
        match why {
            // A name that leads to all nodes leads here too.
            CloseReason::Refused { reason: Refusal::Itself, .. }
            | CloseReason::RefusedByPeer { reason: Refusal::Itself | Refusal::Duplicate, .. } => return,
            CloseReason::Refused { text, .. } => {
                tracing::error!(text, "a peer is refused");
                metrics::counter!("optgate_peer_refusals_total").increment(1);
            }
            CloseReason::RefusedByPeer { text, .. } => tracing::error!(text, "a peer refuses this node"),
            CloseReason::Violation(text) => tracing::warn!(text, "a peer broke the protocol"),
            CloseReason::Duplicate { .. } | CloseReason::Superseded => return,
            CloseReason::NoHello | CloseReason::Silent { .. } => {
                tracing::info!(%why, "a stream to a peer is closed");
            }
        }
        *self.shared.last_error.lock() = why.to_string();
    }

    fn note(&self, note: &Note) {
        match note {
            Note::Joined { instance, .. } => tracing::info!(peer = %instance, "a peer is connected"),
            Note::CopiedStore { instance } => {
                tracing::error!(peer = %instance, "two nodes run from copies of one data directory; give one of them a new one");
            }
            Note::WentBack { anchor, origins } => {
                tracing::warn!(
                    anchor,
                    origins,
                    "an anchor holds less than it once did, as after a restored backup; it is sent what it lacks"
                );
            }
            Note::Unverified { origin, sequence, instance } => {
                tracing::error!(%origin, sequence, peer = %instance, "a peer's records do not verify; their opt-outs are kept, the origin is taken from elsewhere");
            }
            Note::NeverWritten { origin, sequence, instance } => {
                tracing::error!(%origin, sequence, peer = %instance, "a peer holds events of this run that it never wrote; find out who did");
                // What is numbered next would be a second event under a name that is taken.
                let (engine, inputs, origin) = (self.engine.clone(), self.inputs.clone(), *origin);
                tokio::spawn(async move {
                    match engine.close_origin(origin).await {
                        // Fails only once the node stops.
                        Ok(_) => drop(inputs.send(Input::OwnClosed { origin }).await),
                        Err(error) => {
                            tracing::error!(%error, %origin, "an origin that another node writes as cannot be closed");
                        }
                    }
                });
            }
            Note::Forked { origin, sequence, .. } => {
                tracing::error!(%origin, sequence, "one event has two hashes: two stores wrote as one origin; find out which. Where they parted is looked for");
            }
        }
    }
}

/// Answers the machine in the order in which records were handed to the ledger.
async fn store_in_order(engine: Engine, mut work: mpsc::Receiver<Work>, inputs: mpsc::Sender<Input>) {
    let mut kept = Kept::default();
    while let Some(next) = work.recv().await {
        for answer in hands::answer(&engine, next, &mut kept).await {
            // Fails only once the node stops; what is on its way to the disk is waited for all the same.
            let _ = inputs.send(answer).await;
        }
    }
}

/// Records anew what this store wrote under names that turn out to be shared, also what an earlier run did not come to.
async fn record_anew(engine: Engine, stop: CancellationToken) {
    let work = async {
        loop {
            match engine.record_anew().await {
                Ok(_) => engine.replica().await_distrust().await,
                Err(error) => {
                    tracing::warn!(%error, "events whose names are shared cannot be recorded anew now; it is tried again");
                    tokio::time::sleep(ANEW_RETRY).await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}
