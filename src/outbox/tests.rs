use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::ledger::sim::{Dice, SimDisk};

const KEY: [u8; 16] = [7; 16];
const WAIT: Duration = Duration::from_secs(5);

fn open(disk: &SimDisk) -> (Outbox, Vec<Arc<Item>>) {
    Outbox::open(Arc::new(disk.clone()), KEY, WAIT).expect("it opens")
}

fn put(outbox: &Outbox, payload: &[u8], priority: bool) -> (u64, Result<(), PutError>) {
    let (item, synced) =
        outbox.put(payload.to_vec(), Some(b"blob".to_vec()), priority).expect("there is room");
    (item.number, synced.blocking_recv().expect("the writer answers"))
}

fn numbers(items: &[Arc<Item>]) -> Vec<u64> {
    items.iter().map(|item| item.number).collect()
}

#[test]
fn what_is_not_done_with_comes_back_in_order_and_numbers_go_on() {
    let disk = SimDisk::new(1);
    let (outbox, found) = open(&disk);
    assert!(found.is_empty());
    let identity = outbox.identity();
    for payload in [&b"one"[..], b"two", b"three"] {
        assert_eq!(put(&outbox, payload, false).1, Ok(()));
    }
    outbox.done(2);
    outbox.done(2);
    outbox.close();
    drop(outbox);
    let (outbox, found) = open(&disk);
    assert_eq!(outbox.identity(), identity);
    assert_eq!(numbers(&found), [1, 3]);
    assert_eq!((&found[1].payload[..], found[1].blob.as_deref()), (&b"three"[..], Some(&b"blob"[..])));
    assert_eq!(outbox.waiting(), Waiting { items: 2, bytes: 3 + 5 + 8 });
    assert_eq!(put(&outbox, b"four", false), (4, Ok(())));
}

#[test]
fn what_was_synced_survives_a_power_cut_at_any_moment() {
    for seed in 0..400 {
        let disk = SimDisk::new(seed);
        let mut dice = Dice::new(seed);
        disk.power_cut_in(Some(8 + dice.below(60)));
        let (mut kept, mut done) = (Vec::new(), Vec::new());
        if let Ok((outbox, _)) = Outbox::open(Arc::new(disk.clone()), KEY, WAIT) {
            while !disk.power_is_off() {
                let payload = vec![b'x'; dice.below(2_000) as usize];
                if let (number, Ok(())) = put(&outbox, &payload, true) {
                    kept.push((number, payload));
                }
                if dice.one_in(3)
                    && let Some((number, _)) = kept.pop()
                {
                    outbox.done(number);
                    done.push(number);
                }
            }
        }
        disk.power_cut_in(None);
        disk.restart_after_power_cut();
        let (_, found) = open(&disk);
        for (number, payload) in &kept {
            let item = found.iter().find(|item| item.number == *number);
            assert!(item.is_some_and(|item| item.payload == *payload), "seed {seed}: item {number} is gone");
        }
    }
}

#[test]
fn a_file_of_which_most_is_done_with_is_begun_anew() {
    let disk = SimDisk::new(3);
    let (outbox, _) = open(&disk);
    let first = put(&outbox, b"waits", true).0;
    let large = vec![0; 100_000];
    for _ in 0..30 {
        let (number, synced) = put(&outbox, &large, false);
        assert_eq!(synced, Ok(()));
        outbox.done(number);
    }
    outbox.close();
    assert!(disk.used_bytes() < 2 * RENEW_FROM_BYTES, "{} bytes", disk.used_bytes());
    drop(outbox);
    assert_eq!(numbers(&open(&disk).1), [first]);
}

#[test]
fn what_lies_behind_damage_is_found() {
    let disk = SimDisk::new(4);
    let (outbox, _) = open(&disk);
    for payload in [&b"one"[..], b"two", b"three"] {
        assert_eq!(put(&outbox, payload, true).1, Ok(()));
    }
    outbox.close();
    drop(outbox);
    // In the middle of the first record.
    disk.rot(FILE, format::HEADER_LEN + 20, 0xff);
    assert_eq!(numbers(&open(&disk).1), [2, 3]);
}

#[test]
fn another_key_is_refused() {
    let disk = SimDisk::new(5);
    drop(open(&disk));
    let other = Outbox::open(Arc::new(disk.clone()), [8; 16], WAIT);
    assert!(matches!(other.err(), Some(OpenError::OtherKey)));
}

