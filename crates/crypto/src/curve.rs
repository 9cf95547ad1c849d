//! Keys on the curve of a DLMS security suite: signatures as r || s, key agreement, and the keys derived from it.
//!
//! P-256 runs on the active back end, P-384 on RustCrypto on devices and servers alike.

use alloc::{boxed::Box, vec::Vec};
use core::fmt;

use p384::ecdsa::signature::{Signer as _, Verifier as _};
use sha2::{Digest, Sha256, Sha384};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    AgreementKey, Key, KeyError, PublicKey, Rng, Signature,
    role::{DlmsSigning, Ephemeral, Role},
};

/// OID of the algorithms that keys are derived for, but its last octet.
const ALGORITHM: [u8; 6] = [0x60, 0x85, 0x74, 0x05, 0x08, 0x03];

/// Curve of a suite. Closed: the suites of the standard have these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Curve {
    /// Suite 1, and mechanism 7 in suite 0.
    P256,
    /// Suite 2.
    P384,
}

impl Curve {
    /// The curve of a security suite.
    #[must_use]
    pub const fn of_suite(suite: u8) -> Self {
        if suite == 2 { Self::P384 } else { Self::P256 }
    }

    /// Size of a coordinate, a private key, and each of r and s, bytes.
    #[must_use]
    pub const fn coordinate_size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    /// Size of a point x || y and of a signature r || s, bytes.
    #[must_use]
    pub const fn point_size(self) -> usize {
        match self {
            Self::P256 => 64,
            Self::P384 => 96,
        }
    }
}

/// A point of one of the curves, checked to be on it and not the identity.
#[derive(Clone, PartialEq, Eq)]
pub struct CurvePublic(Public);

#[derive(Clone, PartialEq, Eq)]
enum Public {
    P256(PublicKey),
    P384(Box<[u8; 96]>),
}

/// Uncompressed SEC 1 form of a point of P-384.
fn sec1(point: &[u8; 96]) -> [u8; 97] {
    let mut bytes = [4; 97];
    bytes[1..].copy_from_slice(point);
    bytes
}

fn p384_point(key: &p384::PublicKey) -> CurvePublic {
    let mut point = [0; 96];
    point.copy_from_slice(&key.to_sec1_bytes()[1..]);
    CurvePublic(Public::P384(Box::new(point)))
}

fn p256_point(key: &p256::PublicKey) -> CurvePublic {
    let mut point = [0; 64];
    point.copy_from_slice(&key.to_sec1_bytes()[1..]);
    CurvePublic(Public::P256(PublicKey::of_valid(point)))
}

impl CurvePublic {
    /// The key of a point x || y; `None` when it has another size or is not on the curve.
    #[must_use]
    pub fn from_point(curve: Curve, point: &[u8]) -> Option<Self> {
        //= DLMS 5.5: a point that is not on the curve is refused
        Some(Self(match curve {
            Curve::P256 => Public::P256(PublicKey::from_point(point.try_into().ok()?)?),
            Curve::P384 => {
                let point: [u8; 96] = point.try_into().ok()?;
                p384::PublicKey::from_sec1_bytes(&sec1(&point)).ok()?;
                Public::P384(Box::new(point))
            }
        }))
    }

    /// Its curve.
    #[must_use]
    pub const fn curve(&self) -> Curve {
        match self.0 {
            Public::P256(_) => Curve::P256,
            Public::P384(_) => Curve::P384,
        }
    }

    /// x || y, [`Curve::point_size`] bytes.
    #[must_use]
    pub fn point(&self) -> &[u8] {
        match &self.0 {
            Public::P256(key) => key.point(),
            Public::P384(point) => point.as_slice(),
        }
    }

    /// Whether this key made the signature r || s of the message: ECDSA with SHA-256 on P-256, SHA-384 on P-384. DER, or
    /// any other size, is no signature.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Public::P256(key) => signature.try_into().is_ok_and(|signature| key.verifies(message, signature)),
            Public::P384(point) => {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(&sec1(point));
                let signature = p384::ecdsa::Signature::from_slice(signature);
                key.is_ok_and(|key| signature.is_ok_and(|signature| key.verify(message, &signature).is_ok()))
            }
        }
    }
}

impl From<PublicKey> for CurvePublic {
    fn from(key: PublicKey) -> Self {
        Self(Public::P256(key))
    }
}

impl fmt::Debug for CurvePublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurvePublic({:?}, ", self.curve())?;
        self.point().iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..)")
    }
}

