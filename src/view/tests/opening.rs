//! Opening: what sled, kills and power cuts leave behind.

use super::*;

fn filled(place: &Place) -> Ledger {
    let mut ledger = Ledger::default();
    let mut dice = Dice::new(9);
    (0..50).for_each(|_| ledger.append(&mut dice, 20));
    let view = place.serving(&Ledger::default());
    ledger.apply_from(&view, 0);
    count(&view, &person(3)).unwrap();
    view.close().unwrap();
    ledger
}

fn quarantines(place: &Place) -> usize {
    let names = fs::read_dir(place.temp.path()).unwrap().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with("view.quarantine-")).count()
}

#[track_caller]
fn assert_rebuilds(place: &Place, ledger: &Ledger, reason: &str, quarantined: usize) {
    let (view, opened) = place.open();
    let why = opened.rebuild.expect(reason);
    assert!(why.contains(reason), "{why}");
    assert_eq!(quarantines(place), quarantined);
    ledger.rebuild(&view);
    ledger.check(&view, 20, reason);
    view.close().unwrap();
    drop(view);
    let (view, opened) = place.open();
    assert_eq!(opened.rebuild, None, "healed");
    ledger.check(&view, 20, "healed");
}

#[test]
fn a_half_written_snapshot_is_removed() {
    let place = Place::sled();
    let ledger = filled(&place);
    let leftover = place.dir().join("store/snap.0000000000ABCDEF.generating");
    fs::write(&leftover, b"half a snapshot").unwrap();
    let (view, opened) = place.open();
    assert_eq!(opened.rebuild, None);
    assert!(!leftover.exists());
    ledger.check(&view, 20, "opened");
    assert_eq!(count_of(&view, &person(3)), 1);
}

#[test]
fn garbage_in_sled_is_put_away_and_rebuilt() {
    for what in ["db", "snap", "both", "conf"] {
        let place = Place::sled();
        let ledger = filled(&place);
        for entry in fs::read_dir(place.dir().join("store")).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            let hit = match what {
                "both" => name == "db" || name.starts_with("snap."),
                _ => name.starts_with(what),
            };
            if hit && entry.path().is_file() {
                let len = fs::metadata(entry.path()).unwrap().len();
                let garbage: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
                fs::write(entry.path(), garbage).unwrap();
            }
        }
        // sled survives some of it; then what it has must be right.
        let (view, opened) = place.open();
        match opened.rebuild {
            Some(_) => ledger.rebuild(&view),
            None => ledger.replay(&view, opened.replay_from),
        }
        ledger.check(&view, 20, what);
        view.close().unwrap();
        if matches!(what, "db" | "both") {
            assert_eq!(quarantines(&place), 1, "{what}");
        }
    }
}

#[test]
fn an_empty_or_missing_store_is_rebuilt() {
    let place = Place::sled();
    let ledger = filled(&place);
    fs::remove_dir_all(place.dir().join("store")).unwrap();
    assert_rebuilds(&place, &ledger, "folder is missing", 1);
    fs::remove_dir_all(place.dir().join("store")).unwrap();
    fs::create_dir(place.dir().join("store")).unwrap();
    assert_rebuilds(&place, &ledger, "it is empty", 2);
    fs::remove_dir_all(place.dir()).unwrap();
    assert_rebuilds(&place, &ledger, "there is no view yet", 2);
}

#[test]
fn another_boot_needs_a_clean_stop() {
    let mut place = Place::memory();
    let ledger = filled(&place);
    place.boot = "boot-2".into();
    let (view, opened) = place.open();
    assert_eq!(opened.rebuild, None, "it was closed cleanly");
    count(&view, &person(3)).unwrap();
    view.inner.tend(Duration::ZERO, Instant::now());
    drop(view);
    let (view, opened) = place.open();
    assert_eq!(opened.rebuild, None, "killed during the same boot");
    assert_eq!(count_of(&view, &person(3)), 2);
    drop(view);
    place.boot = "boot-3".into();
    assert_rebuilds(&place, &ledger, "the machine went down", 1);
    // What the journal had is kept over the rebuild.
    assert_eq!(count_of(&place.serving(&ledger), &person(3)), 2);
}

