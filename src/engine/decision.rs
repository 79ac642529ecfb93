//! What a decision leaves behind: a sealed id that any node can read back, and a line for the decision log.

use crate::key::ClusterKey;
use crate::limits::{DistinctReceipt, Receipt};
use crate::policy::check::Violation;
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Channel};

/// The label under which decision ids are sealed.
const LABEL: &str = "decision";
/// The version that starts every sealed decision.
const VERSION: u8 = 2;
/// The longest decision id, in bytes.
pub const DECISION_ID_LEN_MAX: usize = crate::key::SEALED_LEN_MAX;

/// What a decision id holds. It is sealed with the cluster key: callers learn nothing from it, and it works on any
/// node after any restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// When it was made.
    pub time: Timestamp,
    /// The business.
    pub business: String,
    /// The sender.
    pub sender: String,
    /// The channel.
    pub channel: Channel,
    /// The category it was judged as.
    pub category: Category,
    /// The person.
    pub recipient: Identifier,
    /// The person as the portfolio knows them.
    pub portfolio_recipient: [u8; 16],
    /// The template's name and language.
    pub template: Option<(String, String)>,
    /// The consent event it was about.
    pub about: Option<EventId>,
    /// Whether its template carries opt-out instructions.
    pub carries_instructions: bool,
    /// Whether it was allowed and consumed.
    pub consumed: bool,
    /// What it consumed.
    pub receipt: Receipt,
}

/// A text that is no decision id of this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a decision id of this cluster")]
pub struct DecisionFault;

/// What a decision id is sealed from.
#[derive(Clone, Copy, Debug)]
pub struct Sealing<'a> {
    /// When it was made.
    pub time: Timestamp,
    /// The business.
    pub business: &'a str,
    /// The sender.
    pub sender: &'a str,
    /// The channel.
    pub channel: Channel,
    /// The category it was judged as.
    pub category: Category,
    /// The person.
    pub recipient: Identifier,
    /// The person as the portfolio knows them.
    pub portfolio_recipient: [u8; 16],
    /// The template's name and language.
    pub template: Option<(&'a str, &'a str)>,
    /// The consent event it was about.
    pub about: Option<EventId>,
    /// Whether its template carries opt-out instructions.
    pub carries_instructions: bool,
    /// What it consumed, if it was allowed and did.
    pub receipt: Option<&'a Receipt>,
}

/// The bits of a sealed decision's flags.
mod flag {
    pub const CARRIES_INSTRUCTIONS: u8 = 1;
    pub const CONSUMED: u8 = 2;
    pub const ABOUT: u8 = 4;
    pub const TEMPLATE: u8 = 8;
    /// The portfolio knows the person by another name than the business does.
    pub const PORTFOLIO: u8 = 16;
}

impl Sealing<'_> {
    /// The id.
    #[must_use]
    pub fn seal(&self, key: &ClusterKey) -> String {
        let mut bytes = Vec::with_capacity(160);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.time.0.to_le_bytes());
        let portfolio = self.portfolio_recipient != of_business(&self.recipient);
        let flags = [
            (self.carries_instructions, flag::CARRIES_INSTRUCTIONS),
            (self.receipt.is_some(), flag::CONSUMED),
            (self.about.is_some(), flag::ABOUT),
            (self.template.is_some(), flag::TEMPLATE),
            (portfolio, flag::PORTFOLIO),
        ];
        bytes.push(flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum());
        // Both are below 16.
        bytes.push(index(Channel::ALL, self.channel) << 4 | index(Category::ALL, self.category) & 15);
        bytes.extend_from_slice(&self.recipient.0);
        if portfolio {
            bytes.extend_from_slice(&self.portfolio_recipient);
        }
        if let Some(receipt) = self.receipt {
            put_receipt(receipt, self.time, &mut bytes);
        }
        if let Some(about) = self.about {
            bytes.extend_from_slice(&about.origin.0);
            bytes.extend_from_slice(&about.sequence.to_le_bytes());
        }
        let template = self.template.iter().flat_map(|(name, language)| [*name, *language]);
        for text in [self.business, self.sender].into_iter().chain(template) {
            put_text(&mut bytes, text);
        }
        key.seal(LABEL, &bytes)
    }
}

/// How a business that is its own portfolio knows a person there.
#[must_use]
pub fn of_business(recipient: &Identifier) -> [u8; 16] {
    let mut portfolio = [0; 16];
    portfolio.copy_from_slice(&recipient.0[..16]);
    portfolio
}

