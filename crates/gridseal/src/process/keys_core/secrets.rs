//! The opened keystore of `keys-core`, and the data keys that wrap meter keys at rest: a new one takes over when the one
//! in use is a year old, and what former ones have wrapped is moved to it.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use gridseal_crypto::{Key, role::KeystoreKek};
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_keys::{
    Approver, Core, DataKeysFile, KeysError, Keystore, KeystoreFile, PartyAnchors, needs_data_keys,
};
use gridseal_store::GroupCommit;
use gridseal_trust::{
    audit::{self, Act},
    party::Certificate,
};
use gridseal_types::{
    UtcTime,
    records::{Durability, Overlay, Records, RecordsError},
};

use crate::{
    config,
    fault::{Coded, coded},
    files::{self, Zone, parse_public_key, parse_voucher_key, read, read_if_there, write_atomic},
    setup::owner::PARTY_SUITES,
};

/// File with the data keys, wrapped. It belongs to the backups of the database.
const DATA_KEYS: &str = "data-keys.cbor";
/// Files with the service's own keys, wrapped, and with the owner's delegation to them.
const KEYSTORE: &str = "keystore.cbor";
const DELEGATION: &str = "delegation.cbor";
/// The one by the owner's next key, while devices are rekeyed.
const DELEGATION_NEXT: &str = "delegation-next.cbor";
/// What the key is derived under that wraps data keys, from the key file of the directory.
const KEK_LABEL: &[u8] = b"gs-data-keys-v1";

/// Where the service's own secrets are.
pub struct Secrets {
    dir: PathBuf,
    file: KeystoreFile,
    config: config::Keys,
    /// As they lie on disk since this process has claimed the records.
    data_keys: RefCell<DataKeysFile>,
}

impl Secrets {
    /// Reads the keystore; opens nothing.
    pub fn new(config: &config::Keys, dir: &Path) -> Result<Self> {
        files::refuse_exposed(&dir.join(DATA_KEYS), 0o077)?;
        let path = dir.join(KEYSTORE);
        let file = minicbor::decode(&read(&path)?).with_context(|| Coded {
            code: "keys.keystore",
            message: format!("{} is no keystore", path.display()),
        })?;
        let data_keys = RefCell::new(DataKeysFile::new());
        Ok(Self { dir: dir.to_path_buf(), file, config: config.clone(), data_keys })
    }

    /// Whether all is there that opens what is on record. Changes nothing.
    pub fn check(&self, records: &impl Records) -> Result<()> {
        let zone = Zone::open(&self.dir)?;
        match self.load()? {
            Some(data_keys) => drop(self.open_data_keys(&data_keys, &kek(&zone))?),
            None if needs_data_keys(records)? => {
                let path = self.dir.join(DATA_KEYS);
                let message = format!(
                    "{} is missing, and keys on record are wrapped under it: put it back from the backup",
                    path.display()
                );
                return Err(coded("keys.data_keys_missing", message));
            }
            None => {}
        }
        approvers(&self.config)?;
        self.keystore(zone).map(drop)
    }

    /// Opens the keystore, with a new data key where one is due. To be called by the only writer of the records.
    pub fn open<R: Records>(&self, group: &mut GroupCommit<R>) -> Result<Core> {
        let zone = Zone::open(&self.dir)?;
        let kek = kek(&zone);
        let now = utc_now();
        let mut data_keys = self.load()?.unwrap_or_default();
        if data_keys.is_due(now) {
            let id = data_keys.renew(&kek, self.file.tenant, now, &mut OsRng)?;
            // On disk before the first envelope under it is.
            self.save(&data_keys)?;
            note(group, "data-key.renewed", &id)?;
        }
        let opened = self.open_data_keys(&data_keys, &kek)?;
        self.data_keys.replace(data_keys);
        let core = Core::new(self.keystore(zone)?, self.config.attestation_age_max_s).with_data_keys(opened);
        Ok(core.with_approvers(approvers(&self.config)?).with_parties(self.parties()?))
    }

    fn open_data_keys(
        &self,
        data_keys: &DataKeysFile,
        kek: &Key<KeystoreKek, 32>,
    ) -> Result<gridseal_keys::DataKeys> {
        data_keys.open(kek, self.file.tenant).with_context(|| Coded {
            code: "keys.data_keys",
            message: format!("{} does not open under zone.kek", self.dir.join(DATA_KEYS).display()),
        })
    }

