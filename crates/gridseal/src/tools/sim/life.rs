//! `gridseal sim life`.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use gridseal_sim::{
    keys::Evidence,
    life::{Fault, OWNERS_MAX, Outside, Plan, Report, YEARS_MAX, run as live},
};
use serde_json::{Value, json};

use super::{
    evidence::{Folder, is_free},
    stop::{STOPPED, stop_on_signals},
};
use crate::observe::say;

/// Violations that are shown; all are counted.
const SHOWN: usize = 100;

/// What to simulate.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Meters, 1 to 1000000.
    #[arg(long, default_value_t = 100)]
    meters: u32,
    /// Years, 1 to 22.
    #[arg(long, default_value_t = 20)]
    years: u32,
    /// Owners, one after the other, 1 to 8.
    #[arg(long, default_value_t = 3)]
    owners: u32,
    /// Days from one visit of a meter to the next, on average.
    #[arg(long, default_value_t = 90, value_name = "DAYS")]
    visits: u32,
    /// Seed of everything.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this part of the fleet, from 0: 32 meters, as a violation names it.
    #[arg(long)]
    part: Option<usize>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Leave the event log and every (key, nonce) pair in this empty directory, for an outside program to count again
    /// (some 10 MB for each meter of a full part).
    #[arg(long, value_name = "DIR")]
    evidence: Option<PathBuf>,
    /// Plant a fault, and stop at the first violation. The run must find it.
    #[arg(long = "break", value_enum, value_name = "FAULT")]
    fault: Option<FaultName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FaultName {
    /// The services' clock falls back in 2038: 31 bits of seconds since 1970.
    #[value(name = "clock-2038")]
    Clock2038,
    /// The services' clock falls back in 2036: 32 bits of seconds since 1900.
    #[value(name = "clock-2036")]
    Clock2036,
    /// A change counts as confirmed on the head-end's word.
    Confirm,
    /// Counters are used beyond the durable block.
    Lease,
    /// A promotion takes the epoch that is there.
    Epoch,
    /// No certificate before the one on record has ended.
    LateRenewal,
    /// A meter keeps the keys of its former owner.
    OldOwner,
}

impl FaultName {
    const fn fault(self) -> Fault {
        match self {
            Self::Clock2038 => Fault::Clock2038,
            Self::Clock2036 => Fault::Clock2036,
            Self::Confirm => Fault::Confirm,
            Self::Lease => Fault::Lease,
            Self::Epoch => Fault::Epoch,
            Self::LateRenewal => Fault::LateRenewal,
            Self::OldOwner => Fault::OldOwner,
        }
    }
}

fn refusal(arguments: &Arguments) -> Option<String> {
    let Arguments { meters, years, owners, visits, evidence, .. } = arguments;
    let is_between = |value: &u32, most: u32| (1..=most).contains(value);
    if !is_between(meters, 1_000_000) {
        Some("--meters must be 1 to 1000000".into())
    } else if !is_between(years, YEARS_MAX) {
        Some(format!("--years must be 1 to {YEARS_MAX}"))
    } else if !is_between(owners, OWNERS_MAX) || owners > years {
        Some(format!("--owners must be 1 to {OWNERS_MAX}, and each have a year"))
    } else if !is_between(visits, 365) {
        Some("--visits must be 1 to 365 days".into())
    } else {
        let dir = evidence.as_deref().filter(|dir| !is_free(dir))?;
        Some(format!("{} is no empty directory: evidence of two runs must not be mixed", dir.display()))
    }
}

/// Runs the lives and says what came of them.
#[expect(clippy::disallowed_methods, reason = "a person wants to know how long it really took")]
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let plan = Plan {
        seed: arguments.seed,
        first: 1,
        meters: arguments.meters,
        years: arguments.years,
        owners: arguments.owners,
        visit_days: arguments.visits,
        plant: arguments.fault.map(FaultName::fault),
    };
    let parts: Vec<Plan> = plan
        .parts()
        .enumerate()
        .filter(|(at, _)| arguments.part.is_none_or(|part| part == *at))
        .map(|(_, part)| part)
        .collect();
    let refused =
        refusal(arguments).or_else(|| parts.is_empty().then(|| "--part: there are not so many parts".into()));
    if let Some(refused) = refused {
        eprintln!("error: {refused}");
        return Ok(ExitCode::from(2));
    }
    let begun = Instant::now();
    let stop = stop_on_signals()?;
    let meter_days = parts.iter().map(Plan::meter_days).sum();
    let lives = Lives { parts, meter_days, next: AtomicUsize::new(0), progress: AtomicU64::new(0), stop };
    let is_watched = std::io::stderr().is_terminal() && !arguments.json;
    let report = match &arguments.evidence {
        // Evidence is written by one hand, in order.
        Some(dir) => {
            let mut folder = Folder::create(dir)?;
            let report = lives.watched(is_watched, 1, Some(&mut folder));
            folder.finish()?;
            report
        }
        None => lives.watched(is_watched, thread::available_parallelism().map_or(1, usize::from), None),
    };
    let part_of = |seed| plan.parts().position(|part| part.seed == seed);
    tell(arguments, &report, (begun.elapsed(), &part_of));
    Ok(if !report.violations.is_empty() {
        ExitCode::FAILURE
    } else if report.stopped {
        ExitCode::from(STOPPED)
    } else {
        ExitCode::SUCCESS
    })
}

