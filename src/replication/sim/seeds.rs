//! Many seeds, and those that once failed.

use std::env;
use std::ops::Range;

use super::chaos::run;

const SEEDS: u64 = 500;

#[test]
fn whatever_befalls_a_cluster_it_heals() {
    let (mut steps, mut frames, mut stored, mut equal, mut asked) = (0, 0, 0, 0, 0);
    let seeds = chosen(SEEDS);
    for seed in seeds.clone() {
        let world = run(seed);
        steps += world.steps;
        frames += world.frames;
        stored += world.stored;
        let closed = world.closed();
        (equal, asked) = (equal + closed.0, asked + closed.1);
    }
    println!(
        "seeds {seeds:?}: {steps} steps, {frames} frames, {stored} records stored, closed origins equal {equal} times and asked for \
         {asked} times"
    );
    let many = seeds.end - seeds.start;
    assert!(many < 20 || equal > many && asked > many, "either way must be taken often: {equal}, {asked}");
}

/// The seeds to run: the one that is asked for, or as many as are asked for, else `few`.
pub(crate) fn chosen(few: u64) -> Range<u64> {
    let asked = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match asked("OPTGATE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..asked("OPTGATE_SIM_SEEDS").unwrap_or(few),
    }
}

/// Seeds that failed once, and why.
const FAILED_ONCE: [(u64, &str); 4] = [
    (412, "a backlog that was lost with a restored disk was waited for"),
    (2_183, "an edge that still held it kept the wait alive"),
    (2_927, "frames overtook each other at a node that stood still"),
    (10_628, "ages added up to more than there was time"),
];

#[test]
fn what_failed_once_holds() {
    for (seed, _) in FAILED_ONCE {
        run(seed);
    }
}
