//! Calendar clocks that are wrong, one process at a time: at 1970, an hour slow, ten years fast, stepping while meters
//! onboard. Nobody is believed, held or lost because of it (rule S14): what is refused meanwhile is done once the clock is
//! right. What each machine makes of each clock at each message is in the tests of `crates/onboarding`.

use std::time::Duration;

use crate::{
    faults::settled,
    site::{Plan, SERVERS, Site},
};

/// Seconds to 1970, an hour back, ten years on.
const SHIFTS: [i64; 3] = [-1_900_000_000, -3_600, 10 * 365 * 86_400];
/// How long a clock stays wrong when nothing goes on meanwhile.
const WRONG_FOR: Duration = Duration::from_millis(1_500);
/// How long a meter may take once all clocks are right. One whose answer was refused meanwhile offers it again after up to
/// twice its pause between questions, and an answer that was refused once more doubles that.
const RECOVERY_WITHIN: Duration = Duration::from_secs(150);

/// Steps of a meter at which the clock steps on; wherever one does not come, time makes it step.
const STEPS: [(&str, &str); 3] = [("sent", "C1"), ("sent", "C5"), ("operating", "")];

fn row(victim: &str) -> Vec<String> {
    let mut site = Site::new(&format!("clock-{victim}"), Plan { meters: SHIFTS.len(), ..Plan::default() });
    // An attestation with a wrong time is made good by the next one, for which the meter has to ask.
    site.hurry();
    let mut wrong = Vec::new();
    for (turn, serial) in site.meters.clone().into_iter().enumerate() {
        let meter = format!("meter {serial}");
        let process = if victim == "meter" { meter.clone() } else { victim.to_owned() };
        // Each meter begins with another of the shifts, and meets the others on its way.
        let shift = |step: usize| SHIFTS[(turn + step) % SHIFTS.len()];
        site.settle();
        let from = site.log.len();
        site.shift_clock(&process, shift(0));
        site.start(&meter);
        for (step, (event, message)) in STEPS.into_iter().enumerate() {
            site.wait(WRONG_FOR, |told| told.is(&meter, event) && told.field("message") == message);
            site.shift_clock(&process, shift(step + 1));
        }
        site.wait(WRONG_FOR, |_| false);
        site.shift_clock(&process, 0);
        let confirmed = site.wait(RECOVERY_WITHIN, |told| told.is(&meter, "confirmed"));
        if confirmed.is_none() {
            wrong.push(format!("{victim}, {serial}: no reading: {}", site.report(site.log.len() - from)));
        }
        for name in SERVERS.iter().copied().chain([meter.as_str()]) {
            if !site.is_running(name) {
                wrong.push(format!("{victim}, {serial}: {name} has ended: {}", site.report(60)));
                return wrong;
            }
        }
        site.kill(&meter);
    }
    if wrong.is_empty() {
        wrong.extend(settled(&site).into_iter().map(|what| format!("{victim}: {what}")));
    }
    wrong
}

#[test]
fn s14_a_wrong_clock_of_any_process_costs_a_wait_and_nothing_else() {
    let failures: Vec<String> = std::thread::scope(|scope| {
        let victims = SERVERS.into_iter().chain(["meter"]);
        let rows: Vec<_> = victims.map(|victim| scope.spawn(move || row(victim))).collect();
        rows.into_iter()
            .flat_map(|row| row.join().unwrap_or_else(|_| vec!["a row has panicked".into()]))
            .collect()
    });
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
