//! MakeCredential and its inverse.

use alloc::vec::Vec;

use super::{protect, unprotect};
use crate::{
    Key,
    role::{ActivationSecret, TpmSeed},
};

/// The credentialBlob (TPM2B_ID_OBJECT with its size word) that gives `credential` to the TPM which holds both the key
/// that `seed` was shared to and the object called `name`.
#[must_use]
pub fn make_credential(
    seed: &Key<TpmSeed, 32>,
    name: &[u8; 34],
    credential: &Key<ActivationSecret, 32>,
) -> Vec<u8> {
    protect(seed, name, credential.bytes())
}

/// ActivateCredential; `None` when blob, seed and name do not belong together.
#[must_use]
pub fn open_credential(
    seed: &Key<TpmSeed, 32>,
    name: &[u8; 34],
    blob: &[u8],
) -> Option<Key<ActivationSecret, 32>> {
    Key::take_slice(&mut unprotect(seed, name, blob)?)
}
