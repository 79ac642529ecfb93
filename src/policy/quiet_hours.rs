//! Quiet hours in the recipient's local time.
//!
//! Zones arrive resolved among the facts; nothing here looks one up. Moments are judged, not local
//! times: what a clock on the wall shows at that moment decides, so an hour that daylight saving
//! skips is never quiet, and one that it repeats is judged alike both times.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;

use super::time::{DAY_MS, MINUTE_MS, Timestamp};
use super::types::Channel;

/// Minutes of a day: the largest minute at which a window can end.
pub const DAY_MIN: u16 = 1_440;

/// How far ahead a common hour of all zones is looked for. Rules repeat every week, and a change
/// of the clocks moves them by far less than a day.
pub const QUIET_SEARCH_DAYS: i64 = 8;

/// When messages of a category are not sent: whenever any of the rules says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuietHours {
    rules: Vec<QuietRule>,
}

/// A window that returns every week on some days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuietRule {
    days: [bool; 7],
    from_min: u16,
    to_min: u16,
    channels: BTreeSet<Channel>,
}

/// Why a window cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuietRuleFault {
    /// No day was given.
    #[error("a quiet window needs at least one day")]
    NoDay,
    /// A time of day beyond the day.
    #[error("a quiet window begins from 00:00 to 23:59 and ends at 24:00 at the latest")]
    NotInDay,
    /// Begin and end are the same.
    #[error("a quiet window must not begin and end at the same time; for a whole day end it at 24:00")]
    Empty,
}

/// Whether a moment is quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// Outside quiet hours in every zone.
    Allowed {
        /// When quiet hours begin in one of them, where that is within a minute.
        until: Option<Timestamp>,
    },
    /// Quiet in at least one zone, or no zone is known.
    Quiet {
        /// The first moment outside quiet hours in every zone; `None`: there is none.
        retry_at: Option<Timestamp>,
    },
}

impl QuietRule {
    /// A window from `from_min` to `to_min`, in minutes after local midnight, on each of `days`
    /// (Monday first). Where it ends no later than it begins, it ends on the next day: the days
    /// are those on which it begins. No channel means every channel.
    ///
    /// # Errors
    /// When there is no day, a time is not of the day, or the window is empty.
    pub fn new(
        days: [bool; 7],
        from_min: u16,
        to_min: u16,
        channels: BTreeSet<Channel>,
    ) -> Result<Self, QuietRuleFault> {
        if !days.contains(&true) {
            return Err(QuietRuleFault::NoDay);
        }
        if from_min >= DAY_MIN || to_min > DAY_MIN {
            return Err(QuietRuleFault::NotInDay);
        }
        if from_min == to_min {
            return Err(QuietRuleFault::Empty);
        }
        Ok(Self { days, from_min, to_min, channels })
    }

    /// The days on which the window begins, Monday first.
    #[must_use]
    pub const fn days(&self) -> [bool; 7] {
        self.days
    }

    /// When it begins, in minutes after local midnight.
    #[must_use]
    pub const fn from_min(&self) -> u16 {
        self.from_min
    }

    /// When it ends, in minutes after local midnight, on the next day unless later than it begins.
    #[must_use]
    pub const fn to_min(&self) -> u16 {
        self.to_min
    }

    /// The channels it is for; empty: all.
    #[must_use]
    pub const fn channels(&self) -> &BTreeSet<Channel> {
        &self.channels
    }

    fn concerns(&self, channel: Channel) -> bool {
        self.channels.is_empty() || self.channels.contains(&channel)
    }

    /// Milliseconds until the window that `local` lies in ends; `None` outside.
    fn left_ms(&self, local: Local) -> Option<i64> {
        let (from_ms, to_ms) = (i64::from(self.from_min) * MINUTE_MS, i64::from(self.to_min) * MINUTE_MS);
        let begins_today = self.days[local.weekday] && local.of_day_ms >= from_ms;
        if from_ms < to_ms {
            return (begins_today && local.of_day_ms < to_ms).then_some(to_ms - local.of_day_ms);
        }
        if begins_today {
            return Some(DAY_MS + to_ms - local.of_day_ms);
        }
        let began_yesterday = self.days[(local.weekday + 6) % 7] && local.of_day_ms < to_ms;
        began_yesterday.then_some(to_ms - local.of_day_ms)
    }
}

impl QuietHours {
    /// Quiet whenever one of `rules` says so.
    #[must_use]
    pub const fn new(rules: Vec<QuietRule>) -> Self {
        Self { rules }
    }

    /// The windows.
    #[must_use]
    pub fn rules(&self) -> &[QuietRule] {
        &self.rules
    }

    /// Whether any rule is for `channel`.
    #[must_use]
    pub fn concern(&self, channel: Channel) -> bool {
        self.rules.iter().any(|rule| rule.concerns(channel))
    }

