use proptest::prelude::*;

use super::*;
use crate::policy::ids::Identifier;
use crate::policy::rules::{CapClass, Every, FrequencyCap, PerHourByQuality, PerSecond};
use crate::policy::time::{DAY_MS, HOUR_MS, SECOND_MS};
use crate::policy::types::Quality;

const NOW: Timestamp = Timestamp(1_795_341_600_000);
const NO_LIMITS: ChannelLimits =
    ChannelLimits { sender: None, pair: None, business_per_hour: None, messaging_limit: None };

use crate::policy::rules::ChannelLimits;

/// A scene with names, limits and a person's log, in which messages are tried.
struct Scene {
    limiter: Limiter,
    limits: ChannelLimits,
    caps: Vec<FrequencyCap>,
    logs: HashMap<u8, FrequencyLog>,
    shadow: Vec<Reason>,
    decisions: u32,
}

#[derive(Clone, Copy, Debug)]
struct Try<'a> {
    business: &'a str,
    portfolio: Option<&'a str>,
    sender: &'a str,
    person: u8,
    category: Category,
    quality: Quality,
    members: u32,
    request: Option<&'a str>,
    mode: Mode,
    exempt: bool,
}

const TRY: Try<'_> = Try {
    business: "acme",
    portfolio: None,
    sender: "1",
    person: 1,
    category: Category::Utility,
    quality: Quality::Green,
    members: 1,
    request: None,
    mode: Mode::Enforce,
    exempt: false,
};

impl Scene {
    fn new(limits: ChannelLimits) -> Self {
        Self::with(limits, &Settings::default())
    }

    fn with(limits: ChannelLimits, settings: &Settings) -> Self {
        Self {
            limiter: Limiter::new(settings, [7; 16]),
            limits,
            caps: Vec::new(),
            logs: HashMap::new(),
            shadow: Vec::new(),
            decisions: 0,
        }
    }

    fn admit(&mut self, message: Try<'_>, now: Timestamp) -> Result<Admitted, Denied> {
        self.decisions += 1;
        let mut decision = [0; 16];
        decision[..4].copy_from_slice(&self.decisions.to_le_bytes());
        let shadow = self.shadow.clone();
        let request = message.request.map(|id| self.limiter.request_key(message.business, id));
        if let Some(request) = request {
            self.limiter.bind_request(request, &[&[message.person]], now).unwrap();
        }
        self.limiter.try_admit(
            &Admission {
                business: message.business,
                portfolio: message.portfolio,
                sender: message.sender,
                channel: Channel::Whatsapp,
                category: message.category,
                recipient: &Identifier([message.person; 32]),
                portfolio_recipient: &[message.person; 16],
                counts_distinct: true,
                exempt: message.exempt,
                limits: &self.limits,
                caps: &self.caps,
                quality: message.quality,
                members: message.members,
                request,
                decision,
                mode: message.mode,
            },
            self.logs.entry(message.person).or_default(),
            &|reason| shadow.contains(&reason),
            now,
        )
    }

    /// The first reason and the wait, or nothing when it may go.
    fn verdict(&mut self, message: Try<'_>, now: Timestamp) -> Option<(Reason, Option<u64>)> {
        let denied = self.admit(message, now).err()?;
        Some((denied.refusals[0].rule.reason(), denied.retry_after_ms()))
    }

    fn give_back(&mut self, message: Try<'_>, receipt: &Receipt, now: Timestamp) -> GivenBack {
        let log = self.logs.entry(message.person).or_default();
        self.limiter.give_back(message.business, message.portfolio, &[message.person; 16], receipt, log, now)
    }

    /// Entries in use per table. Portfolios are left out: an empty one may wait for the next drain.
    fn used(&self) -> Vec<usize> {
        let tables = self.limiter.usage().into_iter().filter(|usage| usage.table != "portfolios");
        tables.map(|usage| usage.used).collect()
    }

