//! Takes a changed policy into force while the process runs.
//!
//! The file's *folder* is watched, since Kubernetes never writes a mounted file: it swaps the
//! symlink `..data` beside it. What changed is read and judged as at the start. Only a configuration
//! without faults is published; with faults the last good one stays, and every fault is logged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Config, Finding, Place, Report, Sources, read_file, settings, shown, version_of};
use crate::policy::rules::RuleBook;
use crate::policy::time::Timestamp;

/// How fast changes are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long the folder must be quiet before the file is read: an editor writes in steps.
    pub quiet: Duration,
    /// How long to wait for quiet at most.
    pub quiet_wait_max: Duration,
    /// How often the file is read anyway: watches get lost with their folder, and some file systems
    /// have none.
    pub poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(250),
            quiet_wait_max: Duration::from_secs(2),
            poll: Duration::from_secs(30),
        }
    }
}

/// What came of the last look at the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing has changed since the start.
    Started,
    /// The file's policy is in force.
    Applied,
    /// The file has faults; the last good policy stays in force.
    Refused(Arc<Vec<Finding>>),
}

/// The state of reloading, for status and readiness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReload {
    /// When the outcome came about.
    pub at: Timestamp,
    /// The version of the policy in force.
    pub version: Arc<str>,
    /// What came of it.
    pub outcome: Outcome,
    /// Keys that were changed and take effect only after a restart.
    pub needs_restart: Vec<&'static str>,
}

/// Follows the configuration's file. Build it with [`Reloader::new`], then await [`Reloader::run`].
pub struct Reloader {
    sources: Arc<Sources>,
    running: Config,
    pace: Pace,
    now: Box<dyn Fn() -> Timestamp + Send>,
    rules: watch::Sender<Arc<RuleBook>>,
    status: watch::Sender<LastReload>,
    signal: Arc<Signal>,
    watcher: Option<RecommendedWatcher>,
    /// The hash of what was judged last.
    judged: Option<[u8; 32]>,
}

/// What the watcher tells. A wake-up is kept until it is taken and any number of them are one, so
/// that a storm of events costs nothing.
#[derive(Default)]
struct Signal {
    changed: Notify,
    lost: AtomicBool,
}

impl Reloader {
    /// Prepares to follow `sources`, whose configuration `running` is in force. Without a file
    /// nothing ever changes.
    #[must_use]
    pub fn new(
        sources: Sources,
        running: Config,
        pace: Pace,
        now: impl Fn() -> Timestamp + Send + 'static,
    ) -> Self {
        let status = LastReload {
            at: now(),
            version: running.rules.version.clone(),
            outcome: Outcome::Started,
            needs_restart: Vec::new(),
        };
        let rules = watch::Sender::new(Arc::new(running.rules.clone()));
        Self {
            sources: Arc::new(sources),
            running,
            pace,
            now: Box::new(now),
            rules,
            status: watch::Sender::new(status),
            signal: Arc::default(),
            watcher: None,
            judged: None,
        }
    }

    /// The rules in force, now and after each reload.
    #[must_use]
    pub fn rules(&self) -> watch::Receiver<Arc<RuleBook>> {
        self.rules.subscribe()
    }

