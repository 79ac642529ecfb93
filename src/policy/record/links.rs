//! What belongs to one person: identifiers that one signed message or one caller tied together, and the other written forms of them.

use crate::policy::event::ConsentEvent;
use crate::policy::ids::Identifier;

/// What is tied to an identifier; each list in order, without the identifier itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Other identifiers of the person.
    pub identifiers: Vec<Identifier>,
    /// Other written forms of the person's addresses (Mexico, Brazil, Argentina), which may be another's: opt-outs under them count, opt-ins
    /// do not. No form can be told from the hash of another, so they are kept.
    pub forms: Vec<Identifier>,
}

impl Links {
    /// Whether nothing is tied to the identifier.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.identifiers.is_empty() && self.forms.is_empty()
    }

    /// Everything that is tied to the identifier, as of another written form of it: nothing but opt-outs count.
    pub fn all(&self) -> impl Iterator<Item = &Identifier> {
        self.forms.iter().chain(&self.identifiers)
    }

    /// Whether all that an event about `subject` and others would tie to it is tied already.
    #[must_use]
    pub fn hold(&self, subject: &Identifier, subjects: &[Identifier], forms: &[Identifier]) -> bool {
        let has = |kept: &[Identifier], who: &Identifier| who == subject || kept.binary_search(who).is_ok();
        subjects.iter().all(|who| has(&self.identifiers, who))
            && forms.iter().all(|who| has(&self.forms, who))
    }

    /// Learns what `event` ties to `subject`, one of its subjects.
    pub(super) fn learn(&mut self, event: &ConsentEvent, subject: &Identifier) {
        add(&mut self.identifiers, event.subjects.iter().filter(|who| *who != subject));
        #[cfg(sabotage)]
        if crate::sabotage::is("forms-of-links-forgotten") {
            return;
        }
        add(&mut self.forms, event.forms.iter().filter(|who| *who != subject));
    }

    /// Adds all that `other` knows of the same identifier.
    pub(super) fn join(&mut self, other: &Self) {
        add(&mut self.identifiers, other.identifiers.iter());
        add(&mut self.forms, other.forms.iter());
    }
}

fn add<'a>(kept: &mut Vec<Identifier>, others: impl Iterator<Item = &'a Identifier>) {
    for who in others {
        if let Err(at) = kept.binary_search(who) {
            kept.insert(at, *who);
        }
    }
}
