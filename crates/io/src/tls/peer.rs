//! What a verified certificate says of the peer.

use gridseal_crypto::sha256;
use gridseal_types::{Digest, UtcTime};
use rustls::{pki_types::CertificateDer, server::ParsedCertificate};
use x509_cert::{
    Certificate,
    der::{Decode, asn1::ObjectIdentifier},
    ext::pkix::{
        SubjectAltName,
        name::{DirectoryString, GeneralName},
    },
};

use super::TlsError;

const OID_SERIAL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.5");

/// SHA-256 of the SubjectPublicKeyInfo in a DER certificate: what pins and admissions name.
///
/// # Errors
/// [`TlsError::PeerCertificate`] when it is no X.509 v3 certificate.
pub fn spki_hash(certificate: &[u8]) -> Result<Digest, TlsError> {
    let der = CertificateDer::from(certificate);
    let parsed = ParsedCertificate::try_from(&der).map_err(|_| TlsError::PeerCertificate)?;
    Ok(Digest(sha256(&[&parsed.subject_public_key_info()])))
}

/// Facts of a peer's certificate. It was verified before these were read; alone they prove nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki: Digest,
    /// Name of the inner service: the only DNS name among the alternative names, when the common name says the same.
    /// A meter's certificate has no DNS name, so a meter is never taken for a service.
    pub service: Option<String>,
    /// Serial number attribute of the subject: of a device, the one in the register.
    pub serial_number: Option<String>,
    /// End of validity.
    pub not_after: UtcTime,
}

impl PeerCertificate {
    /// Reads the facts out of a DER certificate.
    ///
    /// # Errors
    /// [`TlsError::PeerCertificate`] when it is no X.509 v3 certificate or a name in it is malformed.
    pub fn parse(der: &[u8]) -> Result<Self, TlsError> {
        let spki = spki_hash(der)?;
        let malformed = |_| TlsError::PeerCertificate;
        let certificate = Certificate::from_der(der).map_err(malformed)?;
        let body = certificate.tbs_certificate();
        let text = |name: DirectoryString| name.value().into_owned();
        let common_name = body.subject().common_name().map_err(malformed)?.map(text);
        let serial_number =
            body.subject().by_oid::<DirectoryString>(OID_SERIAL_NUMBER).map_err(malformed)?.map(text);
        let names = body.get_extension::<SubjectAltName>().map_err(malformed)?;
        let service = names.and_then(|(_, SubjectAltName(names))| match names.as_slice() {
            [GeneralName::DnsName(name)] if common_name.as_deref() == Some(name.as_str()) => {
                Some(name.to_string())
            }
            _ => None,
        });
        let not_after = UtcTime(body.validity().not_after.to_unix_duration().as_secs());
        Ok(Self { der: der.to_vec(), spki, service, serial_number, not_after })
    }
}

/// notBefore of a DER certificate.
pub(super) fn not_before(der: &[u8]) -> Option<UtcTime> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(UtcTime(certificate.tbs_certificate().validity().not_before.to_unix_duration().as_secs()))
}
