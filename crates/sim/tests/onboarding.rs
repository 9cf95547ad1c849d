//! Schedules of onboarding: thousands of seeds, planted bugs, coverage.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use gridseal_sim::onboarding::{Failure, Fault, Options, Point, Report, run};

/// Schedules of an ordinary test run; `make soak` runs more.
const SEEDS: u64 = 2_000;

#[expect(clippy::disallowed_methods, reason = "a soak says how many schedules it wants, a replay says which")]
fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |value| value.parse().expect("a number of seeds"))
}

/// Runs seeds on all cores; the lowest seed that failed, if one did.
fn run_seeds(first: u64, count: u64, options: Options) -> Result<Report, Box<Failure>> {
    let next = AtomicU64::new(first);
    let failed_at = AtomicU64::new(u64::MAX);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<_> = thread::scope(|scope| {
        let work = || {
            let mut report = Report::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count || seed > failed_at.load(Ordering::Relaxed) {
                    return (report, None);
                }
                match run(seed, &options) {
                    Ok(one) => report.add(&one),
                    Err(failure) => {
                        failed_at.fetch_min(seed, Ordering::Relaxed);
                        return (report, Some(failure));
                    }
                }
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no schedule panics")).collect()
    });
    let mut report = Report::default();
    let mut failure: Option<Box<Failure>> = None;
    for (one, failed) in outcomes {
        report.add(&one);
        failure = failure.into_iter().chain(failed).min_by_key(|failure| failure.seed);
    }
    failure.map_or(Ok(report), Err)
}

/// Where and how often, and what every schedule visits together.
#[test]
fn every_schedule_is_safe_and_ends_with_every_device_operating() {
    let first = number_from("GRIDSEAL_FIRST_SEED", 0);
    let count = number_from("GRIDSEAL_SEEDS", SEEDS);
    println!("seeds {first} to {}", first + count - 1);
    let log_count = (count == 1).then_some(usize::MAX);
    let options = Options { log_count, ..Options::default() };
    let report = run_seeds(first, count, options).unwrap_or_else(|failure| panic!("{failure}"));
    println!("{report}");
    if count >= SEEDS {
        assert_covered(&report);
    }
}

fn assert_covered(report: &Report) {
    const STATES: [&str; 25] = [
        "off",
        "describing",
        "naming-init",
        "awaiting-redirect",
        "storing-redirect",
        "making-keys",
        "storing-keys",
        "deriving-secret",
        "naming-hello",
        "awaiting-challenge",
        "pinning",
        "raising-epoch",
        "attesting",
        "signing-request",
        "awaiting-commands",
        "executing",
        "awaiting-configuration",
        "importing",
        "installing",
        "awaiting-done",
        "confirming",
        "operating",
        "flushing",
        "jittering",
        "waiting",
    ];
    for state in STATES {
        assert!(report.transitions.keys().any(|(visited, _)| *visited == state), "{state} is never visited");
    }
    for point in Point::ALL {
        assert!(report.crashes.keys().any(|(_, hit)| *hit == point), "no crash at {point:?}");
    }
}

#[test]
fn a_crash_at_any_single_point_is_survived() {
    let options =
        |at| Options { devices: Some(1), readings: Some(true), crash_at: Some(at), ..Options::default() };
    let whole = run(1, &options(u64::MAX)).unwrap_or_else(|failure| panic!("{failure}"));
    let next = AtomicU64::new(0);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let hits: u64 = thread::scope(|scope| {
        let work = || {
            let mut hits = 0;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= whole.opportunities {
                    return hits;
                }
                let report = run(1, &options(at)).unwrap_or_else(|failure| panic!("crash {at}, {failure}"));
                hits += report.crashes.values().sum::<u64>();
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a failure is shown")).sum()
    });
    println!("{hits} crashes, one in each run");
    assert_eq!(hits, whole.opportunities);
}

#[test]
fn a_seed_gives_the_same_schedule_again() {
    for seed in 0..20 {
        let first = run(seed, &Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
        let second = run(seed, &Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    for fault in [
        Fault::KeysAnswerBeforeCommit,
        Fault::KeysRepeatRandomness,
        Fault::KeysForgetPendingAuthorisation,
        Fault::KeysKeepNewestChannelOnly,
        Fault::ManagerRepliesBeforeCommit,
        Fault::DeviceRepeatsRandomness,
        Fault::DeviceReadsOldFlash,
        Fault::MeterForgetsCounter,
        Fault::HeadEndConfirmsBeforeStore,
    ] {
        let options = Options { plant: Some(fault), ..Options::default() };
        match run_seeds(0, SEEDS, options) {
            Ok(_) => panic!("{fault:?} is not found in {SEEDS} schedules"),
            Err(failure) => println!("{fault:?}: seed {}, {:?}", failure.seed, failure.violation),
        }
    }
}
