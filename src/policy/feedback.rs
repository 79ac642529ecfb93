//! What a provider's error codes teach (domain §6). Codes are matched, never titles, which Meta changes.

use super::rules::SpanMs;
use super::time::{DAY_MS, MINUTE_MS};
use super::types::{Channel, TemplateStatus};

/// How long an account is left alone after a refusal without a stated end.
const ACCOUNT_WAIT_MS: SpanMs = DAY_MS;

/// What follows from a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// The person stopped marketing from this sender: an opt-out.
    MarketingStopped,
    /// No message of the person within 24 h.
    WindowClosed,
    /// Marketing to this person waits as configured.
    RecipientMarketingCooldown,
    /// The sender waits as configured.
    SenderCooldown,
    /// The sender waits this long.
    SenderWait(SpanMs),
    /// The sender waits 4^X s.
    SenderBackOff,
    /// The sender waits 4^X s with this person.
    PairBackOff,
    /// The business waits 4^X s.
    BusinessBackOff,
    /// The business waits this long.
    BusinessWait(SpanMs),
    /// The provider stopped the sender.
    SenderStopped,
    /// The template has this status.
    TemplateIs(TemplateStatus),
}

/// What `code`, reported for a message on `channel`, teaches. An unknown code teaches nothing.
#[must_use]
pub fn lessons(code: &str, channel: Channel) -> &'static [Lesson] {
    if channel != Channel::Whatsapp {
        return &[];
    }
    match code {
        "131050" => &[Lesson::MarketingStopped],
        "131047" => &[Lesson::WindowClosed],
        "131048" => &[Lesson::SenderCooldown],
        "131049" => &[Lesson::RecipientMarketingCooldown],
        "131056" => &[Lesson::PairBackOff],
        "130429" => &[Lesson::SenderBackOff],
        "131057" => &[Lesson::SenderWait(MINUTE_MS)],
        "131064" => &[Lesson::BusinessWait(ACCOUNT_WAIT_MS)],
        "131031" | "368" => &[Lesson::SenderStopped],
        "132001" => &[Lesson::TemplateIs(TemplateStatus::Unknown)],
        "132007" => &[Lesson::TemplateIs(TemplateStatus::Rejected)],
        "132015" => &[Lesson::TemplateIs(TemplateStatus::Paused)],
        "132016" => &[Lesson::TemplateIs(TemplateStatus::Disabled)],
        "4" | "80007" => &[Lesson::BusinessBackOff],
        _ => &[],
    }
}

/// Whether `code` is one whose effect is known; others are only counted.
#[must_use]
pub fn is_known(code: &str, channel: Channel) -> bool {
    !lessons(code, channel).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_whatsapp_only() {
        assert_eq!(lessons("131050", Channel::Whatsapp), [Lesson::MarketingStopped]);
        assert_eq!(lessons("131050", Channel::Sms), []);
        assert!(!is_known("131051", Channel::Whatsapp));
        assert!(!is_known("", Channel::Whatsapp));
    }
}
