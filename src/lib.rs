//! optgate decides, before every message a business sends, whether it may be sent.

pub mod config;
pub mod engine;
pub mod ledger;
pub mod pb;
pub mod policy;
pub mod view;
