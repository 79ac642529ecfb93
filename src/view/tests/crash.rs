//! Crashes at any moment: consent comes back with the ledger, and of usage at most what was not written is lost.

use super::*;

const PERSONS: u64 = 12;

/// Random work on one disk, with crashes in between.
fn run(seed: u64) {
    let mut dice = Dice::new(seed);
    let disk = Disk::default();
    let place = Place::new(Some(disk.clone()));
    let mut ledger = Ledger::default();
    let mut view = place.serving(&ledger);
    // What each person was counted at least, after any crash, and at most.
    let mut written = [0; PERSONS as usize];
    let mut counted = [0; PERSONS as usize];
    for step in 0..120 {
        match dice.below(18) {
            0..4 => {
                ledger.append(&mut dice, PERSONS);
                ledger.apply_from(&view, ledger.events.len() - 1);
            }
            4..11 => {
                let n = dice.below(PERSONS);
                counted[n as usize] = count(&view, &person(n)).unwrap();
            }
            11 => {
                view.inner.tend(Duration::ZERO, Instant::now());
                written = counted;
            }
            17 => {
                assert!(view.inner.shorten_journal().unwrap());
                written = counted;
            }
            16 => {
                assert!(view.inner.move_usage(Pace::Full).unwrap());
                written = counted;
            }
            12 | 13 => {
                view.inner.sweep(Pace::Full).unwrap();
                written = counted;
            }
            14 => {
                // Cut short in the middle of a sweep: by the store, as a kill would.
                disk.fail_after(1 + dice.below(12));
                let _may_fail = view.inner.sweep(Pace::Full);
                crash(&mut dice, &disk, &place, &ledger, &mut view);
            }
            _ => crash(&mut dice, &disk, &place, &ledger, &mut view),
        }
        let context = format!("seed {seed}, step {step}");
        ledger.check(&view, PERSONS, &context);
        for n in 0..PERSONS as usize {
            let found = count_of(&view, &person(n as u64));
            assert!((written[n]..=counted[n]).contains(&found), "{context}: person {n} has {found}");
            counted[n] = found;
            written[n] = written[n].min(found);
        }
    }
}

/// Kills the process and starts it again.
fn crash(dice: &mut Dice, disk: &Disk, place: &Place, ledger: &Ledger, view: &mut View) {
    let keep = dice.below(disk.unflushed() as u64 + 1) as usize;
    *view = Place::memory().serving(&Ledger::default());
    disk.crash(keep);
    // A kill lets nobody give the view up, as the failing store did.
    let state = State { ledger: LEDGER, boot: place.boot.clone(), built: true, clean: false };
    folder::Folder::open(&place.dir()).unwrap().say(&state).unwrap();
    let (opened, found) = place.open();
    assert_eq!(found.rebuild, None);
    ledger.replay(&opened, found.replay_from);
    *view = opened;
}

#[test]
fn crashes_at_random_moments_lose_no_consent_and_little_usage() {
    (0..60).for_each(run);
}

#[test]
fn a_store_that_fails_takes_no_more_writes_and_is_rebuilt() {
    for fail_after in 1..40 {
        let mut dice = Dice::new(fail_after);
        let disk = Disk::default();
        let mut place = Place::new(Some(disk.clone()));
        place.config.overlay_max_mib = 1;
        let mut ledger = Ledger::default();
        let view = place.serving(&ledger);
        (0..30).for_each(|_| ledger.append(&mut dice, PERSONS));
        ledger.apply_from(&view, 0);
        (0..PERSONS).for_each(|n| assert_eq!(count(&view, &person(n)).unwrap(), 1));
        disk.fail_after(fail_after);
        let swept = view.inner.sweep(Pace::Full);
        let Err(err) = swept else {
            assert!(fail_after > 10, "the sweep writes more than ten times");
            continue;
        };
        assert!(matches!(err, ViewError::Store(StoreError::Failed(_))), "{err}");
        let stats = view.stats();
        assert_eq!(stats.health, Health::Degraded);
        assert!(stats.fault.unwrap().contains("no space left"));
        // It answers, takes changes in memory, and leaves the store alone.
        let writes = disk.writes();
        ledger.check(&view, PERSONS, "degraded");
        ledger.append(&mut dice, PERSONS);
        ledger.apply_from(&view, 30);
        (0..PERSONS).for_each(|n| assert_eq!(count(&view, &person(n)).unwrap(), 2));
        assert!(!view.inner.sweep(Pace::Full).unwrap());
        view.inner.tend(drain::SWEEP_AFTER, Instant::now());
        assert_eq!(disk.writes(), writes);
        assert!(view.close().is_err());
        drop(view);
        let (view, opened) = place.open();
        assert!(opened.rebuild.is_some());
        ledger.rebuild(&view);
        ledger.check(&view, PERSONS, "rebuilt");
        // The journal was kept: usage that was never drained for good is there.
        (0..PERSONS).for_each(|n| assert_eq!(count_of(&view, &person(n)), 2));
    }
}

