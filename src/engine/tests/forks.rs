//! Two nodes that run from one memory: what was copied is the stock of randomness too, so that both write as one origin.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::engine::snapshot::{Extent, Part, Taking as _};
use crate::ledger::disk::{Disk, DiskFile};
use crate::ledger::{Blob, Relayed};
use crate::policy::event::LedgerEntry;
use crate::policy::ids::EventId;
use crate::policy::types::Purpose;

const RUN_NAME_LEN: usize = 8;

/// The disk of a process whose memory was copied: what it holds of randomness then is what the copy holds.
struct CopiedMemory {
    disk: RealDisk,
    asked: AtomicUsize,
}

impl Disk for CopiedMemory {
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        // The name of a run is asked for by itself, and tells copies apart.
        if bytes.len() <= RUN_NAME_LEN || self.asked.fetch_add(1, Ordering::Relaxed) > 0 {
            return self.disk.random(bytes);
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = (at / 16) as u8 ^ at as u8;
        }
        Ok(())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn lock(&self, name: &str, wait: Duration) -> io::Result<Option<Box<dyn std::marker::Send + Sync>>> {
        self.disk.lock(name, wait)
    }
}

fn of_number(last: u8) -> Address {
    Address::parse_phone(&format!("+49151234567{last:02}")).unwrap()
}

fn copy_of(store: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger");
    std::fs::create_dir(&ledger).unwrap();
    for file in std::fs::read_dir(store.join("ledger")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), ledger.join(file.file_name())).unwrap();
    }
    dir
}

/// Goes on from a copy of what is on disk; `copied`: of what is in memory as well.
fn resumed(store: &Path, copied: bool) -> Node {
    let dir = copy_of(store);
    let disk = RealDisk::new(&dir.path().join("ledger")).unwrap();
    // Asked once, it has nothing in common with anybody any more.
    let disk = CopiedMemory { disk, asked: AtomicUsize::new(usize::from(!copied)) };
    Node::with_ledger(dir, Arc::new(disk), fresh())
}

/// What the node holds of each origin it has written as.
fn records_of(node: &Node, origin: OriginId) -> Vec<Relayed> {
    node.engine.ledger().unwrap().records_of(origin, 1).map(Result::unwrap).collect()
}

/// Brings what `from` holds of `origin` to `to`, which is kept apart there from where it differs; as the replication side does.
async fn meet(from: &Node, to: &Node, origin: OriginId) {
    let records = records_of(from, origin);
    let mut stored = true;
    for record in &records {
        stored &= to.engine.ledger().unwrap().relay(record.clone(), false).unwrap().await.is_ok();
    }
    if stored {
        return;
    }
    if let Some(sequence) = to.engine.fork_in(origin, 1, &records) {
        to.engine.distrust(origin, sequence).await.unwrap();
    }
    let held: Vec<[u8; 32]> = records_of(to, origin).iter().map(|record| record.hash).collect();
    for record in records.iter().filter(|record| !held.contains(&record.hash)) {
        to.engine.keep_opt_outs(record.parse().unwrap().payload).await.unwrap();
    }
}

async fn all_meet(from: &Node, to: &Node) {
    for (origin, _) in from.engine.heads() {
        meet(from, to, origin).await;
    }
}

impl Node {
    async fn opts_in_as(&self, who: Address, evidence: &str) -> EventId {
        let mut report = opt_in_by_form(self.clock.now());
        report.evidence.action = evidence.to_owned();
        let report = OptInReport { channels: vec![Channel::Sms], topics: vec![offers()], ..report };
        self.try_record(who, evidence, Report::OptIn(report), Source::Caller).await.unwrap().event
    }

    /// Why nothing may be sent to a person; `None`: it may. Nothing is consumed by asking.
    fn peeks(&self, who: u8) -> Option<Reason> {
        self.denies_to(of_number(who), "", Mode::Peek)
    }

    async fn opts_out_as(&self, who: Address) -> EventId {
        let out = opt_out(self.clock.now());
        self.try_record(who, "out", out, Source::Caller).await.unwrap().event
    }

