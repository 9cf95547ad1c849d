//! One device with its key versions and its key change, as a decision works on them: what is proven follows here.

use alloc::vec::Vec;

use gridseal_crypto::{
    EnvelopeContext, Origin, PairContext, Rng,
    role::{Gak, Guek, Kek, Role},
};
use gridseal_types::{
    N16, UtcTime,
    records::Records,
    service::keys::{Bytes, ChangePhase, KeyKind, KeyOrigin, VersionState},
};

use crate::{
    KeysError, Keystore, MeterKey,
    core::{Stop, Work},
    record::{
        CHANGES, ChangeEntry, DEVICES, DeviceEntry, PENDING, VERSIONS, VersionEntry, stored, version_key,
    },
    traffic::{HotPair, Pair},
    version::{self, VersionEvent},
};

/// Most pairs that are tried for one device.
const PAIRS_MAX: usize = 64;

/// Transfers that are not installed before another master key has its turn. One that is refused counts as so many.
const TRANSFERS_BEFORE_NEXT: u8 = 3;

/// One device.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) entry: DeviceEntry,
    pub(crate) versions: Vec<VersionEntry>,
    /// The change that is not resolved.
    pub(crate) change: Option<ChangeEntry>,
}

/// Context of a key's envelope.
pub(crate) fn key_context(
    keystore: &Keystore,
    device: &DeviceEntry,
    entry: &VersionEntry,
) -> EnvelopeContext {
    let context = crate::record::context(&keystore.tenant, &device.device, entry.version);
    let origin = match entry.origin {
        KeyOrigin::Vendor => Origin::Vendor,
        KeyOrigin::Derived => Origin::Derived,
        _ => Origin::Operator,
    };
    EnvelopeContext { origin, suite: entry.suite, ..context }
}

impl Device {
    pub(crate) fn version(&self, kind: KeyKind, version: u32) -> Option<&VersionEntry> {
        self.versions.iter().find(|entry| entry.kind == kind && entry.version == version)
    }

    pub(crate) fn version_mut(&mut self, kind: KeyKind, version: u32) -> Option<&mut VersionEntry> {
        self.versions.iter_mut().find(|entry| entry.kind == kind && entry.version == version)
    }

    /// A version whose key is still here.
    pub(crate) fn held(&self, kind: KeyKind, version: u32) -> Option<&VersionEntry> {
        self.version(kind, version).filter(|entry| entry.is_held())
    }

    /// Whether a version may be delivered to the meter: it is here, and known to nobody else.
    pub(crate) fn may_deliver(&self, kind: KeyKind, version: u32) -> bool {
        self.held(kind, version).is_some_and(|entry| entry.state != VersionState::Compromised)
    }

    /// Whether a change must not go on: a key of it is known to others, or gone, or what wraps it is.
    pub(crate) fn is_spoilt(&self, change: &ChangeEntry) -> bool {
        let is_bad = |kind: &KeyKind| {
            self.version(*kind, change.version).is_some() && !self.may_deliver(*kind, change.version)
        };
        let kek = self.version(KeyKind::Kek, change.wrapped_by);
        let agreed = change.agreement.as_ref().and_then(crate::record::AgreementEntry::newest);
        agreed.is_some_and(|kek| !self.may_deliver(KeyKind::Kek, kek))
            || change.items.iter().any(is_bad)
            || kek.is_some_and(|kek| !kek.is_held())
    }

    /// Whether a change can come to its end: every key of it may be delivered, and what wraps them is here. An agreement is
    /// offered again as long as nothing was answered.
    pub(crate) fn can_go_on(&self, change: &ChangeEntry) -> bool {
        if let Some(agreement) = &change.agreement {
            // Where it was resolved our ephemeral key is gone.
            return !agreement.ephemeral.0.is_empty()
                && agreement.newest().is_none_or(|kek| self.may_deliver(KeyKind::Kek, kek));
        }
        change.items.iter().all(|kind| self.may_deliver(*kind, change.version))
            && self.held(KeyKind::Kek, change.wrapped_by).is_some()
    }

    /// The version of a kind that is in use, held back or not.
    pub(crate) fn active(&self, kind: KeyKind) -> Option<&VersionEntry> {
        let in_use = |entry: &&VersionEntry| {
            entry.kind == kind && matches!(entry.state, VersionState::Active | VersionState::Suspended)
        };
        self.versions.iter().find(in_use)
    }

