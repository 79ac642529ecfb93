//! Reading back: a person's state and trail, all events in order, references, erasure.

use std::sync::Arc;

use crate::address::Address;
use crate::ledger::{Blob, Position, Record, Records};
use crate::policy::check::owes_instructions;
use crate::policy::distrust::Distrust;
use crate::policy::event::{ConsentEvent, LedgerEntry};
use crate::policy::evidence::Personal;
use crate::policy::ids::{EventId, Identifier};
use crate::policy::state::{self, ScopeState};
use crate::policy::time::Timestamp;
use crate::policy::types::Channel;
use crate::view::{Person, View};

use super::codec;
use super::error::EngineError;
use super::people::{Identity, People};
use super::token::Token;
use super::{Engine, Inner};

/// The most events one page of a person's trail has.
pub const PAGE_SIZE_MAX: usize = 100;
/// The most references one call translates.
pub const REFS_MAX: usize = 1_000;

/// An event as it is shown to auditors.
#[derive(Clone, Debug)]
pub struct AuditEvent {
    /// Its name.
    pub id: EventId,
    /// Where it is.
    pub position: Position,
    /// Where reading goes on after it.
    pub next: Position,
    /// What it is.
    pub entry: LedgerEntry,
    /// Its personal fields, while there are any.
    pub personal: Option<Personal>,
    /// Whether its personal fields were erased.
    pub erased: bool,
    /// Whether its name is another event's as well.
    pub distrusted: bool,
}

/// A person's consent, as it stands.
#[derive(Clone, Debug)]
pub struct ConsentView {
    /// The person's keyed hash.
    pub recipient: Identifier,
    /// The states.
    pub states: Vec<ScopeState>,
    /// The record addressed.
    pub person: Person,
    /// Linked and alias records.
    pub others: Vec<Person>,
    /// Channels on which opt-out instructions are owed.
    pub owes_instructions: Vec<Channel>,
    /// When this was so.
    pub now: Timestamp,
    /// The token of what was known.
    pub as_of: String,
    /// Whether a write that the caller insists on has not arrived.
    pub stale: bool,
}

