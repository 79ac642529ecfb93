//! All limits together: asked narrowest first, consumed all at once or not at all.

use std::collections::HashMap;

use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxBuildHasher;

use super::admission::{Admission, Admitted, CooldownScope, Denied, Hold, Mode, Receipt, Refusal, Rule};
use super::buckets::{Answer, Bucket, Buckets, Claim, PairBucket, RateBucket};
use super::capacity::Capacity;
use super::chained::SLOTS_MAX;
use super::cooldowns::Cooldowns;
use super::distinct::{Distinct, Place, PortfolioRecipient, Refused};
use super::frequency::{self, FrequencyLog, MarkClass, SendMark};
use super::gcra::{self, Quota};
use super::hash::Seed;
use super::keys::{Keys, SHARDS, shard_of};
use super::persist::{Changes, Table};
use super::recent::{OtherContent, RecentRequests, RequestKey};
use super::{OUT_OF_ROOM_RETRY_MS, Settings};
use crate::policy::time::{MINUTE_MS, Timestamp};
use crate::policy::types::{Category, Channel, Reason};

/// A recipient counted again within the same minute is not stored again: after a crash it may count up to a
/// minute less, which saves most of the writing.
const STORE_EVERY_MS: i64 = MINUTE_MS;

/// One shard of what belongs to businesses. All of a business is in one shard, so its lock makes asking and
/// consuming one step.
pub(super) struct Shard {
    pub(super) pairs: Buckets<PairBucket>,
    pub(super) senders: Buckets<RateBucket>,
    pub(super) rates: Buckets<RateBucket>,
    pub(super) cooldowns: Cooldowns,
    pub(super) changes: Changes,
}

/// One shard of what belongs to portfolios.
#[derive(Default)]
pub(super) struct Portfolios {
    pub(super) distinct: HashMap<u64, Distinct, FxBuildHasher>,
    pub(super) changes: Vec<(u64, PortfolioRecipient, Option<Timestamp>)>,
    pub(super) missed: bool,
}

/// How much of each table is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUsage {
    /// The table's name, for metrics.
    pub table: &'static str,
    /// Entries in it.
    pub used: usize,
    /// Entries it may have.
    pub max: usize,
}

/// What a give-back changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenBack {
    /// A send left the person's frequency log, which needs storing.
    pub mark: bool,
    /// The recipient no longer counts, or counts from an earlier time.
    pub distinct: bool,
}

/// Every limit of one node. Locks are taken in the order business, portfolio, requests.
pub struct Limiter {
    pub(super) keys: Keys,
    pub(super) shards: Vec<Mutex<Shard>>,
    pub(super) portfolios: Vec<Mutex<Portfolios>>,
    pub(super) recent: Mutex<RecentRequests>,
    pub(super) pairs_room: Capacity,
    pub(super) senders_room: Capacity,
    pub(super) rates_room: Capacity,
    pub(super) cooldowns_room: Capacity,
    pub(super) recipients_room: Capacity,
    pub(super) portfolios_room: Capacity,
    requests_max: usize,
}

/// A bucket's answer on the way to a common decision.
type Asked = Option<(Claim, Quota)>;

impl Limiter {
    /// An empty limiter. `key` seeds its hashes: secret, and the same for the same data directory, or stored usage
    /// is of no use.
    #[must_use]
    pub fn new(settings: &Settings, key: [u8; 16]) -> Self {
        let room = |max: usize| Capacity::new(max.clamp(1, SLOTS_MAX / 2));
        let shard = || {
            Mutex::new(Shard {
                pairs: Buckets::new(),
                senders: Buckets::new(),
                rates: Buckets::new(),
                cooldowns: Cooldowns::new(),
                changes: Changes::default(),
            })
        };
        Self {
            keys: Keys { seed: Seed::new(key) },
            shards: (0..SHARDS).map(|_| shard()).collect(),
            portfolios: (0..SHARDS).map(|_| Mutex::default()).collect(),
            recent: Mutex::new(RecentRequests::new(settings.requests_max, settings.request_memory_ms)),
            pairs_room: room(settings.pairs_max),
            senders_room: room(settings.senders_max),
            rates_room: room(settings.businesses_max),
            cooldowns_room: room(settings.cooldowns_max),
            recipients_room: room(settings.recipients_max),
            portfolios_room: room(settings.portfolios_max),
            requests_max: settings.requests_max,
        }
    }

