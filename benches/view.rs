//! What the view costs with a million recipients: `cargo bench --bench view`, or with another number:
//! `cargo bench --bench view -- 200000`; `RECORD_CACHE_MIB=…` sets that,
//! `VIEW_DIR=…` keeps the view there and opens it the next time. Prints one line per figure; nothing is asserted.

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use optgate::ledger::Position;
use optgate::limits::{MarkClass, SendMark};
use optgate::policy::consent::Covers;
use optgate::policy::event::{Change, ConsentEvent, OptIn, RequestMark};
use optgate::policy::ids::{BusinessId, EventId, Identifier, OriginId, TopicId};
use optgate::policy::rules::{CapClass, FrequencyCap};
use optgate::policy::time::Timestamp;
use optgate::policy::types::{Channel, ConsentType, EvidenceGrade, OptInMethod, Purpose, Scope};
use optgate::view::{Config, LedgerIdentity, Touched, View};

/// As the binary has it: the memory figure depends on it.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ACTIVE: u64 = 100_000;
const ROUNDS: u64 = 400_000;
const NOW: i64 = 1_760_000_000_000;

/// Person number `n`: as evenly spread as a keyed hash, and cheaper, so that it can be drawn while measuring.
fn person(n: u64) -> Identifier {
    let mut bytes = [0; 32];
    for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
        let mut mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(at as u64);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ mixed >> 31).to_le_bytes());
    }
    Identifier(bytes)
}

fn opt_in(n: u64) -> ConsentEvent {
    let topic = TopicId::new("delivery_updates").expect("a topic");
    let recorded = Timestamp(NOW + n as i64);
    ConsentEvent {
        business: BusinessId::new("acme-air").expect("a business"),
        subjects: vec![person(n)],
        forms: Vec::new(),
        recorded,
        request: Some(RequestMark { key: n.to_le_bytes(), content: [7; 8] }),
        rules_version: "1".into(),
        numbered_late: false,
        changes: vec![Change::OptIn(OptIn {
            scopes: vec![(Scope { channel: Some(Channel::Whatsapp), purpose: Purpose::Topic(topic) }, None)],
            occurred: recorded.minus_ms(60_000),
            covers: Covers::default(),
            before: Some(recorded.minus_ms(360_000)),
            imported: false,
            expire: None,
            consent_type: ConsentType::Express,
            grade: EvidenceGrade::Strict,
            method: OptInMethod::CheckoutFlow,
            confirms: None,
            renews: None,
        })],
    }
}

