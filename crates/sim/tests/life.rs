//! Lives of meters: seven years, planted faults.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::time::Instant;

use gridseal_sim::life::{Fault, Outside, Plan, Report, run};

const PLAN: Plan = Plan { seed: 1, first: 1, meters: 12, years: 7, owners: 1, plant: None };

fn show(report: &Report) {
    for (name, count) in report.events.iter().chain(&report.coverage) {
        println!("  {name:40} {count}");
    }
}

#[expect(clippy::disallowed_methods, reason = "told to whoever reads the output")]
#[test]
fn twelve_meters_live_seven_years_with_one_owner() {
    let begun = Instant::now();
    let report = run(&PLAN, Outside::default());
    println!("{:?}", begun.elapsed());
    show(&report);
    if let Some(violation) = report.violations.first() {
        panic!("{violation}");
    }
    assert_eq!((report.stranded, report.nonce_repeats), (0, 0));
    assert_eq!(report.meters, 12);
    let missing: Vec<_> = report.coverage.iter().filter(|(_, count)| **count == 0).collect();
    assert!(missing.is_empty(), "never walked: {missing:?}");
}

#[test]
fn planted_faults_are_found() {
    for (fault, rules) in [
        (Fault::Confirm, ["reachable", "s3"]),
        (Fault::Lease, ["s2", "s2"]),
        (Fault::Epoch, ["s1", "contract"]),
    ] {
        let report = run(&Plan { meters: 4, plant: Some(fault), ..PLAN }, Outside::default());
        let found = report.violations.first();
        let found = found.unwrap_or_else(|| panic!("{} is not found", fault.name()));
        println!("{}: {found}", fault.name());
        assert!(rules.contains(&found.rule.name()), "{}", fault.name());
    }
}
