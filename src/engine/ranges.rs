//! Key ranges of the view, compared between nodes.
//!
//! A digest says what a range's persons look like, whatever order their events came in. Two nodes that applied the same events of a
//! range must have the same digest of it. Their vectors are hardly ever equal while records come in, so what was applied last is
//! remembered with the ranges it touched: a node that is ahead of another's vector can tell whether that matters to the range.
//!
//! Behind the ranges of persons stands one for templates and senders.
//!
//! A range that differs is built anew from the node's own ledger, never from another's view: what is damaged here must not be there too.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use sha2::{Digest as _, Sha256};

use crate::ledger::{Head, Position};
use crate::policy::event::LedgerEntry;
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::record::Record;
use crate::view::{Person, View, ViewError};

use super::applying::read_entry;
use super::error::EngineError;
use super::{Engine, Inner, Log};

pub(super) mod registry;

/// The range of what is no person's: templates and senders.
pub const REGISTRY: usize = View::SHARDS;
/// How many ranges there are.
pub const RANGES: usize = REGISTRY + 1;
/// How many of the events applied last are remembered.
const RECENT_MAX: usize = 16_384;
/// How many origins an offer names at most; with more under way there is nothing to compare.
pub const ORIGINS_MAX: usize = 1_024;
/// How often a digest is begun again because an event came in between.
const TRIES: u32 = 4;

/// What a range looks like at a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeDigest {
    /// Which: 0 to [`RANGES`] − 1.
    pub range: usize,
    /// The sum over its persons, or over templates and senders.
    pub digest: [u8; 32],
    /// How far the origins are applied of which something was applied lately.
    pub moving: Vec<(OriginId, u64)>,
    /// A hash of how far all others are applied.
    pub resting: [u8; 32],
}

/// What comparing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both look the same.
    Equal,
    /// They do not, although the same events are applied.
    Different,
    /// The same events are not applied, or that cannot be told.
    Incomparable,
}

/// How far each origin is applied.
type Applied = BTreeMap<OriginId, u64>;
/// An event applied lately and the ranges it touched.
type Touch = (EventId, Box<[u16]>);

/// Follows what is applied.
pub struct Ranges {
    /// Per range, how many events began to be applied, and how many are.
    begun: Vec<AtomicU64>,
    ended: Vec<AtomicU64>,
    recent: Mutex<VecDeque<Touch>>,
    /// Held to read while events are applied: whoever holds it to write sees a view that does not move.
    gate: RwLock<()>,
    /// One range at a time is built anew.
    repairing: Mutex<()>,
}

impl Default for Ranges {
    fn default() -> Self {
        let zeros = || (0..RANGES).map(|_| AtomicU64::new(0)).collect();
        Self {
            begun: zeros(),
            ended: zeros(),
            recent: Mutex::default(),
            gate: RwLock::default(),
            repairing: Mutex::default(),
        }
    }
}

impl Ranges {
    /// Held while events are applied.
    pub fn applying(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read()
    }

    /// Notes that `id` is applied by `apply` now, which touches these ranges.
    pub fn touch<R>(&self, id: EventId, mut touched: Vec<u16>, apply: impl FnOnce() -> R) -> R {
        touched.sort_unstable();
        touched.dedup();
        for range in &touched {
            self.begun[usize::from(*range)].fetch_add(1, Ordering::SeqCst);
        }
        let applied = apply();
        let mut recent = self.recent.lock();
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back((id, touched.clone().into_boxed_slice()));
        drop(recent);
        for range in touched {
            self.ended[usize::from(range)].fetch_add(1, Ordering::SeqCst);
        }
        applied
    }

    /// Lets `act` replace the range while nothing moves.
    fn while_still<R>(&self, range: usize, act: impl FnOnce() -> R) -> R {
        let _still = self.gate.write();
        self.begun[range].fetch_add(1, Ordering::SeqCst);
        let acted = act();
        self.ended[range].fetch_add(1, Ordering::SeqCst);
        acted
    }

    /// How often the range was touched; `None`: it is being touched.
    fn still(&self, range: usize) -> Option<u64> {
        let ended = self.ended[range].load(Ordering::SeqCst);
        (self.begun[range].load(Ordering::SeqCst) == ended).then_some(ended)
    }

    /// The origins of what was applied lately.
    fn moving(&self) -> Vec<OriginId> {
        let mut origins: Vec<OriginId> = self.recent.lock().iter().map(|(id, _)| id.origin).collect();
        origins.sort_unstable();
        origins.dedup();
        origins
    }

