//! What the tests ask of the machine: scratch directories, processes by id, what they hold.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// The program under test.
pub(crate) const GRIDSEAL: &str = env!("CARGO_BIN_EXE_gridseal");

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A number that no other call in this process has got.
pub(crate) fn unique() -> u32 {
    COUNTER.fetch_add(1, Ordering::Relaxed)
}

/// A directory that goes with its owner.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(what: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("gridseal-e2e-{what}-{}-{}", std::process::id(), unique()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Names in a directory.
pub(crate) fn names_in(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

/// Runs the program to its end.
pub(crate) fn gridseal<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    Command::new(GRIDSEAL).args(arguments).stdin(Stdio::null()).output().expect("gridseal starts")
}

/// Runs the program to its end, which must be a good one; its standard output.
pub(crate) fn gridseal_ok<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> String {
    let output = gridseal(arguments);
    let shown: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
    assert!(output.status.success(), "{}: {}", shown.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Sends a signal to a process, or with a minus before the id to its group.
pub(crate) fn signal(name: &str, target: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), "--", target]).status().unwrap();
    assert!(status.success(), "kill -{name} {target}");
}

/// Processes whose command line names a path, as (id, command line).
pub(crate) fn processes_of(path: &Path) -> Vec<(u32, String)> {
    let wanted = path.to_string_lossy();
    let mut found = Vec::new();
    for (id, dir) in processes() {
        let Ok(line) = std::fs::read(dir.join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&*wanted) {
            found.push((id, line));
        }
    }
    found
}

/// Children of a process.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let is_child = |dir: &Path| {
        let stat = std::fs::read_to_string(dir.join("stat")).unwrap_or_default();
        // After the name, which may hold anything: state, parent.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        rest.split_whitespace().nth(1).and_then(|id| id.parse().ok()) == Some(parent)
    };
    processes().into_iter().filter(|(_, dir)| is_child(dir)).map(|(id, _)| id).collect()
}

fn processes() -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))).collect()
}

/// Whether a process is there and no zombie.
pub(crate) fn is_alive(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    !matches!(rest.split_whitespace().next(), None | Some("Z" | "X"))
}

/// Waits until something is so: for what gives no event, as the end of a process that is not our child.
pub(crate) fn eventually(within: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + within;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether there is a TPM emulator. In CI one must be there: a proof that was skipped is none.
pub(crate) fn has_tpm_emulator() -> bool {
    let has = gridseal_io::tpm::swtpm_available();
    let is_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
    assert!(has || !is_ci, "swtpm is not installed: nothing about TPMs is proven (apt-get install swtpm)");
    if !has {
        println!("NOT PROVEN: swtpm is not installed, so the part with a TPM did not run");
    }
    has
}
