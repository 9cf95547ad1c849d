//! Every attack of the protocol's table (onboarding specification, section 9) against running processes: who refuses it,
//! and with which code, as that party's own record has it.

use std::{collections::BTreeMap, path::Path, process::Command};

use serde_json::Value;

use crate::{
    demo::{Running, object},
    machine::{Scratch, has_tpm_emulator},
};

/// Who stops it and with which code; an empty code where there is nothing to refuse.
const REFUSED: &[(&str, &str, &str)] = &[
    ("A1", "meter", "E_REDIRECT_SIG"),
    ("A2", "meter", "E_REDIRECT_SIG"),
    ("A3", "meter", "E_GRANT"),
    ("A4", "endpoint-manager", "E_UNKNOWN"),
    ("A5", "meter", "E_CONFIG_CHAIN"),
    ("A6", "endpoint-manager", "E_UNKNOWN"),
    ("A7", "endpoint-manager", "E_EK"),
    ("A8", "endpoint-manager", "E_GRANT"),
    ("A9", "meter", "E_NONCE"),
    ("A10", "meter", "E_GRANT"),
    ("A12", "endpoint-manager", "E_CERTIFY"),
    ("A13", "endpoint-manager", "E_AK_ATTR"),
    ("A14", "endpoint-manager", "E_POLICY"),
    ("A15", "meter", "E_EPOCH"),
    ("A16", "endpoint-manager", "E_STATE"),
    ("A17", "tpm", ""),
    ("A19", "meter", "E_SUITE"),
    ("A20", "endpoint-manager", "E_UNKNOWN"),
    ("A21", "keys", ""),
    ("A22", "init-server", "E_FORK"),
    ("A23", "device register", "E_LABEL"),
    ("A24", "endpoint-manager", "E_BUSY"),
    ("A25", "config-server", ""),
    ("A26", "init-server", "E_FORK"),
    ("A27", "meter", "E_CONFIG_CHAIN"),
    ("A28", "meter", "E_COMMAND"),
    ("A29", "endpoint-manager", "E_OWNED"),
    ("A30", "keys", ""),
    ("A31", "endpoint-manager", "E_TPM"),
    ("A32", "endpoint-manager", "E_CERTIFY"),
    ("A33", "meter", "E_ROLLBACK"),
    ("A34", "endpoint-manager", "E_TPM"),
    ("A35", "init-server", ""),
    ("A36", "config-server", "E_FORMAT"),
    ("A37", "meter", "E_ROLLBACK"),
    ("A38", "endpoint-manager", "E_LABEL"),
    ("A39", "meter", "E_TIME"),
    ("A40", "endpoint-manager", "E_STATE"),
];
/// What only a TPM shows.
const REFUSED_WITH_A_TPM: &[(&str, &str, &str)] = &[("A11", "tpm", "TPM_RC 0x1df"), ("A18", "tpm", "")];

/// What an attacker may get who has taken a server over; nothing else (containment).
fn contained(attacks: &BTreeMap<String, Value>) {
    let obtained = |id: &str| -> Vec<String> {
        let list = attacks[id]["obtained"].as_array().unwrap();
        list.iter().map(|thing| thing.as_str().unwrap().to_owned()).collect()
    };
    let starts = |id: &str, with: &[&str]| {
        let things = obtained(id);
        assert_eq!(things.len(), with.len(), "{id}: {things:?}");
        for (thing, start) in things.iter().zip(with) {
            assert!(thing.starts_with(start), "{id}: {thing} in place of {start}");
        }
    };
    starts("A2", &["ek_name 000b", "epoch 0", "public keys", "address", "signed redirect", "voucher"]);
    starts("A8", &["pseudonyms ", "", "address"]);
    starts("A22", &["any device that no owner has registered"]);
    for id in ["A1", "A3", "A9", "A28"] {
        starts(id, &[]);
    }
}

#[test]
fn issue_4_each_attack_is_refused_by_the_party_and_with_the_code_of_the_table() {
    let has_tpm = has_tpm_emulator();
    let scratch = Scratch::new("attacks");
    let evidence = scratch.path().join("evidence");
    let text = evidence.to_string_lossy().into_owned();
    let anchor = if has_tpm { "tpm" } else { "software" };
    let arguments = ["--json", "--meters", "1", "--anchor", anchor, "--attack", "all", "--evidence", &text];
    let (status, out, err) = Running::start(&scratch, &arguments).finish();
    let object = object(&out);
    let attacks: BTreeMap<String, Value> = object["attacks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attack| (attack["id"].as_str().unwrap().to_owned(), attack.clone()))
        .collect();
    assert_eq!(attacks.len(), 40, "{err}");
    let with_tpm = if has_tpm { REFUSED_WITH_A_TPM } else { &[] };
    for (id, by, code) in REFUSED.iter().chain(with_tpm) {
        let attack = &attacks[*id];
        let found = (attack["refused"].as_bool(), attack["by"].as_str(), attack["code"].as_str());
        assert_eq!(found, (Some(true), Some(*by), Some(*code)), "{attack:#}");
        assert!(attack.get("missing").is_none(), "{attack:#}");
    }
    assert_eq!(status.code(), Some(if has_tpm { 0 } else { 1 }));
    contained(&attacks);
    outside(&evidence, attacks.len(), has_tpm);
}

/// The script that reads only the evidence agrees.
fn outside(evidence: &Path, refused: usize, has_tpm: bool) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/attacks_check.py");
    let Ok(output) = Command::new("python3").arg(script).arg(evidence).output() else { return };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if has_tpm {
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(last, format!("{refused} of 40 attacks were refused, and the evidence agrees"), "{said}");
    }
}

#[test]
fn issue_4_an_attack_that_does_not_exist_is_a_usage_error() {
    let scratch = Scratch::new("no-attack");
    let (status, _, err) = Running::start(&scratch, &["--attack", "A41"]).finish();
    assert_eq!(status.code(), Some(2));
    assert!(err.contains("no attack \"A41\"") && err.contains("rogue-init-server"), "{err}");
}
