//! Ownership claim of a meter that came with its manufacturer's keys: what is to be done next, step by step.
//!
//! Nothing of it is a state of its own: which step comes next follows from the key versions that are proven, so a claim goes
//! on wherever it was, whoever died. The factory's keys are good for one thing: to deliver the owner's. Last they are shown
//! to be closed: the meter does not answer a challenge under them, and answers a later one under the owner's.
//! In suites 1 and 2 certificates are exchanged with the keys ([`crate::setup`]).
//!
//! # Source
//! Key service specification, section 6.

use gridseal_types::{
    SystemTitle, UtcTime,
    records::{Records, Table},
    service::keys::{ChangeReply, ClaimState, ClaimStep, Denial, ExchangeReply, KeyKind, KeyOrigin},
};

use crate::{
    core::{Stop, Work},
    device::Device,
    traffic::Pair,
};

/// How far the proof is that the factory's keys are closed, by system title.
pub(crate) const CLAIMS: Table = "key_claims";

/// One such proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
pub(crate) struct ClaimEntry {
    /// Number of the device's acts when a challenge under the factory's keys was drawn that was not answered.
    #[n(0)]
    tried: Option<u64>,
    /// When a later challenge under the owner's keys was answered.
    #[n(1)]
    closed_at: Option<UtcTime>,
}

/// What a device needs next: keys to be replaced, in order.
fn to_replace(device: &Device) -> &'static [KeyKind] {
    let is_vendors = |kind| device.active(kind).is_some_and(|entry| entry.origin != KeyOrigin::Operator);
    // In suites 1 and 2 the master key is agreed upon first: who knows the factory's learns nothing that comes after it, and
    // its proof replaces the other two.
    if device.entry.suite > 0 && [KeyKind::Guek, KeyKind::Gak, KeyKind::Kek].into_iter().any(is_vendors) {
        return &[KeyKind::Kek];
    }
    if is_vendors(KeyKind::Guek) || is_vendors(KeyKind::Gak) {
        return &[KeyKind::Guek, KeyKind::Gak];
    }
    //= I5: the master key is changed alone and last
    if is_vendors(KeyKind::Kek) { &[KeyKind::Kek] } else { &[] }
}

fn is_factory(device: &Device, pair: Pair) -> bool {
    let origin = |kind, version| device.version(kind, version).map(|entry| entry.origin);
    let is_vendors = |origin: Option<KeyOrigin>| origin.is_some_and(|origin| origin != KeyOrigin::Operator);
    is_vendors(origin(KeyKind::Guek, pair.guek)) && is_vendors(origin(KeyKind::Gak, pair.gak))
}

impl<R: Records> Work<'_, R> {
    /// The next step of a claim.
    pub(crate) fn claim(&mut self, title: SystemTitle) -> Result<ExchangeReply, Stop> {
        let before = self.load_device(self.titled(title)?)?;
        let mut device = before.clone();
        // A root of trust of its own makes the owner's claim: by onboarding, not by factory keys.
        if device.entry.attested {
            return Err(Denial::StateForbids.into());
        }
        let step = match device.entry.claim {
            ClaimState::Announced | ClaimState::InStock => ClaimStep::Contact,
            ClaimState::Installed | ClaimState::Claiming | ClaimState::ClaimFailed => {
                let items = to_replace(&device);
                let is_changing = device.change.is_some();
                let step = if is_changing { None } else { self.setup_step(&mut device, !items.is_empty())? };
                match step {
                    Some(step) => {
                        self.save(&before, &device)?;
                        step
                    }
                    None => {
                        let items = if is_changing { &[] } else { items };
                        ClaimStep::Change(self.claim_change(title, items)?)
                    }
                }
            }
            ClaimState::Claimed => self.closing_step(&device)?,
            _ => return Err(Denial::StateForbids.into()),
        };
        Ok(ExchangeReply::Claim(step))
    }

    fn claim_change(&mut self, title: SystemTitle, items: &[KeyKind]) -> Result<ChangeReply, Stop> {
        match self.begin_change(title, items)? {
            ExchangeReply::Change(reply) => Ok(reply),
            _ => Err(Denial::IllegalTransition.into()),
        }
    }

    fn closing_step(&self, device: &Device) -> Result<ClaimStep, Stop> {
        let claim = self.claim_entry(device.entry.system_title)?;
        if let Some(at) = claim.closed_at {
            return Ok(ClaimStep::Closed { at });
        }
        let pairs = self.pairs_of(device.entry.slot);
        let factory = pairs.iter().position(|pair| is_factory(device, *pair));
        // Keys that are destroyed, or that it never had, cannot be shown to be closed.
        let candidate = factory.and_then(|place| u8::try_from(place).ok()).ok_or(Denial::UnknownKey)?;
        Ok(ClaimStep::Show { candidate })
    }

    fn claim_entry(&self, title: SystemTitle) -> Result<ClaimEntry, Stop> {
        Ok(self.records.load(CLAIMS, title.as_bytes())?.unwrap_or_default())
    }

    /// A challenge is drawn under a pair. Under the factory's of a claimed device it begins the proof anew.
    pub(crate) fn claim_tried(&mut self, device: &mut Device, pair: Pair) {
        if device.entry.claim == ClaimState::Claimed && is_factory(device, pair) {
            let title = device.entry.system_title;
            let tried = Some(device.next_act());
            self.records.save(CLAIMS, title.as_bytes(), &ClaimEntry { tried, closed_at: None });
        }
    }

    /// A challenge of when the device had so many acts was answered under a pair.
    pub(crate) fn claim_answered(&mut self, device: &mut Device, pair: Pair, acts: u64) -> Result<(), Stop> {
        if device.entry.claim != ClaimState::Claimed {
            return Ok(());
        }
        let title = device.entry.system_title;
        let mut claim = self.claim_entry(title)?;
        if is_factory(device, pair) {
            claim = ClaimEntry::default();
            self.note(&mut device.entry, "claim.factory-open", &pair.guek)?;
        } else if claim.closed_at.is_none() && claim.tried.is_some_and(|tried| tried <= acts) {
            claim.closed_at = Some(self.now);
            self.note(&mut device.entry, "claim.factory-closed", &pair.guek)?;
        } else {
            return Ok(());
        }
        self.records.save(CLAIMS, title.as_bytes(), &claim);
        Ok(())
    }
}
