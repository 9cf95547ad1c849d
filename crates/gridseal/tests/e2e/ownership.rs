//! What an owner does with a meter after its first day: attestation, rotation, renewal, theft, resale, the end.

use std::{net::TcpListener, path::Path};

use serde_json::Value;

use crate::{
    machine::{gridseal, gridseal_ok, has_tpm_emulator},
    site::{Plan, Site, text},
};

/// The endpoint manager asks a meter to come back at once, and looks after attestations every second.
fn hurry(site: &Site, owner: &str) {
    let path = site.scratch.path().join(owner).join("endpoint-manager/config.toml");
    let old = std::fs::read_to_string(&path).unwrap();
    let new = old.replace("poll_s = 900", "poll_s = 1").replace("watch_every_s = 60", "watch_every_s = 1");
    assert_ne!(old, new);
    std::fs::write(&path, new).unwrap();
}

fn device(site: &Site, verb: &[&str], serial: &str) -> String {
    let config = text(&site.owner("endpoint-manager/config.toml"));
    let mut arguments = vec!["device"];
    arguments.extend(verb);
    arguments.extend(["--config", &config, "--reason", "test", serial]);
    gridseal_ok(&arguments)
}

fn answered(site: &mut Site, order: &str) {
    site.expect(order, |told| told.is("endpoint-manager", "answered") && told.field("order") == order);
}

pub(crate) fn started(anchor: &'static str, what: &str) -> (Site, String) {
    let mut site = Site::new(what, Plan { anchor, ..Plan::default() });
    hurry(&site, "owner");
    site.kill("endpoint-manager");
    site.start("endpoint-manager");
    site.await_ready("endpoint-manager");
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    (site, serial)
}

