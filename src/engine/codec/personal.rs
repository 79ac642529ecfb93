//! The erasable blob beside a consent event.

use prost::Message as _;

use super::PayloadFault;
use crate::pb::ledger::v1 as pb;
use crate::policy::evidence::{Evidence, ImportSource, Personal};

/// The bytes of a blob.
#[must_use]
pub fn encode_personal(personal: &Personal) -> Vec<u8> {
    let Personal { evidence, texts, actor, request_id, source } = personal;
    pb::Personal {
        evidence: evidence.iter().map(write_evidence).collect(),
        texts: texts.clone(),
        actor: actor.clone(),
        request_id: request_id.clone(),
        source: source.as_ref().map(|ImportSource { import_id, sha256, row }| pb::ImportSource {
            import_id: import_id.clone(),
            sha256: sha256.clone(),
            row: *row,
        }),
    }
    .encode_to_vec()
}

/// The blob of some bytes. Nothing is decided by it, so that what a newer version added is passed over.
///
/// # Errors
/// When the bytes are not a blob.
pub fn decode_personal(bytes: &[u8]) -> Result<Personal, PayloadFault> {
    let pb::Personal { evidence, texts, actor, source, request_id } = pb::Personal::decode(bytes)?;
    Ok(Personal {
        evidence: evidence.into_iter().map(read_evidence).collect(),
        texts,
        actor,
        request_id,
        source: source.map(|pb::ImportSource { import_id, sha256, row }| ImportSource {
            import_id,
            sha256,
            row,
        }),
    })
}

/// The fields are the same on both sides: one list serves both directions and neither can miss one.
macro_rules! evidence {
    ($($field:ident),+ $(,)?) => {
        fn write_evidence(evidence: &Evidence) -> pb::Evidence {
            let Evidence { $($field),+ } = evidence;
            pb::Evidence { $($field: $field.clone()),+ }
        }

        fn read_evidence(evidence: pb::Evidence) -> Evidence {
            let pb::Evidence { $($field),+ } = evidence;
            Evidence { $($field),+ }
        }
    };
}

evidence!(
    method_detail,
    business_name,
    channels_named,
    message_types,
    notice_text,
    notice_uri,
    notice_sha256,
    notice_version,
    language,
    action,
    source_url,
    ip,
    user_agent,
    message_id,
    call_id,
    operator,
    collected_by,
    campaign_id,
    jurisdiction,
    age_statement,
);
