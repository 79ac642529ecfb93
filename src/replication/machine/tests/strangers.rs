//! Whatever a peer says, nothing breaks and nothing grows without bound.

use proptest::prelude::*;

use super::*;
use crate::pb::replication::v1 as pb;
use crate::replication::frame::{Usage, UsagePart};
use crate::replication::wire;

fn origins() -> impl Strategy<Value = OriginId> {
    (0..6_u8).prop_map(origin)
}

fn entries() -> impl Strategy<Value = Vec<VectorEntry>> {
    let one = (origins(), prop_oneof![1..5_u64, Just(u64::MAX - 1)], any::<u8>(), any::<bool>()).prop_map(
        |(origin, sequence, hash, own)| VectorEntry {
            origin,
            head: Head { sequence, hash: [hash; 32] },
            own,
        },
    );
    prop::collection::vec(one, 0..5)
}

fn frames() -> impl Strategy<Value = Frame> {
    let sequence = || prop_oneof![1..6_u64, Just(u64::MAX - 9)];
    prop_oneof![
        1 => entries().prop_map(|vector| Frame::Hello(Box::new(hello(2, vector)))),
        1 => Just(Frame::HelloRefused { reason: Refusal::Other, text: "no".into() }),
        4 => (prop::collection::vec((origins(), sequence()), 0..4), prop::collection::vec(origins(), 0..3))
            .prop_map(|(origins, skip)| Frame::Want { origins, skip }),
        6 => (origins(), sequence(), prop::collection::vec(0..300_usize, 1..4)).prop_map(|(origin, first, lens)| {
            Frame::Events(Events { origin, first, records: lens.into_iter().map(record).collect() })
        }),
        3 => (0..4_u64, prop::collection::vec((origins(), sequence()), 0..4))
            .prop_map(|(frames_done, origins)| Frame::Ack { frames_done, origins }),
        2 => (1..9_u64).prop_map(|number| Frame::Ping { number }),
        4 => (0..9_u64, any::<i64>(), entries(), prop::collection::vec(any::<u64>(), 0..3)).prop_map(
            |(answers, wall_ms, changes, ages)| Frame::Heartbeat {
                answers,
                wall_ms,
                changes,
                heard: ages.into_iter().map(|age_ms| Heard { anchor: format!("a{}", age_ms % 3), age_ms }).collect(),
            }
        ),
        1 => (origins(), sequence()).prop_map(|(origin, sequence)| Frame::Doubt {
            held: VectorEntry { origin, head: Head { sequence, hash: [9; 32] }, own: false }
        }),
        2 => (any::<[u8; 16]>(), sequence(), 0..9_usize).prop_map(|(run, serial, len)| {
            Frame::Usage(Usage { run: Run(run), serial, bytes: vec![1; len].into() })
        }),
        1 => Just(Frame::AskUsage),
        1 => Just(Frame::UsageAnswer(UsagePart::Chunk([1].into()))),
        1 => any::<bool>().prop_map(|complete| Frame::UsageAnswer(UsagePart::End { complete })),
        1 => Just(Frame::Unknown),
    ]
}

/// What happens to the machine: a frame, an answer to something it asked, or time.
#[derive(Clone, Debug)]
enum Happening {
    Frame(u64, Frame),
    Answer(u8),
    Own,
    Tick(u64),
    Reconnect(u64),
}

