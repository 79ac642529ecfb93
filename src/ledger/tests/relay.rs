//! Records of other origins: what is let in, and how it is held and read back.

use super::source::{Source, all_of, incoming};
use super::*;
use crate::ledger::catalog::segment_name;
use crate::ledger::relay::Checked;
use crate::ledger::verify::verify;
use crate::ledger::{
    BLOB_LEN_MAX, Blob, Head, PAYLOAD_LEN_MAX, RelayError, RelayFault, Relayed, RelayedBlob,
};
use crate::policy::ids::{EventId, OriginId};

fn relay(log: &mut Log, records: &[Relayed]) -> Vec<Verdict> {
    log.commit(records.iter().map(|record| incoming(record, false)).collect()).unwrap()
}

/// One record by itself; what became of it, in short.
fn fate(log: &mut Log, record: &Relayed) -> Result<&'static str, RelayError> {
    match relay(log, std::slice::from_ref(record)).remove(0) {
        Verdict::Committed(committed) => {
            assert!(!committed.own && committed.hash == record.hash);
            assert_eq!(committed.entry.payload, record.parse().unwrap().payload);
            Ok("appended")
        }
        Verdict::Known => Ok("known"),
        Verdict::NoSpace => Ok("no space"),
        Verdict::Refused(error) => Err(error),
    }
}

fn head_of(log: &Log, origin: OriginId) -> Option<u64> {
    log.shared.table.read().vector.get(&origin).map(|head| head.sequence)
}

#[test]
fn an_origin_is_let_in_from_its_first_record_on_and_in_sequence() {
    let disk = SimDisk::new(1);
    let (mut log, _) = open(&disk, SIZES);
    let mut unheld = Source::new(8);
    unheld.text("never comes here");
    // What the first record names as the store's previous origin need not be held.
    let mut source = Source::following(9, &unheld);
    let records = [source.text("1"), source.text("2"), source.text("3"), source.text("4")];
    let gap = |have, got| Err(RelayError::Gap { origin: source.origin, have, got });
    assert_eq!(fate(&mut log, &records[1]), gap(0, 2));
    assert_eq!(fate(&mut log, &records[0]), Ok("appended"));
    assert_eq!(fate(&mut log, &records[2]), gap(1, 3));
    assert_eq!(fate(&mut log, &records[1]), Ok("appended"));
    assert_eq!(fate(&mut log, &records[3]), gap(2, 4));
    assert_eq!(head_of(&log, source.origin), Some(2));
    // A duplicate is dropped, be it the last one or an old one.
    let end = log.shared.table.read().head;
    for record in &records[..2] {
        assert_eq!(fate(&mut log, record), Ok("known"));
    }
    assert_eq!(log.shared.table.read().head, end);
    assert_eq!(fate(&mut log, &records[2]), Ok("appended"));
    assert_eq!(all_of(&log, source.origin, 1), records[..3]);
    assert!(verify(&disk, None).unwrap().is_sound());
}

#[test]
fn a_held_sequence_with_another_hash_is_a_fork() {
    let disk = SimDisk::new(2);
    let (mut log, _) = open(&disk, SIZES);
    let mut source = Source::new(9);
    let first = source.text("1");
    let mut other = source.clone();
    let (held, got) = (source.text("2"), other.text("two"));
    let third = source.text("3");
    for record in [&first, &held] {
        assert_eq!(fate(&mut log, record), Ok("appended"));
    }
    let fork = || {
        let id = EventId { origin: source.origin, sequence: 2 };
        Err(RelayError::Fork { id, held: held.hash, got: got.hash })
    };
    assert_eq!(fate(&mut log, &got), fork());
    assert_eq!(fate(&mut log, &third), Ok("appended"));
    // Also when it is not the last one, and within one group.
    assert_eq!(fate(&mut log, &got), fork());
    let (fourth, fifth) = (source.text("4"), source.text("5"));
    let mut other = Source::continuing(source.origin, Head { sequence: 3, hash: third.hash });
    let forked = other.text("four");
    let verdicts = relay(&mut log, &[fourth.clone(), fifth, forked.clone()]);
    assert!(matches!(verdicts[2], Verdict::Refused(RelayError::Fork { held, .. }) if held == fourth.hash));
    assert!(verify(&disk, None).unwrap().is_sound());
}

