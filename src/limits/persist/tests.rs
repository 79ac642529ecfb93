use std::convert::Infallible;

use super::*;
use crate::limits::{Admission, FrequencyLog, Hold, Mode, Settings};
use crate::policy::ids::Identifier;
use crate::policy::rules::{ChannelLimits, Every, PerHourByQuality, PerSecond};
use crate::policy::time::{DAY_MS, HOUR_MS, MINUTE_MS};
use crate::policy::types::{Category, Channel, Quality};

const NOW: Timestamp = Timestamp(1_795_341_600_000);
const LIMITS: ChannelLimits = ChannelLimits {
    sender: Some(PerSecond { per_second: 10, burst: 5_000 }),
    pair: Some(Every { every_ms: 3_600_000, burst: 2 }),
    business_per_hour: Some(PerHourByQuality { green: 3_600, yellow: 1, red: 1, unknown: 1, burst: 5_000 }),
    messaging_limit: Some(10_000),
};

fn send(limiter: &Limiter, person: u32, mode: Mode, now: Timestamp) -> bool {
    let mut recipient = [0; 32];
    recipient[..4].copy_from_slice(&person.to_le_bytes());
    let mut portfolio_recipient = [1; 16];
    portfolio_recipient[..4].copy_from_slice(&person.wrapping_mul(0x9e37_79b9).to_le_bytes());
    let id = format!("request-{person}-{now}");
    let request = limiter.request_key("acme", &id);
    limiter.bind_request(request, &[b"content"], now).unwrap();
    let admission = Admission {
        business: "acme",
        portfolio: None,
        sender: "1",
        channel: Channel::Whatsapp,
        category: Category::Utility,
        recipient: &Identifier(recipient),
        portfolio_recipient: &portfolio_recipient,
        counts_distinct: true,
        exempt: false,
        limits: &LIMITS,
        caps: &[],
        quality: Quality::Green,
        members: 1,
        request: Some(request),
        decision: [3; 16],
        mode,
    };
    limiter.try_admit(&admission, &mut FrequencyLog::new(), &|_| false, now).is_ok()
}

fn busy(count: u32) -> Limiter {
    let limiter = Limiter::new(&Settings::default(), [9; 16]);
    for person in 0..count {
        assert!(send(&limiter, person, Mode::Enforce, NOW.plus_ms(i64::from(person / 10))));
    }
    limiter.cool_down("acme", Channel::Whatsapp, Hold::Sender("2"), HOUR_MS, NOW);
    limiter.back_off("acme", Channel::Sms, Hold::Sender("2"), NOW);
    limiter
}

fn snapshot(limiter: &Limiter, now: Timestamp) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    let Ok(()) = limiter.snapshot(now, |chunk| {
        chunks.push(chunk.to_vec());
        Ok::<_, Infallible>(())
    });
    chunks
}

/// The entries of all chunks, in an order of their own.
fn entries(chunks: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut entries = Vec::new();
    for chunk in chunks {
        let mut at = 10;
        while at < chunk.len() {
            let len = match chunk[at] {
                1 => 17,
                2 | 3 => 25,
                4 => 18,
                TAG_RECIPIENT => 33,
                TAG_REQUEST => 34 + 16 + Receipt::LEN,
                tag => panic!("tag {tag}"),
            };
            entries.push(chunk[at..at + len].to_vec());
            at += len;
        }
    }
    entries.sort_unstable();
    entries
}

#[test]
fn a_snapshot_restores_everything() {
    let limiter = busy(3_000);
    let now = NOW.plus_ms(MINUTE_MS);
    let chunks = snapshot(&limiter, now);
    assert!(chunks.len() > 3 && chunks.iter().all(|chunk| chunk.len() < 200_000));
    let again = Limiter::new(&Settings::default(), [9; 16]);
    let mut applied = 0;
    for chunk in &chunks {
        let outcome = again.apply(chunk, now).unwrap();
        assert_eq!(outcome.dropped, 0);
        applied += outcome.entries;
    }
    again.finish_apply(now);
    // A pair, a recipient and a request each; one sender, one business, two cooldowns.
    assert_eq!(applied, 3 * 3_000 + 4);
    assert_eq!(entries(&snapshot(&again, now)), entries(&chunks));
    assert_eq!(again.usage(), limiter.usage());
    assert_eq!(again.distinct_recipients("acme", None, now), 3_000);
    // Applied twice it is the same.
    for chunk in &chunks {
        again.apply(chunk, now).unwrap();
    }
    assert_eq!(entries(&snapshot(&again, now)), entries(&chunks));
    let _ = again.drain(now.plus_ms(2 * DAY_MS));
    let recipients = again.usage().into_iter().find(|table| table.table == "recipients").unwrap();
    assert_eq!(recipients.used, 0, "restored entries expire in their turn");
}