    /// All state as bytes; equal states give equal bytes.
    fn state(&self, now: Timestamp) -> Vec<Vec<u8>> {
        let mut state = Vec::new();
        let Ok(()) = self.limiter.snapshot(now, |chunk| {
            state.push(chunk.to_vec());
            Ok::<_, std::convert::Infallible>(())
        });
        let mut logs: Vec<_> = self.logs.iter().filter(|(_, log)| !log.marks().is_empty()).collect();
        logs.sort_by_key(|(person, _)| **person);
        state.extend(
            logs.iter().map(|(person, log)| [&[**person], format!("{:?}", log.marks()).as_bytes()].concat()),
        );
        state
    }
}

fn all_limits() -> ChannelLimits {
    ChannelLimits {
        sender: Some(PerSecond { per_second: 2, burst: 4 }),
        pair: Some(Every { every_ms: 6_000, burst: 2 }),
        business_per_hour: Some(PerHourByQuality {
            green: 3_600,
            yellow: 360,
            red: 0,
            unknown: 3_600,
            burst: 5,
        }),
        messaging_limit: Some(3),
    }
}

#[test]
fn without_limits_everything_passes() {
    let mut scene = Scene::new(NO_LIMITS);
    for _ in 0..1_000 {
        let admitted = scene.admit(TRY, NOW).unwrap();
        assert!(admitted.receipt.is_empty());
    }
    assert!(scene.state(NOW).is_empty());
}

#[test]
fn each_rule_denies_with_its_reason_and_an_exact_wait() {
    let rate = |limits: ChannelLimits| Scene::new(limits);
    let all = all_limits();

    let mut scene = rate(ChannelLimits { pair: all.pair, ..NO_LIMITS });
    assert_eq!([scene.verdict(TRY, NOW), scene.verdict(TRY, NOW)], [None, None]);
    assert_eq!(scene.verdict(TRY, NOW), Some((Reason::PairRate, Some(6_000))));
    assert_eq!(scene.verdict(Try { person: 2, ..TRY }, NOW), None, "another person");
    assert_eq!(scene.verdict(Try { sender: "2", ..TRY }, NOW), None, "another sender");
    assert_eq!(scene.verdict(Try { members: 9, ..TRY }, NOW.plus_ms(6_000)), None, "pairs are not divided");

    let mut scene = rate(ChannelLimits { sender: all.sender, ..NO_LIMITS });
    for person in 0..4 {
        assert_eq!(scene.verdict(Try { person, ..TRY }, NOW), None);
    }
    assert_eq!(scene.verdict(TRY, NOW), Some((Reason::SenderRate, Some(500))));
    assert_eq!(
        scene.verdict(Try { members: 2, ..TRY }, NOW),
        Some((Reason::SenderRate, Some(1_000))),
        "half the rate"
    );
    assert_eq!(scene.verdict(Try { sender: "2", ..TRY }, NOW), None);

    let mut scene = rate(ChannelLimits { business_per_hour: all.business_per_hour, ..NO_LIMITS });
    for person in 0..5 {
        assert_eq!(scene.verdict(Try { person, sender: "x", ..TRY }, NOW), None);
    }
    assert_eq!(scene.verdict(TRY, NOW), Some((Reason::BusinessRate, Some(1_000))));
    let yellow = Try { quality: Quality::Yellow, ..TRY };
    assert_eq!(scene.verdict(yellow, NOW), Some((Reason::BusinessRate, Some(10_000))));
    let red = Try { quality: Quality::Red, ..TRY };
    assert_eq!(scene.verdict(red, NOW), Some((Reason::BusinessRate, None)), "a rate of none never passes");
    assert_eq!(scene.verdict(Try { business: "other", ..TRY }, NOW), None);

    let mut scene = rate(ChannelLimits { messaging_limit: Some(2), ..NO_LIMITS });
    for person in [1, 2, 1] {
        let message = Try { person, portfolio: Some("group"), ..TRY };
        assert_eq!(scene.verdict(message, NOW), None);
    }
    let third = Try { person: 3, portfolio: Some("group"), business: "sister", ..TRY };
    // Person 1's second message was counted a millisecond later; person 2 leaves first.
    assert_eq!(scene.verdict(third, NOW), Some((Reason::MessagingLimit, Some(86_400_000))), "one portfolio");
    assert_eq!(scene.verdict(Try { portfolio: None, ..third }, NOW), None, "its own portfolio");
    assert_eq!(scene.limiter.distinct_recipients("acme", Some("group"), NOW), 2);

    let mut scene = rate(NO_LIMITS);
    scene.caps = vec![FrequencyCap { class: CapClass::Any, max: 1, per_ms: HOUR_MS }];
    assert_eq!(scene.verdict(TRY, NOW), None);
    assert_eq!(scene.verdict(TRY, NOW.plus_ms(1)), Some((Reason::FrequencyCap, Some(3_599_999))));
    assert_eq!(
        scene.verdict(Try { sender: "2", ..TRY }, NOW.plus_ms(1)).map(|v| v.0),
        Some(Reason::FrequencyCap)
    );
    assert_eq!(scene.verdict(Try { category: Category::Authentication, ..TRY }, NOW), None);
}

