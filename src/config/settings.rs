//! The settings that need a restart, one line each, so that two configurations can be compared key
//! by key.

use super::{Config, DecisionLog, Keywords, Ledger, Replication, Server, Telemetry, View};

/// Keys whose values differ between `a` and `b`, in the order of the file; the policy part apart.
pub(super) fn differing(a: &Config, b: &Config) -> Vec<&'static str> {
    let (a, b) = (lines(a), lines(b));
    let mut keys: Vec<&'static str> =
        a.iter().filter(|line| !b.contains(line)).map(|(key, _)| *key).collect();
    // A section that only one of them has shows on that side alone.
    keys.extend(b.iter().filter(|line| !a.contains(line)).map(|(key, _)| *key));
    let mut seen = std::collections::BTreeSet::new();
    keys.retain(|key| seen.insert(*key));
    keys
}

fn lines(config: &Config) -> Vec<(&'static str, String)> {
    // By name, so that a new setting fails to compile here until it is compared.
    let Config {
        server,
        data_dir,
        key_file,
        view,
        ledger,
        min_free_mib,
        decision_log,
        telemetry,
        replication,
        rules: _,
        keywords,
    } = config;
    let Server { listen, uds, uds_mode, http, webhooks, max_connections, drain_ms } = server;
    let View { page_cache_mib, record_cache_mib } = view;
    let Ledger { segment_mib, opt_out_reserve_mib } = ledger;
    let Telemetry { log, otlp_endpoint } = telemetry;
    let Replication {
        role,
        cluster_id,
        listen: peer_listen,
        peers,
        anchors,
        heartbeat_ms,
        max_staleness_ms,
        bootstrap_budget_ms,
        compare_every_ms,
        far_behind_events,
        opt_out_wait_ms,
        allow_plaintext,
    } = replication;
    let Keywords { languages, dir, fingerprint } = keywords;
    let mut lines = vec![
        ("server.listen", format!("{listen:?}")),
        ("server.uds", format!("{uds:?}")),
        ("server.uds_mode", format!("{uds_mode:o}")),
        ("server.http", format!("{http:?}")),
        ("server.webhooks", format!("{webhooks:?}")),
        ("server.max_connections", format!("{max_connections}")),
        ("server.drain", format!("{drain_ms}")),
        ("data_dir", format!("{data_dir:?}")),
        ("key_file", format!("{key_file:?}")),
        ("view.page_cache_mib", format!("{page_cache_mib}")),
        ("view.record_cache_mib", format!("{record_cache_mib}")),
        ("ledger.segment_mib", format!("{segment_mib}")),
        ("ledger.opt_out_reserve_mib", format!("{opt_out_reserve_mib}")),
        ("min_free_mib", format!("{min_free_mib}")),
        ("telemetry.log", log.clone()),
        ("telemetry.otlp_endpoint", format!("{otlp_endpoint:?}")),
        ("replication.role", format!("{role:?}")),
        ("replication.cluster_id", cluster_id.clone()),
        ("replication.listen", format!("{peer_listen:?}")),
        ("replication.peers", format!("{peers:?}")),
        ("replication.anchors", format!("{anchors:?}")),
        ("replication.heartbeat", format!("{heartbeat_ms}")),
        ("replication.max_staleness", format!("{max_staleness_ms}")),
        ("replication.bootstrap_budget", format!("{bootstrap_budget_ms}")),
        ("replication.compare_every", format!("{compare_every_ms}")),
        ("replication.far_behind_events", format!("{far_behind_events}")),
        ("replication.opt_out_wait", format!("{opt_out_wait_ms}")),
        ("replication.allow_plaintext", format!("{allow_plaintext}")),
        // The words too: the lists in the folder may have changed.
        ("defaults.keywords", format!("{languages:?} {dir:?} {fingerprint:x}")),
    ];
    if let Some(DecisionLog { path, keep_ms, buffer, on_full }) = decision_log {
        lines.extend([
            ("decision_log.path", format!("{path:?}")),
            ("decision_log.keep", format!("{keep_ms}")),
            ("decision_log.buffer", format!("{buffer}")),
            ("decision_log.on_full", format!("{on_full:?}")),
        ]);
    }
    lines
}
