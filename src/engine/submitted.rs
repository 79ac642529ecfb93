//! What edges took in: an anchor numbers it, once.

use std::sync::Arc;
use std::time::Duration;

use crate::ledger::Entry;
use crate::policy::event::{Change, ConsentEvent, LedgerEntry};
use crate::policy::ids::EventId;

use super::carry_on::carry_on;
use super::codec;
use super::edge::Numbered;
use super::error::EngineError;
use super::record::suppresses;
use super::{Engine, Inner};

/// What an edge took in.
pub struct TakenIn {
    /// The entry, as the ledger will have it.
    pub payload: Vec<u8>,
    /// Its personal fields.
    pub blob: Option<Vec<u8>>,
    /// How long ago that was, by the edge's clock, in milliseconds.
    pub age_ms: u64,
}

impl Engine {
    /// Numbers what an edge took in, unless that was done before, and waits at most `within` until a majority of the anchors has it.
    ///
    /// # Errors
    /// [`EngineError`]; it was not numbered here.
    pub async fn number(&self, taken_in: TakenIn, within: Duration) -> Result<Numbered, EngineError> {
        let inner = Arc::clone(&self.inner);
        let event = carry_on(async move { inner.number(taken_in).await }).await?;
        let replicated = self.inner.replica.replicated(event, within).await;
        Ok(Numbered { event, replicated })
    }
}

impl Inner {
    async fn number(&self, taken_in: TakenIn) -> Result<EventId, EngineError> {
        self.serving()?;
        let TakenIn { payload, blob, age_ms } = taken_in;
        match codec::decode_entry(&payload) {
            Ok(LedgerEntry::Consent(event)) => self.number_consent(event, blob, age_ms).await,
            Ok(LedgerEntry::Template(_) | LedgerEntry::Sender(_)) => Ok(self
                .ledger()?
                .append(Entry { payload, blob: None, priority: false, bulk: false })?
                .await?
                .id),
            Ok(LedgerEntry::Erasure { .. }) => {
                Err(EngineError::field("payload", "is an erasure, which only who has a ledger can carry out"))
            }
            Ok(LedgerEntry::Distrust { .. }) => {
                Err(EngineError::field("payload", "is a distrust, which only who has a ledger can find out"))
            }
            // A newer edge's: its opt-outs at least can be told.
            Err(fault) => match codec::salvage_opt_outs(&payload) {
                Some(event) => self.number_consent(event, blob, age_ms).await,
                None => Err(EngineError::field("payload", format!("cannot be read: {fault}"))),
            },
        }
    }

    async fn number_consent(
        &self,
        mut event: ConsentEvent,
        blob: Option<Vec<u8>>,
        age_ms: u64,
    ) -> Result<EventId, EngineError> {
        let Some(first) = event.subjects.first().copied() else {
            return Err(EngineError::field("payload", "is about nobody"));
        };
        let opts_out = event.changes.iter().any(suppresses);
        let _turn = self.stripes.lock(&event.subjects).await;
        let known = match self.view.get(&first) {
            Ok(person) => Some(person.record),
            Err(error) if !opts_out => return Err(error.into()),
            // Recorded a second time it denies the same, only that an opt-in has to name both.
            Err(_) => None,
        };
        if let (Some(mark), Some(known)) = (event.request, &known) {
            let taken = known.taken_as(mark);
            #[cfg(sabotage)]
            let taken = taken.filter(|_| !crate::sabotage::is("resubmitted-numbered-anew"));
            if let Some(taken) = taken {
                return Ok(taken.event);
            }
            if let Some(taken) = known.taken(mark.key) {
                if !opts_out {
                    return Err(EngineError::AlreadyExists(taken.event));
                }
                // Another content under the same id: only the opt-out is taken.
                event.changes.retain(suppresses);
            }
        }
        self.leave_out_what_is_ahead(&mut event, age_ms);
        self.leave_out_doubtful_times(&mut event);
        // Its number tells nothing of what happened before it, whichever version the edge is of.
        event.numbered_late = true;
        let priority = event.changes.iter().any(suppresses);
        let payload = codec::encode_entry(&LedgerEntry::Consent(event));
        Ok(self.ledger()?.append(Entry { payload, blob, priority, bulk: false })?.await?.id)
    }

    /// An edge whose clock is ahead must not let an opt-in come after what it did not come after.
    fn leave_out_what_is_ahead(&self, event: &mut ConsentEvent, age_ms: u64) {
        let book = self.book();
        let rules = book.rules(event.business.as_str()).unwrap_or(book.defaults());
        #[cfg(sabotage)]
        if crate::sabotage::is("edge-clock-believed") {
            return;
        }
        // By the edge's clock it is that late now.
        let theirs = event.recorded.0.saturating_add(i64::try_from(age_ms).unwrap_or(i64::MAX));
        if theirs <= self.clock.now().plus_ms(rules.clock_margin_ms / 2).0 {
            return;
        }
        for change in &mut event.changes {
            if let Change::OptIn(opt_in) = change {
                opt_in.before = None;
            }
        }
    }
}
