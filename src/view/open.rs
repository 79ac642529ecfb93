//! Opening heals: what cannot be trusted is put away, and the caller told to rebuild.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::error::{StoreError, ViewError};
use super::folder::{Folder, LedgerIdentity, State, boot_id};
use super::inner::{FreeBytes, Inner, Phase, USAGE};
use super::journal::Journal;
use super::meta::Meta;
use super::registry::Registry;
use super::store::sled::SledStore;
use super::store::{Opener, Store};
use super::usage_log::UsageLog;
use super::{Config, Opened};
use crate::ledger::disk::{Disk, RealDisk};
use crate::policy::ids::Identifier;

/// What opening takes from its surroundings; tests bring their own.
pub struct Surroundings {
    pub opener: Opener,
    pub free_bytes: FreeBytes,
    /// The machine's present boot.
    pub boot: String,
    /// Whether a thread drains by itself.
    pub thread: bool,
}

impl Surroundings {
    /// sled, the real disk and the real machine.
    pub fn real(config: &Config, dir: &Path) -> Self {
        let (cache_bytes, lock_wait) = (u64::from(config.page_cache_mib) * 1024 * 1024, config.lock_wait);
        let opener: Opener = Arc::new(move |dir: &Path| {
            Ok(Box::new(SledStore::open(dir, cache_bytes, lock_wait)?) as Box<dyn Store>)
        });
        let disk = RealDisk::read_only(dir);
        Self { opener, free_bytes: Arc::new(move || disk.free_bytes().ok()), boot: boot_id(), thread: true }
    }
}

#[cfg(test)]
impl Surroundings {
    /// A store on `disk` in memory, which goes with its folder, and no thread.
    pub fn by_hand(disk: &super::MemoryDisk, boot: String) -> Self {
        let disk = disk.clone();
        let opener: Opener = Arc::new(move |dir: &Path| {
            if !dir.exists() {
                disk.wipe();
                fs::create_dir_all(dir).map_err(|fault| StoreError::Failed(fault.to_string()))?;
            }
            Ok(Box::new(disk.store()) as Box<dyn Store>)
        });
        Self { opener, free_bytes: Arc::new(|| None), boot, thread: false }
    }
}

/// What to do with a view as it was found.
enum Verdict {
    /// Use it.
    Trust,
    /// Start in the empty folder.
    Fresh(&'static str),
    /// Put it away; its journals can be used unless they are of another ledger.
    Distrust { why: String, keep_usage: bool },
}

struct Found {
    store: Box<dyn Store>,
    meta: Meta,
    registry: Registry,
}

/// Opens the view in `dir`.
pub fn open(
    config: Config,
    dir: &Path,
    ledger: LedgerIdentity,
    surroundings: &Surroundings,
) -> Result<(Inner, Opened), ViewError> {
    config.check()?;
    let folder = Folder::open(dir)?;
    let _may_be_missing = fs::remove_file(folder.spill());
    let mut rebuild = None;
    let mut found = None;
    let mut verdict = judge(&folder, ledger, &surroundings.boot);
    if matches!(verdict, Verdict::Trust) {
        match try_open(&folder, &surroundings.opener) {
            Ok(usable) => found = Some(usable),
            Err(ViewError::Store(StoreError::Locked)) => return Err(ViewError::Locked),
            Err(err) => verdict = Verdict::Distrust { why: err.to_string(), keep_usage: true },
        }
    }
    match verdict {
        Verdict::Trust => {}
        Verdict::Fresh(why) => {
            folder.wipe_store()?;
            rebuild = Some(why.to_owned());
        }
        Verdict::Distrust { why, keep_usage } => {
            let away = folder.quarantine(keep_usage)?;
            tracing::warn!(reason = %why, kept = %away.display(), "the view cannot be trusted and is put away");
            rebuild = Some(why);
        }
    }
    let state = State { ledger, boot: surroundings.boot.clone(), built: rebuild.is_none(), clean: false };
    folder.say(&state)?;
    let Found { store, meta, registry } = match found {
        Some(found) => found,
        None => {
            let store = (surroundings.opener)(&folder.store())?;
            Found { store, meta: Meta::default(), registry: Registry::default() }
        }
    };
    let usage = Journal::open(folder.dir(), "usage")?;
    let log = UsageLog::open(folder.dir())?;
    let notes = Journal::open(folder.dir(), "notes")?;
    let (replay_from, ahead) = (meta.position, meta.ahead);
    let phase = if rebuild.is_some() { Phase::Rebuilding } else { Phase::Serving };
    let free_bytes = Arc::clone(&surroundings.free_bytes);
    let mut inner = Inner::new(config, folder, store, meta, usage, log, notes, free_bytes, phase);
    inner.registry = registry;
    restore_usage(&inner)?;
    Ok((inner, Opened { rebuild, replay_from, ahead, ledger }))
}

fn judge(folder: &Folder, ledger: LedgerIdentity, boot: &str) -> Verdict {
    let Some(state) = folder.state() else {
        if !folder.store().exists() {
            return Verdict::Fresh("there is no view yet");
        }
        let why = "it was given up in the last run, or its state file is damaged".into();
        return Verdict::Distrust { why, keep_usage: true };
    };
    if state.ledger != ledger {
        return Verdict::Distrust { why: "it was built from another ledger".into(), keep_usage: false };
    }
    if !state.built {
        return Verdict::Fresh("an earlier rebuild was cut short");
    }
    if !state.clean && (state.boot != boot || boot.is_empty()) {
        let why = "the machine went down while it was open".into();
        return Verdict::Distrust { why, keep_usage: true };
    }
    Verdict::Trust
}

fn try_open(folder: &Folder, opener: &Opener) -> Result<Found, ViewError> {
    if !folder.store().exists() {
        return Err(StoreError::Failed("its folder is missing".into()).into());
    }
    let store = opener(&folder.store())?;
    let registry = Registry::default();
    let meta = Meta::load(&*store)
        .and_then(|meta| meta.ok_or_else(|| StoreError::Failed("it is empty".into()).into()))
        .and_then(|meta| registry.load(&*store).map(|()| meta));
    match meta {
        Ok(meta) => Ok(Found { store, meta, registry }),
        Err(err) => {
            // Its files are about to be moved.
            let _unusable_anyway = store.close();
            Err(err)
        }
    }
}

fn restore_usage(inner: &Inner) -> Result<(), ViewError> {
    inner.usage.replay(0, &mut |kind, entry| {
        if kind == USAGE
            && let Some((who, usage)) = entry.split_first_chunk()
        {
            inner.restore_usage(&Identifier(*who), usage);
        }
    })?;
    inner.widen_overlay();
    Ok(())
}