#[test]
fn cooldowns_hold_what_they_are_about() {
    let mut scene = Scene::new(NO_LIMITS);
    let marketing = Try { category: Category::Marketing, ..TRY };
    let person = Identifier([1; 32]);
    scene.limiter.cool_down("acme", Channel::Whatsapp, Hold::RecipientMarketing(&person), DAY_MS, NOW);
    assert_eq!(scene.verdict(marketing, NOW), Some((Reason::Cooldown, Some(86_400_000))));
    assert_eq!(scene.verdict(Try { sender: "2", ..marketing }, NOW).map(|v| v.0), Some(Reason::Cooldown));
    assert_eq!(scene.verdict(TRY, NOW), None, "utility goes on");
    assert_eq!(scene.verdict(Try { person: 2, ..marketing }, NOW), None);
    assert_eq!(scene.verdict(marketing, NOW.plus_ms(DAY_MS)), None);

    let until = scene.limiter.back_off("acme", Channel::Whatsapp, Hold::Pair("1", &person), NOW);
    assert_eq!(until, NOW.plus_ms(SECOND_MS));
    assert_eq!(scene.verdict(TRY, NOW), Some((Reason::Cooldown, Some(1_000))));
    assert_eq!(scene.verdict(Try { sender: "2", ..TRY }, NOW), None);

    scene.limiter.cool_down("acme", Channel::Whatsapp, Hold::Sender("3"), HOUR_MS, NOW);
    assert_eq!(
        scene.verdict(Try { sender: "3", person: 9, ..TRY }, NOW).map(|v| v.0),
        Some(Reason::Cooldown)
    );
    assert_eq!(scene.verdict(Try { sender: "3", business: "b", ..TRY }, NOW), None);

    scene.limiter.cool_down("acme", Channel::Whatsapp, Hold::Business, 2 * HOUR_MS, NOW);
    let denied = scene.admit(Try { sender: "3", ..marketing }, NOW).unwrap_err();
    let scopes: Vec<_> = denied.refusals.iter().map(|refusal| refusal.rule).collect();
    let expected = [CooldownScope::Business, CooldownScope::Sender, CooldownScope::RecipientMarketing];
    assert_eq!(scopes, expected.map(Rule::Cooldown), "every one is told");
    assert_eq!(denied.retry_after_ms(), Some(86_400_000));
    assert_eq!(scene.verdict(Try { exempt: true, ..marketing }, NOW), None);
}

