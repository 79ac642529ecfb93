//! Another store's origin, hashed as any store does it, without a store.

use super::*;
use crate::ledger::format::{Before, NewBlob, NewRecord, RecordView, Seed, encode_record};
use crate::ledger::relay::Checked;
use crate::ledger::{Head, Relayed, RelayedBlob};
use crate::policy::ids::{EventId, OriginId};

/// An origin that grows record by record.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) origin: OriginId,
    previous: Option<(OriginId, Head)>,
    head: Option<Head>,
}

impl Source {
    pub(super) fn new(number: u8) -> Self {
        Self { origin: OriginId([number; 16]), previous: None, head: None }
    }

    /// The origin of the same store's next run.
    pub(super) fn following(number: u8, before: &Source) -> Self {
        Self { previous: before.head.map(|head| (before.origin, head)), ..Self::new(number) }
    }

    /// An origin as far as a store holds it, to be continued.
    pub(super) fn continuing(origin: OriginId, head: Head) -> Self {
        Self { origin, previous: None, head: Some(head) }
    }

    pub(super) fn next(&mut self, payload: &[u8], blob: Option<&[u8]>) -> Relayed {
        let sequence = self.head.map_or(0, |head| head.sequence) + 1;
        let salt = [sequence as u8; 16];
        let record = NewRecord {
            id: EventId { origin: self.origin, sequence },
            before: self.head.map_or(Before::Origin(self.previous), |head| Before::Record(head.hash)),
            payload,
            blob: blob.map(|bytes| NewBlob { salt, bytes }),
            batch: 1,
            last: true,
            own: true,
        };
        let seed = Seed::new(&[0; 16], 1);
        let mut bytes = Vec::new();
        let hash = encode_record(&mut bytes, seed, 1024, &record);
        self.head = Some(Head { sequence, hash });
        let chained = RecordView::parse(&bytes, seed, 1024).unwrap().chained.to_vec();
        let blob =
            blob.map_or(RelayedBlob::None, |bytes| RelayedBlob::Present { salt, bytes: bytes.to_vec() });
        Relayed { chained, hash, blob }
    }

    pub(super) fn text(&mut self, payload: &str) -> Relayed {
        self.next(payload.as_bytes(), None)
    }
}

/// As the writer gets it; the form must be good.
pub(super) fn incoming(record: &Relayed, priority: bool) -> Incoming {
    Incoming::Relayed(Box::new(Checked::new(record.clone(), priority).unwrap()))
}

pub(super) fn all_of(log: &Log, origin: OriginId, from: u64) -> Vec<Relayed> {
    reader(log).records_of(origin, from).map(Result::unwrap).collect()
}
