//! The merge rule: an opt-out holds until an opt-in is shown to come after it (design §5).
//!
//! A [`Cell`] is what is known of one person in one scope as written. Cells join: the join is
//! commutative, associative and idempotent, so the order in which events arrive never matters.
//! Nothing in a cell is ever forgotten that could deny.

use super::ids::{EventId, Identifier, OriginId};
use super::time::Timestamp;
use super::types::{Category, Channel, ConsentType, EvidenceGrade, OptInMethod};

/// The most opt-outs of one origin and scope that can each be named alone; what was numbered before them is known as one that nobody can
/// name, so that only time beats it.
pub const ALONE_MAX: usize = 64;

/// The opt-outs that an opt-in names: of each origin all up to a number, at the identifier itself and at linked ones, and some alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Covers {
    up_to: Vec<(OriginId, u64)>,
    alone: Vec<EventId>,
    linked: Vec<((Identifier, OriginId), u64)>,
}

impl Covers {
    /// The highest sequence up to which all of `origin` is covered at the identifier itself; 0 where nothing is.
    #[must_use]
    pub fn of(&self, origin: OriginId) -> u64 {
        self.up_to.iter().find(|(at, _)| *at == origin).map_or(0, |(_, sequence)| *sequence)
    }

    /// Whether what `mark` stands for is covered.
    #[must_use]
    pub fn has(&self, mark: &Mark) -> bool {
        self.has_event(mark.id, mark.naming)
    }

    /// Whether an event that is named so is covered.
    #[must_use]
    pub fn has_event(&self, id: EventId, naming: Naming) -> bool {
        match naming {
            Naming::WithEarlier => self.of(id.origin) >= id.sequence,
            Naming::Alone => self.alone.binary_search(&id).is_ok(),
            Naming::OfLink(who) => self.of_link(who, id.origin) >= id.sequence,
            Naming::Never => false,
        }
    }

    fn of_link(&self, who: Identifier, origin: OriginId) -> u64 {
        let at = self.linked.binary_search_by_key(&(who, origin), |(key, _)| *key);
        at.map_or(0, |at| self.linked[at].1)
    }

    /// Covers what `mark` stands for, if it can be named.
    pub fn name(&mut self, mark: &Mark) {
        match mark.naming {
            Naming::WithEarlier => self.raise(mark.id),
            Naming::Alone => self.name_alone(mark.id),
            Naming::OfLink(who) => self.raise_link(who, mark.id),
            Naming::Never => {}
        }
    }

    /// Covers `id` and what its origin numbered before it.
    pub fn raise(&mut self, id: EventId) {
        match self.up_to.binary_search_by_key(&id.origin, |(origin, _)| *origin) {
            Ok(at) => self.up_to[at].1 = self.up_to[at].1.max(id.sequence),
            Err(at) => self.up_to.insert(at, (id.origin, id.sequence)),
        }
    }

    /// Covers `id` and what its origin numbered before it at the linked identifier `who`.
    pub fn raise_link(&mut self, who: Identifier, id: EventId) {
        match self.linked.binary_search_by_key(&(who, id.origin), |(key, _)| *key) {
            Ok(at) => self.linked[at].1 = self.linked[at].1.max(id.sequence),
            Err(at) => self.linked.insert(at, ((who, id.origin), id.sequence)),
        }
    }

    /// Covers `id` and nothing else.
    pub fn name_alone(&mut self, id: EventId) {
        if let Err(at) = self.alone.binary_search(&id) {
            self.alone.insert(at, id);
        }
    }

    /// Covers nothing of `origin` beyond `highest`.
    pub fn lower(&mut self, origin: OriginId, highest: u64) {
        if let Ok(at) = self.up_to.binary_search_by_key(&origin, |(known, _)| *known) {
            self.up_to[at].1 = self.up_to[at].1.min(highest);
            if self.up_to[at].1 == 0 {
                self.up_to.remove(at);
            }
        }
        self.alone.retain(|id| id.origin != origin || id.sequence <= highest);
        for ((_, at), sequence) in &mut self.linked {
            if *at == origin {
                *sequence = (*sequence).min(highest);
            }
        }
        self.linked.retain(|(_, sequence)| *sequence > 0);
    }