    /// The key of a request id, which its caller chose.
    #[must_use]
    pub fn request_key(&self, business: &str, request_id: &str) -> RequestKey {
        self.keys.request(business, request_id)
    }

    /// Binds a request id to its content, given in parts, for some minutes. To be called before anything else is
    /// decided about the request.
    ///
    /// # Errors
    /// When the same id came with other content.
    pub fn bind_request(
        &self,
        key: RequestKey,
        content: &[&[u8]],
        now: Timestamp,
    ) -> Result<(), OtherContent> {
        self.recent.lock().bind(key, self.keys.content(content), now)
    }

    /// Admits a message or says which rules refuse it. All rules are asked; only if none refuses, but for those
    /// that `shadow` says only report, all are charged.
    ///
    /// `log` is the person's frequency log; the caller holds it alone from reading to storing it. It changed if
    /// the receipt is marked.
    ///
    /// # Errors
    /// The rules that refused. Nothing was consumed.
    pub fn try_admit(
        &self,
        admission: &Admission<'_>,
        log: &mut FrequencyLog,
        shadow: &dyn Fn(Reason) -> bool,
        now: Timestamp,
    ) -> Result<Admitted, Denied> {
        if admission.exempt {
            return Ok(Admitted::default());
        }
        let now_ns = gcra::nanos(now);
        let enforce = admission.mode == Mode::Enforce;
        let business_key = self.keys.business(admission.business);
        let sender_key = self.keys.sender(business_key, admission.channel, admission.sender);
        let pair_key = self.keys.pair(sender_key, admission.recipient);
        let mut guard = self.shard(business_key);
        let shard = &mut *guard;
        if let Some(request) = admission.request
            && let Some((decision, receipt)) = self.recent.lock().consumed(request, now)
        {
            return Ok(Admitted { receipt, repeats: Some(decision), shadowed: Vec::new() });
        }

        let mut refusals = Vec::new();
        self.ask_cooldowns(shard, admission, business_key, now, &mut refusals);
        let class = MarkClass::of(admission.category);
        if let Some(class) = class {
            log.settle(now);
            for cap in admission.caps {
                if let Some(wait_ms) = frequency::wait_ms(cap, log.marks(), class, now) {
                    refusals.push(refused(Rule::FrequencyCap(*cap), Some(wait_ms)));
                }
            }
        }
        let mut counted = self.ask_distinct(admission, now, &mut refusals);
        let limits = admission.limits;
        let pair = limits.pair.and_then(|every| {
            let quota = Quota::pair(every);
            ask(&mut shard.pairs, pair_key, quota, now_ns, &self.pairs_room, enforce)
                .map_err(|refusal| refusals.push(refusal.of(Rule::PairRate(every))))
                .ok()
        });
        let sender = limits.sender.and_then(|rate| {
            let quota = Quota::sender(rate, admission.members);
            ask(&mut shard.senders, sender_key, quota, now_ns, &self.senders_room, enforce)
                .map_err(|refusal| refusals.push(refusal.of(Rule::SenderRate(rate))))
                .ok()
        });
        let business = limits.business_per_hour.and_then(|rate| {
            let (per_hour, burst) = (rate.of(admission.quality), rate.burst);
            let quota = Quota::business(per_hour, burst, admission.members);
            let key = self.keys.rate(business_key, admission.channel);
            ask(&mut shard.rates, key, quota, now_ns, &self.rates_room, enforce)
                .map_err(|refusal| refusals.push(refusal.of(Rule::BusinessRate { per_hour, burst })))
                .ok()
        });

        let (shadowed, refusals) = split(refusals, shadow);
        if !refusals.is_empty() || !enforce {
            #[cfg(sabotage)]
            let pair = match pair {
                Some((claim, quota)) if enforce && crate::sabotage::is("denied-consumes") => {
                    shard.pairs.take(claim, &quota, now_ns, &self.pairs_room);
                    None
                }
                pair => pair,
            };
            if enforce {
                leave::<PairBucket>(pair, &self.pairs_room);
                leave::<RateBucket>(sender, &self.senders_room);
                leave::<RateBucket>(business, &self.rates_room);
                if let Some(Counting { place: Some(place), .. }) = counted {
                    Distinct::leave(place, &self.recipients_room);
                }
            }
            return if refusals.is_empty() {
                Ok(Admitted { shadowed, ..Admitted::default() })
            } else {
                Err(Denied { refusals, shadowed })
            };
        }

        if let Some((claim, quota)) = pair {
            shard.pairs.take(claim, &quota, now_ns, &self.pairs_room);
            shard.changes.push(Table::Pairs, pair_key);
        }
        if let Some((claim, quota)) = sender {
            let slot = shard.senders.take(claim, &quota, now_ns, &self.senders_room);
            shard.changes.push_rate(Table::Senders, shard.senders.table.get_mut(slot));
        }
        if let Some((claim, quota)) = business {
            let slot = shard.rates.take(claim, &quota, now_ns, &self.rates_room);
            shard.changes.push_rate(Table::Rates, shard.rates.table.get_mut(slot));
        }
        let mut receipt = Receipt { request: admission.request.map(RequestKey::tag), ..Receipt::default() };
        receipt.distinct = counted.as_mut().and_then(|counting| self.count(counting, admission, now));
        drop(counted);
        if let Some(class) =
            class.filter(|class| admission.caps.iter().any(|cap| class.counts_for(cap.class)))
        {
            let [a, b, c, d, ..] = admission.decision;
            receipt.nonce = u32::from_le_bytes([a, b, c, d]);
            receipt.marked = true;
            log.push(SendMark { time: now, nonce: receipt.nonce, class }, admission.caps, now);
        }
        if let Some(request) = admission.request {
            self.recent.lock().note(request, admission.decision, &receipt);
        }
        Ok(Admitted { receipt, repeats: None, shadowed })
    }

