//! A whole engine, its answers judged by the true order of what a person did.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use super::decision::NoSink;
use super::feedback::SendReport;
use super::import::RowOutcome;
use super::inbound::{Inbound, InboundContent};
use super::record::{RecordAnswer, RecordRequest};
use super::start::{Parts, Storage};
use super::*;
use crate::address::Address;
use crate::clock::ManualClock;
use crate::ledger::disk::RealDisk;
use crate::policy::ids::{BusinessId, EventId, SenderId, TopicId};
use crate::policy::recorder::Source;
use crate::policy::report::{
    InvalidateReport, OptInReport, OptOutReport, ReleaseReport, Report, RequestReport,
};
use crate::policy::rules::{RuleBook, Rules};
use crate::policy::strategies::opt_in_by_form;
use crate::policy::time::{HOUR_MS, MINUTE_MS, SECOND_MS, Timestamp};
use crate::policy::types::{
    Category, Channel, EvidenceGrade, InvalidateCause, OptOutMethod, Reason, SendOutcome,
};
use crate::{ledger, limits, view};

mod answers;
mod borrowed;
mod damaged;
mod edges;
pub(crate) mod forks;
mod late;
mod links;
mod ranges;
mod reports;
mod together;
mod usage;

const NOON: Timestamp = Timestamp(1_767_614_400_000);

/// One node, and one person who is asked about promotions by SMS.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    clock: Arc<ManualClock>,
    _dir: TempDir,
}

fn offers() -> TopicId {
    TopicId::new("offers").unwrap()
}

fn receipts() -> TopicId {
    TopicId::new("receipts").unwrap()
}

fn person() -> Address {
    Address::parse_phone("+4915123456789").unwrap()
}

fn other_address() -> Address {
    Address::parse_phone("+4915123456780").unwrap()
}

fn rules() -> Rules {
    Rules {
        topics: [(offers(), Category::Marketing), (receipts(), Category::Utility)].into(),
        evidence: EvidenceGrade::Basic,
        ..Rules::built_in()
    }
}

fn opt_out(stated: Timestamp) -> Report {
    Report::OptOut(OptOutReport {
        channels: vec![Channel::Sms],
        topics: Vec::new(),
        categories: Vec::new(),
        method: OptOutMethod::WebForm,
        text: String::new(),
        occurred: Some(stated),
    })
}

/// The person wants no more calls.
fn no_calls(stated: Timestamp) -> Report {
    Report::OptOut(OptOutReport {
        channels: vec![Channel::Voice],
        topics: Vec::new(),
        categories: Vec::new(),
        method: OptOutMethod::Spoken,
        text: String::new(),
        occurred: Some(stated),
    })
}

