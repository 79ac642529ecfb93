//! Taking in: an entry goes into the outbox, holds where it suppresses, and its caller waits for an anchor.

use std::time::{Duration, Instant};

use crate::ledger::{BLOB_LEN_MAX, PAYLOAD_LEN_MAX};
use crate::outbox::PutError;
use crate::policy::consent::Covers;
use crate::policy::event::{Change, ConsentEvent, LedgerEntry, RequestMark};
use crate::policy::evidence::Personal;
use crate::policy::ids::{EventId, OriginId};

use super::{Edge, Outcome};
use crate::engine::Inner;
use crate::engine::codec;
use crate::engine::error::EngineError;
use crate::engine::record::suppresses;
use crate::engine::stripes::Turn;
use crate::engine::token::Token;

/// How long a caller waits for an anchor's answer where it set no deadline.
const ANCHOR_ANSWERS_WITHIN: Duration = Duration::from_millis(1_000);

impl Inner {
    /// Takes an entry in for an anchor to number, gives the person's turn back, and waits until an anchor has numbered it and it is
    /// applied here.
    ///
    /// # Errors
    /// [`EngineError::Kept`] when no anchor answered in time.
    pub(in crate::engine) async fn submit(
        &self,
        edge: &Edge,
        mut entry: LedgerEntry,
        personal: &Personal,
        mut priority: bool,
        until: Option<Instant>,
        turn: &mut Turn,
    ) -> Result<EventId, EngineError> {
        let until = until.unwrap_or_else(|| Instant::now() + ANCHOR_ANSWERS_WITHIN);
        let left = || until.saturating_duration_since(Instant::now());
        let mut same = None;
        if let LedgerEntry::Consent(event) = &mut entry {
            priority = event.changes.iter().any(suppresses);
            let had_id = event.request.is_some();
            // By it an anchor knows an item that comes again.
            event.request.get_or_insert(random_mark(edge, self.clock.now().0));
            let provisional = OriginId(edge.identity());
            // Recorded without what has no number yet, it would come after nothing, and its retry would find it recorded. What has one, and was
            // named by it as well, need not be waited for. An opt-out beside it waits for nothing.
            let named: Vec<EventId> = covers_in(event).flat_map(|covers| covers.named()).collect();
            let is_named =
                |it: EventId| named.iter().any(|id| id.origin == it.origin && id.sequence >= it.sequence);
            let mut held = named.iter().filter(|id| id.origin == provisional);
            let waits_for = held.find(|id| !edge.numbered_as(id.sequence).is_some_and(is_named)).copied();
            if let Some(held) = waits_for.filter(|_| !priority) {
                return Err(EngineError::NotHere(held));
            }
            covers_in(event).for_each(|covers| covers.lower(provisional, 0));
            event.numbered_late = true;
            same = edge.same_request(event, had_id);
        }
        let mut outcome = match same {
            Some(outcome) => outcome,
            None => {
                let (payload, blob) = fitting(&mut entry, personal, priority)?;
                let event = match &entry {
                    LedgerEntry::Consent(event) => Some(event),
                    _ => None,
                };
                let (item, synced) = edge.outbox.put(payload, blob, priority)?;
                let outcome = edge.take_up(&item, event, &self.view, self.clock.mono_ms());
                turn.clear();
                if let Ok(Ok(Err(error))) = tokio::time::timeout(left(), synced).await {
                    tracing::warn!(%error, "what was taken in is kept in memory alone until an anchor or the disk has it");
                }
                outcome
            }
        };
        // Others of the same person need not wait for an anchor.
        turn.clear();
        let told = tokio::time::timeout(left(), outcome.wait_for(Option::is_some)).await;
        let numbered = match told.ok().and_then(Result::ok).and_then(|told| told.clone()) {
            Some(Outcome::Numbered(numbered)) => numbered,
            Some(Outcome::Refused(why)) => return Err(EngineError::AnchorRefused(why)),
            None => return Err(EngineError::Kept),
        };
        self.vector.wait_for(Token(Some(numbered.event)), left()).await;
        if self.vector.reaches(Token(Some(numbered.event))) {
            Ok(numbered.event)
        } else {
            Err(EngineError::NotReplicated(numbered.event))
        }
    }
}

/// The entry's bytes and its personal fields, if they are no longer than a ledger takes. Of what opts somebody out, the rest is left
/// away rather than that.
fn fitting(
    entry: &mut LedgerEntry,
    personal: &Personal,
    priority: bool,
) -> Result<(Vec<u8>, Option<Vec<u8>>), EngineError> {
    let mut payload = codec::encode_entry(entry);
    let mut blob = (!personal.is_empty()).then(|| codec::encode_personal(personal));
    if blob.as_ref().is_some_and(|blob| blob.len() > BLOB_LEN_MAX) && priority {
        blob = None;
    }
    if payload.len() > PAYLOAD_LEN_MAX
        && priority
        && let LedgerEntry::Consent(event) = entry
    {
        event.changes.retain(suppresses);
        payload = codec::encode_entry(entry);
    }
    if payload.len() > PAYLOAD_LEN_MAX || blob.as_ref().is_some_and(|blob| blob.len() > BLOB_LEN_MAX) {
        return Err(EngineError::field("changes", "the request is too long to be recorded"));
    }
    Ok((payload, blob))
}

/// A mark for an event that came without a request id.
fn random_mark(edge: &Edge, now_ms: i64) -> RequestMark {
    let mut bytes = [0; 16];
    if !edge.outbox.random(&mut bytes) {
        // Without randomness, what no other edge and no other moment has.
        bytes[..8].copy_from_slice(&edge.identity()[..8]);
        bytes[8..].copy_from_slice(&now_ms.to_le_bytes());
    }
    let (mut key, mut content) = ([0; 8], [0; 8]);
    key.copy_from_slice(&bytes[..8]);
    content.copy_from_slice(&bytes[8..]);
    RequestMark { key, content }
}

fn covers_in(event: &mut ConsentEvent) -> impl Iterator<Item = &mut Covers> {
    event.changes.iter_mut().filter_map(|change| match change {
        Change::OptIn(opt_in) => Some(&mut opt_in.covers),
        Change::Request(request) => Some(&mut request.covers),
        _ => None,
    })
}

impl From<PutError> for EngineError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Full => Self::Busy,
            PutError::NoSpace => Self::NoSpace,
            PutError::Closed => Self::NotServing("stopping"),
            PutError::Failed(why) => Self::LedgerFailed(why),
        }
    }
}
