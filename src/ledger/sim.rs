//! A disk for tests that behaves as badly as a real one may: on a power cut it keeps any part of what was not synced, sector by
//! sector; a failed sync loses sectors that the cache still shows; it fills up; it rots. Everything follows from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};

/// A simulated disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    dice: Dice,
    /// What a write cannot tear.
    sector: usize,
    inodes: Vec<Inode>,
    /// As processes see them.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the directory was synced, in order: a power cut keeps some first few.
    name_changes: Vec<NameChange>,
    /// Writing operations until the power goes.
    power_cut_in: Option<u64>,
    /// Syncs until one fails.
    sync_fault_in: Option<u64>,
    power_off: bool,
    capacity: u64,
    locked: bool,
    /// Handles of an earlier run are dead.
    run: u64,
    operations: u64,
    handles: usize,
    handles_max: usize,
    /// Sectors that cannot be read any more.
    bad: BTreeSet<(usize, usize)>,
}

#[derive(Clone)]
enum NameChange {
    Bind(String, usize),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Default, PartialEq)]
struct Inode {
    /// What processes see.
    cache: Vec<u8>,
    /// What a power cut leaves.
    disk: Vec<u8>,
    /// Sectors the disk has yet to get.
    dirty: BTreeSet<usize>,
}

/// A small seeded generator (splitmix64), so that a seed means the same for ever.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll().checked_rem(bound).unwrap_or(0)
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// As `Vec::resize` with zeros, which is slow where it is not optimised, and tests are not.
fn set_len(bytes: &mut Vec<u8>, len: usize) {
    if len <= bytes.len() {
        bytes.truncate(len);
    } else {
        let mut longer = vec![0; len];
        longer[..bytes.len()].copy_from_slice(bytes);
        *bytes = longer;
    }
}

impl Inode {
    fn mark(&mut self, from: usize, to: usize, sector: usize) {
        if from < to {
            self.dirty.extend(from / sector..=(to - 1) / sector);
        }
    }

    /// The disk gets one sector. Returns where it ends.
    fn flush(&mut self, index: usize, sector: usize) -> usize {
        let from = index * sector;
        let to = (from + sector).min(self.cache.len());
        if from < to {
            if self.disk.len() < to {
                set_len(&mut self.disk, to);
            }
            self.disk[from..to].copy_from_slice(&self.cache[from..to]);
        }
        to
    }

    /// The disk gets some of the dirty sectors, as `dice` has it.
    fn flush_some(&mut self, sector: usize, dice: &mut Dice) {
        let mode = dice.below(4);
        let mut len = self.disk.len();
        set_len(&mut self.disk, len.max(self.cache.len()));
        for index in std::mem::take(&mut self.dirty) {
            let keep = match mode {
                0 => false,
                1 => true,
                _ => dice.one_in(2),
            };
            if keep {
                len = len.max(self.flush(index, sector));
            }
        }
        // The length is a matter of its own: it may or may not have arrived.
        if dice.one_in(2) {
            len = self.cache.len();
        }
        set_len(&mut self.disk, len);
    }

    fn sync(&mut self, sector: usize) {
        set_len(&mut self.disk, self.cache.len());
        for index in std::mem::take(&mut self.dirty) {
            self.flush(index, sector);
        }
    }
}

