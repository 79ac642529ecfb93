//! Metrics in Prometheus' text form. Labels are words of optgate's own: no id of a caller, no address.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tonic::Code;

use super::TelemetryError;
use crate::engine::Engine;
use crate::grpc::method::Method;
use crate::policy::types::Reason;
use crate::readiness::Readiness;

/// Bounds of the latency histograms, in seconds: from a cached check to a slow disk.
const LATENCY_S: [f64; 16] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 1.0, 2.5,
];

/// The metrics, ready to be counted: looking one up by name costs more than a check has to give.
pub struct Metrics {
    handle: PrometheusHandle,
    allowed: Counter,
    denied: Vec<Counter>,
    shadowed: Vec<Counter>,
}

impl Metrics {
    /// Installs the recorder.
    ///
    /// # Errors
    /// When one is installed already.
    pub fn install() -> Result<Self, TelemetryError> {
        let failed =
            |error: metrics_exporter_prometheus::BuildError| TelemetryError::Metrics(error.to_string());
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &LATENCY_S)
            .map_err(failed)?
            .install_recorder()
            .map_err(failed)?;
        describe();
        let by_reason = |name: &'static str| {
            Reason::ALL.iter().map(|reason| metrics::counter!(name, "reason" => reason.word())).collect()
        };
        Ok(Self {
            handle,
            allowed: metrics::counter!("optgate_decisions_total", "decision" => "ALLOW", "reason" => ""),
            denied: Reason::ALL
                .iter()
                .map(|reason| {
                    metrics::counter!("optgate_decisions_total", "decision" => "DENY", "reason" => reason.word())
                })
                .collect(),
            shadowed: by_reason("optgate_shadowed_total"),
        })
    }

    /// Counts a decision.
    pub fn decision(&self, reason: Option<Reason>, shadowed: impl Iterator<Item = Reason>) {
        match reason {
            None => self.allowed.increment(1),
            Some(reason) => self.denied[reason as usize].increment(1),
        }
        for reason in shadowed {
            self.shadowed[reason as usize].increment(1);
        }
    }

    /// The text of all metrics.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }
}

/// One call in the metrics: its duration and code by method.
pub struct CallMetrics {
    method: &'static Method,
    latency: Histogram,
    running: Gauge,
    /// Nearly every call ends like this; other codes are looked up when they come.
    ok: Counter,
}

impl CallMetrics {
    /// The handles of `method`.
    #[must_use]
    pub fn of(method: &'static Method) -> Self {
        Self {
            method,
            ok: answered(method, Code::Ok),
            latency: metrics::histogram!("optgate_call_duration_seconds", "method" => method.name),
            running: metrics::gauge!("optgate_calls_running", "method" => method.name),
        }
    }

    /// A call begins.
    pub fn begin(&self) {
        self.running.increment(1.0);
    }

    /// A call begins again elsewhere.
    pub fn forget(&self) {
        self.running.decrement(1.0);
    }

    /// A call ended with `code` after `took`.
    pub fn end(&self, took: Duration, code: Code) {
        match code {
            Code::Ok => self.ok.increment(1),
            code => answered(self.method, code).increment(1),
        }
        self.running.decrement(1.0);
        self.latency.record(took.as_secs_f64());
    }
}

/// The counter of calls to `method` that ended with `code`.
fn answered(method: &'static Method, code: Code) -> Counter {
    metrics::counter!("optgate_calls_total", "method" => method.name, "code" => code_word(code))
}