    pub(crate) fn active_pair(&self) -> Option<Pair> {
        Some(Pair { guek: self.active(KeyKind::Guek)?.version, gak: self.active(KeyKind::Gak)?.version })
    }

    /// Versions of a kind that the meter may use: the one in use, then what may have reached it, newest first, then what
    /// it has used before.
    fn usable(&self, kind: KeyKind) -> Vec<&VersionEntry> {
        let rank = |entry: &VersionEntry| match entry.state {
            VersionState::Active | VersionState::Suspended => 0,
            VersionState::PreActive => 1,
            VersionState::Deactivated => 2,
            _ => 3,
        };
        let mut all: Vec<&VersionEntry> = self
            .versions
            .iter()
            .filter(|entry| entry.kind == kind && !entry.closed && !entry.envelope.0.is_empty())
            .filter(|entry| {
                version::opens(entry.state, entry.sent) || entry.state == VersionState::Compromised
            })
            .collect();
        all.sort_by_key(|entry| (rank(entry), core::cmp::Reverse(entry.version)));
        all
    }

    /// Pairs that the meter may use, in the order in which they are tried: the active one, whole new ones, then mixed
    /// ones, for meters that accept keys one by one; what was given up comes last.
    ///
    /// # Source
    /// Key service specification, section 7.3.
    pub(crate) fn pairs(&self) -> Vec<Pair> {
        let (gueks, gaks) = (self.usable(KeyKind::Guek), self.usable(KeyKind::Gak));
        let past = |entry: &VersionEntry| {
            matches!(entry.state, VersionState::Deactivated | VersionState::Compromised)
        };
        let mut ranked: Vec<(u8, usize, Pair)> = Vec::new();
        for guek in &gueks {
            for gak in &gaks {
                // Keys of two suites are never used together: their sizes, and what they are for, differ.
                if guek.suite != gak.suite {
                    continue;
                }
                // What is delivered as one piece was never half accepted.
                if guek.version != gak.version && (guek.bundled && gak.bundled) {
                    continue;
                }
                let pair = Pair { guek: guek.version, gak: gak.version };
                let whole = guek.version == gak.version;
                let rank = match (Some(pair) == self.active_pair(), past(guek) || past(gak)) {
                    (true, _) => 0,
                    (false, false) => {
                        if whole {
                            1
                        } else {
                            2
                        }
                    }
                    (false, true) => {
                        if whole {
                            3
                        } else {
                            4
                        }
                    }
                };
                ranked.push((rank, ranked.len(), pair));
            }
        }
        ranked.sort_by_key(|(rank, place, _)| (*rank, *place));
        ranked.into_iter().map(|(_, _, pair)| pair).take(PAIRS_MAX).collect()
    }

    /// The pair that a transfer of new keys is sealed under: the one in use or, when a key of it was compromised, the one
    /// that was proven last: the meter knows no other.
    pub(crate) fn transfer_pair(&self) -> Option<Pair> {
        let newest = |kind| {
            let proven =
                self.versions.iter().filter(move |entry| entry.kind == kind && entry.proven_order > 0);
            proven.filter(|entry| !entry.envelope.0.is_empty()).max_by_key(|entry| entry.proven_order)
        };
        let of = |kind| self.active(kind).or_else(|| newest(kind)).map(|entry| entry.version);
        Some(Pair { guek: of(KeyKind::Guek)?, gak: of(KeyKind::Gak)? })
    }

    /// The version of a kind that was proven last.
    pub(crate) fn newest_proven(&self, kind: KeyKind) -> Option<u32> {
        let proven = self.versions.iter().filter(|entry| entry.kind == kind && entry.proven_order > 0);
        proven.max_by_key(|entry| entry.proven_order).map(|entry| entry.version)
    }

    /// The master key that the meter has, as far as is proven.
    pub(crate) fn kek(&self) -> Option<&VersionEntry> {
        let compromised = |entry: &&VersionEntry| {
            entry.kind == KeyKind::Kek && entry.proven_order > 0 && !entry.envelope.0.is_empty()
        };
        self.active(KeyKind::Kek)
            .or_else(|| self.versions.iter().filter(compromised).max_by_key(|entry| entry.proven_order))
    }

