//! An owner has vanished: the manufacturer's recovery key names another one, witnesses have signed the log, a list says where
//! the meter hangs, and somebody holds its button.

use std::{process::Output, time::Duration};

use serde_json::Value;

use crate::{
    machine::{gridseal, gridseal_ok, has_tpm_emulator},
    ownership::{add_buyer, started},
    site::{Site, text},
};

fn failed(output: &Output, code: &str) -> String {
    let told = [&output.stdout[..], &output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(!output.status.success() && told.contains(code), "{code}: {told}");
    told
}

/// Three witnesses sign the log; the buyer wants two of them. Gives the files with their words.
fn witnessed(site: &Site) -> Vec<String> {
    let path = |name: &str| text(&site.scratch.path().join(name));
    let log = text(&site.factory("voucher-log.cbor"));
    let voucher_key = std::fs::read_to_string(site.factory("vendor/trusted.txt")).unwrap();
    let mut keys = Vec::new();
    let mut words = Vec::new();
    for number in 1..=3 {
        let (dir, out) = (path(&format!("witness-{number}")), path(&format!("word-{number}")));
        keys.push(format!("\"{}\"", gridseal_ok(&["witness", "key", "--dir", &dir]).trim()));
        gridseal_ok(
            &[
                &["witness", "cosign", "--dir", &dir, "--voucher-key", &voucher_key, "--out", &out][..],
                &[&log],
            ]
            .concat(),
        );
        words.push(out);
    }
    let config = site.scratch.path().join("buyer/endpoint-manager/config.toml");
    let old = std::fs::read_to_string(&config).unwrap();
    let keys = keys.join(", ");
    std::fs::write(&config, format!("{old}\n[witnesses]\nrequired = 2\nkeys = [{keys}]\n")).unwrap();
    words
}

/// What the next owner imports, and everything that it does not take.
fn imported(site: &Site, serial: &str) {
    let path = |name: &str| text(&site.scratch.path().join(name));
    let (config, shipment) = (path("buyer/endpoint-manager/config.toml"), path("handed/shipment.cbor"));
    let words = witnessed(site);
    let import = |more: &[&str]| {
        gridseal(&[&["import", "shipment", "--config", &config][..], more, &[&shipment]].concat())
    };
    failed(&import(&[]), "E_VOUCHER");
    failed(&import(&["--witnessed", &words[0], "--witnessed", &words[0]]), "2 of 3 witnesses");
    let list = |name: &str, content: String| {
        std::fs::write(site.scratch.path().join(name), content).unwrap();
        path(name)
    };
    let wrong = list("wrong.csv", format!("serial,point,model\nNOBODY,DE/1,\n{serial},DE/1,GS-9\n"));
    let with =
        |more: &[&str]| import(&[&["--witnessed", &words[0], "--witnessed", &words[2]][..], more].concat());
    let told = failed(&with(&["--mapping", &wrong]), "2 errors; nothing was imported");
    for part in ["line 2: NOBODY is not in the shipment", "line 3: model: GS-9 in the list, GS-1 in"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    list("delivery.txt", format!("No.;Where;Kind\n{serial};DE/1;Z\u{e4}hler\n"));
    let mapping = list(
        "mapping.toml",
        "list = \"delivery.txt\"\nseparator = \";\"\n[columns]\nserial = \"No.\"\npoint = \"Where\"\n\
         device_type = \"Kind\"\n[values.device_type]\n\"Z\u{e4}hler\" = \"meter\"\n"
            .to_owned(),
    );
    let shown = || gridseal_ok(&["device", "show", "--json", "--config", &config]);
    let dry = with(&["--mapping", &mapping, "--dry-run", "--json"]);
    let told: Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!((&told["devices"], &told["points"]), (&Value::from(1), &Value::from(1)), "{told}");
    assert_eq!(shown().trim(), "", "nothing is there yet");
    assert!(with(&["--mapping", &mapping]).status.success());
    let row: Value = serde_json::from_str(shown().trim()).unwrap();
    assert_eq!((&row["state"], &row["point"]), (&Value::from("registered"), &Value::from("DE/1")), "{row}");
    // Somewhere else is another matter.
    let moved = list("moved.csv", format!("serial,point\n{serial},DE/2\n"));
    failed(&with(&["--mapping", &moved]), "line 2: the device is at DE/1 already");
}

fn recover(anchor: &'static str) {
    let (mut site, serial) = started(anchor, "recovery");
    add_buyer(&mut site);
    let path = |site: &Site, name: &str| text(&site.scratch.path().join(name));
    for name in ["endpoint-manager", "config-server", "headend", "keys", "pki"] {
        site.kill(name);
    }
    let (keys, papers) = (text(&site.factory("recovery")), text(&site.factory("shipment.cbor")));
    let sign = |buyer: &str, to: &str, more: &[&str]| {
        gridseal_ok(
            &[
                &["factory", "recover", "--keys", &keys, "--papers", &papers, "--buyer", buyer][..],
                &["--to", to],
                more,
            ]
            .concat(),
        )
    };
    let transfer = path(&site, "transfer");
    let buyer = path(&site, "buyer/owner.toml");
    // Where no recovery key is, none is made.
    let vendor = text(&site.factory("vendor"));
    let wrong =
        ["factory", "recover", "--keys", &vendor, "--papers", &papers, "--buyer", &buyer, "--to", &transfer];
    assert!(!gridseal(&wrong).status.success());
    assert!(!site.factory("vendor/recovery.key").exists() && !std::path::Path::new(&transfer).exists());
    let dry = sign(&buyer, &transfer, &["--dry-run", &serial]);
    assert!(dry.contains("nothing was signed") && !std::path::Path::new(&transfer).exists(), "{dry}");
    sign(&buyer, &transfer, &[&serial]);
    let release = |transfer: &str, to: &str| {
        let factory = text(&site.factory(""));
        gridseal(&["factory", "release", "--out", &factory, "--transfer", transfer, "--to", to])
    };
    assert!(release(&transfer, &path(&site, "handed")).status.success());
    // The same device to somebody else: the first one has it.
    let second = path(&site, "second");
    sign(&text(&site.owner("owner.toml")), &second, &[]);
    failed(&release(&second, &path(&site, "again")), "E_FORK");
    // Who reads the log sees that something follows his entry.
    let (old, log) =
        (text(&site.owner("endpoint-manager/config.toml")), text(&site.factory("voucher-log.cbor")));
    failed(&gridseal(&["import", "voucher-log", "--config", &old, &log]), "E_FORK");
    imported(&site, &serial);

    site.start("buyer endpoint-manager");
    site.await_ready("buyer endpoint-manager");
    let meter = format!("meter {serial}");
    let config = path(&site, "buyer/endpoint-manager/config.toml");
    let shown = || -> Value {
        let row = gridseal_ok(&["device", "show", "--json", "--config", &config]);
        serde_json::from_str(row.trim()).unwrap()
    };
    for _ in 0..200 {
        if shown()["redirect_registered"] == true {
            break;
        }
        site.wait(Duration::from_millis(100), |_| false);
    }
    assert_eq!(shown()["redirect_registered"], true, "the init server knows the next owner");
    let begun = |site: &Site| site.log.iter().any(|told| told.is(&meter, "recovery-accepted"));
    assert!(!begun(&site), "without the button the meter stays where it is");
    site.kill(&meter);
    site.start_with(&meter, &["--button"]);
    site.expect("the recovery", |told| told.is(&meter, "recovered"));
    site.expect("a reading for the next owner", |told| told.is("buyer headend", "stored"));
    let row = shown();
    assert_eq!((&row["state"], &row["epoch"]), (&Value::from("operating"), &Value::from(2)), "{row}");
    let audit = gridseal_ok(&["audit", "--db", &path(&site, "buyer/endpoint-manager/register.db")]);
    assert!(audit.contains("device.recovery-entry"), "{audit}");
    let read = ["import", "voucher-log", "--config", &config, "--witnessed", &path(&site, "word-1")]
        .map(String::from);
    let more = ["--witnessed", &path(&site, "word-2"), &log].map(String::from);
    gridseal_ok(&read.iter().chain(&more).map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn onboarding_7_5_a_meter_whose_owner_has_vanished_is_recovered() {
    recover("software");
}

#[test]
fn onboarding_7_5_a_meter_with_a_tpm_is_recovered() {
    if has_tpm_emulator() {
        recover("tpm");
    }
}
