//! The merge rule judged by the true order of the person's acts, in every world within small bounds.
//!
//! What is gone through, without exception, by the code that serves: `recorder`, `Record` and `standing`.
//!
//! - One person acts two to four times: opts out on the web, writes STOP (told by webhook, with a signed time), writes
//!   START, opts in and names every opt-out that a truthful caller can name by then, or opts in and names none, or turns
//!   out never to have agreed. Every sequence of these is tried in which something is opted in to and something opted out
//!   of; in any other nothing can be granted wrongly.
//! - The reports arrive in every order, at two anchors or at three. Once per world a report comes again at another node,
//!   under the same id of the request and with the same content, before or after the first event has been relayed there:
//!   where it has, the id is known and nothing happens; elsewhere a second event is made.
//! - When a node records something it may know any events by then that relays could have brought it: of every other
//!   anchor all up to some number, never less than it knew before, whether told by that anchor or through a third, and
//!   whether a partition healed before or after. What has been recorded is judged at every such state of knowledge, and
//!   in every order in which its events can be told; told twice, or joined from a snapshot and the rest, it must come to
//!   the same record.
//! - An edge takes reports in; what suppresses holds there at once, and an anchor numbers it at any later moment, behind
//!   whatever was recorded meanwhile. The anchor's answer may be lost, and the edge turn to another anchor.
//! - The person may have two identifiers, and acts by either; the opt-in that carries both may arrive before or after
//!   everything else, at an anchor or at the edge.
//! - Acts and reports are a second apart. Once per world there may be a silence of two margins and a minute, at any
//!   point: partitions heal, webhooks arrive and edges are heard after it, and an opt-in may then win by its time.
//! - Clocks are right; or each of four (the callers', the provider's, two anchors') is right or ahead by all but a
//!   millisecond of the margin, in every combination.
//!
//! Not all of this is combined in one world: each test says what its worlds are made of.
//!
//! Three things are left out because they make no difference. Anchors are alike but for their clocks, and ids only break
//! ties between opt-ins that permit the same; so an anchor is not tried as the first to be reported to when one of a
//! lower number has not been yet. Two reports in a row at different anchors, neither of which knows of the other's event,
//! may change places; so one order is tried. And what a node knows beyond what shows in the event that it records it may
//! as well learn later; so the least such knowledge is tried. While clocks are right, acts come before reports within a
//! stretch without silence: no comparison of the rule tells moments apart that lie within the margin, other than of two
//! acts.
//!
//! Left out because they are beyond the bounds: other written forms of an address, more opt-outs of an edge than stand
//! alone (both are in `engine::tests::late`), other scopes than one, requests and confirmations, imports, misdated
//! reports, holds (these are in [`exhaustive`](super::exhaustive) or [`oracle`](super::oracle)), edges with wrong clocks,
//! and two silences.
//!
//! A caller tells the truth if it names only opt-outs that the person acted after, as far as its node knows them for the
//! person's; an id stands for all that its anchor recorded up to it of the same identifier, and for itself alone where an
//! edge took it in. A grant is right if nothing known at that node that ends it came after the act that granted; and
//! through a link, if nothing is known to end it at all. An opt-in must grant if it names everything known there or came
//! long after it, and nothing known to its recorder came after it. The counts below show that both happen often.

use super::cluster::{ANCHORS_MAX, Act, Bounds, Explorer, Tally};
use super::script::{self, Grant, Naming, Reach, What};
use crate::policy::types::Channel;

const STOP: What = What::Stop(Reach::Whatsapp);
const WEBHOOK: What = What::StopMessage { channel: Channel::Whatsapp, signed: true };
const START: What = What::Start(Channel::Whatsapp);
const OPT_IN: What = What::OptIn { grant: Grant::WhatsappOffers, naming: Naming::Nothing };
const NAMING: What = What::OptIn { grant: Grant::WhatsappOffers, naming: Naming::WhenReported };

/// Opt-outs by either identifier, and an opt-in by the first.
const BY_EITHER: [Act; 3] = [
    Act { what: STOP, by: 0, links: false },
    Act { what: STOP, by: 1, links: false },
    Act { what: NAMING, by: 0, links: false },
];
/// The same, and opt-ins that carry both identifiers or come by the second.
const BY_EITHER_WITH_LINKS: [Act; 5] = [
    BY_EITHER[0],
    BY_EITHER[1],
    BY_EITHER[2],
    Act { what: NAMING, by: 0, links: true },
    Act { what: NAMING, by: 1, links: false },
];

/// Two anchors to which nothing happens.
const BOUNDS: Bounds = Bounds {
    anchors: 2,
    edge_reports: 0,
    retries: 0,
    silences: 0,
    acts_between_reports: false,
    skew_ms: [0; 2 + ANCHORS_MAX],
};

fn act(what: What) -> Act {
    Act { what, by: 0, links: false }
}

/// Every sequence of `len` of `letters`.
fn sequences(letters: &[Act], len: usize) -> Vec<Vec<Act>> {
    (0..len).fold(vec![Vec::new()], |sequences, _| {
        let longer = |sequence: &Vec<Act>| {
            let with = |letter: &Act| sequence.iter().copied().chain([*letter]).collect();
            letters.iter().map(with).collect::<Vec<_>>()
        };
        sequences.iter().flat_map(longer).collect()
    })
}

fn explore(letters: &[Act], len: usize, bounds: &Bounds) -> Tally {
    explore_each(sequences(letters, len), bounds)
}

