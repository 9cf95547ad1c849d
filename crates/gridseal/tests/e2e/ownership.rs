//! What an owner does with a meter after its first day: attestation, rotation, renewal, theft, resale, the end.

use std::{net::TcpListener, path::Path};

use serde_json::Value;

use crate::{
    machine::{eventually, gridseal, gridseal_ok, has_tpm_emulator},
    site::{Plan, Site, text},
};

/// The endpoint manager asks a meter to come back at once, and looks after attestations every second.
pub(crate) fn hurry(site: &Site, owner: &str) {
    let path = site.scratch.path().join(owner).join("endpoint-manager/config.toml");
    let old = std::fs::read_to_string(&path).unwrap();
    let new = old.replace("poll_s = 900", "poll_s = 1").replace("watch_every_s = 60", "watch_every_s = 1");
    assert_ne!(old, new);
    std::fs::write(&path, new).unwrap();
}

pub(crate) fn device(site: &Site, verb: &[&str], serial: &str) -> String {
    let config = text(&site.owner("endpoint-manager/config.toml"));
    let mut arguments = vec!["device"];
    arguments.extend(verb);
    arguments.extend(["--config", &config, "--reason", "test", serial]);
    gridseal_ok(&arguments)
}

pub(crate) fn answered(site: &mut Site, order: &str) {
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
    whole_life("software");
}

/// Authorisations, keys and the Clear on a TPM.
#[test]
fn onboarding_11_a_meter_with_a_tpm_lives_the_same_life() {
    if has_tpm_emulator() {
        whole_life("tpm");
    }
}

fn whole_life(anchor: &'static str) {
    let (mut site, serial) = started(anchor, "ownership");
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
    let (seller, buyer) = sell(&mut site, &serial);
    let path = |site: &Site, name: &str| text(&site.scratch.path().join(name));
    let (receipt, shipment) =
        (path(&site, &format!("receipts/{serial}.receipt")), path(&site, "handed/shipment.cbor"));
    let shown = verify(Path::new(&receipt), &["--config", &buyer, "--shipment", &shipment, "--tpm"]);
    assert_eq!(shown["ok"], true, "{shown}");
    // As a receipt for the first sale it is another one's.
    let first = text(&site.factory("shipment.cbor"));
    let replayed = verify(Path::new(&receipt), &["--config", &buyer, "--shipment", &first]);
    assert_eq!(replayed["code"], "receipt.other-sale");
    assert_eq!(site.register()[&serial]["state"], "released");
    let refused = gridseal(&["device", "attest", "--config", &seller, "--reason", "test", &serial]);
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success() && said.contains("E_STATE"), "{said}");
}

#[test]
fn a15_a_meter_is_sold() {
    resale("software");
}

#[test]
fn a15_a_meter_with_a_tpm_is_sold() {
    if has_tpm_emulator() {
        resale("tpm");
    }
}

/// The meter goes to a buyer, who has a reading of it then. Configuration files of the endpoint managers of both.
pub(crate) fn sell(site: &mut Site, serial: &str) -> (String, String) {
    add_buyer(site);
    let path = |site: &Site, name: &str| text(&site.scratch.path().join(name));
    let seller = text(&site.owner("endpoint-manager/config.toml"));
    let buyer = path(site, "buyer/endpoint-manager/config.toml");
    gridseal_ok(&["device", "papers", "--config", &seller, "--out", &path(site, "papers"), serial]);
    sign_over(site, "buyer/owner.toml", "transfer");
    // What the buyer could not import is not logged in the place of what he can.
    let mut changed = std::fs::read(path(site, "transfer")).unwrap();
    let name = changed.windows(serial.len()).position(|at| at == serial.as_bytes()).unwrap();
    changed[name] ^= 1;
    std::fs::write(path(site, "changed"), changed).unwrap();
    let refused = handed(site, "changed", "never");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("manifest"), "{said}");
    assert!(handed(site, "transfer", "handed").status.success());
    // The same device a second time, to somebody else: the first one has it.
    sign_over(site, "owner/owner.toml", "second");
    let second = handed(site, "second", "again");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("E_FORK"), "{said}");
    let transfer = path(site, "transfer");
    device(site, &["release", "--transfer", &transfer], serial);
    site.expect("the end", |told| told.is("endpoint-manager", "ended-ownership"));
    let receipts = path(site, "receipts");
    std::fs::create_dir(&receipts).unwrap();
    let receipt = format!("{receipts}/{serial}.receipt");
    gridseal_ok(&["device", "receipt", "export", "--config", &seller, "--out", &receipt, serial]);
    let shipment = path(site, "handed/shipment.cbor");
    gridseal_ok(&["import", "shipment", "--config", &buyer, "--receipts", &receipts, &shipment]);
    site.start("buyer endpoint-manager");
    site.await_ready("buyer endpoint-manager");
    let meter = format!("meter {serial}");
    site.expect("its new owner", |told| {
        told.is("buyer endpoint-manager", "operating") || told.is(&meter, "confirmed")
    });
    site.expect("a reading for the buyer", |told| told.is("buyer headend", "stored"));
    let row = row_of(&buyer);
    assert_eq!((&row["state"], &row["epoch"]), (&Value::from("operating"), &Value::from(2)));
    (seller, buyer)
}