/// What a check leaves behind.
fn send(view: &View, who: &Identifier, nonce: u64) {
    let caps = [FrequencyCap { class: CapClass::Marketing, max: 2, per_ms: 86_400_000 }];
    let at = Timestamp(NOW + nonce as i64);
    let sent = view.update(who, |person| {
        person.usage.allowed(Channel::Whatsapp, None, at);
        let mark = SendMark { time: at, nonce: nonce as u32, class: MarkClass::Marketing };
        person.frequency.push(mark, &caps, at);
        (person.record.cells.len(), Touched::Usage)
    });
    // A full overlay refuses; the figure of refusals is printed with the rest.
    if black_box(sent).is_err() {
        REFUSED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

static REFUSED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// The process's processor time.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // User and system time, in hundredths of a second.
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

fn rss_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A cheap generator: the same numbers each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// How often something took about how long: 16 classes per power of two, so that measuring takes no memory.
#[derive(Clone)]
struct Times(Vec<u64>);

impl Times {
    fn add(&mut self, ns: u64) {
        let power = 64 - ns.max(16).leading_zeros() - 5;
        self.0[(power * 16 + (ns >> power) as u32 % 16) as usize] += 1;
    }

    fn at(&self, part: f64) -> u64 {
        let mut left = (self.0.iter().sum::<u64>() as f64 * part) as u64;
        let class = self.0.iter().position(|count| {
            let here = left < *count;
            left = left.saturating_sub(*count);
            here
        });
        let class = class.unwrap_or_default() as u64;
        (16 + class % 16) << (class / 16)
    }
}

/// Runs `each` for persons drawn from `among`, on `threads` threads, and prints what one costs.
fn measure(name: &str, threads: u64, among: u64, rounds: u64, each: impl Fn(&Identifier, u64) + Sync) {
    let (start, cpu_start) = (Instant::now(), cpu());
    let runs: Vec<Times> = thread::scope(|scope| {
        let run = |thread: u64| {
            let each = &each;
            move || {
                let mut times = Times(vec![0; 1_024]);
                let mut dice = Dice(0x9e37_79b9_7f4a_7c15 + thread);
                for round in 0..rounds {
                    let who = person(dice.below(among));
                    let start = Instant::now();
                    each(&who, thread * rounds + round);
                    times.add(start.elapsed().as_nanos() as u64);
                }
                times
            }
        };
        let runs: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
        runs.into_iter().filter_map(|run| run.join().ok()).collect()
    });
    let (took, cpu) = (start.elapsed(), cpu() - cpu_start);
    let mut times = Times(vec![0; 1_024]);
    runs.iter().flat_map(|run| run.0.iter().enumerate()).for_each(|(class, count)| times.0[class] += count);
    let all = (threads * rounds) as f64;
    println!(
        "{name:<36} p50 {:>6} ns  p99 {:>7} ns  p99.9 {:>8} ns {:>8.0}/s  cpu {:>5.2} us each  rss {:>3} MiB",
        times.at(0.5),
        times.at(0.99),
        times.at(0.999),
        all / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / all,
        rss_mib(),
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let recipients = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let active = ACTIVE.min(recipients);
    let temp = tempfile::tempdir()?;
    let kept = std::env::var_os("VIEW_DIR").map(PathBuf::from);
    let dir = kept.unwrap_or_else(|| temp.path().join("view"));
    let ledger = LedgerIdentity([1; 16]);
    let record_cache_mib = std::env::var("RECORD_CACHE_MIB").ok().and_then(|mib| mib.parse().ok());
    let mut config = Config { min_free_mib: 0, ..Config::default() };
    config.record_cache_mib = record_cache_mib.unwrap_or(config.record_cache_mib);

    let id = |n| EventId { origin: OriginId([3; 16]), sequence: n + 1 };
    let at = |n: u64| Position::from_u64(64 + 300 * n);
    let start = Instant::now();
    let (view, opened) = View::open(config.clone(), &dir, ledger)?;
    println!("open: {:.2?}; rss {} MiB", start.elapsed(), rss_mib());
    if opened.rebuild.is_some() {
        let mut rebuilder = view.rebuild()?;
        for n in 0..recipients {
            rebuilder.event(at(n), id(n), &opt_in(n))?;
        }
        let read = start.elapsed();
        rebuilder.finish(at(recipients), |_, _| {})?;
        let all = start.elapsed();
        println!("rebuild of {recipients}: {read:.2?} to take them, {all:.2?} in all; rss {} MiB", rss_mib());
    }

    let person = view.get(&person(7))?;
    println!("a person: {} bytes", 32 + person.encode_consent().len());
    let start = Instant::now();
    let rounds = 200_000;
    for _ in 0..rounds {
        let bytes = black_box(&person).encode_consent();
        black_box(bytes);
    }
    println!("encoding: {} ns", start.elapsed().as_nanos() / rounds);
    let bytes = person.encode_consent();
    let start = Instant::now();
    for _ in 0..rounds {
        black_box(optgate::view::Person::decode(black_box(&bytes), &[])?);
    }
    println!("decoding: {} ns", start.elapsed().as_nanos() / rounds);

    let get = |who: &Identifier, _| drop(black_box(view.get(who)));
    let update = |who: &Identifier, nonce| send(&view, who, nonce);
    measure("get, one person", 1, 1, ROUNDS, get);
    measure("get, active, cold", 1, active, ROUNDS, get);
    measure("get, active", 1, active, ROUNDS, get);
    measure("get, uniform", 1, recipients, ROUNDS, get);
    measure("get, uniform, 2 threads", 2, recipients, ROUNDS, get);
    measure("update, one person", 1, 1, ROUNDS, update);
    measure("update, active", 1, active, ROUNDS, update);
    measure("update, active, 2 threads, longer", 2, active, 4 * ROUNDS, update);
    measure("update, uniform", 1, recipients, ROUNDS, update);
    measure("update, uniform, 2 threads, longer", 2, recipients, 2 * ROUNDS, update);
    measure("get, uniform, after", 1, recipients, ROUNDS, get);
    println!("refused: {}", REFUSED.load(std::sync::atomic::Ordering::Relaxed));
    let stats = view.stats();
    println!("{stats:?}");
    thread::sleep(Duration::from_secs(5));
    println!("after a rest: rss {} MiB", rss_mib());

    let start = Instant::now();
    for n in 0..recipients / 10 {
        let n = (n * 7_919) % recipients;
        view.apply(at(recipients + n), id(recipients + n), &opt_in(n))?;
    }
    let each = start.elapsed().as_nanos() as u64 / (recipients / 10).max(1);
    println!("apply: {each} ns each; rss {} MiB", rss_mib());

    let start = Instant::now();
    view.close()?;
    drop(view);
    println!("close: {:.2?}; rss {} MiB", start.elapsed(), rss_mib());
    let start = Instant::now();
    let (view, opened) = View::open(config, &dir, ledger)?;
    println!("open: {:.2?}, rebuild {:?}; rss {} MiB", start.elapsed(), opened.rebuild, rss_mib());
    view.close()?;
    Ok(())
}
