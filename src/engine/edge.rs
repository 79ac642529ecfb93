//! An edge: no ledger of its own. What is taken in waits in an outbox until an anchor has numbered it; what anchors number is
//! verified against their chains and applied.
//!
//! ```text
//! submit ─▶ outbox (synced) ─▶ whoever carries it to an anchor ─▶ numbered, or refused ─▶ the caller's answer
//!    └ what suppresses holds here at once, until the anchor's own event is applied
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, watch};

use crate::ledger::Head;
use crate::outbox::{Item, Outbox, Waiting};
use crate::policy::event::{Change, ConsentEvent, LedgerEntry, RequestMark};
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::time::Timestamp;
use crate::view::View;

use super::Engine;
use super::codec;
use super::record::suppresses;

mod follow;
mod take_in;

/// What an anchor made of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The event.
    pub event: EventId,
    /// It is on the disks of a majority of the anchors.
    pub replicated: bool,
}

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Numbered(Numbered),
    /// No anchor will ever take it, for this reason.
    Refused(String),
}

/// One item under way.
struct Underway {
    /// What holds here meanwhile, and under which name.
    held: Option<Arc<ConsentEvent>>,
    mark: Option<(Identifier, RequestMark)>,
    /// Since when, in this run, by the clock that only moves on.
    since_ms: u64,
    /// It was handed out to be carried, so an anchor may have numbered it.
    handed_out: bool,
    outcome: watch::Sender<Option<Outcome>>,
}

/// What an edge has in place of a ledger.
pub struct Edge {
    outbox: Outbox,
    /// The last event of each origin that is applied here.
    heads: Mutex<FxHashMap<OriginId, Head>>,
    /// What the snapshot told that first records name. What events name since then, whoever talks to peers keeps.
    named: Mutex<Vec<(OriginId, Head)>>,
    underway: Mutex<FxHashMap<u64, Underway>>,
    /// The items under way that come from a caller's request, so that a retry waits for the same item.
    by_mark: Mutex<FxHashMap<(Identifier, [u8; 16]), u64>>,
    unsent: Mutex<Unsent>,
    sendable: Notify,
    /// Numbered, but not applied here yet: still held. What finds no room here is held until a restart.
    arriving: Mutex<FxHashMap<u64, (EventId, Arc<ConsentEvent>)>>,
    /// How far the events of an origin are on a majority's disks, as anchors answered.
    replicated: Mutex<FxHashMap<OriginId, u64>>,
    /// Names for opt-outs that do not verify.
    doubtful: AtomicU64,
    doubtful_origin: [u8; 16],
}

/// What is to be carried to an anchor, in this order.
#[derive(Default)]
struct Unsent {
    /// Opt-outs that no anchor was offered yet.
    urgent: VecDeque<Arc<Item>>,
    /// Opt-outs that were offered, and are to be offered again.
    urgent_again: VecDeque<Arc<Item>>,
    /// Everything else that none was offered.
    ordinary: VecDeque<Arc<Item>>,
    /// Everything else of that kind.
    again: VecDeque<Arc<Item>>,
}

impl Unsent {
    fn pop(&mut self) -> Option<Arc<Item>> {
        let Self { urgent, urgent_again, ordinary, again } = self;
        let lines = [urgent, urgent_again, ordinary, again];
        lines.into_iter().find_map(VecDeque::pop_front)
    }
}

/// The most events that are held here until they arrive.
const ARRIVING_MAX: usize = crate::outbox::ITEMS_WITH_OPT_OUTS_MAX;
/// For how long an opt-out without a request id is taken to be the same as one that is under way and that no anchor can have numbered,
/// so that no opt-in can have named it. It must be much less than the clock margin: only an opt-in that wins by its time could tell
/// the two apart.
const SAME_WITHIN_MS: i64 = 60_000;
/// How far apart two readings of the clock for one event may be.
const SAME_MOMENT_MS: i64 = 10;
/// Origins whose durability is remembered; more than anchors have runs in a long time.
const REPLICATED_MAX: usize = 1_024;

