//! Tests of the storage adapters, in one program.

#![forbid(unsafe_code)]

#[path = "store/conformance.rs"]
mod conformance;
#[path = "store/open.rs"]
mod open;
#[path = "store/processes.rs"]
mod processes;
#[path = "store/scratch.rs"]
mod scratch;