    /// Master keys that the meter may have: the one in use, then what may have reached it, newest first, then what it has
    /// used before.
    pub(crate) fn keks(&self) -> Vec<u32> {
        let first = self.kek().map(|kek| kek.version);
        let mut others: Vec<&VersionEntry> = self
            .versions
            .iter()
            .filter(|entry| entry.kind == KeyKind::Kek && !entry.closed && !entry.envelope.0.is_empty())
            .filter(|entry| (entry.sent || entry.proven_order > 0) && Some(entry.version) != first)
            .collect();
        others.sort_by_key(|entry| {
            (entry.state == VersionState::Deactivated, core::cmp::Reverse(entry.version))
        });
        first.into_iter().chain(others.into_iter().map(|entry| entry.version)).collect()
    }

    /// The master key that wraps the next transfer of keys of a suite: the one in use, until transfers under it fail again
    /// and again; then the others have their turn.
    pub(crate) fn kek_in_turn(&self, suite: u8) -> Option<u32> {
        let is_of_suite =
            |kek: &u32| self.version(KeyKind::Kek, *kek).is_some_and(|entry| entry.suite == suite);
        let keks: Vec<u32> = self.keks().into_iter().filter(is_of_suite).collect();
        let turn = usize::from(self.entry.transfers_failed / TRANSFERS_BEFORE_NEXT);
        keks.get(turn.checked_rem(keks.len())?).copied()
    }

    /// A suite above the one in use in which the meter may have agreed upon a master key: it was offered, and nothing that was
    /// sent under another master key since is proven.
    pub(crate) fn raise_pending(&self) -> Option<u8> {
        let (offered, at) = self.entry.offered;
        let is_void = self.kek().is_some_and(|kek| kek.proven_order > at);
        (offered > self.entry.suite && !is_void).then_some(offered)
    }

    /// Whether the meter speaks keys of a suite below the one that it was proven to have: it has gone back.
    pub(crate) fn is_below_suite(&self) -> bool {
        let is_below = |kind| self.active(kind).is_some_and(|entry| entry.suite < self.entry.suite);
        is_below(KeyKind::Guek) || is_below(KeyKind::Gak)
    }

    /// Whether transfers have failed so often that the meter may have another master key.
    pub(crate) const fn is_kek_in_doubt(&self) -> bool {
        self.entry.transfers_failed >= TRANSFERS_BEFORE_NEXT
    }

    /// A transfer has failed: refused by the meter, or not installed.
    pub(crate) fn transfer_failed(&mut self, is_refused: bool) {
        let step = if is_refused { TRANSFERS_BEFORE_NEXT } else { 1 };
        self.entry.transfers_failed = self.entry.transfers_failed.saturating_add(step);
    }

    pub(crate) fn next_act(&mut self) -> u64 {
        self.entry.acts = self.entry.acts.saturating_add(1);
        self.entry.acts
    }

    /// Adds a version.
    pub(crate) fn add(&mut self, entry: VersionEntry) {
        self.entry.versions.push((entry.kind, entry.version));
        self.versions.push(entry);
    }

    /// Whether a later proof shows that another version of this kind has taken this one's place. A proof is the answer to
    /// a challenge: an APDU of the meter may have been on its way for long. Of a master key it is a key that was sent under
    /// it.
    ///
    /// A transfer that is still on its way is refused by its counter after such an answer, and counters are kept for each
    /// title: where another site sent it, only a key that was proven since makes it void, for it is sealed under another.
    pub(crate) fn superseded(&self, of: &VersionEntry) -> bool {
        let known = of.sent_order.max(of.proven_order);
        let is_later = |other: &VersionEntry| match other.kind {
            KeyKind::Kek => other.proven_order > known,
            _ => {
                let is_void = of.sent_by & !other.challenged_by == 0
                    || of.sent_order < of.proven_order.max(other.proven_order);
                other.challenged_order >= known && other.challenged_order > 0 && is_void
            }
        };
        self.versions.iter().any(|other| {
            other.kind == of.kind
                && other.version != of.version
                && is_later(other)
                && matches!(other.state, VersionState::Active | VersionState::Suspended)
        })
    }