/// The one device in a register.
pub(crate) fn row_of(config: &str) -> Value {
    let rows = gridseal_ok(&["device", "show", "--json", "--config", config]);
    serde_json::from_str(rows.trim()).unwrap()
}

/// The owner signs the devices of `papers` over.
pub(crate) fn sign_over(site: &Site, buyer: &str, transfer: &str) {
    let path = |name: &str| text(&site.scratch.path().join(name));
    let (owner, papers) = (text(&site.owner("")), path("papers"));
    gridseal_ok(
        &[
            &["ceremony", "transfer", "--out", &owner, "--papers", &papers, "--buyer"][..],
            &[&path(buyer), "--to", &path(transfer)],
        ]
        .concat(),
    );
}

/// The manufacturer hands a transfer over, or refuses to.
pub(crate) fn handed(site: &Site, transfer: &str, to: &str) -> std::process::Output {
    let path = |name: &str| text(&site.scratch.path().join(name));
    let (factory, transfer, to) = (text(&site.factory("")), path(transfer), path(to));
    gridseal(&["factory", "release", "--out", &factory, "--transfer", &transfer, "--to", &to])
}

/// The owner replaces his key: the meter follows it, and obeys nothing under the former one.
#[test]
fn onboarding_7_5_an_owner_replaces_his_key_and_goes_on() {
    let (mut site, serial) = started("software", "rekey");
    let meter = format!("meter {serial}");
    let path = |site: &Site, name: &str| text(&site.scratch.path().join(name));
    let (owner, manager) = (text(&site.owner("")), text(&site.owner("endpoint-manager/config.toml")));
    let former = std::fs::read_to_string(site.owner("owner.toml")).unwrap();
    gridseal_ok(&["device", "papers", "--config", &manager, "--out", &path(&site, "papers"), &serial]);
    let (papers, rekey) = (path(&site, "papers"), path(&site, "rekey"));
    gridseal_ok(&["ceremony", "rekey", "--out", &owner, "--papers", &papers, "--to", &rekey]);
    // A meter whose owner was away asks again at its leisure, or when it has power: it is off meanwhile.
    let restart = |site: &mut Site, names: &[&str]| {
        site.kill(&meter);
        for name in names {
            site.kill(name);
            site.start(name);
            site.await_ready(name);
        }
        site.settle();
        site.start(&meter);
    };
    restart(&mut site, &["keys"]);
    // Until it knows the next key it obeys the one in use.
    device(&site, &["attest"], &serial);
    answered(&mut site, "attest");
    // What is not signed over to a key of ours is no new key.
    let wrong =
        gridseal(&["device", "rekey", "--config", &manager, "--transfer", &papers, "--reason", "x", &serial]);
    assert!(!wrong.status.success());
    device(&site, &["rekey", "--transfer", &rekey], &serial);
    answered(&mut site, "rekey");
    let row = &site.register()[&serial];
    assert_eq!((&row["state"], &row["voucher_entry"]), (&Value::from("operating"), &Value::from(2)), "{row}");
    for order in ["attest", "rotate"] {
        device(&site, &[order], &serial);
        answered(&mut site, if order == "rotate" { "provision" } else { order });
    }
    site.expect("a confirmed reading", |told| told.is(&meter, "confirmed"));
    let published = |site: &Site| site.register()[&serial]["redirect_registered"] == true;
    assert!(eventually(std::time::Duration::from_secs(20), || published(&site)), "{}", site.report(40));

    gridseal_ok(&["ceremony", "rekey", "--out", &owner, "--finish"]);
    assert_ne!(std::fs::read_to_string(site.owner("owner.toml")).unwrap(), former);
    restart(&mut site, &["keys", "endpoint-manager"]);
    device(&site, &["attest"], &serial);
    answered(&mut site, "attest");
    assert!(!gridseal(&["ceremony", "rekey", "--out", &owner, "--finish"]).status.success(), "once");

    // A delegation by the former key moves nothing: what the key service orders under it the meter refuses.
    let (now, old) = (site.owner("keys/delegation.cbor"), path(&site, "old"));
    gridseal_ok(&["ceremony", "owner", "--out", &old, "--config-listen", &site.addresses.config.to_string()]);
    let before = std::fs::read(&now).unwrap();
    forged_delegation(&site, &now);
    restart(&mut site, &["keys"]);
    device(&site, &["attest"], &serial);
    site.expect("its refusal", |told| told.is(&meter, "refused") && told.field("code") == "E_CONFIG_CHAIN");
    std::fs::write(&now, before).unwrap();
    restart(&mut site, &["keys"]);

    // The papers of the manufacturer name the former key: with those of the ceremony it comes back.
    comes_back(&mut site, &serial, &["--rekeyed", &rekey]);

    // It is sold with the new key.
    gridseal_ok(&["device", "papers", "--config", &manager, "--out", &papers, &serial]);
    sign_over(&site, "old/owner.toml", "transfer");
    let handed = handed(&site, "transfer", "handed");
    assert!(handed.status.success(), "{}", String::from_utf8_lossy(&handed.stderr));
}

