//! The signing act: build, decode again, lint, sign.

use std::time::Duration;

use der::{DateTime, Decode, Encode};
use gridseal_crypto::{PublicKey, Rng, RngError, Signer, random};
use gridseal_trust::csr::subject_public_key_info;
use gridseal_types::UtcTime;
use x509_cert::{
    SubjectPublicKeyInfo, Version,
    ext::pkix::{AuthorityKeyIdentifier, SubjectKeyIdentifier},
    name::Name,
    serial_number::SerialNumber,
    time::{Time, Validity},
};

use crate::{
    Certificate, Draft,
    certificate::{ToBeSigned, ecdsa_sha256, key_id},
    lint::{self, LintError},
    profile::{Profile, extension},
};

/// A certificate could not be issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// What was to be signed breaks its profile; the key was not used.
    #[error("certificate breaks its profile")]
    Lint(#[from] LintError),
    /// The authority's certificate is for another key, or its key may not sign certificates.
    #[error("certificate does not make this key an authority")]
    NotAnAuthority,
    /// The key store did not sign, or not with the key it announced.
    #[error("key store did not sign")]
    Signer,
    /// The random source failed.
    #[error(transparent)]
    Rng(#[from] RngError),
    /// A value has no DER encoding.
    #[error("value has no encoding")]
    Encoding,
}

impl From<der::Error> for IssueError {
    fn from(_: der::Error) -> Self {
        Self::Encoding
    }
}

/// A certificate authority's key with its certificate.
#[derive(Debug)]
pub struct Issuer<S> {
    signer: S,
    certificate: Certificate,
}

impl<S: Signer> Issuer<S> {
    /// Puts key and certificate together.
    ///
    /// # Errors
    /// [`IssueError::NotAnAuthority`] when the certificate is for another key or for no authority.
    pub fn new(signer: S, certificate: Certificate) -> Result<Self, IssueError> {
        if *certificate.key() != signer.public() || !lint::is_authority(&certificate) {
            return Err(IssueError::NotAnAuthority);
        }
        Ok(Self { signer, certificate })
    }

    /// The authority's certificate.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Issues a certificate.
    ///
    /// # Errors
    /// [`IssueError`]; nothing was issued.
    pub fn issue(&self, draft: Draft, rng: &mut dyn Rng) -> Result<Certificate, IssueError> {
        sign(draft, &self.signer, Some(&self.certificate), rng)
    }
}

/// Signs a draft with the very key it is for: a root or a pinned server.
///
/// # Errors
/// [`IssueError::Lint`] when the draft is of another profile or for another key, others as they say.
pub fn self_signed<S: Signer>(
    draft: Draft,
    signer: &S,
    rng: &mut dyn Rng,
) -> Result<Certificate, IssueError> {
    if !matches!(draft.profile, Profile::Root | Profile::Pinned) || draft.key != signer.public() {
        return Err(LintError::Issuer.into());
    }
    sign(draft, signer, None, rng)
}

fn sign<S: Signer>(
    draft: Draft,
    signer: &S,
    issuer: Option<&Certificate>,
    rng: &mut dyn Rng,
) -> Result<Certificate, IssueError> {
    let profile = draft.profile;
    let body = to_be_signed(draft, issuer, serial(rng)?)?;
    let bytes = body.to_der()?;
    // The lint judges the bytes that the key will see, not the structure they came from.
    let body = ToBeSigned::from_der(&bytes)?;
    lint::check(&body, profile, issuer)?;
    let signature = signer.sign(&bytes).map_err(|_| IssueError::Signer)?;
    if !signer.public().verifies(&bytes, &signature) {
        return Err(IssueError::Signer);
    }
    Ok(Certificate::assemble(body, &signature)?)
}

/// 128 random bits, the first two set to 01: positive, never shorter, and one encoding length for all.
fn serial(rng: &mut dyn Rng) -> Result<SerialNumber, IssueError> {
    let mut bytes: [u8; 16] = random(rng)?;
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x3f | 0x40;
    }
    Ok(SerialNumber::new(&bytes)?)
}

fn to_be_signed(
    draft: Draft,
    issuer: Option<&Certificate>,
    serial: SerialNumber,
) -> Result<ToBeSigned, IssueError> {
    let Draft { profile: _, subject, key, validity, mut extensions } = draft;
    extensions.push(extension(false, &SubjectKeyIdentifier(key_id(&key)?))?);
    if let Some(issuer) = issuer {
        let key_identifier = Some(issuer.key_id().ok_or(IssueError::NotAnAuthority)?);
        extensions.push(extension(false, &AuthorityKeyIdentifier { key_identifier, ..Default::default() })?);
    }
    let issuer: Name = issuer.map_or_else(|| subject.clone(), |issuer| issuer.subject().clone());
    Ok(ToBeSigned {
        version: Version::V3,
        serial,
        algorithm: ecdsa_sha256(),
        issuer,
        validity: Validity::new(time(validity.not_before)?, time(validity.not_after)?),
        subject,
        key: spki(&key)?,
        extensions: Some(extensions),
    })
}

fn time(time: UtcTime) -> der::Result<Time> {
    Ok(Time::from(DateTime::from_unix_duration(Duration::from_secs(time.0))?))
}

fn spki(key: &PublicKey) -> der::Result<SubjectPublicKeyInfo> {
    SubjectPublicKeyInfo::from_der(&subject_public_key_info(key))
}
