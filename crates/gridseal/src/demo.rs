//! `gridseal demo`: the main job in one command. Every process runs for real, apart from each other, on this machine; the
//! demo only starts them, shows what they tell, and looks at the end whether all went as it must.

mod attack;
mod evidence;
mod fleet;
mod life;
mod process;
mod scan;
mod view;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::setup::factory::Anchor;
use gridseal_io::clock::tick_now;
use gridseal_types::Tick;

use fleet::Fleet;
use process::Line;
use view::View;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every meter was onboarded and delivered, every check held and every attack was refused; 1 otherwise.\n\n\
    Examples:\n  gridseal demo\n  gridseal demo --meters 10 --for 30 --json --evidence /tmp/evidence\n  \
    gridseal demo --attack all --evidence /tmp/attacked"
)]
pub struct Arguments {
    /// How many meters.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=200))]
    meters: u32,
    /// Root of trust of the meters: an emulated TPM 2.0 for each, or the software stand-in.
    #[arg(long, value_enum, default_value = "tpm")]
    anchor: Anchor,
    /// Stop after so many seconds; without it, on Ctrl-C.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// Directory to work in; must be empty or absent. Default: a new one under the system's temporary directory.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Keep the directory.
    #[arg(long)]
    keep: bool,
    /// Leave there what an outside script needs to check the run. Writes this run's throw-away keys in clear.
    #[arg(long, value_name = "DIR")]
    evidence: Option<PathBuf>,
    /// Attack what runs, once every meter delivers: all, or ids and names with commas between (A1 or rogue-init-server).
    /// Without --for the demo ends after them.
    #[arg(long, value_name = "all|NAME,..")]
    attack: Option<attack::Choice>,
    /// Print one final JSON object.
    #[arg(long)]
    json: bool,
    /// Length of a load-profile interval, seconds.
    #[arg(long, default_value_t = 2, hide = true)]
    interval_s: u32,
}

/// How long onboarding may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the demo.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let began = tick_now();
    let mut view = View::new(arguments.json, began);
    if let Some(evidence) = &arguments.evidence
        && std::fs::read_dir(evidence).is_ok_and(|mut entries| entries.next().is_some())
    {
        bail!("{} is not empty: evidence of two runs must not be mixed", evidence.display());
    }
    let anchor = choose_anchor(arguments.anchor, &mut view);
    let dir = WorkDir::new(arguments)?;
    let stop = interrupted()?;
    let options = fleet::Options {
        meters: arguments.meters,
        anchor,
        interval_s: arguments.interval_s,
        with_inventory: arguments.evidence.is_some() || arguments.attack.is_some(),
    };
    let mut fleet = Fleet::start(&dir.path, &options, &mut view)?;
    let mut outcome = Outcome::default();
    let until = arguments.seconds.map(|seconds| tick_now() + Duration::from_secs(seconds));
    // The rest of a meter's life is shown once, when there is time for it; attacks are a show of their own.
    let has_time = |until: Option<Tick>| until.is_none_or(|until| until.since(tick_now()) >= life::NEEDS);
    let mut life = None;
    while !stop.try_recv().is_ok_and(|()| true)
        && until.is_none_or(|until| tick_now() < until)
        && !(arguments.attack.is_some() && until.is_none() && fleet.all_deliver())
    {
        if let Some(line) = fleet.next_line(Duration::from_millis(100))? {
            take(&line, &mut fleet, &mut outcome, &mut view)?;
        }
        if outcome.onboarded() < fleet.meters().len() && tick_now().since(began) > PATIENCE {
            view.problem("the meters were not onboarded in time");
            break;
        }
        if life.is_none() && arguments.attack.is_none() && fleet.all_deliver() && has_time(until) {
            let shown = life.insert(life::play(&mut fleet, &mut view, &stop));
            if shown.is_stopped {
                break;
            }
        }
    }
    let life = life.unwrap_or_default();
    let attacks = match &arguments.attack {
        Some(choice) => {
            fleet.attacked_from = Some(fleet.log.len());
            let to = arguments.evidence.as_ref().unwrap_or(&dir.path).join("attacks");
            attack::play(&mut fleet, choice, &to, &view)?
        }
        None => Vec::new(),
    };
    let checks = fleet.finish(arguments.evidence.as_deref(), &outcome, &mut view)?;
    let mut checks = checks;
    checks.problems.extend(life.problem.clone());
    let expected = fleet.meters().len();
    if outcome.onboarded() < expected {
        checks.problems.push(format!("{} of {expected} meters were onboarded", outcome.onboarded()));
    }
    if checks.readings_by_meter.len() < expected {
        checks.problems.push(format!("{} of {expected} meters delivered", checks.readings_by_meter.len()));
    }
    let unrefused = attacks.iter().filter(|attack| attack["refused"] != true).count();
    if unrefused > 0 {
        checks.problems.push(format!("{unrefused} of {} attacks were not refused", attacks.len()));
    }
    let good = outcome.first_reading.is_some()
        && outcome.onboarded() == fleet.meters().len()
        && checks.readings_by_meter.len() >= fleet.meters().len()
        && checks.problems.is_empty();
    report(arguments, anchor, began, &outcome, &checks, (good, attacks, &life));
    dir.close(arguments.keep)?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choose_anchor(wanted: Anchor, view: &mut View) -> Anchor {
    if crate::cli::anchor_available(wanted) {
        return wanted;
    }
    view.loud(&[
        "NO TPM EMULATOR ON THIS MACHINE: the meters use the SOFTWARE root of trust.",
        "Their keys lie in process memory; nothing below proves anything about hardware.",
        "For the real demo: apt-get install swtpm",
    ]);
    Anchor::Software
}