fn happenings() -> impl Strategy<Value = Happening> {
    prop_oneof![
        10 => (1..4_u64, frames()).prop_map(|(link, frame)| Happening::Frame(link, frame)),
        4 => any::<u8>().prop_map(Happening::Answer),
        1 => Just(Happening::Own),
        2 => (0..4_000_u64).prop_map(Happening::Tick),
        1 => (1..4_u64).prop_map(Happening::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_frames_in_any_order_do_no_harm(happenings in prop::collection::vec(happenings(), 1..80)) {
        let mut settings = settings(1);
        (settings.window_frames, settings.origins_max, settings.peers_max) = (4, 4, 3);
        let queue_frames = settings.queue_frames;
        let held = [(origin(1), head(4)), (origin(2), head(1))];
        let mut one = Machine::new(settings, held.into_iter().collect());
        let mut asked: Vec<Effect> = Vec::new();
        let mut with_carrier: BTreeMap<Link, usize> = BTreeMap::new();
        let (mut ms, mut own) = (1_000, 0);
        let mut links = BTreeMap::from([(1, Link(1)), (2, Link(2)), (3, Link(3))]);
        let mut next_link = 4;
        let mut effects = one.handle(Input::LacksUsage, at(ms));
        for (number, link) in &links {
            effects.extend(one.handle(Input::Connected { link: *link, dialled: number % 2 == 0 }, at(ms)));
            effects.extend(one.handle(Input::Frame { link: *link, frame: Frame::Hello(Box::new(hello(10 + *number as u8, Vec::new()))) }, at(ms)));
        }
        for happening in happenings {
            effects.extend(match happening {
                Happening::Frame(link, frame) => {
                    // Both sides of the wire agree on what was said.
                    let wired = wire::decode(wire::encode(frame.clone()));
                    prop_assert_eq!(wired.as_ref(), Ok(&frame));
                    one.handle(Input::Frame { link: links[&link], frame }, at(ms))
                }
                Happening::Answer(how) => {
                    if asked.is_empty() { continue }
                    match asked.remove(usize::from(how) % asked.len()) {
                        Effect::Read { ticket, .. } => {
                            let records = (how % 3 > 0).then(|| vec![record(usize::from(how)); usize::from(how % 4)]);
                            one.handle(Input::Read { ticket, records }, at(ms))
                        }
                        Effect::Store { ticket, events, .. } => {
                            let outcome = match how % 5 {
                                0 => StoreOutcome::Refused { head: None, why: StoreRefusal::Chain { sequence: events.first } },
                                1 => StoreOutcome::Refused { head: None, why: StoreRefusal::Gap },
                                2 => StoreOutcome::Refused { head: None, why: StoreRefusal::Later },
                                _ => StoreOutcome::Stored { head: Head { sequence: events.last(), hash: [how; 32] } },
                            };
                            one.handle(Input::Stored { ticket, outcome }, at(ms))
                        }
                        Effect::MakeUsage { link } => {
                            let part = if how % 2 == 0 { UsagePart::Chunk([how].into()) } else { UsagePart::End { complete: how % 3 > 0 } };
                            one.handle(Input::UsageMade { link, part }, at(ms))
                        }
                        Effect::TakeUsagePart { link, .. } => one.handle(Input::UsageTaken { link }, at(ms)),
                        Effect::KeepApart { ticket, .. } => one.handle(Input::KeptApart { ticket, kept: how % 2 > 0 }, at(ms)),
                        Effect::Send { link, .. } => {
                            *with_carrier.entry(link).or_default() -= 1;
                            one.handle(Input::Sent { link }, at(ms))
                        }
                        _ => Vec::new(),
                    }
                }
                Happening::Own => {
                    own += 1;
                    let mut told = one.handle(Input::Usage { bytes: vec![2; own as usize].into() }, at(ms));
                    told.extend(one.handle(Input::OwnAppended { origin: origin(200), head: head(own) }, at(ms)));
                    told
                }
                Happening::Tick(span) => {
                    ms += span;
                    one.handle(Input::Tick, at(ms))
                }
                Happening::Reconnect(number) => {
                    let old = links[&number];
                    let mut effects = one.handle(Input::Disconnected { link: old, why: String::new() }, at(ms));
                    asked.retain(|effect| !matches!(effect, Effect::Send { link, .. } if *link == old));
                    with_carrier.remove(&old);
                    links.insert(number, Link(next_link));
                    effects.extend(one.handle(Input::Connected { link: Link(next_link), dialled: true }, at(ms)));
                    next_link += 1;
                    effects
                }
            });
            for effect in effects.drain(..) {
                match &effect {
                    Effect::Send { link, frame } => {
                        *with_carrier.entry(*link).or_default() += 1;
                        let wired = wire::decode(wire::encode(frame.clone()));
                        prop_assert_eq!(wired.as_ref(), Ok(frame));
                        asked.push(effect);
                    }
                    Effect::Close { link, .. } => {
                        let link = *link;
                        asked.retain(|effect| !matches!(effect, Effect::Send { link: by, .. } if *by == link));
                        with_carrier.remove(&link);
                    }
                    Effect::Store { .. } | Effect::KeepApart { .. } | Effect::Read { .. } | Effect::MakeUsage { .. } | Effect::TakeUsagePart { .. } => asked.push(effect),
                    _ => {}
                }
            }
            // One more than the bound: a refusal goes out whatever waits.
            prop_assert!(with_carrier.values().all(|frames| *frames <= queue_frames + 1));
            prop_assert!(one.peers(Mono(0)).len() <= 3);
            let known = (one.is_fresh(Mono(ms), 1_000), one.freshness(Mono(ms)), one.members(), one.progress());
            prop_assert!(known.2 <= 14);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        use prost::Message as _;
        if let Ok(frame) = pb::Frame::decode(&bytes[..])
            && let Ok(frame) = wire::decode(frame)
        {
            let _ = wire::encode(frame);
        }
    }
}
