//! RSA with the public key alone: OAEP to the key of a TPM, and PKCS#1 v1.5 signatures that others made.
//!
//! One implementation for both back ends (ADR 23): a device needs OAEP towards its own TPM, whose secret value the
//! constant-time arithmetic of `crypto-bigint` covers, and a server verifies a few certificates per device.
//!
//! # Source
//! RFC 8017, sections 7.1 and 8.2; TPM 2.0 Library, Part 1, annex B.

use alloc::vec::Vec;

use crypto_bigint::{
    BoxedUint, Odd,
    modular::{BoxedMontyForm, BoxedMontyParams},
};
use zeroize::Zeroizing;

use crate::{
    HashAlgorithm, Key,
    backend::{Active, Backend},
    ct_eq,
    rng::{Rng, RngError, random},
    role::TpmSeed,
};

/// The only public exponent that is accepted.
const EXPONENT: u32 = 65_537;
/// Bits of the exponent.
const EXPONENT_BITS: u32 = 17;
/// Sizes of a modulus, bytes: 2,048 to 4,096 bits.
const MODULUS_SIZES: core::ops::RangeInclusive<usize> = 256..=512;
const HASH_SIZE: usize = 32;

/// An RSA public key with exponent 65,537 and an odd modulus of 2,048 to 4,096 bits, a multiple of 64.
#[derive(Clone, PartialEq, Eq)]
pub struct RsaPublicKey(Vec<u8>);

impl core::fmt::Debug for RsaPublicKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "RsaPublicKey[{} bits]", self.0.len() * 8)
    }
}

impl RsaPublicKey {
    /// The key of a big-endian modulus without leading zeros; `None` for another size, or an even one.
    #[must_use]
    pub fn from_modulus(modulus: &[u8]) -> Option<Self> {
        let is_whole = modulus.first().is_some_and(|byte| *byte >= 0x80);
        let is_odd = modulus.last().is_some_and(|byte| byte & 1 == 1);
        let fits = MODULUS_SIZES.contains(&modulus.len()) && modulus.len().is_multiple_of(8);
        (fits && is_whole && is_odd).then(|| Self(modulus.to_vec()))
    }

    /// Modulus, big-endian.
    #[must_use]
    pub fn modulus(&self) -> &[u8] {
        &self.0
    }

    /// `number ^ 65537 mod n`, as long as the modulus; `None` unless `number` is below it.
    fn raise(&self, number: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        if number.len() != self.0.len() || number >= self.0.as_slice() {
            return None;
        }
        let bits = u32::try_from(self.0.len() * 8).ok()?;
        let modulus = Odd::new(BoxedUint::from_be_slice(&self.0, bits).ok()?).into_option()?;
        let parameters = BoxedMontyParams::new_vartime(modulus);
        let base = BoxedUint::from_be_slice(number, bits).ok()?;
        let base = Zeroizing::new(BoxedMontyForm::new(base, &parameters));
        let raised = base.pow_bounded_exp(&BoxedUint::from(EXPONENT), EXPONENT_BITS);
        Some(Zeroizing::new(raised.retrieve().to_be_bytes().into_vec()))
    }

    /// OAEP with SHA-256 and MGF1 with SHA-256. `label` is hashed as it is: a TPM's ends with a zero byte.
    ///
    /// # Errors
    /// [`RngError`] as given by the source.
    pub(crate) fn encrypt_seed(
        &self,
        label: &[u8],
        seed: &Key<TpmSeed, 32>,
        rng: &mut dyn Rng,
    ) -> Result<Vec<u8>, RngError> {
        Ok(self.encrypt_seed_with(&random(rng)?, label, seed))
    }

    /// As [`RsaPublicKey::encrypt_seed`], with a given OAEP seed.
    pub(crate) fn encrypt_seed_with(
        &self,
        oaep_seed: &[u8; HASH_SIZE],
        label: &[u8],
        seed: &Key<TpmSeed, 32>,
    ) -> Vec<u8> {
        let size = self.0.len();
        let mut encoded = Zeroizing::new(alloc::vec![0; size]);
        if let Some((_, rest)) = encoded.split_first_mut() {
            let (masked_seed, block) = rest.split_at_mut(HASH_SIZE);
            masked_seed.copy_from_slice(oaep_seed);
            block[..HASH_SIZE].copy_from_slice(&Active::sha256(&[label]));
            let message_at = block.len() - seed.bytes().len();
            block[message_at - 1] = 1;
            block[message_at..].copy_from_slice(seed.bytes());
            mask(masked_seed, block);
            mask(block, masked_seed);
        }
        // The first byte is zero, so the number is below a modulus whose first bit is set.
        self.raise(&encoded).map(|sealed| sealed.to_vec()).unwrap_or_default()
    }

    /// Whether `signature` is an RSASSA-PKCS1-v1_5 signature of a digest.
    #[must_use]
    pub fn verifies_digest(&self, hash: HashAlgorithm, digest: &[u8], signature: &[u8]) -> bool {
        let Some(encoded) = self.raise(signature) else { return false };
        let info = hash.digest_info();
        let Some(padding) = self.0.len().checked_sub(info.len() + digest.len() + 3) else { return false };
        let mut expected = Vec::with_capacity(self.0.len());
        expected.extend_from_slice(&[0, 1]);
        expected.resize(2 + padding, 0xff);
        expected.push(0);
        expected.extend_from_slice(info);
        expected.extend_from_slice(digest);
        padding >= 8 && digest.len() == hash.size() && ct_eq(&expected, &encoded)
    }
}

/// `target ^= MGF1(source)`, SHA-256.
fn mask(source: &[u8], target: &mut [u8]) {
    for (counter, chunk) in (0u32..).zip(target.chunks_mut(HASH_SIZE)) {
        let stream = Zeroizing::new(Active::sha256(&[source, &counter.to_be_bytes()]));
        chunk.iter_mut().zip(stream.iter()).for_each(|(byte, mask)| *byte ^= mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modulus_is_odd_whole_and_of_a_known_size() {
        let mut modulus = [0xff; 256];
        assert!(RsaPublicKey::from_modulus(&modulus).is_some());
        modulus[255] = 0xfe;
        assert_eq!(RsaPublicKey::from_modulus(&modulus), None, "even");
        modulus[255] = 0xff;
        modulus[0] = 0x7f;
        assert_eq!(RsaPublicKey::from_modulus(&modulus), None, "2,047 bits");
        assert_eq!(RsaPublicKey::from_modulus(&[0xff; 255]), None, "short");
        assert_eq!(RsaPublicKey::from_modulus(&[0xff; 513]), None, "long");
    }

    #[test]
    fn a_signature_not_below_the_modulus_is_refused() {
        let key = RsaPublicKey::from_modulus(&[0xff; 256]).unwrap();
        assert!(key.raise(&[0xff; 256]).is_none());
        assert!(key.raise(&[0xff; 255]).is_none());
        assert!(!key.verifies_digest(HashAlgorithm::Sha256, &[0; 32], &[1; 256]));
    }
}
