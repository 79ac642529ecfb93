//! The bytes, pinned: what this version writes, every later one must read.

use super::record::BLOB_PREFIX_LEN;
use super::*;
use crate::ledger::Head;
use crate::policy::ids::{EventId, OriginId};

const LEDGER: [u8; 16] = [0x11; 16];
const ORIGIN: OriginId = OriginId([0x22; 16]);
const SALT: [u8; 16] = [0x33; 16];

fn seed() -> Seed {
    Seed::new(&LEDGER, 5)
}

fn record<'a>(sequence: u64, before: Before, payload: &'a [u8], blob: Option<&'a [u8]>) -> NewRecord<'a> {
    NewRecord {
        id: EventId { origin: ORIGIN, sequence },
        before,
        payload,
        blob: blob.map(|bytes| NewBlob { salt: SALT, bytes }),
        batch: 9,
        last: false,
        own: true,
    }
}

fn encode(record: &NewRecord<'_>, offset: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_record(&mut bytes, seed(), offset, record);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_record_reads_back_with_every_combination_of_parts() {
    let previous = Some((OriginId([9; 16]), Head { sequence: 4, hash: [8; 32] }));
    let befores = [Before::Record([7; 32]), Before::Origin(None), Before::Origin(previous)];
    for before in befores {
        for payload in [&b""[..], b"p", b"payload!", &[0xab; 1000]] {
            for blob in [None, Some(&b""[..]), Some(&b"personal"[..])] {
                let written = record(3, before, payload, blob);
                let bytes = encode(&written, 1024);
                let first = matches!(before, Before::Origin(_));
                assert_eq!(bytes.len() as u64, record_len(payload.len(), blob.map(<[u8]>::len), first));
                assert_eq!(bytes.len() as u64 % ALIGN, 0);
                let read = RecordView::parse(&bytes, seed(), 1024).unwrap();
                assert_eq!((read.id, read.batch, read.last, read.own), (written.id, 9, false, true));
                assert_eq!(read.payload, payload);
                match (read.blob, blob) {
                    (BlobView::None, None) => {}
                    (BlobView::Present { bytes, .. }, Some(blob)) => assert_eq!(bytes, blob),
                    _ => panic!("another blob"),
                }
                assert!(read.blob_is_chained());
                let (genesis, hash) = match before {
                    Before::Record(hash) => (None, hash),
                    Before::Origin(previous) => {
                        (Some(previous), previous.map_or([0; 32], |(_, head)| head.hash))
                    }
                };
                assert_eq!(read.genesis, genesis);
                assert!(read.follows(&hash));
                assert!(!read.follows(&[1; 32]));
            }
        }
    }
}

#[test]
fn no_bit_of_a_record_may_flip() {
    let bytes = encode(&record(1, Before::Origin(None), b"payload", Some(b"personal")), 2048);
    let chained_end = RECORD_PREFIX_LEN + 32 + 56 + 32 + 7;
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << bit;
            let read = RecordView::parse(&flipped, seed(), 2048);
            let blob_from = chained_end.next_multiple_of(8);
            if place < chained_end {
                assert!(read.is_none(), "byte {place}");
            } else if (blob_from..blob_from + BLOB_PREFIX_LEN + 8).contains(&place) {
                assert!(matches!(read.unwrap().blob, BlobView::Damaged), "byte {place}");
            }
        }
    }
}

#[test]
fn a_record_counts_only_where_it_was_written() {
    let bytes = encode(&record(1, Before::Origin(None), b"payload", None), 2048);
    assert!(RecordView::parse(&bytes, seed(), 2048).is_some());
    assert!(RecordView::parse(&bytes, seed(), 2056).is_none());
    assert!(RecordView::parse(&bytes, Seed::new(&LEDGER, 6), 2048).is_none());
    assert!(RecordView::parse(&bytes, Seed::new(&[0x12; 16], 5), 2048).is_none());
    for len in 0..bytes.len() {
        assert!(RecordView::parse(&bytes[..len], seed(), 2048).is_none(), "{len} bytes");
    }
}

#[test]
fn resealing_moves_a_record_and_changes_its_flag_only() {
    let mut bytes = encode(&record(1, Before::Origin(None), b"payload", Some(b"personal")), 2048);
    let hash = RecordView::parse(&bytes, seed(), 2048).unwrap().hash;
    let other = Seed::new(&LEDGER, 6);
    reseal(&mut bytes, other, 1024, true);
    assert!(RecordView::parse(&bytes, seed(), 2048).is_none());
    let moved = RecordView::parse(&bytes, other, 1024).unwrap();
    assert!(moved.last);
    assert_eq!((moved.hash, moved.payload), (hash, &b"payload"[..]));
    assert!(moved.follows(&[0; 32]));
}

