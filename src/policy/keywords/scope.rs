//! Clear requests to stop, and what they want stopped: `STOP`, `unsubscribe me from all`, `no more offers on WhatsApp`.
//!
//! A clause is a clear request when it consists of nothing but the tables' words: a request (`STOP`, `NO MORE`), things to stop
//! (channels, marketing, topics, messages as such, everything) and, after the request, words that connect them (`from the`).

use std::collections::HashMap;
use std::ops::Range;

use super::Context;
use super::lexicon::{Lexicon, PHRASE_WORDS_MAX, Role};
use super::message::{Message, OrderWords, has};
use super::normalise::normalise;
use super::stop_scope::{StopCategory, StopScope, joined};

/// A clear request with the languages of the words that made it.
pub(super) struct Request {
    pub scopes: Vec<StopScope>,
    pub languages: Vec<Option<usize>>,
}

/// Words of the business itself, which its rules know and the tables do not.
enum Own {
    Topic(usize),
    Business,
}

struct OwnWords {
    phrases: HashMap<String, Own>,
    longest: usize,
}

impl OwnWords {
    fn of(context: &Context<'_>) -> Self {
        let topics = context.topics.iter().enumerate().map(|(index, (id, _))| (*id, Own::Topic(index)));
        let names = context.business_names.iter().map(|name| (*name, Own::Business));
        let phrases: HashMap<String, Own> = names
            .chain(topics)
            .map(|(text, own)| (normalise(text), own))
            .filter(|(text, _)| !text.is_empty())
            .collect();
        let longest = phrases.keys().map(|phrase| phrase.split(' ').count()).max().unwrap_or(0);
        Self { phrases, longest: longest.min(PHRASE_WORDS_MAX) }
    }
}

/// What one clause asks for so far.
#[derive(Default)]
struct Clause {
    asks: bool,
    /// Each of its requests is one without naming anything.
    asks_alone: bool,
    /// All its requests may mean an order or an appointment.
    only_order_words: bool,
    names: bool,
    everything: bool,
    marketing: bool,
    channels: bool,
    topics: Vec<usize>,
    ends_open: bool,
}

/// Reads the message as a clear request, if it is one.
pub(super) fn clear_request(
    lexicon: &Lexicon,
    message: &Message,
    order_words: OrderWords,
    context: &Context<'_>,
) -> Option<Request> {
    // Without any request there is nothing to read, so that most messages cost no look at the business's words.
    let asks = |at| {
        message
            .found_at(lexicon, at)
            .any(|found| found.has(Role::OptOut) || found.has(Role::OptOutAll) || found.has(Role::StopBefore))
    };
    if message.polite_only || !(0..message.len()).any(asks) {
        return None;
    }
    let own = OwnWords::of(context);
    let mut scopes = Vec::new();
    let mut languages = Vec::new();
    for words in joined_clauses(lexicon, message, &own) {
        let mut scope = StopScope::default();
        let clause = read_clause(lexicon, message, words, &own, &mut scope, &mut languages)?;
        if !clause.is_clear(order_words) {
            return None;
        }
        let topics = clause.topics.iter().filter_map(|index| context.topics.get(*index));
        // A marketing topic is part of the marketing that is stopped with it.
        scope.topics = topics
            .filter(|(_, is_marketing)| !(clause.marketing && *is_marketing))
            .map(|(id, _)| (*id).to_owned())
            .collect();
        if clause.marketing {
            scope.category = StopCategory::Marketing;
        }
        let named = clause.marketing || clause.channels || !clause.topics.is_empty();
        scope.all_channels |= clause.everything && !named;
        scopes.push(scope);
    }
    Some(Request { scopes: joined(scopes), languages })
}

/// The clauses, those that ask for nothing joined to the one before: `STOP: WhatsApp, SMS`.
fn joined_clauses(lexicon: &Lexicon, message: &Message, own: &OwnWords) -> Vec<Range<usize>> {
    let mut joined: Vec<Range<usize>> = Vec::new();
    for clause in message.clauses() {
        let asks = clause.clone().any(|at| {
            longest_piece(lexicon, message, at..clause.end, own)
                .is_some_and(|piece| piece.asks(lexicon, message))
        });
        match joined.last_mut() {
            Some(before) if !asks => before.end = clause.end,
            _ => joined.push(clause),
        }
    }
    joined
}

