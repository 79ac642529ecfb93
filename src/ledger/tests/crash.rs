//! Crashes at every kind of moment, from seeds. `OPTGATE_LEDGER_SEED=n` runs one seed, `OPTGATE_LEDGER_SEEDS=n` that many.

use super::*;
use crate::ledger::Blob;
use crate::ledger::sim::Dice;
use crate::ledger::verify::verify;

const SEEDS: u64 = 20_000;

/// What is known of a blob's erasure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Erasure {
    None,
    /// Begun, never acknowledged.
    Maybe,
    Done,
}

/// A record that must be there.
struct Kept {
    entry: Entry,
    /// As first handed out; it must stay good for ever.
    appended: Appended,
    erasure: Erasure,
}

struct World {
    seed: u64,
    disk: SimDisk,
    sizes: Sizes,
    dice: Dice,
    kept: Vec<Kept>,
    /// Written when the crash came: some may be there, in order.
    in_flight: Vec<Entry>,
    small_disk: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let sector = [64, 128, 512][dice.below(3) as usize];
        let sizes = Sizes {
            segment: 2048 + dice.below(6) * 1024,
            step: 512 << dice.below(3),
            reserve: 2048 + dice.below(3) * 1024,
            min_free: 1024,
            mark_every: dice.below(3) * 500,
            marks_max: dice.below(20) as usize,
        };
        let small_disk = dice.one_in(6);
        let disk = SimDisk::with_sectors(dice.roll(), sector);
        Self { seed, disk, sizes, dice, kept: Vec::new(), in_flight: Vec::new(), small_disk }
    }

    fn run(&mut self) {
        for _ in 0..2 + self.dice.below(4) {
            let (mut log, opened) = self.open();
            self.check(&log, &opened);
            let alive = self.work(&mut log);
            let clean = alive && self.dice.one_in(3) && log.close().is_ok();
            drop(log);
            // Not synced and lost is only what a crash may lose; after a clean end, too, the power may go.
            if self.disk.power_is_off() || self.dice.one_in(if clean { 3 } else { 2 }) {
                self.disk.restart_after_power_cut();
            } else {
                self.disk.restart_after_kill();
            }
        }
        self.disk.set_capacity(u64::MAX);
        let (log, opened) = self.open();
        self.check(&log, &opened);
        let report = verify(&self.disk, Some(KEY_CHECK)).unwrap();
        assert!(report.is_sound(), "{:?}", report.faults);
        assert_eq!(report.records, self.kept.len() as u64);
    }

    /// Opens, however often it takes: it may fail only while the disk does.
    fn open(&mut self) -> (Log, Opened) {
        loop {
            let mut faulty = false;
            if self.dice.one_in(3) {
                self.disk.power_cut_in(Some(self.dice.below(14)));
            } else if self.dice.one_in(8) {
                self.disk.sync_fault_in(Some(self.dice.below(5)));
                faulty = true;
            }
            match recover::open(Arc::new(self.disk.clone()), self.sizes, KEY_CHECK) {
                Ok(opened) => {
                    self.disk.power_cut_in(None);
                    self.disk.sync_fault_in(None);
                    return opened;
                }
                Err(_) if self.disk.power_is_off() => self.disk.restart_after_power_cut(),
                Err(_) if faulty && self.dice.one_in(2) => self.disk.restart_after_power_cut(),
                Err(_) if faulty => self.disk.restart_after_kill(),
                Err(fault) => panic!("seed {}: {fault}", self.seed),
            }
        }
    }

    /// What must be there is there, and nothing else but a first part of what was in flight.
    fn check(&mut self, log: &Log, opened: &Opened) {
        let seed = self.seed;
        assert!(opened.damages.is_empty(), "seed {seed}: {:?}", opened.damages);
        let reader = Reader::new(Arc::clone(&log.shared));
        let records: Vec<Record> = reader.iter_from(Position::START).map(|record| record.unwrap()).collect();
        assert!(records.len() >= self.kept.len(), "seed {seed}: {} of {}", records.len(), self.kept.len());
        let mut in_flight = std::mem::take(&mut self.in_flight).into_iter();
        for (place, record) in records.iter().enumerate() {
            if let Some(kept) = self.kept.get(place) {
                check_record(seed, kept, record);
                continue;
            }
            // On a small disk some of a group may have been refused before the crash.
            let entry = in_flight.find(|entry| entry.payload == record.payload || !self.small_disk);
            let kept = Kept { entry: entry.unwrap(), appended: record.appended, erasure: Erasure::None };
            check_record(seed, &kept, record);
            self.kept.push(kept);
        }
        for (place, kept) in self.kept.iter().enumerate() {
            assert_eq!(
                reader.read_at(kept.appended.position).unwrap().appended.id,
                kept.appended.id,
                "seed {seed}"
            );
            let next = reader.iter_from(kept.appended.next).next().map(|next| next.unwrap().appended.id);
            assert_eq!(next, self.kept.get(place + 1).map(|kept| kept.appended.id), "seed {seed}");
        }
        let head = self.kept.last().map(|kept| kept.appended.id);
        let table = log.shared.table.read();
        assert!(head.is_none_or(|id| table.vector[&id.origin].sequence == id.sequence), "seed {seed}");
    }

    fn entry(&mut self) -> Entry {
        // Unlike any other, so that it can be searched for.
        let bytes = |dice: &mut Dice, len: u64| -> Vec<u8> {
            let mut bytes = dice.roll().to_le_bytes().to_vec();
            bytes.extend(dice.roll().to_le_bytes());
            bytes.resize(16 + len as usize, dice.roll() as u8);
            bytes
        };
        let dice = &mut self.dice;
        let payload_len = if dice.one_in(8) { 600 } else { 60 };
        let payload_len = dice.below(payload_len);
        let payload = bytes(dice, payload_len);
        let blob_len = dice.below(120);
        let blob = dice.one_in(3).then(|| bytes(dice, blob_len));
        Entry { payload, blob, priority: dice.one_in(2) }
    }

    /// Appends and erases until it is enough or the disk fails. False: it failed.
    fn work(&mut self, log: &mut Log) -> bool {
        if self.small_disk {
            let more = self.dice.below(6000);
            self.disk.set_capacity(self.disk.used_bytes() + more);
        }
        if self.dice.one_in(2) {
            self.disk.power_cut_in(Some(self.dice.below(25)));
        } else if self.dice.one_in(4) {
            self.disk.sync_fault_in(Some(self.dice.below(12)));
        }
        for _ in 0..self.dice.below(8) {
            let group: Vec<Entry> = (0..1 + self.dice.below(4)).map(|_| self.entry()).collect();
            match log.commit(own(group.clone())) {
                Ok(verdicts) => {
                    assert_eq!(verdicts.len(), group.len());
                    for (verdict, entry) in verdicts.into_iter().zip(group) {
                        match verdict {
                            Verdict::Committed(committed) => {
                                assert_eq!(committed.entry, entry, "seed {}", self.seed);
                                let appended = committed.appended;
                                self.kept.push(Kept { entry, appended, erasure: Erasure::None });
                            }
                            _ => assert!(self.small_disk, "seed {}", self.seed),
                        }
                    }
                }
                Err(_) => {
                    self.in_flight = group;
                    return false;
                }
            }
            if self.dice.one_in(6) && !self.kept.is_empty() && !self.erase(log) {
                return false;
            }
        }
        true
    }

    fn erase(&mut self, log: &mut Log) -> bool {
        let chosen = self.dice.below(self.kept.len() as u64) as usize;
        let kept = &mut self.kept[chosen];
        let erased = log.erase(kept.appended.position);
        let Some(blob) = &kept.entry.blob else {
            return erased.is_ok_and(|result| result.is_err());
        };
        match erased {
            Ok(Err(_)) if self.disk.power_is_off() => false,
            Ok(result) => {
                result.unwrap();
                kept.erasure = Erasure::Done;
                assert!(!self.disk.contains(&blob[..16]), "seed {}: erased bytes are left", self.seed);
                true
            }
            Err(_) => {
                if kept.erasure == Erasure::None {
                    kept.erasure = Erasure::Maybe;
                }
                false
            }
        }
    }
}