#[test]
fn what_does_not_verify_is_not_written() {
    let disk = SimDisk::new(3);
    let (mut log, _) = open(&disk, SIZES);
    let mut source = Source::new(9);
    let first = source.next(b"first", Some(b"fields"));
    let second = source.next(b"second", Some(b"fields"));
    let chain = |sequence| Err(RelayError::Chain { id: EventId { origin: source.origin, sequence } });
    let change = |record: &Relayed, change: &dyn Fn(&mut Relayed)| {
        let mut changed = record.clone();
        change(&mut changed);
        changed
    };
    let last = |record: &mut Relayed| *record.chained.last_mut().unwrap() ^= 1;
    let blob = |record: &mut Relayed| match &mut record.blob {
        RelayedBlob::Present { bytes, .. } => bytes[0] ^= 1,
        _ => unreachable!(),
    };
    let salt = |record: &mut Relayed| match &mut record.blob {
        RelayedBlob::Present { salt, .. } => salt[0] ^= 1,
        _ => unreachable!(),
    };
    let hash = |record: &mut Relayed| record.hash[0] ^= 1;
    // The named previous origin is part of what is hashed.
    let named = |record: &mut Relayed| record.chained[32 + 16] ^= 1;
    let before = log.shared.table.read().head;
    for changed in
        [change(&first, &last), change(&first, &blob), change(&first, &salt), change(&first, &hash)]
    {
        assert_eq!(fate(&mut log, &changed), chain(1));
    }
    assert_eq!(fate(&mut log, &change(&first, &named)), chain(1));
    assert_eq!(log.shared.table.read().head, before);
    assert_eq!(fate(&mut log, &first), Ok("appended"));
    for changed in [change(&second, &last), change(&second, &blob), change(&second, &hash)] {
        assert_eq!(fate(&mut log, &changed), chain(2));
    }
    // A record that hangs together, but behind another one.
    let other = Source::continuing(source.origin, Head { sequence: 1, hash: [1; 32] }).text("second");
    assert_eq!(fate(&mut log, &other), chain(2));
    assert_eq!(fate(&mut log, &second), Ok("appended"));
    // An erased blob is taken as it is: there is nothing to compare with.
    let erased = Relayed { blob: RelayedBlob::Erased, ..source.next(b"third", Some(b"fields")) };
    assert_eq!(fate(&mut log, &erased), Ok("appended"));
    assert_eq!(all_of(&log, source.origin, 1), [first, second, erased]);
    let report = verify(&disk, None).unwrap();
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!((report.blobs.sound, report.blobs.erased), (2, 1));
}

