//! The part that needs a restart: sockets, files, memory, logs, peers.

use std::net::SocketAddr;

use super::fault::{Report, quote};
use super::read::{At, Section};
use super::{Config, DecisionLog, Ledger, OnFull, Replication, Role, Server, Telemetry, View};
use crate::policy::time::{DAY_MS, HOUR_MS, MINUTE_MS};

/// The most connections a listener may take.
pub const CONNECTIONS_MAX: u32 = 65_536;
/// The longest a shutdown may wait.
pub const DRAIN_MS_MAX: i64 = 10 * MINUTE_MS;
/// The largest cache, segment or reserve.
pub const SIZE_MIB_MAX: u32 = 65_536;
/// The largest segment, since a segment's positions are held in 32 bits.
pub const SEGMENT_MIB_MAX: u32 = 2_048;
/// The largest free space that can be asked for.
pub const MIN_FREE_MIB_MAX: u64 = 1_048_576;
/// The longest that decisions may be kept.
pub const KEEP_MS_MAX: i64 = 3_660 * DAY_MS;
/// The most decisions that may wait to be written.
pub const BUFFER_MAX: u32 = 1_000_000;
/// The most peers.
pub const PEERS_MAX: usize = 64;
/// The most events that an anchor may lack before it counts as far behind.
pub const FAR_BEHIND_EVENTS_MAX: u64 = 1_000_000_000;
/// How many anchors a cluster may have.
const ANCHORS_MAX: u32 = 64;

/// Reads every section but the policy's.
pub(super) fn read(top: &mut Section<'_>, config: &mut Config, report: &mut Report) {
    if let Some(section) = top.get("server").and_then(|at| Section::open(at, report)) {
        read_server(section, &mut config.server, report);
    }
    top.read("data_dir", report, &mut config.data_dir, At::path);
    top.read("key_file", report, &mut config.key_file, |at, report| at.or_null(report, At::path));
    if let Some(mut section) = top.get("view").and_then(|at| Section::open(at, report)) {
        let View { page_cache_mib, record_cache_mib } = &mut config.view;
        section.read("page_cache_mib", report, page_cache_mib, size);
        section.read("record_cache_mib", report, record_cache_mib, size);
        section.close(report);
    }
    if let Some(mut section) = top.get("ledger").and_then(|at| Section::open(at, report)) {
        let Ledger { segment_mib, opt_out_reserve_mib } = &mut config.ledger;
        section
            .read("segment_mib", report, segment_mib, |at, report| at.number32(report, 1..=SEGMENT_MIB_MAX));
        section.read("opt_out_reserve_mib", report, opt_out_reserve_mib, size);
        section.close(report);
    }
    top.read("min_free_mib", report, &mut config.min_free_mib, |at, report| {
        at.number(report, 1..=MIN_FREE_MIB_MAX)
    });
    top.read("decision_log", report, &mut config.decision_log, |at, report| {
        at.or_null(report, |at, report| {
            Section::open(at.clone(), report).map(|section| read_decision_log(section, report))
        })
    });
    if let Some(mut section) = top.get("telemetry").and_then(|at| Section::open(at, report)) {
        let Telemetry { log, otlp_endpoint } = &mut config.telemetry;
        section.read("log", report, log, log_filter);
        section.read("otlp_endpoint", report, otlp_endpoint, |at, report| at.or_null(report, endpoint));
        section.close(report);
    }
    if let Some(section) = top.get("replication").and_then(|at| Section::open(at, report)) {
        read_replication(section, &mut config.replication, report);
    }
}

