//! Moves what former data keys have wrapped under the one in use, a few rows at a time, so that a former key can be
//! destroyed. The job keeps its place on record and goes on after a restart.

use alloc::vec::Vec;

use gridseal_crypto::{
    EnvelopeContext, Rng, WrappedKey,
    role::{ActivationSecret, AuthValue, Ephemeral, Gak, Guek, Kek, OwnerSecret, Role, TpmSeed, TpmSession},
};
use gridseal_trust::audit::{self, Act};
use gridseal_types::{
    EkName, UtcTime,
    records::{Overlay, Records, RecordsError, Table, Write},
    service::keys::{Bytes, KeyKind},
};

use crate::{
    Core, DataKeys, KeysError,
    device::key_context,
    record::{
        CHANGES, ChangeEntry, DEVICES, DeviceEntry, ORDERS, OrderEntry, SESSIONS, SessionEntry, VERSIONS,
        VersionEntry, context, ephemeral_context,
    },
};

/// Table of the job's place: one row, empty key.
const REWRAP: Table = "key_rewrap";
/// Tables with envelopes.
const TABLES: [Table; 5] = [DEVICES, SESSIONS, VERSIONS, ORDERS, CHANGES];

/// Where the job is.
#[derive(Debug, Clone, minicbor::Encode, minicbor::Decode)]
struct Place {
    /// Data key that it moves everything to.
    #[n(0)]
    to: u64,
    /// Index into [`TABLES`]; their number when it is done.
    #[n(1)]
    table: u32,
    /// Last row that was looked at.
    #[n(2)]
    after: Bytes,
    /// Envelopes moved so far.
    #[n(3)]
    moved: u64,
    /// Envelopes that open neither here nor for the service: of sessions of an owner before.
    #[n(4)]
    left: u64,
}

/// What one step of the job comes to: commit `writes` in one transaction.
#[derive(Debug)]
pub struct RewrapStep {
    /// Changes.
    pub writes: Vec<Write>,
    /// Nothing is left to do: no row that opens is wrapped under a former data key.
    pub is_done: bool,
    /// Envelopes moved since the job began.
    pub moved: u64,
    /// Envelopes that do not open and were left as they are: of sessions of an owner before.
    pub left: u64,
}

/// Envelopes of one row.
struct Mover<'m> {
    core: &'m Core,
    rng: &'m mut dyn Rng,
    moved: u64,
    left: u64,
}

impl Mover<'_> {
    fn envelope<R: Role>(
        &mut self,
        bytes: &mut Bytes,
        device: &EkName,
        version: u32,
    ) -> Result<(), KeysError> {
        self.envelope_in::<R>(bytes, &context(&self.core.keystore.tenant, device, version))
    }

    fn envelope_in<R: Role>(
        &mut self,
        bytes: &mut Bytes,
        context: &EnvelopeContext,
    ) -> Result<(), KeysError> {
        let keys = &self.core.keystore.dek;
        let wrapped = WrappedKey(bytes.0.clone());
        let former = keys.of(&wrapped).ok_or(KeysError::Keystore)?;
        if former.id() == keys.current().id() {
            return Ok(());
        }
        *bytes = Bytes(wrapped.rewrap::<R>(former, keys, context, self.rng)?.0);
        self.moved = self.moved.saturating_add(1);
        Ok(())
    }

    fn device(&mut self, entry: &mut DeviceEntry) -> Result<(), KeysError> {
        let DeviceEntry { device, epoch, secret, auth, auth_next, .. } = entry;
        // An imported device has none.
        if !secret.0.is_empty() {
            self.envelope::<OwnerSecret>(secret, device, *epoch)?;
        }
        let all = auth.iter_mut().chain(auth_next).flatten();
        all.into_iter().try_for_each(|auth| self.envelope::<AuthValue>(auth, device, *epoch))
    }

    /// A session is wrapped under the epoch its device had then; one of an owner before opens no more.
    fn session(&mut self, entry: &mut SessionEntry, epoch: u32) -> Result<(), KeysError> {
        let SessionEntry { device, activation, salts, commands, .. } = entry;
        let before = self.moved;
        let mut moved = || {
            self.envelope::<ActivationSecret>(activation, device, epoch)?;
            salts.iter_mut().try_for_each(|salt| self.envelope::<TpmSeed>(salt, device, epoch))?;
            let tunnels = commands.iter_mut().flatten();
            tunnels
                .map(|tunnel| &mut tunnel.session_key)
                .try_for_each(|key| self.envelope::<TpmSession>(key, device, epoch))
        };
        match moved() {
            Err(KeysError::Keystore) if self.moved == before => {
                self.left = self.left.saturating_add(1);
                Ok(())
            }
            done => done,
        }
    }

    fn order(&mut self, entry: &mut OrderEntry) -> Result<(), KeysError> {
        let OrderEntry { device, epoch, salts, tunnels, .. } = entry;
        salts.iter_mut().try_for_each(|salt| self.envelope::<TpmSeed>(salt, device, *epoch))?;
        let keys = tunnels.iter_mut().map(|tunnel| &mut tunnel.session_key);
        keys.into_iter().try_for_each(|key| self.envelope::<TpmSession>(key, device, *epoch))
    }

    fn change(&mut self, entry: &mut ChangeEntry) -> Result<(), KeysError> {
        let context = ephemeral_context(&self.core.keystore.tenant, entry);
        match &mut entry.agreement {
            Some(agreement) if !agreement.ephemeral.0.is_empty() => {
                self.envelope_in::<Ephemeral>(&mut agreement.ephemeral, &context)
            }
            _ => Ok(()),
        }
    }

    fn version(&mut self, device: &DeviceEntry, entry: &mut VersionEntry) -> Result<(), KeysError> {
        if entry.envelope.0.is_empty() {
            return Ok(());
        }
        let context = key_context(&self.core.keystore, device, entry);
        match entry.kind {
            KeyKind::Gak => self.envelope_in::<Gak>(&mut entry.envelope, &context),
            KeyKind::Kek => self.envelope_in::<Kek>(&mut entry.envelope, &context),
            _ => self.envelope_in::<Guek>(&mut entry.envelope, &context),
        }
    }
}