#[test]
fn malformed_records_are_told_apart() {
    let mut source = Source::new(9);
    let first = source.next(b"first", Some(b"fields"));
    let second = source.text("second");
    let fault = |record: &Relayed, at: usize, byte: u8| {
        let mut changed = record.clone();
        changed.chained[at] = byte;
        Checked::new(changed, false).err()
    };
    assert_eq!(fault(&first, 0, 1), None);
    assert_eq!(fault(&first, 0, 2), Some(RelayFault::Unknown));
    assert_eq!(fault(&first, 1, 3 | 4), Some(RelayFault::Unknown));
    // Flags, zeros, lengths, sequence and genesis that contradict each other or the blob.
    for (record, at, byte) in [
        (&first, 1, 1),
        (&first, 1, 2),
        (&first, 2, 1),
        (&first, 3, 1),
        (&first, 4, 4),
        (&first, 4, 6),
        (&first, 7, 0xff),
        (&first, 24, 2),
        (&first, 24, 0),
        (&first, 32, 1),
        (&first, 87, 1),
        (&second, 1, 1),
        (&second, 1, 2),
        (&second, 24, 1),
        (&second, 24, 0),
    ] {
        assert_eq!(fault(record, at, byte), Some(RelayFault::Form), "byte {at}");
    }
    let no_origin = Source::new(0).text("no origin");
    assert_eq!(no_origin.id(), Err(RelayFault::Form));
    for len in 0..second.chained.len() {
        let cut = Relayed { chained: second.chained[..len].to_vec(), ..second.clone() };
        assert!(cut.id().is_err(), "{len} bytes");
    }
    let with = |record: &Relayed, blob| Relayed { blob, ..record.clone() }.id().err();
    assert_eq!(with(&first, RelayedBlob::None), Some(RelayFault::Form));
    assert_eq!(with(&second, RelayedBlob::Erased), Some(RelayFault::Form));
    assert_eq!(with(&first, RelayedBlob::Erased), None);
    // Lengths as for own entries.
    let sized = |payload: usize, blob: usize| Source::new(9).next(&vec![1; payload], Some(&vec![2; blob]));
    assert_eq!(sized(PAYLOAD_LEN_MAX, BLOB_LEN_MAX).id().err(), None);
    let too_long = |part, len| Some(RelayFault::TooLong { part, len, max: len - 1 });
    assert_eq!(sized(PAYLOAD_LEN_MAX + 1, 0).id().err(), too_long("payload", PAYLOAD_LEN_MAX + 1));
    assert_eq!(sized(0, BLOB_LEN_MAX + 1).id().err(), too_long("blob", BLOB_LEN_MAX + 1));
    let shown = format!("{:?}", Source::new(9).next(b"+15550100", Some(b"+15550101")));
    assert!(!shown.contains("15550") && !shown.contains("49, 53"), "{shown}");
}

#[test]
fn a_record_that_fails_fails_alone() {
    let disk = SimDisk::new(4);
    let (mut log, _) = open(&disk, SIZES);
    let (mut one, mut two) = (Source::new(1), Source::new(2));
    let ones = [one.text("one 1"), one.text("one 2"), one.text("one 3")];
    let mut wrong = two.text("two 1");
    wrong.hash[0] ^= 1;
    let group = vec![
        Incoming::Own(entry("own 1")),
        incoming(&ones[0], false),
        incoming(&wrong, false),
        incoming(&ones[2], false),
        incoming(&ones[0], false),
        Incoming::Own(entry("own 2")),
        incoming(&ones[1], true),
        incoming(&ones[2], false),
    ];
    let verdicts = log.commit(group).unwrap();
    let fates: Vec<&str> = verdicts
        .iter()
        .map(|verdict| match verdict {
            Verdict::Committed(committed) if committed.own => "own",
            Verdict::Committed(_) => "relayed",
            Verdict::Known => "known",
            Verdict::NoSpace => "no space",
            Verdict::Refused(RelayError::Chain { .. }) => "chain",
            Verdict::Refused(RelayError::Gap { have: 1, got: 3, .. }) => "gap",
            Verdict::Refused(_) => "other",
        })
        .collect();
    assert_eq!(fates, ["own", "relayed", "chain", "gap", "known", "own", "relayed", "relayed"]);
    assert_eq!(payloads(&log), ["own 1", "one 1", "own 2", "one 2", "one 3"]);
    // One batch, which ends with its last record.
    assert_eq!(log.batch, 1);
    drop(log);
    disk.restart_after_kill();
    let (log, opened) = open(&disk, SIZES);
    assert_eq!((opened.damages, payloads(&log).len()), (vec![], 5));
    assert_eq!(all_of(&log, one.origin, 2), ones[1..]);
    assert!(verify(&disk, None).unwrap().is_sound());
}

#[test]
fn a_peer_cannot_write_on_behalf_of_this_run() {
    let disk = SimDisk::new(5);
    let (mut log, _) = open(&disk, SIZES);
    let place = commit(&mut log, vec![entry("own 1"), entry("own 2")])[1];
    let head = log.shared.table.read().vector[&place.id.origin];
    let forged = Source::continuing(place.id.origin, head).text("forged");
    let id = EventId { sequence: 3, ..place.id };
    assert_eq!(fate(&mut log, &forged), Err(RelayError::NeverWritten { id }));
    // What it did write comes back as what it is.
    for record in all_of(&log, place.id.origin, 1) {
        assert_eq!(fate(&mut log, &record), Ok("known"));
    }
    commit(&mut log, vec![entry("own 3")]);
    assert!(matches!(fate(&mut log, &forged), Err(RelayError::Fork { .. })));
    assert_eq!(payloads(&log), ["own 1", "own 2", "own 3"]);
}

