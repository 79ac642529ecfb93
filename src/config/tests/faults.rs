//! A table of faulty files: each with the faults it must show, and no other.

use std::fmt::Write;

use super::*;
use crate::config::Faults;

/// Each fault of `text` must begin with its `LINE key: what`, and there must be no other.
pub(super) fn check(text: &str, expected: &[&str]) {
    let (_, report) = examine(text, &[], Overrides::default());
    let found: Vec<String> = report
        .faults
        .iter()
        .map(|fault| {
            let mut line = fault.place.line().map_or_else(|| "-".to_owned(), |line| line.to_string());
            if !fault.key.is_empty() {
                let _ = write!(line, " {}", fault.key);
            }
            format!("{line}: {}; {}", fault.what, fault.remedy)
        })
        .collect();
    let agrees = found.len() == expected.len()
        && expected.iter().all(|start| found.iter().filter(|line| line.starts_with(start)).count() == 1);
    assert!(agrees, "in\n{text}\nexpected {expected:#?}\nfound {found:#?}");
}

#[test]
fn a_fault_shows_place_key_reason_and_remedy() {
    let text = "businesses:\n  acme-air:\n    topics:\n      offers: PROMO\n";
    let (_, report) = examine(text, &[], Overrides::default());
    assert_eq!(
        Faults(report).to_string(),
        "the configuration has 1 fault\n  test.yaml:4:15: businesses.acme-air.topics.offers: `PROMO` is not \
         known; write one of MARKETING, UTILITY, AUTHENTICATION"
    );
}

#[test]
fn every_fault_is_found_at_once() {
    check(
        "server:
  lisetn: 127.0.0.1:1
  drain: 10
  http: localhost:80
  max_connections: 0
data_dir: []
view: 8
defaults:
  evidence: strikt
  fail_open: [MARKETING, SMS]
  shadow: [{ rule: OPTED_OUT }]
buisnesses: {}
",
        &[
            "2 server.lisetn: this key is not known; did you mean `listen`?",
            "3 server.drain: `10` has no unit; add ms, s, m, h or d",
            "4 server.http: expected an IP address and a port, found `localhost:80`",
            "5 server.max_connections: `0` is out of bounds; write a whole number from 1 to 65536",
            "6 data_dir: expected a text, found a list",
            "7 view: expected a section, found `8`",
            "9 defaults.evidence: `strikt` is not known; did you mean strict?",
            "10 defaults.fail_open[0]: marketing never passes",
            "10 defaults.fail_open[1]: `SMS` is not known; write one of MARKETING",
            "11 defaults.shadow[0].rule: OPTED_OUT must always be enforced",
            "12 buisnesses: this key is not known; did you mean `businesses`?",
        ],
    );
}

#[test]
fn faults_stand_in_the_order_of_the_file() {
    let (_, report) = examine("x: 1\ndata_dir: []\ny: 1\nserver: 1\n", &[], Overrides::default());
    let lines: Vec<_> = report.faults.iter().filter_map(|fault| fault.place.line()).collect();
    assert_eq!(lines, [1, 2, 3, 4]);
}

#[test]
fn syntax() {
    check("server: [", &["2: this is not YAML"]);
    check("a: b: c\n", &["1: this is not YAML"]);
    check("server:\n\tlisten: x\n", &["2: this is not YAML"]);
    check("- a\n- b\n", &["1: expected a section, found a list"]);
    check("hello", &["1: expected a section, found `hello`"]);
    check("{}\n---\n{}\n", &["2: a second document begins here"]);
    check("server: !secret { drain: 1s }\n", &["1 server: the tag `!secret` means nothing here; remove it"]);
    check("? [a]\n: b\n", &["1: a list or section stands where a key belongs"]);
    check(
        "x: &x { drain: 1s }\nserver:\n  <<: *x\n",
        &["1 x: this key is not known", "3 server: merge keys are not part of YAML 1.2"],
    );
    check("server: { drain: *nothing }\n", &["1: this is not YAML"]);
}

#[test]
fn keys_given_twice_are_all_found() {
    check(
        "data_dir: a\nserver: { drain: 1s, drain: 2s }\ndata_dir: b\ndata_dir: c\n",
        &[
            "2 server.drain: this key was given before, at test.yaml:2:11; keep one of the two",
            "3 data_dir: this key was given before, at test.yaml:1:1",
            "4 data_dir: this key was given before, at test.yaml:1:1",
        ],
    );
}

