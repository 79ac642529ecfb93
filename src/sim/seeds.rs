//! Many seeds, and those that once failed.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::fate::run;
use super::judge::Tally;
use crate::replication::sim::seeds::chosen;

const SEEDS: u64 = 60;
/// From so many seeds on, everything must have happened.
const ENOUGH: u64 = 60;

#[test]
fn whatever_befalls_nodes_and_people_the_last_word_holds() {
    let seeds = chosen(SEEDS);
    // Two at a time: each seed keeps one processor busy.
    let next = AtomicU64::new(seeds.start);
    let all = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _others = EndOthers(&next);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let tally = run(seed).tally;
                    all.lock().add(&tally);
                }
            });
        }
    });
    let all = *all.lock();
    println!("{} seeds: {all:#?}", seeds.end - seeds.start);
    if seeds.end - seeds.start >= ENOUGH {
        let happened = [
            ("frames lost", all.lost_frames),
            ("calls lost", all.lost_calls),
            ("snapshots", all.snapshots),
            ("borrowed", all.borrowed),
            ("known by borrowing", all.known_by_borrowing),
            ("items of edges numbered", all.items_done),
            ("reports that came again", all.retries),
            ("opt-outs at another address", all.taken_of_links),
            ("kills", all.kills),
            ("power cuts", all.power_cuts),
            ("power cuts in a write", all.torn),
            ("stops", all.stops),
            ("backups restored", all.restored),
            ("disks lost", all.disks_lost),
            ("weeks away", all.weeks_away),
            ("edges that died full", all.edges_died_full),
            ("cuts", all.cuts),
            ("one-way cuts", all.one_way_cuts),
            ("clocks set", all.clock_jumps),
            ("checks allowed", all.allowed),
            ("checks allowed in spite of an older opt-out", all.allowed_again),
            ("checks denied for an opt-out", all.opted_out),
            ("checks denied for staleness", all.stale),
            ("checks that only staleness kept from a wrong answer", all.saved_by_staleness),
            ("ranges compared", all.ranges_equal),
            ("opt-ins shown to come last", all.proven),
        ];
        for (what, times) in happened {
            assert!(times > 0, "in {} seeds there were no {what}", seeds.end - seeds.start);
        }
    }
}

/// One seed that fails ends it for all.
struct EndOthers<'a>(&'a AtomicU64);

impl Drop for EndOthers<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(u64::MAX / 2, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_seed_means_the_same_twice() {
    let (one, again) = (run(5), run(5));
    assert_eq!((one.trace, one.now), (again.trace, again.now), "{:?}\n{:?}", one.log, again.log);
}
