//! Sealing of APDUs: nonce, counter, key version and associated data are chosen here and nowhere else.

use alloc::vec::Vec;

use gridseal_crypto::sha256;
use gridseal_dlms::{apdu::ciphered::GENERAL_GLO_CIPHERING, wire::Writer};
use gridseal_trust::audit::Item;
use gridseal_types::{
    Digest, SystemTitle,
    records::Records,
    service::keys::{Carrier, Denial, Seal, Sealed},
};

use crate::{
    KeysError,
    apdu::{DONE, SEALED, SEALED_OWN, control_of},
    classify::is_harmless,
    core::{Stop, Work},
    lease::{CounterLayout, Lease},
    record::{DEVICES, DeviceEntry, TITLES},
    traffic::{HotPair, Pair, log::SealedBefore},
};

/// Longest APDU that is sealed, bytes: what the longest length that a meter announces can hold.
pub const APDU_SIZE_MAX: usize = 65_535;

impl<R: Records> Work<'_, R> {
    /// The device of a system title.
    pub(crate) fn titled(&self, title: SystemTitle) -> Result<DeviceEntry, Stop> {
        let name = self.records.get(TITLES, title.as_bytes())?.ok_or(Denial::UnknownDevice)?;
        Ok(self.records.load(DEVICES, &name)?.ok_or(gridseal_types::records::RecordsError::Damaged)?)
    }

    /// Seals an APDU for a head-end.
    pub(crate) fn seal(&mut self, request: Seal) -> Result<Sealed, Stop> {
        let Seal { system_title, apdu, carrier, idempotency } = request;
        if apdu.len() > APDU_SIZE_MAX {
            return Err(Denial::Malformed.into());
        }
        let number = self.traffic.find(system_title).ok_or(Denial::UnknownDevice)?;
        self.may_seal(number)?;
        if !is_harmless(&apdu) {
            return Err(Denial::PolicyDenied.into());
        }
        if idempotency == Seal::UNNAMED {
            return self.seal_new(number, apdu, carrier).map(|(sealed, _)| sealed);
        }
        let digest = Digest(sha256(&[&[carrier_number(carrier)], &apdu]));
        if let Some(before) = self.traffic.sealed_before(&idempotency) {
            return self.seal_again(number, &before, &digest, apdu, carrier);
        }
        if !self.traffic.seals.has_room() {
            return Err(Denial::Busy.into());
        }
        let (sealed, pair) = self.seal_new(number, apdu, carrier)?;
        let seal = SealedBefore {
            slot: number,
            version: pair.guek,
            gak_version: pair.gak,
            counter: sealed.counter,
            at: self.now.0,
            idempotency,
            digest,
        };
        self.traffic.log.sealed(&seal);
        self.traffic.seals.remember(seal);
        Ok(sealed)
    }

    /// Seals under the keys in use.
    fn seal_new(&mut self, number: u32, apdu: Vec<u8>, carrier: Carrier) -> Result<(Sealed, Pair), Stop> {
        let slot = self.traffic.slot(number).ok_or(Denial::UnknownDevice)?;
        let hot = slot.active.clone().filter(|_| !slot.held).ok_or(Denial::StateForbids)?;
        Ok((self.seal_under(number, &hot, apdu, carrier, SEALED)?, hot.pair))
    }

    /// Rule S13 for what a head-end sends.
    fn may_seal(&self, slot: u32) -> Result<(), Stop> {
        let slot = self.traffic.slot(slot).ok_or(Denial::UnknownDevice)?;
        if !slot.state.may_exchange() {
            return Err(Denial::StateForbids.into());
        }
        let age_s = self.now.0.abs_diff(slot.attested_at.0);
        if slot.attested && age_s > self.core.attestation_age_max_s {
            return Err(Denial::AttestationStale.into());
        }
        Ok(())
    }

    /// The same bytes again: same key, same counter, and by its digest the same plaintext.
    #[expect(clippy::too_many_arguments, reason = "one seal with everything that it depends on")]
    fn seal_again(
        &mut self,
        number: u32,
        before: &SealedBefore,
        digest: &Digest,
        apdu: Vec<u8>,
        carrier: Carrier,
    ) -> Result<Sealed, Stop> {
        if before.slot != number || before.digest != *digest {
            return Err(Denial::IdempotencyConflict.into());
        }
        let slot = self.traffic.slot(number).ok_or(Denial::UnknownDevice)?;
        let pair = Pair { guek: before.version, gak: before.gak_version };
        // A key that was destroyed or compromised since protects nothing more, not even again.
        let hot = slot.hot(pair).filter(|hot| !hot.flagged).ok_or(Denial::StateForbids)?;
        let (title, layout) = (slot.title, slot.layout);
        if layout == CounterLayout::Plain {
            // The block may be on record here alone, from a commit that no standby has acknowledged.
            self.replicate_always()?;
            self.log_lease_again(number, pair.guek);
        }
        let mut used = gridseal_crypto::InvocationCounter::resume(u64::from(before.counter));
        let one = used.reserve(1).map_err(|_| Denial::CounterExhausted)?;
        used.extend(one);
        let ticket = used.take().map_err(|_| Denial::CounterExhausted)?;
        self.protect(title, &hot, &ticket, apdu, carrier)
    }

    /// Puts the end of a block on record once more, so that there is a commit for the standby to acknowledge.
    fn log_lease_again(&mut self, number: u32, guek: u32) {
        let Some(slot) = self.traffic.slot_mut(number) else { return };
        let Lease { epoch, end, .. } = slot.counters_of(guek).lease;
        self.traffic.log.leased(number, guek, epoch, end);
        self.traffic.touch(number);
    }

    /// Seals under a pair that the device may have, with the next counter of its encryption key.
    #[expect(clippy::too_many_arguments, reason = "one seal with everything that it depends on")]
    pub(crate) fn seal_under(
        &mut self,
        number: u32,
        hot: &HotPair,
        apdu: Vec<u8>,
        carrier: Carrier,
        operation: u8,
    ) -> Result<Sealed, Stop> {
        let ticket = self.lease(number, hot)?;
        let title = self.traffic.slot(number).ok_or(Denial::UnknownDevice)?.title;
        let sealed = self.protect(title, hot, &ticket, apdu, carrier)?;
        let tag = sealed.apdu.last_chunk::<12>().and_then(|tag| tag.first_chunk::<8>());
        self.batch.push(&Item {
            operation,
            system_title: title,
            version: hot.pair.guek,
            counter: sealed.counter,
            verdict: DONE,
            tag: tag.copied().unwrap_or_default(),
        });
        Ok(sealed)
    }

    /// The same for the key service itself.
    pub(crate) fn seal_own(
        &mut self,
        entry: &DeviceEntry,
        pair: Pair,
        apdu: Vec<u8>,
    ) -> Result<Sealed, Stop> {
        let slot = self.traffic.slot(entry.slot).ok_or(Denial::UnknownDevice)?;
        let hot = slot.hot(pair).ok_or(Denial::StateForbids)?;
        self.seal_under(entry.slot, &hot, apdu, entry.carrier, SEALED_OWN)
    }

    /// The next counter of an encryption key. The end of its block is in the batch's log, so it is durable before anything
    /// that was sealed with the counter leaves (rule S2).
    pub(crate) fn lease(&mut self, number: u32, hot: &HotPair) -> Result<gridseal_crypto::Ticket, Stop> {
        let epoch = self.site.row.epoch;
        let slot = self.traffic.slot_mut(number).ok_or(Denial::UnknownDevice)?;
        let layout = slot.layout;
        if slot.doubt && layout == CounterLayout::Plain {
            return Err(Denial::CounterDoubt.into());
        }
        let lease = &mut slot.counters_of(hot.pair.guek).lease;
        if lease.epoch > epoch {
            return Err(Denial::Fenced { epoch: lease.epoch }.into());
        }
        if lease.epoch < epoch {
            *lease = Lease::resume(epoch, Some(*lease), layout);
        }
        // Before the block is extended: a refusal leaves it as it was.
        if layout == CounterLayout::Plain && lease.next >= lease.end {
            self.replicate_always()?;
        }
        let slot = self.traffic.slot_mut(number).ok_or(Denial::UnknownDevice)?;
        let lease = &mut slot.counters_of(hot.pair.guek).lease;
        let leased = lease.take(layout, hot.first_epoch).map_err(|_| Denial::CounterExhausted)?;
        let end = lease.end;
        if leased.extended && !self.lease_fault() {
            self.traffic.log.leased(number, hot.pair.guek, epoch, end);
            self.traffic.touch(number);
        }
        Ok(leased.ticket)
    }

    #[cfg(feature = "danger-faults")]
    fn lease_fault(&self) -> bool {
        self.has(crate::danger_faults::Fault::Lease)
    }

    #[cfg(not(feature = "danger-faults"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    const fn lease_fault(&self) -> bool {
        false
    }

    #[expect(clippy::too_many_arguments, reason = "one seal with everything that it depends on")]
    fn protect(
        &self,
        meter: SystemTitle,
        hot: &HotPair,
        ticket: &gridseal_crypto::Ticket,
        apdu: Vec<u8>,
        carrier: Carrier,
    ) -> Result<Sealed, Stop> {
        let client = self.site.site.client_title;
        let keys = self.traffic.open_pair(meter, hot).ok_or(KeysError::Keystore)?;
        let control = control_of(hot.suite);
        let mut writer = Writer::with_capacity(apdu.len().saturating_add(32));
        match carrier {
            Carrier::GeneralGlo => {
                writer.u8(GENERAL_GLO_CIPHERING);
                writer.prefixed(client.as_bytes());
            }
            _ => writer.u8(glo_tag(apdu.first().copied()).ok_or(Denial::PolicyDenied)?),
        }
        writer.length(apdu.len().saturating_add(17));
        writer.u8(control);
        writer.u32(ticket.value());
        writer.bytes(&apdu);
        let mut sealed = writer.into_bytes();
        let body = sealed.len().checked_sub(apdu.len()).and_then(|at| sealed.get_mut(at..));
        let body = body.ok_or(Denial::Malformed)?;
        let tag = keys.seal_in_place(client, control, ticket, body).ok_or(Denial::Malformed)?;
        sealed.extend_from_slice(&tag);
        Ok(Sealed { apdu: sealed, version: hot.pair.guek, counter: ticket.value() })
    }
}

const fn carrier_number(carrier: Carrier) -> u8 {
    match carrier {
        Carrier::GeneralGlo => 0,
        _ => 1,
    }
}

/// Tag of a service under the global key.
const fn glo_tag(plain: Option<u8>) -> Option<u8> {
    match plain {
        Some(0x01) => Some(0x21),
        Some(0xC0) => Some(0xC8),
        Some(0xC3) => Some(0xCB),
        _ => None,
    }
}
