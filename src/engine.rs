//! The application layer: one door for every entrance.

pub mod codec;
