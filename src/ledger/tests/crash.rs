//! Crashes at every kind of moment, from seeds. `OPTGATE_LEDGER_SEED=n` runs one seed, `OPTGATE_LEDGER_SEEDS=n` that many.

use std::collections::BTreeMap;

use super::source::{all_of, incoming};
use super::*;
use crate::ledger::sim::Dice;
use crate::ledger::verify::verify;
use crate::ledger::{Blob, Head, RelayError, RelayedBlob};
use crate::policy::ids::OriginId;

use peers::{Fate, Held, Peers, Sent, fault_name};

mod peers;

const SEEDS: u64 = 20_000;

/// What is known of a blob's erasure.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Erasure {
    None,
    /// Begun, never acknowledged.
    Maybe,
    Done,
}

/// What is asked for.
#[derive(Clone)]
enum Item {
    Own(Entry),
    Relayed(Sent, bool),
}

/// A record that must be there.
struct Kept {
    item: Item,
    /// As first handed out; it must stay good for ever.
    appended: Appended,
    hash: [u8; 32],
    erasure: Erasure,
}

struct World {
    seed: u64,
    disk: SimDisk,
    sizes: Sizes,
    dice: Dice,
    peers: Peers,
    kept: Vec<Kept>,
    /// Written when the crash came: some may be there, in order.
    in_flight: Vec<Item>,
    small_disk: bool,
}

impl Item {
    fn payload(&self) -> &[u8] {
        match self {
            Self::Own(entry) => &entry.payload,
            Self::Relayed(sent, _) => sent.record.parse().unwrap().payload,
        }
    }

    fn blob(&self) -> Blob {
        match self {
            Self::Own(entry) => entry.blob.clone().map_or(Blob::None, Blob::Present),
            Self::Relayed(sent, _) => match &sent.record.blob {
                RelayedBlob::None => Blob::None,
                RelayedBlob::Present { bytes, .. } => Blob::Present(bytes.clone()),
                RelayedBlob::Erased => Blob::Erased,
            },
        }
    }

    fn incoming(&self) -> Incoming {
        match self {
            Self::Own(entry) => Incoming::Own(entry.clone()),
            Self::Relayed(sent, priority) => incoming(&sent.record, *priority),
        }
    }

    fn fate(&self, held: &Held) -> Fate {
        match self {
            Self::Own(_) => Fate::Written,
            Self::Relayed(sent, _) => sent.fate(held),
        }
    }

    fn is_of_this_run(&self) -> bool {
        matches!(self, Self::Relayed(sent, _) if sent.of_this_run)
    }

