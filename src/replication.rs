//! Peers: what one node acknowledged, every other enforces.
//!
//! ```text
//!   sockets ─▶ Carrier ─▶ wire ─▶ Machine ─▶ effects ─▶ Carrier, ledger, engine
//! ```
//!
//! [`Machine`] is `(state, input, now) → effects`: it has never heard of sockets, threads, files, clocks or randomness, so that a
//! simulation can drive it through any fate and a failing one replays. It moves opaque records and has never heard of consent.
//!
//! Each node tells its peers its *vector*: per origin the last record that it has on disk and applied. A node takes each origin from one
//! peer by asking for it, in sequence, and another peer takes over when it is ahead. What a node holds it passes on to whoever asks, so a
//! star converges like a mesh.
//!
//! Every start of a node leaves an origin behind. Those that nothing is added to any more are told as one hash (`closed`), and one by one
//! only to a peer that asks, since it holds others.
//!
//! Usage (caps, windows, obligations) goes beside the events, best-effort and behind all else: chunks that are opaque here, told
//! once, numbered by the run that tells them.

mod assign;
pub mod carrier;
mod clocks;
mod closed;
mod durability;
pub mod frame;
mod freshness;
mod gossip;
mod machine;
mod session;
pub mod settings;
#[cfg(test)]
pub(crate) mod sim;
pub mod vector;
mod window;
pub mod wire;

pub use carrier::{Carrier, Incoming, Link};
pub use machine::{
    CloseReason, Counters, Effect, Input, Machine, Note, PeerStatus, Progress, StoreOutcome, StoreRefusal,
    Unverified,
};
pub use settings::{Mono, Now, Settings};
