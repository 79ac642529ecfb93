//! On whose disks an event is: what each anchor acknowledged, and what a majority of them did.

use std::collections::BTreeMap;

use super::frame::ANCHORS_MAX;
use super::vector::Heads;
use crate::policy::ids::OriginId;

/// What one anchor acknowledged.
#[derive(Debug, Default)]
struct Disk {
    held: BTreeMap<OriginId, u64>,
    /// Since it connected it has not told its vector in full: its disk may be another than it was.
    unsure: bool,
}

/// What the other anchors have on disk.
#[derive(Debug, Default)]
pub(super) struct Durability(BTreeMap<String, Disk>);

impl Durability {
    /// `anchor` connected: until it has told all, it does not count. Where more than the `others` configured are known by then, whoever is not
    /// `here` may be one of them before it lost its disk, and counts no more until it comes back.
    pub(super) fn connected(&mut self, anchor: &str, others: usize, here: &[&str]) {
        if !self.0.contains_key(anchor) && self.0.len() >= others {
            self.0.retain(|known, _| here.contains(&known.as_str()));
        }
        if !self.0.contains_key(anchor)
            && self.0.len() >= ANCHORS_MAX
            && let Some(first) = self.0.keys().next().cloned()
        {
            self.0.remove(&first);
        }
        self.0.entry(anchor.to_owned()).or_default().unsure = true;
    }

    /// `anchor` has told its vector in full. Returns how many origins it once held further than it does now: its disk went
    /// back, as a restored backup does.
    pub(super) fn told_all(&mut self, anchor: &str, vector: &BTreeMap<OriginId, u64>) -> usize {
        let Some(disk) = self.0.get_mut(anchor) else { return 0 };
        if !disk.unsure {
            return 0;
        }
        let behind = |(origin, held): &(&OriginId, &u64)| vector.get(*origin).is_none_or(|now| now < *held);
        let went_back = disk.held.iter().filter(behind).count();
        #[cfg(sabotage)]
        if crate::sabotage::is("restored-disk-believed") {
            let held = |origin: &OriginId| disk.held.get(origin).copied().unwrap_or(0);
            let held = vector.iter().map(|(origin, now)| (*origin, held(origin).max(*now))).collect();
            *disk = Disk { held, unsure: false };
            return went_back;
        }
        *disk = Disk { held: vector.clone(), unsure: false };
        went_back
    }

    /// `anchor` acknowledged `origin` up to `sequence`.
    pub(super) fn acked(&mut self, anchor: &str, origin: OriginId, sequence: u64) {
        if let Some(disk) = self.0.get_mut(anchor)
            && !disk.unsure
        {
            let held = disk.held.entry(origin).or_default();
            *held = (*held).max(sequence);
        }
    }

    /// The highest sequence of `origin` that is on the disks of `majority` anchors. `own`: this node's disk, if it is one.
    pub(super) fn replicated(&self, origin: OriginId, majority: usize, own: Option<&Heads>) -> u64 {
        let others = self.0.values().filter(|disk| !disk.unsure);
        let mut held: Vec<u64> = others.map(|disk| disk.held.get(&origin).copied().unwrap_or(0)).collect();
        held.extend(own.map(|heads| heads.sequence(origin)));
        #[cfg(sabotage)]
        let majority =
            if crate::sabotage::is("majority-of-connected") { held.len() / 2 + 1 } else { majority };
        held.sort_unstable_by(|a, b| b.cmp(a));
        held.get(majority.saturating_sub(1)).copied().unwrap_or(0)
    }
}