impl State {
    /// Counts one writing operation; true if the power goes during it.
    fn strikes(&mut self) -> bool {
        self.operations += 1;
        match &mut self.power_cut_in {
            Some(0) => {
                self.power_off = true;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn check(&self, run: Option<u64>) -> io::Result<()> {
        if self.power_off || run.is_some_and(|run| run != self.run) {
            return Err(io::Error::other("the power is off"));
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].cache.len() as u64).sum()
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Whether a sync fails now; what it should have written is then lost in part, though the cache goes on showing it.
    fn sync_fails(&mut self) -> bool {
        match &mut self.sync_fault_in {
            Some(0) => {
                self.sync_fault_in = None;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Bind(name, inode) => drop(names.insert(name.clone(), *inode)),
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
        NameChange::Remove(name) => drop(names.remove(name)),
    }
}

impl SimDisk {
    /// An empty disk of practically unlimited size with sectors of 512 bytes.
    pub fn new(seed: u64) -> Self {
        Self::with_sectors(seed, 512)
    }

    /// As [`SimDisk::new`], with sectors of `sector` bytes, a multiple of 8.
    pub fn with_sectors(seed: u64, sector: usize) -> Self {
        let state = State {
            dice: Dice::new(seed),
            sector: sector.max(8),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            power_cut_in: None,
            sync_fault_in: None,
            power_off: false,
            capacity: u64::MAX,
            locked: false,
            run: 0,
            operations: 0,
            handles: 0,
            handles_max: 0,
            bad: BTreeSet::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Another disk with all the files of this one, as processes see them now: a backup.
    pub fn copy(&self, seed: u64) -> Self {
        let copy = Self::with_sectors(seed, self.state.lock().sector);
        {
            let (from, mut to) = (self.state.lock(), copy.state.lock());
            for (name, inode) in &from.names {
                let bytes = from.inodes[*inode].cache.clone();
                let number = to.inodes.len();
                to.inodes.push(Inode { cache: bytes.clone(), disk: bytes, dirty: BTreeSet::new() });
                to.names.insert(name.clone(), number);
            }
            to.durable_names = to.names.clone();
        }
        copy
    }

    /// Cuts the power in the middle of the operation after the next `operations` writing ones. `None`: never.
    pub fn power_cut_in(&self, operations: Option<u64>) {
        self.state.lock().power_cut_in = operations;
    }

    /// Fails the sync after the next `syncs` ones, of a file or of the directory. `None`: never.
    pub fn sync_fault_in(&self, syncs: Option<u64>) {
        self.state.lock().sync_fault_in = syncs;
    }

    /// Whether the power went, so that only [`SimDisk::restart_after_power_cut`] helps.
    pub fn power_is_off(&self) -> bool {
        self.state.lock().power_off
    }

    /// How many writing operations there were.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// How many files were open at once, at most.
    pub fn handles_max(&self) -> usize {
        self.state.lock().handles_max
    }

    /// How many bytes all files may have together.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// How many bytes all files have.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    /// The machine starts again: what was not synced is there in part. Old handles are dead.
    pub fn restart_after_power_cut(&self) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for inode in state.inodes.iter_mut().filter(|inode| **inode != Inode::default()) {
            inode.flush_some(state.sector, &mut state.dice);
            inode.cache.clone_from(&inode.disk);
        }
        let kept = state.dice.below(state.name_changes.len() as u64 + 1) as usize;
        for change in &std::mem::take(&mut state.name_changes)[..kept] {
            apply(&mut state.durable_names, change);
        }
        state.names = state.durable_names.clone();
        state.begin_run();
    }

    /// The process was killed and another one starts: the cache survives, but for pages that a failed sync left behind and that are read again.
    pub fn restart_after_kill(&self) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        for inode in &mut state.inodes {
            for index in 0..inode.cache.len().min(inode.disk.len()) / state.sector {
                let range = index * state.sector..(index + 1) * state.sector;
                let stale =
                    !inode.dirty.contains(&index) && inode.cache[range.clone()] != inode.disk[range.clone()];
                if stale && state.dice.one_in(2) {
                    inode.cache[range.clone()].copy_from_slice(&inode.disk[range]);
                }
            }
        }
        state.begin_run();
    }

    /// Flips bits of a byte, on the disk and in the cache.
    pub fn rot(&self, name: &str, offset: usize, flip: u8) {
        let mut state = self.state.lock();
        let Some(inode) = state.names.get(name).copied() else { return };
        let inode = &mut state.inodes[inode];
        for bytes in [&mut inode.cache, &mut inode.disk] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= flip;
            }
        }
    }

    /// Makes the sector around a byte unreadable until it is written again.
    pub fn spoil(&self, name: &str, offset: usize) {
        let mut state = self.state.lock();
        if let Some(inode) = state.names.get(name).copied() {
            let sector = offset / state.sector;
            state.bad.insert((inode, sector));
        }
    }

    /// The bytes of a file, as processes see them.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state.names.get(name).map(|inode| state.inodes[*inode].cache.clone())
    }

    /// Whether these bytes stand anywhere on the disk or in its cache, under any name.
    pub fn contains(&self, bytes: &[u8]) -> bool {
        let state = self.state.lock();
        let reachable: BTreeSet<usize> =
            state.names.values().chain(state.durable_names.values()).copied().collect();
        let holds = |haystack: &[u8]| haystack.windows(bytes.len()).any(|window| window == bytes);
        reachable.iter().any(|inode| holds(&state.inodes[*inode].cache) || holds(&state.inodes[*inode].disk))
    }
}

impl State {
    fn begin_run(&mut self) {
        // What no name leads to any more takes no part.
        let reachable: BTreeSet<usize> =
            self.names.values().chain(self.durable_names.values()).copied().collect();
        for (index, inode) in self.inodes.iter_mut().enumerate() {
            if !reachable.contains(&index) {
                *inode = Inode::default();
            }
        }
        self.run += 1;
        self.power_off = false;
        self.power_cut_in = None;
        self.sync_fault_in = None;
        self.locked = false;
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
    run: u64,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.disk.state.lock().handles -= 1;
    }
}

struct SimLock {
    disk: SimDisk,
    run: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.run == self.run {
            state.locked = false;
        }
    }
}

impl SimDisk {
    fn handle(&self, state: &mut State, inode: usize) -> Arc<dyn DiskFile> {
        let run = state.run;
        state.handles += 1;
        state.handles_max = state.handles_max.max(state.handles);
        Arc::new(SimFile { disk: self.clone(), inode, run })
    }

