//! What edges took in: an anchor numbers it, once.

use std::sync::Arc;
use std::time::Duration;

use crate::ledger::Entry;
use crate::policy::consent::Mark;
use crate::policy::event::{Change, ConsentEvent, Invalidate, LedgerEntry, OptOut};
use crate::policy::ids::{EventId, Identifier};
use crate::policy::time::Timestamp;
use crate::policy::types::{InvalidateCause, OptOutMethod, Scope};

use super::codec;
use super::edge::Numbered;
use super::error::EngineError;
use super::people::LINKS_MAX;
use super::record::suppresses;
use super::{Engine, Inner};

/// From this age on an event comes late: what was recorded after it may have a lower number.
const LATE_FROM_MS: u64 = 1_000;

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
        // In a task of its own: an edge that gives up must not let go of the person's turn before the event is applied.
        let task = tokio::spawn(async move { inner.number(taken_in).await });
        let event = task.await.unwrap_or(Err(EngineError::Abandoned))?;
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
            // Recorded a second time it joins to the same.
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
        self.leave_out_what_is_ahead(&mut event);
        self.leave_out_doubtful_times(&mut event);
        #[cfg(sabotage)]
        let opts_out_late = opts_out && !crate::sabotage::is("late-numbers-cover");
        #[cfg(not(sabotage))]
        let opts_out_late = opts_out;
        let restated = if opts_out_late && age_ms >= LATE_FROM_MS {
            self.later_than(&event, age_ms)
        } else {
            Vec::new()
        };
        let ledger = self.ledger()?;
        let append = |event: ConsentEvent, blob| {
            let payload = codec::encode_entry(&LedgerEntry::Consent(event));
            ledger.append(Entry { payload, blob, priority: opts_out, bulk: false })
        };
        let numbered = append(event, blob)?;
        let restated =
            restated.into_iter().map(|event| append(event, None)).collect::<Result<Vec<_>, _>>()?;
        for restated in restated {
            restated.await?;
        }
        Ok(numbered.await?.id)
    }

    /// What `event`, which comes late, must not cover: numbers stand for the order of recording in what an opt-in says it came
    /// after, and whoever names this event names all that this origin numbered before. So what was recorded here since the event was
    /// taken in, or might have been, is said once more behind it. That can only deny more.
    fn later_than(&self, event: &ConsentEvent, age_ms: u64) -> Vec<ConsentEvent> {
        let Some(own) = self.ledger().ok().and_then(crate::ledger::Ledger::own_origin) else {
            return Vec::new();
        };
        let book = self.book();
        let rules = book.rules(event.business.as_str()).unwrap_or(book.defaults());
        let now = self.clock.now();
        let age_ms = i64::try_from(age_ms).unwrap_or(i64::MAX);
        let since = Timestamp(now.0.saturating_sub(age_ms).saturating_sub(rules.clock_margin_ms));
        let mut persons = event.subjects.clone();
        for subject in &event.subjects {
            let person = self.view.get(subject).unwrap_or_default();
            persons.extend(person.record.links);
        }
        persons.sort_unstable();
        persons.dedup();
        persons.truncate(LINKS_MAX);
        let restate = |who: Identifier| {
            let record = self.view.get(&who).ok()?.record;
            let changes: Vec<Change> = record
                .cells
                .iter()
                .flat_map(|(scope, cell)| {
                    let is_later = move |mark: &&Mark| mark.id.origin == own && mark.time >= since;
                    let outs = cell.outs.iter().filter(is_later).map(|mark| again(scope, mark));
                    outs.chain(cell.voids.iter().filter(is_later).map(|mark| void_again(scope, mark)))
                })
                .collect();
            (!changes.is_empty()).then(|| ConsentEvent {
                business: event.business.clone(),
                subjects: vec![who],
                recorded: now,
                request: None,
                rules_version: book.version().to_owned(),
                changes,
            })
        };
        persons.into_iter().filter_map(restate).collect()
    }

    /// An edge whose clock is ahead must not let an opt-in come after what it did not come after.
    fn leave_out_what_is_ahead(&self, event: &mut ConsentEvent) {
        let book = self.book();
        let rules = book.rules(event.business.as_str()).unwrap_or(book.defaults());
        #[cfg(sabotage)]
        if crate::sabotage::is("edge-clock-believed") {
            return;
        }
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

fn again(scope: &Scope, mark: &Mark) -> Change {
    Change::OptOut(OptOut {
        scopes: vec![scope.clone()],
        time: mark.time,
        stated: None,
        imported: false,
        inbound: mark.message,
        method: OptOutMethod::Unknown,
        confirm_until: None,
    })
}

fn void_again(scope: &Scope, mark: &Mark) -> Change {
    Change::Invalidate(Invalidate {
        scopes: vec![scope.clone()],
        cause: InvalidateCause::EvidenceFalse,
        time: mark.time,
    })
}
