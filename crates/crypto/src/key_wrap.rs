//! AES key wrap: how a meter gets a new key under its master key.

use alloc::vec::Vec;

use aes::{
    Aes128, Aes256, Block,
    cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit},
};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{Key, role::Kek, role::Role};

/// Size of a wrapped 16-byte key in bytes.
pub const WRAPPED_SIZE: usize = 24;
/// Bytes by which a wrapped key is longer than the key.
pub const WRAP_OVERHEAD: usize = 8;
/// Initial value of the integrity check register.
const INITIAL: [u8; 8] = [0xA6; 8];
/// Rounds over all half blocks.
const ROUNDS: u8 = 6;

/// AES by the size of its key.
enum Cipher {
    Short(Aes128),
    Long(Aes256),
}

impl Cipher {
    fn new(key: &[u8]) -> Option<Self> {
        if let Ok(key) = <&[u8; 16]>::try_from(key) {
            return Some(Self::Short(Aes128::new(key.into())));
        }
        Some(Self::Long(Aes256::new(<&[u8; 32]>::try_from(key).ok()?.into())))
    }

    fn encrypt(&self, block: &mut [u8; 16]) {
        let block: &mut Block = block.into();
        match self {
            Self::Short(cipher) => cipher.encrypt_block(block),
            Self::Long(cipher) => cipher.encrypt_block(block),
        }
    }

    fn decrypt(&self, block: &mut [u8; 16]) {
        let block: &mut Block = block.into();
        match self {
            Self::Short(cipher) => cipher.decrypt_block(block),
            Self::Long(cipher) => cipher.decrypt_block(block),
        }
    }
}

fn count_into(register: &mut [u8; 8], count: u8) {
    register[7] ^= count;
}

/// Half blocks of a key: 2 or 4.
const fn halves(size: usize) -> u8 {
    if size == 16 { 2 } else { 4 }
}

impl<const N: usize> Key<Kek, N> {
    /// Wraps a key for the meter that holds this master key; the result is 8 bytes longer. The same two keys give the
    /// same bytes, so a transfer can be repeated byte for byte. Keys have 16 or 32 bytes; for another size the result is
    /// empty.
    ///
    /// # Source
    /// RFC 3394, section 2.2.1; vectors `key-wrap/rfc3394.toml`, `key-wrap/rfc3394-256.toml`.
    #[must_use]
    pub fn wrap_for_meter<R: Role>(&self, key: &Key<R, N>) -> Vec<u8> {
        let Some(cipher) = Cipher::new(self.bytes()) else { return Vec::new() };
        let mut wrapped = alloc::vec![0; N + WRAP_OVERHEAD];
        wrapped[WRAP_OVERHEAD..].copy_from_slice(key.bytes());
        let mut register = INITIAL;
        for round in 0..ROUNDS {
            for half in 0..halves(N) {
                let at = WRAP_OVERHEAD + 8 * usize::from(half);
                let mut block = Zeroizing::new([0; 16]);
                block[..8].copy_from_slice(&register);
                block[8..].copy_from_slice(&wrapped[at..at + 8]);
                cipher.encrypt(&mut block);
                register.copy_from_slice(&block[..8]);
                count_into(&mut register, halves(N) * round + half + 1);
                wrapped[at..at + 8].copy_from_slice(&block[8..]);
            }
        }
        wrapped[..WRAP_OVERHEAD].copy_from_slice(&register);
        wrapped
    }

    /// Opens a wrapped key, as the meter does; `None` when the integrity check fails or the size is another one.
    ///
    /// # Source
    /// RFC 3394, section 2.2.2.
    #[must_use]
    pub fn unwrap_transferred<R: Role>(&self, wrapped: &[u8]) -> Option<Key<R, N>> {
        let cipher = Cipher::new(self.bytes())?;
        if wrapped.len() != N + WRAP_OVERHEAD {
            return None;
        }
        let mut plain = Zeroizing::new([0; N]);
        plain.copy_from_slice(&wrapped[WRAP_OVERHEAD..]);
        let mut register = [0; 8];
        register.copy_from_slice(&wrapped[..WRAP_OVERHEAD]);
        for round in (0..ROUNDS).rev() {
            for half in (0..halves(N)).rev() {
                let at = 8 * usize::from(half);
                let mut block = Zeroizing::new([0; 16]);
                count_into(&mut register, halves(N) * round + half + 1);
                block[..8].copy_from_slice(&register);
                block[8..].copy_from_slice(&plain[at..at + 8]);
                cipher.decrypt(&mut block);
                register.copy_from_slice(&block[..8]);
                plain[at..at + 8].copy_from_slice(&block[8..]);
            }
        }
        let is_intact: bool = register.ct_eq(&INITIAL).into();
        register.zeroize();
        is_intact.then(|| Key::take(&mut plain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Guek;

    fn key<R: Role>(first: u8, step: u8) -> Key<R, 16> {
        let mut bytes = [0; 16];
        (0u8..).zip(&mut bytes).for_each(|(at, byte)| *byte = first.wrapping_add(at.wrapping_mul(step)));
        Key::take(&mut bytes)
    }

    #[test]
    fn a_changed_byte_or_another_master_key_opens_nothing() {
        let master = key::<Kek>(0, 1);
        let wrapped = master.wrap_for_meter(&key::<Guek>(0, 0x11));
        let opened = master.unwrap_transferred::<Guek>(&wrapped).expect("intact");
        assert!(bool::from(opened.ct_eq(&key(0, 0x11))));
        for at in 0..WRAPPED_SIZE {
            let mut changed = wrapped.clone();
            changed[at] ^= 0x40;
            assert!(master.unwrap_transferred::<Guek>(&changed).is_none(), "byte {at}");
        }
        assert!(key::<Kek>(1, 1).unwrap_transferred::<Guek>(&wrapped).is_none());
        for size in [0, 16, 23, 25, 40] {
            assert!(master.unwrap_transferred::<Guek>(&alloc::vec![0xA6; size]).is_none(), "{size} bytes");
        }
    }
}
