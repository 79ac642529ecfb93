//! What a decision leaves behind: a sealed id that any node can read back, and a line for the decision log.

use std::sync::Arc;

use crate::key::ClusterKey;
use crate::limits::Receipt;
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::time::Timestamp;
use crate::policy::types::{Category, Channel, Reason};

/// The label under which decision ids are sealed.
const LABEL: &str = "decision";
/// The version that starts every sealed decision.
const VERSION: u8 = 1;
/// The longest decision id, in bytes.
pub const DECISION_ID_LEN_MAX: usize = 2_048;

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

impl Decision {
    /// The id.
    #[must_use]
    pub fn seal(&self, key: &ClusterKey) -> String {
        let mut bytes = Vec::with_capacity(192);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.time.0.to_le_bytes());
        let flags = u8::from(self.carries_instructions)
            | u8::from(self.consumed) << 1
            | u8::from(self.about.is_some()) << 2
            | u8::from(self.template.is_some()) << 3;
        bytes.push(flags);
        bytes.push(index(Channel::ALL, self.channel));
        bytes.push(index(Category::ALL, self.category));
        bytes.extend_from_slice(&self.recipient.0);
        bytes.extend_from_slice(&self.portfolio_recipient);
        if self.consumed {
            bytes.extend_from_slice(&self.receipt.to_bytes());
        }
        if let Some(about) = self.about {
            bytes.extend_from_slice(&about.origin.0);
            bytes.extend_from_slice(&about.sequence.to_le_bytes());
        }
        let template = self.template.iter().flat_map(|(name, language)| [name, language]);
        for text in [&self.business, &self.sender].into_iter().chain(template) {
            // Ids are bounded at 128 bytes and template names at 512.
            let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(&text.as_bytes()[..usize::from(len)]);
        }
        key.seal(LABEL, &bytes)
    }

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
        let [flags, channel, category] = reader.take()?;
        let recipient = Identifier(reader.take()?);
        let portfolio_recipient = reader.take()?;
        let consumed = flags & 2 != 0;
        let receipt = if consumed { Receipt::from_bytes(&reader.take()?)? } else { Receipt::default() };
        let about = if flags & 4 == 0 {
            None
        } else {
            Some(EventId { origin: OriginId(reader.take()?), sequence: u64::from_le_bytes(reader.take()?) })
        };
        Some(Self {
            time,
            business: reader.text()?,
            sender: reader.text()?,
            channel: *Channel::ALL.get(usize::from(channel))?,
            category: *Category::ALL.get(usize::from(category))?,
            recipient,
            portfolio_recipient,
            template: if flags & 8 == 0 { None } else { Some((reader.text()?, reader.text()?)) },
            about,
            carries_instructions: flags & 1 != 0,
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
        let len = usize::from(u16::from_le_bytes(self.take()?));
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).ok()
    }
}

fn index<T: PartialEq>(all: &[T], value: T) -> u8 {
    all.iter().position(|known| *known == value).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

/// A decision as the decision log keeps it: with the person's keyed hash, never the address.
#[derive(Clone, Debug)]
pub struct Decided {
    /// When.
    pub time: Timestamp,
    /// The business, as the caller named it.
    pub business: Arc<str>,
    /// The sender.
    pub sender: Arc<str>,
    /// The person; `None` where the address could not be read.
    pub recipient: Option<Identifier>,
    /// The channel.
    pub channel: Option<Channel>,
    /// The category it was judged as.
    pub category: Option<Category>,
    /// The reasons that deny; empty: allowed.
    pub reasons: Vec<Reason>,
    /// The rules that failed but only report.
    pub shadowed: Vec<Reason>,
    /// The events that decided.
    pub basis: Vec<EventId>,
    /// Whether it only asked.
    pub peek: bool,
    /// Whether it passed although something could not be known.
    pub degraded: bool,
    /// The version of the rules.
    pub rules_version: Arc<str>,
    /// The end of the decision id, which finds the line again.
    pub decision: String,
}

/// Takes decisions for the log and the metrics. It must not block.
pub trait DecisionSink: Send + Sync + 'static {
    /// Whether [`DecisionSink::decided`] wants whole decisions, or counting is enough.
    fn wants_lines(&self) -> bool;
    /// A decision was made.
    fn decided(&self, decided: Decided);
    /// A decision was made: what to count of it.
    fn count(&self, allowed: bool, reason: Option<Reason>, shadowed: &[Reason]);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSink;

impl DecisionSink for NoSink {
    fn wants_lines(&self) -> bool {
        false
    }

    fn decided(&self, _decided: Decided) {}

    fn count(&self, _allowed: bool, _reason: Option<Reason>, _shadowed: &[Reason]) {}
}