    /// Undoes what a failed send consumed of caps and the messaging limit; rates refill by themselves. Giving the
    /// same receipt back again changes nothing.
    pub fn give_back(
        &self,
        business: &str,
        portfolio: Option<&str>,
        recipient: &PortfolioRecipient,
        receipt: &Receipt,
        log: &mut FrequencyLog,
        now: Timestamp,
    ) -> GivenBack {
        let mut given = GivenBack { mark: receipt.marked && log.remove(receipt.nonce), distinct: false };
        if let Some(distinct) = &receipt.distinct {
            let key = self.keys.portfolio(business, portfolio);
            let mut portfolios = self.portfolio_shard(key);
            let counted = portfolios.distinct.get_mut(&key);
            if let Some(time) =
                counted.and_then(|counted| counted.give_back(recipient, distinct, now, &self.recipients_room))
            {
                portfolios.push_change(key, recipient, time);
                given.distinct = true;
            }
        }
        self.recent.lock().unnote(receipt);
        given
    }

    /// Holds up what a provider refused for `span_ms` from now, or for as long as it is held up already. Says
    /// until when.
    pub fn cool_down(
        &self,
        business: &str,
        channel: Channel,
        hold: Hold<'_>,
        span_ms: i64,
        now: Timestamp,
    ) -> Timestamp {
        let business = self.keys.business(business);
        let key = self.keys.hold(business, channel, hold);
        let mut shard = self.shard(business);
        shard.changes.push(Table::Cooldowns, key);
        shard.cooldowns.hold(key, span_ms, now, &self.cooldowns_room)
    }

    /// Holds up what a provider refused for 1 s, then 4 s, 16 s and so on as long as refusals follow each other
    /// within an hour. Says until when.
    pub fn back_off(&self, business: &str, channel: Channel, hold: Hold<'_>, now: Timestamp) -> Timestamp {
        let business = self.keys.business(business);
        let key = self.keys.hold(business, channel, hold);
        let mut shard = self.shard(business);
        shard.changes.push(Table::Cooldowns, key);
        shard.cooldowns.back_off(key, now, &self.cooldowns_room)
    }