/// Writes a text with its length: one byte below 255, else that byte and two more. Ids are bounded at 128 bytes and
/// template names at 512.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    match u8::try_from(len) {
        Ok(short) if short < u8::MAX => bytes.push(short),
        _ => {
            bytes.push(u8::MAX);
            bytes.extend_from_slice(&len.to_le_bytes());
        }
    }
    bytes.extend_from_slice(&text.as_bytes()[..usize::from(len)]);
}

impl Decision {
    /// Reads an id back.
    ///
    /// # Errors
    /// When it was not sealed by this cluster.
    pub fn open(key: &ClusterKey, id: &str) -> Result<Self, DecisionFault> {
        if id.len() > DECISION_ID_LEN_MAX {
            return Err(DecisionFault);
        }
        let bytes = key.open(LABEL, id).map_err(|_| DecisionFault)?;
        Self::read(&mut Reader(&bytes)).ok_or(DecisionFault)
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let [version] = reader.take()?;
        if version != VERSION {
            return None;
        }
        let time = Timestamp(i64::from_le_bytes(reader.take()?));
        let [flags, kinds] = reader.take()?;
        let recipient = Identifier(reader.take()?);
        let portfolio_recipient =
            if flags & flag::PORTFOLIO == 0 { of_business(&recipient) } else { reader.take()? };
        let consumed = flags & flag::CONSUMED != 0;
        let receipt = if consumed { read_receipt(time, reader)? } else { Receipt::default() };
        let about = if flags & flag::ABOUT == 0 {
            None
        } else {
            Some(EventId { origin: OriginId(reader.take()?), sequence: u64::from_le_bytes(reader.take()?) })
        };
        Some(Self {
            time,
            business: reader.text()?,
            sender: reader.text()?,
            channel: *Channel::ALL.get(usize::from(kinds >> 4))?,
            category: *Category::ALL.get(usize::from(kinds & 15))?,
            recipient,
            portfolio_recipient,
            template: if flags & flag::TEMPLATE == 0 { None } else { Some((reader.text()?, reader.text()?)) },
            about,
            carries_instructions: flags & flag::CARRIES_INSTRUCTIONS != 0,
            consumed,
            receipt,
        })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn text(&mut self) -> Option<String> {
        let len = match self.take()? {
            [u8::MAX] => usize::from(u16::from_le_bytes(self.take()?)),
            [short] => usize::from(short),
        };
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).ok()
    }
}

/// Appends a receipt: flags, nonce and what the flags announce. `decided` is when the decision was made, which is
/// usually when the distinct recipient was counted.
fn put_receipt(receipt: &Receipt, decided: Timestamp, out: &mut Vec<u8>) {
    let distinct = receipt.distinct;
    let previous = distinct.and_then(|distinct| Some((distinct.time, distinct.previous?)));
    let other_time = distinct.filter(|distinct| distinct.time != decided);
    out.push(
        u8::from(receipt.marked)
            | u8::from(distinct.is_some()) << 1
            | u8::from(previous.is_some()) << 2
            | u8::from(receipt.request.is_some()) << 3
            | u8::from(other_time.is_some()) << 4,
    );
    out.extend_from_slice(&receipt.nonce.to_le_bytes());
    if let Some(distinct) = other_time {
        out.extend_from_slice(&distinct.time.0.to_le_bytes());
    }
    if let Some((time, before)) = previous {
        // Less than the window of a day, or it would not be there.
        let since_ms = u32::try_from(time.since_ms(before)).unwrap_or(u32::MAX);
        out.extend_from_slice(&since_ms.to_le_bytes());
    }
    if let Some(request) = receipt.request {
        out.extend_from_slice(&request.to_le_bytes());
    }
}

fn read_receipt(decided: Timestamp, reader: &mut Reader<'_>) -> Option<Receipt> {
    let [flags] = reader.take()?;
    if flags > 31 || flags & 6 == 4 || flags & 18 == 16 {
        return None;
    }
    let nonce = u32::from_le_bytes(reader.take()?);
    let time = if flags & 16 == 0 { decided } else { Timestamp(i64::from_le_bytes(reader.take()?)) };
    let previous = if flags & 4 == 0 {
        None
    } else {
        Some(time.minus_ms(i64::from(u32::from_le_bytes(reader.take()?))))
    };
    let request = if flags & 8 == 0 { None } else { Some(u64::from_le_bytes(reader.take()?)) };
    let distinct = (flags & 2 != 0).then_some(DistinctReceipt { time, previous });
    Some(Receipt { nonce, marked: flags & 1 != 0, distinct, request })
}