    /// The person's events, with what is left of their evidence.
    fn trail_of(&self, who: &Address) -> Vec<(EventId, bool, Option<String>)> {
        let (events, _) = self.engine.trail("acme", who, 0, 100).unwrap();
        let told = |event: crate::engine::audit::AuditEvent| {
            let action = event.personal.and_then(|personal| Some(personal.evidence.first()?.action.clone()));
            (event.id, event.distrusted, action)
        };
        events.into_iter().map(told).collect()
    }
}

const BEFORE: u8 = 10;
const OF_ONE: u8 = 11;
const OUT_OF_ONE: u8 = 12;
const OF_OTHER: u8 = 13;
const OUT_OF_OTHER: u8 = 14;
const PERSONS: [u8; 5] = [BEFORE, OF_ONE, OUT_OF_ONE, OF_OTHER, OUT_OF_OTHER];

/// A node, its copy, and a third that knows nobody yet.
pub(crate) struct Forked {
    pub(crate) one: Node,
    pub(crate) other: Node,
    pub(crate) third: Node,
    origin: OriginId,
}

impl Forked {
    pub(crate) async fn made() -> Self {
        let (one, other, origin) = copies().await;
        Self { one, other, third: Node::open(fresh()), origin }
    }

    fn nodes(&self) -> [&Node; 3] {
        [&self.one, &self.other, &self.third]
    }
}

impl std::fmt::Debug for Forked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for node in self.nodes() {
            writeln!(f, "{:?} {:?} {:?}", stand(node), node.engine.distrusted(), node.engine.heads())?;
        }
        Ok(())
    }
}

/// Whether on all nodes both opt-outs hold, all opt-ins count, and it is known where the copies parted.
pub(crate) fn ended_well(forked: &Forked) -> bool {
    use crate::policy::state::State::{OptedIn, OptedOut};
    forked.nodes().iter().all(|node| {
        stand(node) == [OptedIn, OptedIn, OptedOut, OptedIn, OptedOut]
            && node.engine.distrusted().iter().eq([(forked.origin, 2)])
    })
}

/// How all persons stand at a node.
fn stand(node: &Node) -> Vec<crate::policy::state::State> {
    let state = |who: &u8| {
        let consent = node.engine.consent("acme", &of_number(*who), &[Channel::Sms], None).unwrap();
        let offers = Purpose::Topic(offers());
        let of_offers = consent.states.iter().find(|line| line.purpose == offers);
        of_offers.map_or(crate::policy::state::State::None, |line| line.state)
    };
    PERSONS.iter().map(state).collect()
}

/// A node, its copy, and a third that knows the one; all with the origin that both wrote as.
async fn forked() -> (Node, Node, Node, OriginId) {
    let (one, other, origin) = copies().await;
    let third = Node::open(fresh());
    all_meet(&one, &third).await;
    (one, other, third, origin)
}

/// A node and its copy.
async fn copies() -> (Node, Node, OriginId) {
    let before = Node::open(fresh());
    for who in [OUT_OF_ONE, OUT_OF_OTHER] {
        before.opts_in_as(of_number(who), "before").await;
    }
    before.engine.close().unwrap();
    let store = before._dir.path();
    let (one, other) = (resumed(store, true), resumed(store, true));
    // What both remember they have in common.
    let shared = one.opts_in_as(of_number(BEFORE), "shared").await;
    assert_eq!(other.opts_in_as(of_number(BEFORE), "shared").await, shared);
    let own = one.opts_in_as(of_number(OF_ONE), "on a form").await;
    assert_eq!(own, EventId { sequence: 2, ..shared });
    assert_eq!(other.opts_out_as(of_number(OUT_OF_OTHER)).await, own, "one name, two events");
    let third_name = one.opts_out_as(of_number(OUT_OF_ONE)).await;
    assert_eq!(other.opts_in_as(of_number(OF_OTHER), "on a page").await, third_name);
    (one, other, shared.origin)
}

fn denied(node: &Node) -> [Option<Reason>; 5] {
    PERSONS.map(|who| node.peeks(who))
}

const OUT: Option<Reason> = Some(Reason::OptedOut);
const NONE: Option<Reason> = Some(Reason::NoConsent);

