//! What edges took in: an anchor numbers it, once.

use std::sync::Arc;
use std::time::Duration;

use crate::ledger::Entry;
use crate::policy::event::{Change, ConsentEvent, LedgerEntry};
use crate::policy::ids::EventId;

use super::codec;
use super::edge::Numbered;
use super::error::EngineError;
use super::record::suppresses;
use super::{Engine, Inner};

impl Engine {
    /// Numbers what an edge took in, unless that was done before, and waits at most `within` until a majority of the anchors has it.
    ///
    /// # Errors
    /// [`EngineError`]; it was not numbered here.
    pub async fn number(
        &self,
        payload: Vec<u8>,
        blob: Option<Vec<u8>>,
        within: Duration,
    ) -> Result<Numbered, EngineError> {
        let inner = Arc::clone(&self.inner);
        // In a task of its own: an edge that gives up must not let go of the person's turn before the event is applied.
        let task = tokio::spawn(async move { inner.number(payload, blob).await });
        let event = task.await.unwrap_or(Err(EngineError::Abandoned))?;
        let replicated = self.inner.replica.replicated(event, within).await;
        Ok(Numbered { event, replicated })
    }
}

impl Inner {
    async fn number(&self, payload: Vec<u8>, blob: Option<Vec<u8>>) -> Result<EventId, EngineError> {
        self.serving()?;
        match codec::decode_entry(&payload) {
            Ok(LedgerEntry::Consent(event)) => self.number_consent(event, blob).await,
            Ok(LedgerEntry::Template(_) | LedgerEntry::Sender(_)) => Ok(self
                .ledger()?
                .append(Entry { payload, blob: None, priority: false, bulk: false })?
                .await?
                .id),
            Ok(LedgerEntry::Erasure { .. }) => {
                Err(EngineError::field("payload", "is an erasure, which only who has a ledger can carry out"))
            }
            // A newer edge's: what it says beside opt-outs is for a newer anchor.
            Err(fault) => match codec::salvage_opt_outs(&payload) {
                Some(event) => self.number_consent(event, blob).await,
                None => Err(EngineError::field("payload", format!("cannot be read: {fault}"))),
            },
        }
    }

    async fn number_consent(
        &self,
        mut event: ConsentEvent,
        blob: Option<Vec<u8>>,
    ) -> Result<EventId, EngineError> {
        let Some(first) = event.subjects.first().copied() else {
            return Err(EngineError::field("payload", "is about nobody"));
        };
        let opts_out = event.changes.iter().any(suppresses);
        let _turn = self.stripes.lock(&event.subjects).await;
        if let Some(mark) = event.request {
            let known = match self.view.get(&first) {
                Ok(person) => person.record.taken(mark.key).copied(),
                Err(error) if !opts_out => return Err(error.into()),
                // Recorded a second time it joins to the same.
                Err(_) => None,
            };
            match known {
                Some(taken) if taken.request.content == mark.content => return Ok(taken.event),
                Some(taken) if !opts_out => return Err(EngineError::AlreadyExists(taken.event)),
                _ => {}
            }
        }
        self.leave_out_what_is_ahead(&mut event);
        self.leave_out_doubtful_times(&mut event);
        let entry = Entry {
            payload: codec::encode_entry(&LedgerEntry::Consent(event)),
            blob,
            priority: opts_out,
            bulk: false,
        };
        Ok(self.ledger()?.append(entry)?.await?.id)
    }

    /// An edge whose clock is ahead must not let an opt-in come after what it did not come after.
    fn leave_out_what_is_ahead(&self, event: &mut ConsentEvent) {
        let book = self.book();
        let rules = book.rules(event.business.as_str()).unwrap_or(book.defaults());
        if event.recorded <= self.clock.now().plus_ms(rules.clock_margin_ms / 2) {
            return;
        }
        for change in &mut event.changes {
            if let Change::OptIn(opt_in) = change {
                opt_in.before = None;
            }
        }
    }
}
