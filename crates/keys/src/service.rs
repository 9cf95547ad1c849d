//! The service as a process drives it: load it, let it decide batches, commit, answer.

use alloc::vec::Vec;
use core::borrow::Borrow;

use gridseal_crypto::Rng;
use gridseal_types::{
    UtcTime,
    records::{Durability, Records, RecordsError, Write},
    service::keys::{KeyReply, KeyRequest, SiteMode},
};

use crate::{
    Core, KeysError,
    associations::Associations,
    core::{Parts, decide_by},
    device::{Device, refresh},
    record::{CHANGES, DEVICES, DeviceEntry, SITE, VERSIONS, VersionEntry, version_key},
    site::{Site, SiteRow, Standby, mode_of, next_of_site},
    traffic::Traffic,
};

/// Rows read at a time while loading.
const STEP: usize = 256;

/// What a batch comes to: make `marker` durable outside the database, commit `writes` in one transaction that is as durable
/// as `durability` says, then let `replies` go. If any of that fails, nothing of the batch was done: throw the service away
/// and load it again.
#[derive(Debug)]
pub struct Decision {
    /// Changes.
    pub writes: Vec<Write>,
    /// One reply per request, in order.
    pub replies: Vec<KeyReply>,
    /// How durable the changes have to be before a reply leaves.
    pub durability: Durability,
    /// Epoch that the marker outside the database has to show before the commit.
    pub marker: Option<u32>,
}

/// Who this site is, and what it is allowed to do.
#[derive(Debug)]
pub(crate) struct SiteState {
    pub(crate) site: Site,
    pub(crate) row: SiteRow,
    pub(crate) mode: SiteMode,
}

/// `keys-core` with everything that it holds in memory. One of them serves one database.
#[derive(Debug)]
pub struct Service<C> {
    core: C,
    pub(crate) traffic: Traffic,
    pub(crate) site: SiteState,
    associations: Associations,
    /// The site is new, and its row not on record yet.
    founded: bool,
    failed: bool,
    #[cfg(feature = "danger-faults")]
    fault: Option<crate::danger_faults::Fault>,
}

impl<C: Borrow<Core>> Service<C> {
    /// Loads what is on record: devices with their keys, folded rows, then the traffic log.
    ///
    /// A site whose database was written by another one is a standby, one whose marker is missing or above its database is
    /// outdated: both read only, until they are promoted or restored.
    ///
    /// # Errors
    /// [`KeysError`] when a record cannot be read or a key does not open: a row was moved or changed.
    pub fn load<R: Records>(core: C, records: &R, site: Site, rng: &mut dyn Rng) -> Result<Self, KeysError> {
        let found: Option<SiteRow> = decoded(records.get(SITE, &[])?)?;
        let founded = found.is_none();
        let first = next_of_site(0, site.index, site.count).unwrap_or(1);
        let row = found.unwrap_or(SiteRow {
            epoch: first,
            highest: first,
            fenced: false,
            degraded_until: UtcTime(0),
            slots: 0,
        });
        // Only a site that is new adopts a marker; for any other one it is the proof that its database is the newest.
        let adopted = site.marker.or(founded.then_some(row.epoch));
        let mode = mode_of(&row, &Site { marker: adopted, ..site });
        let mut traffic = Traffic::new(rng)?;
        load_devices(core.borrow(), records, &mut traffic)?;
        traffic.load(records)?;
        Ok(Self {
            core,
            traffic,
            site: SiteState { site, row, mode },
            associations: Associations::default(),
            founded,
            failed: false,
            #[cfg(feature = "danger-faults")]
            fault: None,
        })
    }

