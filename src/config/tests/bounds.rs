//! The last value within every bound, and the first beyond it.

use std::fmt::Write;

use super::*;
use crate::config::{DEPTH_MAX, ITEMS_MAX, NODES_MAX, TEXT_BYTES_MAX};
use faults::check;

#[test]
fn one_past_every_bound() {
    for (section, key, good, bad) in [
        ("server", "max_connections", "1", "0"),
        ("server", "max_connections", "65536", "65537"),
        ("server", "drain", "1ms", "0ms"),
        ("server", "drain", "10m", "601s"),
        ("view", "page_cache_mib", "1", "0"),
        ("view", "page_cache_mib", "65536", "65537"),
        ("view", "record_cache_mib", "1", "0"),
        ("view", "record_cache_mib", "65536", "65537"),
        ("ledger", "segment_mib", "1", "0"),
        ("ledger", "segment_mib", "2048", "2049"),
        ("ledger", "opt_out_reserve_mib", "1", "0"),
        ("ledger", "opt_out_reserve_mib", "65536", "65537"),
        ("decision_log", "keep", "1h", "59m"),
        ("decision_log", "keep", "3660d", "87841h"),
        ("decision_log", "buffer", "1", "0"),
        ("decision_log", "buffer", "1000000", "1000001"),
        ("replication", "heartbeat", "1ms", "0s"),
        ("replication", "heartbeat", "1h", "3601s"),
        ("replication", "max_staleness", "24h", "1441m"),
        ("replication", "bootstrap_budget", "1h", "61m"),
        ("replication", "far_behind_events", "1", "0"),
        ("replication", "far_behind_events", "1000000000", "1000000001"),
        ("replication", "opt_out_wait", "1m", "61s"),
        ("defaults", "opt_in_expires_after", "1h", "59m"),
        ("defaults", "opt_in_expires_after", "36600d", "36601d"),
        ("defaults", "pending_expires_after", "1m", "59s"),
        ("defaults", "pending_expires_after", "366d", "367d"),
        ("defaults", "clock_margin", "1s", "999ms"),
        ("defaults", "clock_margin", "1h", "61m"),
        ("defaults", "stop_confirmation", "{ within: 1s }", "{ within: 999ms }"),
        ("defaults", "stop_confirmation", "{ within: 24h }", "{ within: 25h }"),
        ("defaults", "cooldowns", "{ sender: 1s }", "{ sender: 0s }"),
        ("defaults", "cooldowns", "{ recipient_marketing: 90d }", "{ recipient_marketing: 91d }"),
        ("defaults", "opt_out_instructions", "{ SMS: { every: 1h } }", "{ SMS: { every: 59m } }"),
        ("defaults", "opt_out_instructions", "{ SMS: { every: 366d } }", "{ SMS: { every: 367d } }"),
        (
            "defaults",
            "limits",
            "{ SMS: { sender: { per_second: 1, burst: 1 } } }",
            "{ SMS: { sender: { per_second: 0, burst: 1 } } }",
        ),
        (
            "defaults",
            "limits",
            "{ SMS: { sender: { per_second: 1000000, burst: 1 } } }",
            "{ SMS: { sender: { per_second: 1000001, burst: 1 } } }",
        ),
        (
            "defaults",
            "limits",
            "{ SMS: { sender: { per_second: 1, burst: 1000000 } } }",
            "{ SMS: { sender: { per_second: 1, burst: 0 } } }",
        ),
        (
            "defaults",
            "limits",
            "{ SMS: { pair: { every: 1ms, burst: 1 } } }",
            "{ SMS: { pair: { every: 0ms, burst: 1 } } }",
        ),
        (
            "defaults",
            "limits",
            "{ SMS: { pair: { every: 24h, burst: 1 } } }",
            "{ SMS: { pair: { every: 25h, burst: 1 } } }",
        ),
        (
            "defaults",
            "limits",
            "{ WHATSAPP: { business_per_hour: { RED: 1 } } }",
            "{ WHATSAPP: { business_per_hour: { RED: 0 } } }",
        ),
        (
            "defaults",
            "limits",
            "{ WHATSAPP: { business_per_hour: { GREEN: 1000000000 } } }",
            "{ WHATSAPP: { business_per_hour: { GREEN: 1000000001 } } }",
        ),
        (
            "defaults",
            "limits",
            "{ WHATSAPP: { messaging_limit: 1 } }",
            "{ WHATSAPP: { messaging_limit: 0 } }",
        ),
        (
            "defaults",
            "limits",
            "{ WHATSAPP: { messaging_limit: 10000000 } }",
            "{ WHATSAPP: { messaging_limit: 10000001 } }",
        ),
        (
            "defaults",
            "limits",
            "{ frequency: { ANY: [{ max: 1, per: 1s }] } }",
            "{ frequency: { ANY: [{ max: 0, per: 1s }] } }",
        ),
        (
            "defaults",
            "limits",
            "{ frequency: { ANY: [{ max: 1000, per: 1s }] } }",
            "{ frequency: { ANY: [{ max: 1001, per: 1s }] } }",
        ),
        (
            "defaults",
            "limits",
            "{ frequency: { ANY: [{ max: 1, per: 366d }] } }",
            "{ frequency: { ANY: [{ max: 1, per: 367d }] } }",
        ),
    ] {
        let of = |value: &str| faults(&format!("{section}:\n  {key}: {value}\n"));
        assert_eq!(of(good), Vec::<String>::new(), "{section}.{key}: {good}");
        let found = of(bad);
        assert_eq!(found.len(), 1, "{section}.{key}: {bad}: {found:?}");
        assert!(found[0].contains("out of bounds"), "{found:?}");
    }
    check("min_free_mib: 1", &[]);
    check("min_free_mib: 1048576", &[]);
    check("min_free_mib: 0", &["1 min_free_mib: `0` is out of bounds"]);
    check("min_free_mib: 1048577", &["1 min_free_mib: `1048577` is out of bounds"]);
    check(
        "min_free_mib: 99999999999999999999999999999999999999999999",
        &["1 min_free_mib: expected a whole number"],
    );
}

