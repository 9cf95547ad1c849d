//! What a server without a TPM computes for one, and what a software device root computes in its place.
//!
//! All algorithms are those of the default templates: name algorithm SHA-256, P-256, AES-128-CFB; the endorsement key may
//! be RSA 2048.
//!
//! # Source
//! Onboarding specification, section 6 (TPM 2.0 Library, Parts 1 and 3).

mod clear;
mod credential;
mod duplicate;
mod kdf;
mod parameter;
mod secret;
mod session;

pub use clear::{
    Clear, ClearAuth, clear_audit_digest, clear_command, clear_confirmed, execute_clear, is_clear_response,
    platform_clear_command, platform_clear_confirmed,
};
pub use credential::{make_credential, open_credential};
pub use duplicate::{Duplicate, SEALED_PUBLIC_HEAD, SealedSecret, duplicate, duplicate_with, open_duplicate};
pub use kdf::{kdfa, kdfe};
pub use parameter::{decrypted_response, encrypted_device_root};
pub use secret::{
    EndorsementKey, SecretLabel, encrypt_secret_with, recover_secret, share_secret, share_secret_with,
};
pub use session::{
    AuthInForce, ChangeAuth, CommandAuth, SessionNonces, TpmSessionKey, change_auth_command,
    change_auth_confirmed, execute_change_auth,
};

use alloc::vec::Vec;

/// A TPM2B: two bytes of length, then the value. Values here are far below 64 KiB.
pub(crate) fn tpm2b(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(value);
}

/// Splits a TPM2B off the front.
pub(crate) fn split_tpm2b(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// The value of a TPM2B that fills the whole slice.
pub(crate) fn whole_tpm2b(bytes: &[u8]) -> Option<&[u8]> {
    split_tpm2b(bytes).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// Keys of a protected blob: AES-128-CFB from the object's Name, HMAC without it (TPM Part 1, "protected storage").
fn protection_keys(
    seed: &crate::Key<crate::role::TpmSeed, 32>,
    name: &[u8],
) -> (zeroize::Zeroizing<[u8; 16]>, zeroize::Zeroizing<[u8; 32]>) {
    let mut sym = zeroize::Zeroizing::new([0; 16]);
    sym.copy_from_slice(&kdf::kdfa_bytes(seed.bytes(), "STORAGE", name, &[], 128)[..16]);
    (sym, kdf::kdfa_bytes(seed.bytes(), "INTEGRITY", &[], &[], 256))
}

/// `2B( 2B(mac) || enc )` with the outer size word.
fn protect(seed: &crate::Key<crate::role::TpmSeed, 32>, name: &[u8], plain: &[u8]) -> Vec<u8> {
    use crate::backend::{Active, Backend};
    let (sym, mac_key) = protection_keys(seed, name);
    let mut encrypted = zeroize::Zeroizing::new(Vec::with_capacity(plain.len() + 2));
    tpm2b(&mut encrypted, plain);
    kdf::cfb_encrypt(&sym, &[0; 16], &mut encrypted);
    let mac = Active::hmac_sha256(mac_key.as_slice(), &[&encrypted, name]);
    let mut inner = Vec::with_capacity(34 + encrypted.len());
    tpm2b(&mut inner, &mac);
    inner.extend_from_slice(&encrypted);
    let mut blob = Vec::with_capacity(2 + inner.len());
    tpm2b(&mut blob, &inner);
    blob
}

/// Inverse of [`protect`]; `None` for any flaw.
fn unprotect(
    seed: &crate::Key<crate::role::TpmSeed, 32>,
    name: &[u8],
    blob: &[u8],
) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    use crate::backend::{Active, Backend};
    let (mac, encrypted) = split_tpm2b(whole_tpm2b(blob)?)?;
    let (sym, mac_key) = protection_keys(seed, name);
    if !crate::ct_eq(&Active::hmac_sha256(mac_key.as_slice(), &[encrypted, name]), mac) {
        return None;
    }
    let mut plain = zeroize::Zeroizing::new(encrypted.to_vec());
    kdf::cfb_decrypt(&sym, &[0; 16], &mut plain);
    Some(zeroize::Zeroizing::new(whole_tpm2b(&plain)?.to_vec()))
}
