//! Sockets: binding them, accepting connections up to a cap, and closing them in good order.
//!
//! Shared by the gRPC and the HTTP entrance; knows neither protocol.

pub mod accept;
pub mod listen;
