//! All that is known of one identifier: cells, registers, links and the requests already taken.
//!
//! A record is built only by applying events; applying is idempotent and order-free.

mod links;
mod suppressing;

pub use links::Links;

use super::consent::{Cell, Mark, OptIn, Register, Request};
use super::event::{Change, ConsentEvent, RequestMark};
use super::ids::{EventId, Identifier, SenderId};
use super::time::Timestamp;
use super::types::{Channel, Scope};

/// How many consent messages a person's record remembers as allowed; the latest stay.
pub const ALLOWANCES_MAX: usize = 8;

/// What a message about consent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AboutKind {
    /// The confirmation of an opt-out.
    OptOutConfirmation,
    /// The confirmation of an opt-in.
    OptInConfirmation,
    /// The question of a pending request.
    Question,
    /// The answer to HELP.
    HelpAnswer,
}

/// A message about consent that may be sent once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// When the event was recorded.
    pub recorded: Timestamp,
    /// The event.
    pub event: EventId,
    /// What may be sent.
    pub kind: AboutKind,
    /// On which channel; `None`: any.
    pub channel: Option<Channel>,
    /// Until when.
    pub until: Timestamp,
}

/// A request already taken, and the event it became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its marks.
    pub request: RequestMark,
    /// Its event.
    pub event: EventId,
}

/// All that is known of one identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Consent by scope as written, in the scopes' order.
    pub cells: Vec<(Scope, Cell)>,
    /// The platform's marketing switch per sender.
    pub preferences: Vec<(SenderId, Register)>,
    /// Holds per channel.
    pub holds: Vec<(Channel, Register)>,
    /// What belongs to the same person.
    pub links: Links,
    /// Messages about consent that may be sent once.
    pub allowances: Vec<Allowance>,
    /// Requests already taken, in the order of their keys.
    pub taken: Vec<Taken>,
    /// Opt-ins that do not count, since their ids name more than one event. Never kept: [`lay_over`](super::distrust::Distrust::lay_over)
    /// sets them aside whenever the record is read, so that an opt-out recorded then still comes after them.
    pub set_aside: Vec<OptIn>,
}

/// How long the confirmation of an opt-in and the answer to HELP may be sent.
pub const CONSENT_MESSAGE_WITHIN_MS: i64 = super::time::DAY_MS;

impl Record {
    /// Applies `event`, numbered `id`, to the record of `subject`, one of the event's subjects.
    ///
    /// The first subject takes the changes; all of them learn of each other.
    pub fn apply(&mut self, id: EventId, event: &ConsentEvent, subject: &Identifier) {
        self.links.learn(event, subject);
        if event.subjects.first() != Some(subject) {
            return;
        }
        if let Some(request) = event.request {
            self.take(Taken { request, event: id });
        }
        for change in &event.changes {
            self.apply_change(id, event, change);
        }
    }

    fn apply_change(&mut self, id: EventId, event: &ConsentEvent, change: &Change) {
        let recorded = event.recorded;
        let allow = |kind, channel, until| Allowance { recorded, event: id, kind, channel, until };
        match change {
            Change::OptOut(out) => {
                let mark = Mark { id, time: out.time, message: out.inbound, naming: event.naming() };
                for scope in &out.scopes {
                    let cell = self.cell_mut(scope);
                    #[cfg(sabotage)]
                    if crate::sabotage::is("opt-out-lost-in-merge") {
                        cell.imported_outs.add(mark);
                        continue;
                    }
                    if out.imported { cell.imported_outs.add(mark) } else { cell.outs.add(mark) }
                }
                if let Some(until) = out.confirm_until {
                    // Where the person was: a confirmation elsewhere would be a message nobody asked for.
                    let channel =
                        out.inbound.map(|(channel, _)| channel).or_else(|| only_channel(out.scopes.iter()));
                    self.allow(allow(AboutKind::OptOutConfirmation, channel, until));
                }
            }
            Change::OptIn(opt_in) => {
                for (scope, within) in &opt_in.scopes {
                    self.cell_mut(scope).add_opt_in(OptIn {
                        id,
                        occurred: opt_in.occurred,
                        covers: opt_in.covers.clone(),
                        before: opt_in.before,
                        imported: opt_in.imported,
                        expire: opt_in.expire,
                        within: *within,
                        consent_type: opt_in.consent_type,
                        grade: opt_in.grade,
                        confirms: opt_in.confirms,
                    });
                }
                if !opt_in.imported {
                    let until = recorded.plus_ms(CONSENT_MESSAGE_WITHIN_MS);
                    let channel = only_channel(opt_in.scopes.iter().map(|(scope, _)| scope));
                    self.allow(allow(AboutKind::OptInConfirmation, channel, until));
                }
            }
            Change::Request(request) => {
                for (scope, within) in &request.scopes {
                    self.cell_mut(scope).add_request(Request {
                        id,
                        via: request.via,
                        occurred: request.occurred,
                        covers: request.covers.clone(),
                        expire: request.expire,
                        method: request.method,
                        within: *within,
                        opt_in_expire: request.opt_in_expire,
                        grade: request.grade,
                        consent_type: request.consent_type,
                    });
                }
                self.allow(allow(AboutKind::Question, Some(request.via), request.expire));
            }
            Change::Invalidate(invalidate) => {
                let mark = Mark { id, time: invalidate.time, message: None, naming: event.naming() };
                for scope in &invalidate.scopes {
                    self.cell_mut(scope).voids.add(mark);
                }
            }
            Change::Hold(hold) => {
                let register = Register { time: hold.time, suppresses: hold.held, event: id };
                join_register(&mut self.holds, hold.channel, register);
            }
            Change::Preference(preference) => {
                let register = Register { time: preference.time, suppresses: preference.stopped, event: id };
                join_register(&mut self.preferences, preference.sender.clone(), register);
            }
            Change::Help { channel } => {
                let until = recorded.plus_ms(CONSENT_MESSAGE_WITHIN_MS);
                self.allow(allow(AboutKind::HelpAnswer, Some(*channel), until));
            }
        }
    }

