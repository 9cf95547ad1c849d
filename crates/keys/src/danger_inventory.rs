//! Every key this service knows, in hex: so that a demo or a test can search other processes' memory, files and packets
//! for its own throw-away keys. Built only with the feature `danger-inventory`.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use gridseal_crypto::{
    Key,
    role::{ActivationSecret, AuthValue, Ephemeral, Gak, Guek, Kek, TpmSeed, TpmSession},
};
use gridseal_trust::enrol::secrets::{OwnerSecretExt, SessionSecretExt};
use gridseal_types::{
    EkName,
    records::{Records, RecordsError, Table},
    service::keys::{Bytes, KeyKind},
};

use crate::{
    Core, KeysError, MeterKey,
    device::key_context,
    record::{
        CHANGES, ChangeEntry, DEVICES, DeviceEntry, ORDERS, OrderEntry, SESSIONS, SessionEntry, VERSIONS,
        VersionEntry, context, ephemeral_context, opened,
    },
};

/// Keys by role, in hex.
pub type Inventory = BTreeMap<&'static str, Vec<String>>;

/// Rows read at a time.
const STEP: usize = 256;

fn rows<T: for<'b> minicbor::Decode<'b, ()>>(
    records: &impl Records,
    table: Table,
) -> Result<Vec<(Vec<u8>, T)>, RecordsError> {
    let mut all = Vec::new();
    let mut after: Vec<u8> = Vec::new();
    loop {
        let step = records.range(table, &after, STEP)?;
        let Some((last, _)) = step.last() else { return Ok(all) };
        after.clone_from(last);
        for (key, value) in step {
            all.push((key, minicbor::decode(&value).map_err(|_| RecordsError::Damaged)?));
        }
    }
}

impl Core {
    /// Every key of this service's own, of its devices and of their sessions.
    ///
    /// # Errors
    /// [`KeysError`] when a record cannot be read or opened.
    pub fn danger_inventory(&self, records: &impl Records) -> Result<Inventory, KeysError> {
        let mut inventory = Inventory::new();
        for (role, key) in self.keystore.danger_inventory() {
            inventory.entry(role).or_default().push(key.clone());
        }
        let dek = &self.keystore.dek;
        let tenant = &self.keystore.tenant;
        let mut epochs: BTreeMap<EkName, DeviceEntry> = BTreeMap::new();
        for (_, entry) in rows::<DeviceEntry>(records, DEVICES)? {
            if entry.secret.0.is_empty() {
                epochs.insert(entry.device, entry);
                continue;
            }
            let context = context(tenant, &entry.device, entry.epoch);
            let secret: Key<gridseal_crypto::role::OwnerSecret, 32> = opened(dek, &context, &entry.secret)?;
            inventory.entry("OwnerSecret").or_default().push(secret.danger_reveal_hex());
            for auth in entry.auth.iter().chain(&entry.auth_next).flatten() {
                let auth: Key<AuthValue, 32> = opened(dek, &context, auth)?;
                inventory.entry("AuthValue").or_default().push(auth.danger_reveal_hex());
            }
            epochs.insert(entry.device, entry);
        }
        for (key, version) in rows::<VersionEntry>(records, VERSIONS)? {
            let name = key.get(..EkName::SIZE).and_then(EkName::from_slice).ok_or(RecordsError::Damaged)?;
            let device = epochs.get(&name).ok_or(RecordsError::Damaged)?;
            if version.envelope.0.is_empty() {
                continue;
            }
            let revealed = self.danger_version_key(device, &version)?;
            let role = match version.kind {
                KeyKind::Gak => "Gak",
                KeyKind::Kek => "Kek",
                _ => "Guek",
            };
            inventory.entry(role).or_default().push(revealed);
        }
        for (_, change) in rows::<ChangeEntry>(records, CHANGES)? {
            let ephemeral = self.danger_ephemeral(&change)?;
            ephemeral.into_iter().for_each(|key| inventory.entry("Ephemeral").or_default().push(key));
        }
        for (_, session) in rows::<SessionEntry>(records, SESSIONS)? {
            self.danger_session(&epochs, &session, &mut inventory)?;
        }
        for (_, order) in rows::<OrderEntry>(records, ORDERS)? {
            self.danger_order(&epochs, &order, &mut inventory)?;
        }
        Ok(inventory)
    }

