//! A carrier that puts frames where the simulation finds them.

use std::collections::VecDeque;

use crate::replication::carrier::{Carrier, Incoming, Link};
use crate::replication::frame::Frame;

/// What one node handed over and what has come for it.
#[derive(Debug, Default)]
pub struct MemoryCarrier {
    pub handed: VecDeque<Handed>,
    pub come: VecDeque<Incoming>,
}

/// What a node handed over.
#[derive(Debug)]
pub enum Handed {
    Frame(Link, Frame),
    Close(Link),
}

impl Carrier for MemoryCarrier {
    fn send(&mut self, link: Link, frame: Frame) {
        self.handed.push_back(Handed::Frame(link, frame));
    }

    fn close(&mut self, link: Link) {
        self.handed.push_back(Handed::Close(link));
    }

    fn next(&mut self) -> Option<Incoming> {
        self.come.pop_front()
    }
}