    /// Of what is named alone keeps only what `wanted` says.
    pub fn retain_alone(&mut self, wanted: impl Fn(EventId) -> bool) {
        self.alone.retain(|id| wanted(*id));
    }

    /// Covers nothing of `origin` but what is named alone.
    pub fn forget_up_to(&mut self, origin: OriginId) {
        self.up_to.retain(|(known, _)| *known != origin);
        self.linked.retain(|((_, known), _)| *known != origin);
    }

    /// Covers all that `other` covers as well.
    pub fn join(&mut self, other: &Self) {
        other.up_to().for_each(|id| self.raise(id));
        other.alone().for_each(|id| self.name_alone(id));
        other.linked().for_each(|(who, id)| self.raise_link(who, id));
    }

    /// Whether everything that `other` covers is covered here.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        other.up_to().all(|id| self.of(id.origin) >= id.sequence)
            && other.alone().all(|id| self.alone.binary_search(&id).is_ok())
            && other.linked().all(|(who, id)| self.of_link(who, id.origin) >= id.sequence)
    }

    /// The highest event at each origin up to which all is covered.
    pub fn up_to(&self) -> impl ExactSizeIterator<Item = EventId> {
        self.up_to.iter().map(|&(origin, sequence)| EventId { origin, sequence })
    }

    /// The events that are covered alone.
    pub fn alone(&self) -> impl ExactSizeIterator<Item = EventId> {
        self.alone.iter().copied()
    }

    /// The highest event at each origin up to which all is covered at a linked identifier.
    pub fn linked(&self) -> impl ExactSizeIterator<Item = (Identifier, EventId)> {
        self.linked.iter().map(|&((who, origin), sequence)| (who, EventId { origin, sequence }))
    }

    /// Every event named, whatever it stands for.
    pub fn named(&self) -> impl Iterator<Item = EventId> {
        self.up_to().chain(self.alone()).chain(self.linked().map(|(_, id)| id))
    }

    /// Whether nothing is covered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.up_to.is_empty() && self.alone.is_empty() && self.linked.is_empty()
    }
}

/// Covers each and what its origin numbered before it.
impl FromIterator<EventId> for Covers {
    fn from_iter<I: IntoIterator<Item = EventId>>(ids: I) -> Self {
        let mut covers = Self::default();
        ids.into_iter().for_each(|id| covers.raise(id));
        covers
    }
}

/// What an opt-in comes after that names a mark's event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Naming {
    /// All that its origin numbered up to it at this identifier: whoever recorded it numbered it, in the order of recording.
    WithEarlier,
    /// That event alone: it was numbered late, behind what may have happened after it.
    Alone,
    /// All that its origin numbered up to it at this linked identifier. How marks of other records look; none is kept so.
    OfLink(Identifier),
    /// It cannot be named, so that only time beats it: it stands for those that went beyond [`ALONE_MAX`].
    Never,
}

/// The opt-outs of one origin that came the same way, as one: their highest sequence and their latest
/// times. One that was numbered late stands alone.
///
/// The person's own messages are kept apart from all else: a later message on the same channel is shown to
/// come after them by the provider's own order, and that must not rub off on an opt-out made elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The highest event.
    pub id: EventId,
    /// The latest time.
    pub time: Timestamp,
    /// Where they are the person's own messages: the channel, and the latest of the provider's times.
    pub message: Option<(Channel, Timestamp)>,
    /// What naming the event names.
    pub naming: Naming,
}

impl Mark {
    /// What tells marks apart; an origin's marks lie together, those that stand alone in the order of their numbers.
    fn key(&self) -> (OriginId, Naming, u64, Option<Channel>) {
        let alone = if self.naming == Naming::Alone { self.id.sequence } else { 0 };
        (self.id.origin, self.naming, alone, self.message.map(|(channel, _)| channel))
    }

    /// Whether a message of the person on `channel`, timed `at` by the provider, came after all of
    /// them, by that provider's order.
    #[must_use]
    pub fn precedes_message(&self, channel: Channel, at: Timestamp) -> bool {
        self.message.is_some_and(|(by, last)| by == channel && last < at)
    }

