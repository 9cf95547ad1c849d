//! The opened keystore of `keys-core`, and the data keys that wrap meter keys at rest: a new one takes over when the one
//! in use is a year old, and what former ones have wrapped is moved to it.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gridseal_crypto::{Key, role::KeystoreKek};
use gridseal_io::{clock::utc_now, rng::OsRng};
use gridseal_keys::{Approver, Core, DataKeysFile, Keystore, KeystoreFile};
use gridseal_store::GroupCommit;
use gridseal_trust::audit::{self, Act};
use gridseal_types::{
    UtcTime,
    records::{Durability, Overlay, Records},
};

use crate::{
    config,
    files::{Zone, parse_public_key, parse_voucher_key, read, read_if_there, write_atomic},
};

/// File with the data keys, wrapped. It belongs to the backups of the database.
const DATA_KEYS: &str = "data-keys.cbor";
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
        let file =
            minicbor::decode(&read(&dir.join("keystore.cbor"))?).context("keystore.cbor is no keystore")?;
        let data_keys = RefCell::new(DataKeysFile::new());
        Ok(Self { dir: dir.to_path_buf(), file, config: config.clone(), data_keys })
    }

    /// Opens the keystore, with a new data key where one is due. To be called by the only writer of the records.
    pub fn open<R: Records>(&self, group: &mut GroupCommit<R>) -> Result<Core> {
        let zone = Zone::open(&self.dir)?;
        let kek: Key<KeystoreKek, 32> = zone.dek().derive(&[KEK_LABEL]);
        let now = utc_now();
        let mut data_keys = self.load()?;
        if data_keys.is_due(now) {
            let id = data_keys.renew(&kek, self.file.tenant, now, &mut OsRng)?;
            // On disk before the first envelope under it is.
            self.save(&data_keys)?;
            let mut overlay = Overlay::new(&*group);
            let act = Act { actor: "keys", act: "data-key.renewed", subject: &id, detail: &"" };
            audit::append(&mut overlay, now, act)?;
            let writes = overlay.into_writes();
            group.submit(writes, Durability::Local).wait()?;
        }
        let opened = data_keys
            .open(&kek, self.file.tenant)
            .with_context(|| format!("{DATA_KEYS} does not open under zone.kek"))?;
        self.data_keys.replace(data_keys);
        let delegation = read(&self.dir.join("delegation.cbor"))?;
        let voucher_keys =
            self.config.voucher_keys.iter().map(|key| parse_voucher_key(key)).collect::<Result<_>>()?;
        let keystore = Keystore::open(&self.file, zone.into_dek(), delegation, voucher_keys)?;
        let core = Core::new(keystore, self.config.attestation_age_max_s).with_data_keys(opened);
        Ok(core.with_approvers(approvers(&self.config)?))
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

    fn load(&self) -> Result<DataKeysFile> {
        match read_if_there(&self.dir.join(DATA_KEYS))? {
            Some(bytes) => {
                minicbor::decode(&bytes).with_context(|| format!("{DATA_KEYS} holds no data keys"))
            }
            None => Ok(DataKeysFile::new()),
        }
    }

    fn save(&self, data_keys: &DataKeysFile) -> Result<()> {
        write_atomic(&self.dir.join(DATA_KEYS), &minicbor::to_vec(data_keys)?)
    }
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

/// Those whose consents count. One key under two names would make one person two.
fn approvers(config: &config::Keys) -> Result<Vec<Approver>> {
    let mut approvers: Vec<Approver> = Vec::new();
    for (name, key) in &config.approvers {
        let key = parse_public_key(key).with_context(|| format!("key of the approver {name}"))?;
        if name.trim().is_empty() || approvers.iter().any(|other| other.key == key) {
            bail!("the approver {name} has no name, or another's key");
        }
        approvers.push(Approver { name: name.trim().to_owned(), key });
    }
    Ok(approvers)
}