fn explore_each(sequences: Vec<Vec<Act>>, bounds: &Bounds) -> Tally {
    let rules = script::rules();
    let mut tally = Tally::default();
    for acts in sequences {
        let ends = acts.iter().any(|act| act.what.ends_something());
        let grants = acts.iter().any(|act| matches!(act.what, What::OptIn { .. }));
        if !(ends && grants) {
            continue;
        }
        let mut explorer = Explorer::new(&rules, bounds, &acts);
        if let Err(wrong) = explorer.run() {
            panic!("{wrong}");
        }
        tally.add(explorer.tally);
    }
    tally
}

/// A test that hardly ever gets to a grant in spite of opt-outs proves nothing.
fn assert_meaningful(tally: &Tally) {
    eprintln!("{tally:?}");
    assert!(tally.worlds > 10_000, "{tally:?}");
    assert!(tally.granted > tally.judged / 8 && tally.proven > tally.judged / 20, "{tally:?}");
}

/// The same for persons of whom often nobody knows both identifiers: then nothing can be shown.
fn assert_meaningful_with_links(tally: &Tally) {
    eprintln!("{tally:?}");
    assert!(tally.worlds > 10_000, "{tally:?}");
    assert!(tally.granted > tally.judged / 10 && tally.proven > tally.judged / 50, "{tally:?}");
}

/// Three acts, each reported once, and one of them once more.
#[test]
fn two_anchors_with_a_retry_and_a_silence() {
    let letters = [STOP, WEBHOOK, START, NAMING, OPT_IN].map(act);
    assert_meaningful(&explore(&letters, 3, &Bounds { retries: 1, silences: 1, ..BOUNDS }));
}

/// Four acts, each reported once, all within the margin.
#[test]
fn two_anchors_and_four_acts() {
    let letters = [STOP, WEBHOOK, START, NAMING].map(act);
    assert_meaningful(&explore(&letters, 4, &BOUNDS));
}

/// Three acts, each reported once, and one of them once more, all within the margin.
#[test]
fn three_anchors_with_a_retry() {
    let letters = [STOP, WEBHOOK, START, NAMING].map(act);
    assert_meaningful(&explore(&letters, 3, &Bounds { anchors: 3, retries: 1, ..BOUNDS }));
}

/// Three acts, each reported once, any of them to the edge.
#[test]
fn an_edge_beside_two_anchors_with_a_silence() {
    let letters = [STOP, WEBHOOK, NAMING].map(act);
    assert_meaningful(&explore(&letters, 3, &Bounds { edge_reports: 3, silences: 1, ..BOUNDS }));
}

/// Four acts, each reported once, at most one of them to the edge, all within the margin.
#[test]
fn an_edge_that_takes_in_one_of_four_acts() {
    let letters = [STOP, NAMING].map(act);
    assert_meaningful(&explore(&letters, 4, &Bounds { edge_reports: 1, ..BOUNDS }));
}

/// Three acts, each reported once, up to two of them to the edge; and one report, or item of the edge, once more elsewhere; all within
/// the margin.
#[test]
fn an_edge_that_is_not_answered() {
    let letters = [STOP, NAMING].map(act);
    assert_meaningful(&explore(&letters, 3, &Bounds { edge_reports: 2, retries: 1, ..BOUNDS }));
}

/// Three acts, each reported once, up to two of them to the edge; a silence.
#[test]
fn an_edge_and_what_was_never_agreed_to() {
    let letters = [STOP, What::Void, NAMING].map(act);
    assert_meaningful(&explore(&letters, 3, &Bounds { edge_reports: 2, silences: 1, ..BOUNDS }));
}

/// Three acts by either identifier, each reported once to one of two anchors or, one of them, to the edge; a silence.
#[test]
fn two_identifiers_and_an_edge() {
    assert_meaningful_with_links(&explore(
        &BY_EITHER_WITH_LINKS,
        3,
        &Bounds { edge_reports: 1, silences: 1, ..BOUNDS },
    ));
}

/// Three acts by either identifier, and at last an opt-in that links both and names nothing; each reported once, in any
/// order, at most one of them to the edge; all within the margin.
#[test]
fn a_link_that_comes_to_be_known_last() {
    let link = Act { what: OPT_IN, by: 1, links: true };
    let acts = sequences(&BY_EITHER, 3).into_iter().map(|acts| [&acts[..], &[link]].concat()).collect();
    assert_meaningful_with_links(&explore_each(acts, &Bounds { edge_reports: 1, ..BOUNDS }));
}

/// Three acts by either identifier, each reported once to one of two anchors.
#[test]
fn two_identifiers_with_a_silence() {
    assert_meaningful(&explore(&BY_EITHER_WITH_LINKS, 3, &Bounds { silences: 1, ..BOUNDS }));
}

/// Three acts, each reported once to one of two anchors, in every order of acts and reports, all within the margin of true time.
#[test]
fn clocks_apart_by_almost_the_margin() {
    const CLOCKS: usize = 4;
    let letters = [STOP, WEBHOOK, START, NAMING].map(act);
    let mut tally = Tally::default();
    for ahead in 0..1_usize << CLOCKS {
        let mut skew_ms = [0; 2 + ANCHORS_MAX];
        for clock in (0..CLOCKS).filter(|clock| ahead >> clock & 1 == 1) {
            skew_ms[clock] = script::MARGIN_MS - 1;
        }
        tally.add(explore(&letters, 3, &Bounds { skew_ms, acts_between_reports: true, ..BOUNDS }));
    }
    assert_meaningful(&tally);
}
