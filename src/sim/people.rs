//! Persons and what becomes of what they do: acts have a true order, reports come late, again and anywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::node::{KEY, offers};
use super::world::{EPOCH_MS, World};
use crate::address::Address;
use crate::engine::EngineError;
use crate::engine::inbound::{Inbound, InboundContent};
use crate::engine::record::RecordRequest;
use crate::key::ClusterKey;
use crate::policy::event::{Change, ConsentEvent};
use crate::policy::ids::{BusinessId, EventId, Identifier, OriginId, SenderId};
use crate::policy::recorder::Source;
use crate::policy::report::{OptInReport, OptOutReport, Report};
use crate::policy::strategies::opt_in_by_form;
use crate::policy::time::Timestamp;
use crate::policy::types::{Channel, OptOutMethod};

pub const BUSINESS: &str = "acme";
/// What persons are asked about: offers on these channels.
pub const CHANNELS: [Channel; 2] = [Channel::Sms, Channel::Voice];
/// How often a caller who was not told that it is done tries again.
const TRIES_MAX: u32 = 5;

/// What an act reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Sms,
    Voice,
    Both,
    Everything,
}

impl Reach {
    /// Spelt out: the judge must not ask the code under test.
    pub fn touches(self, channel: Channel) -> bool {
        match self {
            Self::Sms => channel == Channel::Sms,
            Self::Voice => channel == Channel::Voice,
            Self::Both | Self::Everything => true,
        }
    }

    fn channels(self) -> Vec<Channel> {
        match self {
            Self::Sms => vec![Channel::Sms],
            Self::Voice => vec![Channel::Voice],
            Self::Both => CHANNELS.to_vec(),
            Self::Everything => Vec::new(),
        }
    }
}

/// Who vouches for an opt-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A caller, with an id for the request.
    Caller,
    /// A caller who forgot it.
    Anonymous,
    /// A caller whose time is a default that somebody forgot to fill in.
    Misdated,
    /// The platform.
    Signed,
    /// A caller, at the person's other address, who says that both are the person's.
    OtherAddress,
}

/// What a person does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    OptIn {
        reach: Reach,
        named: Vec<EventId>,
    },
    Stop {
        reach: Reach,
        how: How,
    },
    /// Writes STOP by SMS.
    StopMessage,
    /// Writes START by SMS.
    StartMessage,
}

impl What {
    pub fn ends(&self, channel: Channel) -> bool {
        match self {
            Self::Stop { reach, .. } => reach.touches(channel),
            Self::StopMessage => channel == Channel::Sms,
            Self::OptIn { .. } | Self::StartMessage => false,
        }
    }

    pub fn ends_something(&self) -> bool {
        CHANNELS.iter().any(|channel| self.ends(*channel))
    }
}

/// One act. Its index is its place in the true order.
#[derive(Clone, Debug)]
pub struct Act {
    pub person: usize,
    pub what: What,
    pub at_ms: i64,
    /// The events that it is known to have become.
    pub events: BTreeSet<EventId>,
    /// A caller was told that it is recorded, or kept, and the disk that has it was not lost since: by whom.
    pub taken_by: BTreeSet<usize>,
}

/// One report of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    pub act: usize,
    pub node: usize,
    pub tries: u32,
}

/// An event as the judge knows it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The last of the acts that it records.
    pub act: Option<usize>,
    pub event: ConsentEvent,
    /// What its recorder had applied: not known of what an edge took in.
    pub knowing: Option<BTreeMap<OriginId, u64>>,
}

pub fn address(person: usize) -> Address {
    Address::parse_phone(&format!("+4915123456{person:03}")).expect("a number")
}

/// Where a person opts out and nothing else.
fn other_address(person: usize) -> Address {
    Address::parse_phone(&format!("+4915123457{person:03}")).expect("a number")
}

/// A person's keyed hash.
pub fn identifier(person: usize) -> Identifier {
    ClusterKey::from_bytes(&KEY).identifier(BUSINESS, &address(person))
}

