//! What each reason means to the person at the keyboard.

use crate::pb::v1::Reason;

/// The reason in words.
#[must_use]
pub const fn of(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "no rule failed",
        Reason::UnknownBusiness => "businesses are configured, and this is not one of them",
        Reason::InvalidRecipient => "the address is not one of its kind; a phone number begins with `+`",
        Reason::Unavailable => "what decides could not be read",
        Reason::UnknownSender => "the sender is not one of the business",
        Reason::OptedOut => "the person opted out, and no opt-in is shown to come after it",
        Reason::ConsentInDoubt => "an ambiguous reply holds marketing back until a clear one",
        Reason::SenderSuspended => "the provider has stopped the sender",
        Reason::TemplateUnknown => "the template is not registered in this language",
        Reason::TemplateNotApproved => "the template's status does not permit sending",
        Reason::RegionBlocked => "such messages are blocked for the number's region",
        Reason::WindowClosed => "a free-form message needs a message of the person within 24 hours",
        Reason::ConsentPending => "the person was asked and has not confirmed",
        Reason::ConsentExpired => "the opt-in has run out",
        Reason::TopicNotCovered => "the person opted in, but not to this",
        Reason::NoConsent => "the person never opted in on this channel",
        Reason::Stale => "this node may not know the newest opt-outs",
        Reason::QuietHours => "it is a quiet hour where the person may be",
        Reason::Cooldown => "the provider asked to wait",
        Reason::FrequencyCap => "the person has had as many such messages as permitted",
        Reason::MessagingLimit => "the portfolio has reached its recipients of 24 hours",
        Reason::PairRate => "too many messages from this sender to this person",
        Reason::SenderRate => "too many messages from this sender",
        Reason::BusinessRate => "too many messages of this business",
    }
}
