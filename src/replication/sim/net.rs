//! Connections: who dials whom, and how frames travel.

use super::carrier::Handed;
use super::node::Dial;
use super::world::{Due, REDIAL_MS, Wire, World};
use crate::replication::Link;
use crate::replication::carrier::Incoming;
use crate::replication::frame::Frame;

impl World {
    pub fn dial(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = &self.nodes[node].process else { return };
        let wanted: Vec<usize> = process
            .dials
            .iter()
            .filter(|(_, dial)| {
                let stands = dial.link.is_some_and(|link| {
                    process.machine.peer_at(link).is_some() || self.wires.contains_key(&link)
                });
                !stands && dial.not_before <= now
            })
            .map(|(peer, _)| *peer)
            .collect();
        for peer in wanted {
            let blocked = self.cut.contains(&(node, peer)) || self.cut.contains(&(peer, node));
            let link = (!blocked && self.nodes[peer].process.is_some()).then(|| {
                self.links += 1;
                Link(self.links)
            });
            if let Some(process) = &mut self.nodes[node].process {
                process.dials.insert(peer, Dial { link, not_before: now + REDIAL_MS });
            }
            let Some(link) = link else { continue };
            self.wires
                .insert(link, Wire { dialler: node, dialled: peer, last: [now; 2], broken: [false; 2] });
            let delay = 1 + self.rng.below(self.delay_ms);
            for (end, dialled) in [(node, true), (peer, false)] {
                let at = now + delay;
                if let Some(wire) = self.wires.get_mut(&link) {
                    wire.last = [at; 2];
                }
                self.at(at, Due::Come { node: end, incoming: Incoming::Connected { link, dialled } });
            }
        }
    }

    pub fn move_frames(&mut self, node: usize) {
        while let Some(handed) =
            self.nodes[node].process.as_mut().and_then(|process| process.carrier.handed.pop_front())
        {
            match handed {
                Handed::Close(link) => self.break_link(link, Some(node)),
                Handed::Frame(link, frame) => self.carry(node, link, frame),
            }
        }
    }

    fn carry(&mut self, node: usize, link: Link, frame: Frame) {
        self.frames += 1;
        let (frame, len) = self.judge_frame(node, frame);
        let leaves = self.now + self.nodes[node].slowness + len as u64 / 10_000;
        self.at(leaves, Due::Come { node, incoming: Incoming::Sent { link } });
        let delay = 1 + self.rng.below(self.delay_ms);
        let Some(wire) = self.wires.get_mut(&link) else { return };
        let (direction, to) = if wire.dialler == node { (0, wire.dialled) } else { (1, wire.dialler) };
        wire.broken[direction] |= self.cut.contains(&(node, to));
        if wire.broken[direction] {
            return;
        }
        let at = (leaves + delay).max(wire.last[direction]);
        wire.last[direction] = at;
        self.at(at, Due::Come { node: to, incoming: Incoming::Frame { link, frame, len, cursor: None } });
    }
}
