//! All that is known here at some vector, for a node without history; or what of it suppresses, for one that lacks much of its own.
//!
//! A snapshot is not one moment's: each person is as known at some moment after the vector was taken. Merging is a join, so the events
//! behind that vector, applied over it, lead to the same as all events would.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::ledger::{Head, Position};
use crate::policy::event::LedgerEntry;
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::view::{Person, Rebuilder, View};

use super::codec;
use super::error::EngineError;
use super::ranges::{RANGES, registry};
use super::token::Token;
use super::{Engine, Inner};

/// The most persons in one part.
pub const PERSONS_PER_PART_MAX: usize = 512;
/// A part is handed over once its persons have this many bytes.
pub const PART_BYTES: usize = 256 * 1024;
/// The most heads or entries in one part.
pub const ITEMS_PER_PART_MAX: usize = 1_024;
/// How long the view may be behind the ledger when a snapshot begins.
const APPLIED_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Of what is known here, what a snapshot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    All,
    /// The persons whom something suppresses, and of each what does.
    Suppressing,
}

/// One piece of a snapshot. Heads come first, and of what suppresses alone, those of the end last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The vector: all of it is in the snapshot.
    Heads(Vec<(OriginId, Head)>),
    /// What first records name as the last of the origin before: by it, origins are known to be closed.
    Named(Vec<(OriginId, Head)>),
    /// Persons, each as the view encodes it.
    Persons(Vec<(Identifier, Vec<u8>)>),
    /// Templates, senders and forked origins, as the ledger has them.
    Entries(Vec<Vec<u8>>),
}

