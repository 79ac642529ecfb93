//! What can go wrong, typed where it arises.

use std::io;
use std::path::PathBuf;

use super::bytes::Damage;

/// Why the view cannot answer, take a change, open or close.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// A setting is outside its range.
    #[error("view setting `{name}` is {value}; choose {allowed}")]
    Setting {
        /// The setting's name in the configuration.
        name: &'static str,
        /// What was given.
        value: u64,
        /// What may be given.
        allowed: &'static str,
    },
    /// Another process holds the store.
    #[error("another process uses the view's store; stop it or choose another data directory")]
    Locked,
    /// It is not built yet.
    #[error("the view is being rebuilt from the ledger; try again when it is ready")]
    Rebuilding,
    /// It was closed.
    #[error("the view is closed")]
    Closed,
    /// As many changes as fit in memory wait to be written, and writing does not keep up or is not possible. Nothing was changed.
    #[error("too many changes wait to be written to the view's store; free disk space, or try again shortly")]
    Full,
    /// A record is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk failed.
    #[error("cannot {what} `{path}`: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ViewError {
    /// Whether what failed may well succeed later: nothing was changed, and nothing is damaged.
    pub(super) const fn is_passing(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Full)
    }
}

/// Why the store under the view failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process, or a dying one, holds it.
    #[error("the view's store is locked by another process")]
    Locked,
    /// It was closed.
    #[error("the view's store is closed")]
    Closed,
    /// It said so itself.
    #[error("the view's store failed: {0}; restart to rebuild it from the ledger")]
    Failed(String),
    /// It panicked.
    #[error("the view's store panicked: {0}; restart to rebuild it from the ledger")]
    Panicked(String),
}

/// Wraps what the system said with what was tried on which file.
pub(super) fn io_error(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ViewError {
    let path = path.into();
    move |source| ViewError::Io { what, path, source }
}
