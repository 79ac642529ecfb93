//! The contract, once for every store.

use super::*;
use crate::policy::event::LedgerEntry;
use crate::policy::ids::OriginId;

/// Runs every scenario on a place of its own.
fn view_contract(make: impl Fn() -> Place) {
    what_was_changed_is_read(make());
    everything_survives_a_clean_stop(make());
    who_is_new_costs_no_read_of_the_store(make());
    random_histories_read_as_the_ledger_says(make());
    a_rebuild_equals_incremental_application(&make);
    buckets_split_as_persons_come(make());
    updates_of_many_threads_are_all_counted(make());
    the_overlay_is_bounded(make());
    a_full_disk_pauses(make());
    a_restart_has_room_beside_what_the_journal_gave_back(make());
    registry_entries_survive(make());
    notes_come_back(make());
    a_closed_view_refuses(make());
}

#[test]
fn contract_on_sled() {
    view_contract(Place::sled);
}

#[test]
fn contract_in_memory() {
    view_contract(Place::memory);
}

fn what_was_changed_is_read(place: Place) {
    let view = place.serving(&Ledger::default());
    let who = person(1);
    assert_eq!(view.get(&who).unwrap(), Person::default());
    for round in 1..4 {
        assert_eq!(count(&view, &who).unwrap(), round);
        assert_eq!(count_of(&view, &who), round);
        assert!(view.inner.sweep(Pace::Full).unwrap());
        assert_eq!(count_of(&view, &who), round);
    }
    let untouched = view.update(&who, |person| {
        person.usage.last_allowed.clear();
        ("answer", Touched::Nothing)
    });
    assert_eq!((untouched.unwrap(), count_of(&view, &who)), ("answer", 3));
    // What is said not to be touched is not kept either.
    view.update(&who, |person| {
        person.usage.last_allowed.clear();
        person.trail.push(Position::from_u64(7));
        ((), Touched::Consent)
    })
    .unwrap();
    assert_eq!((count_of(&view, &who), view.get(&who).unwrap().trail.len()), (3, 1));
    assert_eq!(view.get(&person(2)).unwrap(), Person::default());
    let stats = view.stats();
    assert_eq!((stats.phase, stats.health, stats.dirty), (Phase::Serving, Health::Normal, 1));
    assert!(stats.cache_hits > 0 && stats.overlay_bytes > 0);
}

fn everything_survives_a_clean_stop(place: Place) {
    let mut ledger = Ledger::default();
    let mut dice = Dice::new(1);
    (0..40).for_each(|_| ledger.append(&mut dice, 20));
    let view = place.serving(&Ledger::default());
    ledger.apply_from(&view, 0);
    for n in 0..20 {
        for _ in 0..=n {
            count(&view, &person(n)).unwrap();
        }
    }
    view.close().unwrap();
    drop(view);
    let (view, opened) = place.open();
    assert_eq!((opened.rebuild, opened.replay_from), (None, ledger.position(40)));
    assert_eq!(view.applied(), ledger.position(40));
    assert!(view.inner.usage.is_empty(), "the journal is drained");
    ledger.check(&view, 20, "after a clean stop");
    (0..20).for_each(|n| assert_eq!(count_of(&view, &person(n)), n + 1));
}

/// Once it is known who is in the store, those who are not cost no read there, and those who are, or come, are found.
fn who_is_new_costs_no_read_of_the_store(place: Place) {
    let mut ledger = Ledger::default();
    let mut dice = Dice::new(3);
    (0..40).for_each(|_| ledger.append(&mut dice, 20));
    let view = place.serving(&Ledger::default());
    ledger.apply_from(&view, 0);
    view.close().unwrap();
    drop(view);
    let (view, _) = place.open();
    let misses_of = |persons: std::ops::Range<u64>| {
        let before = view.stats().cache_misses;
        persons.for_each(|n| assert_eq!(view.get(&person(n)).unwrap(), Person::default()));
        view.stats().cache_misses - before
    };
    assert_eq!(misses_of(100..120), 20, "nobody knows yet who is there");
    (0..SHARDS).for_each(|_| view.inner.look_for_persons());
    assert_eq!(misses_of(120..140), 0);
    ledger.check(&view, 20, "once the store was looked through");
    (0..40).for_each(|_| ledger.append(&mut dice, 60));
    ledger.apply_from(&view, 40);
    assert!(view.inner.sweep(Pace::Full).unwrap());
    ledger.check(&view, 60, "after others came");
    view.close().unwrap();
}

