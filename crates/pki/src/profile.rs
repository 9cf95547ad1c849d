//! What each kind of certificate contains: one file for each.

mod issuing;
mod ldevid;
mod pinned;
mod root;
mod server;
mod service;

pub use issuing::issuing;
pub use ldevid::{Device, ldevid};
pub use pinned::pinned;
pub use root::root;
pub use server::server;
pub use service::service;

use std::{net::IpAddr, time::Duration};

use const_oid::{
    AssociatedOid, ObjectIdentifier,
    db::{
        rfc4519::COMMON_NAME,
        rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH},
    },
};
use der::{
    Any, Decode, Encode, Tag,
    asn1::{Ia5String, OctetString, PrintableString},
};
use gridseal_crypto::PublicKey;
use gridseal_types::UtcTime;
use x509_cert::{
    attr::AttributeTypeAndValue,
    ext::{
        Extension,
        pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName, name::GeneralName},
    },
    name::{Name, RdnSequence, RelativeDistinguishedName},
};

/// Longest text in a subject, bytes (RFC 5280, upper bounds of common name, serial number and unit).
pub const SUBJECT_TEXT_SIZE_MAX: usize = 64;

const DAY: Duration = Duration::from_secs(86_400);

/// First and last second of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: UtcTime,
    /// Last second.
    pub not_after: UtcTime,
}

impl Validity {
    /// From `start` on for `lifetime`, in whole seconds.
    #[must_use]
    pub const fn starting(start: UtcTime, lifetime: Duration) -> Self {
        Self { not_before: start, not_after: UtcTime(start.0.saturating_add(lifetime.as_secs())) }
    }
}

/// A name under which a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectName {
    /// DNS name.
    Dns(String),
    /// IP address.
    Ip(IpAddr),
}

/// The profile of a draft, for the lint: it judges the bytes by the profile, not by the code that filled it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Root,
    Issuing,
    LDevId,
    Server,
    Service,
    Pinned,
}

impl Profile {
    pub(crate) const fn is_ca(self) -> bool {
        matches!(self, Self::Root | Self::Issuing)
    }

    pub(crate) const fn lifetime_max(self) -> Duration {
        let days = match self {
            Self::Root => 40 * 366,
            Self::Issuing | Self::Pinned => 20 * 366,
            Self::LDevId => 8 * 366,
            Self::Server => 1,
            Self::Service => 366,
        };
        DAY.saturating_mul(days)
    }

    pub(crate) const fn purposes(self) -> &'static [ObjectIdentifier] {
        match self {
            Self::Root | Self::Issuing => &[],
            Self::LDevId => &[ID_KP_CLIENT_AUTH],
            Self::Server | Self::Pinned => &[ID_KP_SERVER_AUTH],
            Self::Service => &[ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH],
        }
    }

    pub(crate) fn key_usage(self) -> KeyUsage {
        if self.is_ca() {
            KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign)
        } else {
            KeyUsage(KeyUsages::DigitalSignature.into())
        }
    }

    pub(crate) const fn constraints(self) -> BasicConstraints {
        let path_len_constraint = match self {
            Self::Issuing => Some(0),
            _ => None,
        };
        BasicConstraints { ca: self.is_ca(), path_len_constraint }
    }
}

/// A certificate to be: everything but issuer, serial number and signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub(crate) profile: Profile,
    pub(crate) subject: Name,
    pub(crate) key: PublicKey,
    pub(crate) validity: Validity,
    pub(crate) extensions: Vec<Extension>,
}

/// A draft could not be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// A text is empty, longer than [`SUBJECT_TEXT_SIZE_MAX`], or has characters that its field cannot hold.
    #[error("text does not fit a certificate")]
    Text,
    /// A server without a name, or with a name that is none.
    #[error("server name is missing or malformed")]
    ServerName,
    /// A value has no DER encoding.
    #[error("value has no encoding")]
    Encoding,
}

impl From<der::Error> for DraftError {
    fn from(_: der::Error) -> Self {
        Self::Encoding
    }
}

impl Draft {
    /// A draft with the extensions that the profile always has.
    fn new(
        profile: Profile,
        subject: Name,
        names: &[GeneralName],
        key: &PublicKey,
        validity: Validity,
    ) -> Result<Self, DraftError> {
        let mut extensions =
            vec![extension(true, &profile.constraints())?, extension(true, &profile.key_usage())?];
        if !profile.purposes().is_empty() {
            extensions.push(extension(false, &ExtendedKeyUsage(profile.purposes().to_vec()))?);
        }
        if !names.is_empty() {
            extensions.push(extension(false, &SubjectAltName(names.to_vec()))?);
        }
        Ok(Self { profile, subject, key: *key, validity, extensions })
    }
}

pub(crate) fn extension<T: AssociatedOid + Encode>(critical: bool, value: &T) -> der::Result<Extension> {
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// A subject of these attributes, one after the other.
fn subject(attributes: &[(ObjectIdentifier, Any)]) -> Result<Name, DraftError> {
    let mut sequence = RdnSequence::default();
    for (oid, value) in attributes {
        let attribute = AttributeTypeAndValue { oid: *oid, value: value.clone() };
        sequence.push(RelativeDistinguishedName::try_from(vec![attribute])?);
    }
    Ok(Name::from_der(&sequence.to_der()?)?)
}

pub(crate) fn common_name(text: &str) -> Result<Name, DraftError> {
    subject(&[(COMMON_NAME, utf8(text)?)])
}

/// Text for people: no control characters.
fn utf8(text: &str) -> Result<Any, DraftError> {
    let fits = !text.is_empty() && text.len() <= SUBJECT_TEXT_SIZE_MAX && !text.contains(char::is_control);
    if fits { Ok(Any::new(Tag::Utf8String, text.as_bytes())?) } else { Err(DraftError::Text) }
}

fn printable(text: &str) -> Result<Any, DraftError> {
    if text.is_empty() || text.len() > SUBJECT_TEXT_SIZE_MAX {
        return Err(DraftError::Text);
    }
    let text = PrintableString::new(text).map_err(|_| DraftError::Text)?;
    Ok(Any::encode_from(&text)?)
}

fn general_names(names: &[SubjectName]) -> Result<Vec<GeneralName>, DraftError> {
    let name = |name: &SubjectName| match name {
        SubjectName::Dns(name) if is_dns_name(name) => Ok(GeneralName::DnsName(Ia5String::new(name)?)),
        SubjectName::Dns(_) => Err(DraftError::ServerName),
        SubjectName::Ip(address) => Ok(GeneralName::from(*address)),
    };
    if names.is_empty() { Err(DraftError::ServerName) } else { names.iter().map(name).collect() }
}

/// Letters, digits and hyphens in labels of 1 to 63 bytes, no wildcard, at most 253 bytes (RFC 1035 section 2.3.1).
pub(crate) fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}
