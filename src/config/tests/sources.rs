//! Defaults, precedence, and how a business's rules lie over the defaults.

use std::path::{Path, PathBuf};

use super::*;
use crate::config::{Place, lint};
use crate::policy::ids::TopicId;
use crate::policy::rules::{CapClass, Rules};
use crate::policy::types::{Category, Channel, TemplateStatus};

#[test]
fn nothing_written_means_the_built_in_settings() {
    for text in ["", "# nothing but a comment\n", "{}", "---\n", "defaults:\nserver:\n"] {
        let config = config(text);
        assert_same_system(&config, &Config::default());
        assert_eq!(*config.rules.defaults, Rules::built_in());
        assert_eq!(config.rules.version, Config::default().rules.version);
        assert!(config.rules.of("anybody").is_some());
    }
}

#[test]
fn the_example_spells_out_every_default() {
    let config = config(EXAMPLE);
    assert_same_system(&config, &Config::default());
    assert_eq!(*config.rules.defaults, Rules::built_in());
}

#[test]
fn the_example_leaves_out_no_key() {
    // Every key that is asked for stands in the example: take one away and a key less is read.
    for key in [
        "listen",
        "uds",
        "uds_mode",
        "http",
        "webhooks",
        "max_connections",
        "drain",
        "data_dir",
        "key_file",
        "page_cache_mib",
        "record_cache_mib",
        "segment_mib",
        "opt_out_reserve_mib",
        "min_free_mib",
        "keep",
        "buffer",
        "on_full",
        "log",
        "otlp_endpoint",
        "role",
        "cluster_id",
        "peers",
        "anchors",
        "heartbeat",
        "max_staleness",
        "bootstrap_budget",
        "compare_every",
        "far_behind_events",
        "opt_out_wait",
        "allow_plaintext",
        "evidence",
        "consent_required",
        "consent_types",
        "opt_in_expires_after",
        "double_opt_in",
        "pending_expires_after",
        "clock_margin",
        "unregistered_templates",
        "opt_out_instructions",
        "stop_scope",
        "stop_confirmation",
        "fail_open",
        "shadow",
        "cooldowns",
        "languages",
        "dir",
        "region_blocks",
        "default_time_zone",
        "quiet_hours",
        "messaging_limit",
        "frequency",
    ] {
        assert!(EXAMPLE.contains(&format!("{key}:")), "{key}");
    }
}

fn assert_same_system(a: &Config, b: &Config) {
    assert_eq!(a.server, b.server);
    assert_eq!(a.data_dir, b.data_dir);
    assert_eq!(a.key_file, b.key_file);
    assert_eq!(a.view, b.view);
    assert_eq!(a.ledger, b.ledger);
    assert_eq!(a.min_free_mib, b.min_free_mib);
    assert_eq!(a.decision_log, b.decision_log);
    assert_eq!(a.telemetry, b.telemetry);
    assert_eq!(a.replication, b.replication);
    assert_eq!(a.keywords, b.keywords);
}

#[test]
fn the_example_business_reads_whole() {
    let loaded = load(EXAMPLE, &[], Overrides::default());
    assert_eq!(loaded.warnings, vec![], "the example raises no doubts");
    let rules = loaded.config.rules.of("acme-air").expect("configured").clone();
    assert!(loaded.config.rules.of("other").is_none(), "others are unknown");
    assert_eq!(rules.display_name.as_deref(), Some("Acme Air"));
    assert_eq!(rules.also_known_as, ["Acme Airlines"]);
    assert_eq!(rules.portfolio.as_deref(), Some("acme"));
    assert_eq!(rules.whatsapp_accounts, ["102290129340398"]);
    assert!(rules.senders.contains("106540352242922"));
    assert_eq!(rules.category_of(&TopicId::new("offers").unwrap()), Some(Category::Marketing));
    assert_eq!(rules.templates.len(), 3);
    assert!(rules.templates[1].has_opt_out_instructions);
    assert_eq!(rules.templates[2].status, TemplateStatus::Approved);
    let program = &rules.opt_in_programs[0];
    assert_eq!((program.channel, program.keywords[0].as_str()), (Channel::Whatsapp, "JOIN"));
    assert_eq!(program.buttons, ["optin_yes"]);
    assert!(rules.quiet_hours.contains_key(&Category::Marketing));
    assert!(!rules.quiet_hours.contains_key(&Category::Utility));
    assert_eq!(rules.limits, Rules::built_in().limits, "inherited");
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let text = "server: { listen: 127.0.0.1:1, http: 127.0.0.1:2, max_connections: 3 }\ndata_dir: /file\n";
    let environment = [
        ("OPTGATE_SERVER__LISTEN", "127.0.0.1:11"),
        ("OPTGATE_SERVER__HTTP", "127.0.0.1:12"),
        ("OPTGATE_DATA_DIR", "/variable"),
        ("HOME", "/root"),
    ];
    let overrides = Overrides {
        listen: Some("127.0.0.1:0".into()),
        data_dir: Some(PathBuf::from("/flag")),
        uds: Some(PathBuf::from("/run/api.sock")),
        key_file: Some(PathBuf::from("null")),
        ..Overrides::default()
    };
    let config = load(text, &environment, overrides).config;
    assert_eq!(config.server.listen.unwrap().port(), 0);
    assert_eq!(config.server.http.unwrap().port(), 12);
    assert_eq!(config.server.max_connections, 3);
    assert_eq!(config.data_dir, Path::new("/flag"));
    assert_eq!(config.server.uds.as_deref(), Some(Path::new("/run/api.sock")));
    assert_eq!(config.key_file.as_deref(), Some(Path::new("null")), "a flag's text is a text");
}

