//! What consent events change, with the scopes and covers in it.

use super::{at, offset, pb, read_bytes, read_id};
use crate::engine::codec::PayloadFault;
use crate::engine::codec::words::Word as _;
use crate::policy::consent::Covers;
use crate::policy::event::{Change, Hold, Invalidate, OptIn, OptOut, Preference, Request};
use crate::policy::ids::{EventId, Identifier, OriginId, SenderId, TopicId};
use crate::policy::time::Timestamp;
use crate::policy::types::{
    Category, Channel, ConsentType, EvidenceGrade, InvalidateCause, OptInMethod, OptOutMethod, Purpose, Scope,
};

pub(super) fn write_change(change: &Change, recorded: Timestamp) -> pb::Change {
    use pb::change::Change as Written;
    let change = match change {
        Change::OptOut(out) => Written::OptOut(write_opt_out(out, recorded)),
        Change::OptIn(opt_in) => Written::OptIn(write_opt_in(opt_in, recorded)),
        Change::Request(request) => Written::Request(write_request(request, recorded)),
        Change::Invalidate(Invalidate { scopes, cause, time }) => Written::Invalidate(pb::Invalidate {
            scopes: scopes.iter().map(|scope| write_scope(scope, None)).collect(),
            cause: cause.number(),
            time_offset_ms: offset(recorded, *time),
        }),
        Change::Hold(Hold { channel, held, time }) => Written::Hold(pb::Hold {
            channel: channel.number(),
            released: !held,
            time_offset_ms: offset(recorded, *time),
        }),
        Change::Preference(Preference { sender, stopped, time }) => Written::Preference(pb::Preference {
            sender: sender.as_str().into(),
            resumed: !stopped,
            time_offset_ms: offset(recorded, *time),
        }),
        Change::Help { channel } => Written::Help(pb::Help { channel: channel.number() }),
    };
    pb::Change { change: Some(change) }
}

pub(super) fn read_change(change: pb::Change, recorded: Timestamp) -> Result<Change, PayloadFault> {
    use pb::change::Change as Written;
    Ok(match change.change.ok_or(PayloadFault::Unknown { field: "change" })? {
        Written::OptOut(out) => Change::OptOut(read_opt_out(out, recorded)),
        Written::OptIn(opt_in) => Change::OptIn(read_opt_in(opt_in, recorded)?),
        Written::Request(request) => Change::Request(read_request(request, recorded)?),
        Written::Invalidate(pb::Invalidate { scopes, cause, time_offset_ms }) => {
            Change::Invalidate(Invalidate {
                scopes: widened(&scopes),
                cause: InvalidateCause::read(cause, "cause")?,
                time: at(recorded, time_offset_ms),
            })
        }
        Written::Hold(pb::Hold { channel, released, time_offset_ms }) => Change::Hold(Hold {
            channel: Channel::read(channel, "channel")?,
            held: !released,
            time: at(recorded, time_offset_ms),
        }),
        Written::Preference(pb::Preference { sender, resumed, time_offset_ms }) => {
            Change::Preference(Preference {
                sender: read_id(&sender, "sender", SenderId::new)?,
                stopped: !resumed,
                time: at(recorded, time_offset_ms),
            })
        }
        Written::Help(pb::Help { channel }) => Change::Help { channel: Channel::read(channel, "channel")? },
    })
}

fn write_opt_out(out: &OptOut, recorded: Timestamp) -> pb::OptOut {
    let OptOut { scopes, time, stated, imported, inbound, method, confirm_until } = out;
    pb::OptOut {
        scopes: scopes.iter().map(|scope| write_scope(scope, None)).collect(),
        time_offset_ms: offset(recorded, *time),
        stated_offset_ms: stated.map(|stated| offset(recorded, stated)),
        imported: *imported,
        inbound: inbound.map(|(channel, provider_time)| pb::Inbound {
            channel: channel.number(),
            provider_time_offset_ms: offset(recorded, provider_time),
        }),
        method: method.number(),
        confirm_until_offset_ms: confirm_until.map(|until| offset(recorded, until)),
    }
}

