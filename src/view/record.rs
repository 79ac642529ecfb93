//! A person as bytes: few, so that a million of them fit, and quick to read.
//!
//! A person has two parts that change apart from each other: *consent*, which the ledger brings, and *usage*,
//! which sends leave behind. Each starts with a version; an empty part has no bytes at all. Times are differences
//! to the time before, origins stand once and are referred to by number, words are numbers (`codes`).
//!
//! ```text
//! consent = version, present: u8, [cells], [preferences], [holds], [links], [forms of links], [allowances], [taken], [trail]
//! usage   = version, [last allowed], [instructed], [windows], [spent], (where something was undone: [closed], [owed], [failed],) frequency log
//! ```

mod cells;

use cells::{put_cell, put_scope, take_cell, take_scope};

use super::bytes::{Damage, Reader, Writer};
use super::codes::{Code, optional, optional_of};
use crate::ledger::Position;
use crate::limits::FrequencyLog;
use crate::policy::consent::Register;
use crate::policy::event::RequestMark;
use crate::policy::ids::{Identifier, SenderId};
use crate::policy::record::{Allowance, Record, Taken};
use crate::policy::types::Channel;
use crate::policy::usage::{LastAllowed, Spent, Undone, Usage, Window};

/// The version that consent starts with, and by which nodes tell whether they keep persons alike. Raise it, and the store's, whenever a byte
/// changes its meaning.
pub const PERSON_FORM_VERSION: u8 = 3;
/// What the version that usage starts with is made of: a base, and what was added to it where there is any of that. Others are written as
/// before there was such a thing.
mod usage_form {
    pub const BASE: u8 = 1;
    /// Something was undone.
    pub const UNDONE: u8 = 1;
    /// Consent messages are known with their channel.
    pub const SPENT_ON: u8 = 2;
    pub const LAST: u8 = BASE + UNDONE + SPENT_ON;
}

/// All that the view keeps of one identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// Consent, from the ledger.
    pub record: Record,
    /// Where the person's events are in the ledger, in its order.
    pub trail: Vec<Position>,
    /// What sends and inbound messages left behind.
    pub usage: Usage,
    /// The times of past sends that count towards caps.
    pub frequency: FrequencyLog,
}

/// Which lists of the consent part have something in them.
mod present {
    pub const CELLS: u8 = 1;
    pub const PREFERENCES: u8 = 2;
    pub const HOLDS: u8 = 4;
    pub const LINKS: u8 = 8;
    pub const ALLOWANCES: u8 = 16;
    pub const TAKEN: u8 = 32;
    pub const TRAIL: u8 = 64;
    pub const FORMS: u8 = 128;
}

impl Person {
    /// The consent part.
    #[must_use]
    pub fn encode_consent(&self) -> Vec<u8> {
        let record = &self.record;
        let lists = [
            (present::CELLS, record.cells.is_empty()),
            (present::PREFERENCES, record.preferences.is_empty()),
            (present::HOLDS, record.holds.is_empty()),
            (present::LINKS, record.links.identifiers.is_empty()),
            (present::ALLOWANCES, record.allowances.is_empty()),
            (present::TAKEN, record.taken.is_empty()),
            (present::TRAIL, self.trail.is_empty()),
            (present::FORMS, record.links.forms.is_empty()),
        ];
        let lists = flags(&lists);
        if lists == 0 {
            return Vec::new();
        }
        let mut out = Writer::new(Vec::with_capacity(192));
        out.byte(PERSON_FORM_VERSION);
        out.byte(lists);
        put_list(&mut out, &record.cells, |out, (scope, cell)| {
            put_scope(out, scope);
            put_cell(out, cell);
        });
        put_list(&mut out, &record.preferences, |out, (sender, register)| {
            out.text(sender.as_str());
            put_register(out, register);
        });
        put_list(&mut out, &record.holds, |out, (channel, register)| {
            out.byte(channel.code());
            put_register(out, register);
        });
        put_list(&mut out, &record.links.identifiers, |out, link| out.raw(&link.0));
        put_list(&mut out, &record.links.forms, |out, form| out.raw(&form.0));
        put_list(&mut out, &record.allowances, |out, allowance| {
            out.byte(allowance.kind.code() << 4 | optional(allowance.channel));
            out.event(allowance.event);
            out.time(allowance.recorded);
            out.time(allowance.until);
        });
        put_list(&mut out, &record.taken, |out, taken| {
            out.raw(&taken.request.key);
            out.raw(&taken.request.content);
            out.event(taken.event);
        });
        let mut before = 0;
        put_list(&mut out, &self.trail, |out, position| {
            out.number(position.as_u64().wrapping_sub(before));
            before = position.as_u64();
        });
        out.finish()
    }

