//! kill -9 of each process at each step of the onboarding, then its restart: every device ends operating and delivers
//! (onboarding 7.6). A device that were owned under a value nobody has would never get there.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::site::{Plan, Site, Told};

/// How long a meter may take from the fault to a confirmed reading.
const RECOVERY_WITHIN: Duration = Duration::from_secs(20);

/// A moment of an onboarding: who tells what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The meter is still switched off.
    Registered,
    Meter(&'static str, &'static str),
    Manager(&'static str, &'static str),
    Other(&'static str, &'static str),
}

use Step::{Manager, Meter, Other, Registered};

/// Every step, from several sides where two processes stand on it.
pub(crate) const STEPS: [Step; 24] = [
    Registered,
    Meter("powered", ""),
    Other("init-server", "answered"),
    Meter("owner-found", ""),
    Meter("keys-made", ""),
    Meter("sent", "C1"),
    Other("config-server", "relayed"),
    Manager("accepted", "C1"),
    Meter("accepted", "C2"),
    Meter("sent", "C3"),
    Manager("accepted", "C3"),
    Meter("accepted", "C4"),
    Meter("sent", "C5"),
    Manager("accepted", "C5"),
    Meter("accepted", "C6"),
    Meter("sent", "C7"),
    Manager("accepted", "C7"),
    Other("headend", "admission"),
    Meter("accepted", "C8"),
    Meter("operating", ""),
    Other("headend", "meter-connected"),
    Meter("pushed", ""),
    Other("headend", "frame"),
    Other("headend", "stored"),
];

impl Step {
    pub(crate) fn is_told_by(self, told: &Told, serial: &str) -> bool {
        let says = |event: &str, message: &str| {
            told.event == event && (message.is_empty() || told.field("message") == message)
        };
        match self {
            Registered => false,
            Meter(event, message) => told.process == format!("meter {serial}") && says(event, message),
            Manager(event, message) => {
                told.process == "endpoint-manager" && told.field("serial") == serial && says(event, message)
            }
            Other(process, event) => told.process == process && says(event, ""),
        }
    }
}

/// One cell: the meter starts, the victim dies so long after the step and comes back at once; then a reading must be
/// confirmed.
pub(crate) fn cell(
    site: &mut Site,
    victim: &str,
    (step, after): (Step, Duration),
    serial: &str,
) -> Result<Duration, String> {
    site.settle();
    let from = site.log.len();
    let meter = format!("meter {serial}");
    let victim = if victim == "meter" { meter.as_str() } else { victim };
    if step == Registered && victim != meter {
        site.kill(victim);
        site.start(&meter);
    } else {
        site.start(&meter);
        let reached =
            step == Registered || site.wait(RECOVERY_WITHIN, |told| step.is_told_by(told, serial)).is_some();
        if !reached {
            return Err(format!("the step was never reached: {}", site.report(site.log.len() - from)));
        }
        // Where a fault falls between two events there is none to wait for.
        std::thread::sleep(after);
        site.kill(victim);
    }
    // Nothing that was told before the fault counts.
    site.settle();
    site.start(if victim == "keys-core" { "keys" } else { victim });
    let began = Instant::now();
    let confirmed = site.wait(RECOVERY_WITHIN, |told| told.is(&meter, "confirmed"));
    let took = began.elapsed();
    let ended: Vec<String> = site.log[from..]
        .iter()
        .filter(|told| told.event == "ended")
        .map(|told| told.process.clone())
        .collect();
    let alive = site.is_running(&meter) && crate::site::SERVERS.iter().all(|server| site.is_running(server));
    let report = site.report(site.log.len() - from);
    site.kill(&meter);
    match confirmed {
        None => Err(format!("no reading within {RECOVERY_WITHIN:?}: {report}")),
        Some(_) if !alive => Err(format!("a process has ended by itself ({ended:?}): {report}")),
        Some(_) => Ok(took),
    }
}