impl Engine {
    /// Hands what is known here to `each`, until it breaks. Blocking.
    ///
    /// # Errors
    /// [`EngineError`]; what was handed over is of no use then.
    pub fn snapshot(
        &self,
        extent: Extent,
        mut each: impl FnMut(Part) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let inner = &self.inner;
        inner.serving()?;
        let heads = inner.ledger()?.vector();
        inner.await_applied(&heads)?;
        inner.sound()?;
        for heads in heads.chunks(ITEMS_PER_PART_MAX) {
            if each(Part::Heads(heads.to_vec())).is_break() {
                return Ok(());
            }
        }
        if extent == Extent::All && inner.what_belongs_to_nobody(&mut each)?.is_break() {
            return Ok(());
        }
        let distrust = inner.view.distrust();
        let (mut persons, mut bytes) = (Vec::new(), 0);
        for shard in 0..View::SHARDS {
            let mut flow = ControlFlow::Continue(());
            inner.view.each_of(shard, |who, mut person| {
                // Places of this ledger, which mean nothing elsewhere.
                person.trail.clear();
                if extent == Extent::Suppressing {
                    // A release of a hold whose id names more than one event does not count.
                    distrust.lay_over(&mut person.record);
                    person = Person { record: person.record.suppressing(), ..Person::default() };
                }
                let encoded = person.encode_consent();
                if encoded.is_empty() {
                    return flow;
                }
                bytes += encoded.len();
                persons.push((who, encoded));
                if persons.len() >= PERSONS_PER_PART_MAX || bytes >= PART_BYTES {
                    bytes = 0;
                    flow = each(Part::Persons(std::mem::take(&mut persons)));
                }
                flow
            })?;
            // Most persons have nothing that suppresses; who waits must not take that for silence.
            if flow.is_continue() && extent == Extent::Suppressing {
                bytes = 0;
                flow = each(Part::Persons(std::mem::take(&mut persons)));
            }
            if flow.is_break() {
                return Ok(());
            }
        }
        #[cfg(sabotage)]
        if crate::sabotage::is("snapshot-lacks-the-last") {
            persons.pop();
        }
        if !persons.is_empty() && each(Part::Persons(persons)).is_break() {
            return Ok(());
        }
        inner.sound()?;
        if extent == Extent::Suppressing {
            // Whoever lets go of what was lent must have all that may have been read of anybody.
            for heads in inner.ledger()?.vector().chunks(ITEMS_PER_PART_MAX) {
                if each(Part::Heads(heads.to_vec())).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Begins to take a snapshot of another node in. Until [`Loading::finish`] nothing is answered from the view, and from then on from no
    /// range before [`Engine::believe_range`].
    ///
    /// # Errors
    /// When the view's disk fails.
    pub fn load_snapshot(&self) -> Result<Loading, EngineError> {
        for range in 0..RANGES {
            self.inner.view.doubt(range, true);
        }
        Ok(Loading {
            engine: self.clone(),
            rebuilder: self.inner.view.rebuild()?,
            heads: Vec::new(),
            named: Vec::new(),
            persons: 0,
        })
    }
}

impl Engine {
    /// A range of the snapshot is as it should be, as far as can be told.
    pub fn believe_range(&self, range: usize) {
        self.inner.view.doubt(range, false);
    }
}

impl Inner {
    /// Hands over what first records name, and templates, senders and forked origins.
    fn what_belongs_to_nobody(
        &self,
        each: &mut impl FnMut(Part) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, EngineError> {
        for named in self.ledger()?.named().chunks(ITEMS_PER_PART_MAX) {
            if each(Part::Named(named.to_vec())).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let entries: Vec<Vec<u8>> =
            registry::entries(&self.view).map(|entry| codec::encode_entry(&entry)).collect();
        for entries in entries.chunks(ITEMS_PER_PART_MAX) {
            if each(Part::Entries(entries.to_vec())).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Nothing of the view is known to be wrong.
    fn sound(&self) -> Result<(), EngineError> {
        if self.is_behind() || self.replica.is_damaged() || self.view.doubted() > 0 {
            return Err(EngineError::NotServing("damaged"));
        }
        Ok(())
    }

    /// What the ledger holds may be on its way into the view.
    fn await_applied(&self, heads: &[(OriginId, Head)]) -> Result<(), EngineError> {
        let until = Instant::now() + APPLIED_WITHIN;
        for (origin, head) in heads {
            let last = Token(Some(EventId { origin: *origin, sequence: head.sequence }));
            while !self.vector.reaches(last) {
                if Instant::now() >= until {
                    return Err(EngineError::Busy);
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }
}

/// Whoever takes the parts of a snapshot.
pub trait Taking: Send + 'static {
    /// Takes a part. Blocking.
    ///
    /// # Errors
    /// When it cannot be read or the disk fails: begin again.
    fn take(&mut self, part: Part) -> Result<(), EngineError>;

    /// How many persons were taken.
    fn persons(&self) -> u64;

    /// Whether the rest is of use.
    fn wants_more(&self) -> bool {
        true
    }
}

/// A snapshot that is being taken in.
pub struct Loading {
    engine: Engine,
    rebuilder: Rebuilder,
    heads: Vec<(OriginId, Head)>,
    named: Vec<(OriginId, Head)>,
    persons: u64,
}

impl Taking for Loading {
    fn take(&mut self, part: Part) -> Result<(), EngineError> {
        match part {
            Part::Heads(heads) => self.heads.extend(heads),
            Part::Named(named) => self.named.extend(named),
            Part::Persons(persons) => {
                for (who, consent) in persons {
                    self.rebuilder.person(&who, &consent)?;
                    self.persons += 1;
                }
            }
            Part::Entries(entries) => {
                for entry in entries {
                    match codec::decode_entry(&entry) {
                        Ok(LedgerEntry::Template(entry)) => self.rebuilder.template(entry),
                        Ok(LedgerEntry::Sender(entry)) => self.rebuilder.sender(entry),
                        Ok(LedgerEntry::Distrust { origin, from_sequence, .. }) => {
                            self.rebuilder.distrust(origin, from_sequence);
                        }
                        Ok(LedgerEntry::Consent(_) | LedgerEntry::Erasure { .. }) | Err(_) => {
                            return Err(EngineError::field(
                                "entries",
                                "hold what is no template, sender or forked origin",
                            ));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn persons(&self) -> u64 {
        self.persons
    }
}

impl Loading {
    /// Puts it in force. Blocking. With the vector that it is at.
    ///
    /// # Errors
    /// When the disk fails: begin again.
    pub fn finish(self) -> Result<Vec<(OriginId, Head)>, EngineError> {
        let Self { engine, rebuilder, heads, named, .. } = self;
        rebuilder.finish(Position::START, |_, _| {})?;
        engine.in_force(&heads, named);
        Ok(heads)
    }
}