    /// The usage part.
    #[must_use]
    pub fn encode_usage(&self) -> Vec<u8> {
        let usage = &self.usage;
        if usage == &Usage::default() && self.frequency.is_empty() {
            return Vec::new();
        }
        let mut out = Writer::new(Vec::with_capacity(64));
        let undone = Some(&usage.undone).filter(|undone| *undone != &Undone::default());
        let spent_on = usage.spent.iter().any(|spent| spent.channel.is_some());
        out.byte(
            usage_form::BASE
                + flags(&[(usage_form::UNDONE, undone.is_none()), (usage_form::SPENT_ON, !spent_on)]),
        );
        out.count(usage.last_allowed.len());
        for last in &usage.last_allowed {
            out.byte(u8::from(last.about.is_some()) << 4 | last.channel.code());
            out.time(last.time);
            if let Some(about) = last.about {
                out.event(about);
            }
        }
        out.count(usage.instructed.len());
        for (channel, time) in &usage.instructed {
            out.byte(channel.code());
            out.time(*time);
        }
        out.count(usage.windows.len());
        for window in &usage.windows {
            out.byte(u8::from(window.reopened.is_some()) << 4 | window.channel.code());
            out.text(window.sender.as_str());
            out.time(window.last);
            if let Some(reopened) = window.reopened {
                out.time(reopened);
            }
        }
        out.count(usage.spent.len());
        for spent in &usage.spent {
            out.byte(optional(spent.channel) << 4 | u8::from(spent.message.is_some()));
            out.event(spent.event);
            out.time(spent.time);
            if let Some(message) = spent.message {
                out.raw(&message);
            }
        }
        if let Some(undone) = undone {
            put_undone(&mut out, undone);
        }
        out.raw(&self.frequency.encode());
        out.finish()
    }

    /// Reads both parts.
    ///
    /// # Errors
    /// When they are not what was written, or were written by another version.
    pub fn decode(consent: &[u8], usage: &[u8]) -> Result<Self, Damage> {
        let mut person = Self::default();
        if !consent.is_empty() {
            person.take_consent(consent)?;
        }
        if !usage.is_empty() {
            person.take_usage(usage)?;
        }
        Ok(person)
    }

    fn take_consent(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let mut input = Reader::new(bytes);
        version(&mut input)?;
        let lists = input.byte()?;
        let record = &mut self.record;
        if lists & present::CELLS != 0 {
            record.cells =
                take_list(&mut input, |input| Ok::<_, Damage>((take_scope(input)?, take_cell(input)?)))?;
        }
        if lists & present::PREFERENCES != 0 {
            record.preferences =
                take_list(&mut input, |input| Ok((take_sender(input)?, take_register(input)?)))?;
        }
        if lists & present::HOLDS != 0 {
            record.holds =
                take_list(&mut input, |input| Ok((Channel::of(input.byte()?)?, take_register(input)?)))?;
        }
        if lists & present::LINKS != 0 {
            record.links.identifiers = take_list(&mut input, |input| input.array().map(Identifier))?;
        }
        if lists & present::FORMS != 0 {
            record.links.forms = take_list(&mut input, |input| input.array().map(Identifier))?;
        }
        if lists & present::ALLOWANCES != 0 {
            record.allowances = take_list(&mut input, |input| {
                let packed = input.byte()?;
                Ok(Allowance {
                    kind: Code::of(packed >> 4)?,
                    channel: optional_of(packed & 15)?,
                    event: input.event()?,
                    recorded: input.time()?,
                    until: input.time()?,
                })
            })?;
        }
        if lists & present::TAKEN != 0 {
            record.taken = take_list(&mut input, |input| {
                let request = RequestMark { key: input.array()?, content: input.array()? };
                Ok(Taken { request, event: input.event()? })
            })?;
        }
        if lists & present::TRAIL != 0 {
            let mut before = 0u64;
            self.trail = take_list(&mut input, |input| {
                before = before.wrapping_add(input.number()?);
                Ok(Position::from_u64(before))
            })?;
        }
        input.end()
    }

