//! What follows from a verified APDU: a new key is proven, an old one is still in place, a meter has gone back.
//!
//! Only the meter itself moves a key: what is concluded here rests on a tag that was verified here, under that key, and on
//! a counter that was never seen (invariant I3). Nobody's word counts.

use alloc::vec::Vec;

use gridseal_types::{
    DeviceState,
    records::Records,
    service::keys::{ChangePhase, ClaimState, Denial, KeyKind, VersionState},
};

use crate::{
    Arrival, KeysError,
    agreement::is_unanswered,
    apdu::Opened,
    core::{Stop, Work},
    device::Device,
    phase::{ChangeEvent, change_after, claim_after, state_at_work},
    record::{CHANGES, ChangeEntry},
    traffic::Pair,
};

/// Tag of get-response.
const GET_RESPONSE: u8 = 0xC4;

impl<R: Records> Work<'_, R> {
    /// Draws the conclusions. When they cannot be made durable as they must be, none is drawn: the next APDU will do.
    pub(crate) fn draw_conclusions(&mut self, opened: &mut Opened) -> Result<(), Stop> {
        let Arrival::Fresh { late } = opened.arrival else { return Ok(()) };
        let entry = self.titled(opened.title)?;
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        let answered = answers_probe(&device, &opened.plain);
        if answered && opened.evidence_only && device.entry.state.may_probe() {
            // The probe of a device that is held back: its answer is the one thing that is opened.
            opened.evidence_only = false;
        }
        if answered {
            device.entry.probe.answered();
        }
        let evidence = Evidence { pair: opened.pair, late, answered };
        let is_answer = self.take_answer(&mut device, &opened.plain)?;
        if !self.conclude(&mut device, &evidence)? && !is_answer {
            return Ok(());
        }
        self.save(&before, &device)?;
        Ok(())
    }

    /// What an answer that is bound to a fresh challenge, or an APDU, shows. Whether anything changed.
    pub(crate) fn conclude(&mut self, device: &mut Device, evidence: &Evidence) -> Result<bool, Stop> {
        let proven = proves(device, evidence);
        if !proven.is_empty() && self.replicate().is_err() {
            return Ok(false);
        }
        let mut changed = self.first_contact(device)?;
        for (kind, version) in &proven {
            let kek_before = device.active(KeyKind::Kek).map(|kek| kek.version);
            if device.prove(*kind, *version, self.now) {
                changed = true;
                // Answers to earlier probes may be older than this.
                device.entry.probe.invoke = None;
                self.note(&mut device.entry, "channel-keys.confirmed", version)?;
                let kek = device.active(KeyKind::Kek).map(|kek| kek.version);
                if kek != kek_before {
                    let kek = kek.unwrap_or_default();
                    self.note(&mut device.entry, "master-key.confirmed", &kek)?;
                }
                self.settle_former(device, *kind, *version)?;
            }
        }
        let in_use = device.active_pair() == Some(evidence.pair);
        let heard = (!in_use).then_some((evidence.pair.guek, evidence.pair.gak));
        if !evidence.late && device.entry.heard != heard && is_past(device, evidence.pair) != in_use {
            device.entry.heard = heard;
            changed = true;
        }
        if evidence.answered {
            device.entry.probe.invoke = None;
            // The meter counts failures from here on, and others of the plan may come after this one.
            device.entry.probe.tries = device.entry.probe.under_way;
            device.entry.probe.backoff_s = 0;
            device.entry.probe.first = 0;
            changed = true;
        }
        changed |= self.settle(device, evidence)?;
        changed |= self.claim_progress(device)?;
        changed |= self.lead_up(device, evidence)?;
        Ok(changed)
    }

    /// A meter that has gone back to keys of a lower suite gets nothing but its way up: that is prepared here, for the
    /// head-end to carry. Without a certificate for it the meter waits for an operator.
    fn lead_up(&mut self, device: &mut Device, evidence: &Evidence) -> Result<bool, Stop> {
        let is_now = !evidence.late && device.active_pair() == Some(evidence.pair);
        if !is_now || device.change.is_some() || !device.is_below_suite() {
            return Ok(false);
        }
        let suite = device.entry.suite;
        match self.make_change(device, &[KeyKind::Kek], Some(suite)) {
            Ok(()) => {
                self.settle_state(device)?;
                Ok(true)
            }
            Err(Stop::Denied(Denial::NoCertificate)) => Ok(false),
            Err(stop) => Err(stop),
        }
    }

    fn first_contact(&mut self, device: &mut Device) -> Result<bool, Stop> {
        if device.entry.attested || device.entry.state != DeviceState::Installing {
            return Ok(false);
        }
        let Ok(claim) = claim_after(device.entry.claim, ClaimState::Installed) else { return Ok(false) };
        device.entry.claim = claim;
        self.note(&mut device.entry, "claim.installed", &claim.name())?;
        Ok(true)
    }

    /// The factory's keys are gone: the device is the operator's alone.
    pub(crate) fn claim_progress(&mut self, device: &mut Device) -> Result<bool, Stop> {
        if device.entry.claim != ClaimState::Claiming
            || device.uses_vendor_keys()
            || !self.is_set_up(device)?
        {
            return Ok(false);
        }
        device.entry.claim = ClaimState::Claimed;
        if device.entry.state == DeviceState::Installing {
            device.entry.state = DeviceState::Operating;
        }
        let state = device.entry.state.name();
        self.note(&mut device.entry, "claim.claimed", &state)?;
        Ok(true)
    }

    /// A change that was given up or refused has turned out to be installed after all.
    fn settle_former(&mut self, device: &Device, kind: KeyKind, version: u32) -> Result<(), KeysError> {
        let id = device.version(kind, version).and_then(|entry| entry.change);
        let Some(id) = id.filter(|id| device.change.as_ref().is_none_or(|change| change.id != *id)) else {
            return Ok(());
        };
        let Some(mut change) = self.records.load::<ChangeEntry>(CHANGES, id.as_bytes())? else {
            return Ok(());
        };
        if device.change_is_proven(&change) {
            step(&mut change, self.now.0, &[ChangeEvent::NewProven, ChangeEvent::Activate]);
            self.records.save(CHANGES, id.as_bytes(), &change);
        }
        Ok(())
    }

    /// Moves the unresolved change on.
    fn settle(&mut self, device: &mut Device, evidence: &Evidence) -> Result<bool, Stop> {
        let Some(mut change) = device.change.clone() else { return Ok(false) };
        let before = change.clone();
        if device.change_is_proven(&change) {
            step(&mut change, self.now.0, &[ChangeEvent::NewProven, ChangeEvent::Activate]);
        } else if let Some(proof) = change.proof {
            let installed = device
                .version(KeyKind::Guek, proof.version)
                .is_some_and(|entry| entry.proven_order > entry.sent_order);
            let is_new = change
                .agreement
                .as_ref()
                .map_or(proof.wrapped_by == change.version, |agreement| agreement.has(proof.wrapped_by));
            if installed && !is_new {
                // The meter opened a key under the old master key: that one is still in place.
                step(&mut change, self.now.0, &[ChangeEvent::NoEvidence, ChangeEvent::OldProven]);
                change.proof = None;
            } else if installed {
                // It was delivered before something that was proven since: it is to be proven again.
                change.proof = None;
            } else if evidence.answered && evidence.pair.guek != proof.version {
                let events = [ChangeEvent::NoEvidence, ChangeEvent::OldProven];
                change.proof = Some(crate::record::ProofEntry {
                    phase: events
                        .iter()
                        .fold(proof.phase, |phase, event| change_after(phase, *event).unwrap_or(phase)),
                    ..proof
                });
            }
        } else if evidence.answered && (!change.items.contains(&KeyKind::Kek) || is_unanswered(&change)) {
            // A probe was answered, and not every key of the change is in place.
            if change.phase != ChangePhase::NotInstalled && change.agreement.is_none() {
                device.transfer_failed(false);
            }
            step(&mut change, self.now.0, &[ChangeEvent::NoEvidence, ChangeEvent::OldProven]);
        }
        if change == before {
            return Ok(false);
        }
        if change.phase != before.phase {
            self.note(&mut device.entry, "key-change.phase", &change.phase)?;
        }
        device.change = Some(change);
        self.settle_state(device)?;
        Ok(true)
    }

    /// The device's state follows from its key change.
    pub(crate) fn settle_state(&mut self, device: &mut Device) -> Result<(), KeysError> {
        let phase = device.change.as_ref().map(|change| change.phase);
        let state = state_at_work(device.entry.state, phase, device.entry.is_rekeyed_by_order);
        if state != device.entry.state {
            device.entry.state = state;
            self.audit("device.state", &device.entry.device, &state.name())?;
        }
        Ok(())
    }
}

