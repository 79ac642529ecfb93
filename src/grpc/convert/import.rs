//! Rows of an import: the columns of a CSV file, each a text.

use crate::address::Address;
use crate::engine::record::RecordRequest;
use crate::grpc::status::FieldFault;
use crate::key::ClusterKey;
use crate::pb::v1;
use crate::policy::evidence::{Evidence, ImportSource};
use crate::policy::ids::{BusinessId, TopicId, check_id};
use crate::policy::recorder::Source;
use crate::policy::report::{
    EVIDENCE_LIST_MAX, EVIDENCE_TEXT_LEN_MAX, FieldViolation, OptInReport, OptOutReport, PURPOSES_MAX, Report,
};
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Channel, ConsentType, OptInMethod, OptOutMethod};

use super::Faults;
use super::record::read_sha256;

/// Whose rows these are.
#[derive(Clone, Debug)]
pub struct Import {
    /// The business.
    pub business: BusinessId,
    /// The import's id.
    pub import_id: String,
    /// SHA-256 of the file.
    pub sha256: Vec<u8>,
    /// Who imports.
    pub actor: String,
}

/// Reads a row.
///
/// # Errors
/// Every column at fault. An opt-out's columns are widened instead, as far as the person can be read.
pub fn import_row(
    import: &Import,
    number: u64,
    row: v1::ImportRow,
    key: &ClusterKey,
) -> Result<RecordRequest, Vec<FieldFault>> {
    use prost::Message as _;
    let content =
        key.mac16("row", &[&v1::ImportRow { request_id: String::new(), ..row.clone() }.encode_to_vec()]);
    let v1::ImportRow {
        recipient,
        channels,
        change,
        topics,
        categories,
        occurred_time,
        method,
        business_name,
        channels_named,
        message_types,
        notice_text,
        notice_uri,
        notice_sha256,
        language,
        request_id,
    } = row;
    let mut faults = Faults::default();
    let mut warnings = Vec::new();
    let address = read_recipient(&recipient).map_err(|fault| faults.add("recipient", fault)).ok();
    let occurred = read_time(&occurred_time);
    let change = change.trim().to_lowercase().replace([' ', '-'], "_");
    let report = match change.as_str() {
        "opt_out" => {
            if occurred.is_none() {
                warnings.push(FieldViolation::new(
                    "occurred_time",
                    "cannot be read; the moment of the import counts",
                ));
            }
            Report::OptOut(read_opt_out(&channels, &topics, &categories, &method, occurred, &mut warnings))
        }
        "opt_in" => {
            if occurred.is_none() {
                faults.add("occurred_time", "give when the person acted, e.g. `2026-03-01T09:30:00Z`");
            }
            let evidence = Evidence {
                business_name,
                channels_named: read_channels(&channels_named, "channels_named", &mut faults)
                    .into_iter()
                    .map(|channel| channel.word().to_owned())
                    .collect(),
                message_types,
                notice_text,
                notice_uri,
                notice_sha256: read_sha256(notice_sha256.trim()).unwrap_or_else(|| {
                    faults.add("notice_sha256", "must be 64 hex digits");
                    Vec::new()
                }),
                language,
                ..Evidence::default()
            };
            bound_evidence(&evidence, &mut faults);
            let read_method = OptInMethod::from_word(&word(&method));
            if read_method.is_none() && !method.trim().is_empty() {
                faults.add("method", format!("`{}` is no opt-in method", word(&method)));
            }
            Report::OptIn(OptInReport {
                channels: read_channels(&channels, "channels", &mut faults),
                topics: faults.topics("topics", &topics),
                categories: read_categories(&categories, &mut faults),
                method: read_method,
                evidence,
                consent_type: ConsentType::Express,
                supersedes: Vec::new(),
                occurred,
                expire: None,
                confirms: None,
            })
        }
        _ => {
            faults.add("change", "must be `opt_in` or `opt_out`");
            return Err(faults.0);
        }
    };
    let mut hash = [0; 8];
    hash.copy_from_slice(&content[..8]);
    // The row names itself, so that the same file can be imported again.
    let of_row = || format!("row-{}", super::record::hex(&content));
    let request_id = if request_id.is_empty() {
        of_row()
    } else {
        match check_id(&request_id) {
            Ok(()) => request_id,
            Err(_) if matches!(report, Report::OptOut(_)) => {
                warnings.push(FieldViolation::new("request_id", "cannot be used; the row names itself"));
                of_row()
            }
            Err(fault) => {
                faults.add("request_id", fault.to_string());
                request_id
            }
        }
    };
    let Some(recipient) = address.filter(|_| faults.0.is_empty()) else { return Err(faults.0) };
    Ok(RecordRequest {
        business: import.business.clone(),
        recipient,
        also: Vec::new(),
        request_id,
        content: hash,
        reports: vec![report],
        actor: import.actor.clone(),
        wants_replicated: None,
        source: Source::Import,
        row: Some(ImportSource {
            import_id: import.import_id.clone(),
            sha256: import.sha256.clone(),
            row: number,
        }),
        warnings,
    })
}

