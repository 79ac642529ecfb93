//! The same on a directory of the real filesystem.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::ledger::disk::{Disk, RealDisk};
use crate::ledger::verify::verify;
use crate::ledger::{Applier, Blob, Config, Ledger, OpenError, exists};

struct NoView;

impl Applier for NoView {
    fn on_durable(&mut self, _: &[Committed]) {}
}

fn open_at(dir: &Path, key_check: [u8; 16]) -> Result<(Ledger, Opened), OpenError> {
    let config =
        Config { segment_mib: 4, opt_out_reserve_mib: 1, min_free_mib: 0, lock_wait: Duration::ZERO };
    Ledger::open(&config, Arc::new(RealDisk::new(dir).unwrap()), key_check, Box::new(NoView))
}

#[test]
fn a_ledger_lives_in_a_directory() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data").join("ledger");
    assert!(!exists(&RealDisk::new(&dir).unwrap()).unwrap());
    let (ledger, opened) = open_at(&dir, KEY_CHECK).unwrap();
    assert!(opened.created);
    assert!(exists(&RealDisk::new(&dir).unwrap()).unwrap());
    let mut places = Vec::new();
    // Enough for two segments.
    for number in 0..5_000 {
        let one = Entry { payload: vec![b'p'; 1000], ..with_blob("", &format!("fields of {number}")) };
        let ack = ledger.append(one).unwrap();
        if number % 1_000 == 0 {
            places.push(ack.wait().unwrap());
        }
    }
    ledger.erase_blob(places[1].position).unwrap();
    assert!(matches!(open_at(&dir, KEY_CHECK), Err(OpenError::Locked)));
    // Beside the running one, and read-only.
    let report = verify(&RealDisk::read_only(&dir), Some(KEY_CHECK)).unwrap();
    assert!(report.is_sound(), "{:?}", report.faults);
    assert_eq!(report.blobs.erased, 1);
    ledger.close().unwrap();
    assert!(matches!(open_at(&dir, [8; 16]), Err(OpenError::OtherKey)));
    assert!(matches!(verify(&RealDisk::read_only(&dir), Some([8; 16])), Err(OpenError::OtherKey)));

    let (ledger, opened) = open_at(&dir, KEY_CHECK).unwrap();
    assert!(opened.clean && !opened.created);
    assert_eq!(ledger.iter_from(Position::START).map(Result::unwrap).count(), 5_000);
    assert!(ledger.read_at(places[1].position).unwrap().blob == Blob::Erased);
    assert!(ledger.read_at(places[2].position).unwrap().blob == Blob::Present(b"fields of 2000".to_vec()));
    drop(ledger);
    let report = verify(&RealDisk::read_only(&dir), None).unwrap();
    assert_eq!((report.records, report.segments, report.is_sound()), (5_000, 2, true));
}

#[test]
fn files_are_for_their_owner_only() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("ledger");
    drop(open_at(&dir, KEY_CHECK).unwrap());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for name in RealDisk::new(&dir).unwrap().list().unwrap() {
        assert_eq!(mode(&dir.join(&name)), 0o600, "{name}");
    }
}

#[test]
fn the_disk_tells_how_much_is_free() {
    let home = tempfile::tempdir().unwrap();
    assert!(RealDisk::new(home.path()).unwrap().free_bytes().unwrap() > 0);
}
