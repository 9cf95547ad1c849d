//! Key changes: from the first request to the proof (section 7 of the specification).
//!
//! One decision makes the new versions, wraps them, marks the change as sent and seals the transfer; its commit is
//! durable, at the standby too, before the transfer leaves. From then on only the meter's own APDUs move it
//! ([`crate::evidence`]), and the versions are kept until another one is proven installed later.

use alloc::vec::Vec;

use gridseal_dlms::wire::{Reader, Writer};
use gridseal_types::{
    DeviceState, N16, SystemTitle,
    records::Records,
    service::keys::{
        ChangeOutcome, ChangePhase, ChangeReply, ChangeStatus, ClaimState, Denial, ExchangeReply, KeyKind,
        Sealed, kinds_name,
    },
};

use crate::{
    KeysError,
    agreement::{ANSWERS_MAX, is_unanswered},
    core::{Stop, Work},
    device::{Device, draw_id},
    evidence::{is_awaited, step},
    lease::CounterLayout,
    phase::{ChangeEvent, change_after, claim_after},
    record::{CHANGES, ChangeEntry, DEVICES, PENDING, ProofEntry, TransferEntry, VersionEntry},
};

/// Highest security suite.
const SUITE_MAX: u8 = 2;
/// How often a proof under one master key is tried before one under another is.
const PROOFS_MAX: u32 = 3;
/// Meters in one answer about unresolved changes.
const PENDING_PAGE: usize = 1_000;

/// ACTION normal on method 2 of the security setup 0.0.43.0.0.255, with parameter.
const TRANSFER_HEAD: [u8; 13] =
    [0xC3, 0x01, 0xC1, 0x00, 0x40, 0x00, 0x00, 0x2B, 0x00, 0x00, 0xFF, 0x02, 0x01];
/// Tags of array, structure, enum and octet-string.
const ARRAY: u8 = 0x01;
const STRUCTURE: u8 = 0x02;
const ENUM: u8 = 0x16;
const OCTET_STRING: u8 = 0x09;
impl ProofEntry {
    /// Whether no more is to be had of it.
    const fn is_over(&self) -> bool {
        match self.phase {
            ChangePhase::Refused => true,
            ChangePhase::NotInstalled => self.attempts >= PROOFS_MAX,
            _ => false,
        }
    }
}

/// Tag of action-response.
const ACTION_RESPONSE: u8 = 0xC7;