#[test]
fn a_failed_sync_is_not_retried_but_opt_outs_still_wait_in_memory() {
    let disk = SimDisk::new(6);
    let (outbox, _) = open(&disk);
    disk.sync_fault_in(Some(0));
    assert!(matches!(put(&outbox, b"one", true).1, Err(PutError::Failed(_))));
    assert!(matches!(outbox.put(b"two".to_vec(), None, false), Err(PutError::Failed(_))));
    assert!(matches!(put(&outbox, b"three", true).1, Err(PutError::Failed(_))));
    assert_eq!(outbox.waiting().items, 2);
    assert!(outbox.failed().is_some());
}

#[test]
fn a_full_disk_is_told_and_gone_on_from() {
    let disk = SimDisk::new(7);
    let (outbox, _) = open(&disk);
    disk.set_capacity(disk.used_bytes() + 100);
    let (first, synced) = put(&outbox, &[1; 500], true);
    assert_eq!(synced, Err(PutError::NoSpace));
    disk.set_capacity(u64::MAX);
    let (second, synced) = put(&outbox, b"two", true);
    assert_eq!(synced, Ok(()));
    outbox.close();
    assert_eq!(outbox.put(b"three".to_vec(), None, true).err(), Some(PutError::Closed));
    drop(outbox);
    disk.restart_after_power_cut();
    assert_eq!(numbers(&open(&disk).1), [first, second], "what found no room is written once there is some");
}

#[test]
fn what_waits_is_found_again_on_a_full_disk() {
    let disk = SimDisk::new(10);
    let (outbox, _) = open(&disk);
    let first = put(&outbox, b"one", true).0;
    outbox.close();
    drop(outbox);
    disk.set_capacity(disk.used_bytes());
    let (outbox, found) = open(&disk);
    assert_eq!(numbers(&found), [first]);
    disk.set_capacity(u64::MAX);
    let (second, synced) = put(&outbox, b"two", true);
    assert_eq!(synced, Ok(()));
    drop(outbox);
    assert_eq!(numbers(&open(&disk).1), [first, second]);
}

/// The power goes between the new file's name and the directory's sync: whichever is there, what was synced later must be in it.
#[test]
fn a_file_that_could_not_be_put_in_place_ends_the_outbox() {
    let disk = SimDisk::new(11);
    let (outbox, _) = open(&disk);
    let large = vec![0; 600_000];
    let first = put(&outbox, b"waits", true).0;
    let done = put(&outbox, &large, false).0;
    outbox.done(done);
    let last = put(&outbox, &large, false).0;
    // The new file is synced, then the directory, which fails.
    disk.sync_fault_in(Some(1));
    outbox.done(last);
    while outbox.failed().is_none() {
        std::thread::yield_now();
    }
    disk.sync_fault_in(None);
    assert!(matches!(put(&outbox, b"three", true).1, Err(PutError::Failed(_))));
    drop(outbox);
    disk.restart_after_power_cut();
    let found = numbers(&open(&disk).1);
    assert!(found.contains(&first), "{found:?}");
}

#[test]
fn one_item_more_than_may_wait_is_refused_but_not_an_opt_out() {
    let disk = SimDisk::new(8);
    let (outbox, _) = open(&disk);
    let mut last = None;
    for _ in 0..ITEMS_MAX {
        last = Some(outbox.put(vec![1], None, false).expect("there is room").1);
    }
    assert_eq!(outbox.put(vec![1], None, false).err(), Some(PutError::Full));
    for _ in ITEMS_MAX..ITEMS_WITH_OPT_OUTS_MAX {
        last = Some(outbox.put(vec![1], None, true).expect("there is room").1);
    }
    assert_eq!(outbox.put(vec![1], None, true).err(), Some(PutError::Full));
    // Told one way or the other, so nobody waits for ever.
    assert!(last.is_some_and(|last| last.blocking_recv().is_ok()));
}

#[test]
fn bytes_are_bounded() {
    let disk = SimDisk::new(9);
    let (outbox, _) = open(&disk);
    assert!(outbox.put(vec![0; BYTES_MAX], None, false).is_ok());
    assert_eq!(outbox.put(vec![0], None, false).err(), Some(PutError::Full));
    assert!(outbox.put(vec![0], None, true).is_ok());
}
