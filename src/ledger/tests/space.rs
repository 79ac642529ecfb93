//! A full disk: ordinary entries are refused, priority entries go on in the reserve.

use super::*;
use crate::ledger::catalog::{RESERVE, segment_name};
use crate::ledger::verify::verify;

const KIB: u64 = 1024;
/// The smallest reserve that the settings allow.
const FULL: Sizes =
    Sizes { segment: 4096 * KIB, step: 64 * KIB, reserve: 1024 * KIB, min_free: 256 * KIB, ..SIZES };

fn opt_out(number: usize) -> Entry {
    let mut payload = format!("opt-out {number} ").into_bytes();
    payload.resize(500, b'.');
    Entry { payload, blob: None, priority: true, bulk: false }
}

/// How many of the group were written.
fn written(log: &mut Log, entries: Vec<Entry>) -> usize {
    let verdicts = log.commit(own(entries)).unwrap();
    verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Committed(_))).count()
}

#[test]
fn a_thousand_opt_outs_fit_on_a_full_disk_and_all_recovers_when_space_returns() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, FULL);
    commit(&mut log, vec![entry("before")]);
    disk.set_capacity(disk.used_bytes());
    let mut kept = 1;
    for number in 0..1_000 {
        assert_eq!(written(&mut log, vec![entry("refused")]), 0);
        // An ordinary entry in the same group is refused, its neighbours are not.
        let group =
            if number % 10 == 0 { vec![entry("refused"), opt_out(number)] } else { vec![opt_out(number)] };
        assert_eq!(written(&mut log, group), 1, "opt-out {number}");
        kept += 1;
        if number % 300 == 299 {
            // Neither a kill nor a power cut takes what is left of the reserve.
            drop(log);
            if number < 500 {
                disk.restart_after_kill()
            } else {
                disk.restart_after_power_cut()
            }
            log = open(&disk, FULL).0;
            assert_eq!(payloads(&log).len(), kept);
        }
    }
    assert!(log.reserve.is_none());
    disk.set_capacity(u64::MAX);
    assert_eq!(written(&mut log, vec![entry("after")]), 1);
    assert!(log.reserve.is_some());
    assert!(log.shared.table.read().extents.iter().all(|extent| extent.name != RESERVE));
    let texts = payloads(&log);
    assert_eq!((texts.len(), texts[0].as_str(), texts[1001].as_str()), (1002, "before", "after"));
    assert!(verify(&disk, None).unwrap().is_sound());
}

#[test]
fn a_used_up_reserve_refuses_and_damages_nothing() {
    let disk = SimDisk::new(2);
    let (mut log, _) = open(&disk, FULL);
    commit(&mut log, vec![entry("before")]);
    disk.set_capacity(disk.used_bytes());
    // A group that does not fit whole is written as far as it fits.
    let mut kept = 1;
    for _ in 0..40 {
        kept += written(&mut log, (0..100).map(opt_out).collect());
    }
    assert!((1_000..4_000).contains(&kept), "{kept}");
    assert_eq!(written(&mut log, vec![opt_out(0)]), 0);
    drop(log);
    disk.restart_after_power_cut();
    let (mut log, opened) = open(&disk, FULL);
    assert!(opened.damages.is_empty());
    assert_eq!(payloads(&log).len(), kept);
    assert_eq!(written(&mut log, vec![opt_out(0)]), 0);
    // Some room, but not enough for a new reserve: opt-outs first.
    disk.set_capacity(disk.used_bytes() + 512 * KIB);
    assert_eq!(written(&mut log, vec![entry("refused")]), 0);
    assert_eq!(written(&mut log, vec![opt_out(0)]), 1);
    disk.set_capacity(u64::MAX);
    assert_eq!(written(&mut log, vec![entry("after")]), 1);
    assert!(verify(&disk, None).unwrap().is_sound());
}

/// Where nothing can be made anew, the last segment is written on in place, and its damage is still not forgotten.
#[test]
fn rot_on_a_full_disk_is_reported_at_every_start() {
    let disk = SimDisk::new(6);
    let (mut log, _) = open(&disk, FULL);
    disk.set_capacity(disk.used_bytes());
    while written(&mut log, vec![opt_out(0)]) == 1 {}
    disk.set_capacity(disk.used_bytes() + FULL.step);
    let places: Vec<_> = (0..3).flat_map(|number| commit(&mut log, vec![opt_out(number)])).collect();
    assert!(log.active.as_ref().unwrap().name != RESERVE);
    disk.set_capacity(disk.used_bytes());
    drop(log);
    let name = segment_name(places[0].position.segment());
    disk.rot(&name, places[0].position.offset() as usize + 70, 1);
    for _ in 0..3 {
        disk.restart_after_kill();
        let (mut log, opened) = open(&disk, FULL);
        assert_eq!(opened.damages.len(), 1);
        assert_eq!(written(&mut log, vec![opt_out(9)]), 1);
        log.close().unwrap();
    }
}

#[test]
fn below_the_bound_only_priority_entries_are_written() {
    let disk = SimDisk::new(3);
    let (mut log, _) = open(&disk, FULL);
    disk.set_capacity(disk.used_bytes() + FULL.min_free);
    assert_eq!(written(&mut log, vec![entry("just enough")]), 1);
    disk.set_capacity(disk.used_bytes() + FULL.min_free - 1);
    assert_eq!(written(&mut log, vec![entry("one byte short")]), 0);
    assert_eq!(written(&mut log, vec![opt_out(0)]), 1);
}

#[test]
fn a_new_ledger_needs_room_for_its_reserve() {
    let disk = SimDisk::new(4);
    disk.set_capacity(FULL.reserve);
    let opened = recover::open(Arc::new(disk.clone()), FULL, KEY_CHECK);
    assert!(matches!(opened, Err(crate::ledger::OpenError::NoSpace { .. })));
    disk.set_capacity(u64::MAX);
    assert!(open(&disk, FULL).1.created);
}

#[test]
fn a_reserve_of_another_size_is_replaced() {
    let disk = SimDisk::new(5);
    let (mut log, _) = open(&disk, FULL);
    log.close().unwrap();
    let larger = Sizes { reserve: 2 * FULL.reserve, ..FULL };
    disk.set_capacity(disk.used_bytes());
    assert_eq!(open(&disk, larger).0.reserve.unwrap().len().unwrap(), FULL.reserve);
    disk.set_capacity(u64::MAX);
    assert_eq!(open(&disk, larger).0.reserve.unwrap().len().unwrap(), larger.reserve);
}
