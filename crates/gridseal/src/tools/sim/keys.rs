//! `gridseal sim keys`.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use gridseal_sim::keys::{Evidence, Fault, Options, Report, run as run_schedule};
use serde_json::json;

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
    /// Schedules, each of its own seed.
    #[arg(long, default_value_t = 1_000)]
    schedules: u64,
    /// Seed of the first schedule; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Leave the event log of every schedule and every (key, nonce) pair in this empty directory, for an outside program
    /// to count again (about 40 KB for each schedule).
    #[arg(long, value_name = "DIR")]
    evidence: Option<PathBuf>,
    /// Plant a fault, and stop at the first violation. The run must find it.
    #[arg(long = "break", value_enum, value_name = "FAULT")]
    fault: Option<FaultName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FaultName {
    /// Answers leave before their commit.
    PersistFirst,
    /// A change counts as confirmed on the head-end's word.
    Confirm,
    /// Counters are used beyond the durable block.
    Lease,
    /// A promotion takes the epoch that is there.
    Epoch,
    /// A byte-identical repeat is answered as a replay.
    OpenIdempotent,
}

impl FaultName {
    const fn fault(self) -> Fault {
        match self {
            Self::PersistFirst => Fault::PersistFirst,
            Self::Confirm => Fault::Confirm,
            Self::Lease => Fault::Lease,
            Self::Epoch => Fault::Epoch,
            Self::OpenIdempotent => Fault::OpenIdempotent,
        }
    }
}

/// Runs the schedules and says what came of them.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(dir) = arguments.evidence.as_deref().filter(|dir| !is_free(dir)) {
        eprintln!("error: {} is no empty directory: evidence of two runs must not be mixed", dir.display());
        return Ok(ExitCode::from(2));
    }
    let Some(end) = arguments.seed.checked_add(arguments.schedules).filter(|_| arguments.schedules > 0)
    else {
        eprintln!("error: --schedules must be at least 1, and the last seed below 2^64");
        return Ok(ExitCode::from(2));
    };
    let options = Options { plant: arguments.fault.map(FaultName::fault) };
    let watched = std::io::stderr().is_terminal() && !arguments.json;
    let runs = Runs { options, next: AtomicU64::new(arguments.seed), end, stop: stop_on_signals()? };
    let report = match &arguments.evidence {
        // Evidence is written by one hand, in order.
        Some(dir) => {
            let mut folder = Folder::create(dir)?;
            let report = runs.work(Some(&mut folder), watched.then_some(arguments.seed));
            folder.finish()?;
            report
        }
        None => runs.on_all_cores(watched.then_some(arguments.seed)),
    };
    if watched {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    let is_stopped = report.schedules < arguments.schedules && report.violations.is_empty();
    tell(arguments, &report, is_stopped);
    Ok(if !report.violations.is_empty() {
        ExitCode::FAILURE
    } else if is_stopped {
        ExitCode::from(STOPPED)
    } else {
        ExitCode::SUCCESS
    })
}

struct Runs {
    options: Options,
    next: AtomicU64,
    end: u64,
    stop: Arc<AtomicBool>,
}

impl Runs {
    fn on_all_cores(&self, watched: Option<u64>) -> Report {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let mut report = Report::new();
        thread::scope(|scope| {
            let begin = |number| scope.spawn(move || self.work(None, watched.filter(|_| number == 0)));
            let workers: Vec<_> = (0..workers).map(begin).collect();
            for worker in workers {
                // A schedule that panics is a fault of the simulation: it shows itself.
                match worker.join() {
                    Ok(one) => report.add(one),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        report.violations.sort_by_key(|violation| violation.seed);
        report
    }

    #[expect(clippy::disallowed_methods, reason = "a person wants to see that it goes on")]
    fn work(&self, mut folder: Option<&mut Folder>, watched: Option<u64>) -> Report {
        let mut report = Report::new();
        let mut shown = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                break;
            }
            let evidence = folder.as_mut().map(|folder| &mut **folder as &mut dyn Evidence);
            report.add(run_schedule(seed, &self.options, evidence));
            if self.options.plant.is_some() && !report.violations.is_empty() {
                self.stop.store(true, Ordering::Relaxed);
            }
            if let Some(first) = watched
                && shown.elapsed() >= Duration::from_secs(1)
            {
                shown = Instant::now();
                let (done, of) = (seed - first, self.end - first);
                let _ = write!(std::io::stderr(), "\r{done} of {of} schedules");
            }
        }
        report
    }
}

fn tell(arguments: &Arguments, report: &Report, is_stopped: bool) {
    if arguments.json {
        let violations: Vec<_> = report
            .violations
            .iter()
            .take(SHOWN)
            .map(|violation| {
                json!({
                    "seed": violation.seed,
                    "step": violation.step,
                    "rule": violation.rule.name(),
                    "detail": violation.detail,
                })
            })
            .collect();
        say(&json!({
            "schedules": report.schedules,
            "steps": report.steps,
            "pairs": report.pairs,
            "violations": violations,
            "nonce_reuse": report.nonce_reuse,
            "unreachable_meters": report.unreachable_meters,
            "coverage": report.coverage,
            "stopped": is_stopped,
        })
        .to_string());
        return;
    }
    for violation in report.violations.iter().take(SHOWN) {
        say(&violation.to_string());
        say(&format!("  again: gridseal sim keys --schedules 1 --seed {} --evidence DIR", violation.seed));
    }
    let stopped = if is_stopped { format!(" of {}, stopped", arguments.schedules) } else { String::new() };
    say(&format!("schedules           {}{stopped}, {} steps", report.schedules, report.steps));
    say(&format!("violations          {}", report.violations.len()));
    say(&format!("nonce reuse         {} in {} pairs", report.nonce_reuse, report.pairs));
    say(&format!("unreachable meters  {}", report.unreachable_meters));
    for (name, count) in &report.coverage {
        say(&format!("  {name:40} {count}"));
    }
}
