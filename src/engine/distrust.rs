//! Forked origins: who finds one out says so for ever, and who wrote under its ids records anew what permits.
//!
//! An origin is minted per run, so only a copy of a *running* node forks one: a memory snapshot resumed twice, or resumed after the node
//! had gone on. Opt-outs of both copies hold in any case; here it is seen to that nothing permissive rests on the shared ids.

use std::sync::Arc;

use crate::ledger::{Blob, Entry, Head, Record, Relayed};
use crate::policy::distrust::{Distrust, come_after, same_but_for_covers};
use crate::policy::event::{Change, ConsentEvent, LedgerEntry};
use crate::policy::evidence::Personal;
use crate::policy::ids::{EventId, OriginId};

use super::error::EngineError;
use super::{Engine, Inner, codec};

/// How many own events are read at once to be recorded anew.
const ANEW_AT_ONCE: usize = 256;

impl Engine {
    /// The origins that are forked, as far as is known here.
    #[must_use]
    pub fn distrusted(&self) -> Arc<Distrust> {
        self.inner.view.distrust()
    }

    /// Numbers nothing more as `origin`, if it is one of this run's; says whether it was.
    ///
    /// # Errors
    /// When the ledger takes nothing.
    pub async fn close_origin(&self, origin: OriginId) -> Result<bool, EngineError> {
        match self.inner.ledger() {
            Ok(ledger) => Ok(ledger.close_origin(origin).await?),
            // An edge numbers nothing.
            Err(_) => Ok(false),
        }
    }

    /// Says for ever, as an own event, that ids of `origin` name more than one event from `from_sequence` on; nothing if that is known. An
    /// edge leaves it to the anchors: it keeps no records to prove it by.
    ///
    /// # Errors
    /// When the event cannot be written.
    pub async fn distrust(
        &self,
        origin: OriginId,
        from_sequence: u64,
    ) -> Result<Option<EventId>, EngineError> {
        let inner = &self.inner;
        if inner.edge().is_some() {
            return Ok(None);
        }
        // First, so that this very event gets a name of its own.
        self.close_origin(origin).await?;
        if self.distrusted().begins_at(origin).is_some_and(|known| known <= from_sequence) {
            return Ok(None);
        }
        let recorded = inner.clock.now();
        let entry = LedgerEntry::Distrust { origin, from_sequence, recorded };
        // It denies, so it may use the room kept for opt-outs.
        Ok(Some(inner.append_entry(entry, true).await?))
    }

    /// The first sequence at which `records`, one origin's in sequence, are another event than the one held here, if they prove that:
    /// another record follows from the very record held before. What was torn or altered on its way follows from nothing. Blocking.
    #[must_use]
    pub fn fork_in(&self, origin: OriginId, first: u64, records: &[Relayed]) -> Option<u64> {
        let ledger = self.inner.ledger().ok()?;
        let mut before = None;
        if let Some(sequence) = first.checked_sub(1).filter(|sequence| *sequence > 0) {
            let held = ledger.records_of(origin, sequence).next()?.ok()?;
            before = Some(Head { sequence, hash: held.hash });
        }
        for ((record, held), sequence) in records.iter().zip(ledger.records_of(origin, first)).zip(first..) {
            let held = held.ok()?;
            if held.hash != record.hash {
                return record.verify_behind(origin, before).is_ok().then_some(sequence);
            }
            before = Some(Head { sequence, hash: held.hash });
        }
        None
    }

    /// Records anew what this store wrote under ids that name more than one event, as far as it permits something and was not recorded anew
    /// before. Says how many events that made. Its origins are closed, so that nothing is added to them meanwhile.
    ///
    /// # Errors
    /// When the ledger cannot be read or takes nothing; what was done is not done again next time.
    pub async fn record_anew(&self) -> Result<u64, EngineError> {
        let mut made = 0;
        let distrust = self.distrusted();
        let Ok(ledger) = self.inner.ledger() else { return Ok(0) };
        // Where nothing permissive counts of any origin, it would not count under another id either.
        if distrust.is_empty() || distrust.is_everything() {
            return Ok(0);
        }
        for (origin, head) in ledger.vector() {
            let Some(from) = distrust.begins_at(origin) else { continue };
            // This run's own are closed even if nothing was written there yet that is doubted: the next would be.
            ledger.close_origin(origin).await?;
            // It may have grown until it was closed.
            let last = ledger.vector().into_iter().find(|(known, _)| *known == origin);
            let last = last.map_or(head, |(_, head)| head).sequence;
            if last >= from {
                made += self.record_anew_of(origin, from, last).await?;
            }
        }
        if made > 0 {
            tracing::warn!(events = made, "opt-ins whose ids name more than one event are recorded anew");
        }
        Ok(made)
    }

