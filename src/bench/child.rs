//! The servers under load, each a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{BenchError, io, load};

/// How long a server may take to answer; a view of many recipients takes its time to be rebuilt.
const UP_WITHIN: Duration = Duration::from_secs(180);

/// Which server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The empty handler.
    Empty,
    /// optgate.
    Optgate,
}

/// A node among others.
pub struct Member {
    /// Its folder.
    pub dir: PathBuf,
    /// The cluster's key.
    pub key: PathBuf,
    /// The port where peers dial it; an edge has none.
    pub listen: Option<u16>,
    /// Those of the others.
    pub peers: Vec<u16>,
}

/// A running server; stopped when dropped.
pub struct Child {
    process: std::process::Child,
    name: &'static str,
    log: PathBuf,
    /// Its socket.
    pub uds: PathBuf,
}

impl Child {
    /// Starts a server and waits until it answers.
    pub async fn start(kind: Kind, dir: &Path) -> Result<Self, BenchError> {
        let name = if kind == Kind::Empty { "the empty handler" } else { "optgate" };
        let (file, log) = if kind == Kind::Empty { ("empty", "empty.log") } else { ("gate", "gate.log") };
        let uds = dir.join(format!("{file}.sock"));
        let log = dir.join(log);
        let me = std::env::current_exe().map_err(io("find this binary"))?;
        let mut command = Command::new(me);
        match kind {
            Kind::Empty => {
                command.args(["bench-empty", "--uds"]).arg(&uds);
            }
            Kind::Optgate => {
                serve(&mut command, dir, &uds)?;
            }
        }
        let mut child = Self::spawn(command, name, uds, log)?;
        child.wait_until_up().await?;
        Ok(child)
    }

    /// Starts a node alone, whose folder is its own.
    pub async fn start_alone(dir: &Path) -> Result<Self, BenchError> {
        fs::create_dir_all(dir).map_err(io("make a node's directory"))?;
        Self::start(Kind::Optgate, dir).await
    }

    /// Starts a node among others. It answers once enough of them do.
    pub fn start_member(member: &Member) -> Result<Self, BenchError> {
        let Member { dir, key, listen, peers } = member;
        fs::create_dir_all(dir).map_err(io("make a node's directory"))?;
        let uds = dir.join("gate.sock");
        let mut command = Command::new(std::env::current_exe().map_err(io("find this binary"))?);
        serve(&mut command, dir, &uds)?;
        // Acks tell of this disk: what the others take is what is measured.
        command.env("OPTGATE_REPLICATION__OPT_OUT_WAIT", "1ms");
        command.arg("--key-file").arg(key);
        match listen {
            Some(port) => {
                command.args(["--peer-listen", &format!("127.0.0.1:{port}")]);
            }
            None => {
                command.env("OPTGATE_REPLICATION__ROLE", "edge");
                command.env("OPTGATE_REPLICATION__ANCHORS", peers.len().to_string());
                // It has to be on a majority's disks, or it is not called recorded.
                command.env("OPTGATE_REPLICATION__OPT_OUT_WAIT", "250ms");
            }
        }
        for peer in peers {
            command.args(["--peer", &format!("127.0.0.1:{peer}")]);
        }
        Self::spawn(command, "a node", uds, dir.join("gate.log"))
    }

    fn spawn(
        mut command: Command,
        name: &'static str,
        uds: PathBuf,
        log: PathBuf,
    ) -> Result<Self, BenchError> {
        let output = File::create(&log).map_err(io("make a log"))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .map_err(io("start a server"))?;
        Ok(Self { process, name, log, uds })
    }

    /// Waits until it answers.
    pub async fn wait_until_up(&mut self) -> Result<(), BenchError> {
        let begun = Instant::now();
        while !load::answers(&self.uds).await {
            let ended = self.process.try_wait().is_ok_and(|status| status.is_some());
            if ended || begun.elapsed() > UP_WITHIN {
                eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
                return Err(BenchError::NotUp(self.name, self.log.clone()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Kills it as a power cut of the process would.
    pub fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Its resident memory.
    pub fn rss_mib(&self) -> Option<u64> {
        self.status("VmRSS:")
    }

    /// The most it was.
    pub fn rss_peak_mib(&self) -> Option<u64> {
        self.status("VmHWM:")
    }

    /// The processor time it took so far.
    pub fn cpu(&self) -> Option<Duration> {
        cpu_of(&self.process.id().to_string())
    }

    fn status(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(field))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib / 1024)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes `command` a node with its data in `dir`.
fn serve(command: &mut Command, dir: &Path, uds: &Path) -> Result<(), BenchError> {
    let config = dir.join("bench.yaml");
    fs::write(&config, CONFIG).map_err(io("write the bench's configuration"))?;
    command.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--config"]);
    command.arg(&config).arg("--data-dir").arg(dir.join("data")).arg("--uds").arg(uds);
    Ok(())
}

/// The processor time that the process `who` took so far; `self` is this one.
pub fn cpu_of(who: &str) -> Option<Duration> {
    /// What the kernel counts in, on every Linux that Rust runs on.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{who}/stat")).ok()?;
    // The name before may contain anything but ends with the last parenthesis; user and system time are the 14th and 15th field.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1_000 / TICKS_PER_SECOND))
}

/// Caps and the messaging limit are on, but so high that nearly every check is allowed.
const CONFIG: &str = r#"
telemetry: { log: warn }
businesses:
  bench:
    display_name: Bench
    topics: { updates: UTILITY }
    templates:
      - { name: update, language: en_US, category: UTILITY, topic: updates, status: APPROVED }
    limits:
      frequency: { ANY: [{ max: 1000, per: 24h }] }
      WHATSAPP:
        sender: { per_second: 1000000, burst: 1000000 }
        pair: { every: 1ms, burst: 1000 }
        business_per_hour: { GREEN: 1000000000, YELLOW: 1000000000, RED: 1000000000, UNKNOWN: 1000000000, burst: 1000000 }
        messaging_limit: 10000000
"#;
