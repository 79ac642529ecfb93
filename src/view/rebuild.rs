//! Builds the view anew from the ledger, in memory that does not grow with it.
//!
//! Every event becomes what it alone makes of each of its subjects, encoded as in the store, and is spilled to one file, in
//! blocks of one shard each. Then, shard by shard in the order of the store's keys, a person's pieces are joined (the merge is
//! a join, so their order is indifferent) and whole buckets written once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::View;
use super::bucket::{Layout, Parts, build, key_of, shard_of};
use super::bytes::{Damage, Reader, put_varint};
use super::error::{ViewError, io_error};
use super::folder::State;
use super::inner::{Inner, Phase, SHARDS};
use super::meta::Meta;
use super::record::Person;
use crate::ledger::Position;
use crate::policy::event::{ConsentEvent, SenderEntry, TemplateEntry};
use crate::policy::ids::{EventId, Identifier, OriginId};

/// A shard's pieces are spilled once they have this many bytes.
const BLOCK_BYTES: usize = 32 * 1024;

/// Builds the view anew in bounded memory: feed it the whole ledger in its order, then call [`Rebuilder::finish`].
pub struct Rebuilder {
    view: View,
    spill: Spill,
}

impl Rebuilder {
    pub(super) fn start(view: View) -> Result<Self, ViewError> {
        let inner = &view.inner;
        match inner.phase() {
            Phase::Closed => return Err(ViewError::Closed),
            Phase::Rebuilding => {}
            Phase::Serving => {
                // Whatever happens from here on, the next start does not believe what is left.
                inner.folder.say(&State { built: false, ..view.state() })?;
                inner.set_phase(Phase::Rebuilding);
            }
        }
        inner.empty()?;
        let spill = Spill::create(inner.folder.spill())?;
        Ok(Self { view, spill })
    }

    /// Takes a consent event whose record starts at `at`; all its subjects learn of it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn event(&mut self, at: Position, id: EventId, event: &ConsentEvent) -> Result<(), ViewError> {
        for subject in &event.subjects {
            let mut person = Person::default();
            person.record.apply(id, event, subject);
            person.trail.push(at);
            self.spill.push(subject, &person.encode_consent())?;
        }
        Ok(())
    }

    /// Takes all that another node's view knew of a person, as [`Person::encode_consent`] wrote it there; joined with what else comes.
    ///
    /// # Errors
    /// When the bytes are damaged or the disk fails.
    pub fn person(&mut self, who: &Identifier, consent: &[u8]) -> Result<(), ViewError> {
        Person::decode(consent, &[])?;
        self.spill.push(who, consent)
    }

    /// Takes a template.
    pub fn template(&mut self, entry: TemplateEntry) {
        self.view.inner.registry.put_template(entry);
    }

    /// Takes a sender's state.
    pub fn sender(&mut self, entry: SenderEntry) {
        self.view.inner.registry.put_sender(entry);
    }

    /// Takes that an origin is forked.
    pub fn distrust(&mut self, origin: OriginId, from: u64) {
        self.view.inner.registry.put_distrust(origin, from);
    }

    /// Loads what was taken; reading the ledger goes on at `next`. From then on the view answers.
    /// `progress` hears parts done of parts in all.
    ///
    /// # Errors
    /// When the disk or the store fails; the next start rebuilds again.
    pub fn finish(mut self, next: Position, mut progress: impl FnMut(u32, u32)) -> Result<(), ViewError> {
        let inner = &self.view.inner;
        {
            let mut stored = inner.stored.lock();
            for shard in 0..SHARDS {
                let (layout, persons) = self.spill.take(shard)?.load(inner)?;
                stored.layouts[shard] = layout;
                stored.persons[shard] = persons;
                stored.scattered[shard] = 0;
                inner.freed(inner.shards[shard].lock().forget_consent(layout));
                progress(shard as u32 + 1, SHARDS as u32);
            }
            inner.registry.drain(&*inner.store)?;
            inner.store.flush()?;
            stored.position = next;
            stored.save(&*inner.store)?;
            inner.store.flush()?;
            inner.note_stored(&stored);
        }
        inner.folder.say(&self.view.state())?;
        inner.advance(next);
        inner.set_phase(Phase::Serving);
        Ok(())
    }
}

impl Inner {
    /// Empties the store and all that was read from it. Usage that the store does not have yet stays.
    fn empty(&self) -> Result<(), ViewError> {
        let mut stored = self.stored.lock();
        // Whoever asked before the phase changed has read what there was; who asks from now on is told that it is being built.
        self.shards.iter().for_each(|shard| drop(shard.lock()));
        let mut keys = Vec::new();
        self.store.scan(&[], &mut |key, _| keys.push(key.to_vec()))?;
        for key in keys {
            self.store.remove(&key)?;
        }
        *stored = Meta::default();
        self.usage_in_store.store(false, Ordering::Release);
        self.registry.clear();
        for shard in &self.shards {
            let mut shard = shard.lock();
            // The store has nobody, and whoever comes is noted.
            shard.presence.complete();
            self.freed(shard.forget_consent(Layout::MIN));
        }
        self.looked_through.store(SHARDS, Ordering::Relaxed);
        self.restart();
        Ok(())
    }
}

