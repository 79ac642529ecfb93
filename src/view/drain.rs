//! Brings the overlay where it belongs: usage into its log, consent into the store.
//!
//! Both visit every shard in the order of the store's keys. Usage is moved first, since that takes microseconds where the store takes
//! milliseconds; after it the journal of usage is short again. Consent follows, neighbours one after the other, several persons of a bucket in
//! one write; only then are the data flushed and the ledger position that they cover written. Only the holder of [`Inner::stored`]
//! writes to the store or the log, so reading a bucket, changing and writing it needs no transaction.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::bucket::{Parts, build, key_at, key_of, parse, shard_of};
use super::error::{StoreError, ViewError};
use super::inner::{Health, Inner, Phase, SHARDS};
use super::meta::Meta;
use super::shard::{Part, Pending};
use crate::policy::ids::Identifier;

/// How often the view's thread looks around without being asked.
const TICK: Duration = Duration::from_millis(250);
/// Time after which anything that waits is swept. Until then it is in the journal or the ledger; who is
/// sent to again meanwhile is written once, and a quiet sidecar leaves the processor to its neighbours.
pub(super) const SWEEP_AFTER: Duration = Duration::from_secs(30);
/// From this part of the overlay's bound on, a sweep starts: the later, the more often a person who is sent to again is written only once.
const SWEEP_AFTER_PERCENT: i64 = 65;
/// Events after which a sweep starts: a start applies what the store lacks, some 15 µs each.
const SWEEP_AFTER_EVENTS: u64 = 8_192;
/// Bytes of journal after which it is made short: they bound the time that a start needs to read them.
const JOURNAL_BYTES_LONG: u64 = 32 * 1024 * 1024;
/// Bytes of notes after which a checkpoint is asked for.
const CHECKPOINT_AFTER_BYTES: u64 = 8 * 1024 * 1024;
/// Journals grow no further while nothing can be drained.
const JOURNAL_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Buckets written between two looks at the disk's space, and two rests.
pub(super) const BUCKETS_PER_BREATH: usize = 32;
/// Persons taken out of the overlay under one lock.
pub(super) const PERSONS_PER_LOCK: usize = 64;
/// How long a sweep rests after so many buckets (about 0.3 ms of work) while the overlay is not crowded and the next sweep not due.
const REST: Duration = Duration::from_millis(2);
/// From this part of its bound on, the overlay is crowded and a sweep does not rest.
const CROWDED_PERCENT: i64 = 85;
/// Time after which a sweep writes the journals: they promise to be written every second.
const JOURNALS_AFTER: Duration = Duration::from_millis(500);

/// How a sweep behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Rests, so that checks have the processor; ends when the view closes.
    Gentle,
    /// As that, and ends when there is something to sweep.
    Idle,
    /// As fast as it goes.
    Full,
}

impl Inner {
    /// The view's thread: drains until it is told to stop.
    pub fn run(&self) {
        let mut swept = Instant::now();
        loop {
            {
                let mut wishes = self.wishes.lock();
                if wishes.stop {
                    return;
                }
                if !self.woken.load(Ordering::Acquire) {
                    self.wake.wait_for(&mut wishes, TICK);
                }
                if wishes.stop {
                    return;
                }
            }
            self.woken.store(false, Ordering::Release);
            if self.tend(swept.elapsed(), Instant::now()) {
                swept = Instant::now();
            }
        }
    }