    /// It is written.
    fn count(&self, held: &mut Held) {
        if let Self::Relayed(sent, _) = self {
            held.insert(sent.origin, sent.sequence);
        }
    }
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
        let peers = Peers::new();
        Self { seed, disk, sizes, dice, peers, kept: Vec::new(), in_flight: Vec::new(), small_disk }
    }

    fn run(&mut self) {
        for _ in 0..2 + self.dice.below(4) {
            let (mut log, opened) = self.open();
            self.check(&log, &opened);
            if let Some((origin, _)) = log.previous_own.filter(|_| self.dice.one_in(3)) {
                self.peers.remember(origin, log.shared.table.read().vector[&origin]);
            }
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
            let item = in_flight.find(|item| item.payload() == record.payload || !self.small_disk).unwrap();
            let (appended, hash) = (record.appended, record.hash);
            let kept = Kept { item, appended, hash, erasure: Erasure::None };
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
        let own = self.kept.iter().rev().find(|kept| matches!(kept.item, Item::Own(_)));
        let own = own.map(|kept| (kept.appended.id.origin, kept.head()));
        assert_eq!(log.previous_own, own, "seed {seed}: another origin would be chained to");
        self.check_origins(log);
    }

    /// The vector is right, and each origin reads back from anywhere.
    fn check_origins(&mut self, log: &Log) {
        let seed = self.seed;
        let mut origins: BTreeMap<OriginId, Vec<&Kept>> = BTreeMap::new();
        for kept in &self.kept {
            origins.entry(kept.appended.id.origin).or_default().push(kept);
        }
        let vector: BTreeMap<_, _> =
            origins.iter().map(|(origin, kept)| (*origin, kept[kept.len() - 1].head())).collect();
        assert!(log.shared.table.read().vector == vector, "seed {seed}: another vector");
        for (origin, kept) in origins {
            let from = self.dice.below(kept.len() as u64 + 2);
            let expected = kept.iter().skip((from as usize).saturating_sub(1));
            let found = all_of(log, origin, from);
            assert_eq!(found.len(), expected.len(), "seed {seed}: {origin} from {from}");
            for (found, kept) in found.iter().zip(expected) {
                assert_eq!(found.id(), Ok(kept.appended.id), "seed {seed}");
                assert!(found.hash == kept.hash, "seed {seed}: another hash");
                if let Item::Relayed(sent, _) = &kept.item {
                    assert!(found.chained == sent.record.chained, "seed {seed}: other bytes");
                    let same = found.blob == sent.record.blob;
                    let erased = found.blob == RelayedBlob::Erased && kept.erasure != Erasure::None;
                    assert!(same && kept.erasure != Erasure::Done || erased, "seed {seed}: another blob");
                }
            }
        }
    }

    fn held(&self) -> Held {
        self.kept.iter().map(|kept| (kept.appended.id.origin, kept.appended.id.sequence)).collect()
    }

    fn entry(&mut self) -> Entry {
        let dice = &mut self.dice;
        let payload_len = if dice.one_in(8) { 600 } else { 60 };
        let payload_len = dice.below(payload_len);
        let payload = bytes(dice, payload_len);
        let blob_len = dice.below(120);
        let blob = dice.one_in(3).then(|| bytes(dice, blob_len));
        Entry { payload, blob, priority: dice.one_in(2), bulk: false }
    }

    /// A few items, and what is written of them if there is room for all.
    fn group(&mut self, log: &Log) -> (Vec<Item>, Vec<Item>) {
        let mut held = self.held();
        let (mut group, mut written) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.dice.below(5) {
            let item = if self.dice.one_in(2) {
                Item::Own(self.entry())
            } else {
                Item::Relayed(self.peers.send(&mut self.dice, &held, log.own), self.dice.one_in(2))
            };
            if item.fate(&held) == Fate::Written {
                item.count(&mut held);
                written.push(item.clone());
            }
            group.push(item);
        }
        (group, written)
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
            let (group, written) = self.group(log);
            match log.commit(group.iter().map(Item::incoming).collect()) {
                Ok(verdicts) => self.judge(group, verdicts),
                Err(_) => {
                    self.in_flight = written;
                    return false;
                }
            }
            if self.dice.one_in(6) && !self.kept.is_empty() && !self.erase(log) {
                return false;
            }
            if self.dice.one_in(4) && !self.disk.power_is_off() {
                self.check_origins(log);
            }
        }
        true
    }

    /// Each verdict must be what follows from those before it.
    fn judge(&mut self, group: Vec<Item>, verdicts: Vec<Verdict>) {
        assert_eq!(verdicts.len(), group.len());
        let seed = self.seed;
        let mut held = self.held();
        for (verdict, item) in verdicts.into_iter().zip(group) {
            let fate = item.fate(&held);
            match verdict {
                Verdict::Committed(Committed { appended, own, hash, entry }) => {
                    assert_eq!(fate, Fate::Written, "seed {seed}");
                    assert_eq!(own, matches!(item, Item::Own(_)), "seed {seed}");
                    assert!(entry.payload == item.payload(), "seed {seed}: another payload");
                    item.count(&mut held);
                    self.kept.push(Kept { item, appended, hash, erasure: Erasure::None });
                }
                Verdict::NoSpace => assert!(self.small_disk && fate == Fate::Written, "seed {seed}"),
                Verdict::Known => assert_eq!(fate, Fate::Known, "seed {seed}"),
                // The group may have been split, so that this run's own record of that number was durable before.
                Verdict::Refused(RelayError::Fork { .. }) if self.small_disk && item.is_of_this_run() => {}
                Verdict::Refused(error) => {
                    assert_eq!(fate, Fate::Refused(fault_name(&error)), "seed {seed}");
                }
            }
        }
    }

    fn erase(&mut self, log: &mut Log) -> bool {
        let chosen = self.dice.below(self.kept.len() as u64) as usize;
        let kept = &mut self.kept[chosen];
        let erased = log.erase(kept.appended.position);
        let blob = match kept.item.blob() {
            Blob::None => return erased.is_ok_and(|result| result.is_err()),
            Blob::Present(bytes) => Some(bytes),
            _ => None,
        };
        match erased {
            Ok(Err(_)) if self.disk.power_is_off() => false,
            Ok(result) => {
                result.unwrap();
                kept.erasure = Erasure::Done;
                let left = blob.is_some_and(|blob| self.disk.contains(&blob[..16]));
                assert!(!left, "seed {}: erased bytes are left", self.seed);
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

impl Kept {
    fn head(&self) -> Head {
        Head { sequence: self.appended.id.sequence, hash: self.hash }
    }
}

/// Unlike any others, so that they can be searched for.
fn bytes(dice: &mut Dice, len: u64) -> Vec<u8> {
    let mut bytes = dice.roll().to_le_bytes().to_vec();
    bytes.extend(dice.roll().to_le_bytes());
    bytes.resize(16 + len as usize, dice.roll() as u8);
    bytes
}

fn check_record(seed: u64, kept: &Kept, record: &Record) {
    assert_eq!(record.appended.id, kept.appended.id, "seed {seed}");
    assert!(record.payload == kept.item.payload(), "seed {seed}: another payload");
    assert!(record.hash == kept.hash, "seed {seed}: another hash");
    let as_written = kept.item.blob();
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

/// A start moves the last batch, the disk is too full for that, and what was begun is given up: it must not come back after
/// a power cut with what was erased meanwhile.
#[test]
fn a_segment_given_up_on_a_full_disk_stays_gone() {
    let blob = "words of a person";
    for seed in 0..100 {
        let disk = SimDisk::with_sectors(seed, 128);
        let (mut log, _) = open(&disk, SIZES);
        // It stays behind in the old segment, so that no file goes for another reason.
        commit(&mut log, vec![entry("first")]);
        let place = commit(&mut log, vec![with_blob("second", blob)])[0];
        drop(log);
        disk.restart_after_kill();
        // Enough for the header and the batch, not for the rest.
        disk.set_capacity(disk.used_bytes() + 2048);
        let (mut log, _) = open(&disk, SIZES);
        assert!(log.reserve.is_none());
        log.erase(place.position).unwrap().unwrap();
        drop(log);
        disk.restart_after_power_cut();
        assert!(!disk.contains(blob.as_bytes()), "seed {seed}");
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