/// The keyed hash of the other address.
pub fn other_identifier(person: usize) -> Identifier {
    ClusterKey::from_bytes(&KEY).identifier(BUSINESS, &other_address(person))
}

impl World {
    fn stated(&self, act: &Act, skew_ms: i64) -> Timestamp {
        Timestamp(EPOCH_MS + act.at_ms + skew_ms)
    }

    /// The person acts now; with the act's number.
    pub fn act(&mut self, person: usize, what: What) -> usize {
        self.note(format!("act {}: person {person} {what:?}", self.acts.len()));
        let at_ms = self.true_ms();
        self.acts.push(Act { person, what, at_ms, events: BTreeSet::new(), taken_by: BTreeSet::new() });
        self.acts.len() - 1
    }

    pub fn report_at(&mut self, delay_ms: i64, act: usize, node: usize, tries: u32) {
        self.number_reports += 1;
        let at = self.true_ms() + delay_ms;
        self.reports.insert((at, self.number_reports, Attempt { act, node, tries }));
    }

    /// The opt-outs of a person that are known at `node` now; `None`: it cannot tell.
    pub fn look_up(&mut self, node: usize, person: usize) -> Option<Vec<EventId>> {
        self.set_clock(node);
        let engine = &self.nodes[node].process.as_ref()?.engine;
        let view = engine.consent(BUSINESS, &address(person), &[], None).ok()?;
        let cells = std::iter::once(&view.person).chain(&view.others).flat_map(|person| &person.record.cells);
        let marks = cells.flat_map(|(_, cell)| cell.outs.iter().chain(cell.voids.iter()));
        let mut ids: Vec<EventId> = marks.map(|mark| mark.id).collect();
        ids.sort_unstable();
        ids.dedup();
        Some(ids)
    }

    /// A report comes in; whoever is not told that it is done comes again.
    pub fn report(&mut self, attempt: &Attempt) {
        let Attempt { act, node, tries } = *attempt;
        self.publish(node);
        let done = self.try_report(act, node);
        if !done && tries < TRIES_MAX {
            let delay_ms = [500, 2_000, 6_000, 30_000][self.rng.below(4) as usize];
            let node = self.rng.below(self.nodes.len() as u64) as usize;
            self.tally.retries += 1;
            self.report_at(delay_ms, act, node, tries + 1);
        }
        self.judge_node(node);
        self.look_after(node);
    }

