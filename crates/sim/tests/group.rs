//! Groups: one eviction with everybody tried, many epochs under loss, and the faults that these tests must find.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

use std::{collections::BTreeSet, time::Duration};

use gridseal_group::Scheme;
use gridseal_sim::group::{
    EpochsReport, Evidence, FleetError, FleetPlan, FleetReport, Pattern, run_epochs, run_fleet,
};

fn plan(members: u32, evict: u32, pattern: Pattern, scheme: Scheme) -> FleetPlan {
    FleetPlan {
        members,
        evict,
        pattern,
        scheme,
        seed: 1,
        danger_forget_unassigned: false,
        danger_forget_evicted: false,
    }
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
                [(1, 0), (1, 1), (2, 1), (2, 2), (64, 0), (64, 63), (64, 64), (100, 7), (1_000, 90)]
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
    let report = run(&good);
    assert!(!report.newcomer_recovered && !report.coalition_recovered);
    let broken = run(&FleetPlan { danger_forget_unassigned: true, ..good });
    assert!(broken.newcomer_recovered, "the newcomer sees the planted fault");
    assert!(broken.coalition_recovered, "and so do all outsiders together");
}

//= S8: the evicted device gets no new epoch
#[test]
fn forgetting_one_of_the_evicted_is_found_in_every_scheme() {
    for scheme in [Scheme::SubsetDifference, Scheme::KeyHierarchy, Scheme::Flat] {
        for pattern in [Pattern::Random, Pattern::Adjacent, Pattern::Alternating] {
            let good = plan(100, 7, pattern, scheme);
            let broken = run(&FleetPlan { danger_forget_evicted: true, ..good });
            assert_eq!(broken.evicted_recovered, 1, "{scheme:?} {pattern:?}");
            assert!(broken.coalition_recovered, "{scheme:?} {pattern:?}");
        }
    }
}

#[derive(Default)]
struct Kept {
    header: Vec<u8>,
    facts: String,
    lines: Vec<String>,
}

impl Evidence for Kept {
    fn header(&mut self, header: &[u8], facts: &str) {
        (self.header, self.facts) = (header.to_vec(), facts.to_owned());
    }

    fn labels(&mut self, line: &str) {
        self.lines.push(line.to_owned());
    }
}

#[test]
fn evidence_has_every_evicted_member_a_thousand_different_others_and_the_next_newcomer() {
    for (members, evict, others, newcomers) in
        [(3_000, 900, 1_000, 1), (300, 100, 200, 1), (512, 512, 0, 0), (1, 0, 1, 1)]
    {
        let mut kept = Kept::default();
        let plan = plan(members, evict, Pattern::Random, Scheme::SubsetDifference);
        run_fleet(&plan, &mut || Duration::ZERO, &mut |_, _| {}, Some(&mut kept)).unwrap();
        let of = |role: &str| {
            let role = format!("\"role\":\"{role}\"");
            kept.lines.iter().filter(|line| line.contains(&role)).collect::<BTreeSet<_>>().len()
        };
        let found = (of("evicted"), of("member"), of("newcomer"));
        assert_eq!(found, (evict as usize, others, newcomers), "{evict} of {members}");
        assert!(!kept.header.is_empty() && kept.facts.contains("group_key"));
    }
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
    let full = plan(64, 0, Pattern::Random, Scheme::SubsetDifference);
    let unassigned = FleetPlan { danger_forget_unassigned: true, ..full };
    let hierarchy = FleetPlan { members: 50, scheme: Scheme::KeyHierarchy, ..unassigned };
    let evicted = FleetPlan { danger_forget_evicted: true, ..full };
    for plan in [unassigned, hierarchy, evicted] {
        let told = run_fleet(&plan, &mut || Duration::ZERO, &mut |_, _| {}, None);
        assert_eq!(told.unwrap_err(), FleetError::Fault, "a fault that nobody can find");
    }
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
        sum.made_twice += report.made_twice;
        sum.torn += report.torn;
    }
    assert!(sum.caught_up > 100 && sum.evicted > 100 && sum.reseated > 0, "{sum:?}");
    assert!(sum.old_headers_tried > 1_000 && sum.made_twice > 50 && sum.torn > 100, "{sum:?}");
}
