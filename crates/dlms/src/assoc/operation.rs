//! Cryptography as an effect: what a machine asks for, and what it gets (decision D1).
//!
//! A machine holds no key, and neither own challenge nor dedicated key: those stay with whoever performs the
//! operations, under the [`AssociationHandle`]. On a meter and in tools that is [`crate::suite::local::LocalCrypto`],
//! behind a head-end the key service.

use alloc::vec::Vec;
use core::fmt;

use gridseal_types::{Kind, SystemTitle};

use crate::{
    acse::Mechanism,
    apdu::{
        carrier::{Carrier, Signing},
        ciphered::SecurityControl,
    },
};

/// Names one association to whoever holds its keys. Opaque, unique while the association lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AssociationHandle(pub u64);

/// Names one operation of one machine, so that a result finds its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CryptoId(pub u32);

/// What an APDU is protected with. Closed: the security control octet has two bits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Protection {
    /// Not at all.
    None,
    /// A tag.
    Authenticated,
    /// Encryption without a tag: anybody can change it on the way, so it is refused unless a profile with `danger` in
    /// its name allows it.
    Encrypted,
    /// Encryption and a tag.
    #[default]
    AuthenticatedEncrypted,
}

impl Protection {
    /// Bits 4 and 5 of the security control octet.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::None => 0x00,
            Self::Authenticated => 0x10,
            Self::Encrypted => 0x20,
            Self::AuthenticatedEncrypted => 0x30,
        }
    }

    /// What a security control octet says.
    #[must_use]
    pub const fn of(control: SecurityControl) -> Self {
        match (control.is_encrypted(), control.is_authenticated()) {
            (false, false) => Self::None,
            (false, true) => Self::Authenticated,
            (true, false) => Self::Encrypted,
            (true, true) => Self::AuthenticatedEncrypted,
        }
    }

    /// Whether it has everything that `required` has.
    #[must_use]
    pub const fn covers(self, required: Self) -> bool {
        self.bits() & required.bits() == required.bits()
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match self.bits() | other.bits() {
            0x00 => Self::None,
            0x10 => Self::Authenticated,
            0x20 => Self::Encrypted,
            _ => Self::AuthenticatedEncrypted,
        }
    }
}

/// The two sides of high level security as they are known from the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerChallenge {
    /// Mechanism.
    pub mechanism: Mechanism,
    /// The peer's system title, where it was told.
    pub title: Option<SystemTitle>,
    /// The peer's challenge.
    pub challenge: Vec<u8>,
}

/// One operation on keys. `Debug` shows no contents of APDUs and no password.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Draw a fresh challenge for this mechanism and keep it. Answer: [`Done::Bytes`].
    Challenge(Mechanism),
    /// Client: the password of mechanism 1, in clear (legacy, rule S4). Answer: [`Done::Bytes`].
    Password,
    /// Server: is this the password? Answer: [`Done::Verified`].
    CheckPassword(Vec<u8>),
    /// Client: protect an InitiateRequest under the global key, with a fresh dedicated key put into it when `dedicated`
    /// is set; the key stays with the performer. Answer: [`Done::Bytes`], a glo-initiateRequest.
    SealInitiate {
        /// InitiateRequest without a dedicated key.
        apdu: Vec<u8>,
        /// Whether to put one in.
        dedicated: bool,
    },
    /// Server: open an InitiateRequest; a dedicated key inside is kept and taken out. Answer: [`Done::Opened`].
    OpenInitiate {
        /// The ciphered APDU.
        apdu: Vec<u8>,
        /// Title that the peer claims.
        peer: SystemTitle,
    },
    /// Protect an APDU. Answer: [`Done::Bytes`], the whole ciphered APDU.
    Seal {
        /// How it is carried.
        carrier: Carrier,
        /// What it is protected with; never [`Protection::None`].
        protection: Protection,
        /// Whether and where it is signed.
        signing: Signing,
        /// Whom it is for: named by general-ciphering and general-signing.
        peer: Option<SystemTitle>,
        /// Plain APDU.
        apdu: Vec<u8>,
    },
    /// Open an APDU of the peer. Answer: [`Done::Opened`].
    Open {
        /// The ciphered APDU.
        apdu: Vec<u8>,
        /// The peer's title as the association knows it.
        peer: Option<SystemTitle>,
        /// Whether the broadcast key must have protected it, instead of a unicast key.
        is_broadcast: bool,
    },
    /// Reply to the peer's challenge. Answer: [`Done::Bytes`].
    HlsReply(PeerChallenge),
    /// Is this the reply to our own challenge? That challenge is used up, right or wrong. Answer: [`Done::Verified`].
    HlsVerify {
        /// The peer's side.
        peer: PeerChallenge,
        /// What it replied.
        reply: Vec<u8>,
    },
    /// Forget the association: challenge and dedicated key are wiped. Answer: none is waited for.
    End,
}

