//! Borrowing: a node that is far behind takes from another's snapshot what suppresses, and lets it hold until its own ledger has the events.
//!
//! It waits in memory and lies over whatever is read. What another's view says is never written into this one, and nothing that permits is
//! taken from it at all: what is damaged there can deny here for a while and no more.

use crate::ledger::{Head, Ledger};
use crate::policy::ids::{EventId, OriginId};
use crate::view::{LENT_BYTES_MAX, Lent, ViewError};

use super::error::EngineError;
use super::snapshot::{Part, Taking};
use super::token::Token;
use super::{Engine, Inner};

/// What suppresses in a snapshot, while it is taken in.
pub struct Borrowing {
    engine: Engine,
    lent: Lent,
    heads: Vec<(OriginId, Head)>,
    persons: u64,
}

impl Taking for Borrowing {
    fn take(&mut self, part: Part) -> Result<(), EngineError> {
        match part {
            Part::Heads(heads) => self.heads.extend(heads),
            Part::Persons(persons) => {
                for (who, consent) in persons {
                    self.lent.put(who, &consent).map_err(ViewError::from)?;
                    self.persons += 1;
                }
            }
            // They come as events, and until then nothing is allowed for lack of them.
            Part::Named(_) | Part::Entries(_) => {}
        }
        Ok(())
    }

    fn persons(&self) -> u64 {
        self.persons
    }
}

impl Borrowing {
    /// The vector that it is at, as far as it was taken.
    #[must_use]
    pub fn heads(&self) -> &[(OriginId, Head)] {
        &self.heads
    }

    /// Puts it in force, in place of what was borrowed before.
    pub fn finish(self) {
        let Self { engine, lent, .. } = self;
        if lent.overflows() {
            tracing::warn!(
                bytes_max = LENT_BYTES_MAX,
                "more persons opted out than can be remembered before their events are here; nothing is allowed until then"
            );
        }
        engine.inner.view.borrow(lent);
    }
}

/// What became of what was borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// It holds on: not all of its events are applied here.
    NotYet,
    /// It has ended: all of them are.
    All,
    /// It holds until a restart: what is held here of this origin is not what the lender holds.
    Forked(OriginId),
}

impl Engine {
    /// Begins to take from a snapshot what suppresses, until the events are here.
    #[must_use]
    pub fn borrow_opt_outs(&self) -> Borrowing {
        Borrowing { engine: self.clone(), lent: Lent::default(), heads: Vec::new(), persons: 0 }
    }

    /// Ends what was borrowed at `heads` if all up to there is applied here. Blocking.
    ///
    /// # Errors
    /// When the ledger cannot be read, or the node keeps none.
    pub fn return_opt_outs(&self, heads: &[(OriginId, Head)]) -> Result<Returned, EngineError> {
        let inner = &self.inner;
        let reached = |(origin, head): &(OriginId, Head)| {
            inner.vector.reaches(Token(Some(EventId { origin: *origin, sequence: head.sequence })))
        };
        #[cfg(sabotage)]
        if crate::sabotage::is("returned-before-the-events") {
            inner.view.borrow(Lent::default());
            return Ok(Returned::All);
        }
        if inner.is_behind() || !heads.iter().all(reached) {
            return Ok(Returned::NotYet);
        }
        for (origin, head) in heads {
            if !is_held(inner.ledger()?, *origin, *head)? {
                return Ok(Returned::Forked(*origin));
            }
        }
        inner.view.borrow(Lent::default());
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
    /// Whether more was to be borrowed than found room, so that nobody is known not to have opted out.
    pub(super) fn borrows_too_little(&self) -> bool {
        self.view.borrows() && self.view.lent().overflows()
    }
}
