//! Frames around APDUs.

pub mod wrapper;
