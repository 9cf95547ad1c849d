//! What a meter and an owner do when files are lost, and when a person has to decide.

use std::{path::Path, process::Command, time::Duration};

use crate::site::{Plan, Site, set};

const PROGRAM: &str = env!("CARGO_BIN_EXE_gridseal");

/// Runs a command to its end within a time; its exit code and what it said.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new("timeout").arg("10").arg(PROGRAM).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn s1_a_meter_whose_counter_file_is_lost_refuses_to_seal_again() {
    let mut site = Site::new("storage", Plan { meters: 1, anchor: "software", ..Plan::default() });
    let serial = site.meters[0].clone();
    site.onboard(&serial);
    site.kill(&format!("meter {serial}"));
    let dir = site.factory(&serial);
    std::fs::remove_file(dir.join("push.cbor")).unwrap();
    let (code, said) = run(&["meter", "run", "--dir", text(&dir)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("push.cbor is gone"), "{said}");
    assert!(!said.contains("\"pushed\""), "nothing may be sealed: {said}");
}

#[test]
fn a_quarantined_device_onboards_only_after_a_person_has_released_it() {
    let mut site = Site::new("release", Plan { meters: 1, anchor: "software", ..Plan::default() });
    let serial = site.meters[0].clone();
    let manager = site.owner("endpoint-manager/config.toml");
    // A policy for another model: every measurement of this one is refused.
    let policy = site.owner("endpoint-manager/policy.cose");
    let right = std::fs::read(&policy).unwrap();
    site.kill("endpoint-manager");
    let (owner, factory) = (site.owner(""), site.factory(""));
    let replaced = [
        "ceremony",
        "configure",
        "--replace",
        "--model",
        "OTHER",
        "--out",
        text(&owner),
        "--factory",
        text(&factory),
    ];
    let kept: Vec<(std::path::PathBuf, Vec<u8>)> =
        ["keys", "pki", "config-server", "headend", "endpoint-manager"]
            .map(|name| site.owner(&format!("{name}/config.toml")))
            .into_iter()
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
    let (code, said) = run(&replaced);
    assert_eq!(code, Some(0), "{said}");
    for (path, bytes) in &kept {
        std::fs::write(path, bytes).unwrap();
    }
    site.start("endpoint-manager");
    site.start(&format!("meter {serial}"));
    site.expect("a quarantine", |told| told.is("endpoint-manager", "quarantined"));
    site.kill(&format!("meter {serial}"));
    let (code, said) = run(&["device", "show", "--config", text(&manager)]);
    assert!(code == Some(0) && said.contains("quarantined (E_POLICY)"), "{said}");

    // With the right policy again it is still held.
    site.kill("endpoint-manager");
    std::fs::write(&policy, right).unwrap();
    site.start("endpoint-manager");
    site.start(&format!("meter {serial}"));
    site.expect("a refusal", |told| {
        told.is("endpoint-manager", "refused") && told.field("code") == "E_STATE"
    });
    let (code, said) =
        run(&["device", "readmit", "--config", text(&manager), "--reason", "checked", "NOBODY"]);
    assert_eq!(code, Some(1), "{said}");
    let (code, said) =
        run(&["device", "readmit", "--config", text(&manager), "--reason", "checked", &serial]);
    assert_eq!(code, Some(0), "{said}");
    let name = format!("meter {serial}");
    let confirmed = site.wait(Duration::from_secs(30), |told| told.is(&name, "confirmed"));
    assert!(confirmed.is_some(), "{}", site.report(60));
    site.assert_audit();
}

#[test]
fn s1_a_key_store_that_is_in_use_older_damaged_or_without_its_marker_is_refused_with_a_code() {
    let mut site = Site::new("keystore", Plan { meters: 2, anchor: "software", ..Plan::default() });
    let config = site.owner("keys/config.toml");
    let core = || run(&["keys-core", "--config", text(&config)]);
    let (code, said) = core();
    assert!(code == Some(1) && said.contains("store.occupied"), "beside the one that runs: {said}");

    let serials = site.meters.clone();
    site.onboard(&serials[0]);
    site.kill("keys");
    let database = site.owner("keys/keys.db");
    let (code, said) = core();
    assert_eq!(code, Some(0), "it starts, and ends with its input: {said}");
    let older = std::fs::read(&database).unwrap();
    site.start("keys");
    site.onboard(&serials[1]);
    let pki = site.owner("pki/pki.db");
    let reach = ["key", "compromise", "--dry-run", "--json", "--pki-db", text(&pki), "ca/issuing"];
    let (code, said) = run(&reach);
    let devices = said.matches("\"holder\":\"device ").count();
    assert!(code == Some(0) && devices == 2 && said.contains("service headend"), "issued by: {said}");
    assert_eq!(run(&reach[..6]).0, Some(2), "no key is named");
    site.kill("keys");
    assert_eq!(core().0, Some(0));
    let newest = std::fs::read(&database).unwrap();

    // A bit of a row, in every eighth page.
    for offset in (8_000..newest.len()).step_by(8 * 4_096) {
        let mut flipped = newest.clone();
        flipped[offset] ^= 4;
        std::fs::write(&database, flipped).unwrap();
        let (code, said) = core();
        assert!(code == Some(0) || said.contains("store."), "byte {offset}: {said}");
    }
    std::fs::write(&database, &newest[..newest.len() / 2]).unwrap();
    let (code, said) = core();
    assert!(code == Some(1) && (said.contains("store.") || said.contains("malformed")), "{said}");

    std::fs::write(&database, &older).unwrap();
    let (code, said) = core();
    assert!(code == Some(1) && said.contains("store.stale"), "{said}");
    let mut numbers =
        said.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok());
    let [found, marker]: [u64; 2] = std::array::from_fn(|_| numbers.next().unwrap());
    let accept = |found: u64, marker: u64| set(&config, "accept_restored", &format!("[{found}, {marker}]"));
    for (found, marker) in [(found + 1, marker), (found, marker + 1), (found, 0)] {
        accept(found, marker);
        assert_eq!(core().0, Some(1), "others than were named are not accepted");
    }
    accept(found, marker);
    let (code, said) = core();
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&["audit", "--db", text(&database)]);
    assert!(code == Some(0) && said.contains("keys.restored"), "{said}");
    std::fs::write(&database, &older).unwrap();
    let (code, said) = core();
    assert!(code == Some(1) && said.contains("store.stale"), "accepted once only: {said}");
    std::fs::remove_file(site.owner("keys/keys.marker")).unwrap();
    let (code, said) = core();
    assert!(code == Some(1) && said.contains("store.marker_missing"), "{said}");
}

