//! Damage that no crash explains: reported, never cut, and nothing behind it is lost.

use super::*;
use crate::ledger::catalog::{NEW, segment_name};
use crate::ledger::sim::Dice;
use crate::ledger::verify::{Fault, verify};
use crate::ledger::{Blob, Damage, OpenError};

/// Three batches in one segment and no clean end.
fn three_batches(disk: &SimDisk) -> Vec<Appended> {
    let (mut log, _) = open(disk, SIZES);
    let mut places = Vec::new();
    for batch in ["a", "b", "c"] {
        places.extend(commit(&mut log, vec![entry(&format!("{batch}0")), entry(&format!("{batch}1"))]));
    }
    drop(log);
    disk.restart_after_kill();
    places
}

fn flip(disk: &SimDisk, at: Position, behind: u32) {
    disk.rot(&segment_name(at.segment()), (at.offset() + behind) as usize, 0x10);
}

#[test]
fn damage_before_the_last_batch_is_rot_and_stays() {
    let disk = SimDisk::new(1);
    let places = three_batches(&disk);
    flip(&disk, places[1].position, 70);
    let rot = Damage {
        segment: 1,
        from: u64::from(places[1].position.offset()),
        to: u64::from(places[2].position.offset()),
    };
    for round in 0..3 {
        let (mut log, opened) = open(&disk, SIZES);
        assert_eq!(opened.damages, [rot], "round {round}");
        assert_eq!(opened.cut_bytes, 0);
        assert_eq!(payloads(&log)[..5], ["a0", "b0", "b1", "c0", "c1"]);
        assert_eq!(read_all(&log).iter().filter(|record| record.is_err()).count(), 1);
        assert!(
            matches!(reader(&log).read_at(places[1].position), Err(ReadError::Damaged(damage)) if damage == rot)
        );
        // The rest of the ledger goes on.
        commit(&mut log, vec![entry("later")]);
        assert_eq!(payloads(&log).len(), 6 + round);
        // A clean end must not hide it.
        log.close().unwrap();
        disk.restart_after_kill();
    }
    let report = verify(&disk, Some(KEY_CHECK)).unwrap();
    assert!(matches!(report.faults[0], Fault::Damaged(damage) if damage == rot));
    assert!(matches!(report.faults[1], Fault::Gap { expected: 2, .. }));
    assert_eq!((report.faults.len(), report.records), (2, 8));
}

#[test]
fn an_unreadable_sector_is_damage_to_what_lies_there_only() {
    let disk = SimDisk::new(11);
    let (mut log, _) = open(&disk, SIZES);
    let texts: Vec<String> = (0..6).map(|number| format!("record {number:.>900}")).collect();
    let places: Vec<_> = texts.iter().map(|text| commit(&mut log, vec![entry(text)])[0]).collect();
    drop(log);
    // In the middle of the second record, so that the sector touches no other.
    disk.spoil(&segment_name(1), places[1].position.offset() as usize + 512);
    let (log, opened) = open(&disk, SIZES);
    assert_eq!(opened.damages.len(), 1);
    assert_eq!(read_all(&log).iter().filter(|record| record.is_err()).count(), 1);
    assert_eq!(payloads(&log), [&texts[..1], &texts[2..]].concat());
    assert!(matches!(reader(&log).read_at(places[1].position), Err(ReadError::Damaged(_))));
    assert!(reader(&log).read_at(places[5].position).is_ok());
    // The same for a header: its other copy is in another sector.
    disk.spoil(&segment_name(1), 0);
    assert_eq!(open(&disk, SIZES).1.damages.len(), 1);
}

#[test]
fn damage_in_the_last_batch_is_a_torn_tail_and_is_cut_with_what_follows_it() {
    let disk = SimDisk::new(2);
    let places = three_batches(&disk);
    flip(&disk, places[4].position, 70);
    let (log, opened) = open(&disk, SIZES);
    assert_eq!(opened.damages, []);
    // Up to the last byte that is not zero, which padding may be.
    let batch = u64::from(places[5].next.offset() - places[4].position.offset());
    assert!((batch - 7..=batch).contains(&opened.cut_bytes), "{} of {batch}", opened.cut_bytes);
    assert_eq!(payloads(&log), ["a0", "a1", "b0", "b1"]);
    assert!(verify(&disk, None).unwrap().is_sound());
}