struct Lives {
    parts: Vec<Plan>,
    meter_days: u64,
    next: AtomicUsize,
    progress: AtomicU64,
    stop: Arc<AtomicBool>,
}

impl Lives {
    /// Runs all parts on so many threads, and shows how far they are.
    fn watched(&self, is_watched: bool, threads: usize, folder: Option<&mut Folder>) -> Report {
        let mut report = Report::new();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = is_watched.then(|| scope.spawn(|| self.show(&is_over)));
            match folder {
                Some(folder) => report.add(self.work(Some(folder))),
                None => {
                    let begin = |_| scope.spawn(|| self.work(None));
                    let workers: Vec<_> = (0..threads.min(self.parts.len())).map(begin).collect();
                    for worker in workers {
                        // A part that panics is a fault of the simulation: it shows itself.
                        match worker.join() {
                            Ok(one) => report.add(one),
                            Err(panic) => std::panic::resume_unwind(panic),
                        }
                    }
                }
            }
            is_over.store(true, Ordering::Relaxed);
            drop(watcher.map(|watcher| watcher.join()));
        });
        report.violations.sort_by_key(|violation| (violation.at, violation.seed));
        report
    }

    fn work(&self, mut folder: Option<&mut Folder>) -> Report {
        let mut report = Report::new();
        while let Some(part) = self.parts.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.stop.load(Ordering::Relaxed) {
                report.stopped = true;
                break;
            }
            let evidence = folder.as_mut().map(|folder| &mut **folder as &mut dyn Evidence);
            let outside = Outside { evidence, progress: Some(&self.progress), stop: Some(&self.stop) };
            let one = live(part, outside);
            let is_found = part.plant.is_some() && !one.violations.is_empty();
            report.add(one);
            if is_found {
                // What was to be found is found; that is no interruption.
                self.next.store(self.parts.len(), Ordering::Relaxed);
            }
        }
        report
    }

    #[expect(clippy::disallowed_methods, reason = "a person watches, twice a second")]
    fn show(&self, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            let days = self.progress.load(Ordering::Relaxed);
            let percent = days.saturating_mul(100) / self.meter_days.max(1);
            let _ = write!(std::io::stderr(), "\r{percent:3} % of {} meter years", self.meter_days / 365);
            thread::sleep(Duration::from_millis(500));
        }
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
}

fn tell(arguments: &Arguments, report: &Report, (real, part_of): (Duration, &dyn Fn(u64) -> Option<usize>)) {
    let violations = || report.violations.iter().take(SHOWN);
    if arguments.json {
        let violations: Vec<Value> = violations()
            .map(|violation| {
                json!({
                    "part": part_of(violation.seed),
                    "meter": violation.meter.map(|meter| meter.to_string()),
                    "at": violation.at.to_string(),
                    "rule": violation.rule.name(),
                    "detail": violation.detail,
                })
            })
            .collect();
        say(&json!({
            "meters": report.meters,
            "years": arguments.years,
            "owners": arguments.owners,
            "seed": arguments.seed,
            "ended": report.ended,
            "stranded": report.stranded,
            "nonce_repeats": report.nonce_repeats,
            "pairs": report.pairs,
            "violations": violations,
            "stopped": report.stopped,
            "virtual_s": report.virtual_s,
            "real_ms": u64::try_from(real.as_millis()).unwrap_or(u64::MAX),
            "events": report.events,
            "coverage": report.coverage,
        })
        .to_string());
        return;
    }
    for violation in violations() {
        say(&violation.to_string());
        if let Some(part) = part_of(violation.seed) {
            let Arguments { meters, years, owners, visits, seed, .. } = arguments;
            let planted = arguments.fault.and_then(|fault| fault.to_possible_value());
            let planted = planted.map(|fault| format!(" --break {}", fault.get_name())).unwrap_or_default();
            say(&format!(
                "  again: gridseal sim life --meters {meters} --years {years} --owners {owners} --visits {visits} --seed {seed} --part {part}{planted} --evidence DIR"
            ));
        }
    }
    let years = report.virtual_s / 31_557_600;
    say(&format!("meters         {}, {years} years in {:.1} s", report.meters, real.as_secs_f64()));
    say(&format!("ended          {}, each with a receipt", report.ended));
    say(&format!("stranded       {}", report.stranded));
    say(&format!("nonce repeats  {} in {} pairs", report.nonce_repeats, report.pairs));
    say(&format!("violations     {}", report.violations.len()));
    if report.stopped {
        say("stopped before its end");
    }
    for (name, count) in report.events.iter().chain(&report.coverage) {
        say(&format!("  {name:44} {count}"));
    }
}
