//! Group re-keys at full size: header, time to make it, a member's work and storage, next to the other schemes in the same
//! run. Every remaining member is checked to have the key, every evicted one not to have it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures and prints"
)]

use std::time::{Duration, Instant};

use gridseal_group::Scheme;
use gridseal_sim::group::{FleetPlan, FleetReport, Pattern, run_fleet};

const MEMBERS: u32 = 1 << 20;
/// The header is made this often; the best time counts.
const REPEATS: u32 = 5;

fn measured(plan: &FleetPlan) -> FleetReport {
    let start = Instant::now();
    let mut clock = || start.elapsed();
    let mut report = run_fleet(plan, &mut clock, &mut |_, _| {}, None).unwrap();
    if plan.scheme == Scheme::SubsetDifference {
        for _ in 1..REPEATS {
            let again = run_fleet(plan, &mut clock, &mut |_, _| {}, None).unwrap();
            report.build = report.build.min(again.build);
        }
    }
    assert_eq!(report.recovered, plan.members - plan.evict, "every remaining member has the key");
    assert_eq!(report.evicted_recovered, 0, "no evicted member has it");
    assert!(!report.coalition_recovered, "nor all of them together");
    report
}

fn line(name: &str, report: &FleetReport, target: &str) {
    let build = |time: Duration| time.as_secs_f64() * 1_000.0;
    println!(
        "{name:<34} {:>11} B {:>10.2} ms {:>6} AES {:>6} B stored   {target}",
        report.header_bytes,
        build(report.build),
        report.member_aes_blocks_max,
        report.member_storage_bytes,
    );
}

fn main() {
    println!("n = 2^20 members; all remaining recover, no evicted one does, nor all together");
    for (evict, pattern, target) in [
        (1_000, Pattern::Random, "target 22 KB, 2 ms, 20 AES, 3.4 KB"),
        (10_000, Pattern::Random, "target 210 KB, 10 ms"),
        (1_000, Pattern::Adjacent, "target 600 B"),
        (1_000, Pattern::Alternating, ""),
    ] {
        let plan = |scheme| FleetPlan {
            members: MEMBERS,
            evict,
            pattern,
            scheme,
            seed: 1,
            danger_forget_unassigned: false,
        };
        line(&format!("sd    {evict} {pattern:?}"), &measured(&plan(Scheme::SubsetDifference)), target);
    }
    for scheme in [Scheme::KeyHierarchy, Scheme::Flat] {
        let plan = FleetPlan {
            members: MEMBERS,
            evict: 1_000,
            pattern: Pattern::Random,
            scheme,
            seed: 1,
            danger_forget_unassigned: false,
        };
        line(&format!("{scheme:?} 1000 Random"), &measured(&plan), "");
    }
}
