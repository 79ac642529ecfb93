//! Borrowing: a node that is far behind takes from others' snapshots what suppresses, and lets it hold until its own ledger has the events.
//!
//! It waits in memory and lies over whatever is read. What another's view says is never written into this one, and nothing that permits is
//! taken from it at all: what is damaged there can deny here for a while and no more.

use std::collections::BTreeMap;

use crate::ledger::{Head, Ledger};
use crate::policy::consent::Naming;
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::record::Record;
use crate::view::{Person, ViewError};

use super::error::EngineError;
use super::snapshot::{Part, Taking};
use super::token::Token;
use super::{Engine, Inner};

/// The last event of each origin.
pub type Heads = BTreeMap<OriginId, Head>;

/// What is borrowed, as far as it is not persons'.
#[derive(Default)]
pub(super) struct Borrowed {
    /// All opt-outs up to here are lent, or known.
    up_to: Heads,
    /// Nothing lent lies beyond, but for what a lender told beside it that did not come to its end.
    within: Heads,
    /// How many snapshots are being taken in.
    under_way: usize,
}

/// Puts each origin at the later of both.
pub fn raise(heads: &mut Heads, others: &Heads) {
    for (origin, head) in others {
        let known = heads.entry(*origin).or_insert(*head);
        if known.sequence < head.sequence {
            *known = *head;
        }
    }
}

/// What suppresses in a snapshot, while it is taken in. Each part holds from when it is taken on.
pub struct Borrowing {
    engine: Engine,
    /// Whether a snapshot at this vector has anything that is missing.
    wanted: Box<dyn Fn(&Heads) -> bool + Send>,
    first: Heads,
    last: Heads,
    begun: bool,
    in_vain: bool,
    persons: u64,
    _under_way: UnderWay,
}

/// While it lives, nothing that is lent is returned: whoever gave up waiting for a snapshot does not stop who takes its last parts in.
struct UnderWay(Engine);

impl UnderWay {
    fn begin(engine: &Engine) -> Self {
        engine.inner.borrowed.lock().under_way += 1;
        Self(engine.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.inner.borrowed.lock().under_way -= 1;
    }
}

impl Taking for Borrowing {
    fn take(&mut self, part: Part) -> Result<(), EngineError> {
        match part {
            Part::Heads(heads) => {
                let heads: Heads = heads.into_iter().collect();
                raise(&mut self.last, &heads);
                // Those behind the persons tell how far any of them may have been read.
                if self.begun {
                    self.reaches();
                } else {
                    raise(&mut self.first, &heads);
                }
            }
            Part::Persons(persons) => {
                if !self.begun {
                    self.begun = true;
                    self.in_vain = !(self.wanted)(&self.first);
                    self.reaches();
                }
                if self.in_vain {
                    return Ok(());
                }
                for (who, consent) in persons {
                    self.engine.inner.lend(who, &consent, &self.last)?;
                    self.persons += 1;
                }
            }
            // They come as events. What is not known of templates, senders and forks until then opts nobody in who opted out.
            Part::Named(_) | Part::Entries(_) => {}
        }
        Ok(())
    }

    fn persons(&self) -> u64 {
        self.persons
    }

    fn wants_more(&self) -> bool {
        !self.in_vain
    }
}

impl Borrowing {
    /// What is lent from now on may reach as far as is told.
    fn reaches(&self) {
        if !self.in_vain {
            raise(&mut self.engine.inner.borrowed.lock().within, &self.last);
        }
    }

    /// That was all of it.
    pub fn finish(self) {
        raise(&mut self.engine.inner.borrowed.lock().up_to, &self.first);
    }
}

/// What became of what was borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// It holds on: not all of its events are applied here.
    NotYet,
    /// It has ended: all of them are.
    All,
    /// It holds on: what is held here of this origin is not what the lender holds.
    Forked(OriginId),
}