impl Node {
    pub(crate) fn open(replica: Replica) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(&dir.path().join("ledger")).unwrap());
        Self::with_ledger(dir, disk, replica)
    }

    fn with_ledger(dir: TempDir, disk: Arc<dyn ledger::disk::Disk>, replica: Replica) -> Self {
        let small = ledger::Config::default();
        let small = ledger::Config { segment_mib: 4, opt_out_reserve_mib: 1, min_free_mib: 0, ..small };
        Self::on(dir, Storage::Ledger { disk, config: small }, replica)
    }

    /// An edge that has no snapshot yet.
    fn edge() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk::new(&dir.path().join("outbox")).unwrap());
        Self::on(dir, Storage::Outbox { disk }, fresh())
    }

    fn on(dir: TempDir, storage: Storage, replica: Replica) -> Self {
        let clock = Arc::new(ManualClock::at(NOON));
        let book = RuleBook { defaults: Arc::new(rules()), businesses: BTreeMap::new(), version: "1".into() };
        let small_view = view::Config::default();
        let small_view = view::Config {
            page_cache_mib: 1,
            record_cache_mib: 1,
            lent_max_mib: 1,
            min_free_mib: 0,
            ..small_view
        };
        let (engine, _) = Engine::open(Parts {
            clock: Arc::<ManualClock>::clone(&clock),
            key: ClusterKey::from_bytes(&[7; 32]),
            storage,
            view_dir: dir.path().join("view"),
            view: small_view,
            limits: limits::Settings::default(),
            book: Book::new(book),
            lexicon: Arc::new(Lexicon::built_in().unwrap()),
            sink: Arc::new(NoSink),
            replica: Arc::new(replica),
        })
        .unwrap();
        Self { engine, clock, _dir: dir }
    }

    async fn record(&self, request_id: &str, report: Report, source: Source) {
        self.try_record(person(), request_id, report, source).await.unwrap();
    }

    async fn try_record(
        &self,
        recipient: Address,
        request_id: &str,
        report: Report,
        source: Source,
    ) -> Result<RecordAnswer, EngineError> {
        self.try_record_of(recipient, Vec::new(), request_id, report, source).await
    }

    async fn try_record_of(
        &self,
        recipient: Address,
        also: Vec<Address>,
        request_id: &str,
        report: Report,
        source: Source,
    ) -> Result<RecordAnswer, EngineError> {
        let request = RecordRequest {
            business: BusinessId::new("acme").unwrap(),
            recipient,
            also,
            request_id: request_id.to_owned(),
            content: [1; 8],
            reports: vec![report],
            actor: "system:test".to_owned(),
            wants_replicated: None,
            source,
            row: None,
            warnings: Vec::new(),
        };
        self.engine.record_consent(request).await
    }

    /// The person opts in now, by a form.
    async fn opts_in(&self) {
        let report = OptInReport {
            channels: vec![Channel::Sms],
            topics: vec![offers()],
            ..opt_in_by_form(self.clock.now())
        };
        self.record("opt-in", Report::OptIn(report), Source::Caller).await;
    }

    /// The person opts out; whoever vouches for it says when.
    async fn opts_out(&self, stated: Timestamp, source: Source) {
        self.record("opt-out", opt_out(stated), source).await;
    }

    /// A call, of which the person wants no more, shows that both addresses are the person's.
    async fn links(&self, recipient: Address, other: Address) {
        let report = no_calls(self.clock.now());
        self.try_record_of(recipient, vec![other], "link", report, Source::Caller).await.unwrap();
    }

    /// Why a promotion may not be sent; `None`: it may.
    fn denies(&self, request_id: &str) -> Option<Reason> {
        self.denies_to(person(), request_id, Mode::Enforce)
    }

    /// The person asks for offers by a form, to be confirmed by SMS; the question.
    async fn asks_to_confirm(&self) -> CheckRequest {
        self.asks_to_confirm_on(Channel::Sms).await
    }

    /// As [`Node::asks_to_confirm`], for offers on another channel.
    async fn asks_to_confirm_on(&self, channel: Channel) -> CheckRequest {
        let report = RequestReport {
            opt_in: OptInReport {
                channels: vec![channel],
                topics: vec![offers()],
                ..opt_in_by_form(self.clock.now())
            },
            via: Some(Channel::Sms),
            expire: None,
        };
        let answer =
            self.try_record(person(), "asks", Report::Request(report), Source::Caller).await.unwrap();
        let content = RequestedContent::Message { category: Some(Category::Service), topic: None };
        CheckRequest { about: Some(answer.event), content, ..Self::asks(person(), "question", Mode::Enforce) }
    }

    /// Why something else may not be sent to the person.
    fn denies_content(&self, content: RequestedContent) -> Option<Reason> {
        self.judge(CheckRequest { content, ..Self::asks(person(), "", Mode::Peek) })
    }

    fn denies_to(&self, recipient: Address, request_id: &str, mode: Mode) -> Option<Reason> {
        self.judge(Self::asks(recipient, request_id, mode))
    }

    fn judge(&self, request: CheckRequest) -> Option<Reason> {
        self.engine.check(&request).unwrap().violations.first().map(|violation| violation.reason)
    }

    /// Whether a promotion may be sent by SMS.
    fn asks(recipient: Address, request_id: &str, mode: Mode) -> CheckRequest {
        CheckRequest {
            request_id: request_id.to_owned(),
            business: "acme".to_owned(),
            sender: "Acme".to_owned(),
            recipient: Ok(recipient),
            channel: Channel::Sms,
            content: RequestedContent::Message { category: None, topic: Some(offers()) },
            about: None,
            mode,
            explain: false,
            time_zone: None,
            at_least_as_fresh: None,
            content_hash: 1,
        }
    }
}

