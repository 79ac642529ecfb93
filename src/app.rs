//! The whole process: connects the parts, and nothing else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::config::reload::{Pace, Reloader};
use crate::config::{Config, Role, Sources};
use crate::engine::book::Book;
use crate::engine::replica::Replica;
use crate::engine::start::{CloseError, Parts, StartError, Started, Storage};
use crate::engine::{Engine, EngineError};
use crate::grpc::server::Lifecycle;
use crate::grpc::services::{admin, consent, inbound, send};
use crate::grpc::{self, health, reflection, routes::Routes};
use crate::http;
use crate::key::{ClusterKey, KeyFileFault};
use crate::ledger::disk::RealDisk;
use crate::ledger::{self};
use crate::net::accept::Uncounted;
use crate::net::listen::{BindError, Listener, UNIX_CONNECTIONS_MAX};
use crate::peers::{self, Peers};
use crate::readiness::{Obstacle, Readiness};
use crate::telemetry::Telemetry;
use crate::telemetry::calls::{Calls, Shared as SharedCalls};
use crate::telemetry::decisions::{DecisionLogError, Decisions};
use crate::telemetry::metrics::gauges;
use crate::{limits, view};

mod together;

/// The key's file in the data directory.
pub const KEY_FILE: &str = "optgate.key";
/// The ledger's folder in the data directory.
pub const LEDGER_DIR: &str = "ledger";
/// The folder of an edge's outbox in the data directory.
pub const OUTBOX_DIR: &str = "outbox";
/// The view's folder in the data directory.
pub const VIEW_DIR: &str = "view";

