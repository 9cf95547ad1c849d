//! What the device did that somebody may have to answer for.

use core::fmt;

use gridseal_types::{ObisCode, UtcTime};

use super::security::KeyRefusal;

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
    /// An image was verified.
    ImageVerified {
        /// Whether it may be activated.
        is_good: bool,
    },
    /// An image was activated.
    ImageActivated,
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
            Self::ImageVerified { is_good: true } => f.write_str("image verified"),
            Self::ImageVerified { is_good: false } => f.write_str("image is incomplete or not signed"),
            Self::ImageActivated => f.write_str("image activated"),
        }
    }
}

impl Note {
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
            Self::ImageActivated => "image-activated",
        }
    }
}
