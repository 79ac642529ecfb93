//! What first records name as the last of the origin before is known while running and after every kind of start.

use std::collections::BTreeMap;

use super::source::{Source, all_of, incoming};
use super::*;
use crate::ledger::Head;
use crate::ledger::format::Footer;
use crate::policy::ids::OriginId;

type Named = BTreeMap<OriginId, (OriginId, Head)>;

/// The slow way: by reading the first record of every origin.
fn read_from_records(log: &Log) -> Named {
    let origins: Vec<OriginId> = log.shared.table.read().vector.keys().copied().collect();
    let first = |origin: OriginId| all_of(log, origin, 1).into_iter().next();
    let named = |origin| Some((origin, first(origin)?.parse().unwrap().previous?));
    origins.into_iter().filter_map(named).collect()
}

#[test]
fn what_first_records_name_is_known_whichever_way_a_run_ended() {
    let disk = SimDisk::new(31);
    let mut elsewhere = Source::new(200);
    let mut last_own = None;
    let mut known = Named::new();
    for run in 0..9_u8 {
        let (mut log, opened) = open(&disk, SIZES);
        assert_eq!(opened.damages, []);
        assert_eq!(log.shared.table.read().previous, known, "run {run} begins with what the last one knew");
        // Enough to fill several segments, so that most footers speak of closed ones.
        for _ in 0..6 {
            commit(&mut log, vec![entry(&"own".repeat(200))]);
            if run % 3 == 1 {
                commit(&mut log, vec![Entry { bulk: true, ..entry("row") }]);
            }
            let record = elsewhere.next(&[b'r'; 900], None);
            log.commit(vec![incoming(&record, false)]).unwrap();
        }
        elsewhere = Source::following(201 + run, &elsewhere);
        let own = log.own.unwrap();
        assert_eq!(log.shared.table.read().previous.get(&own.0).copied(), last_own, "run {run}");
        last_own = log.bulk.or(Some(own));
        known = log.shared.table.read().previous.clone();
        assert_eq!(known, read_from_records(&log));
        match run % 3 {
            0 => log.close().unwrap(),
            1 => {
                drop(log);
                disk.restart_after_kill();
            }
            _ => {
                drop(log);
                disk.restart_after_power_cut();
            }
        }
    }
    // Own runs but the first, the rows' origins, and what came from elsewhere but its first.
    assert_eq!(known.len(), 8 + 3 + 8);
}

#[test]
fn a_segment_whose_footer_does_not_tell_is_scanned_and_gets_one_that_does() {
    let disk = SimDisk::new(32);
    let (mut log, _) = open(&disk, SIZES);
    let mut one = Source::new(1);
    let before = one.text("before");
    let mut two = Source::following(2, &one);
    let first = two.text("names it");
    log.commit(vec![incoming(&before, false), incoming(&first, false)]).unwrap();
    while log.shared.table.read().extents.len() < 3 {
        commit(&mut log, vec![entry(&"own".repeat(200))]);
    }
    let known = log.shared.table.read().previous.clone();
    assert_eq!(known.len(), 1);
    log.close().unwrap();
    drop(log);
    // As a build before wrote it: a zero where the count is, and none of the names.
    let name = crate::ledger::catalog::segment_name(1);
    let (bytes, told) = (disk.bytes(&name).unwrap(), footer_at_the_end(&disk, &name));
    let start = bytes.len() - told.encode(seed(&disk)).len();
    let mut older = told.encode(seed(&disk));
    let end = older.len() - 16 - 72;
    older.drain(end..end + 72);
    older[44..48].fill(0);
    let len = (older.len() as u32).to_le_bytes();
    let tail = older.len() - 16;
    older[tail..tail + 4].copy_from_slice(&len);
    let crc = seed(&disk).checksum(told.end, &older[..tail + 4]);
    older[tail + 4..tail + 8].copy_from_slice(&crc.to_le_bytes());
    let file = crate::ledger::disk::Disk::open(&disk, &name).unwrap();
    file.write_at(&older, start as u64).unwrap();
    file.set_len((start + older.len()) as u64).unwrap();
    file.fdatasync().unwrap();

    let (log, opened) = open(&disk, SIZES);
    assert!(opened.clean && opened.damages.is_empty());
    assert_eq!(log.shared.table.read().previous, known);
    assert_eq!(footer_at_the_end(&disk, &name), told);
}

fn seed(disk: &SimDisk) -> crate::ledger::format::Seed {
    let header = disk.bytes(&crate::ledger::catalog::segment_name(1)).unwrap();
    let identity = crate::ledger::format::Header::parse(&header[..1024]).unwrap().identity;
    crate::ledger::format::Seed::new(&identity.ledger, 1)
}

fn footer_at_the_end(disk: &SimDisk, name: &str) -> Footer {
    let bytes = disk.bytes(name).unwrap();
    let trailer = bytes[bytes.len() - 16..].try_into().unwrap();
    let start = bytes.len() - Footer::len_from_trailer(&trailer).unwrap() as usize;
    Footer::parse(&bytes[start..], seed(disk), start as u64).unwrap()
}
