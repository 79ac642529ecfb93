//! Quiet hours in the recipient's local time.

/// When messages of a category are not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuietHours {}
