//! Group re-keys at full size: header, time to make it, a member's work and storage, next to the other schemes in the same
//! run. Every remaining member is checked to have the key, every evicted one not to have it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench measures and prints"
)]

use std::time::{Duration, Instant};

use gridseal_crypto::{Key, Signer, SigningKey, role::GroupSigning};
use gridseal_group::Scheme;
use gridseal_sim::group::{FleetPlan, FleetReport, Pattern, run_fleet};

const MEMBERS: u32 = 1 << 20;

fn measured(plan: &FleetPlan) -> FleetReport {
    let start = Instant::now();
    let mut clock = || start.elapsed();
    let report = run_fleet(plan, &mut clock, &mut |_, _| {}, None).unwrap();
    assert_eq!(report.recovered, plan.members - plan.evict, "every remaining member has the key");
    assert_eq!(report.evicted_recovered, 0, "no evicted member has it");
    assert!(!report.coalition_recovered, "nor all of them together with later joiners");
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
            danger_forget_evicted: false,
        };
        line(&format!("sd    {evict} {pattern:?}"), &measured(&plan(Scheme::SubsetDifference)), target);
    }
    for (scheme, evict, pattern) in [
        (Scheme::KeyHierarchy, 1_000, Pattern::Random),
        (Scheme::KeyHierarchy, 10_000, Pattern::Random),
        (Scheme::KeyHierarchy, 1_000, Pattern::Adjacent),
        (Scheme::Flat, 1_000, Pattern::Random),
    ] {
        let plan = FleetPlan {
            members: MEMBERS,
            evict,
            pattern,
            scheme,
            seed: 1,
            danger_forget_unassigned: false,
            danger_forget_evicted: false,
        };
        let name = if scheme == Scheme::Flat { "flat " } else { "lkh 4" };
        line(&format!("{name} {evict} {pattern:?}"), &measured(&plan), "");
    }
    signature();
}

/// What every receiver does beside its AES blocks.
fn signature() {
    let key = SigningKey::<GroupSigning>::new(&Key::take(&mut [5; 32])).unwrap();
    let signed = key.sign(b"header").unwrap();
    let start = Instant::now();
    for _ in 0..200 {
        assert!(key.public().verifies(b"header", &signed));
    }
    println!("one signature check takes {:.0} us here", start.elapsed().as_secs_f64() / 200.0 * 1e6);
}
