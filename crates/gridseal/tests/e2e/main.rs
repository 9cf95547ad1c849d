//! End to end: real processes, real links, real files.
//!
//! What each module proves: `attacks` every row of the table of attacks, `demo` the one command, `faults` and `power`
//! kill -9 at every step, `tpm_kill` the same of the TPM at each of its commands, `no_room` full disks at each write, `clocks` calendars that are wrong, `ports` bad input at every port, `borders` who can reach whom, `zones` that keys stay where they
//! belong, `takeover` that a taken-over `keys` repeats no nonce, `keys` the key service over mutual TLS and its commands, `flush` kill -9 between `open` and flush,
//! `attest` endorsement keys and measured software, `ownership` what an owner does with a meter until its end,
//! `recovery` what becomes of a meter whose owner has vanished, `former_owner` that everything a seller kept is refused,
//! `rotation` key changes and kill -9 at each of their steps, `claim` and `claim_suites` the take-over of a meter with its manufacturer's keys,
//! `mbus` telegrams of the local network through the command line, `lmn` what a listener hears, `dlms_client` what the
//! DLMS client makes of an honest meter and of one that lies, `dlms_decode` recorded messages as trees, `dlms_probe` what
//! a probe finds on our own meter and on a weak one, `est` that OpenSSL and curl enrol a server of the inner network.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "tests: a broken expectation is a panic, the clock is the machine's, output is for the reader of a failure"
)]

mod attacks;
mod attest;
mod borders;
mod claim;
mod claim_suites;
mod clocks;
mod demo;
mod dlms_client;
mod dlms_decode;
mod dlms_peer;
mod dlms_probe;
mod dlms_serve;
mod dlms_setup;
mod dlms_suites;
mod est;
mod faults;
mod flush;
mod former_owner;
mod keys;
mod lmn;
mod machine;
mod mbus;
mod no_room;
mod ownership;
mod peer;
// A PostgreSQL server, as the tests of the store start it.
#[allow(dead_code, unreachable_pub, reason = "the store's tests use more of it")]
#[path = "../../../store/tests/store/server.rs"]
mod pg;
mod ports;
mod power;
mod recovery;
mod rotation;
// The search of the demo itself: what is proven here is what the demo relies on.
#[allow(dead_code, unreachable_pub, reason = "the demo uses more of it")]
#[path = "../../src/demo/scan.rs"]
mod scan;
mod site;
mod station;
mod storage;
mod takeover;
mod tools;
mod tpm_kill;
mod zones;
