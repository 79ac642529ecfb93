//! The wire's enums as the words people type and read: `WHATSAPP` for `CHANNEL_WHATSAPP`.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::marker::PhantomData;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, Command};

use crate::pb::v1;

/// An enum of the wire whose values have words.
pub trait Word: Copy + PartialEq + Send + Sync + 'static {
    /// What every name on the wire begins with.
    const PREFIX: &'static str;

    /// The name on the wire.
    fn name(self) -> &'static str;

    /// The value of a name on the wire.
    fn from_name(name: &str) -> Option<Self>;

    /// The value of a number on the wire.
    fn from_number(number: i32) -> Option<Self>;

    /// The word for people.
    fn word(self) -> &'static str {
        self.name().strip_prefix(Self::PREFIX).unwrap_or_else(|| self.name())
    }

    /// The value of a word, in any case and with `-` for `_`.
    fn from_word(word: &str) -> Option<Self> {
        Self::from_name(&format!("{}{}", Self::PREFIX, word.trim().to_uppercase().replace('-', "_")))
    }
}

macro_rules! words {
    ($($name:ident $prefix:literal),+ $(,)?) => {
        $(impl Word for v1::$name {
            const PREFIX: &'static str = $prefix;

            fn name(self) -> &'static str {
                self.as_str_name()
            }

            fn from_name(name: &str) -> Option<Self> {
                Self::from_str_name(name)
            }

            fn from_number(number: i32) -> Option<Self> {
                Self::try_from(number).ok()
            }
        })+
    };
}

words!(
    ActorKind "ACTOR_KIND_",
    Category "CATEGORY_",
    Channel "CHANNEL_",
    ConsentState "CONSENT_STATE_",
    ConsentType "CONSENT_TYPE_",
    Decision "DECISION_",
    Durability "DURABILITY_",
    EvidenceGrade "EVIDENCE_GRADE_",
    InvalidateCause "INVALIDATE_CAUSE_",
    Obligation "OBLIGATION_",
    OptInMethod "OPT_IN_METHOD_",
    OptOutMethod "OPT_OUT_METHOD_",
    Quality "QUALITY_",
    Reason "REASON_",
    SenderStatus "SENDER_STATUS_",
    TemplateStatus "TEMPLATE_STATUS_",
);

/// Every word but that of the value zero, which is never meant.
pub fn all<T: Word>() -> Vec<&'static str> {
    (1..).map_while(T::from_number).map(T::word).collect()
}

/// The word of a number; the number itself where this version does not know it.
pub fn of<T: Word>(number: i32) -> Cow<'static, str> {
    match T::from_number(number) {
        Some(value) => Cow::Borrowed(value.word()),
        None => Cow::Owned(number.to_string()),
    }
}

/// The word of a number; empty for the value zero.
pub fn some<T: Word>(number: i32) -> Cow<'static, str> {
    if number == 0 { Cow::Borrowed("") } else { of::<T>(number) }
}

/// The words of numbers, with `separator` between them.
pub fn join<T: Word>(numbers: &[i32], separator: &str) -> String {
    numbers.iter().map(|number| of::<T>(*number)).collect::<Vec<_>>().join(separator)
}

/// The numbers of values, as repeated fields hold them.
pub fn numbers<T: Word + Into<i32>>(values: &[T]) -> Vec<i32> {
    values.iter().map(|value| (*value).into()).collect()
}

/// A word that no value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no word of this list")]
struct UnknownWord;

/// Reads a word on the command line, in any case and with `-` for `_`, and lists all of them in the help.
#[derive(Clone)]
pub struct WordParser<T> {
    list: PossibleValuesParser,
    value: PhantomData<fn() -> T>,
}

/// The parser of an enum's words.
pub fn parser<T: Word>() -> WordParser<T> {
    WordParser { list: PossibleValuesParser::new(all::<T>()), value: PhantomData }
}

impl<T: Word> TypedValueParser for WordParser<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let written = value.to_string_lossy().trim().to_uppercase().replace('-', "_");
        let read = |word: String| T::from_word(&word).ok_or(UnknownWord);
        self.list.clone().try_map(read).parse_ref(command, arg, OsStr::new(&written))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.list.possible_values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: Word + std::fmt::Debug>(expected: usize) {
        let words = all::<T>();
        assert_eq!(words.len(), expected, "{words:?}");
        for word in words {
            let value = T::from_word(word);
            assert_eq!(value.map(T::word), Some(word));
            assert!(value.is_some_and(|value| value.name().starts_with(T::PREFIX)), "{word}");
            assert_eq!(T::from_word(&word.to_lowercase().replace('_', "-")), value);
        }
        assert_eq!(T::from_word("NEVER_HEARD"), None);
    }

    #[test]
    fn every_word_reads_back() {
        round::<v1::ActorKind>(4);
        round::<v1::Category>(4);
        round::<v1::Channel>(4);
        round::<v1::ConsentState>(8);
        round::<v1::ConsentType>(3);
        round::<v1::Decision>(2);
        round::<v1::Durability>(2);
        round::<v1::EvidenceGrade>(2);
        round::<v1::InvalidateCause>(4);
        round::<v1::Obligation>(1);
        round::<v1::OptInMethod>(13);
        round::<v1::OptOutMethod>(13);
        round::<v1::Quality>(4);
        round::<v1::Reason>(23);
        round::<v1::SenderStatus>(6);
        round::<v1::TemplateStatus>(10);
    }

    #[test]
    fn numbers_have_words_even_when_unknown() {
        assert_eq!(of::<v1::Channel>(2), "SMS");
        assert_eq!(of::<v1::Channel>(77), "77");
        assert_eq!(some::<v1::Category>(0), "");
        assert_eq!(join::<v1::Channel>(&[1, 4], ", "), "WHATSAPP, VOICE");
        assert_eq!(numbers(&[v1::Channel::Sms]), [2]);
    }
}
