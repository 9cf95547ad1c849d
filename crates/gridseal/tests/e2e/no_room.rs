//! No room on a disk, at each write in turn: a meter's directory, and each server's, is a small file system that is full.
//! Each time that something cannot be written the process says so with a code; then it gets a few pages, and meets the
//! next write that does not fit. In the end the meter operates, and the next one does without any trouble.
//!
//! The file system is a tmpfs in a mount namespace of the test's own; where the machine forbids that, the test says so.

use std::{
    collections::BTreeMap,
    fs::{File, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    faults::settled,
    site::{Plan, SERVERS, Site, Told, set},
};

/// Set in the environment of the half that runs inside the namespace.
const INSIDE: &str = "GRIDSEAL_E2E_MOUNTS";
/// Room in a file system, bytes: what is there before it is full, and some.
const FILE_SYSTEM_SIZE: u64 = 4 * 1024 * 1024;
/// A file system gives and takes room in pages.
const PAGE_SIZE: u64 = 4_096;
/// Nothing else happens for so long only when something hangs.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// A run that needs more rounds than this makes no way.
const ROUNDS_MAX: usize = 80;
/// Code of a write that did not fit.
const FULL: &str = "store.full";

/// A directory on a file system of its own, with a file that takes all room but for what was given.
struct Small {
    dir: PathBuf,
    filler: File,
    taken: u64,
}

impl Small {
    /// Moves what a directory holds to a file system of its own, which is full then.
    fn mount(dir: &Path) -> Self {
        let aside = dir.with_extension("aside");
        std::fs::rename(dir, &aside).unwrap();
        std::fs::create_dir(dir).unwrap();
        let options = format!("size={FILE_SYSTEM_SIZE},mode=0700");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &dir.to_string_lossy()]);
        run("cp", &["-a", &format!("{}/.", aside.display()), &dir.to_string_lossy()]);
        std::fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
        let mut filler = File::create(dir.join("filler")).unwrap();
        let page = [0x55; PAGE_SIZE as usize];
        let mut taken = 0;
        while filler.write_all(&page).is_ok() {
            taken += PAGE_SIZE;
        }
        filler.set_len(taken).unwrap();
        Self { dir: dir.to_path_buf(), filler, taken }
    }

    /// Gives some pages back, as far as there are any.
    fn give(&mut self, pages: u64) {
        self.taken = self.taken.saturating_sub(pages * PAGE_SIZE);
        self.filler.set_len(self.taken).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
}

/// Which process is short of room.
#[derive(Debug, Clone, Copy)]
struct Victim {
    name: &'static str,
    /// Pages that it gets after each failure.
    step: u64,
    /// Failures that one onboarding must show; 0 for a process that writes nothing it depends on.
    failures_min: usize,
}

const VICTIMS: [Victim; 7] = [
    Victim { name: "meter", step: 1, failures_min: 4 },
    Victim { name: "init-server", step: 3, failures_min: 2 },
    Victim { name: "pki", step: 1, failures_min: 1 },
    Victim { name: "keys", step: 8, failures_min: 4 },
    Victim { name: "config-server", step: 1, failures_min: 0 },
    Victim { name: "headend", step: 1, failures_min: 1 },
    Victim { name: "endpoint-manager", step: 4, failures_min: 4 },
];

/// Starts again what has ended. It must have said that it has no room.
fn again(site: &mut Site, name: &str, said: &mut BTreeMap<String, usize>) -> Result<(), String> {
    site.reap(name);
    let errors = site.errors(name);
    let before = said.insert(name.to_owned(), errors.len()).unwrap_or(0);
    let new = &errors[before..];
    if !new.contains(FULL) {
        return Err(format!("{name} ended without the code: {new}"));
    }
    site.start(name);
    Ok(())
}