/// A log of three batches with an act after each.
fn log_of_batches(path: &Path) {
    use gridseal_trust::audit::{Act, Batch, Item, append, append_batch};
    use gridseal_types::{SystemTitle, UtcTime, records::Overlay};
    let mut records = gridseal_store::SqliteRecords::open(path).unwrap();
    for number in 0..3 {
        records
            .transact(|view| {
                let mut overlay = Overlay::new(view);
                let mut batch = Batch::new();
                for counter in 0..40 {
                    let (system_title, tag) = (SystemTitle([7; 8]), [number; 8]);
                    batch.push(&Item { operation: 2, system_title, version: 1, counter, verdict: 1, tag });
                }
                let act = Act { actor: "keys", act: "tested", subject: &"", detail: &"" };
                append_batch(&mut overlay, UtcTime(7), act, batch)?;
                append(&mut overlay, UtcTime(7), act)?;
                Ok::<_, gridseal_types::records::RecordsError>((overlay.into_writes(), ()))
            })
            .unwrap();
    }
}

#[test]
fn a_log_proves_its_apdus_and_names_the_place_where_it_was_tampered_with() {
    use gridseal_trust::audit::{AUDIT, AUDIT_BATCH};
    use gridseal_types::records::{Commit, Records, Write};
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("audit-batches");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("keys.db");
    log_of_batches(&path);
    let audit = |more: &[&str]| run(&[&["audit", "--db", text(&path)], more].concat());
    let (code, said) = audit(&[]);
    assert!(code == Some(0) && said.contains("6 entries, chain whole, 3 batches"), "{said}");
    let head = said.lines().find_map(|line| line.strip_prefix("head ")).unwrap().to_owned();
    assert_eq!(audit(&["--continues", &head]).0, Some(0));
    let (code, said) = audit(&["--continues", &head.replace("6:", "5:")]);
    assert!(code == Some(2) && said.contains("first 5 entries"), "{said}");
    assert_eq!(audit(&["--continues", "6"]).0, Some(2), "a malformed head");
    let (code, said) = audit(&["--prove", "3:37"]);
    assert!(code == Some(0) && said.contains("\"counter\":37"), "{said}");
    assert_eq!(audit(&["--prove", "3:40"]).0, Some(1));
    assert_eq!(audit(&["--prove", "2:0"]).0, Some(1));

    let mut records = gridseal_store::SqliteRecords::open(&path).unwrap();
    let mut tampered = |table, sequence: u64, index: usize| {
        let key = sequence.to_be_bytes().to_vec();
        let whole = records.get(table, &key).unwrap();
        let mut value = whole.clone().unwrap();
        value[index] ^= 1;
        let write = |value| vec![Write { table, key: key.clone(), value }];
        records.commit(write(Some(value))).unwrap();
        let changed = audit(&[]);
        records.commit(write(None)).unwrap();
        let removed = audit(&[]);
        records.commit(write(whole)).unwrap();
        [changed, removed].map(|(code, said)| {
            assert_eq!(code, Some(2), "{said}");
            said
        })
    };
    let [changed, removed] = tampered(AUDIT_BATCH, 3, 500);
    assert!(changed.contains("items of audit entry 3 do not have its root"), "{changed}");
    assert!(removed.contains("items of audit entry 3 are missing"), "{removed}");
    let [changed, removed] = tampered(AUDIT, 4, 30);
    assert!(
        changed.contains("breaks at entry") && removed.contains("breaks at entry 4"),
        "{changed}{removed}"
    );
    assert_eq!(audit(&[]).0, Some(0));
}

#[test]
fn loose_key_files_empty_logs_used_evidence_and_second_copies_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new("guards", Plan { meters: 1, anchor: "software", ..Plan::default() });
    let manager = site.owner("endpoint-manager/config.toml");
    let (code, said) = run(&["endpoint-manager", "--config", text(&manager)]);
    assert!(code == Some(1) && said.contains("another process works in"), "{said}");

    let key = site.owner("headend/zone.kek");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = run(&["readings", "--dir", text(&site.owner("headend"))]);
    assert!(code == Some(1) && said.contains("may be read by others"), "{said}");

    let log = site.owner("empty.db");
    std::fs::write(&log, []).unwrap();
    let (code, said) = run(&["audit", "--db", text(&log)]);
    assert!(code == Some(1) && said.contains("is empty"), "{said}");
    let (code, said) = run(&["audit", "--db", text(&site.owner("absent.db"))]);
    assert!(code == Some(1) && said.contains("does not exist"), "{said}");
    assert!(!site.owner("absent.db").exists(), "a look must not make the file");

    let (code, said) = run(&["demo", "--for", "1", "--evidence", text(&site.owner("headend"))]);
    assert!(code == Some(1) && said.contains("is not empty"), "{said}");
}