#[test]
fn variables_reach_every_level() {
    let environment = [
        ("OPTGATE_DEFAULTS__LIMITS__WHATSAPP__SENDER__PER_SECOND", "7"),
        ("OPTGATE_DEFAULTS__LIMITS__SMS__SENDER", "{ per_second: 5, burst: 2 }"),
        ("OPTGATE_DEFAULTS__CONSENT_REQUIRED", "[MARKETING]"),
        ("OPTGATE_DEFAULTS__REGION_BLOCKS__MARKETING__WHATSAPP", "[US, CA]"),
        ("OPTGATE_BUSINESSES__ACME_AIR__DISPLAY_NAME", "Acme Airways"),
        ("OPTGATE_DECISION_LOG", ""),
        ("OPTGATE_CONFIG", "/etc/optgate.yaml"),
        ("OPTGATE_ADDRESS", "127.0.0.1:1"),
    ];
    let config = load(EXAMPLE, &environment, Overrides::default()).config;
    let rules = config.rules.of("acme-air").unwrap();
    let whatsapp = rules.limits[&Channel::Whatsapp].sender.unwrap();
    assert_eq!((whatsapp.per_second, whatsapp.burst), (7, 20));
    assert_eq!(rules.limits[&Channel::Sms].sender.unwrap().per_second, 5);
    assert_eq!(rules.consent_required, [Category::Marketing].into());
    assert_eq!(rules.region_blocks[&(Category::Marketing, Channel::Whatsapp)].len(), 2);
    assert_eq!(rules.display_name.as_deref(), Some("Acme Airways"));
    assert_eq!(config.decision_log, None);
}

#[test]
fn faults_of_variables_and_flags_name_them() {
    let environment = [
        ("OPTGATE_SERVR__LISTEN", "127.0.0.1:1"),
        ("OPTGATE_SERVER__DRAIN", "ten"),
        ("OPTGATE_BUSINESSES__NOBODY__DISPLAY_NAME", "x"),
        ("OPTGATE_SERVER___LISTEN", "x"),
        ("OPTGATE_SERVER__MAX_CONNECTIONS", "[1"),
    ];
    let overrides =
        Overrides { http: Some("nowhere".into()), peers: vec!["a:1".into()], ..Overrides::default() };
    let (_, report) = examine("", &environment, overrides);
    let found: Vec<String> = report.faults.iter().map(ToString::to_string).collect();
    let starts = [
        "variable OPTGATE_BUSINESSES__NOBODY__DISPLAY_NAME: businesses.nobody: no business of the file",
        "variable OPTGATE_SERVER__DRAIN: server.drain: expected a length of time, found `ten`",
        "variable OPTGATE_SERVER__MAX_CONNECTIONS: this is not YAML",
        "variable OPTGATE_SERVER___LISTEN: server._listen: this key is not known; did you mean `listen`?",
        "variable OPTGATE_SERVR__LISTEN: servr: this key is not known; did you mean `server`?",
        "flag --http: server.http: expected an IP address and a port, found `nowhere`",
        "flag --peer: replication: a:1 is beyond this machine, and peers talk without encryption",
        "flag --peer: replication: the number of anchors cannot be counted here",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}\n{start}");
    }
}