#[tokio::test]
async fn both_opt_outs_hold_no_opt_in_and_each_owner_records_its_own_anew() {
    let (one, other, third, origin) = forked().await;
    assert_eq!(denied(&third), [None, None, OUT, NONE, None], "it knows one of the two");

    all_meet(&other, &third).await;
    assert_eq!(third.engine.distrusted().iter().collect::<Vec<_>>(), [(origin, 2)], "where they parted");
    assert_eq!(denied(&third), [None, NONE, OUT, NONE, OUT]);
    let consent = third.engine.consent("acme", &of_number(OF_ONE), &[], None).unwrap();
    assert!(consent.states.iter().all(|state| state.state == crate::policy::state::State::None));
    let events = third.engine.heads().len();
    all_meet(&other, &third).await;
    assert_eq!(third.engine.heads().len(), events);
    assert_eq!(third.engine.record_anew().await.unwrap(), 0, "the third owns none of it");

    // Each hears of it from the third, closes the origin, and records its own anew.
    let mut named = BTreeSet::new();
    for (node, who) in [(&one, OF_ONE), (&other, OF_OTHER)] {
        all_meet(&third, node).await;
        assert_eq!(denied(node)[usize::from(who - BEFORE)], NONE, "at its owner too");
        let held = records_of(node, origin).len();
        assert_eq!(node.engine.record_anew().await.unwrap(), 1);
        assert_eq!(node.engine.record_anew().await.unwrap(), 0, "once");
        assert_eq!(node.peeks(who), None);
        let trail = node.trail_of(&of_number(who));
        let [(_, true, Some(first)), (anew, false, Some(again))] = &trail[..] else { panic!("{trail:?}") };
        assert_eq!(first, again, "the evidence is carried along");
        assert_ne!(anew.origin, origin);
        named.insert(anew.origin);
        let next = node.opts_in_as(of_number(20 + who), "afterwards").await;
        assert_ne!(next.origin, origin, "the origin is closed");
        assert_eq!(records_of(node, origin).len(), held);
    }
    assert_eq!(named.len(), 2, "not even the stock of randomness is shared any more");

    for (from, to) in [(&one, &third), (&other, &third), (&third, &one), (&third, &other)] {
        all_meet(from, to).await;
    }
    for node in [&one, &other, &third] {
        assert_eq!(denied(node), [None, None, OUT, None, OUT]);
    }
    assert_eq!(third.engine.distrusted().iter().len(), 1, "what was recorded anew is not forked");
}

#[tokio::test]
async fn a_fork_is_remembered_and_nothing_is_recorded_anew_twice_over_restarts() {
    let (one, other, third, origin) = forked().await;
    all_meet(&other, &third).await;
    all_meet(&third, &one).await;
    one.engine.close().unwrap();
    // It ended before it had recorded anything anew. Its view is gone too.
    let one = resumed(one._dir.path(), false);
    assert_eq!(one.engine.distrusted().begins_at(origin), Some(2));
    assert_eq!(one.peeks(OF_ONE), NONE);
    assert_eq!(one.engine.record_anew().await.unwrap(), 1);
    one.engine.close().unwrap();
    let one = resumed(one._dir.path(), false);
    assert_eq!(one.engine.record_anew().await.unwrap(), 0);
    assert_eq!(one.peeks(OF_ONE), None);
    assert_eq!(one.trail_of(&of_number(OF_ONE)).len(), 2);
}

#[tokio::test]
async fn what_was_erased_stays_erased() {
    let (one, other, _third, _) = forked().await;
    all_meet(&other, &one).await;
    assert_eq!(one.engine.erase_evidence("acme", &of_number(OF_ONE)).await.unwrap(), (1, 0));
    assert_eq!(one.engine.record_anew().await.unwrap(), 1);
    assert_eq!(one.peeks(OF_ONE), None);
    let ledger = one.engine.ledger().unwrap();
    let person = one.engine.view().get(&one.engine.identity("acme", &of_number(OF_ONE)).own).unwrap();
    let blobs: Vec<Blob> = person.trail.iter().map(|at| ledger.read_at(*at).unwrap().blob).collect();
    assert!(blobs == [Blob::Erased, Blob::None], "{}", blobs.len());
}

/// A retry is not answered with a name that is shared: it is recorded under one that is not.
#[tokio::test]
async fn a_retry_is_recorded_under_a_name_of_its_own() {
    let (one, other, _third, origin) = forked().await;
    all_meet(&other, &one).await;
    let again = one.opts_in_as(of_number(OF_ONE), "on a form").await;
    assert_ne!(again.origin, origin);
    assert_eq!(one.peeks(OF_ONE), None);
    assert_eq!(one.opts_in_as(of_number(OF_ONE), "on a form").await, again);
}

