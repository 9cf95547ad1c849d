//! Keys at rest: the GSE1 envelope.
//!
//! Layout: `GSE1` 4, algorithm 1, flags 1, number of the data key 8, nonce 12, then ciphertext and tag 16. Numbers are
//! big-endian. Where the envelope belongs ([`EnvelopeContext`], and the kind of the key) is associated data.

use alloc::vec::Vec;

use zeroize::Zeroizing;

use crate::{
    Key,
    backend::{Active, Backend},
    rng::{Rng, RngError, random},
    role::{Dek, KeystoreKek, Role},
};

const MAGIC: &[u8; 4] = b"GSE1";
const ALG_AES_256_GCM: u8 = 1;
const HEADER_SIZE: usize = 26;

/// Bytes that an envelope adds to what it holds: header 26, tag 16.
pub const ENVELOPE_OVERHEAD: usize = HEADER_SIZE + 16;

/// Where the bytes of a key come from. Number 0 is what envelopes carried before there was a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Origin {
    /// Drawn by the operator's own key service.
    #[default]
    Operator,
    /// Delivered by the manufacturer: to be replaced when the device is claimed.
    Vendor,
    /// Derived from a master key of an older fleet: imported only, never made.
    Derived,
}

impl Origin {
    /// Number in the associated data.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Operator => 0,
            Self::Vendor => 1,
            Self::Derived => 2,
        }
    }
}

/// What a wrapped key belongs to. It is associated data: a wrapped key moved to another row does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeContext {
    /// Tenant.
    pub tenant: [u8; 16],
    /// Owner of the key, for example the first half of a device's Name digest.
    pub object: [u8; 16],
    /// Version of the key.
    pub version: u32,
    /// Number of the security suite the key is for, 0 for none.
    pub suite: u8,
    /// Where the key comes from.
    pub origin: Origin,
}

impl EnvelopeContext {
    /// The context of a key of suite 0 that was made here.
    #[must_use]
    pub const fn new(tenant: [u8; 16], object: [u8; 16], version: u32) -> Self {
        Self { tenant, object, version, suite: 0, origin: Origin::Operator }
    }

    fn aad(&self, kind: u16) -> [u8; 44] {
        let mut aad = [0; 44];
        aad[..4].copy_from_slice(MAGIC);
        aad[4..20].copy_from_slice(&self.tenant);
        aad[20..36].copy_from_slice(&self.object);
        aad[36..38].copy_from_slice(&kind.to_be_bytes());
        aad[38..42].copy_from_slice(&self.version.to_be_bytes());
        aad[42] = self.suite;
        aad[43] = self.origin.number();
        aad
    }
}

/// A data key with the number by which envelopes name it. A bare `Key<Dek, 32>` is number 0.
#[derive(Debug)]
pub struct DataKey {
    id: u64,
    key: Key<Dek, 32>,
}

impl DataKey {
    /// A key under its number, which no other data key of the tenant ever has.
    #[must_use]
    pub const fn new(id: u64, key: Key<Dek, 32>) -> Self {
        Self { id, key }
    }

    /// Number.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The key alone.
    #[must_use]
    pub const fn key(&self) -> &Key<Dek, 32> {
        &self.key
    }

    fn context(tenant: [u8; 16], id: u64) -> EnvelopeContext {
        let mut object = *b"data key\0\0\0\0\0\0\0\0";
        object[8..].copy_from_slice(&id.to_be_bytes());
        EnvelopeContext::new(tenant, object, 1)
    }

    /// Wraps this key under the tenant's key, bound to its number.
    ///
    /// # Errors
    /// [`EnvelopeError::Rng`].
    pub fn wrap(
        &self,
        kek: &Key<KeystoreKek, 32>,
        tenant: [u8; 16],
        rng: &mut dyn Rng,
    ) -> Result<WrappedKey, EnvelopeError> {
        self.key.wrap(kek, &Self::context(tenant, self.id), rng)
    }

    /// Opens a wrapped data key.
    ///
    /// # Errors
    /// [`EnvelopeError::Rejected`], also when it is the data key of another tenant or of another number.
    pub fn unwrap_key(
        kek: &Key<KeystoreKek, 32>,
        tenant: [u8; 16],
        id: u64,
        wrapped: &WrappedKey,
    ) -> Result<Self, EnvelopeError> {
        Ok(Self { id, key: Key::unwrap_key(kek, &Self::context(tenant, id), wrapped)? })
    }
}

/// What an envelope is sealed under, and the number it is named by there.
#[derive(Clone, Copy)]
pub struct SealedUnder<'k> {
    id: u64,
    bytes: &'k [u8; 32],
}

impl core::fmt::Debug for SealedUnder<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SealedUnder[{}]", self.id)
    }
}

impl<'k> From<&'k Key<Dek, 32>> for SealedUnder<'k> {
    fn from(key: &'k Key<Dek, 32>) -> Self {
        Self { id: 0, bytes: key.bytes() }
    }
}

impl<'k> From<&'k DataKey> for SealedUnder<'k> {
    fn from(data_key: &'k DataKey) -> Self {
        Self { id: data_key.id, bytes: data_key.key.bytes() }
    }
}

impl<'k> From<&'k Key<KeystoreKek, 32>> for SealedUnder<'k> {
    fn from(key: &'k Key<KeystoreKek, 32>) -> Self {
        Self { id: 0, bytes: key.bytes() }
    }
}

