//! Entries of the ledger.
//!
//! Every struct is taken apart by name: a new field does not compile until someone has decided how it is written and
//! what its absence means.

use prost::Message as _;

mod changes;

use changes::{read_change, read_opt_out, write_change};

use super::words::Word as _;
use super::{PayloadFault, READER_VERSION};
use crate::pb::ledger::v1 as pb;
use crate::policy::event::{Change, ConsentEvent, LedgerEntry, RequestMark, SenderEntry, TemplateEntry};
use crate::policy::ids::{BusinessId, IdFault, Identifier, OriginId, SenderId, TopicId};
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Quality, SenderStatus, TemplateStatus};

/// Who drops the forms of what is linked does not see the opt-outs under them, and must not count what permits beside them. A link alone is
/// better known without them than not at all.
const FORMS_READER: u32 = 2;

const fn permits(change: &Change) -> bool {
    matches!(change, Change::OptIn(_) | Change::Request(_))
}

/// The bytes of an entry.
#[must_use]
pub fn encode_entry(entry: &LedgerEntry) -> Vec<u8> {
    use pb::ledger_entry::Entry;
    let needs_reader = match entry {
        LedgerEntry::Consent(event) if !event.forms.is_empty() && event.changes.iter().any(permits) => {
            FORMS_READER
        }
        _ => 0,
    };
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
    pb::LedgerEntry { entry: Some(entry), needs_reader }.encode_to_vec()
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
    let ConsentEvent { business, subjects, forms, recorded, request, rules_version, numbered_late, changes } =
        event;
    pb::ConsentEvent {
        business: business.as_str().into(),
        subjects: subjects.iter().map(|subject| subject.0.to_vec()).collect(),
        forms: forms.iter().map(|form| form.0.to_vec()).collect(),
        recorded_ms: recorded.0,
        request: request.map(|RequestMark { key, content }| [key, content].concat()).unwrap_or_default(),
        rules_version: rules_version.clone(),
        numbered_late: *numbered_late,
        changes: changes.iter().map(|change| write_change(change, *recorded)).collect(),
    }
}

fn read_event(event: pb::ConsentEvent) -> Result<ConsentEvent, PayloadFault> {
    let pb::ConsentEvent {
        business,
        subjects,
        forms,
        recorded_ms,
        request,
        rules_version,
        numbered_late,
        changes,
    } = event;
    let recorded = Timestamp(recorded_ms);
    Ok(ConsentEvent {
        business: read_business(&business)?,
        subjects: read_subjects(&subjects)?,
        forms: forms
            .iter()
            .map(|form| read_bytes(form, "forms").map(Identifier))
            .collect::<Result<_, _>>()?,
        recorded,
        request: if request.is_empty() { None } else { Some(read_request_mark(&request)?) },
        rules_version,
        numbered_late,
        changes: changes.into_iter().map(|change| read_change(change, recorded)).collect::<Result<_, _>>()?,
    })
}

/// The opt-outs of an event and nothing else. Whose they are must be known; the rest can only widen.
fn read_opt_outs(event: &pb::ConsentEvent) -> Result<ConsentEvent, PayloadFault> {
    let pb::ConsentEvent {
        business,
        subjects,
        forms,
        recorded_ms,
        request,
        rules_version,
        numbered_late,
        changes,
    } = event;
    let recorded = Timestamp(*recorded_ms);
    Ok(ConsentEvent {
        business: read_business(business)?,
        subjects: read_subjects(subjects)?,
        forms: forms.iter().filter_map(|form| read_bytes(form, "forms").ok()).map(Identifier).collect(),
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

// --- ids

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
