//! Buckets are laid out anew: in order, in more of them, and whatever cuts that short.

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

/// Looks around until nothing is scattered, but not for ever.
fn look_around(view: &View) {
    for _ in 0..10 {
        view.inner.tend(Duration::ZERO);
    }
}

fn scattered_buckets_are_put_in_order(place: Place) {
    let view = place.serving(&Ledger::default());
    // Each sweep doubles the buckets once at most.
    for round in 1..12 {
        touch(&view, 0..PERSONS, round).unwrap();
    }
    let marks: Vec<u64> = (1..12).collect();
    let (before, stored) = (layout(&view), buckets_stored(&view));
    assert!(before.buckets() >= 128, "{before:?}");
    assert_eq!(view.stats().scattered_shards, 1);
    // Not while much is taken in.
    for _ in 0..10 {
        view.inner.events.fetch_add(500, Ordering::Relaxed);
        view.inner.tend(Duration::ZERO);
    }
    assert_eq!((layout(&view), view.stats().scattered_shards), (before, 1));
    // Nor where a second view would not fit.
    place.free_mib.store(64, Ordering::Relaxed);
    look_around(&view);
    assert_eq!((layout(&view), view.stats().scattered_shards), (before, 1));
    place.free_mib.store(1_000, Ordering::Relaxed);
    look_around(&view);
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

/// Cuts laying out short at each of its writes, with every part of what was written kept.
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
