//! What may happen next, and what it comes to.

use super::*;

impl Explorer<'_> {
    /// Goes on from `state` in every way.
    pub(super) fn explore(&mut self, state: &State) -> Result<(), String> {
        let unacted = state.acted_ms.len() < self.acts.len();
        let unreported = state.reports.iter().any(|reports| reports.at.is_empty());
        let unnumbered = state.outbox.iter().any(|item| item.numbered.is_empty());
        let silent = matches!(state.steps.last(), None | Some(Step::Silence));
        if !(unacted || unreported || unnumbered || silent) {
            self.tally.worlds += 1;
        }
        let acts_may_come = self.bounds.acts_between_reports || !state.reported;
        if unacted && acts_may_come {
            let mut next = state.next(Step::Acts(state.acted_ms.len()), STEP_MS);
            next.acted_ms.push(next.now_ms);
            self.explore(&next)?;
        }
        let rest = unacted || unreported || unnumbered || state.retries_left > 0;
        if !silent && state.silences_left > 0 && rest {
            let mut next = state.next(Step::Silence, SILENCE_MS);
            next.silences_left -= 1;
            next.reported = false;
            self.explore(&next)?;
        }
        // Acts that come too late for this stretch need another one.
        let reports_may_come = !unacted || self.bounds.acts_between_reports || state.silences_left > 0;
        if !reports_may_come {
            return Ok(());
        }
        for act in 0..state.acted_ms.len() {
            let reports = &state.reports[act];
            if !reports.at.is_empty() && state.retries_left == 0 {
                continue;
            }
            // Anchors are alike: the first of which nothing was heard yet stands for the others.
            let anchors = 0..self.bounds.anchors.min(state.anchors_used() + 1);
            let edge = (state.outbox.len() < self.bounds.edge_reports).then_some(EDGE);
            for at in anchors.chain(edge).filter(|at| !reports.at.contains(at)) {
                self.report(state, act, at)?;
            }
        }
        for item in 0..state.outbox.len() {
            self.number(state, item)?;
        }
        Ok(())
    }

    /// A report of `act` arrives `at` a node, whatever that node knows by then. Of what it may know that makes no difference to the
    /// event, the least is enough: who knows less may learn the rest later.
    fn report(&mut self, state: &State, act: usize, at: usize) -> Result<(), String> {
        let mut seen = Vec::new();
        let own = (at != EDGE).then_some(at);
        for knowing in state.vectors(&state.knew[at], own) {
            let Some(outcome) = self.outcome(state, act, at, &knowing)? else { continue };
            if seen.contains(&outcome) {
                continue;
            }
            seen.push(outcome.clone());
            // Of two reports to different nodes, neither of which knows of the other, it is enough to try one order.
            let unordered = |(last_at, last): (usize, EventId)| {
                at < last_at && last_at != EDGE && at != EDGE && !includes(&knowing, last)
            };
            if state.last.is_some_and(unordered) {
                continue;
            }
            let next = self.reported(state, act, at, knowing, outcome)?;
            self.explore(&next)?;
        }
        Ok(())
    }

    /// What a report of `act` comes to at a node that knows `knowing`; `None`: it is known already, or it must wait for what it names.
    fn outcome(
        &self,
        state: &State,
        act: usize,
        at: usize,
        knowing: &Vector,
    ) -> Result<Option<Outcome>, String> {
        let Act { what, by, links } = self.acts[act];
        let is_retry = !state.reports[act].at.is_empty();
        let edges;
        let records: &Records = if at == EDGE {
            edges = state.edges(knowing);
            &edges
        } else {
            state.records(knowing)
        };
        let waits_here = at == EDGE && state.outbox.iter().any(|item| item.told.act == act);
        if waits_here || records[by].taken_as(mark_of(act)).is_some() {
            return Ok(None);
        }
        let names_all = matches!(what, What::OptIn { naming: Naming::WhenReported, .. });
        let named = if names_all && !is_retry {
            self.honest_names(state, act, knowing)
        } else {
            state.reports[act].names.clone()
        };
        if !named.iter().all(|id| includes(knowing, *id)) {
            return Ok(None);
        }
        let reported = Reported {
            by_caller: self.at(CALLER, state.acted_ms[act]),
            by_provider: self.at(PROVIDER, state.acted_ms[act]),
            now: self.now_at(at, state.now_ms + STEP_MS),
            named: &named,
            asked: None,
        };
        let changes = match reported.changes(what, &known_of(records, by), self.rules) {
            // An edge takes in no opt-in that would come after what only holds there.
            Ok(changes) if at == EDGE && changes.iter().any(names_held) => None,
            Ok(changes) => Some(changes).filter(|changes| links || !changes.is_empty()),
            Err(refusal) => {
                let held = at == EDGE && state.held(knowing).any(|(_, item)| item.held.is_some());
                let ends = |told: &Told| self.acts[told.act].what.ends_something();
                let comes_last = state.events(knowing).all(|(_, told)| !ends(told) || told.act < act);
                if names_all && !is_retry && !held && comes_last {
                    return Err(self.told(state, &format!("act {act} is refused at {at}: {refusal:?}")));
                }
                None
            }
        };
        Ok(Some(Outcome { changes, named }))
    }

    /// The state after a report of `act` came to `outcome`; its answers are judged.
    fn reported(
        &mut self,
        state: &State,
        act: usize,
        at: usize,
        knowing: Vector,
        outcome: Outcome,
    ) -> Result<State, String> {
        let Act { by, links, .. } = self.acts[act];
        let mut next = state.next(Step::Reported { act, at, knowing, made: None }, STEP_MS);
        next.reported = true;
        next.retries_left -= usize::from(!state.reports[act].at.is_empty());
        next.reports[act].at.push(at);
        next.reports[act].names.clone_from(&outcome.named);
        let Some(changes) = outcome.changes else { return Ok(next) };
        next.knew[at] = knowing;
        let mut subjects = vec![PERSON[by]];
        if links {
            subjects.push(PERSON[1 - by]);
        }
        let now = self.now_at(at, next.now_ms);
        let told = Told {
            act,
            by,
            event: self.event(subjects, now, mark_of(act), at == EDGE, changes),
            recorded_ms: next.now_ms,
            named: outcome.named,
            knowing,
        };
        if at == EDGE {
            self.take_in(&mut next, told);
            self.judge_edge(&next, &knowing, None)?;
            return Ok(next);
        }
        let made = next.append(at, Rc::new(told)).map_err(|wrong| self.told(state, &wrong))?;
        next.knew[at][at] = next.told[at].len();
        next.last = Some((at, made));
        if let Some(Step::Reported { made: said, .. }) = next.steps.last_mut() {
            *said = Some(made);
        }
        self.judge_all(&next, at)?;
        Ok(next)
    }

    fn event(
        &self,
        subjects: Vec<Identifier>,
        recorded: Timestamp,
        request: RequestMark,
        numbered_late: bool,
        changes: Vec<Change>,
    ) -> ConsentEvent {
        let business = self.rules.business_id.clone().unwrap_or_else(|| BusinessId::new("acme").unwrap());
        ConsentEvent {
            business,
            subjects,
            forms: Vec::new(),
            recorded,
            request: Some(request),
            rules_version: String::new(),
            numbered_late,
            changes,
        }
    }

    fn take_in(&self, state: &mut State, told: Told) {
        let suppresses = self.acts[told.act].what.ends_something();
        let held = suppresses.then(|| Rc::new(ConsentEvent { request: None, ..told.event.clone() }));
        state.outbox.push(Item { told: Rc::new(told), held, numbered: Vec::new() });
    }

    /// The edge's item reaches an anchor, whatever that one knows by then.
    fn number(&mut self, state: &State, item: usize) -> Result<(), String> {
        let Item { told, numbered, .. } = &state.outbox[item];
        if !numbered.is_empty() && state.retries_left == 0 {
            return Ok(());
        }
        for by in 0..self.bounds.anchors.min(state.anchors_used() + 1) {
            if numbered.iter().any(|id| anchor_of(*id) == by) {
                continue;
            }
            let mut seen = Vec::new();
            for knowing in state.vectors(&state.knew[by], Some(by)) {
                let taken =
                    state.records(&knowing)[told.by].taken_as(mark_of(told.act)).map(|taken| taken.event);
                if seen.contains(&taken) {
                    continue;
                }
                seen.push(taken);
                let mut next = state.next(Step::Numbered { act: told.act, by, knowing, made: None }, STEP_MS);
                next.reported = true;
                next.retries_left -= usize::from(!numbered.is_empty());
                next.knew[by] = knowing;
                let id = match taken {
                    Some(id) => id,
                    None => {
                        let made =
                            next.append(by, Rc::clone(told)).map_err(|wrong| self.told(state, &wrong))?;
                        next.knew[by][by] = next.told[by].len();
                        if let Some(Step::Numbered { made: said, .. }) = next.steps.last_mut() {
                            *said = Some(made);
                        }
                        self.judge_all(&next, by)?;
                        made
                    }
                };
                next.outbox[item].numbered.push(id);
                self.explore(&next)?;
            }
        }
        Ok(())
    }
}

/// Whether an opt-in says that it comes after what has no number yet.
fn names_held(change: &Change) -> bool {
    matches!(change, Change::OptIn(opt_in) if opt_in.covers.named().any(|id| id.origin == PROVISIONAL))
}