impl Edge {
    /// An edge whose outbox had `found` in it.
    pub(super) fn new(outbox: Outbox, found: &[Arc<Item>], view: &View, mono_ms: u64) -> Self {
        let doubtful_origin = doubtful_origin(&outbox);
        let edge = Self {
            outbox,
            heads: Mutex::default(),
            named: Mutex::default(),
            underway: Mutex::default(),
            by_mark: Mutex::default(),
            unsent: Mutex::default(),
            sendable: Notify::new(),
            arriving: Mutex::default(),
            replicated: Mutex::default(),
            doubtful: AtomicU64::new(1),
            doubtful_origin,
        };
        for item in found {
            #[cfg(sabotage)]
            if crate::sabotage::is("outbox-forgotten-at-restart") {
                continue;
            }
            let event = match codec::decode_entry(&item.payload) {
                Ok(LedgerEntry::Consent(event)) => Some(event),
                Ok(_) => None,
                Err(_) => codec::salvage_opt_outs(&item.payload),
            };
            edge.take_up(item, event.as_ref(), view, mono_ms);
        }
        edge
    }

    /// What tells this edge from any other, over its restarts.
    #[must_use]
    pub fn identity(&self) -> [u8; 16] {
        self.outbox.identity()
    }

    /// What waits for an anchor.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        self.outbox.waiting()
    }

    /// How much the outbox's disk has left, in bytes, if that can be told.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        self.outbox.free_bytes()
    }

    /// Why the outbox takes nothing any more, if that is so.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        self.outbox.failed()
    }

    /// The last event of each origin that is applied here.
    #[must_use]
    pub fn heads(&self) -> Vec<(OriginId, Head)> {
        self.heads.lock().iter().map(|(origin, head)| (*origin, *head)).collect()
    }

    /// What first records of origins in the snapshot name as the last of the origin before.
    #[must_use]
    pub fn named(&self) -> Vec<(OriginId, Head)> {
        self.named.lock().clone()
    }

    /// The next item to carry to an anchor, once there is one.
    pub async fn next_unsent(&self) -> Arc<Item> {
        loop {
            let next = self.unsent.lock().pop();
            if let Some(item) = next {
                if let Some(underway) = self.underway.lock().get_mut(&item.number) {
                    underway.handed_out = true;
                }
                return item;
            }
            self.sendable.notified().await;
        }
    }

    /// Waits until nothing waits for an anchor any more; `false`: not in time.
    pub async fn emptied(&self, within: Duration) -> bool {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let empty = async {
            while self.waiting().items > 0 {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(within, empty).await.is_ok()
    }

    /// The name under which an item holds here before an anchor numbers it. No ledger ever has it.
    fn provisional(&self, number: u64) -> EventId {
        EventId { origin: OriginId(self.identity()), sequence: number }
    }

    fn take_up(
        &self,
        item: &Arc<Item>,
        event: Option<&ConsentEvent>,
        view: &View,
        since_ms: u64,
    ) -> watch::Receiver<Option<Outcome>> {
        let held = event.and_then(suppressing).map(Arc::new);
        if let Some(held) = &held {
            view.hold(self.provisional(item.number), held);
        }
        let mark = event.and_then(|event| Some((*event.subjects.first()?, event.request?)));
        if let Some((who, mark)) = mark {
            self.by_mark.lock().insert((who, whole(mark)), item.number);
        }
        let (outcome, watching) = watch::channel(None);
        let underway = Underway { held, mark, since_ms, handed_out: false, outcome };
        self.underway.lock().insert(item.number, underway);
        let mut unsent = self.unsent.lock();
        let line = if item.priority { &mut unsent.urgent } else { &mut unsent.ordinary };
        line.push_back(Arc::clone(item));
        drop(unsent);
        self.sendable.notify_one();
        watching
    }

    /// The item that an earlier try of the same request became, if it is under way. Tries without a request id are told by what they
    /// suppress: each of them would else be an event of its own.
    fn same_request(&self, event: &ConsentEvent, had_id: bool) -> Option<watch::Receiver<Option<Outcome>>> {
        let who = event.subjects.first()?;
        if had_id {
            let number = *self.by_mark.lock().get(&(*who, whole(event.request?)))?;
            return Some(self.underway.lock().get(&number)?.outcome.subscribe());
        }
        let wanted = timeless(suppressing(event)?);
        let underway = self.underway.lock();
        let same = underway.values().find(|underway| {
            !underway.handed_out
                && underway.held.as_ref().is_some_and(|held| {
                    held.subjects == event.subjects
                        && event.recorded.0.saturating_sub(held.recorded.0) < SAME_WITHIN_MS
                        && timeless((**held).clone()) == wanted
                })
        })?;
        Some(same.outcome.subscribe())
    }

    fn end(&self, number: u64, outcome: Outcome) -> Option<Underway> {
        let underway = self.underway.lock().remove(&number)?;
        if let Some((who, mark)) = underway.mark {
            self.by_mark.lock().remove(&(who, whole(mark)));
        }
        underway.outcome.send_replace(Some(outcome));
        self.outbox.done(number);
        Some(underway)
    }

    fn note_replicated(&self, numbered: Numbered) {
        let mut replicated = self.replicated.lock();
        if replicated.len() >= REPLICATED_MAX && !replicated.contains_key(&numbered.event.origin) {
            replicated.clear();
        }
        let highest = replicated.entry(numbered.event.origin).or_default();
        *highest = (*highest).max(numbered.event.sequence);
    }

    /// The number that an anchor gave to what was taken in as `number` and still waits for a majority.
    fn numbered_as(&self, number: u64) -> Option<EventId> {
        match &*self.underway.lock().get(&number)?.outcome.borrow() {
            Some(Outcome::Numbered(numbered)) => Some(numbered.event),
            _ => None,
        }
    }

    /// Whether an anchor said that a majority has `event`.
    pub(super) fn is_replicated(&self, event: EventId) -> bool {
        self.replicated.lock().get(&event.origin).is_some_and(|highest| *highest >= event.sequence)
    }

    pub(super) fn close(&self) {
        self.outbox.close();
    }

    /// The number of the item that was taken in last, if one is under way.
    #[cfg(test)]
    pub(crate) fn newest_item(&self) -> Option<u64> {
        self.underway.lock().keys().max().copied()
    }

    /// Whether an item is under way.
    #[cfg(test)]
    pub(crate) fn holds(&self, number: u64) -> bool {
        self.underway.lock().contains_key(&number)
    }

    #[cfg(test)]
    pub(super) fn work(&self) -> bool {
        self.outbox.work()
    }
}

/// An origin that no ledger has, of this run alone.
fn doubtful_origin(outbox: &Outbox) -> [u8; 16] {
    let mut origin = [0xff; 16];
    // Without randomness it is still nobody's.
    let _ = outbox.random(&mut origin);
    origin
}

/// A request's mark as one value.
fn whole(mark: RequestMark) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&mark.key);
    out[8..].copy_from_slice(&mark.content);
    out
}