/// Brings what `from` recorded to `to`, in order.
async fn replicate(from: &Node, to: &Node) {
    for (origin, _) in from.engine.heads() {
        let records = from.engine.ledger().unwrap().records_of(origin, 1);
        for record in records {
            let record = record.unwrap();
            assert!(record.blob != ledger::RelayedBlob::Erased);
            to.engine.ledger().unwrap().relay(record, false).unwrap().await.unwrap();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A test that fails has said why already.
        let _ = self.engine.close();
    }
}

/// A node among others that knows all they know.
fn fresh() -> Replica {
    let replica = Replica::among_others(Duration::ZERO);
    replica.set_fresh_until_ms(u64::MAX);
    replica.set_catching_up(false);
    replica
}

/// Only what may be sent is reported on, and only an ALLOW ends some time.
#[tokio::test]
async fn an_allow_has_an_id_and_an_end_and_a_denial_has_neither() {
    let node = Node::open(Replica::alone());
    let said = |business: &str, mode| {
        let request = CheckRequest { business: business.to_owned(), ..Node::asks(person(), "", mode) };
        let answer = node.engine.check(&request).unwrap();
        (answer.violations.is_empty(), !answer.decision_id.is_empty(), answer.valid_until.is_some())
    };
    assert_eq!(said("acme", Mode::Enforce), (false, false, false));
    node.opts_in().await;
    assert_eq!(said("acme", Mode::Peek), (true, false, true));
    assert_eq!(said("acme", Mode::Enforce), (true, true, true));
}

#[tokio::test]
async fn a_repeated_check_is_judged_anew() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    assert_eq!(node.denies("a"), None);
    assert_eq!(node.denies("a"), None, "its retry is allowed as long as the person agrees");
    node.clock.advance_ms(SECOND_MS);
    node.opts_out(node.clock.now(), Source::Caller).await;
    assert_eq!(node.denies("a"), Some(Reason::OptedOut));
}

/// The opt-out comes a minute after the opt-in, from where the clock is 20 minutes late.
#[tokio::test]
async fn while_clocks_disagree_no_opt_in_wins_by_its_time() {
    let node = Node::open(fresh());
    node.engine.replica().set_clocks_apart_ms(20 * MINUTE_MS.unsigned_abs());
    node.opts_in().await;
    assert_eq!(node.denies(""), None);
    node.clock.advance_ms(MINUTE_MS);
    node.opts_out(node.clock.now().minus_ms(20 * MINUTE_MS), Source::Signed).await;
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
}

/// The clock steps back after the opt-in; the person has left the number behind all the same.
#[tokio::test]
async fn a_number_that_changed_is_opted_out_whatever_the_clock_does() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    node.clock.advance_ms(-HOUR_MS);
    let changed = InvalidateReport {
        cause: InvalidateCause::NumberChanged,
        channels: Vec::new(),
        topics: Vec::new(),
        categories: Vec::new(),
        occurred: None,
    };
    node.record("changed", Report::Invalidate(changed), Source::Caller).await;
    node.clock.advance_ms(2 * HOUR_MS);
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
}

