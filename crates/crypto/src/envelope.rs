//! Keys at rest: the GSE1 envelope.

use alloc::vec::Vec;

use zeroize::Zeroizing;

use crate::{
    Key,
    backend::{Active, Backend},
    rng::{Rng, RngError, random},
    role::{Dek, Role},
};

const MAGIC: &[u8; 4] = b"GSE1";
const ALG_AES_256_GCM: u8 = 1;
const HEADER_SIZE: usize = 26;

/// Bytes that an envelope adds to what it holds: header 26, tag 16.
pub const ENVELOPE_OVERHEAD: usize = HEADER_SIZE + 16;

/// What a wrapped key belongs to. It is associated data: a wrapped key moved to another row does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeContext {
    /// Tenant.
    pub tenant: [u8; 16],
    /// Owner of the key, for example the first half of a device's Name digest.
    pub object: [u8; 16],
    /// Version of the key.
    pub version: u32,
}

impl EnvelopeContext {
    fn aad(&self, kind: u16) -> [u8; 44] {
        let mut aad = [0; 44];
        aad[..4].copy_from_slice(MAGIC);
        aad[4..20].copy_from_slice(&self.tenant);
        aad[20..36].copy_from_slice(&self.object);
        aad[36..38].copy_from_slice(&kind.to_be_bytes());
        aad[38..42].copy_from_slice(&self.version.to_be_bytes());
        // Suite 0 and origin 0 (made here): the two bytes are part of the layout from the first day.
        aad
    }
}

/// A key wrapped under a data key: the only form in which key bytes leave this crate.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey(pub Vec<u8>);

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

fn seal(dek: &Key<Dek, 32>, aad: &[u8], plain: &[u8], rng: &mut dyn Rng) -> Result<Vec<u8>, EnvelopeError> {
    let nonce = random::<12>(rng)?;
    let sealed = Active::gcm_seal(dek.bytes(), &nonce, aad, plain).ok_or(EnvelopeError::Rejected)?;
    let mut envelope = Vec::with_capacity(HEADER_SIZE + sealed.len());
    envelope.extend_from_slice(MAGIC);
    envelope.extend_from_slice(&[ALG_AES_256_GCM, 0]);
    // dek_id: one data key per keystore until key versions arrive.
    envelope.extend_from_slice(&[0; 8]);
    envelope.extend_from_slice(&nonce);
    envelope.extend_from_slice(&sealed);
    Ok(envelope)
}

fn open(dek: &Key<Dek, 32>, aad: &[u8], envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, EnvelopeError> {
    let (header, sealed) = envelope.split_at_checked(HEADER_SIZE).ok_or(EnvelopeError::Rejected)?;
    if !header.starts_with(MAGIC) || header[4..14] != [ALG_AES_256_GCM, 0, 0, 0, 0, 0, 0, 0, 0, 0] {
        return Err(EnvelopeError::Rejected);
    }
    let nonce: [u8; 12] = header[14..26].try_into().map_err(|_| EnvelopeError::Rejected)?;
    Active::gcm_open(dek.bytes(), &nonce, aad, sealed).map(Zeroizing::new).ok_or(EnvelopeError::Rejected)
}

impl<R: Role, const N: usize> Key<R, N> {
    /// Wraps this key under a data key, bound to its role and to `context`.
    ///
    /// # Errors
    /// [`EnvelopeError::Rng`].
    ///
    /// # Source
    /// Key service specification, section 4 (layout GSE1, algorithm 1).
    pub fn wrap(
        &self,
        dek: &Key<Dek, 32>,
        context: &EnvelopeContext,
        rng: &mut dyn Rng,
    ) -> Result<WrappedKey, EnvelopeError> {
        seal(dek, &context.aad(R::KIND), self.bytes(), rng).map(WrappedKey)
    }

    /// Opens a wrapped key of this role.
    ///
    /// # Errors
    /// [`EnvelopeError::Rejected`].
    pub fn unwrap_key(
        dek: &Key<Dek, 32>,
        context: &EnvelopeContext,
        wrapped: &WrappedKey,
    ) -> Result<Self, EnvelopeError> {
        let mut plain = open(dek, &context.aad(R::KIND), &wrapped.0)?;
        Self::take_slice(&mut plain).ok_or(EnvelopeError::Rejected)
    }
}

/// Kind number of [`seal_bytes`] in the associated data: no key role has it.
const BYTES_KIND: u16 = 0;

/// Seals bytes that are no key but must not be read at rest.
///
/// # Errors
/// [`EnvelopeError::Rng`].
pub fn seal_bytes(
    dek: &Key<Dek, 32>,
    context: &EnvelopeContext,
    plain: &[u8],
    rng: &mut dyn Rng,
) -> Result<Vec<u8>, EnvelopeError> {
    seal(dek, &context.aad(BYTES_KIND), plain, rng)
}

/// Opens what [`seal_bytes`] made.
///
/// # Errors
/// [`EnvelopeError::Rejected`].
pub fn open_bytes(
    dek: &Key<Dek, 32>,
    context: &EnvelopeContext,
    envelope: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    open(dek, &context.aad(BYTES_KIND), envelope).map(|plain| plain.to_vec())
}