/// Pieces of persons on disk, by shard.
struct Spill {
    path: PathBuf,
    file: File,
    len: u64,
    buffers: Vec<Vec<u8>>,
    /// Where each shard's blocks are: offset and length.
    blocks: Vec<Vec<(u64, usize)>>,
}

impl Spill {
    fn create(path: PathBuf) -> Result<Self, ViewError> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(io_error("make", &path))?;
        Ok(Self { path, file, len: 0, buffers: vec![Vec::new(); SHARDS], blocks: vec![Vec::new(); SHARDS] })
    }

    fn push(&mut self, who: &Identifier, consent: &[u8]) -> Result<(), ViewError> {
        let shard = shard_of(who);
        let buffer = &mut self.buffers[shard];
        buffer.extend_from_slice(&who.0);
        put_varint(buffer, consent.len() as u64);
        buffer.extend_from_slice(consent);
        if buffer.len() < BLOCK_BYTES {
            return Ok(());
        }
        self.file.write_all_at(buffer, self.len).map_err(io_error("write", &self.path))?;
        self.blocks[shard].push((self.len, buffer.len()));
        self.len += buffer.len() as u64;
        buffer.clear();
        Ok(())
    }

    /// All pieces of a shard.
    fn take(&mut self, shard: usize) -> Result<Pieces, ViewError> {
        let blocks = std::mem::take(&mut self.blocks[shard]);
        let last = std::mem::take(&mut self.buffers[shard]);
        let len = blocks.iter().map(|(_, len)| len).sum::<usize>();
        let mut bytes = Vec::with_capacity(len + last.len());
        for (offset, len) in blocks {
            let start = bytes.len();
            bytes.resize(start + len, 0);
            let read = self.file.read_exact_at(&mut bytes[start..], offset);
            read.map_err(io_error("read", &self.path))?;
        }
        bytes.extend_from_slice(&last);
        Ok(Pieces { bytes })
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_file(&self.path)
            && err.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(fault = %err, "the rebuild's spill file could not be removed");
        }
    }
}

/// All pieces of one shard.
struct Pieces {
    bytes: Vec<u8>,
}

impl Pieces {
    /// Joins them and writes the shard's buckets, in order; their layout and the number of persons.
    fn load(self, inner: &Inner) -> Result<(Layout, u32), ViewError> {
        let mut pieces = self.sorted()?;
        // What several pieces were joined to; the others stay where they are.
        let mut joined: Vec<(Identifier, Vec<u8>)> = Vec::new();
        for of_one in pieces.chunk_by(|(a, _), (b, _)| a == b).filter(|of_one| of_one.len() > 1) {
            joined.push((of_one[0].0, join(of_one)?));
        }
        pieces.dedup_by_key(|(who, _)| *who);
        for (who, consent) in &joined {
            if let Ok(at) = pieces.binary_search_by_key(who, |(who, _)| *who) {
                pieces[at].1 = consent;
            }
        }
        let count = pieces.len() as u32;
        let layout = Layout::for_persons(count);
        let persons: Vec<_> =
            pieces.into_iter().map(|(who, consent)| (who, Parts { consent, usage: &[] })).collect();
        if let Some((first, _)) = persons.first() {
            inner.note_present(shard_of(first), persons.iter().map(|(who, _)| who));
        }
        for bucket in persons.chunk_by(|(a, _), (b, _)| key_of(a, layout) == key_of(b, layout)) {
            inner.store.insert(&key_of(&bucket[0].0, layout), &build(bucket))?;
        }
        Ok((layout, count))
    }

    fn sorted(&self) -> Result<Vec<(Identifier, &[u8])>, Damage> {
        let mut pieces = Vec::new();
        let mut input = Reader::new(&self.bytes);
        while !input.rest().is_empty() {
            let who = Identifier(input.array()?);
            let len = input.count()?;
            pieces.push((who, input.raw(len)?));
        }
        pieces.sort_by_key(|(who, _)| *who);
        Ok(pieces)
    }
}

/// What several pieces of one person say together.
fn join(pieces: &[(Identifier, &[u8])]) -> Result<Vec<u8>, Damage> {
    let mut whole = Person::default();
    for (_, consent) in pieces {
        let piece = Person::decode(consent, &[])?;
        whole.record.join(&piece.record);
        whole.trail.extend(piece.trail);
    }
    whole.trail.sort_unstable();
    whole.trail.dedup();
    Ok(whole.encode_consent())
}
