//! What a message from a person says of consent: STOP, START, YES, HELP, in eight languages and many spellings.
//!
//! Pure: a [`Lexicon`] is parsed from texts that its caller read, and [`classify`] looks at one message. It knows nothing of
//! pending requests, past opt-outs or confirmations already sent; its caller decides what an [`Outcome`] changes.
//!
//! The rules, in order. Words are compared as [`normalise`] writes them, after politeness (`please`, `thanks`, `now`) is taken
//! out.
//! 1. The whole message is an opt-out, one of the tables' phrases or made up of their words (`no more` + `offers`): [`Outcome::OptOut`].
//! 2. The whole message is a help word, a program's keyword, an opt-in word or a word of assent: that.
//! 3. A stop word stands among other words: [`Outcome::Ambiguous`]. A stop sign emoji without an opt-out: the same. A lone 🛑 is
//!    therefore in doubt, not an opt-out: it suppresses marketing, and a person looks at it.
//! 4. All stop words are negated (`please don't stop`) or in harmless phrases (`bus stop`): [`Outcome::None`].
//!
//! An error towards stopping costs a message, an error towards sending breaks the law: negations are listed phrases at the start
//! of a clause, never single words anywhere, so that `if you don't stop` stays in doubt.
//!
//! In email and on buttons the words of `[may_mean_order]` (CANCEL, END, QUIT) are no opt-outs, since they may mean an order
//! or an appointment: alone in an email they are in doubt, elsewhere nothing.

mod email;
mod format;
mod lexicon;
mod message;
mod normalise;
mod scope;
mod stop_scope;
#[cfg(test)]
mod tests;

pub use format::{ALTERNATIVES_MAX, ANY_LANGUAGE, FILE_LEN_MAX, FILES_MAX, Fault};
pub use lexicon::{BUILT_IN, FALLBACK_LANGUAGE, Lexicon, PHRASE_WORDS_MAX, PHRASES_MAX, TextKind};
pub use normalise::normalise;
pub use stop_scope::{StopCategory, StopScope};

use crate::policy::types::Channel;
use lexicon::Role;
use message::{Mentions, Message, OrderWords, has, mentions};

/// The longest message that can be a clear one, in bytes without space at its ends. Of longer ones only the first and the last
/// part are looked at, half of this each, and a stop word there is in doubt.
pub const TEXT_LEN_MAX: usize = 4_096;

/// What a message says of consent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A clear wish to end messages: all of these.
    OptOut(Vec<StopScope>),
    /// START and its like.
    OptIn,
    /// YES and its like: assent if a question is pending, nothing otherwise.
    Confirm,
    /// The keyword or button of an opt-in program: its index in [`Context::opt_in_words`].
    Program(usize),
    /// A call for help.
    Help,
    /// Nothing about consent.
    None {
        /// Stop words are in it, all of them negated: `please don't stop`.
        negated_stop: bool,
    },
    /// Perhaps a wish to end messages, for a person to judge.
    Ambiguous,
}

/// An outcome and the language of the words it rests on, for the confirmation's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading<'l> {
    /// What the message says.
    pub outcome: Outcome,
    /// The language of the matched words, else the person's own, else English.
    pub language: &'l str,
}

/// What the business's rules add to the tables.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context<'c> {
    /// Topics, as id and whether their category is marketing. `STOP DELIVERY UPDATES` names the topic `delivery_updates`.
    pub topics: &'c [(&'c str, bool)],
    /// Keywords of opt-in programs or, for a button, their payloads. Opt-out and help words win over them.
    pub opt_in_words: &'c [&'c str],
    /// The business's names: `unsubscribe from Acme Air` is a bare opt-out.
    pub business_names: &'c [&'c str],
    /// The person's language where known: `pt`, `pt_BR`.
    pub language: Option<&'c str>,
}

/// Reads a message. `text` should be whole, since a cut one could pass for a clear one. Its cost is linear in the first and last
/// few KiB of it. On [`Channel::Email`] only the person's own words count, not the quoted message.
#[must_use]
pub fn classify<'l>(
    lexicon: &'l Lexicon,
    channel: Channel,
    text: &str,
    context: &Context<'_>,
) -> Reading<'l> {
    if channel == Channel::Email {
        let own = email::own_words(lexicon, text);
        read(lexicon, &own, OrderWords::DoubtAlone, context)
    } else {
        read(lexicon, text, OrderWords::Count, context)
    }
}