#[test]
fn own_origins_are_never_chained_to_what_was_relayed() {
    let disk = SimDisk::new(6);
    let mut source = Source::new(9);
    let mut last_own: Option<(OriginId, Head)> = None;
    for run in 0..6 {
        let (mut log, _) = open(&disk, SIZES);
        assert_eq!(log.previous_own, last_own, "run {run}");
        relay(&mut log, &[source.text("before")]);
        let id = commit(&mut log, vec![entry("own")])[0].id;
        relay(&mut log, &[source.text("after")]);
        let head = log.shared.table.read().vector[&id.origin];
        last_own = Some((id.origin, head));
        if run == 4 {
            // Records of this very origin, which no run of this store wrote: as if it had been restored.
            drop(log);
            disk.restart_after_kill();
            let (mut log, _) = open(&disk, SIZES);
            let mut lost = Source::continuing(id.origin, head);
            assert_eq!(fate(&mut log, &lost.text("came back")), Ok("appended"));
            log.close().unwrap();
            // Twice, since the footer is where it could be mistaken.
            let (mut log, opened) = open(&disk, SIZES);
            assert_eq!((opened.damages, log.previous_own), (vec![], last_own));
            assert_eq!(fate(&mut log, &lost.text("came back, too")), Ok("appended"));
            while log.shared.table.read().extents.len() < 20 {
                relay(&mut log, &[source.next(&[b'x'; 3000], None)]);
            }
            log.close().unwrap();
        } else if run % 2 == 0 {
            log.close().unwrap();
        } else {
            drop(log);
            disk.restart_after_kill();
        }
    }
    let report = verify(&disk, None).unwrap();
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!(report.origins.len(), 7);
}

#[test]
fn a_nearly_full_disk_takes_relayed_opt_outs_only() {
    let disk = SimDisk::new(7);
    let (mut log, _) = open(&disk, SIZES);
    let (mut one, mut two) = (Source::new(1), Source::new(2));
    let held = one.text("held");
    relay(&mut log, std::slice::from_ref(&held));
    disk.set_capacity(disk.used_bytes());
    // What fits in the space stepped over goes there first.
    while fate(&mut log, &two.text("filler")) == Ok("appended") {}
    let mut two = Source::new(3);
    let (ordinary, behind) = (one.next(&[b'o'; 900], None), one.text("behind it"));
    let opt_out = two.next(&[b'p'; 900], None);
    let group = vec![
        incoming(&ordinary, false),
        incoming(&ordinary, false),
        incoming(&held, false),
        incoming(&behind, true),
        incoming(&opt_out, true),
        Incoming::Own(entry("own")),
    ];
    let verdicts = log.commit(group).unwrap();
    // A twin of what is not written is not known either.
    assert!(matches!(verdicts[0], Verdict::NoSpace));
    assert!(matches!(verdicts[1], Verdict::NoSpace));
    assert!(matches!(verdicts[2], Verdict::Known));
    assert!(matches!(verdicts[3], Verdict::Refused(RelayError::Gap { have: 1, got: 3, .. })));
    assert!(matches!(verdicts[4], Verdict::Committed(_)));
    assert!(matches!(verdicts[5], Verdict::NoSpace));
    // When the reserve is used up, what does not fit takes nothing with it that does.
    let mut written = 1;
    loop {
        let group: Vec<Incoming> = (0..5).map(|_| incoming(&two.next(&[b'p'; 900], None), true)).collect();
        let verdicts = log.commit(group).unwrap();
        let good = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Committed(_))).count();
        written += good;
        if good < 5 {
            assert!(matches!(verdicts[good], Verdict::NoSpace));
            assert!(verdicts[good + 1..].iter().all(|verdict| matches!(
                verdict,
                Verdict::NoSpace | Verdict::Refused(RelayError::Gap { .. })
            )));
            break;
        }
    }
    assert_eq!(head_of(&log, two.origin), Some(written as u64));
    drop(log);
    disk.restart_after_power_cut();
    disk.set_capacity(u64::MAX);
    let (mut log, _) = open(&disk, SIZES);
    assert_eq!(all_of(&log, two.origin, 1).len(), written);
    assert_eq!(fate(&mut log, &ordinary), Ok("appended"));
    assert_eq!(fate(&mut log, &behind), Ok("appended"));
    assert!(verify(&disk, None).unwrap().is_sound());
}

