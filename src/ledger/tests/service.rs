//! The writer thread, its queue and its answers.

use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::*;
use crate::ledger::{
    Ack, AppendError, Applier, BATCH_BYTES_MAX, BATCH_LEN_MAX, BLOB_LEN_MAX, Blob, CLOSINGS_QUEUE_LEN_MAX,
    Config, EraseError, Ledger, OpenError, PAYLOAD_LEN_MAX, PRIORITY_QUEUE_LEN_MAX, QUEUE_BYTES_MAX,
    QUEUE_LEN_MAX, State,
};
use crate::policy::ids::{EventId, OriginId};

/// Notes every group and, if told to, stops in it until it is let go.
struct Notes {
    groups: Arc<Mutex<Vec<Vec<Committed>>>>,
    gate: Option<(Sender<()>, Receiver<()>)>,
}

impl Applier for Notes {
    fn on_durable(&mut self, batch: &[Committed]) {
        assert!(batch[0].entry.payload != b"panic", "as asked");
        self.groups.lock().push(batch.to_vec());
        if let Some((entered, go)) = &self.gate {
            // The test may be over already.
            let _ = entered.send(());
            let _ = go.recv();
        }
    }
}

pub(super) type Groups = Arc<Mutex<Vec<Vec<Committed>>>>;

fn config() -> Config {
    Config { segment_mib: 4, opt_out_reserve_mib: 1, min_free_mib: 0, lock_wait: Duration::ZERO }
}

pub(super) fn start(disk: &SimDisk) -> (Ledger, Groups) {
    let groups = Groups::default();
    let notes = Notes { groups: Arc::clone(&groups), gate: None };
    (Ledger::open(&config(), Arc::new(disk.clone()), KEY_CHECK, Box::new(notes)).unwrap().0, groups)
}

/// A ledger whose writer stands in its first group of one until `go` is used.
pub(super) fn start_gated(disk: &SimDisk) -> (Ledger, Groups, Sender<()>, Ack) {
    let groups = Groups::default();
    let (entered, wait_entered) = channel();
    let (go, wait_go) = channel();
    let notes = Notes { groups: Arc::clone(&groups), gate: Some((entered, wait_go)) };
    let ledger = Ledger::open(&config(), Arc::new(disk.clone()), KEY_CHECK, Box::new(notes)).unwrap().0;
    let first = ledger.append(entry("first")).unwrap();
    wait_entered.recv().unwrap();
    (ledger, groups, go, first)
}

fn priority(payload: &str) -> Entry {
    Entry { priority: true, ..entry(payload) }
}

fn texts(group: &[Committed]) -> Vec<&str> {
    group.iter().map(|one| std::str::from_utf8(&one.entry.payload).unwrap()).collect()
}

#[test]
fn what_queues_during_one_group_is_the_next_and_opt_outs_go_first() {
    let disk = SimDisk::new(1);
    let (ledger, groups, go, first) = start_gated(&disk);
    let acks: Vec<Ack> = (0..64)
        .map(|number| {
            let text = number.to_string();
            ledger.append(if number % 8 == 7 { priority(&text) } else { entry(&text) }).unwrap()
        })
        .collect();
    go.send(()).unwrap();
    go.send(()).unwrap();
    let first = first.wait().unwrap();
    let places: Vec<Appended> = acks.into_iter().map(|ack| ack.wait().unwrap()).collect();
    let groups = groups.lock();
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [1, 64]);
    assert_eq!(texts(&groups[1])[..9], ["7", "15", "23", "31", "39", "47", "55", "63", "0"]);
    // Numbered without a gap in the order they were handed over.
    let sequences: Vec<u64> = groups[1].iter().map(|one| one.appended.id.sequence).collect();
    assert_eq!(sequences, (2..66).collect::<Vec<_>>());
    assert_eq!(groups[1][0].appended, places[7]);
    assert_eq!(first.id.sequence, 1);
}

