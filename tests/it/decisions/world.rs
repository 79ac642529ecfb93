//! What a row plays on: a business and a person of its own, at noon of a day of its own.

use std::sync::Arc;

use optgate::address::Address;
use optgate::clock::{Clock as _, ManualClock};
use optgate::engine::{Engine, EngineError};
use optgate::policy::ids::{BusinessId, EventId, SenderId};
use optgate::policy::rules::Rules;
use optgate::policy::time::{DAY_MS, HOUR_MS, Timestamp};
use optgate::policy::types::Channel;
use tokio::runtime::Runtime;

use super::node::Node;
use super::phrase::span;
use super::rules;

/// The example business's WhatsApp number.
pub const SENDER: &str = "106540352242922";
/// Monday, 5 January 2026, noon.
const FIRST_NOON: Timestamp = Timestamp(1_767_614_400_000);

/// The nodes and the clock that all rows of a table share.
pub struct Stage {
    pub runtime: Runtime,
    pub clock: Arc<ManualClock>,
    /// The second one is opened by the first row that needs it.
    nodes: Vec<Node>,
    rows: u32,
}

impl Stage {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let clock = Arc::new(ManualClock::at(FIRST_NOON));
        Self { nodes: vec![Node::open(&clock)], runtime, clock, rows: 0 }
    }

    /// Sets the scene for the next row: another day, another business, another person.
    pub fn row(&mut self, rules_cell: &str) -> World<'_> {
        self.rows += 1;
        let day = self.clock.now().since_ms(FIRST_NOON) / DAY_MS + 1;
        self.clock.set(FIRST_NOON.plus_ms(day * DAY_MS));
        let business = BusinessId::new(&format!("business-{}", self.rows)).expect("an id");
        let rules = rules::read(rules_cell, &business);
        let person = Address::parse_phone(&format!("+491512{:07}", self.rows)).expect("a number");
        let world = World {
            start: self.clock.now(),
            sender: SenderId::new(SENDER).expect("an id"),
            rules,
            home: business.clone(),
            business,
            person,
            at: 0,
            requests: 0,
            outs: Vec::new(),
            event: None,
            request: None,
            decision: String::new(),
            stage: self,
        };
        world.put_rules();
        world
    }
}

/// One row's scene.
pub struct World<'a> {
    pub stage: &'a mut Stage,
    pub start: Timestamp,
    pub rules: Rules,
    /// The business that is configured.
    pub home: BusinessId,
    /// The one acting.
    pub business: BusinessId,
    pub sender: SenderId,
    pub person: Address,
    at: usize,
    requests: u32,
    /// Opt-outs so far.
    pub outs: Vec<EventId>,
    /// The last event.
    pub event: Option<EventId>,
    /// The last request for an opt-in.
    pub request: Option<EventId>,
    /// The last decision.
    pub decision: String,
}

impl World<'_> {
    pub fn engine(&self) -> Engine {
        self.stage.nodes[self.at].engine.clone()
    }

    pub fn node(&self) -> &Node {
        &self.stage.nodes[self.at]
    }

    pub fn now(&self) -> Timestamp {
        self.stage.clock.now()
    }

    /// Goes to the other node, which knows nothing of what happened here.
    pub fn go_elsewhere(&mut self) {
        if self.stage.nodes.len() < 2 {
            self.stage.nodes.push(Node::open(&self.stage.clock));
        }
        self.at = 1 - self.at;
        self.put_rules();
    }

    pub fn put_rules(&self) {
        self.engine().set_book(rules::book(self.rules.clone(), &self.home));
    }

    /// `-2d` is two days ago, `1970` is then, `+1h` is to come.
    pub fn moment(&self, text: &str) -> Timestamp {
        match text {
            "1970" => Timestamp(0),
            "now" => self.now(),
            "start" => self.start,
            _ => self.now().plus_ms(span(text)),
        }
    }

    pub fn next_id(&mut self, given: Option<String>) -> String {
        self.requests += 1;
        given.map_or_else(|| format!("request-{}", self.requests), |id| format!("given-{id}"))
    }

    /// Reads an address as the table writes it.
    pub fn address(&self, text: &str) -> Address {
        address(text).unwrap_or_else(|| panic!("`{text}` is no address"))
    }

    /// Where messages of `channel` reach the person: email needs an address of its own.
    pub fn reach(&self, channel: Channel) -> Address {
        if channel == Channel::Email && self.person.kind() != optgate::address::AddressKind::Email {
            self.address(&format!("{}@example.org", self.home.as_str()))
        } else {
            self.person.clone()
        }
    }

    pub fn known_events(&mut self, event: Option<EventId>) {
        self.event = event.or(self.event);
    }

    /// Plays until midnight is far enough: the hour of the day in UTC.
    pub fn go_to_hour(&self, hour: i64) {
        let into_day = self.now().0.rem_euclid(DAY_MS);
        let ahead = (hour * HOUR_MS - into_day).rem_euclid(DAY_MS);
        self.stage.clock.advance_ms(ahead);
    }
}

/// Reads an address: a number, an email address or a WhatsApp user id.
pub fn address(text: &str) -> Option<Address> {
    if text.starts_with('+') {
        Address::parse_phone(text).ok()
    } else if text.contains('@') {
        Address::parse_email(text).ok()
    } else {
        Address::parse_whatsapp_user_id(text).ok()
    }
}

/// What a failed call is called in the tables.
pub fn fault_words(error: &EngineError) -> String {
    match error {
        EngineError::Invalid(violations) => {
            let mut fields: Vec<&str> = violations
                .iter()
                .map(|violation| {
                    violation.field.trim_start_matches("changes[0].").trim_start_matches("opt_in.")
                })
                .collect();
            fields.dedup();
            format!("INVALID {}", fields.join(", "))
        }
        EngineError::UnknownBusiness => "UNKNOWN_BUSINESS".into(),
        EngineError::AlreadyExists(_) => "ALREADY_EXISTS".into(),
        EngineError::Unsuperseded(marks) => format!("FAILED_PRECONDITION naming {}", marks.len()),
        EngineError::NotPending(_) => "NOT_PENDING".into(),
        EngineError::OnlyOptOuts { refusal, .. } => format!("OPT_OUTS_ONLY, {}", fault_words(refusal)),
        other => format!("FAILED {other}"),
    }
}
