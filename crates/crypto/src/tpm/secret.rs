//! Secret sharing to a TPM decrypt key.

use alloc::vec::Vec;

use super::{kdfe, split_tpm2b, tpm2b, whole_tpm2b};
use crate::{
    AgreementKey, Key, KeyError, PublicKey, RsaPublicKey,
    rng::Rng,
    role::{Ephemeral, TpmSeed},
};

/// What the shared secret is for; part of its derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretLabel {
    /// Seed of MakeCredential.
    Identity,
    /// Seed of a duplicate for Import.
    Duplicate,
    /// Salt of a session.
    Secret,
}

impl SecretLabel {
    const fn text(self) -> &'static str {
        match self {
            Self::Identity => "IDENTITY",
            Self::Duplicate => "DUPLICATE",
            Self::Secret => "SECRET",
        }
    }
}

/// The endorsement key of a TPM, to which secrets are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndorsementKey {
    /// P-256: suite 1.
    P256(PublicKey),
    /// RSA with 2,048 bits: suite 2.
    Rsa2048(RsaPublicKey),
}

impl EndorsementKey {
    /// The key of [`EndorsementKey::bytes`]: 64 bytes of a point on the curve, or a modulus of 256 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            64 => PublicKey::from_point(bytes.try_into().ok()?).map(Self::P256),
            256 => RsaPublicKey::from_modulus(bytes).map(Self::Rsa2048),
            _ => None,
        }
    }

    /// x || y of the point, or the modulus.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::P256(key) => key.point(),
            Self::Rsa2048(key) => key.modulus(),
        }
    }

    /// Draws a secret that only the TPM of this key recovers; as [`share_secret`]. To an RSA key the secret travels in
    /// OAEP: 258 bytes with the size word, no key pair and no agreement.
    ///
    /// # Errors
    /// [`KeyError`] when the random source fails.
    ///
    /// # Source
    /// Onboarding specification, section 6.2.
    pub fn share_secret(
        &self,
        label: SecretLabel,
        rng: &mut dyn Rng,
    ) -> Result<(Key<TpmSeed, 32>, Vec<u8>), KeyError> {
        match self {
            Self::P256(key) => share_secret(label, key, rng),
            Self::Rsa2048(key) => {
                let seed = Key::generate(rng)?;
                let sealed = key.encrypt_seed(&oaep_label(label), &seed, rng)?;
                Ok((seed, encrypted_secret(&sealed)))
            }
        }
    }
}

/// A given secret in the form that travels to an RSA key, for vectors.
#[must_use]
pub fn encrypt_secret_with(
    oaep_seed: &[u8; 32],
    label: SecretLabel,
    to: &RsaPublicKey,
    seed: &Key<TpmSeed, 32>,
) -> Vec<u8> {
    encrypted_secret(&to.encrypt_seed_with(oaep_seed, &oaep_label(label), seed))
}

/// The terminating zero belongs to the label: without it a TPM refuses.
fn oaep_label(label: SecretLabel) -> Vec<u8> {
    [label.text().as_bytes(), &[0]].concat()
}

fn encrypted_secret(sealed: &[u8]) -> Vec<u8> {
    let mut secret = Vec::with_capacity(sealed.len() + 2);
    tpm2b(&mut secret, sealed);
    secret
}

fn x(key: &PublicKey) -> &[u8; 32] {
    key.point().first_chunk().expect("a point is 64 bytes")
}

/// Draws a secret that only the holder of the TPM key `to` recovers. Returns the secret and its encrypted form, a
/// TPM2B_ENCRYPTED_SECRET with its size word (for P-256: 70 bytes). Costs one key pair and one agreement.
///
/// # Errors
/// [`KeyError`] when the random source fails.
pub fn share_secret(
    label: SecretLabel,
    to: &PublicKey,
    rng: &mut dyn Rng,
) -> Result<(Key<TpmSeed, 32>, Vec<u8>), KeyError> {
    share_secret_with(&Key::generate_scalar(rng)?, label, to)
}

/// [`share_secret`] with a given one-time key, for vectors. The key is consumed.
///
/// # Errors
/// [`KeyError::Scalar`] when the one-time key is none.
pub fn share_secret_with(
    ephemeral: &Key<Ephemeral, 32>,
    label: SecretLabel,
    to: &PublicKey,
) -> Result<(Key<TpmSeed, 32>, Vec<u8>), KeyError> {
    let ephemeral = AgreementKey::new(ephemeral)?;
    let public = ephemeral.public();
    let shared = ephemeral.agree(to).ok_or(KeyError::Scalar)?;
    let seed = kdfe(&shared, label.text(), x(&public), x(to));
    let mut point = Vec::with_capacity(68);
    public.point().chunks(32).for_each(|coordinate| tpm2b(&mut point, coordinate));
    let mut secret = Vec::with_capacity(70);
    tpm2b(&mut secret, &point);
    Ok((seed, secret))
}

/// Recovers a shared secret, as the TPM does; `None` for a malformed point or one off the curve.
#[must_use]
pub fn recover_secret(label: SecretLabel, key: &AgreementKey, secret: &[u8]) -> Option<Key<TpmSeed, 32>> {
    let (x_bytes, rest) = split_tpm2b(whole_tpm2b(secret)?)?;
    let y_bytes = whole_tpm2b(rest)?;
    if x_bytes.len() > 32 || y_bytes.len() > 32 {
        return None;
    }
    let mut point = [0; 64];
    point[32 - x_bytes.len()..32].copy_from_slice(x_bytes);
    point[64 - y_bytes.len()..].copy_from_slice(y_bytes);
    let peer = PublicKey::from_point(&point)?;
    let shared = key.agree(&peer)?;
    Some(kdfe(&shared, label.text(), x(&peer), x(&key.public())))
}
