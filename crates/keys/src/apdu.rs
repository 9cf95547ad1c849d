//! Opening of meters' APDUs: idempotent, with the replay window of each key here and nowhere else (decision D1).
//!
//! The common case, a fresh or repeated APDU under the keys in use, touches the device's slot and the batch's log and
//! nothing else. What more may follow from an APDU, such as the proof of a new key, is decided in [`crate::evidence`].

use alloc::vec::Vec;
use core::ops::Range;

use gridseal_dlms::{
    apdu::ciphered::{GENERAL_GLO_CIPHERING, GeneralGlo, Protected, SecurityControl},
    wire::Reader,
};
use gridseal_trust::audit::Item;
use gridseal_types::{
    Code, DeviceState, SystemTitle,
    records::Records,
    service::keys::{Denial, ExchangeReply, KeyReply, OpenVerdict, SiteMode},
};

use crate::{
    Arrival, KeysError,
    core::{Stop, Work},
    traffic::{HotPair, Pair, Slot},
    window::TagHead,
};

/// Size of a tag in bytes.
const TAG_SIZE: usize = 12;

/// Bits of the security control octet that name the suite.
const SUITE: u8 = 0x0F;

/// The security control octet of authenticated encryption in a suite.
pub(crate) const fn control_of(suite: u8) -> u8 {
    SecurityControl::AUTHENTICATED_ENCRYPTION.0 | suite & SUITE
}

/// Operations of class B audit items.
pub(crate) const OPENED: u8 = 1;
/// A seal on behalf of a head-end.
pub(crate) const SEALED: u8 = 2;
/// A seal of the key service's own: transfers, probes, authentication.
pub(crate) const SEALED_OWN: u8 = 3;

/// Verdicts of class B audit items: fresh, late, duplicate, replay, and sealed.
const FRESH: u8 = 1;
const LATE: u8 = 2;
const DUPLICATE: u8 = 3;
const REPLAY: u8 = 4;
pub(crate) const DONE: u8 = 6;

/// What of a ciphered APDU is read before it is opened.
struct Header {
    title: Option<SystemTitle>,
    /// Tag that the plain APDU must have, when the carrier says it.
    inner: Option<u8>,
    control: u8,
    counter: u32,
    body: Range<usize>,
    tag: TagHead,
}

fn header(apdu: &[u8]) -> Option<Header> {
    let (title, inner, protected) = if apdu.first() == Some(&GENERAL_GLO_CIPHERING) {
        let general = GeneralGlo::from_bytes(apdu).ok()?;
        (general.system_title, None, general.protected())
    } else {
        let tag = *apdu.first()?;
        (None, Some(inner_tag(tag)), service_carrier(apdu)?)
    };
    // The suite in it is judged with the keys.
    let control = protected.security_control.0;
    if control & !SUITE != SecurityControl::AUTHENTICATED_ENCRYPTION.0 {
        return None;
    }
    let body = apdu.len().checked_sub(protected.body.len())?..apdu.len();
    let tag_at = protected.body.len().checked_sub(TAG_SIZE)?;
    let tag = protected.body.get(tag_at..)?.first_chunk::<8>()?;
    Some(Header { title, inner, control, counter: protected.invocation_counter, body, tag: *tag })
}

/// The originator that an APDU names in the usual form, before anything is checked.
pub(crate) fn title_ahead(apdu: &[u8]) -> Option<SystemTitle> {
    let (head, rest) = apdu.split_first_chunk::<2>()?;
    (*head == [GENERAL_GLO_CIPHERING, 8]).then_some(SystemTitle(*rest.first_chunk()?))
}

/// What a fuzzer drives.
pub(crate) fn look_at(apdu: &[u8]) {
    if let Some(header) = header(apdu) {
        assert!(header.body.end == apdu.len() && header.body.len() >= TAG_SIZE);
    }
}

/// The carriers of single services under the global key: responses and notifications of a meter.
///
/// # Source
/// DLMS fact sheet, section 5.4.
const fn is_service_carrier(tag: u8) -> bool {
    matches!(tag, 0x28 | 0x2E | 0xC8..=0xCF)
}

/// Tag of the service in a carrier.
///
/// # Source
/// DLMS fact sheet, section 5.4.
const fn inner_tag(carrier: u8) -> u8 {
    match carrier {
        0x28 | 0x2E => carrier - 0x20,
        _ => carrier.wrapping_sub(8),
    }
}

fn service_carrier(apdu: &[u8]) -> Option<Protected<'_>> {
    let mut reader = Reader::new(apdu);
    let tag = reader.u8("apdu tag").ok()?;
    if !is_service_carrier(tag) {
        return None;
    }
    let size = reader.length("ciphered content").ok()?;
    if size != reader.left() {
        return None;
    }
    Protected::from_bytes(reader.remainder()).ok()
}

/// An APDU that has opened.
pub(crate) struct Opened {
    pub(crate) title: SystemTitle,
    pub(crate) pair: Pair,
    pub(crate) arrival: Arrival,
    pub(crate) plain: Vec<u8>,
    /// The keys are good for evidence only.
    pub(crate) evidence_only: bool,
}

