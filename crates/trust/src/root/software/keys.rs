//! Keys under the storage root key: made, wrapped, loaded.

use gridseal_crypto::{
    EnvelopeContext, Key, PublicKey, Rng, Signer, SigningKey, WrappedKey, role::SoftwareRootKey,
};
use gridseal_types::Code;

use super::{KeyBlob, NonVolatile, RootError, cc, rc, refused, tpm};

/// Binds a wrapped scalar to its public area.
pub(super) fn context(public: &[u8]) -> EnvelopeContext {
    let digest = tpm::digest(&[public]);
    EnvelopeContext::new([0; 16], *digest.as_bytes().first_chunk().unwrap_or(&[0; 16]), 0)
}

impl NonVolatile {
    /// TPM2_Create under the storage root key.
    pub(super) fn create(&self, template: &[u8], rng: &mut dyn Rng) -> Result<KeyBlob, RootError> {
        let scalar: Key<SoftwareRootKey, 32> = Key::generate_scalar(rng).map_err(|_| RootError::Rng)?;
        let point = SigningKey::new(&scalar).map_err(|_| RootError::Unsuitable)?.public();
        let public = tpm::with_point(template, &point);
        let wrapped = scalar.wrap(&self.storage_root, &context(&public), rng).map_err(|_| RootError::Rng)?;
        Ok(KeyBlob { public, private: wrapped.0 })
    }

    /// TPM2_Load under the storage root key, of a key that passes `check`.
    pub(super) fn load(
        &self,
        blob: &KeyBlob,
        check: fn(&[u8]) -> Result<PublicKey, Code>,
    ) -> Result<Key<SoftwareRootKey, 32>, RootError> {
        check(&blob.public).map_err(|_| RootError::Unsuitable)?;
        Key::unwrap_key(&self.storage_root, &context(&blob.public), &WrappedKey(blob.private.clone()))
            .map_err(|_| refused(cc::LOAD, rc::INTEGRITY_P1))
    }
}

/// Splits duplicate and inSymSeed, two TPM2Bs with their size words.
pub(super) fn split_import(private: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_be_bytes(*private.first_chunk()?));
    private.split_at_checked(length.checked_add(2)?)
}