/// The longest phrase at the start of some words that may be part of a request.
struct Piece<'o> {
    words: Range<usize>,
    own: Option<&'o Own>,
}

impl Piece<'_> {
    fn asks(&self, lexicon: &Lexicon, message: &Message) -> bool {
        let meanings = lexicon.meanings(message.phrase(self.words.clone()));
        [Role::OptOut, Role::OptOutAll, Role::StopBefore].into_iter().any(|role| has(meanings, role))
    }
}

const fn is_part(role: Role) -> bool {
    matches!(
        role,
        Role::OptOut
            | Role::OptOutAll
            | Role::StopBefore
            | Role::Everything
            | Role::Marketing
            | Role::Noun
            | Role::Connector
            | Role::Channel(_)
    )
}

fn longest_piece<'o>(
    lexicon: &Lexicon,
    message: &Message,
    words: Range<usize>,
    own: &'o OwnWords,
) -> Option<Piece<'o>> {
    let first = message.phrase(words.start..words.start + 1);
    let longest = lexicon.longest_from(first).max(own.longest);
    let furthest = words.end.min(words.start + longest);
    (words.start + 1..=furthest).rev().find_map(|end| {
        let piece = words.start..end;
        let phrase = message.phrase(piece.clone());
        let own = own.phrases.get(phrase);
        let listed = lexicon.meanings(phrase).iter().any(|meaning| is_part(meaning.role));
        (listed || own.is_some()).then_some(Piece { words: piece, own })
    })
}

/// Reads one clause into `scope`; `None` if it has words that belong to no request.
fn read_clause(
    lexicon: &Lexicon,
    message: &Message,
    words: Range<usize>,
    own: &OwnWords,
    scope: &mut StopScope,
    languages: &mut Vec<Option<usize>>,
) -> Option<Clause> {
    let mut clause = Clause { asks_alone: true, only_order_words: true, ..Clause::default() };
    let mut at = words.start;
    while at < words.end {
        let piece = longest_piece(lexicon, message, at..words.end, own)?;
        at = piece.words.end;
        let meanings = lexicon.meanings(message.phrase(piece.words));
        clause.ends_open = false;
        let is = |role| has(meanings, role);
        if is(Role::OptOut) || is(Role::OptOutAll) || is(Role::StopBefore) {
            clause.asks_alone &= is(Role::OptOut) || is(Role::OptOutAll);
            clause.asks = true;
            clause.only_order_words &= is(Role::MayMeanOrder);
            scope.all_channels |= is(Role::OptOutAll);
        } else if is(Role::Marketing) {
            clause.marketing = true;
            clause.names = true;
        } else if let Some(Own::Topic(index)) = piece.own {
            clause.topics.push(*index);
            clause.names = true;
        } else if let Some(channel) = meanings.iter().find_map(|meaning| match meaning.role {
            Role::Channel(channel) => Some(channel),
            _ => None,
        }) {
            scope.channels.push(channel);
            clause.channels = true;
            clause.names = true;
        } else if is(Role::Everything) {
            clause.everything = true;
            clause.names = true;
        } else if is(Role::Noun) || piece.own.is_some() {
            clause.names = true;
        } else if clause.asks {
            clause.ends_open = true;
        } else {
            return None; // a connecting word before any request: `text me to stop`
        }
        languages
            .extend(meanings.iter().filter(|meaning| is_part(meaning.role)).map(|meaning| meaning.language));
    }
    Some(clause)
}

impl Clause {
    fn is_clear(&self, order_words: OrderWords) -> bool {
        if !self.asks || self.ends_open {
            return false;
        }
        if !self.only_order_words {
            return self.names || self.asks_alone;
        }
        // CANCEL and the like: of a channel or of marketing they can mean only this; of messages or topics, or of nothing,
        // perhaps an order. Alone in a text message they are a request all the same.
        let named = self.channels || self.marketing;
        self.topics.is_empty()
            && (named || (!self.names && self.asks_alone && order_words == OrderWords::Count))
    }
}
