//! Frames around APDUs.

pub mod block;
pub mod hdlc;
pub mod wrapper;
