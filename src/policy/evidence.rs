//! Evidence of an opt-in, and the other personal fields that travel beside an event.

use std::fmt;

/// What shows that a person opted in, as the caller reported it. Strings are as given; empty is
/// absent. `Debug` tells nothing of their content.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// More about the method, e.g. which checkout.
    pub method_detail: String,
    /// The business name that the person was shown.
    pub business_name: String,
    /// The channels that the person was told of, as shown: `WhatsApp`, `SMS`.
    pub channels_named: Vec<String>,
    /// The message types that the person was told of.
    pub message_types: Vec<String>,
    /// The text of the notice.
    pub notice_text: String,
    /// Where the notice is kept.
    pub notice_uri: String,
    /// SHA-256 of the notice at `notice_uri`: 32 bytes, or none.
    pub notice_sha256: Vec<u8>,
    /// The notice's version.
    pub notice_version: String,
    /// The notice's language.
    pub language: String,
    /// What the person did, e.g. `ticked an empty box`.
    pub action: String,
    /// The page or post.
    pub source_url: String,
    /// The person's network address.
    pub ip: String,
    /// The person's browser.
    pub user_agent: String,
    /// The provider's id of the person's message.
    pub message_id: String,
    /// The id of the call.
    pub call_id: String,
    /// Who took it down.
    pub operator: String,
    /// Which company collected it.
    pub collected_by: String,
    /// The campaign.
    pub campaign_id: String,
    /// The law it was collected under.
    pub jurisdiction: String,
    /// What was said of the person's age.
    pub age_statement: String,
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Evidence(redacted)")
    }
}

/// The row of an import that an event came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportSource {
    /// The import.
    pub import_id: String,
    /// SHA-256 of the file, 32 bytes, or none.
    pub sha256: Vec<u8>,
    /// The row, from 1 after the header.
    pub row: u64,
}

/// Personal fields of one event. They are erasable: the chain keeps only their salted hash.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Personal {
    /// Evidence, one per change of the event, in their order; opt-ins and requests have one.
    pub evidence: Vec<Evidence>,
    /// What the person wrote or said, one per change.
    pub texts: Vec<String>,
    /// Who reported the change: a kind, a colon and an id.
    pub actor: String,
    /// The caller's request id; the chained part holds only a keyed hash of it.
    pub request_id: String,
    /// Where it was imported from.
    pub source: Option<ImportSource>,
}

impl Personal {
    /// Whether there is nothing to keep.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl fmt::Debug for Personal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Personal(redacted)")
    }
}