    /// As another identifier of the person has it, where it is of `who`; `None`: of whom it cannot be told there.
    #[must_use]
    pub fn of_link(self, who: Option<Identifier>) -> Self {
        match self.naming {
            Naming::WithEarlier => Self { naming: who.map_or(Naming::Never, Naming::OfLink), ..self },
            Naming::Alone | Naming::OfLink(_) | Naming::Never => self,
        }
    }
}

/// Opt-outs by origin and way. Judging those as one may deny more, never less.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(Vec<Mark>);

impl Marks {
    /// Adds one. No more than [`ALONE_MAX`] of an origin stand alone: those with the highest numbers, whatever order they come in.
    pub fn add(&mut self, mark: Mark) {
        self.gather(mark);
        if mark.naming == Naming::Alone {
            let first = |marks: &[Mark]| {
                marks.partition_point(|known| known.key() < (mark.id.origin, Naming::Alone, 0, None))
            };
            let is_too_many = |marks: &[Mark], first: usize| {
                marks
                    .get(first + ALONE_MAX)
                    .is_some_and(|last| last.id.origin == mark.id.origin && last.naming == Naming::Alone)
            };
            while is_too_many(&self.0, first(&self.0)) {
                let eldest = self.0.remove(first(&self.0));
                self.gather(Mark { naming: Naming::Never, ..eldest });
            }
        }
    }

    /// Adds one, to be looked at and not to be kept: without the bound.
    pub fn gather(&mut self, mark: Mark) {
        match self.0.binary_search_by_key(&mark.key(), Mark::key) {
            Ok(at) => {
                let known = &mut self.0[at];
                #[cfg(sabotage)]
                if crate::sabotage::is("opt-out-replaced") {
                    *known = mark;
                    return;
                }
                known.id.sequence = known.id.sequence.max(mark.id.sequence);
                known.time = known.time.max(mark.time);
                // The channels are equal, since the keys are.
                known.message = known.message.max(mark.message);
            }
            Err(at) => self.0.insert(at, mark),
        }
    }

    /// Adds all of `other`.
    pub fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|mark| self.add(*mark));
    }

    /// One mark per origin and way, but for those that stand alone.
    pub fn iter(&self) -> impl Iterator<Item = &Mark> {
        self.0.iter()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Mark> for Marks {
    fn from_iter<I: IntoIterator<Item = Mark>>(all: I) -> Self {
        let mut marks = Self::default();
        all.into_iter().for_each(|mark| marks.add(mark));
        marks
    }
}

/// An opt-in as the merge sees it. All of it is fixed by its recorder. Its order, by id first, only
/// keeps lists alike everywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OptIn {
    /// The event.
    pub id: EventId,
    /// When the person acted, as stated.
    pub occurred: Timestamp,
    /// The opt-outs that the person acted after.
    pub covers: Covers,
    /// It comes after every opt-out earlier than this, whatever the clocks within the margin say.
    pub before: Option<Timestamp>,
    /// Taken over from another system: it covers nothing and beats only imported opt-outs.
    pub imported: bool,
    /// When it ends.
    pub expire: Option<Timestamp>,
    /// It counts only while the message is of this category: a category's opt-in reaches a topic
    /// named in its message types only as long as the topic stays in the category.
    pub within: Option<Category>,
    /// Its legal footing.
    pub consent_type: ConsentType,
    /// What its evidence proves.
    pub grade: EvidenceGrade,
    /// The request it confirms.
    pub confirms: Option<EventId>,
}

impl OptIn {
    /// Whether it is shown to come after an opt-out (or an invalidation).
    #[must_use]
    pub fn beats(&self, out: &Mark, out_imported: bool) -> bool {
        let by_time = self.before.is_some_and(|before| out.time < before);
        if self.imported {
            return out_imported && by_time;
        }
        #[cfg(sabotage)]
        if crate::sabotage::is("last-writer-wins") {
            return out.time < self.occurred;
        }
        #[cfg(sabotage)]
        if crate::sabotage::is("forgotten-covers") {
            return by_time;
        }
        self.covers.has(out) || by_time
    }

    /// Whether it has not ended at `now`.
    #[must_use]
    pub fn lasts_at(&self, now: Timestamp) -> bool {
        self.expire.is_none_or(|expire| now < expire)
    }