const fn code_word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// What is read when metrics are rendered: gauges of ledger, view and limits.
pub fn gauges(engine: &Engine, readiness: &Readiness) {
    let set = |name: &'static str, value: f64| metrics::gauge!(name).set(value);
    let truth = |yes: bool| f64::from(u8::from(yes));
    set("optgate_ready", truth(readiness.now().is_ready()));
    set("optgate_ledger_failed", truth(engine.storage_failed().is_some()));
    if let Ok(ledger) = engine.ledger() {
        let health = ledger.health();
        set("optgate_ledger_queue_length", health.queue_len as f64);
        set("optgate_disk_free_bytes", health.free_bytes.unwrap_or(0) as f64);
        set("optgate_disk_low", truth(health.space_low));
    }
    if let Some(edge) = engine.edge() {
        let waiting = edge.waiting();
        set("optgate_disk_free_bytes", edge.free_bytes().unwrap_or(0) as f64);
        set("optgate_outbox_items", waiting.items as f64);
        set("optgate_outbox_bytes", waiting.bytes as f64);
    }
    set("optgate_view_behind", truth(engine.is_behind()));
    let view = engine.view().stats();
    set("optgate_view_records", view.persons as f64);
    set("optgate_view_unstored_records", view.dirty as f64);
    set("optgate_view_scattered_parts", view.scattered_shards as f64);
    set("optgate_view_overlay_bytes", view.overlay_bytes as f64);
    set("optgate_view_size_bytes", (view.store_bytes + view.logged_bytes) as f64);
    set("optgate_view_journal_bytes", view.journal_bytes as f64);
    for (source, reads) in [("memory", view.cache_hits), ("disk", view.cache_misses)] {
        metrics::counter!("optgate_view_reads_total", "source" => source).absolute(reads);
    }
    set("optgate_ranges_in_doubt", engine.view().doubted() as f64);
    set("optgate_distrusted_origins", engine.distrusted().iter().len() as f64);
    set("optgate_stale", truth(engine.is_stale()));
    set("optgate_catching_up", truth(engine.replica().is_catching_up()));
    set("optgate_borrowed_records", engine.view().borrowed().records as f64);
    set("optgate_members", f64::from(engine.replica().members()));
    for table in engine.limiter().usage() {
        metrics::gauge!("optgate_limit_table_entries", "table" => table.table).set(table.used as f64);
        metrics::gauge!("optgate_limit_table_max", "table" => table.table).set(table.max as f64);
    }
}

/// The text that goes with metrics, once for all.
fn describe() {
    metrics::describe_counter!("optgate_decisions_total", "Decisions, by decision and leading reason");
    metrics::describe_counter!(
        "optgate_shadowed_total",
        "Decisions in which a rule failed that only reports"
    );
    metrics::describe_counter!("optgate_calls_total", "Calls answered, by method and code");
    metrics::describe_histogram!("optgate_call_duration_seconds", "How long calls took, by method");
    metrics::describe_gauge!("optgate_calls_running", "Calls under way, by method");
    metrics::describe_counter!(
        "optgate_decision_log_dropped_total",
        "Decision log lines lost: the queue was full, or a write failed"
    );
    metrics::describe_gauge!("optgate_ready", "1 while calls should be sent here");
    metrics::describe_gauge!(
        "optgate_ledger_failed",
        "1 once a write or fsync of the ledger, at an edge of the outbox, failed; restart"
    );
    metrics::describe_gauge!("optgate_outbox_items", "What an edge took in and no anchor has yet");
    metrics::describe_gauge!("optgate_outbox_bytes", "Bytes of what an edge took in and no anchor has yet");
    metrics::describe_gauge!("optgate_ledger_queue_length", "Entries that wait for the disk");
    metrics::describe_gauge!(
        "optgate_disk_free_bytes",
        "Free bytes on the disk of the ledger, or of an edge's outbox"
    );
    metrics::describe_gauge!("optgate_disk_low", "1 while only opt-outs are recorded");
    metrics::describe_gauge!(
        "optgate_view_behind",
        "1 when the view lacks an event; nothing is allowed then"
    );
    metrics::describe_gauge!("optgate_view_records", "Persons' records in the view's store, nearly");
    metrics::describe_gauge!(
        "optgate_view_unstored_records",
        "Changed records that are in memory only; ledger and journal bring them back after a kill"
    );
    metrics::describe_gauge!(
        "optgate_view_scattered_parts",
        "Of the view's 256 parts, those that wait to be written in order: finding a person on the disk takes longer there"
    );
    metrics::describe_gauge!("optgate_view_overlay_bytes", "What the unstored records take in memory");
    metrics::describe_gauge!("optgate_view_size_bytes", "What the view takes on disk, its journals aside");
    metrics::describe_gauge!("optgate_view_journal_bytes", "Bytes of the view's journals");
    metrics::describe_counter!(
        "optgate_view_reads_total",
        "Records read, by where they were found: memory, or disk (its pages may be cached)"
    );
    metrics::describe_gauge!(
        "optgate_stale",
        "1 while too little is known of a majority of the anchors, or the ledger lacks a stretch"
    );
    metrics::describe_gauge!(
        "optgate_catching_up",
        "1 while what the anchors held at the start is not applied here"
    );
    metrics::describe_gauge!(
        "optgate_distrusted_origins",
        "Origins that were forked, whose opt-ins do not count until they are recorded anew"
    );
    metrics::describe_gauge!(
        "optgate_borrowed_records",
        "Identifiers whose opt-outs hold by an anchor's snapshot until their events are here"
    );
    metrics::describe_gauge!("optgate_members", "Nodes that share rates, this one included");
    metrics::describe_counter!(
        "optgate_usage_dropped_total",
        "Chunks of usage that found no room: at the start of their way, at a link, at its end; caps count less"
    );
    metrics::describe_gauge!(
        "optgate_ranges_in_doubt",
        "Key ranges of the view, of 256, in which nobody is sent to until they are built anew or confirmed"
    );
    metrics::describe_gauge!("optgate_limit_table_entries", "Entries of the limits' tables");
    metrics::describe_gauge!("optgate_limit_table_max", "Entries the limits' tables may have");
}

