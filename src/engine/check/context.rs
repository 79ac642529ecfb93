//! What a check reads besides the person: the template, the sender, zones, limits, and how much is known here.

use std::borrow::Cow;
use std::sync::Arc;

use crate::address::{self, Address};
use crate::policy::check::{self, Content, Facts, Send, Verdict};
use crate::policy::event::{SenderEntry, TemplateEntry};
use crate::policy::ids::Identifier;
use crate::policy::rules::{ChannelLimits, Rules};
use crate::policy::standing::Known;
use crate::policy::time::Timestamp;
use crate::policy::types::Quality;
use crate::view::Person;

use super::super::Inner;
use super::super::book::{Book, normal_language};
use super::super::decision;
use super::super::people::Identity;
use super::{CheckRequest, RequestedContent};

/// What a check needs besides the person.
pub(super) struct Context<'a> {
    template: Option<Arc<TemplateEntry>>,
    /// As configuration knows it, where nothing else does.
    seed: Option<&'a TemplateEntry>,
    pub(super) template_key: Option<(&'a str, Cow<'a, str>)>,
    sender: Option<Arc<SenderEntry>>,
    pub(super) quality: Quality,
    region: Option<[u8; 2]>,
    zones: Zones,
    pub(super) limits: ChannelLimits,
    pub(super) portfolio_recipient: [u8; 16],
    stale: bool,
    unseen_write: bool,
}

/// Where the person may be.
enum Zones {
    One(jiff::tz::TimeZone),
    Candidates(&'static [jiff::tz::TimeZone]),
    Unknown,
}

impl Zones {
    fn of(request: &CheckRequest, rules: &Rules, address: &Address) -> Self {
        // Only quiet hours ask for zones.
        if rules.quiet_hours.is_empty() {
            return Self::Unknown;
        }
        if let Some(zone) = &request.time_zone {
            return Self::One(zone.clone());
        }
        let candidates = address::zones(address).resolved();
        if !candidates.is_empty() {
            return Self::Candidates(candidates);
        }
        let default = rules.default_time_zone.as_deref().and_then(|name| address::resolve_zone(name).ok());
        default.map_or(Self::Unknown, Self::One)
    }

    const fn as_slice(&self) -> &[jiff::tz::TimeZone] {
        match self {
            Self::One(zone) => std::slice::from_ref(zone),
            Self::Candidates(zones) => zones,
            Self::Unknown => &[],
        }
    }
}

impl<'a> Context<'a> {
    pub(super) fn of(
        inner: &Inner,
        request: &'a CheckRequest,
        rules: &Rules,
        book: &'a Book,
        address: &Address,
        identity: &Identity,
    ) -> Self {
        // Before anything is read: what is read later may only be newer.
        let unseen_write = request.at_least_as_fresh.is_some_and(|token| !inner.vector.reaches(token));
        let business = request.business.as_str();
        let template_key = match &request.content {
            RequestedContent::Template { name, language } => Some((name.as_str(), normal_language(language))),
            RequestedContent::Message { .. } => None,
        };
        let asked = template_key.as_ref().map(|(name, language)| (*name, &**language));
        let (template, sender) = inner.view.template_and_sender(business, asked, &request.sender);
        let seed = asked.filter(|_| template.is_none());
        let seed = seed.and_then(|(name, language)| book.seed(business, name, language));
        let limits = rules.limits.get(&request.channel).copied().unwrap_or_default();
        let stale = inner.replica.is_stale(inner.clock.mono_ms());
        #[cfg(sabotage)]
        let stale = stale && !crate::sabotage::is("staleness-ignored");
        let asks_region = !rules.region_blocks.is_empty();
        Self {
            template,
            seed: seed.map(|seed| &**seed),
            template_key,
            sender,
            quality: if limits.business_per_hour.is_some() {
                inner.worst_quality(business)
            } else {
                Quality::Unknown
            },
            region: if asks_region { address::region(address).map(|region| region.0) } else { None },
            zones: Zones::of(request, rules, address),
            limits,
            portfolio_recipient: inner.portfolio_recipient(rules, address, &identity.own),
            stale,
            unseen_write,
        }
    }

    pub(super) fn verdict(
        &self,
        request: &CheckRequest,
        rules: &Rules,
        person: &Person,
        others: &[Known<'_>],
        now: Timestamp,
    ) -> Verdict {
        let content = match &request.content {
            RequestedContent::Template { .. } => Content::Template,
            RequestedContent::Message { category, topic } => {
                Content::Message { category: *category, topic: topic.as_ref() }
            }
        };
        let send = Send {
            sender: &request.sender,
            channel: request.channel,
            content,
            about: request.about,
            explain: request.explain,
        };
        let facts = Facts {
            own: &person.record,
            usage: &person.usage,
            others,
            template: self.template.as_deref().or(self.seed),
            sender: self.sender.as_deref(),
            region: self.region,
            zones: self.zones.as_slice(),
            stale: self.stale,
            unseen_write: self.unseen_write,
        };
        check::check(&send, &facts, rules, now)
    }
}

impl Inner {
    /// The person as every business of the portfolio knows them.
    fn portfolio_recipient(&self, rules: &Rules, address: &Address, own: &Identifier) -> [u8; 16] {
        match rules.portfolio.as_deref() {
            Some(portfolio) => {
                self.key.mac16("portfolio", &[portfolio.as_bytes(), address.as_str().as_bytes()])
            }
            // A business that is alone needs no second name for the person.
            None => decision::of_business(own),
        }
    }

    /// The worst quality among the senders of `business`.
    fn worst_quality(&self, business: &str) -> Quality {
        let senders = self.view.senders(business);
        senders.iter().map(|sender| sender.quality).max().unwrap_or(Quality::Unknown)
    }
}
