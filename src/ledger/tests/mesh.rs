//! Several ledgers that relay for each other.

use std::time::Duration;

use super::*;
use crate::ledger::disk::Disk;
use crate::ledger::verify::verify;
use crate::ledger::{Applier, Config, Head, Ledger, Relayed, RelayedBlob, Relaying};
use crate::policy::ids::OriginId;

struct NoView;

impl Applier for NoView {
    fn on_durable(&mut self, _: &[Committed]) {}
}

fn start(disk: &SimDisk) -> Ledger {
    let config =
        Config { segment_mib: 4, opt_out_reserve_mib: 1, min_free_mib: 0, lock_wait: Duration::ZERO };
    Ledger::open(&config, Arc::new(disk.clone()), KEY_CHECK, Box::new(NoView)).unwrap().0
}

/// What a backup of the directory gives.
fn copy(disk: &SimDisk, seed: u64) -> SimDisk {
    let copy = SimDisk::new(seed);
    for name in disk.list().unwrap() {
        let file = copy.create(&name).unwrap();
        file.write_at(&disk.bytes(&name).unwrap(), 0).unwrap();
        file.fdatasync().unwrap();
    }
    copy.sync_dir().unwrap();
    copy
}

/// Everything that `to` lacks. Returns how many records that were.
fn sync(from: &Ledger, to: &Ledger) -> usize {
    let held: std::collections::BTreeMap<OriginId, Head> = to.vector().into_iter().collect();
    let mut acks = Vec::new();
    for (origin, _) in from.vector() {
        let next = held.get(&origin).map_or(0, |head| head.sequence) + 1;
        for record in from.records_of(origin, next) {
            acks.push(to.relay(record.unwrap(), false).unwrap());
        }
    }
    let count = acks.len();
    for ack in acks {
        assert!(matches!(ack.wait(), Ok(Relaying::Appended(_))));
    }
    count
}

fn all(ledger: &Ledger) -> Vec<Relayed> {
    let origins = ledger.vector();
    origins.into_iter().flat_map(|(origin, _)| ledger.records_of(origin, 1)).map(Result::unwrap).collect()
}

fn fill(ledger: &Ledger, name: &str, count: usize) -> Vec<Appended> {
    (0..count)
        .map(|number| {
            let blob = format!("fields {number} of {name}");
            let one = if number % 3 == 0 { entry(name) } else { with_blob(name, &blob) };
            ledger.append_blocking(one).unwrap()
        })
        .collect()
}

#[test]
fn a_chain_of_ledgers_hands_on_every_byte() {
    let disks = [1, 2, 3].map(SimDisk::new);
    let mut places = Vec::new();
    // Several runs, so several origins that name each other.
    for run in 0..3 {
        let a = start(&disks[0]);
        places.extend(fill(&a, &format!("run {run}"), 40));
    }
    let (a, b) = (start(&disks[0]), start(&disks[1]));
    for place in places.iter().filter(|place| place.id.sequence % 6 == 2) {
        a.erase_blob(place.position).unwrap();
    }
    fill(&b, "of b itself", 5);
    assert_eq!(sync(&a, &b) + 5, all(&b).len());
    let c = start(&disks[2]);
    sync(&b, &c);
    sync(&c, &a);
    assert!(all(&a) == all(&b) && all(&b) == all(&c));
    assert_eq!(all(&a).len(), 125);
    assert_eq!(all(&c).iter().filter(|record| record.blob == RelayedBlob::Erased).count(), 21);
    assert!(!disks[2].contains(b"fields 1 of run 0") && disks[2].contains(b"fields 2 of run 0"));
    let vectors: Vec<_> = [&a, &b, &c].map(Ledger::vector).into_iter().collect();
    assert!(vectors[0] == vectors[1] && vectors[1] == vectors[2]);
    // A relayed record's fields can be erased like an own one's.
    let fields = b"fields 1 of of b itself";
    assert!(disks[2].contains(fields));
    let mut records = c.iter_from(Position::START).map(Result::unwrap);
    let held = records.find(|record| record.payload == b"of b itself" && record.appended.id.sequence == 2);
    c.erase_blob(held.unwrap().appended.position).unwrap();
    assert!(!disks[2].contains(fields) && disks[0].contains(fields));
    for ledger in [a, b, c] {
        ledger.close().unwrap();
    }
    for (disk, vector) in disks.iter().zip(vectors) {
        let report = verify(disk, Some(KEY_CHECK)).unwrap();
        assert!(report.is_sound(), "{:?}", report.faults);
        assert_eq!((report.records, report.origins.len()), (125, 4));
        assert_eq!(start(disk).vector(), vector);
    }
}

#[test]
fn a_restored_store_takes_back_what_it_lost() {
    for clean in [true, false] {
        let (first, disk_b) = (SimDisk::new(1), SimDisk::new(2));
        let a = start(&first);
        let old = fill(&a, "before the backup", 10)[0].id.origin;
        let backup = if clean {
            a.close().unwrap();
            copy(&first, 3)
        } else {
            copy(&first, 3)
        };
        let a = if clean { start(&first) } else { a };
        let lost = fill(&a, "after the backup", 10)[0].id.origin;
        assert_eq!(lost == old, !clean);
        let b = start(&disk_b);
        sync(&a, &b);
        drop(a);
        // The backup is put back and goes on at once, before it hears of anything.
        let a = start(&backup);
        let own = fill(&a, "restored", 3)[0].id.origin;
        assert!(own != old && own != lost);
        assert_eq!(sync(&b, &a), 10);
        fill(&a, "restored, later", 3);
        sync(&a, &b);
        assert!(all(&a) == all(&b));
        assert_eq!(all(&a).len(), 26);
        let records: Vec<_> = a.iter_from(Position::START).map(Result::unwrap).collect();
        assert_eq!(records.len(), 26);
        // And the next run as well.
        drop(a);
        let a = start(&backup);
        let later = fill(&a, "next run", 3)[0].id.origin;
        let first_of = a.records_of(later, 1).next().unwrap().unwrap();
        let (named, head) = first_of.parse().unwrap().previous.unwrap();
        assert_eq!((named, head.sequence), (own, 6));
        sync(&a, &b);
        drop((a, b));
        for disk in [&backup, &disk_b] {
            let report = verify(disk, Some(KEY_CHECK)).unwrap();
            assert!(report.is_sound(), "{:?}", report.faults);
            assert_eq!(report.records, 29);
        }
    }
}

/// Two stores from one directory: each goes on under an origin of its own, and they take each other's.
#[test]
fn a_copied_store_forks_nothing() {
    let first = SimDisk::new(1);
    let a = start(&first);
    fill(&a, "shared", 5);
    let second = copy(&first, 2);
    fill(&a, "a alone", 5);
    let b = start(&second);
    fill(&b, "b alone", 5);
    sync(&a, &b);
    sync(&b, &a);
    assert!(all(&a) == all(&b));
    assert_eq!(all(&a).len(), 15);
    drop((a, b));
    for disk in [&first, &second] {
        assert!(verify(disk, Some(KEY_CHECK)).unwrap().is_sound());
    }
}
