//! Where each origin is taken from. One peer sends it; another takes over when it is ahead and nothing arrives.

use std::collections::{BTreeMap, BTreeSet};

use super::Link;
use super::frame::{Instance, Run};
use super::settings::Mono;
use crate::policy::ids::OriginId;

/// The most runs of which an origin is kept apart.
pub(super) const APART_MAX: usize = 64;

/// How far an origin is taken apart from a run whose records of it do not verify.
#[derive(Clone, Copy, Debug)]
pub(super) struct Apart {
    pub(super) instance: Instance,
    /// The first sequence that did not verify.
    pub(super) sequence: u64,
    /// Handed over to be kept apart.
    pub(super) received: u64,
    /// Kept apart.
    pub(super) done: u64,
}

/// How one origin is received.
#[derive(Debug)]
pub(super) struct Slot {
    /// Who sends it.
    pub(super) source: Option<Link>,
    /// The source numbers it: no other can be quicker.
    pub(super) owner: bool,
    /// Handed to the store up to here, if that is further than what is held.
    pub(super) received: u64,
    /// When something last arrived, or the source changed.
    pub(super) since: Mono,
    /// A piece in between is missing and was asked for.
    pub(super) gap: bool,
    /// Runs whose records do not verify. A later run of the same store may have been repaired, so it gets another chance.
    pub(super) refused: BTreeMap<Run, Apart>,
}

/// What to tell a peer that told of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing.
    Leave,
    /// What it sends does not verify.
    Refused,
    /// Send it from here on. `instead` is told to send it no more.
    Take { from: u64, instead: Option<Link> },
    /// It comes from elsewhere.
    Skip,
}

/// Where each origin is taken from.
#[derive(Debug, Default)]
pub(super) struct Intake {
    slots: BTreeMap<OriginId, Slot>,
    /// Runs of which something does not verify. One more with each restart of a faulty peer.
    refused: BTreeSet<Run>,
}

impl Intake {
    pub(super) fn slot(&mut self, origin: OriginId, now: Mono) -> &mut Slot {
        self.slots.entry(origin).or_insert_with(|| Slot {
            source: None,
            owner: false,
            received: 0,
            since: now,
            gap: false,
            refused: BTreeMap::new(),
        })
    }

    pub(super) fn get(&self, origin: OriginId) -> Option<&Slot> {
        self.slots.get(&origin)
    }

    /// How far `origin` is kept apart from `run`.
    pub(super) fn apart(&mut self, origin: OriginId, run: Run) -> Option<&mut Apart> {
        self.slots.get_mut(&origin)?.refused.get_mut(&run)
    }

    /// Whether anything that `run` sends does not verify.
    pub(super) fn is_refused(&self, run: Run) -> bool {
        self.refused.contains(&run)
    }

    /// What was under way from `run` to be kept apart may be lost.
    pub(super) fn apart_again(&mut self, run: Run) {
        for apart in self.slots.values_mut().filter_map(|slot| slot.refused.get_mut(&run)) {
            apart.received = apart.done;
        }
    }

    /// All origins of which something does not verify.
    pub(super) fn refused(&self) -> impl Iterator<Item = (OriginId, &Apart)> {
        self.slots.iter().flat_map(|(origin, slot)| slot.refused.values().map(|apart| (*origin, apart)))
    }

    /// What `run` sends of `origin` does not verify from `sequence` on. Says whether that is news.
    pub(super) fn refuse(
        &mut self,
        origin: OriginId,
        (run, instance): (Run, Instance),
        sequence: u64,
        now: Mono,
    ) -> bool {
        let slot = self.slot(origin, now);
        if slot.refused.contains_key(&run) {
            return false;
        }
        if slot.refused.len() >= APART_MAX {
            slot.refused.pop_first();
        }
        slot.refused.insert(run, Apart { instance, sequence, received: 0, done: 0 });
        self.refused.insert(run);
        true
    }

    /// What did not verify of `origin` gets another chance.
    pub(super) fn pardon(&mut self, origin: OriginId) {
        if let Some(slot) = self.slots.get_mut(&origin) {
            slot.refused.clear();
        }
        self.refused = self.slots.values().flat_map(|slot| slot.refused.keys().copied()).collect();
    }

    /// The peer at `link` holds `origin` up to `told`; here it is held up to `held`.
    pub(super) fn choose(
        &mut self,
        origin: OriginId,
        link: Link,
        (run, own): (Run, bool),
        (told, held): (u64, u64),
        now: Mono,
    ) -> Choice {
        let slot = self.slot(origin, now);
        if slot.refused.contains_key(&run) {
            return Choice::Refused;
        }
        let from = slot.received.max(held).saturating_add(1);
        match slot.source {
            Some(source) if source == link => Choice::Leave,
            Some(_) if !own || slot.owner => Choice::Skip,
            source => {
                if source.is_none() && !own && told < from {
                    return Choice::Leave;
                }
                slot.source = Some(link);
                slot.owner = own;
                slot.since = now;
                slot.gap = false;
                Choice::Take { from, instead: source }
            }
        }
    }

    /// Makes `link` the source of `origin`. Returns where to go on, and the source before.
    pub(super) fn move_to(
        &mut self,
        origin: OriginId,
        link: Link,
        own: bool,
        held: u64,
        now: Mono,
    ) -> (u64, Option<Link>) {
        let slot = self.slot(origin, now);
        let before = slot.source.replace(link);
        slot.owner = own;
        slot.since = now;
        slot.gap = false;
        (slot.received.max(held).saturating_add(1), before.filter(|before| *before != link))
    }

    /// `link` is gone. Returns the origins that it sent.
    pub(super) fn gone(&mut self, link: Link) -> Vec<OriginId> {
        let mut orphans = Vec::new();
        for (origin, slot) in &mut self.slots {
            if slot.source == Some(link) {
                slot.source = None;
                slot.owner = false;
                orphans.push(*origin);
            }
        }
        orphans
    }
}