fn check_record(seed: u64, kept: &Kept, record: &Record) {
    assert_eq!(record.appended.id, kept.appended.id, "seed {seed}");
    assert!(record.payload == kept.entry.payload, "seed {seed}: another payload");
    let as_written = kept.entry.blob.clone().map_or(Blob::None, Blob::Present);
    let good = match kept.erasure {
        Erasure::None => record.blob == as_written,
        Erasure::Maybe => record.blob == as_written || record.blob == Blob::Erased,
        Erasure::Done => record.blob == Blob::Erased,
    };
    let is = match &record.blob {
        Blob::None => "none",
        Blob::Present(_) => "present",
        Blob::Erased => "erased",
        Blob::Damaged => "damaged",
    };
    assert!(good, "seed {seed}: the blob of {} is {is}, {:?}", kept.appended.position, kept.erasure);
}

/// A sync that fails during a start, the process killed, a second start, and then the power cut: nothing is lost, and what is
/// erased afterwards is gone for good. Each sync of the start fails in turn.
#[test]
fn no_failed_sync_during_a_start_costs_anything() {
    let blob = "words of a person";
    for seed in 0..60 {
        for fault in 0..12 {
            let disk = SimDisk::with_sectors(seed, 128);
            let (mut log, _) = open(&disk, SIZES);
            let entries = vec![entry("first"), with_blob("second", blob)];
            let places: Vec<_> = entries.into_iter().flat_map(|one| commit(&mut log, vec![one])).collect();
            drop(log);
            disk.restart_after_kill();
            // On a full disk the reserve has to do.
            disk.set_capacity(if seed % 2 == 0 { u64::MAX } else { disk.used_bytes() });
            disk.sync_fault_in(Some(fault));
            let failed = recover::open(Arc::new(disk.clone()), SIZES, KEY_CHECK).is_err();
            disk.restart_after_kill();
            let (mut log, opened) = open(&disk, SIZES);
            assert_eq!(opened.damages, [], "seed {seed}, sync {fault}");
            assert_eq!(payloads(&log), ["first", "second"], "seed {seed}, sync {fault}");
            log.erase(places[1].position).unwrap().unwrap();
            assert!(!disk.contains(blob.as_bytes()), "seed {seed}, sync {fault}");
            drop(log);
            disk.restart_after_power_cut();
            assert!(!disk.contains(blob.as_bytes()), "seed {seed}, sync {fault}");
            let (log, opened) = open(&disk, SIZES);
            assert_eq!(opened.damages, [], "seed {seed}, sync {fault}");
            assert_eq!(payloads(&log), ["first", "second"], "seed {seed}, sync {fault}");
            assert!(failed || fault > 2, "a start syncs more than {fault} times");
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64) {
    let result = std::panic::catch_unwind(|| World::new(seed).run());
    assert!(result.is_ok(), "seed {seed} failed: run it alone with OPTGATE_LEDGER_SEED={seed}");
}

fn run_share(share: u64, shares: u64) {
    if let Some(seed) = number("OPTGATE_LEDGER_SEED") {
        if share == 0 {
            run(seed);
        }
        return;
    }
    let seeds = number("OPTGATE_LEDGER_SEEDS").unwrap_or(SEEDS);
    (0..seeds).filter(|seed| seed % shares == share).for_each(run);
}

// Two tests, so that two cores share the seeds.
#[test]
fn no_crash_loses_or_invents_a_record_even_seeds() {
    run_share(0, 2);
}

#[test]
fn no_crash_loses_or_invents_a_record_odd_seeds() {
    run_share(1, 2);
}