#[test]
fn an_ack_comes_after_the_view_has_the_record() {
    let disk = SimDisk::new(2);
    let (ledger, groups, go, first) = start_gated(&disk);
    let mut first = pin!(first);
    assert_eq!(groups.lock().len(), 1);
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(first.as_mut().poll(&mut context), Poll::Pending));
    let head = ledger.watch();
    assert!(*head.borrow() < groups.lock()[0][0].appended.next);
    go.send(()).unwrap();
    let mut polled = first.as_mut().poll(&mut context);
    while polled.is_pending() {
        std::thread::yield_now();
        polled = first.as_mut().poll(&mut context);
    }
    assert!(matches!(polled, Poll::Ready(Ok(appended)) if *head.borrow() == appended.next));
}

#[test]
fn the_queue_is_bounded_and_keeps_room_for_opt_outs() {
    let disk = SimDisk::new(3);
    let (ledger, groups, go, _) = start_gated(&disk);
    for _ in 0..QUEUE_LEN_MAX {
        ledger.append(entry("x")).unwrap();
    }
    assert_eq!(ledger.append(entry("x")).unwrap_err(), AppendError::Busy);
    for _ in 0..PRIORITY_QUEUE_LEN_MAX {
        ledger.append(priority("x")).unwrap();
    }
    assert_eq!(ledger.append(priority("x")).unwrap_err(), AppendError::Busy);
    assert_eq!(ledger.health().queue_len, QUEUE_LEN_MAX + PRIORITY_QUEUE_LEN_MAX);
    drop(go);
    ledger.close().unwrap();
    let groups = groups.lock();
    assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 1 + QUEUE_LEN_MAX + PRIORITY_QUEUE_LEN_MAX);
    assert_eq!(groups.iter().map(Vec::len).max(), Some(BATCH_LEN_MAX));
}

#[test]
fn queue_and_groups_are_bounded_in_bytes() {
    let disk = SimDisk::new(4);
    let (ledger, groups, go, _) = start_gated(&disk);
    let large = || Entry { payload: vec![b'x'; PAYLOAD_LEN_MAX], ..entry("") };
    let mut taken = 0;
    while ledger.append(large()).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, QUEUE_BYTES_MAX / (PAYLOAD_LEN_MAX + 256));
    drop(go);
    ledger.close().unwrap();
    let groups = groups.lock();
    let bytes = |group: &Vec<Committed>| group.iter().map(|one| one.entry.payload.len()).sum::<usize>();
    assert!(groups.iter().all(|group| bytes(group) <= BATCH_BYTES_MAX));
    assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 1 + taken);
}

