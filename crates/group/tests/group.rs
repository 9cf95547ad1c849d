//! Rules of groups through the public interface, and the vectors.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "test code")]

#[path = "group/commands.rs"]
mod commands;
#[path = "group/headers.rs"]
mod headers;
#[path = "group/vectors.rs"]
mod vectors;
#[path = "group/world.rs"]
mod world;
