//! Entries of the ledger.
//!
//! Every struct is taken apart by name: a new field does not compile until someone has decided how it is written and
//! what its absence means.

use prost::Message as _;

use super::words::Word as _;
use super::{PayloadFault, READER_VERSION};
use crate::pb::ledger::v1 as pb;
use crate::policy::consent::Covers;
use crate::policy::event::{
    Change, ConsentEvent, Hold, Invalidate, LedgerEntry, OptIn, OptOut, Preference, Request, RequestMark,
    SenderEntry, TemplateEntry,
};
use crate::policy::ids::{BusinessId, EventId, IdFault, Identifier, OriginId, SenderId, TopicId};
use crate::policy::time::Timestamp;
use crate::policy::types::{
    Category, Channel, ConsentType, EvidenceGrade, InvalidateCause, OptInMethod, OptOutMethod, Purpose,
    Quality, Scope, SenderStatus, TemplateStatus,
};

/// The bytes of an entry.
#[must_use]
pub fn encode_entry(entry: &LedgerEntry) -> Vec<u8> {
    use pb::ledger_entry::Entry;
    let entry = match entry {
        LedgerEntry::Consent(event) => Entry::Consent(write_event(event)),
        LedgerEntry::Template(template) => Entry::Template(write_template(template)),
        LedgerEntry::Sender(SenderEntry { business, sender, quality, status, status_until, time }) => {
            Entry::Sender(pb::SenderEntry {
                business: business.as_str().into(),
                sender: sender.as_str().into(),
                quality: quality.number(),
                status: status.number(),
                time_ms: time.0,
                status_until_ms: status_until.map(|until| until.0),
            })
        }
        LedgerEntry::Erasure { business, subject, recorded, events } => Entry::Erasure(pb::Erasure {
            business: business.as_str().into(),
            subject: subject.0.to_vec(),
            recorded_ms: recorded.0,
            events: *events,
        }),
        LedgerEntry::Distrust { origin, from_sequence, recorded } => Entry::Distrust(pb::Distrust {
            origin: origin.0.to_vec(),
            from_sequence: *from_sequence,
            recorded_ms: recorded.0,
        }),
    };
    pb::LedgerEntry { entry: Some(entry), needs_reader: 0 }.encode_to_vec()
}

/// The entry of some bytes.
///
/// Where a consent event holds nothing but opt-outs, whatever is unknown in them is widened: a method to unknown, a
/// channel to every channel, a purpose to everything. Anything else that is not understood whole is refused whole;
/// [`salvage_opt_outs`] tells which opt-outs hold all the same.
///
/// # Errors
/// When the bytes are damaged, or of a version that this one does not understand.
pub fn decode_entry(bytes: &[u8]) -> Result<LedgerEntry, PayloadFault> {
    use pb::ledger_entry::Entry;
    let pb::LedgerEntry { entry, needs_reader } = pb::LedgerEntry::decode(bytes)?;
    if let Some(Entry::Consent(event)) = &entry
        && !event.changes.is_empty()
        && event.changes.iter().all(|change| opt_out_of(change).is_some())
    {
        return Ok(LedgerEntry::Consent(read_opt_outs(event)?));
    }
    if needs_reader > READER_VERSION {
        return Err(PayloadFault::Newer { needs_reader });
    }
    match entry {
        Some(Entry::Consent(event)) => Ok(LedgerEntry::Consent(read_event(event)?)),
        Some(Entry::Template(template)) => Ok(LedgerEntry::Template(read_template(template)?)),
        Some(Entry::Sender(pb::SenderEntry {
            business,
            sender,
            quality,
            status,
            time_ms,
            status_until_ms,
        })) => Ok(LedgerEntry::Sender(SenderEntry {
            business: read_business(&business)?,
            sender: read_id(&sender, "sender", SenderId::new)?,
            quality: Quality::read(quality, "quality")?,
            status: SenderStatus::read(status, "status")?,
            status_until: status_until_ms.map(Timestamp),
            time: Timestamp(time_ms),
        })),
        Some(Entry::Erasure(pb::Erasure { business, subject, recorded_ms, events })) => {
            Ok(LedgerEntry::Erasure {
                business: read_business(&business)?,
                subject: Identifier(read_bytes(&subject, "subject")?),
                recorded: Timestamp(recorded_ms),
                events,
            })
        }
        Some(Entry::Distrust(pb::Distrust { origin, from_sequence, recorded_ms })) => {
            Ok(LedgerEntry::Distrust {
                origin: OriginId(read_bytes(&origin, "origin")?),
                from_sequence,
                recorded: Timestamp(recorded_ms),
            })
        }
        None => Err(PayloadFault::Unknown { field: "entry" }),
    }
}

/// The opt-outs in a consent event that [`decode_entry`] refuses, widened where they are not understood: they hold
/// while the rest waits for a newer version. `None` where there are none, or where whose they are cannot be read.
#[must_use]
pub fn salvage_opt_outs(bytes: &[u8]) -> Option<ConsentEvent> {
    match pb::LedgerEntry::decode(bytes).ok()?.entry? {
        pb::ledger_entry::Entry::Consent(event) => {
            read_opt_outs(&event).ok().filter(|event| !event.changes.is_empty())
        }
        _ => None,
    }
}

// --- times

/// Wrapping, here and in [`at`], so that any two times come back as they were.
fn offset(recorded: Timestamp, time: Timestamp) -> i64 {
    time.0.wrapping_sub(recorded.0)
}

fn at(recorded: Timestamp, offset_ms: i64) -> Timestamp {
    Timestamp(recorded.0.wrapping_add(offset_ms))
}