    /// Whether it permits whatever `other` permits, whatever opt-outs may still arrive.
    fn covers_all_of(&self, other: &Self) -> bool {
        (!self.imported || other.imported)
            && self.before >= other.before
            && self.expire.unwrap_or(Timestamp::MAX) >= other.expire.unwrap_or(Timestamp::MAX)
            && (self.within.is_none() || self.within == other.within)
            && (self.consent_type == ConsentType::Express || self.consent_type == other.consent_type)
            && self.grade >= other.grade
            && self.includes_covers_of(other)
    }

    fn includes_covers_of(&self, other: &Self) -> bool {
        #[cfg(sabotage)]
        if crate::sabotage::is("dominance-without-covers") {
            return true;
        }
        self.covers.includes(&other.covers)
    }

    /// A strict order, so that of two equals exactly one stays, the same one everywhere. One event may
    /// well hold several opt-ins of one scope, e.g. for a topic within each of two categories.
    fn dominates(&self, other: &Self) -> bool {
        self.covers_all_of(other) && (!other.covers_all_of(self) || self < other)
    }
}

/// A request that waits for its confirmation (double opt-in).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The event.
    pub id: EventId,
    /// The channel of the question, on which it is confirmed.
    pub via: Channel,
    /// When the person acted.
    pub occurred: Timestamp,
    /// The opt-outs applied when it was recorded: the person acted after them.
    pub covers: Covers,
    /// When it lapses.
    pub expire: Timestamp,
    /// How the person asked.
    pub method: OptInMethod,
    /// The category limit that its opt-in will have.
    pub within: Option<Category>,
    /// The end that its opt-in will have.
    pub opt_in_expire: Option<Timestamp>,
    /// What its evidence proves.
    pub grade: EvidenceGrade,
    /// Its legal footing.
    pub consent_type: ConsentType,
}

/// What is known of one person in one scope as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Opt-outs that happened here or at peers.
    pub outs: Marks,
    /// Opt-outs taken over from another system, by their stated times.
    pub imported_outs: Marks,
    /// Invalidations: they end opt-ins, without being opt-outs.
    pub voids: Marks,
    /// Opt-ins that no other dominates, in their order.
    pub opt_ins: Vec<OptIn>,
    /// The latest request per channel of the question and category limit, in that order.
    pub requests: Vec<Request>,
}

impl Cell {
    /// Adds an opt-in, unless another dominates it.
    pub fn add_opt_in(&mut self, opt_in: OptIn) {
        if self.opt_ins.iter().any(|known| known == &opt_in || known.dominates(&opt_in)) {
            return;
        }
        self.opt_ins.retain(|known| !opt_in.dominates(known));
        let at = self.opt_ins.partition_point(|known| known < &opt_in);
        self.opt_ins.insert(at, opt_in);
    }

    /// Adds a request; of each channel of the question, and each category limit, the latest stays.
    pub fn add_request(&mut self, request: Request) {
        let key = |request: &Request| (request.via, request.within);
        match self.requests.binary_search_by_key(&key(&request), key) {
            Ok(at) => {
                let known = &mut self.requests[at];
                if (known.occurred, &*known) < (request.occurred, &request) {
                    *known = request;
                }
            }
            Err(at) => self.requests.insert(at, request),
        }
    }

    /// Adds all that `other` knows.
    pub fn join(&mut self, other: &Self) {
        self.outs.join(&other.outs);
        self.imported_outs.join(&other.imported_outs);
        self.voids.join(&other.voids);
        other.opt_ins.iter().for_each(|opt_in| self.add_opt_in(opt_in.clone()));
        other.requests.iter().for_each(|request| self.add_request(request.clone()));
    }
}

/// A switch whose latest setting counts; of two at the same moment the suppressing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// When it was set.
    pub time: Timestamp,
    /// Whether it suppresses.
    pub suppresses: bool,
    /// The event that set it.
    pub event: EventId,
}

impl Register {
    /// The later of two; ties suppress, then the smaller event id stays.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let rank = |register: &Self| (register.time, register.suppresses, std::cmp::Reverse(register.event));
        if rank(&other) > rank(&self) { other } else { self }
    }
}