/// Never fails: see the top of this module's parent.
pub(super) fn read_opt_out(out: pb::OptOut, recorded: Timestamp) -> OptOut {
    let pb::OptOut {
        scopes,
        time_offset_ms,
        stated_offset_ms,
        imported,
        inbound,
        method,
        confirm_until_offset_ms,
    } = out;
    OptOut {
        scopes: widened(&scopes),
        time: at(recorded, time_offset_ms),
        stated: stated_offset_ms.map(|stated| at(recorded, stated)),
        imported,
        // An unknown channel loses only what a later START could renew.
        inbound: inbound.and_then(|pb::Inbound { channel, provider_time_offset_ms }| {
            Some((Channel::known(channel)?, at(recorded, provider_time_offset_ms)))
        }),
        method: OptOutMethod::known(method).unwrap_or(OptOutMethod::Unknown),
        confirm_until: confirm_until_offset_ms.map(|until| at(recorded, until)),
    }
}

fn write_opt_in(opt_in: &OptIn, recorded: Timestamp) -> pb::OptIn {
    let OptIn {
        scopes,
        occurred,
        covers,
        before,
        imported,
        expire,
        consent_type,
        grade,
        method,
        confirms,
        renews,
    } = opt_in;
    pb::OptIn {
        scopes: scopes.iter().map(|(scope, within)| write_scope(scope, *within)).collect(),
        occurred_offset_ms: offset(recorded, *occurred),
        covers: covers.up_to().map(write_event_id).collect(),
        covers_alone: covers.alone().map(write_event_id).collect(),
        covers_linked: covers.linked().map(write_linked).collect(),
        before_offset_ms: before.map(|before| offset(recorded, before)),
        imported: *imported,
        expire_offset_ms: expire.map(|expire| offset(recorded, expire)),
        consent_type: consent_type.number(),
        grade: grade.number(),
        method: method.number(),
        confirms: confirms.map(write_event_id),
        renews: renews.map(write_event_id),
    }
}

fn read_opt_in(opt_in: pb::OptIn, recorded: Timestamp) -> Result<OptIn, PayloadFault> {
    let pb::OptIn {
        scopes,
        occurred_offset_ms,
        covers,
        covers_alone,
        covers_linked,
        before_offset_ms,
        imported,
        expire_offset_ms,
        consent_type,
        grade,
        method,
        confirms,
        renews,
    } = opt_in;
    Ok(OptIn {
        scopes: scopes.iter().map(read_scope).collect::<Result<_, _>>()?,
        occurred: at(recorded, occurred_offset_ms),
        covers: read_covers(&covers, &covers_alone, &covers_linked)?,
        before: before_offset_ms.map(|before| at(recorded, before)),
        imported,
        expire: expire_offset_ms.map(|expire| at(recorded, expire)),
        consent_type: ConsentType::read(consent_type, "consent_type")?,
        grade: EvidenceGrade::read(grade, "grade")?,
        method: OptInMethod::read(method, "method")?,
        confirms: confirms.map(|id| read_event_id(&id, "confirms")).transpose()?,
        renews: renews.map(|id| read_event_id(&id, "renews")).transpose()?,
    })
}

fn write_request(request: &Request, recorded: Timestamp) -> pb::Request {
    let Request { scopes, via, occurred, covers, expire, opt_in_expire, consent_type, grade, method } =
        request;
    pb::Request {
        scopes: scopes.iter().map(|(scope, within)| write_scope(scope, *within)).collect(),
        via: via.number(),
        occurred_offset_ms: offset(recorded, *occurred),
        covers: covers.up_to().map(write_event_id).collect(),
        covers_alone: covers.alone().map(write_event_id).collect(),
        covers_linked: covers.linked().map(write_linked).collect(),
        expire_offset_ms: offset(recorded, *expire),
        opt_in_expire_offset_ms: opt_in_expire.map(|expire| offset(recorded, expire)),
        consent_type: consent_type.number(),
        grade: grade.number(),
        method: method.number(),
    }
}

fn read_request(request: pb::Request, recorded: Timestamp) -> Result<Request, PayloadFault> {
    let pb::Request {
        scopes,
        via,
        occurred_offset_ms,
        covers,
        covers_alone,
        covers_linked,
        expire_offset_ms,
        opt_in_expire_offset_ms,
        consent_type,
        grade,
        method,
    } = request;
    Ok(Request {
        scopes: scopes.iter().map(read_scope).collect::<Result<_, _>>()?,
        via: Channel::read(via, "via")?,
        occurred: at(recorded, occurred_offset_ms),
        covers: read_covers(&covers, &covers_alone, &covers_linked)?,
        expire: at(recorded, expire_offset_ms),
        opt_in_expire: opt_in_expire_offset_ms.map(|expire| at(recorded, expire)),
        consent_type: ConsentType::read(consent_type, "consent_type")?,
        grade: EvidenceGrade::read(grade, "grade")?,
        method: OptInMethod::read(method, "method")?,
    })
}

