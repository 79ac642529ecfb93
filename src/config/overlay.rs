//! Lays environment variables and flags over the file, before anything is judged: what a variable
//! replaces need not be right.

use std::path::Path;

use super::fault::{Place, Report};
use super::node::{Entry, Node, Origin, Value, parse};
use super::{Overrides, VARIABLE_PREFIX};

/// Variables with the prefix that are no settings: the file's own path, and the server that the
/// client commands ask, which a shell may have set when it starts a server too.
const NO_SETTINGS: [&str; 2] = ["OPTGATE_CONFIG", "OPTGATE_ADDRESS"];

/// Lays every `OPTGATE_…` variable over `root`, in the order of their names, so that
/// `OPTGATE_SERVER` comes before `OPTGATE_SERVER__LISTEN`.
pub(super) fn environment(root: &mut Node, variables: &[(String, String)], report: &mut Report) {
    let mut variables: Vec<_> = variables
        .iter()
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
        .filter(|(name, value)| !NO_SETTINGS.contains(&name.as_str()) && !is_service_link(name, value))
        .collect();
    variables.sort();
    for (name, value) in variables {
        let path: Vec<String> = name[VARIABLE_PREFIX.len()..].split("__").map(str::to_lowercase).collect();
        let name: std::sync::Arc<str> = name.as_str().into();
        let place = Place::Variable(name.clone());
        if path.iter().any(String::is_empty) {
            report.fault(
                &place,
                "",
                "this variable names no setting",
                "write two underscores between levels, as in OPTGATE_SERVER__LISTEN, or unset it",
            );
            continue;
        }
        // An IPv6 address and a port begin like a list.
        let is_socket = value.trim().parse::<std::net::SocketAddr>().is_ok();
        let node = if !is_socket && value.trim_start().starts_with(['[', '{']) {
            parse(value, &Origin::Variable(name), report)
        } else {
            Some(Node::plain(place, value.clone()))
        };
        if let Some(node) = node {
            lay(root, &path, node, report);
        }
    }
}

/// Lays every flag that was given over `root`.
pub(super) fn flags(root: &mut Node, overrides: &Overrides, report: &mut Report) {
    let Overrides { data_dir, key_file, listen, uds, http, peer_listen, peers } = overrides;
    let paths = [
        ("--data-dir", &["data_dir"][..], data_dir),
        ("--key-file", &["key_file"][..], key_file),
        ("--uds", &["server", "uds"][..], uds),
    ];
    for (flag, path, value) in paths {
        let place = Place::Flag(flag);
        match value.as_deref().map(Path::to_str) {
            None => {}
            Some(Some(text)) => lay(root, path, text_of(place, text), report),
            Some(None) => report.fault(&place, "", "this path is not UTF-8", "choose a path that is"),
        }
    }
    let texts = [
        ("--listen", &["server", "listen"][..], listen),
        ("--http", &["server", "http"][..], http),
        ("--peer-listen", &["replication", "listen"][..], peer_listen),
    ];
    for (flag, path, value) in texts {
        if let Some(text) = value {
            lay(root, path, text_of(Place::Flag(flag), text), report);
        }
    }
    if !peers.is_empty() {
        let place = Place::Flag("--peer");
        let items = peers.iter().map(|peer| text_of(place.clone(), peer)).collect();
        lay(root, &["replication", "peers"], Node { place, value: Value::List(items) }, report);
    }
}

/// A flag's text is a text, even where it reads `null`.
fn text_of(place: Place, text: &str) -> Node {
    Node { place, value: Value::Scalar { text: text.to_owned(), plain: false } }
}

/// Puts `node` at `path`. Business ids cannot be spelt in a variable's name, so that a variable may
/// change a business of the file and never add one.
fn lay(root: &mut Node, path: &[impl AsRef<str>], node: Node, report: &mut Report) {
    if let [first, business, ..] = path
        && first.as_ref() == "businesses"
        && !has(root, &["businesses", business.as_ref()])
    {
        report.fault(
            &node.place,
            &format!("businesses.{}", business.as_ref()),
            "no business of the file goes by this name",
            "add the business to the file; a variable can only change it",
        );
        return;
    }
    put(root, path, node);
}

fn has(at: &Node, path: &[&str]) -> bool {
    let Some((key, rest)) = path.split_first() else { return true };
    matches!(&at.value, Value::Map(entries)
        if entries.iter().any(|entry| is_same(&entry.key, key) && has(&entry.value, rest)))
}

/// Makes the sections that lead to `path`, and replaces whatever stood there.
fn put(at: &mut Node, path: &[impl AsRef<str>], node: Node) {
    let Some((key, rest)) = path.split_first() else {
        *at = node;
        return;
    };
    let mut entries = match std::mem::replace(&mut at.value, Value::List(Vec::new())) {
        Value::Map(entries) => entries,
        Value::Scalar { .. } | Value::List(_) => {
            at.place = node.place.clone();
            Vec::new()
        }
    };
    let key = key.as_ref();
    match entries.iter_mut().find(|entry| is_same(&entry.key, key)) {
        Some(entry) => put(&mut entry.value, rest, node),
        None => {
            let place = node.place.clone();
            let mut value = Node::section(place.clone());
            put(&mut value, rest, node);
            entries.push(Entry { key: key.to_owned(), place, any_case: true, value });
        }
    }
    at.value = Value::Map(entries);
}

/// Whether a variable's part names the key: without regard to case, and with `_` for whatever a
/// variable's name cannot hold.
fn is_same(key: &str, part: &str) -> bool {
    let key = key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    let part = part.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    key.eq(part)
}

/// Whether Kubernetes made the variable for a Service called `optgate` or `optgate-…`: it does so
/// in every Pod of the namespace, e.g. `OPTGATE_PORT_50051_TCP_ADDR`, and nobody meant a setting.
fn is_service_link(name: &str, value: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_protocol = |word: &str| matches!(word, "TCP" | "UDP" | "SCTP");
    match words.as_slice() {
        words if words.contains(&"") => false,
        [.., "SERVICE", "HOST" | "PORT"] => true,
        [.., "PORT", number, protocol] | [.., "PORT", number, protocol, "PROTO" | "PORT" | "ADDR"] => {
            is_number(number) && is_protocol(protocol)
        }
        // By its value too: somebody may well mean the port of optgate.
        [.., "PORT"] => ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme)),
        words => words.windows(2).any(|pair| pair == ["SERVICE", "PORT"]),
    }
}