impl Engine {
    /// Begins to take from a snapshot what suppresses, until the events are here; if its vector is `wanted`.
    #[must_use]
    pub fn borrow_opt_outs(&self, wanted: impl Fn(&Heads) -> bool + Send + 'static) -> Borrowing {
        Borrowing {
            engine: self.clone(),
            wanted: Box::new(wanted),
            first: Heads::new(),
            last: Heads::new(),
            begun: false,
            in_vain: false,
            persons: 0,
            _under_way: UnderWay::begin(self),
        }
    }

    /// The vector up to which all opt-outs hold here, be they borrowed or known.
    #[must_use]
    pub fn borrowed_up_to(&self) -> Heads {
        self.inner.borrowed.lock().up_to.clone()
    }

    /// Ends what was borrowed if all of its events are applied here. Blocking.
    ///
    /// # Errors
    /// When the ledger cannot be read, or the node keeps none.
    pub fn return_opt_outs(&self) -> Result<Returned, EngineError> {
        let inner = &self.inner;
        let (within, under_way) = {
            let borrowed = inner.borrowed.lock();
            (borrowed.within.clone(), borrowed.under_way)
        };
        let reached = |(origin, head): (&OriginId, &Head)| {
            inner.vector.reaches(Token(Some(EventId { origin: *origin, sequence: head.sequence })))
        };
        #[cfg(sabotage)]
        if crate::sabotage::is("returned-before-the-events") {
            inner.view.return_lent();
            return Ok(Returned::All);
        }
        if under_way > 0 || inner.is_behind() || !within.iter().all(reached) {
            return Ok(Returned::NotYet);
        }
        for (origin, head) in &within {
            if !is_held(inner.ledger()?, *origin, *head)? {
                return Ok(Returned::Forked(*origin));
            }
        }
        let mut borrowed = inner.borrowed.lock();
        if borrowed.under_way > 0 {
            return Ok(Returned::NotYet);
        }
        *borrowed = Borrowed::default();
        inner.view.return_lent();
        Ok(Returned::All)
    }
}

/// Whether the record that `head` names is held with the same hash.
fn is_held(ledger: &Ledger, origin: OriginId, head: Head) -> Result<bool, EngineError> {
    match ledger.records_of(origin, head.sequence).next() {
        Some(record) => Ok(record?.hash == head.hash),
        None => Ok(false),
    }
}

impl Inner {
    /// Whether others know of opt-outs that are not known here: they were not asked yet, or told more than found room.
    pub(super) fn lacks_opt_outs(&self) -> bool {
        self.replica.awaits_opt_outs() || self.view.borrows() && self.view.borrowed().overflows
    }

    /// Lets what suppresses of a person hold, unless it is known.
    fn lend(&self, who: Identifier, consent: &[u8], heads: &Heads) -> Result<(), EngineError> {
        let record = Person::decode(consent, &[]).map_err(ViewError::from)?.record;
        #[cfg(sabotage)]
        if crate::sabotage::is("lent-as-it-came") {
            self.view.lend(who, record)?;
            return Ok(());
        }
        let mut lent = record.suppressing();
        // What the lender's ledger is not known to have must not get among what an opt-in that is recorded here covers, for ever.
        #[cfg(sabotage)]
        let heads = if crate::sabotage::is("lent-marks-named") { &everything(&lent) } else { heads };
        let exists = |id: EventId| heads.get(&id.origin).is_some_and(|head| id.sequence <= head.sequence);
        lent.rename(|mark| if exists(mark.id) { mark.naming } else { Naming::Never });
        // What cannot be read now is lent in any case.
        if let Ok(known) = self.view.get(&who) {
            lent.forget_tied(&known.record.links);
            if includes(&known.record, &lent) {
                return Ok(());
            }
        }
        self.view.lend(who, lent)?;
        Ok(())
    }
}

/// Whether `record` would say the same with `lent` beside it.
fn includes(record: &Record, lent: &Record) -> bool {
    let mut both = record.clone();
    both.join(lent);
    both == *record
}

/// A vector with all that is named in `record`.
#[cfg(sabotage)]
fn everything(record: &Record) -> Heads {
    let marks = record.cells.iter().flat_map(|(_, cell)| cell.outs.iter());
    marks.map(|mark| (mark.id.origin, Head { sequence: mark.id.sequence, hash: [0; 32] })).collect()
}