#[test]
fn entries_are_bounded_in_length() {
    let disk = SimDisk::new(5);
    let (ledger, _) = start(&disk);
    let sized = |payload, blob| Entry {
        payload: vec![1; payload],
        blob: Some(vec![2; blob]),
        priority: false,
        bulk: false,
    };
    let place = ledger.append_blocking(sized(PAYLOAD_LEN_MAX, BLOB_LEN_MAX)).unwrap();
    assert!(ledger.read_at(place.position).unwrap().blob == Blob::Present(vec![2; BLOB_LEN_MAX]));
    let too_long = |part, len| AppendError::TooLong { part, len, max: len - 1 };
    assert_eq!(
        ledger.append(sized(PAYLOAD_LEN_MAX + 1, 0)).unwrap_err(),
        too_long("payload", PAYLOAD_LEN_MAX + 1)
    );
    assert_eq!(ledger.append(sized(0, BLOB_LEN_MAX + 1)).unwrap_err(), too_long("blob", BLOB_LEN_MAX + 1));
    let empty = ledger.append_blocking(entry("")).unwrap();
    assert_eq!(ledger.read_at(empty.position).unwrap().payload, b"");
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_ends_the_ledger() {
    let disk = SimDisk::new(6);
    let (ledger, groups) = start(&disk);
    let kept = ledger.append_blocking(entry("kept")).unwrap();
    disk.sync_fault_in(Some(0));
    assert!(matches!(ledger.append_blocking(entry("lost?")), Err(AppendError::Failed(_))));
    assert!(matches!(ledger.health().state, State::Failed(_)));
    assert!(matches!(ledger.append(entry("later")), Err(AppendError::Failed(_))));
    assert!(matches!(ledger.erase_blob(kept.position), Err(EraseError::Ledger(AppendError::Failed(_)))));
    assert!(matches!(ledger.close(), Err(AppendError::Failed(_))));
    assert_eq!(groups.lock().len(), 1);
    // What is durable stays readable.
    assert_eq!(ledger.iter_from(Position::START).count(), 1);
    drop(ledger);
    let (ledger, _) = start(&disk);
    assert_eq!(ledger.health().state, State::Running);
    assert_eq!(ledger.read_at(kept.position).unwrap().payload, b"kept");
}

#[test]
fn a_panic_of_the_applier_fails_the_ledger_and_answers_everybody() {
    let disk = SimDisk::new(7);
    let (ledger, _) = start(&disk);
    assert!(matches!(ledger.append_blocking(entry("panic")), Err(AppendError::Failed(_))));
    assert!(matches!(ledger.append(entry("later")), Err(AppendError::Failed(_))));
    assert!(matches!(ledger.health().state, State::Failed(_)));
    // It was durable all the same, and the next start finds it.
    drop(ledger);
    assert_eq!(start(&disk).0.iter_from(Position::START).count(), 1);
}

#[test]
fn closing_writes_what_waits_and_the_next_start_is_clean() {
    let disk = SimDisk::new(8);
    let (ledger, _, go, first) = start_gated(&disk);
    let second = ledger.append(entry("second")).unwrap();
    drop(go);
    ledger.close().unwrap();
    assert!(first.wait().is_ok() && second.wait().is_ok());
    assert_eq!(ledger.append(entry("later")).unwrap_err(), AppendError::Closed);
    assert_eq!(ledger.health().state, State::Closed);
    ledger.close().unwrap();
    assert_eq!(ledger.iter_from(Position::START).count(), 2);
    let notes = Notes { groups: Groups::default(), gate: None };
    let opened = Ledger::open(&config(), Arc::new(disk.clone()), KEY_CHECK, Box::new(notes)).unwrap().1;
    assert!(opened.clean);
    assert_eq!(opened.cut_bytes, 0);
}

#[test]
fn a_second_process_is_kept_out_until_the_first_is_gone() {
    let disk = SimDisk::new(9);
    let (ledger, _) = start(&disk);
    let second = || {
        let notes = Notes { groups: Groups::default(), gate: None };
        Ledger::open(&config(), Arc::new(disk.clone()), KEY_CHECK, Box::new(notes))
    };
    assert!(matches!(second(), Err(OpenError::Locked)));
    drop(ledger);
    assert!(second().is_ok());
}

#[test]
fn another_key_is_refused_and_changes_nothing() {
    let disk = SimDisk::new(10);
    drop(start(&disk));
    let before = disk.operations();
    let notes = Notes { groups: Groups::default(), gate: None };
    let opened = Ledger::open(&config(), Arc::new(disk.clone()), [8; 16], Box::new(notes));
    assert!(matches!(opened, Err(OpenError::OtherKey)));
    // But for syncing the directory.
    assert_eq!(disk.operations(), before + 1);
    start(&disk);
}

#[test]
fn each_run_that_appends_mints_an_origin_and_chains_it_to_the_last() {
    let disk = SimDisk::new(11);
    let mut origins = Vec::new();
    for run in 0..4 {
        let (ledger, _) = start(&disk);
        assert_eq!(ledger.own_origin(), None);
        // A run without an own event has no origin.
        if run == 2 {
            continue;
        }
        for _ in 0..3 {
            ledger.append_blocking(entry("x")).unwrap();
        }
        let origin = ledger.own_origin().unwrap();
        assert!(!origins.contains(&origin));
        origins.push(origin);
        let vector = ledger.vector();
        assert_eq!(vector.len(), origins.len());
        assert!(vector.iter().all(|(origin, head)| origins.contains(origin) && head.sequence == 3));
    }
    let report = crate::ledger::verify::verify(&disk, Some(KEY_CHECK)).unwrap();
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.origins.len(), report.records), (3, 9));
}