/// A key wrapped under a data key: the only form in which key bytes leave this crate.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey(pub Vec<u8>);

impl WrappedKey {
    /// Number of the data key it is wrapped under; `None` when it is no envelope.
    #[must_use]
    pub fn data_key_id(&self) -> Option<u64> {
        let header = self.0.first_chunk::<HEADER_SIZE>()?;
        (header.starts_with(MAGIC) && header[4..6] == [ALG_AES_256_GCM, 0])
            .then(|| u64::from_be_bytes(*header[6..].first_chunk().unwrap_or(&[0; 8])))
    }

    /// The same key of role `R`, wrapped anew under another data key; its bytes stay in here.
    ///
    /// # Errors
    /// [`EnvelopeError`]: then the old envelope stays what it is.
    pub fn rewrap<'k, R: Role>(
        &self,
        old: impl Into<SealedUnder<'k>>,
        new: impl Into<SealedUnder<'k>>,
        context: &EnvelopeContext,
        rng: &mut dyn Rng,
    ) -> Result<Self, EnvelopeError> {
        let aad = context.aad(R::KIND);
        let plain = open(old.into(), &aad, &self.0)?;
        seal(new.into(), &aad, &plain, rng).map(Self)
    }
}

impl core::fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "WrappedKey[{} bytes]", self.0.len())
    }
}

/// An envelope could not be made or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// The random source failed.
    #[error(transparent)]
    Rng(#[from] RngError),
    /// Wrong data key, wrong row, or changed bytes; no finer reason is given.
    #[error("envelope does not open")]
    Rejected,
}

fn seal(
    under: SealedUnder<'_>,
    aad: &[u8],
    plain: &[u8],
    rng: &mut dyn Rng,
) -> Result<Vec<u8>, EnvelopeError> {
    let nonce = random::<12>(rng)?;
    let sealed = Active::gcm_seal(under.bytes, &nonce, aad, plain).ok_or(EnvelopeError::Rejected)?;
    let mut envelope = Vec::with_capacity(HEADER_SIZE + sealed.len());
    envelope.extend_from_slice(MAGIC);
    envelope.extend_from_slice(&[ALG_AES_256_GCM, 0]);
    envelope.extend_from_slice(&under.id.to_be_bytes());
    envelope.extend_from_slice(&nonce);
    envelope.extend_from_slice(&sealed);
    Ok(envelope)
}

fn open(under: SealedUnder<'_>, aad: &[u8], envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    let (header, sealed) = envelope.split_at_checked(HEADER_SIZE).ok_or(EnvelopeError::Rejected)?;
    if !header.starts_with(MAGIC)
        || header[4..6] != [ALG_AES_256_GCM, 0]
        || header[6..14] != under.id.to_be_bytes()
    {
        return Err(EnvelopeError::Rejected);
    }
    let nonce: [u8; 12] = header[14..26].try_into().map_err(|_| EnvelopeError::Rejected)?;
    Active::gcm_open(under.bytes, &nonce, aad, sealed).map(Zeroizing::new).ok_or(EnvelopeError::Rejected)
}

impl<R: Role, const N: usize> Key<R, N> {
    /// Wraps this key under a data key, bound to its role and to `context`.
    ///
    /// # Errors
    /// [`EnvelopeError::Rng`].
    ///
    /// # Source
    /// Key service specification, section 4 (layout GSE1, algorithm 1).
    pub fn wrap<'k>(
        &self,
        dek: impl Into<SealedUnder<'k>>,
        context: &EnvelopeContext,
        rng: &mut dyn Rng,
    ) -> Result<WrappedKey, EnvelopeError> {
        seal(dek.into(), &context.aad(R::KIND), self.bytes(), rng).map(WrappedKey)
    }

    /// Opens a wrapped key of this role.
    ///
    /// # Errors
    /// [`EnvelopeError::Rejected`].
    pub fn unwrap_key<'k>(
        dek: impl Into<SealedUnder<'k>>,
        context: &EnvelopeContext,
        wrapped: &WrappedKey,
    ) -> Result<Self, EnvelopeError> {
        let mut plain = open(dek.into(), &context.aad(R::KIND), &wrapped.0)?;
        Self::take_slice(&mut plain).ok_or(EnvelopeError::Rejected)
    }
}

/// Kind number of [`seal_bytes`] in the associated data: no key role has it.
const BYTES_KIND: u16 = 0;

/// Seals bytes that are no key but must not be read at rest.
///
/// # Errors
/// [`EnvelopeError::Rng`].
pub fn seal_bytes<'k>(
    dek: impl Into<SealedUnder<'k>>,
    context: &EnvelopeContext,
    plain: &[u8],
    rng: &mut dyn Rng,
) -> Result<Vec<u8>, EnvelopeError> {
    seal(dek.into(), &context.aad(BYTES_KIND), plain, rng)
}

/// Opens what [`seal_bytes`] made.
///
/// # Errors
/// [`EnvelopeError::Rejected`].
pub fn open_bytes<'k>(
    dek: impl Into<SealedUnder<'k>>,
    context: &EnvelopeContext,
    envelope: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    open(dek.into(), &context.aad(BYTES_KIND), envelope).map(|plain| plain.to_vec())
}

#[cfg(test)]
mod tests;
