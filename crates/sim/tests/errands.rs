//! Everything that may be asked of a device, by schedules: every step of both machines is taken, and no other.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use gridseal_sim::life::errands::{Errands, run};
use gridseal_trust::enrol::{device, registrar};

/// Schedules of an ordinary test run.
const SEEDS: u64 = 240;
/// The kinds of orders.
const KINDS: [&str; 10] = [
    "provision",
    "attest",
    "sessions",
    "commands",
    "suspend",
    "resume",
    "release",
    "decommission",
    "renew",
    "rekey",
];

#[expect(clippy::disallowed_methods, reason = "a soak says how many schedules it wants, a replay says which")]
fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |value| value.parse().expect("a number of seeds"))
}

/// Runs seeds on all cores; the first failure that anybody met, if there is one.
fn run_seeds(first: u64, count: u64) -> Result<Errands, String> {
    let next = AtomicU64::new(first);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<Result<Errands, String>> = thread::scope(|scope| {
        let work = || {
            let mut report = Errands::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return Ok(report);
                }
                report.add(&run(seed)?);
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().expect("no schedule panics")).collect()
    });
    let mut report = Errands::default();
    for outcome in outcomes {
        report.add(&outcome?);
    }
    Ok(report)
}

/// Steps that other tests take: the refusal of a session that is to measure anew (`onboarding/tests/onboarding/software.rs`;
/// quarantine ends a session before it is told that it is stored), and the ways of a cleared device whose owner is silent for
/// good (`trust/tests/enrol/orders/ending.rs`, by one of them).
const ELSEWHERE: [Transition; 7] = [
    ("storing-refusal", "persisted", "idle"),
    ("asking-for-orders", "no-reply", "storing-ending"),
    ("asking-for-orders", "timeout", "storing-ending"),
    ("deriving-order-secret", "root-failed", "storing-ending"),
    ("telling-result", "no-reply", "storing-ending"),
    ("telling-result", "received", "storing-ending"),
    ("telling-result", "timeout", "storing-ending"),
];

type Transition = (&'static str, &'static str, &'static str);

/// Steps of the table that were never taken, and steps that it does not have.
fn compare(name: &str, table: &[Transition], taken: &BTreeMap<Transition, u64>) -> usize {
    let table: BTreeSet<Transition> = table.iter().copied().collect();
    let known: BTreeSet<Transition> = taken.keys().copied().collect();
    let never = table.difference(&known).filter(|step| !ELSEWHERE.contains(step));
    let unknown = known.difference(&table);
    never.clone().for_each(|step| println!("{name}: never taken {step:?}"));
    unknown.clone().for_each(|step| println!("{name}: not in the table {step:?}, {} times", taken[step]));
    never.count() + unknown.count()
}

#[test]
fn every_step_of_both_machines_is_taken_and_no_other() {
    let (first, count) = (number_from("GRIDSEAL_FIRST_SEED", 0), number_from("GRIDSEAL_SEEDS", SEEDS));
    let report = run_seeds(first, count).unwrap_or_else(|failure| panic!("{failure}"));
    for (machine, taken) in [("device", &report.device), ("session", &report.registrar)] {
        for ((state, input, next), count) in taken {
            println!("  {machine} {state:24} {input:18} {next:24} {count}");
        }
    }
    println!("{} runs, orders: {:?}", report.runs, report.kinds);
    if count >= SEEDS {
        assert_eq!(report.kinds.keys().copied().collect::<BTreeSet<_>>(), KINDS.into());
        let differing = compare("device", device::TRANSITIONS, &report.device)
            + compare("session", registrar::TRANSITIONS, &report.registrar);
        assert_eq!(differing, 0, "the tables and what was seen differ");
    }
}

#[test]
fn a_seed_gives_the_same_errands_again() {
    for seed in 0..3 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
