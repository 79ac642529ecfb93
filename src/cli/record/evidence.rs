//! The flags of an opt-in's evidence: one for each field, so that each missing one can be named.

use clap::Args;

use crate::cli::words;
use crate::pb::v1;

/// What shows that an opt-in was given.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Evidence")]
pub struct EvidenceArgs {
    /// How it was given.
    #[arg(long, value_parser = words::parser::<v1::OptInMethod>())]
    pub method: Option<v1::OptInMethod>,
    /// More about the method; required for OTHER.
    #[arg(long, value_name = "TEXT")]
    pub method_detail: Option<String>,
    /// The name of the business as the person saw it.
    #[arg(long, value_name = "NAME")]
    pub business_name: Option<String>,
    /// A channel that the notice named, repeatable.
    #[arg(long = "channel-named", value_delimiter = ',',
        value_parser = words::parser::<v1::Channel>())]
    pub channels_named: Vec<v1::Channel>,
    /// A message type that the notice named, repeatable.
    #[arg(long = "message-type", value_name = "TOPIC", value_delimiter = ',')]
    pub message_types: Vec<String>,
    /// The words the person saw or heard; or else --notice-uri with --notice-sha256.
    #[arg(long, value_name = "TEXT")]
    pub notice_text: Option<String>,
    /// Where the words stand.
    #[arg(long, value_name = "URI")]
    pub notice_uri: Option<String>,
    /// SHA-256 of the words, as 64 hex digits.
    #[arg(long, value_name = "HEX")]
    pub notice_sha256: Option<String>,
    /// The words' version.
    #[arg(long, value_name = "TEXT")]
    pub notice_version: Option<String>,
    /// The words' language, such as `en` or `pt-BR`.
    #[arg(long, value_name = "CODE")]
    pub language: Option<String>,
    /// What the person did, such as `ticked the box`.
    #[arg(long, value_name = "TEXT")]
    pub action: Option<String>,
    /// The page it happened on.
    #[arg(long, value_name = "URL")]
    pub source_url: Option<String>,
    /// The network address of the person's device.
    #[arg(long, value_name = "IP")]
    pub ip: Option<String>,
    /// What the person's browser called itself.
    #[arg(long, value_name = "TEXT")]
    pub user_agent: Option<String>,
    /// The provider's id of the person's message.
    #[arg(long, value_name = "ID")]
    pub message_id: Option<String>,
    /// The id of the call.
    #[arg(long, value_name = "ID")]
    pub call_id: Option<String>,
    /// Who took it down.
    #[arg(long, value_name = "NAME")]
    pub operator: Option<String>,
    /// The party that collected it, if not the business.
    #[arg(long, value_name = "NAME")]
    pub collected_by: Option<String>,
    /// The campaign it belongs to.
    #[arg(long, value_name = "ID")]
    pub campaign_id: Option<String>,
    /// The law it was given under, such as `DE` or `US-TX`.
    #[arg(long, value_name = "CODE")]
    pub jurisdiction: Option<String>,
    /// What the person said of their age.
    #[arg(long, value_name = "TEXT")]
    pub age_statement: Option<String>,
}

impl EvidenceArgs {
    /// The evidence; `None` where no flag was given.
    pub fn into_evidence(self) -> Option<v1::Evidence> {
        let Self {
            method,
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
        } = self;
        let evidence = v1::Evidence {
            method: method.unwrap_or_default().into(),
            method_detail: method_detail.unwrap_or_default(),
            business_name: business_name.unwrap_or_default(),
            channels_named: words::numbers(&channels_named),
            message_types,
            notice_text: notice_text.unwrap_or_default(),
            notice_uri: notice_uri.unwrap_or_default(),
            notice_sha256: notice_sha256.unwrap_or_default().to_lowercase(),
            notice_version: notice_version.unwrap_or_default(),
            language: language.unwrap_or_default(),
            action: action.unwrap_or_default(),
            source_url: source_url.unwrap_or_default(),
            ip: ip.unwrap_or_default(),
            user_agent: user_agent.unwrap_or_default(),
            message_id: message_id.unwrap_or_default(),
            call_id: call_id.unwrap_or_default(),
            operator: operator.unwrap_or_default(),
            collected_by: collected_by.unwrap_or_default(),
            campaign_id: campaign_id.unwrap_or_default(),
            jurisdiction: jurisdiction.unwrap_or_default(),
            age_statement: age_statement.unwrap_or_default(),
        };
        (evidence != v1::Evidence::default()).then_some(evidence)
    }
}