#[test]
fn an_erased_blob_leaves_the_chain_whole() {
    let mut bytes = encode(&record(1, Before::Origin(None), b"payload", Some(b"personal")), 2048);
    let (state_at, rest) = blob_place(&bytes).unwrap();
    let state_at = state_at as usize;
    bytes[state_at..state_at + 4].copy_from_slice(&BLOB_ERASING);
    let erased = |bytes: &[u8]| match RecordView::parse(bytes, seed(), 2048).unwrap().blob {
        BlobView::Erased { complete } => Some(complete),
        _ => None,
    };
    assert_eq!(erased(&bytes), Some(false));
    bytes[state_at + 4..state_at + 4 + rest].fill(0);
    bytes[state_at..state_at + 4].copy_from_slice(&BLOB_ERASED);
    assert_eq!(erased(&bytes), Some(true));
    assert!(!bytes.windows(8).any(|window| window == b"personal"));
    assert!(!bytes.windows(16).any(|window| window == SALT));
    assert!(RecordView::parse(&bytes, seed(), 2048).unwrap().follows(&[0; 32]));
}

#[test]
fn one_good_copy_of_the_header_suffices() {
    let header = Header {
        identity: Identity { ledger: LEDGER, key_check: [4; 16] },
        number: 7,
        previous: 6,
        previous_end: 99_992,
        moved_len: 808,
        first_batch: 12,
    };
    let area = header.area();
    assert_eq!(area.len() as u64, HEADER_LEN);
    assert_eq!(Header::parse(&area), Ok(header));
    let mut damaged = area.clone();
    damaged[..200].fill(0xff);
    assert_eq!(Header::parse(&damaged), Ok(header));
    let mut damaged = area.clone();
    damaged[SECOND_COPY_AT..].fill(0);
    assert_eq!(Header::parse(&damaged), Ok(header));
    damaged[20] ^= 1;
    assert_eq!(Header::parse(&damaged), Err(HeaderFault::Damaged));
    assert_eq!(Header::parse(&vec![0; HEADER_LEN as usize]), Err(HeaderFault::Blank));
}

#[test]
fn a_header_of_a_later_version_is_told_apart_from_damage() {
    let identity = Identity { ledger: LEDGER, key_check: [4; 16] };
    let header = Header { identity, number: 7, previous: 6, previous_end: 8, moved_len: 0, first_batch: 1 };
    let mut area = header.area();
    for at in [0, SECOND_COPY_AT] {
        area[at + 8] = 2;
        let crc = crc32c::crc32c(&area[at..at + 124]);
        area[at + 124..at + 128].copy_from_slice(&crc.to_le_bytes());
    }
    assert_eq!(Header::parse(&area), Err(HeaderFault::Version(2)));
}

fn counted(origin: OriginId, sequence: u64, hash: [u8; 32], own: bool, batch: u64) -> Counted {
    Counted { id: EventId { origin, sequence }, hash, own, batch, previous: None }
}

#[test]
fn a_footer_reads_back_at_its_own_place_only() {
    let mut contents = Contents::default();
    let previous = Some((OriginId([7; 16]), Head { sequence: 8, hash: [9; 32] }));
    contents.add(counted(ORIGIN, 5, [1; 32], true, 3));
    contents.add(Counted { previous, ..counted(OriginId([1; 16]), 1, [2; 32], false, 4) });
    contents.add(counted(ORIGIN, 6, [3; 32], true, 4));
    assert_eq!(contents.previous.get(&OriginId([1; 16])).copied(), previous);
    assert_eq!(
        (contents.records, contents.last_batch, contents.own),
        (3, 4, Some((ORIGIN, Head { sequence: 6, hash: [3; 32] })))
    );
    assert!(contents.fits_footer());
    assert_eq!(contents.origins[&ORIGIN], (5, Head { sequence: 6, hash: [3; 32] }));
    let footer = Footer { number: 5, end: 4096, contents };
    let bytes = footer.encode(seed());
    let mut trailer = [0; FOOTER_TRAILER_LEN];
    trailer.copy_from_slice(&bytes[bytes.len() - FOOTER_TRAILER_LEN..]);
    assert_eq!(Footer::len_from_trailer(&trailer), Some(bytes.len() as u64));
    assert_eq!(Footer::parse(&bytes, seed(), 4096), Some(footer));
    assert_eq!(Footer::parse(&bytes, seed(), 4104), None);
    for place in 0..bytes.len() - 8 {
        let mut flipped = bytes.clone();
        flipped[place] ^= 4;
        assert_eq!(Footer::parse(&flipped, seed(), 4096), None, "byte {place}");
    }
}

/// A change here makes ledgers unreadable that were written before.
#[test]
fn the_format_is_pinned() {
    let identity = Identity { ledger: LEDGER, key_check: [4; 16] };
    let header =
        Header { identity, number: 7, previous: 6, previous_end: 4096, moved_len: 808, first_batch: 12 };
    assert_eq!(hex(&header.copy()), include_str!("tests/header.hex").trim());
    let previous = Some((OriginId([9; 16]), Head { sequence: 4, hash: [8; 32] }));
    let bytes = encode(&record(1, Before::Origin(previous), b"payload", Some(b"personal")), 2048);
    assert_eq!(hex(&bytes), include_str!("tests/record.hex").trim());
    let mut contents = Contents::default();
    let previous = Some((OriginId([7; 16]), Head { sequence: 8, hash: [9; 32] }));
    contents.add(counted(ORIGIN, 5, [1; 32], true, 3));
    contents.add(Counted { previous, ..counted(OriginId([1; 16]), 1, [2; 32], false, 3) });
    let footer = Footer { number: 5, end: 4096, contents };
    assert_eq!(hex(&footer.encode(seed())), include_str!("tests/footer.hex").trim());
}
