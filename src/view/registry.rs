//! Templates, senders and forked origins: few, all in memory, written to the store beside the persons.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::RwLock;

use super::bytes::{Damage, Reader, Writer};
use super::codes::Code;
use super::distrusts::Distrusts;
use super::error::{StoreError, ViewError};
use super::store::Store;
use crate::policy::event::{SenderEntry, TemplateEntry};
use crate::policy::ids::{BusinessId, OriginId, SenderId, TopicId};
use crate::policy::types::{Category, Quality, SenderStatus, TemplateStatus};

const VERSION: u8 = 1;
const TEMPLATE: u8 = b't';
const SENDER: u8 = b's';

/// What the ledger said last of each template and sender.
#[derive(Default)]
pub struct Registry {
    inner: RwLock<Inner>,
    pub distrusts: Distrusts,
}

#[derive(Default)]
struct Inner {
    businesses: BTreeMap<BusinessId, Business>,
    /// Not in the store yet.
    dirty_templates: Vec<Arc<TemplateEntry>>,
    dirty_senders: Vec<Arc<SenderEntry>>,
    /// Still in the store, and to be taken away there.
    dirty_gone: BTreeSet<Vec<u8>>,
}

/// What one business has. Nested maps, so that a look-up copies no text.
#[derive(Debug, Default, PartialEq, Eq)]
struct Business {
    /// By name, then by language.
    templates: BTreeMap<String, BTreeMap<String, Arc<TemplateEntry>>>,
    senders: BTreeMap<SenderId, Arc<SenderEntry>>,
}

impl Inner {
    fn take_template(&mut self, entry: &Arc<TemplateEntry>) -> bool {
        let rank = |entry: &TemplateEntry| (entry.time, put_template(entry));
        let business = self.businesses.entry(entry.business.clone()).or_default();
        let languages = business.templates.entry(entry.name.clone()).or_default();
        let wins = languages.get(&entry.language).is_none_or(|known| rank(known) < rank(entry));
        if wins {
            languages.insert(entry.language.clone(), Arc::clone(entry));
        }
        wins
    }

    fn take_sender(&mut self, entry: &Arc<SenderEntry>) -> bool {
        let rank = |entry: &SenderEntry| (entry.time, put_sender(entry));
        let business = self.businesses.entry(entry.business.clone()).or_default();
        let wins = business.senders.get(&entry.sender).is_none_or(|known| rank(known) < rank(entry));
        if wins {
            business.senders.insert(entry.sender.clone(), Arc::clone(entry));
        }
        wins
    }
}

impl Inner {
    /// Under which keys the store has all there is.
    fn keys(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let templates = self.businesses.values().flat_map(|known| known.templates.values());
        let senders = self.businesses.values().flat_map(|known| known.senders.values());
        let templates = templates.flat_map(BTreeMap::values).map(|entry| template_key(entry));
        templates.chain(senders.map(|entry| sender_key(entry)))
    }
}

/// Every template and sender.
pub type Entries = (Vec<Arc<TemplateEntry>>, Vec<Arc<SenderEntry>>);

impl Registry {
    /// All there is.
    pub fn entries(&self) -> Entries {
        let inner = self.inner.read();
        let templates = inner.businesses.values().flat_map(|known| known.templates.values());
        let senders = inner.businesses.values().flat_map(|known| known.senders.values());
        (templates.flat_map(BTreeMap::values).cloned().collect(), senders.cloned().collect())
    }

    /// Reads what the store has.
    pub fn load(&self, store: &dyn Store) -> Result<(), ViewError> {
        let mut inner = Inner::default();
        let mut damage = Ok(());
        store.scan(&[TEMPLATE], &mut |_, bytes| match take_template(bytes) {
            Ok(entry) => drop(inner.take_template(&Arc::new(entry))),
            Err(err) => damage = Err(err),
        })?;
        store.scan(&[SENDER], &mut |_, bytes| match take_sender(bytes) {
            Ok(entry) => drop(inner.take_sender(&Arc::new(entry))),
            Err(err) => damage = Err(err),
        })?;
        *self.inner.write() = inner;
        damage?;
        self.distrusts.load(store)
    }

