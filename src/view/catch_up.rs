//! Many events at once, as a start finds them behind what the store has.
//!
//! One by one, each event reads a page of the store that the cache has lost again when the next one needs it. In the
//! order of the store's keys a page is read once for all its persons, and several threads share the persons.

use std::num::NonZeroUsize;
use std::thread;

use super::drain::Pace;
use super::inner::MIB;
use super::{View, ViewError, event_applied};
use crate::ledger::Position;
use crate::policy::event::ConsentEvent;
use crate::policy::ids::{EventId, Identifier};

/// The most threads that share the work.
const THREADS_MAX: usize = 4;
/// With fewer persons than this a thread is not worth its start.
const PERSONS_PER_THREAD_MIN: usize = 512;
/// From this many times the overlay's bound on, it is drained before more is applied.
const OVERLAYS_MAX: u64 = 2;

/// An event with its place in the ledger.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Where its record starts.
    pub at: Position,
    /// Its name.
    pub id: EventId,
    /// What it says.
    pub event: ConsentEvent,
}

impl View {
    /// Applies consent events of the ledger, given in its order, each to all its subjects. Repeats change nothing. For
    /// catching up, before anything is answered: it neither waits for room nor slows anybody down. Call
    /// [`View::advance`] after it and before the next.
    ///
    /// # Errors
    /// When the store cannot be read: some may be applied and others not.
    pub fn apply_many(&self, events: &[Placed]) -> Result<(), ViewError> {
        let inner = &self.inner;
        if inner.overlay_bytes() > OVERLAYS_MAX * u64::from(inner.config.overlay_max_mib) * MIB {
            // Without the store there is nothing to drain into; memory is then what the ledger's tail takes.
            let _drained = inner.sweep(Pace::Full)?;
        }
        events.last().iter().for_each(|last| inner.bring(last.at));
        let subjects = |(nth, placed): (usize, &'_ Placed)| {
            placed.event.subjects.iter().map(move |subject| (*subject, nth)).collect::<Vec<_>>()
        };
        let mut order: Vec<(Identifier, usize)> = events.iter().enumerate().flat_map(subjects).collect();
        // By person, and each person's events in the ledger's order.
        order.sort_unstable();
        let parts = shares(&order, threads_for(order.len()));
        let applied = thread::scope(|scope| {
            let work: Vec<_> =
                parts.into_iter().map(|part| scope.spawn(move || self.apply_part(events, part))).collect();
            let all = work
                .into_iter()
                .map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            all.collect::<Result<Vec<()>, ViewError>>()
        });
        inner.widen_overlay();
        applied.map(drop)
    }

    fn apply_part(&self, events: &[Placed], part: &[(Identifier, usize)]) -> Result<(), ViewError> {
        for (subject, nth) in part {
            let Placed { at, id, event } = &events[*nth];
            self.inner.bring_in(subject, |person| event_applied(person, *at, *id, event, subject))?;
        }
        Ok(())
    }
}

fn threads_for(persons: usize) -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    processors.min(THREADS_MAX).min(persons / PERSONS_PER_THREAD_MIN).max(1)
}

/// Parts a sorted list so that nobody is in two of them.
fn shares(mut order: &[(Identifier, usize)], count: usize) -> Vec<&[(Identifier, usize)]> {
    let mut parts = Vec::with_capacity(count);
    for left in (1..=count).rev() {
        let fair = order.len() / left;
        let end = match order.get(fair.saturating_sub(1)) {
            Some((last, _)) if left > 1 => order.partition_point(|(who, _)| who <= last),
            _ => order.len(),
        };
        let (part, rest) = order.split_at(end);
        parts.push(part);
        order = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(persons: &[u8]) -> Vec<(Identifier, usize)> {
        persons.iter().enumerate().map(|(nth, person)| (Identifier([*person; 32]), nth)).collect()
    }

    #[test]
    fn nobody_is_in_two_shares_and_nobody_is_left_out() {
        for persons in
            [&[][..], &[1], &[1, 1, 1, 1, 1], &[1, 2, 3, 4, 5, 6], &[1, 1, 1, 1, 2, 3], &[1, 2, 2, 2, 2, 2]]
        {
            let order = order(persons);
            for count in 1..5 {
                let parts = shares(&order, count);
                assert_eq!(parts.len(), count);
                assert_eq!(parts.concat(), order);
                let ends = parts.iter().filter_map(|part| Some((part.first()?.0, part.last()?.0)));
                let ends: Vec<_> = ends.collect();
                assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0), "{persons:?} in {count}");
            }
        }
        let six = order(&[1, 2, 3, 4, 5, 6]);
        assert!(shares(&six, 3).iter().all(|part| part.len() == 2), "fair where it can be");
    }
}
