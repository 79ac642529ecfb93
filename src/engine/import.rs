//! Consents taken over from another system: many rows at once, each an event of its own.
//!
//! An imported opt-in covers nothing and beats only imported opt-outs, so rows need not take turns and their order
//! does not matter (design §5).

use std::collections::HashMap;

use crate::ledger::{Ack, AppendError, Entry};
use crate::policy::event::{ConsentEvent, LedgerEntry, RequestMark};
use crate::policy::ids::{EventId, Identifier};
use crate::policy::recorder::{self, Source};
use crate::policy::report::Report;

use super::codec;
use super::error::EngineError;
use super::people::Identity;
use super::record::{RecordRequest, personal_of};
use super::{Engine, Inner};

/// The most rows one call takes.
pub const IMPORT_ROWS_MAX: usize = 1_000;

/// What became of one row.
#[derive(Debug)]
pub enum RowOutcome {
    /// It is durable as this event.
    Recorded(EventId),
    /// It was recorded before.
    Repeated,
    /// It would be recorded: this is a dry run.
    Sound,
    /// It was refused.
    Refused(EngineError),
}

enum Step {
    Done(RowOutcome),
    Waiting(Ack),
}

impl Engine {
    /// Takes rows over. The answer, one per row in order, comes when all of them are durable.
    ///
    /// # Errors
    /// Where no row can be taken at all.
    pub async fn import(
        &self,
        rows: Vec<RecordRequest>,
        dry_run: bool,
    ) -> Result<Vec<RowOutcome>, EngineError> {
        let inner = std::sync::Arc::clone(&self.inner);
        inner.serving()?;
        // Where the rows are to be numbered: a file of a million rows has no place in an edge's outbox.
        inner.ledger()?;
        let steps = tokio::task::spawn_blocking(move || inner.import_rows(&rows, dry_run));
        let steps = steps.await.map_err(|_| EngineError::Abandoned)?;
        let mut outcomes = Vec::with_capacity(steps.len());
        for step in steps {
            outcomes.push(match step {
                Step::Done(outcome) => outcome,
                Step::Waiting(ack) => match ack.await {
                    Ok(appended) => RowOutcome::Recorded(appended.id),
                    Err(error) => RowOutcome::Refused(error.into()),
                },
            });
        }
        Ok(outcomes)
    }
}

/// The contents that came under a person's request id among the rows at hand, which are not in the view yet. An opt-out with an id of
/// another change is one of its own here as everywhere.
type Seen = HashMap<(Identifier, [u8; 8]), Vec<[u8; 8]>>;

impl Inner {
    fn import_rows(&self, rows: &[RecordRequest], dry_run: bool) -> Vec<Step> {
        let mut seen = Seen::with_capacity(rows.len());
        rows.iter()
            .map(|row| {
                self.import_row(row, dry_run, &mut seen)
                    .unwrap_or_else(|error| Step::Done(RowOutcome::Refused(error)))
            })
            .collect()
    }

    fn import_row(&self, row: &RecordRequest, dry_run: bool, seen: &mut Seen) -> Result<Step, EngineError> {
        let book = self.book();
        let business = row.business.as_str();
        let out = row.reports.iter().any(|report| matches!(report, Report::OptOut(_)));
        let rules = match book.rules(business) {
            Some(rules) => rules,
            None if out => book.defaults(),
            None => return Err(EngineError::UnknownBusiness),
        };
        let identity = Identity::of(&self.key, business, &row.recipient);
        let subject = identity.own;
        let mark: Option<RequestMark> = self.request_mark(business, &row.request_id, row.content);
        let (people, unreadable) = self.people_or_own(identity, out)?;
        if let Some(error) = unreadable
            && row.reports.iter().any(|report| !matches!(report, Report::OptOut(_)))
        {
            return Err(error);
        }
        if let Some(mark) = mark {
            if people.own.record.taken_as(mark).is_some() {
                return Ok(Step::Done(RowOutcome::Repeated));
            }
            if let Some(taken) = people.own.record.taken(mark.key).filter(|_| !out) {
                return Err(EngineError::AlreadyExists(taken.event));
            }
            let contents = seen.get(&(subject, mark.key)).map_or(&[][..], Vec::as_slice);
            if contents.contains(&mark.content) {
                return Ok(Step::Done(RowOutcome::Repeated));
            }
            if !contents.is_empty() && !out {
                let why = "was used for other content by a row before; give each change an id of its own";
                return Err(EngineError::field("request_id", why));
            }
        }
        let now = self.clock.now();
        let recorded = recorder::record(&row.reports, &people.known(), Source::Import, rules, now)?;
        if let Some(mark) = mark {
            seen.entry((subject, mark.key)).or_default().push(mark.content);
        }
        if dry_run {
            return Ok(Step::Done(RowOutcome::Sound));
        }
        let personal = personal_of(row, &recorded);
        let mut event = ConsentEvent {
            business: row.business.clone(),
            subjects: vec![subject],
            forms: Vec::new(),
            recorded: now,
            request: mark,
            rules_version: book.version().to_owned(),
            numbered_late: false,
            changes: recorded.changes,
        };
        self.come_after_forks(&mut event);
        let entry = Entry {
            payload: codec::encode_entry(&LedgerEntry::Consent(event)),
            blob: (!personal.is_empty()).then(|| codec::encode_personal(&personal)),
            // In the ordinary queue: a live STOP must not wait behind an import.
            priority: false,
            bulk: true,
        };
        Ok(Step::Waiting(self.append_patiently(entry)?))
    }

    /// Appends; where the queue is full, waits for it, since an import has time.
    fn append_patiently(&self, entry: Entry) -> Result<Ack, EngineError> {
        /// How often to try, and how long to wait in between: some seconds in all.
        const TRIES: u32 = 2_000;
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(2);
        for _ in 0..TRIES {
            match self.ledger()?.append(entry.clone()) {
                Err(AppendError::Busy) => std::thread::sleep(PAUSE),
                answer => return Ok(answer?),
            }
        }
        Err(EngineError::Busy)
    }
}