#[test]
fn a_view_of_another_ledger_is_put_away_with_its_usage() {
    let place = Place::memory();
    let ledger = filled(&place);
    let view = place.serving(&ledger);
    count(&view, &person(3)).unwrap();
    view.inner.tend(Duration::ZERO, Instant::now());
    drop(view);
    let folder = folder::Folder::open(&place.dir()).unwrap();
    let other = LedgerIdentity([7; 16]);
    folder.say(&State { ledger: other, ..folder.state().unwrap() }).unwrap();
    assert_rebuilds(&place, &ledger, "another ledger", 1);
    assert_eq!(count_of(&place.serving(&ledger), &person(3)), 0);
}

#[test]
fn a_damaged_state_file_is_not_believed() {
    let place = Place::memory();
    let ledger = filled(&place);
    fs::write(place.dir().join("state"), "optgate view 9\n").unwrap();
    assert_rebuilds(&place, &ledger, "state file is damaged", 1);
}

#[test]
fn a_rebuild_cut_short_starts_again() {
    let place = Place::sled();
    let mut ledger = Ledger::default();
    let mut dice = Dice::new(10);
    (0..200).for_each(|_| ledger.append(&mut dice, 20));
    let (view, opened) = place.open();
    assert!(opened.rebuild.is_some());
    let mut rebuilder = view.rebuild().unwrap();
    for (at, (id, event)) in ledger.events.iter().enumerate().take(100) {
        rebuilder.event(ledger.position(at), *id, event).unwrap();
    }
    drop(rebuilder);
    drop(view);
    assert_rebuilds(&place, &ledger, "cut short", 0);
}

#[test]
fn damage_found_while_reading_denies_and_is_rebuilt() {
    let place = Place::memory();
    let ledger = filled(&place);
    let store = place.disk.as_ref().unwrap().store();
    let mut keys = Vec::new();
    store.scan(b"b", &mut |key, _| keys.push(key.to_vec())).unwrap();
    keys.iter().for_each(|key| store.insert(key, b"\x01\x05garbage").unwrap());
    store.flush().unwrap();
    let (view, opened) = place.open();
    assert_eq!(opened.rebuild, None);
    let someone = ledger.persons.keys().next().unwrap();
    assert!(matches!(view.get(someone), Err(ViewError::Damaged(_))));
    assert_eq!(view.stats().health, Health::Degraded);
    drop(view);
    assert_rebuilds(&place, &ledger, "given up in the last run", 1);
}

#[test]
fn a_held_store_is_neither_shared_nor_put_away() {
    let place = Place::sled();
    let ledger = filled(&place);
    let view = place.serving(&ledger);
    assert!(matches!(place.try_open(), Err(ViewError::Locked)));
    assert_eq!(quarantines(&place), 0);
    view.close().unwrap();
    drop(view);
    let (view, opened) = place.open();
    assert_eq!(opened.rebuild, None);
    ledger.check(&view, 20, "opened after the other");
}

#[test]
fn settings_have_ranges() {
    type Set = fn(&mut Config, u32);
    let ranges: [(Set, u32, u32); 5] = [
        (|config, value| config.page_cache_mib = value, 1, 4_096),
        (|config, value| config.record_cache_mib = value, 0, 65_536),
        (|config, value| config.overlay_max_mib = value, 1, 4_096),
        (|config, value| config.lent_max_mib = value, 1, 4_096),
        (|config, value| config.usage_persons_max = value, 1_024, 67_108_864),
    ];
    for (set, min, max) in ranges {
        let check = |value| {
            let mut config = Config::default();
            set(&mut config, value);
            config.check()
        };
        assert!(check(min).is_ok() && check(max).is_ok());
        assert!(matches!(check(max + 1), Err(ViewError::Setting { .. })));
        assert!(min == 0 || check(min - 1).is_err());
    }
    assert_eq!(SHARDS, 256);
}

