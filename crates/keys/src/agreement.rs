//! Agreement on a master key, in suites 1 and 2: the only key that is ever agreed upon.
//!
//! The meter takes a key that was agreed upon into use before anybody knows that its answer arrives. For a master key that
//! does no harm: it wraps and nothing else, the keys under which the meter is spoken to are as before, and an agreement
//! needs no master key. So a lost answer costs another agreement; with each answer that comes a master key is on record as
//! one that the meter may have, and the one under which fresh keys arrive is the one that it has.
//!
//! # Source
//! DLMS fact sheet, section 6.2; key service specification, sections 7.4 and 7.5.

use alloc::vec::Vec;

use gridseal_crypto::{
    Curve, CurveAgreement, CurvePublic, Key,
    role::{Ephemeral, Kek},
    sha256,
};
use gridseal_dlms::{
    apdu::{
        action::{ActionOutcome, ActionResponse},
        result::ActionResult,
    },
    suite::agreement::{Parties, Side, read_key_data},
    wire::{Data, Writer},
};
use gridseal_types::{
    Digest, SystemTitle,
    records::Records,
    service::keys::{Bytes, ChangePhase, Denial, KeyKind, Sealed},
};

use crate::{
    KeysError, MeterKey,
    core::{Stop, Work},
    device::Device,
    evidence::is_awaited,
    record::{AgreementEntry, ChangeEntry, ephemeral_context, opened, stored},
};

/// Answers to one offer, each a master key that the meter may have. A meter that gives more refuses what is sent under each
/// of them.
pub(crate) const ANSWERS_MAX: usize = 16;

/// ACTION normal on method 3 of the security setup 0.0.43.0.0.255, with an array of one structure of two.
const AGREEMENT_HEAD: [u8; 17] =
    [0xC3, 0x01, 0xC1, 0x00, 0x40, 0x00, 0x00, 0x2B, 0x00, 0x00, 0xFF, 0x03, 0x01, 0x01, 0x01, 0x02, 0x02];
const ENUM: u8 = 0x16;
const OCTET_STRING: u8 = 0x09;

/// ACTION key_agreement of the master key.
fn offer_apdu(key_data: &[u8]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(256);
    writer.bytes(&AGREEMENT_HEAD);
    writer.bytes(&[ENUM, KeyKind::Kek.number(), OCTET_STRING]);
    writer.prefixed(key_data);
    writer.into_bytes()
}

/// The meter's key data in an action-response to key_agreement of the master key alone.
pub(crate) fn answer_of(plain: &[u8]) -> Option<&[u8]> {
    let ActionResponse::Normal { outcome, .. } = ActionResponse::from_bytes(plain).ok()? else { return None };
    let ActionOutcome { result: ActionResult::Success, returned: Some(Ok(value)) } = outcome else {
        return None;
    };
    let Data::Array(entries) = Data::from_bytes(value).ok()? else { return None };
    let [Data::Structure(fields)] = entries.as_slice() else { return None };
    let [Data::Enum(id), Data::OctetString(key_data)] = fields.as_slice() else { return None };
    (*id == KeyKind::Kek.number()).then_some(*key_data)
}

