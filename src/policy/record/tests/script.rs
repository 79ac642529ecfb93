//! What a person does, and what becomes of the reports: the scripts that the worlds play.

use crate::policy::event::Change;
use crate::policy::ids::{BusinessId, EventId, TopicId};
use crate::policy::recorder::{self, Refusal, Source};
use crate::policy::report::{InvalidateReport, OptInReport, OptOutReport, Report, RequestReport};
use crate::policy::rules::Rules;
use crate::policy::standing::Known;
use crate::policy::strategies::opt_in_by_form;
use crate::policy::time::{MINUTE_MS, Timestamp};
use crate::policy::types::{Category, Channel, EvidenceGrade, InvalidateCause, OptOutMethod};

/// The most by which clocks may differ, itself excluded.
pub(super) const MARGIN_MS: i64 = 5 * MINUTE_MS;
/// Whose clock is which in [`Script::skew_ms`].
pub(super) const CLOCKS: usize = 4;
pub(super) const CALLER: usize = 0;
pub(super) const PROVIDER: usize = 1;
pub(super) const FIRST_NODE: usize = 2;

/// What an opt-out reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Everything,
    Whatsapp,
    WhatsappMarketing,
    WhatsappOffers,
    Sms,
}

/// What an opt-in reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    WhatsappOffers,
    WhatsappMarketing,
    OffersOnBoth,
    WhatsappOffersAndDelivery,
}

/// When the caller looks up the opt-outs that the person acted after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    Nothing,
    WhenActed,
    WhenReported,
}

/// What the person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Opts out with the business, whose systems report it.
    Stop(Reach),
    /// The same, with a stated time of 1970: a default that somebody forgot to fill in.
    MisdatedStop(Reach),
    /// Opts out with the platform, whose signature vouches for the time.
    SignedStop(Reach),
    /// Writes STOP; `signed` where it comes by webhook.
    StopMessage { channel: Channel, signed: bool },
    /// Writes START.
    Start(Channel),
    /// Opts in.
    OptIn { grant: Grant, naming: Naming },
    /// Asks, and is asked to confirm.
    Request(Grant),
    /// Confirms the latest question asked.
    Confirm,
    /// Turns out never to have agreed.
    Void,
    /// Opted out at another system, from which it is imported.
    ImportedStop(Reach),
    /// Opted in at another system, from which it is imported.
    ImportedOptIn(Grant),
}

/// One report of an act.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) node: usize,
    /// After the act.
    pub(super) delay_ms: i64,
}

/// One act, and what becomes of its reports.
#[derive(Clone, Debug)]
pub(super) struct Act {
    pub(super) what: What,
    /// Since the script's beginning.
    pub(super) at_ms: i64,
    /// In which order and to whom: the first, and its retries.
    pub(super) arrivals: Vec<Arrival>,
}

/// Everything that happens.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) acts: Vec<Act>,
    /// By how much each clock is wrong: the callers', the provider's, the nodes'.
    pub(super) skew_ms: [i64; CLOCKS],
    /// How long the n-th event takes to the other node.
    pub(super) relay_ms: Vec<i64>,
}

pub(super) const SUBJECTS: [(Channel, Category, Option<&str>); 4] = [
    (Channel::Whatsapp, Category::Marketing, Some("offers")),
    (Channel::Whatsapp, Category::Marketing, None),
    (Channel::Sms, Category::Marketing, Some("offers")),
    (Channel::Whatsapp, Category::Utility, Some("delivery")),
];

impl Reach {
    /// Which of [`SUBJECTS`] it ends, spelt out: the world must not ask the code under test.
    pub(super) const fn touches(self) -> [bool; SUBJECTS.len()] {
        match self {
            Self::Everything => [true, true, true, true],
            Self::Whatsapp => [true, true, false, true],
            Self::WhatsappMarketing | Self::WhatsappOffers => [true, true, false, false],
            Self::Sms => [false, false, true, false],
        }
    }

    pub(super) fn report(self, occurred: Timestamp) -> OptOutReport {
        let (channels, topics, categories) = match self {
            Self::Everything => (vec![], vec![], vec![]),
            Self::Whatsapp => (vec![Channel::Whatsapp], vec![], vec![]),
            Self::WhatsappMarketing => (vec![Channel::Whatsapp], vec![], vec![Category::Marketing]),
            Self::WhatsappOffers => (vec![Channel::Whatsapp], vec![topic("offers")], vec![]),
            Self::Sms => (vec![Channel::Sms], vec![], vec![]),
        };
        OptOutReport {
            channels,
            topics,
            categories,
            method: OptOutMethod::WebForm,
            text: String::new(),
            occurred: Some(occurred),
        }
    }
}

impl Grant {
    /// Which of [`SUBJECTS`] it permits.
    pub(super) const fn permits(self) -> [bool; SUBJECTS.len()] {
        match self {
            Self::WhatsappOffers => [true, false, false, false],
            Self::WhatsappMarketing => [true, true, false, false],
            Self::OffersOnBoth => [true, false, true, false],
            Self::WhatsappOffersAndDelivery => [true, false, false, true],
        }
    }

