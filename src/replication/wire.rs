//! Frames as protobuf messages and back. What comes from a peer is checked here once, field by field: every length
//! and every list has a bound, so nothing behind this file meets an unbounded one.

use super::frame::{
    ANCHORS_MAX, CHAINED_LEN_MAX, ClosedSet, ENTRIES_MAX, EVENTS_BYTES_MAX, Events, Frame, Heard, Hello,
    Instance, NAME_LEN_MAX, RECORDS_MAX, Record, RecordBlob, Refusal, Role, Run, TEXT_LEN_MAX, USAGE_LEN_MAX,
    Usage, UsagePart, VectorEntry,
};
use crate::ledger::{BLOB_LEN_MAX, Head};
use crate::pb::replication::v1 as pb;
use crate::policy::ids::OriginId;

/// A frame that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireFault {
    /// Bytes of a fixed length have another.
    #[error("`{0}` has the wrong length")]
    Length(&'static str),
    /// More than the bound.
    #[error("`{0}` is longer than allowed")]
    TooLong(&'static str),
    /// A number outside its range.
    #[error("`{0}` is out of range")]
    Range(&'static str),
    /// Something required is not there.
    #[error("`{0}` is missing")]
    Missing(&'static str),
}

/// The frame as the wire has it.
#[must_use]
pub fn encode(frame: Frame) -> pb::Frame {
    use pb::frame::Frame as Wire;
    let wire = match frame {
        Frame::Hello(hello) => Some(Wire::Hello(encode_hello(*hello))),
        Frame::HelloRefused { reason, text } => {
            Some(Wire::HelloRefused(pb::HelloRefused { reason: refusal_to_wire(reason) as i32, text }))
        }
        Frame::Want { origins, skip } => Some(Wire::Want(pb::Want {
            origins: origins
                .into_iter()
                .map(|(origin, from)| pb::WantedOrigin { origin: origin.0.to_vec(), from })
                .collect(),
            skip: skip.into_iter().map(|origin| origin.0.to_vec()).collect(),
        })),
        Frame::Events(events) => Some(Wire::Events(pb::Events {
            origin: events.origin.0.to_vec(),
            first_sequence: events.first,
            records: events.records.into_iter().map(encode_record).collect(),
        })),
        Frame::Ack { frames_done, origins } => Some(Wire::Ack(pb::Ack {
            frames_done,
            origins: origins
                .into_iter()
                .map(|(origin, sequence)| pb::AckedOrigin { origin: origin.0.to_vec(), sequence })
                .collect(),
        })),
        Frame::Ping { number } => Some(Wire::Ping(pb::Ping { number })),
        Frame::Heartbeat { answers, wall_ms, changes, heard } => Some(Wire::Heartbeat(pb::Heartbeat {
            answers,
            wall_ms,
            changes: changes.into_iter().map(encode_entry).collect(),
            heard: heard
                .into_iter()
                .map(|heard| pb::HeardAnchor { anchor: heard.anchor, age_ms: heard.age_ms })
                .collect(),
        })),
        Frame::Doubt { held } => Some(Wire::Doubt(pb::Doubt { held: Some(encode_entry(held)) })),
        Frame::Usage(Usage { run, serial, bytes }) => {
            Some(Wire::Usage(pb::Usage { run: run.0.to_vec(), serial, content: bytes.to_vec() }))
        }
        Frame::AskUsage => Some(Wire::AskUsage(pb::AskUsage {})),
        Frame::UsageAnswer(part) => Some(Wire::UsageAnswer(match part {
            UsagePart::Chunk(bytes) => {
                pb::UsageAnswer { content: bytes.to_vec(), last: false, complete: false }
            }
            UsagePart::End { complete } => pb::UsageAnswer { content: Vec::new(), last: true, complete },
        })),
        Frame::AskClosed => Some(Wire::AskClosed(pb::AskClosed {})),
        Frame::Unknown => None,
    };
    pb::Frame { frame: wire }
}

/// Reads a peer's frame.
///
/// # Errors
/// When a field breaks its bounds. The stream cannot go on then.
pub fn decode(frame: pb::Frame) -> Result<Frame, WireFault> {
    use pb::frame::Frame as Wire;
    let pb::Frame { frame } = frame;
    Ok(match frame {
        None => Frame::Unknown,
        Some(Wire::Hello(hello)) => Frame::Hello(Box::new(decode_hello(hello)?)),
        Some(Wire::HelloRefused(pb::HelloRefused { reason, text })) => {
            bounded("text", text.len(), TEXT_LEN_MAX)?;
            let reason = pb::HelloRefusal::try_from(reason).unwrap_or(pb::HelloRefusal::Unspecified);
            Frame::HelloRefused { reason: refusal_from_wire(reason), text }
        }
        Some(Wire::Want(pb::Want { origins, skip })) => {
            bounded("want", origins.len().saturating_add(skip.len()), ENTRIES_MAX)?;
            Frame::Want {
                origins: origins
                    .into_iter()
                    .map(|pb::WantedOrigin { origin, from }| {
                        Ok((decode_origin(&origin)?, from_one("from", from)?))
                    })
                    .collect::<Result<_, WireFault>>()?,
                skip: skip.iter().map(|origin| decode_origin(origin)).collect::<Result<_, _>>()?,
            }
        }
        Some(Wire::Events(events)) => Frame::Events(decode_events(events)?),
        Some(Wire::Ack(pb::Ack { frames_done, origins })) => {
            bounded("origins", origins.len(), ENTRIES_MAX)?;
            Frame::Ack {
                frames_done,
                origins: origins
                    .into_iter()
                    .map(|pb::AckedOrigin { origin, sequence }| {
                        Ok((decode_origin(&origin)?, from_one("sequence", sequence)?))
                    })
                    .collect::<Result<_, WireFault>>()?,
            }
        }
        Some(Wire::Ping(pb::Ping { number })) => Frame::Ping { number: from_one("number", number)? },
        Some(Wire::Doubt(pb::Doubt { held })) => {
            Frame::Doubt { held: decode_entry(held.ok_or(WireFault::Missing("held"))?)? }
        }
        Some(Wire::Usage(pb::Usage { run, serial, content })) => {
            bounded("content", content.len(), USAGE_LEN_MAX)?;
            let (run, serial) = (Run(fixed("run", &run)?), from_one("serial", serial)?);
            Frame::Usage(Usage { run, serial, bytes: content.into() })
        }
        Some(Wire::AskUsage(pb::AskUsage {})) => Frame::AskUsage,
        Some(Wire::AskClosed(pb::AskClosed {})) => Frame::AskClosed,
        Some(Wire::UsageAnswer(pb::UsageAnswer { content, last, complete })) => {
            bounded("content", content.len(), USAGE_LEN_MAX)?;
            Frame::UsageAnswer(if last {
                UsagePart::End { complete }
            } else {
                UsagePart::Chunk(content.into())
            })
        }
        Some(Wire::Heartbeat(pb::Heartbeat { answers, wall_ms, changes, heard })) => {
            bounded("changes", changes.len(), ENTRIES_MAX)?;
            bounded("heard", heard.len(), ANCHORS_MAX)?;
            Frame::Heartbeat {
                answers,
                wall_ms,
                changes: changes.into_iter().map(decode_entry).collect::<Result<_, _>>()?,
                heard: heard
                    .into_iter()
                    .map(|pb::HeardAnchor { anchor, age_ms }| {
                        bounded("anchor", anchor.len(), NAME_LEN_MAX)?;
                        Ok(Heard { anchor, age_ms })
                    })
                    .collect::<Result<_, WireFault>>()?,
            }
        }
    })
}

fn encode_hello(hello: Hello) -> pb::Hello {
    let Hello {
        protocol,
        cluster_id,
        key_check,
        address_form_version,
        instance,
        run,
        origin,
        role,
        anchor_name,
        window_bytes,
        window_frames,
        vector,
        closed,
    } = hello;
    let role = match role {
        Role::Anchor => pb::Role::Anchor,
        Role::Edge => pb::Role::Edge,
    };
    pb::Hello {
        protocol,
        cluster_id,
        key_check: key_check.to_vec(),
        address_form_version,
        instance: instance.0.to_vec(),
        run: run.0.to_vec(),
        origin: origin.map_or_else(Vec::new, |origin| origin.0.to_vec()),
        role: role as i32,
        anchor_name,
        window_bytes: u32::try_from(window_bytes).unwrap_or(u32::MAX),
        window_frames: u32::try_from(window_frames).unwrap_or(u32::MAX),
        vector: vector.into_iter().map(encode_entry).collect(),
        closed: closed.map(|ClosedSet { count, hash }| pb::ClosedOrigins { count, hash: hash.to_vec() }),
    }
}

fn decode_hello(hello: pb::Hello) -> Result<Hello, WireFault> {
    let pb::Hello {
        protocol,
        cluster_id,
        key_check,
        address_form_version,
        instance,
        run,
        origin,
        role,
        anchor_name,
        window_bytes,
        window_frames,
        vector,
        closed,
    } = hello;
    bounded("cluster_id", cluster_id.len(), NAME_LEN_MAX)?;
    bounded("anchor_name", anchor_name.len(), NAME_LEN_MAX)?;
    bounded("vector", vector.len(), ENTRIES_MAX)?;
    let role = match pb::Role::try_from(role) {
        Ok(pb::Role::Anchor) => Role::Anchor,
        Ok(pb::Role::Edge) => Role::Edge,
        Ok(pb::Role::Unspecified) => return Err(WireFault::Missing("role")),
        Err(_) => return Err(WireFault::Range("role")),
    };
    let (window_bytes, window_frames) = (window_bytes as usize, window_frames as usize);
    if window_bytes < EVENTS_BYTES_MAX {
        return Err(WireFault::Range("window_bytes"));
    }
    if window_frames == 0 {
        return Err(WireFault::Range("window_frames"));
    }
    Ok(Hello {
        protocol,
        cluster_id,
        key_check: fixed("key_check", &key_check)?,
        address_form_version,
        instance: Instance(fixed("instance", &instance)?),
        run: Run(fixed("run", &run)?),
        origin: if origin.is_empty() { None } else { Some(decode_origin(&origin)?) },
        role,
        anchor_name,
        window_bytes,
        window_frames,
        vector: vector.into_iter().map(decode_entry).collect::<Result<_, _>>()?,
        closed: closed.map(decode_closed).transpose()?,
    })
}

fn decode_closed(closed: pb::ClosedOrigins) -> Result<ClosedSet, WireFault> {
    let pb::ClosedOrigins { count, hash } = closed;
    Ok(ClosedSet { count, hash: fixed("hash", &hash)? })
}

fn encode_entry(entry: VectorEntry) -> pb::VectorEntry {
    let VectorEntry { origin, head, own } = entry;
    pb::VectorEntry { origin: origin.0.to_vec(), sequence: head.sequence, hash: head.hash.to_vec(), own }
}

fn decode_entry(entry: pb::VectorEntry) -> Result<VectorEntry, WireFault> {
    let pb::VectorEntry { origin, sequence, hash, own } = entry;
    let head = Head { sequence: from_one("sequence", sequence)?, hash: fixed("hash", &hash)? };
    Ok(VectorEntry { origin: decode_origin(&origin)?, head, own })
}

/// Writes how far an origin is held.
#[must_use]
pub fn encode_head(origin: OriginId, head: Head) -> pb::VectorEntry {
    encode_entry(VectorEntry { origin, head, own: false })
}

/// Reads how far an origin is held.
///
/// # Errors
/// When a field breaks its bounds.
pub fn decode_head(entry: pb::VectorEntry) -> Result<(OriginId, Head), WireFault> {
    decode_entry(entry).map(|entry| (entry.origin, entry.head))
}

fn encode_record(record: Record) -> pb::Record {
    let Record { chained, hash, blob } = record;
    let blob = match blob {
        RecordBlob::None => None,
        RecordBlob::Present { salt, bytes } => {
            Some(pb::record::Blob::PresentBlob(pb::PresentBlob { salt: salt.to_vec(), content: bytes }))
        }
        RecordBlob::Erased => Some(pb::record::Blob::BlobErased(true)),
    };
    pb::Record { chained, hash: hash.to_vec(), blob }
}

fn decode_record(record: pb::Record) -> Result<Record, WireFault> {
    let pb::Record { chained, hash, blob } = record;
    bounded("chained", chained.len(), CHAINED_LEN_MAX)?;
    let blob = match blob {
        None => RecordBlob::None,
        Some(pb::record::Blob::BlobErased(_)) => RecordBlob::Erased,
        Some(pb::record::Blob::PresentBlob(pb::PresentBlob { salt, content })) => {
            bounded("content", content.len(), BLOB_LEN_MAX)?;
            RecordBlob::Present { salt: fixed("salt", &salt)?, bytes: content }
        }
    };
    Ok(Record { chained, hash: fixed("hash", &hash)?, blob })
}

fn decode_events(events: pb::Events) -> Result<Events, WireFault> {
    let pb::Events { origin, first_sequence, records } = events;
    bounded("records", records.len(), RECORDS_MAX)?;
    if records.is_empty() {
        return Err(WireFault::Missing("records"));
    }
    let events = Events {
        origin: decode_origin(&origin)?,
        first: from_one("first_sequence", first_sequence)?,
        records: records.into_iter().map(decode_record).collect::<Result<_, _>>()?,
    };
    if events.first.checked_add(events.records.len() as u64).is_none() {
        return Err(WireFault::Range("first_sequence"));
    }
    if events.records.len() > 1 {
        bounded("records", events.weight(), EVENTS_BYTES_MAX)?;
    }
    Ok(events)
}

fn decode_origin(bytes: &[u8]) -> Result<OriginId, WireFault> {
    fixed("origin", bytes).map(OriginId)
}

fn fixed<const N: usize>(name: &'static str, bytes: &[u8]) -> Result<[u8; N], WireFault> {
    bytes.try_into().map_err(|_| WireFault::Length(name))
}

/// A sequence or number counts from 1; the last one is left out, so that the next always exists.
fn from_one(name: &'static str, number: u64) -> Result<u64, WireFault> {
    if (1..u64::MAX).contains(&number) { Ok(number) } else { Err(WireFault::Range(name)) }
}

fn bounded(name: &'static str, len: usize, len_max: usize) -> Result<(), WireFault> {
    if len > len_max { Err(WireFault::TooLong(name)) } else { Ok(()) }
}

const REFUSALS: [(Refusal, pb::HelloRefusal); 10] = [
    (Refusal::Other, pb::HelloRefusal::Unspecified),
    (Refusal::Protocol, pb::HelloRefusal::Protocol),
    (Refusal::Cluster, pb::HelloRefusal::Cluster),
    (Refusal::Key, pb::HelloRefusal::Key),
    (Refusal::AddressForm, pb::HelloRefusal::AddressForm),
    (Refusal::Itself, pb::HelloRefusal::Self_),
    (Refusal::Malformed, pb::HelloRefusal::Malformed),
    (Refusal::Duplicate, pb::HelloRefusal::Duplicate),
    (Refusal::Edge, pb::HelloRefusal::Edge),
    (Refusal::Full, pb::HelloRefusal::Full),
];

fn refusal_to_wire(reason: Refusal) -> pb::HelloRefusal {
    let found = REFUSALS.iter().find(|(ours, _)| *ours == reason);
    found.map_or(pb::HelloRefusal::Unspecified, |(_, wire)| *wire)
}

fn refusal_from_wire(reason: pb::HelloRefusal) -> Refusal {
    let found = REFUSALS.iter().find(|(_, wire)| *wire == reason);
    found.map_or(Refusal::Other, |(ours, _)| *ours)
}