#[test]
fn what_a_variable_replaces_need_not_be_right() {
    let text = "server: { listen: nonsense }\n";
    let environment = [("OPTGATE_SERVER__LISTEN", "127.0.0.1:9")];
    assert_eq!(load(text, &environment, Overrides::default()).config.server.listen.unwrap().port(), 9);
    assert_eq!(faults(text).len(), 1);
}

#[test]
fn variables_that_kubernetes_makes_for_services_are_no_settings() {
    let environment = [
        ("OPTGATE_SERVICE_HOST", "10.0.0.7"),
        ("OPTGATE_SERVICE_PORT", "50051"),
        ("OPTGATE_SERVICE_PORT_GRPC", "50051"),
        ("OPTGATE_PORT", "tcp://10.0.0.7:50051"),
        ("OPTGATE_PORT_50051_TCP", "tcp://10.0.0.7:50051"),
        ("OPTGATE_PORT_50051_TCP_PROTO", "tcp"),
        ("OPTGATE_PORT_50051_TCP_PORT", "50051"),
        ("OPTGATE_PORT_50051_TCP_ADDR", "10.0.0.7"),
        ("OPTGATE_ANCHOR_SERVICE_HOST", "10.0.0.8"),
        ("OPTGATE_ANCHOR_PORT", "tcp://10.0.0.8:50052"),
    ];
    assert_same_system(&load("", &environment, Overrides::default()).config, &Config::default());
    // Yet somebody who means the port of optgate hears that there is no such setting.
    let (_, report) = examine("", &[("OPTGATE_PORT", "50051")], Overrides::default());
    assert_eq!(report.faults.len(), 1);
    assert_eq!(report.faults[0].place, Place::Variable("OPTGATE_PORT".into()));
}

#[test]
fn a_business_changes_part_of_a_default() {
    let config = config(
        "defaults:
  limits: { SMS: { sender: { per_second: 10, burst: 5 }, pair: { every: 1s, burst: 1 } } }
  quiet_hours: { UTILITY: [{ from: '22:00', to: '07:00' }] }
  cooldowns: { sender: 2h }
businesses:
  a:
    limits:
      WHATSAPP: { sender: { per_second: 20 }, messaging_limit: null }
      SMS: { pair: null }
      frequency: { ANY: [{ max: 5, per: 7d }] }
    cooldowns: { recipient_marketing: 48h }
    consent_types: { EMAIL: [IMPLIED] }
    region_blocks: { UTILITY: { SMS: [FR] }, MARKETING: { WHATSAPP: [] } }
    opt_out_instructions: { SMS: { every: message } }
    quiet_hours: { UTILITY: [], MARKETING: [{ from: '21:00', to: '08:00' }] }
  b:
    limits: { WHATSAPP: null, frequency: { MARKETING: null } }
  c:
",
    );
    let a = config.rules.of("a").unwrap();
    let whatsapp = a.limits[&Channel::Whatsapp];
    assert_eq!(whatsapp.sender.unwrap().per_second, 20);
    assert_eq!(whatsapp.sender.unwrap().burst, 20, "the figure underneath");
    assert_eq!(whatsapp.pair, Rules::built_in().limits[&Channel::Whatsapp].pair);
    assert_eq!(whatsapp.messaging_limit, None);
    let sms = a.limits[&Channel::Sms];
    assert_eq!((sms.sender.unwrap().per_second, sms.pair), (10, None));
    assert_eq!(
        a.frequency.iter().map(|cap| cap.class).collect::<Vec<_>>(),
        [CapClass::Marketing, CapClass::Any]
    );
    assert_eq!((a.cooldowns.recipient_marketing_ms, a.cooldowns.sender_ms), (172_800_000, 7_200_000));
    assert_eq!(a.consent_types[&Channel::Email].len(), 1);
    assert_eq!(a.region_blocks.len(), 1);
    assert_eq!(a.opt_out_instructions.len(), 4);
    assert_eq!(a.quiet_hours.keys().copied().collect::<Vec<_>>(), [Category::Marketing]);
    let b = config.rules.of("b").unwrap();
    assert!(!b.limits.contains_key(&Channel::Whatsapp) && b.limits.contains_key(&Channel::Sms));
    assert_eq!(b.frequency, vec![]);
    assert!(b.quiet_hours.contains_key(&Category::Utility));
    let c = config.rules.of("c").unwrap();
    assert_eq!(Rules { business_id: None, ..(**c).clone() }, *config.rules.defaults);
}

