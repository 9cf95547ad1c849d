//! Parameter encryption between a device and its own TPM, so that no secret crosses the bus of a discrete chip in clear.
//!
//! The session is salted and unbound, and authorises nothing: its key is the session key alone.

use alloc::vec::Vec;

use zeroize::Zeroizing;

use super::{
    SealedSecret, TpmSessionKey,
    kdf::{cfb_decrypt, cfb_encrypt, kdfa_key_iv},
    tpm2b,
};
use crate::{Key, role::DeviceRootSecret};

/// inSensitive of the CreatePrimary that keeps N_root: TPM2B_SENSITIVE_CREATE with its size word, 38 bytes; its content
/// (empty auth, N_root as data) is encrypted to the session.
#[must_use]
pub fn encrypted_device_root(
    session: &TpmSessionKey,
    nonce_caller: &[u8; 16],
    nonce_tpm: &[u8; 16],
    device_root: &Key<DeviceRootSecret, 32>,
) -> Vec<u8> {
    let mut content = Zeroizing::new(Vec::with_capacity(36));
    tpm2b(&mut content, &[]);
    tpm2b(&mut content, device_root.bytes());
    let (sym, iv) = kdfa_key_iv(session.bytes(), nonce_caller, nonce_tpm);
    cfb_encrypt(&sym, &iv, &mut content);
    let mut parameter = Vec::with_capacity(38);
    tpm2b(&mut parameter, &content);
    parameter
}

/// The value of a response's first parameter, which the TPM encrypted to the session. The caller has checked the
/// response HMAC of the session.
#[must_use]
pub fn decrypted_response(
    session: &TpmSessionKey,
    nonce_tpm: &[u8; 16],
    nonce_caller: &[u8; 16],
    encrypted: &[u8],
) -> SealedSecret {
    let mut value = encrypted.to_vec();
    let (sym, iv) = kdfa_key_iv(session.bytes(), nonce_tpm, nonce_caller);
    cfb_decrypt(&sym, &iv, &mut value);
    SealedSecret::take(value)
}
