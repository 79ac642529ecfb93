//! The rules in force, with what is derived from them once instead of at every check.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use crate::policy::event::TemplateEntry;
use crate::policy::ids::BusinessId;
use crate::policy::rules::{RuleBook, Rules};
use crate::policy::time::Timestamp;
use crate::policy::types::Quality;

/// Templates by name; of one name few languages.
type Seeds = HashMap<String, Vec<Arc<TemplateEntry>>>;

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Book {
    rules: RuleBook,
    businesses: HashMap<BusinessId, Derived>,
    /// Of businesses that are not configured.
    instructions: String,
}

/// What is derived for a business that is configured.
#[derive(Clone, Debug)]
struct Derived {
    seeds: Seeds,
    instructions: String,
}

impl Book {
    /// Derives what is needed from `rules`.
    #[must_use]
    pub fn new(rules: RuleBook) -> Self {
        let derived = |business: &BusinessId, rules: &Rules| Derived {
            seeds: seeds_of(business, rules),
            instructions: instructions_of(rules),
        };
        let businesses = rules.businesses.iter();
        let businesses = businesses.map(|(id, rules)| (id.clone(), derived(id, rules))).collect();
        let instructions = instructions_of(&rules.defaults);
        Self { rules, businesses, instructions }
    }

    /// The rules of `business`; `None` where businesses are configured and this is not one.
    #[must_use]
    pub fn rules(&self, business: &str) -> Option<&Arc<Rules>> {
        self.rules.of(business)
    }

    /// The rules of businesses that are not configured.
    #[must_use]
    pub const fn defaults(&self) -> &Arc<Rules> {
        &self.rules.defaults
    }

    /// All of them.
    #[must_use]
    pub const fn all(&self) -> &RuleBook {
        &self.rules
    }

    /// The version that decisions quote.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.rules.version
    }

    /// A template that configuration knows, until the registry learns better.
    #[must_use]
    pub fn seed(&self, business: &str, name: &str, language: &str) -> Option<&Arc<TemplateEntry>> {
        let seeds = self.businesses.get(business)?.seeds.get(name)?;
        seeds.iter().find(|seed| seed.language == language)
    }

    /// All templates that configuration knows of `business`.
    pub fn seeds(&self, business: &str) -> impl Iterator<Item = &Arc<TemplateEntry>> {
        self.businesses.get(business).into_iter().flat_map(|known| known.seeds.values()).flatten()
    }

    /// How messages of `business` tell people to opt out, where they must.
    #[must_use]
    pub fn instructions(&self, business: &str) -> &str {
        self.businesses.get(business).map_or(&self.instructions, |known| &known.instructions)
    }
}

fn instructions_of(rules: &Rules) -> String {
    match &rules.display_name {
        Some(name) => format!("Reply STOP to end messages from {name}."),
        None => "Reply STOP to end messages.".to_owned(),
    }
}

fn seeds_of(business: &BusinessId, rules: &Rules) -> Seeds {
    let entry = |seed: &crate::policy::rules::TemplateSeed| TemplateEntry {
        business: business.clone(),
        name: seed.name.clone(),
        language: normal_language(&seed.language).into_owned(),
        category: seed.category,
        topic: seed.topic.clone(),
        status: seed.status,
        quality: Quality::Unknown,
        has_opt_out_instructions: seed.has_opt_out_instructions,
        pause_until: None,
        time: Timestamp::MIN,
    };
    let mut seeds = Seeds::new();
    for seed in &rules.templates {
        seeds.entry(seed.name.clone()).or_default().push(Arc::new(entry(seed)));
    }
    seeds
}

/// The form in which languages are kept: webhooks write `en-US`, send calls `en_US`.
#[must_use]
pub fn normal_language(language: &str) -> Cow<'_, str> {
    // Most callers write it so already, and every check of a template asks.
    if language.contains('-') { language.replace('-', "_").into() } else { language.into() }
}
