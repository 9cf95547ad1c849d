//! Twenty years of a fleet in minutes: the real machines of devices and owners under virtual time, from the factory over
//! several owners to the receipt that the keys are gone.
//!
//! | rule | what is compared |
//! |---|---|
//! | S1, S2, S3, S5, S8 | as in [`crate::keys`], for every owner's key service, all the time |
//! | S13 | before each attestation that is due: whether anything is sealed for the device |
//! | certificate | the device's certificate, with the true time, whenever it connects |
//! | old owner | after each resale: everything that the former owner has, tried |
//! | reachable | every meter gives a reading whenever it is visited |

mod calendar;
mod coverage;
mod device;
pub mod errands;
mod fleet;
mod owner;
mod report;
mod resale;
mod service;

pub use fleet::Outside;
pub use report::{Fault, Plan, Report, Rule, Violation};

/// Owners that a plan can have.
pub const OWNERS_MAX: u32 = crate::works::OWNERS_MAX as u32;
/// Years that a plan can have: owners' roots live no longer.
pub const YEARS_MAX: u32 = 22;

/// Runs a plan to its end, until a rule is broken, or until it is to stop. The same plan gives the same report.
#[must_use]
pub fn run(plan: &Plan, outside: Outside<'_>) -> Report {
    fleet::run(plan, outside)
}