impl Operation {
    /// Protect an initiate of an association or of its end: always under the global key.
    pub(super) const fn seal_initiate(apdu: Vec<u8>) -> Self {
        Self::Seal {
            carrier: Carrier::Glo,
            protection: Protection::AuthenticatedEncrypted,
            signing: Signing::None,
            peer: None,
            apdu,
        }
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Challenge(mechanism) => write!(f, "Challenge({mechanism:?})"),
            Self::Password => f.write_str("Password"),
            Self::CheckPassword(_) => f.write_str("CheckPassword"),
            Self::SealInitiate { apdu, dedicated } => {
                write!(f, "SealInitiate({} bytes, dedicated {dedicated})", apdu.len())
            }
            Self::OpenInitiate { apdu, peer } => write!(f, "OpenInitiate({} bytes, {peer})", apdu.len()),
            Self::Seal { carrier, protection, signing, apdu, .. } => {
                write!(f, "Seal({carrier:?}, {protection:?}, {signing:?}, {} bytes)", apdu.len())
            }
            Self::Open { apdu, peer, .. } => write!(f, "Open({} bytes, {peer:?})", apdu.len()),
            Self::HlsReply(peer) => write!(f, "HlsReply({:?})", peer.mechanism),
            Self::HlsVerify { peer, .. } => write!(f, "HlsVerify({:?})", peer.mechanism),
            Self::End => f.write_str("End"),
        }
    }
}

/// What an operation gave. `Debug` shows sizes only.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Done {
    /// Bytes to be sent, or to go into what is sent.
    Bytes(Vec<u8>),
    /// A plain APDU and how it was protected.
    Opened {
        /// Plain APDU.
        plain: Vec<u8>,
        /// Security control of the carrier.
        security_control: SecurityControl,
        /// How it was carried.
        carrier: Carrier,
        /// Whether and where it was signed; the signature was found right.
        signing: Signing,
    },
    /// Yes.
    Verified,
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes[{}]", bytes.len()),
            Self::Opened { plain, security_control, carrier, signing } => {
                let size = plain.len();
                write!(f, "Opened({carrier:?}, {:#04x}, {signing:?}, {size} bytes)", security_control.0)
            }
            Self::Verified => f.write_str("Verified"),
        }
    }
}

/// Why an operation was refused. For the log of the party that refuses; the peer learns none of it (rule S11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CryptoFault {
    /// Not a ciphered APDU.
    #[error("not a ciphered apdu of this association")]
    Form,
    /// The security control names another suite, compression, or a protection that is not accepted.
    #[error("security control {:#04x} is not accepted", .0.0)]
    SecurityControl(SecurityControl),
    /// Broadcast key where the unicast key must be, or the other way round.
    #[error("security control {:#04x} names the wrong key set", .0.0)]
    KeySet(SecurityControl),
    /// No title, another one than the association's, or our own.
    #[error("system title is missing or wrong")]
    Title,
    /// The counter is not above the last accepted one.
    #[error("invocation counter {found} is not above the last accepted one, lowest is {lowest}")]
    Counter {
        /// Counter found.
        found: u32,
        /// Lowest counter that would be accepted.
        lowest: u32,
    },
    /// The tag does not verify.
    #[error("tag does not verify")]
    Tag,
    /// The transaction-id is not above the last accepted one of that peer, is not the one that was asked with, or has not
    /// 8 bytes.
    #[error("transaction-id was used before, is not the one asked with, or has not 8 bytes")]
    Transaction,
    /// The key-info names no key: another choice, another size, a point that is not on the curve, a broken wrapping.
    #[error("key-info leads to no key")]
    KeyInfo,
    /// A signature of general-signing or of an ephemeral key is not that of the originator.
    #[error("signature is not the originator's")]
    Signature,
    /// A key that is needed is not there.
    #[error("no key for this")]
    NoKey,
    /// Password or reply is wrong, or no challenge is open.
    #[error("authentication value is wrong")]
    Authentication,
    /// The mechanism is not spoken here: manufacturer specific, outside the legacy profile, or without keys for it.
    #[error("mechanism {} is not spoken here", .0.number())]
    Mechanism(Mechanism),
    /// The own counter is used up: only a new key helps.
    #[error("own invocation counter is used up")]
    Exhausted,
    /// Storage or randomness failed, or no answer came.
    #[error("operation could not be performed")]
    Unavailable,
}

impl CryptoFault {
    /// Who has to act.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::NoKey | Self::Mechanism(_) | Self::Exhausted => Kind::Local,
            Self::Unavailable => Kind::Transient,
            _ => Kind::Peer,
        }
    }
}

/// Outcome of an operation.
pub type CryptoResult = Result<Done, CryptoFault>;
