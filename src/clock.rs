//! The only reader of the system's clock. Everything else is told what time it is.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::policy::time::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Now, by the wall.
    fn now(&self) -> Timestamp;

    /// Milliseconds on a clock that only moves on, also while the machine sleeps. Its zero means nothing.
    fn mono_ms(&self) -> u64;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Timestamp(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
    }

    fn mono_ms(&self) -> u64 {
        mono_ms()
    }
}

/// Milliseconds on a clock that only moves on, also while the machine sleeps. Its zero means nothing.
#[must_use]
pub fn mono_ms() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of ours, for the time of the call only.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut at) } != 0 {
        // Linux has had this clock since 2.6.39. Without it nothing is ever fresh, which denies.
        return u64::MAX;
    }
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    seconds * 1_000 + u64::try_from(at.tv_nsec).unwrap_or(0) / 1_000_000
}

/// A clock that stands where it was put: for tests and replays.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall: AtomicI64,
    mono_ms: AtomicU64,
}

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub const fn at(now: Timestamp) -> Self {
        Self { wall: AtomicI64::new(now.0), mono_ms: AtomicU64::new(0) }
    }

    /// Puts the wall at `now`, as a clock that is set does.
    pub fn set(&self, now: Timestamp) {
        self.wall.store(now.0, Ordering::SeqCst);
    }

    /// Puts both clocks where they stand at one moment.
    pub fn stand_at(&self, now: Timestamp, mono_ms: u64) {
        self.set(now);
        self.mono_ms.store(mono_ms, Ordering::SeqCst);
    }

    /// Lets `span_ms` pass.
    pub fn advance_ms(&self, span_ms: i64) {
        self.wall.fetch_add(span_ms, Ordering::SeqCst);
        self.mono_ms.fetch_add(u64::try_from(span_ms).unwrap_or(0), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::SeqCst))
    }

    fn mono_ms(&self) -> u64 {
        self.mono_ms.load(Ordering::SeqCst)
    }
}