impl Core {
    /// The same core with data keys of their own: [`crate::Keystore::with_data_keys`].
    #[must_use]
    pub fn with_data_keys(self, keys: DataKeys) -> Self {
        Self { keystore: self.keystore.with_data_keys(keys), ..self }
    }

    /// Looks at up to `limit` rows, and wraps their keys anew where a former data key has wrapped them. To be repeated,
    /// with other requests in between, until it is done. An audit entry tells when that is.
    ///
    /// # Errors
    /// [`KeysError`]; [`KeysError::Keystore`] for a row that does not open, which stops the job: it was moved or changed.
    pub fn rewrap_step<R: Records>(
        &self,
        records: &R,
        now: UtcTime,
        rng: &mut dyn Rng,
        limit: usize,
    ) -> Result<RewrapStep, KeysError> {
        let mut overlay = Overlay::new(records);
        let to = self.keystore.dek.current().id();
        let found = overlay.load::<Place>(REWRAP, &[])?.filter(|place| place.to == to);
        let mut place = found.unwrap_or(Place { to, table: 0, after: Bytes(Vec::new()), moved: 0, left: 0 });
        let index = usize::try_from(place.table).unwrap_or(usize::MAX);
        let Some(table) = TABLES.get(index) else {
            let Place { moved, left, .. } = place;
            return Ok(RewrapStep { writes: Vec::new(), is_done: true, moved, left });
        };
        let rows = records.range(table, &place.after.0, limit.max(1))?;
        let mut mover = Mover { core: self, rng, moved: 0, left: 0 };
        for (key, value) in &rows {
            mover.row(&mut overlay, table, key, value)?;
        }
        place.moved = place.moved.saturating_add(mover.moved);
        place.left = place.left.saturating_add(mover.left);
        match rows.into_iter().next_back() {
            Some((last, _)) => place.after = Bytes(last),
            None => (place.table, place.after) = (place.table.saturating_add(1), Bytes(Vec::new())),
        }
        let is_done = usize::try_from(place.table).is_ok_and(|table| table >= TABLES.len());
        if is_done {
            let act = Act { actor: "keys", act: "data-key.rewrapped", subject: &to, detail: &place.moved };
            audit::append(&mut overlay, now, act)?;
        }
        overlay.save(REWRAP, &[], &place);
        Ok(RewrapStep { writes: overlay.into_writes(), is_done, moved: place.moved, left: place.left })
    }
}

impl Mover<'_> {
    fn row<R: Records>(
        &mut self,
        overlay: &mut Overlay<'_, R>,
        table: Table,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), KeysError> {
        let before = self.moved;
        let changed = match table {
            DEVICES => {
                let mut entry: DeviceEntry = decoded(value)?;
                self.device(&mut entry)?;
                minicbor::to_vec(entry)
            }
            SESSIONS => {
                let mut entry: SessionEntry = decoded(value)?;
                let device: Option<DeviceEntry> = overlay.load(DEVICES, entry.device.as_bytes())?;
                self.session(&mut entry, device.ok_or(RecordsError::Damaged)?.epoch)?;
                minicbor::to_vec(entry)
            }
            CHANGES => {
                let mut entry: ChangeEntry = decoded(value)?;
                self.change(&mut entry)?;
                minicbor::to_vec(entry)
            }
            ORDERS => {
                let mut entry: OrderEntry = decoded(value)?;
                self.order(&mut entry)?;
                minicbor::to_vec(entry)
            }
            _ => {
                let mut entry: VersionEntry = decoded(value)?;
                let name = key.get(..EkName::SIZE).ok_or(RecordsError::Damaged)?;
                let device: Option<DeviceEntry> = overlay.load(DEVICES, name)?;
                self.version(&device.ok_or(RecordsError::Damaged)?, &mut entry)?;
                minicbor::to_vec(entry)
            }
        };
        if self.moved > before {
            overlay.put(table, key, changed.map_err(|_| RecordsError::Failed)?);
        }
        Ok(())
    }
}

fn decoded<'b, T: minicbor::Decode<'b, ()>>(value: &'b [u8]) -> Result<T, RecordsError> {
    minicbor::decode(value).map_err(|_| RecordsError::Damaged)
}