#[test]
fn all_failing_rules_are_told_narrowest_first() {
    let mut limits = all_limits();
    limits.messaging_limit = Some(1);
    limits.pair = Some(Every { every_ms: 6_000, burst: 1 });
    limits.sender = Some(PerSecond { per_second: 1, burst: 1 });
    limits.business_per_hour = limits.business_per_hour.map(|rate| PerHourByQuality { burst: 1, ..rate });
    let mut scene = Scene::new(limits);
    scene.caps = vec![FrequencyCap { class: CapClass::Marketing, max: 1, per_ms: DAY_MS }];
    let marketing = Try { category: Category::Marketing, ..TRY };
    assert_eq!(scene.verdict(marketing, NOW), None);
    let given = scene.logs[&1].clone();
    // The person's place among the recipients is taken by another, so that the messaging limit fails too.
    let receipt = Receipt {
        distinct: Some(super::super::DistinctReceipt { time: NOW, previous: None }),
        ..Receipt::default()
    };
    assert!(scene.give_back(marketing, &receipt, NOW).distinct);
    scene.limits = ChannelLimits { messaging_limit: Some(1), ..NO_LIMITS };
    assert_eq!(scene.verdict(Try { person: 2, ..TRY }, NOW), None);
    scene.limits = limits;
    scene.limiter.cool_down("acme", Channel::Whatsapp, Hold::Sender("1"), SECOND_MS, NOW);
    let denied = scene.admit(marketing, NOW).unwrap_err();
    let reasons: Vec<_> = denied.refusals.iter().map(|refusal| refusal.rule.reason()).collect();
    let words: Vec<_> = reasons.iter().map(|reason| reason.word()).collect();
    let expected =
        ["COOLDOWN", "FREQUENCY_CAP", "MESSAGING_LIMIT", "PAIR_RATE", "SENDER_RATE", "BUSINESS_RATE"];
    assert_eq!(words, expected);
    assert!(reasons.is_sorted());
    assert_eq!(scene.logs[&1], given);
}

#[test]
fn shadowed_rules_report_and_let_pass() {
    let mut scene =
        Scene::new(ChannelLimits { messaging_limit: Some(1), pair: all_limits().pair, ..NO_LIMITS });
    scene.shadow = vec![Reason::MessagingLimit];
    assert_eq!(scene.verdict(TRY, NOW), None);
    let second = scene.admit(Try { person: 2, ..TRY }, NOW).unwrap();
    assert_eq!(second.shadowed.len(), 1);
    assert_eq!(second.shadowed[0].rule, Rule::MessagingLimit(1));
    assert_eq!(scene.limiter.distinct_recipients("acme", None, NOW), 2, "what was sent is counted");
    scene.verdict(Try { person: 2, ..TRY }, NOW);
    let before = scene.state(NOW);
    let denied = scene.admit(Try { person: 2, ..TRY }, NOW).unwrap_err();
    assert_eq!(denied.refusals[0].rule.reason(), Reason::PairRate);
    scene.shadow.push(Reason::PairRate);
    let peeked = scene.admit(Try { person: 2, mode: Mode::Peek, ..TRY }, NOW).unwrap();
    assert_eq!(peeked.shadowed[0].rule.reason(), Reason::PairRate);
    assert_eq!(scene.state(NOW), before);
}

#[test]
fn a_failed_send_gives_back_once_and_may_be_retried_at_its_price() {
    let mut scene = Scene::new(ChannelLimits { messaging_limit: Some(1), ..NO_LIMITS });
    scene.caps = vec![FrequencyCap { class: CapClass::Utility, max: 1, per_ms: DAY_MS }];
    let empty = scene.state(NOW);
    let message = Try { request: Some("r1"), ..TRY };
    let first = scene.admit(message, NOW).unwrap();
    assert!(first.receipt.marked && first.receipt.distinct.is_some() && first.repeats.is_none());
    let again = scene.admit(message, NOW).unwrap();
    assert_eq!(again.receipt, first.receipt);
    assert!(again.repeats.is_some(), "a repeated request consumes nothing more");
    assert_eq!(
        scene.verdict(Try { request: Some("r2"), ..TRY }, NOW).map(|v| v.0),
        Some(Reason::FrequencyCap)
    );
    assert_eq!(scene.give_back(message, &first.receipt, NOW), GivenBack { mark: true, distinct: true });
    assert_eq!(scene.state(NOW), empty);
    assert_eq!(scene.give_back(message, &first.receipt, NOW), GivenBack::default(), "once");
    let retried = scene.admit(message, NOW).unwrap();
    assert!(retried.repeats.is_none() && retried.receipt.marked, "what failed is charged when tried again");
    let given = scene.give_back(message, &first.receipt, NOW.plus_ms(1));
    assert!(!given.mark, "the first stays given back");
    assert_eq!(
        scene.verdict(Try { request: Some("r2"), ..TRY }, NOW).map(|v| v.0),
        Some(Reason::FrequencyCap)
    );
}

