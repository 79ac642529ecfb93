//! What the pure policy core costs by itself, everything in memory: `cargo bench --bench policy`. Prints one line per case; the
//! decisions are asserted, the times are not.

use std::hint::black_box;
use std::time::Instant;

use optgate::policy::check::{Content, Facts, Send, check};
use optgate::policy::consent::Covers;
use optgate::policy::event::{Change, ConsentEvent, OptIn, OptOut, TemplateEntry};
use optgate::policy::ids::{BusinessId, EventId, Identifier, OriginId, TopicId};
use optgate::policy::record::Record;
use optgate::policy::rules::Rules;
use optgate::policy::time::Timestamp;
use optgate::policy::types::{
    Category, Channel, ConsentType, EvidenceGrade, OptInMethod, OptOutMethod, Purpose, Quality, Reason,
    Scope, TemplateStatus,
};
use optgate::policy::usage::Usage;

const NOW: Timestamp = Timestamp(1_760_000_000_000);
const PERSON: Identifier = Identifier([7; 32]);
/// Calls per measurement, and measurements of which the median counts.
const CALLS: u32 = 200_000;
const ROUNDS: usize = 9;

fn id(origin: u8, sequence: u64) -> EventId {
    EventId { origin: OriginId([origin; 16]), sequence }
}

fn topic() -> TopicId {
    TopicId::new("delivery_updates").expect("a topic")
}

fn apply(record: &mut Record, id: EventId, change: Change) {
    let event = ConsentEvent {
        business: BusinessId::new("acme-air").expect("a business"),
        subjects: vec![PERSON],
        forms: Vec::new(),
        recorded: NOW.minus_ms(600_000),
        request: None,
        rules_version: "1".into(),
        numbered_late: false,
        changes: vec![change],
    };
    record.apply(id, &event, &PERSON);
}

/// A record whose person has opted out `outs` times, in turn at five origins, and then opted in, after the first `covered` of these.
fn record(outs: u64, covered: u64) -> Record {
    let mut record = Record::default();
    let at = |n: u64| id((n % 5) as u8 + 1, n / 5 + 1);
    for n in 0..outs {
        let purpose = if n % 2 == 0 { Purpose::All } else { Purpose::Topic(topic()) };
        let scope = Scope { channel: Some(Channel::Whatsapp), purpose };
        let out = OptOut {
            scopes: vec![scope],
            time: NOW.minus_ms(700_000),
            stated: None,
            imported: false,
            inbound: None,
            method: OptOutMethod::WebForm,
            confirm_until: None,
        };
        apply(&mut record, at(n), Change::OptOut(out));
    }
    let opt_in = OptIn {
        scopes: vec![(Scope { channel: Some(Channel::Whatsapp), purpose: Purpose::Topic(topic()) }, None)],
        occurred: NOW.minus_ms(600_000),
        covers: (0..covered).map(at).collect::<Covers>(),
        before: None,
        imported: false,
        expire: None,
        consent_type: ConsentType::Express,
        grade: EvidenceGrade::Strict,
        method: OptInMethod::CheckoutFlow,
        confirms: None,
        renews: None,
    };
    apply(&mut record, id(9, 1), Change::OptIn(opt_in));
    record
}

fn measure(name: &str, record: &Record, expected: Option<Reason>) {
    let rules = Rules { topics: [(topic(), Category::Utility)].into(), ..Rules::built_in() };
    let template = TemplateEntry {
        business: BusinessId::new("acme-air").expect("a business"),
        name: "delivery_update".into(),
        language: "en_US".into(),
        category: Category::Utility,
        topic: Some(topic()),
        status: TemplateStatus::Approved,
        quality: Quality::Green,
        has_opt_out_instructions: true,
        pause_until: None,
        time: NOW,
    };
    let usage = Usage::default();
    let send = Send {
        sender: "106540352242922",
        channel: Channel::Whatsapp,
        content: Content::Template,
        about: None,
        explain: false,
    };
    let facts = Facts {
        own: record,
        usage: &usage,
        others: &[],
        template: Some(&template),
        sender: None,
        region: None,
        zones: &[],
        stale: false,
        unseen_write: false,
    };
    let verdict = check(&send, &facts, &rules, NOW);
    assert_eq!(verdict.violations.first().map(|violation| violation.reason), expected, "{name}");
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                black_box(check(black_box(&send), black_box(&facts), black_box(&rules), black_box(NOW)));
            }
            start.elapsed().as_nanos() as f64 / f64::from(CALLS)
        })
        .collect();
    rounds.sort_unstable_by(f64::total_cmp);
    println!("{name:<48} {:>6.0} ns", rounds[ROUNDS / 2]);
}

fn main() {
    measure("a template that an opt-in allows", &record(0, 0), None);
    measure("a person who has opted out", &record(1, 0), Some(Reason::OptedOut));
    measure("an opt-in after 10 opt-outs of 5 origins", &record(10, 10), None);
    measure("an opt-in after 9 of 10 opt-outs of 5 origins", &record(10, 9), Some(Reason::OptedOut));
}
