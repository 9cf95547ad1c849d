//! Symmetric secrets as duplicates for TPM2_Import: outer wrapper only.

use alloc::vec::Vec;

use zeroize::Zeroizing;

use super::{protect, split_tpm2b, tpm2b, unprotect, whole_tpm2b};
use crate::{
    Key,
    backend::{Active, Backend},
    rng::{Rng, RngError},
    role::{Role, TpmSeed},
};

const ALG_KEYEDHASH: u16 = 0x0008;
/// KEYEDHASH, SHA-256, attributes userWithAuth and noDA, empty policy, scheme NULL, then the size of `unique`.
pub const SEALED_PUBLIC_HEAD: [u8; 14] =
    [0x00, 0x08, 0x00, 0x0b, 0x00, 0x00, 0x04, 0x40, 0x00, 0x00, 0x00, 0x10, 0x00, 0x20];

/// A secret wrapped for one storage key.
#[derive(Debug, Clone)]
pub struct Duplicate {
    /// TPMT_PUBLIC of the sealed object, 46 bytes.
    pub public: Vec<u8>,
    /// TPM2B_PRIVATE with its size word.
    pub duplicate: Vec<u8>,
}

/// Name of an object: `000b || SHA-256(public)`.
fn name(public: &[u8]) -> [u8; 34] {
    let mut name = [0; 34];
    name[1] = 0x0b;
    name[2..].copy_from_slice(&Active::sha256(&[public]));
    name
}

/// Wraps `secret` under `seed`. One seed may serve several objects of one delivery: each object's cipher key depends on
/// its Name, which a fresh random seed value makes unique.
///
/// # Errors
/// [`RngError`] as given by the source.
///
/// # Source
/// Onboarding specification, section 6.4.
pub fn duplicate<R: Role, const N: usize>(
    seed: &Key<TpmSeed, 32>,
    secret: &Key<R, N>,
    rng: &mut dyn Rng,
) -> Result<Duplicate, RngError> {
    Ok(duplicate_with(&Key::generate(rng)?, seed, secret))
}

/// [`duplicate`] with a given seed value, for vectors.
#[must_use]
pub fn duplicate_with<R: Role, const N: usize>(
    seed_value: &Key<TpmSeed, 32>,
    seed: &Key<TpmSeed, 32>,
    secret: &Key<R, N>,
) -> Duplicate {
    let mut public = SEALED_PUBLIC_HEAD.to_vec();
    public.extend_from_slice(&Active::sha256(&[seed_value.bytes(), secret.bytes()]));
    let mut sensitive = Zeroizing::new(Vec::with_capacity(40 + N));
    sensitive.extend_from_slice(&ALG_KEYEDHASH.to_be_bytes());
    tpm2b(&mut sensitive, &[]);
    tpm2b(&mut sensitive, seed_value.bytes());
    tpm2b(&mut sensitive, secret.bytes());
    let duplicate = protect(seed, &name(&public), &sensitive);
    Duplicate { public, duplicate }
}

/// The opened content of a duplicate, as a TPM would keep it; wiped on drop.
pub struct SealedSecret(Zeroizing<Vec<u8>>);

impl core::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SealedSecret")
    }
}

impl SealedSecret {
    /// Takes over what a TPM unsealed.
    #[must_use]
    pub fn take(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret as a key of the role it was delivered for; `None` when its length is another.
    #[must_use]
    pub fn into_key<R: Role, const N: usize>(mut self) -> Option<Key<R, N>> {
        Key::take_slice(&mut self.0)
    }
}

/// Opens a duplicate, as TPM2_Import does; `None` for any flaw, among them a public area that does not match.
#[must_use]
pub fn open_duplicate(seed: &Key<TpmSeed, 32>, public: &[u8], blob: &[u8]) -> Option<SealedSecret> {
    let sensitive = unprotect(seed, &name(public), blob)?;
    let rest = sensitive.strip_prefix(&ALG_KEYEDHASH.to_be_bytes())?;
    let (auth, rest) = split_tpm2b(rest)?;
    let (seed_value, rest) = split_tpm2b(rest)?;
    let secret = whole_tpm2b(rest)?;
    let unique = Active::sha256(&[seed_value, secret]);
    let matches = auth.is_empty()
        && public.strip_prefix(&SEALED_PUBLIC_HEAD).is_some_and(|given| crate::ct_eq(given, &unique));
    matches.then(|| SealedSecret(Zeroizing::new(secret.to_vec())))
}
