//! Opt-outs that are numbered late: an edge took them in, and an anchor numbers them when they reach it.
//!
//! An origin's numbers stand for the order of recording in what an opt-in says it came after: whoever names an event names all that its
//! origin numbered before. A late one has a higher number than what was recorded after it. So that is said once more behind it, which
//! can only deny more.

use crate::policy::consent::{Mark, Marks};
use crate::policy::event::{Change, ConsentEvent, Invalidate, OptOut};
use crate::policy::ids::{EventId, OriginId};
use crate::policy::record::Record;
use crate::policy::rules::{Rules, SpanMs};
use crate::policy::time::Timestamp;
use crate::policy::types::{InvalidateCause, OptOutMethod, Scope};

/// A late event: by which origin, and from when on what that origin has may have come after it.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// Who numbers it, or has numbered it.
    pub origin: OriginId,
    /// Its number, where it has one.
    pub sequence: Option<u64>,
    /// Who says again what is to be said again, where that one has said anything yet: an anchor's next run is another origin.
    pub by: Option<OriginId>,
    /// What is no earlier than this may have come after it.
    pub since: Timestamp,
}

impl Late {
    /// `event`, which was taken in `age_ms` before `now`, and that `by` is to number, unless it is `numbered`; `None`: nothing was recorded
    /// that it could cover.
    #[must_use]
    pub fn taken_in(
        event: &ConsentEvent,
        by: Option<OriginId>,
        numbered: Option<EventId>,
        age_ms: SpanMs,
        rules: &Rules,
        now: Timestamp,
    ) -> Option<Self> {
        let origin = numbered.map(|id| id.origin).or(by)?;
        // An opt-in that names it came after the act, which may have been reported late itself; and a signed time counts, however late it is
        // told.
        let acted = event.changes.iter().filter_map(acted).fold(now.minus_ms(age_ms), Timestamp::min);
        #[cfg(sabotage)]
        let acted = if crate::sabotage::is("late-since-its-report") { now.minus_ms(age_ms) } else { acted };
        let since = acted.minus_ms(rules.clock_margin_ms);
        Some(Self { origin, sequence: numbered.map(|id| id.sequence), by, since })
    }

    /// What of `record` is to be said once more behind the event, so that naming the event does not cover it.
    #[must_use]
    pub fn said_again(&self, record: &Record) -> Vec<Change> {
        #[cfg(sabotage)]
        if crate::sabotage::is("late-numbers-cover") {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for (scope, cell) in &record.cells {
            let outs = cell.outs.iter().filter(|mark| self.puts_at_risk(&cell.outs, mark));
            changes.extend(outs.map(|mark| again(scope, mark)));
            let voids = cell.voids.iter().filter(|mark| self.puts_at_risk(&cell.voids, mark));
            changes.extend(voids.map(|mark| void_again(scope, mark)));
        }
        changes
    }

    fn is_below(&self, mark: &Mark) -> bool {
        mark.id.origin == self.origin && mark.id.sequence < self.sequence.unwrap_or(u64::MAX)
    }

    fn puts_at_risk(&self, marks: &Marks, mark: &Mark) -> bool {
        self.is_below(mark) && mark.time >= self.since && !self.was_said_again(marks, mark)
    }

    /// A later run of the store may have said it once more, and has it with its very time. Any other one beside it, however late, may be
    /// named as well.
    fn was_said_again(&self, marks: &Marks, mark: &Mark) -> bool {
        #[cfg(sabotage)]
        if crate::sabotage::is("late-hidden-by-others") {
            return marks.iter().any(|other| !self.is_below(other) && other.time >= mark.time);
        }
        let later_run = self.by.filter(|by| *by != self.origin);
        marks.iter().any(|other| Some(other.id.origin) == later_run && other.time == mark.time)
    }
}

/// When the person acted, as early as that may have been.
fn acted(change: &Change) -> Option<Timestamp> {
    match change {
        Change::OptOut(out) => Some(out.stated.map_or(out.time, |stated| stated.min(out.time))),
        Change::Invalidate(invalidate) => Some(invalidate.time),
        _ => None,
    }
}

fn again(scope: &Scope, mark: &Mark) -> Change {
    Change::OptOut(OptOut {
        scopes: vec![scope.clone()],
        time: mark.time,
        stated: None,
        imported: false,
        inbound: mark.message,
        method: OptOutMethod::Unknown,
        confirm_until: None,
    })
}

fn void_again(scope: &Scope, mark: &Mark) -> Change {
    Change::Invalidate(Invalidate {
        scopes: vec![scope.clone()],
        cause: InvalidateCause::EvidenceFalse,
        time: mark.time,
    })
}