    /// The key of one version of a device, in hex.
    ///
    /// # Errors
    /// [`KeysError::Keystore`] when its envelope does not open.
    pub fn danger_version_key(
        &self,
        device: &DeviceEntry,
        version: &VersionEntry,
    ) -> Result<String, KeysError> {
        let (dek, context) = (&self.keystore.dek, key_context(&self.keystore, device, version));
        let envelope = &version.envelope;
        Ok(match version.kind {
            KeyKind::Gak => MeterKey::<Gak>::open(dek, &context, envelope)?.danger_reveal_hex(),
            KeyKind::Kek => MeterKey::<Kek>::open(dek, &context, envelope)?.danger_reveal_hex(),
            _ => MeterKey::<Guek>::open(dek, &context, envelope)?.danger_reveal_hex(),
        })
    }

    fn danger_ephemeral(&self, change: &ChangeEntry) -> Result<Option<String>, KeysError> {
        let Some(agreement) = change.agreement.as_ref().filter(|agreement| !agreement.ephemeral.0.is_empty())
        else {
            return Ok(None);
        };
        let (dek, sealed) = (&self.keystore.dek, &agreement.ephemeral);
        let context = ephemeral_context(&self.keystore.tenant, change);
        let revealed = if change.suite == 2 {
            opened::<Ephemeral, 48>(dek, &context, sealed)?.danger_reveal_hex()
        } else {
            opened::<Ephemeral, 32>(dek, &context, sealed)?.danger_reveal_hex()
        };
        Ok(Some(revealed))
    }

    fn danger_session(
        &self,
        devices: &BTreeMap<EkName, DeviceEntry>,
        session: &SessionEntry,
        inventory: &mut Inventory,
    ) -> Result<(), KeysError> {
        let entry = devices.get(&session.device).ok_or(RecordsError::Damaged)?;
        let dek = &self.keystore.dek;
        let context = context(&self.keystore.tenant, &session.device, entry.epoch);
        let activation: Key<ActivationSecret, 32> = opened(dek, &context, &session.activation)?;
        let secret: Key<gridseal_crypto::role::OwnerSecret, 32> = opened(dek, &context, &entry.secret)?;
        let root = secret.session(&session.th2, &activation);
        inventory.entry("ActivationSecret").or_default().push(activation.danger_reveal_hex());
        inventory.entry("SessionSecret").or_default().push(root.danger_reveal_hex());
        let seals = [root.device_to_owner(), root.owner_to_device()];
        inventory.entry("Seal").or_default().extend(seals.iter().map(Key::danger_reveal_hex));
        for salt in &session.salts {
            let salt: Key<TpmSeed, 32> = opened(dek, &context, salt)?;
            inventory.entry("TpmSeed").or_default().push(salt.danger_reveal_hex());
        }
        let tunnels = session.commands.iter().flatten();
        for Bytes(wrapped) in tunnels.map(|tunnel| tunnel.session_key.clone()) {
            let key: Key<TpmSession, 32> = opened(dek, &context, &Bytes(wrapped))?;
            inventory.entry("TpmSession").or_default().push(key.danger_reveal_hex());
        }
        Ok(())
    }

    fn danger_order(
        &self,
        devices: &BTreeMap<EkName, DeviceEntry>,
        order: &OrderEntry,
        inventory: &mut Inventory,
    ) -> Result<(), KeysError> {
        let entry = devices.get(&order.device).ok_or(RecordsError::Damaged)?;
        if entry.epoch != order.epoch {
            return Ok(());
        }
        let dek = &self.keystore.dek;
        let context = context(&self.keystore.tenant, &order.device, entry.epoch);
        let secret: Key<gridseal_crypto::role::OwnerSecret, 32> = opened(dek, &context, &entry.secret)?;
        let seal = secret.seal_order(order.seq, &order.r);
        inventory.entry("Seal").or_default().push(seal.danger_reveal_hex());
        for salt in &order.salts {
            let salt: Key<TpmSeed, 32> = opened(dek, &context, salt)?;
            inventory.entry("TpmSeed").or_default().push(salt.danger_reveal_hex());
        }
        for tunnel in &order.tunnels {
            let key: Key<TpmSession, 32> = opened(dek, &context, &tunnel.session_key)?;
            inventory.entry("TpmSession").or_default().push(key.danger_reveal_hex());
        }
        Ok(())
    }
}