#[tokio::test]
async fn a_closed_origin_is_written_no_more_and_the_next_is_chained_to_it() {
    let disk = SimDisk::new(13);
    let (ledger, _) = start(&disk);
    let id = async |entry: Entry| ledger.append(entry).unwrap().await.unwrap().id;
    let first = id(entry("first")).await;
    let row = id(Entry { bulk: true, ..entry("row") }).await;
    assert!(ledger.close_origin(first.origin).await.unwrap());
    assert!(!ledger.close_origin(first.origin).await.unwrap(), "it is none of this run's any more");
    assert_eq!(ledger.own_origin(), None);
    let next = id(entry("next")).await;
    assert!(next.origin != first.origin && next.sequence == 1);
    assert_eq!(
        id(Entry { bulk: true, ..entry("row") }).await,
        EventId { sequence: 2, ..row },
        "others go on"
    );
    let head = ledger.vector().into_iter().find(|(origin, _)| *origin == first.origin).unwrap();
    let record = ledger.records_of(next.origin, 1).next().unwrap().unwrap();
    assert_eq!(record.parse().unwrap().previous, Some(head));
    let of_first: Vec<_> = ledger.reader().own_records_of(first.origin, 1).map(Result::unwrap).collect();
    assert_eq!(of_first.iter().map(|record| record.appended.id).collect::<Vec<_>>(), [first]);
    assert_eq!(ledger.reader().own_records_of(first.origin, 2).count(), 0);
    ledger.close().unwrap();
    assert_eq!(ledger.close_origin(next.origin).await, Err(AppendError::Closed));
    let report = crate::ledger::verify::verify(&disk, Some(KEY_CHECK)).unwrap();
    assert!(report.is_sound(), "{:?}", report.faults);
}

#[test]
fn origins_that_wait_to_be_closed_are_bounded() {
    let disk = SimDisk::new(14);
    let (ledger, _, go, _) = start_gated(&disk);
    let mut context = Context::from_waker(Waker::noop());
    let mut closings: Vec<_> = (0..CLOSINGS_QUEUE_LEN_MAX + 1)
        .map(|number| Box::pin(ledger.close_origin(OriginId([number as u8; 16]))))
        .collect();
    let last = closings.pop().unwrap();
    assert!(closings.iter_mut().all(|closing| closing.as_mut().poll(&mut context).is_pending()));
    assert_eq!(pin!(last).poll(&mut context), Poll::Ready(Err(AppendError::Busy)));
    drop(go);
    for mut closing in closings {
        let mut polled = closing.as_mut().poll(&mut context);
        while polled.is_pending() {
            std::thread::yield_now();
            polled = closing.as_mut().poll(&mut context);
        }
        assert_eq!(polled, Poll::Ready(Ok(false)));
    }
}

#[test]
fn a_reader_goes_on_when_the_head_has_moved() {
    let disk = SimDisk::new(12);
    let (ledger, _) = start(&disk);
    let mut records = ledger.iter_from(Position::START);
    assert!(records.next().is_none());
    // Over the end of a segment, too.
    for number in 0..40 {
        let one = Entry { payload: vec![number; 200_000], ..entry("") };
        let place = ledger.append_blocking(one).unwrap();
        let record = records.next().unwrap().unwrap();
        assert_eq!((record.appended, record.payload[0]), (place, number));
        assert!(records.next().is_none());
        // The end of the segment before and the start of the new one are the same place.
        let next = ledger.iter_from(records.position()).next();
        assert!(next.is_none());
    }
    assert!(ledger.watch().borrow().segment() > 1);
    assert!(matches!(ledger.read_at(*ledger.watch().borrow()), Err(ReadError::NotFound(_))));
    assert_eq!(ledger.iter_from(Position::START).count(), 40);
}

