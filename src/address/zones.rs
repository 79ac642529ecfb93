//! The time zones in which the holder of an address may be.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{LazyLock, OnceLock};

use jiff::tz::{TimeZone, TimeZoneDatabase};

use super::national::{lines, region_code};
use super::prefix::PrefixMap;
use super::region::{Region, region};
use super::{Address, AddressKind};

/// The table as it was generated.
pub(super) const DATA: &str = include_str!("data/zones.txt");

/// The longest name of a time zone that is looked up, in bytes.
pub const ZONE_NAME_LEN_MAX: usize = 64;

/// A set of time zones: all in which the holder of a number may be. Empty when nothing is known.
#[derive(Clone, Copy)]
pub struct Zones(Option<&'static ZoneSet>);

struct ZoneSet {
    names: Vec<&'static str>,
    /// The zones' rules, read from the bundled database when first needed and shared from then on:
    /// at most one list per line of the table.
    resolved: OnceLock<Vec<TimeZone>>,
}

impl Zones {
    /// No zone is known.
    pub const UNKNOWN: Self = Self(None);

    /// The IANA names, sorted.
    #[must_use]
    pub fn names(&self) -> &'static [&'static str] {
        self.0.map_or(&[], |set| &set.names)
    }

    /// How many zones there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names().len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names().is_empty()
    }

    /// The zones with their rules, as the policy wants them. Empty when nothing is known, and also
    /// when one of the names cannot be resolved: part of the zones must not pass for all of them.
    #[must_use]
    pub fn resolved(&self) -> &'static [TimeZone] {
        let Some(set) = self.0 else { return &[] };
        set.resolved.get_or_init(|| {
            let all: Result<_, _> = set.names.iter().map(|name| resolve_zone(name)).collect();
            all.unwrap_or_default()
        })
    }
}

impl fmt::Debug for Zones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[derive(Default)]
struct Table {
    sets: Vec<ZoneSet>,
    by_prefix: PrefixMap,
    /// For ids that name a region but no number. Every region libphonenumber knows is here.
    by_region: BTreeMap<[u8; 2], u16>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| read(DATA));

fn read(text: &'static str) -> Table {
    let mut section = "";
    let mut names = Vec::new();
    let mut table = Table::default();
    for line in lines(text) {
        match section {
            _ if line.starts_with('[') => section = line,
            "[zones]" => names.push(line),
            "[sets]" => table.sets.push(read_set(line, &names)),
            _ => {
                let kept = table.add(section, line);
                debug_assert!(kept.is_some(), "{section} {line}");
            }
        }
    }
    table
}

fn read_set(line: &str, names: &[&'static str]) -> ZoneSet {
    let name = |index: &str| names.get(index.parse::<usize>().ok()?).copied();
    ZoneSet { names: line.split(' ').filter_map(name).collect(), resolved: OnceLock::new() }
}

impl Table {
    fn add(&mut self, section: &str, line: &str) -> Option<()> {
        let (key, set) = line.split_once(' ')?;
        let set: u16 = set.parse().ok().filter(|&set| usize::from(set) < self.sets.len())?;
        match section {
            "[prefixes]" => self.by_prefix.insert(key, set).then_some(()),
            "[regions]" => self.by_region.insert(region_code(key)?, set).is_none().then_some(()),
            _ => None,
        }
    }
}

/// Whether `region` is one that libphonenumber knows.
pub(super) fn is_known(region: Region) -> bool {
    TABLE.by_region.contains_key(&region.0)
}

/// The zones in which the holder of `address` may be: a phone's by its prefix, a WhatsApp user
/// id's by its country, none for an email address or a number of no country.
#[must_use]
pub fn zones(address: &Address) -> Zones {
    let table = &*TABLE;
    let set = match address.kind() {
        AddressKind::Phone => table.by_prefix.longest(address.digits()),
        AddressKind::WhatsappUserId => {
            region(address).and_then(|Region(code)| table.by_region.get(&code).copied())
        }
        AddressKind::Email => None,
    };
    Zones(set.and_then(|set| table.sets.get(usize::from(set))))
}

/// A name that is not a time zone's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time zone of the IANA database; give a name such as `Europe/Paris`")]
pub struct ZoneFault;

/// The time zone of an IANA name, in any case, from the database bundled with the program: jiff
/// keeps each zone it has read, so at most as many as the database has.
///
/// # Errors
/// When there is no such zone.
pub fn resolve_zone(name: &str) -> Result<TimeZone, ZoneFault> {
    // `Etc/Unknown` is jiff's word for a zone without rules; it must not pass for UTC.
    if name.is_empty() || name.len() > ZONE_NAME_LEN_MAX || name.eq_ignore_ascii_case("Etc/Unknown") {
        return Err(ZoneFault);
    }
    TimeZoneDatabase::bundled().get(name).map_err(|_| ZoneFault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zone_of_the_table_is_known_and_every_prefix_has_a_set() {
        let table = &*TABLE;
        assert!(table.sets.len() > 300);
        for set in &table.sets {
            assert!(!set.names.is_empty());
            for name in &set.names {
                assert!(resolve_zone(name).is_ok(), "{name}");
            }
        }
        let prefixes = lines(DATA).skip_while(|line| *line != "[prefixes]").skip(1);
        let mut count = 0;
        for line in prefixes.take_while(|line| !line.starts_with('[')) {
            let (prefix, set) = line.split_once(' ').unwrap();
            assert_eq!(table.by_prefix.longest(prefix), Some(set.parse().unwrap()), "{line}");
            count += 1;
        }
        assert!(count > 2_000, "{count}");
    }

    #[test]
    fn every_region_has_zones() {
        assert!(TABLE.by_region.len() > 240, "{}", TABLE.by_region.len());
        assert!(TABLE.by_region.values().all(|&set| usize::from(set) < TABLE.sets.len()));
    }

    #[test]
    fn names_are_checked() {
        assert!(resolve_zone("Europe/Paris").is_ok());
        assert!(resolve_zone("europe/paris").is_ok());
        for bad in ["", "Mars/Olympus", "Etc/Unknown", "etc/unknown", &"A".repeat(ZONE_NAME_LEN_MAX + 1)] {
            assert_eq!(resolve_zone(bad), Err(ZoneFault), "{bad}");
        }
    }
}
