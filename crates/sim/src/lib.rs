//! Virtual clock, network, disks and crashes around the machines of Gridseal. One seed is one schedule.
//!
//! Nothing here decides anything of a protocol: the shells carry messages, commit records and lose both, as the seed
//! says. After every step the rules of the design (S1, S2, S3, S5, S7) are checked by somebody who sees everything.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod blackout;
pub mod group;
pub mod keys;
pub mod life;
pub mod machines;
pub mod onboarding;
mod random;
mod works;

pub use random::{HashRng, Schedule};
