//! A waker that can be told to be quiet.
//!
//! Whoever hands h2 an answer wakes the task that drives the connection. Where that task itself answers, it would wake itself: it
//! looks at the connection next anyway, yet the runtime would run it once more and call another of its threads to help, which for a
//! single caller costs more than the check.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use parking_lot::Mutex;

/// The connection's own waker and the task's behind it.
pub(super) struct Quiet {
    shared: Arc<Shared>,
    waker: Waker,
}

struct Shared {
    quiet: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.quiet.load(Ordering::Acquire) {
            self.task.lock().wake_by_ref();
        }
    }
}

impl Quiet {
    pub(super) fn new() -> Self {
        let shared =
            Arc::new(Shared { quiet: AtomicBool::new(false), task: Mutex::new(Waker::noop().clone()) });
        Self { waker: Waker::from(Arc::clone(&shared)), shared }
    }

    /// Polls with a waker that wakes the task of `context`, and is not quiet any more: what was kept from waking is seen by
    /// this poll, since it had happened before.
    pub(super) fn poll<R>(&self, context: &Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> R) -> R {
        {
            let mut task = self.shared.task.lock();
            if !task.will_wake(context.waker()) {
                task.clone_from(context.waker());
            }
        }
        self.shared.quiet.store(false, Ordering::Release);
        poll(&mut Context::from_waker(&self.waker))
    }

    /// Nobody is woken from now on until the next [`Quiet::poll`], which whoever calls this must be about to do.
    pub(super) fn hush(&self) {
        self.shared.quiet.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn it_wakes_the_latest_task_unless_hushed() {
        let tasks = [Arc::new(Counted::default()), Arc::new(Counted::default())];
        let quiet = Quiet::new();
        let woken = |task: usize| tasks[task].0.load(Ordering::Relaxed);
        let poll = |task: usize| {
            let waker = Waker::from(Arc::clone(&tasks[task]));
            quiet.poll(&Context::from_waker(&waker), |context| context.waker().clone())
        };
        let early = poll(0);
        early.wake_by_ref();
        assert_eq!([woken(0), woken(1)], [1, 0]);
        let late = poll(1);
        early.wake_by_ref();
        late.wake_by_ref();
        assert_eq!([woken(0), woken(1)], [1, 2]);
        quiet.hush();
        late.wake_by_ref();
        assert_eq!([woken(0), woken(1)], [1, 2]);
        poll(1).wake();
        assert_eq!([woken(0), woken(1)], [1, 3]);
    }
}
