//! Acts of operators on keys and credentials, what is told of them, and what a compromise reaches.

use alloc::{collections::BTreeSet, vec, vec::Vec};

use gridseal_trust::audit::{self, Act};
use gridseal_types::{
    DeviceState, SystemTitle,
    records::Records,
    service::keys::{
        Approval, Bytes, ClaimState, Denial, DeviceKeyStatus, ExchangeReply, HistoryEntry, KeyAct, KeyKind,
        KeyRef, Reached, VersionState, VersionStatus,
    },
};

use crate::{
    KeysError,
    change::status_of,
    core::{Stop, Work},
    device::Device,
    phase::claim_after,
    record::{DeviceEntry, HISTORY, history_key},
    site::Standby,
    version::{self, Standing, VersionEvent},
};

/// How long a key protects, seconds: one year.
///
/// # Source
/// Key service specification, section 9 (originator period).
pub const ORIGINATOR_PERIOD_S: u64 = 365 * 24 * 3_600;
/// Newest entries of a device's history that are told.
const HISTORY_MAX: u32 = 1_000;

/// Two different persons.
///
/// # Errors
/// [`Denial::NeedsApproval`].
pub(crate) fn dual_control(approvals: &[Approval]) -> Result<(), Denial> {
    let persons: BTreeSet<&str> = approvals.iter().map(|approval| approval.0.trim()).collect();
    let named = persons.iter().filter(|person| !person.is_empty()).count();
    if named < 2 { Err(Denial::NeedsApproval) } else { Ok(()) }
}

/// Names of those who consented, for the audit log.
pub(crate) fn names(approvals: &[Approval]) -> alloc::string::String {
    approvals.iter().map(|approval| approval.0.as_str()).collect::<Vec<_>>().join("+")
}

