//! Work that is carried on when whoever asked for it gives up.
//!
//! A caller that takes its call back must not let go of a person's turn before the event it wrote is applied. Only then does
//! the work become a task of its own: one for every call would cost a single caller two more hand-overs between threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

use super::EngineError;

/// Does `work` to its end, whether or not this future is.
///
/// # Errors
/// Those of `work`; [`EngineError::Abandoned`] when it panics.
pub(super) fn carry_on<T: Send + 'static>(
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> impl Future<Output = Result<T, EngineError>> {
    Carried(Some(Box::pin(work)))
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send>>;

/// Gone once it is done.
struct Carried<T: Send + 'static>(Option<Work<T>>);

impl<T: Send + 'static> Future for Carried<T> {
    type Output = Result<T, EngineError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.0 else { return Poll::Ready(Err(EngineError::Abandoned)) };
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        let done = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(done)) => done,
            Err(_) => Err(EngineError::Abandoned),
        };
        self.0 = None;
        Poll::Ready(done)
    }
}

impl<T: Send + 'static> Drop for Carried<T> {
    fn drop(&mut self) {
        // Without a runtime the process is ending; what is written is applied by the next start.
        if let Some(work) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_a_caller_gave_up_on_is_done_all_the_same() {
        let (go, gone) = oneshot::channel::<()>();
        let (say, said) = oneshot::channel();
        let mut carried = Box::pin(carry_on(async move {
            let _ = gone.await;
            let _ = say.send("done");
            Ok(())
        }));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut carried).await.is_err());
        drop(carried);
        go.send(()).unwrap();
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), said).await.unwrap(), Ok("done"));
    }

    #[tokio::test]
    async fn its_outcome_is_handed_over_once_and_a_panic_is_an_error() {
        assert_eq!(carry_on(async { Ok(7) }).await.unwrap(), 7);
        let panicking = carry_on::<()>(async { panic!("on purpose") });
        assert!(matches!(panicking.await, Err(EngineError::Abandoned)));
        let again = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&again);
        let mut done = Box::pin(carry_on(async move {
            assert!(!seen.swap(true, Ordering::Relaxed));
            Ok(())
        }));
        assert!(done.as_mut().await.is_ok());
        assert!(matches!(done.as_mut().await, Err(EngineError::Abandoned)));
    }
}
