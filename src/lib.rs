//! optgate decides, before every message a business sends, whether it may be sent.

pub mod cli;
pub mod config;
pub mod engine;
pub mod grpc;
pub mod http;
pub mod ledger;
pub mod limits;
pub mod net;
pub mod pb;
pub mod policy;
pub mod readiness;
pub mod view;