fn verify(file: &Path, more: &[&str]) -> Value {
    let mut arguments = vec!["device", "receipt", "verify", "--json"];
    let file = text(file);
    arguments.extend([file.as_str()]);
    arguments.extend(more);
    let output = gridseal(&arguments);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn onboarding_11_a_meter_is_attested_rekeyed_renewed_held_and_brought_to_its_end() {
    let (mut site, serial) = started("software", "ownership");
    let meter = format!("meter {serial}");
    let confirmed = |site: &mut Site| site.expect("a confirmed reading", |told| told.is(&meter, "confirmed"));
    let dry = device(&site, &["decommission", "--dry-run"], &serial);
    assert!(dry.contains("would decommission"), "{dry}");
    assert_eq!(site.register()[&serial]["jobs"], serde_json::json!([]));

    let before = site.register()[&serial]["attested_at"].as_u64().unwrap();
    device(&site, &["attest"], &serial);
    answered(&mut site, "attest");
    assert!(site.register()[&serial]["attested_at"].as_u64().unwrap() >= before);

    device(&site, &["rotate"], &serial);
    answered(&mut site, "provision");
    confirmed(&mut site);
    device(&site, &["rotate", "--what", "owner"], &serial);
    answered(&mut site, "commands");
    device(&site, &["renew", "--with-storage"], &serial);
    answered(&mut site, "renew");
    answered(&mut site, "provision");
    site.settle();
    confirmed(&mut site);
    let audit = gridseal_ok(&["audit", "--db", &text(&site.owner("keys/keys.db"))]);
    for (act, count) in [("channel-keys.sent", 3), ("channel-keys.confirmed", 3), ("ownership.renewed", 1)] {
        assert_eq!(audit.matches(act).count(), count, "{act}: {audit}");
    }

    // A stolen meter delivers nothing until it has proven itself again.
    device(&site, &["suspend"], &serial);
    assert_eq!(site.register()[&serial]["state"], "suspended");
    answered(&mut site, "suspend");
    let stored = site.readings().len();
    device(&site, &["resume"], &serial);
    answered(&mut site, "attest");
    assert_eq!(site.readings().len(), stored, "nothing while it was held");
    answered(&mut site, "resume");
    confirmed(&mut site);

    device(&site, &["decommission"], &serial);
    site.expect("the end", |told| told.is("endpoint-manager", "ended-ownership"));
    assert_eq!(site.register()[&serial]["state"], "decommissioned");
    let receipt = site.scratch.path().join("receipt");
    let config = text(&site.owner("endpoint-manager/config.toml"));
    gridseal_ok(&["device", "receipt", "export", "--config", &config, "--out", &text(&receipt), &serial]);
    let shown = verify(&receipt, &["--config", &config, "--tpm"]);
    assert_eq!((&shown["ok"], &shown["proof"]), (&Value::Bool(true), &Value::from("tpm")), "{shown}");
    let mut forged = std::fs::read(&receipt).unwrap();
    let at = forged.len() / 2;
    forged[at] ^= 1;
    std::fs::write(&receipt, forged).unwrap();
    assert_eq!(verify(&receipt, &["--config", &config])["ok"], false);
    site.assert_audit();
}

/// A buyer with processes of his own, at the addresses of the seller's kind.
pub(crate) fn add_buyer(site: &mut Site) {
    let [config, config_inner, keys, pki, headend, headend_inner] = std::array::from_fn(|at| {
        let host = match at {
            0 | 4 => site.addresses.config.ip(),
            _ => site.addresses.keys.ip(),
        };
        let held = TcpListener::bind((host, 0)).unwrap();
        held.local_addr().unwrap().to_string()
    });
    let (buyer, factory) = (text(&site.scratch.path().join("buyer")), text(&site.factory("")));
    gridseal_ok(&["ceremony", "owner", "--out", &buyer, "--config-listen", &config]);
    gridseal_ok(
        &[
            &["ceremony", "configure", "--out", &buyer, "--factory", &factory, "--interval-s", "1"][..],
            &["--config-listen", &config, "--config-listen-inner", &config_inner, "--keys-listen", &keys],
            &["--pki-listen", &pki, "--headend-listen", &headend, "--headend-listen-inner"],
            &[&headend_inner, "--init-server", &site.addresses.init.to_string()],
            &["--danger-accept-software-roots"],
        ]
        .concat(),
    );
    hurry(site, "buyer");
    for name in ["pki", "keys", "config-server", "headend"] {
        site.start(&format!("buyer {name}"));
    }
    for name in ["pki", "keys", "config-server", "headend"] {
        site.await_ready(&format!("buyer {name}"));
    }
}

fn resale(anchor: &'static str) {
    let (mut site, serial) = started(anchor, "resale");
    add_buyer(&mut site);
    let path = |site: &Site, name: &str| text(&site.scratch.path().join(name));
    let seller = text(&site.owner("endpoint-manager/config.toml"));
    let buyer = path(&site, "buyer/endpoint-manager/config.toml");
    let old_register = std::fs::read(site.owner("endpoint-manager/register.db")).unwrap();
    gridseal_ok(&["device", "papers", "--config", &seller, "--out", &path(&site, "papers"), &serial]);
    let sell = |buyer: &str, transfer: &str| {
        let (owner, papers) = (text(&site.owner("")), path(&site, "papers"));
        gridseal_ok(
            &[
                &["ceremony", "transfer", "--out", &owner, "--papers", &papers, "--buyer"][..],
                &[&path(&site, buyer), "--to", &path(&site, transfer)],
            ]
            .concat(),
        );
    };
    let handed = |transfer: &str, to: &str| {
        let factory = text(&site.factory(""));
        let (transfer, to) = (path(&site, transfer), path(&site, to));
        gridseal(&["factory", "release", "--out", &factory, "--transfer", &transfer, "--to", &to])
    };
    sell("buyer/owner.toml", "transfer");
    assert!(handed("transfer", "handed").status.success());
    // The same device a second time, to somebody else: the first one has it.
    sell("owner/owner.toml", "second");
    let second = handed("second", "again");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("E_FORK"), "{said}");
    let transfer = path(&site, "transfer");
    device(&site, &["release", "--transfer", &transfer], &serial);
    site.expect("the end", |told| told.is("endpoint-manager", "ended-ownership"));
    assert_eq!(site.register()[&serial]["state"], "released");
    let receipts = path(&site, "receipts");
    std::fs::create_dir(&receipts).unwrap();
    let receipt = format!("{receipts}/{serial}.receipt");
    gridseal_ok(&["device", "receipt", "export", "--config", &seller, "--out", &receipt, &serial]);
    let shipment = path(&site, "handed/shipment.cbor");
    let shown = verify(Path::new(&receipt), &["--config", &buyer, "--shipment", &shipment, "--tpm"]);
    assert_eq!(shown["ok"], true, "{shown}");
    // As a receipt for the first sale it is another one's.
    let first = text(&site.factory("shipment.cbor"));
    let replayed = verify(Path::new(&receipt), &["--config", &buyer, "--shipment", &first]);
    assert_eq!(replayed["code"], "receipt.other-sale");

    gridseal_ok(&["import", "shipment", "--config", &buyer, "--receipts", &receipts, &shipment]);
    site.start("buyer endpoint-manager");
    site.await_ready("buyer endpoint-manager");
    let meter = format!("meter {serial}");
    site.expect("its new owner", |told| {
        told.is("buyer endpoint-manager", "operating") || told.is(&meter, "confirmed")
    });
    site.expect("a reading for the buyer", |told| told.is("buyer headend", "stored"));
    let rows = gridseal_ok(&["device", "show", "--json", "--config", &buyer]);
    let row: Value = serde_json::from_str(rows.trim()).unwrap();
    assert_eq!((&row["state"], &row["epoch"]), (&Value::from("operating"), &Value::from(2)));

    // The seller restores his database from before the sale: nothing comes of it.
    site.kill("endpoint-manager");
    for rest in ["register.db-wal", "register.db-shm"] {
        let _ = std::fs::remove_file(site.owner("endpoint-manager").join(rest));
    }
    std::fs::write(site.owner("endpoint-manager/register.db"), old_register).unwrap();
    site.start("endpoint-manager");
    site.await_ready("endpoint-manager");
    let refused = gridseal(&["device", "attest", "--config", &seller, "--reason", "test", &serial]);
    drop(refused);
    site.settle();
    site.expect("a confirmed reading", |told| told.is(&meter, "confirmed"));
    let ordered = site.log.iter().any(|told| told.is(&meter, "refused") && told.field("code") == "E_GRANT");
    assert!(!ordered);
}

