//! The merge rule judged by the true order of the person's acts (design §5), in random worlds.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::script::{self, Act, Arrival, CLOCKS, Grant, MARGIN_MS, Naming, Reach, Script, What};
use super::world::{Clocks, World};
use crate::policy::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS};
use crate::policy::types::Channel;

fn what() -> impl Strategy<Value = What> {
    let reach = || {
        select(vec![
            Reach::Everything,
            Reach::Whatsapp,
            Reach::WhatsappMarketing,
            Reach::WhatsappOffers,
            Reach::Sms,
        ])
    };
    let grant = || {
        select(vec![
            Grant::WhatsappOffers,
            Grant::WhatsappMarketing,
            Grant::OffersOnBoth,
            Grant::WhatsappOffersAndDelivery,
        ])
    };
    let channel = || select(vec![Channel::Whatsapp, Channel::Sms]);
    let naming = select(vec![Naming::Nothing, Naming::WhenActed, Naming::WhenReported]);
    prop_oneof![
        2 => reach().prop_map(What::Stop),
        1 => reach().prop_map(What::MisdatedStop),
        2 => reach().prop_map(What::SignedStop),
        3 => (channel(), any::<bool>()).prop_map(|(channel, signed)| What::StopMessage { channel, signed }),
        3 => channel().prop_map(What::Start),
        5 => (grant(), naming).prop_map(|(grant, naming)| What::OptIn { grant, naming }),
        1 => grant().prop_map(What::Request),
        1 => Just(What::Confirm),
        1 => Just(What::Void),
        1 => reach().prop_map(What::ImportedStop),
        1 => grant().prop_map(What::ImportedOptIn),
    ]
}

fn gap_ms() -> impl Strategy<Value = i64> {
    select(vec![
        1,
        SECOND_MS,
        20 * SECOND_MS,
        3 * MINUTE_MS,
        MARGIN_MS,
        7 * MINUTE_MS,
        11 * MINUTE_MS,
        2 * HOUR_MS,
        30 * HOUR_MS,
    ])
}

fn delay_ms() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => Just(0),
        3 => select(vec![5 * SECOND_MS, MINUTE_MS, 4 * MINUTE_MS]),
        2 => select(vec![6 * MINUTE_MS, 12 * MINUTE_MS, 3 * HOUR_MS, 2 * DAY_MS]),
    ]
}

fn arrival() -> impl Strategy<Value = Arrival> {
    (0..2_usize, delay_ms()).prop_map(|(node, delay_ms)| Arrival { node, delay_ms })
}

/// Clocks that differ by less than `within_ms`.
fn skew_ms(within_ms: i64) -> impl Strategy<Value = [i64; CLOCKS]> {
    prop::array::uniform4(prop_oneof![2 => Just(0), 2 => Just(within_ms - 1), 1 => 0..within_ms])
}

fn script(skew_within_ms: i64) -> impl Strategy<Value = Script> {
    let act = (what(), gap_ms(), vec(arrival(), 1..3));
    (vec(act, 1..8), skew_ms(skew_within_ms), vec(delay_ms(), 1..4)).prop_map(|(acts, skew_ms, relay_ms)| {
        let mut at_ms = 0;
        let acts = acts
            .into_iter()
            .map(|(what, gap_ms, arrivals)| {
                at_ms += gap_ms;
                Act { what, at_ms, arrivals }
            })
            .collect();
        Script { acts, skew_ms, relay_ms }
    })
}

fn judge(script: &Script, clocks: Clocks) -> Result<(), TestCaseError> {
    let rules = script::rules();
    World::new(script, &rules, clocks).run().map_err(TestCaseError::fail)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// No delay, retry, reordering or partition resurrects a consent, nor loses one that is shown to come last, while
    /// clocks differ by less than the margin.
    #[test]
    fn the_persons_last_word_holds(script in script(MARGIN_MS)) {
        judge(&script, Clocks::WithinMargin)?;
    }

    /// Beyond the margin, only an opt-out reported late or recorded without knowing the opt-in can lose.
    #[test]
    fn a_prompt_opt_out_holds_whatever_the_clocks_say(script in script(3 * HOUR_MS)) {
        judge(&script, Clocks::Wild)?;
    }
}
