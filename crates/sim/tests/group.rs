//! Groups: one eviction with everybody tried, many epochs under loss, and the faults that these tests must find.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::time::Duration;

use gridseal_group::Scheme;
use gridseal_sim::group::{EpochsReport, FleetError, FleetPlan, FleetReport, Pattern, run_epochs, run_fleet};

fn plan(members: u32, evict: u32, pattern: Pattern, scheme: Scheme) -> FleetPlan {
    FleetPlan { members, evict, pattern, scheme, seed: 1, danger_forget_unassigned: false }
}

#[expect(clippy::disallowed_methods, reason = "a soak says how many schedules it wants")]
fn seeds(otherwise: u64) -> u64 {
    std::env::var("GRIDSEAL_SEEDS").map_or(otherwise, |value| value.parse().expect("a number of seeds"))
}

fn run(plan: &FleetPlan) -> FleetReport {
    run_fleet(plan, &mut || Duration::ZERO, &mut |_, _| {}, None).unwrap()
}

#[test]
fn everybody_but_the_evicted_gets_the_key_in_every_scheme_and_pattern() {
    for scheme in [Scheme::SubsetDifference, Scheme::KeyHierarchy, Scheme::Flat] {
        for pattern in [Pattern::Random, Pattern::Adjacent, Pattern::Alternating] {
            for (members, evict) in
                [(1, 0), (1, 1), (2, 1), (64, 0), (64, 63), (64, 64), (100, 7), (1_000, 90)]
            {
                let report = run(&plan(members, evict, pattern, scheme));
                let name = format!("{scheme:?} {pattern:?} {evict} of {members}");
                assert_eq!(report.recovered, members - evict, "{name}");
                assert_eq!(report.evicted_recovered, 0, "{name}");
                assert!(!report.coalition_recovered && !report.newcomer_recovered, "{name}");
            }
        }
    }
}

//= S8: a new member opens nothing old
#[test]
fn forgetting_that_seats_without_a_member_are_revoked_is_found() {
    let good = plan(100, 7, Pattern::Random, Scheme::SubsetDifference);
    assert!(!run(&good).newcomer_recovered);
    let broken = FleetPlan { danger_forget_unassigned: true, ..good };
    assert!(run(&broken).newcomer_recovered, "the check sees the planted fault");
}

#[test]
fn plans_out_of_range_are_refused() {
    let refused = |members, evict| {
        let plan = plan(members, evict, Pattern::Random, Scheme::SubsetDifference);
        run_fleet(&plan, &mut || Duration::ZERO, &mut |_, _| {}, None).unwrap_err()
    };
    assert_eq!(refused(0, 0), FleetError::Members(0));
    assert_eq!(refused((1 << 20) + 1, 0), FleetError::Members((1 << 20) + 1));
    assert_eq!(refused(5, 6), FleetError::Evict { evict: 6, members: 5 });
}

//= S8: the evicted device gets no new epoch, nor do all of them together
#[test]
fn groups_live_through_loss_sleep_joins_and_evictions() {
    let mut sum = EpochsReport::default();
    for seed in 1..=seeds(40) {
        let report = run_epochs(seed).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        sum.taken += report.taken;
        sum.missed += report.missed;
        sum.caught_up += report.caught_up;
        sum.evicted += report.evicted;
        sum.joined += report.joined;
        sum.old_headers_tried += report.old_headers_tried;
        sum.reseated += report.reseated;
    }
    assert!(sum.caught_up > 100 && sum.evicted > 100 && sum.reseated > 0, "{sum:?}");
    assert!(sum.old_headers_tried > 1_000, "{sum:?}");
}
