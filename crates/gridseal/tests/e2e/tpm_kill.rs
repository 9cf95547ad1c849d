//! kill -9 of the TPM's emulator before and after each command of an onboarding and of a renewal (onboarding 7.6 and 17.4).
//!
//! Meters start what they take for swtpm and is a go-between: it passes commands on, counts them, and at the one it was
//! told it kills the emulator, before the command or after it, and leaves. The meter must end by itself with a code, and
//! started anew on the same TPM it must end operating for its owner.
//!
//! A sample runs by default, of which GRIDSEAL_FIRST_SEED says where it begins; with GRIDSEAL_SEEDS set, each command runs.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use gridseal_io::tpm::Swtpm;
use gridseal_trust::root::TpmTransport;

use crate::{
    faults::settled,
    machine::{gridseal_ok, has_tpm_emulator},
    power::check_tpm,
    site::{Plan, Site, text},
};

/// Folder of the emulator's state, told to the go-between.
const STATE: &str = "GRIDSEAL_E2E_TPM_STATE";
/// Beside that folder: where to strike, for as long as that has not happened.
const FAULT: &str = "tpm-fault";
/// Beside that folder: commands that were passed on, and what was loaded when none came for a while.
const COMMANDS: &str = "tpm-commands";
/// A meter that asks nothing for so long is between two requests to its root.
const IDLE: Duration = Duration::from_millis(300);

/// Meters of one site, of which one shows the way; faults in renewals; and how many meters run at a time.
const SITE_METERS: usize = 33;
const RENEWALS: usize = 6;
const LANES: usize = 4;
/// How long a meter may take from its first start to a confirmed reading after the fault.
const CELL_WITHIN: Duration = Duration::from_secs(60);

/// One whole command, or `None` when the meter is gone. After a silence, once: `idle`.
fn next_command(meter: &mut UnixStream, mut idle: impl FnMut()) -> Option<Vec<u8>> {
    let mut command = vec![0; 10];
    meter.set_read_timeout(Some(IDLE)).unwrap();
    let mut first = meter.read(&mut command[..1]);
    if first.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock) {
        idle();
        meter.set_read_timeout(None).unwrap();
        first = meter.read(&mut command[..1]);
    }
    meter.set_read_timeout(None).unwrap();
    if first.unwrap_or(0) == 0 {
        return None;
    }
    meter.read_exact(&mut command[1..]).ok()?;
    let size = u32::from_be_bytes(command[2..6].try_into().unwrap()).clamp(10, 4_096);
    command.resize(size as usize, 0);
    meter.read_exact(&mut command[10..]).ok()?;
    Some(command)
}

/// Handles that are loaded, from the first of a kind on: TPM2_GetCapability(TPM_CAP_HANDLES).
fn loaded(tpm: &mut Swtpm, first: u32) -> u32 {
    let mut command = vec![0x80, 1, 0, 0, 0, 22, 0, 0, 1, 0x7a, 0, 0, 0, 1];
    command.extend_from_slice(&first.to_be_bytes());
    command.extend_from_slice(&64u32.to_be_bytes());
    let response = tpm.transmit(&command).unwrap();
    u32::from_be_bytes(response[15..19].try_into().unwrap())
}

#[test]
#[ignore = "no test: what the meters below run in place of swtpm"]
fn goes_between_a_meter_and_its_tpm() {
    let Some(state) = std::env::var_os(STATE).map(PathBuf::from) else { return };
    let folder = state.parent().unwrap();
    let fault = std::fs::read_to_string(folder.join(FAULT)).ok();
    let strikes = |number: usize, when: &str| fault.as_deref() == Some(&format!("{number} {when}"));
    let mut log = File::options().create(true).append(true).open(folder.join(COMMANDS)).unwrap();
    let mut tell = |line: String| log.write_all((line + "\n").as_bytes()).unwrap();
    let mut meter = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut tpm = Swtpm::start(&state).unwrap();
    for number in 1.. {
        let is_idle = || {
            let (sessions, objects) = (loaded(&mut tpm, 0x0200_0000), loaded(&mut tpm, 0x8000_0000));
            tell(format!("idle {sessions} {objects}"));
        };
        let Some(command) = next_command(&mut meter, is_idle) else { return };
        if strikes(number, "before") {
            break;
        }
        let response = tpm.transmit(&command).unwrap();
        tell(format!("{number} {} {}", hex::encode(&command[6..10]), hex::encode(&response[6..10])));
        if strikes(number, "after") {
            break;
        }
        if meter.write_all(&response).is_err() {
            return;
        }
    }
    tpm.power_cut();
    std::fs::remove_file(folder.join(FAULT)).unwrap();
}

