//! Usage between whole engines, without anything in between.

use std::ops::ControlFlow;

use super::*;
use crate::engine::usage::{CHUNK_LEN_LONGEST, CHUNK_LEN_MAX, CHUNKS_MAX, ChunkFault, Merged};
use crate::limits::{MarkClass, SendMark};
use crate::policy::ids::{Identifier, SenderId};
use crate::policy::time::DAY_MS;

fn dump(node: &Node) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let mut sink = |chunk: &[u8]| {
        chunks.push(chunk.to_vec());
        ControlFlow::Continue(())
    };
    node.engine.usage_dump(&mut sink).unwrap();
    chunks
}

/// Nodes on which the person opted in.
async fn nodes<const N: usize>() -> [Node; N] {
    let nodes = [(); N].map(|()| Node::open(fresh()));
    for node in &nodes {
        node.opts_in().await;
    }
    nodes
}

#[tokio::test]
async fn what_one_sent_counts_on_the_others_however_often_they_hear_of_it() {
    let [a, b, c] = nodes().await;
    assert_eq!((a.denies(""), a.denies("")), (None, None));
    let told = a.engine.take_usage();
    assert_eq!(told.len(), 1, "in one chunk");
    assert_eq!(b.denies(""), None, "it has not heard of it yet");
    assert_eq!(b.engine.usage_merge(&told[0]), Ok(Merged { entries: 2, news: 2, dropped: 0 }));
    assert_eq!(b.denies(""), Some(Reason::FrequencyCap));
    assert_eq!(b.engine.usage_merge(&told[0]), Ok(Merged { entries: 2, news: 0, dropped: 0 }));

    // All that B knows, its own send included, for one that knew nothing.
    for chunk in dump(&b) {
        c.engine.usage_merge(&chunk).unwrap();
    }
    assert_eq!(c.denies(""), Some(Reason::FrequencyCap));
    let who = b.engine.key().identifier("acme", &person());
    let [of_b, of_c] = [&b, &c].map(|node| node.engine.view().get(&who).unwrap().frequency);
    assert_eq!(of_b, of_c);
    assert_eq!(of_b.marks().len(), 3);
    let mut chunks = 0;
    let mut once = |_: &[u8]| {
        chunks += 1;
        ControlFlow::Break(())
    };
    b.engine.usage_dump(&mut once).unwrap();
    assert_eq!(chunks, 1);
}

#[tokio::test]
async fn a_node_alone_has_nobody_to_tell() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    assert_eq!(node.denies(""), None);
    assert!(node.engine.take_usage().is_empty());
    assert!(node.engine.lacks_usage(), "a new view has no usage");
    node.engine.usage_restored();
    assert!(!node.engine.lacks_usage());
}

#[tokio::test]
async fn what_is_no_usage_of_this_cluster_is_refused_and_what_is_newer_passed_by() {
    let [a, b] = nodes().await;
    assert_eq!(a.denies(""), None);
    let [told] = &a.engine.take_usage()[..] else { panic!("one chunk") };
    let merge = |chunk: &[u8]| b.engine.usage_merge(chunk);
    assert_eq!(merge(&[]), Err(ChunkFault::NotUsage));
    assert_eq!(merge(&[&b"X"[..], &told[1..]].concat()), Err(ChunkFault::NotUsage));
    assert_eq!(merge(&[&b"G\x09"[..], &told[2..]].concat()), Err(ChunkFault::Version { found: 9 }));
    assert_eq!(merge(&[&told[..2], &[0; 8], &told[10..]].concat()), Err(ChunkFault::OtherKey));
    assert_eq!(merge(&told[..told.len() - 1]), Err(ChunkFault::Truncated));
    let unknown = [&told[..10], &[99, 1, 0, 7], &told[10..]].concat();
    assert_eq!(merge(&unknown), Ok(Merged { entries: 2, news: 1, dropped: 0 }));
    let damaged = [&told[..10], &[1, 1, 0, 7], &[2, 1, 0, 7]].concat();
    assert_eq!(merge(&damaged), Ok(Merged { entries: 2, news: 0, dropped: 2 }));
}

#[tokio::test]
async fn one_chunk_more_than_may_wait_drops_the_oldest() {
    let node = Node::open(fresh());
    let sender = SenderId::new(&"s".repeat(128)).unwrap();
    let mut told = 0u64;
    while node.engine.usage_dropped() == 0 {
        let mut who = [0; 32];
        who[..8].copy_from_slice(&told.to_le_bytes());
        let heard = |told: &mut view::Person| told.usage.heard(Channel::Sms, &sender, NOON, Some(NOON));
        node.engine.inner.tell_usage(&Identifier(who), heard);
        told += 1;
        assert!(told < 100_000, "nothing is ever dropped");
    }
    assert_eq!(node.engine.usage_dropped(), 1);
    let chunks = node.engine.take_usage();
    assert_eq!(chunks.len(), CHUNKS_MAX);
    assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_LEN_MAX));
    const { assert!(CHUNK_LEN_LONGEST <= crate::replication::frame::USAGE_LEN_MAX) };
}

#[tokio::test]
async fn sends_of_others_do_not_pile_up() {
    let [a, b] = nodes().await;
    for day in 0..5 {
        for node in [&a, &b] {
            node.clock.set(NOON.plus_ms(day * 2 * DAY_MS));
        }
        assert_eq!((a.denies(""), a.denies("")), (None, None));
        for chunk in a.engine.take_usage() {
            b.engine.usage_merge(&chunk).unwrap();
        }
    }
    let who = b.engine.key().identifier("acme", &person());
    let person = b.engine.view().get(&who).unwrap();
    assert_eq!(person.frequency.marks().len(), 2);
}

#[tokio::test]
async fn numbers_of_sends_differ_between_runs() {
    let [a, b] = nodes().await;
    assert_eq!((a.denies(""), b.denies("")), (None, None));
    let who = a.engine.key().identifier("acme", &person());
    let [one, other] = [&a, &b].map(|node| node.engine.view().get(&who).unwrap().frequency.marks()[0]);
    assert_ne!(one.nonce, other.nonce, "or two sends would count as one");
    assert_eq!(one, SendMark { time: NOON, nonce: one.nonce, class: MarkClass::Marketing });
}
