//! Pins the API: nothing in `proto/` may be removed, renumbered or retyped once it is in `tests/golden/api.txt`.

use std::collections::{BTreeMap, HashMap};
use std::{env, fs};

use optgate::pb;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/api.txt");
const PEERS_GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/peers.txt");
const UPDATE: &str = "UPDATE_GOLDEN=1 cargo test --test it golden";

/// Lists what clients and stored bytes rely on, one line each: `kind full.name shape`.
fn listing(descriptors: &FileDescriptorSet) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &descriptors.file {
        let package = file.package();
        if !package.starts_with("optgate.") {
            continue;
        }
        for service in &file.service {
            for method in &service.method {
                lines.push(format!(
                    "rpc {package}.{}.{} {}{} {}{}",
                    service.name(),
                    method.name(),
                    if method.client_streaming() { "stream:" } else { "" },
                    method.input_type().trim_start_matches('.'),
                    if method.server_streaming() { "stream:" } else { "" },
                    method.output_type().trim_start_matches('.'),
                ));
            }
        }
        for message in &file.message_type {
            list_message(package, message, &mut lines);
        }
        for words in &file.enum_type {
            list_enum(package, words, &mut lines);
        }
    }
    lines.sort();
    lines
}

fn list_message(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let name = format!("{scope}.{}", message.name());
    lines.push(format!("message {name}"));
    for field in &message.field {
        lines.push(format!("field {name}.{} {}", field.name(), field_shape(message, field)));
    }
    for nested in &message.nested_type {
        list_message(&name, nested, lines);
    }
    for words in &message.enum_type {
        list_enum(&name, words, lines);
    }
}

fn field_shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().trim_start_matches('.').to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_ascii_lowercase(),
    };
    let label = match (field.label(), field.oneof_index) {
        (Label::Repeated, _) => "repeated".to_owned(),
        (_, _) if field.proto3_optional() => "optional".to_owned(),
        (_, Some(index)) => format!("oneof:{}", message.oneof_decl[index as usize].name()),
        (Label::Optional | Label::Required, None) => "singular".to_owned(),
    };
    format!("{} {kind} {label}", field.number())
}

fn list_enum(scope: &str, words: &EnumDescriptorProto, lines: &mut Vec<String>) {
    for value in &words.value {
        lines.push(format!("value {scope}.{}.{} {}", words.name(), value.name(), value.number()));
    }
}

/// What a comparison found: broken promises, and lines that the golden file lacks.
#[derive(Debug, Default, PartialEq)]
struct Differences {
    broken: Vec<String>,
    added: Vec<String>,
}

fn compare(golden: &[String], current: &[String]) -> Differences {
    fn by_name(lines: &[String]) -> BTreeMap<String, String> {
        lines
            .iter()
            .map(|line| {
                let mut words = line.splitn(3, ' ');
                let key =
                    format!("{} {}", words.next().unwrap_or_default(), words.next().unwrap_or_default());
                (key, words.next().unwrap_or_default().to_owned())
            })
            .collect()
    }
    let (old, new) = (by_name(golden), by_name(current));
    let mut differences = Differences::default();
    for (name, shape) in &old {
        match new.get(name) {
            None => differences.broken.push(format!("removed: {name} {shape}")),
            Some(now) if now != shape => {
                differences.broken.push(format!("changed: {name} was `{shape}`, is `{now}`"));
            }
            Some(_) => {}
        }
    }
    differences.added.extend(
        new.iter()
            .filter(|(name, _)| !old.contains_key(*name))
            .map(|(name, shape)| format!("{name} {shape}").trim_end().to_owned()),
    );
    differences
}

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET).expect("the build writes a descriptor set")
}

fn golden_lines(golden: &str) -> Vec<String> {
    fs::read_to_string(golden).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn the_api_keeps_its_promises() {
    check(GOLDEN, &listing(&descriptors()));
}

/// Nodes of two versions talk to each other while they are upgraded one by one.
#[test]
fn the_protocol_between_peers_keeps_its_promises() {
    let peers =
        FileDescriptorSet::decode(pb::PEER_DESCRIPTOR_SET).expect("the build writes a descriptor set");
    let current = listing(&peers);
    assert!(current.iter().any(|line| line.starts_with("rpc optgate.replication.v1.PeerService.Exchange ")));
    check(PEERS_GOLDEN, &current);
}

fn check(golden: &str, current: &[String]) {
    let differences = compare(&golden_lines(golden), current);
    assert!(
        differences.broken.is_empty(),
        "clients and stored events rely on what was changed; keep it and add beside it:\n{}",
        differences.broken.join("\n")
    );
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden, current.join("\n") + "\n").expect("the golden file can be written");
        return;
    }
    assert!(
        differences.added.is_empty(),
        "new in the API; once you mean to keep it for ever, run `{UPDATE}`:\n{}",
        differences.added.join("\n")
    );
}

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    set.file
        .iter_mut()
        .filter(|file| file.package() == "optgate.v1")
        .flat_map(|file| &mut file.message_type)
        .find(|message| message.name() == name)
        .expect("the message exists")
}

