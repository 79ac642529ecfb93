//! Relayed records before the writer: lanes of their own, in the order of their origins, bounded.

use std::pin::pin;
use std::task::{Context, Waker};

use super::service::{Groups, start, start_gated};
use super::source::Source;
use super::*;
use crate::ledger::{
    Ack, AppendError, BATCH_LEN_MAX, Ledger, PAYLOAD_LEN_MAX, QUEUE_LEN_MAX, RELAY_QUEUE_BYTES_MAX,
    RELAY_QUEUE_LEN_MAX, RelayAck, RelayError, Relayed, RelayedBlob, Relaying, State,
};

fn texts(groups: &Groups, group: usize) -> Vec<String> {
    let payload = |one: &Committed| String::from_utf8(one.entry.payload.clone()).unwrap();
    groups.lock()[group].iter().map(payload).collect()
}

fn relay(ledger: &Ledger, record: &Relayed, priority: bool) -> RelayAck {
    ledger.relay(record.clone(), priority).unwrap()
}

fn appended(ack: RelayAck) -> bool {
    matches!(ack.wait(), Ok(Relaying::Appended(_)))
}

#[test]
fn relayed_opt_outs_go_first_and_no_record_overtakes_its_origin() {
    let disk = SimDisk::new(1);
    let (ledger, groups, go, _) = start_gated(&disk);
    let (mut calm, mut urgent, mut mixed) = (Source::new(1), Source::new(2), Source::new(3));
    let mut acks = vec![
        relay(&ledger, &calm.text("calm 1"), false),
        relay(&ledger, &mixed.text("mixed 1"), false),
        relay(&ledger, &urgent.text("urgent 1"), true),
        // Behind its origin's ordinary one, though it is a priority one.
        relay(&ledger, &mixed.text("mixed 2"), true),
        relay(&ledger, &calm.text("calm 2"), false),
        relay(&ledger, &urgent.text("urgent 2"), true),
    ];
    let own = ledger.append(entry("own")).unwrap();
    let opt_out = ledger.append(Entry { priority: true, ..entry("own opt-out") }).unwrap();
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert!(own.wait().is_ok() && opt_out.wait().is_ok());
    assert!(acks.drain(..).all(appended));
    let expected = ["own opt-out", "urgent 1", "urgent 2", "own", "calm 1", "mixed 1", "mixed 2", "calm 2"];
    assert_eq!(texts(&groups, 1), expected);
    // Nothing ordinary of it waits any more, so it goes first again; then an ordinary one behind it.
    let mut acks = [
        relay(&ledger, &calm.text("calm 3"), false),
        relay(&ledger, &mixed.text("mixed 3"), true),
        relay(&ledger, &mixed.text("mixed 4"), false),
    ]
    .into_iter();
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert!(acks.all(appended));
    let count = groups.lock().len();
    let written: Vec<String> = (2..count).flat_map(|group| texts(&groups, group)).collect();
    // The first may have been on its way when the others came.
    let place = |text: &str| written.iter().position(|one| one == text).unwrap();
    assert!(place("mixed 3") < place("mixed 4"));
    let groups = groups.lock();
    let told = groups.iter().flatten().find(|one| one.entry.payload == b"calm 2").unwrap();
    assert!(!told.own && told.appended.id.sequence == 2);
    assert_eq!(ledger.vector().iter().find(|(origin, _)| *origin == calm.origin).unwrap().1.sequence, 3);
}

#[test]
fn peers_that_catch_up_crowd_out_no_caller_and_no_caller_them() {
    let disk = SimDisk::new(2);
    let (ledger, groups, go, _) = start_gated(&disk);
    let mut source = Source::new(1);
    let relayed: Vec<RelayAck> =
        (0..RELAY_QUEUE_LEN_MAX).map(|_| relay(&ledger, &source.text("r"), false)).collect();
    let one_more = source.text("r");
    assert_eq!(ledger.relay(one_more.clone(), false).unwrap_err(), AppendError::Busy);
    let mut urgent = Source::new(2);
    for _ in 0..RELAY_QUEUE_LEN_MAX {
        relay(&ledger, &urgent.text("u"), true);
    }
    assert_eq!(ledger.relay(urgent.text("u"), true).unwrap_err(), AppendError::Busy);
    let own: Vec<Ack> = (0..QUEUE_LEN_MAX).map(|_| ledger.append(entry("o")).unwrap()).collect();
    assert_eq!(ledger.health().queue_len, 2 * RELAY_QUEUE_LEN_MAX + QUEUE_LEN_MAX);
    drop(go);
    assert!(own.into_iter().all(|ack| ack.wait().is_ok()));
    assert!(relayed.into_iter().all(appended));
    // What was refused is only late.
    assert!(appended(relay(&ledger, &one_more, false)));
    ledger.close().unwrap();
    let lens: Vec<[usize; 3]> = groups.lock()[1..]
        .iter()
        .map(|group| {
            [b"o", b"u", b"r"].map(|kind| group.iter().filter(|one| one.entry.payload == kind).count())
        })
        .collect();
    let half = BATCH_LEN_MAX / 2;
    assert_eq!(lens[0], [half, half, 0]);
    assert!(lens.iter().all(|group| group.iter().sum::<usize>() <= BATCH_LEN_MAX));
    // Once no opt-outs wait, the two share the groups.
    assert_eq!(lens[4], [half, 0, half]);
}

#[test]
fn waiting_relayed_records_are_bounded_in_bytes() {
    let disk = SimDisk::new(3);
    let (ledger, _, go, _) = start_gated(&disk);
    let mut source = Source::new(1);
    let mut acks = Vec::new();
    while let Ok(ack) = ledger.relay(source.next(&vec![b'x'; PAYLOAD_LEN_MAX], None), false) {
        acks.push(ack);
    }
    // Each with what it costs beside its payload; the first has the genesis part, too.
    assert_eq!(acks.len(), RELAY_QUEUE_BYTES_MAX / (PAYLOAD_LEN_MAX + 32 + 256));
    drop(go);
    assert!(acks.into_iter().all(appended));
}

#[test]
fn every_relayed_record_gets_its_answer() {
    let disk = SimDisk::new(4);
    let (ledger, groups) = start(&disk);
    let mut source = Source::new(1);
    let (first, second, third) = (source.text("1"), source.text("2"), source.text("3"));
    assert!(appended(relay(&ledger, &first, false)));
    assert_eq!(relay(&ledger, &first, true).wait(), Ok(Relaying::Known));
    let gap = RelayError::Gap { origin: source.origin, have: 1, got: 3 };
    assert_eq!(relay(&ledger, &third, true).wait(), Err(gap));
    // What is no record needs no writer.
    let malformed = Relayed { blob: RelayedBlob::Erased, ..second.clone() };
    let mut ack = pin!(relay(&ledger, &malformed, false));
    let answer = ack.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(answer, std::task::Poll::Ready(Err(RelayError::Malformed(_)))));
    assert_eq!(groups.lock().len(), 1);
    assert_eq!(ledger.records_of(source.origin, 1).count(), 1);
    // Nothing was said of it yet.
    disk.sync_fault_in(Some(0));
    let failed = relay(&ledger, &second, false).wait();
    assert!(matches!(failed, Err(RelayError::Append(AppendError::Failed(_)))));
    assert!(matches!(ledger.health().state, State::Failed(_)));
    assert!(matches!(ledger.relay(third, false), Err(AppendError::Failed(_))));
    drop(ledger);
    let (ledger, _) = start(&disk);
    ledger.close().unwrap();
    assert!(matches!(ledger.relay(second, false), Err(AppendError::Closed)));
}
