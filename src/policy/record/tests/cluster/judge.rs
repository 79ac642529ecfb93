//! What is answered, held against the true order of the acts.

use super::*;

impl Explorer<'_> {
    fn is_linked(&self, state: &State, vector: &Vector) -> bool {
        state.events(vector).any(|(_, told)| self.acts[told.act].links)
    }

    /// The events known at `vector` that end something for who is addressed `by` an identifier.
    fn ends<'s>(&self, state: &'s State, vector: &Vector, by: usize) -> Vec<(EventId, &'s Told)> {
        let linked = self.is_linked(state, vector);
        let touches = |told: &Told| self.acts[told.act].what.touches()[0] && (told.by == by || linked);
        state.events(vector).filter(|(_, told)| touches(told)).collect()
    }

    /// What a caller who tells the truth may name: all that an id [stands for](stands_for) must precede the act, as far as the node knows that
    /// it is of the same person.
    pub(super) fn honest_names(&self, state: &State, act: usize, knowing: &Vector) -> Vec<EventId> {
        let linked = self.is_linked(state, knowing);
        let by = self.acts[act].by;
        let ends = |told: &Told| self.acts[told.act].what.ends_something();
        state
            .events(knowing)
            .filter(|(_, named)| ends(named) && (named.by == by || linked))
            .filter(|(id, named)| {
                let mut all = state.events(knowing).filter(|(_, told)| ends(told));
                all.all(|other| !stands_for((*id, named), other) || other.1.act < act)
            })
            .map(|(id, _)| id)
            .collect()
    }

    /// Judges every answer that the newest event of `anchor` may bear on.
    pub(super) fn judge_all(&mut self, state: &State, anchor: usize) -> Result<(), String> {
        for vector in state.vectors(&[0; ANCHORS_MAX], Some(anchor)) {
            let records = Rc::clone(state.records(&vector));
            self.judge(state, &vector, &records, false)?;
        }
        if self.bounds.edge_reports > 0 {
            self.judge_edge(state, &state.knew[EDGE], Some(anchor))?;
        }
        Ok(())
    }

    /// Judges what the edge may answer, having at least `floor` and of `anchor` all.
    pub(super) fn judge_edge(
        &mut self,
        state: &State,
        floor: &Vector,
        anchor: Option<usize>,
    ) -> Result<(), String> {
        for vector in state.vectors(floor, anchor) {
            if state.held(&vector).any(|(_, item)| item.held.is_some()) {
                self.judge(state, &vector, &state.edges(&vector), true)?;
            }
        }
        Ok(())
    }

    /// Holds what a node with `records` answers against the true order of the acts.
    fn judge(
        &mut self,
        state: &State,
        vector: &Vector,
        records: &Records,
        at_edge: bool,
    ) -> Result<(), String> {
        let (channel, category, _) = SUBJECTS[0];
        let subject = Subject { channel, category, topic: Some(&self.topic) };
        let now = self.at(RIGHT, state.now_ms);
        let people = if self.acts.iter().any(|act| act.by > 0) { PERSON.len() } else { 1 };
        for by in 0..people {
            let finding = standing::standing(&known_of(records, by), &subject, self.rules, now);
            let ends = self.ends(state, vector, by);
            let linked = self.is_linked(state, vector);
            let held: Vec<usize> = state
                .held(vector)
                .filter(|(_, item)| at_edge && item.held.is_some() && (item.told.by == by || linked))
                .map(|(_, item)| item.told.act)
                .collect();
            self.tally.judged += 1;
            let is_granted = finding.standing == Standing::Granted;
            if is_granted {
                self.tally.granted += 1;
                let basis = finding.basis[0];
                let through_link = state.get(basis).by != by;
                let last_word = last_word(state, basis);
                let mut all = ends.iter().map(|(_, told)| told.act).chain(held.iter().copied());
                if let Some(later) = all.find(|end| through_link || *end > last_word) {
                    let why = if through_link { "through a link, in spite of" } else { "though before" };
                    let act = state.get(basis).act;
                    let wrong = format!(
                        "at {vector:?} identifier {by} is granted by {basis} (act {act}), {why} act {later}"
                    );
                    return Err(self.told(state, &wrong));
                }
            }
            // What the edge holds has no number yet, and cannot be named.
            if !held.is_empty() || is_granted && ends.is_empty() {
                continue;
            }
            let proven = state.events(vector).find(|(id, told)| self.is_proven(state, vector, by, *id, told));
            match proven {
                Some(_) if is_granted => self.tally.proven += 1,
                Some((id, told)) => {
                    let wrong = format!(
                        "at {vector:?} identifier {by} gets {finding:?}, though {id} (act {}) is shown to come last",
                        told.act,
                    );
                    return Err(self.told(state, &wrong));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Whether the event `id` opts in, and both that it came after everything that ends it at `vector` and that it can be shown to: of
    /// each origin it either names all, or came long after all.
    fn is_proven(&self, state: &State, vector: &Vector, by: usize, id: EventId, told: &Told) -> bool {
        let What::OptIn { grant, .. } = self.acts[told.act].what else { return false };
        if !grant.permits()[0] || told.by != by {
            return false;
        }
        let ends = self.ends(state, vector, by);
        let acted_ms = state.acted_ms[told.act];
        let is_named =
            |end: (EventId, &Told)| told.named.iter().any(|name| stands_for((*name, state.get(*name)), end));
        let is_long_before = |(_, end): (EventId, &Told)| self.is_long_before(state, end, acted_ms);
        // What is judged as one is shown as one.
        let together = |end: (EventId, &Told)| {
            let others =
                ends.iter().copied().filter(move |other| other.0 == end.0 || is_judged_with(*other, end));
            others.collect::<Vec<_>>()
        };
        // Nor was anything known to its recorder that came after it: then it was in vain.
        let known = self.ends(state, &told.knowing, by);
        ends.iter().chain(&known).all(|(end, ended)| *end != id && ended.act < told.act)
            && ends.iter().all(|end| {
                let together = together(*end);
                together.iter().all(|end| is_named(*end)) || together.iter().all(|end| is_long_before(*end))
            })
    }

    fn is_long_before(&self, state: &State, end: &Told, acted_ms: i64) -> bool {
        let what = self.acts[end.act].what;
        let signed = matches!(what, What::SignedStop(_) | What::StopMessage { signed: true, .. });
        let ended_ms = state.acted_ms[end.act];
        // A report within the margin may be taken for as late as its arrival, and clocks blur the margin.
        let reported_late = end.recorded_ms - ended_ms > 2 * MARGIN_MS;
        let counts_from_ms = if signed && reported_late { ended_ms } else { end.recorded_ms };
        counts_from_ms + 2 * MARGIN_MS < acted_ms
    }
}

/// The act by which the person last said what the opt-in `id` says: a START repeats the opt-in that it renews.
fn last_word(state: &State, id: EventId) -> usize {
    let told = state.get(id);
    let renewed = told.event.changes.iter().filter_map(|change| match change {
        Change::OptIn(opt_in) => opt_in.renews.map(|renewed| last_word(state, renewed)),
        _ => None,
    });
    renewed.fold(told.act, usize::max)
}

/// Whether the marks of both are one: those that an anchor recorded itself, of one identifier.
fn is_judged_with((a, told_a): (EventId, &Told), (b, told_b): (EventId, &Told)) -> bool {
    let recorded_by_anchor = !told_a.event.numbered_late && !told_b.event.numbered_late;
    recorded_by_anchor && a.origin == b.origin && told_a.by == told_b.by
}

/// Whether who names the first stands by the second as well: it is the same, or the anchor that recorded it had recorded the second
/// before, of the same identifier.
fn stands_for((named, told): (EventId, &Told), (other, other_told): (EventId, &Told)) -> bool {
    named == other || is_judged_with((named, told), (other, other_told)) && other.sequence <= named.sequence
}
