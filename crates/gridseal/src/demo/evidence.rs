//! What a run leaves for an outside script: event and frame logs, audit logs, records, TPM state, and the search for keys
//! in the head-end.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use gridseal_io::rng::OsRng;
use gridseal_store::SqliteRecords;

use super::{
    Outcome,
    fleet::{Checks, Fleet, audit_logs},
    scan::{Found, Inventory, Search},
};
use crate::{files::write_atomic, tools};

/// Roles of which one key each is planted in the head-end, to prove that the search would find it.
const ROLES: [&str; 14] = [
    "ActivationSecret",
    "AuthValue",
    "ConfigSigning",
    "Dek",
    "DlmsSigning",
    "Gak",
    "Guek",
    "Kek",
    "OwnerEncryption",
    "OwnerSecret",
    "Seal",
    "SessionSecret",
    "TpmSeed",
    "TpmSession",
];

/// Writes keys of no use to anybody, one per role, for the head-end to keep. `None` when no evidence is wanted.
pub(super) fn plant(fleet: &Fleet, headend: &Path) -> Result<Option<PathBuf>> {
    if !fleet.options.with_inventory {
        return Ok(None);
    }
    let mut planted = BTreeMap::new();
    for role in ROLES {
        let size = if matches!(role, "Gak" | "Guek" | "Kek") { 16 } else { 32 };
        let mut key = vec![0; size];
        gridseal_crypto::Rng::fill(&mut OsRng, &mut key)?;
        planted.insert(role, hex::encode(key));
    }
    // Beside the head-end's directory: the search of its files must not find the list itself.
    write_atomic(&headend.with_file_name("planted.json"), &serde_json::to_vec(&planted)?)?;
    Ok(Some("../planted.json".into()))
}

/// Searches memory and files of the running head-end for every key of the run, and for the planted ones.
pub(super) fn search_headend(fleet: &Fleet, checks: &mut Checks) -> Result<()> {
    let owner = fleet.dir.join("owner");
    let inventory: Inventory =
        serde_json::from_slice(&crate::files::read(&owner.join("keys/inventory.json"))?)?;
    let planted: BTreeMap<String, String> =
        serde_json::from_slice(&crate::files::read(&owner.join("planted.json"))?)?;
    let search = Search::new(&inventory)?;
    let planted = planted.into_iter().map(|(role, key)| (role, vec![key])).collect();
    let planted_search = Search::new(&planted)?;
    let headend = fleet.process_id("headend").context("head-end is not running")?;
    let (mut found, mut found_planted) = (Vec::new(), Vec::new());
    let memory = search.memory(headend, &mut found)?;
    let files = search.files(&owner.join("headend"), &mut found)?;
    planted_search.memory(headend, &mut found_planted)?;
    planted_search.files(&owner.join("headend"), &mut found_planted)?;
    for line in fleet.log.iter().filter(|line| line.process == "headend") {
        search.bytes("log", line.json.to_string().as_bytes(), &mut found);
    }
    for (role, places) in places(&found) {
        checks.problems.push(format!("head-end holds a key of role {role}: {places:?}"));
    }
    let seen = places(&found_planted);
    for role in ROLES {
        let in_both = ["memory", "file planted.bin"]
            .iter()
            .all(|place| seen.get(role).is_some_and(|places| places.iter().any(|found| found == place)));
        if !in_both {
            checks.problems.push(format!("the search does not find the planted key of role {role}"));
        }
        if !inventory.contains_key(role) {
            checks.problems.push(format!("the inventory has no key of role {role}"));
        }
    }
    checks.key_search = Some(serde_json::json!({
        "process": "headend",
        "keys": search.key_count(),
        "roles": inventory.len(),
        "bytes_of_memory": memory,
        "bytes_of_files": files,
        "found": places(&found).len(),
        "planted": ROLES.len(),
        "planted_found": seen.len(),
    }));
    Ok(())
}

fn places(found: &[Found]) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Found { role, place, .. } in found {
        let of = places.entry(role.clone()).or_default();
        if !of.contains(place) {
            of.push(place.clone());
        }
    }
    places
}

/// Copies what was recorded.
pub(super) fn leave(fleet: &Fleet, to: &Path, checks: &Checks, outcome: &Outcome) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let lines: Vec<String> = fleet.log.iter().map(|line| line.json.to_string()).collect();
    // What attackers sent is kept apart: who reads the rest need not know their tricks.
    let (honest, attacked) = lines.split_at(fleet.attacked_from.unwrap_or(lines.len()).min(lines.len()));
    write_atomic(&to.join("events.jsonl"), (honest.join("\n") + "\n").as_bytes())?;
    if !attacked.is_empty() {
        write_atomic(&to.join("attacks/events.jsonl"), (attacked.join("\n") + "\n").as_bytes())?;
    }
    let frames: Vec<String> = fleet
        .pairs
        .iter()
        .map(|(frame, reading)| {
            serde_json::json!({
                "sealed": frame, "meter": reading.key.meter.to_string(), "start": reading.key.start.to_string(),
                "obis": reading.key.obis.to_string(), "value": reading.value, "unit": reading.unit.symbol(),
            })
            .to_string()
        })
        .collect();
    write_atomic(&to.join("frames.jsonl"), (frames.join("\n") + "\n").as_bytes())?;
    for (name, path) in audit_logs(&fleet.dir) {
        if let Ok(log) = tools::audit::checked(&SqliteRecords::open(&path)?)? {
            let text: Vec<String> =
                log.chain.iter().map(|entry| tools::audit::to_json(entry).to_string()).collect();
            write_atomic(&to.join(format!("audit-{name}.jsonl")), (text.join("\n") + "\n").as_bytes())?;
        }
    }
    let owner = fleet.dir.join("owner");
    fs::copy(owner.join("keys/inventory.json"), to.join("inventory.json"))?;
    fs::copy(owner.join("planted.json"), to.join("planted.json"))?;
    copy_tree(&owner, &to.join("owner"))?;
    copy_tree(&fleet.dir.join("factory"), &to.join("factory"))?;
    let summary = serde_json::json!({
        "onboarded": outcome.onboarded(), "readings": checks.readings, "key_search": checks.key_search,
        "problems": checks.problems,
    });
    write_atomic(&to.join("summary.json"), &serde_json::to_vec_pretty(&summary)?)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_tree(&from, &to)?;
        } else if from.is_file() {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}