/// Moments of the fault for one victim: every step; and for those that decide something, moments between the steps.
fn moments(victim: &str) -> Vec<(Step, Duration)> {
    let mut moments: Vec<_> = STEPS.into_iter().map(|step| (step, Duration::ZERO)).collect();
    if ["endpoint-manager", "keys", "meter"].contains(&victim) {
        for step in ["C1", "C3", "C5", "C7"].map(|message| Meter("sent", message)) {
            moments.extend([2, 5, 9, 14].map(|after_ms| (step, Duration::from_millis(after_ms))));
        }
    }
    moments
}

/// Every moment for one victim, a fresh meter each.
fn row(victim: &str) -> Vec<String> {
    let moments = moments(victim);
    let count = moments.len();
    let mut site = Site::new(&format!("kill-{victim}"), Plan { meters: count, ..Plan::default() });
    let mut failures = Vec::new();
    let (mut longest, mut total) = (Duration::ZERO, Duration::ZERO);
    for (moment, serial) in moments.into_iter().zip(site.meters.clone()) {
        match cell(&mut site, victim, moment, &serial) {
            Ok(took) => {
                longest = longest.max(took);
                total += took;
            }
            Err(why) => failures.push(format!("{victim} killed at {moment:?}, meter {serial}: {why}")),
        }
    }
    println!("{victim}: {count} moments, recovery {total:?} in total, {longest:?} at most");
    if failures.is_empty() {
        failures.extend(settled(&site).into_iter().map(|what| format!("{victim} killed: {what}")));
    }
    failures
}

/// What must hold of a fleet when the faults are over.
pub(crate) fn settled(site: &Site) -> Vec<String> {
    let mut wrong = Vec::new();
    for (serial, row) in site.register().into_iter().filter(|(serial, _)| site.meters.contains(serial)) {
        // A clock that was fast for a while makes a renewal due.
        let is_well = row["state"] == "operating" || row["state"] == "rekeying" && row["jobs"][0] == "renew";
        if !is_well || !row["quarantine"].is_null() {
            wrong.push(format!("{serial} is {row}"));
        }
    }
    // Once per meter, quantity and interval, and something from each meter (rule S7).
    let mut seen = BTreeMap::new();
    for reading in site.readings() {
        *seen.entry(["meter", "obis", "start"].map(|name| reading[name].to_string())).or_insert(0) += 1;
    }
    wrong.extend(
        seen.iter().filter(|(_, count)| **count > 1).map(|(key, _)| format!("stored twice: {key:?}")),
    );
    let mut meters: Vec<_> = seen.keys().map(|key| &key[0]).collect();
    meters.dedup();
    if meters.len() != site.meters.len() {
        wrong.push(format!("readings of {} of {} meters", meters.len(), site.meters.len()));
    }
    wrong.extend(reused_counters(site));
    site.assert_audit();
    wrong
}

/// Rule S1 as seen on the wire: a counter of a meter never covers two different APDUs.
fn reused_counters(site: &Site) -> Vec<String> {
    let mut used: BTreeMap<String, &str> = BTreeMap::new();
    let mut reused = Vec::new();
    for told in site.log.iter().filter(|told| told.process == "headend" && told.event == "frame") {
        let apdu = told.field("apdu");
        // DB, length, system title, length, security control, counter.
        let counter = [&apdu[4..20], &apdu[24..32]].concat();
        if *used.entry(counter.clone()).or_insert(apdu) != apdu {
            reused.push(format!("rule S1: {counter} covers two APDUs"));
        }
    }
    reused
}

#[test]
fn onboarding_7_6_kill_of_each_process_at_each_step_ends_operating() {
    let victims =
        ["init-server", "config-server", "endpoint-manager", "keys", "keys-core", "pki", "headend", "meter"];
    // A row mostly waits for time to pass: all at once cost little more than one.
    let failures: Vec<String> = std::thread::scope(|scope| {
        let rows: Vec<_> = victims.iter().map(|victim| scope.spawn(|| row(victim))).collect();
        rows.into_iter()
            .flat_map(|row| row.join().unwrap_or_else(|_| vec!["a row has panicked".into()]))
            .collect()
    });
    assert!(failures.is_empty(), "{} cells failed:\n{}", failures.len(), failures.join("\n"));
}