    /// Takes what `built` has and nothing else. Says whether that is another than before.
    pub fn replace(&self, built: Self) -> bool {
        let Self { inner: built, distrusts } = built;
        let forks_differed = self.distrusts.replace(&distrusts);
        let built = built.into_inner();
        let mut inner = self.inner.write();
        if inner.businesses == built.businesses {
            return forks_differed;
        }
        let mut gone = std::mem::take(&mut inner.dirty_gone);
        gone.extend(inner.keys());
        for key in built.keys() {
            gone.remove(&key);
        }
        // What was read from the store may be what is wrong: all of it is written anew.
        let senders = built.businesses.values().flat_map(|known| known.senders.values());
        let templates = built.businesses.values().flat_map(|known| known.templates.values());
        *inner = Inner {
            dirty_templates: templates.flat_map(BTreeMap::values).cloned().collect(),
            dirty_senders: senders.cloned().collect(),
            dirty_gone: gone,
            businesses: built.businesses,
        };
        true
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.inner.write() = Inner::default();
        self.distrusts.clear();
    }

    /// Takes an entry. The latest time wins; of two at the same moment the one whose bytes are greater, so that the
    /// order in which they come never matters.
    pub fn put_template(&self, entry: TemplateEntry) {
        let entry = Arc::new(entry);
        let mut inner = self.inner.write();
        if inner.take_template(&entry) {
            inner.dirty_templates.push(entry);
        }
    }

    /// Takes the news that ids of `origin` name more than one event from `from` on. Says whether it is news.
    pub fn put_distrust(&self, origin: OriginId, from: u64) -> bool {
        self.distrusts.put(origin, from)
    }

    /// Takes an entry; the latest time wins, as for templates.
    pub fn put_sender(&self, entry: SenderEntry) {
        let entry = Arc::new(entry);
        let mut inner = self.inner.write();
        if inner.take_sender(&entry) {
            inner.dirty_senders.push(entry);
        }
    }

    pub fn template(&self, business: &str, name: &str, language: &str) -> Option<Arc<TemplateEntry>> {
        self.inner.read().businesses.get(business)?.templates.get(name)?.get(language).cloned()
    }

    pub fn sender(&self, business: &str, sender: &str) -> Option<Arc<SenderEntry>> {
        self.inner.read().businesses.get(business)?.senders.get(sender).cloned()
    }

    pub fn template_and_sender(
        &self,
        business: &str,
        template: Option<(&str, &str)>,
        sender: &str,
    ) -> (Option<Arc<TemplateEntry>>, Option<Arc<SenderEntry>>) {
        let inner = self.inner.read();
        let Some(known) = inner.businesses.get(business) else { return (None, None) };
        let template =
            template.and_then(|(name, language)| known.templates.get(name)?.get(language).cloned());
        (template, known.senders.get(sender).cloned())
    }

    pub fn templates(&self, business: &str) -> Vec<Arc<TemplateEntry>> {
        let inner = self.inner.read();
        let names = inner.businesses.get(business).into_iter().flat_map(|known| known.templates.values());
        names.flat_map(BTreeMap::values).cloned().collect()
    }

    pub fn senders(&self, business: &str) -> Vec<Arc<SenderEntry>> {
        let inner = self.inner.read();
        let known = inner.businesses.get(business).into_iter();
        known.flat_map(|known| known.senders.values()).cloned().collect()
    }

    /// Whether the store lacks something.
    pub fn is_dirty(&self) -> bool {
        let inner = self.inner.read();
        let lacks = !inner.dirty_templates.is_empty() || !inner.dirty_senders.is_empty();
        lacks || !inner.dirty_gone.is_empty() || self.distrusts.is_dirty()
    }

