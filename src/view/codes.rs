//! The field's words as numbers. A number once given is never given to another word: views written before
//! would be misread. A new word takes the next one.

use super::bytes::Damage;
use crate::policy::record::AboutKind;
use crate::policy::types::{
    Category, Channel, ConsentType, EvidenceGrade, OptInMethod, Quality, SenderStatus, TemplateStatus,
};

/// A word that is kept as a number below 32.
pub trait Code: Sized + Copy {
    /// Its number.
    fn code(self) -> u8;
    /// The word numbered so.
    fn of(code: u8) -> Result<Self, Damage>;
}

macro_rules! codes {
    ($name:ident $what:literal { $($variant:ident = $code:literal),+ $(,)? }) => {
        impl Code for $name {
            fn code(self) -> u8 {
                match self { $(Self::$variant => $code),+ }
            }

            fn of(code: u8) -> Result<Self, Damage> {
                match code { $($code => Ok(Self::$variant),)+ _ => Err(Damage($what)) }
            }
        }
    };
}

codes! { Channel "channel" { Whatsapp = 1, Sms = 2, Email = 3, Voice = 4 } }
codes! { Category "category" { Marketing = 1, Utility = 2, Authentication = 3, Service = 4 } }
codes! { ConsentType "consent type" { Express = 1, Implied = 2, SoftOptIn = 3 } }
codes! { EvidenceGrade "grade" { Basic = 1, Strict = 2 } }
codes! { AboutKind "kind" { OptOutConfirmation = 1, OptInConfirmation = 2, Question = 3, HelpAnswer = 4 } }
codes! { Quality "quality" { Green = 1, Unknown = 2, Yellow = 3, Red = 4 } }
codes! { OptInMethod "method" {
    AgentConversation = 1, CustomerRequest = 2, WhatsappMenu = 3, WhatsappButton = 4, SmsKeyword = 5,
    SmsLink = 6, EmailLink = 7, IvrKeyPress = 8, SocialMedia = 9, CheckoutFlow = 10, PreferenceForm = 11,
    InPerson = 12, Other = 13,
} }
codes! { TemplateStatus "template status" {
    Approved = 1, Pending = 2, Rejected = 3, InAppeal = 4, Paused = 5, Disabled = 6, Archived = 7,
    Deleted = 8, PendingDeletion = 9, Unknown = 10,
} }
codes! { SenderStatus "sender status" {
    Connected = 1, Flagged = 2, Pending = 3, Offline = 4, Restricted = 5, Banned = 6,
} }

/// The number of a word that may be absent.
pub fn optional<C: Code>(value: Option<C>) -> u8 {
    value.map_or(0, C::code)
}

/// The word that may be absent.
pub fn optional_of<C: Code>(code: u8) -> Result<Option<C>, Damage> {
    if code == 0 { Ok(None) } else { C::of(code).map(Some) }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn check<C: Code + PartialEq + Debug>(all: &[C]) {
        let mut seen = std::collections::BTreeSet::new();
        for value in all {
            assert_eq!(C::of(value.code()), Ok(*value));
            assert!(seen.insert(value.code()) && value.code() < 32 && value.code() > 0);
        }
        assert!(C::of(0).is_err() && C::of(31).is_err());
    }

    #[test]
    fn every_word_has_a_number_of_its_own() {
        check(Channel::ALL);
        check(Category::ALL);
        check(ConsentType::ALL);
        check(EvidenceGrade::ALL);
        check(Quality::ALL);
        check(OptInMethod::ALL);
        check(TemplateStatus::ALL);
        check(SenderStatus::ALL);
    }
}
