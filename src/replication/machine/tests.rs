//! One machine, spoken to by hand.

use super::*;
use crate::policy::time::Timestamp;
use crate::replication::frame::{ENTRIES_MAX, EVENTS_BYTES_MAX, Hello, PROTOCOL, RecordBlob, Refusal, Run};
use crate::replication::settings::{HELLO_WAIT_MS, MEMBER_UNSEEN_MS, SILENCE_MS};

mod bounds;
mod closed;
mod knowing;
mod meeting;
mod strangers;
mod usage;

pub(super) fn at(ms: u64) -> Now {
    Now { mono: Mono(ms), wall: Timestamp(1_790_000_000_000 + ms as i64) }
}

pub(super) fn settings(number: u8) -> Settings {
    let mut settings = Settings::new(Instance([number; 16]), Run([number; 16]));
    settings.anchors = 3;
    settings
}

pub(super) fn machine(number: u8) -> Machine {
    Machine::new(settings(number), Heads::default())
}

pub(super) fn origin(number: u8) -> OriginId {
    OriginId([number; 16])
}

pub(super) fn head(sequence: u64) -> Head {
    Head { sequence, hash: [sequence as u8; 32] }
}

pub(super) fn entry(number: u8, sequence: u64) -> VectorEntry {
    VectorEntry { origin: origin(number), head: head(sequence), own: false }
}

pub(super) fn hello(number: u8, vector: Vec<VectorEntry>) -> Hello {
    Hello {
        protocol: PROTOCOL,
        cluster_id: "default".into(),
        key_check: [0; 16],
        address_form_version: 1,
        instance: Instance([number; 16]),
        run: Run([number; 16]),
        origin: None,
        role: Role::Anchor,
        anchor_name: String::new(),
        window_bytes: 16 * EVENTS_BYTES_MAX,
        window_frames: 8,
        vector,
        closed: Some(Closed::default().told(&Heads::default(), &BTreeSet::new())),
    }
}

pub(super) fn record(len: usize) -> Record {
    Record { chained: vec![1; len], hash: [2; 32], blob: RecordBlob::None }
}

/// What a machine says, without what it does.
pub(super) fn said(effects: &[Effect]) -> Vec<&Frame> {
    effects
        .iter()
        .filter_map(|effect| if let Effect::Send { frame, .. } = effect { Some(frame) } else { None })
        .collect()
}

pub(super) fn closed(effects: &[Effect]) -> Option<&CloseReason> {
    effects.iter().find_map(|effect| if let Effect::Close { why, .. } = effect { Some(why) } else { None })
}

pub(super) fn noted(effects: &[Effect]) -> Vec<&Note> {
    effects
        .iter()
        .filter_map(|effect| if let Effect::Note(note) = effect { Some(note) } else { None })
        .collect()
}

/// Hands `frame` over and takes back all that follows, the carrier being quick.
pub(super) fn tell(machine: &mut Machine, link: u64, frame: Frame, ms: u64) -> Vec<Effect> {
    let link = Link(link);
    let mut all = machine.handle(Input::Frame { link, frame }, at(ms));
    let mut left = said(&all).len();
    while left > 0 {
        let more = machine.handle(Input::Sent { link }, at(ms));
        left = left - 1 + said(&more).len();
        all.extend(more);
    }
    all
}

/// Lets `number` dial in by `link` and say hello with `vector`.
pub(super) fn meet(machine: &mut Machine, link: u64, hello: Hello, ms: u64) -> Vec<Effect> {
    let mut effects = machine.handle(Input::Connected { link: Link(link), dialled: false }, at(ms));
    effects.extend(machine.handle(Input::Sent { link: Link(link) }, at(ms)));
    effects.extend(tell(machine, link, Frame::Hello(Box::new(hello)), ms));
    effects
}