#[test]
fn types() {
    check(
        "server: { max_connections: many }",
        &["1 server.max_connections: expected a whole number, found `many`"],
    );
    check("server: { max_connections: 1.5 }", &["1 server.max_connections: expected a whole number"]);
    check("server: { max_connections: '5' }", &["1 server.max_connections: expected a number"]);
    check("server: { max_connections: -5 }", &["1 server.max_connections: `-5` is out of bounds"]);
    check("server: { max_connections: }", &["1 server.max_connections: expected a number, found nothing"]);
    check("server: { drain: null }", &["1 server.drain: expected a length of time, found nothing"]);
    check("server: { drain: {} }", &["1 server.drain: expected a length of time, found a section"]);
    check("server: { drain: -5s }", &["1 server.drain: `-5s` is negative"]);
    check("server: { drain: soon }", &["1 server.drain: expected a length of time"]);
    check("data_dir: true", &["1 data_dir: expected a text, found `true`; put it in quotes"]);
    check("data_dir: ", &["1 data_dir: nothing is written"]);
    check("data_dir: \"a\\0b\"", &["1 data_dir: a path cannot hold a NUL"]);
    check(
        "replication: { allow_plaintext: yes }",
        &["1 replication.allow_plaintext: expected true or false"],
    );
    check(
        "defaults: { fail_open: AUTHENTICATION }",
        &["1 defaults.fail_open: expected a list, found `AUTHENTICATION`; write [AUTHENTICATION]"],
    );
    check("defaults: { fail_open: }", &["1 defaults.fail_open: expected a list, found nothing; write []"]);
    check(
        "defaults: { fail_open: [AUTHENTICATION, AUTHENTICATION] }",
        &["1 defaults.fail_open[1]: `AUTHENTICATION` is listed twice"],
    );
    check("server: { uds_mode: 660 }", &[]);
    check("server: { uds_mode: '0888' }", &["1 server.uds_mode: `0888` are not permissions"]);
    check("server: { uds_mode: '1777' }", &["1 server.uds_mode: `1777` are not permissions"]);
    check("telemetry: { log: 'a=b=c' }", &["1 telemetry.log: `a=b=c` is not a log filter"]);
    check(
        "telemetry: { otlp_endpoint: 'collector:4317' }",
        &["1 telemetry.otlp_endpoint: `collector:4317` is not an address"],
    );
}

#[test]
fn server_as_a_whole() {
    check("server: { listen: null }", &["1 server.listen: there is nothing to listen on"]);
    check("server: { listen: null, uds: /run/a.sock, http: null }", &[]);
    check(
        "server: { listen: 127.0.0.1:8080 }",
        &["1 server.listen: `listen` and `http` are both on port 8080"],
    );
    check(
        "server: { listen: 0.0.0.0:9000, http: 127.0.0.1:9000 }",
        &["1 server.http: `listen` and `http` are both"],
    );
    check("server: { listen: 127.0.0.1:0, http: 127.0.0.1:0 }", &[]);
    check("server: { listen: 127.0.0.1:9000, http: 127.0.0.2:9000 }", &[]);
}

#[test]
fn what_is_not_built_does_not_look_as_if_it_worked() {
    check(
        "server:
  webhooks: 0.0.0.0:8443
telemetry: { otlp_endpoint: 'https://collector:4317' }
",
        &[
            "2 server.webhooks: receiving webhooks is not built yet",
            "3 telemetry.otlp_endpoint: TLS is not built yet",
        ],
    );
    check("replication: { anchors: 1, peers: [], listen: null, cluster_id: eu, heartbeat: 2s }", &[]);
}