    /// Whether all events of `origin` from `after` up to `upto` are known to have left `range` alone.
    fn left_alone(&self, range: usize, origin: OriginId, after: u64, upto: u64) -> bool {
        let recent = self.recent.lock();
        let between =
            recent.iter().filter(|(id, _)| id.origin == origin && id.sequence > after && id.sequence <= upto);
        let mut known = 0;
        for (_, touched) in between {
            if touched.iter().any(|touched| usize::from(*touched) == range) {
                return false;
            }
            known += 1;
        }
        known == upto - after
    }
}

/// A hash of how far origins are applied, but for those in `moving`, and of which records of `forked` ones: as far is not the same there.
fn resting(vector: &Applied, moving: &[OriginId], forked: &[(OriginId, Head)]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (origin, head) in forked {
        hash.update(origin.0);
        hash.update(head.hash);
    }
    for (origin, sequence) in vector.iter().filter(|(origin, _)| moving.binary_search(origin).is_err()) {
        hash.update(origin.0);
        hash.update(sequence.to_le_bytes());
    }
    hash.finalize().into()
}

/// What a person adds to the digest of its range.
fn digest_of(who: &Identifier, mut person: Person) -> Option<[u8; 32]> {
    if person.record == Record::default() {
        return None;
    }
    person.trail.clear();
    let mut hash = Sha256::new();
    hash.update(who.0);
    hash.update(person.encode_consent());
    Some(hash.finalize().into())
}

impl Inner {
    /// The last record held of each forked origin.
    fn forked(&self) -> Vec<(OriginId, Head)> {
        let distrust = self.view.distrust();
        if distrust.is_empty() {
            return Vec::new();
        }
        let mut heads = match &self.log {
            Log::Ledger(ledger) => ledger.vector(),
            Log::Edge(edge) => edge.heads(),
        };
        heads.retain(|(origin, _)| distrust.begins_at(*origin).is_some());
        heads.sort_unstable_by_key(|(origin, _)| *origin);
        heads
    }

    fn digest(&self, range: usize) -> Result<Option<(RangeDigest, Applied)>, ViewError> {
        // What an anchor is building anew is neither what it was nor what it will be. An edge has all in doubt until it has asked.
        if self.edge().is_none() && self.view.is_doubted(range) {
            return Ok(None);
        }
        for _ in 0..TRIES {
            let Some(before) = self.ranges.still(range) else { continue };
            let vector = self.vector.all();
            let moving = self.ranges.moving();
            let digest = match range {
                REGISTRY => registry::digest(&self.view),
                _ => self.digest_of_persons(range)?,
            };
            if self.ranges.still(range) == Some(before) {
                let resting = resting(&vector, &moving, &self.forked());
                let moving = moving
                    .into_iter()
                    .map(|origin| (origin, vector.get(&origin).copied().unwrap_or(0)))
                    .collect();
                return Ok(Some((RangeDigest { range, digest, moving, resting }, vector)));
            }
        }
        Ok(None)
    }
}

impl Inner {
    fn digest_of_persons(&self, range: usize) -> Result<[u8; 32], ViewError> {
        let mut digest = [0; 32];
        self.view.each_of(range, |who, person| {
            if let Some(of_one) = digest_of(&who, person) {
                digest.iter_mut().zip(of_one).for_each(|(sum, byte)| *sum ^= byte);
            }
            ControlFlow::Continue(())
        })?;
        Ok(digest)
    }
}

impl Engine {
    /// What a range looks like here. `None`: events come in too fast to tell. Blocking.
    ///
    /// # Errors
    /// When the view cannot be read.
    pub fn range_digest(&self, range: usize) -> Result<Option<RangeDigest>, EngineError> {
        let digest = self.inner.digest(range)?.map(|(digest, _)| digest);
        Ok(digest.filter(|digest| digest.moving.len() <= ORIGINS_MAX))
    }