    fn keystore(&self, zone: Zone) -> Result<Keystore> {
        let delegation = read(&self.dir.join(DELEGATION))?;
        let voucher_keys =
            self.config.voucher_keys.iter().map(|key| parse_voucher_key(key)).collect::<Result<_>>()?;
        let keystore =
            Keystore::open(&self.file, zone.into_dek(), delegation, voucher_keys).map_err(|error| {
                let (code, name, what) = match error {
                    KeysError::Delegation => {
                        ("keys.delegation", DELEGATION, "is no delegation to this keystore")
                    }
                    _ => ("keys.keystore", KEYSTORE, "does not open under zone.kek"),
                };
                coded(code, format!("{} {what}", self.dir.join(name).display()))
            })?;
        let next = self.dir.join(DELEGATION_NEXT);
        let Some(signed) = read_if_there(&next)? else { return Ok(keystore) };
        keystore.with_next_delegation(signed).map_err(|_| {
            coded("keys.delegation", format!("{} is no delegation to this keystore", next.display()))
        })
    }

    /// Who certifies the signing keys of meters: the owner's authorities beside the keystore, and those of manufacturers
    /// that the configuration names.
    fn parties(&self) -> Result<PartyAnchors> {
        let mut parties = PartyAnchors::none();
        for suite in PARTY_SUITES {
            for (name, to) in [("party", &mut parties.owner), ("client", &mut parties.client)] {
                let path = self.dir.join(format!("{name}-{suite}.der"));
                if let Some(der) = read_if_there(&path)? {
                    to.push(party_certificate(&path, &der)?);
                }
            }
        }
        for path in &self.config.meter_authorities {
            let path = self.dir.join(path);
            parties.vendors.push(party_certificate(&path, &read(&path)?)?);
        }
        Ok(parties)
    }

    /// Whether the data key in use has been so for its period.
    pub fn is_due(&self, now: UtcTime) -> bool {
        self.data_keys.borrow().is_due(now)
    }

    /// Forgets the data keys before the last: whatever they wrapped is wrapped anew. The last one is kept as long as the
    /// one in use is, for a database that is restored from a backup.
    pub fn forget_outdated(&self) -> Result<()> {
        let mut data_keys = self.data_keys.borrow_mut();
        if data_keys.destroy_before_last() {
            self.save(&data_keys)?;
        }
        Ok(())
    }

    fn load(&self) -> Result<Option<DataKeysFile>> {
        let path = self.dir.join(DATA_KEYS);
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let data_keys = minicbor::decode(&bytes).with_context(|| Coded {
            code: "keys.data_keys",
            message: format!("{} holds no data keys", path.display()),
        })?;
        Ok(Some(data_keys))
    }

    fn save(&self, data_keys: &DataKeysFile) -> Result<()> {
        write_atomic(&self.dir.join(DATA_KEYS), &minicbor::to_vec(data_keys)?)
    }
}

fn kek(zone: &Zone) -> Key<KeystoreKek, 32> {
    zone.dek().derive(&[KEK_LABEL])
}

/// Makes an entry in the audit log, beside what the service decides; durable when this returns.
pub fn note<R: Records>(
    group: &mut GroupCommit<R>,
    act: &str,
    subject: &dyn std::fmt::Display,
) -> Result<(), RecordsError> {
    let mut overlay = Overlay::new(&*group);
    audit::append(&mut overlay, utc_now(), Act { actor: "keys", act, subject, detail: &"" })?;
    let writes = overlay.into_writes();
    group.submit(writes, Durability::Local).wait()
}

#[cfg(feature = "danger-inventory")]
pub fn danger_write_inventory(core: &Core, records: &impl Records, path: &Path) -> Result<()> {
    let inventory = core.danger_inventory(records)?;
    write_atomic(path, &serde_json::to_vec_pretty(&inventory)?)
}

#[cfg(not(feature = "danger-inventory"))]
pub fn danger_write_inventory(_: &Core, _: &impl Records, _: &Path) -> Result<()> {
    anyhow::bail!("this build cannot write an inventory of its keys")
}

fn party_certificate(path: &Path, der: &[u8]) -> Result<Certificate> {
    Certificate::parse(der).with_context(|| format!("{} is no certificate", path.display()))
}

/// Those whose consents count. One key under two names would make one person two.
fn approvers(config: &config::Keys) -> Result<Vec<Approver>> {
    let mut approvers: Vec<Approver> = Vec::new();
    for (name, key) in &config.approvers {
        let refused =
            |what: &str| Coded { code: "keys.approver", message: format!("the approver {name} {what}") };
        let key = parse_public_key(key).with_context(|| refused("has no usable key"))?;
        if name.trim().is_empty() || approvers.iter().any(|other| other.key == key) {
            return Err(refused("has no name, or another's key").into());
        }
        approvers.push(Approver { name: name.trim().to_owned(), key });
    }
    Ok(approvers)
}