    /// Writes what the store lacks.
    pub fn drain(&self, store: &dyn Store) -> Result<(), StoreError> {
        let (templates, senders, gone) = {
            let mut inner = self.inner.write();
            let Inner { businesses: _, dirty_templates, dirty_senders, dirty_gone } = &mut *inner;
            (std::mem::take(dirty_templates), std::mem::take(dirty_senders), std::mem::take(dirty_gone))
        };
        for key in &gone {
            store.remove(key)?;
        }
        for entry in &templates {
            store.insert(&template_key(entry), &put_template(entry))?;
        }
        for entry in &senders {
            store.insert(&sender_key(entry), &put_sender(entry))?;
        }
        self.distrusts.drain(store)
    }
}

fn template_key(entry: &TemplateEntry) -> Vec<u8> {
    store_key(TEMPLATE, &[entry.business.as_str(), &entry.name, &entry.language])
}

fn sender_key(entry: &SenderEntry) -> Vec<u8> {
    store_key(SENDER, &[entry.business.as_str(), entry.sender.as_str()])
}

fn store_key(kind: u8, parts: &[&str]) -> Vec<u8> {
    let mut out = Writer::new(vec![]);
    out.byte(kind);
    parts.iter().for_each(|part| out.text(part));
    out.finish()
}

fn put_template(entry: &TemplateEntry) -> Vec<u8> {
    let TemplateEntry {
        business,
        name,
        language,
        category,
        topic,
        status,
        quality,
        has_opt_out_instructions,
        pause_until,
        time,
    } = entry;
    let mut out = Writer::new(vec![]);
    out.byte(VERSION);
    out.text(business.as_str());
    out.text(name);
    out.text(language);
    out.byte(category.code());
    out.text(topic.as_ref().map_or("", TopicId::as_str));
    out.byte(status.code());
    out.byte(quality.code());
    out.byte(u8::from(*has_opt_out_instructions) | u8::from(pause_until.is_some()) << 1);
    out.time(*time);
    pause_until.iter().for_each(|until| out.time(*until));
    out.finish()
}

fn take_template(bytes: &[u8]) -> Result<TemplateEntry, Damage> {
    let mut input = Reader::new(bytes);
    version(&mut input)?;
    let business = take_business(&mut input)?;
    let name = input.text()?.to_owned();
    let language = input.text()?.to_owned();
    let category = Category::of(input.byte()?)?;
    let topic = match input.text()? {
        "" => None,
        topic => Some(TopicId::new(topic).map_err(|_| Damage("topic"))?),
    };
    let status = TemplateStatus::of(input.byte()?)?;
    let quality = Quality::of(input.byte()?)?;
    let flags = input.byte()?;
    let time = input.time()?;
    let pause_until = if flags & 2 != 0 { Some(input.time()?) } else { None };
    input.end()?;
    let has_opt_out_instructions = flags & 1 != 0;
    Ok(TemplateEntry {
        business,
        name,
        language,
        category,
        topic,
        status,
        quality,
        has_opt_out_instructions,
        pause_until,
        time,
    })
}

fn put_sender(entry: &SenderEntry) -> Vec<u8> {
    let SenderEntry { business, sender, quality, status, status_until, time } = entry;
    let mut out = Writer::new(vec![]);
    out.byte(VERSION);
    out.text(business.as_str());
    out.text(sender.as_str());
    out.byte(quality.code());
    out.byte(status.code());
    out.byte(u8::from(status_until.is_some()));
    out.time(status_until.unwrap_or_default());
    out.time(*time);
    out.finish()
}

fn take_sender(bytes: &[u8]) -> Result<SenderEntry, Damage> {
    let mut input = Reader::new(bytes);
    version(&mut input)?;
    let entry = SenderEntry {
        business: take_business(&mut input)?,
        sender: SenderId::new(input.text()?).map_err(|_| Damage("sender"))?,
        quality: Quality::of(input.byte()?)?,
        status: SenderStatus::of(input.byte()?)?,
        status_until: match (input.byte()?, input.time()?) {
            (0, _) => None,
            (_, until) => Some(until),
        },
        time: input.time()?,
    };
    input.end()?;
    Ok(entry)
}

fn version(input: &mut Reader<'_>) -> Result<(), Damage> {
    if input.byte()? == VERSION { Ok(()) } else { Err(Damage("version")) }
}