#[test]
fn erasing_takes_the_blob_and_nothing_else() {
    let disk = SimDisk::new(13);
    let (ledger, _) = start(&disk);
    let plain = ledger.append_blocking(entry("plain")).unwrap();
    let place = ledger.append_blocking(with_blob("payload", "a person's words")).unwrap();
    assert!(disk.contains(b"a person's words"));
    for _ in 0..2 {
        ledger.erase_blob(place.position).unwrap();
        let record = ledger.read_at(place.position).unwrap();
        assert!(record.blob == Blob::Erased && record.payload == b"payload");
    }
    assert!(!disk.contains(b"a person's words"));
    assert!(matches!(ledger.erase_blob(plain.position), Err(EraseError::NoBlob(_))));
    assert!(matches!(ledger.erase_blob(place.next), Err(EraseError::Read(ReadError::NotFound(_)))));
    let middle = Position::new(place.position.segment(), place.position.offset() + 8);
    assert!(matches!(ledger.erase_blob(middle), Err(EraseError::Read(ReadError::Damaged(_)))));
    drop(ledger);
    let report = crate::ledger::verify::verify(&disk, None).unwrap();
    assert!(report.is_sound());
    assert_eq!((report.blobs.erased, report.blobs.sound), (1, 0));
}

#[test]
fn settings_have_ranges() {
    let fault = |config: Config| config.check().unwrap_err().to_string();
    let good = Config::default();
    good.check().unwrap();
    for segment_mib in [3, 1025] {
        assert!(fault(Config { segment_mib, ..good.clone() }).contains("`segment_mib`"));
    }
    for opt_out_reserve_mib in [0, 1025] {
        assert!(fault(Config { opt_out_reserve_mib, ..good.clone() }).contains("`opt_out_reserve_mib`"));
    }
}

#[test]
fn an_entry_shows_no_bytes_in_debug() {
    let shown = format!("{:?}", with_blob("+15550100", "+15550101"));
    assert!(!shown.contains("15550") && !shown.contains("49, 53"), "{shown}");
}

#[test]
fn a_ledger_of_many_segments_needs_few_open_files() {
    let disk = SimDisk::new(14);
    for run in 0..60 {
        let (mut log, opened) = open(&disk, SIZES);
        assert!(opened.clean);
        commit(&mut log, vec![entry("x")]);
        assert_eq!(read_all(&log).len(), run + 1);
        log.close().unwrap();
    }
    let (log, _) = open(&disk, SIZES);
    assert_eq!(log.shared.table.read().extents.len(), 60);
    assert!(disk.handles_max() <= 8, "{} files open", disk.handles_max());
}

#[test]
fn starts_that_die_again_and_again_pile_up_no_segments() {
    let disk = SimDisk::new(15);
    let (mut log, _) = open(&disk, SIZES);
    let place = commit(&mut log, vec![entry("x")])[0];
    drop(log);
    for _ in 0..20 {
        disk.restart_after_kill();
        let (log, opened) = open(&disk, SIZES);
        assert!(!opened.clean);
        assert_eq!(log.shared.table.read().extents.len(), 1);
        assert_eq!(reader(&log).read_at(place.position).unwrap().appended.id, place.id);
        assert!(reader(&log).iter_from(place.next).next().is_none());
    }
}

#[test]
fn the_rows_of_imports_are_numbered_apart_in_every_run() {
    let disk = SimDisk::new(1);
    let bulk = |text: &str| Entry { bulk: true, ..entry(text) };
    let mut origins = Vec::new();
    for run in 0..3 {
        let (ledger, _) = start(&disk);
        let id = |entry: Entry| ledger.append_blocking(entry).unwrap().id;
        let (row, own) = if run == 1 {
            let own = id(entry("own"));
            (id(bulk("row")), own)
        } else {
            (id(bulk("row")), id(entry("own")))
        };
        assert_ne!(row.origin, own.origin);
        assert_eq!((row.sequence, own.sequence), (1, 1));
        // Whatever lies between, each goes on by itself.
        assert_eq!(id(bulk("row")), EventId { origin: row.origin, sequence: 2 });
        assert_eq!(id(entry("own")), EventId { origin: own.origin, sequence: 2 });
        assert_eq!(ledger.own_origin(), Some(own.origin));
        origins.extend([row.origin, own.origin]);
        ledger.close().unwrap();
    }
    origins.sort_unstable();
    origins.dedup();
    assert_eq!(origins.len(), 6);
    let report = crate::ledger::verify::verify(&disk, Some(KEY_CHECK)).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
}