/// How often usage is written down: what a SIGKILL loses.
const NOTE_EVERY: Duration = Duration::from_millis(500);
/// How often the ledger's health is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The data directory cannot be made.
    #[error("the data directory {} cannot be used: {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An edge is to start where a ledger is.
    #[error("{} holds an anchor's ledger, which an edge would not read; give the edge a data directory of its own", .0.display())]
    WasAnchor(PathBuf),
    /// An anchor is to start where an outbox is.
    #[error("{} may hold an edge's opt-outs; start it with `role: edge` until its outbox is empty, then remove it", .0.display())]
    WasEdge(PathBuf),
    /// The key cannot be had.
    #[error(transparent)]
    Key(#[from] KeyFileFault),
    /// The engine does not open.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A listener cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The word lists have faults.
    #[error("the keyword files have faults:\n{0}")]
    Keywords(String),
    /// The decision log cannot be written.
    #[error(transparent)]
    DecisionLog(#[from] DecisionLogError),
    /// Signals cannot be listened for.
    #[error("signals cannot be listened for: {0}")]
    Signals(std::io::Error),
    /// A task that everything rests on ended.
    #[error("the {0} task ended by itself; see the log")]
    Ended(&'static str),
    /// The end could not be written.
    #[error(transparent)]
    Close(#[from] CloseError),
}

/// Opens, serves until SIGTERM or SIGINT, drains, closes.
///
/// # Errors
/// [`AppError`].
pub async fn run(sources: Sources, config: Config, telemetry: &Telemetry) -> Result<(), AppError> {
    let readiness = Readiness::starting();
    // From here on a signal is heard, whatever is being opened.
    let signals = signal(SignalKind::terminate())
        .and_then(|term| Ok((term, signal(SignalKind::interrupt())?)))
        .map_err(AppError::Signals)?;
    let Bound { listeners, http: http_listener, peers: peer_listener } = bind(&config)?;
    let stop = CancellationToken::new();
    // Probes are answered from the first moment, also while a view is rebuilt.
    let metrics = telemetry.metrics_handle();
    let http_engine: Arc<std::sync::OnceLock<Engine>> = Arc::default();
    let render = {
        let (engine, readiness, metrics) =
            (Arc::clone(&http_engine), readiness.clone(), Arc::clone(&metrics));
        Arc::new(move || {
            if let Some(engine) = engine.get() {
                gauges(engine, &readiness);
            }
            metrics.render()
        })
    };
    let http_stop = CancellationToken::new();
    let http_task = http_listener.map(|listener| {
        tracing::info!(address = %listener.addr(), "health and metrics are on /healthz, /readyz and /metrics");
        let routes = http::routes(readiness.clone(), render);
        tokio::spawn(http::serve(listener, routes, http_stop.clone(), Duration::from_secs(1)))
    });

    let decisions = Decisions::start(metrics, config.decision_log.as_ref(), &config.data_dir)?;
    let replica = together::replica(&config.replication);
    let opening = (config.clone(), Arc::clone(&decisions));
    let opened = tokio::task::spawn_blocking(move || open(&opening.0, opening.1, replica)).await;
    let (engine, started) = opened.map_err(|_| AppError::Ended("opening"))??;
    let _ = http_engine.set(engine.clone());
    greet(&config, &started);
    let (peers, driver) = together::start(&config, &engine, &readiness).unzip();
    readiness.clear(Obstacle::Starting);

    let reloader = Reloader::new(sources, config.clone(), Pace::default(), || SystemClock.now());
    let status = reloader.status();
    let mut tasks = Tasks::default();
    // Peers are told until the last call is answered.
    let peers_stop = CancellationToken::new();
    tasks.spawn("reload", apply_reloads(engine.clone(), reloader.rules(), stop.clone()));
    tasks.spawn("configuration", reloader.run(stop.clone()));
    tasks.spawn("usage", note_usage(engine.clone(), stop.clone()));
    tasks.spawn("ledger watch", watch_ledger(engine.clone(), readiness.clone(), stop.clone()));
    tasks.spawn("signal", wait_for_signal(signals, stop.clone()));
    let lifecycle = Lifecycle { stop: stop.clone(), end_streams: CancellationToken::new() };
    if let Some(driver) = driver {
        tasks.spawn("peers", peers::run(driver, peers_stop.clone()));
    }
    let host = Arc::new(Host {
        config: config.clone(),
        check: engine.key().check_value(),
        status,
        peers: peers.clone(),
    });
    let routes = Routes::new()
        .send(send::Send::new(engine.clone()))
        .checks_now(send::Send::new(engine.clone()))
        .batches(send::Send::new(engine.clone()))
        .consent(consent::Consent::new(engine.clone(), lifecycle.end_streams.clone()))
        .inbound(inbound::Inbound::new(engine.clone()))
        .admin(admin::Admin::new(engine.clone(), readiness.clone(), host, engine.run_name()))
        .other(health::service(readiness.clone()))
        .other(reflection::current().map_err(|_| AppError::Ended("reflection"))?)
        .other(reflection::alpha().map_err(|_| AppError::Ended("reflection"))?);
    for listener in &listeners {
        tracing::info!(address = %listener.addr(), "serving gRPC");
    }
    let server_config = grpc::server::Config {
        drain: Duration::from_millis(config.server.drain_ms),
        ..grpc::server::Config::default()
    };
    let calls = Arc::new(SharedCalls::new(Calls::new(telemetry.exports_spans())));
    let server = grpc::server::serve(
        listeners,
        routes,
        server_config,
        readiness.clone(),
        lifecycle,
        calls,
        Arc::new(Uncounted),
    );
    let drain = Duration::from_millis(config.server.drain_ms);
    let peer_server = together::serve(peer_listener, peers, drain, readiness.clone(), peers_stop.clone());
    let failed = tasks.watch(&stop, &readiness);
    let served = async {
        let drained = server.await;
        together::hand_over(&engine).await;
        peers_stop.cancel();
        drained
    };
    let (drained, failed, ()) = tokio::join!(served, failed, peer_server);
    tracing::info!(finished = drained.finished, cut = drained.cut, "no more calls; closing");

    engine.stop_answering();
    let closing = engine.clone();
    let closed = tokio::task::spawn_blocking(move || {
        let closed = closing.close();
        decisions.close();
        closed
    });
    let closed = closed.await.map_err(|_| AppError::Ended("closing"))?;
    http_stop.cancel();
    if let Some(task) = http_task {
        // The probes' listener has nothing left to lose.
        let _ = task.await;
    }
    closed?;
    tracing::info!("stopped in order");
    failed.map_or(Ok(()), |name| Err(AppError::Ended(name)))
}

/// What is listened on.
struct Bound {
    listeners: Vec<Listener>,
    http: Option<Listener>,
    peers: Option<Listener>,
}

fn bind(config: &Config) -> Result<Bound, BindError> {
    let mut listeners = Vec::new();
    if let Some(addr) = config.server.listen {
        if !addr.ip().is_loopback() {
            tracing::warn!(%addr, "listening beyond this host without caller roles: whoever reaches it may do anything");
        }
        listeners.push(Listener::tcp(addr, config.server.max_connections as usize)?);
    }
    if let Some(path) = &config.server.uds {
        listeners.push(Listener::unix(path, config.server.uds_mode, UNIX_CONNECTIONS_MAX)?);
    }
    let http = config.server.http.map(|addr| Listener::tcp(addr, HTTP_CONNECTIONS_MAX)).transpose()?;
    let peer =
        config.replication.listen.map(|addr| Listener::tcp(addr, peers::CONNECTIONS_MAX)).transpose()?;
    Ok(Bound { listeners, http, peers: peer })
}

/// Connections of probes and scrapers.
const HTTP_CONNECTIONS_MAX: usize = 64;

fn open(config: &Config, sink: Arc<Decisions>, replica: Arc<Replica>) -> Result<(Engine, Started), AppError> {
    let failed = |source| AppError::Directory { dir: config.data_dir.clone(), source };
    std::fs::create_dir_all(&config.data_dir).map_err(failed)?;
    let is_edge = config.replication.role == Role::Edge;
    let (dir, other) = if is_edge { (OUTBOX_DIR, LEDGER_DIR) } else { (LEDGER_DIR, OUTBOX_DIR) };
    let (dir, other) = (config.data_dir.join(dir), config.data_dir.join(other));
    if other.exists() {
        return Err(if is_edge { AppError::WasAnchor(other) } else { AppError::WasEdge(other) });
    }
    let disk = Arc::new(RealDisk::new(&dir).map_err(failed)?);
    let key = key(config, ledger::exists(&*disk).map_err(failed)?)?;
    let lexicon = config.keywords.lexicon().map_err(|faults| {
        AppError::Keywords(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let megabytes = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(Engine::open(Parts {
        clock: Arc::new(SystemClock),
        key,
        storage: if is_edge {
            Storage::Outbox { disk }
        } else {
            let config = ledger::Config {
                segment_mib: config.ledger.segment_mib,
                opt_out_reserve_mib: config.ledger.opt_out_reserve_mib,
                min_free_mib: megabytes(config.min_free_mib),
                ..ledger::Config::default()
            };
            Storage::Ledger { disk, config }
        },
        view_dir: config.data_dir.join(VIEW_DIR),
        view: view::Config {
            page_cache_mib: config.view.page_cache_mib,
            record_cache_mib: config.view.record_cache_mib,
            min_free_mib: megabytes(config.min_free_mib),
            ..view::Config::default()
        },
        limits: limits::Settings::default(),
        book: Book::new(config.rules.clone()),
        lexicon,
        sink,
        replica,
    })?)
}

/// The cluster key: the one configured, or the data directory's own. One is made only together with a new ledger, where there
/// are no peers: a ledger whose key is gone would otherwise come up without a single opt-out, and nodes with keys of their own
/// would not know each other's people.
fn key(config: &Config, ledger_exists: bool) -> Result<ClusterKey, KeyFileFault> {
    let own = config.data_dir.join(KEY_FILE);
    let path = config.key_file.as_ref().unwrap_or(&own);
    if ledger_exists || path.exists() || config.key_file.is_some() || !config.replication.is_alone() {
        let loaded = ClusterKey::load(path)?;
        if loaded.open_to_others {
            tracing::warn!(key = %path.display(), "everybody on this host may read the key; chmod 600 it");
        }
        return Ok(loaded.key);
    }
    ClusterKey::create(path)
}

fn greet(config: &Config, started: &Started) {
    let own = config.data_dir.join(KEY_FILE);
    let key = config.key_file.as_ref().unwrap_or(&own);
    if started.created {
        tracing::info!(dir = %config.data_dir.display(), "a new ledger was made");
    }
    if config.replication.role == Role::Edge {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            waiting = started.waiting,
            "optgate is an edge: it answers once it has a snapshot from an anchor, and takes opt-outs from now on"
        );
        return;
    }
    tracing::info!(
        ledger = %config.data_dir.join(LEDGER_DIR).display(),
        key = %key.display(),
        "back up the ledger and its key together: without the key every opt-out is lost"
    );
    if config.rules.businesses.is_empty() {
        tracing::info!("no business is configured: the strict built-in rules apply to any business id");
    }
    for damage in &started.damages {
        tracing::error!(%damage, "the ledger is damaged; an opt-out may have been there, so only `fail_open` categories pass until it is restored");
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        replayed = started.replayed,
        rebuilt = started.rebuilt.as_deref().unwrap_or("no"),
        took_ms = u64::try_from(started.took_ms).unwrap_or(u64::MAX),
        "optgate is ready"
    );
}

async fn apply_reloads(
    engine: Engine,
    mut rules: tokio::sync::watch::Receiver<Arc<crate::policy::rules::RuleBook>>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            changed = rules.changed() => {
                if changed.is_err() {
                    // The reloader ended; its own task tells of it.
                    return stop.cancelled().await;
                }
                let book = rules.borrow_and_update().clone();
                tracing::info!(version = %book.version, "new rules are in force");
                engine.set_book(Book::new((*book).clone()));
            }
            () = stop.cancelled() => return,
        }
    }
}

async fn note_usage(engine: Engine, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(NOTE_EVERY) => {
                let engine = engine.clone();
                if tokio::task::spawn_blocking(move || engine.note_usage()).await.is_err() {
                    return;
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

async fn watch_ledger(engine: Engine, readiness: Readiness, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(WATCH_EVERY) => {
                if engine.storage_failed().is_some() {
                    readiness.raise(Obstacle::LedgerFailed);
                }
                if engine.is_behind() {
                    readiness.raise(Obstacle::TaskEnded("view"));
                }
            }
            () = stop.cancelled() => return,
        }
    }
}

async fn wait_for_signal((mut term, mut int): (Signal, Signal), stop: CancellationToken) {
    let name = tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
        () = stop.cancelled() => return,
    };
    tracing::info!(signal = name, "stopping");
    stop.cancel();
}

/// The tasks that everything rests on.
#[derive(Default)]
struct Tasks(JoinSet<&'static str>);

impl Tasks {
    fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits for all of them. The first that ends before the stop is what the process ends of.
    async fn watch(mut self, stop: &CancellationToken, readiness: &Readiness) -> Option<&'static str> {
        let mut failed = None;
        while let Some(ended) = self.0.join_next().await {
            if stop.is_cancelled() {
                continue;
            }
            let name = ended.unwrap_or("background");
            tracing::error!(task = name, "a task ended by itself");
            readiness.raise(Obstacle::TaskEnded(name));
            failed = Some(name);
            stop.cancel();
        }
        failed
    }
}

/// What AdminService asks of the process.
struct Host {
    config: Config,
    check: [u8; 16],
    status: tokio::sync::watch::Receiver<crate::config::reload::LastReload>,
    peers: Option<Peers>,
}

impl admin::Host for Host {
    fn rules_error(&self) -> String {
        match &self.status.borrow().outcome {
            crate::config::reload::Outcome::Refused(findings) => {
                findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
            }
            _ => String::new(),
        }
    }

    fn reserve_bytes(&self) -> u64 {
        u64::from(self.config.ledger.opt_out_reserve_mib) << 20
    }

    fn ledger_bytes(&self) -> u64 {
        let files = std::fs::read_dir(self.config.data_dir.join(LEDGER_DIR)).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    fn peers(&self) -> Option<peers::Report> {
        self.peers.as_ref().map(Peers::report)
    }

    fn verify(&self) -> Result<ledger::verify::Report, EngineError> {
        if self.config.replication.role == Role::Edge {
            return Err(EngineError::NoHistory);
        }
        let disk = RealDisk::read_only(&self.config.data_dir.join(LEDGER_DIR));
        ledger::verify::verify(&disk, Some(self.check))
            .map_err(|error| EngineError::LedgerFailed(error.to_string()))
    }
}
