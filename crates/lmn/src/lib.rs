//! The local metering network, sans-IO: what meters say to a gateway in the cellar.
//!
//! Bytes in, values out: nothing here opens a port, reads a clock or draws randomness. Whatever arrives is parsed once
//! by the one [`wire::Reader`], and a [`DecodeError`] says which field of which layer broke which rule at which offset.
//!
//! | module | what is in it |
//! |---|---|
//! | [`iec62056_21`] | readable lines of the optical head, push and readout |
//! | [`mbus`] | wireless and wired M-Bus with OMS security |
//! | [`reading`] | the typed value that every protocol here ends in |
//! | [`sml`] | SML: files, messages, readings, both directions |
//! | [`wire`] | cursor over received bytes, the error of decoding |

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used
    )
)]

extern crate alloc;

pub mod iec62056_21;
pub mod mbus;
pub mod reading;
pub mod sml;
pub mod wire;

pub use wire::{DecodeError, Rule};
