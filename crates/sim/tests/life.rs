//! Lives of meters: twenty years, three owners, planted faults.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use gridseal_sim::{
    keys::Evidence,
    life::{Fault, Outside, Plan, Report, run},
};

const PLAN: Plan = Plan { seed: 1, first: 1, meters: 12, years: 20, owners: 3, visit_days: 150, plant: None };

fn show(report: &Report) {
    for (name, count) in report.events.iter().chain(&report.coverage) {
        println!("  {name:44} {count}");
    }
}

//= S13: nothing is sealed or opened for a device whose attestation is old, or whose state forbids it
#[test]
fn twelve_meters_live_twenty_years_with_three_owners() {
    let report = run(&PLAN, Outside::default());
    show(&report);
    if let Some(violation) = report.violations.first() {
        panic!("{violation}");
    }
    assert_eq!((report.stranded, report.nonce_repeats, report.stopped), (0, 0, false));
    assert_eq!((report.meters, report.ended), (12, 11), "one is stolen");
    let missing: Vec<&str> =
        report.coverage.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
    assert!(missing.is_empty(), "never walked: {missing:?}");
    let happened = |event| report.events.get(event).copied().unwrap_or_default();
    assert_eq!((happened("sold"), happened("receipts"), happened("stolen")), (24, 35, 1));
    assert!(happened("key-changes") >= 12 * 38, "{}", happened("key-changes"));
    for event in [
        "suite-raises",
        "ca-rollovers",
        "renewals",
        "certificates-waited-for",
        "changes-crossed",
        "fail-backs",
        "secrets-rotated",
        "transfer-answers-lost",
        "updated",
    ] {
        assert!(happened(event) > 0, "{event} never happens");
    }
    //= design S5: suites rise, twice in a life
    for step in ["suite/0/1", "suite/1/2"] {
        let times = report.coverage.get(step).copied().unwrap_or_default();
        assert!(times >= 12, "{step}: {times}");
    }
}

#[test]
fn planted_faults_are_found() {
    for fault in Fault::ALL {
        let (rules, owners): (&[&str], _) = match fault {
            // Where the key service tells one from the other, a certificate of the wrong time ends up as none.
            Fault::Clock2036 | Fault::Clock2038 => (&["s13", "reachable", "certificate"], 1),
            // Or what comes of it shows first: the meter's own word is not opened.
            Fault::Confirm => (&["s3", "window"], 1),
            Fault::Lease => (&["s2"], 1),
            Fault::Epoch => (&["s1", "window"], 1),
            Fault::LateRenewal => (&["certificate"], 1),
            Fault::OldOwner => (&["old-owner"], 3),
        };
        let plan = Plan { meters: 3, years: 15, owners, plant: Some(fault), ..PLAN };
        let report = run(&plan, Outside::default());
        let found = report.violations.first();
        let found = found.unwrap_or_else(|| panic!("{} is not found", fault.name()));
        println!("{}: {found}", fault.name());
        assert!(rules.contains(&found.rule.name()), "{}", fault.name());
    }
}

#[test]
fn a_plan_gives_the_same_report_and_evidence_again() {
    #[derive(Default, PartialEq, Debug)]
    struct Kept(Vec<String>);
    impl Evidence for Kept {
        fn event(&mut self, line: &str) {
            self.0.push(line.to_owned());
        }

        fn nonce(&mut self, line: &str) {
            self.0.push(line.to_owned());
        }
    }
    let plan = Plan { meters: 2, years: 2, owners: 2, ..PLAN };
    let [first, second] = [0; 2].map(|_| {
        let mut kept = Kept::default();
        let outside = Outside { evidence: Some(&mut kept), ..Outside::default() };
        (run(&plan, outside), kept)
    });
    assert_eq!(first, second);
    assert_eq!(first.0, run(&plan, Outside::default()), "evidence changes nothing");
}
