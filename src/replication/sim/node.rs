//! One node: its disk, its clocks, its process if it runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::carrier::MemoryCarrier;
use super::store::MemoryStore;
use super::world::Due;
use crate::ledger::Head;
use crate::policy::ids::OriginId;
use crate::policy::time::Timestamp;
use crate::replication::frame::{Events, Instance, Role, UsagePart};
use crate::replication::{Link, Machine, Mono, Now};

/// A run of a node's process.
pub struct Process {
    pub machine: Machine,
    pub carrier: MemoryCarrier,
    /// Records on their way to the disk, with when they get there.
    pub storing: VecDeque<(u64, u64, Events)>,
    /// The origins of this run: the first is for the trickle, others for imports.
    pub own: Vec<OriginId>,
    /// Where it dials, and when it may next.
    pub dials: BTreeMap<usize, Dial>,
}

/// An address that is dialled.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dial {
    /// The link it led to, or that made it needless.
    pub link: Option<Link>,
    pub not_before: u64,
}

pub struct Node {
    pub role: Role,
    pub instance: Instance,
    pub peers: Vec<usize>,
    pub disk: MemoryStore,
    /// Copies of the disk as it was.
    pub backups: Vec<MemoryStore>,
    pub process: Option<Process>,
    /// Counts processes, so that what was meant for an old one is dropped.
    pub epoch: u64,
    pub mono_offset: u64,
    pub wall_offset: i64,
    /// Until then the process stands still.
    pub frozen_until: u64,
    /// What has come since it stands still.
    pub waiting: VecDeque<Due>,
    /// How long a frame stays with the carrier, in milliseconds.
    pub slowness: u64,
    /// When the last of what came is delivered, so that order holds.
    pub went_back: u64,
    /// Per origin when it was held up to where, for the judge.
    pub history: BTreeMap<OriginId, Vec<(u64, u64)>>,
    /// What was kept apart, by any of its runs.
    pub apart: BTreeMap<OriginId, BTreeSet<(u64, [u8; 32])>>,
    /// Usage that it noted itself or was told of, as often as it was.
    pub usage: Vec<Vec<u8>>,
    /// What each of its processes was told of, by its number.
    pub usage_heard: BTreeSet<(u64, Vec<u8>)>,
    /// How often what it had lost was told again.
    pub usage_told: u64,
    /// Up to where of its usage each link was told.
    pub tellings: BTreeMap<Link, usize>,
}

impl Node {
    pub fn now(&self, at: u64) -> Now {
        let wall = Timestamp(1_790_000_000_000 + at as i64 + self.wall_offset);
        Now { mono: Mono(at + self.mono_offset), wall }
    }

    /// The next part of its usage for `link`.
    pub fn usage_part(&mut self, link: Link) -> UsagePart {
        let at = self.tellings.entry(link).or_default();
        *at += 1;
        match self.usage.get(*at - 1) {
            Some(chunk) => UsagePart::Chunk(chunk.as_slice().into()),
            None => {
                self.tellings.remove(&link);
                UsagePart::End { complete: !self.usage.is_empty() }
            }
        }
    }

    /// Notes for the judge that `origin` is held up to `head` from `at` on.
    pub fn note(&mut self, origin: OriginId, head: Head, at: u64) {
        self.history.entry(origin).or_default().push((at, head.sequence));
    }

    /// Its disk is another now: what it held before, it never held.
    pub fn replace_disk(&mut self, disk: MemoryStore, at: u64) {
        self.disk = disk;
        self.went_back = at;
        self.history.clear();
        for (origin, head) in self.disk.heads().iter() {
            self.history.entry(origin).or_default().push((at, head.sequence));
        }
    }
}