fn index<T: PartialEq>(all: &[T], value: T) -> u8 {
    all.iter().position(|known| *known == value).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

/// A decision as the decision log keeps it: with the person's keyed hash, never the address.
#[derive(Clone, Copy, Debug)]
pub struct Decided<'a> {
    /// When.
    pub time: Timestamp,
    /// The business, as the caller named it.
    pub business: &'a str,
    /// The sender.
    pub sender: &'a str,
    /// The person; `None` where the address could not be read.
    pub recipient: Option<Identifier>,
    /// The channel.
    pub channel: Option<Channel>,
    /// The category it was judged as.
    pub category: Option<Category>,
    /// What denies; empty: allowed.
    pub violations: &'a [Violation],
    /// The rules that failed but only report.
    pub shadowed: &'a [Violation],
    /// The events that decided.
    pub basis: &'a [EventId],
    /// Whether it only asked.
    pub peek: bool,
    /// Whether it passed although something could not be known.
    pub degraded: bool,
    /// The version of the rules.
    pub rules_version: &'a str,
    /// The end of the decision id, which finds the line again.
    pub decision: &'a str,
}

/// Takes decisions for the log and the metrics. It blocks only where the operator has chosen to rather wait than lose a line.
pub trait DecisionSink: Send + Sync + 'static {
    /// A decision was made.
    fn decided(&self, decided: &Decided<'_>);

    /// Runs `decide`, which makes many decisions one after the other: what is written of them may be handed over at its end.
    fn together(&self, decide: &mut dyn FnMut()) {
        decide();
    }
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSink;

impl DecisionSink for NoSink {
    fn decided(&self, _decided: &Decided<'_>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ClusterKey {
        ClusterKey::from_bytes(&[3; 32])
    }

    fn least<'a>() -> Sealing<'a> {
        let recipient = Identifier([5; 32]);
        Sealing {
            time: Timestamp(1_700_000_000_123),
            business: "acme",
            sender: "1",
            channel: Channel::Sms,
            category: Category::Utility,
            recipient,
            portfolio_recipient: of_business(&recipient),
            template: None,
            about: None,
            carries_instructions: false,
            receipt: None,
        }
    }

    fn opened(sealing: &Sealing<'_>) -> Decision {
        let id = sealing.seal(&key());
        assert!(id.len() <= DECISION_ID_LEN_MAX);
        Decision::open(&key(), &id).expect("an id of this cluster")
    }

    #[test]
    fn the_least_and_the_longest_read_back() {
        let decision = opened(&least());
        assert_eq!((decision.business.as_str(), decision.sender.as_str()), ("acme", "1"));
        assert_eq!(decision.portfolio_recipient, of_business(&decision.recipient));
        assert!(!decision.consumed && decision.template.is_none() && decision.about.is_none());

        let (id, name) = ("i".repeat(128), "n".repeat(512));
        let about = EventId { origin: OriginId([9; 16]), sequence: u64::MAX };
        let time = Timestamp(1_700_000_000_000);
        let receipt = Receipt {
            nonce: u32::MAX,
            marked: true,
            distinct: Some(DistinctReceipt { time, previous: Some(time.minus_ms(86_399_999)) }),
            request: Some(u64::MAX),
        };
        let longest = Sealing {
            business: &id,
            sender: &id,
            portfolio_recipient: [8; 16],
            template: Some((&name, "language_of_many")),
            about: Some(about),
            carries_instructions: true,
            receipt: Some(&receipt),
            ..least()
        };
        let decision = opened(&longest);
        assert_eq!((decision.business, decision.about, decision.receipt), (id, Some(about), receipt));
        assert_eq!(decision.template, Some((name, "language_of_many".to_owned())));
        assert_eq!(decision.portfolio_recipient, [8; 16]);
        assert!(decision.consumed && decision.carries_instructions);
    }

    #[test]
    fn every_channel_and_category_reads_back() {
        for channel in Channel::ALL {
            for category in Category::ALL {
                let decision = opened(&Sealing { channel: *channel, category: *category, ..least() });
                assert_eq!((decision.channel, decision.category), (*channel, *category));
            }
        }
    }

    #[test]
    fn receipts_read_back_in_every_shape() {
        let decided = Timestamp(1_700_000_000_123);
        for (time, previous) in
            [(decided, None), (decided.minus_ms(7), None), (decided, Some(decided.minus_ms(9)))]
        {
            for request in [None, Some(1)] {
                for distinct in [None, Some(DistinctReceipt { time, previous })] {
                    let receipt = Receipt { nonce: 1, marked: request.is_none(), distinct, request };
                    let decision = opened(&Sealing { receipt: Some(&receipt), ..least() });
                    assert_eq!(decision.receipt, receipt);
                }
            }
        }
    }

    #[test]
    fn another_clusters_id_is_none() {
        let id = least().seal(&key());
        assert!(Decision::open(&ClusterKey::from_bytes(&[4; 32]), &id).is_err());
        assert!(Decision::open(&key(), "AQ").is_err());
    }
}