/// Reads the tap of a button or list item. The title is what the person saw, so what it clearly says decides before the
/// payload; only an opt-out of the payload is never overruled. Stop words among others are in doubt in the title alone, a payload
/// being the business's own.
#[must_use]
pub fn classify_button<'l>(
    lexicon: &'l Lexicon,
    payload: &str,
    title: &str,
    context: &Context<'_>,
) -> Reading<'l> {
    let seen = read(lexicon, title, OrderWords::Ignored, context);
    if matches!(seen.outcome, Outcome::OptOut(_)) {
        return seen;
    }
    let sent = read(lexicon, payload, OrderWords::Ignored, context);
    match (&sent.outcome, &seen.outcome) {
        (Outcome::OptOut(_), _) => sent,
        // A program is named by its payload, whatever its title says.
        (Outcome::Program(_), _) => sent,
        (Outcome::None { .. } | Outcome::Ambiguous, _) => seen,
        (_, Outcome::None { .. }) => sent,
        _ => seen,
    }
}

fn read<'l>(lexicon: &'l Lexicon, text: &str, order_words: OrderWords, context: &Context<'_>) -> Reading<'l> {
    let text = text.trim();
    let long = text.len() > TEXT_LEN_MAX;
    let ends;
    let looked_at = if long {
        ends = both_ends(text, TEXT_LEN_MAX);
        ends.as_str()
    } else {
        text
    };
    let message = Message::read(lexicon, looked_at);
    let doubtful = |mentions: Mentions| {
        let outcome =
            if mentions.open { Outcome::Ambiguous } else { Outcome::None { negated_stop: mentions.negated } };
        Reading { outcome, language: lexicon.language_of(std::iter::empty(), context.language) }
    };
    let mut found = mentions(lexicon, &message, order_words);
    if !long && let Some(clear) = clear(lexicon, &message, order_words, found, context) {
        let stop_sign = lexicon.has_stop_emoji(text, false);
        if !stop_sign || matches!(clear.outcome, Outcome::OptOut(_)) {
            return clear;
        }
    }
    found.open |= lexicon.has_stop_emoji(looked_at, message.polite_only);
    doubtful(found)
}

/// What the whole message clearly says, if anything.
fn clear<'l>(
    lexicon: &'l Lexicon,
    message: &Message,
    order_words: OrderWords,
    mentions: Mentions,
    context: &Context<'_>,
) -> Option<Reading<'l>> {
    let whole = lexicon.whole(message);
    let reading = |outcome, role: Role| {
        let languages =
            whole.iter().filter(move |meaning| meaning.role == role).map(|meaning| meaning.language);
        Some(Reading { outcome, language: lexicon.language_of(languages, context.language) })
    };
    if order_words == OrderWords::Count || !has(whole, Role::MayMeanOrder) {
        for role in [Role::OptOutAll, Role::OptOut] {
            if has(whole, role) {
                let scope = StopScope { all_channels: role == Role::OptOutAll, ..StopScope::default() };
                return reading(Outcome::OptOut(vec![scope]), role);
            }
        }
    }
    if !mentions.negated
        && let Some(request) = scope::clear_request(lexicon, message, order_words, context)
    {
        let language = lexicon.language_of(request.languages.into_iter(), context.language);
        return Some(Reading { outcome: Outcome::OptOut(request.scopes), language });
    }
    if has(whole, Role::Help) {
        return reading(Outcome::Help, Role::Help);
    }
    let keyword = |word: &&str| {
        let keyword = Message::read(lexicon, word);
        keyword.len() > 0 && keyword.flat() == message.flat()
    };
    if let Some(program) = context.opt_in_words.iter().position(keyword) {
        return reading(Outcome::Program(program), Role::OptIn);
    }
    if has(whole, Role::OptIn) {
        return reading(Outcome::OptIn, Role::OptIn);
    }
    if has(whole, Role::Confirm) {
        return reading(Outcome::Confirm, Role::Confirm);
    }
    None
}

/// The first and the last part of a text longer than `len` bytes, half of that each.
fn both_ends(text: &str, len: usize) -> String {
    let half = len / 2;
    let mut first = half;
    while !text.is_char_boundary(first) {
        first -= 1;
    }
    let mut last = text.len() - half;
    while !text.is_char_boundary(last) {
        last += 1;
    }
    format!("{}\n{}", &text[..first], &text[last..])
}
