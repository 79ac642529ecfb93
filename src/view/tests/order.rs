//! Buckets are laid out anew: in order, in more of them, and whatever cuts that short. And who asks while a rebuild begins.

use std::ops::ControlFlow;

use super::*;
use crate::view::bucket::Layout;

const SHARD: usize = 7;
const PERSONS: u64 = 600;

/// Person number `n` of one shard.
fn neighbour(n: u64) -> Identifier {
    let mut who = person(n);
    who.0[0] = SHARD as u8;
    who
}

/// Adds something to what is known of these persons, and brings it into the store.
fn touch(view: &View, persons: impl Iterator<Item = u64>, mark: u64) -> Result<(), ViewError> {
    for n in persons {
        view.update(&neighbour(n), |person| {
            person.trail.push(Position::from_u64(mark));
            ((), Touched::Consent)
        })?;
    }
    view.inner.sweep(Pace::Full).map(drop)
}

/// Everybody is known with `marks`, by name and in an export.
fn check(view: &View, persons: u64, marks: &[u64], context: &str) {
    let marks: Vec<_> = marks.iter().copied().map(Position::from_u64).collect();
    let mut all = BTreeMap::new();
    let read = view.each_of(SHARD, |who, person| {
        all.insert(who, person.trail);
        ControlFlow::Continue(())
    });
    read.unwrap();
    assert_eq!(all.len() as u64, persons, "{context}");
    // Not what the cache remembers.
    view.inner.shards[SHARD].lock().forget_read();
    for n in 0..persons {
        let who = neighbour(n);
        assert_eq!(view.get(&who).unwrap().trail, marks, "{context}: {n}");
        assert_eq!(all[&who], marks, "{context}: {n}, exported");
    }
}

fn layout(view: &View) -> Layout {
    view.inner.stored.lock().layouts[SHARD]
}

fn buckets_stored(view: &View) -> usize {
    let mut buckets = 0;
    view.inner.store.scan(b"b", &mut |_, _| buckets += 1).unwrap();
    buckets
}

/// Looks around once a second for a while, in which so many changes a second come; returns when that is over.
fn look_around(view: &View, mut now: Instant, changes_per_second: u64) -> Instant {
    for _ in 0..10 {
        now += Duration::from_secs(1);
        view.inner.consent_changes.fetch_add(changes_per_second, Ordering::Relaxed);
        view.inner.tend(Duration::ZERO, now);
    }
    now
}

/// A view of [`PERSONS`] whose buckets were written one by one, and what everybody is known with.
fn scattered(place: &Place) -> (View, Vec<u64>) {
    let view = place.serving(&Ledger::default());
    // Each sweep doubles the buckets once at most.
    let marks: Vec<u64> = (1..12).collect();
    marks.iter().for_each(|round| touch(&view, 0..PERSONS, *round).unwrap());
    assert!(layout(&view).buckets() >= 128, "{:?}", layout(&view));
    assert_eq!(view.stats().scattered_shards, 1);
    (view, marks)
}

fn scattered_buckets_are_put_in_order(place: Place) {
    let (view, marks) = scattered(&place);
    let (before, stored) = (layout(&view), buckets_stored(&view));
    // Not while much is taken in.
    let now = look_around(&view, Instant::now(), 600);
    assert_eq!((layout(&view), view.stats().scattered_shards), (before, 1));
    // Nor where a second view would not fit.
    place.free_mib.store(64, Ordering::Relaxed);
    let now = look_around(&view, now, 0);
    assert_eq!((layout(&view), view.stats().scattered_shards), (before, 1));
    place.free_mib.store(1_000, Ordering::Relaxed);
    look_around(&view, now, 500);
    assert_eq!((layout(&view), view.stats().scattered_shards), (before.beside(before.depth), 0));
    assert_eq!(buckets_stored(&view), stored, "the old ones are gone");
    check(&view, PERSONS, &marks, "in order");
    view.close().unwrap();
    drop(view);
    let (view, opened) = place.open();
    assert_eq!((opened.rebuild, view.stats().scattered_shards), (None, 0));
    check(&view, PERSONS, &marks, "opened again");
}