/// ACTION key_transfer: an array of {key_id, wrapped key}.
///
/// # Source
/// DLMS fact sheet, sections 6.2 and 7.
fn transfer_apdu(items: &[(KeyKind, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(64);
    writer.bytes(&TRANSFER_HEAD);
    writer.u8(ARRAY);
    writer.length(items.len());
    for (kind, wrapped) in items {
        writer.bytes(&[STRUCTURE, 2, ENUM, kind.number(), OCTET_STRING]);
        writer.prefixed(wrapped);
    }
    writer.into_bytes()
}

/// Result of an action-response: `None` when it is something else.
///
/// # Source
/// DLMS fact sheet, section 7.
fn action_result(plain: &[u8]) -> Option<u8> {
    let mut reader = Reader::new(plain);
    let [tag, choice, _, result] = reader.array("action response").ok()?;
    (tag == ACTION_RESPONSE && choice == 1).then_some(result)
}

impl<R: Records> Work<'_, R> {
    /// Prepares a change, or shows the one that is not resolved: nothing leaves.
    pub(crate) fn prepare_change(
        &mut self,
        title: SystemTitle,
        items: &[KeyKind],
    ) -> Result<ExchangeReply, Stop> {
        let entry = self.titled(title)?;
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        may_send(&device)?;
        if device.change.is_none() {
            self.make_change(&mut device, items, None)?;
        }
        self.change_reply(&before, &mut device, None)
    }

    /// Prepares the change that raises a meter's suite.
    pub(crate) fn raise_suite(&mut self, title: SystemTitle, suite: u8) -> Result<ExchangeReply, Stop> {
        let entry = self.titled(title)?;
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        may_send(&device)?;
        if let Some(change) = &device.change {
            return Err(Denial::ChangeInProgress { change: change.id }.into());
        }
        if suite == device.entry.suite {
            return Err(Denial::IllegalTransition.into());
        }
        self.make_change(&mut device, &[KeyKind::Kek], Some(suite))?;
        self.change_reply(&before, &mut device, None)
    }

    /// Meters whose change is not resolved.
    pub(crate) fn pending_changes(&self, after: Option<SystemTitle>) -> Result<ExchangeReply, Stop> {
        let after = after.map(|title| title.as_bytes().to_vec()).unwrap_or_default();
        // A meter whose change this very batch has begun is among them the next time.
        let rows = self.records.base().range(PENDING, &after, PENDING_PAGE)?;
        let is_last = rows.len() < PENDING_PAGE;
        let meters = rows.iter().map(|(title, _)| SystemTitle::from_slice(title)).collect::<Option<_>>();
        let meters = meters.ok_or(gridseal_types::records::RecordsError::Damaged)?;
        Ok(ExchangeReply::Pending { meters, is_last })
    }

    /// Begins a change, or goes on with the one that is not resolved.
    pub(crate) fn begin_change(
        &mut self,
        title: SystemTitle,
        items: &[KeyKind],
    ) -> Result<ExchangeReply, Stop> {
        let entry = self.titled(title)?;
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        let may_send = may_send(&device)?;
        if device.change.is_none() {
            if items.is_empty() {
                return Err(Denial::UnknownChange.into());
            }
            self.make_change(&mut device, items, None)?;
        }
        let transfer = if may_send { self.advance(&mut device)? } else { None };
        self.change_reply(&before, &mut device, transfer)
    }

    fn change_reply(
        &mut self,
        before: &Device,
        device: &mut Device,
        transfer: Option<Sealed>,
    ) -> Result<ExchangeReply, Stop> {
        let change = device.change.as_ref().ok_or(Denial::UnknownChange)?;
        let (status, phase) = (status_of(change), change.phase);
        self.settle_state(device)?;
        let was = before.change.as_ref().map(|change| change.phase);
        if was != Some(phase) {
            let detail = alloc::format!("{} {phase}", kinds_name(&status.items));
            self.note(&mut device.entry, "key-change.phase", &detail)?;
        }
        self.save(before, device)?;
        Ok(ExchangeReply::Change(ChangeReply { status, transfer }))
    }

    /// The new versions, on record and wrapped, and the change in phase prepared.
    pub(crate) fn make_change(
        &mut self,
        device: &mut Device,
        items: &[KeyKind],
        suite: Option<u8>,
    ) -> Result<(), Stop> {
        let mut suite = suite.unwrap_or(device.entry.suite);
        //= design S5: no change goes to a lower suite
        if suite < device.entry.suite || suite > SUITE_MAX {
            return Err(Denial::PolicyDenied.into());
        }
        let mut items = items.to_vec();
        items.sort_unstable();
        items.dedup();
        if let Some(offered) = device.raise_pending()
            && (items == [KeyKind::Kek] || device.is_kek_in_doubt())
        {
            // The meter may have no master key of the suite in use any more: the way is up.
            (items, suite) = (alloc::vec![KeyKind::Kek], suite.max(offered));
        } else if items != [KeyKind::Kek] && needs_agreement(device, suite) {
            items = alloc::vec![KeyKind::Kek];
        }
        let changes_kek = items.contains(&KeyKind::Kek);
        // I5: the master key is changed alone.
        if items.is_empty() || (changes_kek && items.len() > 1) {
            return Err(Denial::Malformed.into());
        }
        let is_agreed = changes_kek && suite > 0;
        let wrapped_by = match device.kek_in_turn(suite) {
            Some(kek) => kek,
            None if is_agreed => 0,
            None => return Err(Denial::UnknownKey.into()),
        };
        let id = draw_id(self.rng)?;
        let version = self.next_version(device)?;
        // What is agreed upon is not there before the meter has answered.
        for kind in items.iter().filter(|_| !is_agreed) {
            let mut blank = self.blank(*kind, version, Some(id));
            (blank.wrapped_by, blank.suite) = (Some(wrapped_by), suite);
            let made = self.draw(device, blank)?;
            device.add(made);
        }
        device.entry.channel_version = version;
        let mut change = ChangeEntry {
            id,
            device: device.entry.device,
            items,
            version,
            phase: ChangePhase::Created,
            attempts: 0,
            begun_at: self.now,
            changed_at: self.now,
            wrapped_by,
            proof: None,
            transfer: None,
            suite,
            agreement: None,
        };
        if is_agreed {
            self.make_agreement(device, &mut change)?;
        }
        step(&mut change, self.now.0, &[ChangeEvent::Prepare]);
        if let Ok(claim) = claim_after(device.entry.claim, ClaimState::Claiming) {
            device.entry.claim = claim;
            self.note(&mut device.entry, "claim.claiming", &claim.name())?;
        }
        let detail = kinds_name(&change.items);
        self.note(&mut device.entry, "key-change.prepared", &detail)?;
        device.change = Some(change);
        Ok(())
    }

    /// What is to be sent next, if anything.
    fn advance(&mut self, device: &mut Device) -> Result<Option<Sealed>, Stop> {
        let Some(mut change) = device.change.clone() else { return Ok(None) };
        if matches!(change.phase, ChangePhase::Prepared | ChangePhase::NotInstalled) {
            self.replicate()?;
            if change.agreement.is_some() {
                let sealed = self.offer(device, &mut change)?;
                return Ok(Some(self.sent(device, change, sealed)));
            }
            let kek = change.wrapped_by;
            let missing: Vec<(KeyKind, u32)> = change
                .items
                .iter()
                .map(|kind| (*kind, change.version))
                .filter(|(kind, version)| !in_use(device, *kind, *version))
                .collect();
            let sealed = self.transfer(device, &missing, kek)?;
            return Ok(Some(self.sent(device, change, sealed)));
        }
        let awaits = change.proof.map_or(change.phase, |proof| proof.phase) == ChangePhase::Sent;
        let is_held = |version| device.version(KeyKind::Guek, version).is_some_and(VersionEntry::is_held);
        if awaits
            && let Some(TransferEntry { apdu, version, counter }) = change.transfer.clone()
            && is_held(version)
        {
            // It was prepared for a standby that may not have acknowledged it.
            match device.entry.layout {
                CounterLayout::Plain => self.replicate_always()?,
                _ => self.replicate()?,
            }
            // The very same bytes: a meter that has taken them refuses the second copy by its counter.
            return Ok(Some(Sealed { apdu: apdu.0, version, counter }));
        }
        if change.items.contains(&KeyKind::Kek) && is_awaited(change.phase) {
            return self.advance_proof(device, change);
        }
        Ok(None)
    }

    /// The change, and what of it leaves now.
    fn sent(&self, device: &mut Device, mut change: ChangeEntry, sealed: Sealed) -> Sealed {
        step(&mut change, self.now.0, &[ChangeEvent::Send]);
        change.attempts = change.attempts.saturating_add(1);
        change.proof = None;
        change.transfer = Some(kept(&sealed));
        device.change = Some(change);
        sealed
    }

    /// The meter has opened nothing under the master keys that were agreed upon: its answer to a later offer was lost. It
    /// speaks the keys before, so the offer may be made again.
    fn agree_again(&mut self, device: &mut Device, mut change: ChangeEntry) -> Result<Option<Sealed>, Stop> {
        let answers = change.agreement.as_ref().map_or(0, |agreement| agreement.answers.len());
        let is_hopeless = answers >= ANSWERS_MAX;
        let events: &[ChangeEvent] = if is_hopeless {
            &[ChangeEvent::Refuse]
        } else {
            &[ChangeEvent::NoEvidence, ChangeEvent::OldProven]
        };
        step(&mut change, self.now.0, events);
        change.proof = None;
        device.change = Some(change);
        if is_hopeless { Ok(None) } else { self.advance(device) }
    }

    /// 7.4: a fresh encryption key under the new master key proves that one; if the meter refuses it, one under the old
    /// master key proves the old one.
    fn advance_proof(
        &mut self,
        device: &mut Device,
        mut change: ChangeEntry,
    ) -> Result<Option<Sealed>, Stop> {
        let mut proof = match change.proof {
            Some(proof) if proof.is_over() && change.agreement.is_some() => {
                return self.agree_again(device, change);
            }
            Some(proof) if proof.is_over() => match self.next_proof(device, &change, &proof)? {
                Some(proof) => proof,
                None => {
                    self.give_way(device, change);
                    return Ok(None);
                }
            },
            Some(proof) if proof.phase == ChangePhase::NotInstalled => proof,
            Some(_) => return Ok(None),
            None => {
                let agreed = change.agreement.as_ref().map(crate::record::AgreementEntry::newest);
                let Some(kek) = agreed.unwrap_or(Some(change.version)) else { return Ok(None) };
                self.new_proof(device, &change, kek)?
            }
        };
        self.replicate()?;
        let items: Vec<(KeyKind, u32)> =
            proof_kinds(&change).iter().map(|kind| (*kind, proof.version)).collect();
        let sealed = self.transfer(device, &items, proof.wrapped_by)?;
        proof.phase = ChangePhase::Sent;
        proof.attempts = proof.attempts.saturating_add(1);
        change.proof = Some(proof);
        change.transfer = Some(kept(&sealed));
        let kinds = kinds_name(proof_kinds(&change));
        let detail = alloc::format!("{kinds} under kek {}", proof.wrapped_by);
        self.note(&mut device.entry, "key-change.proof", &detail)?;
        device.change = Some(change);
        Ok(Some(sealed))
    }

    /// The meter has opened nothing under any master key that is on record, and another site has offered it an agreement:
    /// the next change agrees on one.
    fn give_way(&self, device: &mut Device, mut change: ChangeEntry) {
        step(&mut change, self.now.0, &[ChangeEvent::NoEvidence, ChangeEvent::Abandon]);
        device.change = Some(change);
        device.transfer_failed(true);
    }

    /// The next master key's turn: the new one, the one that wrapped it, then whatever else the meter may have. None when
    /// all had theirs, and the meter may have agreed upon one that is not on record.
    fn next_proof(
        &mut self,
        device: &mut Device,
        change: &ChangeEntry,
        proof: &ProofEntry,
    ) -> Result<Option<ProofEntry>, Stop> {
        let mut keks = alloc::vec![change.version, change.wrapped_by];
        keks.extend(device.keks().into_iter().filter(|kek| !keks.contains(kek)).collect::<Vec<u32>>());
        let place = keks.iter().position(|kek| *kek == proof.wrapped_by).unwrap_or_default();
        let next = place.saturating_add(1);
        if next >= keks.len() && device.raise_pending().is_some() {
            return Ok(None);
        }
        let kek = keks.into_iter().cycle().nth(next).ok_or(Denial::UnknownKey)?;
        self.new_proof(device, change, kek).map(Some)
    }

    fn new_proof(&mut self, device: &mut Device, change: &ChangeEntry, kek: u32) -> Result<ProofEntry, Stop> {
        let version = self.next_version(device)?;
        for kind in proof_kinds(change) {
            let mut blank = self.blank(*kind, version, Some(change.id));
            (blank.wrapped_by, blank.suite) = (Some(kek), change.suite);
            let made = self.draw(device, blank)?;
            device.add(made);
        }
        device.entry.channel_version = version;
        Ok(ProofEntry { version, wrapped_by: kek, phase: ChangePhase::Prepared, attempts: 0 })
    }

    /// Wraps versions for the meter and seals the transfer. They count as sent from here on.
    fn transfer(&mut self, device: &mut Device, items: &[(KeyKind, u32)], kek: u32) -> Result<Sealed, Stop> {
        let kek = device.held(KeyKind::Kek, kek).ok_or(Denial::UnknownKey)?.clone();
        let mut wrapped = Vec::with_capacity(items.len());
        for (kind, version) in items {
            let entry: &VersionEntry = device.held(*kind, *version).ok_or(Denial::UnknownKey)?;
            wrapped.push((*kind, self.wrapped_for_meter(device, entry, &kek)?));
        }
        for (kind, version) in items {
            let order = device.next_act();
            let site = self.site.site.bit();
            if let Some(entry) = device.version_mut(*kind, *version) {
                entry.sent = true;
                entry.sent_by |= site;
                entry.sent_order = order;
            }
            self.note(&mut device.entry, "key-change.sent", &version_name(*kind, *version))?;
        }
        // What the meter gets now is what it has next, most likely: the turns of the probes begin anew.
        device.entry.probe.first = 0;
        let pair = device.transfer_pair().ok_or(Denial::StateForbids)?;
        self.seal_own(&device.entry, pair, transfer_apdu(&wrapped))
    }

    /// What came of a transfer.
    pub(crate) fn report_change(&mut self, id: &N16, outcome: ChangeOutcome) -> Result<ExchangeReply, Stop> {
        let change: ChangeEntry = self.records.load(CHANGES, id.as_bytes())?.ok_or(Denial::UnknownChange)?;
        let entry = self.records.load(DEVICES, change.device.as_bytes())?;
        let entry: crate::record::DeviceEntry =
            entry.ok_or(gridseal_types::records::RecordsError::Damaged)?;
        if entry.change != Some(*id) {
            // Resolved before: tell how.
            return Ok(ExchangeReply::Change(ChangeReply { status: status_of(&change), transfer: None }));
        }
        let title = entry.system_title;
        let result = match outcome {
            ChangeOutcome::Reply { apdu } => {
                if self.takes_its_word(id)? {
                    return self.report_done(id);
                }
                let opened = self.opened(Some(title), apdu).map_err(verified_or)?;
                if opened.title != title || opened.arrival == crate::Arrival::Replay {
                    return Err(Denial::Rejected.into());
                }
                action_result(&opened.plain)
            }
            ChangeOutcome::NoReply => None,
            ChangeOutcome::Abandon => return self.abandon(title),
            _ => return Err(Denial::Malformed.into()),
        };
        // The answer may have proven the new keys: what is on record now counts.
        let entry = self.titled(title)?;
        if entry.change != Some(*id) {
            return self.report_done(id);
        }
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        self.note_outcome(&mut device, result)?;
        // A master key has no answer of its own: its proof follows at once, in whatever way it was answered.
        let is_kek = device.change.as_ref().is_some_and(|change| change.items.contains(&KeyKind::Kek));
        let proof_due = device.change.as_ref().is_some_and(|change| {
            let is_sent = matches!(change.phase, ChangePhase::Sent | ChangePhase::Unknown);
            // Where the old one was proven the new one has to be sent again first. What refuses that one's proof too is
            // asked again later, not at once and for ever.
            let is_refused =
                |proof: ProofEntry| proof.phase == ChangePhase::Refused && proof.wrapped_by == change.version;
            is_sent && !is_unanswered(change) && change.proof.is_none_or(is_refused)
        });
        let transfer = match device.change.clone() {
            Some(change) if is_kek && proof_due && may_send(&device)? => {
                self.advance_proof(&mut device, change)?
            }
            _ => None,
        };
        self.change_reply(&before, &mut device, transfer)
    }

    fn report_done(&mut self, id: &N16) -> Result<ExchangeReply, Stop> {
        let change: ChangeEntry = self.records.load(CHANGES, id.as_bytes())?.ok_or(Denial::UnknownChange)?;
        Ok(ExchangeReply::Change(ChangeReply { status: status_of(&change), transfer: None }))
    }

    /// Moves the change by an outcome: the result of a verified action-response, or none.
    fn note_outcome(&mut self, device: &mut Device, result: Option<u8>) -> Result<(), Stop> {
        let Some(mut change) = device.change.clone() else { return Ok(()) };
        match (&mut change.proof, result) {
            // An acknowledgement is a hint: nothing but the new key itself confirms.
            (_, Some(0)) => {}
            (Some(proof), Some(_)) => {
                proof.phase = change_after(proof.phase, ChangeEvent::Refuse).unwrap_or(proof.phase);
            }
            (Some(proof), None) => {
                proof.phase = change_after(proof.phase, ChangeEvent::NoEvidence).unwrap_or(proof.phase);
            }
            (None, Some(_)) => {
                // An agreement needs no master key.
                if change.agreement.is_none() {
                    device.transfer_failed(true);
                }
                step(&mut change, self.now.0, &[ChangeEvent::Refuse]);
                if device.entry.claim == ClaimState::Claiming {
                    device.entry.claim = ClaimState::ClaimFailed;
                }
            }
            (None, None) => step(&mut change, self.now.0, &[ChangeEvent::NoEvidence]),
        }
        device.change = Some(change);
        Ok(())
    }

    fn abandon(&mut self, title: SystemTitle) -> Result<ExchangeReply, Stop> {
        let entry = self.titled(title)?;
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        let change = device.change.as_mut().ok_or(Denial::UnknownChange)?;
        change.phase =
            change_after(change.phase, ChangeEvent::Abandon).map_err(|_| Denial::IllegalTransition)?;
        change.changed_at = self.now;
        if device.entry.claim == ClaimState::Claiming {
            device.entry.claim = ClaimState::ClaimFailed;
        }
        self.change_reply(&before, &mut device, None)
    }

    /// Ends the open change of a device when its keys must not be sent any more: one of them is compromised, or gone. The
    /// meter may have taken them, so they stay what it may be using; what comes next is a change of its own.
    pub(crate) fn end_spoilt_change(&mut self, device: &mut Device) -> Result<(), KeysError> {
        let Some(mut change) = device.change.clone() else { return Ok(()) };
        if !device.is_spoilt(&change) {
            let is_spoilt = |proof: &ProofEntry| !device.may_deliver(KeyKind::Guek, proof.version);
            if change.proof.as_ref().is_some_and(is_spoilt) {
                // Another key proves the same.
                (change.proof, change.transfer) = (None, None);
                device.change = Some(change);
            }
            return Ok(());
        }
        step(&mut change, self.now.0, &[ChangeEvent::NoEvidence, ChangeEvent::Abandon]);
        if device.entry.claim == ClaimState::Claiming {
            device.entry.claim = ClaimState::ClaimFailed;
        }
        let detail = alloc::format!("{} {}", kinds_name(&change.items), change.phase);
        self.note(&mut device.entry, "key-change.phase", &detail)?;
        device.change = Some(change);
        self.settle_state(device)
    }

    #[cfg(not(feature = "danger-faults"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the same call with and without the feature"
    )]
    const fn takes_its_word(&self, _: &N16) -> Result<bool, Stop> {
        Ok(false)
    }

    /// Planted: any answer counts as the meter's, and the old keys are gone.
    #[cfg(feature = "danger-faults")]
    fn takes_its_word(&mut self, id: &N16) -> Result<bool, Stop> {
        if !self.has(crate::danger_faults::Fault::Confirm) {
            return Ok(false);
        }
        let change: ChangeEntry = self.records.load(CHANGES, id.as_bytes())?.ok_or(Denial::UnknownChange)?;
        let entry = self.records.load(DEVICES, change.device.as_bytes())?;
        let entry = entry.ok_or(gridseal_types::records::RecordsError::Damaged)?;
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        for kind in &change.items {
            device.prove(*kind, change.version, self.now);
            for old in
                device.versions.iter_mut().filter(|old| old.kind == *kind && old.version != change.version)
            {
                old.state = gridseal_types::service::keys::VersionState::Destroyed;
                old.envelope = gridseal_types::service::keys::Bytes(Vec::new());
            }
        }
        if let Some(change) = device.change.as_mut() {
            step(change, self.now.0, &[ChangeEvent::NewProven, ChangeEvent::Activate]);
        }
        self.save(&before, &device)?;
        Ok(true)
    }
}