    /// Adds all that `other`, a record of the same identifier, knows.
    pub fn join(&mut self, other: &Self) {
        for (scope, cell) in &other.cells {
            self.cell_mut(scope).join(cell);
        }
        for (sender, register) in &other.preferences {
            join_register(&mut self.preferences, sender.clone(), *register);
        }
        for (channel, register) in &other.holds {
            join_register(&mut self.holds, *channel, *register);
        }
        self.links.join(&other.links);
        other.allowances.iter().for_each(|allowance| self.allow(*allowance));
        other.taken.iter().for_each(|taken| self.take(*taken));
    }

    /// The request taken under `key`, if any; of several, the first by event id.
    #[must_use]
    pub fn taken(&self, key: [u8; 8]) -> Option<&Taken> {
        let at = self.taken.partition_point(|taken| taken.request.key < key);
        self.taken.get(at).filter(|taken| taken.request.key == key)
    }

    /// The request taken that is exactly this one, if any; of several, the first by event id.
    #[must_use]
    pub fn taken_as(&self, mark: RequestMark) -> Option<&Taken> {
        let at = self.taken.partition_point(|taken| taken.request.key < mark.key);
        let of_key = self.taken[at..].iter().take_while(|taken| taken.request.key == mark.key);
        of_key.into_iter().find(|taken| taken.request.content == mark.content)
    }

    /// The first allowance that `event` gave, if one is remembered.
    #[must_use]
    pub fn allowance(&self, event: EventId) -> Option<&Allowance> {
        self.allowances_of(event).next()
    }

    /// What `event` allows: a question on each channel it asks on, a confirmation beside them.
    pub fn allowances_of(&self, event: EventId) -> impl Iterator<Item = &Allowance> {
        self.allowances.iter().filter(move |allowance| allowance.event == event)
    }

    /// The request numbered `event`, with its scopes.
    pub fn request(&self, event: EventId) -> impl Iterator<Item = (&Scope, &Request)> {
        self.cells.iter().flat_map(move |(scope, cell)| {
            cell.requests
                .iter()
                .filter(move |request| request.id == event)
                .map(move |request| (scope, request))
        })
    }

    fn cell_mut(&mut self, scope: &Scope) -> &mut Cell {
        let at = match self.cells.binary_search_by(|(known, _)| known.cmp(scope)) {
            Ok(at) => at,
            Err(at) => {
                self.cells.insert(at, (scope.clone(), Cell::default()));
                at
            }
        };
        &mut self.cells[at].1
    }

    fn allow(&mut self, allowance: Allowance) {
        let key = |known: &Allowance| (known.recorded, known.event, known.kind, known.channel);
        match self.allowances.binary_search_by_key(&key(&allowance), key) {
            Ok(at) => {
                let known = &mut self.allowances[at];
                known.until = known.until.max(allowance.until);
            }
            Err(at) => {
                self.allowances.insert(at, allowance);
                if self.allowances.len() > ALLOWANCES_MAX {
                    self.allowances.remove(0);
                }
            }
        }
    }

    fn take(&mut self, taken: Taken) {
        let key = |known: &Taken| (known.request.key, known.event, known.request.content);
        if let Err(at) = self.taken.binary_search_by_key(&key(&taken), key) {
            self.taken.insert(at, taken);
        }
    }
}

fn only_channel<'a>(mut scopes: impl Iterator<Item = &'a Scope>) -> Option<Channel> {
    let first = scopes.next()?.channel?;
    scopes.all(|scope| scope.channel == Some(first)).then_some(first)
}

fn join_register<K: Ord + Clone>(registers: &mut Vec<(K, Register)>, key: K, register: Register) {
    match registers.binary_search_by(|(known, _)| known.cmp(&key)) {
        Ok(at) => registers[at].1 = registers[at].1.join(register),
        Err(at) => registers.insert(at, (key, register)),
    }
}

#[cfg(test)]
mod tests;
