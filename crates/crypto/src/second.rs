//! The second, post-quantum signature of what must still be verifiable in twenty years: ML-DSA-65 (decision D12).
//!
//! # Source
//! FIPS 204, pure ML-DSA with an empty context.

use alloc::{boxed::Box, vec::Vec};
use core::{fmt, marker::PhantomData};

use crate::{
    Key, KeyError,
    backend::{Active, Backend},
    role::Role,
    sha256,
};

/// Size of a public key in bytes.
pub const SECOND_KEY_SIZE: usize = 1_952;
/// Size of a signature in bytes.
pub const SECOND_SIGNATURE_SIZE: usize = 3_309;

/// An ML-DSA-65 public key. Every string of its size is one.
#[derive(Clone, PartialEq, Eq)]
pub struct SecondKey(Box<[u8; SECOND_KEY_SIZE]>);

impl SecondKey {
    /// The key in these bytes; `None` for another size.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        <[u8; SECOND_KEY_SIZE]>::try_from(bytes).ok().map(|key| Self(Box::new(key)))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// SHA-256 over its bytes: what names it in a document.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        sha256(&[self.as_bytes()])
    }

    /// Whether this key made the signature of the concatenated parts.
    #[must_use]
    pub fn verifies(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        let Ok(signature) = <&[u8; SECOND_SIGNATURE_SIZE]>::try_from(signature) else { return false };
        Active::second_verifies(&self.0, &parts.concat(), signature)
    }
}

impl fmt::Debug for SecondKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecondKey(")?;
        self.id().iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

/// A private ML-DSA-65 key of one role, prepared.
pub struct SecondSigner<R: Role> {
    key: <Active as Backend>::SecondSigner,
    public: SecondKey,
    role: PhantomData<R>,
}

impl<R: Role> SecondSigner<R> {
    /// Prepares the key of a seed.
    ///
    /// # Errors
    /// [`KeyError::Scalar`] when the back end refuses it.
    pub fn new(seed: &Key<R, 32>) -> Result<Self, KeyError> {
        let key = Active::second_signer(seed.bytes()).ok_or(KeyError::Scalar)?;
        let public = Active::second_public(&key).ok_or(KeyError::Scalar)?;
        Ok(Self { key, public: SecondKey(Box::new(public)), role: PhantomData })
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> &SecondKey {
        &self.public
    }

    /// Signs the concatenated parts; [`SECOND_SIGNATURE_SIZE`] bytes.
    ///
    /// # Errors
    /// [`KeyError::Scalar`] when the back end fails.
    pub fn sign(&self, parts: &[&[u8]]) -> Result<Vec<u8>, KeyError> {
        Active::second_sign(&self.key, &parts.concat()).map(Vec::from).ok_or(KeyError::Scalar)
    }
}

impl<R: Role> fmt::Debug for SecondSigner<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecondSigner<{}>({:?})", R::NAME, self.public)
    }
}
