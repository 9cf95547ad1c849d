//! What a meter's TPM may be and what it has measured, through real processes.

use std::collections::BTreeMap;

use crate::{
    machine::has_tpm_emulator,
    site::{Plan, Site},
};

/// Credential, salts and the challenge of the init server go to an RSA key; the meter ends operating for its owner.
#[test]
fn a_meter_with_an_rsa_endorsement_key_finds_its_owner() {
    if !has_tpm_emulator() {
        return;
    }
    let mut site = Site::new("rsa", Plan { anchor: "tpm", endorsement: "rsa-2048", ..Plan::default() });
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    let entry = site.register()[&serial].clone();
    assert_eq!(entry["state"], "operating");
    assert_eq!((entry["assurance"].as_str(), entry["software"].as_str()), (Some("manifest"), Some("pass")));
}

/// The policy of the demo wants nothing measured: a list that nobody asked for, and nobody can judge, is refused.
#[test]
fn a_meter_that_hands_over_a_list_without_a_rule_for_it_is_held_with_the_reason() {
    let mut site = Site::new("unasked-list", Plan::default());
    let serial = site.meters[0].clone();
    let dir = site.factory(&serial);
    let line = format!("10 {} ima-ng sha256:{} /bin/a\n", "11".repeat(20), "22".repeat(32));
    std::fs::write(dir.join("list"), line).unwrap();
    let firmware = dir.join("firmware.toml");
    let text = std::fs::read_to_string(&firmware).unwrap();
    std::fs::write(&firmware, format!("{text}\n[measurements]\nima_log = \"list\"\n")).unwrap();
    site.start(&format!("meter {serial}"));
    let told = site.expect("a verdict", |told| told.is("endpoint-manager", "software"));
    assert_eq!((told.field("verdict"), told.field("reason")), ("fail", "ima.unexpected"));
    site.expect("quarantine", |told| told.is("endpoint-manager", "quarantined"));
    assert_eq!(site.register()[&serial]["quarantine"], "E_POLICY");
}

/// The first event of a crypto-agile log with SHA-256 digests.
fn log_header() -> Vec<u8> {
    let algorithms = [&[1, 0, 0, 0, 0x0b, 0, 32, 0][..], &[0]].concat();
    let event = [&b"Spec ID Event03\0"[..], &[0; 8], &algorithms].concat();
    let size = u32::try_from(event.len()).unwrap().to_le_bytes();
    [&[0; 4][..], &[3, 0, 0, 0], &[0; 20], &size, &event].concat()
}

/// One event that extends PCR 0.
fn log_event() -> Vec<u8> {
    [&[0; 4][..], &[1, 0, 0, 0], &[1, 0, 0, 0, 0x0b, 0], &[7; 32], &[0; 4]].concat()
}

/// Logs as large and as long as a message can carry, and lies about their lengths, through the real endpoint manager: each
/// holds its own meter with a reason, and the next meter does not notice.
#[test]
fn s11_hostile_logs_hold_their_meter_with_a_reason_and_nobody_else() {
    const MOST: usize = 262_144;
    let events = (MOST - log_header().len()) / log_event().len();
    let line = format!("10 {} ima-ng sha256:{} /bin/a\n", "11".repeat(20), "22".repeat(32));
    let lying = [&10u32.to_le_bytes()[..], &[0x11; 20], &[0xff; 4], &[0; 64]].concat();
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("event_log", vec![0x30; MOST], "event-log.format"),
        ("event_log", [log_header(), vec![0xff; 100]].concat(), "event-log.format"),
        ("event_log", [log_header(), log_event().repeat(events)].concat(), "quote.mismatch"),
        ("ima_log", vec![b'1'; MOST], "ima.format"),
        ("ima_log", line.repeat(MOST / line.len()).into_bytes(), "ima.unexpected"),
        ("ima_log", lying, "ima.format"),
    ];
    let mut site = Site::new("hostile-logs", Plan { meters: cases.len() + 2, ..Plan::default() });
    let meters = site.meters.clone();
    let with_log = |serial: &str, which: &str, log: &[u8]| {
        let dir = site.factory(serial);
        std::fs::write(dir.join("log"), log).unwrap();
        let firmware = dir.join("firmware.toml");
        let text = std::fs::read_to_string(&firmware).unwrap();
        std::fs::write(&firmware, format!("{text}\n[measurements]\n{which} = \"log\"\n")).unwrap();
    };
    for ((which, log, _), serial) in cases.iter().zip(&meters) {
        with_log(serial, which, log);
    }
    let (large, honest) = (&meters[cases.len()], &meters[cases.len() + 1]);
    with_log(large, "event_log", &vec![0; MOST + 1]);
    let manager = site.id("endpoint-manager");
    for serial in meters.iter().filter(|serial| *serial != honest) {
        site.start(&format!("meter {serial}"));
    }
    let mut wanted: BTreeMap<&str, &str> =
        cases.iter().zip(&meters).map(|((_, _, reason), serial)| (serial.as_str(), *reason)).collect();
    while !wanted.is_empty() {
        let told = site.expect("a verdict", |told| told.is("endpoint-manager", "software"));
        let serial = told.field("serial");
        assert_eq!(told.field("verdict"), "fail", "{serial}");
        if let Some(reason) = wanted.remove(serial) {
            assert_eq!(told.field("reason"), reason, "{serial}");
        }
    }
    // What is larger than the protocol carries never leaves its meter.
    let name = format!("meter {large}");
    site.expect("a refusal", |told| told.is(&name, "refused") && told.field("code") == "E_SIZE");
    site.onboard(honest);
    assert_eq!(site.id("endpoint-manager"), manager);
    let register = site.register();
    for serial in &meters[..cases.len()] {
        let code = &register[serial]["quarantine"];
        assert!(code == "E_POLICY" || code == "E_QUOTE", "{serial}: {code}");
    }
    assert_eq!(register[large]["quarantine"], serde_json::Value::Null);
    let status = std::fs::read_to_string(format!("/proc/{manager}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 256 * 1_024, "{peak_kib} KiB for logs of 256 KiB");
}
