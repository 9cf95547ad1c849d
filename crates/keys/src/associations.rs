//! Authentication of associations by GMAC (mechanism 5): challenges and answers stay here, the head-end has a handle.
//!
//! In memory only: a restart ends the authentications under way, and the head-end begins them again.
//!
//! # Source
//! DLMS fact sheet, section 4.

use alloc::{collections::VecDeque, vec::Vec};

use gridseal_crypto::{ct_eq, random};
use gridseal_trust::audit::Item;
use gridseal_types::{
    DeviceState, N16, UtcTime,
    records::Records,
    service::keys::{Carrier, Denial, ExchangeReply, HlsStep, KeyKind, OpenAssociation},
};

use crate::{
    Arrival,
    apdu::{DONE, OPENED, SEALED_OWN},
    core::{Stop, Work},
    device::draw_id,
    evidence::Evidence,
    record::VersionEntry,
    traffic::Pair,
};

/// Mechanism GMAC.
const GMAC: u8 = 5;
/// Security control of an authentication tag; the suite is added.
const CONTROL: u8 = 0x10;
/// Authentications under way; the oldest gives way.
const ASSOCIATIONS_MAX: usize = 16_384;
/// How long one may take, seconds.
const ASSOCIATION_PERIOD_S: u64 = 300;
/// Beginning of an InitiateRequest without a dedicated key.
const INITIATE_WITHOUT_KEY: [u8; 2] = [0x01, 0x00];
/// Largest InitiateRequest, bytes.
const INITIATE_SIZE_MAX: usize = 32;
/// ACTION normal, reply_to_HLS_authentication of the current association 0.0.40.0.0.255, an octet-string of 17 bytes.
const REPLY_HEAD: [u8; 15] =
    [0xC3, 0x01, 0xC1, 0x00, 0x0F, 0x00, 0x00, 0x28, 0x00, 0x00, 0xFF, 0x01, 0x01, 0x09, 0x11];

#[derive(Debug)]
struct Association {
    handle: N16,
    slot: u32,
    pair: Pair,
    client_to_server: [u8; 16],
    answered: bool,
    at: UtcTime,
    /// Number of the device's acts when the challenge was drawn.
    acts: u64,
    /// It has counted as a try that may fail.
    spent: bool,
}

/// Authentications under way.
#[derive(Debug, Default)]
pub(crate) struct Associations(VecDeque<Association>);

impl Associations {
    fn take(&mut self, handle: &N16, now: UtcTime) -> Option<Association> {
        self.0.retain(|one| now.0.abs_diff(one.at.0) <= ASSOCIATION_PERIOD_S);
        let at = self.0.iter().position(|one| one.handle == *handle)?;
        self.0.remove(at)
    }

    fn put(&mut self, association: Association) {
        if self.0.len() >= ASSOCIATIONS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(association);
    }
}

