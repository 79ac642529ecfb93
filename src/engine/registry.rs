//! Templates and senders: what the provider says of them, kept in the ledger like everything that decides.

use std::sync::Arc;

use crate::ledger::Entry;
use crate::policy::event::{LedgerEntry, SenderEntry, TemplateEntry};
use crate::policy::evidence::Personal;
use crate::policy::ids::EventId;
use crate::policy::time::Timestamp;

use super::book::normal_language;
use super::codec;
use super::error::EngineError;
use super::stripes::Turn;
use super::{Engine, Inner, Log};

/// The longest template name, in bytes, as Meta has it.
pub const TEMPLATE_NAME_LEN_MAX: usize = 512;
/// The longest language code, in bytes.
pub const LANGUAGE_LEN_MAX: usize = 16;
/// How many templates a business may register here.
pub const TEMPLATES_MAX: usize = 10_000;
/// How many senders a business may have here.
pub const SENDERS_MAX: usize = 10_000;

impl Engine {
    /// Registers a template, or changes it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn put_template(
        &self,
        mut template: TemplateEntry,
    ) -> Result<(TemplateEntry, EventId), EngineError> {
        let inner = &self.inner;
        inner.serving()?;
        let book = inner.book();
        let business = template.business.as_str();
        let rules = book.rules(business).ok_or(EngineError::UnknownBusiness)?;
        if template.name.is_empty() || template.name.len() > TEMPLATE_NAME_LEN_MAX {
            let why = format!("must have 1 to {TEMPLATE_NAME_LEN_MAX} bytes");
            return Err(EngineError::field("template.name", why));
        }
        if template.language.is_empty() || template.language.len() > LANGUAGE_LEN_MAX {
            return Err(EngineError::field("template.language", "give a language code such as `en_US`"));
        }
        if let Some(topic) = template.topic.as_ref().filter(|_| rules.is_configured())
            && rules.category_of(topic).is_none()
        {
            let why = format!("`{topic}` is not a topic of the business; configure it under `topics`");
            return Err(EngineError::field("template.topic", why));
        }
        template.language = normal_language(&template.language).into_owned();
        let known = inner.view.template(business, &template.name, &template.language);
        if known.is_none() && inner.view.templates(business).len() >= TEMPLATES_MAX {
            let why = format!("the business has {TEMPLATES_MAX} templates here already");
            return Err(EngineError::field("template.name", why));
        }
        template.time = after(inner.clock.now(), known.map(|known| known.time));
        let event = inner.append_entry(LedgerEntry::Template(template.clone()), false).await?;
        Ok((template, event))
    }

    /// The templates of `business`: those registered, and those that only configuration knows.
    #[must_use]
    pub fn templates(&self, business: &str) -> Vec<Arc<TemplateEntry>> {
        let mut templates = self.inner.view.templates(business);
        let book = self.inner.book();
        for seed in book.seeds(business) {
            if !templates.iter().any(|known| known.name == seed.name && known.language == seed.language) {
                templates.push(Arc::clone(seed));
            }
        }
        templates.sort_by(|a, b| (&a.name, &a.language).cmp(&(&b.name, &b.language)));
        templates
    }

    /// Sets what the provider says of a sender.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn put_sender(&self, mut sender: SenderEntry) -> Result<(SenderEntry, EventId), EngineError> {
        let inner = &self.inner;
        inner.serving()?;
        let book = inner.book();
        let business = sender.business.as_str();
        let rules = book.rules(business).ok_or(EngineError::UnknownBusiness)?;
        if !rules.senders.is_empty() && !rules.senders.contains(&sender.sender) {
            return Err(EngineError::field("sender.sender_id", "is not among the business's `senders`"));
        }
        let known = inner.view.sender(business, sender.sender.as_str());
        if known.is_none() && inner.view.senders(business).len() >= SENDERS_MAX {
            let why = format!("the business has {SENDERS_MAX} senders here already");
            return Err(EngineError::field("sender.sender_id", why));
        }
        sender.time = after(inner.clock.now(), known.map(|known| known.time));
        let event = inner.append_entry(LedgerEntry::Sender(sender.clone()), false).await?;
        Ok((sender, event))
    }

    /// The senders of `business` whose state was reported.
    #[must_use]
    pub fn senders(&self, business: &str) -> Vec<Arc<SenderEntry>> {
        self.inner.view.senders(business)
    }
}

/// `now`, or as soon after `known` as can be: what is set later must win although the clock stood still or went back.
pub(super) fn after(now: Timestamp, known: Option<Timestamp>) -> Timestamp {
    known.map_or(now, |known| now.max(known.plus_ms(1)))
}

impl Inner {
    /// Appends an entry that has no personal fields.
    pub(super) async fn append_entry(
        &self,
        entry: LedgerEntry,
        priority: bool,
    ) -> Result<EventId, EngineError> {
        let ledger = match &self.log {
            Log::Ledger(ledger) => ledger,
            Log::Edge(edge) => {
                let (none, mut turn) = (Personal::default(), Turn::default());
                return self.submit(edge, entry, &none, priority, None, &mut turn).await;
            }
        };
        let entry = Entry { payload: codec::encode_entry(&entry), blob: None, priority, bulk: false };
        Ok(ledger.append(entry)?.await?.id)
    }
}
