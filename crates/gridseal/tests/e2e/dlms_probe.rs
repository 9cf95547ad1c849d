//! `gridseal dlms probe` as a process: on our own meter in every suite, on the weak one, on nobody.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
};

use serde_json::Value;

const LAB: &str = r#"danger_test_keys = true
client_sap = 25
max_pdu = 512
[client]
system_title = "4D4D4D0000000001"
invocation_counter = 100
[server]
system_title = "4D4D4D0000BC614E"
invocation_counter = 5000
[keys]
guek = "8A1F00C3D4427E9155B06D2E93F7A81C"
gak = "5B3E91A7C0D2446F8817E3509ABD62F1"
secret = "v3ry-l0ng-and-random"
[[association]]
sap = 16
role = "public"
"#;

/// A meter process; stopped when dropped.
struct Meter {
    child: Child,
    address: String,
}

impl Meter {
    fn start(arguments: &[&str], lab: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gridseal"))
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--lab"])
            .arg(lab)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening ").expect(&line).to_owned();
        Self { child, address }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lab(name: &str, text: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("gridseal-probe-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("lab.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn probe(address: &str, lab: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gridseal"))
        .args(["dlms", "probe", "--connect", address, "--lab"])
        .arg(lab)
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Nothing is found on our own meter, and every check that its set-up allows was made.
fn is_in_order(name: &str, text: &str, arguments: &[&str]) {
    let path = lab(name, text);
    let meter = Meter::start(&[&["meter", "serve"], arguments].concat(), &path);
    let transport =
        if arguments.contains(&"--hdlc-tcp") { &["--hdlc-tcp"][..] } else { &["--danger-malformed"] };
    let output =
        probe(&meter.address, &path, &[&["--json", "--danger-write", "--timeout", "20"], transport].concat());
    let report = json(&output);
    assert_eq!(report["findings"], serde_json::json!([]), "{name}");
    assert_eq!((report["grade"].as_str(), output.status.code()), (Some("A"), Some(0)));
    let untried: Vec<&str> = report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["verdict"] == "untried")
        .map(|check| check["id"].as_str().unwrap())
        .collect();
    let expected: &[&str] = if arguments.is_empty() { &[] } else { &["malformed-kills"] };
    assert_eq!(untried, expected, "{name}");
}

#[test]
fn our_own_meter_has_no_finding_in_suite_0() {
    is_in_order("suite-0", LAB, &[]);
}

#[test]
fn our_own_meter_has_no_finding_in_suite_1() {
    is_in_order("suite-1", &LAB.replace("max_pdu", "suite = 1\nmax_pdu"), &[]);
}

#[test]
fn our_own_meter_has_no_finding_in_suite_2() {
    let long = |key: &str| format!("{key}{}", "C3D1E7029A5588F04B6612AD30EE917F");
    let text = LAB
        .replace("max_pdu", "suite = 2\nmax_pdu")
        .replace("8A1F00C3D4427E9155B06D2E93F7A81C", &long("8A1F00C3D4427E9155B06D2E93F7A81C"))
        .replace("5B3E91A7C0D2446F8817E3509ABD62F1", &long("5B3E91A7C0D2446F8817E3509ABD62F1"));
    is_in_order("suite-2", &text, &[]);
}

#[test]
fn our_own_meter_has_no_finding_over_hdlc() {
    is_in_order("hdlc", LAB, &["--hdlc-tcp"]);
}

#[test]
fn a_finding_is_exit_1_from_the_threshold_on_and_the_page_is_written() {
    let path = lab("weak", LAB);
    let meter = Meter::start(&["sim", "weak-meter", "--weakness", "tag-unchecked"], &path);
    let page = path.with_file_name("report.html");
    let arguments = ["--html", page.to_str().unwrap(), "--counter-file"];
    let counters = path.with_file_name("counters");
    let _ = std::fs::remove_file(&counters);
    let arguments = [&arguments[..], &[counters.to_str().unwrap()]].concat();
    let output = probe(&meter.address, &path, &arguments);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("grade F") && text.contains("tag-unchecked") && !text.contains('\u{1b}'), "{text}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("tag-unchecked"));
    // The counter file goes on where the first probe ended: nothing to be diagnosed.
    let report = json(&probe(&meter.address, &path, &[&["--json"], &arguments[2..]].concat()));
    assert_eq!((report["associated"].as_bool(), &report["diagnosis"]), (Some(true), &Value::Null));
    let weak = lab("low", LAB);
    let meter = Meter::start(&["sim", "weak-meter", "--weakness", "no-security-log"], &weak);
    assert_eq!(probe(&meter.address, &weak, &["--threshold", "medium"]).status.code(), Some(0));
}

#[test]
fn wrong_usage_is_exit_2_and_nobody_there_exit_3() {
    let bad = lab("bad", &LAB.replace("guek", "gukek"));
    let output = probe("127.0.0.1:1", &bad, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("lab-unknown-field"));
    let good = lab("nobody", LAB);
    assert_eq!(probe("127.0.0.1:1", &good, &["--threshold", "huge"]).status.code(), Some(2));
    let output = probe("127.0.0.1:1", &good, &["--json"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (&json(&output)["diagnosis"]["cause"], &json(&output)["grade"]),
        (&"connection".into(), &Value::Null)
    );
    // Whoever closes at once is no meter either.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().for_each(drop));
    let output = probe(&address, &good, &["--json", "--timeout", "1"]);
    assert_eq!((output.status.code(), &json(&output)["diagnosis"]["cause"]), (Some(3), &"transport".into()));
}