#[test]
fn the_first_records_of_the_last_batch_are_kept_when_a_later_one_is_damaged() {
    let disk = SimDisk::new(3);
    let places = three_batches(&disk);
    flip(&disk, places[5].position, 70);
    let (log, opened) = open(&disk, SIZES);
    assert_eq!(opened.damages, []);
    assert_eq!(payloads(&log), ["a0", "a1", "b0", "b1", "c0"]);
}

#[test]
fn damage_at_a_batch_s_start_is_rot_as_soon_as_another_batch_follows() {
    let disk = SimDisk::new(4);
    let places = three_batches(&disk);
    // The first record of the middle batch: as torn as it looks, the last batch proves that it was on disk.
    flip(&disk, places[2].position, 70);
    let (log, opened) = open(&disk, SIZES);
    assert_eq!(opened.damages.len(), 1);
    assert_eq!(payloads(&log), ["a0", "a1", "b1", "c0", "c1"]);
}

#[test]
fn a_payload_that_imitates_a_record_is_not_taken_for_one() {
    let disk = SimDisk::new(5);
    let (mut log, _) = open(&disk, SIZES);
    let first = commit(&mut log, vec![entry("first")])[0];
    let raw = disk.bytes(&segment_name(1)).unwrap();
    let copy = raw[first.position.offset() as usize..first.next.offset() as usize].to_vec();
    let place = commit(&mut log, vec![Entry { payload: copy.clone(), ..entry("") }])[0];
    commit(&mut log, vec![Entry { blob: Some(copy), ..entry("last") }]);
    drop(log);
    flip(&disk, place.position, 8);
    let (log, opened) = open(&disk, SIZES);
    assert_eq!(opened.damages.len(), 1);
    assert_eq!(payloads(&log), ["first", "last"]);
}

#[test]
fn a_header_survives_the_loss_of_one_copy_and_its_records_that_of_both() {
    let disk = SimDisk::new(6);
    let (mut log, _) = open(&disk, SIZES);
    let texts: Vec<String> = (0..200).map(|number| format!("record number {number}")).collect();
    for text in &texts {
        commit(&mut log, vec![entry(text)]);
    }
    let segments = log.shared.table.read().extents.len();
    assert!(segments >= 3);
    log.close().unwrap();
    disk.rot(&segment_name(2), 20, 1);
    let (log, opened) = open(&disk, SIZES);
    assert_eq!((opened.damages, payloads(&log)), (vec![], texts.clone()));
    disk.rot(&segment_name(2), 512 + 20, 1);
    let (log, opened) = open(&disk, SIZES);
    assert_eq!(opened.damages, [Damage { segment: 2, from: 0, to: 1024 }]);
    assert_eq!(payloads(&log), texts);
    assert_eq!(verify(&disk, None).unwrap().faults.len(), 1);
}

#[test]
fn a_ledger_without_any_readable_header_is_not_taken_for_an_empty_one() {
    let disk = SimDisk::new(7);
    three_batches(&disk);
    disk.rot(&segment_name(1), 20, 1);
    disk.rot(&segment_name(1), 512 + 20, 1);
    let opened = recover::open(Arc::new(disk.clone()), SIZES, KEY_CHECK);
    assert!(matches!(opened, Err(OpenError::Unreadable)));
}

#[test]
fn a_missing_segment_is_reported() {
    use crate::ledger::disk::Disk;
    let disk = SimDisk::new(8);
    let (mut log, _) = open(&disk, SIZES);
    for number in 0..200 {
        commit(&mut log, vec![entry(&format!("record number {number}"))]);
    }
    assert!(log.shared.table.read().extents.len() >= 3);
    log.close().unwrap();
    disk.rename(&segment_name(2), NEW).unwrap();
    let (log, opened) = open(&disk, SIZES);
    assert!(matches!(opened.damages[..], [Damage { segment: 2, from: 0, .. }]), "{:?}", opened.damages);
    assert!(payloads(&log).len() > 60);
    assert!(!verify(&disk, None).unwrap().is_sound());
}

