//! optgate
