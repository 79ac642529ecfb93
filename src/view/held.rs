//! Events that hold here before any ledger has them: what an edge took in and an anchor has not numbered yet.
//!
//! They lie over whatever is read of a person and are never written down here, so that nothing is left of them once the ledger's own
//! event has come and they are let go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::View;
use super::record::Person;
use crate::policy::event::ConsentEvent;
use crate::policy::ids::{EventId, Identifier};

/// Events and the names under which they are held.
type Events = Vec<(EventId, Arc<ConsentEvent>)>;

/// The events, by person. Who holds them bounds their number.
#[derive(Default)]
pub struct Held {
    /// Most nodes hold none, and every check asks.
    some: AtomicBool,
    by_person: RwLock<FxHashMap<Identifier, Events>>,
}

impl Held {
    pub fn put(&self, id: EventId, event: &Arc<ConsentEvent>) {
        let mut by_person = self.by_person.write();
        for subject in &event.subjects {
            let held = by_person.entry(*subject).or_default();
            if !held.iter().any(|(known, _)| *known == id) {
                held.push((id, Arc::clone(event)));
            }
        }
        self.some.store(true, Ordering::Release);
    }

    pub fn let_go(&self, id: EventId, event: &ConsentEvent) {
        let mut by_person = self.by_person.write();
        for subject in &event.subjects {
            if let Some(held) = by_person.get_mut(subject) {
                held.retain(|(known, _)| *known != id);
                if held.is_empty() {
                    by_person.remove(subject);
                }
            }
        }
        self.some.store(!by_person.is_empty(), Ordering::Release);
    }

    /// What is held of `who` now.
    pub fn of(&self, who: &Identifier) -> HeldOf {
        if !self.some.load(Ordering::Acquire) {
            return HeldOf(Vec::new());
        }
        HeldOf(self.by_person.read().get(who).cloned().unwrap_or_default())
    }
}

/// What was held of one person.
pub struct HeldOf(Events);

impl HeldOf {
    /// Lays it over what was read.
    pub fn over(&self, who: &Identifier, person: &mut Person) {
        #[cfg(sabotage)]
        if crate::sabotage::is("held-only-in-the-outbox") {
            return;
        }
        for (id, event) in &self.0 {
            person.record.apply(*id, event, who);
        }
    }
}

impl View {
    /// Lets `event` hold for its subjects from now on, in all that is read here, until [`View::let_go`]. It is not written down.
    pub fn hold(&self, id: EventId, event: &Arc<ConsentEvent>) {
        self.inner.held.put(id, event);
    }

    /// Ends what [`View::hold`] began: the ledger's own event is applied.
    pub fn let_go(&self, id: EventId, event: &ConsentEvent) {
        self.inner.held.let_go(id, event);
    }
}
