//! One person's records: the identifier addressed, its other written forms, and what is linked to it.

use crate::address::{self, Address};
use crate::key::ClusterKey;
use crate::policy::ids::Identifier;
use crate::policy::standing::{Known, Relation};
use crate::view::{Person, View};

use super::error::EngineError;

/// How many identifiers are followed from one; beyond that nothing can be known, so nothing is allowed.
pub const LINKS_MAX: usize = 16;

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

/// Records besides the one addressed.
pub type Others = Vec<(Relation, Identifier, Person)>;

/// Reads every record that bears on the person, following `links` of the record addressed.
///
/// # Errors
/// When a record cannot be read or there are more than [`LINKS_MAX`].
pub fn others(view: &View, identity: &Identity, links: &[Identifier]) -> Result<Others, EngineError> {
    if identity.aliases.is_empty() && links.is_empty() {
        return Ok(Vec::new());
    }
    let mut seen = vec![identity.own];
    let mut others = Others::new();
    // Other forms of the address come first: they are that even where they are linked to it as well. What is linked to the address
    // comes before what is linked to another form of it: each is taken from the end, with all that it leads to.
    let mut waiting: Vec<(Relation, Identifier)> = Vec::new();
    for alias in &identity.aliases {
        seen.push(*alias);
        let person = view.get(alias)?;
        waiting.extend(person.record.links.iter().map(|link| (Relation::AliasLink(*link), *link)));
        others.push((Relation::Alias, *alias, person));
    }
    waiting.extend(links.iter().map(|link| (Relation::Link(*link), *link)));
    while let Some((relation, id)) = waiting.pop() {
        if seen.contains(&id) {
            continue;
        }
        if seen.len() > LINKS_MAX {
            return Err(EngineError::TooManyLinks(LINKS_MAX));
        }
        seen.push(id);
        let person = view.get(&id)?;
        let through = |link: Identifier| match relation {
            Relation::Own | Relation::Link(_) => Relation::Link(link),
            Relation::Alias | Relation::AliasLink(_) => Relation::AliasLink(link),
        };
        waiting.extend(person.record.links.iter().map(|link| (through(*link), *link)));
        others.push((relation, id, person));
    }
    Ok(others)
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
