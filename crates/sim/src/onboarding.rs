//! Onboarding under one seed: devices with their roots and flash, init server, config server, endpoint manager, key
//! service, certificate authority and head-end, on a network that loses, doubles, delays and forges, and on machines
//! that crash between any two acts.
//!
//! After a random time the faults stop, and every device must come to operate. After every step the rules are checked:
//!
//! | rule | what is compared |
//! |---|---|
//! | S1 | everything that was sealed and sent, by (session, message number), (pseudonym, M) and (meter, counter) |
//! | S2 | everything that was sent, with what is on record at its sender |
//! | S3 | authorisations in each root and channel keys on each device, with the key service's records |
//! | S5 | pin, epoch, redirect, floor clock and configuration of each device, with what they were before |
//! | S7 | rows on each meter's flash, confirmations, and readings in the store |

mod authority;
mod check;
mod config_server;
mod headend;
mod init_server;
mod keys;
mod manager;
mod meter;
mod network;
mod report;
mod world;

pub use report::{Failure, Fault, Options, Point, Report, Rule, Violation};

use world::World;

/// Runs the schedule of one seed.
///
/// # Errors
/// [`Failure`]: the first violation of a rule, with the seed and the last events.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    World::new(seed, options).run()
}
