//! What peers send while crashes happen: other origins' records and lost ones of own earlier runs, in order, twice, too early and forged.

use std::collections::BTreeMap;

use super::super::source::Source;
use super::bytes;
use crate::ledger::sim::Dice;
use crate::ledger::{Head, RelayError, Relayed, RelayedBlob};
use crate::policy::ids::OriginId;

/// All that other stores know.
pub(super) struct Peers {
    origins: Vec<Origin>,
}

struct Origin {
    source: Source,
    /// The sequence before the first of `records`: an origin of the store under test had got that far.
    base: u64,
    records: Vec<Relayed>,
}

/// A record on its way.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) record: Relayed,
    pub(super) origin: OriginId,
    pub(super) sequence: u64,
    /// It is what its origin wrote.
    pub(super) genuine: bool,
    /// It claims to be of the origin that is being written.
    pub(super) of_this_run: bool,
}

/// The last sequence of each origin held.
pub(super) type Held = BTreeMap<OriginId, u64>;

/// What must become of it.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    Written,
    Known,
    Refused(&'static str),
}

pub(super) fn fault_name(error: &RelayError) -> &'static str {
    match error {
        RelayError::Gap { .. } => "gap",
        RelayError::Fork { .. } => "fork",
        RelayError::NeverWritten { .. } => "never written",
        RelayError::Chain { .. } => "chain",
        RelayError::Unreadable { .. } => "unreadable",
        RelayError::Malformed(_) => "malformed",
        RelayError::Append(_) => "append",
    }
}

impl Sent {
    pub(super) fn fate(&self, held: &Held) -> Fate {
        let have = held.get(&self.origin).copied().unwrap_or(0);
        match (self.genuine, self.sequence.cmp(&(have + 1))) {
            _ if self.of_this_run => Fate::Refused("never written"),
            (_, std::cmp::Ordering::Greater) => Fate::Refused("gap"),
            (true, std::cmp::Ordering::Equal) => Fate::Written,
            (false, std::cmp::Ordering::Equal) => Fate::Refused("chain"),
            (true, std::cmp::Ordering::Less) => Fate::Known,
            (false, std::cmp::Ordering::Less) => Fate::Refused("fork"),
        }
    }
}

impl Peers {
    pub(super) fn new() -> Self {
        let new = |number| Origin { source: Source::new(number), base: 0, records: Vec::new() };
        Self { origins: (1..=3).map(new).collect() }
    }

    /// They hold more of an earlier run of the store under test than it does itself, as if it had been restored from a backup.
    pub(super) fn remember(&mut self, origin: OriginId, head: Head) {
        if self.origins.iter().all(|known| known.source.origin != origin) {
            let source = Source::continuing(origin, head);
            self.origins.push(Origin { source, base: head.sequence, records: Vec::new() });
        }
    }

    pub(super) fn send(&mut self, dice: &mut Dice, held: &Held, own: Option<(OriginId, Head)>) -> Sent {
        if let Some((origin, head)) = own.filter(|_| dice.one_in(16)) {
            let record = Source::continuing(origin, head).text("forged");
            return Sent { record, origin, sequence: head.sequence + 1, genuine: false, of_this_run: true };
        }
        let chosen = dice.below(self.origins.len() as u64) as usize;
        let chosen = &mut self.origins[chosen];
        let origin = chosen.source.origin;
        let have = held.get(&origin).copied().unwrap_or(0);
        let wanted = match dice.below(8) {
            0 => chosen.base + 1 + dice.below((have - chosen.base).max(1)),
            1 => have + 2 + dice.below(2),
            _ => have + 1,
        };
        while chosen.base + (chosen.records.len() as u64) < wanted {
            chosen.grow(dice);
        }
        let mut record = chosen.records[(wanted - chosen.base - 1) as usize].clone();
        let genuine = !dice.one_in(8);
        if !genuine {
            record.hash[dice.below(32) as usize] ^= 1;
        }
        Sent { record, origin, sequence: wanted, genuine, of_this_run: false }
    }
}

impl Origin {
    fn grow(&mut self, dice: &mut Dice) {
        let payload_len = dice.below(80);
        let payload = bytes(dice, payload_len);
        let blob_len = dice.below(120);
        let blob = dice.one_in(3).then(|| bytes(dice, blob_len));
        let mut record = self.source.next(&payload, blob.as_deref());
        if blob.is_some() && dice.one_in(3) {
            record.blob = RelayedBlob::Erased;
        }
        self.records.push(record);
    }
}
