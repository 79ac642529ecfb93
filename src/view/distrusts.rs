//! Origins that are forked: hardly ever any. What rests on their ids is set aside in whatever is read of a person; what is kept is not
//! touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use super::bytes::{Damage, Reader, Writer};
use super::error::{StoreError, ViewError};
use super::store::Store;
use crate::policy::distrust::Distrust;
use crate::policy::ids::OriginId;
use crate::policy::record::Record;

const VERSION: u8 = 1;
/// The first byte of a key; the origin follows.
const KEY: u8 = b'd';

/// What is known of forked origins.
#[derive(Default)]
pub struct Distrusts {
    /// Hardly any cluster has one, and every check asks.
    some: AtomicBool,
    known: RwLock<Arc<Distrust>>,
    /// The store lacks some, or has some that are gone.
    dirty: AtomicBool,
    /// Those that are gone.
    gone: Mutex<Vec<OriginId>>,
}

impl Distrusts {
    /// Ids of `origin` name more than one event from `from` on. Says whether that is news.
    pub fn put(&self, origin: OriginId, from: u64) -> bool {
        let mut known = self.known.write();
        let news = Arc::make_mut(&mut known).add(origin, from);
        if news {
            self.some.store(true, Ordering::Release);
            self.dirty.store(true, Ordering::Release);
        }
        news
    }

    pub fn all(&self) -> Arc<Distrust> {
        Arc::clone(&self.known.read())
    }

    /// Sets aside in `record` what rests on ids that name more than one event.
    pub fn lay_over(&self, record: &mut Record) {
        if self.some.load(Ordering::Acquire) {
            self.all().lay_over(record);
        }
    }

    /// Reads what the store has.
    pub fn load(&self, store: &dyn Store) -> Result<(), ViewError> {
        let mut found = Distrust::default();
        let mut damage = Ok(());
        store.scan(&[KEY], &mut |key, bytes| match take(key, bytes) {
            Ok((origin, from)) => drop(found.add(origin, from)),
            Err(err) => damage = Err(err),
        })?;
        self.some.store(!found.is_empty(), Ordering::Release);
        *self.known.write() = Arc::new(found);
        Ok(damage?)
    }

    /// Takes what `built` has and nothing else. Says whether that is another than before.
    pub fn replace(&self, built: &Self) -> bool {
        let mut known = self.known.write();
        let built = built.all();
        if *known == built {
            return false;
        }
        let gone = known.iter().map(|(origin, _)| origin);
        self.gone.lock().extend(gone.filter(|origin| built.iter().all(|(kept, _)| kept != *origin)));
        self.some.store(!built.is_empty(), Ordering::Release);
        *known = built;
        self.dirty.store(true, Ordering::Release);
        true
    }

    pub fn clear(&self) {
        *self.known.write() = Arc::default();
        self.some.store(false, Ordering::Release);
        self.dirty.store(false, Ordering::Release);
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Writes all of them, if the store lacks one: they are few.
    pub fn drain(&self, store: &dyn Store) -> Result<(), StoreError> {
        // Before they are looked at: what is put meanwhile is written next time.
        if !self.dirty.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let gone = std::mem::take(&mut *self.gone.lock());
        for origin in gone {
            store.remove(&store_key(origin))?;
        }
        for (origin, from) in self.all().iter() {
            let mut out = Writer::new(vec![]);
            out.byte(VERSION);
            out.number(from);
            store.insert(&store_key(origin), &out.finish())?;
        }
        Ok(())
    }
}

fn store_key(origin: OriginId) -> Vec<u8> {
    [&[KEY], &origin.0[..]].concat()
}

fn take(key: &[u8], bytes: &[u8]) -> Result<(OriginId, u64), Damage> {
    let origin = key.get(1..).and_then(|origin| origin.try_into().ok()).ok_or(Damage("origin"))?;
    let mut input = Reader::new(bytes);
    if input.byte()? != VERSION {
        return Err(Damage("version"));
    }
    let from = input.number()?;
    input.end()?;
    Ok((OriginId(origin), from))
}
