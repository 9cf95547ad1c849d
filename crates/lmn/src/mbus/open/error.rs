//! Why a telegram is not opened.

use gridseal_types::Kind;

use super::{MeterAddress, Profile};
use crate::{
    mbus::{afl::FragmentError, compact::CompactError},
    wire::DecodeError,
};

/// A telegram is refused. It says which check failed and with which address and counter; it never holds a key or a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The bytes are not a telegram.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A fragment does not continue its message.
    #[error(transparent)]
    Fragment(#[from] FragmentError),
    /// A compact frame cannot be expanded.
    #[error(transparent)]
    Compact(#[from] CompactError),
    /// The telegram is encrypted and no key is known for its meter.
    #[error("no key for meter {meter}")]
    NoKey {
        /// Address that the key is looked up with.
        meter: MeterAddress,
    },
    /// The check bytes 2F 2F of mode 5 or 7 are not there.
    #[error(
        "check bytes 2F 2F are missing after decryption for meter {meter}, access number {access:02x}: wrong key?"
    )]
    CheckBytes {
        /// Address in the initialisation vector.
        meter: MeterAddress,
        /// Access number in the initialisation vector.
        access: u8,
        /// Offset of the encrypted part.
        offset: usize,
    },
    /// The checksum inside the encrypted extended link layer does not match.
    #[error(
        "payload checksum of the extended link layer does not match after decryption for meter {meter}: wrong key?"
    )]
    EllChecksum {
        /// Address in the counter block.
        meter: MeterAddress,
        /// Offset of the encrypted part.
        offset: usize,
    },
    /// The checksum in the extended link layer in clear does not match.
    #[error("payload checksum of the extended link layer does not match")]
    PayloadChecksum {
        /// Offset of the payload.
        offset: usize,
    },
    /// The authentication code does not verify.
    #[error(
        "authentication code does not verify for meter {meter}, counter {counter}: wrong key, or changed on the way"
    )]
    Mac {
        /// Address in the derivation of the key.
        meter: MeterAddress,
        /// Counter in the derivation of the key.
        counter: u32,
        /// Offset of the message.
        offset: usize,
    },
    /// Mode 7 without an authentication code, or without a counter.
    #[error("{name} is missing: a telegram of this security mode must have one")]
    Missing {
        /// What is missing.
        name: &'static str,
        /// Offset of the message.
        offset: usize,
    },
    /// More is announced as encrypted than is there.
    #[error("{announced} encrypted bytes are announced at offset {offset}, {left} are left")]
    EncryptedLength {
        /// Bytes announced.
        announced: usize,
        /// Bytes left.
        left: usize,
        /// Offset of the encrypted part.
        offset: usize,
    },
    /// A security mode that is recognised and refused.
    #[error("{name} is recognised and not supported")]
    Mode {
        /// Name of the mode.
        name: &'static str,
        /// Offset of the message.
        offset: usize,
    },
    /// A meter with a key sends in clear.
    #[error("meter {meter} has a key and the telegram is in clear: downgrade refused")]
    Clear {
        /// Meter.
        meter: MeterAddress,
    },
    /// A meter sends with another profile than it is configured with.
    #[error("meter {meter} is configured with profile {}, the telegram has profile {}: downgrade refused",
        expected.name(), found.name())]
    Profile {
        /// Meter.
        meter: MeterAddress,
        /// Profile configured.
        expected: Profile,
        /// Profile found.
        found: Profile,
    },
    /// The counter is below the last accepted one, or is the same in another message.
    #[error("counter {found} of meter {meter} is not above {last}: replay")]
    Replay {
        /// Meter.
        meter: MeterAddress,
        /// Last accepted counter.
        last: u32,
        /// Counter found.
        found: u32,
    },
    /// The last accepted message again, byte for byte: a radio repeat. To be dropped without alarm.
    #[error("counter {found} of meter {meter} again in the same message: repeated")]
    Repeated {
        /// Meter.
        meter: MeterAddress,
        /// Counter.
        found: u32,
    },
}

impl OpenError {
    /// Stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Decode(error) => error.code(),
            Self::Fragment(error) => error.code(),
            Self::Compact(error) => error.code(),
            Self::NoKey { .. } => "lmn.no_key",
            Self::CheckBytes { .. } => "lmn.check_bytes",
            Self::EllChecksum { .. } => "lmn.ell_checksum",
            Self::PayloadChecksum { .. } => "lmn.payload_checksum",
            Self::Mac { .. } => "lmn.mac",
            Self::Missing { .. } => "lmn.mac_missing",
            Self::EncryptedLength { .. } => "lmn.encrypted_length",
            Self::Mode { .. } => "lmn.mode_unsupported",
            Self::Clear { .. } | Self::Profile { .. } => "lmn.downgrade",
            Self::Replay { .. } => "lmn.replay",
            Self::Repeated { .. } => "lmn.repeated",
        }
    }

    /// Offset in the frame without checksums, where the error has one.
    #[must_use]
    pub const fn offset(&self) -> Option<usize> {
        match self {
            Self::Decode(error) | Self::Compact(CompactError::Decode(error)) => Some(error.offset),
            Self::CheckBytes { offset, .. }
            | Self::EllChecksum { offset, .. }
            | Self::PayloadChecksum { offset }
            | Self::Mac { offset, .. }
            | Self::Missing { offset, .. }
            | Self::EncryptedLength { offset, .. }
            | Self::Mode { offset, .. } => Some(*offset),
            _ => None,
        }
    }

    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::NoKey { .. } => Kind::Local,
            Self::Compact(CompactError::FormatUnknown { .. }) => Kind::Transient,
            _ => Kind::Peer,
        }
    }
}
