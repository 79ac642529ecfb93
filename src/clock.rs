//! The only reader of the system's clock. Everything else is told what time it is.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::policy::time::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Now, by the wall.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Timestamp(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
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
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub const fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    /// Puts it at `now`.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    /// Moves it on by `span_ms`.
    pub fn advance_ms(&self, span_ms: i64) {
        self.0.fetch_add(span_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}
