//! Three nodes on one machine: how soon an opt-out holds everywhere, what REPLICATED costs, how fast an empty node catches up or an
//! edge is ready, and what all of it takes from checks.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::child::{Child, Member};
use super::load::{self, Target, failed};
use super::{BenchError, MANY, Options, io, report};
use crate::key::ClusterKey;
use crate::pb::v1;
use crate::pb::v1::admin_service_client::AdminServiceClient;
use crate::pb::v1::consent_service_client::ConsentServiceClient;
use crate::pb::v1::send_service_client::SendServiceClient;

/// How many opt-outs are followed to the other nodes.
const FOLLOWED: usize = 300;
/// Checks a second on each node meanwhile.
const CHECKS_PER_SECOND: u64 = 1_000;
/// Records a second on another node while checks are measured.
const RECORDS_PER_SECOND: u64 = 500;
/// How long anything may take to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(120);

/// Runs everything with `nodes` nodes and answers the figures.
///
/// # Errors
/// [`BenchError`].
pub async fn run(options: &Options, nodes: usize) -> Result<Value, BenchError> {
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = dir.join(format!("optgate-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(io("make the bench's directory"))?;
    let measured = measure(options, &dir, nodes.clamp(3, 7)).await;
    // The data is of no use any more; what cannot be removed is the system's to clean.
    let _ = std::fs::remove_dir_all(&dir);
    measured
}

struct Cluster {
    dir: PathBuf,
    key: PathBuf,
    ports: Vec<u16>,
    nodes: Vec<Child>,
}

impl Cluster {
    async fn start(dir: &Path, nodes: usize) -> Result<Self, BenchError> {
        let key = dir.join("cluster.key");
        ClusterKey::create(&key).map_err(|fault| BenchError::Io {
            what: "make a key",
            source: std::io::Error::other(fault.to_string()),
        })?;
        // Held together, so that all differ; let go before the nodes bind them.
        let held: Vec<TcpListener> = (0..nodes)
            .map(|_| TcpListener::bind(("127.0.0.1", 0)))
            .collect::<Result<_, _>>()
            .map_err(io("find free ports"))?;
        let ports = held.iter().filter_map(|listener| Some(listener.local_addr().ok()?.port())).collect();
        drop(held);
        let mut cluster = Self { dir: dir.to_owned(), key, ports, nodes: Vec::new() };
        for at in 0..nodes {
            // The first waits for the others before it is ready, so it cannot be waited for.
            let node = Child::start_member(&cluster.member(at))?;
            cluster.nodes.push(node);
        }
        for node in &mut cluster.nodes {
            node.wait_until_up().await?;
        }
        Ok(cluster)
    }

    fn member(&self, at: usize) -> Member {
        let others = self.ports.iter().enumerate().filter(|(other, _)| *other != at);
        Member {
            dir: self.dir.join(format!("node-{at}")),
            key: self.key.clone(),
            listen: self.ports.get(at).copied(),
            peers: others.map(|(_, port)| *port).collect(),
        }
    }

    fn uds(&self, at: usize) -> &Path {
        &self.nodes[at].uds
    }
}

async fn measure(options: &Options, dir: &Path, nodes: usize) -> Result<Value, BenchError> {
    let span = Duration::from_secs_f64(options.seconds);
    let mut figures = serde_json::Map::new();
    let mut note = |name: &str, value: Value| {
        eprintln!("{name}: {value}");
        figures.insert(name.to_owned(), value);
    };
    let mut cluster = Cluster::start(dir, nodes).await?;

    let enforced = follow(&cluster).await?;
    note("opt_out_enforced_elsewhere_us", quantiles(enforced));

    let (local, replicated) = durabilities(cluster.uds(0), options.rounds, span).await?;
    note("record_local_p50_us", json!(local));
    note("record_replicated_p50_us", json!(replicated));
    note("replicated_to_local_ratio", report::ratio_of(f64::from(replicated), f64::from(local)));

    note("bytes_per_opt_out", json!(bytes_per_opt_out(&cluster, span).await?));

    let alone = Child::start_alone(&dir.join("alone")).await?;
    let count = options.recipients;
    load::import(&alone.uds, count).await?;
    load::import(cluster.uds(0), count).await?;
    caught_up(&cluster, nodes - 1).await?;
    for node in cluster.nodes.iter().chain([&alone]) {
        load::settled(&node.uds).await?;
    }
    let active = Target { recipients: options.active.min(count), stored: count, draw: 0 };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    load::checks(&alone.uds, MANY, active, span).await?;
    load::checks(cluster.uds(0), MANY, active, span).await?;
    let recording = record_at_rate(cluster.uds(1), RECORDS_PER_SECOND);
    for round in 1..=options.rounds {
        let active = active.drawn(round);
        without.push(load::checks(&alone.uds, MANY, active, span).await?.rate());
        with.push(load::checks(cluster.uds(0), MANY, active, span).await?.rate());
    }
    drop(recording);
    let ratios = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    note("checks_per_second_alone", report::median_and_spread(without, 0));
    note("checks_per_second_with_peers", report::median_and_spread(with, 0));
    note("checks_with_peers_to_alone_ratio", report::median_and_spread(ratios, 3));
    drop(alone);

    let last = nodes - 1;
    let member = cluster.member(last);
    cluster.nodes[last].kill();
    std::fs::remove_dir_all(&member.dir).map_err(io("empty a node"))?;
    let begun = Instant::now();
    cluster.nodes[last] = Child::start_member(&member)?;
    let events = caught_up(&cluster, last).await?;
    let took = begun.elapsed();
    note("catch_up_events", json!(events));
    note("catch_up_events_per_second", report::per_second(events, took));
    note("catch_up_rss_peak_mib", json!(cluster.nodes[last].rss_peak_mib()));
    note("catch_up_source_rss_mib", json!(cluster.nodes[0].rss_mib()));

    let (edge, ready) = start_edge(&cluster).await?;
    note("edge_ready_ms", json!(ready.as_millis()));
    note("edge_rss_peak_mib", json!(edge.rss_peak_mib()));
    note("edge_source_rss_peak_mib", json!(cluster.nodes.iter().filter_map(Child::rss_peak_mib).max()));
    note("opt_out_at_edge_us", quantiles(opt_outs_at(&edge.uds).await?));
    note("recipients", json!(count));
    Ok(Value::Object(figures))
}

/// An edge with nothing of its own, and how long it took until it was ready.
async fn start_edge(cluster: &Cluster) -> Result<(Child, Duration), BenchError> {
    let member = Member {
        dir: cluster.dir.join("edge"),
        key: cluster.key.clone(),
        listen: None,
        peers: cluster.ports.clone(),
    };
    let begun = Instant::now();
    let mut edge = Child::start_member(&member)?;
    edge.wait_until_up().await?;
    let mut admin = AdminServiceClient::new(load::connect(&edge.uds).await?);
    while !admin.get_status(v1::GetStatusRequest {}).await.map_err(failed)?.into_inner().ready {
        if begun.elapsed() > ARRIVES_WITHIN {
            return Err(BenchError::NotThere("a snapshot"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok((edge, begun.elapsed()))
}

/// How long one caller's opt-outs take at an edge, each on the disks of a majority of the anchors, in microseconds.
async fn opt_outs_at(uds: &Path) -> Result<Vec<u32>, BenchError> {
    let mut consent = ConsentServiceClient::new(load::connect(uds).await?);
    let mut times = Vec::new();
    for number in 0..FOLLOWED as u64 {
        let begun = Instant::now();
        consent.record_consent(load::opt_out(8_000_000 + number)).await.map_err(failed)?;
        times.push(load::micros_between(begun, Instant::now()));
    }
    times.sort_unstable();
    Ok(times)
}

/// How long after its ack on the first node an opt-out is denied on each other one, in microseconds.
async fn follow(cluster: &Cluster) -> Result<Vec<u32>, BenchError> {
    let busy: Vec<_> = cluster.nodes.iter().map(|node| check_at_rate(&node.uds, CHECKS_PER_SECOND)).collect();
    let mut consent = ConsentServiceClient::new(load::connect(cluster.uds(0)).await?);
    let mut others = Vec::new();
    for at in 1..cluster.nodes.len() {
        others.push(SendServiceClient::new(load::connect(cluster.uds(at)).await?));
    }
    let mut times = Vec::new();
    for number in 0..FOLLOWED as u64 {
        let mut request = load::opt_out(5_000_000 + number);
        // As soon as it is on this disk: other disks are what is measured.
        request.changes[0].change = Some(stop_by_platform());
        let mut watching = tokio::task::JoinSet::new();
        let recorded = Arc::new(std::sync::OnceLock::new());
        for client in &others {
            let (mut client, recorded) = (client.clone(), Arc::clone(&recorded));
            watching.spawn(async move {
                let begun = Instant::now();
                while begun.elapsed() < ARRIVES_WITHIN {
                    let check = load::check_of(load::recorded_phone(5_000_000 + number), true);
                    let answer = client.check_send(check).await.map_err(failed)?.into_inner();
                    if answer.reason() == v1::Reason::OptedOut {
                        // Before its own ack: it held there at once.
                        let held = Instant::now();
                        let acked: Instant = *recorded.get_or_init(Instant::now);
                        return Ok(load::micros_between(acked, held));
                    }
                    tokio::task::yield_now().await;
                }
                Err(BenchError::NotThere("an opt-out"))
            });
        }
        consent.record_consent(request).await.map_err(failed)?;
        let _ = recorded.set(Instant::now());
        while let Some(ended) = watching.join_next().await {
            times.push(ended.unwrap_or(Err(BenchError::NotThere("an opt-out")))?);
        }
    }
    drop(busy);
    times.sort_unstable();
    Ok(times)
}

fn stop_by_platform() -> v1::consent_change::Change {
    v1::consent_change::Change::OptOut(v1::OptOut {
        channels: vec![v1::Channel::Whatsapp.into()],
        method: v1::OptOutMethod::WebForm.into(),
        ..v1::OptOut::default()
    })
}

fn quantiles(times: Vec<u32>) -> Value {
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or(0);
    json!({ "p50": at(0.5), "p99": at(0.99), "count": times.len() })
}

/// The medians of one caller's opt-ins, LOCAL and REPLICATED, in microseconds.
async fn durabilities(uds: &Path, rounds: u32, span: Duration) -> Result<(u32, u32), BenchError> {
    let mut client = ConsentServiceClient::new(load::connect(uds).await?);
    let mut of: [Vec<u32>; 2] = Default::default();
    let mut number = 6_000_000;
    for _ in 0..rounds {
        for (times, durability) in of.iter_mut().zip([v1::Durability::Local, v1::Durability::Replicated]) {
            let until = Instant::now() + span / 2;
            while Instant::now() < until {
                number += 1;
                let mut request = load::opt_in(number);
                request.min_durability = durability.into();
                let begun = Instant::now();
                client.record_consent(request).await.map_err(failed)?;
                times.push(load::micros_between(begun, Instant::now()));
            }
        }
    }
    let [local, replicated] = of.map(|mut times| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or(0)
    });
    Ok((local, replicated))
}

async fn sent_bytes(uds: &Path) -> Result<(u64, u64), BenchError> {
    let mut admin = AdminServiceClient::new(load::connect(uds).await?);
    let status = admin.get_status(v1::GetStatusRequest {}).await.map_err(failed)?.into_inner();
    let peers = status.replication.map(|replication| replication.peers).unwrap_or_default();
    Ok((peers.iter().map(|peer| peer.sent_bytes).sum(), peers.len() as u64))
}

/// Bytes that leave the first node for one peer, for each opt-out of many callers.
async fn bytes_per_opt_out(cluster: &Cluster, span: Duration) -> Result<u64, BenchError> {
    let before = sent_bytes(cluster.uds(0)).await?;
    let sample = load::records(cluster.uds(0), super::RECORDERS, span).await?;
    for at in 1..cluster.nodes.len() {
        caught_up(cluster, at).await?;
    }
    let after = sent_bytes(cluster.uds(0)).await?;
    Ok((after.0 - before.0) / after.1.max(1) / sample.calls.max(1))
}

/// Waits until node `at` holds as many events as the first, and answers how many those are.
async fn caught_up(cluster: &Cluster, at: usize) -> Result<u64, BenchError> {
    let begun = Instant::now();
    while begun.elapsed() < ARRIVES_WITHIN {
        let (first, other) = (events(cluster.uds(0)).await, events(cluster.uds(at)).await);
        if let (Ok(first), Ok(other)) = (first, other)
            && first == other
        {
            return Ok(first);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(BenchError::NotThere("all events"))
}

async fn events(uds: &Path) -> Result<u64, BenchError> {
    let mut admin = AdminServiceClient::new(load::connect(uds).await?);
    let status = admin.get_status(v1::GetStatusRequest {}).await.map_err(failed)?.into_inner();
    Ok(status.ledger.map_or(0, |ledger| ledger.records))
}

/// Checks at a steady rate until it is dropped.
fn check_at_rate(uds: &Path, per_second: u64) -> AbortOnDropHandle<()> {
    let uds = uds.to_owned();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let Ok(channel) = load::connect(&uds).await else { return };
        let mut client = SendServiceClient::new(channel);
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        for number in 0_u64.. {
            if number.is_multiple_of(per_second / 100) {
                ticks.tick().await;
            }
            // What it answers does not matter here.
            let _ = client.check_send(load::check_of(load::recorded_phone(number % 1_000), true)).await;
        }
    }))
}

/// Opt-outs at a steady rate, one after the other on several streams, until it is dropped.
fn record_at_rate(uds: &Path, per_second: u64) -> Vec<AbortOnDropHandle<()>> {
    const CALLERS: u64 = 10;
    static NEXT: AtomicU64 = AtomicU64::new(7_000_000);
    (0..CALLERS)
        .map(|_| {
            let uds = uds.to_owned();
            AbortOnDropHandle::new(tokio::spawn(async move {
                let Ok(channel) = load::connect(&uds).await else { return };
                let mut client = ConsentServiceClient::new(channel);
                let mut ticks =
                    tokio::time::interval(Duration::from_micros(1_000_000 * CALLERS / per_second));
                loop {
                    ticks.tick().await;
                    let number = NEXT.fetch_add(1, Ordering::Relaxed);
                    // Whether one is refused does not matter here.
                    let _ = client.record_consent(load::opt_out(number)).await;
                }
            }))
        })
        .collect()
}
