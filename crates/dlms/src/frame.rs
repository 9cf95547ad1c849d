//! Frames around APDUs.

pub mod hdlc;
pub mod wrapper;