/// A DLMS party's own signing key.
pub struct CurveSigner(Private);

/// Both curves sign with RustCrypto, servers too: a signature follows from key and message (RFC 6979), so what is signed again
/// is the same again, and no weak random source gives the key away.
enum Private {
    P256(Box<p256::ecdsa::SigningKey>),
    P384(Box<p384::ecdsa::SigningKey>),
    External(PublicKey, ExternalSigner),
}

/// Signs with a key of P-256 that is elsewhere; `None` when it refuses or fails.
type ExternalSigner = Box<dyn Fn(&[u8]) -> Option<Signature> + Send + Sync>;

impl CurveSigner {
    /// Prepares a private key: of P-256 when it has 32 bytes, of P-384 when it has 48.
    ///
    /// # Errors
    /// [`KeyError::Scalar`] when the bytes are none.
    pub fn new<R: Role, const L: usize>(scalar: &Key<R, L>) -> Result<Self, KeyError> {
        let bytes = scalar.bytes().as_slice();
        Ok(Self(if let Ok(bytes) = <[u8; 32]>::try_from(bytes) {
            let bytes = Zeroizing::new(bytes);
            let key = p256::ecdsa::SigningKey::from_slice(bytes.as_slice()).map_err(|_| KeyError::Scalar)?;
            Private::P256(Box::new(key))
        } else {
            Private::P384(Box::new(p384_signer(bytes).ok_or(KeyError::Scalar)?))
        }))
    }

    /// A key of P-256 that a TPM or an HSM holds.
    #[must_use]
    pub fn external(
        public: PublicKey,
        sign: impl Fn(&[u8]) -> Option<Signature> + Send + Sync + 'static,
    ) -> Self {
        Self(Private::External(public, Box::new(sign)))
    }

    /// Takes the bytes of a private key over and wipes the source; `None` when they are none of the curve.
    #[must_use]
    pub fn take(curve: Curve, source: &mut [u8]) -> Option<Self> {
        match curve {
            Curve::P256 => Self::new(&Key::<DlmsSigning, 32>::take_slice(source)?).ok(),
            Curve::P384 => Self::new(&Key::<DlmsSigning, 48>::take_slice(source)?).ok(),
        }
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> CurvePublic {
        match &self.0 {
            Private::P256(key) => p256_point(&key.verifying_key().into()),
            Private::External(public, _) => (*public).into(),
            Private::P384(key) => p384_point(&key.verifying_key().into()),
        }
    }

    /// Signature r || s of the message, [`Curve::point_size`] bytes; `None` when the back end fails.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Private::P256(key) => {
                let signature: p256::ecdsa::Signature = key.try_sign(message).ok()?;
                Some(signature.to_bytes().to_vec())
            }
            Private::External(_, sign) => sign(message).map(Vec::from),
            Private::P384(key) => {
                let signature: p384::ecdsa::Signature = key.try_sign(message).ok()?;
                Some(signature.to_bytes().to_vec())
            }
        }
    }
}

fn p384_signer(bytes: &[u8]) -> Option<p384::ecdsa::SigningKey> {
    if bytes.len() == 48 { p384::ecdsa::SigningKey::from_slice(bytes).ok() } else { None }
}

impl fmt::Debug for CurveSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurveSigner({:?})", self.public())
    }
}

/// A private key of key agreement: a party's static one, or an ephemeral one.
pub struct CurveAgreement(Agreement);

enum Agreement {
    P256(Box<AgreementKey>),
    P384(Box<p384::SecretKey>),
}

impl CurveAgreement {
    /// Prepares a private key: of P-256 when it has 32 bytes, of P-384 when it has 48.
    ///
    /// # Errors
    /// [`KeyError::Scalar`] when the bytes are none.
    pub fn new<R: Role, const L: usize>(scalar: &Key<R, L>) -> Result<Self, KeyError> {
        let bytes = scalar.bytes().as_slice();
        Ok(Self(if let Ok(bytes) = <[u8; 32]>::try_from(bytes) {
            let key: Key<R, 32> = Key::take(&mut Zeroizing::new(bytes));
            Agreement::P256(Box::new(AgreementKey::new(&key)?))
        } else if bytes.len() == 48 {
            Agreement::P384(Box::new(p384::SecretKey::from_slice(bytes).map_err(|_| KeyError::Scalar)?))
        } else {
            return Err(KeyError::Scalar);
        }))
    }

