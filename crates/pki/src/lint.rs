//! Judges the bytes of a certificate before the key signs them.

use const_oid::{
    AssociatedOid, ObjectIdentifier,
    db::rfc4519::{COMMON_NAME, SERIAL_NUMBER},
};
use der::{Decode, Encode};
use gridseal_trust::csr::key_of_spki;
use x509_cert::{
    Version,
    ext::{
        Extension,
        pkix::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName,
            SubjectKeyIdentifier,
            name::{DirectoryString, GeneralName, HardwareModuleName},
        },
    },
};

use crate::{
    Certificate,
    certificate::{ToBeSigned, ecdsa_sha256, key_id},
    profile::{Profile, is_dns_name},
};

/// Largest certificate body, bytes.
const BODY_SIZE_MAX: usize = 2_048;

/// A rule of its profile that a certificate breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LintError {
    /// Not version 3.
    #[error("version is not 3")]
    Version,
    /// Serial number is not of 16 bytes, or negative.
    #[error("serial number is not a positive number of 16 bytes")]
    Serial,
    /// Signature algorithm is not ecdsa-with-SHA256.
    #[error("signature algorithm is not ecdsa-with-SHA256")]
    Algorithm,
    /// Issuer is not the authority, or the authority's limits do not allow this certificate.
    #[error("issuer is not the authority that may sign this")]
    Issuer,
    /// Validity is backwards, longer than the profile allows, or not within the authority's own.
    #[error("validity is backwards, too long or outside that of the authority")]
    Validity,
    /// Subject lacks or has what the profile forbids or demands.
    #[error("subject does not fit the profile")]
    Subject,
    /// Key is not a P-256 key, or the authority's own.
    #[error("key is not a P-256 key of its own")]
    Key,
    /// An extension is unknown, doubled, missing, malformed or of wrong criticality.
    #[error("extension is unknown, doubled, missing or malformed")]
    Extension,
    /// Basic constraints differ from the profile.
    #[error("basic constraints differ from the profile")]
    BasicConstraints,
    /// Key usage differs from the profile.
    #[error("key usage differs from the profile")]
    KeyUsage,
    /// Extended key usage differs from the profile.
    #[error("extended key usage differs from the profile")]
    ExtendedKeyUsage,
    /// Alternative names differ from the profile.
    #[error("alternative names differ from the profile")]
    SubjectAltName,
    /// Key identifiers do not belong to the keys.
    #[error("key identifiers do not belong to the keys")]
    KeyIdentifier,
    /// Larger than allowed.
    #[error("certificate is too large")]
    Size,
}

/// Whether a certificate makes its key an authority that may issue.
pub(crate) fn is_authority(certificate: &Certificate) -> bool {
    Certificate::parse(certificate.der()).is_some() && {
        let body = certificate.body();
        let constraints = find::<BasicConstraints>(body, true);
        let usage = find::<KeyUsage>(body, true);
        matches!(constraints, Ok(Some(constraints)) if constraints.ca)
            && matches!(usage, Ok(Some(usage)) if usage.key_cert_sign())
            && certificate.key_id().is_some()
    }
}

/// Checks a certificate body against its profile. `issuer` is `None` for a self-signed one.
pub(crate) fn check(
    body: &ToBeSigned,
    profile: Profile,
    issuer: Option<&Certificate>,
) -> Result<(), LintError> {
    check_fields(body, profile, issuer)?;
    check_extensions(body, profile, issuer)?;
    check_names(body, profile)
}

fn require(holds: bool, error: LintError) -> Result<(), LintError> {
    if holds { Ok(()) } else { Err(error) }
}

fn check_fields(body: &ToBeSigned, profile: Profile, issuer: Option<&Certificate>) -> Result<(), LintError> {
    require(body.encoded_len().is_ok_and(|size| size <= size_max()), LintError::Size)?;
    require(body.version == Version::V3, LintError::Version)?;
    let serial = body.serial.as_bytes();
    require(serial.len() == 16 && serial.first().is_some_and(|&first| first < 0x80), LintError::Serial)?;
    require(body.algorithm == ecdsa_sha256(), LintError::Algorithm)?;
    let is_named = match issuer {
        Some(issuer) => {
            body.issuer == *issuer.subject()
                && body.subject != body.issuer
                && (profile != Profile::Issuing || may_have_authorities(issuer))
                && profile != Profile::Root
        }
        None => body.issuer == body.subject,
    };
    require(is_named && !body.issuer.is_empty(), LintError::Issuer)?;
    let start = body.validity.not_before.to_unix_duration();
    let end = body.validity.not_after.to_unix_duration();
    let lifetime = end.checked_sub(start).ok_or(LintError::Validity)?;
    let is_within = issuer.is_none_or(|issuer| {
        issuer.not_before().0 <= start.as_secs() && end.as_secs() <= issuer.not_after().0
    });
    require(is_within && !lifetime.is_zero() && lifetime <= profile.lifetime_max(), LintError::Validity)?;
    let spki = body.key.to_der().map_err(|_| LintError::Key)?;
    let key = key_of_spki(&spki).ok_or(LintError::Key)?;
    require(issuer.is_none_or(|issuer| *issuer.key() != key), LintError::Key)
}

