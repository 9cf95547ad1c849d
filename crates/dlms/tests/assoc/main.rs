//! Client and server machines against each other, in memory, with a line that tests can bend.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

mod blocks;
mod forgeries;
mod local;
mod normal;
mod pair;
mod readings;
mod suites;
mod tree;
