//! Many seeds, and those that once failed.

use std::env;

use super::chaos::run;

const SEEDS: u64 = 500;

#[test]
fn whatever_befalls_a_cluster_it_heals() {
    if let Some(seed) = env::var("OPTGATE_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        let world = run(seed);
        println!(
            "seed {seed}: {} steps, {} frames, {} records stored",
            world.steps, world.frames, world.stored
        );
        return;
    }
    let seeds = env::var("OPTGATE_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let (mut steps, mut stored) = (0, 0);
    for seed in 0..seeds {
        let world = run(seed);
        steps += world.steps;
        stored += world.stored;
    }
    println!("{seeds} seeds: {steps} steps, {stored} records stored");
}
