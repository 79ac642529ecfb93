//! The gRPC entrance: what surrounds the services, and the services.
//!
//! Knows tonic and h2; decides nothing. `connection` speaks HTTP/2, [`stack`] surrounds every call, [`routes`] leads it to its
//! service, [`status`] is the one table of errors, [`server`] accepts connections and stops in good order.

mod as_bytes;
mod connection;
pub mod convert;
mod gathered;
pub mod health;
pub mod method;
mod quiet;
pub mod reflection;
pub mod routes;
pub mod server;
pub mod services;
pub mod stack;
pub mod status;