#[test]
fn peers() {
    check(
        "replication: { peers: ['127.0.0.1:1', 'localhost:2', '[::1]:3'], listen: '127.0.0.1:4', anchors: 4 }",
        &[],
    );
    check(
        "replication: { peers: [anchor:50052], listen: '0.0.0.0:50052', allow_plaintext: true, anchors: 3 }",
        &[],
    );
    let uncounted = "1 replication: the number of anchors cannot be counted here";
    check("replication: { peers: [anchor:50052], allow_plaintext: true }", &[uncounted]);
    check("replication: { listen: '127.0.0.1:50052' }", &[uncounted]);
    check(
        "replication:\n  peers: [nowhere]\n",
        &["2 replication.peers[0]: `nowhere` is not a host and a port"],
    );
    check(
        "replication: { peers: [anchor:50052], anchors: 2 }",
        &["1 replication: anchor:50052 is beyond this machine, and peers talk without encryption"],
    );
    check(
        "replication: { listen: '0.0.0.0:50052', anchors: 2 }",
        &["1 replication: 0.0.0.0:50052 is beyond this machine, and peers talk without encryption"],
    );
    check(
        "replication: { anchors: 3 }",
        &["1 replication: other anchors are counted, but there is no way to reach them"],
    );
    check(
        "replication: { anchors: 65, peers: ['127.0.0.1:1'] }",
        &["1 replication.anchors: `65` is out of bounds; write a whole number from 1 to 64"],
    );
}

#[test]
fn consent_rules() {
    check(
        "defaults:
  consent_required: [UTILITY]
  fail_open: [MARKETING]
  double_opt_in: [SMS_KEYWORD, PIGEON]
  consent_types: { EMAIL: [SOFT_OPT_IN, HARD], FAX: [] }
  shadow: OPTED_OUT
  stop_scope: channel
  unregistered_templates: allow
  opt_out_instructions: { EMAIL: { every: week }, SMS: {} }
",
        &[
            "2 defaults.consent_required: marketing always needs an opt-in; add MARKETING",
            "3 defaults.fail_open[0]: marketing never passes",
            "4 defaults.double_opt_in[1]: `PIGEON` is not known",
            "5 defaults.consent_types.EMAIL[1]: `HARD` is not known",
            "5 defaults.consent_types.FAX: this key is not known",
            "6 defaults.shadow: OPTED_OUT must always be enforced and cannot be in shadow; only these can: REGION_BLOCKED",
            "7 defaults.stop_scope: `channel` is not known; did you mean CHANNEL?",
            "8 defaults.unregistered_templates: `allow` is not known",
            "9 defaults.opt_out_instructions.EMAIL.every: expected a length of time",
            "9 defaults.opt_out_instructions.SMS: `every` is missing",
        ],
    );
    check(
        "defaults: { consent_required: [MARKETING, SERVICE] }",
        &["1 defaults.consent_required[1]: replies in the window"],
    );
    for rule in crate::policy::types::Reason::ALL {
        let found = faults(&format!("defaults: {{ shadow: [{{ rule: {rule} }}] }}"));
        assert_eq!(found.is_empty(), crate::policy::rules::Rules::may_shadow(*rule), "{rule}: {found:?}");
    }
    check(
        "defaults: { shadow: [{ rule: COOLDOWN, until: 2027-02-30 }] }",
        &["1 defaults.shadow[0].until: `2027-02-30` is not a date"],
    );
    check("defaults: { shadow: [COOLDOWN, COOLDOWN] }", &["1 defaults.shadow[1]: COOLDOWN is listed twice"]);
    check("defaults: { shadow: [{ until: 2027-01-01 }] }", &["1 defaults.shadow[0]: `rule` is missing"]);
}

#[test]
fn places_and_hours() {
    check(
        "defaults:
  default_time_zone: Europe/Berlim
  region_blocks: { MARKETING: { WHATSAPP: [UK, us, USA], PIGEON: [US] }, SERVICE: {} }
  quiet_hours:
    MARKETING:
      - { days: mon-sun, from: '9:00', to: '24:00' }
      - { days: mo-fr, from: '24:00', to: '25:00' }
      - { from: '08:00', to: '08:00', channels: [] }
      - { from: '08:00', upto: '09:00' }
    AUTHENTICATION: []
    NEWS: []
",
        &[
            "2 defaults.default_time_zone: `Europe/Berlim` is not a time zone; did you mean Europe/Berlin?",
            "3 defaults.region_blocks.MARKETING.PIGEON: this key is not known",
            "3 defaults.region_blocks.MARKETING.WHATSAPP[0]: `UK` is not a country; the United Kingdom is GB",
            "3 defaults.region_blocks.MARKETING.WHATSAPP[1]: `us` is not a country",
            "3 defaults.region_blocks.MARKETING.WHATSAPP[2]: `USA` is not a country",
            "3 defaults.region_blocks.SERVICE: this key is not known",
            "6 defaults.quiet_hours.MARKETING[0].from: `9:00` is not a time of day",
            "7 defaults.quiet_hours.MARKETING[1].days: `mo-fr` names no days",
            "7 defaults.quiet_hours.MARKETING[1].from: `24:00` is not a time of day",
            "7 defaults.quiet_hours.MARKETING[1].to: `25:00` is not a time of day",
            "8 defaults.quiet_hours.MARKETING[2]: a quiet window must not begin and end at the same time",
            "8 defaults.quiet_hours.MARKETING[2].channels: no channel is listed",
            "9 defaults.quiet_hours.MARKETING[3]: `to` is missing",
            "9 defaults.quiet_hours.MARKETING[3].upto: this key is not known",
            "10 defaults.quiet_hours.AUTHENTICATION: one-time passcodes are exempt",
            "11 defaults.quiet_hours.NEWS: this key is not known",
        ],
    );
}

