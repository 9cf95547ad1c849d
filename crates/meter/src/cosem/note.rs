//! What the device did that somebody may have to answer for.

use core::fmt;

use gridseal_trust::party::Purpose;
use gridseal_types::{ObisCode, SystemTitle, UtcTime};

use super::{CertificateRefusal, ImageRefusal, KeyRefusal};

/// An entry for the meter's security log. It holds no key and no reading.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A client asked for something that it may not do.
    Denied {
        /// Its service access point.
        client_sap: u16,
        /// Object.
        obis: ObisCode,
        /// Attribute or method.
        member: i8,
    },
    /// The clock was set or shifted.
    ClockChanged {
        /// Clock before.
        from: UtcTime,
        /// Clock after.
        to: UtcTime,
    },
    /// Keys were taken over.
    KeysReplaced {
        /// How many.
        count: usize,
    },
    /// A secret was taken over.
    SecretChanged {
        /// Of which client.
        client_sap: u16,
    },
    /// Keys or a secret were refused.
    KeysRefused(KeyRefusal),
    /// The security policy was raised.
    PolicyRaised(u8),
    /// The supply was switched.
    Switched {
        /// Whether it is connected now.
        is_connected: bool,
    },
    /// An image was verified: it may be activated.
    ImageVerified {
        /// Its version.
        version: u32,
    },
    /// An image was refused.
    ImageRefused(ImageRefusal),
    /// An image was activated.
    ImageActivated {
        /// Its version.
        version: u32,
    },
    /// A key pair was made.
    KeyPairMade {
        /// For what.
        purpose: Purpose,
        /// What holds the private key.
        root: &'static str,
    },
    /// A certificate was taken.
    CertificateTaken {
        /// System title of its holder; `None` for an authority.
        subject: Option<SystemTitle>,
        /// Whether it is a trust anchor from now on.
        is_anchor: bool,
    },
    /// A certificate was removed.
    CertificateRemoved {
        /// System title of its holder; `None` for an authority.
        subject: Option<SystemTitle>,
    },
    /// A certificate or a key pair was refused.
    CertificateRefused(CertificateRefusal),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { client_sap, obis, member } => {
                write!(f, "client {client_sap} may not do this with {obis}, member {member}")
            }
            Self::ClockChanged { from, to } => write!(f, "clock changed from {from} to {to}"),
            Self::KeysReplaced { count } => write!(f, "{count} keys replaced"),
            Self::SecretChanged { client_sap } => write!(f, "secret of client {client_sap} changed"),
            Self::KeysRefused(refusal) => write!(f, "keys refused: {refusal}"),
            Self::PolicyRaised(policy) => write!(f, "security policy is now {policy}"),
            Self::Switched { is_connected: true } => f.write_str("supply connected"),
            Self::Switched { is_connected: false } => f.write_str("supply disconnected"),
            Self::ImageVerified { version } => write!(f, "image of version {version} verified"),
            Self::ImageRefused(refusal) => write!(f, "image refused: {refusal}"),
            Self::ImageActivated { version } => write!(f, "image of version {version} activated"),
            Self::KeyPairMade { purpose, root } => {
                write!(f, "key pair for {} made, private key held by {root}", purpose.name())
            }
            Self::CertificateTaken { is_anchor: true, .. } => f.write_str("trust anchor taken"),
            Self::CertificateTaken { subject: Some(title), .. } => write!(f, "certificate of {title} taken"),
            Self::CertificateTaken { subject: None, .. } => f.write_str("certificate of an authority taken"),
            Self::CertificateRemoved { subject: Some(title) } => write!(f, "certificate of {title} removed"),
            Self::CertificateRemoved { subject: None } => f.write_str("certificate of an authority removed"),
            Self::CertificateRefused(refusal) => write!(f, "certificate refused: {refusal}"),
        }
    }
}

impl Note {
    /// Whether nothing was changed, so that whoever wants to can have it noted as often as he likes.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Denied { .. } | Self::KeysRefused(_) | Self::ImageRefused(_) | Self::CertificateRefused(_)
        )
    }

    /// Name of the kind of entry.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Denied { .. } => "denied",
            Self::ClockChanged { .. } => "clock-changed",
            Self::KeysReplaced { .. } => "keys-replaced",
            Self::SecretChanged { .. } => "secret-changed",
            Self::KeysRefused(_) => "keys-refused",
            Self::PolicyRaised(_) => "policy-raised",
            Self::Switched { .. } => "supply-switched",
            Self::ImageVerified { .. } => "image-verified",
            Self::ImageRefused(_) => "image-refused",
            Self::ImageActivated { .. } => "image-activated",
            Self::KeyPairMade { .. } => "key-pair-made",
            Self::CertificateTaken { is_anchor: true, .. } => "anchor-taken",
            Self::CertificateTaken { .. } => "certificate-taken",
            Self::CertificateRemoved { .. } => "certificate-removed",
            Self::CertificateRefused(_) => "certificate-refused",
        }
    }
}