/// An event but for when it was taken in. The times that count, where somebody vouches for them, stay: two times are two acts. Where nobody
/// does, a time is that of the event, or lies behind it by the margin.
fn timeless(mut event: ConsentEvent) -> Vec<Change> {
    let recorded = event.recorded;
    let without = |time: &mut Timestamp| {
        let since_ms = time.since_ms(recorded);
        if since_ms >= -SAME_MOMENT_MS {
            // The clock may be read twice for one event.
            *time = Timestamp((since_ms + SAME_MOMENT_MS) / (2 * SAME_MOMENT_MS));
        }
    };
    for change in &mut event.changes {
        match change {
            Change::OptOut(out) => {
                without(&mut out.time);
                out.stated = None;
                out.inbound.iter_mut().for_each(|(_, time)| without(time));
            }
            Change::Invalidate(invalidate) => without(&mut invalidate.time),
            Change::Hold(hold) => without(&mut hold.time),
            Change::Preference(preference) => without(&mut preference.time),
            Change::OptIn(_) | Change::Request(_) | Change::Help { .. } => {}
        }
    }
    event.changes
}

/// What of an event suppresses: that holds at once. Not the request it came by: a retry must go on waiting for the anchor.
fn suppressing(event: &ConsentEvent) -> Option<ConsentEvent> {
    let mut held = event.clone();
    held.changes.retain(suppresses);
    for change in &mut held.changes {
        if let Change::OptOut(out) = change {
            out.confirm_until = None;
        }
    }
    held.request = None;
    (!held.changes.is_empty()).then_some(held)
}