#[test]
fn a_damaged_blob_leaves_its_record_readable() {
    let disk = SimDisk::new(9);
    let (mut log, _) = open(&disk, SIZES);
    let place = commit(&mut log, vec![with_blob("payload", "personal fields")])[0];
    commit(&mut log, vec![entry("next")]);
    let raw = disk.bytes(&segment_name(1)).unwrap();
    let at = raw.windows(8).position(|window| window == b"personal").unwrap();
    disk.rot(&segment_name(1), at, 1);
    assert!(reader(&log).read_at(place.position).unwrap().blob == Blob::Damaged);
    let report = verify(&disk, None).unwrap();
    assert_eq!(report.faults, [Fault::Blob { id: place.id, position: place.position }]);
    assert_eq!((report.records, report.blobs.damaged), (2, 1));
    // It can still be erased.
    log.erase(place.position).unwrap().unwrap();
    assert!(verify(&disk, None).unwrap().is_sound());
}

#[test]
fn records_that_are_swapped_break_the_chain() {
    // Checksums hold, since they are made anew; only the chain tells.
    use crate::ledger::disk::Disk;
    use crate::ledger::format::{Before, NewRecord, Seed, encode_record};
    use crate::policy::ids::{EventId, OriginId};
    let disk = SimDisk::new(10);
    let (mut log, _) = open(&disk, SIZES);
    let place = commit(&mut log, vec![entry("one")])[0];
    let forged = NewRecord {
        id: EventId { origin: place.id.origin, sequence: 2 },
        before: Before::Record([1; 32]),
        payload: b"two",
        blob: None,
        batch: 2,
        last: true,
        own: true,
    };
    let foreign = NewRecord {
        id: EventId { origin: OriginId([1; 16]), sequence: 1 },
        before: Before::Origin(None),
        payload: b"relayed",
        batch: 3,
        own: false,
        ..forged
    };
    let seed = Seed::new(&log.identity.ledger, 1);
    let start = u64::from(place.next.offset());
    let mut bytes = Vec::new();
    encode_record(&mut bytes, seed, start, &forged);
    let foreign_at = start + bytes.len() as u64;
    let foreign_hash = encode_record(&mut bytes, seed, foreign_at, &foreign);
    drop(log);
    disk.open(&segment_name(1)).unwrap().write_at(&bytes, start).unwrap();
    let report = verify(&disk, None).unwrap();
    assert!(matches!(report.faults[..], [Fault::Chain { id, .. }] if id.sequence == 2));
    // Another origin's record stands beside the store's own; the next own origin is chained to the own one.
    assert_eq!(report.origins.len(), 2);
    let (log, _) = open(&disk, SIZES);
    assert_eq!(log.shared.table.read().vector[&foreign.id.origin].hash, foreign_hash);
    assert_eq!(log.previous_own.map(|(origin, head)| (origin, head.sequence)), Some((place.id.origin, 2)));
}

/// One flipped bit anywhere: the ledger opens, and every record it did not hit is there.
#[test]
fn no_single_flip_costs_another_record() {
    for seed in 0..400 {
        let disk = SimDisk::new(seed);
        let mut dice = Dice::new(seed);
        let (mut log, _) = open(&disk, SIZES);
        let mut places = Vec::new();
        for number in 0..20 {
            let filler = "x".repeat(dice.below(400) as usize);
            let one = with_blob(&format!("{number} {filler}"), "fields");
            places.extend(commit(&mut log, vec![one, entry(&format!("{number} second"))]));
        }
        let clean = dice.one_in(2);
        if clean {
            log.close().unwrap();
        }
        let names =
            log.shared.table.read().extents.iter().map(|extent| extent.name.clone()).collect::<Vec<_>>();
        let place = dice.below(names.len() as u64) as usize;
        let len = disk.bytes(&names[place]).unwrap().len() as u64;
        let offset = dice.below(len) as u32;
        disk.rot(&names[place], offset as usize, 1 << dice.below(8));
        drop(log);
        disk.restart_after_kill();
        let hit = Position::new(place as u32 + 1, offset);
        let (log, _) = open(&disk, SIZES);
        let found: Vec<_> = read_all(&log).into_iter().flatten().map(|record| record.appended.id).collect();
        let last_batch = places.len() - 2;
        for (number, place) in places.iter().enumerate() {
            let spared = !(place.position..place.next).contains(&hit) && (clean || number < last_batch);
            assert!(!spared || found.contains(&place.id), "seed {seed}: record {number} is lost");
        }
        verify(&disk, None).unwrap();
    }
}