/// The text that goes with the metrics of peers, which only nodes among others have.
pub fn describe_peers() {
    metrics::describe_gauge!("optgate_peers_connected", "Peers that are connected");
    metrics::describe_gauge!("optgate_peer_connected", "1 while this peer is connected, by peer");
    metrics::describe_gauge!(
        "optgate_peer_lag_events",
        "Events that the peer holds and this node lacks, by peer; NaN while it is not connected"
    );
    metrics::describe_gauge!(
        "optgate_peer_lag_seconds",
        "How long ago all that the peer held was known to be applied here, by peer; NaN until it is known"
    );
    metrics::describe_gauge!(
        "optgate_peer_unsent_events",
        "Events of this node that the peer is not known to hold, by peer; NaN while it is not connected"
    );
    metrics::describe_gauge!(
        "optgate_peer_backlog_events",
        "Events that anchors held when they connected and that are not applied here"
    );
    metrics::describe_gauge!(
        "optgate_peer_unverified_origins",
        "Origins of which a peer sends what does not verify"
    );
    metrics::describe_gauge!(
        "optgate_peer_window_bytes",
        "Bytes read for peers that they have not dealt with"
    );
    metrics::describe_counter!("optgate_peer_records_total", "Records that came from peers");
    metrics::describe_counter!("optgate_peer_records_known_total", "Records that came and were known");
    metrics::describe_counter!("optgate_peer_records_apart_total", "Records that came to be kept apart");
    metrics::describe_counter!(
        "optgate_peer_records_unverified_total",
        "Times a peer's records of an origin were found not to verify"
    );
    metrics::describe_counter!(
        "optgate_peer_gaps_total",
        "Frames of events that came with something missing before them"
    );
    metrics::describe_counter!(
        "optgate_peer_moves_total",
        "Times an origin got another source or was asked for anew"
    );
    metrics::describe_counter!("optgate_peer_forks_total", "Times one event was found with two hashes");
    metrics::describe_counter!(
        "optgate_peer_went_back_total",
        "Times an anchor held less than it had acknowledged"
    );
    metrics::describe_counter!(
        "optgate_peer_store_pauses_total",
        "Times the ledger had no room for peers' records"
    );
    metrics::describe_counter!("optgate_peer_unreadable_total", "Reads for a peer that failed");
    metrics::describe_counter!(
        "optgate_peer_closed_equal_total",
        "Peers that connected with the closed origins that are held here, told as one hash"
    );
    metrics::describe_counter!(
        "optgate_peer_closed_asked_total",
        "Peers that connected with other closed origins and were asked for each of them"
    );
    metrics::describe_counter!("optgate_peer_refusals_total", "Peers that were refused");
}

/// Metrics shared by whoever counts.
pub type Shared = Arc<Metrics>;