impl<R: Records> Work<'_, R> {
    /// Draws our ephemeral key of a change, and signs for it.
    pub(crate) fn make_agreement(&mut self, device: &Device, change: &mut ChangeEntry) -> Result<(), Stop> {
        let curve = Curve::of_suite(change.suite);
        let signer = self.core.keystore.signer(curve).ok_or(Denial::NoCertificate)?;
        // What it would answer could not be believed.
        if self.signers(device, change.suite)?.is_empty() {
            return Err(Denial::NoCertificate.into());
        }
        let context = ephemeral_context(&self.core.keystore.tenant, change);
        let dek = &self.core.keystore.dek;
        let (ephemeral, sealed) = match curve {
            Curve::P256 => {
                let scalar = Key::<Ephemeral, 32>::generate_scalar(self.rng)?;
                (CurveAgreement::new(&scalar)?, scalar.wrap(dek, &context, self.rng)?)
            }
            Curve::P384 => {
                let scalar = Key::<Ephemeral, 48>::generate_scalar(self.rng)?;
                (CurveAgreement::new(&scalar)?, scalar.wrap(dek, &context, self.rng)?)
            }
        };
        let side = Side::resume(KeyKind::Kek.number(), ephemeral);
        let offer = side.key_data(signer).map_err(|_| Stop::Failed(KeysError::Keystore))?;
        change.agreement = Some(AgreementEntry {
            ephemeral: stored(sealed),
            offer: Bytes(offer),
            client: self.site.site.client_title,
            answers: Vec::new(),
        });
        Ok(())
    }

    /// Seals the offer, the same one each time.
    pub(crate) fn offer(&mut self, device: &mut Device, change: &mut ChangeEntry) -> Result<Sealed, Stop> {
        let agreement = change.agreement.as_mut().ok_or(Denial::UnknownChange)?;
        // It is in the derivation: the title of who sends this one.
        agreement.client = self.site.site.client_title;
        let apdu = offer_apdu(&agreement.offer.0);
        let detail = alloc::format!("kek of suite {} by agreement", change.suite);
        self.note(&mut device.entry, "key-change.sent", &detail)?;
        let (offered, _) = device.entry.offered;
        device.entry.offered = (offered.max(change.suite), device.next_act());
        let pair = device.transfer_pair().ok_or(Denial::StateForbids)?;
        self.seal_own(&device.entry, pair, apdu)
    }

    /// Takes the meter's side of an agreement in, if this is one: another master key that the meter may have. Whether it
    /// was.
    pub(crate) fn take_answer(&mut self, device: &mut Device, plain: &[u8]) -> Result<bool, Stop> {
        let Some(mut change) = device.change.clone().filter(|change| is_awaited(change.phase)) else {
            return Ok(false);
        };
        let Some(agreement) = change.agreement.as_mut() else { return Ok(false) };
        let Some(key_data) = answer_of(plain) else { return Ok(false) };
        let digest = Digest(sha256(&[key_data]));
        let is_known = agreement.answers.iter().any(|(known, _)| *known == digest);
        if is_known || agreement.answers.len() >= ANSWERS_MAX {
            return Ok(false);
        }
        let (curve, title) = (Curve::of_suite(change.suite), device.entry.system_title);
        let signers = self.signers(device, change.suite)?;
        let Some(point) = believed(curve, key_data, &signers, &agreement.offer.0) else {
            self.note(&mut device.entry, "key-change.answer-refused", &title)?;
            return Ok(true);
        };
        let client: SystemTitle = agreement.client;
        let sealed = agreement.ephemeral.clone();
        let side = Side::resume(KeyKind::Kek.number(), self.ephemeral(&change, &sealed)?);
        let parties = Parties { client, server: title };
        let kek: MeterKey<Kek> =
            MeterKey::agreed(&side, &point, parties).map_err(|_| Stop::Failed(KeysError::Keystore))?;
        let version = self.next_version(device)?;
        let mut blank = self.blank(KeyKind::Kek, version, Some(change.id));
        (blank.suite, blank.sent, blank.sent_order) = (change.suite, true, device.next_act());
        let made = self.new_version(device, &kek, blank)?;
        device.add(made);
        device.entry.channel_version = version;
        if let Some(agreement) = change.agreement.as_mut() {
            agreement.answers.push((digest, version));
        }
        // It comes next to prove it; the offer is not sent again for as long as that may be.
        (change.proof, change.transfer) = (None, None);
        self.note(&mut device.entry, "key-change.agreed", &alloc::format!("kek/{version}"))?;
        device.change = Some(change);
        Ok(true)
    }

    fn ephemeral(&self, change: &ChangeEntry, sealed: &Bytes) -> Result<CurveAgreement, KeysError> {
        let context = ephemeral_context(&self.core.keystore.tenant, change);
        let dek = &self.core.keystore.dek;
        Ok(match Curve::of_suite(change.suite) {
            Curve::P256 => CurveAgreement::new(&opened::<Ephemeral, 32>(dek, &context, sealed)?)?,
            Curve::P384 => CurveAgreement::new(&opened::<Ephemeral, 48>(dek, &context, sealed)?)?,
        })
    }
}

/// The meter's ephemeral point, signed by it; neither our own one thrown back nor a key that has another purpose.
fn believed(curve: Curve, key_data: &[u8], signers: &[CurvePublic], offer: &[u8]) -> Option<CurvePublic> {
    let point = read_key_data(curve, KeyKind::Kek.number(), key_data, signers).ok()?;
    let is_ours = offer.get(..curve.point_size()) == Some(point.point());
    (!is_ours && !signers.contains(&point)).then_some(point)
}

/// Whether an offer was sent and nothing came that a master key follows from.
pub(crate) fn is_unanswered(change: &ChangeEntry) -> bool {
    change.agreement.as_ref().is_some_and(|agreement| agreement.newest().is_none())
        && change.phase != ChangePhase::Prepared
}
