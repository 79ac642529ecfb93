//! Quiet hours in the recipient's local time.

use jiff::tz::TimeZone;

use super::time::Timestamp;
use super::types::Channel;

/// When messages of a category are not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuietHours {}

/// Whether a moment is quiet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// Outside quiet hours in every zone.
    Allowed {
        /// When quiet hours begin in one of them, where that is soon.
        until: Option<Timestamp>,
    },
    /// Quiet in at least one zone.
    Quiet {
        /// The first moment outside quiet hours in every zone; `None`: there is none.
        retry_at: Option<Timestamp>,
    },
}

impl QuietHours {
    /// Whether any rule is for `channel`.
    #[must_use]
    pub const fn concern(&self, _channel: Channel) -> bool {
        false
    }

    /// Whether `now` is quiet on `channel` in any of `zones`.
    #[must_use]
    pub const fn at(&self, _channel: Channel, _zones: &[TimeZone], _now: Timestamp) -> Quiet {
        Quiet::Allowed { until: None }
    }
}