fn random_histories_read_as_the_ledger_says(place: Place) {
    let mut dice = Dice::new(2);
    let mut ledger = Ledger::default();
    let mut view = place.serving(&ledger);
    let mut counts = [0; 30];
    for _ in 0..300 {
        view.inner.look_for_persons();
        match dice.below(20) {
            0..6 => {
                ledger.append(&mut dice, 30);
                ledger.apply_from(&view, ledger.events.len() - 1);
            }
            6..14 => {
                let n = dice.below(30);
                counts[n as usize] += 1;
                assert_eq!(count(&view, &person(n)).unwrap(), counts[n as usize]);
            }
            14..18 => {
                let n = dice.below(30);
                assert_eq!(count_of(&view, &person(n)), counts[n as usize]);
            }
            18 => assert!(view.inner.sweep(Pace::Full).unwrap()),
            _ if dice.below(4) == 0 => {
                view.close().unwrap();
                drop(view);
                view = place.serving(&ledger);
            }
            _ => assert!(!view.inner.tend(Duration::ZERO, Instant::now())),
        }
    }
    ledger.check(&view, 30, "at the end");
    (0..30).for_each(|n| assert_eq!(count_of(&view, &person(n)), counts[n as usize]));
    // The same event again changes nothing.
    ledger.apply_from(&view, 0);
    ledger.check(&view, 30, "applied again");
}

fn a_rebuild_equals_incremental_application(make: &dyn Fn() -> Place) {
    let mut dice = Dice::new(3);
    let mut ledger = Ledger::default();
    (0..600).for_each(|_| ledger.append(&mut dice, 200));
    let place = make();
    let (view, opened) = place.open();
    assert!(opened.rebuild.is_some());
    assert!(matches!(view.get(&person(0)), Err(ViewError::Rebuilding)));
    assert!(matches!(count(&view, &person(0)), Err(ViewError::Rebuilding)));
    ledger.rebuild(&view);
    ledger.check(&view, 200, "rebuilt");
    assert_eq!(view.stats().persons, ledger.persons.len() as u64);
    assert!(!view.inner.folder.spill().exists());
    // And goes on from there.
    ledger.append(&mut dice, 200);
    ledger.apply_from(&view, 600);
    view.close().unwrap();
    drop(view);
    let (view, opened) = place.open();
    assert_eq!(opened.replay_from, ledger.position(601));
    ledger.check(&view, 200, "rebuilt and reopened");
    // It can be asked for at any time, and forgets what is not in the ledger.
    let mut shorter = Ledger::default();
    (0..50).for_each(|_| shorter.append(&mut dice, 200));
    ledger.apply_from(&view, 600);
    count(&view, &person(0)).unwrap();
    let rebuilder = view.rebuild().unwrap();
    assert!(matches!(view.get(&person(0)), Err(ViewError::Rebuilding)));
    drop(rebuilder);
    shorter.rebuild(&view);
    shorter.check(&view, 200, "rebuilt from a shorter ledger");
    assert_eq!((view.applied(), count_of(&view, &person(0))), (shorter.position(50), 1));
    assert!(view.inner.sweep(Pace::Full).unwrap());
    shorter.check(&view, 200, "and drained");
}

fn buckets_split_as_persons_come(place: Place) {
    const PERSONS: u64 = 6_000;
    let view = place.serving(&Ledger::default());
    for n in 0..PERSONS {
        let known = view.update(&person(n), |person| {
            person.trail.push(Position::from_u64(n));
            ((), Touched::Consent)
        });
        known.unwrap();
        count(&view, &person(n)).unwrap();
        if n % 1_000 == 999 {
            assert!(view.inner.sweep(Pace::Full).unwrap());
        }
    }
    let stored = view.inner.stored.lock().clone();
    assert!(stored.layouts.iter().all(|layout| layout.depth >= 9), "{:?}", stored.layouts);
    assert_eq!(stored.persons.iter().map(|persons| u64::from(*persons)).sum::<u64>(), PERSONS);
    let mut buckets = 0;
    view.inner.store.scan(b"b", &mut |_, _| buckets += 1).unwrap();
    assert!((PERSONS / 9..=PERSONS / 2).contains(&buckets), "{buckets} buckets");
    view.close().unwrap();
    drop(view);
    let (view, _) = place.open();
    for n in 0..PERSONS {
        assert_eq!(count_of(&view, &person(n)), 1, "{n}");
        assert_eq!(view.get(&person(n)).unwrap().trail, [Position::from_u64(n)]);
    }
}