#[tokio::test]
async fn an_edge_learns_of_a_fork_with_its_snapshot_and_from_events() {
    let (_one, other, third, origin) = forked().await;
    let (early, late) = (Node::edge(), Node::edge());
    let load = |edge: &Node| {
        let mut loading = edge.engine.load_snapshot().unwrap();
        let take = |part: Part| {
            loading.take(part).unwrap();
            std::ops::ControlFlow::Continue(())
        };
        third.engine.snapshot(Extent::All, take).unwrap();
        loading.finish().unwrap();
        (0..crate::engine::ranges::RANGES).for_each(|range| edge.engine.believe_range(range));
    };
    load(&early);
    assert_eq!(denied(&early), [None, None, OUT, NONE, None]);
    all_meet(&other, &third).await;
    load(&late);
    for (origin, _) in third.engine.heads() {
        let known = early
            .engine
            .heads()
            .iter()
            .find(|(known, _)| *known == origin)
            .map_or(0, |(_, head)| head.sequence);
        let records: Vec<Relayed> = records_of(&third, origin).split_off(usize::try_from(known).unwrap());
        let (_, refusal) = early.engine.take_relayed(origin, &records);
        assert!(refusal.is_none(), "{refusal:?}");
    }
    for edge in [&early, &late] {
        assert_eq!(edge.engine.distrusted().begins_at(origin), Some(2));
        assert_eq!(denied(edge), [None, NONE, OUT, NONE, OUT]);
    }
}

/// Damage is no fork: it follows from nothing.
#[tokio::test]
async fn what_was_torn_or_altered_on_its_way_proves_no_fork() {
    let (_one, other, third, origin) = forked().await;
    let sound = records_of(&other, origin);
    assert_eq!(third.engine.fork_in(origin, 1, &sound), Some(2));
    assert_eq!(third.engine.fork_in(origin, 2, &sound[1..]), Some(2));
    assert_eq!(
        third.engine.fork_in(origin, 3, &sound[2..]),
        None,
        "this one follows from another than is held"
    );
    assert_eq!(third.engine.fork_in(origin, 1, &records_of(&third, origin)), None);
    for at in [0, 20, 60] {
        let mut records = sound.clone();
        records[1].chained[at] ^= 1;
        assert_eq!(third.engine.fork_in(origin, 1, &records), None);
    }
    let mut renamed = sound.clone();
    renamed[1].hash[0] ^= 1;
    assert_eq!(third.engine.fork_in(origin, 1, &renamed), None);
}

/// A node set back to an earlier moment of its memory hears that others hold more of its origin than it wrote.
#[tokio::test]
async fn a_closed_origin_takes_back_what_its_copy_wrote() {
    let before = Node::open(fresh());
    before.engine.close().unwrap();
    let (ahead, set_back) = (resumed(before._dir.path(), true), resumed(before._dir.path(), true));
    let shared = ahead.opts_in_as(of_number(BEFORE), "shared").await;
    assert_eq!(set_back.opts_in_as(of_number(BEFORE), "shared").await, shared);
    let lost = ahead.opts_in_as(of_number(OF_ONE), "lost").await;
    let record = records_of(&ahead, shared.origin).pop().unwrap();
    let relay = || async { set_back.engine.ledger().unwrap().relay(record.clone(), false).unwrap().await };
    assert!(matches!(relay().await, Err(ledger::RelayError::NeverWritten { .. })));
    assert!(set_back.engine.close_origin(shared.origin).await.unwrap());
    assert!(!set_back.engine.close_origin(shared.origin).await.unwrap());
    relay().await.unwrap();
    assert_eq!(set_back.peeks(OF_ONE), None);
    let next = set_back.opts_in_as(of_number(OF_OTHER), "next").await;
    assert!(next.origin != lost.origin && set_back.engine.distrusted().is_empty());
    let entries: Vec<LedgerEntry> = set_back
        .engine
        .events_from(ledger::Position::START)
        .unwrap()
        .map(|event| event.unwrap().entry)
        .collect();
    assert_eq!(entries.len(), 3);
}