    /// How many distinct recipients a portfolio has in the 24 hours up to `now`.
    #[must_use]
    pub fn distinct_recipients(&self, business: &str, portfolio: Option<&str>, now: Timestamp) -> usize {
        let key = self.keys.portfolio(business, portfolio);
        let mut portfolios = self.portfolio_shard(key);
        let counted = portfolios.distinct.get_mut(&key);
        counted.map_or(0, |counted| counted.count(now, &self.recipients_room))
    }

    /// How full every table is.
    #[must_use]
    pub fn usage(&self) -> [TableUsage; 7] {
        let of = |table, room: &Capacity| TableUsage { table, used: room.used(), max: room.max() };
        [
            of("pairs", &self.pairs_room),
            of("senders", &self.senders_room),
            of("businesses", &self.rates_room),
            of("cooldowns", &self.cooldowns_room),
            of("recipients", &self.recipients_room),
            of("portfolios", &self.portfolios_room),
            TableUsage { table: "requests", used: self.recent.lock().len(), max: self.requests_max },
        ]
    }

    fn ask_cooldowns(
        &self,
        shard: &mut Shard,
        admission: &Admission<'_>,
        business_key: u64,
        now: Timestamp,
        refusals: &mut Vec<Refusal>,
    ) {
        // Seldom is anything held up at all.
        if shard.cooldowns.is_idle(now) {
            return;
        }
        let marketing = admission.category == Category::Marketing;
        let scopes = [
            Some((CooldownScope::Business, Hold::Business)),
            Some((CooldownScope::Sender, Hold::Sender(admission.sender))),
            marketing.then_some((
                CooldownScope::RecipientMarketing,
                Hold::RecipientMarketing(admission.recipient),
            )),
            Some((CooldownScope::Pair, Hold::Pair(admission.sender, admission.recipient))),
        ];
        for (scope, hold) in scopes.into_iter().flatten() {
            let key = self.keys.hold(business_key, admission.channel, hold);
            if let Some(wait_ms) = shard.cooldowns.remaining(key, now) {
                refusals.push(refused(Rule::Cooldown(scope), Some(wait_ms)));
            }
        }
    }

    /// Asks the messaging limit. The portfolio stays locked while the answer is used.
    fn ask_distinct(
        &self,
        admission: &Admission<'_>,
        now: Timestamp,
        refusals: &mut Vec<Refusal>,
    ) -> Option<Counting<'_>> {
        let limit = admission.limits.messaging_limit.filter(|_| admission.counts_distinct)?;
        let enforce = admission.mode == Mode::Enforce;
        let key = self.keys.portfolio(admission.business, admission.portfolio);
        let mut portfolios = self.portfolio_shard(key);
        let recipient = admission.portfolio_recipient;
        let room = &self.recipients_room;
        let answer = match portfolios.of(key, enforce, &self.portfolios_room) {
            Ok(Some(distinct)) => distinct.ask(recipient, limit, now, room, enforce).map(Some),
            Ok(None) if limit == 0 => Err(Refused::Limit(None)),
            Ok(None) if room.has_room() => Ok(None),
            Ok(None) | Err(NoRoom) => Err(Refused::Full),
        };
        let rule = Rule::MessagingLimit(limit);
        let place = match answer {
            Ok(place) => place,
            Err(Refused::Limit(wait_ms)) => {
                refusals.push(refused(rule, wait_ms));
                None
            }
            Err(Refused::Full) => {
                refusals.push(BucketRefusal::OutOfRoom.of(rule));
                None
            }
        };
        Some(Counting { key, portfolios, place })
    }

    /// Counts an admitted message's recipient, also where the limit only reports, as long as there is room.
    fn count(
        &self,
        counting: &mut Counting<'_>,
        admission: &Admission<'_>,
        now: Timestamp,
    ) -> Option<super::DistinctReceipt> {
        let recipient = admission.portfolio_recipient;
        let distinct = counting.portfolios.distinct.get_mut(&counting.key)?;
        if counting.place.take().is_none() {
            let _place = distinct.ask(recipient, u64::MAX, now, &self.recipients_room, true).ok()?;
        }
        let receipt = distinct.take(recipient, now);
        let minute = |time: Timestamp| time.0.div_euclid(STORE_EVERY_MS);
        if receipt.previous.is_none_or(|previous| minute(previous) != minute(receipt.time)) {
            counting.portfolios.push_change(counting.key, recipient, Some(receipt.time));
        }
        Some(receipt)
    }

    /// The shard of any key of a business.
    pub(super) fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        self.shards[shard_of(key)].lock()
    }

    /// The shard of a portfolio's key.
    pub(super) fn portfolio_shard(&self, key: u64) -> MutexGuard<'_, Portfolios> {
        self.portfolios[shard_of(key)].lock()
    }
}