impl<R: Records> Work<'_, R> {
    /// Opens an APDU and gives the verdict.
    pub(crate) fn open(&mut self, from: Option<SystemTitle>, apdu: Vec<u8>) -> Result<KeyReply, KeysError> {
        if self.site.mode != SiteMode::Active {
            let epoch = self.site.row.highest;
            return Ok(KeyReply::Exchange(ExchangeReply::Denied(Denial::Fenced { epoch })));
        }
        match self.opened(from, apdu) {
            Ok(opened) if opened.evidence_only => self.rejected(Code::State),
            Ok(opened) => Ok(KeyReply::Apdu(verdict(opened))),
            Err(Stop::Refused(code)) => self.rejected(code),
            Err(Stop::Denied(_)) => self.rejected(Code::State),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn rejected(&mut self, code: Code) -> Result<KeyReply, KeysError> {
        let count = self.rejected.entry(code.name()).or_default();
        *count = count.saturating_add(1);
        Ok(KeyReply::Apdu(OpenVerdict::Rejected))
    }

    /// Opens an APDU, judges its counter, and draws what follows from it.
    pub(crate) fn opened(&mut self, from: Option<SystemTitle>, mut apdu: Vec<u8>) -> Result<Opened, Stop> {
        let header = header(&apdu).ok_or(Code::Format)?;
        let title = header.title.or(from).ok_or(Code::Unknown)?;
        if from.is_some_and(|from| from != title) {
            return Err(Code::Grant.into());
        }
        let number = self.traffic.find(title).ok_or(Code::Unknown)?;
        let slot = self.traffic.slot(number).ok_or(Code::Unknown)?;
        let evidence_only = !self.may_exchange(slot)?;
        let (active, state) = (slot.active.clone(), slot.state);
        let found = active.filter(|hot| self.opens(title, hot, &header, &mut apdu));
        let is_active = found.is_some();
        let Some(hot) = found.or_else(|| self.try_candidates(number, &header, &mut apdu)) else {
            return Err(Code::Grant.into());
        };
        //= DLMS 5.4: the tag inside must be the one that the carrier names
        // Before the counter is used up: whoever changes the carrier on its way must not take it from the true APDU.
        if header.inner.is_some_and(|inner| apdu.get(header.body.start) != Some(&inner)) {
            return Err(Code::Format.into());
        }
        let size = header.body.len().saturating_sub(TAG_SIZE);
        apdu.copy_within(header.body.start..header.body.start.saturating_add(size), 0);
        apdu.truncate(size);
        let guek = hot.pair.guek;
        let slot = self.traffic.slot_mut(number).ok_or(Code::Unknown)?;
        let watched = slot.watched || !is_active;
        let arrival = slot.counters_of(guek).window.arrive(header.counter, header.tag);
        if let Arrival::Fresh { .. } = arrival {
            self.traffic.log.opened(number, guek, header.counter, header.tag);
            self.traffic.touch(number);
        }
        let arrival = self.perhaps_not_idempotent(arrival);
        self.batch.push(&Item {
            operation: OPENED,
            system_title: title,
            version: guek,
            counter: header.counter,
            verdict: match arrival {
                Arrival::Fresh { late: false } => FRESH,
                Arrival::Fresh { late: true } => LATE,
                Arrival::Duplicate => DUPLICATE,
                Arrival::Replay => REPLAY,
            },
            tag: header.tag,
        });
        let evidence_only = (evidence_only && !is_of_claim(state, &apdu)) || hot.flagged;
        let mut opened = Opened { title, pair: hot.pair, arrival, plain: apdu, evidence_only };
        if watched {
            self.draw_conclusions(&mut opened)?;
        }
        Ok(opened)
    }

    #[cfg(feature = "danger-faults")]
    fn perhaps_not_idempotent(&self, arrival: Arrival) -> Arrival {
        let planted = self.has(crate::danger_faults::Fault::OpenIdempotent);
        if planted && arrival == Arrival::Duplicate { Arrival::Replay } else { arrival }
    }

    #[cfg(not(feature = "danger-faults"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    const fn perhaps_not_idempotent(&self, arrival: Arrival) -> Arrival {
        arrival
    }

    /// Rule S13: whether everything may be exchanged with the device. `Ok(false)`: only what its keys prove, and probes of
    /// its state.
    fn may_exchange(&self, slot: &Slot) -> Result<bool, Stop> {
        // One from the future is as good as none: somebody's clock is wrong (rule S14).
        let age_s = self.now.0.abs_diff(slot.attested_at.0);
        let fresh = !slot.attested || age_s <= self.core.attestation_age_max_s;
        match slot.state {
            state if state.may_exchange() && fresh => Ok(true),
            // The exchange of a claim; what it opens is for the key service alone.
            DeviceState::Installing if !slot.attested => Ok(false),
            state if state.may_probe() && slot.watched => Ok(false),
            _ => Err(Code::State.into()),
        }
    }

    fn opens(&self, title: SystemTitle, hot: &HotPair, header: &Header, apdu: &mut [u8]) -> bool {
        //= design S5: an APDU that names another suite than that of its keys is none of the meter's
        if header.control != control_of(hot.suite) {
            return false;
        }
        let Some(keys) = self.traffic.open_pair(title, hot) else { return false };
        let Some(body) = apdu.get_mut(header.body.clone()) else { return false };
        keys.open_in_place(title, header.control, header.counter, body).is_some()
    }

    fn try_candidates(&self, slot: u32, header: &Header, apdu: &mut [u8]) -> Option<HotPair> {
        let slot = self.traffic.slot(slot)?;
        slot.candidates().iter().find(|hot| self.opens(slot.title, hot, header, apdu)).cloned()
    }
}

/// What a claim exchanges: the meter's initiate-response and the results of methods. Whoever carries it may read it.
fn is_of_claim(state: DeviceState, plain: &[u8]) -> bool {
    state == DeviceState::Installing && matches!(plain.first(), Some(0x08 | 0xC7))
}

fn verdict(opened: Opened) -> OpenVerdict {
    let (system_title, plain) = (opened.title, opened.plain);
    match opened.arrival {
        Arrival::Fresh { late } => OpenVerdict::Fresh { system_title, plain, late },
        Arrival::Duplicate => OpenVerdict::Duplicate { system_title, plain },
        Arrival::Replay => OpenVerdict::Replay,
    }
}
