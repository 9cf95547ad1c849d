//! 100,000 devices get power at the same moment (onboarding specification, section 7.6).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

use std::time::Duration;

use gridseal_sim::blackout::{Arrivals, Plan, run};
use gridseal_trust::enrol::device::Pace;

const DEVICES: u32 = 100_000;

fn show(name: &str, arrivals: &Arrivals) {
    println!(
        "{name}: peak {} in one second, {} arrivals, last answer after {} s",
        arrivals.peak(),
        arrivals.total(),
        arrivals.last.0 / 1_000
    );
    for (minute, seconds) in arrivals.by_second.chunks(60).enumerate().take(12) {
        let count: u32 = seconds.iter().sum();
        println!("  minute {minute:>2} {count:>7} {}", "#".repeat((count / 1_500) as usize));
    }
}

#[test]
fn a_hundred_thousand_devices_after_a_black_out_do_not_arrive_at_once() {
    let plan = Plan { devices: DEVICES, pace: Pace::FIELD, answers_per_second: 400, seed: 1 };
    let arrivals = run(&plan);
    show("field", &arrivals);
    assert_eq!(arrivals.answered, DEVICES, "nobody is forgotten");
    // 100,000 spread evenly over the 120 s of the first wait are 833 in a second; who is turned away adds to that.
    assert!(arrivals.peak() < 2_000, "{}", arrivals.peak());
    assert!(arrivals.by_second[0] < 2_000);
    // Turned away, they come back ever more seldom: the server is never asked for more than a few times what it can do.
    assert!(arrivals.total() < u64::from(DEVICES) * 4, "{}", arrivals.total());
    assert!(arrivals.last.0 < 3_600_000, "all were answered within an hour");

    // A server that is no bottleneck sees the jitter alone.
    let arrivals = run(&Plan { answers_per_second: u32::MAX, ..plan });
    show("no bottleneck", &arrivals);
    assert_eq!((arrivals.answered, arrivals.total()), (DEVICES, u64::from(DEVICES)));
    assert!(arrivals.peak() < 1_000, "{}", arrivals.peak());
    assert!(arrivals.last.0 <= 120_001);
}

#[test]
fn without_patience_they_would() {
    // The same machines with no wait to speak of: what the test above would show if there were no jitter.
    let pace = Pace { first: Duration::from_millis(1), most: Duration::from_millis(1), ..Pace::FIELD };
    let plan = Plan { devices: DEVICES, pace, answers_per_second: u32::MAX, seed: 1 };
    assert_eq!(run(&plan).peak(), DEVICES);
}
