//! P-256 signatures and key agreement, typed.

use core::{fmt, marker::PhantomData};

use crate::{
    Key, KeyError,
    backend::{Active, Backend, sec1},
    role::Role,
};

/// ECDSA P-256 signature, r || s. Both s and n-s verify, so nothing is ever identified by it.
pub type Signature = [u8; 64];

/// A point of P-256, checked to be on the curve and not the identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 64]);

impl PublicKey {
    /// The key of a point x || y; `None` when it is not on the curve.
    #[must_use]
    pub fn from_point(point: &[u8; 64]) -> Option<Self> {
        p256::PublicKey::from_sec1_bytes(&sec1(point)).ok().map(|_| Self(*point))
    }

    /// The key of a point that is known to be on the curve.
    pub(crate) const fn of_valid(point: [u8; 64]) -> Self {
        Self(point)
    }

    /// The key of an uncompressed SEC 1 point, `04 || x || y`.
    #[must_use]
    pub fn from_sec1(bytes: &[u8]) -> Option<Self> {
        let (4, point) = bytes.split_first()? else { return None };
        Self::from_point(point.try_into().ok()?)
    }

    /// x || y.
    #[must_use]
    pub const fn point(&self) -> &[u8; 64] {
        &self.0
    }

    /// Uncompressed SEC 1 form.
    #[must_use]
    pub fn sec1(&self) -> [u8; 65] {
        sec1(&self.0)
    }

    /// Whether this key made the signature of the message (ECDSA with SHA-256).
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        Active::verify(&self.0, message, signature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey(")?;
        self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

/// Something that signs with one P-256 key: a software key, a TPM, an HSM.
pub trait Signer {
    /// Why it could not sign.
    type Error;

    /// The public key.
    fn public(&self) -> PublicKey;

    /// ECDSA P-256 with SHA-256 over the message.
    ///
    /// # Errors
    /// When the key store refuses or fails.
    fn sign(&self, message: &[u8]) -> Result<Signature, Self::Error>;
}

/// A private signing key of one role, prepared.
pub struct SigningKey<R: Role> {
    key: <Active as Backend>::SigningKey,
    public: PublicKey,
    role: PhantomData<R>,
}

impl<R: Role> SigningKey<R> {
    /// Prepares a private key.
    ///
    /// # Errors
    /// [`KeyError::Scalar`] when the bytes are none.
    pub fn new(scalar: &Key<R, 32>) -> Result<Self, KeyError> {
        let key = Active::signing_key(scalar.bytes()).ok_or(KeyError::Scalar)?;
        let public = PublicKey(Active::signing_point(&key));
        Ok(Self { key, public, role: PhantomData })
    }
}

impl<R: Role> Signer for SigningKey<R> {
    type Error = KeyError;

    fn public(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Signature, KeyError> {
        Active::sign(&self.key, message).ok_or(KeyError::Scalar)
    }
}

impl<R: Role> fmt::Debug for SigningKey<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey<{}>({:?})", R::NAME, self.public)
    }
}

/// A private key-agreement key, prepared.
pub struct AgreementKey {
    key: <Active as Backend>::AgreementKey,
    public: PublicKey,
}

impl AgreementKey {
    /// Prepares a private key.
    ///
    /// # Errors
    /// [`KeyError::Scalar`] when the bytes are none.
    pub fn new<R: Role>(scalar: &Key<R, 32>) -> Result<Self, KeyError> {
        let key = Active::agreement_key(scalar.bytes()).ok_or(KeyError::Scalar)?;
        let public = PublicKey(Active::agreement_point(&key));
        Ok(Self { key, public })
    }

    /// The public key.
    #[must_use]
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// The shared x coordinate, 32 bytes. For the key derivations of this crate.
    pub(crate) fn agree(&self, peer: &PublicKey) -> Option<zeroize::Zeroizing<[u8; 32]>> {
        Active::agree(&self.key, peer.point()).map(zeroize::Zeroizing::new)
    }
}

impl fmt::Debug for AgreementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgreementKey({:?})", self.public)
    }
}
