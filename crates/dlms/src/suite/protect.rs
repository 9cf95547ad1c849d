//! Sealing and opening of APDUs in suite 0, authenticated encryption only.
//!
//! Refused for now, and so never mistaken for the real thing: encryption without authentication, which anybody can
//! change on the way; authentication without encryption; compression; the broadcast key; suites 1 and 2.

use alloc::vec::Vec;

use gridseal_crypto::{
    Key, Ticket, apdu,
    role::{Gak, Guek},
};
use gridseal_types::{Kind, SystemTitle};

use crate::apdu::ciphered::{GeneralGlo, Protected, SecurityControl};

/// Bytes by which a sealed body is longer than the plain APDU: the tag.
pub const TAG_SIZE: usize = apdu::TAG_SIZE;

/// An APDU was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The APDU is beyond the limits of the cipher mode.
    #[error("apdu is too long to be sealed")]
    TooLong,
}

impl SealError {
    /// Always the caller.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Local
    }
}

/// An APDU was not opened. Both causes must look alike to a peer; they differ for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The security control names a protection that is not accepted.
    #[error("security control {:#04x} is not accepted", .0.0)]
    SecurityControl(SecurityControl),
    /// The tag does not verify under these keys, title and counter; no finer reason is given.
    #[error("apdu does not open")]
    Rejected,
}

impl OpenError {
    /// Always the peer.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        Kind::Peer
    }
}

/// Seals a plain APDU and puts it into general-glo-ciphering with security control 30.
///
/// Consumes the counter ticket: no (key, nonce) pair is used twice (rule S1). The result is 30 bytes longer than
/// `apdu` while the content stays below 128 bytes.
///
/// # Errors
/// [`SealError::TooLong`] beyond the limits of the cipher mode.
///
/// # Source
/// DLMS fact sheet, sections 5.3 and 5.4; vector `dlms/general-glo-green-book.toml`.
pub fn seal_general_glo(
    guek: &Key<Guek, 16>,
    gak: &Key<Gak, 16>,
    originator: SystemTitle,
    ticket: Ticket,
    apdu: &[u8],
) -> Result<Vec<u8>, SealError> {
    //= DLMS 5.3: the nonce is system title and counter, the associated data control octet and authentication key
    let security_control = SecurityControl::AUTHENTICATED_ENCRYPTION;
    let invocation_counter = ticket.value();
    let body =
        apdu::seal(guek, gak, originator, security_control.0, ticket, apdu).ok_or(SealError::TooLong)?;
    let sealed =
        GeneralGlo { system_title: Some(originator), security_control, invocation_counter, body: &body };
    Ok(sealed.to_bytes())
}

/// Opens general-glo-ciphering. `originator` is whose keys these are: the title of the APDU once it has led to them,
/// or the one that the association knows when the APDU leaves it out.
///
/// Whether the counter is new is not judged here: that is the receiver's replay window (decision D1).
///
/// # Errors
/// [`OpenError::SecurityControl`] for anything but control 30; [`OpenError::Rejected`] for a tag that does not verify
/// or an APDU that names another originator.
///
/// # Source
/// DLMS fact sheet, sections 5.2 to 5.4.
pub fn open_general_glo(
    guek: &Key<Guek, 16>,
    gak: &Key<Gak, 16>,
    originator: SystemTitle,
    apdu: &GeneralGlo<'_>,
) -> Result<Vec<u8>, OpenError> {
    if apdu.system_title.is_some_and(|title| title != originator) {
        return Err(OpenError::Rejected);
    }
    open_protected(guek, gak, originator, &apdu.protected())
}

/// Opens what a carrier without a title holds, such as glo-get-request.
///
/// # Errors
/// As [`open_general_glo`].
pub fn open_protected(
    guek: &Key<Guek, 16>,
    gak: &Key<Gak, 16>,
    originator: SystemTitle,
    protected: &Protected<'_>,
) -> Result<Vec<u8>, OpenError> {
    let Protected { security_control, invocation_counter, body } = *protected;
    //= DLMS 5.2: control octets of other suites and of weaker protection are refused
    if security_control != SecurityControl::AUTHENTICATED_ENCRYPTION {
        return Err(OpenError::SecurityControl(security_control));
    }
    //= DLMS 12.1: the tag is compared, whatever bit is flipped
    apdu::open(guek, gak, originator, security_control.0, invocation_counter, body).ok_or(OpenError::Rejected)
}
