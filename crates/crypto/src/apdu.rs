//! Protection of DLMS APDUs: AES-GCM with a 12-byte tag.

mod protection;

pub use protection::{
    CipherRole, Header, danger_decrypt_unverified, gmac, gmac_verifies, protect, protect_covering,
    protect_with_key, unprotect, unprotect_covering,
};

use alloc::vec::Vec;

use aes::Aes128;
use aes_gcm::{
    AesGcm, KeyInit,
    aead::{Aead, Payload, consts::U12},
};
use gridseal_types::SystemTitle;

use crate::{
    Key, Ticket,
    role::{Gak, Guek},
};

type Aes128Gcm12 = AesGcm<Aes128, U12, U12>;

/// Tag length in bytes.
pub const TAG_SIZE: usize = 12;

pub(crate) fn nonce(originator: SystemTitle, invocation_counter: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(originator.as_bytes());
    nonce[8..].copy_from_slice(&invocation_counter.to_be_bytes());
    nonce
}

/// The associated data of authenticated encryption: security control byte || authentication key.
pub(crate) fn aad(security_control: u8, gak: &[u8; 16]) -> zeroize::Zeroizing<[u8; 17]> {
    let mut aad = zeroize::Zeroizing::new([security_control; 17]);
    aad[1..].copy_from_slice(gak);
    aad
}

/// Authenticates and encrypts a whole APDU; the result is ciphertext || tag (12 bytes). Consumes the counter ticket, so
/// no (key, nonce) pair can be used twice.
///
/// `None` only for an APDU beyond the limits of the mode.
///
/// # Source
/// DLMS fact sheet, section 5.3 (suite 0, E and A set).
#[must_use]
#[expect(clippy::too_many_arguments, reason = "the inputs of the standard, each of a type of its own")]
pub fn seal(
    guek: &Key<Guek, 16>,
    gak: &Key<Gak, 16>,
    originator: SystemTitle,
    security_control: u8,
    ticket: Ticket,
    apdu: &[u8],
) -> Option<Vec<u8>> {
    let aad = aad(security_control, gak.bytes());
    let payload = Payload { msg: apdu, aad: aad.as_slice() };
    Aes128Gcm12::new(guek.bytes().into()).encrypt((&nonce(originator, ticket.value())).into(), payload).ok()
}

/// Opens ciphertext || tag; `None` when the tag does not verify.
#[must_use]
#[expect(clippy::too_many_arguments, reason = "the inputs of the standard, each of a type of its own")]
pub fn open(
    guek: &Key<Guek, 16>,
    gak: &Key<Gak, 16>,
    originator: SystemTitle,
    security_control: u8,
    invocation_counter: u32,
    body: &[u8],
) -> Option<Vec<u8>> {
    let aad = aad(security_control, gak.bytes());
    let payload = Payload { msg: body, aad: aad.as_slice() };
    Aes128Gcm12::new(guek.bytes().into())
        .decrypt((&nonce(originator, invocation_counter)).into(), payload)
        .ok()
}
