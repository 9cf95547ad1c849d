//! Protection of telegrams in the local metering network: AES-128 in CBC, CTR and CCM, CMAC, and the derivation of one
//! telegram's keys from a meter's key.
//!
//! Everything works in place and allocates nothing. A meter's key is lent as a [`MeterKeyRef`], from a [`Key`] or from
//! a [`KeyMap`]; keys of one telegram live in [`EphemeralKeys`] and are wiped with it.

mod cipher;
mod key_map;

pub use key_map::{Entry, KeyMap};

use core::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{Key, role::MeterLmn};
use cipher::{Decryptor, Encryptor};

/// Block of AES, bytes.
pub const BLOCK_SIZE: usize = 16;
/// Tag of [`EphemeralKeys::ccm_open`], bytes.
pub const CCM_TAG_SIZE: usize = 8;
/// Nonce of [`EphemeralKeys::ccm_open`], bytes.
pub const CCM_NONCE_SIZE: usize = 13;

/// A meter's key, lent for an operation. It can be neither printed nor read:
///
/// ```compile_fail
/// fn read(key: gridseal_crypto::lmn::MeterKeyRef<'_>) -> &[u8] { key.bytes() }
/// ```
#[derive(Clone, Copy)]
pub struct MeterKeyRef<'a>(&'a [u8; 16]);

impl fmt::Debug for MeterKeyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeterLmn[16 bytes]")
    }
}

impl<'a> From<&'a Key<MeterLmn, 16>> for MeterKeyRef<'a> {
    fn from(key: &'a Key<MeterLmn, 16>) -> Self {
        Self(key.bytes())
    }
}

/// The direction of a message, as the derivation of its keys knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the meter to its partner: derivation constants 00 and 01.
    FromMeter,
    /// From the partner to the meter: derivation constants 10 and 11.
    ToMeter,
}

/// Keys that any attacker tries first: all zero, counting digits, a much-copied example.
const WELL_KNOWN: [[u8; 16]; 4] = [
    [0; 16],
    [0xFF; 16],
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [0xFF, 0xEE, 0xDD, 0xCC, 0xBB, 0xAA, 0, 0x99, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
];

impl MeterKeyRef<'_> {
    /// Whether this is one of the keys that stand in documentation and that meters leave some factories with.
    #[must_use]
    pub fn is_well_known(&self) -> bool {
        WELL_KNOWN.iter().any(|known| bool::from(known.ct_eq(self.0)))
    }

    /// Four bytes that tell one key from another and say nothing else about it: a name for counters kept on disk.
    #[must_use]
    pub fn check_value(&self) -> [u8; 4] {
        let [a, b, c, d, ..] = Encryptor::new(self.0).cmac(&[b"gridseal lmn key check"]);
        [a, b, c, d]
    }

    /// Decrypts whole blocks in place with AES-128-CBC. No authentication.
    ///
    /// Bytes after the last whole block stay as they are.
    pub fn cbc_decrypt(&self, iv: &[u8; 16], blocks: &mut [u8]) {
        Decryptor::new(self.0).cbc(iv, blocks);
    }

    /// Encrypts whole blocks in place with AES-128-CBC.
    pub fn cbc_encrypt(&self, iv: &[u8; 16], blocks: &mut [u8]) {
        Encryptor::new(self.0).cbc(iv, blocks);
    }

    /// Encrypts or decrypts in place with AES-128-CTR; the block counts up as one big-endian number. No authentication.
    pub fn ctr(&self, counter_block: &[u8; 16], bytes: &mut [u8]) {
        Encryptor::new(self.0).ctr(counter_block, bytes);
    }

    /// The keys of one message: `CMAC(key, DC || counter || id || 07 * 7)`.
    ///
    /// # Source
    /// EN 13757-7, KDF-A; local network fact sheet, section 4.
    #[must_use]
    pub fn derive(&self, direction: Direction, counter: u32, id: [u8; 4]) -> EphemeralKeys {
        //= LMN 4: K = AES-CMAC(MK, DC || MCR || ID || 07 x 7)
        let constant = match direction {
            Direction::FromMeter => 0x00,
            Direction::ToMeter => 0x10,
        };
        let mut input = [7; 16];
        input[0] = constant;
        input[1..5].copy_from_slice(&counter.to_le_bytes());
        input[5..9].copy_from_slice(&id);
        let aes = Encryptor::new(self.0);
        let encryption = Zeroizing::new(aes.cmac(&[&input]));
        input[0] = constant | 1;
        EphemeralKeys { encryption, authentication: Zeroizing::new(aes.cmac(&[&input])) }
    }
}

/// The two keys of one message, wiped on drop. The telegram's counter makes them unique, which is what makes a fixed
/// initialisation vector sound.
pub struct EphemeralKeys {
    encryption: Zeroizing<[u8; 16]>,
    authentication: Zeroizing<[u8; 16]>,
}

impl fmt::Debug for EphemeralKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EphemeralKeys[2 * 16 bytes]")
    }
}

impl EphemeralKeys {
    /// The AES-CMAC over the concatenated parts under the authentication key.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 16] {
        Encryptor::new(&self.authentication).cmac(parts)
    }

    /// Whether `tag` is the AES-CMAC over the concatenated parts, cut to the length of `tag`; in constant time. An
    /// empty tag never verifies.
    #[must_use]
    pub fn mac_verifies(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        let mac = self.mac(parts);
        !tag.is_empty() && mac.get(..tag.len()).is_some_and(|mac| mac.ct_eq(tag).into())
    }

    /// Decrypts whole blocks in place with AES-128-CBC under the encryption key, initialisation vector zero.
    pub fn cbc_decrypt(&self, blocks: &mut [u8]) {
        Decryptor::new(&self.encryption).cbc(&[0; 16], blocks);
    }

    /// Encrypts whole blocks in place with AES-128-CBC under the encryption key, initialisation vector zero.
    pub fn cbc_encrypt(&self, blocks: &mut [u8]) {
        Encryptor::new(&self.encryption).cbc(&[0; 16], blocks);
    }

    /// Decrypts in place with AES-128-CCM (L = 2, M = 8) under the encryption key. `false` when the tag does not
    /// verify; then `text` is wiped. Text is at most 65,535 bytes, associated data below 65,280.
    ///
    /// # Source
    /// RFC 3610.
    #[must_use]
    pub fn ccm_open(
        &self,
        nonce: &[u8; CCM_NONCE_SIZE],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; CCM_TAG_SIZE],
    ) -> bool {
        Encryptor::new(&self.encryption).ccm_open(nonce, aad, text, tag)
    }

    /// Encrypts in place with AES-128-CCM (L = 2, M = 8) under the encryption key; the tag, or `None` beyond the
    /// mode's limits. The caller never uses a nonce twice.
    #[must_use]
    pub fn ccm_seal(
        &self,
        nonce: &[u8; CCM_NONCE_SIZE],
        aad: &[u8],
        text: &mut [u8],
    ) -> Option<[u8; CCM_TAG_SIZE]> {
        Encryptor::new(&self.encryption).ccm_seal(nonce, aad, text)
    }
}

#[cfg(test)]
mod tests;
