//! The cells of a person as bytes: opt-outs, opt-ins and requests by their scope.

use super::{flags, put_list, take_list};
use crate::policy::consent::{Cell, Covers, Mark, Marks, Naming, OptIn, Request};
use crate::policy::ids::{EventId, Identifier, TopicId};
use crate::policy::types::{Category, Channel, ConsentType, EvidenceGrade, OptInMethod, Purpose, Scope};
use crate::view::bytes::{Damage, Reader, Writer};
use crate::view::codes::{Code, optional, optional_of};

/// Which lists of a cell have something in them.
mod cell {
    pub const OUTS: u8 = 1;
    pub const IMPORTED_OUTS: u8 = 2;
    pub const VOIDS: u8 = 4;
    pub const OPT_INS: u8 = 8;
    pub const REQUESTS: u8 = 16;
}

/// What an opt-in has.
mod opt_in {
    pub const UP_TO: u8 = 1;
    pub const BEFORE: u8 = 2;
    pub const EXPIRE: u8 = 4;
    pub const CONFIRMS: u8 = 8;
    pub const IMPORTED: u8 = 16;
    pub const ALONE: u8 = 32;
    pub const LINKED: u8 = 64;
}

/// What a request has, beside the number of its channel in the low half.
mod request {
    pub const OPT_IN_EXPIRE: u8 = 16;
    pub const ALONE: u8 = 32;
    pub const LINKED: u8 = 64;
}

pub fn put_scope(out: &mut Writer, scope: &Scope) {
    let channel = optional(scope.channel);
    match &scope.purpose {
        Purpose::All => out.byte(channel),
        Purpose::Category(category) => {
            out.byte(1 << 4 | channel);
            out.byte(category.code());
        }
        Purpose::Topic(topic) => {
            out.byte(2 << 4 | channel);
            out.text(topic.as_str());
        }
    }
}

pub fn take_scope(input: &mut Reader<'_>) -> Result<Scope, Damage> {
    let packed = input.byte()?;
    let purpose = match packed >> 4 {
        0 => Purpose::All,
        1 => Purpose::Category(Category::of(input.byte()?)?),
        2 => Purpose::Topic(TopicId::new(input.text()?).map_err(|_| Damage("topic"))?),
        _ => return Err(Damage("scope")),
    };
    Ok(Scope { channel: optional_of(packed & 15)?, purpose })
}

pub fn put_cell(out: &mut Writer, cell: &Cell) {
    out.byte(flags(&[
        (cell::OUTS, cell.outs.is_empty()),
        (cell::IMPORTED_OUTS, cell.imported_outs.is_empty()),
        (cell::VOIDS, cell.voids.is_empty()),
        (cell::OPT_INS, cell.opt_ins.is_empty()),
        (cell::REQUESTS, cell.requests.is_empty()),
    ]));
    for marks in [&cell.outs, &cell.imported_outs, &cell.voids] {
        if !marks.is_empty() {
            out.count(marks.iter().count());
            for mark in marks.iter() {
                let channel = optional(mark.message.map(|(channel, _)| channel));
                out.byte(naming_code(mark.naming) << 4 | channel);
                out.event(mark.id);
                out.time(mark.time);
                mark.message.into_iter().for_each(|(_, time)| out.time(time));
            }
        }
    }
    put_list(out, &cell.opt_ins, put_opt_in);
    put_list(out, &cell.requests, put_request);
}

pub fn take_cell(input: &mut Reader<'_>) -> Result<Cell, Damage> {
    let lists = input.byte()?;
    let mut taken = Cell::default();
    for (flag, marks) in [
        (cell::OUTS, &mut taken.outs),
        (cell::IMPORTED_OUTS, &mut taken.imported_outs),
        (cell::VOIDS, &mut taken.voids),
    ] {
        if lists & flag != 0 {
            *marks = take_marks(input)?;
        }
    }
    if lists & cell::OPT_INS != 0 {
        taken.opt_ins = take_list(input, take_opt_in)?;
    }
    if lists & cell::REQUESTS != 0 {
        taken.requests = take_list(input, take_request)?;
    }
    Ok(taken)
}

fn take_marks(input: &mut Reader<'_>) -> Result<Marks, Damage> {
    let mut marks = Marks::default();
    for _ in 0..input.count()? {
        let packed = input.byte()?;
        let (naming, channel) = (naming_of(packed >> 4)?, optional_of(packed & 15)?);
        let (id, time) = (input.event()?, input.time()?);
        let message = channel.map(|channel| Ok((channel, input.time()?))).transpose()?;
        marks.add(Mark { id, time, message, naming });
    }
    Ok(marks)
}

fn naming_code(naming: Naming) -> u8 {
    match naming {
        Naming::WithEarlier => 0,
        Naming::Alone => 1,
        // Marks of other records are never kept; if one were, the stricter reading is right.
        Naming::OfLink(_) | Naming::Never => 2,
    }
}

fn naming_of(code: u8) -> Result<Naming, Damage> {
    match code {
        0 => Ok(Naming::WithEarlier),
        1 => Ok(Naming::Alone),
        2 => Ok(Naming::Never),
        _ => Err(Damage("naming")),
    }
}

fn put_events(out: &mut Writer, events: impl ExactSizeIterator<Item = EventId>) {
    out.count(events.len());
    events.for_each(|id| out.event(id));
}