    /// A version is proven installed: it becomes the active one, and the one before is deactivated. What is delivered
    /// with it in one piece is proven with it; so is the master key that must have opened it.
    pub(crate) fn prove(&mut self, kind: KeyKind, number: u32, now: UtcTime) -> bool {
        let Some(entry) = self.version(kind, number) else { return false };
        let (bundled, wrapped_by, delivered) = (entry.bundled, entry.wrapped_by, entry.sent_order);
        let kinds: &[KeyKind] = if bundled { &KeyKind::ALL } else { core::slice::from_ref(&kind) };
        let mut changed = false;
        for kind in kinds {
            changed |= self.activate(*kind, number, now, bundled);
        }
        if changed {
            self.entry.transfers_failed = 0;
        }
        if let Some(kek) = wrapped_by {
            changed |= self.prove_kek(kek, delivered, now);
        }
        changed
    }

    /// A key that was sent as act `delivered` under this master key is installed: the meter had it then. What was proven to
    /// be there later counts more, for the meter's word may have been on its way for long.
    fn prove_kek(&mut self, number: u32, delivered: u64, now: UtcTime) -> bool {
        let newest = self.newest_proven(KeyKind::Kek).and_then(|newest| self.version(KeyKind::Kek, newest));
        if newest.is_some_and(|newest| newest.proven_order >= delivered) {
            return false;
        }
        let Some(kek) = self.version_mut(KeyKind::Kek, number) else { return false };
        let changed = match kek.state {
            VersionState::Active => true,
            VersionState::Suspended => return false,
            _ => self.activate(KeyKind::Kek, number, now, false),
        };
        if let Some(kek) = self.version_mut(KeyKind::Kek, number).filter(|_| changed) {
            kek.proven_order = delivered;
        }
        changed
    }

    fn activate(&mut self, kind: KeyKind, number: u32, now: UtcTime, closes: bool) -> bool {
        let act = self.entry.acts.saturating_add(1);
        let Some(entry) = self.version_mut(kind, number) else { return false };
        if entry.state == VersionState::Active {
            let is_sent_again = entry.proven_order <= entry.sent_order;
            if is_sent_again {
                (entry.proven_order, self.entry.acts) = (act, act);
            }
            return is_sent_again;
        }
        // A compromised key that the meter uses stays compromised, and is what its replacement goes by.
        if entry.state != VersionState::Compromised {
            let Ok(state) = version::after(entry.state, VersionEvent::Activate) else { return false };
            entry.state = state;
        }
        entry.proven_at = Some(now);
        entry.proven_order = act;
        entry.deactivated_at = None;
        let suite = entry.suite;
        self.entry.acts = act;
        for other in self.versions.iter_mut().filter(|other| other.kind == kind && other.version != number) {
            if let Ok(state) = version::after(other.state, VersionEvent::Deactivate) {
                other.state = state;
                other.deactivated_at = Some(now);
            }
            // A delivery to a device that starts anew ends everything that came before it.
            if closes && other.version < number {
                if other.state == VersionState::PreActive {
                    other.state = VersionState::Deactivated;
                    other.deactivated_at = Some(now);
                }
                other.closed = true;
            }
        }
        if kind == KeyKind::Guek {
            self.entry.active_version = number;
        }
        let is_newest = self
            .versions
            .iter()
            .filter(|other| other.kind == kind && other.version > number)
            .all(|other| other.proven_order == 0);
        if closes && is_newest {
            // A new delivery by the root of trust begins anew, in its suite.
            (self.entry.suite, self.entry.offered) = (suite, (0, 0));
        } else {
            //= design S5: a suite that was proven is never gone below
            self.entry.suite = self.entry.suite.max(suite);
        }
        true
    }

    /// Whether the new version of every key of the change is in use.
    pub(crate) fn change_is_proven(&self, change: &ChangeEntry) -> bool {
        let is_proven = |kind, version| {
            self.version(kind, version).is_some_and(|entry| entry.proven_order > entry.sent_order)
        };
        match &change.agreement {
            Some(agreement) => agreement.answers.iter().any(|(_, version)| is_proven(KeyKind::Kek, *version)),
            None => change.items.iter().all(|kind| is_proven(*kind, change.version)),
        }
    }