    fn change(&self, make: impl FnOnce(&mut State) -> io::Result<NameChange>) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check(None)?;
        let struck = state.strikes();
        let change = make(&mut state)?;
        let state = &mut *state;
        apply(&mut state.names, &change);
        state.name_changes.push(change);
        if struck { state.check(None) } else { Ok(()) }
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut made = 0;
        self.change(|state| {
            made = state.inodes.len();
            state.inodes.push(Inode::default());
            Ok(NameChange::Bind(name.to_owned(), made))
        })?;
        Ok(self.handle(&mut self.state.lock(), made))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state.lock();
        state.check(None)?;
        let inode = state.find(name)?;
        Ok(self.handle(&mut state, inode))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        state.check(None)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| state.find(from).map(|_| NameChange::Rename(from.to_owned(), to.to_owned())))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|state| state.find(name).map(|_| NameChange::Remove(name.to_owned())))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.check(None)?;
        state.strikes();
        state.check(None)?;
        if state.sync_fails() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        state.name_changes.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state.lock();
        state.check(None)?;
        Ok(state.free())
    }

    fn lock(&self, _name: &str, _wait: Duration) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = self.state.lock();
        state.check(None)?;
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimLock { disk: self.clone(), run: state.run })))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        bytes
            .chunks_mut(8)
            .for_each(|chunk| chunk.copy_from_slice(&state.dice.roll().to_le_bytes()[..chunk.len()]));
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state.lock();
        state.check(Some(self.run))?;
        let cache = &state.inodes[self.inode].cache;
        let from = cache.len().min(offset as usize);
        let read = bytes.len().min(cache.len() - from);
        let sectors = from / state.sector..(from + read).div_ceil(state.sector);
        if read > 0 && sectors.into_iter().any(|sector| state.bad.contains(&(self.inode, sector))) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        bytes[..read].copy_from_slice(&cache[from..from + read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut guard = self.disk.state.lock();
        let state = &mut *guard;
        state.check(Some(self.run))?;
        let struck = state.strikes();
        let free = state.free();
        let inode = &mut state.inodes[self.inode];
        let from = offset as usize;
        let mut to = from + bytes.len();
        if struck {
            // Whole sectors of it arrive in the cache, or all.
            let reached = from + state.dice.below(bytes.len() as u64 + 1) as usize;
            to = (reached / state.sector * state.sector).clamp(from, to);
        }
        let room = (inode.cache.len() as u64).saturating_add(free);
        let full = to as u64 > room;
        if full {
            to = (room as usize).max(from);
        }
        let old_len = inode.cache.len();
        if to > old_len {
            set_len(&mut inode.cache, to);
            inode.mark(old_len, to, state.sector);
        }
        inode.cache[from..to].copy_from_slice(&bytes[..to - from]);
        inode.mark(from, to, state.sector);
        for sector in from.div_ceil(state.sector)..to / state.sector {
            state.bad.remove(&(self.inode, sector));
        }
        // The system may write back a page whenever it likes.
        if state.dice.one_in(8)
            && let Some(index) = inode.dirty.pop_last()
        {
            inode.flush(index, state.sector);
        }
        if full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.check(None)
    }

    fn fdatasync(&self) -> io::Result<()> {
        let mut guard = self.disk.state.lock();
        let state = &mut *guard;
        state.check(Some(self.run))?;
        // What a power cut during the sync keeps is settled by the restart.
        state.strikes();
        state.check(None)?;
        let fails = state.sync_fails();
        let inode = &mut state.inodes[self.inode];
        if fails {
            inode.flush_some(state.sector, &mut state.dice);
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        inode.sync(state.sector);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state.lock();
        state.check(Some(self.run))?;
        Ok(state.inodes[self.inode].cache.len() as u64)
    }

    fn has_holes(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut guard = self.disk.state.lock();
        let state = &mut *guard;
        state.check(Some(self.run))?;
        state.strikes();
        let inode = &mut state.inodes[self.inode];
        let len = len as usize;
        let old_len = inode.cache.len();
        set_len(&mut inode.cache, len);
        if len > old_len {
            inode.mark(old_len, len, state.sector);
        } else {
            inode.dirty.retain(|index| index * state.sector < len);
        }
        state.check(None)
    }
}
