//! Mistakes on purpose, so that the tests can be tested: `tests/sabotage/run` makes them one by one and shows that each
//! is caught. Compiled only where `OPTGATE_SABOTAGE_BUILD=1` was set for the build, and never for a release.

use std::env;
use std::sync::LazyLock;

static CHOSEN: LazyLock<Option<String>> = LazyLock::new(|| env::var("OPTGATE_SABOTAGE").ok());

/// Whether the mistake `name` is to be made: `OPTGATE_SABOTAGE` names the one. It is read once per process.
#[must_use]
pub fn is(name: &str) -> bool {
    CHOSEN.as_deref() == Some(name)
}
