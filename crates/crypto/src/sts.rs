//! The keys of prepayment tokens (STS, IEC 62055-41): vending keys, decoder keys, the two ciphers and the two
//! derivations. All of it runs in constant time: no branch and no address depends on a key or a block.

mod des;
mod misty1;
mod sta;

use zeroize::Zeroize;

use crate::{
    Key,
    role::{Dek, StsDecoder, StsVending},
};

use crate::{EnvelopeContext, EnvelopeError, Rng, WrappedKey};

/// How a token block is enciphered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Algorithm {
    /// EA 07, STA: 64-bit key, a private cipher of the standard. For interoperability only.
    Sta,
    /// EA 11, MISTY1: 128-bit key (RFC 2994).
    Misty1,
}

/// A meter's decoder key, for one of the two algorithms.
#[derive(Debug)]
pub struct DecoderKey(Inner);

#[derive(Debug)]
enum Inner {
    Sta(Key<StsDecoder, 8>),
    Misty1(Key<StsDecoder, 16>),
}

/// 32 bits of a decoder key on their way through a key change token. Wiped on drop, printed never.
pub struct KeyPart(u32);

impl core::fmt::Debug for KeyPart {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("KeyPart[4 bytes]")
    }
}

impl Drop for KeyPart {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl KeyPart {
    /// The part that a deciphered section carries in its last 32 payload bits.
    #[must_use]
    pub const fn of_section(payload: u64) -> Self {
        let [.., a, b, c, d] = payload.to_be_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }

    /// Whether two parts are equal, in constant time.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        crate::ct_eq(&self.0.to_be_bytes(), &other.0.to_be_bytes())
    }

    /// The payload of a section: `fields` in its upper bits, the part in its lower 32.
    #[must_use]
    pub fn in_section(&self, fields: u64) -> u64 {
        (fields << 32) | u64::from(self.0)
    }
}

impl DecoderKey {
    /// Takes key bytes over, 8 for STA or 16 for MISTY1, and wipes the source; `None` for another length.
    #[must_use]
    pub fn take(algorithm: Algorithm, source: &mut [u8]) -> Option<Self> {
        Some(Self(match algorithm {
            Algorithm::Sta => Inner::Sta(Key::take_slice(source)?),
            Algorithm::Misty1 => Inner::Misty1(Key::take_slice(source)?),
        }))
    }

    /// The algorithm that the key is for.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            Inner::Sta(_) => Algorithm::Sta,
            Inner::Misty1(_) => Algorithm::Misty1,
        }
    }

    /// Enciphers one block.
    #[must_use]
    pub fn encrypt(&self, block: u64) -> u64 {
        match &self.0 {
            Inner::Sta(key) => sta::encrypt(u64::from_be_bytes(*key.bytes()), block),
            Inner::Misty1(key) => misty1::Schedule::new(key.bytes()).encrypt(block),
        }
    }

    /// Deciphers one block.
    #[must_use]
    pub fn decrypt(&self, block: u64) -> u64 {
        match &self.0 {
            Inner::Sta(key) => sta::decrypt(u64::from_be_bytes(*key.bytes()), block),
            Inner::Misty1(key) => misty1::Schedule::new(key.bytes()).decrypt(block),
        }
    }

    /// The key's parts of 32 bits, first bytes first: two for STA, four for MISTY1.
    pub fn parts(&self) -> impl Iterator<Item = KeyPart> {
        let bytes = match &self.0 {
            Inner::Sta(key) => key.bytes().as_slice(),
            Inner::Misty1(key) => key.bytes().as_slice(),
        };
        let (parts, _) = bytes.as_chunks::<4>();
        parts.iter().map(|part| KeyPart(u32::from_be_bytes(*part)))
    }

    /// The key of these parts, first bytes first; `None` unless there are two (STA) or four (MISTY1).
    #[must_use]
    pub fn join(algorithm: Algorithm, parts: &[&KeyPart]) -> Option<Self> {
        let mut bytes = [0; 16];
        let (chunks, _) = bytes.as_chunks_mut::<4>();
        chunks.iter_mut().zip(parts).for_each(|(chunk, part)| *chunk = part.0.to_be_bytes());
        let key =
            bytes.get_mut(..parts.len().saturating_mul(4)).and_then(|bytes| Self::take(algorithm, bytes));
        bytes.zeroize();
        key
    }

    /// Whether two keys are equal, in constant time.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Inner::Sta(one), Inner::Sta(two)) => one.ct_eq(two).into(),
            (Inner::Misty1(one), Inner::Misty1(two)) => one.ct_eq(two).into(),
            _ => false,
        }
    }

    /// Wraps the key for storage.
    ///
    /// # Errors
    /// [`EnvelopeError::Rng`].
    pub fn wrap(
        &self,
        dek: &Key<Dek, 32>,
        context: &EnvelopeContext,
        rng: &mut dyn Rng,
    ) -> Result<WrappedKey, EnvelopeError> {
        match &self.0 {
            Inner::Sta(key) => key.wrap(dek, context, rng),
            Inner::Misty1(key) => key.wrap(dek, context, rng),
        }
    }

    /// Opens a wrapped key.
    ///
    /// # Errors
    /// [`EnvelopeError::Rejected`].
    pub fn unwrap_key(
        algorithm: Algorithm,
        dek: &Key<Dek, 32>,
        context: &EnvelopeContext,
        wrapped: &WrappedKey,
    ) -> Result<Self, EnvelopeError> {
        Ok(Self(match algorithm {
            Algorithm::Sta => Inner::Sta(Key::unwrap_key(dek, context, wrapped)?),
            Algorithm::Misty1 => Inner::Misty1(Key::unwrap_key(dek, context, wrapped)?),
        }))
    }

    /// The bytes in hex, for test keys that a person asks to see.
    #[cfg(feature = "danger-inventory")]
    #[must_use]
    pub fn danger_reveal_hex(&self) -> alloc::string::String {
        match &self.0 {
            Inner::Sta(key) => key.danger_reveal_hex(),
            Inner::Misty1(key) => key.danger_reveal_hex(),
        }
    }
}

/// Decoder key of DKGA 02: `DES(vending key, x) xor x xor vending key`, where `x` is PAN block xor control block. For STA.
///
/// # Source
/// STS fact sheet, A5; vector `sts/decoder-keys.toml`.
#[must_use]
pub fn derive_dkga02(vending: &Key<StsVending, 8>, x: u64) -> DecoderKey {
    let key = u64::from_be_bytes(*vending.bytes());
    let mut bytes = (des::encrypt(key, x) ^ x ^ key).to_be_bytes();
    DecoderKey(Inner::Sta(Key::take(&mut bytes)))
}

/// Decoder key of DKGA 04: the first 8 or 16 bytes of HMAC-SHA-256 over the message under the vending key.
///
/// # Source
/// STS fact sheet, A5; vector `sts/decoder-keys.toml`.
#[must_use]
pub fn derive_dkga04(vending: &Key<StsVending, 20>, algorithm: Algorithm, message: &[u8]) -> DecoderKey {
    let mut mac = vending.mac(&[message]);
    let [first, second, ..] = *mac.as_chunks::<8>().0 else { unreachable!("32 bytes are four times eight") };
    let key = match algorithm {
        Algorithm::Sta => Inner::Sta(Key::take(&mut { first })),
        Algorithm::Misty1 => {
            let mut bytes = (u128::from(u64::from_be_bytes(first)) << 64
                | u128::from(u64::from_be_bytes(second)))
            .to_be_bytes();
            Inner::Misty1(Key::take(&mut bytes))
        }
    };
    mac.zeroize();
    DecoderKey(key)
}
