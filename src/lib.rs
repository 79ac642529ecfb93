//! optgate decides, before every message a business sends, whether it may be sent.

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
pub mod pb;
pub mod policy;
pub mod readiness;
pub mod telemetry;
pub mod view;