#[test]
fn a15_a_meter_is_sold_and_nothing_of_the_seller_has_any_effect() {
    resale("software");
}

#[test]
fn a15_a_meter_with_a_tpm_is_sold() {
    if has_tpm_emulator() {
        resale("tpm");
    }
}

/// What is left is what `docs/operations.md` says has to be kept: the ceremony, the keystore with its key, the authority's
/// key, papers and owner secrets.
#[test]
fn onboarding_7_8_a_fleet_comes_back_when_its_owner_has_lost_every_database() {
    let (mut site, serial) = started("software", "orphans");
    // The authorisations that are derived first are not those in force.
    device(&site, &["rotate", "--what", "owner"], &serial);
    answered(&mut site, "commands");
    for name in ["endpoint-manager", "headend", "keys", "pki", "config-server"] {
        site.kill(name);
        for file in std::fs::read_dir(site.owner(name)).unwrap().filter_map(Result::ok) {
            let lost = file.file_name().to_string_lossy().into_owned();
            if lost.contains(".db") || lost == "keys.marker" || lost == "data-keys.cbor" {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
    }
    for name in ["pki", "keys", "config-server", "headend"] {
        site.start(name);
        site.await_ready(name);
    }
    let (config, shipment) =
        (text(&site.owner("endpoint-manager/config.toml")), text(&site.factory("shipment.cbor")));
    gridseal_ok(&["device", "register", "--recover", "--config", &config, &shipment]);
    site.start("endpoint-manager");
    site.await_ready("endpoint-manager");
    let meter = format!("meter {serial}");
    let back = site.wait(std::time::Duration::from_secs(120), |told| told.is("headend", "meter-connected"));
    assert!(back.is_some(), "it never came back: {}", site.report(60));
    site.expect("a confirmed reading", |told| told.is(&meter, "confirmed"));
    assert_eq!(site.register()[&serial]["state"], "operating");
    let audit = gridseal_ok(&["audit", "--db", &text(&site.owner("keys/keys.db"))]);
    for act in ["ownership.recovering", "ownership.not-recovered", "ownership.confirmed"] {
        assert!(audit.contains(act), "{act}: {audit}");
    }
}
