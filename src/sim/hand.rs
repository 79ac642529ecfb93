//! Ends what the engine begins: waits for nobody but the engine itself.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::engine::Engine;

/// How often everything that can go on does, before the disk's turn comes.
const TURNS: usize = 4;
/// Longer than anything in the engine waits for others.
const ALL_WAITS: Duration = Duration::from_secs(600);

/// A runtime whose time moves only when nothing else can.
pub struct Hand(Runtime);

impl Hand {
    pub fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        Self(runtime.expect("a runtime"))
    }

    /// Brings `doing` to its end. What it waits for the disk for happens; what it waits for others for does not come.
    pub fn finish<T>(&self, engine: &Engine, doing: impl Future<Output = T>) -> T {
        self.0.block_on(async {
            let mut doing = pin!(doing);
            loop {
                for _ in 0..TURNS {
                    let polled = std::future::poll_fn(|context| Poll::Ready(doing.as_mut().poll(context)));
                    if let Poll::Ready(done) = polled.await {
                        // What it left in a queue is written too.
                        while engine.work() {}
                        return done;
                    }
                    tokio::task::yield_now().await;
                }
                if !engine.work() {
                    tokio::time::advance(ALL_WAITS).await;
                }
            }
        })
    }

    /// What `doing` comes to without waiting for anything.
    pub fn at_once<T>(&self, doing: impl Future<Output = T>) -> Option<T> {
        self.0.block_on(async {
            let mut doing = pin!(doing);
            std::future::poll_fn(|context| {
                Poll::Ready(match doing.as_mut().poll(context) {
                    Poll::Ready(done) => Some(done),
                    Poll::Pending => None,
                })
            })
            .await
        })
    }
}
