//! What another node says that suppresses, while this one's ledger lacks its events: in memory alone, and laid over whatever is read of a
//! person. Nothing of it is ever written down here, so that nothing is left of it once the events have come.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::View;
use super::bytes::Damage;
use super::error::ViewError;
use super::inner::MIB;
use super::record::Person;
use crate::policy::ids::Identifier;
use crate::policy::record::Record;

/// What a person takes in memory beside the record's bytes.
const BYTES_BESIDE: usize = size_of::<(Identifier, Box<[u8]>)>() * 2;

/// How much is lent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Borrowed {
    /// Of how many identifiers.
    pub records: usize,
    /// There was more than finds room, so that whoever is not among them may have opted out all the same.
    pub overflows: bool,
}

#[derive(Default)]
struct Known {
    by_person: FxHashMap<Identifier, Box<[u8]>>,
    bytes: usize,
    overflows: bool,
}

/// What is lent, by person.
pub struct Lent {
    /// Hardly any node ever borrows, and every check asks.
    some: AtomicBool,
    bytes_max: usize,
    known: RwLock<Known>,
}

impl Lent {
    pub fn new(max_mib: u32) -> Self {
        let bytes_max = usize::try_from(u64::from(max_mib) * MIB).unwrap_or(usize::MAX);
        Self { some: AtomicBool::new(false), bytes_max, known: RwLock::default() }
    }

    /// Takes `record` beside what is lent of the person.
    pub fn put(&self, who: Identifier, mut record: Record) -> Result<(), Damage> {
        // Held throughout: what another puts of the same person meanwhile must not be lost.
        let mut known = self.known.write();
        let before = known.by_person.get(&who);
        let bytes_before = before.map_or(0, |before| before.len() + BYTES_BESIDE);
        if let Some(before) = before {
            record.join(&Person::decode(before, &[])?.record);
        }
        let kept = Person { record, ..Person::default() }.encode_consent();
        if kept.is_empty() {
            return Ok(());
        }
        let bytes = known.bytes - bytes_before + kept.len() + BYTES_BESIDE;
        if bytes > self.bytes_max {
            known.overflows = true;
        } else {
            known.bytes = bytes;
            known.by_person.insert(who, kept.into());
        }
        self.some.store(true, Ordering::Release);
        Ok(())
    }

    /// Nothing is lent any more.
    pub fn end(&self) {
        let mut known = self.known.write();
        self.some.store(false, Ordering::Release);
        let gone = std::mem::take(&mut *known);
        // Let go of behind the lock, for which checks wait.
        drop(known);
        drop(gone);
    }

    /// What found no room is known by now.
    pub fn end_overflow(&self) {
        if self.is_any() {
            self.known.write().overflows = false;
        }
    }

    pub fn borrowed(&self) -> Borrowed {
        if !self.is_any() {
            return Borrowed::default();
        }
        let known = self.known.read();
        Borrowed { records: known.by_person.len(), overflows: known.overflows }
    }

    /// Whether something is lent.
    pub fn is_any(&self) -> bool {
        self.some.load(Ordering::Acquire)
    }

    /// What is lent of `who` now.
    pub fn of(&self, who: &Identifier) -> Result<Option<Record>, Damage> {
        if !self.is_any() {
            return Ok(None);
        }
        let known = self.known.read();
        let lent = known.by_person.get(who);
        lent.map(|consent| Ok(Person::decode(consent, &[])?.record)).transpose()
    }
}

/// Lays what is lent over what was read.
pub fn lay_over(lent: Option<&Record>, person: &mut Person) {
    if let Some(lent) = lent {
        person.record.join(lent);
    }
}

impl View {
    /// Lets what another node says of a person hold in all that is read here, beside what was lent before, until [`View::return_lent`]. It
    /// is not written down.
    ///
    /// # Errors
    /// When what was lent before cannot be read.
    pub fn lend(&self, who: Identifier, record: Record) -> Result<(), ViewError> {
        Ok(self.inner.lent.put(who, record)?)
    }

    /// Ends all that is lent.
    pub fn return_lent(&self) {
        self.inner.lent.end();
    }

    /// What found no room among what is lent is known by now.
    pub fn end_overflow(&self) {
        self.inner.lent.end_overflow();
    }

    /// How much is lent.
    #[must_use]
    pub fn borrowed(&self) -> Borrowed {
        self.inner.lent.borrowed()
    }

    /// Whether something is lent.
    #[must_use]
    pub fn borrows(&self) -> bool {
        self.inner.lent.is_any()
    }
}