fn updates_of_many_threads_are_all_counted(mut place: Place) {
    place.thread = true;
    place.config.overlay_max_mib = 1;
    let view = place.serving(&Ledger::default());
    const EACH: u64 = 3_000;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let view = view.clone();
            scope.spawn(move || {
                let mut dice = Dice::new(thread);
                for round in 0..EACH {
                    // Many persons, so that reads, updates, evictions and drains meet; one whom everybody counts.
                    let who = if round % 3 == 0 { person(0) } else { person(1 + dice.below(4_000)) };
                    while count(&view, &who).is_err() {
                        std::thread::yield_now();
                    }
                    if round % 256 == 0 {
                        view.inner.wake_thread();
                    }
                }
            });
        }
    });
    let total = |view: &View| (0..=4_000).map(|n| count_of(view, &person(n))).sum::<u64>();
    assert_eq!(count_of(&view, &person(0)), 4 * EACH / 3);
    assert_eq!(total(&view), 4 * EACH);
    view.close().unwrap();
    drop(view);
    let (view, _) = place.open();
    assert_eq!(total(&view), 4 * EACH);
}

fn the_overlay_is_bounded(mut place: Place) {
    place.config.overlay_max_mib = 1;
    let mut ledger = Ledger::default();
    let view = place.serving(&ledger);
    let held = (0..).find(|n| count(&view, &person(*n)).is_err()).unwrap();
    assert!(matches!(count(&view, &person(held)), Err(ViewError::Full)));
    assert!((MIB..MIB + 1_000).contains(&view.stats().overlay_bytes), "{:?}", view.stats());
    // Who is in it already goes on, reads go on, and consent is never refused.
    assert_eq!(count(&view, &person(0)).unwrap(), 2);
    assert_eq!(count_of(&view, &person(held)), 0);
    ledger.append(&mut Dice::new(4), 10);
    ledger.apply_from(&view, 0);
    ledger.check(&view, 10, "beyond the bound");
    assert!(view.inner.sweep(Pace::Full).unwrap());
    assert_eq!(view.stats().overlay_bytes, 0);
    assert_eq!(count(&view, &person(held)).unwrap(), 1);
}

fn a_restart_has_room_beside_what_the_journal_gave_back(mut place: Place) {
    place.config.overlay_max_mib = 2;
    let view = place.serving(&Ledger::default());
    let held = (0..).find(|n| count(&view, &person(*n)).is_err()).unwrap();
    view.inner.usage.flush();
    drop(view);
    place.config.overlay_max_mib = 1;
    let (view, _) = place.open();
    assert!(view.stats().overlay_bytes > MIB, "{held} {:?}", view.stats());
    assert_eq!(count(&view, &person(held)).unwrap(), 1);
    assert!(view.inner.sweep(Pace::Full).unwrap());
    let fits = (held..).find(|n| count(&view, &person(*n)).is_err()).unwrap() - held;
    assert!(fits < held / 2 + 10, "{fits} fit and {held} did");
}

fn a_full_disk_pauses(place: Place) {
    let mut ledger = Ledger::default();
    let view = place.serving(&ledger);
    count(&view, &person(0)).unwrap();
    assert!(view.inner.sweep(Pace::Full).unwrap());
    let stored = view.stats().stored;
    place.free_mib.store(63, Ordering::Relaxed);
    view.inner.tend(Duration::ZERO, Instant::now());
    assert_eq!(view.stats().health, Health::Paused);
    let (writes, journal) = (place.disk.as_ref().map(Disk::writes), view.stats().journal_bytes);
    ledger.append(&mut Dice::new(5), 10);
    ledger.apply_from(&view, 0);
    assert_eq!(count(&view, &person(0)).unwrap(), 2);
    assert!(!view.inner.sweep(Pace::Full).unwrap());
    view.inner.tend(drain::SWEEP_AFTER, Instant::now());
    assert_eq!((place.disk.as_ref().map(Disk::writes), view.stats().journal_bytes), (writes, journal));
    assert_eq!(view.stats().stored, stored);
    ledger.check(&view, 10, "paused");
    place.free_mib.store(64, Ordering::Relaxed);
    view.inner.tend(drain::SWEEP_AFTER, Instant::now());
    assert_eq!((view.stats().health, view.stats().dirty), (Health::Normal, 0));
    assert_eq!(view.stats().stored, ledger.position(1));
    // Stopping with a full disk says so, and the next start has the ledger's part.
    count(&view, &person(0)).unwrap();
    place.free_mib.store(0, Ordering::Relaxed);
    assert!(matches!(view.close(), Err(ViewError::Full)));
    drop(view);
    let (view, opened) = place.open();
    assert_eq!((opened.rebuild, opened.replay_from), (None, ledger.position(1)));
    ledger.check(&view, 10, "reopened");
}

