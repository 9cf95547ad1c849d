//! The signing keys of meters, as their certificates say: who signs for a meter when it agrees on a key.
//!
//! A certificate of the manufacturer's is good until the owner's is in the meter, and is never taken in again after that.

use alloc::vec::Vec;

use gridseal_crypto::{Curve, CurvePublic};
use gridseal_trust::party::{Authorities, Certificate, Clock, Fault, Purpose, Role};
use gridseal_types::{
    SystemTitle, UtcTime,
    records::{Records, Table},
    service::keys::{Bytes, ClaimState, Denial, ExchangeReply, KeyOrigin},
};

use crate::{
    KeysError,
    core::{Stop, Work},
    device::Device,
};

/// Certificates of meters, by system title.
pub(crate) const PARTIES: Table = "key_parties";

/// Whom the core believes about the keys of meters: from its configuration alone.
#[derive(Debug, Default)]
pub struct PartyAnchors {
    /// The owner's authorities.
    pub owner: Vec<Certificate>,
    /// Authorities of manufacturers.
    pub vendors: Vec<Certificate>,
    /// The service's own certificates as a DLMS client, one of each curve: for meters.
    pub client: Vec<Certificate>,
}

impl PartyAnchors {
    /// Nobody.
    #[must_use]
    pub const fn none() -> Self {
        Self { owner: Vec::new(), vendors: Vec::new(), client: Vec::new() }
    }

    /// What a meter of the owner's gets on a curve: the owner's authority, and our own certificate.
    pub(crate) fn own(&self, curve: Curve) -> Option<(&Certificate, &Certificate)> {
        let of = |all: &'_ [Certificate]| all.iter().position(|one| one.key().curve() == curve);
        Some((self.owner.get(of(&self.owner)?)?, self.client.get(of(&self.client)?)?))
    }

    pub(crate) fn origin(&self, certificate: &Certificate, now: UtcTime) -> Option<KeyOrigin> {
        self.judge(certificate, now).ok()
    }

    /// Who certifies this, if anybody does: the owner, or a manufacturer.
    fn judge(&self, certificate: &Certificate, now: UtcTime) -> Result<KeyOrigin, Fault> {
        let by = |anchors: &[Certificate]| {
            let known = Authorities { anchors: anchors.iter().collect(), intermediates: Vec::new() };
            known.judge(certificate, certificate.key().curve(), Clock::Trusted(now))
        };
        match by(&self.owner) {
            Ok(()) => Ok(KeyOrigin::Operator),
            Err(_) => by(&self.vendors).map(|()| KeyOrigin::Vendor),
        }
    }
}

/// A certificate that was taken in.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(crate) struct PartyCertificate {
    /// Whose authority has issued it.
    #[n(0)]
    pub(crate) origin: KeyOrigin,
    /// DER.
    #[n(1)]
    pub(crate) der: Bytes,
}

/// What is known of a meter's own keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, minicbor::Encode, minicbor::Decode)]
pub(crate) struct PartyEntry {
    /// For signatures, the oldest first.
    #[n(0)]
    pub(crate) signing: Vec<PartyCertificate>,
}

impl<R: Records> Work<'_, R> {
    pub(crate) fn party(&self, title: SystemTitle) -> Result<PartyEntry, KeysError> {
        Ok(self.records.load(PARTIES, title.as_bytes())?.unwrap_or_default())
    }

    /// The same for a certificate that somebody brings.
    pub(crate) fn meter_certificate(
        &mut self,
        title: SystemTitle,
        der: &[u8],
    ) -> Result<ExchangeReply, Stop> {
        let before = self.load_device(self.titled(title)?)?;
        let mut device = before.clone();
        self.take_certificate(&mut device, der)?;
        self.save(&before, &device)?;
        self.key_status(title)
    }

    /// Takes a meter's certificate in, of an authority that the configuration names.
    pub(crate) fn take_certificate(&mut self, device: &mut Device, der: &[u8]) -> Result<(), Stop> {
        let title = device.entry.system_title;
        let (certificate, origin) = self.certified(title, der)?;
        let mut party = self.party(title)?;
        let is_of = |one: &PartyCertificate| {
            one.origin == origin
                && Certificate::parse(&one.der.0)
                    .is_ok_and(|other| other.key().curve() == certificate.key().curve())
        };
        //= kms 6: the factory certificate is accepted once
        let is_owned = device.entry.claim == ClaimState::Claimed
            || party.signing.iter().any(|known| known.origin == KeyOrigin::Operator);
        let is_known = party.signing.iter().any(|known| known.der.0 == der);
        let is_second = party.signing.iter().any(is_of) && !is_known;
        if origin != KeyOrigin::Operator && (is_owned || is_second) {
            return Err(Denial::BadCertificate.into());
        }
        if is_known {
            return Ok(());
        }
        // One of each curve and origin: a newer one of the owner's takes the place of the one before.
        party.signing.retain(|known| !is_of(known));
        party.signing.push(PartyCertificate { origin, der: Bytes(der.to_vec()) });
        self.records.save(PARTIES, title.as_bytes(), &party);
        let act = if origin == KeyOrigin::Operator { "certificate.taken" } else { "certificate.of-factory" };
        self.note(&mut device.entry, act, &title)?;
        Ok(())
    }

    /// A certificate for a meter's signatures, and whose authority has issued it.
    pub(crate) fn certified(
        &self,
        title: SystemTitle,
        der: &[u8],
    ) -> Result<(Certificate, KeyOrigin), Denial> {
        let certificate = Certificate::parse(der).map_err(|_| Denial::BadCertificate)?;
        let is_its =
            certificate.role() == Some(Role::Party(Purpose::Signature)) && certificate.title() == Some(title);
        if !is_its {
            return Err(Denial::BadCertificate);
        }
        let origin = self.core.parties.judge(&certificate, self.now).map_err(|_| Denial::BadCertificate)?;
        Ok((certificate, origin))
    }

    /// Keys with which a meter may sign now, in a suite.
    pub(crate) fn signers(&self, device: &Device, suite: u8) -> Result<Vec<CurvePublic>, KeysError> {
        let curve = Curve::of_suite(suite);
        let party = self.party(device.entry.system_title)?;
        let is_claimed = device.entry.claim == ClaimState::Claimed;
        let counts = |known: &&PartyCertificate| !is_claimed || known.origin == KeyOrigin::Operator;
        let good = party.signing.iter().filter(counts).filter_map(|known| {
            let certificate = Certificate::parse(&known.der.0).ok()?;
            // Judged anew each time: an authority that is believed no more certifies nothing.
            self.core.parties.judge(&certificate, self.now).ok()?;
            Some(certificate.key().clone())
        });
        Ok(good.filter(|key| key.curve() == curve).collect())
    }
}
