//! Seals of the onboarding protocol: AES-256-GCM, nonce = 11 zero bytes || message number.

use alloc::vec::Vec;

use crate::{
    Key,
    backend::{Active, Backend},
    role::Seal,
};

/// The box does not open under this key, number and envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("seal does not open")]
pub struct SealError;

const fn nonce(number: u8) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[11] = number;
    nonce
}

impl Key<Seal, 32> {
    /// Seals message `number`; the result is ciphertext || tag (16 bytes). A (key, number) pair is used once: the caller
    /// stores the result and repeats it byte for byte.
    ///
    /// # Errors
    /// [`SealError`] only for a message beyond the limits of the mode.
    ///
    /// # Source
    /// Onboarding specification, section 7.4.
    pub fn seal(&self, number: u8, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        Active::gcm_seal(self.bytes(), &nonce(number), aad, plain).ok_or(SealError)
    }

    /// Opens message `number`.
    ///
    /// # Errors
    /// [`SealError`] when the tag does not verify; no finer reason is given.
    pub fn open(&self, number: u8, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        Active::gcm_open(self.bytes(), &nonce(number), aad, sealed).ok_or(SealError)
    }
}