    pub(super) fn report(self, occurred: Timestamp, supersedes: Vec<EventId>) -> OptInReport {
        let both = vec![Channel::Whatsapp, Channel::Sms];
        let (channels, topics, categories) = match self {
            Self::WhatsappOffers => (vec![Channel::Whatsapp], vec![topic("offers")], vec![]),
            Self::WhatsappMarketing => (vec![Channel::Whatsapp], vec![], vec![Category::Marketing]),
            Self::OffersOnBoth => (both, vec![topic("offers")], vec![]),
            Self::WhatsappOffersAndDelivery => {
                (vec![Channel::Whatsapp], vec![topic("offers"), topic("delivery")], vec![])
            }
        };
        OptInReport { channels, topics, categories, supersedes, ..opt_in_by_form(occurred) }
    }
}

impl What {
    /// Which subjects it ends.
    pub(super) const fn touches(self) -> [bool; SUBJECTS.len()] {
        match self {
            Self::Stop(reach)
            | Self::MisdatedStop(reach)
            | Self::SignedStop(reach)
            | Self::ImportedStop(reach) => reach.touches(),
            Self::StopMessage { channel: Channel::Whatsapp, .. } => Reach::Whatsapp.touches(),
            Self::StopMessage { .. } => Reach::Sms.touches(),
            Self::Void => Reach::Everything.touches(),
            Self::Start(_)
            | Self::OptIn { .. }
            | Self::Request(_)
            | Self::Confirm
            | Self::ImportedOptIn(_) => [false; SUBJECTS.len()],
        }
    }

    pub(super) const fn ends_something(self) -> bool {
        let touches = self.touches();
        touches[0] || touches[1] || touches[2] || touches[3]
    }
}

/// An act as it is reported: its times by the clocks that tell them, and what its caller looked up.
#[derive(Clone, Copy)]
pub(super) struct Reported<'a> {
    /// When the person acted, by the caller's clock.
    pub(super) by_caller: Timestamp,
    /// The same by the provider's.
    pub(super) by_provider: Timestamp,
    /// When it arrives, by the recorder's.
    pub(super) now: Timestamp,
    /// The opt-outs that an opt-in names.
    pub(super) named: &'a [EventId],
    /// The question that a confirmation answers.
    pub(super) asked: Option<EventId>,
}

impl Reported<'_> {
    /// What the recorder makes of it.
    ///
    /// # Errors
    /// When it refuses.
    pub(super) fn changes(
        self,
        what: What,
        known: &[Known<'_>],
        rules: &Rules,
    ) -> Result<Vec<Change>, Refusal> {
        let Self { by_caller, by_provider, now, named, asked } = self;
        let record = |report: Report, source| {
            recorder::record(&[report], known, source, rules, now).map(|recorded| recorded.changes)
        };
        match what {
            What::Stop(reach) => record(Report::OptOut(reach.report(by_caller)), Source::Caller),
            What::MisdatedStop(reach) => record(Report::OptOut(reach.report(Timestamp(0))), Source::Caller),
            What::SignedStop(reach) => record(Report::OptOut(reach.report(by_provider)), Source::Signed),
            What::ImportedStop(reach) => record(Report::OptOut(reach.report(by_caller)), Source::Import),
            What::StopMessage { channel, signed } => {
                let reach = if channel == Channel::Sms { Reach::Sms } else { Reach::Whatsapp };
                let source = if signed { Source::Signed } else { Source::Caller };
                let mut changes = record(Report::OptOut(reach.report(by_provider)), source)?;
                for change in &mut changes {
                    if let Change::OptOut(out) = change {
                        out.inbound = Some((channel, by_provider));
                    }
                }
                Ok(changes)
            }
            What::Start(channel) => {
                let renewed = recorder::renew(channel, by_provider, known, rules, now);
                Ok(renewed.into_iter().map(Change::OptIn).collect())
            }
            What::OptIn { grant, .. } => {
                record(Report::OptIn(grant.report(by_caller, named.to_vec())), Source::Caller)
            }
            What::ImportedOptIn(grant) => {
                record(Report::OptIn(grant.report(by_caller, Vec::new())), Source::Import)
            }
            What::Request(grant) => {
                let opt_in = grant.report(by_caller, Vec::new());
                let request = RequestReport { via: Some(Channel::Whatsapp), opt_in, expire: None };
                record(Report::Request(request), Source::Caller)
            }
            What::Confirm => {
                let confirmed = asked.and_then(|request| {
                    recorder::confirm(request, Channel::Whatsapp, by_provider, by_provider, known, rules, now)
                });
                Ok(confirmed.map(Change::OptIn).into_iter().collect())
            }
            What::Void => record(
                Report::Invalidate(InvalidateReport {
                    cause: InvalidateCause::EvidenceFalse,
                    channels: Vec::new(),
                    topics: Vec::new(),
                    categories: Vec::new(),
                    occurred: Some(by_caller),
                }),
                Source::Caller,
            ),
        }
    }
}

pub(super) fn topic(text: &str) -> TopicId {
    TopicId::new(text).unwrap()
}

pub(super) fn rules() -> Rules {
    Rules {
        business_id: Some(BusinessId::new("acme").unwrap()),
        topics: [(topic("offers"), Category::Marketing), (topic("delivery"), Category::Utility)].into(),
        evidence: EvidenceGrade::Basic,
        clock_margin_ms: MARGIN_MS,
        ..Rules::built_in()
    }
}
