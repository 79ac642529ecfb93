//! Where each origin is taken from. One peer sends it; another takes over when it is ahead and nothing arrives.

use std::collections::{BTreeMap, BTreeSet};

use super::Link;
use super::frame::Instance;
use super::settings::Mono;
use crate::policy::ids::OriginId;

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
    /// Peers whose records do not verify.
    pub(super) refused: BTreeSet<Instance>,
}

/// What to tell a peer that told of an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing.
    Leave,
    /// Send it from here on. `instead` is told to send it no more.
    Take { from: u64, instead: Option<Link> },
    /// It comes from elsewhere.
    Skip,
}

/// Where each origin is taken from.
#[derive(Debug, Default)]
pub(super) struct Intake(BTreeMap<OriginId, Slot>);

impl Intake {
    pub(super) fn slot(&mut self, origin: OriginId, now: Mono) -> &mut Slot {
        self.0.entry(origin).or_insert_with(|| Slot {
            source: None,
            owner: false,
            received: 0,
            since: now,
            gap: false,
            refused: BTreeSet::new(),
        })
    }

    pub(super) fn get(&self, origin: OriginId) -> Option<&Slot> {
        self.0.get(&origin)
    }

    /// The peer at `link` holds `origin` up to `told`; here it is held up to `held`.
    pub(super) fn choose(
        &mut self,
        origin: OriginId,
        link: Link,
        (instance, own): (Instance, bool),
        (told, held): (u64, u64),
        now: Mono,
    ) -> Choice {
        let slot = self.slot(origin, now);
        if slot.refused.contains(&instance) {
            return Choice::Leave;
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
        for (origin, slot) in &mut self.0 {
            if slot.source == Some(link) {
                slot.source = None;
                slot.owner = false;
                orphans.push(*origin);
            }
        }
        orphans
    }
}
