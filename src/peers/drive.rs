//! Runs the machine: one task, one order of events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::carrier::Streams;
use super::figures::Figures;
use super::hands::{self, Storing};
use super::link::Links;
use super::usage::Usage;
use super::{Config, Driver, PeerReport, Report};
use crate::clock::{self, Clock as _, SystemClock};
use crate::engine::Engine;
use crate::ledger::{Head, Relayed};
use crate::policy::ids::OriginId;
use crate::readiness::{Obstacle, Readiness};
use crate::replication::frame::{Events, Instance, Refusal};
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
/// The most clocks of peers that are remembered.
const CLOCKS_MAX: usize = 1_024;
/// How long to wait after events could not be recorded anew.
const ANEW_RETRY: Duration = Duration::from_secs(1);
/// The most records that did not verify whose opt-outs are remembered as kept, so that each is kept once.
const DOUBTFUL_MAX: usize = 10_000;

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
        backlog_since: Some(now().mono),
        clocks: HashMap::new(),
        own: HashSet::new(),
        figures: Figures::new(config.machine.peers_max),
        config,
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

fn named_input((origin, head): (OriginId, Head)) -> Input {
    Input::Named { origin, head }
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
    config: Config,
    to_store: mpsc::Sender<Work>,
    inputs: mpsc::Sender<Input>,
    /// Answers to what found no room on its way to the ledger.
    refused: Vec<Input>,
    /// Since when there is a known backlog, or at the start too little is known.
    backlog_since: Option<Mono>,
    /// By how many milliseconds each peer's clock was off when it was last measured.
    clocks: HashMap<Instance, u64>,
    /// The origins of this run.
    own: HashSet<OriginId>,
    figures: Figures,
}

impl Node {
    /// Own events go first: a ping that came after an event's caller was answered must find the event told.
    fn hear_own(&mut self) {
        for (origin, head) in self.engine.replica().take_own() {
            if self.own.insert(origin)
                && let Some(named) = self.engine.ledger().ok().and_then(|ledger| ledger.previous_of(origin))
            {
                let effects = self.shared.machine.lock().handle(named_input(named), now());
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

    /// Tells the engine what follows for checks.
    fn publish(&mut self) {
        let replica = self.engine.replica();
        let machine = self.shared.machine.lock();
        let mono = now().mono;
        let staleness_ms = u64::try_from(self.config.max_staleness.as_millis()).unwrap_or(u64::MAX);
        replica.set_fresh_until_ms(machine.fresh_until(mono, staleness_ms).map_or(u64::MAX, |until| until.0));
        replica.set_members(machine.members());
        for (instance, off_ms) in machine.clocks_off_ms() {
            if self.clocks.len() >= CLOCKS_MAX && !self.clocks.contains_key(&instance) {
                self.clocks.clear();
            }
            self.clocks.insert(instance, off_ms.unsigned_abs());
        }
        // A clock that was off is off until it is measured anew, and one that was never measured may be.
        replica.set_clocks_apart_ms(self.clocks.values().copied().max().unwrap_or(u64::MAX));

        let behind = !machine.is_caught_up();
        let unheard = machine.progress().anchors < machine.others_wanted();
        let remarks = self.figures.show(&machine, replica.is_stale(), mono);
        drop(machine);
        if let Some(remarks) = remarks {
            self.readiness.remark(remarks);
        }
        let starting = replica.is_catching_up() && self.backlog_since.is_some();
        if behind || (starting && unheard) {
            self.backlog_since.get_or_insert(mono);
        } else {
            self.backlog_since = None;
        }
        let budget_ms = u64::try_from(self.config.bootstrap_budget.as_millis()).unwrap_or(u64::MAX);
        let catching_up = self.backlog_since.is_some_and(|since| mono.since_ms(since) < budget_ms);
        if catching_up != replica.is_catching_up() {
            replica.set_catching_up(catching_up);
            if self.backlog_since.is_some() && !catching_up {
                tracing::warn!(
                    "the anchors' events are not all here yet; serving what may be served without them"
                );
            }
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

/// What the ledger is to do with a peer's records.
enum Work {
    Store(Storing),
    KeepApart { ticket: u64, events: Events },
}

/// Answers the machine in the order in which records were handed to the ledger, and keeps the opt-outs of those that do not verify.
async fn store_in_order(engine: Engine, mut work: mpsc::Receiver<Work>, inputs: mpsc::Sender<Input>) {
    let mut kept: HashSet<[u8; 32]> = HashSet::new();
    while let Some(next) = work.recv().await {
        let (mut answer, doubtful) = match next {
            Work::Store(storing) => {
                let named = storing.named();
                let (ticket, outcome, doubtful) = storing.finish().await;
                if let Some(named) = named.filter(|_| outcome.head().is_some()) {
                    let _ = inputs.send(named_input(named)).await;
                }
                (Input::Stored { ticket, outcome }, doubtful)
            }
            Work::KeepApart { ticket, events } => {
                let (origin, reader) = (events.origin, engine.clone());
                let looking = tokio::task::spawn_blocking(move || {
                    let fork = reader.fork_in(origin, events.first, &events.records);
                    (fork, hands::differing(&reader, events))
                });
                let looked = looking.await;
                let mut kept = looked.is_ok();
                let (fork, differing) = looked.unwrap_or_default();
                if let Some(sequence) = fork {
                    kept &= distrust(&engine, origin, sequence).await;
                }
                (Input::KeptApart { ticket, kept }, differing)
            }
        };
        for doubtful in doubtful {
            let is_kept = keep_opt_outs(&engine, &doubtful, &mut kept).await;
            if let Input::KeptApart { kept, .. } = &mut answer {
                *kept &= is_kept;
            }
        }
        // Fails only once the node stops; what is on its way to the disk is waited for all the same.
        let _ = inputs.send(answer).await;
    }
}

/// Two records are proven to bear the name of `origin` and `sequence`. Says whether that is known for good.
async fn distrust(engine: &Engine, origin: OriginId, sequence: u64) -> bool {
    match engine.distrust(origin, sequence).await {
        Ok(_) => true,
        Err(error) => {
            tracing::error!(%error, %origin, sequence, "that an origin is forked could not be recorded; it is tried again");
            false
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

/// A record that does not verify may be forged or torn; an opt-out in it holds all the same, as an event of this node. Says whether
/// nothing of it is lost.
async fn keep_opt_outs(engine: &Engine, doubtful: &Relayed, kept: &mut HashSet<[u8; 32]>) -> bool {
    let Ok(parts) = doubtful.parse() else { return true };
    if kept.contains(&doubtful.hash) {
        return true;
    }
    match engine.keep_opt_outs(parts.payload).await {
        Ok(event) => {
            if let Some(event) = event {
                tracing::warn!(%event, doubtful = %parts.id, "opt-outs of a record that does not verify are kept");
            }
            if kept.len() >= DOUBTFUL_MAX {
                // Keeping one twice does less harm than losing one.
                kept.clear();
            }
            kept.insert(doubtful.hash);
            true
        }
        Err(error) => {
            tracing::error!(%error, doubtful = %parts.id, "opt-outs of a record that does not verify could not be kept");
            false
        }
    }
}
