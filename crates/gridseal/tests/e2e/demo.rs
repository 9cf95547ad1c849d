//! `gridseal demo`: what its exit code, its object and its traces promise.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::machine::{
    GRIDSEAL, Scratch, eventually, gridseal, gridseal_ok, has_tpm_emulator, names_in, processes_of, signal,
};
use crate::tools::python_with_cryptography;

/// How long a stop, asked for or not, may take to reach every process.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// A demo in its own process group, with nothing but `scratch` to write to.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(scratch: &Scratch, arguments: &[&str]) -> Self {
        let (temporary, home) = (scratch.path().join("tmp"), scratch.path().join("home"));
        std::fs::create_dir_all(&temporary).unwrap();
        std::fs::create_dir_all(&home).unwrap();
        let child = Command::new(GRIDSEAL)
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", &temporary)
            .env("HOME", &home)
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        Self(child)
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    /// Reads on until a line contains a text.
    fn read_until(&mut self, text: &str) {
        let output = self.0.stdout.as_mut().unwrap();
        let mut seen = String::new();
        for line in BufReader::new(output).lines() {
            let line = line.unwrap();
            if line.contains(text) {
                return;
            }
            seen += &(line + "\n");
        }
        panic!("the demo never said {text:?}:\n{seen}");
    }

    pub(crate) fn finish(mut self) -> (std::process::ExitStatus, String, String) {
        use std::io::Read;
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.0.wait().unwrap(), out, err)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Everything the demo starts ends with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last line, which is the object.
pub(crate) fn object(output: &str) -> Value {
    serde_json::from_str(output.lines().last().expect("an object")).expect("JSON")
}

#[test]
fn issue_2_demo_json_exits_0_with_anchor_tpm_and_whole_evidence() {
    let anchor = if has_tpm_emulator() { "tpm" } else { "software" };
    let scratch = Scratch::new("demo");
    let evidence = scratch.path().join("evidence");
    let text = evidence.to_string_lossy().into_owned();
    let demo = Running::start(&scratch, &["--json", "--for", "8", "--evidence", &text]);
    let (status, out, err) = demo.finish();
    assert!(status.success(), "{out}\n{err}");

    let object = object(&out);
    assert_eq!(object["anchor"], anchor);
    assert_eq!(object["meters"], 3);
    assert_eq!(object["onboarded"], 3);
    assert_eq!(object["attacks"], serde_json::json!([]));
    assert!(object["readings_stored"].as_u64().unwrap() >= 3, "{object}");
    assert!(object["seconds_to_first_reading"].as_f64().unwrap() > 0.0, "{object}");
    assert_eq!(object["ok"], true);
    // Rule S4: no key of the run in the head-end, and each planted one found there.
    let search = &object["key_search"];
    assert_eq!((&search["found"], &search["planted_found"]), (&0.into(), &search["planted"]), "{search}");
    assert_eq!((&search["planted"], &search["roles"]), (&14.into(), &14.into()), "{search}");

    // Nothing is left running, nothing was written but the evidence.
    assert_eq!(processes_of(scratch.path()), []);
    assert_eq!(names_in(scratch.path()), BTreeSet::from(["evidence", "home", "tmp"].map(String::from)));
    assert_eq!(names_in(&scratch.path().join("tmp")), BTreeSet::new());
    assert_eq!(names_in(&scratch.path().join("home")), BTreeSet::new());
    evidence_is_whole(&evidence, &object, anchor == "tpm");
    a_decoder_of_its_own_agrees(&evidence, anchor == "tpm");
}

//= design section 3: a rotation, a theft, a resale and an end
#[test]
fn issue_5_the_demo_shows_the_rest_of_a_life_too() {
    let scratch = Scratch::new("demo-life");
    // As many meters as come later: the manufacturer's log goes on, it does not begin again.
    let demo = Running::start(&scratch, &["--json", "--for", "70", "--anchor", "software", "--meters", "3"]);
    let (status, out, err) = demo.finish();
    assert!(status.success(), "{out}\n{err}");
    let object = object(&out);
    for shown in ["rotated", "suspended", "resold", "decommissioned"] {
        assert_eq!(object[shown], 1, "{shown}: {object}");
    }
}

/// The script that shares no code with Gridseal reads the run, and finds what is changed in it.
fn a_decoder_of_its_own_agrees(evidence: &Path, has_tpm: bool) {
    let (Some(python), true) = (python_with_cryptography(), has_tpm) else {
        eprintln!("skipped: no TPM emulator, or no Python with the package cryptography");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop/gso_decode.py");
    let mut command = Command::new(python);
    command.args(["-B", script, "--no-venv", "--self-test", "--every", "101"]).arg(evidence);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("checks hold") && said.ends_with("changes, all found\n"), "{said}");
}

