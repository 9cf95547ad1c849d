//! Schedules of the key service: thousands of seeds, planted faults, coverage.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use gridseal_sim::keys::{Evidence, Fault, Options, Report, Rule, run};

/// Schedules of an ordinary test run; `make soak` runs more.
const SEEDS: u64 = 3_000;
/// Schedules within which a planted fault is to be found.
const FOUND_WITHIN: u64 = 20_000;

#[expect(clippy::disallowed_methods, reason = "a soak says how many schedules it wants, a replay says which")]
fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |value| value.parse().expect("a number of seeds"))
}

/// Runs seeds on all cores, up to the first violation of one of these rules; none for any.
fn run_seeds(first: u64, count: u64, options: Options, rules: &[Rule]) -> Report {
    let next = AtomicU64::new(first);
    let broken = AtomicBool::new(false);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let work = || {
            let mut report = Report::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count || broken.load(Ordering::Relaxed) {
                    return report;
                }
                let one = run(seed, &options, None);
                let is_sought = |rule| rules.is_empty() || rules.contains(&rule);
                let found = one.violations.iter().any(|violation| is_sought(violation.rule));
                broken.fetch_or(found, Ordering::Relaxed);
                report.add(one);
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut report = Report::new();
        workers.into_iter().for_each(|worker| report.add(worker.join().expect("no schedule panics")));
        report.violations.sort_by_key(|violation| violation.seed);
        report
    })
}

//= S1: no (key, nonce) pair twice, across crashes, restores, flash rollback, fail-over and split brain
//= S3: the only key a meter knows is never forgotten
#[test]
fn no_schedule_strands_a_meter_or_repeats_a_nonce_and_all_transitions_happen() {
    let first = number_from("GRIDSEAL_FIRST_SEED", 1);
    let count = number_from("GRIDSEAL_SEEDS", SEEDS);
    let report = run_seeds(first, count, Options::default(), &[]);
    if let Some(violation) = report.violations.first() {
        panic!("{violation}");
    }
    println!("{} schedules, {} steps, {} pairs", report.schedules, report.steps, report.pairs);
    assert_eq!((report.nonce_reuse, report.unreachable_meters), (0, 0));
    for (name, times) in &report.coverage {
        println!("  {name:40} {times}");
    }
    if count >= SEEDS {
        let missing: Vec<&str> =
            report.coverage.iter().filter(|(_, times)| **times == 0).map(|(name, _)| *name).collect();
        assert!(missing.is_empty(), "never happens: {missing:?}");
    }
}

//= S3: the only key a meter knows is never forgotten
/// Schedules that have found a fault; each fails again when what mended it is taken out of the key service.
#[test]
fn schedules_that_were_once_broken_stay_mended() {
    const ONCE_BROKEN: [(u64, &str); 8] = [
        (5_475, "a meter that went back below its suite is led up without an order"),
        (9_191, "a meter that went back below its suite is led up without an order"),
        (72_048_123, "an agreement that was resolved at the other site is not taken up again"),
        (73_052_227, "an agreement that was resolved at the other site is not taken up again"),
        (73_012_328, "a plain change gives way when another site has offered an agreement"),
        (76_059_105, "an answered challenge confirms a key in use that was sent again"),
        (76_087_717, "an agreement that was resolved at the other site is not taken up again"),
        (76_088_190, "an agreement that was resolved at the other site is not taken up again"),
    ];
    let is_broken = |&(seed, _): &(u64, &str)| {
        let report = run(seed, &Options::default(), None);
        !report.violations.is_empty() || (report.nonce_reuse, report.unreachable_meters) != (0, 0)
    };
    let broken: Vec<(u64, &str)> = ONCE_BROKEN.into_iter().filter(is_broken).collect();
    assert!(broken.is_empty(), "broken again: {broken:?}");
}

#[test]
fn planted_faults_are_found() {
    for fault in Fault::ALL {
        let expected: &[Rule] = match fault {
            Fault::PersistFirst => &[Rule::S2],
            Fault::Confirm => &[Rule::S3],
            Fault::Lease => &[Rule::S2],
            Fault::Epoch => &[Rule::S1],
            _ => &[Rule::Window],
        };
        let report = run_seeds(1, FOUND_WITHIN, Options { plant: Some(fault) }, expected);
        let mut violations = report.violations.iter();
        let found = violations.find(|violation| expected.contains(&violation.rule));
        let found = found.unwrap_or_else(|| panic!("{fault:?} is not found in {FOUND_WITHIN} schedules"));
        println!("{}: {found}", fault.name());
        let mut kept = Kept::default();
        let _ = run(found.seed, &Options { plant: Some(fault) }, Some(&mut kept));
        let (code, said) = checked_outside(&kept);
        assert!(code == Some(1) && said.contains("\"confirmed\": true"), "{}: {said}", fault.name());
    }
}

#[derive(Default)]
struct Kept {
    events: String,
    nonces: String,
}

impl Evidence for Kept {
    fn event(&mut self, line: &str) {
        self.events.push_str(line);
    }

    fn nonce(&mut self, line: &str) {
        self.nonces.push_str(line);
    }
}

/// What an outside program finds in evidence alone, and its exit code.
fn checked_outside(kept: &Kept) -> (Option<i32>, String) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("gridseal-sim-keys-{}-{number}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("events.jsonl"), &kept.events).unwrap();
    std::fs::write(dir.join("nonces.jsonl"), &kept.nonces).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop/keys_check.py");
    let checked = std::process::Command::new("python3").arg(script).arg(&dir).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let said = String::from_utf8(checked.stdout).unwrap();
    println!("{said}{}", String::from_utf8_lossy(&checked.stderr));
    (checked.status.code(), said)
}

#[test]
fn a_seed_gives_the_same_schedule_and_evidence_again() {
    let from = number_from("GRIDSEAL_FIRST_SEED", 1);
    let mut all = Kept::default();
    for seed in from..from + 20 {
        let [first, second] = [0; 2].map(|_| {
            let mut kept = Kept::default();
            let report = run(seed, &Options::default(), Some(&mut kept));
            (report, kept.events, kept.nonces)
        });
        assert_eq!(first, second, "seed {seed}");
        assert_eq!(first.0, run(seed, &Options::default(), None), "seed {seed}: evidence changes nothing");
        all.events.push_str(&first.1);
        all.nonces.push_str(&first.2);
    }
    let (code, said) = checked_outside(&all);
    assert!(code == Some(0) && said.contains("\"schedules\": 20,"), "{said}");
}