    /// Writes the journals, and sweeps when it is time, so long after the last sweep; `true`: it swept. What can wait is done where
    /// little is taken in as of `now`.
    pub fn tend(&self, since: Duration, now: Instant) -> bool {
        self.look_for_space();
        self.look_for_persons();
        self.write_journals();
        if self.notes.bytes() > CHECKPOINT_AFTER_BYTES {
            self.write_checkpoint_or_say();
        }
        let is_crowded = || self.overlay_percent() >= SWEEP_AFTER_PERCENT;
        let mut due = since >= SWEEP_AFTER || self.events.load(Ordering::Relaxed) >= SWEEP_AFTER_EVENTS;
        if !due && is_crowded() {
            // Mostly it is usage that fills the overlay, and the store can be left alone.
            let _moved_in_full = self.move_usage(Pace::Gentle);
            due = is_crowded();
        }
        if !due && self.usage.bytes() >= JOURNAL_BYTES_LONG {
            // Who is sent to again and again has one entry in the overlay and one in the journal for each send.
            let repeats = self.usage.bytes() >= 2 * self.overlay_bytes();
            let _made_short = if repeats { self.shorten_journal() } else { self.move_usage(Pace::Gentle) };
        }
        if due {
            // What a failed sweep left is in the overlay and the journal still.
            let _swept_in_full = self.sweep(Pace::Gentle);
        } else if self.is_quiet(now) {
            self.order_some();
        }
        due
    }

    /// Notes who is in the store of the next shard that nobody has looked through; one at a time, so that nobody waits for it.
    pub(super) fn look_for_persons(&self) {
        let shard = self.looked_through.load(Ordering::Relaxed);
        if shard >= SHARDS || self.phase() != Phase::Serving {
            return;
        }
        self.looked_through.store(shard + 1, Ordering::Relaxed);
        // Nothing is written there meanwhile.
        let stored = self.stored.lock();
        match self.persons_stored(&stored, shard) {
            Ok(Some(persons)) => {
                // A few under one lock: checks of the shard go on. Before it is complete, what is noted says nothing.
                persons.chunks(PERSONS_PER_LOCK).for_each(|some| self.note_present(shard, some.iter()));
                self.shards[shard].lock().presence.complete();
            }
            Ok(None) => self.looked_through.store(shard, Ordering::Relaxed),
            // Whoever reads there meets the same, and says so.
            Err(err) => {
                tracing::debug!(fault = %err, shard, "a shard of the view could not be looked through");
            }
        }
    }