fn words<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut EnumDescriptorProto {
    set.file
        .iter_mut()
        .filter(|file| file.package() == "optgate.v1")
        .flat_map(|file| &mut file.enum_type)
        .find(|words| words.name() == name)
        .expect("the enum exists")
}

/// Compares the real descriptors with a copy that `doctor` changed.
fn after(doctor: impl FnOnce(&mut FileDescriptorSet)) -> Differences {
    let golden = descriptors();
    let mut doctored = golden.clone();
    doctor(&mut doctored);
    compare(&listing(&golden), &listing(&doctored))
}

fn assert_broken(differences: &Differences, expected: &str) {
    assert!(differences.broken.iter().any(|line| line.starts_with(expected)), "{differences:?}");
}

#[test]
fn an_untouched_api_passes() {
    assert_eq!(after(|_| {}), Differences::default());
}

#[test]
fn a_removed_field_is_noticed() {
    let found = after(|set| message(set, "CheckSendRequest").field.retain(|field| field.number() != 3));
    assert_broken(&found, "removed: field optgate.v1.CheckSendRequest.sender_id");
}

#[test]
fn a_renumbered_field_is_noticed() {
    let found = after(|set| message(set, "CheckSendRequest").field[0].number = Some(99));
    assert_broken(&found, "changed: field optgate.v1.CheckSendRequest.request_id was `1 string singular`");
}

#[test]
fn a_retyped_field_is_noticed() {
    let found = after(|set| message(set, "EventId").field[1].set_type(Type::Int64));
    assert_broken(&found, "changed: field optgate.v1.EventId.sequence was `2 uint64 singular`");
}

#[test]
fn a_field_of_another_message_type_is_noticed() {
    let found = after(|set| {
        let field = &mut message(set, "CheckSendRequest").field[3];
        field.type_name = Some(".optgate.v1.EventId".into());
    });
    assert_broken(&found, "changed: field optgate.v1.CheckSendRequest.recipient");
}

#[test]
fn a_field_that_becomes_repeated_is_noticed() {
    let found = after(|set| message(set, "OptIn").field[3].set_label(Label::Repeated));
    assert_broken(&found, "changed: field optgate.v1.OptIn.evidence");
}

#[test]
fn a_field_that_leaves_its_oneof_is_noticed() {
    let found = after(|set| message(set, "Recipient").field[0].oneof_index = None);
    assert_broken(&found, "changed: field optgate.v1.Recipient.phone was `1 string oneof:address`");
}

#[test]
fn a_renamed_field_is_noticed() {
    let found = after(|set| message(set, "OptOut").field[0].name = Some("ways".into()));
    assert_broken(&found, "removed: field optgate.v1.OptOut.channels");
}

#[test]
fn a_removed_message_is_noticed() {
    let found = after(|set| {
        for file in &mut set.file {
            file.message_type.retain(|message| message.name() != "HelpRequest");
        }
    });
    assert_broken(&found, "removed: message optgate.v1.HelpRequest");
}

#[test]
fn removed_and_renumbered_enum_values_are_noticed() {
    let found = after(|set| {
        let reason = words(set, "Reason");
        reason.value.retain(|value| value.number() != 5);
        reason.value[1].number = Some(99);
    });
    assert_broken(&found, "removed: value optgate.v1.Reason.REASON_OPTED_OUT 5");
    assert_broken(&found, "changed: value optgate.v1.Reason.REASON_UNKNOWN_BUSINESS was `1`, is `99`");
}

#[test]
fn removed_and_changed_methods_are_noticed() {
    let found = after(|set| {
        for service in set.file.iter_mut().flat_map(|file| &mut file.service) {
            service.method.retain(|method| method.name() != "CheckSend");
            for method in &mut service.method {
                method.server_streaming = Some(false);
            }
        }
    });
    assert_broken(&found, "removed: rpc optgate.v1.SendService.CheckSend");
    assert_broken(&found, "changed: rpc optgate.v1.ConsentService.WatchConsents");
}

#[test]
fn additions_must_be_written_down() {
    let found = after(|set| {
        words(set, "Reason")
            .value
            .push(prost_types::EnumValueDescriptorProto { number: Some(24), ..Default::default() });
    });
    assert_eq!(found.broken, Vec::<String>::new());
    assert_eq!(found.added, ["value optgate.v1.Reason. 24"]);
}

#[test]
fn no_number_is_used_twice() {
    let mut seen = HashMap::new();
    for line in listing(&descriptors()) {
        let mut words = line.split(' ');
        if let (Some("field"), Some(name), Some(number)) = (words.next(), words.next(), words.next()) {
            let owner = name.rsplit_once('.').map_or(name, |(owner, _)| owner).to_owned();
            assert_eq!(seen.insert((owner, number.to_owned()), line.clone()), None, "{line}");
        }
    }
}