    /// Whether any key in use is known to its manufacturer.
    pub(crate) fn uses_vendor_keys(&self) -> bool {
        let in_use = self.versions.iter().filter(|entry| entry.state == VersionState::Active);
        in_use.into_iter().any(|entry| entry.origin != KeyOrigin::Operator)
    }
}

impl<R: Records> Work<'_, R> {
    /// A device with everything that belongs to its keys.
    pub(crate) fn load_device(&self, entry: DeviceEntry) -> Result<Device, KeysError> {
        let damaged = gridseal_types::records::RecordsError::Damaged;
        let mut versions = Vec::with_capacity(entry.versions.len());
        for (kind, version) in &entry.versions {
            let key = version_key(&entry.device, *kind, *version);
            versions.push(self.records.load(VERSIONS, &key)?.ok_or(damaged)?);
        }
        let change = match entry.change {
            Some(id) => Some(self.records.load(CHANGES, id.as_bytes())?.ok_or(damaged)?),
            None => None,
        };
        Ok(Device { entry, versions, change })
    }

    /// Writes a device as it is now, where it differs from before, and brings the traffic table up to it.
    pub(crate) fn save(&mut self, before: &Device, after: &Device) -> Result<(), KeysError> {
        for entry in &after.versions {
            if before.version(entry.kind, entry.version) != Some(entry) {
                let key = version_key(&after.entry.device, entry.kind, entry.version);
                self.records.save(VERSIONS, &key, entry);
            }
        }
        if let Some(change) = &after.change {
            let mut change = change.clone();
            // One transaction, one use.
            if let Some(agreement) = change.agreement.as_mut().filter(|_| change.phase.is_resolved()) {
                agreement.ephemeral = Bytes(Vec::new());
            }
            self.records.save(CHANGES, change.id.as_bytes(), &change);
        }
        let mut entry = after.entry.clone();
        entry.change =
            after.change.as_ref().filter(|change| !change.phase.is_resolved()).map(|change| change.id);
        self.records.save(DEVICES, entry.device.as_bytes(), &entry);
        let title = entry.system_title;
        match entry.change {
            Some(id) => self.records.put(PENDING, title.as_bytes(), id.as_bytes().to_vec()),
            None if before.entry.change.is_some() => self.records.delete(PENDING, title.as_bytes()),
            None => {}
        }
        self.refresh(after)
    }

    /// Brings the slot of a device up to what is on record.
    pub(crate) fn refresh(&mut self, device: &Device) -> Result<(), KeysError> {
        refresh(self.core.keystore(), self.traffic, device)
    }

    /// A new version, wrapped at rest.
    pub(crate) fn new_version<K: Role>(
        &mut self,
        device: &Device,
        key: &MeterKey<K>,
        entry: VersionEntry,
    ) -> Result<VersionEntry, Stop> {
        let context = key_context(&self.core.keystore, &device.entry, &entry);
        let envelope = stored(key.wrap(&self.core.keystore.dek, &context, self.rng)?);
        Ok(VersionEntry { envelope, ..entry })
    }

    /// The next version number of this site.
    pub(crate) fn next_version(&self, device: &Device) -> Result<u32, Stop> {
        let site = &self.site.site;
        crate::site::next_of_site(device.entry.channel_version, site.index, site.count)
            .ok_or(Stop::Denied(gridseal_types::service::keys::Denial::CounterExhausted))
    }

    /// A version that is not on record yet, of suite 0.
    pub(crate) fn blank(&self, kind: KeyKind, version: u32, change: Option<N16>) -> VersionEntry {
        VersionEntry {
            kind,
            version,
            state: VersionState::PreActive,
            origin: KeyOrigin::Operator,
            envelope: Bytes(Vec::new()),
            sent: false,
            created_at: self.now,
            proven_at: None,
            deactivated_at: None,
            wrapped_by: None,
            change,
            first_epoch: self.site.row.epoch,
            sent_order: 0,
            proven_order: 0,
            closed: false,
            bundled: false,
            challenged_order: 0,
            sent_by: 0,
            challenged_by: 0,
            suite: 0,
        }
    }

    /// Opens one of a device's keys.
    pub(crate) fn key<K: Role>(
        &self,
        device: &Device,
        entry: &VersionEntry,
    ) -> Result<MeterKey<K>, KeysError> {
        let context = key_context(&self.core.keystore, &device.entry, entry);
        MeterKey::open(&self.core.keystore.dek, &context, &entry.envelope)
    }

    /// A fresh key of a kind, wrapped at rest and, under a master key, for the meter.
    pub(crate) fn draw(&mut self, device: &Device, entry: VersionEntry) -> Result<VersionEntry, Stop> {
        match entry.kind {
            KeyKind::Gak => {
                let key = MeterKey::<Gak>::generate(entry.suite, self.rng)?;
                self.new_version(device, &key, entry)
            }
            KeyKind::Kek => {
                let key = MeterKey::<Kek>::generate(entry.suite, self.rng)?;
                self.new_version(device, &key, entry)
            }
            _ => {
                let key = MeterKey::<Guek>::generate(entry.suite, self.rng)?;
                self.new_version(device, &key, entry)
            }
        }
    }

    /// A key of the device, wrapped under one of its master keys for the meter. The same every time.
    pub(crate) fn wrapped_for_meter(
        &self,
        device: &Device,
        entry: &VersionEntry,
        kek: &VersionEntry,
    ) -> Result<Vec<u8>, KeysError> {
        let kek: MeterKey<Kek> = self.key(device, kek)?;
        let wrapped = match entry.kind {
            KeyKind::Gak => kek.wrap_for_meter(&self.key::<Gak>(device, entry)?),
            KeyKind::Kek => kek.wrap_for_meter(&self.key::<Kek>(device, entry)?),
            _ => kek.wrap_for_meter(&self.key::<Guek>(device, entry)?),
        };
        wrapped.ok_or(KeysError::Keystore)
    }
}

