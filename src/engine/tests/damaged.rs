//! A ledger that is damaged where nobody looks when it is opened.

use std::path::Path;

use super::*;
use crate::policy::ids::Identifier;

/// A closed segment is not read to open the ledger. Its damage shows when the view is built from it, or what the view lacks is applied.
#[tokio::test]
async fn a_node_whose_ledger_is_damaged_where_nobody_looked_allows_nothing() {
    let reopened = |dir: TempDir| {
        let disk = Arc::new(RealDisk::new(&dir.path().join("ledger")).unwrap());
        Node::with_ledger(dir, disk, Replica::alone())
    };
    for has_view in [false, true] {
        let first = Node::open(Replica::alone());
        first.opts_in().await;
        first.engine.close().unwrap();
        let (next, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        copy(first._dir.path(), next.path());
        if has_view {
            copy(&first._dir.path().join("view"), &dir.path().join("view"));
        }
        let next = reopened(next);
        next.opts_out(next.clock.now(), Source::Caller).await;
        next.record("calls", no_calls(next.clock.now()), Source::Caller).await;
        next.engine.close().unwrap();
        copy(&next._dir.path().join("ledger"), &dir.path().join("ledger"));
        damage_opt_out(&dir.path().join("ledger"), &next.engine.inner.key.identifier("acme", &person()));
        assert_eq!(reopened(dir).denies(""), Some(Reason::Stale), "with an older view: {has_view}");
    }
}

/// Changes a bit of the second event about `who`, which others follow in its segment.
fn damage_opt_out(ledger: &Path, who: &Identifier) {
    let mut about = Vec::new();
    let segments = std::fs::read_dir(ledger).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> =
        segments.filter(|path| path.extension().is_some_and(|of| of == "seg")).collect();
    segments.sort();
    for segment in segments {
        let bytes = std::fs::read(&segment).unwrap();
        let found = bytes.windows(who.0.len()).enumerate().filter(|(_, bytes)| *bytes == who.0);
        about.extend(found.map(|(at, _)| (segment.clone(), at)));
    }
    let (segment, at) = &about[1];
    let mut bytes = std::fs::read(segment).unwrap();
    bytes[*at] ^= 1;
    std::fs::write(segment, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let path = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &path);
        } else {
            std::fs::copy(entry.path(), path).unwrap();
        }
    }
}
