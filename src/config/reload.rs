//! Reloads.