#[test]
fn limits() {
    check(
        "defaults:
  limits:
    SMS: { sender: { per_second: 5 }, messaging_limit: 5, pairs: {} }
    EMAIL: { business_per_hour: { GREEN: 5, burst: 1 } }
    FAX: {}
    frequency: { MARKETING: [{ max: 2 }], SERVICE: [] }
",
        &[
            "3 defaults.limits.SMS.messaging_limit: only WhatsApp counts distinct recipients",
            "3 defaults.limits.SMS.pairs: this key is not known; did you mean `pair`?",
            "3 defaults.limits.SMS.sender: `burst` is missing",
            "4 defaults.limits.EMAIL.business_per_hour: `RED` is missing",
            "4 defaults.limits.EMAIL.business_per_hour: `UNKNOWN` is missing",
            "4 defaults.limits.EMAIL.business_per_hour: `YELLOW` is missing",
            "5 defaults.limits.FAX: this key is not known",
            "6 defaults.limits.frequency.MARKETING[0]: `per` is missing",
            "6 defaults.limits.frequency.SERVICE: this key is not known",
        ],
    );
}

#[test]
fn businesses() {
    check(
        "businesses:
  acme:
    display_name: ''
    senders: ['1', '1', '']
    topics: { offers: MARKETING, replies: SERVICE }
    templates:
      - { name: a, language: en-US, category: UTILITY, topic: offers, status: APPROVED }
      - { name: b, language: English, category: MARKETING, status: GREEN }
      - { language: en }
      - { name: c, language: en, category: MARKETING, status: PAUSED }
      - { name: c, language: en, category: MARKETING, status: APPROVED }
    opt_in_programs:
      - { keywords: [JOIN], channel: SMS, topics: [ofers], notice_text: x }
      - { channel: SMS, topics: [], notice_text: '' }
      - { keywords: [GO], channel: WHATSAPP, topics: [offers], notice_text: x }
      - { keywords: [go], buttons: [go], channel: WHATSAPP, topics: [offers], notice_text: x }
    keywords: { languages: [en] }
    quite_hours: {}
  '': {}
",
        &[
            "3 businesses.acme.display_name: nothing is written",
            "4 businesses.acme.senders[1]: `1` is listed twice",
            "4 businesses.acme.senders[2]: nothing is written",
            "5 businesses.acme.topics.replies: `SERVICE` is not known; write one of MARKETING, UTILITY",
            "7 businesses.acme.templates[0].topic: the topic `offers` is MARKETING and the template is UTILITY",
            "8 businesses.acme.templates[1].language: `English` is not a language",
            "8 businesses.acme.templates[1].status: `GREEN` is not known",
            "9 businesses.acme.templates[2]: `category` is missing",
            "9 businesses.acme.templates[2]: `name` is missing",
            "9 businesses.acme.templates[2]: `status` is missing",
            "11 businesses.acme.templates[4]: `c` in en was given before, at test.yaml:10:9",
            "13 businesses.acme.opt_in_programs[0].topics[0]: the business has no topic `ofers`; did you mean offers?",
            "14 businesses.acme.opt_in_programs[1]: nothing joins this program",
            "14 businesses.acme.opt_in_programs[1].notice_text: nothing is written",
            "14 businesses.acme.opt_in_programs[1].topics: the program opts in to nothing",
            "16 businesses.acme.opt_in_programs[3]: the keyword `go` already joins on WHATSAPP",
            "17 businesses.acme.keywords: word lists are the same for every business",
            "18 businesses.acme.quite_hours: this key is not known; did you mean `quiet_hours`?",
            "19 businesses.: this cannot be a business id: it must not be empty",
        ],
    );
}

