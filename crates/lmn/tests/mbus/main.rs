//! M-Bus from outside: the vectors, every flipped bit, policy, replay.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod differential;
mod encode;
mod flipped;
mod policy;
mod telegram;
mod vectors;