/// Keys by whose transfer a master key is proven: after an agreement everything below it is new, and of its suite.
fn proof_kinds(change: &ChangeEntry) -> &'static [KeyKind] {
    if change.agreement.is_some() { &[KeyKind::Guek, KeyKind::Gak] } else { &[KeyKind::Guek] }
}

/// Whether a master key has to be agreed upon before other keys of a suite can be brought: the meter may have none that is
/// known here, or speaks a lower suite.
fn needs_agreement(device: &Device, suite: u8) -> bool {
    let spoken = device.transfer_pair().and_then(|pair| device.version(KeyKind::Guek, pair.guek));
    let is_lower = spoken.is_some_and(|guek| guek.suite < suite);
    suite > 0 && (is_lower || device.is_kek_in_doubt() || device.kek_in_turn(suite).is_none())
}

/// An answer that does not verify is refused as such; everything else stays what it is.
fn verified_or(stop: Stop) -> Stop {
    match stop {
        Stop::Refused(_) => Stop::Denied(Denial::Rejected),
        other => other,
    }
}

fn in_use(device: &Device, kind: KeyKind, version: u32) -> bool {
    device.active(kind).is_some_and(|entry| entry.version == version)
}

/// Whether a transfer may leave for a device in its state; `Ok(false)`: it is prepared, and sent when a person has released
/// the device.
fn may_send(device: &Device) -> Result<bool, Stop> {
    match device.entry.state {
        state if state.may_exchange() => Ok(true),
        DeviceState::Installing if !device.entry.attested => Ok(true),
        state if state.may_probe() => Ok(false),
        _ => Err(Denial::StateForbids.into()),
    }
}

fn kept(sealed: &Sealed) -> TransferEntry {
    let Sealed { apdu, version, counter } = sealed;
    TransferEntry {
        apdu: gridseal_types::service::keys::Bytes(apdu.clone()),
        version: *version,
        counter: *counter,
    }
}

fn version_name(kind: KeyKind, version: u32) -> alloc::string::String {
    alloc::format!("{}/{version}", kind.name())
}

/// What is told of a change.
pub(crate) fn status_of(change: &ChangeEntry) -> ChangeStatus {
    ChangeStatus {
        change: change.id,
        items: change.items.clone(),
        phase: change.phase,
        attempts: change.attempts,
        begun_at: change.begun_at,
        changed_at: change.changed_at,
    }
}