// --- scopes

fn write_scope(scope: &Scope, within: Option<Category>) -> pb::Scope {
    let Scope { channel, purpose } = scope;
    pb::Scope {
        channel: channel.map_or(pb::Channel::Every as i32, Channel::number),
        purpose: Some(match purpose {
            Purpose::All => pb::scope::Purpose::Everything(true),
            Purpose::Category(category) => pb::scope::Purpose::Category(category.number()),
            Purpose::Topic(topic) => pb::scope::Purpose::Topic(topic.as_str().into()),
        }),
        within: within.map_or(0, Category::number),
    }
}

/// The scope of what permits: nothing in it may be unknown.
fn read_scope(scope: &pb::Scope) -> Result<(Scope, Option<Category>), PayloadFault> {
    let pb::Scope { channel, purpose, within } = scope;
    let channel =
        if *channel == pb::Channel::Every as i32 { None } else { Some(Channel::read(*channel, "channel")?) };
    let purpose = match purpose {
        Some(pb::scope::Purpose::Everything(true)) => Purpose::All,
        Some(pb::scope::Purpose::Category(category)) => {
            Purpose::Category(Category::read(*category, "category")?)
        }
        Some(pb::scope::Purpose::Topic(topic)) => Purpose::Topic(read_id(topic, "topic", TopicId::new)?),
        Some(pb::scope::Purpose::Everything(false)) | None => {
            return Err(PayloadFault::Unknown { field: "purpose" });
        }
    };
    Ok((Scope { channel, purpose }, Category::read_optional(*within, "within")?))
}

/// The scopes of what forbids: what is unknown reaches everything.
fn widened(scopes: &[pb::Scope]) -> Vec<Scope> {
    if scopes.is_empty() {
        return vec![Scope { channel: None, purpose: Purpose::All }];
    }
    scopes
        .iter()
        .map(|pb::Scope { channel, purpose, within: _ }| Scope {
            channel: Channel::known(*channel),
            purpose: match purpose {
                Some(pb::scope::Purpose::Category(category)) => {
                    Category::known(*category).map_or(Purpose::All, Purpose::Category)
                }
                Some(pb::scope::Purpose::Topic(topic)) => {
                    TopicId::new(topic).map_or(Purpose::All, Purpose::Topic)
                }
                Some(pb::scope::Purpose::Everything(_)) | None => Purpose::All,
            },
        })
        .collect()
}

// --- covers

fn write_linked((who, id): (Identifier, EventId)) -> pb::LinkedEventId {
    pb::LinkedEventId { subject: who.0.to_vec(), event: Some(write_event_id(id)) }
}

fn read_covers(
    up_to: &[pb::EventId],
    alone: &[pb::EventId],
    linked: &[pb::LinkedEventId],
) -> Result<Covers, PayloadFault> {
    let mut covers: Covers = up_to.iter().map(|id| read_event_id(id, "covers")).collect::<Result<_, _>>()?;
    for id in alone {
        covers.name_alone(read_event_id(id, "covers_alone")?);
    }
    for pb::LinkedEventId { subject, event } in linked {
        let event = event.as_ref().ok_or(PayloadFault::Unknown { field: "covers_linked" })?;
        let who = Identifier(read_bytes(subject, "covers_linked")?);
        covers.raise_link(who, read_event_id(event, "covers_linked")?);
    }
    Ok(covers)
}

fn write_event_id(id: EventId) -> pb::EventId {
    let EventId { origin, sequence } = id;
    pb::EventId { origin: origin.0.to_vec(), sequence }
}

fn read_event_id(id: &pb::EventId, field: &'static str) -> Result<EventId, PayloadFault> {
    let pb::EventId { origin, sequence } = id;
    if *sequence == 0 {
        return Err(PayloadFault::Unknown { field });
    }
    Ok(EventId { origin: OriginId(read_bytes(origin, field)?), sequence: *sequence })
}
