//! Records of several nodes: what a node knows of each origin is all that tells its records from another's, however the events came.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{Numbered, events, joined};
use crate::policy::ids::{EventId, Identifier, OriginId};
use crate::policy::record::Record;

const NODES: usize = 3;

type Vector = BTreeMap<OriginId, u64>;

/// A node that has applied all of each origin up to its vector, and has records of everybody.
#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    vector: Vector,
    records: BTreeMap<Identifier, Record>,
}

impl Node {
    fn apply(&mut self, (id, event): &Numbered) {
        for subject in &event.subjects {
            self.records.entry(*subject).or_default().apply(*id, event, subject);
        }
        let known = self.vector.entry(id.origin).or_default();
        *known = (*known).max(id.sequence);
    }

    /// Takes over what another one knows.
    fn load(&mut self, other: &Self) {
        for (who, record) in &other.records {
            let own = self.records.entry(*who).or_default();
            *own = joined(own, record);
        }
        for (origin, sequence) in &other.vector {
            let known = self.vector.entry(*origin).or_default();
            *known = (*known).max(*sequence);
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A node is told the events of an origin from one that it has on: some again, some new.
    Relay { to: usize, origin: OriginId, again: u64, new: u64 },
    /// A node takes a snapshot of another.
    Snapshot { from: usize, to: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    prop_oneof![
        4 => (node(), crate::policy::strategies::origin(), 0_u64..3, 0_u64..4)
            .prop_map(|(to, origin, again, new)| Step::Relay { to, origin, again, new }),
        1 => (node(), node()).prop_map(|(from, to)| Step::Snapshot { from, to }),
    ]
}

fn id_of(origin: OriginId, sequence: u64) -> EventId {
    EventId { origin, sequence }
}

proptest! {
    #[test]
    fn nodes_with_equal_vectors_have_equal_records(events in events(10), steps in vec(step(), 0..24)) {
        let events: BTreeMap<EventId, _> = events.into_iter().collect();
        // What each vector makes of a record when nothing is told twice and nothing is joined.
        let plain = |vector: &Vector| {
            let mut node = Node::default();
            let knows = |id: &EventId| vector.get(&id.origin).is_some_and(|known| *known >= id.sequence);
            events.iter().filter(|(id, _)| knows(id)).for_each(|(id, event)| node.apply(&(*id, event.clone())));
            node.records
        };
        let mut nodes = vec![Node::default(); NODES];
        for step in steps {
            let to = match step {
                Step::Relay { to, origin, again, new } => {
                    let known = nodes[to].vector.get(&origin).copied().unwrap_or(0);
                    for sequence in known.saturating_sub(again).max(1)..=known + new {
                        if let Some(event) = events.get(&id_of(origin, sequence)) {
                            nodes[to].apply(&(id_of(origin, sequence), event.clone()));
                        }
                    }
                    to
                }
                Step::Snapshot { from, to } => {
                    let other = nodes[from].clone();
                    nodes[to].load(&other);
                    to
                }
            };
            prop_assert_eq!(&nodes[to].records, &plain(&nodes[to].vector));
        }
    }

    /// Whoever of several identifiers an event is addressed to, each of them leads to the others.
    #[test]
    fn links_are_known_at_both_ends_and_stay(events in events(10)) {
        let mut node = Node::default();
        for numbered in &events {
            node.apply(numbered);
            for (who, record) in &node.records {
                prop_assert!(!record.links.identifiers.contains(who));
                for other in &record.links.identifiers {
                    prop_assert!(node.records[other].links.identifiers.contains(who), "{other:?} does not lead to {who:?}");
                }
            }
        }
        for (_, event) in &events {
            let [first, others @ ..] = &event.subjects[..] else { continue };
            for other in others.iter().filter(|other| *other != first) {
                prop_assert!(node.records[first].links.identifiers.contains(other));
            }
            for subject in &event.subjects {
                prop_assert!(event.forms.iter().all(|form| node.records[subject].links.forms.contains(form)));
            }
        }
    }
}