    /// Takes the bytes of a private key over and wipes the source; `None` when they are none of the curve.
    #[must_use]
    pub fn take(curve: Curve, source: &mut [u8]) -> Option<Self> {
        match curve {
            Curve::P256 => Self::new(&Key::<Ephemeral, 32>::take_slice(source)?).ok(),
            Curve::P384 => Self::new(&Key::<Ephemeral, 48>::take_slice(source)?).ok(),
        }
    }

    /// A fresh ephemeral key.
    ///
    /// # Errors
    /// [`KeyError::Rng`] as given by the source.
    pub fn generate(curve: Curve, rng: &mut dyn Rng) -> Result<Self, KeyError> {
        match curve {
            Curve::P256 => Self::new(&Key::<Ephemeral, 32>::generate_scalar(rng)?),
            Curve::P384 => Self::new(&Key::<Ephemeral, 48>::generate_scalar(rng)?),
        }
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> CurvePublic {
        match &self.0 {
            Agreement::P256(key) => key.public().into(),
            Agreement::P384(key) => p384_point(&key.public_key()),
        }
    }

    /// The secret that is shared with the owner of a public key; `None` for a key on the other curve.
    #[must_use]
    pub fn agree(&self, peer: &CurvePublic) -> Option<SharedSecret> {
        match (&self.0, &peer.0) {
            (Agreement::P256(key), Public::P256(peer)) => {
                key.agree(peer).map(|x| SharedSecret(Zeroizing::new(x.to_vec())))
            }
            (Agreement::P384(key), Public::P384(point)) => {
                let peer = p384::PublicKey::from_sec1_bytes(&sec1(point)).ok()?;
                let shared = p384::ecdh::diffie_hellman(key.to_nonzero_scalar(), peer.as_affine());
                Some(SharedSecret(Zeroizing::new(shared.raw_secret_bytes().to_vec())))
            }
            _ => None,
        }
    }
}

impl fmt::Debug for CurveAgreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CurveAgreement({:?})", self.public())
    }
}

/// What a derived key is for: part of the derivation. Closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// Authenticated encryption, and the authentication key.
    Gcm,
    /// Key wrap: a master key. That it has an algorithm of its own is not verified \[check\].
    Wrap,
}

/// The x coordinate of a point that two parties share; wiped on drop, never printed.
pub struct SharedSecret(Zeroizing<Vec<u8>>);

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret")
    }
}

impl SharedSecret {
    /// The key of `hash(00000001 || x || algorithm || party U || party V)`, its first `N` bytes: SHA-256 and 16 bytes with
    /// a secret of P-256, SHA-384 and 32 bytes with one of P-384; `None` for another size. U is who originates the key.
    ///
    /// | scheme | party U | party V |
    /// |---|---|---|
    /// | two ephemeral keys | client's title | server's title |
    /// | one-pass | originator's title | recipient's title |
    /// | static | originator's title, length of the transaction-id, transaction-id | recipient's title |
    ///
    /// # Source
    /// DLMS fact sheet, section 6.1; vectors `key-agreement/*.toml`.
    #[must_use]
    pub fn derive<R: Role, const N: usize>(
        &self,
        algorithm: KeyAlgorithm,
        party_u: &[u8],
        party_v: &[u8],
    ) -> Option<Key<R, N>> {
        //= DLMS 12.12: the derivation has the hash and the size of the suite
        let number = match (algorithm, N, self.0.len()) {
            (KeyAlgorithm::Gcm, 16, 32) => 0,
            (KeyAlgorithm::Gcm, 32, 48) => 1,
            (KeyAlgorithm::Wrap, 16, 32) => 2,
            (KeyAlgorithm::Wrap, 32, 48) => 3,
            _ => return None,
        };
        let parts: [&[u8]; 6] = [&[0, 0, 0, 1], &self.0, &ALGORITHM, &[number], party_u, party_v];
        if N == 16 { first::<Sha256, R, N>(&parts) } else { first::<Sha384, R, N>(&parts) }
    }
}

fn first<D: Digest, R: Role, const N: usize>(parts: &[&[u8]]) -> Option<Key<R, N>> {
    let mut hash = D::new();
    parts.iter().for_each(|part| hash.update(part));
    let mut digest = hash.finalize();
    let key = digest.get_mut(..N).and_then(Key::take_slice);
    digest.as_mut_slice().zeroize();
    key
}