/// What an APDU or an answer shows.
pub(crate) struct Evidence {
    /// Keys under which it was verified.
    pub(crate) pair: Pair,
    /// Overtaken by others: says nothing about now.
    pub(crate) late: bool,
    /// It answers a probe, or a fresh challenge.
    pub(crate) answered: bool,
}

/// Applies events to a change, one after the other, as far as each is allowed.
pub(crate) fn step(change: &mut ChangeEntry, now: u64, events: &[ChangeEvent]) {
    for event in events {
        if let Ok(phase) = change_after(change.phase, *event) {
            change.phase = phase;
            change.changed_at = gridseal_types::UtcTime(now);
        }
    }
}

/// Versions that the evidence proves to be in use now and that are not on record as such.
fn proves(device: &Device, evidence: &Evidence) -> Vec<(KeyKind, u32)> {
    let used = [(KeyKind::Guek, evidence.pair.guek), (KeyKind::Gak, evidence.pair.gak)];
    let moves = |&(kind, version): &(KeyKind, u32)| {
        device.version(kind, version).is_some_and(|entry| match entry.state {
            VersionState::PreActive => true,
            // Back to an old key: a late APDU under it means nothing, the answer to a challenge does.
            VersionState::Deactivated => evidence.answered && !evidence.late,
            // Another site has sent it again while it was in use here: a challenge that was answered shows it anew.
            VersionState::Active => {
                evidence.answered && !evidence.late && entry.proven_order <= entry.sent_order
            }
            // It stays compromised, but its replacement has to be sent under what the meter really uses.
            VersionState::Compromised => {
                let is_first = entry.proven_order <= entry.sent_order;
                device.newest_proven(kind) != Some(version)
                    && (is_first || evidence.answered && !evidence.late)
            }
            _ => false,
        })
    };
    used.into_iter().filter(moves).collect()
}

fn is_past(device: &Device, pair: Pair) -> bool {
    let past = |kind, version| {
        device.version(kind, version).is_some_and(|entry| entry.state == VersionState::Deactivated)
    };
    past(KeyKind::Guek, pair.guek) || past(KeyKind::Gak, pair.gak)
}

/// Whether this plaintext answers the newest plan of probes: a get-response with its invoke identifier.
fn answers_probe(device: &Device, plain: &[u8]) -> bool {
    let [GET_RESPONSE, _, invoke, ..] = plain else { return false };
    device.entry.probe.invoke == Some(invoke & 0x0F)
}

/// Whether a phase expects news of its transfer.
pub(crate) const fn is_awaited(phase: ChangePhase) -> bool {
    matches!(phase, ChangePhase::Sent | ChangePhase::Unknown | ChangePhase::NotInstalled)
}
