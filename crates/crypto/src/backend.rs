//! The two sets of primitives behind one interface (decision D2).

#[cfg(feature = "aws-lc")]
pub mod aws_lc;
pub mod rustcrypto;

use alloc::vec::Vec;

use crate::{SECOND_KEY_SIZE, SECOND_SIGNATURE_SIZE};

/// What a back end provides. All values are raw bytes: callers outside this crate use the typed interfaces.
///
/// Points are x || y, 64 bytes, already checked to be on P-256 by [`crate::PublicKey`]; scalars are 32 bytes.
pub trait Backend {
    /// Prepared signing key.
    type SigningKey;
    /// Prepared key of AES-256-GCM.
    type GcmKey;
    /// Prepared key-agreement key.
    type AgreementKey;
    /// Prepared ML-DSA-65 signing key.
    type SecondSigner;

    /// SHA-256 over the concatenated parts.
    fn sha256(parts: &[&[u8]]) -> [u8; 32];
    /// HMAC-SHA-256 over the concatenated parts.
    fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32];
    /// AES-256-GCM; the 16-byte tag is appended. `None` only for an input beyond the mode's limits.
    fn gcm_seal(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plain: &[u8]) -> Option<Vec<u8>>;
    /// AES-256-GCM; `None` when the tag does not verify.
    fn gcm_open(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>>;
    /// Prepares a key of AES-256-GCM.
    fn gcm_key(key: &[u8; 32]) -> Self::GcmKey;
    /// AES-256-GCM in place, for inputs far below the limits of the mode; returns the tag.
    fn gcm_seal_in_place(key: &Self::GcmKey, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> [u8; 16];
    /// AES-256-GCM in place over text || tag; whether the tag verifies. Otherwise the text is not to be used.
    fn gcm_open_in_place(key: &Self::GcmKey, nonce: &[u8; 12], aad: &[u8], sealed: &mut [u8]) -> bool;
    /// Prepares a scalar for signing; `None` for zero or a value not below the group order.
    fn signing_key(scalar: &[u8; 32]) -> Option<Self::SigningKey>;
    /// Point of a prepared signing key.
    fn signing_point(key: &Self::SigningKey) -> [u8; 64];
    /// ECDSA P-256 with SHA-256 over the message; r || s.
    fn sign(key: &Self::SigningKey, message: &[u8]) -> Option<[u8; 64]>;
    /// Whether r || s is a signature of the message under the point; both s and n-s are accepted.
    fn verify(point: &[u8; 64], message: &[u8], signature: &[u8; 64]) -> bool;
    /// Prepares a scalar for key agreement; `None` as for [`Backend::signing_key`].
    fn agreement_key(scalar: &[u8; 32]) -> Option<Self::AgreementKey>;
    /// Point of a prepared agreement key.
    fn agreement_point(key: &Self::AgreementKey) -> [u8; 64];
    /// ECDH: the shared x coordinate.
    fn agree(key: &Self::AgreementKey, peer: &[u8; 64]) -> Option<[u8; 32]>;
    /// ML-DSA-65 key of a seed (FIPS 204, xi).
    fn second_signer(seed: &[u8; 32]) -> Option<Self::SecondSigner>;
    /// Its public key.
    fn second_public(key: &Self::SecondSigner) -> Option<[u8; SECOND_KEY_SIZE]>;
    /// ML-DSA-65 over the message with an empty context.
    fn second_sign(key: &Self::SecondSigner, message: &[u8]) -> Option<[u8; SECOND_SIGNATURE_SIZE]>;
    /// Whether it is a signature of the message under the key.
    fn second_verifies(
        public: &[u8; SECOND_KEY_SIZE],
        message: &[u8],
        signature: &[u8; SECOND_SIGNATURE_SIZE],
    ) -> bool;
}

#[cfg(feature = "aws-lc")]
pub(crate) type Active = aws_lc::AwsLc;
#[cfg(not(feature = "aws-lc"))]
pub(crate) type Active = rustcrypto::RustCrypto;

/// Uncompressed SEC 1 form of x || y.
pub(crate) fn sec1(point: &[u8; 64]) -> [u8; 65] {
    let mut bytes = [4u8; 65];
    bytes[1..].copy_from_slice(point);
    bytes
}