#[test]
fn scattered_buckets_are_put_in_order_by_a_quiet_sidecar() {
    scattered_buckets_are_put_in_order(Place::memory());
    scattered_buckets_are_put_in_order(Place::sled());
}

/// Cuts laying out short at each of its writes, and keeps some of what was written since the last flush.
#[test]
fn what_cuts_it_short_loses_nobody() {
    const FEW: u64 = 40;
    const LEFT: u64 = 10;
    let mut finished = 0;
    for (at, more) in (1..80).flat_map(|at| [(at, 0), (at, 1)]) {
        let disk = Disk::default();
        let place = Place::new(Some(disk.clone()));
        let view = place.serving(&Ledger::default());
        for round in 1..5 {
            touch(&view, 0..FEW, round).unwrap();
        }
        let context = format!("cut short at write {at}, {more} bits more");
        let depth = layout(&view).depth + more;
        disk.fail_after(at);
        let laid_out = view.inner.lay_out(&mut view.inner.stored.lock(), SHARD, depth, Pace::Full);
        finished += usize::from(laid_out.is_ok());
        // Reads go on in any case.
        check(&view, FEW, &[1, 2, 3, 4], &context);
        let kept = Dice::new(at).below(disk.unflushed() as u64 + 1) as usize;
        drop(view);
        disk.crash(kept);
        let (view, opened) = place.open();
        assert_eq!(opened.rebuild, None);
        check(&view, FEW, &[1, 2, 3, 4], &context);
        // What was left where the next attempts write is not taken for anybody.
        for n in LEFT..FEW {
            let gone = view.update(&neighbour(n), |person| {
                person.trail.clear();
                ((), Touched::Consent)
            });
            gone.unwrap();
        }
        touch(&view, 0..LEFT, 5).unwrap();
        for _ in 0..2 {
            let depth = layout(&view).depth;
            let mut stored = view.inner.stored.lock();
            assert!(view.inner.lay_out(&mut stored, SHARD, depth, Pace::Full).unwrap());
        }
        check(&view, LEFT, &[1, 2, 3, 4, 5], &context);
        let mut stored = view.inner.stored.lock();
        assert_eq!(u64::from(stored.persons[SHARD]), LEFT);
        // And in twice as many buckets.
        let depth = stored.layouts[SHARD].depth + 1;
        assert!(view.inner.lay_out(&mut stored, SHARD, depth, Pace::Full).unwrap());
        drop(stored);
        check(&view, LEFT, &[1, 2, 3, 4, 5], &context);
    }
    assert!((10..140).contains(&finished), "{finished}");
}

#[test]
fn it_ends_when_the_disk_is_full_or_there_is_something_to_sweep() {
    let place = Place::memory();
    let (view, marks) = scattered(&place);
    let (before, stored) = (layout(&view), buckets_stored(&view));
    let lay_out =
        |pace, depth| view.inner.lay_out(&mut view.inner.stored.lock(), SHARD, depth, pace).unwrap();
    place.free_mib.store(1, Ordering::Relaxed);
    for (pace, depth) in [(Pace::Full, before.depth), (Pace::Gentle, before.depth + 1)] {
        assert!(!lay_out(pace, depth));
        assert_eq!(layout(&view), before);
        assert!(buckets_stored(&view) > stored, "some were written");
        check(&view, PERSONS, &marks, "cut short");
    }
    place.free_mib.store(1_000, Ordering::Relaxed);
    view.inner.events.store(1_000_000, Ordering::Relaxed);
    assert!(!lay_out(Pace::Idle, before.depth));
    assert_eq!(layout(&view), before);
    assert!(lay_out(Pace::Gentle, before.depth));
    assert_eq!(buckets_stored(&view), stored, "nothing is left of any attempt");
    check(&view, PERSONS, &marks, "laid out");
}