    /// Whether `now` is quiet on `channel` in any of `zones`: the recipient may be in each of them.
    /// Without a zone all is quiet, since the hour is not known.
    #[must_use]
    pub fn at(&self, channel: Channel, zones: &[TimeZone], now: Timestamp) -> Quiet {
        if !self.concern(channel) {
            return Quiet::Allowed { until: None };
        }
        if zones.is_empty() {
            return Quiet::Quiet { retry_at: None };
        }
        let is_quiet = |at| zones.iter().any(|zone| self.may_end_at(channel, zone, at).is_some());
        if is_quiet(now) {
            return Quiet::Quiet { retry_at: self.open_in_all(channel, zones, now) };
        }
        // Windows begin on whole minutes, so within a minute only the next one can begin.
        let next_minute = Timestamp(now.0.div_euclid(MINUTE_MS).saturating_add(1).saturating_mul(MINUTE_MS));
        Quiet::Allowed { until: is_quiet(next_minute).then_some(next_minute) }
    }

    /// The first moment from `now` on that is quiet in none of `zones`.
    ///
    /// Each step goes to where the quiet of one zone may end; nothing before can be open in all, so
    /// nothing is missed, and every step goes forward.
    fn open_in_all(&self, channel: Channel, zones: &[TimeZone], now: Timestamp) -> Option<Timestamp> {
        let last = now.plus_ms(QUIET_SEARCH_DAYS * DAY_MS);
        let mut at = now;
        loop {
            let before = at;
            for zone in zones {
                while let Some(end) = self.may_end_at(channel, zone, at) {
                    // The second: at the end of time the sum stands still.
                    if end > last || end <= at {
                        return None;
                    }
                    at = end;
                }
            }
            if at == before {
                return Some(at);
            }
        }
    }

    /// `None` when `at` is not quiet in `zone`. Else a later moment: all until then is quiet too,
    /// and then it may be over.
    fn may_end_at(&self, channel: Channel, zone: &TimeZone, at: Timestamp) -> Option<Timestamp> {
        let offset_s = offset_s(zone, at);
        let local = Local::new(at, offset_s);
        let rules = self.rules.iter().filter(|rule| rule.concerns(channel));
        let left_ms = rules.filter_map(|rule| rule.left_ms(local)).max()?;
        let end = at.plus_ms(left_ms);
        if offset_s == self::offset_s(zone, end) {
            return Some(end);
        }
        // The clocks change before the window ends: judge anew from there.
        let change = zone.following(instant(at)).next().map(|change| change.timestamp());
        Some(change.map_or(end, |change| Timestamp(change.as_millisecond()).min(end)))
    }
}

/// What calendar and clock on the wall show.
#[derive(Clone, Copy)]
struct Local {
    /// 0 is Monday.
    weekday: usize,
    of_day_ms: i64,
}

impl Local {
    fn new(at: Timestamp, offset_s: i32) -> Self {
        let local_ms = at.plus_ms(i64::from(offset_s) * 1_000).0;
        // 1970-01-01 was a Thursday.
        let weekday = (local_ms.div_euclid(DAY_MS) + 3).rem_euclid(7);
        Self { weekday: usize::try_from(weekday).unwrap_or(0), of_day_ms: local_ms.rem_euclid(DAY_MS) }
    }
}

fn offset_s(zone: &TimeZone, at: Timestamp) -> i32 {
    zone.to_offset(instant(at)).seconds()
}

/// Moments beyond what a calendar can show are taken as its first or last one.
fn instant(at: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(at.0).unwrap_or(if at.0 < 0 {
        jiff::Timestamp::MIN
    } else {
        jiff::Timestamp::MAX
    })
}

#[cfg(test)]
mod tests {
    use jiff::civil::Weekday;
    use proptest::prelude::*;

    use super::*;

    const EVERY_DAY: [bool; 7] = [true; 7];

