//! Calls to anchors beside the streams: they are lost, late, or answered.

use std::time::Duration;

use tonic::Status;

use super::world::{Due, World};
use crate::engine::snapshot::Extent;
use crate::pb::replication::v1 as pb;
use crate::peers::{door, snapshot};
use crate::policy::ids::{EventId, OriginId};

/// What a node asks for.
pub enum Ask {
    /// A number for an item.
    Number { item: u64, request: pb::SubmitRequest },
    /// All that is known, or what of it suppresses.
    Snapshot(Extent),
}

/// What it gets.
pub enum Answer {
    Number { item: u64, answer: Result<pb::SubmitResponse, Status> },
    Snapshot(Option<Vec<pb::SnapshotResponse>>),
}

/// An anchor's answer that waits until a majority has the event, or too long.
pub struct Waiting {
    anchor: usize,
    epoch: u64,
    until: u64,
    call: u64,
    from: usize,
    from_epoch: u64,
    item: u64,
    response: pb::SubmitResponse,
}

impl World {
    /// Asks; an answer comes in any case, if only that there is none.
    pub fn ask(&mut self, from: usize, to: usize, ask: Ask, within_ms: u64) {
        self.calls += 1;
        let call = self.calls;
        let epoch = self.nodes[from].epoch;
        let nothing = match &ask {
            Ask::Number { item, .. } => {
                Answer::Number { item: *item, answer: Err(Status::unavailable("no answer")) }
            }
            Ask::Snapshot(_) => Answer::Snapshot(None),
        };
        self.at(self.now + within_ms, Due::Answered { call, node: from, epoch, from: to, answer: nothing });
        let delay = 1 + self.rng.below(self.delay_ms);
        let lost = self.loss > 0 && self.rng.one_in(self.loss);
        if !lost && !self.cut.contains(&(from, to)) {
            self.at(self.now + delay, Due::Asked { call, from, epoch, to, ask });
        } else {
            self.tally.lost_calls += 1;
        }
    }

    pub fn asked(&mut self, call: u64, from: usize, from_epoch: u64, to: usize, ask: Ask) {
        self.publish(to);
        let Some(process) = &self.nodes[to].process else { return };
        let engine = process.engine.clone();
        match ask {
            Ask::Number { item, request } => {
                let wait_ms = u64::from(request.wait_ms);
                let numbering = door::number(&engine, request, Duration::ZERO);
                let answer = self.hand.finish(&engine, numbering);
                if let Ok(response) = &answer {
                    let acts = self.items.get(&(from, item)).cloned().unwrap_or_default();
                    self.learn_numbered(to, event_of(response), acts);
                }
                self.hear_own(to);
                match answer {
                    Ok(response) if !response.replicated && wait_ms > 0 => {
                        let epoch = self.nodes[to].epoch;
                        let until = self.now + wait_ms;
                        self.waiting.push(Waiting {
                            anchor: to,
                            epoch,
                            until,
                            call,
                            from,
                            from_epoch,
                            item,
                            response,
                        });
                    }
                    // Who dies over it answers nobody.
                    _ if self.nodes[to].disk.power_is_off() => {}
                    answer => self.give(call, from, from_epoch, to, Answer::Number { item, answer }),
                }
            }
            Ask::Snapshot(extent) => {
                let mut parts = None;
                if engine.ledger().is_ok() && snapshot::may_give(&engine, extent) {
                    let mut all = Vec::new();
                    let given = engine.snapshot(extent, |part| {
                        all.push(snapshot::encode(part));
                        std::ops::ControlFlow::Continue(())
                    });
                    parts = given.is_ok().then_some(all);
                }
                self.give(call, from, from_epoch, to, Answer::Snapshot(parts));
            }
        }
    }

    fn give(&mut self, call: u64, from: usize, epoch: u64, to: usize, answer: Answer) {
        let delay = 1 + self.rng.below(self.delay_ms);
        let lost = self.loss > 0 && self.rng.one_in(self.loss);
        if lost || self.cut.contains(&(to, from)) {
            self.tally.lost_calls += 1;
        } else {
            self.at(self.now + delay, Due::Answered { call, node: from, epoch, from: to, answer });
        }
    }

    /// Answers who waited until a majority has an event.
    pub fn look_at_waiting(&mut self) {
        for mut waiting in std::mem::take(&mut self.waiting) {
            if self.nodes[waiting.anchor].epoch != waiting.epoch {
                continue;
            }
            let Some(process) = &self.nodes[waiting.anchor].process else { continue };
            let engine = process.engine.clone();
            let event = event_of(&waiting.response);
            waiting.response.replicated =
                self.hand.finish(&engine, engine.replica().replicated(event, Duration::ZERO));
            if waiting.response.replicated || self.now >= waiting.until {
                let Waiting { anchor, call, from, from_epoch, item, response, .. } = waiting;
                self.give(call, from, from_epoch, anchor, Answer::Number { item, answer: Ok(response) });
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    pub fn answered(&mut self, call: u64, node: usize, from: usize, answer: Answer) {
        if !self.ended_calls.insert(call) {
            return;
        }
        match answer {
            Answer::Number { item, answer } => self.number_answered(node, from, item, answer),
            Answer::Snapshot(parts) if self.is_edge(node) => self.take_snapshot(node, from, parts),
            Answer::Snapshot(parts) => self.borrow(node, from, parts),
        }
    }
}

/// The event of an answer.
fn event_of(response: &pb::SubmitResponse) -> EventId {
    let origin = response.origin.as_slice().try_into().unwrap_or_default();
    EventId { origin: OriginId(origin), sequence: response.sequence }
}