/// A locked portfolio and the place asked for in it.
struct Counting<'a> {
    key: u64,
    portfolios: MutexGuard<'a, Portfolios>,
    place: Option<Place>,
}

/// There are as many portfolios as there may be.
pub(super) struct NoRoom;

impl Portfolios {
    /// The recipients of a portfolio, made if asked to.
    pub(super) fn of(
        &mut self,
        key: u64,
        make: bool,
        room: &Capacity,
    ) -> Result<Option<&mut Distinct>, NoRoom> {
        if !self.distinct.contains_key(&key) {
            if !make {
                return Ok(None);
            }
            if !room.reserve() {
                self.drop_empty(room);
                if !room.reserve() {
                    return Err(NoRoom);
                }
            }
            self.distinct.insert(key, Distinct::new());
        }
        Ok(self.distinct.get_mut(&key))
    }

    /// Drops portfolios in which nobody is counted any more.
    pub(super) fn drop_empty(&mut self, room: &Capacity) {
        let before = self.distinct.len();
        self.distinct.retain(|_, distinct| !distinct.is_empty());
        room.release(before - self.distinct.len());
    }
}

/// Why a bucket refuses.
#[derive(Clone, Copy)]
enum BucketRefusal {
    Wait(u64),
    Never,
    OutOfRoom,
}

impl BucketRefusal {
    const fn of(self, rule: Rule) -> Refusal {
        match self {
            Self::Wait(wait_ms) => refused(rule, Some(wait_ms)),
            Self::Never => refused(rule, None),
            Self::OutOfRoom => {
                Refusal { rule, retry_after_ms: Some(OUT_OF_ROOM_RETRY_MS), out_of_room: true }
            }
        }
    }
}

const fn refused(rule: Rule, retry_after_ms: Option<u64>) -> Refusal {
    Refusal { rule, retry_after_ms, out_of_room: false }
}

fn ask<B: Bucket>(
    buckets: &mut Buckets<B>,
    key: u64,
    quota: Option<Quota>,
    now_ns: u64,
    room: &Capacity,
    reserve: bool,
) -> Result<(Claim, Quota), BucketRefusal> {
    let quota = quota.ok_or(BucketRefusal::Never)?;
    match buckets.ask(key, &quota, now_ns, room, reserve) {
        Answer::Pass(claim) => Ok((claim, quota)),
        Answer::Wait(wait_ms) => Err(BucketRefusal::Wait(wait_ms)),
        Answer::Full => Err(BucketRefusal::OutOfRoom),
    }
}

fn leave<B: Bucket>(asked: Asked, room: &Capacity) {
    if let Some((claim, _)) = asked {
        Buckets::<B>::leave(claim, room);
    }
}

/// Parts refusals that only report from those that count.
fn split(refusals: Vec<Refusal>, shadow: &dyn Fn(Reason) -> bool) -> (Vec<Refusal>, Vec<Refusal>) {
    if refusals.is_empty() {
        return (refusals, Vec::new());
    }
    refusals.into_iter().partition(|refusal| shadow(refusal.rule.reason()))
}

#[cfg(test)]
mod tests;