    fn take_usage(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let mut input = Reader::new(bytes);
        let version = input.byte()?;
        if !(usage_form::BASE..=usage_form::LAST).contains(&version) {
            return Err(Damage("version"));
        }
        let has = version - usage_form::BASE;
        let usage = &mut self.usage;
        usage.last_allowed = take_list(&mut input, |input| {
            let packed = input.byte()?;
            let channel = Channel::of(packed & 15)?;
            let time = input.time()?;
            let about = if packed >> 4 != 0 { Some(input.event()?) } else { None };
            Ok(LastAllowed { channel, about, time })
        })?;
        usage.instructed = take_list(&mut input, |input| Ok((Channel::of(input.byte()?)?, input.time()?)))?;
        usage.windows = take_list(&mut input, |input| {
            let packed = input.byte()?;
            let channel = Channel::of(packed & 15)?;
            let sender = take_sender(input)?;
            let last = input.time()?;
            let reopened = if packed >> 4 != 0 { Some(input.time()?) } else { None };
            Ok(Window { channel, sender, last, reopened })
        })?;
        usage.spent = take_list(&mut input, |input| {
            let packed = input.byte()?;
            let channel = if has & usage_form::SPENT_ON == 0 { None } else { optional_of(packed >> 4)? };
            let event = input.event()?;
            let time = input.time()?;
            let message = if packed & 15 == 0 { None } else { Some(input.array()?) };
            Ok(Spent { event, channel, time, message })
        })?;
        if has & usage_form::UNDONE != 0 {
            usage.undone = take_undone(&mut input)?;
        }
        self.frequency = FrequencyLog::decode(input.rest()).map_err(|_| Damage("frequency log"))?;
        Ok(())
    }
}

fn put_undone(out: &mut Writer, undone: &Undone) {
    out.count(undone.closed.len());
    for (channel, sender, at) in &undone.closed {
        out.byte(channel.code());
        out.text(sender.as_str());
        out.time(*at);
    }
    out.count(undone.owed.len());
    for (channel, at) in &undone.owed {
        out.byte(channel.code());
        out.time(*at);
    }
    out.count(undone.failed.len());
    for (event, at) in &undone.failed {
        out.event(*event);
        out.time(*at);
    }
}

fn take_undone(input: &mut Reader<'_>) -> Result<Undone, Damage> {
    Ok(Undone {
        closed: take_list(input, |input| {
            Ok::<_, Damage>((Channel::of(input.byte()?)?, take_sender(input)?, input.time()?))
        })?,
        owed: take_list(input, |input| Ok::<_, Damage>((Channel::of(input.byte()?)?, input.time()?)))?,
        failed: take_list(input, |input| Ok::<_, Damage>((input.event()?, input.time()?)))?,
    })
}

fn version(input: &mut Reader<'_>) -> Result<(), Damage> {
    if input.byte()? == PERSON_FORM_VERSION { Ok(()) } else { Err(Damage("version")) }
}

fn flags(lists: &[(u8, bool)]) -> u8 {
    lists.iter().filter(|(_, empty)| !empty).map(|(flag, _)| flag).sum()
}

/// A list that is not empty; an empty one has no bytes, its flag tells.
fn put_list<T>(out: &mut Writer, list: &[T], mut put: impl FnMut(&mut Writer, &T)) {
    if !list.is_empty() {
        out.count(list.len());
        list.iter().for_each(|item| put(out, item));
    }
}

fn take_list<'a, T>(
    input: &mut Reader<'a>,
    mut take: impl FnMut(&mut Reader<'a>) -> Result<T, Damage>,
) -> Result<Vec<T>, Damage> {
    let count = input.count()?;
    // Damage may claim many more items than there are, each larger in memory than its one byte here.
    let mut list = Vec::with_capacity(count.min(16));
    for _ in 0..count {
        list.push(take(input)?);
    }
    Ok(list)
}

fn put_register(out: &mut Writer, register: &Register) {
    out.byte(u8::from(register.suppresses));
    out.time(register.time);
    out.event(register.event);
}

fn take_register(input: &mut Reader<'_>) -> Result<Register, Damage> {
    Ok(Register { suppresses: input.byte()? != 0, time: input.time()?, event: input.event()? })
}

fn take_sender(input: &mut Reader<'_>) -> Result<SenderId, Damage> {
    SenderId::new(input.text()?).map_err(|_| Damage("sender"))
}

#[cfg(test)]
mod tests;
