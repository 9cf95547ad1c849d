//! Content encryption of a delivery record: ECDH-ES, HKDF-SHA-256, AES-256-GCM.

use alloc::vec::Vec;

use hkdf::Hkdf;
use sha2::Sha256;

use crate::{
    AgreementKey, Key, PublicKey,
    backend::{Active, Backend},
    role::Delivery,
};

/// Size of the content nonce in bytes.
pub const DELIVERY_NONCE_SIZE: usize = 12;

fn content_key(ours: &AgreementKey, theirs: &PublicKey, info: &[u8]) -> Option<Key<Delivery, 32>> {
    let shared = ours.agree(theirs)?;
    let mut okm = [0; 32];
    Hkdf::<Sha256>::new(None, shared.as_slice()).expand(info, &mut okm).ok()?;
    Some(Key::take(&mut okm))
}

/// Encrypts a delivery record to `recipient`. The ephemeral key is fresh for each record, so the nonce may be any.
/// `None` only when the agreement fails.
///
/// # Source
/// Onboarding specification, section 18.7 (ECDH-ES + HKDF-256 direct, A256GCM).
#[must_use]
pub fn delivery_seal(
    ephemeral: &AgreementKey,
    recipient: &PublicKey,
    info: &[u8],
    nonce: &[u8; DELIVERY_NONCE_SIZE],
    aad: &[u8],
    plain: &[u8],
) -> Option<Vec<u8>> {
    Active::gcm_seal(content_key(ephemeral, recipient, info)?.bytes(), nonce, aad, plain)
}

/// Decrypts a delivery record; `None` for any failure.
#[must_use]
pub fn delivery_open(
    recipient: &AgreementKey,
    ephemeral: &PublicKey,
    info: &[u8],
    nonce: &[u8; DELIVERY_NONCE_SIZE],
    aad: &[u8],
    sealed: &[u8],
) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let key = content_key(recipient, ephemeral, info)?;
    Active::gcm_open(key.bytes(), nonce, aad, sealed).map(zeroize::Zeroizing::new)
}