#[test]
fn an_origin_reads_back_from_anywhere_and_goes_on() {
    let disk = SimDisk::new(8);
    let (mut log, _) = open(&disk, SIZES);
    let (mut often, mut rarely) = (Source::new(1), Source::new(2));
    let mut kept: Vec<Relayed> = Vec::new();
    let mut seldom: Vec<Relayed> = Vec::new();
    let mut following = reader(&log).records_of(often.origin, 1);
    assert!(following.next().is_none());
    for round in 0..300 {
        commit(&mut log, vec![entry("own")]);
        let record = often.next(format!("round {round}").as_bytes(), Some(b"fields"));
        relay(&mut log, std::slice::from_ref(&record));
        assert!(following.next().unwrap().unwrap() == record);
        assert!(following.next().is_none());
        kept.push(record);
        if round % 100 == 1 {
            seldom.push(rarely.text("now and then"));
            relay(&mut log, &seldom[seldom.len() - 1..]);
        }
        if round % 70 == 69 {
            // After a start only the footers' marks are left, and what is read adds others.
            if round % 140 == 69 {
                log.close().unwrap()
            } else {
                drop(log)
            }
            disk.restart_after_kill();
            log = open(&disk, SIZES).0;
            following = reader(&log).records_of(often.origin, kept.len() as u64 + 1);
        }
    }
    assert!(log.shared.table.read().extents.len() > 5);
    for from in 1..=kept.len() {
        assert!(all_of(&log, often.origin, from as u64) == kept[from - 1..], "from {from}");
    }
    assert_eq!(all_of(&log, rarely.origin, 1), seldom);
    assert_eq!(all_of(&log, rarely.origin, 3), seldom[2..]);
    assert_eq!(all_of(&log, rarely.origin, 4), []);
    assert_eq!(all_of(&log, often.origin, 0).len(), kept.len());
    assert_eq!(all_of(&log, OriginId([7; 16]), 1), []);
}

#[test]
fn reading_an_origin_skips_segments_without_it() {
    let disk = SimDisk::new(9);
    let (mut log, _) = open(&disk, SIZES);
    let (mut rarely, mut filler) = (Source::new(1), Source::new(2));
    relay(&mut log, &[rarely.text("1")]);
    while log.shared.table.read().extents.len() < 6 {
        relay(&mut log, &[filler.next(&[b'x'; 2000], None)]);
    }
    relay(&mut log, &[rarely.text("2")]);
    log.close().unwrap();
    let (log, _) = open(&disk, SIZES);
    // If it were read, it would be missed.
    let opens = |number| disk.spoil(&segment_name(number), 1500);
    (2..6).for_each(opens);
    let mut records = reader(&log).records_of(rarely.origin, 1);
    assert_eq!(records.next().unwrap().unwrap().parse().unwrap().payload, b"1");
    crate::ledger::disk::Disk::remove(&disk, &segment_name(3)).unwrap();
    assert_eq!(records.next().unwrap().unwrap().parse().unwrap().payload, b"2");
}

