//! What another node says that suppresses, while this one's ledger lacks its events: in memory alone, and laid over whatever is read of a
//! person. Nothing of it is ever written down here, so that nothing is left of it once the events have come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::bytes::Damage;
use super::record::Person;
use crate::policy::ids::Identifier;
use crate::policy::record::Record;

/// The most that it may take in memory: some 350,000 persons who opted out once.
pub const LENT_BYTES_MAX: usize = 48 << 20;
/// What a person takes there beside the record's bytes.
const BYTES_BESIDE: usize = size_of::<(Identifier, Box<[u8]>)>() * 2;

/// What is lent, while it is gathered.
#[derive(Debug)]
pub struct Lent {
    by_person: FxHashMap<Identifier, Box<[u8]>>,
    bytes: usize,
    bytes_max: usize,
    overflows: bool,
}

impl Default for Lent {
    fn default() -> Self {
        Self::with_room(LENT_BYTES_MAX)
    }
}

impl Lent {
    /// Nobody, with room for so many bytes.
    #[must_use]
    pub fn with_room(bytes_max: usize) -> Self {
        Self { by_person: FxHashMap::default(), bytes: 0, bytes_max, overflows: false }
    }

    /// Takes what suppresses in a person's consent, as the store would have it, and nothing else. What finds no room is left out, which is
    /// said ever after.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn put(&mut self, who: Identifier, consent: &[u8]) -> Result<(), Damage> {
        let record = Person::decode(consent, &[])?.record;
        #[cfg(sabotage)]
        if crate::sabotage::is("lent-as-it-came") {
            self.by_person.insert(who, consent.into());
            return Ok(());
        }
        let record = record.suppressing();
        let kept = Person { record, ..Person::default() }.encode_consent();
        if kept.is_empty() {
            return Ok(());
        }
        let bytes = self.bytes + kept.len() + BYTES_BESIDE;
        if bytes > self.bytes_max {
            self.overflows = true;
            return Ok(());
        }
        if let Some(before) = self.by_person.insert(who, kept.into()) {
            self.bytes = bytes - before.len() - BYTES_BESIDE;
        } else {
            self.bytes = bytes;
        }
        Ok(())
    }

    /// How many persons.
    #[must_use]
    pub fn persons(&self) -> usize {
        self.by_person.len()
    }

    /// What they take in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there were more than find room, so that who is not in it may have opted out all the same.
    #[must_use]
    pub fn overflows(&self) -> bool {
        self.overflows
    }
}

/// What is in force of it.
#[derive(Default)]
pub struct InForce {
    /// Hardly any node ever borrows, and every check asks.
    some: AtomicBool,
    lent: RwLock<Arc<Lent>>,
}

impl InForce {
    pub fn replace(&self, lent: Lent) {
        let some = lent.overflows || !lent.by_person.is_empty();
        *self.lent.write() = Arc::new(lent);
        self.some.store(some, Ordering::Release);
    }

    /// What is in force, for whoever only looks.
    pub fn all(&self) -> Arc<Lent> {
        Arc::clone(&self.lent.read())
    }

    /// Whether something is.
    pub fn is_any(&self) -> bool {
        self.some.load(Ordering::Acquire)
    }

    /// What is lent of `who` now.
    pub fn of(&self, who: &Identifier) -> Result<Option<Record>, Damage> {
        if !self.is_any() {
            return Ok(None);
        }
        let lent = self.all();
        lent.by_person.get(who).map(|consent| Ok(Person::decode(consent, &[])?.record)).transpose()
    }
}

/// Lays what is lent over what was read.
pub fn lay_over(lent: Option<&Record>, person: &mut Person) {
    if let Some(lent) = lent {
        person.record.join(lent);
    }
}
