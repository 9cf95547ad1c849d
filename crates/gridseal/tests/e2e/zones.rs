//! Keys stay in their zone (rules S4 and Z1), and the relay reads nothing (onboarding 9, A25): memory, files and messages of
//! running processes are searched for every key of the run, and the search is proven to find what is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use gridseal_crypto::role::{CaSigning, InitSigning, OwnerSigning, VoucherSigning};

use crate::{
    demo::{Running, object},
    machine::{Scratch, eventually},
    peer::{certificates, wrapped_key_hex},
    scan::{Found, Inventory, Search},
    site::{Plan, START_WITHIN, Site, set, text},
};

/// Where something was found, by role.
fn places(found: Vec<Found>) -> BTreeMap<String, BTreeSet<String>> {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Found { role, place, spelling } in found {
        places.entry(role).or_default().insert(format!("{place} ({spelling})"));
    }
    places
}

/// Every key of the run: what the key service has made or been given, and the signing keys of owner and manufacturer.
fn inventory(site: &Site) -> Inventory {
    let bytes = std::fs::read(site.owner("keys/inventory.json")).unwrap();
    let mut inventory: Inventory = serde_json::from_slice(&bytes).unwrap();
    assert!(inventory.len() >= 13, "{:?}", inventory.keys());
    let mut add = |role: &str, key: String| inventory.entry(role.to_owned()).or_default().push(key);
    add("CaSigning", wrapped_key_hex::<CaSigning>(&site.owner("pki"), "issuing"));
    for root in ["operational-root", "inner-root"] {
        add("CaSigning", wrapped_key_hex::<CaSigning>(&site.owner("ceremony"), root));
    }
    add("OwnerSigning", wrapped_key_hex::<OwnerSigning>(&site.owner("ceremony"), "owner"));
    add("VoucherSigning", wrapped_key_hex::<VoucherSigning>(&site.factory("vendor"), "voucher"));
    add("InitSigning", wrapped_key_hex::<InitSigning>(&site.factory("init-server"), "init"));
    inventory
}

/// Memory of a process, its files and what it has told.
fn found_in(
    site: &Site,
    search: &Search,
    process: &str,
    files: Option<&Path>,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = Vec::new();
    let id = if process == "keys-core" { site.core_id() } else { site.id(process) };
    assert!(search.memory(id, &mut found).unwrap() > 100_000, "the memory of {process} is read");
    if let Some(files) = files {
        assert!(search.files(files, &mut found).unwrap() > 0, "files of {process} are read");
    }
    for told in site.log.iter().filter(|told| told.process == process) {
        search.bytes("log", told.json.to_string().as_bytes(), &mut found);
    }
    places(found)
}

/// A site whose meters have delivered, still running, with its inventory.
fn delivered(what: &str) -> (Site, Inventory) {
    let plan = Plan { meters: 2, log_frames: true, inventory: true, ..Plan::default() };
    let mut site = Site::new(what, plan);
    for serial in site.meters.clone() {
        site.onboard(&serial);
    }
    site.settle();
    let inventory = inventory(&site);
    (site, inventory)
}

#[test]
fn s4_no_process_outside_its_zone_holds_a_key_and_the_search_would_find_it() {
    let (site, inventory) = delivered("zones");
    let search = Search::new(&inventory).unwrap();
    let own = |process: &str| -> BTreeSet<&str> {
        match process {
            // Each signs with a key of its own: that is its zone.
            "pki" => BTreeSet::from(["CaSigning"]),
            "init-server" => BTreeSet::from(["InitSigning"]),
            _ => BTreeSet::new(),
        }
    };
    let mut wrong = Vec::new();
    for process in ["headend", "config-server", "endpoint-manager", "keys", "pki", "init-server"] {
        let files = match process {
            // Its directory is that of the core, too; the inventory lies there.
            "keys" => None,
            "init-server" => Some(site.factory(process)),
            _ => Some(site.owner(process)),
        };
        for (role, places) in found_in(&site, &search, process, files.as_deref()) {
            if !own(process).contains(role.as_str()) {
                wrong.push(format!("{process} holds a key of role {role}: {places:?}"));
            }
        }
    }
    // What went over the wires of the field side, as the two servers there saw it.
    assert!(site.log.iter().filter(|told| told.event == "frame").count() > 20);
    assert_eq!(wrong, Vec::<String>::new());

    // The same search where keys have to be: it sees memory, so its silence elsewhere says something. Only root may look
    // there; to the user of the process itself the memory is closed.
    if std::fs::File::open(format!("/proc/{}/mem", site.core_id())).is_err() {
        return;
    }
    let core = found_in(&site, &search, "keys-core", None);
    let core: Vec<&str> = core.keys().map(String::as_str).collect();
    assert!(core.contains(&"Dek") && core.contains(&"ConfigSigning"), "only {core:?} in the core");
}

