//! Acts on the site: promotion, fencing, restore, reconciliation (sections 8 and 18 of the specification).
//!
//! A standby is loaded anew right before it is promoted or restored: what it holds in memory is what was on record when it was loaded.

use alloc::vec::Vec;

use gridseal_crypto::role::{Gak, Guek, Kek, Role};
use gridseal_types::{
    EkName, SystemTitle,
    records::Records,
    service::keys::{
        Approval, Bytes, ChangePhase, Denial, ExchangeReply, ExportedRow, KeyKind, SiteMode, SiteRequest,
        SiteStatus, VersionState,
    },
};

use crate::{
    MeterKey,
    acts::{dual_control, names},
    core::{Stop, Work},
    device::Device,
    lease::{CounterLayout, Lease},
    parties::{PARTIES, PartyEntry},
    phase::ChangeEvent,
    record::{CHANGES, ChangeEntry, DEVICES, DeviceEntry, ProofEntry, VERSIONS, VersionEntry},
    site::{EPOCHS_ROTATE, Site, next_of_site},
};

/// Rows of one export.
const EXPORT_ROWS: usize = 256;
/// Rows of one reconciliation.
const RECONCILE_ROWS_MAX: usize = 1_024;

/// Whether a version of another site is brought in: the meter may have it.
const fn is_joined(theirs: &VersionEntry) -> bool {
    theirs.sent && !theirs.envelope.0.is_empty()
}

fn number_here(numbers: &[(u32, u32)], theirs: u32) -> u32 {
    numbers.iter().find(|(number, _)| *number == theirs).map_or(theirs, |(_, here)| *here)
}

/// Whether an agreement was offered to the meter.
const fn is_offered(change: &ChangeEntry) -> bool {
    change.agreement.is_some() && change.attempts > 0
}

/// What the other site has offered, the meter may have taken. Whether anything of it is news.
fn join_offers(device: &mut Device, changes: &[ChangeEntry]) -> bool {
    let of_device =
        changes.iter().filter(|change| change.device == device.entry.device && is_offered(change));
    let highest = of_device.map(|change| change.suite).max().unwrap_or_default();
    if highest <= device.entry.suite.max(device.entry.offered.0) {
        return false;
    }
    device.entry.offered = (highest, device.next_act());
    true
}