#[test]
fn lists_are_bounded() {
    let repeated =
        |item: &dyn Fn(usize) -> String, count: usize| (0..count).map(item).collect::<Vec<_>>().join(", ");
    let business = |key: &str, item: &dyn Fn(usize) -> String, count: usize| {
        faults(&format!("businesses: {{ a: {{ {key}: [{}] }} }}", repeated(item, count)))
    };
    let name = |i: usize| format!("n{i}");
    for (key, max) in [("also_known_as", 64), ("senders", ITEMS_MAX), ("whatsapp_accounts", ITEMS_MAX)] {
        assert_eq!(business(key, &name, max), Vec::<String>::new(), "{key}");
        assert!(business(key, &name, max + 1)[0].contains("too many"), "{key}");
    }
    let topics = |count| {
        faults(&format!(
            "businesses: {{ a: {{ topics: {{ {} }} }} }}",
            repeated(&|i| format!("t{i}: UTILITY"), count)
        ))
    };
    assert_eq!(topics(1_000), Vec::<String>::new());
    assert!(topics(1_001)[0].contains("too many"));
    let caps = |count| {
        faults(&format!(
            "defaults: {{ limits: {{ frequency: {{ ANY: [{}] }} }} }}",
            repeated(&|i| format!("{{ max: 1, per: {}s }}", i + 1), count)
        ))
    };
    assert_eq!(caps(8), Vec::<String>::new());
    assert!(caps(9)[0].contains("too many"));
    let quiet = |count| {
        faults(&format!(
            "defaults: {{ quiet_hours: {{ UTILITY: [{}] }} }}",
            repeated(&|_| "{ from: '21:00', to: '08:00' }".to_owned(), count)
        ))
    };
    assert_eq!(quiet(64), Vec::<String>::new());
    assert!(quiet(65)[0].contains("too many"));
    let businesses =
        |count| faults(&format!("businesses: {{ {} }}", repeated(&|i| format!("b{i}: {{}}"), count)));
    assert_eq!(businesses(ITEMS_MAX), Vec::<String>::new());
    assert!(businesses(ITEMS_MAX + 1)[0].contains("too many"));
    let text = |length: usize| faults(&format!("data_dir: {}", "x".repeat(length)));
    assert_eq!(text(TEXT_BYTES_MAX), Vec::<String>::new());
    assert!(text(TEXT_BYTES_MAX + 1)[0].contains("too long"));
    assert!(faults(&format!("businesses: {{ {}: {{}} }}", "x".repeat(129)))[0].contains("at most 128 bytes"));
}

#[test]
fn hostile_files_end_in_a_fault() {
    // A million levels, as block lists, flow lists and block sections.
    for text in ["- ".repeat(1_000_000), "[".repeat(1_000_000), "? ".repeat(1_000_000)] {
        assert_eq!(faults(&text).len(), 1);
    }
    let nested = |depth: usize| format!("x: {}{}\n", "[".repeat(depth), "]".repeat(depth));
    check(&nested(DEPTH_MAX - 1), &["1 x: this key is not known"]);
    assert!(faults(&nested(DEPTH_MAX))[0].contains("deep"));
    // Aliases of aliases.
    let mut laughs = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]\n".to_owned();
    for level in 1..20 {
        let _ = writeln!(laughs, "a{level}: &a{level} [{}]", vec![format!("*a{}", level - 1); 10].join(", "));
    }
    let found = faults(&laughs);
    assert!(found.len() == 1 && found[0].contains("values up to here"), "{found:?}");
    // A long text repeated, and depth gained by repeating.
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 1_000].join(", "));
    assert!(faults(&long)[0].contains("values up to here"));
    let mut deep = "a0: &a0 [x]\n".to_owned();
    for level in 1..=DEPTH_MAX {
        let _ = writeln!(deep, "a{level}: &a{level} [*a{}]", level - 1);
    }
    assert!(faults(&deep)[0].contains("deep"));
    let within = faults("server: &a { drain: *a }");
    assert!(within.len() == 1 && within[0].contains("stands inside"), "{within:?}");
    // As many values as allowed, and one more.
    let many = |count: usize| format!("x: [{}]", vec!["1"; count].join(","));
    check(&many(NODES_MAX - 3), &["1 x: this key is not known"]);
    assert!(faults(&many(NODES_MAX - 2))[0].contains("values up to here"));
}