#[test]
fn s4_a_real_key_in_the_memory_or_the_files_of_the_head_end_is_found() {
    let (mut site, inventory) = delivered("planted");
    // Keys of the run, one of each role, in the head-end's memory and in one of its files.
    let planted: BTreeMap<&String, &String> =
        inventory.iter().map(|(role, keys)| (role, keys.last().unwrap())).collect();
    std::fs::write(site.owner("planted.json"), serde_json::to_vec(&planted).unwrap()).unwrap();
    set(&site.owner("headend/config.toml"), "danger_plant", "\"../planted.json\"");
    site.kill("headend");
    site.start("headend");
    site.await_ready("headend");

    let search = Search::new(&inventory).unwrap();
    let files = site.owner("headend");
    let found = found_in(&site, &search, "headend", Some(&files));
    for role in inventory.keys() {
        let places = found.get(role).cloned().unwrap_or_default();
        for place in ["memory (raw)", "file planted.bin (raw)"] {
            assert!(places.contains(place), "{role}: {place} missing among {places:?}");
        }
    }
}

#[test]
fn s4_a_real_key_in_the_files_of_the_head_end_makes_the_demo_fail() {
    let scratch = Scratch::new("leak");
    let (dir, evidence) = (scratch.path().join("run"), scratch.path().join("evidence"));
    let (dir_text, evidence_text) = (text(&dir), text(&evidence));
    let arguments = ["--json", "--for", "8", "--meters", "1", "--anchor", "software"];
    let demo = Running::start(
        &scratch,
        &[&arguments[..], &["--dir", &dir_text, "--evidence", &evidence_text]].concat(),
    );
    // As soon as there is a meter's key, it "leaks" into a file of the head-end, spelled as a careless log would.
    let leaked = eventually(START_WITHIN, || {
        let bytes = std::fs::read(dir.join("owner/keys/inventory.json")).unwrap_or_default();
        let inventory: Inventory = serde_json::from_slice(&bytes).unwrap_or_default();
        let Some(key) = inventory.get("Guek").and_then(|keys| keys.first()) else { return false };
        let line = format!("debug: key {key}\n");
        std::fs::write(dir.join("owner/headend/debug.log"), line).is_ok()
    });
    assert!(leaked, "no key to leak");
    let (status, out, err) = demo.finish();
    assert_eq!(status.code(), Some(1), "{out}\n{err}");
    let object = object(&out);
    assert_eq!((&object["ok"], &object["key_search"]["found"]), (&false.into(), &1.into()), "{object}");
    let problems = object["problems"].to_string();
    assert!(problems.contains("Guek") && problems.contains("debug.log"), "{problems}");
}

#[test]
fn onboarding_9_a25_the_config_server_reads_nothing_of_what_it_relays() {
    let (site, _) = delivered("relay");
    let register = site.register();
    let mut secrets = Inventory::new();
    let mut add =
        |what: &str, bytes: &[u8]| secrets.entry(what.to_owned()).or_default().push(hex::encode(bytes));
    for serial in &site.meters {
        let name = hex::decode(register[serial]["device"].as_str().unwrap()).unwrap();
        let record = std::fs::read(site.factory(serial).join("device.cbor")).unwrap();
        let record = gridseal_trust::enrol::device::DeviceRecord::decode(&record).unwrap();
        let (installed, keys) = (record.installed.unwrap(), record.keys.unwrap());
        // The Name without its algorithm, which is no secret of anybody.
        add("ek_name", &name[2..]);
        add("serial number", serial.as_bytes());
        add("certificate of the meter", &installed.ldevid_chain[0].0[40..]);
        add("certificate of the owner's CA", &installed.ldevid_chain[1].0[40..]);
        add("terminus", installed.terminus_urls[0].as_bytes());
        // Public areas in C1: the unique part, behind attributes that all devices share.
        for (what, public) in [("TLS key", &keys.tls.public), ("storage key", &keys.storage.public)] {
            add(what, &public[public.len() - 32..]);
        }
        for delivered in &installed.keys {
            add("delivered object", &delivered.blob.public[delivered.blob.public.len() - 32..]);
        }
    }
    let search = Search::new(&secrets).unwrap();
    let dir = site.owner("config-server");
    let found = found_in(&site, &search, "config-server", Some(&dir));
    assert_eq!(found, BTreeMap::new(), "the relay has seen what it must not");

    // The search sees what the relay does hold: its certificate, and a message of the queue as it came.
    let held = certificates(&dir.join("field.pem"))[0][40..].to_vec();
    let message =
        site.log.iter().find(|told| told.is("config-server", "frame")).unwrap().field("wire").to_owned();
    let held = Inventory::from([
        ("certificate".to_owned(), vec![hex::encode(held)]),
        ("message".to_owned(), vec![message]),
    ]);
    let found = found_in(&site, &Search::new(&held).unwrap(), "config-server", Some(&dir));
    assert!(found["certificate"].contains("memory (raw)"), "{found:?}");
    assert!(found["message"].iter().any(|place| place.starts_with("log")), "{found:?}");
    // And the endpoint manager, for whom the same things were meant, has them.
    let found = found_in(&site, &search, "endpoint-manager", Some(&site.owner("endpoint-manager")));
    for what in ["ek_name", "serial number", "terminus"] {
        assert!(found.contains_key(what), "{what} is not found where it must be: {found:?}");
    }
}