/// Brings the slot of a device up to what is on record.
pub(crate) fn refresh(
    keystore: &Keystore,
    traffic: &mut crate::traffic::Traffic,
    device: &Device,
) -> Result<(), KeysError> {
    let entry = &device.entry;
    let mut hot = Vec::new();
    for pair in device.pairs() {
        let (Some(guek), Some(gak)) =
            (device.version(KeyKind::Guek, pair.guek), device.version(KeyKind::Gak, pair.gak))
        else {
            continue;
        };
        let first_epoch = guek.first_epoch;
        let flagged = [guek, gak].iter().any(|entry| entry.state == VersionState::Compromised);
        let context =
            PairContext { system_title: entry.system_title, guek_version: pair.guek, gak_version: pair.gak };
        let suite = guek.suite;
        let guek: MeterKey<Guek> =
            MeterKey::open(&keystore.dek, &key_context(keystore, entry, guek), &guek.envelope)?;
        let gak: MeterKey<Gak> =
            MeterKey::open(&keystore.dek, &key_context(keystore, entry, gak), &gak.envelope)?;
        let keys = traffic.seal_pair(&guek, &gak, &context).ok_or(KeysError::Keystore)?;
        hot.push(HotPair { pair, first_epoch, flagged, suite, keys });
    }
    let active = device.active_pair();
    let in_use = hot.iter().position(|hot| Some(hot.pair) == active).map(|at| hot.remove(at));
    let suspended = |kind| device.active(kind).is_some_and(|entry| entry.state == VersionState::Suspended);
    // A meter that has gone back to keys of a lower suite gets new keys, and nothing else.
    let is_below = device.is_below_suite();
    let held = suspended(KeyKind::Guek) || suspended(KeyKind::Gak) || is_below;
    let unresolved = device.change.as_ref().is_some_and(|change| change.phase != ChangePhase::Prepared);
    let first_contact = matches!(
        entry.claim,
        gridseal_types::service::keys::ClaimState::Announced
            | gridseal_types::service::keys::ClaimState::InStock
    );
    let watched =
        unresolved || first_contact || is_below || entry.probe.invoke.is_some() || entry.heard.is_some();
    let slot = traffic.admit(entry.slot, entry.system_title)?;
    slot.set_pairs(in_use, hot);
    slot.state = entry.state;
    slot.layout = entry.layout;
    slot.attested = entry.attested;
    slot.attested_at = entry.attested_at;
    slot.watched = watched;
    slot.held = held;
    slot.doubt = entry.doubt;
    Ok(())
}

/// Random bytes as an identifier.
pub(crate) fn draw_id(rng: &mut dyn Rng) -> Result<N16, Stop> {
    Ok(N16(gridseal_crypto::random(rng)?))
}