/// Kills the process, its store written out or not, and starts it again.
fn killed(disk: &Disk, place: &Place, view: View) -> View {
    drop(view);
    disk.crash(0);
    let state = State { ledger: LEDGER, boot: place.boot.clone(), built: true, clean: false };
    folder::Folder::open(&place.dir()).unwrap().say(&state).unwrap();
    let (view, found) = place.open();
    assert_eq!(found.rebuild, None);
    view
}

#[test]
fn what_was_moved_to_the_log_is_there_after_a_kill_without_its_journal() {
    let disk = Disk::default();
    let place = Place::new(Some(disk.clone()));
    let view = place.serving(&Ledger::default());
    for _ in 0..200 {
        (0..PERSONS).for_each(|n| assert!(count(&view, &person(n)).is_ok()));
        view.inner.usage.flush();
    }
    assert!(view.inner.usage.bytes() > 0);
    assert!(view.inner.move_usage(Pace::Full).unwrap());
    assert_eq!((view.inner.usage.bytes(), view.stats().dirty), (0, 0));
    assert_eq!(disk.writes(), place.disk.as_ref().unwrap().writes(), "the store was left alone");
    assert_eq!(view.stats().logged_persons, PERSONS);
    let view = killed(&disk, &place, view);
    (0..PERSONS).for_each(|n| assert_eq!(count_of(&view, &person(n)), 200));
}

#[test]
fn a_journal_that_was_made_short_says_the_same() {
    let disk = Disk::default();
    let place = Place::new(Some(disk.clone()));
    let view = place.serving(&Ledger::default());
    (0..PERSONS / 2).for_each(|n| assert!(count(&view, &person(n)).is_ok()));
    assert!(view.inner.move_usage(Pace::Full).unwrap());
    for _ in 0..200 {
        (PERSONS / 2..PERSONS).for_each(|n| assert!(count(&view, &person(n)).is_ok()));
        view.inner.usage.flush();
    }
    let long = view.inner.usage.bytes();
    assert!(view.inner.shorten_journal().unwrap());
    let short = view.inner.usage.bytes();
    assert!(short * 20 < long, "{long} to {short} bytes");
    let view = killed(&disk, &place, view);
    (0..PERSONS / 2).for_each(|n| assert_eq!(count_of(&view, &person(n)), 1));
    (PERSONS / 2..PERSONS).for_each(|n| assert_eq!(count_of(&view, &person(n)), 200));
}

#[test]
fn a_journal_that_cannot_be_written_anew_stays() {
    let disk = Disk::default();
    let place = Place::new(Some(disk.clone()));
    let view = place.serving(&Ledger::default());
    (0..PERSONS).for_each(|n| assert!(count(&view, &person(n)).is_ok()));
    view.inner.usage.flush();
    // A folder where the new file should be.
    fs::create_dir(place.dir().join("usage-2.journal")).unwrap();
    assert!(!view.inner.shorten_journal().unwrap());
    fs::remove_dir(place.dir().join("usage-2.journal")).unwrap();
    let view = killed(&disk, &place, view);
    (0..PERSONS).for_each(|n| assert_eq!(count_of(&view, &person(n)), 1));
}

