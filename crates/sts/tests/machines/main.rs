//! The machines under faults and chance: the meter through power cuts, the issuer through crashes, tokens at random.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

mod issuer;
mod meter;
mod props;
