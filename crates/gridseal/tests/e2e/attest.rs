//! What a meter's TPM may be and what it has measured, through real processes.

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
