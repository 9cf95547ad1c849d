//! The owner's authority of DLMS parties: certificates for the signing keys of meters that the key service vouches for.
//!
//! A head-end carries the request and can ask for nothing by itself: what is certified is what the key service has signed.

use gridseal_crypto::{Curve, CurveSigner, Rng, random, sha256};
use gridseal_trust::party::{Certificate, Clock, Draft, Purpose, Role, Subject, assemble, parse_csr};
use gridseal_types::{Code, Digest, UtcTime, service::keys::CertifyRequest};

use crate::{CertificateRecord, CertificateRecords, Holder};

/// What the key service's signature of a request begins with.
const CERTIFY_LABEL: &[u8] = b"gs-party-request-v1";
/// Life of a meter's certificate: until its keys are renewed as a matter of policy.
const LIFE_S: u64 = 8 * 365 * 86_400;
/// Life of an authority.
const AUTHORITY_LIFE_S: u64 = 30 * 365 * 86_400;
/// How far a certificate starts before the moment of issue.
const BACKDATE_S: u64 = 300;

/// The authority of one curve.
#[derive(Debug)]
pub struct PartyAuthority {
    signer: CurveSigner,
    certificate: Certificate,
    /// The key service's certificates as a DLMS client.
    clients: Vec<Certificate>,
}

/// A certificate could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("certificate of a party could not be made")]
pub struct PartyError;

/// A certificate, DER, signed with the key of an authority of this name.
fn issue(
    (name, signer): (&[u8], &CurveSigner),
    subject: &Subject,
    draft: (&gridseal_crypto::CurvePublic, Role, (UtcTime, UtcTime)),
    rng: &mut dyn Rng,
) -> Result<Vec<u8>, PartyError> {
    let mut serial: [u8; 16] = random(rng).map_err(|_| PartyError)?;
    // Positive, and of full length.
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7F | 0x40;
    }
    let (key, role, validity) = draft;
    let issuer_key = signer.public();
    let draft =
        Draft { serial: &serial, issuer: name, issuer_key: &issuer_key, subject, validity, key, role };
    let body = draft.to_be_signed();
    let signature = signer.sign(&body).ok_or(PartyError)?;
    Ok(assemble(&body, issuer_key.curve(), &signature))
}

const fn validity(now: UtcTime, life_s: u64) -> (UtcTime, UtcTime) {
    let from = now.0.saturating_sub(BACKDATE_S);
    (UtcTime(from), UtcTime(from.saturating_add(life_s)))
}

impl PartyAuthority {
    /// The self-signed certificate of a new authority.
    ///
    /// # Errors
    /// [`PartyError`] when randomness or key failed.
    pub fn found(
        name: &str,
        signer: &CurveSigner,
        now: UtcTime,
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>, PartyError> {
        let subject = Subject::Authority(name.into());
        let role = Role::Authority(Some(0));
        issue(
            (&subject.name(), signer),
            &subject,
            (&signer.public(), role, validity(now, AUTHORITY_LIFE_S)),
            rng,
        )
    }

    /// Puts an authority together; `None` when the certificate is not that of the key, or that of no authority.
    #[must_use]
    pub fn new(signer: CurveSigner, certificate: Certificate, clients: Vec<Certificate>) -> Option<Self> {
        let is_authority = matches!(certificate.role(), Some(Role::Authority(_)));
        (is_authority && *certificate.key() == signer.public()).then_some(Self {
            signer,
            certificate,
            clients,
        })
    }

    /// Its curve.
    #[must_use]
    pub fn curve(&self) -> Curve {
        self.certificate.key().curve()
    }

    /// Its certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// A party's certificate for signatures, DER.
    ///
    /// # Errors
    /// [`PartyError`] when randomness or key failed.
    pub fn certify(
        &self,
        title: gridseal_types::SystemTitle,
        key: &gridseal_crypto::CurvePublic,
        now: UtcTime,
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>, PartyError> {
        let role = Role::Party(Purpose::Signature);
        let (from, until) = validity(now, LIFE_S);
        // No certificate outlives its authority.
        let validity = (from, until.min(self.certificate.validity().1));
        let subject = Subject::Party(title);
        issue((self.certificate.subject(), &self.signer), &subject, (key, role, validity), rng)
    }

    /// Certifies what the key service vouches for. The same key gets the certificate on record again.
    ///
    /// # Errors
    /// [`Code::Csr`] for a request that the key service did not sign, one without proof of possession, or for a key that
    /// another device has; [`Code::Busy`] when records, randomness or key failed.
    pub(crate) fn decide(
        &self,
        request: &CertifyRequest,
        now: UtcTime,
        rng: &mut dyn Rng,
        records: &impl CertificateRecords,
    ) -> Result<(Vec<u8>, UtcTime, Option<CertificateRecord>), Code> {
        let CertifyRequest { device, system_title, csr, signature } = request;
        let signed = [CERTIFY_LABEL, device.as_bytes(), system_title.as_bytes(), &csr.0].concat();
        let mut clients = self.clients.iter().filter(|client| client.validity().1 >= now);
        if !clients.any(|client| client.key().verifies(&signed, &signature.0)) {
            return Err(Code::Csr);
        }
        let (title, key) = parse_csr(&csr.0).map_err(|_| Code::Csr)?;
        if title != *system_title || key.curve() != self.curve() {
            return Err(Code::Csr);
        }
        let holder = Holder::Device(*device);
        let digest = Digest(sha256(&[b"party", key.point()]));
        if let Some(record) = records.newest_for_key(&digest).map_err(|_| Code::Busy)? {
            let known = Certificate::parse(&record.certificate).map_err(|_| Code::Busy)?;
            return if record.holder == holder && known.title() == Some(title) {
                Ok((record.certificate, record.not_after, None))
            } else {
                Err(Code::Csr)
            };
        }
        let der = self.certify(title, &key, now, rng).map_err(|_| Code::Busy)?;
        let certificate = Certificate::parse(&der).map_err(|_| Code::Busy)?;
        let authorities = gridseal_trust::party::Authorities {
            anchors: vec![&self.certificate],
            intermediates: Vec::new(),
        };
        // What leaves is what anybody would judge.
        authorities.judge(&certificate, self.curve(), Clock::Trusted(now)).map_err(|_| Code::Busy)?;
        let not_after = certificate.validity().1;
        let record = CertificateRecord {
            holder,
            key: digest,
            serial: certificate.serial().to_vec(),
            certificate: der.clone(),
            not_after,
            issued_at: now,
        };
        Ok((der, not_after, Some(record)))
    }
}