    /// Decides a batch. `records` show everything that was decided before, committed or not. A refused request changes
    /// nothing but the audit log.
    ///
    /// # Errors
    /// [`KeysError`]: nothing of the batch is to be done or answered, and the service is to be loaded again.
    pub fn decide<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        rng: &mut dyn Rng,
        requests: Vec<KeyRequest>,
    ) -> Result<Decision, KeysError> {
        self.decide_as(|parts| decide_by(parts, records, now, rng, |work| work.all(requests)))
    }

    /// A decision on this service's parts. After one that failed there is no other.
    pub(crate) fn decide_as(
        &mut self,
        decide: impl FnOnce(Parts<'_>) -> Result<Decision, KeysError>,
    ) -> Result<Decision, KeysError> {
        if self.failed {
            return Err(KeysError::Stale);
        }
        let founded = core::mem::take(&mut self.founded);
        let decision = decide(Parts {
            core: self.core.borrow(),
            traffic: &mut self.traffic,
            site: &mut self.site,
            associations: &mut self.associations,
            founded,
            #[cfg(feature = "danger-faults")]
            fault: self.fault,
        });
        self.failed = decision.is_err();
        decision
    }

    /// One step of folding: up to `limit` rows or log blobs. To be committed like a decision, in its order among them.
    /// Nothing to commit: nothing to fold for now.
    ///
    /// # Errors
    /// [`RecordsError`]: the service is to be loaded again.
    pub fn fold<R: Records>(
        &mut self,
        records: &R,
        now: UtcTime,
        limit: usize,
    ) -> Result<Vec<Write>, RecordsError> {
        // A site that only follows writes nothing: its database is another's.
        if self.site.mode != SiteMode::Active || self.failed {
            return Ok(Vec::new());
        }
        let folded = self.traffic.fold(records, now, limit);
        self.failed = folded.is_err();
        folded
    }

    /// Whether a fold has begun that further calls of [`Service::fold`] end.
    #[must_use]
    pub const fn is_folding(&self) -> bool {
        self.traffic.is_folding()
    }

    /// Whether enough was logged since the last fold for another one to be worth its rows.
    #[must_use]
    pub fn is_fold_due(&self) -> bool {
        self.traffic.is_fold_due()
    }

    /// Tells whether a standby acknowledges.
    pub const fn set_standby(&mut self, standby: Standby) {
        self.site.site.standby = standby;
    }

    /// Whether this site serves.
    #[must_use]
    pub const fn mode(&self) -> SiteMode {
        self.site.mode
    }

    /// Epoch of this site.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.site.row.epoch
    }

    /// The deciding part.
    #[must_use]
    pub fn core(&self) -> &Core {
        self.core.borrow()
    }

    /// Plants a fault, for a simulator that has to find it.
    #[cfg(feature = "danger-faults")]
    pub const fn danger_plant(&mut self, fault: Option<crate::danger_faults::Fault>) {
        self.fault = fault;
    }
}

pub(crate) fn decoded<T: for<'b> minicbor::Decode<'b, ()>>(
    bytes: Option<Vec<u8>>,
) -> Result<Option<T>, RecordsError> {
    bytes.map(|bytes| minicbor::decode(&bytes).map_err(|_| RecordsError::Damaged)).transpose()
}

fn load_devices<R: Records>(core: &Core, records: &R, traffic: &mut Traffic) -> Result<(), KeysError> {
    let mut after = Vec::new();
    loop {
        let rows = records.range(DEVICES, &after, STEP)?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        after.clone_from(last);
        for (_, row) in rows {
            let entry: DeviceEntry = minicbor::decode(&row).map_err(|_| RecordsError::Damaged)?;
            let mut versions = Vec::with_capacity(entry.versions.len());
            for (kind, version) in &entry.versions {
                let row = records.get(VERSIONS, &version_key(&entry.device, *kind, *version))?;
                versions.push(decoded::<VersionEntry>(row)?.ok_or(RecordsError::Damaged)?);
            }
            let change = match entry.change {
                Some(id) => decoded(records.get(CHANGES, id.as_bytes())?)?,
                None => None,
            };
            refresh(core.keystore(), traffic, &Device { entry, versions, change })?;
        }
    }
}