    /// Compares another node's range with the same one here. Blocking.
    ///
    /// # Errors
    /// When the view cannot be read.
    pub fn compare_range(&self, theirs: &RangeDigest) -> Result<Verdict, EngineError> {
        let inner = &self.inner;
        if inner.is_behind() || inner.replica.is_damaged() || theirs.range >= RANGES {
            return Ok(Verdict::Incomparable);
        }
        let Some((ours, vector)) = inner.digest(theirs.range)? else { return Ok(Verdict::Incomparable) };
        let mut moving: Vec<OriginId> = theirs.moving.iter().map(|(origin, _)| *origin).collect();
        moving.sort_unstable();
        let held = |origin: OriginId| vector.get(&origin).copied().unwrap_or(0);
        let same_events = resting(&vector, &moving, &inner.forked()) == theirs.resting
            && theirs.moving.iter().all(|(origin, sequence)| {
                let held = held(*origin);
                held >= *sequence && inner.ranges.left_alone(theirs.range, *origin, *sequence, held)
            });
        Ok(match (same_events, ours.digest == theirs.digest) {
            (false, _) => Verdict::Incomparable,
            (true, true) => Verdict::Equal,
            (true, false) => Verdict::Different,
        })
    }

    /// Builds a range anew from the own ledger; from now on until that is done nothing is answered from it. Says whether it looks
    /// otherwise now. One range is built at a time. Blocking.
    ///
    /// # Errors
    /// [`EngineError::NoHistory`] at an edge, [`EngineError::Busy`] where the range is being built anew already; when the ledger lacks
    /// something or cannot be read, or the view cannot: then nobody in the range is sent to until a restart.
    pub fn rebuild_range(&self, range: usize) -> Result<bool, EngineError> {
        let inner = &self.inner;
        inner.ledger()?;
        if inner.replica.is_damaged() {
            return Err(EngineError::NotServing("damaged"));
        }
        // At once: several may be found while one is built.
        if inner.view.doubt(range, true) {
            return Err(EngineError::Busy);
        }
        let _turn = inner.ranges.repairing.lock();
        let rebuilt = match range {
            REGISTRY => inner.rebuild_registry(),
            _ => inner.rebuild_range(range),
        };
        if rebuilt.is_ok() {
            inner.view.doubt(range, false);
        }
        // Else the range stays in doubt: what cannot be known is not allowed.
        rebuilt
    }
}

impl Inner {
    fn rebuild_range(&self, range: usize) -> Result<bool, EngineError> {
        let mut persons: BTreeMap<Identifier, Person> = BTreeMap::new();
        let mut next = self.read_range(range, Position::START, &mut persons)?;
        // Most of it is read; what came meanwhile is read while nothing moves.
        next = self.read_range(range, next, &mut persons)?;
        self.ranges.while_still(range, || self.replace_range(range, next, persons))
    }

    /// Puts `persons`, and what the ledger says of the range behind `next`, in place of what the view knows. While nothing moves.
    fn replace_range(
        &self,
        range: usize,
        next: Position,
        mut persons: BTreeMap<Identifier, Person>,
    ) -> Result<bool, EngineError> {
        self.read_range(range, next, &mut persons)?;
        let mut known = Vec::new();
        self.view.each_of(range, |who, person| {
            known.push((who, person));
            ControlFlow::Continue(())
        })?;
        let mut changed = false;
        #[cfg(sabotage)]
        if crate::sabotage::is("range-joined-not-rebuilt") {
            for (who, person) in &known {
                persons.entry(*who).or_default().record.join(&person.record);
            }
        }
        for (who, person) in known {
            let built = persons.remove(&who).unwrap_or_default();
            if built.record != person.record || built.trail != person.trail {
                changed |= built.record != person.record;
                self.view.replace_consent(&who, built.record, built.trail)?;
            }
        }
        for (who, built) in persons {
            changed = true;
            self.view.replace_consent(&who, built.record, built.trail)?;
        }
        Ok(changed)
    }

    /// Applies the ledger's events of `range` from `from` on to `persons`; with where reading ended.
    fn read_range(
        &self,
        range: usize,
        from: Position,
        persons: &mut BTreeMap<Identifier, Person>,
    ) -> Result<Position, EngineError> {
        let mut next = from;
        for record in self.ledger()?.iter_from(from) {
            // Also where a stretch is damaged it ends here: the view may know opt-outs that were in it.
            let record = record?;
            next = record.appended.next;
            let Some(LedgerEntry::Consent(event)) = read_entry(record.appended.id, &record.payload) else {
                continue;
            };
            for subject in event.subjects.iter().filter(|who| usize::from(who.0[0]) == range) {
                let person = persons.entry(*subject).or_default();
                person.record.apply(record.appended.id, &event, subject);
                if let Err(place) = person.trail.binary_search(&record.appended.position) {
                    person.trail.insert(place, record.appended.position);
                }
            }
        }
        Ok(next)
    }
}