fn registry_entries_survive(place: Place) {
    let mut dice = Dice::new(6);
    let view = place.serving(&Ledger::default());
    let (mut templates, mut senders) = (0, 0);
    let mut last = None;
    while templates < 20 || senders < 20 {
        match dice.roll(strategies::ledger_entry()) {
            LedgerEntry::Template(entry) => {
                templates += 1;
                last = Some(entry.clone());
                view.put_template(entry);
            }
            LedgerEntry::Sender(entry) => {
                senders += 1;
                view.put_sender(entry);
            }
            LedgerEntry::Distrust { origin, from_sequence, .. } => {
                view.put_distrust(origin, from_sequence);
            }
            LedgerEntry::Consent(_) | LedgerEntry::Erasure { .. } => {}
        }
    }
    let last = last.unwrap();
    let business = last.business.as_str();
    let known = view.template(business, &last.name, &last.language).unwrap();
    let (all, senders) = (view.templates(business), view.senders(business));
    view.put_distrust(OriginId([9; 16]), 7);
    let distrust = view.distrust();
    view.close().unwrap();
    drop(view);
    let (view, _) = place.open();
    assert_eq!(view.template(business, &last.name, &last.language), Some(known));
    assert_eq!((view.templates(business), view.senders(business)), (all, senders));
    assert_eq!(view.distrust(), distrust);
    assert_eq!(view.template(business, "no such", "en"), None);
}

fn notes_come_back(place: Place) {
    let read = |view: &View| {
        let mut found = Vec::new();
        view.restore_notes(|note| {
            found.push(match note {
                Note::Checkpoint { name, bytes } => format!("{name}={}", String::from_utf8_lossy(bytes)),
                Note::Entry { tag, bytes } => format!("{tag}:{}", String::from_utf8_lossy(bytes)),
            });
        })
        .unwrap();
        found
    };
    let view = place.serving(&Ledger::default());
    assert!(read(&view).is_empty());
    view.note(1, b"a");
    view.note(2, b"b");
    view.note(2, &vec![0; NOTE_LEN_MAX + 1]);
    view.inner.tend(Duration::ZERO, Instant::now());
    drop(view);
    let view = place.serving(&Ledger::default());
    assert_eq!(read(&view), ["1:a", "2:b"], "after a crash");
    view.on_checkpoint(|| vec![("all".into(), b"a, b".to_vec())]);
    view.inner.write_checkpoint().unwrap();
    view.note(3, b"c");
    view.inner.tend(Duration::ZERO, Instant::now());
    drop(view);
    let view = place.serving(&Ledger::default());
    assert_eq!(read(&view), ["all=a, b", "3:c"], "a checkpoint and what came after");
    view.on_checkpoint(|| vec![("all".into(), b"a, b, c".to_vec())]);
    view.close().unwrap();
    drop(view);
    let (view, _) = place.open();
    assert_eq!(read(&view), ["all=a, b, c"], "after a clean stop");
}

fn a_closed_view_refuses(place: Place) {
    let view = place.serving(&Ledger::default());
    view.close().unwrap();
    view.close().unwrap();
    assert!(matches!(view.get(&person(1)), Err(ViewError::Closed)));
    assert!(matches!(count(&view, &person(1)), Err(ViewError::Closed)));
    assert!(matches!(view.rebuild(), Err(ViewError::Closed)));
    assert_eq!(view.stats().phase, Phase::Closed);
}