#[test]
fn the_version_follows_the_policy_and_nothing_else() {
    let base = config(EXAMPLE).rules.version;
    assert_eq!(base.len(), 12);
    assert!(base.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()));
    let rewritten = EXAMPLE
        .replace("drain: 10s", "drain: 11s")
        .replace("clock_margin: 5m", "clock_margin: 300s  # the same")
        .replace("keywords: [JOIN]", "'keywords': ['JOIN']");
    assert_eq!(config(&rewritten).rules.version, base);
    for (from, to) in [
        ("clock_margin: 5m", "clock_margin: 6m"),
        (
            "MARKETING: [{ days: mon-sun, from: \"21:00\", to: \"08:00\" }]\n",
            "MARKETING: [{ days: mon-sun, from: \"21:30\", to: \"08:00\" }]\n",
        ),
        ("offers: MARKETING", "offers: MARKETING\n      news: MARKETING"),
        ("languages: [en,", "languages: ["),
        ("acme-air:", "acme-rail:"),
        ("GREEN: 100000", "GREEN: 100001"),
        ("Reply JOIN", "Answer JOIN"),
    ] {
        assert!(EXAMPLE.contains(from), "{from}");
        assert_ne!(config(&EXAMPLE.replacen(from, to, 1)).rules.version, base, "{from}");
    }
}

#[test]
fn values_keep_what_is_written() {
    let config = config(
        "server: { uds_mode: 0640, max_connections: 1_000 }
defaults:
  region_blocks: { MARKETING: { SMS: [NO] } }
  shadow: [FREQUENCY_CAP, { rule: QUIET_HOURS, until: 2027-01-31 }, { rule: PAIR_RATE, until: '2027-01-31T01:00:00+01:00' }]
businesses:
  007: { display_name: 12 Monkeys, senders: [0049, null-sender] }
",
    );
    assert_eq!(config.server.uds_mode, 0o640);
    assert_eq!(config.server.max_connections, 1_000);
    let rules = config.rules.of("007").expect("the id as written");
    assert!(rules.region_blocks[&(Category::Marketing, Channel::Sms)].contains(b"NO"));
    assert!(rules.senders.contains("0049") && rules.senders.contains("null-sender"));
    assert_eq!(rules.shadow[1].until, rules.shadow[2].until);
    assert_eq!(rules.shadow[1].until.unwrap().to_string(), "2027-01-31T00:00:00Z");
}

#[test]
fn a_file_is_read_from_disk_or_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("optgate.yaml");
    assert!(lint(&file).faults[0].what.starts_with("the file cannot be read"));
    assert!(lint(dir.path()).faults[0].what.starts_with("the file cannot be read"), "a folder");
    std::fs::write(&file, "server: { drain: 3s }\n").unwrap();
    let sources = Sources { file: Some(file.clone()), ..Sources::default() };
    assert_eq!(sources.load().unwrap().config.server.drain_ms, 3_000);
    std::fs::write(&file, b"server:\n  # caf\xe9\n").unwrap();
    let report = lint(&file);
    assert_eq!((report.faults[0].place.line(), report.faults[0].place.column()), (Some(2), Some(8)));
    let long = usize::try_from(crate::config::FILE_BYTES_MAX).unwrap();
    std::fs::write(&file, vec![b'#'; long]).unwrap();
    assert!(lint(&file).is_usable());
    std::fs::write(&file, vec![b'#'; long + 1]).unwrap();
    assert!(lint(&file).faults[0].what.contains("longer than"));
}

#[test]
fn quiet_hours_read_as_written() {
    let config = config(
        "defaults:
  quiet_hours:
    MARKETING:
      - { days: fri-mon, from: '21:00', to: '08:00', channels: [SMS, VOICE] }
      - { days: [wed, 'sat, sun'], from: '00:00', to: '24:00' }
",
    );
    let rules = config.rules.defaults.quiet_hours[&Category::Marketing].rules();
    assert_eq!(rules[0].days(), [true, false, false, false, true, true, true]);
    assert_eq!((rules[0].from_min(), rules[0].to_min()), (21 * 60, 8 * 60));
    assert_eq!(*rules[0].channels(), [Channel::Sms, Channel::Voice].into());
    assert_eq!(rules[1].days(), [false, false, true, false, false, true, true]);
    assert_eq!((rules[1].from_min(), rules[1].to_min()), (0, 1_440));
    assert!(rules[1].channels().is_empty());
}
