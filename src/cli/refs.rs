//! `optgate ref`: from addresses to the keyed hashes in events.

use std::io::BufRead as _;
use std::path::Path;

use clap::Args;

use super::connect::{self, ServerFlags};
use super::fault::Fault;
use super::output::Sink;
use super::{input, json};
use crate::pb::v1;

/// The most addresses in one call.
const ADDRESSES_PER_CALL: usize = 1_000;
/// The longest line taken from standard input, in bytes: far more than any address has.
const LINE_BYTES_MAX: usize = 1_024;

/// Flags of `ref`.
#[derive(Args, Debug)]
pub struct RefArgs {
    /// Whose consent record, since the hashes differ between businesses.
    #[arg(long, value_name = "ID")]
    pub business: String,
    /// Addresses; without any they are read from standard input, one a line.
    #[arg(value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// Where and how.
    #[command(flatten)]
    pub server: ServerFlags,
}

/// Asks and prints one line for each address, in their order: the hash, then those of other forms of the address.
///
/// # Errors
/// [`Fault`].
pub async fn run(args: RefArgs) -> Result<u8, Fault> {
    let RefArgs { business, addresses, server } = args;
    let mut client = connect::consent(&server).await?;
    let mut sink = Sink::stdout();
    let mut given = addresses.into_iter();
    let from_stdin = given.len() == 0;
    loop {
        let some = if from_stdin { read_lines()? } else { given.by_ref().take(ADDRESSES_PER_CALL).collect() };
        if some.is_empty() {
            return Ok(0);
        }
        let asked = v1::GetRecipientRefsRequest {
            business_id: business.clone(),
            recipients: input::recipients(&some),
        };
        let answer = client.get_recipient_refs(connect::call(asked)).await?.into_inner();
        if answer.refs.len() != some.len() {
            return Err(Fault::Answer("it does not have one reference for each address"));
        }
        for refs in &answer.refs {
            let line = if server.json { json::of(refs) } else { readable(refs) };
            sink.line(&line)?;
        }
        sink.flush()?;
    }
}

fn readable(refs: &v1::RecipientRefs) -> String {
    let v1::RecipientRefs { recipient_ref, alias_refs } = refs;
    if recipient_ref.is_empty() {
        return "unreadable".into();
    }
    std::iter::once(recipient_ref).chain(alias_refs).map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// As many lines of standard input as one call takes; blank ones are passed over.
fn read_lines() -> Result<Vec<String>, Fault> {
    let mut some = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|source| Fault::read(Path::new("standard input"), source))?;
        if line.len() > LINE_BYTES_MAX {
            return Err(Fault::Data(format!("a line of standard input is over {LINE_BYTES_MAX} bytes")));
        }
        if !line.trim().is_empty() {
            some.push(line);
        }
        if some.len() == ADDRESSES_PER_CALL {
            break;
        }
    }
    Ok(some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_forms_follow_on_the_same_line() {
        let refs = v1::RecipientRefs { recipient_ref: "aa".into(), alias_refs: vec!["bb".into()] };
        assert_eq!(readable(&refs), "aa bb");
        assert_eq!(readable(&v1::RecipientRefs::default()), "unreadable");
    }
}