impl Engine {
    /// A person's consent on `channels`; empty: all.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn consent(
        &self,
        business: &str,
        recipient: &Address,
        channels: &[Channel],
        at_least_as_fresh: Option<Token>,
    ) -> Result<ConsentView, EngineError> {
        let inner = &self.inner;
        inner.serving()?;
        let book = inner.book();
        let rules = book.rules(business).ok_or(EngineError::UnknownBusiness)?;
        let identity = Identity::of(&inner.key, business, recipient);
        let people = People::read(&inner.view, identity)?;
        let now = inner.clock.now();
        let channels = if channels.is_empty() { Channel::ALL } else { channels };
        let states = state::states(&people.known(), channels, rules, now);
        let owes = |channel: &Channel| owes_instructions(&people.own.usage, *channel, rules, now);
        let owing = channels
            .iter()
            .filter(|channel| states.iter().any(|state| state.channel == **channel) && owes(channel))
            .copied()
            .collect();
        Ok(ConsentView {
            recipient: people.identity.own,
            states,
            owes_instructions: owing,
            person: people.own,
            others: people.others.into_iter().map(|(_, _, person)| person).collect(),
            now,
            as_of: inner.vector.token(),
            stale: inner.is_behind() || at_least_as_fresh.is_some_and(|token| !inner.vector.reaches(token)),
        })
    }

    /// A page of a person's events, oldest first, from the `from`-th on; with the number where the next page starts.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn trail(
        &self,
        business: &str,
        recipient: &Address,
        from: usize,
        page_size: usize,
    ) -> Result<(Vec<AuditEvent>, Option<usize>), EngineError> {
        let inner = &self.inner;
        inner.serving()?;
        inner.ledger()?;
        let identity = Identity::of(&inner.key, business, recipient);
        let people = People::read(&inner.view, identity)?;
        let mut positions = people.own.trail.clone();
        positions.extend(people.others.iter().flat_map(|(_, _, person)| person.trail.iter().copied()));
        positions.sort_unstable();
        positions.dedup();
        let page_size = page_size.clamp(1, PAGE_SIZE_MAX);
        let page = positions.iter().skip(from).take(page_size);
        let events = page.map(|at| inner.read_event(*at)).collect::<Result<Vec<_>, _>>()?;
        let next = (from + events.len() < positions.len()).then_some(from + events.len());
        Ok((events, next))
    }

    /// All events from `from` on, in the ledger's order; ends at its head and goes on when the head has moved.
    ///
    /// # Errors
    /// [`EngineError::NoHistory`] at an edge.
    pub fn events_from(&self, from: Position) -> Result<Events, EngineError> {
        Ok(Events { records: self.inner.ledger()?.iter_from(from), view: self.inner.view.clone() })
    }

    /// The keyed hash of an address and of its other written forms.
    #[must_use]
    pub fn identity(&self, business: &str, recipient: &Address) -> Identity {
        Identity::of(&self.inner.key, business, recipient)
    }

    /// Overwrites the personal fields of all of a person's events (GDPR art. 17). The events stay, and the chain
    /// still verifies: an opt-out holds for ever, the evidence need not. Answers how many were erased now, and how
    /// many had been.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn erase_evidence(
        &self,
        business: &str,
        recipient: &Address,
    ) -> Result<(u64, u64), EngineError> {
        let inner = Arc::clone(&self.inner);
        inner.serving()?;
        inner.ledger()?;
        let business_id = crate::policy::ids::BusinessId::new(business)
            .map_err(|fault| EngineError::field("business_id", fault.to_string()))?;
        let identity = Identity::of(&inner.key, business, recipient);
        let subject = identity.own;
        // The person's turn: what is recorded anew with its evidence is in the trail before or finds it erased.
        let _turn = inner.stripes.lock(&[subject]).await;
        let person = inner.view.get(&subject)?;
        let erasing = Arc::clone(&inner);
        let task = tokio::task::spawn_blocking(move || {
            let (mut erased, mut before) = (0, 0);
            let ledger = erasing.ledger()?;
            for position in &person.trail {
                match ledger.read_at(*position)?.blob {
                    Blob::None => {}
                    Blob::Erased => before += 1,
                    Blob::Present(_) | Blob::Damaged => {
                        ledger.erase_blob(*position)?;
                        erased += 1;
                    }
                }
            }
            Ok::<_, EngineError>((erased, before))
        });
        let (erased, before) = task.await.unwrap_or(Err(EngineError::Abandoned))?;
        if erased > 0 {
            let recorded = inner.clock.now();
            let entry = LedgerEntry::Erasure { business: business_id, subject, recorded, events: erased };
            inner.append_entry(entry, false).await?;
        }
        Ok((erased, before))
    }
}

impl Inner {
    fn read_event(&self, at: Position) -> Result<AuditEvent, EngineError> {
        audit_event(self.ledger()?.read_at(at)?, &self.view.distrust())
    }
}

fn audit_event(record: Record, distrust: &Distrust) -> Result<AuditEvent, EngineError> {
    let damaged = |what: String| EngineError::NotFound(format!("event {}: {what}", record.appended.id));
    let entry = codec::decode_entry(&record.payload).map_err(|fault| damaged(fault.to_string()))?;
    let personal = match &record.blob {
        Blob::Present(bytes) => {
            Some(codec::decode_personal(bytes).map_err(|fault| damaged(fault.to_string()))?)
        }
        Blob::None | Blob::Erased | Blob::Damaged => None,
    };
    Ok(AuditEvent {
        id: record.appended.id,
        position: record.appended.position,
        next: record.appended.next,
        entry,
        personal,
        erased: record.blob == Blob::Erased,
        distrusted: distrust.doubts(record.appended.id),
    })
}

/// The ledger's events in order.
pub struct Events {
    records: Records,
    view: View,
}

impl Iterator for Events {
    type Item = Result<AuditEvent, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.records.next()? {
            Ok(record) => Some(audit_event(record, &self.view.distrust())),
            // The reader skips what is damaged; the caller hears of it once.
            Err(error) => Some(Err(error.into())),
        }
    }
}

impl AuditEvent {
    /// The consent event, if it is one.
    #[must_use]
    pub const fn consent(&self) -> Option<&ConsentEvent> {
        match &self.entry {
            LedgerEntry::Consent(event) => Some(event),
            _ => None,
        }
    }
}
