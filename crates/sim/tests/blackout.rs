//! Many devices get power at the same moment (onboarding specification, section 7.6): 10,000 here, 100,000 where many seeds
//! are asked for (`make soak`).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "test code: output is for the reader, the environment says how many"
)]

use std::time::Duration;

use gridseal_sim::blackout::{Arrivals, Plan, run};
use gridseal_trust::enrol::device::Pace;

/// How many; the server's pace below grows with them.
fn devices() -> u32 {
    if std::env::var_os("GRIDSEAL_SEEDS").is_some() { 100_000 } else { 10_000 }
}

fn show(name: &str, arrivals: &Arrivals) {
    println!(
        "{name}: peak {} in one second, {} arrivals, last answer after {} s",
        arrivals.peak(),
        arrivals.total(),
        arrivals.last.0 / 1_000
    );
    for (minute, seconds) in arrivals.by_second.chunks(60).enumerate().take(12) {
        let count: u32 = seconds.iter().sum();
        println!("  minute {minute:>2} {count:>7} {}", "#".repeat((count / 500) as usize));
    }
}

#[test]
fn devices_after_a_black_out_do_not_arrive_at_once() {
    let devices = devices();
    let plan = Plan { devices, pace: Pace::FIELD, answers_per_second: devices / 250, seed: 1 };
    let arrivals = run(&plan);
    show("field", &arrivals);
    assert_eq!(arrivals.answered, devices, "nobody is forgotten");
    // Spread evenly over the 120 s of the first wait, so many come in a second; who is turned away adds to that.
    let even = devices / 120;
    assert!(arrivals.peak() < even * 5 / 2, "{}", arrivals.peak());
    // Turned away, they come back ever more seldom: the server is never asked for more than a few times what it can do.
    assert!(arrivals.total() < u64::from(devices) * 4, "{}", arrivals.total());
    assert!(arrivals.last.0 < 3_600_000, "all were answered within an hour");

    // A server that is no bottleneck sees the jitter alone.
    let arrivals = run(&Plan { answers_per_second: u32::MAX, ..plan });
    show("no bottleneck", &arrivals);
    assert_eq!((arrivals.answered, arrivals.total()), (devices, u64::from(devices)));
    assert!(arrivals.peak() < even + 6 * even.isqrt(), "{}", arrivals.peak());
    assert!(arrivals.last.0 <= 120_001);
}

#[test]
fn without_patience_they_would() {
    // The same machines with no wait to speak of: what the test above would show if there were no jitter.
    let pace = Pace { first: Duration::from_millis(1), most: Duration::from_millis(1), ..Pace::FIELD };
    let devices = devices();
    let plan = Plan { devices, pace, answers_per_second: u32::MAX, seed: 1 };
    assert_eq!(run(&plan).peak(), devices);
}