    async fn record_anew_of(&self, origin: OriginId, from: u64, last: u64) -> Result<u64, EngineError> {
        let mut made = 0;
        let mut records = self.inner.ledger()?.reader().own_records_of(origin, from);
        loop {
            let reading = tokio::task::spawn_blocking(move || {
                let (mut batch, mut ended) = (Vec::new(), true);
                for record in records.by_ref() {
                    match record {
                        Ok(record) => {
                            let is_last = record.appended.id.sequence >= last;
                            batch.push(record);
                            if is_last || batch.len() >= ANEW_AT_ONCE {
                                ended = is_last;
                                break;
                            }
                        }
                        // What cannot be read permits nothing. The start told of it.
                        Err(error) => tracing::error!(%error, "a stretch of the ledger cannot be read"),
                    }
                }
                (records, batch, ended)
            });
            let Ok((rest, batch, ended)) = reading.await else { return Err(EngineError::Abandoned) };
            records = rest;
            for record in batch {
                made += u64::from(self.inner.record_one_anew(&record).await?);
            }
            if ended {
                return Ok(made);
            }
        }
    }
}

impl Inner {
    /// Where opt-ins of the person do not count for a fork, those of `event` are recorded in that knowledge.
    pub(super) fn come_after_forks(&self, event: &mut ConsentEvent) {
        if self.view.distrust().is_empty() {
            return;
        }
        // Who cannot be read gets an opt-in that may not count until it is given again.
        let Some(Ok(person)) = event.subjects.first().map(|who| self.view.get(who)) else { return };
        for change in &mut event.changes {
            if let Change::OptIn(opt_in) = change {
                person.record.set_aside.iter().for_each(|aside| come_after(&mut opt_in.covers, aside));
            }
        }
    }

    /// Says whether the event was recorded anew now.
    async fn record_one_anew(&self, record: &Record) -> Result<bool, EngineError> {
        let Ok(LedgerEntry::Consent(event)) = codec::decode_entry(&record.payload) else { return Ok(false) };
        let distrust = self.view.distrust();
        let Some((anew, from)) = distrust.anew(record.appended.id, &event) else { return Ok(false) };
        // The person's turn: a request that is retried, or evidence that is erased, comes before or after all of this.
        let _turn = self.stripes.lock(&anew.subjects).await;
        if self.is_recorded(&anew, &distrust)? {
            return Ok(false);
        }
        let ledger = self.ledger()?;
        // As it is now: it may have been erased since it was read.
        let blob = match ledger.read_at(record.appended.position)?.blob {
            Blob::Present(bytes) => Some(of_changes(codec::decode_personal(&bytes), &event, &from)),
            Blob::None | Blob::Erased | Blob::Damaged => None,
        };
        let blob =
            blob.filter(|personal| !personal.is_empty()).map(|personal| codec::encode_personal(&personal));
        let payload = codec::encode_entry(&LedgerEntry::Consent(anew));
        // There may be many of them, and no STOP is to wait behind them on its way to peers.
        ledger.append(Entry { payload, blob, priority: false, bulk: true })?.await?;
        Ok(true)
    }

    /// Whether the same was recorded under an id that can be relied upon.
    pub(super) fn is_recorded(&self, event: &ConsentEvent, distrust: &Distrust) -> Result<bool, EngineError> {
        let Some(who) = event.subjects.first() else { return Ok(false) };
        let ledger = self.ledger()?;
        for position in self.view.get(who)?.trail {
            // One that cannot be read is not kept.
            let Ok(record) = ledger.read_at(position) else { continue };
            if !distrust.doubts(record.appended.id)
                && let Ok(LedgerEntry::Consent(known)) = codec::decode_entry(&record.payload)
                && same_but_for_covers(&known, event)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The personal fields of some changes of an event.
fn of_changes(
    personal: Result<Personal, codec::PayloadFault>,
    event: &ConsentEvent,
    changes: &[usize],
) -> Personal {
    let Ok(mut personal) = personal else { return Personal::default() };
    let all = event.changes.len();
    // One that stands for all changes stays.
    if personal.evidence.len() == all {
        personal.evidence = pick(&personal.evidence, changes);
    }
    if personal.texts.len() == all {
        personal.texts = pick(&personal.texts, changes);
    }
    personal
}

fn pick<T: Clone>(all: &[T], wanted: &[usize]) -> Vec<T> {
    wanted.iter().filter_map(|at| all.get(*at).cloned()).collect()
}