    /// Whether the caller need not come again.
    fn try_report(&mut self, number: usize, node: usize) -> bool {
        let Some(process) = &self.nodes[node].process else { return false };
        let engine = process.engine.clone();
        let act = self.acts[number].clone();
        let by_provider = self.stated(&act, self.provider_skew_ms);
        let by_caller = self.stated(&act, self.caller_skew_ms);
        let answer = match &act.what {
            What::StopMessage | What::StartMessage => {
                let word = if act.what == What::StopMessage { "STOP" } else { "START" };
                let inbound = Inbound {
                    business: BusinessId::new(BUSINESS).expect("an id"),
                    sender: SenderId::new("Acme").expect("an id"),
                    channel: Channel::Sms,
                    identifiers: vec![address(act.person)],
                    message_id: format!("message-{number}"),
                    content: InboundContent::Text(word.to_owned()),
                    quoted: String::new(),
                    occurred: Some(by_provider),
                    language: String::new(),
                    hash: (number as u64).to_le_bytes(),
                };
                let handled = self.hand.finish(&engine, engine.handle_inbound(inbound));
                handled.map(|answer| answer.event)
            }
            What::OptIn { reach, named } => {
                let report = OptInReport {
                    channels: reach.channels(),
                    topics: vec![offers()],
                    supersedes: named.clone(),
                    ..opt_in_by_form(by_caller)
                };
                self.record(&engine, &act, number, Report::OptIn(report), Source::Caller)
            }
            What::Stop { reach, how } => {
                let (occurred, source) = match how {
                    How::Caller | How::Anonymous | How::OtherAddress => (by_caller, Source::Caller),
                    How::Misdated => (Timestamp(0), Source::Caller),
                    How::Signed => (by_provider, Source::Signed),
                };
                let report = OptOutReport {
                    channels: reach.channels(),
                    topics: Vec::new(),
                    categories: Vec::new(),
                    method: OptOutMethod::WebForm,
                    text: String::new(),
                    occurred: Some(occurred),
                };
                self.record(&engine, &act, number, Report::OptOut(report), source)
            }
        };
        self.hear_own(node);
        if self.nodes[node].disk.power_is_off() {
            // The caller saw the connection end.
            return false;
        }
        self.note(format!("act {number} at node {node}: {}", said(&answer)));
        let (event, took, done) = match answer {
            Ok(event) => (event, true, true),
            Err(EngineError::NotReplicated(event)) => {
                // An edge that knows it from an anchor has not taken it in itself.
                let knew = self.is_edge(node) && self.acts[number].events.contains(&event);
                (Some(event), !knew, false)
            }
            Err(EngineError::Kept) => (None, true, false),
            // The person opted out meanwhile, or before; or the clock of the caller is far ahead.
            Err(EngineError::Unsuperseded(_) | EngineError::Invalid(_) | EngineError::AlreadyExists(_)) => {
                self.tally.refused += 1;
                (None, false, true)
            }
            Err(EngineError::NotHere(_) | EngineError::AnchorRefused(_)) => (None, false, false),
            Err(error) => {
                if act.what.ends_something() && !matches!(error, EngineError::NotServing(_)) {
                    self.fail(&format!("node {node} refuses an opt-out: {error}"));
                }
                (None, false, false)
            }
        };
        if let Some(event) = event {
            self.is_of_act(event, number);
        }
        if took {
            self.take_note(node, number);
        }
        done
    }

    fn record(
        &self,
        engine: &crate::engine::Engine,
        act: &Act,
        number: usize,
        report: Report,
        source: Source,
    ) -> Result<Option<EventId>, EngineError> {
        let anonymous = matches!(act.what, What::Stop { how: How::Anonymous, .. });
        let (recipient, also) = match act.what {
            What::Stop { how: How::OtherAddress, .. } => {
                (other_address(act.person), vec![address(act.person)])
            }
            _ => (address(act.person), Vec::new()),
        };
        let request = RecordRequest {
            business: BusinessId::new(BUSINESS).expect("an id"),
            recipient,
            also,
            request_id: if anonymous { String::new() } else { format!("act-{number}") },
            content: (number as u64).to_le_bytes(),
            reports: vec![report],
            actor: "system:simulation".to_owned(),
            wants_replicated: None,
            source,
            row: None,
            warnings: Vec::new(),
        };
        self.hand.finish(engine, engine.record_consent(request)).map(|answer| Some(answer.event))
    }

    /// `node` said that it has the act.
    fn take_note(&mut self, node: usize, number: usize) {
        self.tally.taken += 1;
        let elsewhere = matches!(self.acts[number].what, What::Stop { how: How::OtherAddress, .. });
        self.tally.taken_of_links += u64::from(elsewhere);
        self.nodes[node].took.insert(number);
        self.acts[number].taken_by.insert(node);
        let Some(process) = &self.nodes[node].process else { return };
        let Some(edge) = process.engine.edge() else { return };
        let item = match edge.newest_item() {
            Some(newest) if !self.items.contains_key(&(node, newest)) => Some(newest),
            // It joined what is under way: a retry with an id its own item, another the last that says the same.
            _ => {
                let act = &self.acts[number];
                let same = |of: &BTreeSet<usize>| {
                    of.iter().any(|other| {
                        self.acts[*other].person == act.person
                            && says_the_same(&self.acts[*other].what, &act.what)
                    })
                };
                let under_way = || {
                    let all = self.items.range((node, 0)..(node + 1, 0));
                    all.filter(|((_, item), _)| edge.holds(*item))
                };
                let own = under_way().find(|(_, of)| of.contains(&number));
                own.or_else(|| under_way().filter(|(_, of)| same(of)).last()).map(|((_, item), _)| *item)
            }
        };
        if let Some(item) = item {
            self.items.entry((node, item)).or_default().insert(number);
            self.tally.kept_at_edges += 1;
        }
    }

