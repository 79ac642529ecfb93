//! Connections: who dials whom, and how frames travel.

use super::node::Dial;
use super::world::{Due, World};
use crate::replication::Link;
use crate::replication::carrier::Incoming;
use crate::replication::frame::Frame;
use crate::replication::sim::carrier::Handed;
use crate::replication::wire;

/// How long after a failed dial the next is tried.
pub const REDIAL_MS: u64 = 500;

/// A connection.
pub struct Wire {
    pub dialler: usize,
    pub dialled: usize,
    /// When the last frame of each direction arrives: the dialler's first.
    pub last: [u64; 2],
    /// A frame of that direction was lost, so none may follow.
    pub broken: [bool; 2],
}

impl World {
    pub fn dial(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = &self.nodes[node].process else { return };
        let machine = process.machine.lock();
        let stands = |dial: &Dial| {
            dial.link.is_some_and(|link| machine.peer_at(link).is_some() || self.wires.contains_key(&link))
        };
        let wanted: Vec<usize> = process
            .dials
            .iter()
            .filter(|(_, dial)| !stands(dial) && dial.not_before <= now)
            .map(|(peer, _)| *peer)
            .collect();
        drop(machine);
        for peer in wanted {
            let blocked = self.cut.contains(&(node, peer)) || self.cut.contains(&(peer, node));
            let listens = self.nodes[peer].process.as_ref().is_some_and(|process| process.talks);
            let link = (!blocked && listens).then(|| {
                self.links += 1;
                Link(self.links)
            });
            if let Some(process) = &mut self.nodes[node].process {
                process.dials.insert(peer, Dial { link, not_before: now + REDIAL_MS });
            }
            let Some(link) = link else { continue };
            let delay = 1 + self.rng.below(self.delay_ms);
            let at = now + delay;
            let wire = Wire { dialler: node, dialled: peer, last: [at; 2], broken: [false; 2] };
            self.wires.insert(link, wire);
            for (end, dialled) in [(node, true), (peer, false)] {
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
                Handed::Frame(link, frame) => self.send(node, link, frame),
            }
        }
    }

    fn send(&mut self, node: usize, link: Link, frame: Frame) {
        self.tally.frames += 1;
        // As it is read at the other end.
        let frame = wire::decode(wire::encode(frame));
        let frame = frame.unwrap_or_else(|fault| self.fail(&format!("node {node} sent a frame: {fault}")));
        self.at(self.now, Due::Come { node, incoming: Incoming::Sent { link } });
        let delay = 1 + self.rng.below(self.delay_ms);
        let lost = self.loss > 0 && self.rng.one_in(self.loss);
        let now = self.now;
        let Some(wire) = self.wires.get_mut(&link) else { return };
        let (direction, to) = if wire.dialler == node { (0, wire.dialled) } else { (1, wire.dialler) };
        wire.broken[direction] |= lost || self.cut.contains(&(node, to));
        if wire.broken[direction] {
            self.tally.lost_frames += 1;
            return;
        }
        let at = (now + delay).max(wire.last[direction]);
        wire.last[direction] = at;
        self.at(at, Due::Come { node: to, incoming: Incoming::Frame { link, frame, len: 0, cursor: None } });
    }

    pub fn break_links_of(&mut self, node: usize) {
        let ends_here = |wire: &Wire| wire.dialler == node || wire.dialled == node;
        let links: Vec<Link> =
            self.wires.iter().filter(|(_, wire)| ends_here(wire)).map(|(link, _)| *link).collect();
        for link in links {
            self.break_link(link, Some(node));
        }
    }

    /// The connection is lost: each end learns of it by and by, the dead one never, nor who is cut off.
    pub fn break_link(&mut self, link: Link, dead: Option<usize>) {
        let Some(wire) = self.wires.remove(&link) else { return };
        for (direction, from, node) in [(1, wire.dialled, wire.dialler), (0, wire.dialler, wire.dialled)] {
            if Some(node) == dead || self.cut.contains(&(from, node)) {
                continue;
            }
            let at = wire.last[direction].max(self.now) + 1 + self.rng.below(50);
            let gone = Incoming::Disconnected { link, why: "lost".to_owned() };
            self.at(at, Due::Come { node, incoming: gone });
        }
    }
}
