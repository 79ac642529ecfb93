//! What optgate promises to the outside, tested from there, in one binary so that it links once.

mod batches;
mod decisions;
mod golden;
mod server;
mod waiting;