    pub fn is_of_act(&mut self, event: EventId, number: usize) {
        self.acts[number].events.insert(event);
        if let Some(told) = self.told.get_mut(&event) {
            told.act = told.act.max(Some(number));
        }
    }

    /// What an anchor numbered for an edge.
    pub fn learn_numbered(&mut self, node: usize, event: EventId, acts: BTreeSet<usize>) {
        self.learn(node);
        if let Some(told) = self.told.get_mut(&event) {
            // What the edge knew when it took it in is not remembered.
            told.knowing = None;
        }
        for act in acts {
            self.is_of_act(event, act);
        }
    }

    /// Reads what `node` has of events that nobody showed the judge yet.
    pub fn learn(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        let engine = process.engine.clone();
        let heads = engine.heads();
        for (origin, head) in &heads {
            let known = self.known.get(origin).copied().unwrap_or(0);
            if known >= head.sequence {
                continue;
            }
            // An edge keeps none; an anchor that has them is asked when its turn comes.
            let Ok(ledger) = engine.ledger() else { continue };
            let records: Vec<_> = ledger
                .records_of(*origin, known + 1)
                .map_while(Result::ok)
                .filter_map(|record| {
                    let parts = record.parse().ok()?;
                    Some((parts.id, parts.payload.to_vec()))
                })
                .filter(|(id, _)| id.sequence <= head.sequence)
                .collect();
            for (id, payload) in records {
                self.known.insert(*origin, id.sequence);
                let Ok(crate::policy::event::LedgerEntry::Consent(event)) =
                    crate::engine::codec::decode_entry(&payload)
                else {
                    continue;
                };
                let act = event.request.map(|mark| u64::from_le_bytes(mark.content) as usize);
                let act = act.filter(|act| *act < self.acts.len());
                let knowing = ledger.own_origin() == Some(*origin);
                let knowing =
                    knowing.then(|| heads.iter().map(|(origin, head)| (*origin, head.sequence)).collect());
                if let Some(act) = act {
                    self.acts[act].events.insert(id);
                }
                self.told.insert(id, Told { act, event, knowing });
            }
        }
    }

    /// When the person last said what the opt-in `id` says: a START repeats the opt-in that it renews, which may
    /// have been given after the START was written and before it was reported.
    pub fn last_word(&self, id: EventId) -> Option<usize> {
        let told = self.told.get(&id)?;
        let renewed = told.event.changes.iter().filter_map(|change| match change {
            Change::OptIn(opt_in) => opt_in.renews.and_then(|renewed| self.last_word(renewed)),
            _ => None,
        });
        renewed.map(Some).fold(told.act, Option::max)
    }
}

/// Whether two acts cannot be told apart but by their times and ids.
fn says_the_same(one: &What, other: &What) -> bool {
    match (one, other) {
        (What::Stop { reach, how }, What::Stop { reach: others_reach, how: others_how }) => {
            let is_elsewhere = |how: &How| *how == How::OtherAddress;
            reach == others_reach && is_elsewhere(how) == is_elsewhere(others_how)
        }
        _ => one == other,
    }
}

fn said(answer: &Result<Option<EventId>, EngineError>) -> String {
    match answer {
        Ok(Some(event)) => format!("{event}"),
        Ok(None) => "nothing".to_owned(),
        Err(error) => error.to_string(),
    }
}