    /// Notes who may be in the store from now on: to be called before they are there.
    pub(super) fn note_present<'a>(&self, shard: usize, persons: impl Iterator<Item = &'a Identifier>) {
        let presence = &mut self.shards[shard].lock().presence;
        persons.for_each(|who| presence.note(who));
    }

    /// Everybody in the store of a shard; `None`: the view closes, or the disk has no space.
    fn persons_stored(&self, stored: &Meta, shard: usize) -> Result<Option<Vec<Identifier>>, ViewError> {
        let layout = stored.layouts[shard];
        let mut persons = Vec::new();
        for number in 0..layout.buckets() {
            let mut bucket = Vec::new();
            let key = key_at(shard, number, layout);
            if self.store.get(&key, &mut |bytes| bucket.extend_from_slice(bytes))? {
                persons.extend(parse(&bucket)?.into_iter().map(|(who, _)| who));
            }
            if (number as usize + 1).is_multiple_of(BUCKETS_PER_BREATH) && !self.breathe(Pace::Gentle) {
                return Ok(None);
            }
        }
        Ok(Some(persons))
    }

    /// Finds out whether there is space to write.
    pub fn look_for_space(&self) -> bool {
        let min_free = u64::from(self.config.min_free_mib) * 1024 * 1024;
        let low = min_free > 0 && (self.free_bytes)().is_some_and(|free| free < min_free);
        self.set_paused(low);
        !low
    }

    fn write_journals(&self) {
        *self.journals_written.lock() = Instant::now();
        for journal in [&self.usage, &self.notes] {
            let full = journal.bytes() > JOURNAL_BYTES_MAX;
            if self.health() == Health::Paused || full { journal.discard() } else { journal.flush() }
        }
    }

    /// Drains everything that was changed before the call; `false`: not all of it.
    ///
    /// # Errors
    /// When the store fails: it is not written to any more. When the log of usage cannot be written: it is tried again.
    pub fn sweep(&self, pace: Pace) -> Result<bool, ViewError> {
        self.writing(|stored| {
            let moved = self.drain_usage(stored, pace);
            match &moved {
                Ok(true) => {}
                // Consent is let into the overlay without end, so it must leave whatever becomes of usage.
                Err(err) if err.is_passing() => {}
                _ => return moved,
            }
            let drained = self.health() == Health::Normal && self.drain_consent(stored, pace)?;
            if drained && moved? {
                self.narrow_overlay();
            }
            Ok(drained)
        })
    }

    /// Moves the usage that was changed before the call from the overlay to its log; `false`: not all of it.
    ///
    /// # Errors
    /// As [`Inner::sweep`].
    pub fn move_usage(&self, pace: Pace) -> Result<bool, ViewError> {
        self.writing(|stored| self.drain_usage(stored, pace))
    }

    /// Lets `write` write, alone, if anything may be written.
    pub(super) fn writing(
        &self,
        write: impl FnOnce(&mut Meta) -> Result<bool, ViewError>,
    ) -> Result<bool, ViewError> {
        let mut stored = self.stored.lock();
        if self.phase() == Phase::Rebuilding || self.health() != Health::Normal {
            return Ok(false);
        }
        // sled's calls catch their panics themselves; this is for our own mistakes: a thread that dies drains no more.
        let written = catch_unwind(AssertUnwindSafe(|| write(&mut stored)))
            .unwrap_or_else(|_| Err(StoreError::Panicked("in a sweep".into()).into()));
        match &written {
            Ok(_) => {}
            // The overlay and the journal still have all of it.
            Err(err) if err.is_passing() => {
                tracing::warn!(fault = %err, "what sends left behind could not be written to its files; it is tried again");
            }
            Err(err) => self.degrade(err),
        }
        written
    }

    fn drain_consent(&self, stored: &mut Meta, pace: Pace) -> Result<bool, ViewError> {
        // First of all: whatever is applied by now is in the overlay, or has left it already.
        let covered = self.applied();
        self.events.store(0, Ordering::Relaxed);
        let has_some = self.shards.iter().any(|shard| shard.lock().dirty_len() > 0);
        if covered == stored.position && !has_some && !self.registry.is_dirty() {
            return Ok(true);
        }
        stored.reach(self.newest(), &*self.store)?;
        self.registry.drain(&*self.store)?;
        for shard in 0..SHARDS {
            if !self.drain_shard(stored, shard, pace)? {
                return Ok(false);
            }
            if !self.split_if_crowded(stored, shard, pace)? {
                return Ok(false);
            }
        }
        self.store.flush()?;
        stored.position = covered;
        stored.save(&*self.store)?;
        self.note_stored(stored);
        Ok(true)
    }

    pub(super) fn drain_shard(&self, stored: &mut Meta, shard: usize, pace: Pace) -> Result<bool, ViewError> {
        let (persons, layout) = {
            let shard = self.shards[shard].lock();
            (shard.dirty_sorted(Part::Consent), shard.layout)
        };
        let mut buckets = 0;
        for bucket in persons.chunk_by(|a, b| key_of(a, layout) == key_of(b, layout)) {
            let pending = self.shards[shard].lock().pending(Part::Consent, bucket);
            self.write_bucket(stored, Part::Consent, &pending)?;
            self.settle(shard, Part::Consent, &pending)?;
            buckets += 1;
            if buckets % BUCKETS_PER_BREATH == 0 && !self.breathe(pace) {
                return Ok(false);
            }
        }
        self.shards[shard].lock().shrink();
        self.note_stored(stored);
        Ok(true)
    }

    /// Brings one part of persons of one bucket into the store.
    pub(super) fn write_bucket(
        &self,
        stored: &mut Meta,
        part: Part,
        pending: &[Pending],
    ) -> Result<(), ViewError> {
        let Some((first, _)) = pending.first() else { return Ok(()) };
        let shard = shard_of(first);
        let key = key_of(first, stored.layouts[shard]);
        let mut old = Vec::new();
        self.store.get(&key, &mut |bytes| old.extend_from_slice(bytes))?;
        let known = if old.is_empty() { Vec::new() } else { parse(&old)? };
        let before = known.len();
        let merged = merge(known, part, pending);
        self.note_present(shard, pending.iter().map(|(who, _)| who));
        // Looked up behind `pending`: whatever that has was brought before.
        stored.reach(self.newest(), &*self.store)?;
        stored.persons[shard] = (stored.persons[shard] + merged.len() as u32).saturating_sub(before as u32);
        stored.scattered[shard] = stored.scattered[shard].saturating_add(1);
        Ok(self.store.insert(&key, &build(&merged))?)
    }

    /// Takes out of the overlay what has found its place.
    pub(super) fn settle(&self, shard: usize, part: Part, settled: &[Pending]) -> Result<(), ViewError> {
        for some in settled.chunks(PERSONS_PER_LOCK) {
            let mut freed = 0;
            let mut shard = self.shards[shard].lock();
            for pending in some {
                freed += shard.settle(part, pending)?;
            }
            drop(shard);
            self.freed(freed);
        }
        Ok(())
    }

    /// Between two runs of writes: looks for space and rests; `false`: the sweep must end here.
    pub(super) fn breathe(&self, pace: Pace) -> bool {
        if !self.look_for_space() {
            return false;
        }
        if self.journals_written.lock().elapsed() >= JOURNALS_AFTER {
            self.write_journals();
        }
        // A start would have to read what waits for the sweep after this one, too.
        let is_behind = self.events.load(Ordering::Relaxed) >= SWEEP_AFTER_EVENTS;
        let overlay_percent = self.overlay_percent();
        let is_wanted_elsewhere = || is_behind || overlay_percent >= SWEEP_AFTER_PERCENT;
        if pace == Pace::Idle && (is_wanted_elsewhere() || self.phase() != Phase::Serving) {
            return false;
        }
        if pace != Pace::Full && overlay_percent < CROWDED_PERCENT && !is_behind {
            let mut wishes = self.wishes.lock();
            if !wishes.stop {
                self.wake.wait_for(&mut wishes, REST);
            }
            return !wishes.stop;
        }
        true
    }

    /// Replaces what was noted so far by what the notes' owner writes down now.
    pub fn write_checkpoint(&self) -> Result<(), ViewError> {
        let checkpoint = self.checkpoint.lock();
        let Some(write) = &*checkpoint else { return Ok(()) };
        let from = self.notes.rotate();
        super::notes::write(&self.folder.checkpoint(), from, &write())?;
        self.notes_from.store(from, Ordering::Release);
        self.notes.remove_before(from)
    }

    fn write_checkpoint_or_say(&self) {
        if self.health() != Health::Paused
            && let Err(err) = self.write_checkpoint()
        {
            tracing::warn!(fault = %err, "the checkpoint of the notes could not be written; it is tried again");
        }
    }
}

/// The persons of a bucket with a part that changed of some of them; who has nothing left is left out.
fn merge<'a>(
    known: Vec<(Identifier, Parts<'a>)>,
    part: Part,
    pending: &'a [Pending],
) -> Vec<(Identifier, Parts<'a>)> {
    let mut merged = known;
    for (who, bytes) in pending {
        let at = merged.binary_search_by_key(who, |(who, _)| *who).unwrap_or_else(|at| {
            merged.insert(at, (*who, Parts::default()));
            at
        });
        match part {
            Part::Consent => merged[at].1.consent = bytes,
            Part::Usage => merged[at].1.usage = bytes,
        }
    }
    merged.retain(|(_, parts)| *parts != Parts::default());
    merged
}
