//! Tokens name how much was known: a check that carries one sees at least that.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use crate::policy::ids::{EventId, OriginId};

/// The version that starts every token, so that its form can change.
const VERSION: &str = "1";

/// The longest token, in bytes.
pub const TOKEN_LEN_MAX: usize = 256;

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a token that optgate gave out")]
pub struct TokenFault;

/// An event that has to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub Option<EventId>);

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(event) => write!(f, "{VERSION}-{event}"),
            None => f.write_str(VERSION),
        }
    }
}

impl FromStr for Token {
    type Err = TokenFault;

    fn from_str(text: &str) -> Result<Self, TokenFault> {
        if text.len() > TOKEN_LEN_MAX {
            return Err(TokenFault);
        }
        match text.split_once('-') {
            None if text == VERSION => Ok(Self(None)),
            Some((VERSION, event)) => event.parse().map(|event| Self(Some(event))).map_err(|_| TokenFault),
            _ => Err(TokenFault),
        }
    }
}

/// The highest event applied here of each origin.
pub struct Vector {
    applied: RwLock<FxHashMap<OriginId, u64>>,
    /// The token of the latest event applied: its text is made once an event and read by every check, so reading it takes no lock.
    latest: ArcSwap<String>,
    /// Wakes who waits for an event.
    moved: Notify,
}

impl Default for Vector {
    fn default() -> Self {
        let latest = ArcSwap::from_pointee(Token(None).to_string());
        Self { applied: RwLock::default(), latest, moved: Notify::new() }
    }
}

impl Vector {
    /// Notes that `event` is applied.
    pub fn applied(&self, event: EventId) {
        let mut applied = self.applied.write();
        let highest = applied.entry(event.origin).or_default();
        *highest = (*highest).max(event.sequence);
        drop(applied);
        self.latest.store(Arc::new(Token(Some(event)).to_string()));
        self.moved.notify_waiters();
    }

    /// Waits until all that `token` names is applied, but not longer than `within`.
    pub async fn wait_for(&self, token: Token, within: Duration) {
        let reached = async {
            loop {
                // Registered before it is looked, so that no event slips in between.
                let mut moved = std::pin::pin!(self.moved.notified());
                moved.as_mut().enable();
                if self.reaches(token) {
                    return;
                }
                moved.await;
            }
        };
        // Whoever waited in vain is told so by the check itself.
        let _ = tokio::time::timeout(within, reached).await;
    }

    /// Whether all that `token` names is applied.
    #[must_use]
    pub fn reaches(&self, token: Token) -> bool {
        token.0.is_none_or(|event| {
            self.applied.read().get(&event.origin).is_some_and(|highest| *highest >= event.sequence)
        })
    }

    /// How far every origin is applied.
    #[must_use]
    pub fn all(&self) -> BTreeMap<OriginId, u64> {
        self.applied.read().iter().map(|(origin, sequence)| (*origin, *sequence)).collect()
    }

    /// The token of what is applied now.
    #[must_use]
    pub fn token(&self) -> String {
        self.latest.load().as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_is_waited_for_but_not_for_ever() {
        let event = |sequence| EventId { origin: OriginId([3; 16]), sequence };
        let vector = Arc::new(Vector::default());
        let waiting = {
            let vector = Arc::clone(&vector);
            tokio::spawn(async move {
                vector.wait_for(Token(Some(event(2))), Duration::from_secs(3_600)).await;
                vector.reaches(Token(Some(event(2))))
            })
        };
        tokio::task::yield_now().await;
        vector.applied(event(1));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        vector.applied(event(2));
        assert!(waiting.await.unwrap());
        vector.wait_for(Token(Some(event(3))), Duration::from_millis(5)).await;
        assert!(!vector.reaches(Token(Some(event(3)))));
    }

    #[test]
    fn tokens_read_back_and_are_reached_in_order() {
        let event = |sequence| EventId { origin: OriginId([3; 16]), sequence };
        let vector = Vector::default();
        assert_eq!(vector.token(), "1");
        vector.applied(event(7));
        let token: Token = vector.token().parse().expect("a token of ours");
        assert!(vector.reaches(token));
        assert!(vector.reaches(Token(Some(event(6)))));
        assert!(!vector.reaches(Token(Some(event(8)))));
        assert!(!vector.reaches(Token(Some(EventId { origin: OriginId([4; 16]), sequence: 1 }))));
        for bad in ["", "2", "1-", "1-x", "2-0303-1", &"1".repeat(TOKEN_LEN_MAX + 1)] {
            assert_eq!(bad.parse::<Token>(), Err(TokenFault), "{bad}");
        }
    }
}