impl<R: Records> Work<'_, R> {
    /// Records an act on a device's keys in the audit log (class A) and in the device's own history.
    pub(crate) fn note(
        &mut self,
        entry: &mut DeviceEntry,
        act: &str,
        detail: &dyn core::fmt::Display,
    ) -> Result<(), KeysError> {
        let what = Act { actor: "keys", act, subject: &entry.device, detail };
        let sequence = audit::append(&mut self.records, self.now, what)?;
        let told =
            HistoryEntry { at: self.now, act: act.into(), detail: alloc::format!("{detail}"), sequence };
        self.records.save(HISTORY, &history_key(&entry.device, entry.history), &told);
        entry.history = entry.history.saturating_add(1);
        Ok(())
    }

    fn device_of(&self, title: SystemTitle) -> Result<Device, Stop> {
        let entry = self.titled(title)?;
        Ok(self.load_device(entry)?)
    }

    pub(crate) fn key_status(&self, title: SystemTitle) -> Result<ExchangeReply, Stop> {
        Ok(ExchangeReply::Status(self.status(&self.device_of(title)?)))
    }

    fn status(&self, device: &Device) -> DeviceKeyStatus {
        let slot = self.traffic.slot(device.entry.slot);
        let versions = device.versions.iter().map(|entry| {
            let guek = entry.kind == KeyKind::Guek;
            let counters = slot.filter(|_| guek).and_then(|slot| slot.counters_known(entry.version));
            let layout = device.entry.layout;
            let epoch = self.site.row.epoch;
            let next = counters
                .filter(|counters| counters.lease.epoch == epoch)
                .map_or(0, |counters| counters.lease.next);
            let active = entry.state == VersionState::Active;
            let old = self.now.0.saturating_sub(entry.created_at.0) > ORIGINATOR_PERIOD_S;
            let used =
                counters.is_some_and(|counters| counters.lease.rotation_due(layout, entry.first_epoch));
            VersionStatus {
                kind: entry.kind,
                version: entry.version,
                state: entry.state,
                origin: entry.origin,
                sent: entry.sent,
                created_at: entry.created_at,
                proven_at: entry.proven_at,
                deactivated_at: entry.deactivated_at,
                wrapped_by: entry.wrapped_by,
                change: entry.change,
                next_counter: layout.counter(epoch, entry.first_epoch, next).filter(|_| guek),
                received: counters.and_then(|counters| counters.window.highest()),
                rotation_due: active && (old || used),
                suite: entry.suite,
            }
        });
        DeviceKeyStatus {
            system_title: device.entry.system_title,
            serial: device.entry.serial.clone(),
            state: device.entry.state,
            claim: device.entry.claim,
            attested: device.entry.attested,
            attested_at: device.entry.attested_at,
            versions: versions.collect(),
            change: device.change.as_ref().map(status_of),
            regressed: device.entry.heard.is_some(),
            suite: device.entry.suite,
        }
    }

    pub(crate) fn key_history(&self, title: SystemTitle) -> Result<ExchangeReply, Stop> {
        let entry = self.titled(title)?;
        let first = entry.history.saturating_sub(HISTORY_MAX);
        let mut told = Vec::new();
        for number in first..entry.history {
            let row = self.records.load(HISTORY, &history_key(&entry.device, number))?;
            told.push(row.ok_or(gridseal_types::records::RecordsError::Damaged)?);
        }
        Ok(ExchangeReply::History(told))
    }

    pub(crate) fn compromise_plan(&self, key: &KeyRef) -> Result<ExchangeReply, Stop> {
        let device = self.device_of(key.system_title)?;
        let reached = reached_by(&device, key)?;
        Ok(ExchangeReply::Compromise { reached, devices: vec![key.system_title] })
    }

    pub(crate) fn key_act(
        &mut self,
        key: &KeyRef,
        act: &KeyAct,
        approvals: &[Approval],
        reason: &str,
    ) -> Result<ExchangeReply, Stop> {
        let before = self.device_of(key.system_title)?;
        let mut device = before.clone();
        if device.version(key.kind, key.version).is_none() {
            return Err(Denial::UnknownKey.into());
        }
        let name = match act {
            KeyAct::Suspend => {
                apply(&mut device, key, VersionEvent::Suspend)?;
                "key.suspended"
            }
            KeyAct::Resume => {
                apply(&mut device, key, VersionEvent::Resume)?;
                "key.resumed"
            }
            KeyAct::Compromise => {
                dual_control(approvals)?;
                return self.compromise(&before, key, approvals, reason);
            }
            KeyAct::Destroy => {
                self.destroy(&mut device, key, approvals)?;
                self.end_spoilt_change(&mut device)?;
                "key.destroyed"
            }
            _ => return Err(Denial::Malformed.into()),
        };
        let detail = alloc::format!("{}/{} {} {reason}", key.kind.name(), key.version, names(approvals));
        self.note(&mut device.entry, name, &detail)?;
        self.save(&before, &device)?;
        Ok(ExchangeReply::Status(self.status(&device)))
    }

    fn compromise(
        &mut self,
        before: &Device,
        key: &KeyRef,
        approvals: &[Approval],
        reason: &str,
    ) -> Result<ExchangeReply, Stop> {
        let mut device = before.clone();
        apply(&mut device.clone(), key, VersionEvent::Compromise)?;
        for reached in reached_by(&device, key)? {
            // What is destroyed already cannot be compromised any more.
            if apply(&mut device, &reached.key, VersionEvent::Compromise).is_ok() {
                let detail = alloc::format!(
                    "{}/{} {} {reason}",
                    reached.key.kind.name(),
                    reached.key.version,
                    names(approvals)
                );
                self.note(&mut device.entry, "key.compromised", &detail)?;
            }
        }
        self.end_spoilt_change(&mut device)?;
        self.save(before, &device)?;
        let reached = reached_by(&device, key)?;
        Ok(ExchangeReply::Compromise { reached, devices: vec![key.system_title] })
    }

    /// Overwrites a key that no meter needs (invariant I1).
    fn destroy(&self, device: &mut Device, key: &KeyRef, approvals: &[Approval]) -> Result<(), Stop> {
        dual_control(approvals)?;
        let is_final = device.entry.state.is_final();
        let entry = device.version(key.kind, key.version).ok_or(Denial::UnknownKey)?;
        let changing = device.change.as_ref().is_some_and(|change| {
            Some(change.id) == entry.change || entry.version == change.wrapped_by && key.kind == KeyKind::Kek
        });
        if changing && !is_final {
            return Err(Denial::IllegalTransition.into());
        }
        let mut state = entry.state;
        if is_final && let Ok(ended) = version::after(state, VersionEvent::Deactivate) {
            state = ended;
        }
        let state = version::after(state, VersionEvent::Destroy).map_err(|_| Denial::IllegalTransition)?;
        let standing = Standing {
            sent: entry.sent || entry.proven_order > 0,
            superseded: device.superseded(entry),
            device_is_final: is_final,
            // Two persons have consented.
            recipient_period_over: true,
        };
        if !version::may_destroy(standing) {
            return Err(Denial::DestroyGuard.into());
        }
        if standing.sent && !is_final && self.site.site.standby == Standby::Lost {
            // What the other site has sent again since it was heard last is not known here.
            return Err(Denial::NoStandby.into());
        }
        let entry = device.version_mut(key.kind, key.version).ok_or(Denial::UnknownKey)?;
        entry.state = state;
        entry.envelope = Bytes(Vec::new());
        Ok(())
    }

    pub(crate) fn set_claim(&mut self, title: SystemTitle, claim: ClaimState) -> Result<ExchangeReply, Stop> {
        let before = self.device_of(title)?;
        let mut device = before.clone();
        let next = claim_after(device.entry.claim, claim).map_err(|_| Denial::IllegalTransition)?;
        if next == ClaimState::Claimed && device.uses_vendor_keys() {
            return Err(Denial::IllegalTransition.into());
        }
        device.entry.claim = next;
        if next == ClaimState::Lost {
            device.entry.state = DeviceState::Quarantined;
            for entry in &mut device.versions {
                if let Ok(state) = version::after(entry.state, VersionEvent::Compromise) {
                    entry.state = state;
                }
            }
            self.end_spoilt_change(&mut device)?;
        } else if !crate::phase::claim_fits(next, device.entry.state) {
            return Err(Denial::StateForbids.into());
        }
        self.note(&mut device.entry, "claim.state", &next.name())?;
        self.save(&before, &device)?;
        Ok(ExchangeReply::Status(self.status(&device)))
    }
}

