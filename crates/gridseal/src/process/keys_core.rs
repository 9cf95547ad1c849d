//! `gridseal keys-core`: started by `gridseal keys`, speaks over its standard input and output, has no network.

use std::{
    io::{BufReader, BufWriter},
    path::Path,
};

use anyhow::{Context, Result};
use gridseal_io::{clock::utc_now, confine, rng::OsRng};
use gridseal_keys::{Core, KeysError, Keystore, KeystoreFile, Service, site::Site};
use gridseal_store::{Claim, ClaimError, SoleWriter, SqliteRecords, record_tag_key};
use gridseal_trust::audit::{self, Act};
use gridseal_types::{
    records::{Overlay, RecordsError},
    service::{Batch, keys::KeyRequest},
};

use crate::{
    config,
    files::{Zone, parse_voucher_key, read, read_if_there, write_atomic},
    process::keys::{read_frame, write_frame},
};

/// File with the epoch of this site, outside the database.
const SITE_EPOCH: &str = "site-epoch";
/// Batches after which the traffic log is folded into rows, and rows for each step.
const FOLD_EVERY: u32 = 64;
const FOLD_ROWS: usize = 256;

/// Runs the core until its input ends.
pub fn run(path: &Path) -> Result<()> {
    let (config, dir): (config::Keys, _) = config::load(path)?;
    keep_secrets_in_memory(&config)?;
    let file: KeystoreFile =
        minicbor::decode(&read(&dir.join("keystore.cbor"))?).context("keystore.cbor is no keystore")?;
    let delegation = read(&dir.join("delegation.cbor"))?;
    let voucher_keys = config.voucher_keys.iter().map(|key| parse_voucher_key(key)).collect::<Result<_>>()?;
    let mut records = open_records(&config, &dir)?;
    let keystore = Keystore::open(&file, Zone::open(&dir)?.into_dek(), delegation, voucher_keys)?;
    let core = Core::new(keystore, config.attestation_age_max_s);
    let epoch_file = dir.join(SITE_EPOCH);
    let site = Site { marker: site_epoch(&epoch_file)?, ..Site::single(Core::CLIENT_TITLE) };
    let mut service = Service::load(&core, &records, site, &mut OsRng)?;
    confine::filter_system_calls()?;
    let mut input = BufReader::new(std::io::stdin().lock());
    let mut output = BufWriter::new(std::io::stdout().lock());
    let mut frames = 0u32;
    while let Some(frame) = read_frame(&mut input)? {
        let Batch(requests): Batch<KeyRequest> = minicbor::decode(&frame)?;
        // After an error what is in memory is ahead of what is on record: the process ends, and is started again.
        let replies = records.transact(|view| {
            let decision = service.decide(view, utc_now(), &mut OsRng, requests)?;
            if let Some(epoch) = decision.marker {
                write_atomic(&epoch_file, epoch.to_string().as_bytes()).map_err(|_| RecordsError::Failed)?;
            }
            Ok::<_, KeysError>((decision.writes, decision.replies))
        })?;
        if let Some(inventory) = &config.danger_inventory {
            danger_write_inventory(&core, &records, &dir.join(inventory))?;
        }
        write_frame(&mut output, &minicbor::to_vec(Batch(replies))?)?;
        frames = frames.wrapping_add(1);
        if frames.is_multiple_of(FOLD_EVERY) || service.is_folding() {
            records
                .transact(|view| Ok::<_, RecordsError>((service.fold(view, utc_now(), FOLD_ROWS)?, ())))?;
        }
    }
    Ok(())
}

fn site_epoch(path: &Path) -> Result<Option<u32>> {
    let Some(text) = read_if_there(path)? else { return Ok(None) };
    let epoch = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    Ok(Some(epoch.with_context(|| format!("{} holds no epoch", path.display()))?))
}

/// Opens the key store as its only writer: authenticated, and not older than its marker.
fn open_records(config: &config::Keys, dir: &Path) -> Result<SqliteRecords> {
    let tags = record_tag_key(Zone::open(dir)?.dek());
    let records = SqliteRecords::open(dir.join("keys.db")).context("cannot open the key store")?;
    let mut records = records.authenticated_by(tags);
    let marker = dir.join(&config.marker);
    let is_first = !marker.exists();
    let claimed = match records.claim(Claim::IfFree, &marker) {
        // Written before rows were authenticated; with a marker that would be an attack.
        Err(ClaimError::Unauthenticated) if is_first => {
            records.claim(Claim::Adopt, &marker).map(|_| Some("keys.adopted"))
        }
        Err(error) if config.accept_restored.is_some() && config.accept_restored == stands_at(&error) => {
            records.claim(Claim::Restored, &marker).map(|_| Some("keys.restored"))
        }
        claimed => claimed.map(|_| None),
    };
    let told = claimed.map_err(|error| {
        let code = error.code();
        anyhow::Error::new(error).context(format!("cannot claim the key store ({code})"))
    })?;
    if let Some(act) = told {
        records.transact(|view| {
            let mut overlay = Overlay::new(view);
            let act = Act { actor: "keys", act, subject: &"keys.db", detail: &"" };
            audit::append(&mut overlay, utc_now(), act)?;
            Ok::<_, RecordsError>((overlay.into_writes(), ()))
        })?;
    }
    Ok(records)
}

/// Where a database and its marker stand that do not belong together.
const fn stands_at(error: &ClaimError) -> Option<[u64; 2]> {
    match error {
        ClaimError::Stale { found, marker } => Some([*found, *marker]),
        ClaimError::MarkerMissing { found } => Some([*found, 0]),
        _ => None,
    }
}

/// Before the first key is opened: no dumps, no swap.
fn keep_secrets_in_memory(config: &config::Keys) -> Result<()> {
    confine::forbid_dumps()?;
    match confine::lock_memory() {
        // An operator who wants this for test machines says so; the front of the service tells it.
        Err(_) if config.danger_unlocked_memory => Ok(()),
        done => Ok(done?),
    }
}

#[cfg(feature = "danger-inventory")]
fn danger_write_inventory(core: &Core, records: &SqliteRecords, path: &Path) -> Result<()> {
    let inventory = core.danger_inventory(records)?;
    crate::files::write_atomic(path, &serde_json::to_vec_pretty(&inventory)?)
}

#[cfg(not(feature = "danger-inventory"))]
fn danger_write_inventory(_: &Core, _: &SqliteRecords, _: &Path) -> Result<()> {
    anyhow::bail!("this build cannot write an inventory of its keys")
}