    fn rule(days: [bool; 7], from_min: u16, to_min: u16) -> QuietRule {
        QuietRule::new(days, from_min, to_min, BTreeSet::new()).unwrap()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    #[test]
    fn a_window_is_checked() {
        let new = |days, from, to| QuietRule::new(days, from, to, BTreeSet::new()).map(|_| ());
        assert_eq!(new([false; 7], 0, 60), Err(QuietRuleFault::NoDay));
        assert_eq!(new(EVERY_DAY, DAY_MIN, 60), Err(QuietRuleFault::NotInDay));
        assert_eq!(new(EVERY_DAY, 0, DAY_MIN + 1), Err(QuietRuleFault::NotInDay));
        assert_eq!(new(EVERY_DAY, 60, 60), Err(QuietRuleFault::Empty));
        assert_eq!(new(EVERY_DAY, 0, DAY_MIN), Ok(()));
        assert_eq!(new(EVERY_DAY, DAY_MIN - 1, 0), Ok(()));
    }

    #[test]
    fn a_rule_is_for_its_channels() {
        let sms = QuietRule::new(EVERY_DAY, 0, DAY_MIN, [Channel::Sms].into()).unwrap();
        let hours = QuietHours::new(vec![sms]);
        assert!(hours.concern(Channel::Sms));
        assert!(!hours.concern(Channel::Email));
        let at = |channel| hours.at(channel, &[TimeZone::UTC], Timestamp(0));
        assert_eq!(at(Channel::Email), Quiet::Allowed { until: None });
        assert_eq!(at(Channel::Sms), Quiet::Quiet { retry_at: None });
        assert!(!QuietHours::default().concern(Channel::Sms));
        assert_eq!(QuietHours::default().at(Channel::Sms, &[], Timestamp(0)), Quiet::Allowed { until: None });
    }

    #[test]
    fn without_a_zone_all_is_quiet() {
        let hours = QuietHours::new(vec![rule(EVERY_DAY, 0, 1)]);
        assert_eq!(hours.at(Channel::Sms, &[], Timestamp(0)), Quiet::Quiet { retry_at: None });
    }

    #[test]
    fn an_open_minute_tells_when_the_next_is_quiet() {
        let hours = QuietHours::new(vec![rule(EVERY_DAY, 1_260, 480)]);
        let nine_pm = 21 * 60 * MINUTE_MS;
        for (now, until) in [
            (nine_pm - MINUTE_MS - 1, None),
            (nine_pm - MINUTE_MS, Some(nine_pm)),
            (nine_pm - 1, Some(nine_pm)),
        ] {
            let expected = Quiet::Allowed { until: until.map(Timestamp) };
            assert_eq!(hours.at(Channel::Sms, &[TimeZone::UTC], Timestamp(now)), expected, "{now}");
        }
    }

    #[test]
    fn moments_beyond_the_calendar_are_judged_too() {
        let hours = QuietHours::new(vec![rule(EVERY_DAY, 1_260, 480)]);
        for at in [Timestamp::MIN, Timestamp::MAX] {
            let _ = hours.at(Channel::Sms, &[zone("Europe/Paris"), zone("Asia/Tokyo")], at);
        }
    }

    /// The same by the calendar, minute by minute.
    fn is_quiet(rules: &[QuietRule], zones: &[TimeZone], at: Timestamp) -> bool {
        zones.iter().any(|zone| {
            let local = jiff::Timestamp::from_millisecond(at.0).unwrap().to_zoned(zone.clone());
            let minute = u16::try_from(local.hour()).unwrap() * 60 + u16::try_from(local.minute()).unwrap();
            let on = |rule: &QuietRule, day: Weekday| {
                rule.days[usize::try_from(day.to_monday_zero_offset()).unwrap()]
            };
            rules.iter().any(|rule| {
                let (today, yesterday) = (on(rule, local.weekday()), on(rule, local.weekday().previous()));
                if rule.from_min < rule.to_min {
                    today && (rule.from_min..rule.to_min).contains(&minute)
                } else {
                    today && minute >= rule.from_min || yesterday && minute < rule.to_min
                }
            })
        })
    }

    fn any_rule() -> impl Strategy<Value = QuietRule> {
        let quarter = |hours: u16| (0..hours * 4).prop_map(|quarter| quarter * 15);
        (any::<[bool; 7]>(), quarter(24), quarter(24)).prop_filter_map("a window", |(days, from, to)| {
            QuietRule::new(days, from, to, BTreeSet::new()).ok()
        })
    }

    fn any_zones() -> impl Strategy<Value = Vec<TimeZone>> {
        let names = [
            "America/New_York",
            "America/St_Johns",
            "Europe/London",
            "Asia/Kathmandu",
            "Australia/Lord_Howe",
            "Pacific/Apia",
            "Africa/Casablanca",
            "UTC",
        ];
        proptest::sample::subsequence(names.to_vec(), 1..=3)
            .prop_map(|names| names.into_iter().map(zone).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn the_first_open_moment_is_the_calendars(
            rules in proptest::collection::vec(any_rule(), 1..=3),
            zones in any_zones(),
            // 2026, or the days around a change of the clocks in New York.
            minute in prop_oneof![29_453_760_i64..29_979_360, 29_548_800_i64..29_553_120],
        ) {
            let now = Timestamp(minute * MINUTE_MS);
            let found = QuietHours::new(rules.clone()).at(Channel::Sms, &zones, now);
            if is_quiet(&rules, &zones, now) {
                let minutes = QUIET_SEARCH_DAYS * i64::from(DAY_MIN);
                let open = (1..=minutes)
                    .map(|ahead| now.plus_ms(ahead * MINUTE_MS))
                    .find(|&at| !is_quiet(&rules, &zones, at));
                prop_assert_eq!(found, Quiet::Quiet { retry_at: open });
            } else {
                let next = now.plus_ms(MINUTE_MS);
                let until = is_quiet(&rules, &zones, next).then_some(next);
                prop_assert_eq!(found, Quiet::Allowed { until });
            }
        }
    }
}
