//! Content encryption of a delivery record: ECDH-ES, HKDF-SHA-256, AES-256-GCM.

use alloc::vec::Vec;

use hkdf::Hkdf;
use sha2::Sha256;

use crate::{
    AgreementKey, Key, PublicKey,
    backend::{Active, Backend},
    role::{Delivery, OwnerSecret},
};

/// A buffer for what is about to be encrypted: wiped on drop, never printed.
pub struct SecretBytes(zeroize::Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// A buffer that starts with `head`. Capacity is reserved at once, so that growing leaves no copy behind.
    #[must_use]
    pub fn starting_with(head: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(head.len() + 512);
        bytes.extend_from_slice(head);
        Self(zeroize::Zeroizing::new(bytes))
    }

    /// Appends public bytes.
    pub fn append(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends an owner secret, for its delivery record: the one message whose plaintext holds key bytes.
    pub fn append_owner_secret(&mut self, secret: &Key<OwnerSecret, 32>) {
        self.0.extend_from_slice(secret.bytes());
    }

    /// What it holds.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl core::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SecretBytes[{} bytes]", self.0.len())
    }
}

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
#[expect(clippy::too_many_arguments, reason = "the inputs of the standard")]
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
#[expect(clippy::too_many_arguments, reason = "the inputs of the standard")]
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