fn size_max() -> der::Length {
    der::Length::try_from(BODY_SIZE_MAX).unwrap_or(der::Length::ZERO)
}

fn may_have_authorities(issuer: &Certificate) -> bool {
    let constraints = find::<BasicConstraints>(issuer.body(), true);
    matches!(constraints, Ok(Some(constraints)) if constraints.path_len_constraint != Some(0))
}

fn check_extensions(
    body: &ToBeSigned,
    profile: Profile,
    issuer: Option<&Certificate>,
) -> Result<(), LintError> {
    let known = [
        BasicConstraints::OID,
        KeyUsage::OID,
        ExtendedKeyUsage::OID,
        SubjectAltName::OID,
        SubjectKeyIdentifier::OID,
        AuthorityKeyIdentifier::OID,
    ];
    let found: Vec<ObjectIdentifier> = extensions(body).iter().map(|extension| extension.extn_id).collect();
    let is_once = |oid: &ObjectIdentifier| found.iter().filter(|other| *other == oid).count() == 1;
    require(found.iter().all(|oid| known.contains(oid) && is_once(oid)), LintError::Extension)?;

    let constraints = find::<BasicConstraints>(body, true)?;
    require(constraints == Some(profile.constraints()), LintError::BasicConstraints)?;
    require(find::<KeyUsage>(body, true)? == Some(profile.key_usage()), LintError::KeyUsage)?;
    let purposes = find::<ExtendedKeyUsage>(body, false)?.map(|usage| usage.0);
    let expected = profile.purposes();
    require(purposes.as_deref().unwrap_or_default() == expected, LintError::ExtendedKeyUsage)?;

    let key = body.key.to_der().ok().and_then(|spki| key_of_spki(&spki)).ok_or(LintError::Key)?;
    let own = find::<SubjectKeyIdentifier>(body, false)?.map(|id| id.0);
    require(own.is_some() && own == key_id(&key).ok(), LintError::KeyIdentifier)?;
    let above = find::<AuthorityKeyIdentifier>(body, false)?.and_then(|id| id.key_identifier);
    require(above == issuer.and_then(Certificate::key_id), LintError::KeyIdentifier)
}

fn check_names(body: &ToBeSigned, profile: Profile) -> Result<(), LintError> {
    let names = find::<SubjectAltName>(body, false)?.map(|names| names.0).unwrap_or_default();
    let text = |oid| body.subject.by_oid::<DirectoryString>(oid).map_err(|_| LintError::Subject);
    let (common_name, serial_number) = (text(COMMON_NAME)?, text(SERIAL_NUMBER)?);
    let is_server_name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => is_dns_name(name.as_str()),
        GeneralName::IpAddress(address) => matches!(address.as_bytes().len(), 4 | 16),
        _ => false,
    };
    match profile {
        Profile::Root | Profile::Issuing => {
            require(common_name.is_some() && body.subject.len() == 1, LintError::Subject)?;
            require(names.is_empty(), LintError::SubjectAltName)
        }
        Profile::LDevId => {
            require(common_name.is_none() && body.subject.len() == 2, LintError::Subject)?;
            let serial_number = serial_number.ok_or(LintError::Subject)?;
            let [GeneralName::OtherName(name)] = names.as_slice() else {
                return Err(LintError::SubjectAltName);
            };
            let module = HardwareModuleName::from_other_name(name).ok().flatten();
            let module = module.ok_or(LintError::SubjectAltName)?;
            let is_same = module.hw_serial_num.as_bytes() == serial_number.value().as_bytes();
            require(is_same, LintError::SubjectAltName)
        }
        Profile::Server | Profile::Pinned => {
            require(common_name.is_some() && body.subject.len() == 1, LintError::Subject)?;
            require(!names.is_empty() && names.iter().all(is_server_name), LintError::SubjectAltName)
        }
        Profile::Service => {
            let common_name = common_name.filter(|_| body.subject.len() == 1).ok_or(LintError::Subject)?;
            let is_same = matches!(names.as_slice(),
                [GeneralName::DnsName(name)] if name.as_str() == common_name.value() && is_dns_name(name.as_str()));
            require(is_same, LintError::SubjectAltName)
        }
    }
}

fn extensions(body: &ToBeSigned) -> &[Extension] {
    body.extensions.as_deref().unwrap_or_default()
}

/// The extension of this type, if present, with the criticality it must have.
fn find<T: AssociatedOid + for<'a> Decode<'a>>(
    body: &ToBeSigned,
    critical: bool,
) -> Result<Option<T>, LintError> {
    let Some(extension) = extensions(body).iter().find(|extension| extension.extn_id == T::OID) else {
        return Ok(None);
    };
    require(extension.critical == critical, LintError::Extension)?;
    T::from_der(extension.extn_value.as_bytes()).map(Some).map_err(|_| LintError::Extension)
}

#[cfg(test)]
#[path = "lint/tests.rs"]
mod tests;