impl<R: Records> Work<'_, R> {
    /// Begins an authentication.
    pub(crate) fn open_association(&mut self, request: &OpenAssociation) -> Result<ExchangeReply, Stop> {
        if request.mechanism != GMAC {
            return Err(Denial::PolicyDenied.into());
        }
        let before = self.load_device(self.titled(request.system_title)?)?;
        let mut device = before.clone();
        let entry = &mut device.entry;
        let pairs = self.pairs_of(entry.slot);
        let pair = *pairs.get(usize::from(request.candidate)).ok_or(Denial::UnknownKey)?;
        let in_use = self.traffic.slot(entry.slot).and_then(|slot| slot.active.as_ref()).map(|hot| hot.pair);
        let is_of_claim = entry.state == DeviceState::Installing && !entry.attested;
        let spent = in_use != Some(pair) || !(entry.state.may_exchange() || is_of_claim);
        if spent {
            self.spend_try(entry)?;
            self.claim_tried(&mut device, pair);
            self.save(&before, &device)?;
        }
        let entry = &device.entry;
        let handle = draw_id(self.rng)?;
        let client_to_server = random(self.rng)?;
        self.associations.put(Association {
            handle,
            slot: entry.slot,
            pair,
            client_to_server,
            answered: false,
            at: self.now,
            acts: entry.acts,
            spent,
        });
        Ok(ExchangeReply::Association {
            association: handle,
            client_to_server: client_to_server.to_vec(),
            client_title: self.site.site.client_title,
        })
    }

    /// The next step. A challenge is used once, whatever comes of it.
    pub(crate) fn continue_hls(&mut self, handle: &N16, step: HlsStep) -> Result<ExchangeReply, Stop> {
        let association = self.associations.take(handle, self.now).ok_or(Denial::UnknownAssociation)?;
        match step {
            HlsStep::Initiate { apdu } if !association.answered => self.initiate(association, apdu),
            HlsStep::Challenge { server_to_client } if !association.answered => {
                self.pass_3(association, &server_to_client)
            }
            HlsStep::Answer { answer } if association.answered => self.pass_4(&association, &answer),
            _ => Err(Denial::UnknownAssociation.into()),
        }
    }

    /// Seals the InitiateRequest of the AARQ: services and sizes, and no key in it.
    fn initiate(&mut self, association: Association, apdu: Vec<u8>) -> Result<ExchangeReply, Stop> {
        if apdu.len() > INITIATE_SIZE_MAX || !apdu.starts_with(&INITIATE_WITHOUT_KEY) {
            return Err(Denial::PolicyDenied.into());
        }
        let slot = self.traffic.slot(association.slot).ok_or(Denial::UnknownDevice)?;
        let hot = slot.hot(association.pair).ok_or(Denial::StateForbids)?;
        let sealed = self.seal_under(association.slot, &hot, apdu, Carrier::GloService, SEALED_OWN)?;
        self.associations.put(association);
        Ok(ExchangeReply::Sealed(sealed))
    }

    fn pass_3(&mut self, mut association: Association, challenge: &[u8]) -> Result<ExchangeReply, Stop> {
        // Our own challenge reflected would make us sign for the meter.
        if !(8..=64).contains(&challenge.len()) || challenge == association.client_to_server {
            return Err(Denial::Rejected.into());
        }
        let client = self.site.site.client_title;
        let slot = self.traffic.slot(association.slot).ok_or(Denial::UnknownDevice)?;
        let title = slot.title;
        let hot = slot.hot(association.pair).ok_or(Denial::StateForbids)?;
        let ticket = self.lease(association.slot, &hot)?;
        let counter = ticket.value();
        let keys = self.traffic.open_pair(title, &hot).ok_or(crate::KeysError::Keystore)?;
        let control = CONTROL | hot.suite;
        let tag = keys.gmac(client, control, counter, challenge).ok_or(Denial::Malformed)?;
        let mut parameter = Vec::with_capacity(17);
        parameter.push(control);
        parameter.extend_from_slice(&counter.to_be_bytes());
        parameter.extend_from_slice(&tag);
        self.audit_tag(&association, SEALED_OWN, counter, &tag);
        let mut action = REPLY_HEAD.to_vec();
        action.extend_from_slice(&parameter);
        let entry = self.titled(title)?;
        let sealed = self.seal_own(&entry, association.pair, action)?;
        association.answered = true;
        self.associations.put(association);
        Ok(ExchangeReply::HlsReply { parameter, sealed })
    }

    fn pass_4(&mut self, association: &Association, answer: &[u8]) -> Result<ExchangeReply, Stop> {
        let Some((head, tag)) = answer.split_first_chunk::<5>() else { return Err(Denial::Rejected.into()) };
        let [control, counter @ ..] = *head;
        let counter = u32::from_be_bytes(counter);
        let slot = self.traffic.slot(association.slot).ok_or(Denial::UnknownDevice)?;
        let title = slot.title;
        let hot = slot.hot(association.pair).ok_or(Denial::StateForbids)?;
        let keys = self.traffic.open_pair(title, &hot).ok_or(crate::KeysError::Keystore)?;
        let expected = keys.gmac(title, CONTROL | hot.suite, counter, &association.client_to_server);
        let expected = expected.ok_or(Denial::Malformed)?;
        if control != CONTROL | hot.suite || !ct_eq(tag, &expected) {
            return Err(Denial::Rejected.into());
        }
        let [a, b, c, d, e, f, g, h, ..] = expected;
        let tag_head = [a, b, c, d, e, f, g, h];
        let slot = self.traffic.slot_mut(association.slot).ok_or(Denial::UnknownDevice)?;
        let arrival = slot.counters_of(association.pair.guek).window.arrive(counter, tag_head);
        let Arrival::Fresh { .. } = arrival else { return Err(Denial::Rejected.into()) };
        self.traffic.log.opened(association.slot, association.pair.guek, counter, tag_head);
        self.traffic.touch(association.slot);
        self.audit_tag(association, OPENED, counter, &expected);
        let entry = self.titled(title)?;
        let before = self.load_device(entry)?;
        let mut device = before.clone();
        // The answer is not older than the challenge, whatever overtook it; it says nothing of what was proven since.
        // The APDU that brings it may have proven the very same keys a moment ago.
        let pair = association.pair;
        let is_current = KeyKind::ALL.iter().all(|kind| {
            let newest = device.newest_proven(*kind).and_then(|newest| device.version(*kind, newest));
            let is_own = |newest: &VersionEntry| {
                (*kind, newest.version) == (KeyKind::Guek, pair.guek)
                    || (*kind, newest.version) == (KeyKind::Gak, pair.gak)
            };
            newest.is_none_or(|newest| newest.proven_order <= association.acts || is_own(newest))
        });
        let evidence = Evidence { pair: association.pair, late: !is_current, answered: is_current };
        if association.spent {
            device.entry.probe.answered();
        }
        self.conclude(&mut device, &evidence)?;
        let site = self.site.site.bit();
        for (kind, version) in [(KeyKind::Guek, association.pair.guek), (KeyKind::Gak, association.pair.gak)]
        {
            if let Some(entry) = device.version_mut(kind, version) {
                let before = if entry.challenged_order < association.acts { 0 } else { entry.challenged_by };
                if entry.challenged_order <= association.acts {
                    (entry.challenged_order, entry.challenged_by) = (association.acts, before | site);
                }
            }
        }
        if association.spent && is_current {
            // A try that has not failed keeps nobody waiting.
            device.entry.probe.next_at = UtcTime(0);
        }
        self.claim_answered(&mut device, association.pair, association.acts)?;
        self.save(&before, &device)?;
        Ok(ExchangeReply::HlsVerified)
    }

    fn audit_tag(&mut self, association: &Association, operation: u8, counter: u32, tag: &[u8; 12]) {
        let Some(slot) = self.traffic.slot(association.slot) else { return };
        self.batch.push(&Item {
            operation,
            system_title: slot.title,
            version: association.pair.guek,
            counter,
            verdict: DONE,
            tag: tag.first_chunk().copied().unwrap_or_default(),
        });
    }
}
