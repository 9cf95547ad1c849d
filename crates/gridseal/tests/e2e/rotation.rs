//! Key changes by real processes: the operator's word, the head-end's link, the meter's answer, the key service's proof;
//! and kill -9 of each process at each step.

use std::{collections::BTreeMap, time::Duration};

use gridseal_crypto::{Key, role::Gak};
use gridseal_dlms::{apdu::ciphered::GeneralGlo, suite::protect::open_general_glo};
use serde_json::Value;

use crate::{
    machine::{eventually, gridseal, gridseal_ok},
    site::{Plan, START_WITHIN, Site, text},
};

/// System title of a meter, as the operator's commands have it.
fn title(site: &Site, serial: &str) -> String {
    let firmware = std::fs::read_to_string(site.factory(serial).join("firmware.toml")).unwrap();
    let line = firmware.lines().find(|line| line.starts_with("system_title")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

fn status(site: &Site, meter: &str) -> Option<Value> {
    let config = text(&site.owner("operator/config.toml"));
    let output = gridseal(&["key", "status", "--config", &config, "--json", meter]);
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// Version in use of a kind.
fn in_use(status: &Value, kind: &str) -> u64 {
    let versions = status["versions"].as_array().unwrap();
    let active = |version: &&Value| version["kind"] == kind && version["state"] == "active";
    versions.iter().find(active).map_or(0, |version| version["version"].as_u64().unwrap())
}

/// Prepares a change.
fn prepare(site: &Site, meter: &str, kind: &str) {
    let config = text(&site.owner("operator/config.toml"));
    gridseal_ok(&["key", "rotate", "--config", &config, "--kind", kind, meter]);
}

/// Changes a meter's keys, and waits for it; the phases.
fn rotate(site: &Site, meter: &str, kind: &str) -> Vec<String> {
    let config = text(&site.owner("operator/config.toml"));
    let said = gridseal_ok(&[
        "key",
        "rotate",
        "--config",
        &config,
        "--json",
        "--wait",
        "--timeout",
        "60",
        "--kind",
        kind,
        meter,
    ]);
    let phase =
        |line: &str| serde_json::from_str::<Value>(line).unwrap()["phase"].as_str().unwrap().to_owned();
    said.lines().map(phase).collect()
}

/// Rule S1 over everything that was ever sent either way: a key, an originator and a counter cover one APDU.
fn assert_nonces(site: &mut Site) {
    site.settle();
    let inventory: BTreeMap<String, Vec<String>> =
        serde_json::from_slice(&std::fs::read(site.owner("keys/inventory.json")).unwrap()).unwrap();
    let keys = |role: &str| -> Vec<[u8; 16]> {
        inventory[role].iter().map(|key| hex::decode(key).unwrap().try_into().unwrap()).collect()
    };
    let (gueks, gaks) = (keys("Guek"), keys("Gak"));
    let mut covered: BTreeMap<([u8; 16], Vec<u8>, u32), Vec<u8>> = BTreeMap::new();
    let (mut opened, mut either_way) = (0, [0, 0]);
    for told in &site.log {
        let frame = match told.event.as_str() {
            "to-meter" | "pushed" => hex::decode(told.field("frame")).unwrap(),
            _ => continue,
        };
        either_way[usize::from(told.event == "pushed")] += 1;
        let apdu = GeneralGlo::from_bytes(&frame[8..]).unwrap();
        let from = apdu.system_title.unwrap();
        let opens = |guek: &[u8; 16], gak: &[u8; 16]| {
            let (guek, gak) = (Key::take(&mut guek.clone()), Key::<Gak, 16>::take(&mut gak.clone()));
            open_general_glo(&guek, &gak, from, &apdu).is_ok()
        };
        let under = gueks.iter().find(|guek| gaks.iter().any(|gak| opens(guek, gak)));
        let under = under.expect("an APDU under a key of the inventory");
        let known = covered
            .entry((*under, from.as_bytes().to_vec(), apdu.invocation_counter))
            .or_insert_with(|| frame.clone());
        assert_eq!(*known, frame, "rule S1: counter {} of {from}", apdu.invocation_counter);
        opened += 1;
    }
    assert!(either_way.iter().all(|count| *count > 0), "{either_way:?}");
    println!("{opened} APDUs, {} nonces, each of them once", covered.len());
}

#[test]
fn s3_an_operator_changes_each_key_of_a_running_meter_and_readings_go_on_under_the_new_ones() {
    let mut site = Site::new("rotate", Plan { meters: 2, inventory: true, ..Plan::default() });
    for serial in site.meters.clone() {
        site.onboard(&serial);
    }
    let meter = title(&site, &site.meters[0]);
    let other = title(&site, &site.meters[1]);
    let untouched = status(&site, &other).unwrap()["versions"].as_array().unwrap().len();
    let mut before = status(&site, &meter).unwrap();
    for (kind, changed) in [
        ("guek+gak", &["guek", "gak"][..]),
        ("guek", &["guek"]),
        ("gak", &["gak"]),
        ("kek", &["kek", "guek"]),
    ] {
        let phases = rotate(&site, &meter, kind);
        println!("{kind}: {phases:?}");
        assert_eq!(phases.first().map(String::as_str), Some("prepared"), "{phases:?}");
        assert_eq!(phases.last().map(String::as_str), Some("activated"), "{phases:?}");
        let after = status(&site, &meter).unwrap();
        assert_eq!(after["change"], Value::Null);
        for kind in ["guek", "gak", "kek"] {
            let moved = in_use(&after, kind) > in_use(&before, kind);
            assert_eq!(moved, changed.contains(&kind), "{kind}: {after}");
        }
        before = after;
    }
    // The changed keys outlive a restart of the meter, and its readings go on.
    let name = format!("meter {}", site.meters[0]);
    site.kill(&name);
    site.start(&name);
    site.expect("a reading under the changed keys", |told| told.is(&name, "confirmed"));
    let after = status(&site, &meter).unwrap();
    assert_eq!(after["regressed"], false, "{after}");
    assert_eq!(status(&site, &other).unwrap()["versions"].as_array().unwrap().len(), untouched);
    assert_nonces(&mut site);
    site.assert_audit();
}

#[test]
fn s5_an_old_flash_image_from_before_a_key_change_is_refused_by_the_meter_itself() {
    let mut site = Site::new("rotate-back", Plan { inventory: true, ..Plan::default() });
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    let (name, meter) = (format!("meter {serial}"), title(&site, &serial));
    let flash = site.factory(&serial).join("push.cbor");
    site.kill(&name);
    let image = std::fs::read(&flash).unwrap();
    site.start(&name);
    site.expect("a reading", |told| told.is(&name, "confirmed"));
    rotate(&site, &meter, "guek+gak");
    site.kill(&name);
    std::fs::write(&flash, image).unwrap();
    site.start(&name);
    let told = site.expect("a refusal", |told| told.is(&name, "refused"));
    assert_eq!(told.field("code"), "E_ROLLBACK", "{:?}", told.json);
}

/// Whom to kill, and when.
const CELLS: [(&str, (&str, &str)); 12] = [
    ("headend", ("headend", "to-meter")),
    ("headend", ("meter", "keys-changed")),
    ("headend", ("headend", "key-change")),
    ("keys", ("headend", "to-meter")),
    ("keys", ("meter", "keys-changed")),
    ("keys", ("meter", "answered")),
    ("keys-core", ("headend", "to-meter")),
    ("keys-core", ("meter", "answered")),
    ("meter", ("headend", "to-meter")),
    ("meter", ("meter", "answered")),
    ("meter", ("meter", "keys-changed")),
    ("meter", ("headend", "key-change")),
];

#[test]
fn s3_kill_9_of_each_process_at_each_step_of_a_key_change_strands_no_meter_and_repeats_no_nonce() {
    let mut site = Site::new("rotate-kill", Plan { inventory: true, ..Plan::default() });
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    let (name, meter) = (format!("meter {serial}"), title(&site, &serial));
    let mut failures = Vec::new();
    for (turn, (victim, (process, event))) in CELLS.into_iter().enumerate() {
        let kind = if turn % 4 == 3 { "kek" } else { "guek+gak" };
        let of = |process: &str| if process == "meter" { name.clone() } else { process.to_owned() };
        let (victim_name, teller) = (of(victim), of(process));
        site.settle();
        let before = status(&site, &meter).expect("the key service answers");
        prepare(&site, &meter, kind);
        if site.wait(START_WITHIN, |told| told.is(&teller, event)).is_none() {
            failures.push(format!("{victim} at {process} {event}: never came: {}", site.report(30)));
            continue;
        }
        site.kill(&victim_name);
        let started = if victim == "keys-core" { "keys" } else { victim };
        site.start(&of(started));
        if started != "meter" {
            site.await_ready(started);
        }
        let kinds: &[&str] = if kind == "kek" { &["kek"] } else { &["guek", "gak"] };
        let is_done = || {
            status(&site, &meter).is_some_and(|now| {
                let newer = kinds.iter().all(|kind| in_use(&now, kind) > in_use(&before, kind));
                now["change"].is_null() && newer && now["regressed"] == false
            })
        };
        // A plan of probes comes once a minute; as a rule a push confirms long before the second.
        if !eventually(Duration::from_secs(90), is_done) {
            let now = status(&site, &meter);
            failures.push(format!("{victim} at {process} {event}: {now:?} {}", site.report(30)));
            continue;
        }
        if site.wait(START_WITHIN, |told| told.is(&name, "confirmed")).is_none() {
            failures.push(format!("{victim} at {process} {event}: no reading: {}", site.report(30)));
        }
    }
    assert!(failures.is_empty(), "{} cells failed:\n{}", failures.len(), failures.join("\n"));
    assert_nonces(&mut site);
    site.assert_audit();
}
