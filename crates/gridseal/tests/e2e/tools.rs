//! Commands that need no service, as a person runs them.

use serde_json::Value;
use toml::Table;

use crate::machine::{Scratch, gridseal, gridseal_ok};

const VENDING: &str = "abababababababab949494949494949401234567";

fn vectors(path: &str) -> Table {
    let path = format!("{}/../../tests/vectors/{path}.toml", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).unwrap().parse().unwrap()
}

fn text(case: &Table, name: &str) -> String {
    match &case[name] {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// IIN and DRN of a PAN.
fn meter(case: &Table) -> [String; 4] {
    let pan = text(case, "pan");
    let iin = if pan.starts_with("0000") { 4 } else { 6 };
    ["--iin".into(), pan[..iin].into(), "--drn".into(), pan[iin..17].into()]
}

/// What the key of a vector is made from.
fn key_arguments(case: &Table) -> Vec<String> {
    let legacy = case.contains_key("dkga");
    let mut arguments: Vec<String> = ["--json", "--no-drn-check", "--vending-key"].map(Into::into).to_vec();
    arguments.push(if legacy { "abababababababab" } else { VENDING }.into());
    arguments.extend(["--dkga".into(), if legacy { "02" } else { "04" }.into()]);
    arguments.extend(["--ea".into(), format!("{:0>2}", text(case, "ea"))]);
    arguments.extend(meter(case));
    let sgc = if case.contains_key("sgc") { text(case, "sgc") } else { "201457".into() };
    arguments.extend(["--sgc".into(), sgc]);
    for (name, flag) in [("krn", "--krn"), ("ti", "--ti"), ("base", "--base-date")] {
        if case.contains_key(name) {
            arguments.extend([flag.into(), text(case, name)]);
        }
    }
    arguments
}

fn json(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

#[test]
fn published_tokens_are_issued_and_decoded_by_the_commands() {
    let file = vectors("sts/tokens");
    for case in file["case"].as_array().unwrap().iter().map(|case| case.as_table().unwrap()) {
        let class = text(case, "class");
        let (class, subclass) = class.split_once('.').unwrap();
        let mut arguments: Vec<String> = vec!["sts".into(), "issue".into()];
        let expected = text(case, "token");
        if class == "1" {
            arguments.extend(["--json", "--class", class, "--subclass", subclass].map(Into::into));
            arguments.extend(["--control".into(), text(case, "control")]);
            assert_eq!(json(&gridseal_ok(&arguments))["token"], expected.as_str(), "{case}");
            continue;
        }
        let time = text(case, "time").replacen(' ', "T", 1) + ":00Z";
        arguments.extend(key_arguments(case));
        arguments.extend(
            ["--class", class, "--subclass", subclass, "--rnd", "5", "--danger-show-keys"].map(Into::into),
        );
        arguments.extend(["--time".into(), time, format!("--value={}", text(case, "value"))]);
        let told = json(&gridseal_ok(&arguments));
        assert_eq!(told["token"], expected.as_str(), "{case}");
        let key = told["decoder_key"].as_str().unwrap();
        let ea = format!("{:0>2}", text(case, "ea"));
        let read = json(&gridseal_ok(&["decode", "sts", "--key", key, "--ea", &ea, &expected]));
        assert_eq!((&read["ok"], &read["crc_ok"]), (&Value::Bool(true), &Value::Bool(true)));
        assert_eq!(read["subclass"].to_string(), subclass);
        let without: Vec<String> = arguments.into_iter().filter(|it| it != "--danger-show-keys").collect();
        assert_eq!(
            json(&gridseal_ok(&without)),
            serde_json::json!({ "token": expected }),
            "no key, nothing else"
        );
        let wrong =
            gridseal(&["decode", "sts", "--key", &"00".repeat(key.len() / 2), "--ea", &ea, &expected]);
        assert_eq!(wrong.status.code(), Some(2));
    }
    for case in file["key_change"].as_array().unwrap().iter().map(|case| case.as_table().unwrap()) {
        let mut arguments: Vec<String> = vec!["sts".into(), "key-change".into()];
        arguments.extend(key_arguments(case));
        for (name, flag) in [("to_ti", "--to-ti"), ("to_krn", "--to-krn"), ("to_sgc", "--to-sgc")] {
            if case.contains_key(name) {
                arguments.extend([flag.into(), text(case, name)]);
            }
        }
        if case.contains_key("triplet") {
            arguments.push("--triplet".into());
        }
        let tokens: Vec<String> = json(&gridseal_ok(&arguments))["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| token.as_str().unwrap().to_owned())
            .collect();
        let expected: Vec<&str> =
            case["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
        assert_eq!(tokens, expected, "{case}");
    }
}

/// Arguments of a token that is issued; each bad input changes one of them.
const GOOD: [(&str, &str); 11] = [
    ("--vending-key", VENDING),
    ("--dkga", "04"),
    ("--ea", "07"),
    ("--iin", "600727"),
    ("--drn", "00000000000"),
    ("--sgc", "201457"),
    ("--class", "0"),
    ("--subclass", "0"),
    ("--value", "1"),
    ("--time", "2026-11-25T12:00:00Z"),
    ("--rnd", "5"),
];

fn issued_with(changes: &[(&str, &str)]) -> std::process::Output {
    let mut values: std::collections::BTreeMap<&str, &str> = GOOD.into();
    values.extend(changes.iter().copied());
    let arguments = values.into_iter().map(|(name, value)| format!("{name}={value}"));
    let head = ["sts", "issue", "--json"].map(String::from);
    gridseal(&head.into_iter().chain(arguments).collect::<Vec<_>>())
}

#[test]
fn bad_input_to_the_token_commands_is_refused_by_exit_2_and_shows_no_key() {
    assert_eq!(issued_with(&[]).status.code(), Some(0));
    let slip = &VENDING[1..];
    let bad: [&[(&str, &str)]; 33] = [
        &[("--value", "-1")],
        &[("--value", "18201625")],
        &[("--value", "1.5")],
        &[("--time", "2013-12-31T23:59:00Z")],
        &[("--time", "2045-11-24T20:16:00Z")],
        &[("--time", "2026-11-25")],
        &[("--rnd", "16")],
        &[("--class", "3")],
        &[("--subclass", "8")],
        &[("--subclass", "16")],
        &[("--iin", "60072")],
        &[("--iin", "0000")],
        &[("--drn", "00000000001")],
        &[("--drn", "0000000000000")],
        &[("--ea", "09")],
        &[("--dkga", "01")],
        &[("--dkga", "03")],
        &[("--dkga", "02")],
        &[("--key-type", "0")],
        &[("--key-type", "1")],
        &[("--key-type", "3")],
        &[("--key-type", "4")],
        &[("--sgc", "1000000")],
        &[("--ti", "100")],
        &[("--krn", "0")],
        &[("--ken", "102")],
        &[("--base-date", "1993")],
        &[("--base-date", "2035")],
        &[("--vending-key", slip)],
        &[("--vending-key", "zz")],
        &[("--class", "2"), ("--subclass", "1"), ("--value", "9")],
        &[("--class", "2"), ("--subclass", "3")],
        &[("--class", "1"), ("--control", "0x1000000000")],
    ];
    for changes in bad {
        let refused = issued_with(changes);
        assert_eq!(refused.status.code(), Some(2), "{changes:?}");
        let told = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.stdout.is_empty() && told.starts_with("error: "), "{changes:?}: {told}");
        assert!(!told.contains(&VENDING[..16]) && !told.contains(&slip[..16]), "{changes:?} shows a key");
    }
}

#[test]
fn each_changed_digit_of_a_token_is_refused_by_decode_with_the_reason() {
    let token = "70630503470028726114";
    let mut arguments: Vec<String> =
        ["decode", "sts", "--key", "87f3ecbb2e46b48f", "--ea", "07"].map(Into::into).to_vec();
    for place in 0..20 {
        for digit in ('0'..='9').filter(|digit| !token[place..].starts_with(*digit)) {
            arguments.push(format!("{}{digit}{}", &token[..place], &token[place + 1..]));
        }
    }
    let refused = gridseal(&arguments);
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8(refused.stdout).unwrap();
    assert_eq!(told.lines().count(), 180);
    for line in told.lines().map(json) {
        assert_eq!(line["ok"], false, "{line}");
        let code = line["error"]["code"].as_str().unwrap();
        assert!(["sts.crc", "sts.format", "sts.not_supported"].contains(&code), "{line}");
    }
}

#[test]
fn a_simulated_eviction_leaves_evidence_that_an_outside_program_accepts_and_a_planted_fault_fails() {
    let scratch = Scratch::new("group");
    let dir = scratch.path().to_str().unwrap();
    let run = ["sim", "group", "--members", "600", "--evict", "40", "--json", "--evidence", dir];
    let told = json(&gridseal_ok(&run));
    assert_eq!((told["recovered"].as_u64(), told["evicted_recovered"].as_u64()), (Some(560), Some(0)));
    assert_eq!(told["coalition_recovered"], false);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop/group_check.py");
    let checked = std::process::Command::new("python3").args([script, dir]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let checked = json(&String::from_utf8(checked.stdout).unwrap());
    assert_eq!((checked["failed"].as_u64(), checked["coalition_opened"].as_u64()), (Some(0), Some(0)));
    let fault =
        gridseal(&["sim", "group", "--members", "600", "--evict", "40", "--danger-forget-unassigned"]);
    assert_eq!(fault.status.code(), Some(1));
    assert_eq!(gridseal(&["sim", "group", "--members", "5", "--evict", "6"]).status.code(), Some(2));
}

#[test]
fn a_simulation_whose_report_cannot_be_written_fails_and_says_so() {
    for run in [&["sim", "keys", "--schedules", "1"][..], &["sim", "group", "--members", "5", "--evict", "1"]]
    {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_gridseal"));
        let output = command.args(run).arg("--json").stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{run:?}: {said}");
        assert!(said.contains("cannot write the answer"), "{run:?}: {said}");
    }
}

/// A Python that has the packages which the reference of the onboarding protocol needs; `scripts/packages.sh test`
/// sees to it that there is one.
pub(crate) fn python_with_cryptography() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let mut command = std::process::Command::new(python);
        let output = command.args(["-c", "import cryptography"]).output();
        output.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn issue_4_the_onboarding_vectors_agree_with_what_was_written_from_the_document_alone() {
    let Some(python) = python_with_cryptography() else {
        eprintln!("skipped: no Python with the package cryptography (scripts/packages.sh test)");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop/onboarding_reference.py");
    let output = std::process::Command::new(python).args(["-B", script, "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let told = json(&said);
    assert_eq!(told["failed"].as_u64(), Some(0));
    assert!(told["checks"].as_u64() > Some(15_000), "{told}");
}

#[test]
fn sml_is_decoded_and_encoded_byte_for_byte() {
    let scratch = Scratch::new("sml");
    let path = scratch.path().join("capture.hex");
    let input = text(&vectors("sml/emh-ehz361"), "input");
    std::fs::write(&path, &input).unwrap();
    let decoded = gridseal_ok(&["decode", "sml", path.to_str().unwrap()]);
    let told = json(&decoded);
    assert_eq!((&told["ok"], &told["authenticated"]), (&Value::Bool(true), &Value::String("none".into())));
    assert_eq!(told["entries"][2]["value"].to_string(), "110340315.1");
    let program = env!("CARGO_BIN_EXE_gridseal");
    let mut encoder = std::process::Command::new(program)
        .args(["encode", "sml"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(encoder.stdin.as_mut().unwrap(), decoded.as_bytes()).unwrap();
    let encoded = encoder.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(encoded.stdout).unwrap().trim(), input);
    std::fs::write(&path, text(&vectors("sml/emh-ehz361-changed-value"), "input")).unwrap();
    assert_eq!(gridseal(&["decode", "sml", path.to_str().unwrap()]).status.code(), Some(2));
    std::fs::write(&path, "1B1B1B1B0").unwrap();
    let odd = gridseal(&["decode", "sml", path.to_str().unwrap()]);
    assert_eq!(odd.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&odd.stdout).contains("\"lmn.hex\""), "{odd:?}");
}