#[test]
fn what_is_damaged_is_told_once_and_the_rest_is_read() {
    let disk = SimDisk::new(10);
    let (mut log, _) = open(&disk, SIZES);
    let (mut one, mut two) = (Source::new(1), Source::new(2));
    let mut places = Vec::new();
    for number in 0..5 {
        for source in [&mut one, &mut two] {
            let record = source.text(&format!("record {number}"));
            let Verdict::Committed(committed) = relay(&mut log, &[record]).remove(0) else { panic!() };
            places.push(committed.appended.position);
        }
    }
    // Sequences 2 and 3 of the first, 5 of the second.
    for place in [2, 4, 9] {
        disk.rot(&segment_name(1), places[place].offset() as usize + 80, 1);
    }
    let read = |origin, from| -> Vec<Result<u64, (u64, u64)>> {
        let told = |record: Result<Relayed, ReadError>| match record {
            Ok(record) => Ok(record.id().unwrap().sequence),
            Err(ReadError::Lost { origin: whose, from, to }) if whose == origin => Err((from, to)),
            Err(other) => panic!("{other}"),
        };
        reader(&log).records_of(origin, from).map(told).collect()
    };
    assert_eq!(read(one.origin, 1), [Ok(1), Err((2, 3)), Ok(4), Ok(5)]);
    assert_eq!(read(one.origin, 3), [Err((3, 3)), Ok(4), Ok(5)]);
    assert_eq!(read(two.origin, 1), [Ok(1), Ok(2), Ok(3), Ok(4), Err((5, 5))]);
    // A second copy of what cannot be read is not taken for the same.
    let copy = Source::continuing(two.origin, Head { sequence: 1, hash: [1; 32] }).text("x");
    assert!(matches!(fate(&mut log, &copy), Err(RelayError::Fork { .. })));
    let copy = Source::continuing(one.origin, Head { sequence: 1, hash: [1; 32] }).text("x");
    assert!(matches!(fate(&mut log, &copy), Err(RelayError::Unreadable { .. })));
}

#[test]
fn erased_fields_travel_no_further() {
    let disk = SimDisk::new(11);
    let (mut log, _) = open(&disk, SIZES);
    let mut source = Source::new(1);
    let texts = ["words of a first person", "words of a second person", "words of a third person"];
    let records = texts.map(|text| source.next(b"payload", Some(text.as_bytes())));
    let places: Vec<Position> = relay(&mut log, &records)
        .into_iter()
        .map(|verdict| match verdict {
            Verdict::Committed(committed) => committed.appended.position,
            other => panic!("{other:?}"),
        })
        .collect();
    let mut reading = reader(&log).records_of(source.origin, 1);
    assert!(reading.next().unwrap().unwrap() == records[0]);
    // The reader has read ahead, and must not show what is gone by now.
    log.erase(places[1]).unwrap().unwrap();
    assert!(!disk.contains(texts[1].as_bytes()));
    assert!(reader(&log).read_at(places[1]).unwrap().blob == Blob::Erased);
    let erased = reading.next().unwrap().unwrap();
    assert!(erased.blob == RelayedBlob::Erased);
    assert!(erased.chained == records[1].chained && erased.hash == records[1].hash);
    assert!(reading.next().unwrap().unwrap() == records[2]);
    // Rotten fields do not keep the record back.
    let raw = disk.bytes(&segment_name(1)).unwrap();
    let at = raw.windows(texts[2].len()).position(|window| window == texts[2].as_bytes()).unwrap();
    disk.rot(&segment_name(1), at, 1);
    assert!(all_of(&log, source.origin, 3)[0].blob == RelayedBlob::Erased);
    // And elsewhere it is erased from the start, survives a start and can be erased again.
    let there = SimDisk::new(12);
    let (mut other, _) = open(&there, SIZES);
    relay(&mut other, &records[..1]);
    let Verdict::Committed(committed) = relay(&mut other, std::slice::from_ref(&erased)).remove(0) else {
        panic!()
    };
    assert_eq!(committed.entry.blob, None);
    drop(other);
    there.restart_after_kill();
    let (mut other, opened) = open(&there, SIZES);
    assert_eq!(opened.damages, []);
    other.erase(committed.appended.position).unwrap().unwrap();
    assert_eq!(all_of(&other, source.origin, 2), [erased]);
    assert!(verify(&there, None).unwrap().is_sound());
}