/// A folder for the front of the search path, in which `swtpm` is the go-between.
fn put_between(site: &mut Site) {
    let folder = site.scratch.path().join("bin");
    std::fs::create_dir_all(&folder).unwrap();
    let path = std::env::var("PATH").unwrap();
    let this = std::env::current_exe().unwrap();
    let test = format!("{}::goes_between_a_meter_and_its_tpm", module_path!().split_once("::").unwrap().1);
    let script = format!(
        "#!/bin/sh\nexport PATH='{path}'\n[ \"$1\" = --version ] && exec swtpm --version\nfor last; do :; done\n\
         export {STATE}=\"${{last#dir=}}\"\nexec '{}' '{test}' --exact --ignored --nocapture\n",
        this.display()
    );
    let program = folder.join("swtpm");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    site.environment.push(("PATH", format!("{}:{path}", folder.display()).into()));
}

/// The n-th command since the TPM got power, and on which side of it the TPM dies.
type Fault = (usize, &'static str);

/// How many commands a TPM was asked for since it was there.
fn commands_of(folder: &Path) -> usize {
    let log = std::fs::read_to_string(folder.join(COMMANDS)).unwrap();
    log.lines().filter(|line| !line.starts_with("idle")).count()
}

/// So many of all faults, evenly spread, or all of them.
fn sample(commands: std::ops::RangeInclusive<usize>, count: usize) -> VecDeque<Fault> {
    let all: Vec<Fault> = commands.flat_map(|number| [(number, "before"), (number, "after")]).collect();
    if std::env::var_os("GRIDSEAL_SEEDS").is_some() {
        return all.into();
    }
    let seed = std::env::var("GRIDSEAL_FIRST_SEED").ok().and_then(|seed| seed.parse::<usize>().ok());
    let step = all.len().div_ceil(count);
    all.into_iter().skip(seed.unwrap_or(0) % step).step_by(step).collect()
}

/// A meter under way.
struct Cell {
    fault: Fault,
    since: Instant,
    starts: usize,
}

impl Cell {
    /// Whether it has been started anew after its TPM died, and this is the process of that start.
    fn is_reborn(&self, folder: &Path) -> bool {
        self.starts > 1 && !folder.join(FAULT).exists()
    }
}

/// Runs meters with one fault each, some at a time, until each has had a reading confirmed afterwards and is done.
fn run_cells(
    site: &mut Site,
    mut cells: VecDeque<(String, Fault)>,
    is_done: impl Fn(&Site, &str) -> bool,
) -> Vec<String> {
    let mut under_way: BTreeMap<String, Cell> = BTreeMap::new();
    let mut failures = Vec::new();
    while !cells.is_empty() || !under_way.is_empty() {
        while under_way.len() < LANES
            && let Some((serial, fault)) = cells.pop_front()
        {
            let (number, when) = fault;
            std::fs::write(site.factory(&serial).join(FAULT), format!("{number} {when}")).unwrap();
            let name = format!("meter {serial}");
            site.start(&name);
            under_way.insert(name, Cell { fault, since: Instant::now(), starts: 1 });
        }
        let told = site.next(Instant::now() + Duration::from_secs(1));
        if let Some(told) = told
            && let Some(cell) = under_way.get_mut(&told.process)
            && told.id == site.id(&told.process)
        {
            let name = told.process;
            let serial = name.trim_start_matches("meter ");
            let folder = site.factory(serial);
            match told.event.as_str() {
                "ended" => {
                    let status = site.reap(&name);
                    let errors = site.errors(&name);
                    if status.code() != Some(1) || !errors.contains("(root.lost)") || cell.starts > 1 {
                        failures.push(format!("{name}, {:?}: ended with {status}: {errors}", cell.fault));
                    }
                    cell.starts += 1;
                    if cell.starts < 5 {
                        site.start(&name);
                    } else {
                        under_way.remove(&name);
                    }
                }
                "confirmed" if cell.is_reborn(&folder) && is_done(site, serial) => {
                    site.kill(&name);
                    let wrong = check_tpm(&folder.join("tpm"));
                    let fault = cell.fault;
                    failures.extend(wrong.into_iter().map(|what| format!("{name}, {fault:?}: {what}")));
                    under_way.remove(&name);
                }
                _ => {}
            }
        }
        let late = under_way.extract_if(.., |_, cell| cell.since.elapsed() > CELL_WITHIN);
        for (name, cell) in late.collect::<Vec<_>>() {
            let report = site.report(60);
            failures.push(format!("{name}, {:?}: no reading in {CELL_WITHIN:?}: {report}", cell.fault));
            site.kill(&name);
        }
    }
    failures
}

/// Whether a meter left something loaded whenever it asked nothing of its TPM.
fn left_loaded(site: &Site) -> Vec<String> {
    let mut wrong = Vec::new();
    for serial in &site.meters {
        let log = std::fs::read_to_string(site.factory(serial).join(COMMANDS)).unwrap();
        // Two sessions are the owner's, opened with C3 and used with C4.
        let is_too_much = |line: &&str| !["idle 0 0", "idle 2 0"].contains(line);
        wrong.extend(
            log.lines()
                .filter(|line| line.starts_with("idle"))
                .filter(is_too_much)
                .map(|line| format!("{serial} has left sessions and objects loaded: {line}")),
        );
        if log.lines().rfind(|line| line.starts_with("idle")).is_some_and(|line| line != "idle 0 0") {
            wrong.push(format!("{serial} operates with something loaded"));
        }
    }
    wrong
}

fn order_renewal(site: &Site, serial: &str) {
    let config = text(&site.owner("endpoint-manager/config.toml"));
    gridseal_ok(&["device", "renew", "--with-storage", "--config", &config, "--reason", "test", serial]);
}

fn has_no_job(site: &Site, serial: &str) -> bool {
    site.register()[serial]["jobs"] == serde_json::json!([])
}

/// New TLS and storage keys for meters that operate; each TPM dies once meanwhile.
fn renewals(site: &mut Site, reference: &str) -> Vec<String> {
    let name = format!("meter {reference}");
    let folder = site.factory(reference);
    let before = commands_of(&folder);
    order_renewal(site, reference);
    site.start(&name);
    while !has_no_job(site, reference) {
        site.expect("a confirmed reading", |told| told.is(&name, "confirmed"));
    }
    site.kill(&name);
    let commands = commands_of(&folder) - before;
    // A third of them is the start of the TPM, which the onboardings had.
    let faults = sample(commands / 3..=commands, RENEWALS);
    println!("{commands} commands in a renewal, {} faults", faults.len());
    let meters: Vec<String> = site.meters.iter().filter(|serial| *serial != reference).cloned().collect();
    let mut failures = Vec::new();
    for faults in Vec::from(faults).chunks(meters.len()) {
        let cells: VecDeque<_> = meters.iter().cloned().zip(faults.iter().copied()).collect();
        cells.iter().for_each(|(serial, _)| order_renewal(site, serial));
        failures.extend(run_cells(site, cells, has_no_job));
    }
    failures
}

#[test]
fn onboarding_7_6_kill_of_the_tpm_before_and_after_each_of_its_commands_ends_operating() {
    if !has_tpm_emulator() {
        return;
    }
    let plan = |meters| Plan { meters, anchor: "tpm", ..Plan::default() };
    let mut site = Site::new("tpm-kill", plan(SITE_METERS));
    put_between(&mut site);
    site.hurry();
    let first = site.meters[0].clone();
    site.onboard(&first);
    let commands = commands_of(&site.factory(&first));
    site.kill(&format!("meter {first}"));
    let mut faults = sample(1..=commands, SITE_METERS - 1);
    println!("{commands} commands in an onboarding, {} faults", faults.len());
    let mut free: VecDeque<String> = site.meters[1..].iter().cloned().collect();
    let mut failures = Vec::new();
    loop {
        let count = free.len().min(faults.len());
        let cells = free.drain(..count).zip(faults.drain(..count)).collect();
        failures.extend(run_cells(&mut site, cells, |_, _| true));
        // Those of the last site for which no fault was left.
        site.meters.truncate(site.meters.len() - free.len());
        if failures.is_empty() && site.meters.contains(&first) {
            failures.extend(renewals(&mut site, &first));
        }
        failures.extend(left_loaded(&site));
        if failures.is_empty() {
            failures.extend(settled(&site));
        }
        if faults.is_empty() || !failures.is_empty() {
            break;
        }
        site = Site::new("tpm-kill", plan(faults.len().min(SITE_METERS)));
        put_between(&mut site);
        free = site.meters.iter().cloned().collect();
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
