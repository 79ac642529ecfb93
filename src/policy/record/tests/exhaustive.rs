//! The merge rule judged by the true order of acts, in every small world: all acts, in all orders, reported in all
//! orders.

use super::script::{self, Act, Arrival, CLOCKS, Grant, MARGIN_MS, Naming, Reach, Script, What};
use super::world::{Clocks, World};
use crate::policy::time::{DAY_MS, MINUTE_MS, SECOND_MS};
use crate::policy::types::Channel;

const STOP: What = What::Stop(Reach::Whatsapp);
const STOP_MESSAGE: What = What::StopMessage { channel: Channel::Whatsapp, signed: false };
const START: What = What::Start(Channel::Whatsapp);
const OPT_IN: What = What::OptIn { grant: Grant::WhatsappOffers, naming: Naming::Nothing };
const NAMING: What = What::OptIn { grant: Grant::WhatsappOffers, naming: Naming::WhenReported };

/// Small steps, within the margin, and such that every act can be shown to come later.
const GAPS_MS: [i64; 2] = [SECOND_MS, 2 * MARGIN_MS + MINUTE_MS];
/// All right; the callers' ahead; the nodes' apart and the provider's between.
const SKEWS_MS: [[i64; CLOCKS]; 3] =
    [[0, 0, 0, 0], [MARGIN_MS - 1, 0, 0, 0], [0, MARGIN_MS / 2, MARGIN_MS - 1, 0]];

/// How often something was granted, had to be granted in spite of opt-outs, and was looked at.
#[derive(Debug, Default)]
struct Tally {
    scripts: usize,
    granted: usize,
    proven: usize,
}

/// Every sequence of `len` letters.
fn sequences(letters: usize, len: u32) -> impl Iterator<Item = Vec<usize>> {
    (0..letters.pow(len)).map(move |mut n| {
        (0..len)
            .map(|_| {
                let letter = n % letters;
                n /= letters;
                letter
            })
            .collect()
    })
}

/// Every order of `0..len`.
fn orders(len: usize) -> Vec<Vec<usize>> {
    (0..len).fold(vec![Vec::new()], |orders, next| {
        orders
            .iter()
            .flat_map(|order| {
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, next);
                    order
                })
            })
            .collect()
    })
}

/// The acts `gap_ms` apart, each reported as soon as it has happened and those before it in `order` are reported.
fn script(whats: &[What], order: &[usize], nodes: usize, gap_ms: i64, relay_ms: i64, skew: usize) -> Script {
    let at_ms = |act: usize| i64::try_from(act).unwrap() * gap_ms;
    let mut delays_ms = vec![0; whats.len()];
    let mut until_ms = 0;
    for &act in order {
        until_ms = at_ms(act).max(until_ms + 1);
        delays_ms[act] = until_ms - at_ms(act);
    }
    let acts = whats
        .iter()
        .enumerate()
        .map(|(act, what)| {
            let arrival = Arrival { node: nodes >> act & 1, delay_ms: delays_ms[act] };
            Act { what: *what, at_ms: at_ms(act), arrivals: vec![arrival] }
        })
        .collect();
    Script { acts, skew_ms: SKEWS_MS[skew], relay_ms: vec![relay_ms] }
}

fn judge_all(
    letters: &[What],
    len: u32,
    nodes: &[usize],
    relays_ms: &[i64],
    gaps_ms: &[i64],
    skews: &[usize],
) -> Tally {
    let rules = script::rules();
    let mut tally = Tally::default();
    for letters_at in sequences(letters.len(), len) {
        let whats: Vec<What> = letters_at.iter().map(|&at| letters[at]).collect();
        for order in orders(whats.len()) {
            for &nodes in nodes {
                for &relay_ms in relays_ms {
                    for &skew in skews {
                        for &gap_ms in gaps_ms {
                            let script = script(&whats, &order, nodes, gap_ms, relay_ms, skew);
                            let mut world = World::new(&script, &rules, Clocks::WithinMargin);
                            if let Err(contradiction) = world.run() {
                                panic!("{contradiction}\n{script:#?}");
                            }
                            tally.scripts += 1;
                            tally.granted += world.granted;
                            tally.proven += world.proven;
                        }
                    }
                }
            }
        }
    }
    tally
}

/// A test that never gets to a grant in spite of opt-outs proves nothing.
fn assert_meaningful(tally: &Tally) {
    eprintln!("{tally:?}");
    assert!(tally.granted > tally.scripts / 10 && tally.proven > tally.scripts / 20, "{tally:?}");
}

/// Bit n: the node to which the n-th act is reported.
const ONE_NODE: [usize; 1] = [0];

#[test]
fn four_acts_at_one_node() {
    let letters = [STOP, STOP_MESSAGE, START, OPT_IN, NAMING];
    assert_meaningful(&judge_all(&letters, 4, &ONE_NODE, &[0], &[SECOND_MS], &[0]));
}

#[test]
fn four_acts_at_two_nodes_that_hear_of_each_other_late() {
    let letters = [STOP, STOP_MESSAGE, START, NAMING];
    assert_meaningful(&judge_all(&letters, 4, &[0b0101, 0b0011], &[DAY_MS], &[SECOND_MS], &[2]));
}

#[test]
fn three_acts_of_every_kind_with_clocks_apart() {
    let letters = [
        What::MisdatedStop(Reach::Whatsapp),
        STOP_MESSAGE,
        What::SignedStop(Reach::Everything),
        What::ImportedStop(Reach::Whatsapp),
        What::Void,
        START,
        NAMING,
        What::ImportedOptIn(Grant::WhatsappOffers),
    ];
    let tally = judge_all(&letters, 3, &[0b000, 0b010], &[5 * MINUTE_MS], &GAPS_MS, &[1, 2]);
    assert_meaningful(&tally);
}