fn read_server(mut section: Section<'_>, server: &mut Server, report: &mut Report) {
    let listen = section.get("listen");
    let http = section.get("http");
    let Server { listen: grpc, uds, uds_mode, http: side, webhooks, max_connections, drain_ms } = server;
    section.read("listen", report, grpc, |at, report| at.or_null(report, At::socket));
    section.read("uds", report, uds, |at, report| at.or_null(report, At::path));
    section.read("uds_mode", report, uds_mode, mode);
    section.read("http", report, side, |at, report| at.or_null(report, At::socket));
    section.read("webhooks", report, webhooks, |at, report| {
        let address = at.or_null(report, At::socket)?;
        if address.is_some() {
            not_built(at, report, "receiving webhooks");
        }
        Some(address)
    });
    section.read("max_connections", report, max_connections, |at, report| {
        at.number32(report, 1..=CONNECTIONS_MAX)
    });
    section.read("drain", report, drain_ms, |at, report| span(at, report, DRAIN_MS_MAX));
    if let (Some(address), Some(at)) = (*grpc, &listen)
        && !address.ip().is_loopback()
    {
        at.warn(
            report,
            format!("{address} can be reached from other machines, and callers are not asked who they are"),
            "listen on 127.0.0.1 or on a Unix socket, or let the network admit only your own services",
        );
    }
    if grpc.is_none() && uds.is_none() {
        let what = "there is nothing to listen on";
        listen.as_ref().unwrap_or(&section.at).fault(
            report,
            what,
            "set `listen`, or `uds` to a socket's path",
        );
    }
    if let (Some(grpc), Some(side)) = (*grpc, *side)
        && overlap(grpc, side)
    {
        let at = http.or(listen).unwrap_or_else(|| section.at.clone());
        at.fault(
            report,
            format!("`listen` and `http` are both on port {}", grpc.port()),
            "choose another port for one of them",
        );
    }
    section.close(report);
}

/// Whether two listeners would want the same port of the same address.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() != 0
        && a.port() == b.port()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn read_decision_log(mut section: Section<'_>, report: &mut Report) -> DecisionLog {
    let mut log = DecisionLog::default();
    let DecisionLog { path: folder, keep_ms, buffer, on_full } = &mut log;
    section.read("path", report, folder, At::path);
    section.read("keep", report, keep_ms, |at, report| {
        at.span(report, HOUR_MS..=KEEP_MS_MAX).and_then(|ms| u64::try_from(ms).ok())
    });
    section.read("buffer", report, buffer, |at, report| at.number32(report, 1..=BUFFER_MAX));
    section.read("on_full", report, on_full, |at, report| {
        at.choice(report, &[("drop", OnFull::Drop), ("slow", OnFull::Slow)])
    });
    section.close(report);
    log
}