/// The clock steps back after the opt-in; it is ended all the same, whether the caller says when or not.
#[tokio::test]
async fn an_opt_in_that_is_known_is_invalidated_whatever_the_clock_does() {
    for stated in [None, Some(NOON.plus_ms(MINUTE_MS))] {
        let node = Node::open(Replica::alone());
        node.opts_in().await;
        node.clock.advance_ms(-HOUR_MS);
        let reassigned = InvalidateReport {
            cause: InvalidateCause::NumberReassigned,
            channels: Vec::new(),
            topics: Vec::new(),
            categories: Vec::new(),
            occurred: stated,
        };
        node.record("reassigned", Report::Invalidate(reassigned), Source::Caller).await;
        node.clock.advance_ms(2 * HOUR_MS);
        assert_eq!(node.denies(""), Some(Reason::NoConsent), "{stated:?}");
    }
}

/// Rows of one file often carry the id of the person in the system they come from.
#[tokio::test]
async fn an_import_takes_an_opt_out_that_has_the_id_of_an_opt_in_beside_it() {
    let node = Node::open(Replica::alone());
    let row = |content, report| RecordRequest {
        business: BusinessId::new("acme").unwrap(),
        recipient: person(),
        also: Vec::new(),
        request_id: "crm-7".to_owned(),
        content: [content; 8],
        reports: vec![report],
        actor: "system:test".to_owned(),
        wants_replicated: None,
        source: Source::Import,
        row: None,
        warnings: Vec::new(),
    };
    let opt_in = |topic: TopicId| {
        let report = OptInReport {
            channels: vec![Channel::Sms],
            topics: vec![topic],
            ..opt_in_by_form(NOON.minus_ms(2 * HOUR_MS))
        };
        row(1, Report::OptIn(report))
    };
    let opt_out = row(2, opt_out(NOON.minus_ms(HOUR_MS)));
    let other = RecordRequest { content: [3; 8], ..opt_in(offers()) };
    let rows = vec![opt_in(offers()), opt_out.clone(), opt_in(offers()), opt_out, other];
    let outcomes = node.engine.import(rows, false).await.unwrap();
    assert!(matches!(outcomes[..2], [RowOutcome::Recorded(_), RowOutcome::Recorded(_)]), "{outcomes:?}");
    assert!(matches!(outcomes[2..4], [RowOutcome::Repeated, RowOutcome::Repeated]), "{outcomes:?}");
    // The first row may be known by then, or only be on its way.
    let [.., RowOutcome::Refused(EngineError::Invalid { .. } | EngineError::AlreadyExists(_))] =
        &outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
}

/// A template of a UTILITY topic may be rated MARKETING: then an opt-out of MARKETING counts, which a START of before it says nothing of.
#[tokio::test]
async fn a_start_says_nothing_of_a_later_opt_out_of_what_its_topic_is_sent_as() {
    let node = Node::open(Replica::alone());
    let report = OptInReport {
        channels: vec![Channel::Sms],
        topics: vec![receipts()],
        ..opt_in_by_form(node.clock.now())
    };
    node.record("opt-in", Report::OptIn(report), Source::Caller).await;
    let as_marketing = || {
        let content =
            RequestedContent::Message { category: Some(Category::Marketing), topic: Some(receipts()) };
        node.denies_content(content)
    };
    assert_eq!(as_marketing(), None);
    let (stop, start) = (NOON.plus_ms(MINUTE_MS), NOON.plus_ms(2 * MINUTE_MS));
    node.clock.advance_ms(4 * MINUTE_MS);
    let no_marketing = Report::OptOut(OptOutReport {
        channels: vec![Channel::Sms],
        topics: Vec::new(),
        categories: vec![Category::Marketing],
        method: OptOutMethod::WebForm,
        text: String::new(),
        occurred: None,
    });
    node.record("no-marketing", no_marketing, Source::Caller).await;
    node.clock.advance_ms(SECOND_MS);
    node.engine.handle_inbound(message("STOP", stop)).await.unwrap();
    node.engine.handle_inbound(message("START", start)).await.unwrap();
    assert_eq!(as_marketing(), Some(Reason::OptedOut));
}