#[test]
fn an_id_with_other_content_is_refused() {
    let limiter = Limiter::new(&Settings::default(), [1; 16]);
    let key = limiter.request_key("acme", "r1");
    assert_ne!(key, limiter.request_key("acm", "er1"));
    assert_eq!(limiter.bind_request(key, &[b"ab", b"c"], NOW), Ok(()));
    assert_eq!(limiter.bind_request(key, &[b"ab", b"c"], NOW), Ok(()));
    assert_eq!(limiter.bind_request(key, &[b"a", b"bc"], NOW), Err(OtherContent));
}

#[test]
fn one_past_every_capacity_denies_by_the_rule_of_the_table() {
    let one = Settings {
        pairs_max: 1,
        senders_max: 1,
        businesses_max: 1,
        cooldowns_max: 1,
        recipients_max: 1,
        portfolios_max: 1,
        ..Settings::default()
    };
    let all = all_limits();
    let cases = [
        (ChannelLimits { pair: all.pair, ..NO_LIMITS }, Reason::PairRate),
        (ChannelLimits { sender: all.sender, ..NO_LIMITS }, Reason::SenderRate),
        (ChannelLimits { business_per_hour: all.business_per_hour, ..NO_LIMITS }, Reason::BusinessRate),
        (ChannelLimits { messaging_limit: Some(9), ..NO_LIMITS }, Reason::MessagingLimit),
    ];
    for (limits, reason) in cases {
        for mode in [Mode::Enforce, Mode::Peek] {
            let mut scene = Scene::with(limits, &one);
            assert_eq!(scene.verdict(TRY, NOW), None);
            let other = Try { business: "b", sender: "2", person: 2, mode, ..TRY };
            let denied = scene.admit(other, NOW).unwrap_err();
            assert!(denied.refusals[0].out_of_room, "{reason}");
            assert_eq!(denied.refusals[0].rule.reason(), reason);
            assert_eq!(denied.retry_after_ms(), Some(OUT_OF_ROOM_RETRY_MS));
            assert!(scene.limiter.usage().iter().all(|table| table.used <= table.max));
            // What is refused here for want of room passes once the room is free.
            let later = NOW.plus_ms(2 * DAY_MS);
            let _ = scene.limiter.drain(later);
            scene.admit(Try { business: "acme", ..TRY }, later).unwrap();
        }
    }
}

fn any_try() -> impl Strategy<Value = (Try<'static>, i64, bool)> {
    let business = prop_oneof![Just("acme"), Just("b")];
    let sender = prop_oneof![Just("1"), Just("2")];
    let category =
        prop_oneof![Just(Category::Marketing), Just(Category::Utility), Just(Category::Authentication)];
    let quality = prop_oneof![4 => Just(Quality::Green), 1 => Just(Quality::Yellow), 1 => Just(Quality::Red)];
    let peek = proptest::bool::weighted(0.2);
    (business, sender, 0u8..6, category, quality, 1u32..3, peek, 0i64..4_000, any::<bool>()).prop_map(
        |(business, sender, person, category, quality, members, peek, advance_ms, jump)| {
            let mode = if peek { Mode::Peek } else { Mode::Enforce };
            let portfolio = Some("group");
            let message =
                Try { business, portfolio, sender, person, category, quality, members, mode, ..TRY };
            (message, advance_ms, jump)
        },
    )
}