impl Engine {
    /// What this node has in place of a ledger, if it is an edge.
    #[must_use]
    pub fn edge(&self) -> Option<&Edge> {
        self.inner.edge()
    }

    /// An anchor has numbered item `number`. An opt-out that no majority has yet stays in the outbox: `false`, try again.
    pub fn numbered(&self, item: &Item, numbered: Numbered) -> bool {
        let Some(edge) = self.edge() else { return true };
        #[cfg(sabotage)]
        let numbered = if crate::sabotage::is("one-anchor-is-enough") {
            Numbered { replicated: true, ..numbered }
        } else {
            numbered
        };
        if numbered.replicated {
            edge.note_replicated(numbered);
        } else if item.priority {
            if let Some(underway) = edge.underway.lock().get(&item.number) {
                underway.outcome.send_replace(Some(Outcome::Numbered(numbered)));
            }
            return false;
        }
        if let Some(Underway { held: Some(held), .. }) = edge.end(item.number, Outcome::Numbered(numbered)) {
            let mut arriving = edge.arriving.lock();
            if arriving.len() < ARRIVING_MAX {
                arriving.insert(item.number, (numbered.event, held));
            }
            drop(arriving);
            #[cfg(sabotage)]
            if crate::sabotage::is("let-go-when-numbered") {
                for (number, (_, held)) in edge.arriving.lock().drain() {
                    self.inner.view.let_go(edge.provisional(number), &held);
                }
            }
            edge.let_go_arrived(&self.inner.vector, &self.inner.view);
        }
        true
    }

    /// No anchor takes item `number`. What suppresses stays and is tried again: `false`.
    pub fn refused(&self, item: &Item, why: &str) -> bool {
        let Some(edge) = self.edge() else { return true };
        if item.priority {
            tracing::error!(
                item = item.number,
                why,
                "an anchor refuses an opt-out; it holds here and is tried again"
            );
            return false;
        }
        tracing::error!(item = item.number, why, "an anchor refuses what was taken in here; it is given up");
        edge.end(item.number, Outcome::Refused(why.to_owned()));
        true
    }

    /// An item that was offered, and is to be offered again, goes back in line.
    pub fn unsent(&self, item: Arc<Item>) {
        if let Some(edge) = self.edge() {
            let mut unsent = edge.unsent.lock();
            let line = if item.priority { &mut unsent.urgent_again } else { &mut unsent.again };
            line.push_back(item);
            drop(unsent);
            edge.sendable.notify_one();
        }
    }

    /// An item that could not be offered to anybody goes back to where it was in line.
    pub fn not_offered(&self, item: Arc<Item>) {
        if let Some(edge) = self.edge() {
            let mut unsent = edge.unsent.lock();
            let line = if item.priority { &mut unsent.urgent } else { &mut unsent.ordinary };
            line.push_front(item);
            drop(unsent);
            edge.sendable.notify_one();
        }
    }

    /// How long ago an item was taken in, in milliseconds: by this node's clock, but no less than this run knows of.
    #[must_use]
    pub fn age_ms(&self, item: &Item) -> u64 {
        let Some(edge) = self.edge() else { return 0 };
        let since_ms = edge.underway.lock().get(&item.number).map(|underway| underway.since_ms);
        let known = since_ms.map_or(0, |since_ms| self.inner.clock.mono_ms().saturating_sub(since_ms));
        match codec::decode_entry(&item.payload) {
            Ok(LedgerEntry::Consent(event)) => {
                let told = self.inner.clock.now().0.saturating_sub(event.recorded.0);
                known.max(u64::try_from(told).unwrap_or(0))
            }
            // Only a consent event's age matters.
            _ => known,
        }
    }
}
