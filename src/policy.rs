//! The pure core: request + facts + rules + now → decision.
//!
//! It has never heard of gRPC, sled, files, clocks, logs or randomness.

pub mod check;
pub mod consent;
pub mod describe;
pub mod distrust;
pub mod event;
pub mod evidence;
pub mod feedback;
pub mod ids;
pub mod keywords;
pub mod quiet_hours;
pub mod record;
pub mod recorder;
pub mod report;
pub mod rules;
pub mod standing;
pub mod state;
#[cfg(test)]
pub(crate) mod strategies;
pub mod time;
pub mod types;
pub mod usage;