// --- consent events

fn write_event(event: &ConsentEvent) -> pb::ConsentEvent {
    let ConsentEvent { business, subjects, recorded, request, rules_version, numbered_late, changes } = event;
    pb::ConsentEvent {
        business: business.as_str().into(),
        subjects: subjects.iter().map(|subject| subject.0.to_vec()).collect(),
        recorded_ms: recorded.0,
        request: request.map(|RequestMark { key, content }| [key, content].concat()).unwrap_or_default(),
        rules_version: rules_version.clone(),
        numbered_late: *numbered_late,
        changes: changes.iter().map(|change| write_change(change, *recorded)).collect(),
    }
}

fn read_event(event: pb::ConsentEvent) -> Result<ConsentEvent, PayloadFault> {
    let pb::ConsentEvent { business, subjects, recorded_ms, request, rules_version, numbered_late, changes } =
        event;
    let recorded = Timestamp(recorded_ms);
    Ok(ConsentEvent {
        business: read_business(&business)?,
        subjects: read_subjects(&subjects)?,
        recorded,
        request: if request.is_empty() { None } else { Some(read_request_mark(&request)?) },
        rules_version,
        numbered_late,
        changes: changes.into_iter().map(|change| read_change(change, recorded)).collect::<Result<_, _>>()?,
    })
}

/// The opt-outs of an event and nothing else. Whose they are must be known; the rest can only widen.
fn read_opt_outs(event: &pb::ConsentEvent) -> Result<ConsentEvent, PayloadFault> {
    let pb::ConsentEvent { business, subjects, recorded_ms, request, rules_version, numbered_late, changes } =
        event;
    let recorded = Timestamp(*recorded_ms);
    Ok(ConsentEvent {
        business: read_business(business)?,
        subjects: read_subjects(subjects)?,
        recorded,
        request: read_request_mark(request).ok(),
        rules_version: rules_version.clone(),
        numbered_late: *numbered_late,
        changes: changes
            .iter()
            .filter_map(opt_out_of)
            .map(|out| Change::OptOut(read_opt_out(out.clone(), recorded)))
            .collect(),
    })
}

fn opt_out_of(change: &pb::Change) -> Option<&pb::OptOut> {
    match &change.change {
        Some(pb::change::Change::OptOut(out)) => Some(out),
        _ => None,
    }
}

fn read_request_mark(bytes: &[u8]) -> Result<RequestMark, PayloadFault> {
    let bytes: [u8; 16] = read_bytes(bytes, "request")?;
    let mut mark = RequestMark { key: [0; 8], content: [0; 8] };
    mark.key.copy_from_slice(&bytes[..8]);
    mark.content.copy_from_slice(&bytes[8..]);
    Ok(mark)
}

fn read_subjects(subjects: &[Vec<u8>]) -> Result<Vec<Identifier>, PayloadFault> {
    if subjects.is_empty() {
        return Err(PayloadFault::Unknown { field: "subjects" });
    }
    subjects.iter().map(|subject| read_bytes(subject, "subjects").map(Identifier)).collect()
}

// --- changes

fn write_change(change: &Change, recorded: Timestamp) -> pb::Change {
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

fn read_change(change: pb::Change, recorded: Timestamp) -> Result<Change, PayloadFault> {
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
fn read_opt_out(out: pb::OptOut, recorded: Timestamp) -> OptOut {
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

// --- ids

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

fn read_business(text: &str) -> Result<BusinessId, PayloadFault> {
    read_id(text, "business", BusinessId::new)
}

fn read_id<T>(
    text: &str,
    field: &'static str,
    new: impl FnOnce(&str) -> Result<T, IdFault>,
) -> Result<T, PayloadFault> {
    new(text).map_err(|fault| PayloadFault::Id { field, fault })
}

fn read_bytes<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], PayloadFault> {
    bytes.try_into().map_err(|_| PayloadFault::Length { field, len: bytes.len() })
}

// --- templates

fn write_template(template: &TemplateEntry) -> pb::TemplateEntry {
    let TemplateEntry {
        business,
        name,
        language,
        category,
        topic,
        status,
        quality,
        has_opt_out_instructions,
        pause_until,
        time,
    } = template;
    pb::TemplateEntry {
        business: business.as_str().into(),
        name: name.clone(),
        language: language.clone(),
        category: category.number(),
        topic: topic.as_ref().map(|topic| topic.as_str().into()).unwrap_or_default(),
        status: status.number(),
        quality: quality.number(),
        has_opt_out_instructions: *has_opt_out_instructions,
        time_ms: time.0,
        pause_until_ms: pause_until.map(|until| until.0),
    }
}

fn read_template(template: pb::TemplateEntry) -> Result<TemplateEntry, PayloadFault> {
    let pb::TemplateEntry {
        business,
        name,
        language,
        category,
        topic,
        status,
        quality,
        has_opt_out_instructions,
        time_ms,
        pause_until_ms,
    } = template;
    Ok(TemplateEntry {
        business: read_business(&business)?,
        name,
        language,
        category: Category::read(category, "category")?,
        topic: if topic.is_empty() { None } else { Some(read_id(&topic, "topic", TopicId::new)?) },
        // A status that nobody knows is a status too: one that never permits.
        status: TemplateStatus::known(status).unwrap_or(TemplateStatus::Unknown),
        quality: Quality::read(quality, "quality")?,
        has_opt_out_instructions,
        pause_until: pause_until_ms.map(Timestamp),
        time: Timestamp(time_ms),
    })
}
