//! `optgate erase`: overwrites the personal fields of a person's events.

use clap::Args;

use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::text::{self, Lines};
use super::{input, json, output};
use crate::pb::v1;

/// Flags of `erase`.
#[derive(Args, Debug)]
pub struct EraseArgs {
    /// Whose consent record.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// The person. Other addresses of theirs are not followed.
    #[arg(long, value_name = "ADDRESS")]
    pub to: String,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Asks, erases and tells how many events were erased.
///
/// # Errors
/// [`Fault`].
pub async fn run(args: EraseArgs) -> Result<u8, Fault> {
    let EraseArgs { business, to, yes, server } = args;
    let question = "This overwrites evidence, texts and actors of all events of this address on the server's disk; \
                    the events keep counting. It cannot be undone.";
    if !yes && !output::confirm(question)? {
        return Err(Fault::Usage(
            "nothing was erased; answer `yes`, or give --yes where nobody can answer".into(),
        ));
    }
    let mut client = connect::consent(&server).await?;
    let asked = v1::EraseEvidenceRequest { business_id: business, recipient: Some(input::recipient(&to)) };
    let answer = client.erase_evidence(connect::long_call(asked)).await?.into_inner();
    let told = if server.json {
        json::of(&answer)
    } else {
        let v1::EraseEvidenceResponse { erased_events, already_erased_events } = answer;
        let mut lines = Lines::new();
        lines.line(format!("Erased {}.", text::count(u64::from(erased_events), "event")));
        if already_erased_events > 0 {
            lines.row("erased before", already_erased_events.to_string());
        }
        lines.text().to_owned()
    };
    output::print(&told)?;
    Ok(0)
}