fn apply(device: &mut Device, key: &KeyRef, event: VersionEvent) -> Result<(), Denial> {
    let entry = device.version_mut(key.kind, key.version).ok_or(Denial::UnknownKey)?;
    entry.state = version::after(entry.state, event).map_err(|_| Denial::IllegalTransition)?;
    Ok(())
}

/// The closure of a compromise: the key, what it wrapped, what that wrapped, and so on.
fn reached_by(device: &Device, key: &KeyRef) -> Result<Vec<Reached>, Denial> {
    let first = device.version(key.kind, key.version).ok_or(Denial::UnknownKey)?;
    let mut reached = vec![Reached { key: *key, by: None, state: first.state }];
    let mut at = 0;
    while let Some(by) = reached.get(at).map(|reached| reached.key) {
        at += 1;
        // Only a master key wraps others.
        if by.kind != KeyKind::Kek {
            continue;
        }
        for entry in device.versions.iter().filter(|entry| entry.wrapped_by == Some(by.version)) {
            let next = KeyRef { system_title: key.system_title, kind: entry.kind, version: entry.version };
            // What was never sent is nowhere but here.
            if entry.sent && reached.iter().all(|known| known.key != next) {
                reached.push(Reached { key: next, by: Some(by), state: entry.state });
            }
        }
    }
    Ok(reached)
}
