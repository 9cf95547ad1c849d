//! The key service under one seed: two sites with their databases, head-ends that speak for them, meters with the quirks
//! of their vendors and real cryptography, a network that loses, repeats, delays, replays and forges, kills between any
//! two acts, old databases put back, fail-over and split brain.
//!
//! After a random time the faults stop: every meter must then give a reading, and every key change come to its end. After
//! every step the rules are checked by somebody who sees everything:
//!
//! | rule | what is compared |
//! |---|---|
//! | S1 | every (key, nonce) pair that left a site or a meter, with a hash of the real key |
//! | S2 | everything that left, with what is durable at its sender |
//! | S3 | the keys in each meter, with those that the sites hold durably |
//! | S5 | verdicts with everything that was ever opened; counters with those sent before |
//! | S8 | seals and openings with the state of the device |
//! | D1 | a repeat of the same bytes is a duplicate |

mod acts;
mod coverage;
mod disk;
mod headend;
mod heal;
mod meter;
mod operator;
mod report;
mod site;
mod visit;
mod watch;
mod world;

pub use gridseal_keys::danger_faults::Fault;
pub(crate) use meter::{MeterKeys, Quirks};
pub use report::{Evidence, Options, Report, Rule, Violation};
pub(crate) use visit::{Loss, bytes_of};
pub(crate) use watch::Watch;
pub(crate) use world::World;

/// Runs one schedule to its end. The same seed and options give the same report.
#[must_use]
pub fn run(seed: u64, options: &Options, evidence: Option<&mut dyn Evidence>) -> Report {
    let mut watch = watch::Watch::new(seed, evidence);
    watch.event("begin", String::new);
    let mut report = Report { schedules: 1, ..Report::default() };
    match world::World::new(seed, options.plant, watch) {
        Ok(mut world) => {
            report.violations.extend(world.run().err());
            report.steps = u64::from(world.watch.step);
            report.pairs = world.watch.pair_count;
            report.nonce_reuse = world.watch.nonce_reuse;
            report.unreachable_meters = world.unreachable;
            report.coverage = std::mem::take(&mut world.watch.coverage.0);
        }
        Err((rule, detail)) => report.violations.push(Violation { seed, step: 0, rule, detail }),
    }
    report
}
