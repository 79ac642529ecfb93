//! `optgate sender`: what the provider says of a business's numbers.

use clap::{Args, Subcommand};
use prost_types::Timestamp;

use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::text::{self, Lines};
use super::{input, json, output, words};
use crate::pb::v1;

/// The most senders asked for at once.
const PAGE_SIZE: i32 = 100;

/// What can be done with senders.
#[derive(Debug, Subcommand)]
pub enum SenderCommand {
    /// Set a sender's quality, its status or both; what is left out stays as it is.
    Put(PutArgs),
    /// List the senders of a business whose state was ever set.
    List(ListArgs),
}

impl SenderCommand {
    /// Whether to print JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        match self {
            Self::Put(args) => args.server.json,
            Self::List(args) => args.server.json,
        }
    }
}

/// Flags of `sender put`.
#[derive(Args, Debug)]
#[group(id = "what", required = true, multiple = true, args = ["quality", "status"])]
pub struct PutArgs {
    /// Whose sender.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// The sender; WhatsApp's `phone_number_id`.
    #[arg(long, value_name = "ID")]
    pub sender: String,
    /// How its traffic looks to the provider.
    #[arg(long, value_parser = words::parser::<v1::Quality>())]
    pub quality: Option<v1::Quality>,
    /// Whether it may send.
    #[arg(long, value_parser = words::parser::<v1::SenderStatus>())]
    pub status: Option<v1::SenderStatus>,
    /// Until when the status lasts; it is CONNECTED afterwards.
    #[arg(long, value_name = "TIME", value_parser = input::time, requires = "status")]
    pub status_until: Option<Timestamp>,
    /// When the provider said so. [default: now]
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    pub update_time: Option<Timestamp>,
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Flags of `sender list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Whose senders.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Does what was asked.
///
/// # Errors
/// [`Fault`].
pub async fn run(command: SenderCommand) -> Result<u8, Fault> {
    match command {
        SenderCommand::Put(args) => put(args).await,
        SenderCommand::List(args) => list(args).await,
    }
}

async fn put(args: PutArgs) -> Result<u8, Fault> {
    let PutArgs { business, sender, quality, status, status_until, update_time, server } = args;
    let mut client = connect::admin(&server).await?;
    let state = v1::SenderState {
        business_id: business,
        sender_id: sender,
        quality: quality.unwrap_or_default().into(),
        status: status.unwrap_or_default().into(),
        status_until,
        update_time,
    };
    let request = v1::PutSenderStateRequest { state: Some(state), ..Default::default() };
    let answer = client.put_sender_state(connect::call(request)).await?.into_inner();
    if server.json {
        output::print(&json::of(&answer))?;
        return Ok(0);
    }
    let v1::PutSenderStateResponse { state, event, token, durability } = answer;
    let mut lines = Lines::new();
    lines.line("Set.");
    if let Some(state) = &state {
        let [sender, status, quality, _] = cells(state);
        lines.row("sender", sender).row("status", status).row("quality", quality);
    }
    lines.row("event", text::some_event(event.as_ref()));
    lines.row("durability", words::some::<v1::Durability>(durability)).row("token", token);
    output::print(lines.text())?;
    Ok(0)
}

async fn list(args: ListArgs) -> Result<u8, Fault> {
    let ListArgs { business, server } = args;
    let mut client = connect::admin(&server).await?;
    let mut states = Vec::new();
    let mut page_token = String::new();
    loop {
        let asked =
            v1::ListSenderStatesRequest { business_id: business.clone(), page_size: PAGE_SIZE, page_token };
        let page = client.list_sender_states(connect::call(asked)).await?.into_inner();
        states.extend(page.states);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if server.json {
        output::print(&json::list(&states))?;
    } else if states.is_empty() {
        output::print("No sender's state was ever set for this business; see `optgate sender put`.")?;
    } else {
        let rows: Vec<_> = states.iter().map(cells).collect();
        output::print(&text::table(["SENDER", "STATUS", "QUALITY", "UPDATED"], &rows))?;
    }
    Ok(0)
}

fn cells(state: &v1::SenderState) -> [String; 4] {
    let v1::SenderState { business_id: _, sender_id, quality, status, status_until, update_time } = state;
    let mut status = words::some::<v1::SenderStatus>(*status).into_owned();
    if let Some(until) = status_until {
        status.push_str(&format!(" until {}", text::moment(Some(until))));
    }
    [
        sender_id.clone(),
        status,
        words::some::<v1::Quality>(*quality).into_owned(),
        text::moment(update_time.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: SenderCommand,
    }

    #[test]
    fn something_must_be_set() {
        let words = ["sender", "put", "--business", "acme", "--sender", "s1"];
        let parse = |more: &[&str]| Line::try_parse_from(words.iter().chain(more)).map(|line| line.command);
        assert!(parse(&[]).is_err());
        assert!(parse(&["--quality", "red", "--status-until", "now"]).is_err(), "an end needs a status");
        let Ok(SenderCommand::Put(args)) = parse(&["--quality", "red"]) else { panic!("is right") };
        assert_eq!((args.quality, args.status), (Some(v1::Quality::Red), None));
        assert!(parse(&["--quality", "GREEN", "--status", "BANNED"]).is_ok());
    }
}