    /// The state of reloading, now and after each reload.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LastReload> {
        self.status.subscribe()
    }

    /// Follows the file until `shutdown`. Await it: when it ends before that, nobody reloads.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let Some(file) = self.sources.file.clone() else {
            return shutdown.cancelled().await;
        };
        self.signal.lost.store(true, Ordering::Relaxed);
        loop {
            if self.signal.lost.swap(false, Ordering::Relaxed) {
                self.watch(&file);
            }
            // Before the first event too: the file may have changed since the process read it.
            self.look(&file).await;
            let signal = self.signal.clone();
            let event = async {
                signal.changed.notified().await;
                let quiet = async {
                    while tokio::time::timeout(self.pace.quiet, signal.changed.notified()).await.is_ok() {}
                };
                // Either way the file is read now; a folder that is never quiet must not stop that.
                let _ = tokio::time::timeout(self.pace.quiet_wait_max, quiet).await;
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = tokio::time::timeout(self.pace.poll, event) => {}
            }
        }
    }

    fn watch(&mut self, file: &Path) {
        let folder = folder_of(file);
        let signal = self.signal.clone();
        let own_folder = folder.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            match event {
                // Reading the file is an event too, and would wake us for ever.
                Ok(event) if matches!(event.kind, EventKind::Access(_)) => return,
                Ok(event) => {
                    if matches!(event.kind, EventKind::Remove(_)) && event.paths.contains(&own_folder) {
                        signal.lost.store(true, Ordering::Relaxed);
                    }
                }
                Err(_) => signal.lost.store(true, Ordering::Relaxed),
            }
            signal.changed.notify_one();
        };
        let watcher = notify::recommended_watcher(handler).and_then(|mut watcher| {
            watcher.watch(&folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(fault) => {
                // Tried again after each poll.
                if self.watcher.take().is_some() || self.judged.is_none() {
                    tracing::warn!(
                        folder = %folder.display(), %fault, poll_ms = self.pace.poll.as_millis(),
                        "the configuration's folder cannot be watched; its file is read at intervals instead"
                    );
                }
                self.signal.lost.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Reads the file, and judges it if it is not what was judged last.
    async fn look(&mut self, file: &Path) {
        let (sources, judged, path) = (self.sources.clone(), self.judged, file.to_owned());
        // A large file takes a while, which callers must not notice.
        let looked = tokio::task::spawn_blocking(move || examine(&sources, &path, judged)).await;
        match looked {
            Ok(None) => {}
            Ok(Some((hash, config, report))) => {
                let first = self.judged.replace(hash).is_none();
                self.judge(config, report, first);
            }
            Err(fault) => {
                tracing::error!(%fault, "the changed configuration could not be judged; the last good one stays")
            }
        }
    }

    fn judge(&mut self, config: Option<Config>, report: Report, first: bool) {
        match config {
            Some(config) if report.is_usable() => self.apply(config, &report, first),
            _ => self.refuse(report),
        }
    }

    fn apply(&mut self, config: Config, report: &Report, first: bool) {
        let needs_restart = settings::differing(&self.running, &config);
        // Word lists stay as they are until a restart, and the version says what is in force.
        let mut rules = config.rules;
        rules.version = version_of(&rules.defaults, &rules.businesses, &self.running.keywords);
        let changed = rules.version != self.rules.borrow().version;
        let was = self.status.borrow().clone();
        if first && !changed && needs_restart.is_empty() {
            return;
        }
        for warning in &report.warnings {
            tracing::warn!(place = %warning.place, key = warning.key, remedy = warning.remedy, "{}", warning.what);
        }
        for key in needs_restart.iter().filter(|key| !was.needs_restart.contains(key)) {
            tracing::warn!(key, "this setting was changed and takes effect after a restart");
        }
        let version = rules.version.clone();
        if changed {
            tracing::info!(%version, businesses = rules.businesses.len(), "the changed policy is in force");
            self.rules.send_replace(Arc::new(rules));
        } else if matches!(was.outcome, Outcome::Refused(_)) {
            tracing::info!(%version, "the configuration is without faults again; the policy is unchanged");
        }
        count("applied", true);
        self.publish(version, Outcome::Applied, needs_restart);
    }

    fn refuse(&self, report: Report) {
        let was = self.status.borrow().clone();
        tracing::error!(
            faults = report.faults.len() + report.faults_omitted, version = %was.version,
            "the changed configuration has faults; the last good policy stays in force"
        );
        for fault in &report.faults {
            tracing::error!(
                place = %fault.place, line = fault.place.line(), column = fault.place.column(),
                key = fault.key, remedy = fault.remedy, "{}", fault.what
            );
        }
        count("refused", false);
        self.publish(was.version, Outcome::Refused(Arc::new(report.faults)), was.needs_restart);
    }

    fn publish(&self, version: Arc<str>, outcome: Outcome, needs_restart: Vec<&'static str>) {
        self.status.send_replace(LastReload { at: (self.now)(), version, outcome, needs_restart });
    }
}

fn count(outcome: &'static str, ok: bool) {
    metrics::counter!("optgate_config_reloads_total", "outcome" => outcome).increment(1);
    metrics::gauge!("optgate_config_last_reload_ok").set(if ok { 1.0 } else { 0.0 });
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Judges the file, unless it is what `judged` is the hash of.
fn examine(
    sources: &Sources,
    file: &Path,
    judged: Option<[u8; 32]>,
) -> Option<([u8; 32], Option<Config>, Report)> {
    let mut report = Report::default();
    let text = read_file(file, &mut report);
    // What cannot be read has one hash per reason, so that the reason is reported once.
    let mut hash = Sha256::new();
    match &text {
        Some(text) => hash.update(text),
        None => report.faults.iter().for_each(|fault| hash.update(fault.what.as_bytes())),
    }
    let hash: [u8; 32] = hash.finalize().into();
    if judged == Some(hash) {
        return None;
    }
    let (config, report) = match text {
        None => (None, report),
        // An empty file at the start asks for the built-in rules. One that became empty is being
        // written, and would let any business id send.
        Some(text) if text.trim().is_empty() && judged.is_some() => {
            let place = Place::File { file: shown(file) };
            report.fault(
                &place,
                "",
                "the file has become empty",
                "write the configuration; for the built-in rules write {}",
            );
            (None, report)
        }
        Some(text) => sources.examine_text(&text, report),
    };
    Some((hash, config, report))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    const PACE: Pace = Pace {
        quiet: Duration::from_millis(5),
        quiet_wait_max: Duration::from_millis(100),
        // Long: what the tests see, they see through the watch.
        poll: Duration::from_secs(600),
    };

    /// How long a test waits for what must come.
    const PATIENCE: Duration = Duration::from_secs(30);

    struct Rig {
        dir: TempDir,
        file: PathBuf,
        rules: watch::Receiver<Arc<RuleBook>>,
        status: watch::Receiver<LastReload>,
        shutdown: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Rig {
        fn start(dir: TempDir, file: PathBuf, pace: Pace) -> Self {
            let sources = Sources { file: Some(file.clone()), ..Sources::default() };
            let running = sources.load().expect("a good file").config;
            let reloader = Reloader::new(sources, running, pace, || Timestamp(7));
            let (rules, status) = (reloader.rules(), reloader.status());
            let shutdown = CancellationToken::new();
            let task = tokio::spawn(reloader.run(shutdown.clone()));
            Self { dir, file, rules, status, shutdown, task }
        }

        fn with(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("optgate.yaml");
            fs::write(&file, text).unwrap();
            Self::start(dir, file, PACE)
        }

        async fn until(&mut self, wanted: impl FnMut(&LastReload) -> bool) -> LastReload {
            let found = tokio::time::timeout(PATIENCE, self.status.wait_for(wanted)).await;
            found.expect("the reload to come in time").expect("the reloader to live").clone()
        }

        async fn until_margin(&mut self, margin_ms: i64) {
            let wanted = |rules: &Arc<RuleBook>| rules.defaults.clock_margin_ms == margin_ms;
            let found = tokio::time::timeout(PATIENCE, self.rules.wait_for(wanted)).await;
            found.expect("the rules to come in time").expect("the reloader to live");
        }

        async fn end(self) {
            self.shutdown.cancel();
            tokio::time::timeout(PATIENCE, self.task).await.expect("to end").expect("not to panic");
        }
    }

    fn margin(span: &str) -> String {
        format!("defaults: {{ clock_margin: {span} }}\n")
    }

    #[tokio::test]
    async fn a_changed_policy_comes_into_force() {
        let mut rig = Rig::with(&margin("1m"));
        let before = rig.rules.borrow().version.clone();
        assert_eq!(rig.status.borrow().outcome, Outcome::Started);
        fs::write(&rig.file, margin("2m")).unwrap();
        rig.until_margin(120_000).await;
        let last = rig.until(|last| last.outcome == Outcome::Applied).await;
        assert_eq!((last.at, &last.version), (Timestamp(7), &rig.rules.borrow().version.clone()));
        assert_ne!(last.version, before);
        // The first change may be seen by the first look; this one is by the watch alone.
        fs::write(&rig.file, margin("3m")).unwrap();
        rig.until_margin(180_000).await;
        rig.end().await;
    }

    #[tokio::test]
    async fn a_mounted_configuration_changes_by_its_symlink() {
        // As the kubelet does it: the file is a link through `..data`, which is swapped by a rename.
        let dir = tempfile::tempdir().unwrap();
        for (name, span) in [("..1", "1m"), ("..2", "2m"), ("..3", "3m")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("optgate.yaml"), margin(span)).unwrap();
        }
        symlink("..1", dir.path().join("..data")).unwrap();
        let file = dir.path().join("optgate.yaml");
        symlink("..data/optgate.yaml", &file).unwrap();
        let mut rig = Rig::start(dir, file, PACE);
        // Twice: the first swap may come before the first look, the second is seen by the watch alone.
        for (name, margin_ms) in [("..2", 120_000), ("..3", 180_000)] {
            symlink(name, rig.dir.path().join("..data_tmp")).unwrap();
            fs::rename(rig.dir.path().join("..data_tmp"), rig.dir.path().join("..data")).unwrap();
            rig.until_margin(margin_ms).await;
        }
        rig.end().await;
    }

    #[tokio::test]
    async fn faults_leave_the_last_good_policy_in_force() {
        let mut rig = Rig::with(&margin("1m"));
        let good = rig.rules.borrow().version.clone();
        fs::write(&rig.file, "defaults:\n  clock_margin: 2m\n  shadow: [OPTED_OUT]\n").unwrap();
        let last = rig.until(|last| matches!(last.outcome, Outcome::Refused(_))).await;
        let Outcome::Refused(faults) = &last.outcome else { unreachable!("waited for") };
        assert_eq!((faults.len(), faults[0].place.line()), (1, Some(3)));
        assert_eq!(faults[0].key, "defaults.shadow[0]");
        assert_eq!((&last.version, &rig.rules.borrow().version.clone()), (&good, &good));
        fs::write(&rig.file, margin("3m")).unwrap();
        rig.until_margin(180_000).await;
        rig.until(|last| last.outcome == Outcome::Applied).await;
        rig.end().await;
    }

    #[tokio::test]
    async fn a_file_that_is_gone_or_empty_changes_nothing() {
        let mut rig = Rig::with(&margin("1m"));
        fs::write(&rig.file, margin("2m")).unwrap();
        rig.until_margin(120_000).await;
        for _ in 0..2 {
            fs::remove_file(&rig.file).unwrap();
            let last = rig.until(|last| matches!(last.outcome, Outcome::Refused(_))).await;
            let Outcome::Refused(faults) = last.outcome else { unreachable!("waited for") };
            assert!(faults[0].what.contains("cannot be read"), "{faults:?}");
            fs::write(&rig.file, margin("2m")).unwrap();
            rig.until(|last| last.outcome == Outcome::Applied).await;
        }
        fs::write(&rig.file, " \n").unwrap();
        rig.until(|last| matches!(last.outcome, Outcome::Refused(_))).await;
        assert_eq!(rig.rules.borrow().defaults.clock_margin_ms, 120_000);
        fs::write(&rig.file, "{}").unwrap();
        rig.until_margin(300_000).await;
        rig.end().await;
    }

    #[tokio::test]
    async fn what_needs_a_restart_is_named_and_left_alone() {
        let mut rig = Rig::with(&margin("1m"));
        let text = "server: { drain: 3s }\ndecision_log: null\ndefaults: { clock_margin: 2m, keywords: { languages: [en] } }\n";
        fs::write(&rig.file, text).unwrap();
        let last = rig.until(|last| last.outcome == Outcome::Applied).await;
        assert_eq!(
            last.needs_restart,
            [
                "server.drain",
                "defaults.keywords",
                "decision_log.path",
                "decision_log.keep",
                "decision_log.buffer",
                "decision_log.on_full"
            ]
        );
        assert_eq!(rig.rules.borrow().defaults.clock_margin_ms, 120_000);
        // The languages in force are the old ones, and so the version is that of the margin alone.
        let only_margin = Sources { file: Some(rig.file.clone()), ..Sources::default() };
        fs::write(&rig.file, margin("2m")).unwrap();
        assert_eq!(last.version, only_margin.load().unwrap().config.rules.version);
        rig.until(|last| last.needs_restart.is_empty()).await;
        rig.end().await;
    }

    #[tokio::test]
    async fn a_change_between_the_start_and_the_watch_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("optgate.yaml");
        fs::write(&file, margin("1m")).unwrap();
        let sources = Sources { file: Some(file.clone()), ..Sources::default() };
        let running = sources.load().unwrap().config;
        fs::write(&file, margin("2m")).unwrap();
        let reloader = Reloader::new(sources, running, PACE, || Timestamp(7));
        let (rules, status) = (reloader.rules(), reloader.status());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(reloader.run(shutdown.clone()));
        let mut rig = Rig { dir, file, rules, status, shutdown, task };
        rig.until_margin(120_000).await;
        rig.end().await;
    }

    #[tokio::test]
    async fn a_folder_that_was_replaced_is_found_by_polling() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("etc");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("optgate.yaml"), margin("1m")).unwrap();
        let pace = Pace { poll: Duration::from_millis(20), ..PACE };
        let mut rig = Rig::start(dir, folder.join("optgate.yaml"), pace);
        fs::remove_dir_all(&folder).unwrap();
        rig.until(|last| matches!(last.outcome, Outcome::Refused(_))).await;
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("optgate.yaml"), margin("2m")).unwrap();
        rig.until_margin(120_000).await;
        fs::write(folder.join("optgate.yaml"), margin("3m")).unwrap();
        rig.until_margin(180_000).await;
        rig.end().await;
    }

    #[tokio::test]
    async fn without_a_file_it_waits_for_the_end() {
        let reloader = Reloader::new(Sources::default(), Config::default(), Pace::default(), || Timestamp(7));
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(reloader.run(shutdown.clone()));
        shutdown.cancel();
        tokio::time::timeout(PATIENCE, task).await.expect("to end").expect("not to panic");
    }
}