proptest! {
    /// Nothing is consumed by a denial or a peek; a peek says what enforcing would; the wait told suffices if
    /// nothing else happens, and one millisecond less does not.
    #[test]
    fn denials_and_peeks_consume_nothing(script in proptest::collection::vec(any_try(), 1..60)) {
        let mut scene = Scene::new(all_limits());
        scene.caps = vec![
            FrequencyCap { class: CapClass::Marketing, max: 2, per_ms: 20_000 },
            FrequencyCap { class: CapClass::Any, max: 3, per_ms: 30_000 },
        ];
        let mut now = NOW;
        for (message, advance_ms, jump) in script {
            now = now.plus_ms(if jump { advance_ms * 20 } else { advance_ms / 10 });
            // The first look translates buckets to the present quality; from then on states compare.
            let peeked = scene.admit(Try { mode: Mode::Peek, ..message }, now);
            let before = scene.state(now);
            let peeked_again = scene.admit(Try { mode: Mode::Peek, ..message }, now);
            prop_assert_eq!(&peeked, &peeked_again);
            prop_assert_eq!(&scene.state(now), &before);
            let used = scene.used();
            let outcome = scene.admit(message, now);
            prop_assert_eq!(outcome.is_ok(), peeked.is_ok());
            if let Err(denied) = outcome {
                prop_assert_eq!(scene.used(), used, "room held for the message is given back");
                prop_assert_eq!(Some(&denied), peeked.as_ref().err());
                prop_assert_eq!(scene.state(now), before);
                let peek = Try { mode: Mode::Peek, ..message };
                if let Some(wait_ms) = denied.retry_after_ms() {
                    prop_assert!(scene.admit(peek, now.plus_ms(wait_ms.cast_signed() - 1)).is_err());
                    prop_assert!(scene.admit(peek, now.plus_ms(wait_ms.cast_signed())).is_ok());
                    now = now.plus_ms(wait_ms.cast_signed());
                }
            }
        }
    }
}

#[test]
fn threads_together_admit_exactly_what_the_limits_allow() {
    let limits = ChannelLimits {
        sender: Some(PerSecond { per_second: 1, burst: 150 }),
        pair: Some(Every { every_ms: 6_000, burst: 1 }),
        messaging_limit: Some(100),
        ..NO_LIMITS
    };
    let limiter = Limiter::new(&Settings { pairs_max: 120, ..Settings::default() }, [1; 16]);
    let admitted = |business: &'static str, thread: u8| {
        (0..=u8::MAX)
            .filter(|person| {
                let person = person.rotate_left(u32::from(thread));
                let admission = Admission {
                    business,
                    portfolio: Some("group"),
                    sender: "1",
                    channel: Channel::Whatsapp,
                    category: Category::Utility,
                    recipient: &Identifier([person; 32]),
                    portfolio_recipient: &[person; 16],
                    counts_distinct: true,
                    exempt: false,
                    limits: &limits,
                    caps: &[],
                    quality: Quality::Green,
                    members: 1,
                    request: None,
                    decision: [person; 16],
                    mode: Mode::Enforce,
                };
                let _ = limiter.drain(NOW);
                limiter.try_admit(&admission, &mut FrequencyLog::new(), &|_| false, NOW).is_ok()
            })
            .count()
    };
    let total: usize = std::thread::scope(|scope| {
        let of = |business, thread| scope.spawn(move || admitted(business, thread));
        let threads = [of("acme", 0), of("acme", 3), of("b", 5), of("b", 7)];
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(limiter.distinct_recipients("b", Some("group"), NOW), 100);
    let used = |table| limiter.usage().into_iter().find(|usage| usage.table == table).unwrap().used;
    assert_eq!(used("recipients"), 100);
    assert_eq!(used("pairs"), total, "each admitted pair has its bucket, each denied one gave its room back");
    assert!((100..=120).contains(&total), "{total}");
}