#[test]
fn an_export_goes_on_across_it() {
    let place = Place::memory();
    let (view, marks) = scattered(&place);
    let mut seen = Vec::new();
    let read = view.each_of(SHARD, |who, person| {
        assert_eq!(person.trail.len(), marks.len());
        seen.push(who);
        if seen.len() % 100 == 0 {
            let mut stored = view.inner.stored.lock();
            // In as many buckets, and in twice as many.
            let depth = stored.layouts[SHARD].depth + (seen.len() % 200 == 0) as u8;
            assert!(view.inner.lay_out(&mut stored, SHARD, depth, Pace::Full).unwrap());
        }
        ControlFlow::Continue(())
    });
    read.unwrap();
    assert!(seen.is_sorted());
    assert_eq!(seen.len() as u64, PERSONS);
}

#[test]
fn readers_beside_it_find_everybody() {
    const ROUNDS: u32 = 40;
    let place = Place::sled();
    let (view, marks) = scattered(&place);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (view, marks, done) = (&view, &marks, &done);
            scope.spawn(move || {
                let mut n = reader;
                while !done.load(Ordering::Relaxed) {
                    n = (n + 7) % PERSONS;
                    view.inner.shards[SHARD].lock().forget_read();
                    assert_eq!(view.get(&neighbour(n)).unwrap().trail.len(), marks.len(), "{n}");
                }
            });
        }
        for round in 0..ROUNDS {
            let mut stored = view.inner.stored.lock();
            let depth = stored.layouts[SHARD].depth + u8::from(round == ROUNDS / 2);
            assert!(view.inner.lay_out(&mut stored, SHARD, depth, Pace::Full).unwrap());
        }
        done.store(true, Ordering::Relaxed);
    });
    check(&view, PERSONS, &marks, "behind all of it");
}

/// Whoever asked just before a rebuild empties the store is not told that nobody is known.
#[test]
fn who_asks_while_a_rebuild_begins_is_told_what_was_known_or_that_it_is_being_built() {
    for _ in 0..20 {
        let place = Place::memory();
        let view = place.serving(&Ledger::default());
        touch(&view, 0..1, 1).unwrap();
        let who = neighbour(0);
        let mut held = view.inner.shards[SHARD].lock();
        held.forget_read();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| view.get(&who));
            // Most likely it waits for the lock by now.
            (0..100).for_each(|_| std::thread::yield_now());
            let rebuilt = scope.spawn(|| view.rebuild().map(drop));
            while view.inner.phase() == Phase::Serving {
                std::thread::yield_now();
            }
            (0..100).for_each(|_| std::thread::yield_now());
            drop(held);
            match asked.join().unwrap() {
                Ok(person) => assert_eq!(person.trail.len(), 1, "nobody is known"),
                Err(err) => assert!(matches!(err, ViewError::Rebuilding), "{err}"),
            }
            rebuilt.join().unwrap().unwrap();
        });
    }
}

/// An opt-in of a forked origin does not count again for whoever asks while a rebuild begins.
#[test]
fn what_is_distrusted_stays_so_while_a_rebuild_begins() {
    let place = Place::memory();
    let mut dice = Dice::new(1);
    // Until there is an event that distrust takes something away from.
    let (ledger, view, plain) = loop {
        let mut ledger = Ledger::default();
        ledger.append(&mut dice, 1);
        let view = Place::memory().serving(&ledger);
        let plain = view.get(&person(0)).unwrap().record;
        view.put_distrust(ledger.events[0].0.origin, 1);
        if view.get(&person(0)).unwrap().record != plain {
            break (ledger, place.serving(&Ledger::default()), plain);
        }
    };
    let (id, event) = &ledger.events[0];
    let done = std::sync::atomic::AtomicBool::new(false);
    let rebuild = || {
        let mut rebuilder = view.rebuild().unwrap();
        rebuilder.distrust(id.origin, 1);
        rebuilder.event(ledger.position(0), *id, event).unwrap();
        rebuilder.finish(ledger.position(1), |_, _| {}).unwrap();
    };
    rebuild();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    match view.get(&person(0)) {
                        // Not printed: records are long.
                        Ok(person) => assert!(person.record != plain, "it counts again"),
                        Err(err) => assert!(matches!(err, ViewError::Rebuilding), "{err}"),
                    }
                }
            });
        }
        (0..300).for_each(|_| rebuild());
        done.store(true, Ordering::Relaxed);
    });
}
