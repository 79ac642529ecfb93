//! What follows for checks from what the machine knows.

use std::collections::HashMap;
use std::time::Duration;

use crate::engine::replica::Replica;
use crate::replication::frame::Instance;
use crate::replication::{Machine, Mono};

/// The most clocks of peers that are remembered.
const CLOCKS_MAX: usize = 1_024;

/// What was known last, where that matters.
pub struct Knowing {
    /// From then on this node counts as stale, in milliseconds.
    max_staleness_ms: u64,
    /// How long to wait at the start for what the anchors hold, in milliseconds.
    bootstrap_budget_ms: u64,
    /// Since when there is a known backlog, or at the start too little is known.
    backlog_since: Option<Mono>,
    /// By how many milliseconds each peer's clock was off when it was last measured.
    clocks: HashMap<Instance, u64>,
}

impl Knowing {
    /// Of a node that starts now.
    pub fn new(max_staleness: Duration, bootstrap_budget: Duration, now: Mono) -> Self {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            max_staleness_ms: ms(max_staleness),
            bootstrap_budget_ms: ms(bootstrap_budget),
            backlog_since: Some(now),
            clocks: HashMap::new(),
        }
    }

    /// Tells the engine; whether it is catching up.
    pub fn publish(&mut self, machine: &Machine, replica: &Replica, now: Mono) -> bool {
        replica.set_fresh_until_ms(
            machine.fresh_until(now, self.max_staleness_ms).map_or(u64::MAX, |until| until.0),
        );
        replica.set_members(machine.members());
        for (instance, off_ms) in machine.clocks_off_ms() {
            if self.clocks.len() >= CLOCKS_MAX && !self.clocks.contains_key(&instance) {
                self.clocks.clear();
            }
            self.clocks.insert(instance, off_ms.unsigned_abs());
        }
        // A clock that was off is off until it is measured anew, and one that was never measured may be.
        replica.set_clocks_apart_ms(self.clocks.values().copied().max().unwrap_or(u64::MAX));

        let behind = !machine.is_caught_up();
        let unheard = machine.progress().anchors < machine.others_wanted();
        let starting = replica.is_catching_up() && self.backlog_since.is_some();
        if behind || (starting && unheard) {
            self.backlog_since.get_or_insert(now);
        } else {
            self.backlog_since = None;
        }
        let catching_up =
            self.backlog_since.is_some_and(|since| now.since_ms(since) < self.bootstrap_budget_ms);
        if catching_up != replica.is_catching_up() {
            replica.set_catching_up(catching_up);
            if self.backlog_since.is_some() && !catching_up {
                tracing::warn!(
                    "the anchors' events are not all here yet; serving what may be served without them"
                );
            }
        }
        catching_up
    }
}
