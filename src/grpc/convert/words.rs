//! Enumerations, word by word.

use crate::pb::v1;
use crate::policy::state::State;
use crate::policy::types::{
    Category, Channel, ConsentType, EvidenceGrade, InvalidateCause, OptInMethod, OptOutMethod, Quality,
    Reason, SendOutcome, SenderStatus, TemplateStatus,
};

/// Reads and writes one enumeration; both directions are exhaustive where Rust can see it.
macro_rules! words {
    ($read:ident, $write:ident, $domain:ident, $wire:ident { $($variant:ident),+ $(,)? }) => {
        #[doc = concat!("Reads a `", stringify!($domain), "`; `None` where it is unset or unknown.")]
        #[must_use]
        pub fn $read(number: i32) -> Option<$domain> {
            match v1::$wire::try_from(number).ok()? {
                v1::$wire::Unspecified => None,
                $(v1::$wire::$variant => Some($domain::$variant)),+
            }
        }

        #[doc = concat!("Writes a `", stringify!($domain), "`.")]
        #[must_use]
        pub const fn $write(value: $domain) -> v1::$wire {
            match value { $($domain::$variant => v1::$wire::$variant),+ }
        }
    };
}

words!(channel, pb_channel, Channel, Channel { Whatsapp, Sms, Email, Voice });
words!(category, pb_category, Category, Category { Marketing, Utility, Authentication, Service });
words!(
    opt_in_method,
    pb_opt_in_method,
    OptInMethod,
    OptInMethod {
        AgentConversation,
        CustomerRequest,
        WhatsappMenu,
        WhatsappButton,
        SmsKeyword,
        SmsLink,
        EmailLink,
        IvrKeyPress,
        SocialMedia,
        CheckoutFlow,
        PreferenceForm,
        InPerson,
        Other,
    }
);
words!(
    opt_out_method,
    pb_opt_out_method,
    OptOutMethod,
    OptOutMethod {
        Keyword,
        Button,
        UnsubscribeLink,
        WebForm,
        KeyPress,
        Spoken,
        PlatformPreference,
        ProviderFeedback,
        Agent,
        Complaint,
        InWriting,
        Import,
        Unknown,
    }
);
words!(consent_type, pb_consent_type, ConsentType, ConsentType { Express, Implied, SoftOptIn });
words!(evidence_grade, pb_evidence_grade, EvidenceGrade, EvidenceGrade { Basic, Strict });
words!(
    invalidate_cause,
    pb_invalidate_cause,
    InvalidateCause,
    InvalidateCause { NumberChanged, NumberReassigned, WrongNumber, EvidenceFalse }
);
words!(
    template_status,
    pb_template_status,
    TemplateStatus,
    TemplateStatus {
        Approved,
        Pending,
        Rejected,
        InAppeal,
        Paused,
        Disabled,
        Archived,
        Deleted,
        PendingDeletion,
        Unknown,
    }
);
words!(quality, pb_quality, Quality, Quality { Green, Yellow, Red, Unknown });
words!(
    sender_status,
    pb_sender_status,
    SenderStatus,
    SenderStatus { Connected, Pending, Offline, Flagged, Restricted, Banned }
);
words!(send_outcome, pb_send_outcome, SendOutcome, SendOutcome { Sent, Delivered, Read, Failed });
words!(
    reason,
    pb_reason,
    Reason,
    Reason {
        UnknownBusiness,
        InvalidRecipient,
        Unavailable,
        UnknownSender,
        OptedOut,
        ConsentInDoubt,
        SenderSuspended,
        TemplateUnknown,
        TemplateNotApproved,
        RegionBlocked,
        WindowClosed,
        ConsentPending,
        ConsentExpired,
        TopicNotCovered,
        NoConsent,
        Stale,
        QuietHours,
        Cooldown,
        FrequencyCap,
        MessagingLimit,
        PairRate,
        SenderRate,
        BusinessRate,
    }
);

/// Writes a state of consent.
#[must_use]
pub const fn pb_state(state: State) -> v1::ConsentState {
    match state {
        State::None => v1::ConsentState::None,
        State::OptedIn => v1::ConsentState::OptedIn,
        State::Pending => v1::ConsentState::Pending,
        State::OptedOut => v1::ConsentState::OptedOut,
        State::InDoubt => v1::ConsentState::InDoubt,
        State::Expired => v1::ConsentState::Expired,
        State::Invalidated => v1::ConsentState::Invalidated,
        State::NotCovered => v1::ConsentState::NotCovered,
    }
}
