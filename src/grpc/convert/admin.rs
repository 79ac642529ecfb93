//! Templates and senders.

use crate::grpc::status::ApiError;
use crate::ledger::verify::{Fault, Report};
use crate::pb::v1;
use crate::policy::event::{SenderEntry, TemplateEntry};
use crate::policy::ids::TopicId;
use crate::policy::time::Timestamp;
use crate::policy::types::{Quality, SenderStatus, TemplateStatus};

use super::record::hex;
use super::{Faults, pb_event_id, pb_timestamp, words};

/// Reads a template.
///
/// # Errors
/// Every field at fault.
pub fn template(template: Option<v1::Template>) -> Result<TemplateEntry, ApiError> {
    let mut faults = Faults::default();
    let v1::Template {
        business_id,
        name,
        language,
        category,
        topic,
        status,
        quality,
        has_opt_out_instructions,
        pause_until,
        // Set by optgate.
        update_time: _,
    } = template.ok_or_else(|| ApiError::field("template", "must be given"))?;
    let business = faults.business("template.business_id", &business_id);
    let category =
        words::category(category).filter(|category| *category != crate::policy::types::Category::Service);
    if category.is_none() {
        faults.add("template.category", "choose MARKETING, UTILITY or AUTHENTICATION");
    }
    let topic = if topic.is_empty() {
        None
    } else {
        TopicId::new(&topic).map_err(|fault| faults.add("template.topic", fault.to_string())).ok()
    };
    let read_status = words::template_status(status);
    if read_status.is_none() {
        faults.add("template.status", "name a status that this version knows");
    }
    let read_quality = words::quality(quality);
    if read_quality.is_none() && quality != 0 {
        faults.add("template.quality", "is unknown; choose one that this version knows");
    }
    let pause_until = faults.time("template.pause_until", pause_until.as_ref());
    let (Some(business), Some(category)) = (business, category) else {
        return faults.or(()).and(Err(ApiError::Internal));
    };
    faults.or(TemplateEntry {
        business,
        name,
        language,
        category,
        topic,
        status: read_status.unwrap_or(TemplateStatus::Unknown),
        quality: read_quality.unwrap_or(Quality::Unknown),
        has_opt_out_instructions,
        pause_until,
        time: Timestamp::MIN,
    })
}

/// Writes a template.
#[must_use]
pub fn pb_template(entry: &TemplateEntry) -> v1::Template {
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
    } = entry;
    v1::Template {
        business_id: business.as_str().to_owned(),
        name: name.clone(),
        language: language.clone(),
        category: words::pb_category(*category).into(),
        topic: topic.as_ref().map(|topic| topic.as_str().to_owned()).unwrap_or_default(),
        status: words::pb_template_status(*status).into(),
        quality: words::pb_quality(*quality).into(),
        has_opt_out_instructions: *has_opt_out_instructions,
        pause_until: pause_until.map(pb_timestamp),
        update_time: (*time > Timestamp::MIN).then(|| pb_timestamp(*time)),
    }
}

/// Reads a sender's state.
///
/// # Errors
/// Every field at fault.
pub fn sender(state: Option<v1::SenderState>) -> Result<SenderEntry, ApiError> {
    let mut faults = Faults::default();
    let v1::SenderState {
        business_id,
        sender_id,
        quality,
        status,
        status_until,
        // Set by optgate.
        update_time: _,
    } = state.ok_or_else(|| ApiError::field("state", "must be given"))?;
    let business = faults.business("state.business_id", &business_id);
    let sender = faults.sender("state.sender_id", &sender_id);
    let read_quality = words::quality(quality);
    if read_quality.is_none() && quality != 0 {
        faults.add("state.quality", "is unknown; choose one that this version knows");
    }
    let read_status = words::sender_status(status);
    if read_status.is_none() && status != 0 {
        faults.add("state.status", "is unknown; choose one that this version knows");
    }
    let until = faults.time("state.status_until", status_until.as_ref());
    let (Some(business), Some(sender)) = (business, sender) else {
        return faults.or(()).and(Err(ApiError::Internal));
    };
    faults.or(SenderEntry {
        business,
        sender,
        quality: read_quality.unwrap_or(Quality::Unknown),
        status: read_status.unwrap_or(SenderStatus::Connected),
        status_until: until,
        time: Timestamp::MIN,
    })
}

/// Writes a sender's state.
#[must_use]
pub fn pb_sender(entry: &SenderEntry) -> v1::SenderState {
    let SenderEntry { business, sender, quality, status, status_until, time } = entry;
    v1::SenderState {
        business_id: business.as_str().to_owned(),
        sender_id: sender.as_str().to_owned(),
        quality: words::pb_quality(*quality).into(),
        status: words::pb_sender_status(*status).into(),
        status_until: status_until.map(pb_timestamp),
        update_time: Some(pb_timestamp(*time)),
    }
}

/// Writes what verifying the ledger found.
#[must_use]
pub fn verify_response(report: Report) -> v1::VerifyLedgerResponse {
    let ok = report.is_sound();
    let Report { segments, records, bytes, blobs, origins, faults, faults_unlisted, tail_bytes: _ } = report;
    let mut faults: Vec<v1::LedgerFault> = faults.into_iter().map(pb_fault).collect();
    if faults_unlisted > 0 {
        faults.push(v1::LedgerFault {
            description: format!("and {faults_unlisted} more faults"),
            ..v1::LedgerFault::default()
        });
    }
    v1::VerifyLedgerResponse {
        ok,
        records,
        size_bytes: bytes,
        segments: u32::try_from(segments).unwrap_or(u32::MAX),
        erased_blobs: blobs.erased,
        origins: origins
            .into_iter()
            .map(|(origin, of)| v1::OriginStatus {
                origin: origin.to_string(),
                last_sequence: of.head.sequence,
                chain_sha256: hex(&of.head.hash),
            })
            .collect(),
        faults,
    }
}

fn pb_fault(fault: Fault) -> v1::LedgerFault {
    let description = fault.to_string();
    let (segment, offset_bytes, event) = match fault {
        Fault::Damaged(damage) => (damage.segment, damage.from, None),
        Fault::Chain { id, position }
        | Fault::Gap { id, expected: _, position }
        | Fault::Blob { id, position } => {
            (position.segment(), u64::from(position.offset()), Some(pb_event_id(id)))
        }
    };
    v1::LedgerFault { segment: segment.to_string(), offset_bytes, event, description }
}