#[test]
fn usage_stays_in_memory_and_journal_while_its_log_cannot_be_written() {
    let disk = Disk::default();
    let place = Place::new(Some(disk.clone()));
    let view = place.serving(&Ledger::default());
    (0..PERSONS).for_each(|n| assert!(count(&view, &person(n)).is_ok()));
    assert!(view.inner.move_usage(Pace::Full).unwrap());
    (0..PERSONS).for_each(|n| assert!(count(&view, &person(n)).is_ok()));
    view.inner.usage.flush();
    let mut ledger = Ledger::default();
    (0..20).for_each(|_| ledger.append(&mut Dice::new(3), PERSONS));
    ledger.apply_from(&view, 0);
    let whole = view.inner.log.lock().on_a_full_disk();
    assert!(matches!(view.inner.sweep(Pace::Full), Err(ViewError::Io { .. })));
    assert_eq!((view.stats().health, view.stats().dirty), (Health::Normal, PERSONS));
    assert_eq!(view.stats().stored, ledger.position(20), "consent does not wait for it");
    assert!(view.inner.usage.bytes() > 0);
    (0..PERSONS).for_each(|n| assert_eq!(count_of(&view, &person(n)), 2));
    view.inner.log.lock().on_its_own_disk(whole);
    // A folder where the log is to be written anew.
    view.inner.log.lock().grow_old();
    let anew = place.dir().join("usage-2.log.new");
    fs::create_dir(&anew).unwrap();
    assert!(view.inner.sweep(Pace::Full).unwrap());
    assert_eq!((view.stats().dirty, view.inner.usage.bytes()), (0, 0), "that is for later");
    assert!(place.dir().join("usage-1.log").exists());
    fs::remove_dir(&anew).unwrap();
    (0..PERSONS).for_each(|n| assert!(count(&view, &person(n)).is_ok()));
    place.free_mib.store(64, Ordering::Relaxed);
    assert!(view.inner.sweep(Pace::Full).unwrap());
    assert!(place.dir().join("usage-1.log").exists(), "there is no room for two");
    place.free_mib.store(1_000, Ordering::Relaxed);
    (0..PERSONS).for_each(|n| assert!(count(&view, &person(n)).is_ok()));
    assert!(view.inner.sweep(Pace::Full).unwrap());
    assert!(place.dir().join("usage-2.log").exists() && !place.dir().join("usage-1.log").exists());
    let view = killed(&disk, &place, view);
    (0..PERSONS).for_each(|n| assert_eq!(count_of(&view, &person(n)), 4));
}

/// Who does not fit into the log's index goes to the store, of which a crash keeps any part.
#[test]
fn usage_beyond_the_index_survives_kills_in_the_store() {
    const MANY: u64 = 3_000;
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let disk = Disk::default();
        let mut place = Place::new(Some(disk.clone()));
        place.config.usage_persons_max = 1_024;
        let mut view = place.serving(&Ledger::default());
        let mut counts = vec![0; MANY as usize];
        for round in 0..8 {
            for _ in 0..MANY {
                let n = dice.below(MANY);
                counts[n as usize] = count(&view, &person(n)).unwrap();
            }
            assert!(view.inner.move_usage(Pace::Full).unwrap());
            let stats = view.stats();
            assert!(stats.logged_persons <= 1_024, "{stats:?}");
            assert!(stats.persons > 0 && stats.dirty == 0);
            if dice.below(2) == 0 {
                let keep = dice.below(disk.unflushed() as u64 + 1) as usize;
                drop(view);
                disk.crash(keep);
                let state = State { ledger: LEDGER, boot: place.boot.clone(), built: true, clean: false };
                folder::Folder::open(&place.dir()).unwrap().say(&state).unwrap();
                view = place.serving(&Ledger::default());
            }
            for n in 0..MANY {
                assert_eq!(
                    count_of(&view, &person(n)),
                    counts[n as usize],
                    "seed {seed}, round {round}, {n}"
                );
            }
        }
        // What peers tell of them finds it as well, where nothing of them is in memory.
        view.close().unwrap();
        drop(view);
        let (view, _) = place.open();
        for n in 0..MANY {
            let mut found = 0;
            let changed = view.update_usage(&person(n), |usage, _| {
                found = usage.last_allowed(Channel::Sms).map_or(0, |last| last.time.0.cast_unsigned());
                false
            });
            assert_eq!((changed.unwrap(), found), (false, counts[n as usize]), "seed {seed}, {n}");
        }
    }
}

/// However much of a sweep a crash keeps: what is in the store is said to be there, so that a ledger that ends before is known for another.
#[test]
fn whatever_the_store_may_hold_was_said_before() {
    let mut held = 0;
    for keep in 0.. {
        let disk = Disk::default();
        let place = Place::new(Some(disk.clone()));
        let mut ledger = Ledger::default();
        let view = place.serving(&ledger);
        ledger.append(&mut Dice::new(1), 1);
        ledger.apply_from(&view, 0);
        {
            let mut stored = view.inner.stored.lock();
            for shard in 0..SHARDS {
                assert!(view.inner.drain_shard(&mut stored, shard, Pace::Full).unwrap());
            }
        }
        if keep > disk.unflushed() {
            break;
        }
        drop(view);
        disk.crash(keep);
        let state = State { ledger: LEDGER, boot: place.boot.clone(), built: true, clean: false };
        folder::Folder::open(&place.dir()).unwrap().say(&state).unwrap();
        let (view, opened) = place.open();
        if view.get(&person(0)).unwrap() != Person::default() {
            held += 1;
            assert_eq!(opened.ahead, Some(ledger.position(0)), "{keep} writes kept");
        }
    }
    assert!(held > 0, "it came to the store");
}
