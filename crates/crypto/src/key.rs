//! Key bytes bound to one role.

use alloc::boxed::Box;
use core::{fmt, marker::PhantomData};

use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroize;

use crate::{
    backend::{Active, Backend},
    rng::{Rng, RngError},
    role::Role,
};

/// Key bytes of one role, wiped on drop. Boxed, so that a move copies a pointer and not the key.
///
/// It cannot be printed, cloned, compared with `==`, serialised or read as a slice:
///
/// ```compile_fail
/// fn print(key: gridseal_crypto::Key<gridseal_crypto::role::Guek, 16>) { println!("{key}"); }
/// ```
/// ```compile_fail
/// fn twice(key: gridseal_crypto::Key<gridseal_crypto::role::Guek, 16>) { let _ = (key.clone(), key); }
/// ```
/// ```compile_fail
/// fn same(key: gridseal_crypto::Key<gridseal_crypto::role::Guek, 16>) -> bool { key == key }
/// ```
/// ```compile_fail
/// fn read(key: &gridseal_crypto::Key<gridseal_crypto::role::Guek, 16>) -> &[u8] { key.as_ref() }
/// ```
/// ```compile_fail
/// fn encode(key: gridseal_crypto::Key<gridseal_crypto::role::Guek, 16>) { let _ = minicbor::to_vec(key); }
/// ```
/// and a key of one role does not go where another is wanted:
/// ```compile_fail
/// use gridseal_crypto::{Key, role::{Gak, Guek}};
/// fn wrong(key: Key<Gak, 16>) -> Key<Guek, 16> { key }
/// ```
pub struct Key<R: Role, const N: usize> {
    bytes: Box<[u8; N]>,
    role: PhantomData<R>,
}

/// A key could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The random source failed.
    #[error(transparent)]
    Rng(#[from] RngError),
    /// The bytes are not a private key of the curve.
    #[error("bytes are not a private key of the curve")]
    Scalar,
}

impl<R: Role, const N: usize> Key<R, N> {
    /// A fresh random key.
    ///
    /// # Errors
    /// [`RngError`] as given by the source.
    pub fn generate(rng: &mut dyn Rng) -> Result<Self, RngError> {
        let mut bytes = Box::new([0; N]);
        rng.fill(bytes.as_mut())?;
        Ok(Self { bytes, role: PhantomData })
    }

    /// Takes the bytes over and wipes the source.
    #[must_use]
    pub fn take(source: &mut [u8; N]) -> Self {
        let bytes = Box::new(*source);
        source.zeroize();
        Self { bytes, role: PhantomData }
    }

    /// Takes the bytes over when there are exactly `N` of them, and wipes the source either way.
    #[must_use]
    pub fn take_slice(source: &mut [u8]) -> Option<Self> {
        let bytes: Option<Box<[u8; N]>> = <[u8; N]>::try_from(&*source).ok().map(Box::new);
        source.zeroize();
        Some(Self { bytes: bytes?, role: PhantomData })
    }

    pub(crate) fn bytes(&self) -> &[u8; N] {
        &self.bytes
    }

    /// HMAC-SHA-256 over the concatenated parts under this key: a public value such as a pseudonym or a proof.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        Active::hmac_sha256(self.bytes.as_slice(), parts)
    }

    /// Whether `mac` is the HMAC-SHA-256 of the parts under this key, in constant time.
    #[must_use]
    pub fn mac_verifies(&self, parts: &[&[u8]], mac: &[u8; 32]) -> bool {
        self.mac(parts).ct_eq(mac).into()
    }

    /// The key `HMAC-SHA-256(self, parts)` of another role.
    #[must_use]
    pub fn derive<To: Role>(&self, parts: &[&[u8]]) -> Key<To, 32> {
        Key::take(&mut self.mac(parts))
    }

    /// The key `HMAC-SHA-256(self, parts || last)` of another role, where `last` is itself a key.
    #[must_use]
    pub fn derive_with<To: Role, Last: Role>(&self, parts: &[&[u8]], last: &Key<Last, 32>) -> Key<To, 32> {
        let mut all = alloc::vec::Vec::with_capacity(parts.len() + 1);
        all.extend_from_slice(parts);
        all.push(last.bytes());
        self.derive(&all)
    }

    /// `SHA-256(label || self)`: a commitment, for keys that cannot be guessed.
    #[must_use]
    pub fn hashed(&self, label: &[u8]) -> [u8; 32] {
        Active::sha256(&[label, self.bytes.as_slice()])
    }

    /// Whether two keys are equal, in constant time.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> Choice {
        self.bytes.as_slice().ct_eq(other.bytes.as_slice())
    }

    /// The bytes in hex, for the inventory of a demo's or a test's own throw-away keys.
    #[cfg(feature = "danger-inventory")]
    #[must_use]
    pub fn danger_reveal_hex(&self) -> alloc::string::String {
        self.bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
    }
}

impl<R: Role, const N: usize> Key<R, N> {
    /// A fresh private key of P-256 (32 bytes) or P-384 (48 bytes): uniform below the group order, never zero.
    ///
    /// # Errors
    /// [`KeyError::Rng`] as given by the source, [`KeyError::Scalar`] for another size.
    pub fn generate_scalar(rng: &mut dyn Rng) -> Result<Self, KeyError> {
        let is_scalar = |bytes: &[u8; N]| match N {
            32 => Ok(p256::SecretKey::from_slice(bytes).is_ok()),
            48 => Ok(p384::SecretKey::from_slice(bytes).is_ok()),
            _ => Err(KeyError::Scalar),
        };
        loop {
            let key = Self::generate(rng)?;
            // A random value is no scalar with probability 2^-32: drawing again keeps the result uniform.
            if is_scalar(key.bytes())? {
                return Ok(key);
            }
        }
    }
}

impl<R: Role, const N: usize> Drop for Key<R, N> {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl<R: Role, const N: usize> fmt::Debug for Key<R, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{N} bytes]", R::NAME)
    }
}

impl Key<crate::role::AuthValue, 32> {
    /// Whether the last byte is zero: a TPM drops trailing zeros of an authorisation, such a value is drawn again.
    #[must_use]
    pub fn ends_with_zero(&self) -> bool {
        self.bytes[31] == 0
    }
}
impl<R: Role> Key<R, 32> {
    /// Whether the bytes show by themselves that fewer than 128 bits were drawn: repeated, counted, padded or written in few
    /// characters. Of 32 drawn bytes 16 or fewer differ once in 10^13.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        let steps = self.bytes.windows(2).map(|pair| match pair {
            [before, after] => after.wrapping_sub(*before),
            _ => 0,
        });
        let are_few = |values: &mut dyn Iterator<Item = u8>| {
            let mut seen = zeroize::Zeroizing::new([false; 256]);
            values.for_each(|value| seen[usize::from(value)] = true);
            seen.iter().filter(|seen| **seen).count() <= 16
        };
        are_few(&mut self.bytes.iter().copied()) || are_few(&mut { steps })
    }
}
