//! What the objects of a meter do: behaviour of each class, and who may do it.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: a broken expectation is a panic")]

mod agreement;
mod certificates;
mod control;
mod image;
mod profile;
mod protection;
mod rights;
mod security;
mod time;
mod world;