/// A delegation to K_config by the owner key that was replaced, in the place of the one in force.
fn forged_delegation(site: &Site, to: &Path) {
    use gridseal_crypto::{Signer, SigningKey, role::OwnerSigning};
    use gridseal_trust::enrol::{
        cose::{Sign1, SignedType, key_id, sign},
        document::Delegation,
    };
    let key = crate::peer::key_of::<OwnerSigning>(&site.owner("ceremony"), "owner-before");
    let former = SigningKey::<OwnerSigning>::new(&key).unwrap();
    let bytes = std::fs::read(to).unwrap();
    let delegation = Delegation::decode(Sign1::decode(&bytes).unwrap().payload).unwrap();
    let delegation = Delegation { owner_key: key_id(&former.public()), ..delegation };
    std::fs::write(to, sign(&former, SignedType::Delegation, &delegation.encode()).unwrap()).unwrap();
}

/// The endorsement seed of a meter's TPM changes, as an update of its firmware may do: the meter does not start any more, says
/// why, and its owner sees that it is silent in `updating`.
#[test]
fn a_meter_whose_endorsement_seed_changed_does_not_start_and_says_so() {
    use gridseal_trust::root::TpmTransport;
    if !has_tpm_emulator() {
        return;
    }
    let (mut site, serial) = started("tpm", "change-eps");
    let meter = format!("meter {serial}");
    device(&site, &["update"], &serial);
    site.kill(&meter);
    let mut tpm = gridseal_io::tpm::Swtpm::start(&site.factory(&serial).join("tpm")).unwrap();
    // TPM2_ChangeEPS by the platform hierarchy, which is open until firmware closes it.
    let command = [
        &[0x80, 2, 0, 0, 0, 27, 0, 0, 1, 0x24, 0x40, 0, 0, 0x0c, 0, 0, 0, 9][..],
        &[0x40, 0, 0, 9, 0, 0, 0, 0, 0],
    ];
    assert_eq!(tpm.transmit(&command.concat()).unwrap()[6..10], [0; 4]);
    tpm.power_cut();
    site.settle();
    site.start(&meter);
    site.expect("its end", |told| told.is(&meter, "ended"));
    let errors = std::fs::read_to_string(site.scratch.path().join(format!("meter-{serial}.err"))).unwrap();
    assert!(errors.contains("the TPM emulator does not start: TPM refused 0x0120"), "{errors}");
    let row = &site.register()[&serial];
    assert_eq!(
        (&row["state"], &row["jobs"]),
        (&Value::from("updating"), &serde_json::json!(["update"])),
        "{row}"
    );
}

/// The owner loses every database; from what he keeps, his device comes back.
fn comes_back(site: &mut Site, serial: &str, more: &[&str]) {
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
    let register = ["device", "register", "--recover", "--config", &config, &shipment];
    gridseal_ok(&[&register, more].concat());
    site.start("endpoint-manager");
    site.await_ready("endpoint-manager");
    let meter = format!("meter {serial}");
    let back = site.wait(std::time::Duration::from_secs(120), |told| told.is("headend", "meter-connected"));
    assert!(back.is_some(), "it never came back: {}", site.report(60));
    site.expect("a confirmed reading", |told| told.is(&meter, "confirmed"));
}

/// What is left is what `docs/operations.md` says has to be kept: the ceremony, the keystore with its key, the authority's
/// key, papers and owner secrets.
#[test]
fn onboarding_7_8_a_fleet_comes_back_when_its_owner_has_lost_every_database() {
    let (mut site, serial) = started("software", "orphans");
    // The authorisations that are derived first are not those in force.
    device(&site, &["rotate", "--what", "owner"], &serial);
    answered(&mut site, "commands");
    comes_back(&mut site, &serial, &[]);
    assert_eq!(site.register()[&serial]["state"], "operating");
    let audit = gridseal_ok(&["audit", "--db", &text(&site.owner("keys/keys.db"))]);
    for act in ["ownership.recovering", "ownership.not-recovered", "ownership.confirmed"] {
        assert!(audit.contains(act), "{act}: {audit}");
    }
}
