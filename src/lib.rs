//! optgate decides, before every message a business sends, whether it may be sent.
//!
//! # The map
//!
//! ```text
//!           cli ─┐                     ┌─▶ policy   pure rules: no I/O, no clock, no log
//!   app ─▶ grpc ─┼─▶ engine ─┬─▶ limits ├─▶ ledger   bytes that last
//!          http ─┘            └──────────┴─▶ view     answers reads, disposable
//! ```
//!
//! Dependencies point inward. What each part does *not* know matters as much as what it does:
//!
//! - [`policy`] is request + facts + rules + now → decision, and the rule by which consent merges. It has never
//!   heard of gRPC, files, sled, threads, logs, clocks or randomness; time is a parameter.
//! - [`ledger`] is the append-only, hash-chained log of opaque bytes. It has never heard of consent.
//! - [`view`] answers what is known of a person, from sled behind caches; it is built from the ledger and thrown
//!   away when damaged. It is the only user of sled and decides nothing.
//! - [`outbox`] keeps what an edge took in until an anchor has it: bytes that last a while. It has never heard of consent or of anchors.
//! - [`limits`] counts: rates, caps, distinct recipients. It has never heard of files, clocks or what a consent is.
//! - [`engine`] puts these in order and is the one door for every entrance. It has never heard of gRPC or HTTP.
//! - [`address`] and [`key`] turn what people are called into keyed hashes. Nothing behind them sees an address.
//! - [`replication`] makes several nodes one: a state machine that moves records between ledgers. It has never heard of sockets, clocks or consent.
//! - [`peers`] carries it: gRPC streams between nodes, its clock, its hands on the ledger. It decides nothing and looks into no consent.
//! - [`grpc`] is the API's entrance: `grpc::convert` is the only place that knows both wire and domain types,
//!   `grpc::status` the only table of errors. It decides nothing.
//! - [`http`] shows health and metrics, [`net`] accepts connections, [`readiness`] says whether to send calls here.
//! - [`config`] reads settings and rules, all faults at once. [`telemetry`] logs, counts and traces; no address ever.
//! - [`cli`] is the command line, mostly a client of the same API. [`mod@bench`] measures. [`clock`] alone reads the time.
//! - `sabotage` breaks promises on purpose, so that the tests can be tested; no build holds it unless asked to.
//! - `sim` runs several nodes, each with its engine, in virtual time and judges them; only tests have it.
//! - [`app`] connects the parts and knows nothing else.

pub mod address;
pub mod app;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod grpc;
pub mod http;
pub mod key;
pub mod ledger;
pub mod limits;
pub mod net;
pub mod outbox;
pub mod pb;
pub mod peers;
pub mod policy;
pub mod readiness;
pub mod replication;
#[cfg(sabotage)]
pub mod sabotage;
#[cfg(test)]
mod sim;
pub mod telemetry;
pub mod view;