fn take_business(input: &mut Reader<'_>) -> Result<BusinessId, Damage> {
    BusinessId::new(input.text()?).map_err(|_| Damage("business"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::store::faulty::Disk;
    use super::*;
    use crate::policy::event::LedgerEntry;
    use crate::policy::strategies;

    proptest! {
        #[test]
        fn whatever_the_order_the_latest_stays_and_reads_back(
            entries in proptest::collection::vec(strategies::ledger_entry(), 1..20)
        ) {
            let put = |registry: &Registry, entry: &LedgerEntry| match entry {
                LedgerEntry::Template(entry) => registry.put_template(entry.clone()),
                LedgerEntry::Sender(entry) => registry.put_sender(entry.clone()),
                LedgerEntry::Distrust { origin, from_sequence, .. } => {
                    registry.distrusts.put(*origin, *from_sequence);
                }
                LedgerEntry::Consent(_) | LedgerEntry::Erasure { .. } => {}
            };
            let (forth, back) = (Registry::default(), Registry::default());
            entries.iter().for_each(|entry| put(&forth, entry));
            entries.iter().rev().for_each(|entry| put(&back, entry));
            let disk = Disk::default();
            forth.drain(&disk.store()).unwrap();
            prop_assert!(!forth.is_dirty());
            let read = Registry::default();
            read.load(&disk.store()).unwrap();
            for other in [&back, &read] {
                prop_assert_eq!(&forth.inner.read().businesses, &other.inner.read().businesses);
                prop_assert_eq!(forth.distrusts.all(), other.distrusts.all());
            }
            for entry in &entries {
                if let LedgerEntry::Template(entry) = entry {
                    let business = entry.business.as_str();
                    let found = forth.template(business, &entry.name, &entry.language).unwrap();
                    prop_assert!(found.time >= entry.time);
                    prop_assert!(forth.templates(business).contains(&found));
                }
                if let LedgerEntry::Sender(entry) = entry {
                    let found = forth.sender(entry.business.as_str(), entry.sender.as_str()).unwrap();
                    prop_assert!(found.time >= entry.time);
                    prop_assert!(forth.senders(entry.business.as_str()).contains(&found));
                }
            }
        }

        /// After a start the store has what was put in place, and nothing of what was there before.
        #[test]
        fn what_is_put_in_place_of_another_is_all_there_is(
            before in proptest::collection::vec(strategies::ledger_entry(), 0..20),
            built in proptest::collection::vec(strategies::ledger_entry(), 0..20),
            drained in any::<bool>(),
        ) {
            let filled = |entries: &[LedgerEntry]| {
                let registry = Registry::default();
                entries.iter().for_each(|entry| match entry {
                    LedgerEntry::Template(entry) => registry.put_template(entry.clone()),
                    LedgerEntry::Sender(entry) => registry.put_sender(entry.clone()),
                    LedgerEntry::Distrust { origin, from_sequence, .. } => {
                        registry.put_distrust(*origin, *from_sequence);
                    }
                    LedgerEntry::Consent(_) | LedgerEntry::Erasure { .. } => {}
                });
                registry
            };
            let forks = |registry: &Registry| registry.distrusts.all();
            let disk = Disk::default();
            let registry = filled(&before);
            if drained {
                registry.drain(&disk.store()).unwrap();
            }
            let expected = filled(&built);
            let differs =
                registry.entries() != expected.entries() || forks(&registry) != forks(&expected);
            prop_assert_eq!(registry.replace(filled(&built)), differs);
            registry.drain(&disk.store()).unwrap();
            let read = Registry::default();
            read.load(&disk.store()).unwrap();
            prop_assert_eq!(read.entries(), expected.entries());
            prop_assert_eq!(registry.entries(), expected.entries());
            prop_assert_eq!(forks(&read), forks(&expected));
            prop_assert_eq!(forks(&registry), forks(&expected));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut versioned = vec![VERSION];
            versioned.extend(bytes);
            let _ = take_template(&versioned);
            let _ = take_sender(&versioned);
        }
    }
}