#[test]
fn a_snapshot_and_the_drains_since_give_the_whole() {
    let limiter = busy(500);
    let first = limiter.drain(NOW);
    assert!(first.complete && !first.chunk.is_empty());
    assert_eq!(limiter.drain(NOW), Drained { chunk: Vec::new(), complete: true });
    let chunks = snapshot(&limiter, NOW);
    for person in 400..600 {
        let now = NOW.plus_ms(2 * MINUTE_MS);
        assert!(send(&limiter, person, Mode::Enforce, now));
    }
    let noted = limiter.shards.iter().map(|shard| shard.lock().changes.keys.len()).sum::<usize>();
    assert_eq!(noted, 200 + 2, "a pair each; the sender and the business once");
    let second = limiter.drain(NOW);
    let (again, from_drains) =
        (Limiter::new(&Settings::default(), [9; 16]), Limiter::new(&Settings::default(), [9; 16]));
    for chunk in chunks.iter().chain([&second.chunk]) {
        again.apply(chunk, NOW).unwrap();
    }
    for chunk in [&first.chunk, &second.chunk] {
        from_drains.apply(chunk, NOW).unwrap();
    }
    let whole = entries(&snapshot(&limiter, NOW));
    assert_eq!(entries(&snapshot(&again, NOW)), whole);
    assert_eq!(entries(&snapshot(&from_drains, NOW)), whole);
}

#[test]
fn what_is_given_back_stays_so_after_a_restart() {
    let limiter = busy(1);
    let receipt = Receipt {
        distinct: Some(crate::limits::DistinctReceipt { time: NOW, previous: None }),
        ..Receipt::default()
    };
    let mut portfolio_recipient = [1; 16];
    portfolio_recipient[..4].copy_from_slice(&[0; 4]);
    let first = limiter.drain(NOW).chunk;
    limiter.give_back("acme", None, &portfolio_recipient, &receipt, &mut FrequencyLog::new(), NOW);
    let second = limiter.drain(NOW).chunk;
    let again = Limiter::new(&Settings::default(), [9; 16]);
    again.apply(&first, NOW).unwrap();
    assert_eq!(again.distinct_recipients("acme", None, NOW), 1);
    again.apply(&second, NOW).unwrap();
    assert_eq!(again.distinct_recipients("acme", None, NOW), 0);
}

#[test]
fn more_changes_than_fit_are_reported() {
    let mut changes = Changes::default();
    for key in 0..=CHANGES_MAX as u64 {
        changes.push(Table::Pairs, key);
    }
    assert_eq!((changes.keys.len(), changes.missed), (CHANGES_MAX, true));
    let mut portfolios = Portfolios::default();
    for _ in 0..=CHANGES_MAX {
        portfolios.push_change(1, &[0; 16], None);
    }
    assert_eq!((portfolios.changes.len(), portfolios.missed), (CHANGES_MAX, true));
}

#[test]
fn what_has_no_room_is_counted() {
    let chunk = busy(10).drain(NOW).chunk;
    let small = Settings { pairs_max: 4, recipients_max: 7, ..Settings::default() };
    let applied = Limiter::new(&small, [9; 16]).apply(&chunk, NOW).unwrap();
    assert_eq!((applied.entries, applied.dropped), (34, 9));
}

#[test]
fn foreign_bytes_are_refused() {
    let limiter = busy(3);
    let chunk = limiter.drain(NOW).chunk;
    let apply = |bytes: &[u8]| limiter.apply(bytes, NOW);
    assert_eq!(apply(b"X"), Err(UsageFault::NotUsage));
    assert_eq!(apply(&[b'U', 9]), Err(UsageFault::Version { found: 9 }));
    assert_eq!(apply(&[]), Err(UsageFault::Truncated));
    assert_eq!(apply(&chunk[..chunk.len() - 1]), Err(UsageFault::Truncated));
    let other = Limiter::new(&Settings::default(), [8; 16]);
    assert_eq!(other.apply(&chunk, NOW), Err(UsageFault::OtherKey));
    let unknown = [&chunk[..10], &[77]].concat();
    assert_eq!(apply(&unknown), Err(UsageFault::UnknownEntry { tag: 77, at: 10 }));
}
