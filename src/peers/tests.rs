//! Nodes that talk over loopback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::engine::tests::Node;
use crate::engine::tests::forks::{Forked, ended_well};
use crate::replication::Settings;
use crate::replication::frame::{Instance, Run};

/// How long what must come about may take.
const WITHIN: Duration = Duration::from_secs(60);

/// Lets `node` talk, as its `number`-th run; with where it is dialled.
async fn talk(
    tasks: &mut JoinSet<()>,
    node: &Node,
    number: u8,
    peers: Vec<String>,
    stop: &CancellationToken,
) -> String {
    let engine = node.engine.clone();
    let settings = Settings::new(Instance(engine.identity_of_store()), Run([number; 16]));
    let config = Config {
        machine: Settings { key_check: engine.key().check_value(), anchors: 3, ..settings },
        peers,
        max_staleness: Duration::from_secs(60),
        bootstrap_budget: Duration::from_secs(1),
        compare_every: Duration::from_secs(3_600),
        far_behind_events: 200_000,
    };
    let (peers, driver) = new(engine, Readiness::default(), config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let stopped = stop.clone().cancelled_owned();
    tasks.spawn(async move {
        let server = tonic::transport::Server::builder().add_service(peers.door().service());
        server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopped).await.unwrap();
    });
    tasks.spawn(run(driver, stop.clone()));
    addr
}

/// Two copies of one memory know only a third node. Nobody does anything about it but the nodes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_of_one_memory_are_found_out_and_their_opt_ins_recorded_anew() {
    let forked = Arc::new(Forked::made().await);
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let third = talk(&mut tasks, &forked.third, 3, Vec::new(), &stop).await;
    for (number, node) in [(1, &forked.one), (2, &forked.other)] {
        talk(&mut tasks, node, number, vec![third.clone()], &stop).await;
    }
    let until = Instant::now() + WITHIN;
    while !ended_well(&forked) {
        assert!(Instant::now() < until, "{forked:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}
