//! Tests of the storage adapters, in one program.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]
#![forbid(unsafe_code)]

#[path = "store/certificates.rs"]
mod certificates;
#[path = "store/conformance.rs"]
mod conformance;
#[path = "store/damage.rs"]
mod damage;
#[path = "store/group.rs"]
mod group;
#[path = "store/open.rs"]
mod open;
#[path = "store/postgres.rs"]
mod postgres;
#[path = "store/processes.rs"]
mod processes;
#[path = "store/readings.rs"]
mod readings;
#[path = "store/scratch.rs"]
mod scratch;
#[path = "store/server.rs"]
mod server;
#[path = "store/standby.rs"]
mod standby;
#[path = "store/writers.rs"]
mod writers;