/// What the demo has seen.
#[derive(Debug, Default)]
pub struct Outcome {
    operating: std::collections::BTreeSet<String>,
    first_reading: Option<Tick>,
    shown: u64,
}

impl Outcome {
    fn onboarded(&self) -> usize {
        self.operating.len()
    }
}

fn take(line: &Line, fleet: &mut Fleet, outcome: &mut Outcome, view: &mut View) -> Result<()> {
    if line.process.starts_with("meter ") && line.event == "operating" {
        outcome.operating.insert(line.process.clone());
    }
    view.line(line);
    if line.process == "headend" && line.event == "stored" {
        for (reading, frame) in fleet.new_readings()? {
            outcome.first_reading.get_or_insert_with(tick_now);
            outcome.shown += 1;
            view.reading(&reading, frame.as_deref());
        }
    }
    if line.event == "ended" {
        view.problem(&format!("{} has ended by itself", line.process));
        bail!("{} has ended by itself: {}", line.process, line.field("status"));
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "everything that is to be said at the end")]
fn report(
    arguments: &Arguments,
    anchor: Anchor,
    began: Tick,
    outcome: &Outcome,
    checks: &fleet::Checks,
    (good, attacks, life): (bool, Vec<serde_json::Value>, &life::Life),
) {
    let first = outcome.first_reading.map(|at| at.since(began).as_secs_f64());
    if arguments.json {
        let object = serde_json::json!({
            "ok": good,
            "meters": arguments.meters,
            "onboarded": outcome.onboarded(),
            "readings_stored": checks.readings,
            "attacks": attacks,
            "rotated": life.rotated,
            "suspended": life.suspended,
            "resold": life.resold,
            "decommissioned": life.decommissioned,
            "seconds_to_first_reading": first,
            "anchor": anchor.name(),
            "audit_entries": checks.audit_entries,
            "key_search": checks.key_search,
            "problems": checks.problems,
        });
        crate::observe::show(&format!("{object}"));
    } else {
        crate::observe::show("");
        crate::observe::show(&format!(
            "{} of {} meters onboarded, anchor {}",
            outcome.onboarded(),
            arguments.meters,
            anchor.name()
        ));
        crate::observe::show(&format!(
            "{} readings stored, each sealed by its meter, opened by `keys`, stored once",
            checks.readings
        ));
        crate::observe::show(&format!("{} audit entries, chains whole", checks.audit_entries));
        if !attacks.is_empty() {
            let refused = attacks.iter().filter(|attack| attack["refused"] == true).count();
            crate::observe::show(&format!("{refused} of {} attacks refused or without gain", attacks.len()));
        }
        if life.decommissioned > 0 {
            crate::observe::show(
                "1 meter got new secrets, 1 stolen one delivers nothing, 1 was sold, 1 came to its end with a receipt",
            );
        }
        if let Some(first) = first {
            crate::observe::show(&format!("first reading after {first:.1} s"));
        }
        for problem in &checks.problems {
            crate::observe::show(&format!("PROBLEM: {problem}"));
        }
    }
}

/// The directory of a run.
struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    fn new(arguments: &Arguments) -> Result<Self> {
        let path = match &arguments.dir {
            Some(dir) => {
                let is_used = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
                if is_used {
                    bail!("{} is not empty: choose another directory", dir.display());
                }
                dir.clone()
            }
            None => {
                let name: [u8; 6] = gridseal_crypto::random(&mut gridseal_io::rng::OsRng)?;
                temporary_directory().join(format!("gridseal-demo-{}", hex::encode(name)))
            }
        };
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path: path.canonicalize()? })
    }

    fn close(self, keep: bool) -> Result<()> {
        if keep {
            eprintln!("kept {}", self.path.display());
            std::mem::forget(self);
            return Ok(());
        }
        remove(&self.path)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn temporary_directory() -> PathBuf {
    std::env::temp_dir()
}

/// A channel that gets a message on Ctrl-C or SIGTERM.
fn interrupted() -> Result<std::sync::mpsc::Receiver<()>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let mut terminate =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).ok();
            let mut hang_up = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok();
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                () = received(&mut terminate) => {}
                () = received(&mut hang_up) => {}
            }
            let _ = sender.send(());
        });
    });
    Ok(receiver)
}

/// Ready with the next of these signals; never when they cannot be had.
async fn received(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