fn take_up_to(input: &mut Reader<'_>) -> Result<Covers, Damage> {
    let count = input.count()?;
    (0..count).map(|_| input.event()).collect()
}

fn put_linked(out: &mut Writer, covers: &Covers) {
    out.count(covers.linked().len());
    for (who, id) in covers.linked() {
        out.raw(&who.0);
        out.event(id);
    }
}

fn take_linked(input: &mut Reader<'_>, covers: &mut Covers) -> Result<(), Damage> {
    for _ in 0..input.count()? {
        let who = Identifier(input.array()?);
        covers.raise_link(who, input.event()?);
    }
    Ok(())
}

fn take_alone(input: &mut Reader<'_>, covers: &mut Covers) -> Result<(), Damage> {
    for _ in 0..input.count()? {
        covers.name_alone(input.event()?);
    }
    Ok(())
}

fn put_terms(out: &mut Writer, consent_type: ConsentType, grade: EvidenceGrade, within: Option<Category>) {
    out.byte(consent_type.code() << 5 | grade.code() << 3 | optional(within));
}

fn take_terms(input: &mut Reader<'_>) -> Result<(ConsentType, EvidenceGrade, Option<Category>), Damage> {
    let packed = input.byte()?;
    Ok((ConsentType::of(packed >> 5)?, EvidenceGrade::of(packed >> 3 & 3)?, optional_of(packed & 7)?))
}

fn put_opt_in(out: &mut Writer, opt_in: &OptIn) {
    out.byte(flags(&[
        (opt_in::UP_TO, opt_in.covers.up_to().len() == 0),
        (opt_in::ALONE, opt_in.covers.alone().len() == 0),
        (opt_in::LINKED, opt_in.covers.linked().len() == 0),
        (opt_in::BEFORE, opt_in.before.is_none()),
        (opt_in::EXPIRE, opt_in.expire.is_none()),
        (opt_in::CONFIRMS, opt_in.confirms.is_none()),
        (opt_in::IMPORTED, !opt_in.imported),
    ]));
    put_terms(out, opt_in.consent_type, opt_in.grade, opt_in.within);
    out.event(opt_in.id);
    out.time(opt_in.occurred);
    if opt_in.covers.up_to().len() > 0 {
        put_events(out, opt_in.covers.up_to());
    }
    if opt_in.covers.alone().len() > 0 {
        put_events(out, opt_in.covers.alone());
    }
    if opt_in.covers.linked().len() > 0 {
        put_linked(out, &opt_in.covers);
    }
    opt_in.before.into_iter().for_each(|before| out.time(before));
    opt_in.expire.into_iter().for_each(|expire| out.time(expire));
    opt_in.confirms.into_iter().for_each(|confirms| out.event(confirms));
}

fn take_opt_in(input: &mut Reader<'_>) -> Result<OptIn, Damage> {
    let has = input.byte()?;
    let (consent_type, grade, within) = take_terms(input)?;
    let (id, occurred) = (input.event()?, input.time()?);
    let mut covers = if has & opt_in::UP_TO != 0 { take_up_to(input)? } else { Covers::default() };
    if has & opt_in::ALONE != 0 {
        take_alone(input, &mut covers)?;
    }
    if has & opt_in::LINKED != 0 {
        take_linked(input, &mut covers)?;
    }
    Ok(OptIn {
        id,
        occurred,
        covers,
        before: if has & opt_in::BEFORE != 0 { Some(input.time()?) } else { None },
        expire: if has & opt_in::EXPIRE != 0 { Some(input.time()?) } else { None },
        confirms: if has & opt_in::CONFIRMS != 0 { Some(input.event()?) } else { None },
        imported: has & opt_in::IMPORTED != 0,
        within,
        consent_type,
        grade,
    })
}

fn put_request(out: &mut Writer, request: &Request) {
    put_terms(out, request.consent_type, request.grade, request.within);
    let has = flags(&[
        (request::OPT_IN_EXPIRE, request.opt_in_expire.is_none()),
        (request::ALONE, request.covers.alone().len() == 0),
        (request::LINKED, request.covers.linked().len() == 0),
    ]);
    out.byte(has | request.via.code());
    out.byte(request.method.code());
    out.event(request.id);
    out.time(request.occurred);
    put_events(out, request.covers.up_to());
    if request.covers.alone().len() > 0 {
        put_events(out, request.covers.alone());
    }
    if request.covers.linked().len() > 0 {
        put_linked(out, &request.covers);
    }
    out.time(request.expire);
    request.opt_in_expire.into_iter().for_each(|expire| out.time(expire));
}

fn take_request(input: &mut Reader<'_>) -> Result<Request, Damage> {
    let (consent_type, grade, within) = take_terms(input)?;
    let has = input.byte()?;
    let (via, method) = (Channel::of(has & 15)?, OptInMethod::of(input.byte()?)?);
    let (id, occurred) = (input.event()?, input.time()?);
    let mut covers = take_up_to(input)?;
    if has & request::ALONE != 0 {
        take_alone(input, &mut covers)?;
    }
    if has & request::LINKED != 0 {
        take_linked(input, &mut covers)?;
    }
    Ok(Request {
        via,
        method,
        id,
        occurred,
        covers,
        expire: input.time()?,
        opt_in_expire: if has & request::OPT_IN_EXPIRE != 0 { Some(input.time()?) } else { None },
        within,
        grade,
        consent_type,
    })
}