#[tokio::test]
async fn a_start_renews_one_topic_beside_another_that_the_person_ended_for_itself() {
    let node = Node::open(Replica::alone());
    let report = OptInReport {
        channels: vec![Channel::Sms],
        topics: vec![offers(), receipts()],
        ..opt_in_by_form(node.clock.now())
    };
    node.record("opt-in", Report::OptIn(report), Source::Caller).await;
    node.clock.advance_ms(SECOND_MS);
    let Report::OptOut(all) = opt_out(node.clock.now()) else { unreachable!() };
    let no_offers = Report::OptOut(OptOutReport { topics: vec![offers()], ..all });
    node.record("no-offers", no_offers, Source::Caller).await;
    for (word, waited_ms) in [("STOP", MINUTE_MS), ("START", MINUTE_MS)] {
        node.clock.advance_ms(waited_ms);
        node.engine.handle_inbound(message(word, node.clock.now())).await.unwrap();
    }
    let receipt = RequestedContent::Message { category: None, topic: Some(receipts()) };
    assert_eq!(node.denies_content(receipt), None);
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
}

/// A start then reads that event again, and those behind it.
#[tokio::test]
async fn behind_an_event_that_could_not_be_applied_the_view_takes_nothing_for_done() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    let before = node.engine.view().applied();
    node.engine.inner.behind.store(true, Ordering::Release);
    node.opts_out(node.clock.now(), Source::Caller).await;
    assert_eq!(node.engine.view().applied(), before);
    assert_eq!(node.denies(""), Some(Reason::Unavailable));
}

#[tokio::test]
async fn nothing_is_allowed_while_a_backlog_may_hold_an_opt_out() {
    let node = Node::open(fresh());
    node.opts_in().await;
    assert_eq!(node.denies(""), None);
    node.engine.replica().set_catching_up(true);
    assert_eq!(node.denies(""), Some(Reason::Unavailable));
}

/// A text of the person, as the provider timed it.
fn message(text: &str, occurred: Timestamp) -> Inbound {
    Inbound {
        business: BusinessId::new("acme").unwrap(),
        sender: SenderId::new("Acme").unwrap(),
        channel: Channel::Sms,
        identifiers: vec![person()],
        message_id: format!("of {text}"),
        content: InboundContent::Text(text.to_owned()),
        quoted: String::new(),
        occurred: Some(occurred),
        language: String::new(),
        hash: [0; 8],
    }
}

/// The person says START, then STOP; the provider delivers the START last, and this node's clock is behind the provider's.
#[tokio::test]
async fn a_late_start_does_not_beat_a_stop_where_the_clock_is_behind() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    let begun = node.clock.now();
    let (start, stop) = (begun.plus_ms(2 * MINUTE_MS), begun.plus_ms(3 * MINUTE_MS));
    node.clock.advance_ms(SECOND_MS);
    node.engine.handle_inbound(message("STOP", stop)).await.unwrap();
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
    node.clock.advance_ms(30 * SECOND_MS);
    node.engine.handle_inbound(message("START", start)).await.unwrap();
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
    node.clock.advance_ms(10 * MINUTE_MS);
    node.engine.handle_inbound(message("Start", stop.plus_ms(SECOND_MS))).await.unwrap();
    assert_eq!(node.denies(""), None, "a START after it counts");
}

/// Without the provider's times the order of delivery says nothing of messages that are close together.
#[tokio::test]
async fn without_times_a_start_counts_only_long_after_a_stop() {
    let node = Node::open(Replica::alone());
    node.opts_in().await;
    let says = |text: &str, id: &str| Inbound {
        occurred: None,
        message_id: id.to_owned(),
        ..message(text, node.clock.now())
    };
    node.engine.handle_inbound(says("STOP", "1")).await.unwrap();
    node.clock.advance_ms(6 * MINUTE_MS);
    node.engine.handle_inbound(says("START", "2")).await.unwrap();
    assert_eq!(node.denies(""), Some(Reason::OptedOut));
    node.clock.advance_ms(6 * MINUTE_MS);
    node.engine.handle_inbound(says("START", "3")).await.unwrap();
    assert_eq!(node.denies(""), None);
}