#[test]
fn the_real_surroundings_open() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("view");
    let (view, opened) = View::open(Config::default(), &dir, LEDGER).unwrap();
    assert!(opened.rebuild.is_some());
    Ledger::default().rebuild(&view);
    count(&view, &person(1)).unwrap();
    assert!((view.inner.free_bytes)().is_some());
    view.close().unwrap();
    drop(view);
    let (view, opened) = View::open(Config::default(), &dir, LEDGER).unwrap();
    assert_eq!((opened.rebuild, count_of(&view, &person(1))), (None, 1));
}

#[test]
fn a_long_tail_of_the_ledger_is_applied_by_several_threads_at_once() {
    const PERSONS: u64 = 900;
    let place = Place::sled();
    let (mut ledger, mut dice) = (Ledger::default(), Dice::new(29));
    for _ in 0..500 {
        ledger.append(&mut dice, PERSONS);
    }
    drop(place.serving(&ledger));
    let tail = ledger.events.len();
    for _ in 0..2_500 {
        ledger.append(&mut dice, PERSONS);
    }
    let (view, opened) = place.open();
    assert_eq!(opened.rebuild, None);
    let placed = |at: usize| {
        let (id, event) = ledger.events[at].clone();
        Placed { at: ledger.position(at), id, event }
    };
    // From a little before: what was applied already must not matter.
    let events: Vec<_> = (tail - 20..ledger.events.len()).map(placed).collect();
    view.apply_many(&events).unwrap();
    view.advance(ledger.position(ledger.events.len()));
    ledger.check(&view, PERSONS, "applied together");
    view.apply_many(&[]).unwrap();
    view.close().unwrap();
    drop(view);
    let (view, opened) = place.open();
    assert_eq!(opened.replay_from, ledger.position(ledger.events.len()));
    ledger.check(&view, PERSONS, "and stored");
}

#[test]
fn a_tail_larger_than_the_overlay_is_drained_on_the_way() {
    const PERSONS: u64 = 4_000;
    let mut place = Place::sled();
    place.config.overlay_max_mib = 1;
    let (mut ledger, mut dice) = (Ledger::default(), Dice::new(31));
    drop(place.serving(&ledger));
    let (view, _) = place.open();
    let mut done = 0;
    let mut most = 0;
    while done < 12_000 {
        for _ in 0..3_000 {
            ledger.append(&mut dice, PERSONS);
        }
        ledger.replay(&view, ledger.position(done));
        done = ledger.events.len();
        most = most.max(view.inner.overlay_bytes());
    }
    assert!(most > MIB, "it was put to the test: {most}");
    assert!(most < 4 * MIB, "{most} bytes wait");
    ledger.check(&view, PERSONS, "after it");
}

#[test]
fn a_start_with_a_long_tail_takes_usage_before_all_of_it_is_stored() {
    const PERSONS: u64 = 4_000;
    let mut place = Place::sled();
    place.config.overlay_max_mib = 1;
    let (mut ledger, mut dice) = (Ledger::default(), Dice::new(37));
    drop(place.serving(&ledger));
    for _ in 0..6_000 {
        ledger.append(&mut dice, PERSONS);
    }
    let (view, _) = place.open();
    ledger.replay(&view, ledger.position(0));
    assert!(view.inner.overlay_bytes() > MIB, "it was put to the test");
    count(&view, &person(PERSONS)).unwrap();
    assert!(view.inner.move_usage(Pace::Full).unwrap());
    assert!(view.inner.overlay_bytes() > MIB, "consent waits still");
    count(&view, &person(PERSONS + 1)).unwrap();
    assert!(view.inner.sweep(Pace::Full).unwrap());
    assert_eq!(view.inner.overlay_bytes(), 0);
}
