//! What of a record denies.

use super::{Links, Record};
use crate::policy::consent::{Cell, Mark, Naming};

impl Record {
    /// What of it denies, and nothing that permits: opt-outs and invalidations, holds and stopped preferences. Whoever's word it is, it may be
    /// believed until the events themselves are at hand.
    ///
    /// What is linked is followed as another written form is: by it opt-outs reach the identifier, and no opt-in does.
    #[must_use]
    pub fn suppressing(self) -> Self {
        let Self { cells, mut preferences, mut holds, links, allowances: _, taken: _, set_aside: _ } = self;
        let cells = cells.into_iter().map(|(scope, cell)| {
            let Cell { outs, imported_outs, voids, opt_ins: _, requests: _ } = cell;
            (scope, Cell { outs, imported_outs, voids, ..Cell::default() })
        });
        let cells = cells.filter(|(_, cell)| *cell != Cell::default()).collect();
        preferences.retain(|(_, register)| register.suppresses);
        holds.retain(|(_, register)| register.suppresses);
        let mut forms: Vec<_> = links.all().copied().collect();
        forms.sort_unstable();
        forms.dedup();
        let links = Links { identifiers: Vec::new(), forms };
        Self { cells, preferences, holds, links, ..Self::default() }
    }

    /// Lets each opt-out and invalidation be named as `naming` says.
    pub fn rename(&mut self, naming: impl Fn(&Mark) -> Naming) {
        for (_, cell) in &mut self.cells {
            for marks in [&mut cell.outs, &mut cell.imported_outs, &mut cell.voids] {
                let renamed = marks.iter().map(|mark| Mark { naming: naming(mark), ..*mark });
                *marks = renamed.collect();
            }
        }
    }

    /// Forgets the written forms that `links` tie to the identifier already.
    pub fn forget_tied(&mut self, links: &Links) {
        self.links.forms.retain(|who| !links.all().any(|tied| tied == who));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::consent::{OptIn, Register, Request};
    use crate::policy::ids::{EventId, Identifier, OriginId, SenderId};
    use crate::policy::record::{AboutKind, Allowance, Taken};
    use crate::policy::time::Timestamp;
    use crate::policy::types::{Channel, ConsentType, EvidenceGrade, OptInMethod, Purpose, Scope};

    const EVENT: EventId = EventId { origin: OriginId([1; 16]), sequence: 7 };
    const TIME: Timestamp = Timestamp(1_000);

    fn marks() -> crate::policy::consent::Marks {
        [Mark { id: EVENT, time: TIME, message: None, naming: Naming::WithEarlier }].into_iter().collect()
    }

    fn scope(channel: Channel) -> Scope {
        Scope { channel: Some(channel), purpose: Purpose::All }
    }

    fn opt_in() -> OptIn {
        OptIn {
            id: EVENT,
            occurred: TIME,
            covers: Default::default(),
            before: Some(TIME),
            imported: false,
            expire: None,
            within: None,
            consent_type: ConsentType::Express,
            grade: EvidenceGrade::Strict,
            confirms: None,
        }
    }

    fn request() -> Request {
        Request {
            id: EVENT,
            via: Channel::Sms,
            occurred: TIME,
            covers: Default::default(),
            expire: TIME,
            method: OptInMethod::SmsKeyword,
            within: None,
            opt_in_expire: None,
            grade: EvidenceGrade::Strict,
            consent_type: ConsentType::Express,
        }
    }

    fn register(suppresses: bool) -> Register {
        Register { time: TIME, suppresses, event: EVENT }
    }

    #[test]
    fn all_that_denies_stays_and_all_that_permits_goes() {
        let permitting = Cell { opt_ins: vec![opt_in()], requests: vec![request()], ..Cell::default() };
        let denying = [
            Cell { outs: marks(), ..Cell::default() },
            Cell { imported_outs: marks(), ..Cell::default() },
            Cell { voids: marks(), ..Cell::default() },
        ];
        let channels = [Channel::Sms, Channel::Email, Channel::Voice];
        let sender = |name: &str| SenderId::new(name).unwrap();
        let both = |denying: &Cell| Cell {
            opt_ins: permitting.opt_ins.clone(),
            requests: permitting.requests.clone(),
            ..denying.clone()
        };
        let mut cells: Vec<_> =
            channels.iter().zip(&denying).map(|(channel, cell)| (scope(*channel), both(cell))).collect();
        cells.push((scope(Channel::Whatsapp), permitting.clone()));
        let allowance = Allowance {
            recorded: TIME,
            event: EVENT,
            kind: AboutKind::HelpAnswer,
            channel: None,
            until: TIME,
        };
        let mark = crate::policy::event::RequestMark { key: [1; 8], content: [2; 8] };
        let record = Record {
            cells,
            preferences: vec![(sender("a"), register(false)), (sender("b"), register(true))],
            holds: vec![(Channel::Sms, register(true)), (Channel::Email, register(false))],
            links: Links { identifiers: vec![Identifier([3; 32])], forms: vec![Identifier([2; 32])] },
            allowances: vec![allowance],
            taken: vec![Taken { request: mark, event: EVENT }],
            set_aside: vec![opt_in()],
        };
        let wanted = Record {
            cells: channels.iter().zip(denying).map(|(channel, cell)| (scope(*channel), cell)).collect(),
            preferences: vec![(sender("b"), register(true))],
            holds: vec![(Channel::Sms, register(true))],
            links: Links { identifiers: Vec::new(), forms: vec![Identifier([2; 32]), Identifier([3; 32])] },
            ..Record::default()
        };
        assert_eq!(record.suppressing(), wanted);
    }

    #[test]
    fn what_cannot_be_named_denies_all_the_same() {
        let cell = Cell { outs: marks(), ..Cell::default() };
        let mut record = Record { cells: vec![(scope(Channel::Sms), cell)], ..Record::default() };
        record.rename(|_| Naming::Never);
        let out = record.cells[0].1.outs.iter().next().copied();
        assert_eq!(out, Some(Mark { naming: Naming::Never, id: EVENT, time: TIME, message: None }));
    }
}