fn evidence_is_whole(evidence: &Path, object: &Value, has_tpm: bool) {
    for log in ["owner/keys/keys.db", "owner/endpoint-manager/register.db", "factory/init-server/init.db"] {
        let path = evidence.join(log);
        let output = gridseal(&["audit", "--json", "--db", &path.to_string_lossy()]);
        assert!(output.status.success(), "{log}: {}", String::from_utf8_lossy(&output.stderr));
        let name = Path::new(log).parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let copied = std::fs::read_to_string(evidence.join(format!("audit-{name}.jsonl"))).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), copied.trim(), "{log}");
        assert!(!copied.trim().is_empty(), "{log} has no entry");
    }

    // Every value shown beside a sealed frame is one that the head-end stored, and the other way round.
    let stored = gridseal_ok(&[
        "readings",
        "--json",
        "--limit",
        "100000",
        "--dir",
        &evidence.join("owner/headend").to_string_lossy(),
    ]);
    let row = |line: &str| {
        let json: Value = serde_json::from_str(line).unwrap();
        ["meter", "start", "obis", "value", "unit"].map(|name| json[name].to_string())
    };
    let stored: BTreeSet<_> = stored.lines().map(row).collect();
    let frames = std::fs::read_to_string(evidence.join("frames.jsonl")).unwrap();
    let shown: BTreeSet<_> = frames.lines().map(row).collect();
    assert_eq!(stored.len() as u64, object["readings_stored"].as_u64().unwrap());
    assert_eq!(shown, stored, "every value beside the frame it came in, and no other");
    frames_are_their_readings(&frames);

    // Each process's records, and the TPM's state.
    let events = std::fs::read_to_string(evidence.join("events.jsonl")).unwrap();
    let processes: BTreeSet<String> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["process"].as_str().unwrap().to_owned())
        .collect();
    for name in ["init-server", "config-server", "endpoint-manager", "pki", "keys", "headend"] {
        assert!(processes.contains(name), "no event of {name}: {processes:?}");
    }
    assert_eq!(processes.iter().filter(|name| name.starts_with("meter ")).count(), 3);
    let states = std::fs::read_dir(evidence.join("factory")).unwrap().filter_map(Result::ok);
    let states = states.filter(|entry| {
        let root = if has_tpm { "tpm/tpm2-00.permall" } else { "tpm/root.cbor" };
        entry.path().join(root).is_file()
    });
    assert_eq!(states.count(), 3, "one root's state for each meter");
}

/// A frame names its meter in clear; one frame brings the values of one interval, and no counter serves two.
fn frames_are_their_readings(frames: &str) {
    let mut seen = BTreeMap::new();
    for line in frames.lines() {
        let json: Value = serde_json::from_str(line).unwrap();
        let (sealed, meter) = (json["sealed"].as_str().unwrap(), json["meter"].as_str().unwrap());
        // DB, length, system title, length, security control, counter.
        assert_eq!((&sealed[..4], &sealed[4..20]), ("db08", meter), "{line}");
        let counter = sealed[24..32].to_owned();
        let interval = (sealed.to_owned(), json["start"].to_string());
        assert_eq!(seen.entry((meter.to_owned(), counter)).or_insert(interval.clone()), &interval, "rule S1");
    }
}

#[test]
fn issue_2_demo_with_the_software_anchor_says_so() {
    let scratch = Scratch::new("software");
    let demo = Running::start(&scratch, &["--json", "--for", "5", "--meters", "2", "--anchor", "software"]);
    let (status, out, err) = demo.finish();
    assert!(status.success(), "{out}\n{err}");
    let object = object(&out);
    assert_eq!((&object["anchor"], &object["onboarded"]), (&"software".into(), &2.into()));
}

#[test]
fn issue_2_ctrl_c_leaves_no_process_and_no_file() {
    let anchor = if has_tpm_emulator() { "tpm" } else { "software" };
    // As a shell does it, to the whole group; and as `kill` does it, to the demo alone.
    for to_group in [true, false] {
        let scratch = Scratch::new("interrupt");
        let mut demo = Running::start(&scratch, &["--meters", "2", "--anchor", anchor]);
        demo.read_until("reading  ");
        let running = processes_of(scratch.path());
        assert!(running.len() >= 8, "the search for processes sees them: {running:?}");
        signal("INT", &if to_group { format!("-{}", demo.id()) } else { demo.id().to_string() });
        let (status, out, err) = demo.finish();
        assert_eq!(processes_of(scratch.path()), [], "to the group: {to_group}");
        assert!(names_in(&scratch.path().join("tmp")).is_empty(), "the directory stays");
        assert!(names_in(&scratch.path().join("home")).is_empty());
        assert!(status.code().is_some(), "ended by itself: {status}");
        assert!(out.contains("onboarded, anchor"), "to the group: {to_group}; no summary:\n{out}\n{err}");
    }
}

#[test]
fn issue_2_a_killed_demo_leaves_no_process() {
    let anchor = if has_tpm_emulator() { "tpm" } else { "software" };
    let scratch = Scratch::new("killed");
    let mut demo = Running::start(&scratch, &["--meters", "2", "--anchor", anchor]);
    demo.read_until("reading  ");
    assert!(processes_of(scratch.path()).len() >= 8);
    signal("KILL", &demo.id().to_string());
    assert!(
        eventually(STOP_WITHIN, || processes_of(scratch.path()).is_empty()),
        "left running: {:?}",
        processes_of(scratch.path())
    );
}

#[test]
fn issue_2_a_directory_in_use_is_refused_and_left_alone() {
    let scratch = Scratch::new("used");
    let used = scratch.path().join("used");
    std::fs::create_dir(&used).unwrap();
    std::fs::write(used.join("letter.txt"), "mine").unwrap();
    let demo = Running::start(&scratch, &["--json", "--for", "1", "--dir", &used.to_string_lossy()]);
    let (status, _, err) = demo.finish();
    assert_eq!(status.code(), Some(1));
    assert!(err.contains("is not empty"), "{err}");
    assert_eq!(std::fs::read_to_string(used.join("letter.txt")).unwrap(), "mine");
    assert_eq!(names_in(&used).len(), 1);
}
