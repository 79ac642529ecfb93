//! The words' numbers on disk. Both directions are spelt out, so that a new word does not compile until it has a number.

use super::PayloadFault;
use crate::pb::ledger::v1 as pb;
use crate::policy::types::{
    Category, Channel, ConsentType, EvidenceGrade, InvalidateCause, OptInMethod, OptOutMethod, Quality,
    SenderStatus, TemplateStatus,
};

/// A word with a number on disk.
pub(super) trait Word: Sized {
    /// Its number.
    fn number(self) -> i32;

    /// The word of a number; `None` for one that is unspecified or unknown.
    fn known(number: i32) -> Option<Self>;

    /// The word of a number.
    ///
    /// # Errors
    /// When the number is unspecified or unknown; `field` names it.
    fn read(number: i32, field: &'static str) -> Result<Self, PayloadFault> {
        Self::known(number).ok_or(PayloadFault::Unknown { field })
    }

    /// The word of a number, or none where it is unspecified.
    ///
    /// # Errors
    /// When the number is unknown; `field` names it.
    fn read_optional(number: i32, field: &'static str) -> Result<Option<Self>, PayloadFault> {
        if number == 0 { Ok(None) } else { Self::read(number, field).map(Some) }
    }
}

macro_rules! words {
    ($($name:ident { $($variant:ident),+ } besides { $($other:ident),+ })+) => {
        $(impl Word for $name {
            fn number(self) -> i32 {
                match self { $(Self::$variant => pb::$name::$variant as i32),+ }
            }

            fn known(number: i32) -> Option<Self> {
                match pb::$name::try_from(number).ok()? {
                    $(pb::$name::$variant => Some(Self::$variant),)+
                    $(pb::$name::$other)|+ => None,
                }
            }
        })+
    };
}

words! {
    Channel { Whatsapp, Sms, Email, Voice } besides { Unspecified, Every }
    Category { Marketing, Utility, Authentication, Service } besides { Unspecified }
    OptInMethod {
        AgentConversation, CustomerRequest, WhatsappMenu, WhatsappButton, SmsKeyword, SmsLink, EmailLink, IvrKeyPress,
        SocialMedia, CheckoutFlow, PreferenceForm, InPerson, Other
    } besides { Unspecified }
    OptOutMethod {
        Keyword, Button, UnsubscribeLink, WebForm, KeyPress, Spoken, PlatformPreference, ProviderFeedback, Agent,
        Complaint, InWriting, Import, Unknown
    } besides { Unspecified }
    ConsentType { Express, Implied, SoftOptIn } besides { Unspecified }
    EvidenceGrade { Basic, Strict } besides { Unspecified }
    InvalidateCause { NumberChanged, NumberReassigned, WrongNumber, EvidenceFalse } besides { Unspecified }
    TemplateStatus {
        Approved, Pending, Rejected, InAppeal, Paused, Disabled, Archived, Deleted, PendingDeletion, Unknown
    } besides { Unspecified }
    Quality { Green, Unknown, Yellow, Red } besides { Unspecified }
    SenderStatus { Connected, Flagged, Pending, Offline, Restricted, Banned } besides { Unspecified }
}