fn read_replication(mut section: Section<'_>, replication: &mut Replication, report: &mut Report) {
    let Replication {
        role,
        cluster_id,
        listen,
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
    section.read("role", report, role, |at, report| {
        at.choice(report, &[("anchor", Role::Anchor), ("edge", Role::Edge)])
    });
    section.read("cluster_id", report, cluster_id, |at, report| at.id(report).map(str::to_owned));
    section.read("listen", report, listen, |at, report| at.or_null(report, At::socket));
    section.read("peers", report, peers, read_peers);
    section.read("anchors", report, anchors, |at, report| {
        at.or_null(report, |at, report| at.number32(report, 1..=ANCHORS_MAX))
    });
    section.read("heartbeat", report, heartbeat_ms, |at, report| span(at, report, HOUR_MS));
    section.read("max_staleness", report, max_staleness_ms, |at, report| span(at, report, DAY_MS));
    section.read("bootstrap_budget", report, bootstrap_budget_ms, |at, report| span(at, report, HOUR_MS));
    section.read("compare_every", report, compare_every_ms, |at, report| span(at, report, HOUR_MS));
    section.read("far_behind_events", report, far_behind_events, |at, report| {
        at.number(report, 1..=FAR_BEHIND_EVENTS_MAX)
    });
    section.read("opt_out_wait", report, opt_out_wait_ms, |at, report| span(at, report, MINUTE_MS));
    section.read("allow_plaintext", report, allow_plaintext, At::switch);
    if !*allow_plaintext {
        let beyond = listen.filter(|addr| !addr.ip().is_loopback()).map(|addr| addr.to_string());
        let beyond = beyond.or_else(|| peers.iter().find(|peer| !is_local(peer)).cloned());
        if let Some(address) = beyond {
            section.at.fault(
                report,
                format!("{address} is beyond this machine, and peers talk without encryption"),
                "keep peers on loopback, or set `allow_plaintext: true` where the network between them is trusted",
            );
        }
    }
    // An edge may well know some of the anchors only.
    let counted = *role == Role::Anchor && !peers.is_empty() && peers.iter().all(|peer| is_address(peer));
    if anchors.is_none() && !counted && (listen.is_some() || !peers.is_empty()) {
        section.at.fault(
            report,
            "the number of anchors cannot be counted here",
            "set `anchors` to how many there are, an anchor itself included: majorities are counted from it",
        );
    }
    if *role == Role::Edge && peers.is_empty() {
        section.at.fault(
            report,
            "an edge has nobody to take what it knows from",
            "set `peers` to the anchors, or to a name that leads to them",
        );
    }
    if *role == Role::Edge && listen.is_some() {
        section.at.fault(
            report,
            "nobody connects to an edge",
            "remove `listen`: an edge connects to its anchors",
        );
    }
    if anchors.is_some_and(|anchors| anchors > 1) && peers.is_empty() && listen.is_none() {
        section.at.fault(
            report,
            "other anchors are counted, but there is no way to reach them",
            "set `peers`, or `listen`",
        );
    }
    section.close(report);
}

/// Whether a peer's address is one node and not a name that may lead to several.
fn is_address(peer: &str) -> bool {
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

/// Whether a peer's address can only mean this machine.
fn is_local(peer: &str) -> bool {
    let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn read_peers(at: &At<'_>, report: &mut Report) -> Option<Vec<String>> {
    let items = at.list(report)?;
    if items.len() > PEERS_MAX {
        at.fault(
            report,
            format!("{} peers are too many", items.len()),
            format!("keep at most {PEERS_MAX}, or give one DNS name"),
        );
        return None;
    }
    let mut peers = Vec::new();
    for item in &items {
        let Some(text) = item.text(report) else { continue };
        let has_port = text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0));
        if has_port {
            peers.push(text.to_owned());
        } else {
            item.fault(
                report,
                format!("{} is not a host and a port", quote(text)),
                "write it like anchor-0.optgate:50052",
            );
        }
    }
    (peers.len() == items.len()).then_some(peers)
}

/// Refuses a setting whose feature is missing: it must not look as if it worked.
fn not_built(at: &At<'_>, report: &mut Report, feature: &str) {
    at.fault(report, format!("{feature} is not built yet"), "remove the setting");
}

fn size(at: &At<'_>, report: &mut Report) -> Option<u32> {
    at.number32(report, 1..=SIZE_MIB_MAX)
}

fn span(at: &At<'_>, report: &mut Report, max_ms: i64) -> Option<u64> {
    at.span(report, 1..=max_ms).and_then(|ms| u64::try_from(ms).ok())
}

/// Permissions in octal, as `chmod` writes them.
fn mode(at: &At<'_>, report: &mut Report) -> Option<u32> {
    let text = at.text(report)?;
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = (3..=4).contains(&digits.len()).then(|| u32::from_str_radix(digits, 8).ok()).flatten();
    let Some(mode) = mode.filter(|mode| *mode <= 0o777) else {
        at.fault(
            report,
            format!("{} are not permissions", quote(text)),
            "write three octal digits after a zero, as in \"0660\"",
        );
        return None;
    };
    if mode & 0o002 != 0 {
        at.warn(
            report,
            "every user of the machine may then record consents",
            "leave out the last digit's write permission: \"0660\"",
        );
    }
    Some(mode)
}

fn log_filter(at: &At<'_>, report: &mut Report) -> Option<String> {
    let text = at.text(report)?;
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Some(text.to_owned()),
        Err(fault) => {
            at.fault(
                report,
                format!("{} is not a log filter: {fault}", quote(text)),
                "write error, warn, info, debug or trace, or a list like info,optgate::ledger=debug",
            );
            None
        }
    }
}

fn endpoint(at: &At<'_>, report: &mut Report) -> Option<String> {
    let text = at.text(report)?;
    let uri = text.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some());
    match uri.as_ref().and_then(http::Uri::scheme_str) {
        Some("http") => Some(text.to_owned()),
        Some("https") => {
            at.fault(
                report,
                "TLS is not built yet",
                "send traces to a collector on this machine or in the Pod over http://",
            );
            None
        }
        Some(_) | None => {
            at.fault(
                report,
                format!("{} is not an address of a collector", quote(text)),
                "write it like http://127.0.0.1:4317",
            );
            None
        }
    }
}
