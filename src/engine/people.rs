//! One person's records: the identifier addressed, its other written forms, and what is linked to it.

use crate::address::{self, Address};
use crate::key::ClusterKey;
use crate::policy::ids::Identifier;
use crate::policy::record::Links;
use crate::policy::standing::{Known, Relation};
use crate::view::{Person, View};

use super::error::EngineError;

/// How many identifiers are followed from one, other written forms included; beyond that nothing can be known, so nothing is allowed.
pub const LINKS_MAX: usize = 32;

/// The identifiers of an address: its own and those of its other written forms.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Of the address itself.
    pub own: Identifier,
    /// Of its other written forms.
    pub aliases: Vec<Identifier>,
}

impl Identity {
    /// Hashes `address` for `business`.
    #[must_use]
    pub fn of(key: &ClusterKey, business: &str, address: &Address) -> Self {
        Self {
            own: key.identifier(business, address),
            aliases: address::aliases(address).iter().map(|alias| key.identifier(business, alias)).collect(),
        }
    }
}

/// Whom an event is about.
#[derive(Clone, Debug)]
pub(super) struct Whom {
    /// The person's identifiers, the one addressed first.
    pub(super) subjects: Vec<Identifier>,
    /// Their other written forms, where there are several: whoever is asked for later knows only hashes of the others, from which no other
    /// form can be told.
    pub(super) forms: Vec<Identifier>,
}

impl Whom {
    /// The person of `identity`, to whom `also` belong.
    pub(super) fn of(key: &ClusterKey, business: &str, identity: &Identity, also: &[Address]) -> Self {
        let also = also.iter().map(|address| Identity::of(key, business, address));
        let mut whom = Self { subjects: Vec::new(), forms: Vec::new() };
        let mut forms = Vec::new();
        for Identity { own, aliases } in std::iter::once(identity.clone()).chain(also) {
            if !whom.subjects.contains(&own) {
                whom.subjects.push(own);
                forms.extend(aliases);
            }
        }
        if whom.subjects.len() > 1 {
            forms.sort_unstable();
            forms.dedup();
            whom.forms = forms;
        }
        whom
    }
}

/// Records besides the one addressed.
pub type Others = Vec<(Relation, Identifier, Person)>;

/// Reads every record that bears on the person, following `links` of the record addressed.
///
/// # Errors
/// When a record cannot be read or there are more than [`LINKS_MAX`].
pub fn others(view: &View, identity: &Identity, links: &Links) -> Result<Others, EngineError> {
    if identity.aliases.is_empty() && links.is_empty() {
        return Ok(Vec::new());
    }
    let mut seen = vec![identity.own];
    let mut others = Others::new();
    // Other forms of the address come first: they are that even where they are linked to it as well. What links lead to comes before what
    // only another written form leads to: it is the person's own even where both do.
    let mut linked: Vec<Identifier> = links.identifiers.clone();
    let mut by_forms: Vec<Identifier> = links.forms.clone();
    for alias in &identity.aliases {
        seen.push(*alias);
        let person = view.get(alias)?;
        by_forms.extend(person.record.links.all());
        others.push((Relation::Alias, *alias, person));
    }
    loop {
        let next = linked.pop().map(Relation::Link).or_else(|| by_forms.pop().map(Relation::AliasLink));
        let Some(relation @ (Relation::Link(id) | Relation::AliasLink(id))) = next else { return Ok(others) };
        if seen.contains(&id) {
            continue;
        }
        if seen.len() > LINKS_MAX {
            return Err(EngineError::TooManyLinks(LINKS_MAX));
        }
        seen.push(id);
        let person = view.get(&id)?;
        let found = &person.record.links;
        if matches!(relation, Relation::Link(_)) {
            linked.extend(&found.identifiers);
            by_forms.extend(&found.forms);
        } else {
            by_forms.extend(found.all());
        }
        others.push((relation, id, person));
    }
}

/// All records of a person.
#[derive(Clone, Debug)]
pub struct People {
    /// The identifiers.
    pub identity: Identity,
    /// The record addressed.
    pub own: Person,
    /// The others.
    pub others: Others,
}

impl People {
    /// Reads them.
    ///
    /// # Errors
    /// As [`others`].
    pub fn read(view: &View, identity: Identity) -> Result<Self, EngineError> {
        let own = view.get(&identity.own)?;
        let others = others(view, &identity, &own.record.links)?;
        Ok(Self { identity, own, others })
    }

    /// The records as the policy takes them.
    #[must_use]
    pub fn known(&self) -> Vec<Known<'_>> {
        let mut known = vec![Known { relation: Relation::Own, record: &self.own.record }];
        known.extend(others_known(&self.others));
        known
    }
}

/// Other records as the policy takes them.
pub fn others_known(others: &Others) -> impl Iterator<Item = Known<'_>> {
    others.iter().map(|(relation, _, person)| Known { relation: *relation, record: &person.record })
}
