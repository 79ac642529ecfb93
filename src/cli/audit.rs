//! `optgate audit`: a person's audit trail.

use clap::Args;

use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::output::Sink;
use super::{events, input, json, text};
use crate::pb::v1;

/// The most events asked for at once.
const PAGE_SIZE: i32 = 100;

/// Flags of `audit`.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// Whose consent record.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// The person: a phone number with `+`, an email address or a WhatsApp user id.
    #[arg(long, value_name = "ADDRESS")]
    pub to: String,
    /// Where and how; with --json one line for each event.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Asks page by page and prints each event as it comes.
///
/// # Errors
/// [`Fault`].
pub async fn run(args: AuditArgs) -> Result<u8, Fault> {
    let AuditArgs { business, to, server } = args;
    let mut client = connect::consent(&server).await?;
    let mut sink = Sink::stdout();
    let mut count = 0;
    let mut page_token = String::new();
    loop {
        let asked = v1::ListConsentEventsRequest {
            business_id: business.clone(),
            recipient: Some(input::recipient(&to)),
            page_size: PAGE_SIZE,
            page_token: page_token.clone(),
        };
        let page = client.list_consent_events(connect::long_call(asked)).await?.into_inner();
        for event in &page.events {
            count += 1;
            if server.json {
                sink.line(&json::of(event))?;
            } else {
                sink.line(&events::entry(event))?;
            }
        }
        sink.flush()?;
        if page.next_page_token.is_empty() {
            break;
        }
        if page.next_page_token == page_token {
            return Err(Fault::Answer("its pages do not end"));
        }
        page_token = page.next_page_token;
    }
    if !server.json {
        sink.line(&match count {
            0 => "Nothing was ever recorded for this address.".to_owned(),
            count => format!("{}.", text::count(count, "event")),
        })?;
    }
    sink.flush()?;
    Ok(0)
}
