//! What the store says of itself: up to where the ledger is in it, and how its buckets are laid out.

use super::bucket::Layout;
use super::bytes::{Damage, Reader, Writer};
use super::error::ViewError;
use super::inner::SHARDS;
use super::store::Store;
use crate::ledger::Position;

/// A store of another version is built anew.
const VERSION: u8 = 5;
const KEY: &[u8] = b"meta";
const AHEAD_KEY: &[u8] = b"meta-ahead";
const USAGE_KEY: &[u8] = b"meta-usage";

/// What the store says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// All of the ledger before it is in the store.
    pub position: Position,
    /// No entry that starts behind it is in the store. `None`: none is that does not start before `position`.
    pub ahead: Option<Position>,
    /// Whether the store may have usage.
    pub usage: bool,
    /// How each shard's buckets are laid out.
    pub layouts: [Layout; SHARDS],
    /// Persons per shard. After a crash a few are missing, which only delays a split.
    pub persons: [u32; SHARDS],
    /// Writes of single buckets per shard since all of them were written in order. After a crash a few are missing too.
    pub scattered: [u32; SHARDS],
}

impl Default for Meta {
    fn default() -> Self {
        let layouts = [Layout::MIN; SHARDS];
        let position = Position::START;
        Self { position, ahead: None, usage: false, layouts, persons: [0; SHARDS], scattered: [0; SHARDS] }
    }
}

impl Meta {
    /// Reads it; an empty store has none.
    pub fn load(store: &dyn Store) -> Result<Option<Self>, ViewError> {
        let mut read = Ok(None);
        store.get(KEY, &mut |bytes| read = Self::decode(bytes).map(Some))?;
        let mut read = read?;
        let mut ahead = Ok(None);
        store.get(AHEAD_KEY, &mut |bytes| {
            let bytes = bytes.try_into().map_err(|_| Damage("position"));
            ahead = bytes.map(|bytes| Some(Position::from_u64(u64::from_le_bytes(bytes))));
        })?;
        let usage = store.get(USAGE_KEY, &mut |_| ())?;
        if let Some(read) = &mut read {
            read.ahead = ahead?;
            read.usage = usage;
        }
        Ok(read)
    }

    /// Says that entries up to the one that starts at `ahead` may be in the store from now on. Before any of them is written: a ledger that
    /// is put back from before them must not pass for the one they come from.
    pub fn reach(&mut self, ahead: Option<Position>, store: &dyn Store) -> Result<(), ViewError> {
        let Some(at) = ahead.filter(|_| ahead > self.ahead) else { return Ok(()) };
        store.insert(AHEAD_KEY, &at.as_u64().to_le_bytes())?;
        self.ahead = ahead;
        Ok(())
    }

    /// Says that usage may be in the store from now on. Before any of it is written.
    pub fn expect_usage(&mut self, store: &dyn Store) -> Result<(), ViewError> {
        if !self.usage {
            store.insert(USAGE_KEY, &[])?;
            self.usage = true;
        }
        Ok(())
    }

    /// Writes it.
    pub fn save(&self, store: &dyn Store) -> Result<(), ViewError> {
        Ok(store.insert(KEY, &self.encode())?)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Vec::with_capacity(1024));
        out.byte(VERSION);
        out.number(self.position.as_u64());
        self.layouts.iter().for_each(|layout| out.byte(layout.byte()));
        self.persons.iter().chain(&self.scattered).for_each(|count| out.number(u64::from(*count)));
        out.finish()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let mut input = Reader::new(bytes);
        let version = input.byte()?;
        if version != VERSION {
            return Err(Damage("version"));
        }
        let position = Position::from_u64(input.number()?);
        let mut layouts = [Layout::MIN; SHARDS];
        for layout in &mut layouts {
            *layout = Layout::from_byte(input.byte()?)?;
        }
        let (mut persons, mut scattered) = ([0; SHARDS], [0; SHARDS]);
        for count in persons.iter_mut().chain(&mut scattered) {
            *count = u32::try_from(input.number()?).map_err(|_| Damage("count"))?;
        }
        input.end()?;
        Ok(Self { position, ahead: None, usage: false, layouts, persons, scattered })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::bucket::DEPTH_MAX;
    use crate::view::store::faulty::Disk;

    #[test]
    fn a_store_remembers_what_it_is() {
        let disk = Disk::default();
        assert_eq!(Meta::load(&disk.store()).unwrap(), None);
        let mut meta = Meta { position: Position::from_u64(u64::MAX), ..Meta::default() };
        meta.layouts[255] = Layout::new(DEPTH_MAX).beside(DEPTH_MAX);
        meta.persons[7] = u32::MAX;
        meta.scattered[8] = 1_000;
        meta.save(&disk.store()).unwrap();
        meta.reach(Some(Position::from_u64(7)), &disk.store()).unwrap();
        meta.reach(Some(Position::from_u64(6)), &disk.store()).unwrap();
        assert_eq!(meta.ahead, Some(Position::from_u64(7)));
        assert_eq!(Meta::load(&disk.store()).unwrap(), Some(meta.clone()));
        meta.expect_usage(&disk.store()).unwrap();
        assert_eq!(Meta::load(&disk.store()).unwrap(), Some(meta.clone()));
        let bytes = meta.encode();
        let mut of_another = bytes.clone();
        of_another[0] = VERSION - 1;
        assert!(Meta::decode(&of_another).is_err());
        for cut in 0..bytes.len() {
            assert!(Meta::decode(&bytes[..cut]).is_err());
        }
        meta.layouts[0].depth = DEPTH_MAX + 1;
        assert!(Meta::decode(&meta.encode()).is_err());
    }
}