/// One onboarding in which each write of the victim that does not fit fails once.
fn starve(site: &mut Site, victim: &str, small: &mut Small, step: u64) -> Result<usize, String> {
    let meter = format!("meter {}", site.meters[0]);
    let mut said = BTreeMap::new();
    let mut failures = 0;
    site.start(&meter);
    let mut since = Instant::now();
    loop {
        let Some(told) = site.next(since + SILENCE_MAX) else {
            return Err(format!("nothing goes on after {failures} failures: {}", site.report(60)));
        };
        // What an earlier process of that name still had to tell says nothing.
        let is_current = told.process == victim && told.id == site.id(victim);
        let Told { process, event, .. } = &told;
        if process == victim && !is_current {
            continue;
        }
        if is_current && event == "ended" {
            again(site, victim, &mut said)?;
        } else if event == "ended" {
            return Err(format!("{process} ended: {}", site.report(60)));
        } else if is_current && told.field("code") == FULL {
            // It says so and serves on.
        } else if told.is(&meter, "confirmed") {
            return Ok(failures);
        } else {
            continue;
        }
        since = Instant::now();
        failures += 1;
        small.give(step);
        if failures > ROUNDS_MAX {
            return Err(format!("no end after {failures} failures: {}", site.report(60)));
        }
    }
}

fn row(victim: Victim) -> Vec<String> {
    let Victim { name, step, failures_min } = victim;
    let plan = Plan { meters: 2, ..Plan::default() };
    // The init server writes when a device is registered with it.
    let is_init = name == "init-server";
    let mut site =
        if is_init { Site::shipped("no-room", plan) } else { Site::new(&format!("no-room-{name}"), plan) };
    // Sessions begin again and again until there is room.
    set(&site.owner("endpoint-manager/config.toml"), "hellos_per_hour", "100000");
    if !is_init {
        site.hurry();
    }
    let [first, second] = [0, 1].map(|at: usize| site.meters[at].clone());
    let process = if name == "meter" { format!("meter {first}") } else { name.to_owned() };
    let dir = match name {
        "meter" => site.factory(&first),
        "init-server" => site.factory(name),
        _ => site.owner(name),
    };
    if name != "meter" {
        site.kill(name);
    }
    let mut small = Small::mount(&dir);
    if name != "meter" {
        site.start(name);
    }
    if is_init {
        site.register_shipment();
        site.start("endpoint-manager");
    }
    let failures = match starve(&mut site, &process, &mut small, step) {
        Ok(failures) => failures,
        Err(why) => return vec![format!("{name}: {why}")],
    };
    println!("{name}: {failures} writes failed");
    let mut wrong = Vec::new();
    if failures < failures_min || (failures_min == 0) != (failures == 0) {
        wrong.push(format!("{name}: {failures} writes failed, at least {failures_min} should"));
    }
    small.give(u64::MAX / PAGE_SIZE);
    site.onboard(&second);
    for server in SERVERS {
        if !site.is_running(server) {
            wrong.push(format!("{name}: {server} has ended: {}", site.report(40)));
        }
    }
    wrong.extend(settled(&site).into_iter().map(|what| format!("{name}: {what}")));
    wrong
}

#[test]
#[ignore = "run by the test below in a mount namespace of its own"]
fn inside_a_mount_namespace() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let failures: Vec<String> = std::thread::scope(|scope| {
        let rows: Vec<_> = VICTIMS.iter().map(|victim| scope.spawn(|| row(*victim))).collect();
        rows.into_iter()
            .flat_map(|row| row.join().unwrap_or_else(|_| vec!["a row has panicked".into()]))
            .collect()
    });
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// How a mount namespace of our own is had here, if at all: as root, or as root of a user namespace.
fn namespace() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] = [&["-m"], &["-Urm"]];
    ways.into_iter().find(|way| {
        let mut mount = Command::new("unshare");
        mount.args(*way).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]);
        let tried = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    })
}

#[test]
fn s11_no_room_at_each_write_is_a_code_and_leaves_nothing_half_done() {
    let Some(way) = namespace() else {
        println!("NOT PROVEN: this machine gives no mount namespace, so no disk was full");
        return;
    };
    let test = format!("{}::inside_a_mount_namespace", module_path!().split_once("::").unwrap().1);
    let output = Command::new("unshare")
        .args(way)
        .arg(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "see above");
}