impl<R: Records> Work<'_, R> {
    pub(crate) fn site_act(&mut self, request: SiteRequest) -> Result<ExchangeReply, Stop> {
        match request {
            SiteRequest::Status => {}
            SiteRequest::Promote { above, approvals } => self.promote(above, &approvals)?,
            SiteRequest::Fence { epoch } => self.fence(epoch)?,
            SiteRequest::Restore { witness, changed_since, approvals } => {
                self.restore(witness, &changed_since, &approvals)?;
            }
            SiteRequest::Export { after } => return self.export(after),
            active if self.site.mode == SiteMode::Active => return self.serving_act(active),
            _ => return Err(Denial::Fenced { epoch: self.site.row.highest }.into()),
        }
        Ok(ExchangeReply::Site(self.site_status()))
    }

    fn serving_act(&mut self, request: SiteRequest) -> Result<ExchangeReply, Stop> {
        match request {
            SiteRequest::ApproveDegraded { until, approvals } => {
                dual_control(&approvals)?;
                self.site.row.degraded_until = until;
                self.save_site();
                self.audit("site.degraded", &until.0, &names(&approvals))?;
            }
            SiteRequest::RaiseCounter { system_title, at_least, approvals } => {
                self.raise_counter(system_title, at_least, &approvals)?;
            }
            SiteRequest::Reconcile { rows } => return self.reconcile(&rows),
            _ => return Err(Denial::Malformed.into()),
        }
        Ok(ExchangeReply::Site(self.site_status()))
    }

    fn site_status(&self) -> SiteStatus {
        SiteStatus {
            index: self.site.site.index,
            count: self.site.site.count,
            epoch: self.site.row.epoch,
            highest: self.highest_known(0),
            mode: self.site.mode,
            degraded_until: self.site.row.degraded_until,
        }
    }

    /// Every epoch that this site knows of, as one above which the next one lies.
    fn highest_known(&self, elsewhere: u32) -> u32 {
        let row = &self.site.row;
        row.epoch.max(row.highest).max(self.site.site.marker.unwrap_or_default()).max(elsewhere)
    }

    fn promote(&mut self, above: u32, approvals: &[Approval]) -> Result<(), Stop> {
        dual_control(approvals)?;
        if self.site.mode == SiteMode::Outdated {
            return Err(Denial::NoWitness.into());
        }
        self.take_epoch(above, "site.promoted", approvals)
    }

    /// The next epoch of this site above every one that it knows of and the one named. An epoch that only the request names
    /// may not use up the counters of a key: a slip of a pen would silence every meter, and no transfer of new keys could
    /// be sealed any more.
    fn next_epoch(&self, above: u32) -> Result<u32, Denial> {
        let Site { index, count, .. } = self.site.site;
        let known = self.highest_known(0);
        let next = |above| next_of_site(above, index, count).ok_or(Denial::CounterExhausted);
        let (at_least, epoch) = (next(known)?, next(known.max(above))?);
        let mut pairs = self.traffic.slots.iter().flat_map(|slot| {
            slot.active.iter().chain(slot.candidates()).map(|hot| (slot.layout, hot.first_epoch))
        });
        let counts = |layout: CounterLayout, epoch, first| layout.counter(epoch, first, 0).is_some();
        let runs_out = |(layout, first)| counts(layout, at_least, first) && !counts(layout, epoch, first);
        if above.saturating_sub(known) > EPOCHS_ROTATE || pairs.any(runs_out) {
            return Err(Denial::CounterExhausted);
        }
        Ok(epoch)
    }

    /// The epoch in which an act leaves the site, where it gives it another.
    pub(crate) fn epoch_after(&self, request: &SiteRequest) -> Result<Option<u32>, Denial> {
        match request {
            SiteRequest::Promote { above, .. } => self.next_epoch(*above).map(Some),
            SiteRequest::Restore { witness, .. } => self.next_epoch(witness.unwrap_or_default()).map(Some),
            _ => Ok(None),
        }
    }

    fn take_epoch(&mut self, above: u32, act: &str, approvals: &[Approval]) -> Result<(), Stop> {
        let epoch = self.next_epoch(above)?;
        let epoch = self.perhaps_reused(epoch);
        self.site.row.epoch = epoch;
        self.site.row.highest = epoch;
        self.site.row.fenced = false;
        self.site.mode = SiteMode::Active;
        self.site.site.marker = Some(epoch);
        self.marker = Some(epoch);
        self.save_site();
        self.audit(act, &epoch, &names(approvals))?;
        Ok(())
    }

    #[cfg(feature = "danger-faults")]
    fn perhaps_reused(&self, epoch: u32) -> u32 {
        if self.has(crate::danger_faults::Fault::Epoch) { self.site.row.epoch } else { epoch }
    }

    #[cfg(not(feature = "danger-faults"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    const fn perhaps_reused(&self, epoch: u32) -> u32 {
        epoch
    }

    /// Another site serves in a higher epoch: this one stops, for good until it is promoted again.
    fn fence(&mut self, epoch: u32) -> Result<(), Stop> {
        if epoch <= self.site.row.epoch || self.site.mode == SiteMode::Standby {
            return Err(Denial::IllegalTransition.into());
        }
        // It is above that one that the site is promoted again.
        self.next_epoch(epoch)?;
        self.audit("site.fenced", &epoch, &self.site.row.epoch.clone())?;
        self.site.row.highest = self.site.row.highest.max(epoch);
        self.site.row.fenced = true;
        self.site.mode = SiteMode::Fenced;
        self.save_site();
        Ok(())
    }

    /// This database was put back: what was done since is unknown to it. A new epoch makes every counter new; meters whose
    /// keys changed since are put to unknown; plain counts are in doubt.
    fn restore(
        &mut self,
        witness: Option<u32>,
        changed_since: &[SystemTitle],
        approvals: &[Approval],
    ) -> Result<(), Stop> {
        dual_control(approvals)?;
        // A site that serves has nothing to restore: each epoch takes counters of every key.
        if self.site.mode == SiteMode::Active {
            return Err(Denial::IllegalTransition.into());
        }
        if self.site.site.marker.is_none() && witness.is_none() {
            return Err(Denial::NoWitness.into());
        }
        let titles = changed_since.iter().map(|title| self.titled(*title));
        let entries = titles.collect::<Result<Vec<DeviceEntry>, _>>()?;
        self.take_epoch(witness.unwrap_or_default(), "site.restored", approvals)?;
        for entry in entries {
            let before = self.load_device(entry)?;
            let mut device = before.clone();
            self.make_unknown(&mut device)?;
            self.save(&before, &device)?;
        }
        let plain: Vec<SystemTitle> = self
            .traffic
            .slots
            .iter()
            .filter(|slot| slot.layout == CounterLayout::Plain)
            .map(|slot| slot.title)
            .collect();
        for title in plain {
            let mut entry = self.titled(title)?;
            entry.doubt = true;
            self.save_device(&entry);
            if let Some(slot) = self.traffic.slot_mut(entry.slot) {
                slot.doubt = true;
            }
        }
        Ok(())
    }

    /// What this database calls prepared may have been sent, and what it calls sent may have been answered.
    fn make_unknown(&mut self, device: &mut Device) -> Result<(), Stop> {
        if let Some(mut change) = device.change.clone() {
            let sent: Vec<(KeyKind, u32)> = change.items.iter().map(|kind| (*kind, change.version)).collect();
            for (kind, version) in sent {
                let order = device.next_act();
                if let Some(entry) = device.version_mut(kind, version)
                    && !entry.sent
                {
                    (entry.sent, entry.sent_order) = (true, order);
                    entry.sent_by |= self.site.site.bit();
                }
            }
            crate::evidence::step(&mut change, self.now.0, &[ChangeEvent::Send, ChangeEvent::NoEvidence]);
            change.transfer = None;
            device.change = Some(change);
        }
        self.note(&mut device.entry, "device.unknown", &"restored or reconciled")?;
        Ok(())
    }

    fn raise_counter(
        &mut self,
        title: SystemTitle,
        at_least: u32,
        approvals: &[Approval],
    ) -> Result<(), Stop> {
        dual_control(approvals)?;
        let mut entry = self.titled(title)?;
        let epoch = self.site.row.epoch;
        let slot = self.traffic.slot_mut(entry.slot).ok_or(Denial::UnknownDevice)?;
        if slot.layout != CounterLayout::Plain {
            return Err(Denial::IllegalTransition.into());
        }
        slot.doubt = false;
        // Of every key that the meter may have: which ones were used elsewhere is not known either.
        let mut gueks: Vec<u32> =
            slot.active.iter().chain(slot.candidates()).map(|hot| hot.pair.guek).collect();
        gueks.sort_unstable();
        gueks.dedup();
        for guek in gueks {
            let Some(slot) = self.traffic.slot_mut(entry.slot) else { continue };
            let lease = &mut slot.counters_of(guek).lease;
            // Only ever up.
            let end = lease.end.max(u64::from(at_least));
            *lease = Lease { epoch, next: end, end };
            self.traffic.log.leased(entry.slot, guek, epoch, end);
        }
        self.traffic.touch(entry.slot);
        entry.doubt = false;
        let detail = alloc::format!("{at_least} {}", names(approvals));
        self.note(&mut entry, "counter.raised", &detail)?;
        self.save_device(&entry);
        self.replicate()
    }

    fn export(&self, after: Option<ExportedRow>) -> Result<ExchangeReply, Stop> {
        let (mut table, mut key) = after.map_or((0, Vec::new()), |row| (row.table, row.key.0));
        loop {
            let name = match table {
                0 => VERSIONS,
                1 => CHANGES,
                2 => PARTIES,
                _ => return Ok(ExchangeReply::Rows(Vec::new())),
            };
            let rows = self.records.base().range(name, &key, EXPORT_ROWS)?;
            if !rows.is_empty() {
                let row = |(key, value)| ExportedRow { table, key: Bytes(key), value: Bytes(value) };
                return Ok(ExchangeReply::Rows(rows.into_iter().map(row).collect()));
            }
            (table, key) = (table.saturating_add(1), Vec::new());
        }
    }

    /// Joins what another site did and did not replicate: the union of versions, never its state.
    fn reconcile(&mut self, rows: &[ExportedRow]) -> Result<ExchangeReply, Stop> {
        if rows.len() > RECONCILE_ROWS_MAX {
            return Err(Denial::Malformed.into());
        }
        let mut versions: Vec<(EkName, VersionEntry)> = Vec::new();
        let mut changes: Vec<ChangeEntry> = Vec::new();
        let mut parties: Vec<(SystemTitle, PartyEntry)> = Vec::new();
        for row in rows {
            if row.table == 2 {
                let title = SystemTitle::from_slice(&row.key.0).ok_or(Denial::Malformed)?;
                let theirs: PartyEntry = minicbor::decode(&row.value.0).map_err(|_| Denial::Malformed)?;
                parties.push((title, theirs));
            } else if row.table == 0 {
                let name = row.key.0.get(..EkName::SIZE).and_then(EkName::from_slice);
                let entry = minicbor::decode(&row.value.0).map_err(|_| Denial::Malformed)?;
                versions.push((name.ok_or(Denial::Malformed)?, entry));
            } else {
                changes.push(minicbor::decode(&row.value.0).map_err(|_| Denial::Malformed)?);
            }
        }
        parties.into_iter().try_for_each(|(title, theirs)| self.join_party(title, theirs))?;
        // What is open there goes on before what was ended there.
        changes.sort_by_key(|change| change.phase.is_resolved());
        let mut titles = Vec::new();
        let mut names: Vec<EkName> = versions.iter().map(|(name, _)| *name).collect();
        names.extend(changes.iter().filter(|change| is_offered(change)).map(|change| change.device));
        names.sort_unstable();
        names.dedup();
        for name in names {
            let entry: DeviceEntry =
                self.records.load(DEVICES, name.as_bytes())?.ok_or(Denial::ForeignRow)?;
            let before = self.load_device(entry)?;
            let mut device = before.clone();
            let mut of_device: Vec<&VersionEntry> =
                versions.iter().filter(|(of, _)| *of == name).map(|(_, entry)| entry).collect();
            // In the order in which the other site sent them.
            of_device.sort_by_key(|entry| entry.sent_order);
            let numbers = self.numbers_here(&mut device, &of_device)?;
            let mut joined = false;
            for theirs in of_device {
                joined |= self.join(&mut device, theirs, &numbers)?;
            }
            joined |= join_offers(&mut device, &changes);
            if !joined {
                // At most another site has sent what is on record here.
                if device.versions != before.versions {
                    self.save(&before, &device)?;
                }
                continue;
            }
            self.join_change(&mut device, &changes, &numbers)?;
            if device.entry.layout == CounterLayout::Plain {
                // Which counts the other site used is not among the rows.
                device.entry.doubt = true;
            }
            self.note(&mut device.entry, "device.unknown", &"reconciled")?;
            titles.push(device.entry.system_title);
            self.save(&before, &device)?;
        }
        if !titles.is_empty() {
            self.replicate()?;
        }
        Ok(ExchangeReply::Reconciled { devices: titles })
    }

    /// Numbers here of the versions that the other site gives. A site whose database was put back may have given a number
    /// again: that of other keys is replaced by the next one of this site.
    fn numbers_here(&self, device: &mut Device, theirs: &[&VersionEntry]) -> Result<Vec<(u32, u32)>, Stop> {
        let mut numbers: Vec<(u32, u32)> = Vec::new();
        for entry in theirs.iter().filter(|entry| is_joined(entry)) {
            let known = device.version(entry.kind, entry.version).cloned();
            let is_other = match known {
                Some(ours) if !ours.envelope.0.is_empty() => !self.is_same_key(device, &ours, entry)?,
                _ => false,
            };
            if !is_other || numbers.iter().any(|(number, _)| *number == entry.version) {
                continue;
            }
            let twin = self.twin(device, entry)?;
            let number = match twin {
                Some(number) => number,
                None => {
                    // Above all numbers of the other site, or it would be that of another of its keys.
                    let theirs = theirs.iter().map(|entry| entry.version).max().unwrap_or_default();
                    device.entry.channel_version = device.entry.channel_version.max(theirs);
                    let number = self.next_version(device)?;
                    device.entry.channel_version = number;
                    number
                }
            };
            numbers.push((entry.version, number));
        }
        Ok(numbers)
    }

    /// The number under which a key is known here, when it is.
    fn twin(&self, device: &Device, theirs: &VersionEntry) -> Result<Option<u32>, Stop> {
        let held = |ours: &&VersionEntry| ours.kind == theirs.kind && !ours.envelope.0.is_empty();
        for ours in device.versions.iter().filter(held) {
            if self.is_same_key(device, ours, theirs)? {
                return Ok(Some(ours.version));
            }
        }
        Ok(None)
    }

    fn is_same_key(&self, device: &Device, ours: &VersionEntry, theirs: &VersionEntry) -> Result<bool, Stop> {
        if ours.envelope == theirs.envelope {
            return Ok(true);
        }
        Ok(match theirs.kind {
            KeyKind::Gak => self.foreign::<Gak>(device, theirs)?.is_same(&self.key(device, ours)?),
            KeyKind::Kek => self.foreign::<Kek>(device, theirs)?.is_same(&self.key(device, ours)?),
            _ => self.foreign::<Guek>(device, theirs)?.is_same(&self.key(device, ours)?),
        })
    }

    /// A key of another site's row, if it is what the row says.
    fn foreign<K: Role>(&self, device: &Device, theirs: &VersionEntry) -> Result<MeterKey<K>, Stop> {
        self.key::<K>(device, theirs).map_err(|_| Denial::ForeignRow.into())
    }

    /// Certificates that the other site was brought count here too, if an authority that is believed here has issued them.
    fn join_party(&mut self, title: SystemTitle, theirs: PartyEntry) -> Result<(), Stop> {
        let mut ours = self.party(title)?;
        let before = ours.clone();
        for certificate in theirs.signing {
            let origin = self.certified(title, &certificate.der.0).map(|(_, origin)| origin);
            if origin == Ok(certificate.origin) && !ours.signing.contains(&certificate) {
                ours.signing.push(certificate);
            }
        }
        if ours != before {
            self.records.save(PARTIES, title.as_bytes(), &ours);
        }
        Ok(())
    }

    /// Takes a version of another site in, as one that the meter may have.
    fn join(
        &mut self,
        device: &mut Device,
        theirs: &VersionEntry,
        numbers: &[(u32, u32)],
    ) -> Result<bool, Stop> {
        if !is_joined(theirs) {
            return Ok(false);
        }
        let number = number_here(numbers, theirs.version);
        if let Some(ours) = device.version(theirs.kind, number).filter(|ours| ours.sent) {
            // Sent there again, and not heard of here: no challenge that was answered so far came after it.
            let (known, is_news) = (ours.sent_order, theirs.sent_order > ours.sent_order);
            device.entry.acts = device.entry.acts.max(theirs.sent_order);
            let order = if is_news { device.next_act() } else { known };
            if let Some(ours) = device.version_mut(theirs.kind, number) {
                ours.sent_by |= theirs.sent_by;
                ours.sent_order = order;
            }
            return Ok(false);
        }
        if theirs.first_epoch > self.site.row.epoch {
            return Err(Denial::ForeignRow.into());
        }
        let blank = VersionEntry {
            version: number,
            state: match theirs.state {
                VersionState::Compromised => VersionState::Compromised,
                _ => VersionState::PreActive,
            },
            proven_at: None,
            proven_order: 0,
            deactivated_at: None,
            sent_order: device.next_act(),
            closed: false,
            challenged_order: 0,
            challenged_by: 0,
            wrapped_by: theirs.wrapped_by.map(|kek| number_here(numbers, kek)),
            ..theirs.clone()
        };
        // Under its number here: an envelope is bound to its row.
        let entry = match theirs.kind {
            KeyKind::Gak => {
                let key = self.foreign::<Gak>(device, theirs)?;
                self.new_version(device, &key, blank)?
            }
            KeyKind::Kek => {
                let key = self.foreign::<Kek>(device, theirs)?;
                self.new_version(device, &key, blank)?
            }
            _ => {
                let key = self.foreign::<Guek>(device, theirs)?;
                self.new_version(device, &key, blank)?
            }
        };
        if let Some(ours) = device.version_mut(theirs.kind, number) {
            (ours.sent, ours.sent_order, ours.sent_by) = (true, entry.sent_order, entry.sent_by);
            return Ok(true);
        }
        device.entry.channel_version = device.entry.channel_version.max(entry.version);
        device.add(entry);
        Ok(true)
    }

    /// The other site's change goes on here when none of ours does and it can; otherwise its versions are candidates and no
    /// more. What was ended there stays ended.
    fn join_change(
        &mut self,
        device: &mut Device,
        changes: &[ChangeEntry],
        numbers: &[(u32, u32)],
    ) -> Result<(), Stop> {
        for theirs in changes.iter().filter(|change| change.device == device.entry.device) {
            if self.records.get(CHANGES, theirs.id.as_bytes())?.is_some() || theirs.attempts == 0 {
                continue;
            }
            let mut change = ChangeEntry {
                transfer: None,
                changed_at: self.now,
                version: number_here(numbers, theirs.version),
                wrapped_by: number_here(numbers, theirs.wrapped_by),
                proof: theirs.proof.map(|proof| ProofEntry {
                    phase: ChangePhase::Unknown,
                    version: number_here(numbers, proof.version),
                    wrapped_by: number_here(numbers, proof.wrapped_by),
                    ..proof
                }),
                ..theirs.clone()
            };
            for (_, agreed) in change.agreement.iter_mut().flat_map(|agreement| &mut agreement.answers) {
                *agreed = number_here(numbers, *agreed);
            }
            let is_ended = matches!(theirs.phase, ChangePhase::Abandoned | ChangePhase::Refused);
            let is_free = device.change.as_ref().is_none_or(|ours| ours.phase.is_resolved());
            if is_free && !is_ended && device.can_go_on(&change) {
                change.phase = ChangePhase::Unknown;
                // What was to prove it may have been destroyed there: another key does.
                change.proof = change.proof.filter(|proof| device.may_deliver(KeyKind::Guek, proof.version));
                device.change = Some(change);
            } else {
                if !is_ended {
                    change.phase = ChangePhase::Abandoned;
                }
                self.records.save(CHANGES, change.id.as_bytes(), &change);
            }
        }
        Ok(())
    }
}