/// Reads an address by its look: `+` a phone, `@` an email, else a WhatsApp user id.
fn read_recipient(text: &str) -> Result<Address, String> {
    let text = text.trim();
    let read = if text.contains('@') {
        Address::parse_email(text)
    } else if text.starts_with('+') || !text.contains('.') {
        Address::parse_phone(text)
    } else {
        Address::parse_whatsapp_user_id(text)
    };
    read.map_err(|fault| fault.to_string())
}

fn read_time(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.trim().parse().ok()?;
    Some(Timestamp(at.as_millisecond()))
}

fn word(text: &str) -> String {
    text.trim().to_uppercase().replace([' ', '-'], "_")
}

fn bound_evidence(evidence: &Evidence, faults: &mut Faults) {
    let texts = [
        ("business_name", &evidence.business_name),
        ("notice_text", &evidence.notice_text),
        ("notice_uri", &evidence.notice_uri),
        ("language", &evidence.language),
    ];
    for (name, text) in texts {
        if text.len() > EVIDENCE_TEXT_LEN_MAX {
            faults.add(name, format!("must have at most {EVIDENCE_TEXT_LEN_MAX} bytes"));
        }
    }
    if evidence.message_types.len() > EVIDENCE_LIST_MAX {
        faults.add("message_types", format!("may name {EVIDENCE_LIST_MAX} types"));
    }
}

fn read_channels(words: &[String], field: &str, faults: &mut Faults) -> Vec<Channel> {
    let mut channels: Vec<Channel> =
        words.iter().filter_map(|text| Channel::from_word(&word(text))).collect();
    if channels.len() < words.len() {
        faults.add(field, "names an unknown channel; choose among WHATSAPP, SMS, EMAIL, VOICE");
    }
    channels.sort_unstable();
    channels.dedup();
    channels
}

fn read_categories(words: &[String], faults: &mut Faults) -> Vec<Category> {
    let categories: Vec<Category> =
        words.iter().filter_map(|text| Category::from_word(&word(text))).collect();
    if categories.len() < words.len() {
        faults
            .add("categories", "names an unknown category; choose among MARKETING, UTILITY, AUTHENTICATION");
    }
    categories
}

fn read_opt_out(
    channels: &[String],
    topics: &[String],
    categories: &[String],
    method: &str,
    occurred: Option<Timestamp>,
    warnings: &mut Vec<FieldViolation>,
) -> OptOutReport {
    let mut read_channels: Vec<Channel> =
        channels.iter().filter_map(|text| Channel::from_word(&word(text))).collect();
    if read_channels.len() < channels.len() {
        warnings.push(FieldViolation::new("channels", "names an unknown channel; taken for all channels"));
        read_channels.clear();
    }
    let mut read_topics: Vec<TopicId> = topics.iter().filter_map(|topic| TopicId::new(topic).ok()).collect();
    let mut read_categories: Vec<Category> =
        categories.iter().filter_map(|text| Category::from_word(&word(text))).collect();
    let unread = read_topics.len() < topics.len() || read_categories.len() < categories.len();
    if unread || topics.len() + categories.len() > PURPOSES_MAX {
        warnings.push(FieldViolation::new("topics", "cannot all be read; taken for everything"));
        read_topics.clear();
        read_categories.clear();
    }
    OptOutReport {
        channels: read_channels,
        topics: read_topics,
        categories: read_categories,
        method: OptOutMethod::from_word(&word(method)).unwrap_or(OptOutMethod::Import),
        text: String::new(),
        occurred,
    }
}
