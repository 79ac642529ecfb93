//! The writer thread. What queued while one group was synced is the next group.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use super::commit::Verdict;
use super::log::Log;
use super::queue::{Answer, Erased, Exchange, Work};
use super::{AppendError, Applier, Committed, Position, Relaying, State};

/// The writer thread's life: groups until it is told to finish or the disk fails.
pub(super) fn run(mut log: Log, exchange: &Exchange, mut applier: Box<dyn Applier>) {
    let _guard = EndGuard(exchange);
    loop {
        let work = exchange.next();
        if work.done {
            let state =
                log.close().map_or_else(|failure| State::Failed(failure.to_string()), |()| State::Closed);
            exchange.end(state);
            return;
        }
        if !step(&mut log, exchange, &mut *applier, work) {
            return;
        }
    }
}

/// The writer without a thread of its own, for tests: it does what waits when it is told to.
#[cfg(test)]
pub(super) struct ByHand {
    log: Log,
    applier: Box<dyn Applier>,
    ended: bool,
}

#[cfg(test)]
impl ByHand {
    pub(super) fn new(log: Log, applier: Box<dyn Applier>) -> Self {
        Self { log, applier, ended: false }
    }

    /// Does all that waits, as one group if it fits; `false`: nothing did.
    pub(super) fn work(&mut self, exchange: &Exchange) -> bool {
        let mut worked = false;
        while !self.ended && exchange.has_work() {
            worked = true;
            let work = exchange.next();
            if work.done {
                let closed = self.log.close();
                exchange.end(
                    closed.map_or_else(|failure| State::Failed(failure.to_string()), |()| State::Closed),
                );
                self.ended = true;
            } else {
                self.ended = !step(&mut self.log, exchange, &mut *self.applier, work);
            }
        }
        worked
    }
}

/// Whatever ends the writer, nobody waits for it in vain.
struct EndGuard<'a>(&'a Exchange);

impl Drop for EndGuard<'_> {
    fn drop(&mut self) {
        self.0.end(State::Failed("its writer is gone".to_owned()));
    }
}

/// One group. False: the ledger has failed.
fn step(log: &mut Log, exchange: &Exchange, applier: &mut dyn Applier, work: Work) -> bool {
    let Work { entries, answers, erasures, closings, .. } = work;
    for (origin, closed) in closings {
        // What is written from here on is another origin's; what was written before is applied.
        let _ = closed.send(Ok(log.close_origin(origin)));
    }
    if !entries.is_empty() {
        let verdicts = match log.commit(entries) {
            Ok(verdicts) => verdicts,
            Err(failure) => return fail(exchange, answers, erasures, failure.to_string()),
        };
        exchange.reserve_ready.store(log.reserve.is_some(), Ordering::Relaxed);
        let mut committed: Vec<Committed> = Vec::with_capacity(verdicts.len());
        let mut results = Vec::with_capacity(verdicts.len());
        for verdict in verdicts {
            match verdict {
                Verdict::Committed(one) => {
                    results.push(Ok(Relaying::Appended(one.appended)));
                    committed.push(one);
                }
                Verdict::Known => results.push(Ok(Relaying::Known)),
                Verdict::NoSpace => results.push(Err(AppendError::NoSpace.into())),
                Verdict::Refused(error) => results.push(Err(error)),
            }
        }
        #[cfg(sabotage)]
        let (answers, results) = if crate::sabotage::is("ack-before-apply") {
            answers.into_iter().zip(results).for_each(|(answer, result)| answer.give(result));
            (Vec::new(), Vec::new())
        } else {
            (answers, results)
        };
        if let Some(last) = committed.last() {
            let head = last.appended.next;
            // The applier touches a store that may panic; the records are safe, but nobody may be told that they count.
            if catch_unwind(AssertUnwindSafe(|| applier.on_durable(&committed))).is_err() {
                return fail(
                    exchange,
                    answers,
                    erasures,
                    "applying a record to the view panicked".to_owned(),
                );
            }
            exchange.head.send_replace(head);
        }
        for (answer, result) in answers.into_iter().zip(results) {
            answer.give(result);
        }
    }
    let mut erasures = erasures;
    while let Some((position, erased)) = erasures.pop_front() {
        match log.erase(position) {
            Ok(result) => drop(erased.send(result)),
            Err(failure) => {
                erasures.push_front((position, erased));
                return fail(exchange, Vec::new(), erasures, failure.to_string());
            }
        }
    }
    true
}

/// Whoever learns of the failure finds the ledger failed already.
fn fail(
    exchange: &Exchange,
    answers: Vec<Answer>,
    erasures: VecDeque<(Position, Erased)>,
    why: String,
) -> bool {
    exchange.end(State::Failed(why.clone()));
    let why = AppendError::Failed(why);
    for answer in answers {
        answer.refuse(why.clone());
    }
    for (_, erased) in erasures {
        let _ = erased.send(Err(why.clone().into()));
    }
    false
}