#[test]
fn aliases_repeat_a_value() {
    let config = config("server: { drain: &short 2s }\nreplication: { heartbeat: *short }\n");
    assert_eq!((config.server.drain_ms, config.replication.heartbeat_ms), (2_000, 2_000));
}

#[test]
fn doubts_are_warnings() {
    let text = "server: { listen: 0.0.0.0:50051, uds_mode: '0666' }
defaults:
  fail_open: [UTILITY]
  consent_required: [MARKETING]
  stop_confirmation: { within: 6m }
  limits: { WHATSAPP: { pair: { every: 1s, burst: 45 } }, frequency: { MARKETING: [] } }
  shadow: [{ rule: COOLDOWN }]
businesses:
  a:
    senders: ['1']
    topics: { offers: MARKETING }
    templates: [{ name: t, language: en, category: MARKETING, topic: gone, status: APPROVED }]
    evidence: basic
    unregistered_templates: as_marketing
  b:
    display_name: Bee
    senders: ['1']
    topics: { offers: MARKETING }
    opt_in_programs: [{ keywords: [JOIN], channel: SMS, topics: [offers], notice_text: Offers. }]
    quiet_hours: { MARKETING: [{ from: '21:00', to: '08:00', channels: [SMS] }] }
  c: { display_name: Sea }
  d:
    display_name: Dee
    senders: ['4']
    topics: { offers: MARKETING }
    quiet_hours: { MARKETING: [{ from: '21:00', to: '08:00', channels: [VOICE] }] }
";
    let found = warnings(text);
    let starts = [
        "test.yaml:1:19: server.listen: 0.0.0.0:50051 can be reached from other machines",
        "test.yaml:1:44: server.uds_mode: every user of the machine",
        "test.yaml:3:15: defaults.fail_open[0]: UTILITY messages may reach people",
        "test.yaml:4:21: defaults.consent_required: AUTHENTICATION messages are sent to people who never",
        "test.yaml:4:21: defaults.consent_required: UTILITY messages are sent to people who never",
        "test.yaml:5:32: defaults.stop_confirmation.within: a confirmation later than 5 minutes",
        "test.yaml:6:31: defaults.limits.WHATSAPP.pair: WhatsApp takes one message",
        "test.yaml:6:83: defaults.limits.frequency.MARKETING: nothing caps",
        "test.yaml:7:12: defaults.shadow[0]: COOLDOWN only reports, for good",
        "test.yaml:9:3: businesses.a.display_name: evidence must show",
        "test.yaml:9:3: businesses.a.quiet_hours: marketing by SMS may reach people at night",
        "test.yaml:12:70: businesses.a.templates[0].topic: the business has no topic `gone`",
        "test.yaml:13:15: businesses.a.evidence: opt-ins need not show",
        "test.yaml:14:29: businesses.a.unregistered_templates: templates that nobody registered",
        "test.yaml:17:15: businesses.b.senders[0]: `1` belongs to businesses.a too",
        "test.yaml:19:88: businesses.b.opt_in_programs[0].notice_text: the notice does not name `Bee`",
        "test.yaml:21:3: businesses.c.senders: no sender is listed",
        "test.yaml:22:3: businesses.d.quiet_hours: marketing by SMS may reach people at night",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found}\n{start}");
    }
    let shared = warnings(
        "businesses:
  a: { display_name: A, senders: ['1'], portfolio: p }
  b: { display_name: B, senders: ['2'], portfolio: p, limits: { WHATSAPP: { messaging_limit: 10000 } } }
  c: { display_name: C, senders: ['3'], portfolio: p }
  d: { display_name: D, senders: ['4'], portfolio: q, limits: { WHATSAPP: null } }
",
    );
    assert_eq!(shared.len(), 1, "{shared:?}");
    assert!(shared[0].contains("businesses.b.limits.WHATSAPP.messaging_limit: businesses.a shares"));
    assert_eq!(warnings("businesses: {}").len(), 1);
    assert_eq!(warnings("businesses:").len(), 1);
}
